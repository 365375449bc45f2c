//! When a record was made, and on which start of which machine.

use reeve_wire::time::Clock;

/// The moment of a record: master's time, monotonic time and boot id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// µs since 1970 UTC by the master's clock, which may be set back.
    pub time_us: u64,
    /// µs since the machine started, which only rises until the next start.
    pub monotonic_us: u64,
    /// The id of this start of the machine, 32 hex digits; zeros where the system has none.
    pub boot: String,
}

impl Stamp {
    /// The present moment by `clock` and by the machine.
    pub fn now(clock: &Clock) -> Self {
        Self { time_us: clock.now().0.saturating_mul(1000), monotonic_us: monotonic_us(), boot: boot_id() }
    }
}

#[cfg(target_os = "linux")]
fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}

#[cfg(not(target_os = "linux"))]
fn monotonic_us() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn boot_id() -> String {
    static BOOT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let id: String = read.chars().filter(char::is_ascii_hexdigit).collect();
        if id.len() == 32 { id } else { "0".repeat(32) }
    });
    BOOT.clone()
}
