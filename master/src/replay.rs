//! Requests that were used: one operation runs on one server at most once, and is one request on all of them. The
//! agent checks the first; here both keep the record to one story.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use reeve_wire::delegation::SKEW;
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::name::HostName;
use reeve_wire::request::Authored;
use reeve_wire::time::Millis;

/// Used requests until they can no longer be accepted anyway. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    used: HashMap<OperationId, Used>,
    /// At how many operations the table is next rid of those that are over.
    sweep_at: usize,
}

#[derive(Debug)]
struct Used {
    request: Digest,
    hosts: HashSet<HostName>,
    until: Millis,
}

/// The fewest operations for which the table is swept.
const FEW: usize = 1024;

impl Replay {
    /// Marks `request` as used on `host`. False when its operation was used there before, or with another request.
    pub fn use_once(&self, request: &Authored, host: &HostName, now: Millis) -> bool {
        let (operation, not_after) = (request.header().operation, request.header().not_after);
        self.mark(operation, request.digest(), host, not_after.plus(SKEW), now)
    }

    fn mark(&self, operation: OperationId, request: Digest, host: &HostName, until: Millis, now: Millis) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.used.len() >= table.sweep_at.max(FEW) {
            table.used.retain(|_, used| used.until >= now);
            table.sweep_at = table.used.len().saturating_mul(2);
        }
        let fresh = || Used { request, hosts: HashSet::new(), until };
        let used = table.used.entry(operation).or_insert_with(fresh);
        used.request == request && used.hosts.insert(host.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    #[test]
    fn an_operation_is_one_request_and_runs_once_on_each_server() {
        let replay = Replay::default();
        let (web, db) = ("contoso/web01".parse().unwrap(), "contoso/db01".parse().unwrap());
        let (one, other) = (Digest([1; 32]), Digest([2; 32]));
        let mark = |request, host| replay.mark(OperationId([7; 16]), request, host, NOW, NOW);
        assert!(mark(one, &web));
        assert!(mark(one, &db));
        assert!(!mark(one, &web), "twice on one server");
        let mail = "fabrikam/mail01".parse().unwrap();
        assert!(!mark(other, &mail), "another request under the same operation");
    }

    #[test]
    fn what_can_no_longer_be_accepted_is_forgotten_and_nothing_else() {
        let replay = Replay::default();
        let host = "contoso/web01".parse().unwrap();
        let id = |n: u128| OperationId(n.to_be_bytes());
        for n in 0..10_000 {
            let until = if n == 5 { NOW } else { Millis(NOW.0 - 1) };
            assert!(replay.mark(id(n), Digest([0; 32]), &host, until, NOW));
        }
        assert!(replay.table.lock().unwrap().used.len() <= 2 * FEW);
        assert!(!replay.mark(id(5), Digest([0; 32]), &host, NOW, NOW), "it can still be accepted");
    }
}
