//! What travels between the parts of Reeve, and how each side verifies it.
//!
//! Nothing here waits or opens a socket, and only [`keyfile`] opens a file: a caller hands over bytes, keys and `now`.
//! Three signatures by three parties make one line of history: the technician's [`request`], the master's [`grant`]
//! and the host's [`receipt`]. Each travels as the exact bytes that were signed ([`signed::Signed`]) and is parsed
//! only after its signature holds.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod certificate;
pub mod code;
pub mod delegation;
pub mod frame;
pub mod grant;
pub mod id;
pub mod keyfile;
pub mod level;
pub mod library;
pub mod merkle;
pub mod message;
pub mod name;
pub mod note;
pub mod output;
pub mod receipt;
pub mod request;
pub mod selector;
pub mod signed;
pub mod sshsig;
pub mod strict;
pub mod time;
