//! The command line: what can be asked, and how an answer becomes an exit status.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use reeve_audit::Reader;
use reeve_wire::code::exit;

mod failure;
mod list;
mod output;
mod show;
mod time;
mod verify;

use failure::Failure;

/// Query and verify a ledger
///
/// Reads the database and never writes it: the file of a running master and a copy on read-only media both work.
#[derive(Debug, Parser)]
#[command(name = "reeve-audit", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    /// The ledger
    #[arg(long, env = "REEVE_AUDIT_DB", value_name = "PATH", global = true, help_heading = LEDGER, hide_env_values = true)]
    db: Option<PathBuf>,

    /// The log's public key, or a file that holds it
    #[arg(long, env = "REEVE_AUDIT_VKEY", value_name = "KEY", global = true, help_heading = LEDGER, hide_env_values = true)]
    vkey: Option<String>,

    #[command(subcommand)]
    action: Action,
}

/// The heading of the options that every verb shares.
const LEDGER: &str = "Ledger";

const EXAMPLES: &str = "\
Examples:
  reeve-audit --db audit.db list --user alice --since 7d
  reeve-audit --db audit.db show 5f3c@contoso/web01 --output
  reeve-audit --db audit.db --vkey log.vkey verify --against kept.note";

#[derive(Debug, Subcommand)]
enum Action {
    /// List operations and events, newest first
    #[command(after_help = list::EXAMPLES)]
    List(Box<list::Arguments>),
    /// Show everything that was recorded of an operation
    #[command(after_help = show::EXAMPLES)]
    Show(show::Arguments),
    /// List operations that have no result yet
    #[command(after_help = list::OPEN_EXAMPLES)]
    Open(list::OpenArguments),
    /// Print the public key that the file names as its own
    ///
    /// It proves nothing by itself: compare it with a copy that the master did not give you.
    #[command(after_help = verify::VKEY_EXAMPLES)]
    Vkey(verify::VkeyArguments),
    /// Check that no record was changed, removed or added
    #[command(after_help = verify::EXAMPLES, long_about = verify::ABOUT)]
    Verify(verify::Arguments),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of the program or of one verb
    #[command(hide = true)]
    Man {
        /// The verb
        verb: Option<String>,
    },
}

/// Parses, acts, and turns what happened into an exit status.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = Cli::command().try_get_matches_from(arguments).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { exit::USAGE } else { 0 };
            // Nobody is left to tell when the terminal is gone.
            drop(error.print());
            return ExitCode::from(status);
        }
    };
    match act(cli) {
        Ok(status) => ExitCode::from(status),
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            drop(writeln!(anstream::stderr(), "{failure}"));
            ExitCode::from(failure.exit_status())
        }
    }
}

fn act(cli: Cli) -> Result<u8, Failure> {
    let open = || -> Result<Reader, Failure> {
        let path = cli
            .db
            .as_deref()
            .ok_or_else(|| Failure::usage("no ledger is named").hint("give --db PATH, or set REEVE_AUDIT_DB"))?;
        Ok(Reader::open(path)?)
    };
    match cli.action {
        Action::List(arguments) => list::list(&open()?, &arguments),
        Action::Show(arguments) => show::show(&open()?, &arguments),
        Action::Open(arguments) => list::open(&open()?, &arguments),
        Action::Vkey(arguments) => verify::vkey(&open()?, &arguments),
        Action::Verify(arguments) => {
            let vkey = cli.vkey.as_deref().map(verify::read_vkey).transpose()?;
            verify::verify(&open()?, vkey, &arguments)
        }
        Action::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "reeve-audit", &mut script);
            output::bytes(&script)?;
            Ok(0)
        }
        Action::Man { verb } => man(verb.as_deref()),
    }
}

fn man(verb: Option<&str>) -> Result<u8, Failure> {
    let mut program = Cli::command();
    program.build();
    let page = match verb {
        None => program,
        Some(verb) => {
            let found = program.find_subcommand(verb).filter(|found| !found.is_hide_set());
            let found = found.ok_or_else(|| Failure::usage(format!("there is no verb {verb:?}")))?;
            found.clone()
        }
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff)?;
    output::bytes(&roff)?;
    Ok(0)
}

fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_program_may_follow_the_verb() {
        for words in [["reeve-audit", "--db", "x", "list"], ["reeve-audit", "list", "--db", "x"]] {
            assert_eq!(Cli::try_parse_from(words).unwrap().db, Some("x".into()));
        }
    }

    /// Every verb says what it does and shows an example; the texts are a reviewed contract.
    #[test]
    fn help_of_every_verb() {
        let mut program = Cli::command().term_width(100);
        program.build();
        let mut help = program.render_long_help().to_string();
        for verb in program.get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
            let text = verb.render_long_help().to_string();
            assert!(text.contains("Examples:"), "{}", verb.get_name());
            help.push_str(&format!("\n\n===== {}\n{text}", verb.get_name()));
        }
        insta::assert_snapshot!(help.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }
}
