//! The agent against honest and hostile masters: what it judges, what it writes down, and what it does over real SSH.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod chain;
mod hostile;
mod judging;
mod master;
mod over_ssh;
mod program;
mod server;
mod shown;
mod site;
