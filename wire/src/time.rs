//! Moments and spans as they travel: whole milliseconds, since 1970 in UTC for a moment.
//!
//! This module holds the only call of the system's clock; everything else takes `now` as a parameter or asks a
//! [`Clock`], so that tests can set the time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment, in ms since 1970 UTC.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The moment `span` later; the largest one instead of an overflow.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment `span` earlier; 1970 instead of an underflow.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds since 1970, as certificates count.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// Where `now` comes from.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    fixed: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self { fixed: None }
    }

    /// A clock that stands still at `now` until [`set`](Self::set).
    pub fn fixed(now: Millis) -> Self {
        Self { fixed: Some(Arc::new(AtomicU64::new(now.0))) }
    }

    /// Moves a fixed clock, in all its clones; the machine's clock stays as it is.
    pub fn set(&self, now: Millis) {
        if let Some(fixed) = &self.fixed {
            fixed.store(now.0, Ordering::SeqCst);
        }
    }

    /// The present moment.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now(&self) -> Millis {
        match &self.fixed {
            Some(fixed) => Millis(fixed.load(Ordering::SeqCst)),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}
