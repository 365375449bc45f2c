//! How the ledger's file is opened: for the one writer, and for readers.
//!
//! The writer's connection can insert and can update what is only an index; everything else (schema, deletes, attach,
//! nearly every pragma) its authorizer refuses while the statement is prepared. Readers open the file read-only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reeve_wire::note::NoteError;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};

use crate::SCHEMA;

#[cfg(test)]
mod tests;

/// `PRAGMA user_version` of the schema that this build reads and writes.
pub(crate) const SCHEMA_VERSION: i64 = 1;

/// `PRAGMA application_id`: "Reev" in ASCII, which `file` shows.
const APPLICATION_ID: i64 = 0x5265_6576;

/// The tables that are not the ledger itself and may be updated.
const INDEX_TABLES: [&str; 3] = ["operation", "chain", "customer"];

/// How long a reader waits while the writer finishes with the file.
const BUSY: Duration = Duration::from_secs(5);

/// Why a ledger's file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is no such file.
    #[error("there is no ledger at {}", .0.display())]
    Missing(PathBuf),
    /// The file is no ledger.
    #[error("{} is not a ledger of Reeve", .0.display())]
    NotALedger(PathBuf),
    /// The file was made by another version.
    #[error("the ledger has schema version {found}; this build reads version {SCHEMA_VERSION}")]
    Version {
        /// The version in the file.
        found: i64,
    },
    /// Another process writes it.
    #[error("another process writes {}: a ledger has one writer", .0.display())]
    InUse(PathBuf),
    /// The file lies where nothing can be written, and part of it is still in its write-ahead log.
    #[error("{} has a write-ahead log that cannot be opened here: copy both files into one writable directory", .0.display())]
    WriteAheadLog(PathBuf),
    /// The file belongs to another log.
    #[error("the file is the log of {found:?}, not of this key")]
    WrongKey {
        /// The public key in the file.
        found: String,
    },
    /// The end of the file does not hold together; nothing is appended to it.
    #[error("the end of the ledger does not verify: {0}; run `reeve-audit verify` and restore a good copy")]
    Tail(String),
    /// A key or a checkpoint in the file is malformed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// SQLite refused.
    #[error("the ledger's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Opens the file for its one writer, and makes it when it is not there.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, DatabaseError> {
    create_private(path)?;
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    harden(&connection)?;
    let found = version(&connection, path)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(DatabaseError::Tail(format!("the file's journal mode is {mode} and cannot be set to WAL")));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "recursive_triggers", "ON")?;
    match found {
        0 => create_schema(&connection)?,
        SCHEMA_VERSION => (),
        found => return Err(DatabaseError::Version { found }),
    }
    Ok(connection)
}

/// Opens the file for reading alone; a copy on media that cannot be written works too.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, DatabaseError> {
    if !path.is_file() {
        return Err(DatabaseError::Missing(path.to_owned()));
    }
    let connection = match try_reader(path, "mode=ro") {
        Err(DatabaseError::Sqlite(error)) if needs_writing(&error) => {
            if has_write_ahead_log(path) {
                return Err(DatabaseError::WriteAheadLog(path.to_owned()));
            }
            try_reader(path, "mode=ro&immutable=1")
        }
        Err(DatabaseError::Sqlite(error)) if is_no_database(&error) => {
            return Err(DatabaseError::NotALedger(path.to_owned()));
        }
        other => other,
    }?;
    match version(&connection, path)? {
        SCHEMA_VERSION => Ok(connection),
        0 => Err(DatabaseError::NotALedger(path.to_owned())),
        found => Err(DatabaseError::Version { found }),
    }
}

fn try_reader(path: &Path, parameters: &str) -> Result<Connection, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path, parameters), flags)?;
    connection.busy_timeout(BUSY)?;
    harden(&connection)?;
    // The first read is what opens the write-ahead log.
    connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// A `file:` URI, with what has a meaning in one escaped.
fn uri(path: &Path, parameters: &str) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{escaped}?{parameters}")
}

/// Whether a read-only open failed because SQLite wanted to make its shared-memory file.
fn needs_writing(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, ReadOnly};
    error.sqlite_error_code().is_some_and(|code| matches!(code, CannotOpen | ReadOnly))
}

fn is_no_database(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase)
}

fn has_write_ahead_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

/// What holds for every connection: nothing in the file is trusted to be harmless.
fn harden(connection: &Connection) -> Result<(), DatabaseError> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "cell_size_check", "ON")?;
    connection.pragma_update_and_check(None, "mmap_size", 0, |_| Ok(())).or_else(no_row)?;
    Ok(())
}

/// Where memory mapping is compiled out, `PRAGMA mmap_size` answers with no row.
fn no_row(error: rusqlite::Error) -> Result<(), rusqlite::Error> {
    if error == rusqlite::Error::QueryReturnedNoRows { Ok(()) } else { Err(error) }
}

fn version(connection: &Connection, path: &Path) -> Result<i64, DatabaseError> {
    let read = connection.pragma_query_one(None, "user_version").and_then(|version: i64| {
        let application: i64 = connection.pragma_query_one(None, "application_id")?;
        Ok((version, application))
    });
    match read {
        Ok((0, 0)) => Ok(0),
        Ok((version, APPLICATION_ID)) => Ok(version),
        Ok(_) => Err(DatabaseError::NotALedger(path.to_owned())),
        Err(error) if is_no_database(&error) => Err(DatabaseError::NotALedger(path.to_owned())),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn create_schema(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;\n{SCHEMA}\nPRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;"
    ))
}

/// From here on the connection appends and updates indexes; nothing else can even be prepared on it.
pub(crate) fn lock_down(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    connection.authorizer(Some(|context: AuthContext<'_>| authorize(&context.action)))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what SQLite adds later must be denied too")]
fn authorize(action: &AuthAction<'_>) -> Authorization {
    let system = |table: &str| table.starts_with("sqlite_");
    let allowed = match action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Function { .. } | AuthAction::Transaction { .. } => {
            true
        }
        AuthAction::Insert { table_name } => !system(table_name),
        AuthAction::Update { table_name, .. } => INDEX_TABLES.contains(table_name),
        AuthAction::Pragma { pragma_name, .. } => matches!(*pragma_name, "max_page_count" | "page_count" | "page_size"),
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

/// Makes the file readable by its owner alone, before SQLite puts anything into it.
fn create_private(path: &Path) -> Result<(), DatabaseError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(|source| DatabaseError::Io { path: path.to_owned(), source })?;
    drop(file);
    Ok(())
}
