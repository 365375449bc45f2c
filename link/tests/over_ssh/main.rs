//! A link over real SSH on loopback: what is carried, what is refused, and how it ends.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod identity;
mod site;
mod streams;
