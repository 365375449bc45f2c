//! Moments as people write them.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

/// A moment in µs since 1970 UTC: RFC 3339, a date or a date with a time (in UTC), or a span ago such as `7d`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Moment(pub(crate) u64);

/// Reads a moment; spans count back from `now_us`.
pub(crate) fn parse(text: &str, now_us: u64) -> Result<Moment, String> {
    let whole = text.trim();
    if let Ok(span) = humantime::parse_duration(whole) {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        return Ok(Moment(now_us.saturating_sub(span)));
    }
    let moment = DateTime::parse_from_rfc3339(whole)
        .map(|moment| moment.with_timezone(&Utc))
        .ok()
        .or_else(|| with_time(whole))
        .or_else(|| NaiveDate::parse_from_str(whole, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0).map(|day| day.and_utc()));
    let micros = moment.and_then(|moment| u64::try_from(moment.timestamp_micros()).ok());
    micros
        .map(Moment)
        .ok_or_else(|| "write 2026-03-01, 2026-03-01T12:00:00Z, or a span ago such as 7d or 2h".to_owned())
}

fn with_time(text: &str) -> Option<DateTime<Utc>> {
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .map(|moment| moment.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let noon = 1_772_366_400_000_000;
        for text in ["2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00", "2026-03-01 12:00", " 2026-03-01T12:00:00.0 "]
        {
            assert_eq!(parse(text, 0), Ok(Moment(noon)), "{text}");
        }
        assert_eq!(parse("2026-03-01", 0), Ok(Moment(noon - 12 * 3_600_000_000)));
        assert_eq!(parse("2h", noon), Ok(Moment(noon - 7_200_000_000)));
        assert_eq!(parse("100000d", 5), Ok(Moment(0)));
        for bad in ["", "yesterday", "2026-13-01", "1969-12-31", "12:00"] {
            assert!(parse(bad, noon).is_err(), "{bad}");
        }
    }
}
