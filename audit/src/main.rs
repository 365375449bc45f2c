//! `reeve-audit`: questions to a ledger, and its proof. Reads the database and never writes it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
