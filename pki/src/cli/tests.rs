use super::*;

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_shows_an_example() {
    fn look(command: &clap::Command, missing: &mut Vec<String>) {
        let example = command.get_after_help().is_some_and(|help| help.to_string().contains("Example:\n  reeve-pki "));
        if !example && !command.is_hide_set() {
            missing.push(command.get_name().to_owned());
        }
        command.get_subcommands().for_each(|verb| look(verb, missing));
    }
    let mut missing = Vec::new();
    look(&Cli::command(), &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn a_path_is_pasted_into_a_shell_as_it_is() {
    for (path, pasted) in [("/a/b-c_d.e", "/a/b-c_d.e"), ("/a b", "'/a b'"), ("/it's", "'/it'\\''s'"), ("~x", "'~x'")] {
        assert_eq!(shell(Path::new(path)), pasted);
    }
}
