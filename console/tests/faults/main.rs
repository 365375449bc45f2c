//! The console against a master that fails it or lies to it, over real SSH on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod desk;
mod honest;
mod lies;
mod losses;
mod master;
mod papers;
mod rounds;
