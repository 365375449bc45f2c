//! The master control server.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    reeve_master::cli::main()
}
