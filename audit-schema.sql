-- The ledger's schema, the only copy. See docs/formats/ledger.md.
--
-- leaf, entry, checkpoint and blob are the ledger; every other table can be rebuilt from entry.
-- The triggers are a seat belt for our own code. Whoever holds the file can drop them: what proves the ledger is
-- the tree over leaf, and checkpoints that others keep.

-- Whose log this is: the name and public key under which its checkpoints are signed.
CREATE TABLE log (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    origin TEXT NOT NULL,
    vkey   TEXT NOT NULL
) STRICT;

-- RFC 6962 leaf hashes, for ever.
CREATE TABLE leaf (
    idx  INTEGER PRIMARY KEY CHECK (idx >= 0),
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- The bytes that were hashed. They lie apart from the hash, so that a proof needs only the hash.
CREATE TABLE entry (
    idx   INTEGER PRIMARY KEY REFERENCES leaf (idx),
    bytes BLOB NOT NULL CHECK (length(bytes) BETWEEN 1 AND 65535)
) STRICT;

-- Signed heads, as C2SP tlog-checkpoint notes.
CREATE TABLE checkpoint (
    size INTEGER PRIMARY KEY CHECK (size >= 0),
    note TEXT NOT NULL
) STRICT;

-- Content too long for an entry: zstd of salt and bytes, addressed by the SHA-256 of what is stored. A row that is
-- sealed names its key.
CREATE TABLE blob (
    address BLOB NOT NULL PRIMARY KEY CHECK (length(address) = 32),
    key     TEXT,
    bytes   BLOB NOT NULL
) STRICT;

CREATE TRIGGER log_is_never_changed BEFORE UPDATE ON log
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER log_is_never_removed BEFORE DELETE ON log
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER log_is_named_once BEFORE INSERT ON log WHEN EXISTS (SELECT 1 FROM log)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER leaf_is_never_changed BEFORE UPDATE ON leaf
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER leaf_is_never_removed BEFORE DELETE ON leaf
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- REPLACE removes the old row without firing the trigger above (unless the connection sets recursive_triggers), so
-- the insert itself must extend the log.
CREATE TRIGGER leaf_extends_the_log BEFORE INSERT ON leaf
WHEN NEW.idx IS NOT (SELECT IFNULL(MAX(idx), -1) + 1 FROM leaf)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entry_is_never_removed BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entry_extends_the_log BEFORE INSERT ON entry
WHEN NEW.idx IS NOT (SELECT IFNULL(MAX(idx), -1) + 1 FROM entry)
  OR NEW.idx IS NOT (SELECT MAX(idx) FROM leaf)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER checkpoint_is_never_changed BEFORE UPDATE ON checkpoint
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER checkpoint_is_never_removed BEFORE DELETE ON checkpoint
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER checkpoint_grows BEFORE INSERT ON checkpoint
WHEN NEW.size <= (SELECT IFNULL(MAX(size), -1) FROM checkpoint)
  OR NEW.size > (SELECT IFNULL(MAX(idx), -1) + 1 FROM leaf)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER blob_is_never_changed BEFORE UPDATE ON blob
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER blob_is_never_removed BEFORE DELETE ON blob
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER blob_is_stored_once BEFORE INSERT ON blob
WHEN EXISTS (SELECT 1 FROM blob WHERE address = NEW.address)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

-- From here on: what makes questions quick. Can be rebuilt from entry.

-- One row an operation and host, and one a refusal.
CREATE TABLE operation (
    first     INTEGER PRIMARY KEY,   -- the record of the intent, or of the refusal
    operation BLOB NOT NULL,
    host      TEXT,                  -- CUSTOMER/HOST
    customer  TEXT,
    user      TEXT NOT NULL,
    time      INTEGER NOT NULL,      -- µs since 1970 UTC
    level     INTEGER,               -- the level that it needs
    decision  TEXT NOT NULL CHECK (decision IN ('allowed', 'refused')),
    "case"    TEXT,
    command   TEXT,                  -- on one line
    deadline  INTEGER,               -- µs since 1970 UTC: when its result is due
    result    INTEGER,               -- the record of the result
    late      INTEGER,               -- the record that resolves an unknown result
    outcome   TEXT                   -- the last one known; null while it is open
) STRICT;
CREATE INDEX operation_by_id ON operation (operation, host);
CREATE INDEX operation_by_user ON operation (user, first);
CREATE INDEX operation_by_host ON operation (host, first);
CREATE INDEX operation_by_customer ON operation (customer, first);
CREATE INDEX operation_open ON operation (first) WHERE outcome IS NULL;
CREATE INDEX operation_unknown ON operation (first) WHERE outcome = 'unknown';

-- The signed request of an operation.
CREATE TABLE header (
    idx       INTEGER PRIMARY KEY,
    operation BLOB NOT NULL
) STRICT;
CREATE INDEX header_by_operation ON header (operation);

-- Everything that is not an operation.
CREATE TABLE event (
    idx       INTEGER PRIMARY KEY,
    kind      TEXT NOT NULL,
    time      INTEGER NOT NULL,      -- µs since 1970 UTC
    user      TEXT,
    customer  TEXT,
    host      TEXT,
    operation BLOB
) STRICT;
CREATE INDEX event_by_user ON event (user, idx);
CREATE INDEX event_by_customer ON event (customer, idx);

-- The newest entry of each host's receipt chain: which receipt of which record it is.
CREATE TABLE chain (
    host       TEXT NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    idx        INTEGER NOT NULL,
    position   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How many records each customer has.
CREATE TABLE customer (
    name    TEXT NOT NULL PRIMARY KEY,
    records INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
