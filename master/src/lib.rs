//! The broker: judges, records, forwards.
//!
//! One path for every operation, and a reader can follow it in this order: [`ssh`] (who is there),
//! [`technician`] (what is asked), [`policy`] (may this person do this, here, now), [`ledger`] (written down),
//! [`forward`] (sent to the agent, followed, written down). [`agents`] is the other side's connection.

#![forbid(unsafe_code)]

pub mod agents;
pub mod cli;
pub mod config;
pub mod directory;
pub mod enroll;
pub mod fleet;
pub mod forward;
pub mod ledger;
pub mod master;
pub mod policy;
pub mod replay;
pub mod run;
pub mod running;
pub mod sessions;
pub mod ssh;
pub mod technician;
#[cfg(test)]
mod testing;
pub mod trusted;
