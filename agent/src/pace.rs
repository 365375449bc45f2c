//! A bound on how fast a hostile master can make this server write: each refusal is an entry of the journal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// One entry each this long, in the long run: about 100 KB/s.
const EVERY: Duration = Duration::from_millis(10);

/// So many may come at once.
const BURST: u32 = 2_000;

/// The pace of refusals.
#[derive(Debug)]
pub struct Pace {
    /// When the next is due, were there no burst.
    due: Mutex<Instant>,
}

impl Pace {
    /// Lets a whole burst through at first.
    pub fn new() -> Self {
        Self { due: Mutex::new(earliest(Instant::now())) }
    }

    /// Waits for a turn.
    pub async fn pause(&self) {
        sleep_until(self.turn(Instant::now())).await;
    }

    fn turn(&self, now: Instant) -> Instant {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*due).max(earliest(now));
        *due = turn + EVERY;
        turn
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

/// A machine that has just started has no moments that long ago; it begins with a smaller burst.
fn earliest(now: Instant) -> Instant {
    now.checked_sub(EVERY.saturating_mul(BURST)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_refusals_come_one_at_a_time() {
        let now = Instant::now() + EVERY * BURST;
        let pace = Pace { due: Mutex::new(earliest(now)) };

        let burst = (0..BURST).filter(|_| pace.turn(now) < now).count();
        assert_eq!(burst, 2_000);
        assert_eq!(pace.turn(now), now);
        assert_eq!(pace.turn(now), now + EVERY);

        let later = now + EVERY * 11;
        assert_eq!(pace.turn(later), now + EVERY * 2);
    }
}
