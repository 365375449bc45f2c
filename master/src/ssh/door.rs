//! Records of those who were not let in: the first of a source and reason at once, the rest of that minute as a count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reeve_audit::record::{Happened, Party};
use reeve_wire::code::{Code, Refusal};

use crate::ledger::Ledger;

/// Over how long refusals of one source and reason are counted into one record.
const WINDOW: Duration = Duration::from_secs(60);

/// The most sources and reasons that are told apart at once; beyond it they are counted as one.
const MOST: usize = 4096;

type Counted = HashMap<(Option<IpAddr>, Code), u64>;

/// Whom the door turned away. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    ledger: Ledger,
    counted: Arc<Mutex<Counted>>,
}

impl Door {
    /// Records through `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger, counted: Arc::default() }
    }

    /// Records that `party`, from `source`, was refused a connection or a login.
    pub async fn refused(&self, source: IpAddr, party: Party, refusal: &Refusal) {
        if self.count(source, refusal.code) {
            let (code, reason) = (refusal.code.as_str(), &refusal.reason);
            let happened = if party.user.is_some() {
                Happened::login_failed(party, code, reason, 1)
            } else {
                Happened::connection_refused(party, code, reason, 1)
            };
            self.ledger.took_away(happened).await;
        }
    }

    /// Whether this is the first of its source and reason in the window.
    fn count(&self, source: IpAddr, code: Code) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counted.contains_key(&(Some(source), code));
        let key = if known || counted.len() < MOST { (Some(source), code) } else { (None, code) };
        let count = counted.entry(key).or_default();
        *count = count.saturating_add(1);
        *count == 1
    }

    /// Writes the counts of each window for ever.
    pub async fn keep_counting(self) {
        loop {
            tokio::time::sleep(WINDOW).await;
            let counted = std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner));
            for ((source, code), count) in counted.into_iter().filter(|(_, count)| *count > 1) {
                let party = source.map_or_else(Party::default, |source| Party::address(&source.to_string()));
                let more = count.saturating_sub(1);
                self.ledger.took_away(Happened::connection_refused(party, code.as_str(), code.sentence(), more)).await;
            }
        }
    }
}
