//! SSH as both sides speak it: which algorithms, with which limits, over which socket, and how frames travel on it.
//!
//! A connection has one session channel, on which the dialler asks for the subsystem that its [`Limits`](crate::Limits)
//! name. Everything else that SSH can do is refused.

mod algorithms;
mod carrier;
mod config;
mod killable;

pub use algorithms::{client_algorithms, is_host_algorithm, is_user_algorithm, server_algorithms};
pub(crate) use carrier::Writer;
pub use carrier::{ServerCarrier, serve};
pub use config::{HostIdentity, REFUSAL_TIME, client_config, server_config};
pub use killable::Killable;
