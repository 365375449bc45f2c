//! The lab: one whole site on loopback, in the background, for tests, the demo, measurements and anyone who tries the
//! product. There is one way to stand a site up, and this is it.

#![forbid(unsafe_code)]

pub mod by_hand;
pub mod cast;
pub mod cli;
pub mod desk;
pub mod failure;
mod files;
pub mod hostile;
pub mod openldap;
mod programs;
pub mod site;
pub mod up;
