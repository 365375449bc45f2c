//! The agent's program. Reads the command line and hands over to [`reeve_agent::cli`].

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use reeve_agent::cli::{Cli, execute};
use reeve_wire::code::exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            let printed = error.print().is_ok();
            return if asked_for && printed { ExitCode::SUCCESS } else { ExitCode::from(exit::USAGE) };
        }
    };
    match execute(&cli, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told when stderr is gone.
            drop(writeln!(std::io::stderr(), "reeve-agent: {failure}"));
            ExitCode::from(failure.status())
        }
    }
}
