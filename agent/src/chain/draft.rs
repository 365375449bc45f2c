//! What an entry says, before it has its place in the chain.

use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::name::{HostName, Name};
use reeve_wire::receipt::{Event, Outcome, Receipt, StreamReceipt};
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::Millis;

use super::{About, End};
use crate::handed::Named;

/// The longest reason that stands in a receipt, in bytes.
const MAX_REASON: usize = 1024;

#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) event: Event,
    pub(super) operation: Option<OperationId>,
    pub(super) request: Option<Digest>,
    pub(super) grant: Option<Digest>,
    pub(super) outcome: Option<Outcome>,
    pub(super) exit_status: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) code: Option<Code>,
    pub(super) reason: Option<String>,
    pub(super) stdout: Option<StreamReceipt>,
    pub(super) stderr: Option<StreamReceipt>,
    pub(super) boot_id: Option<String>,
}

impl Draft {
    fn of(event: Event) -> Self {
        Self {
            event,
            operation: None,
            request: None,
            grant: None,
            outcome: None,
            exit_status: None,
            signal: None,
            code: None,
            reason: None,
            stdout: None,
            stderr: None,
            boot_id: None,
        }
    }

    pub(super) fn restarted(boot_id: &str) -> Self {
        Self { boot_id: Some(boot_id.to_owned()), ..Self::of(Event::Restarted) }
    }

    pub(super) fn accepted(about: About) -> Self {
        Self {
            operation: Some(about.operation),
            request: Some(about.request),
            grant: Some(about.grant),
            ..Self::of(Event::Accepted)
        }
    }

    pub(super) fn ended(about: About, end: End) -> Self {
        Self {
            event: Event::Ended,
            outcome: Some(end.outcome),
            exit_status: end.exit_status,
            signal: end.signal,
            code: end.why.as_ref().map(|why| why.code),
            reason: end.why.map(|why| shortened(&why.reason)),
            stdout: end.stdout,
            stderr: end.stderr,
            ..Self::accepted(about)
        }
    }

    pub(super) fn refused(operation: OperationId, named: Named, refusal: &Refusal) -> Self {
        Self {
            operation: Some(operation),
            request: named.request,
            grant: named.grant,
            outcome: Some(Outcome::Refused),
            code: Some(refusal.code),
            reason: Some(shortened(&refusal.reason)),
            ..Self::of(Event::Refused)
        }
    }

    /// The entry at its place: generation, number, and the digest of the entry before.
    pub(super) fn at(self, site: &Name, host: &HostName, place: (u64, u64, Option<Digest>), at: Millis) -> Receipt {
        let (generation, seq, prev) = place;
        Receipt {
            v: V1,
            site: site.clone(),
            host: host.clone(),
            generation,
            seq,
            prev,
            at,
            event: self.event,
            operation: self.operation,
            request: self.request,
            grant: self.grant,
            outcome: self.outcome,
            exit_status: self.exit_status,
            signal: self.signal,
            code: self.code,
            reason: self.reason,
            stdout: self.stdout,
            stderr: self.stderr,
            boot_id: self.boot_id,
            ephemeral: Unused,
        }
    }
}

/// A reason may hold what others wrote: it is made visible, and cut where it is long.
fn shortened(reason: &str) -> String {
    let mut reason = reeve_wire::output::visible_line(reason);
    if reason.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}
