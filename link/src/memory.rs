//! Two ends of a connection inside one process, without SSH: for the tests of what is built on a link.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::link::{Carrier, Inlet, Link, Sending};
use crate::tasks::Tasks;
use crate::{Limits, Side};

/// A joined pair: the master's end and the dialler's. Either ends when the other does.
#[must_use]
pub fn pair(limits: Limits, tasks: &Tasks) -> (Link, Link) {
    let (master, to_master) = Link::new(Side::Master, limits, tasks, CancellationToken::new());
    let (dialler, to_dialler) = Link::new(Side::Dialler, limits, tasks, CancellationToken::new());
    master.attach(Arc::new(Across(to_dialler)));
    dialler.attach(Arc::new(Across(to_master)));

    (master, dialler)
}

/// Hands bytes to the other end, which takes them at once: its queues are bounded by credit.
struct Across(Inlet);

impl Carrier for Across {
    fn send(&self, bytes: Bytes) -> Sending<'_> {
        let fed = self.0.feed(&bytes);

        Box::pin(std::future::ready(fed))
    }
}
