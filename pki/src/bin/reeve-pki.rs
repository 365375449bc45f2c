//! The private certificate authority.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    reeve_pki::cli::main()
}
