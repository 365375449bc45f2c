//! What each verb does once the command line is read.

pub(crate) mod reads;
pub(crate) mod session;
pub(crate) mod work;

use chrono::{DateTime, Local, Utc};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use reeve_wire::time::Millis;

/// A moment as a person here reads it.
pub(crate) fn clock_time(at: Millis) -> String {
    let utc = i64::try_from(at.0).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    utc.map_or_else(|| at.to_string(), |utc| utc.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string())
}

/// A table without lines: it reads well and cuts well.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    let lines: Vec<_> = table.lines().map(|line| format!("{}\n", line.trim())).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_columns_of_text_and_nothing_else() {
        let rows = [vec!["contoso/web01".into(), "3".into()], vec!["a/b".into(), "1".into()]];
        assert_eq!(table(&["HOST", "LEVEL"], rows), "HOST           LEVEL\ncontoso/web01  3\na/b            1\n");
    }

    #[test]
    fn a_moment_that_no_calendar_has_is_still_told() {
        assert_eq!(clock_time(Millis(u64::MAX)), format!("{} ms", u64::MAX));
        assert_eq!(clock_time(Millis(1_800_000_000_000)).len(), "2027-01-15 08:00".len());
    }
}
