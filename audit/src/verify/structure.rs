//! The file itself: SQLite's own check, the schema, and the indexes.

use std::sync::OnceLock;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::{Fault, Finding, Report};
use crate::database;
use crate::reader::ReadError;

/// How many of SQLite's complaints are shown.
const MAX_COMPLAINTS: usize = 10;

/// Name and SQL of everything in a schema.
type Parts = Vec<(String, String)>;

/// The tables that follow from the records, with their keys.
const INDEXES: [(&str, &str); 5] =
    [("operation", "first"), ("header", "idx"), ("event", "idx"), ("chain", "host"), ("customer", "name")];

/// Runs SQLite's own check and compares the schema with ours: a dropped trigger protects nothing.
pub(super) fn check(file: &Connection, report: &mut Report) -> Result<(), ReadError> {
    let mut select = file.prepare(&format!("PRAGMA integrity_check({MAX_COMPLAINTS})"))?;
    let complaints: Vec<String> = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for complaint in complaints.into_iter().filter(|complaint| complaint != "ok") {
        report.add(Finding::new(Fault::Malformed, format!("the database file is damaged: {complaint}")));
    }
    let (ours, theirs) = (our_schema()?, schema(file)?);
    for (name, _) in ours.iter().filter(|part| !theirs.contains(part)) {
        report.add(Finding::new(Fault::Malformed, format!("{name} is missing from the schema or was altered")));
    }
    for (name, _) in theirs.iter().filter(|(name, _)| !ours.iter().any(|(known, _)| known == name)) {
        report.add(Finding::new(Fault::Malformed, format!("{name} does not belong into the schema")));
    }
    Ok(())
}

/// What SQLite keeps of our schema, which does not change while we run.
fn our_schema() -> rusqlite::Result<&'static Parts> {
    static OURS: OnceLock<Parts> = OnceLock::new();
    if let Some(ours) = OURS.get() {
        return Ok(ours);
    }
    let fresh = Connection::open_in_memory()?;
    database::create_schema(&fresh)?;
    let ours = schema(&fresh)?;
    Ok(OURS.get_or_init(|| ours))
}

/// Name and SQL of everything in the schema but SQLite's own tables.
fn schema(database: &Connection) -> rusqlite::Result<Parts> {
    let mut select = database.prepare(
        "SELECT type || ' ' || name, IFNULL(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY 1",
    )?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Compares every row of the indexes with what the records say. A row that is missing hides a record from a list.
pub(super) fn compare_indexes(file: &Connection, rebuilt: &Connection, report: &mut Report) -> Result<(), ReadError> {
    for (table, key) in INDEXES {
        let query = format!("SELECT {key}, * FROM {table} ORDER BY {key}");
        let (mut theirs, mut ours) = (file.prepare(&query)?, rebuilt.prepare(&query)?);
        let (mut theirs, mut ours) = (theirs.query([])?, ours.query([])?);
        loop {
            match (values(&mut theirs)?, values(&mut ours)?) {
                (None, None) => break,
                (Some(theirs), Some(ours)) if theirs == ours => (),
                (theirs, ours) => {
                    let row = ours.or(theirs).unwrap_or_default();
                    let key = row.first().map_or_else(String::new, shown);
                    let what = format!("the index {table} differs from the records from row {key} on");
                    report.add(Finding::new(Fault::Malformed, what));
                    break;
                }
            }
        }
    }
    Ok(())
}

fn values(rows: &mut rusqlite::Rows<'_>) -> rusqlite::Result<Option<Vec<Value>>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = row.as_ref().column_count();
    (0..columns).map(|column| row.get(column)).collect::<rusqlite::Result<_>>().map(Some)
}

fn shown(key: &Value) -> String {
    match key {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null | Value::Real(_) | Value::Blob(_) => "?".to_owned(),
    }
}
