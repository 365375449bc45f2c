//! Records of those who were not let in: the first of a source and reason at once, the rest of that minute as a count.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
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

/// What counts as one source: an address, or for version 6 the network of one subscriber, who has all the addresses
/// in it.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

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

    /// Records that `party`, from `address`, was refused a connection or a login.
    pub async fn refused(&self, address: IpAddr, party: Party, refusal: &Refusal) {
        if self.count(source_of(address), refusal.code) {
            let (code, reason) = (refusal.code.as_str(), &refusal.reason);
            let happened = if party.user.is_some() {
                Happened::login_failed(party, code, reason, 1)
            } else {
                Happened::connection_refused(party, code, reason, 1)
            };
            self.ledger.amiss(happened).await;
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
    pub async fn keep_counting(&self) {
        loop {
            tokio::time::sleep(WINDOW).await;
            self.write_counts().await;
        }
    }

    /// Writes what was counted and not written yet.
    pub async fn write_counts(&self) {
        let counted = std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner));
        for ((source, code), count) in counted.into_iter().filter(|(_, count)| *count > 1) {
            let party = source.map_or_else(Party::default, |source| Party::address(&source.to_string()));
            let more = count.saturating_sub(1);
            self.ledger.amiss(Happened::connection_refused(party, code.as_str(), code.sentence(), more)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_one_source_however_many_addresses_it_has() {
        let source = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    }
}
