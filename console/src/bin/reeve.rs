//! The technician's console.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    reeve_console::cli::main()
}
