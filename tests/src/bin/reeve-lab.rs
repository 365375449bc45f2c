//! Brings a whole site up on this machine.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    reeve_lab::cli::main()
}
