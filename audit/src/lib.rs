//! The ledger: append, prove, query and verify.
//!
//! One writer thread owns the database and is the only way in ([`Ledger`]); it answers when a record is on disk, and
//! after one failed write it takes nothing more. Anyone may read ([`Reader`]). [`verify`] needs the file and one
//! public key, and believes nothing else.

#![forbid(unsafe_code)]

pub mod content;
mod database;
mod index;
pub mod ledger;
mod nodes;
pub mod reader;
pub mod record;
mod reserve;
#[cfg(test)]
mod testing;
pub mod text;
pub mod verify;

mod writer;

pub use content::{Content, ContentError, ContentWriter, Pointer};
pub use database::DatabaseError;
pub use ledger::{Appended, Class, Health, Ledger, LedgerError, Settings};
pub use reader::Reader;
pub use record::{Draft, Record, Stamp};
pub use text::Text;
pub use writer::WriterThread;

/// The schema that an auditor reads is the schema that the program runs.
pub const SCHEMA: &str = include_str!("../../audit-schema.sql");
