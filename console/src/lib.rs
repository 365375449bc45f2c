//! The technician's console: `reeve` and its verbs.
//!
//! A [`desk::Desk`] is one technician at one machine: configuration, trust bundle, session. It gives a
//! [`desk::Connection`] to a master that the site's root vouches for, and [`operation`] sends signed work over it. What
//! comes back from servers is hostile until [`show`] has made it visible or handed it on byte for byte.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod desk;
pub mod failure;
mod login;
pub mod operation;
mod own_key;
#[cfg(test)]
#[path = "../tests/faults/papers.rs"]
mod papers;
mod secret;
pub mod session;
pub mod show;
mod terminal;
pub mod trust;
mod verbs;
