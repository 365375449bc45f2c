//! Hand-made clients against the real master and the real agents: whoever skips the checks of Reeve's own programs
//! gains nothing, and leaves a record.
//!
//! Stock OpenSSH, the product's own dialler used against its manners, and a bare SSH transport. Each try comes from a
//! loopback address of its own, since the master counts refusals by source.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod agents;
mod channels;
mod clients;
mod doors;
mod files;
mod keys;
mod papers;
mod passwords;
mod stage;
mod technician;
mod work;
