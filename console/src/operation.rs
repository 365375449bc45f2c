//! One operation as the console sees it: asked for, resolved, signed, handed in, run on each server, told.
//!
//! ```text
//! Order ──resolve──▶ Resolved ──sign and submit──▶ Round ──run──▶ HostOutcome, one a server
//! ```
//!
//! The master says which servers a selector means, and what an item is; neither is taken on its word. A name that the
//! selector does not mean, or an item that is not in the signed index, ends the operation before anything is signed.

pub mod ask;
pub mod fanout;
pub mod order;
pub mod outcome;
pub mod resolve;
pub mod round;
pub mod run;
