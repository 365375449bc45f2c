//! The log: what the administrator of this server may want to look at. Never a command's text or output.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// The variable that says what is logged, such as `debug` or `reeve_agent=debug`.
pub const VARIABLE: &str = "REEVE_LOG";

/// What is logged when it says nothing.
const DEFAULT: &str = "info";

/// Sends the log to stderr.
///
/// # Errors
/// When [`VARIABLE`] is not understood.
pub fn start() -> Result<(), Failure> {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| DEFAULT.to_owned());
    let filter = filter(&wanted)
        .map_err(|error| Failure::config(format_args!("{VARIABLE}={wanted:?}: {error}")).hint("write info or debug"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
    let started = lines.with_ansi(stderr().is_terminal()).try_init();
    started.map_err(|error| Failure::internal(format_args!("the log cannot be started: {error}")))
}

fn filter(wanted: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    // At its lower levels the SSH library logs what travels, which is commands and their output.
    Ok(EnvFilter::builder().parse(wanted)?.add_directive("russh=warn".parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ssh_library_never_logs_what_travels() {
        for wanted in ["info", "trace", "russh=trace", ""] {
            assert!(filter(wanted).unwrap().to_string().contains("russh=warn"), "{wanted}");
        }
        assert!(filter("reeve_agent=loud").is_err());
    }
}
