use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("reeve").chain(line.split(' ')))
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn common_options_may_stand_before_the_verb_and_after_it() {
    for line in [
        "--json --timeout 90s --case INC-1 exec contoso/web01 -- uname --json",
        "exec --json --timeout 90s --case INC-1 contoso/web01 -- uname --json",
        "exec contoso/web01 --json --timeout 90s --case INC-1 -- uname --json",
    ] {
        let Cli { common, verb: Some(Verb::Exec { selector, argv }) } = parse(line).unwrap() else {
            panic!("{line}: another verb");
        };
        assert!(common.json, "{line}");
        assert_eq!(common.timeout, Some(Duration::from_secs(90)), "{line}");
        assert_eq!(common.case.as_deref(), Some("INC-1"), "{line}");
        assert_eq!((selector.as_str(), argv), ("contoso/web01", vec!["uname".into(), "--json".into()]));
    }
}

#[test]
fn what_is_no_command_line_is_refused() {
    for line in [
        "exec contoso/web01",
        "exec contoso/web01 uname",
        "exec contoso/web01 --",
        "run contoso/web01",
        "why",
        "login --max-level 4",
        "exec contoso/web01 --timeout soon -- x",
        "reboot contoso/web01",
        "hosts --no-such-option",
    ] {
        let refused = parse(line).unwrap_err();
        assert!(refused.use_stderr(), "{line}");
    }
    assert_eq!(parse("--help").unwrap_err().kind(), ErrorKind::DisplayHelp);
}

/// The help is what technicians learn from: a change of it is read before it is taken.
#[test]
fn help_reads_as_it_was_reviewed() {
    let mut command = Cli::command().term_width(100).version("0.0.0");
    command.build();
    insta::assert_snapshot!("reeve", command.render_long_help().to_string());
    for verb in ["login", "logout", "whoami", "hosts", "exec", "run", "why", "completions", "man"] {
        let help = command.find_subcommand_mut(verb).unwrap().render_long_help().to_string();
        assert!(help.contains("Example"), "{verb} has no example");
        insta::assert_snapshot!(verb, help);
    }
}

#[test]
fn hidden_verbs_are_not_listed() {
    let help = Cli::command().render_long_help().to_string();
    assert!(!help.contains("completions") && !help.contains("  man"), "{help}");
}
