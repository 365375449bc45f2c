//! SSH as the master serves it: one listener, and a visitor's role by what it proves.
//!
//! The handlers only decode, look things up and hand over; the one wait in them is the directory's answer to a
//! password, on a connection that nobody else uses yet.

mod door;
mod listener;
mod visitor;

pub use door::Door;
pub use listener::listen;
pub use visitor::Who;
