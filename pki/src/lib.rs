//! The private certificate authority of Reeve: it issues, and keeps an account of everything that it issued.
//!
//! One folder is one CA: a root key that signs the trust bundle and nothing else, three CA keys (technicians, agents,
//! masters) so that no kind of certificate can pass for another, and an append-only issue log from which everything
//! that the CA knows is read. It takes public keys only. What it issues is checked by `reeve_wire`, never here.

#![forbid(unsafe_code)]

mod authority;
pub mod ca;
pub mod cli;
pub mod deliver;
pub mod library;
mod lock;
pub mod log;
pub mod manifest;
pub mod order;
pub mod passphrase;
pub mod register;

pub use authority::Authority;
pub use ca::{Ca, CaError};
pub use order::{Order, Subject};
pub use passphrase::Passphrase;
