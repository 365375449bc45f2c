//! SSH as we speak it: algorithms, pinned keys, dialling, streams over one channel, the kill switch.
//!
//! A [`Link`] is one connection as the rest of Reeve sees it: streams with a credit each ([`Stream`]), a control
//! stream for small messages, and [`Link::kill`]. What lies below (frames, credits, SSH) stays in here. The [`mux`]
//! decides everything and does no I/O; [`mod@ssh`] carries its bytes; [`mod@dial`] is the side that connects.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod dial;
mod ended;
mod limits;
mod link;
pub mod memory;
pub mod mux;
pub mod parts;
pub mod ssh;
pub mod tasks;

pub use ended::{Ended, Reason, Why};
pub use limits::{CONTROL_WINDOW, FRAME_COST, Limits, Window};
pub use link::{Carrier, Credit, Cutter, Inlet, Link, Receiver, Sender, Sending, Stream, Taken};
pub use mux::Side;
pub use reeve_wire::frame::{Content, MAX_PAYLOAD, StreamId};
