//! The command line: which verbs there are, and what each prints.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use reeve_wire::time::Clock;

use crate::config::{Config, DEFAULT_PATH};
use crate::failure::Failure;
use crate::identity::Identity;
use crate::report;
use crate::run::{self, all_of};
use crate::state::StateDir;
use crate::trust::TrustStore;
use crate::{keys, logging};

/// Runs operations on this server for the NOC, and keeps the customer's own record of them.
#[derive(Debug, Parser)]
#[command(name = "reeve-agent", version, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, global = true, env = "REEVE_CONFIG", default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Connect to the master and run what technicians ask for.
    ///
    /// Logs to stderr; REEVE_LOG=debug says more. SIGTERM lets what runs end for 10 s and then cancels it.
    #[command(after_help = "Example:\n  reeve-agent --config /etc/reeve/agent.toml run")]
    Run,
    /// Make this server's key, and print its public half for `reeve-pki issue agent`.
    #[command(after_help = "Example:\n  reeve-agent keys > web01.pub")]
    Keys,
    /// Check the configuration and every file that it names, and print all problems.
    #[command(after_help = "Example:\n  reeve-agent --config /etc/reeve/agent.toml check-config")]
    CheckConfig,
    /// Show trust bundle, history, journal and connection.
    #[command(after_help = "Example:\n  reeve-agent status --json")]
    Status {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print every receipt in the journal: what was accepted, refused and ended on this server.
    #[command(after_help = "Example:\n  reeve-agent log --json | grep refused")]
    Log {
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    #[command(hide = true)]
    Man,
}

/// Does what the command line says; what it prints goes to `out`.
///
/// # Errors
/// What went wrong, with the exit status.
pub fn execute(cli: &Cli, out: &mut impl Write) -> Result<(), Failure> {
    let load = || Config::load(&cli.config).map_err(|problems| all_of(&problems));
    match &cli.verb {
        Verb::Run => {
            logging::start()?;
            run::run(load()?)
        }
        Verb::Keys => print(out, &format!("{}\n", keys::make(&load()?)?)),
        Verb::CheckConfig => print(out, &check(&load()?)?),
        Verb::Status { json } => print(out, &report::status(&load()?, Clock::system().now(), *json)?),
        Verb::Log { json } => report::log(&load()?, *json, out),
        Verb::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "reeve-agent", out);
            Ok(())
        }
        Verb::Man => printed(clap_mangen::Man::new(Cli::command()).render(out)),
    }
}

/// Looks at every file that the configuration names.
fn check(config: &Config) -> Result<String, Failure> {
    let mut problems = Vec::new();
    let identity = Identity::load(config).map_err(|found| problems.extend(found)).ok();
    let trust = TrustStore::open(config).map_err(|found| problems.push(found)).ok();
    if config.state.exists() {
        problems.extend(StateDir::look(&config.state).err());
    }
    let trust = trust.and_then(|trust| trust.current());
    if let (Some(identity), Some(trust)) = (&identity, &trust)
        && let Err(why) = identity.accepted_by(trust, Clock::system().now().max(trust.issued))
    {
        problems.push(crate::config::Problem::Certificate { path: config.certificate.clone(), why });
    }
    if !problems.is_empty() {
        return Err(all_of(&problems));
    }
    let bundle = trust.map_or_else(
        || "no trust bundle yet: it is fetched and checked against the root at first contact".to_owned(),
        |trust| format!("trust bundle {} of site {}", trust.number, trust.site),
    );
    Ok(format!("{}: the configuration is in order; {bundle}\n", config.host))
}

fn print(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// A reader that has seen enough is no failure.
pub(crate) fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::internal(format_args!("the output cannot be written: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_is_shown_has_an_example() {
        Cli::command().debug_assert();
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.clone().render_long_help().to_string();
            assert!(help.contains("Example:\n  reeve-agent"), "{}", verb.get_name());
        }
    }

    #[test]
    fn completions_and_the_manual_page_are_printed() {
        for (verb, expected) in [(&["completions", "bash"][..], "check-config"), (&["man"], ".TH reeve-agent 1")] {
            let mut out = Vec::new();
            let cli = Cli::try_parse_from(["reeve-agent"].iter().chain(verb)).unwrap();
            execute(&cli, &mut out).unwrap();
            assert!(String::from_utf8(out).unwrap().contains(expected), "{verb:?}");
        }
    }
}
