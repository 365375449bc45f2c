//! The agent: runs operations on a managed host.
//!
//! It dials out to a master and listens on nothing. What the master hands over is judged again here ([`verify`]) with
//! nothing but the technician's signature, the site's trust bundle and this server's own certificate; what runs, and
//! what is refused, is signed into a chain ([`chain`]) that is in the journal before anybody hears of it. One
//! operation goes through [`operation`], from the first part to the receipt of its end.

#![deny(unsafe_code)]

pub mod agent;
pub mod chain;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod exec;
pub mod failure;
pub mod handed;
pub mod identity;
pub mod journal;
pub mod keys;
pub mod library;
pub mod logging;
pub mod operation;
pub mod pace;
pub mod report;
pub mod run;
pub mod running;
pub mod session;
pub mod state;
pub mod status;
pub mod sys;
pub mod trust;
pub mod verify;
pub mod witness;
