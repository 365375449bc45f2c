//! Requests that were used: one operation runs on one server at most once. The agent checks the same; here it keeps
//! the record to one story.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use reeve_wire::delegation::SKEW;
use reeve_wire::id::OperationId;
use reeve_wire::name::HostName;
use reeve_wire::time::Millis;

/// Used requests until they can no longer be accepted anyway. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    used: Arc<Mutex<HashMap<(OperationId, HostName), Millis>>>,
}

impl Replay {
    /// Marks a request as used on `host`. False when it was used there before.
    pub fn use_once(&self, operation: OperationId, host: &HostName, not_after: Millis, now: Millis) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= 1024 && used.len().is_power_of_two() {
            used.retain(|_, until| *until >= now);
        }
        used.insert((operation, host.clone()), not_after.plus(SKEW)).is_none()
    }
}
