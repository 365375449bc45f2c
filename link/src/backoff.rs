//! When to dial again: full jitter, so that ten thousand agents do not come back in the same instant.

use std::time::{Duration, UNIX_EPOCH};

use reeve_wire::time::Clock;
use retry_policies::policies::ExponentialBackoff;
use retry_policies::{Jitter, RetryDecision, RetryPolicy as _};

/// The first pause is a random part of this.
const BASE: Duration = Duration::from_millis(500);
/// No pause is longer than this.
const CAP: Duration = Duration::from_secs(10);
/// A connection that held for so long was a good one, and the pauses start from the first again.
const STABLE: Duration = Duration::from_secs(30);
/// Past this many failures in a row the ceiling is [`CAP`] anyway.
const ENOUGH: u32 = 16;

/// The pauses between attempts to reach the master. There is no last one.
#[derive(Debug)]
pub struct Backoff {
    clock: Clock,
    policy: ExponentialBackoff,
    failures: u32,
}

impl Backoff {
    /// Starts with the shortest pauses.
    #[must_use]
    pub fn new() -> Self {
        let policy = ExponentialBackoff::builder().retry_bounds(BASE, CAP).jitter(Jitter::Full).base(2);

        Self { clock: Clock::system(), policy: policy.build_with_max_retries(u32::MAX), failures: 0 }
    }

    /// How long to wait before the next attempt, given how long the last connection held (zero when there was none).
    pub fn pause(&mut self, held: Duration) -> Duration {
        if held >= STABLE {
            self.failures = 0;
        }
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now().0);
        let decision = self.policy.should_retry(now, self.failures);
        self.failures = (self.failures + 1).min(ENOUGH);

        // The policy answers with a moment: where the clock was set between, the cap still holds.
        match decision {
            RetryDecision::Retry { execute_after } => execute_after.duration_since(now).unwrap_or_default().min(CAP),
            RetryDecision::DoNotRetry => CAP,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest of many pauses after so many failures is near their ceiling.
    fn longest_after(failures: u32) -> Duration {
        (0..400)
            .map(|_| {
                let mut backoff = Backoff { failures, ..Backoff::new() };
                backoff.pause(Duration::ZERO)
            })
            .max()
            .unwrap()
    }

    #[test]
    fn pauses_grow_to_ten_seconds_and_no_further() {
        for (failures, ceiling) in [(0, 500), (1, 1_000), (3, 4_000), (5, 10_000), (16, 10_000)] {
            let longest = longest_after(failures).as_millis();

            assert!(longest <= ceiling + 5, "{longest} ms after {failures} failures");
            assert!(longest >= ceiling * 9 / 10, "{longest} ms after {failures} failures");
        }
    }

    #[test]
    fn pauses_are_spread_from_nothing_up() {
        let shortest =
            (0..400).map(|_| Backoff { failures: 10, ..Backoff::new() }.pause(Duration::ZERO)).min().unwrap();

        assert!(shortest < Duration::from_secs(1), "{shortest:?}");
    }

    #[test]
    fn only_a_connection_that_held_resets_the_pauses() {
        let mut backoff = Backoff { failures: 10, ..Backoff::new() };
        backoff.pause(Duration::from_secs(29));
        assert_eq!(backoff.failures, 11);

        backoff.pause(Duration::from_secs(30));
        assert_eq!(backoff.failures, 1);
    }

    #[test]
    fn there_is_no_last_attempt() {
        let mut backoff = Backoff::new();

        assert!((0..100_000).all(|_| backoff.pause(Duration::ZERO) <= CAP));
    }
}
