//! The journal's tables and how an older file becomes a newer one.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::failpoint::{Step, around};

/// How long a connection waits for the other one (a checkpoint).
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// One step per version; the file's `user_version` says how many it has taken. Steps are never changed, only added.
const STEPS: [&str; 5] = [
    r"
CREATE TABLE uploads (
    id             BLOB PRIMARY KEY,  -- the ULID's 16 bytes: sorts by time
    owner_uid      INTEGER NOT NULL,
    session        TEXT NOT NULL,
    identity       TEXT NOT NULL,
    identity_id    TEXT NOT NULL,     -- pinned: no other identity id ever signs this upload
    destination    TEXT NOT NULL,
    bucket         TEXT NOT NULL,
    object_key     TEXT NOT NULL,
    spec           TEXT NOT NULL,     -- JSON
    spec_hash      BLOB NOT NULL,
    source         TEXT NOT NULL,     -- JSON
    phase          INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    received_crc   INTEGER NOT NULL,
    total_bytes    INTEGER,
    crc64nvme      INTEGER,
    sha256         BLOB,
    part_bytes     INTEGER,
    multipart_id   TEXT,
    in_doubt       INTEGER NOT NULL DEFAULT 0,
    attempts       INTEGER NOT NULL DEFAULT 0,
    failure        TEXT,
    failure_text   TEXT,
    etag           TEXT,
    version_id     TEXT,
    create_ms      INTEGER NOT NULL,
    update_ms      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX uploads_of_uid ON uploads (owner_uid, id);
CREATE INDEX uploads_unfinished ON uploads (phase) WHERE phase IN (0, 1, 3);

CREATE TABLE parts (
    upload     BLOB NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    etag       TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    crc64nvme  INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID;

CREATE TABLE aborts (
    id           INTEGER PRIMARY KEY,
    owner_uid    INTEGER NOT NULL,
    identity     TEXT NOT NULL,
    identity_id  TEXT NOT NULL,
    destination  TEXT NOT NULL,
    object_key   TEXT NOT NULL,
    multipart_id TEXT NOT NULL,
    create_ms    INTEGER NOT NULL
);
",
    // Parts are sent while a stream still arrives, and a multipart upload has an age.
    r"
ALTER TABLE uploads ADD COLUMN multipart_ms INTEGER;
CREATE TABLE arrived (                -- parts of a stream that are synced, with the checksum that they arrived with
    upload     BLOB NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    crc64nvme  INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID;
",
    // Ends have an order, and files of hot folders their uploads.
    r"
-- In which order uploads ended; NULL while they have not. The numbers only grow, also where receipts are gone.
ALTER TABLE uploads ADD COLUMN end_number INTEGER;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
UPDATE uploads SET end_number = ended.number
    FROM (SELECT id, row_number() OVER (ORDER BY update_ms, id) AS number FROM uploads WHERE phase IN (2, 3, 4)) AS ended
    WHERE uploads.id = ended.id;
INSERT INTO counters SELECT 'ended', coalesce(max(end_number), 0) FROM uploads;
CREATE INDEX uploads_ended ON uploads (owner_uid, end_number) WHERE end_number IS NOT NULL;

-- Files of hot folders: which upload each became.
CREATE TABLE folder_files (
    folder     TEXT NOT NULL,
    path       TEXT NOT NULL,     -- beneath the folder
    ino        INTEGER NOT NULL,  -- what it was when it was taken, as in a source's fingerprint
    size_bytes INTEGER NOT NULL,
    mtime_ns   INTEGER NOT NULL,
    ctime_ns   INTEGER NOT NULL,
    upload     BLOB NOT NULL,
    state      INTEGER NOT NULL,  -- 0 on its way, 1 stays here and is in the store, 2 failed
    crc64nvme  INTEGER,           -- of its bytes, once they are in the store
    PRIMARY KEY (folder, path)
) WITHOUT ROWID;
CREATE INDEX folder_files_by_state ON folder_files (folder, state, path) WHERE state <> 1;
CREATE INDEX folder_files_by_upload ON folder_files (upload);
",
    // For how long an upload has been failing, in seconds; written seldom.
    "ALTER TABLE uploads ADD COLUMN failing_s INTEGER NOT NULL DEFAULT 0;",
    // An ordinary table: rows of some hundred bytes make a bad key of a tree. Three of four went beyond the page, and
    // every node held four of them, so that a start with many uploads read each page several times.
    r"
CREATE TABLE uploads_by_row (
    id             BLOB PRIMARY KEY NOT NULL,  -- the ULID's 16 bytes: sorts by time
    owner_uid      INTEGER NOT NULL,
    session        TEXT NOT NULL,
    identity       TEXT NOT NULL,
    identity_id    TEXT NOT NULL,     -- pinned: no other identity id ever signs this upload
    destination    TEXT NOT NULL,
    bucket         TEXT NOT NULL,
    object_key     TEXT NOT NULL,
    spec           TEXT NOT NULL,     -- JSON
    spec_hash      BLOB NOT NULL,
    source         TEXT NOT NULL,     -- JSON
    phase          INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    received_crc   INTEGER NOT NULL,
    total_bytes    INTEGER,
    crc64nvme      INTEGER,
    sha256         BLOB,
    part_bytes     INTEGER,
    multipart_id   TEXT,
    in_doubt       INTEGER NOT NULL DEFAULT 0,
    attempts       INTEGER NOT NULL DEFAULT 0,
    failure        TEXT,
    failure_text   TEXT,
    etag           TEXT,
    version_id     TEXT,
    create_ms      INTEGER NOT NULL,
    update_ms      INTEGER NOT NULL,
    multipart_ms   INTEGER,           -- when the multipart upload began
    end_number     INTEGER,           -- in which order uploads ended; NULL while they have not
    failing_s      INTEGER NOT NULL DEFAULT 0
);
INSERT INTO uploads_by_row SELECT * FROM uploads ORDER BY id;
DROP TABLE uploads;
ALTER TABLE uploads_by_row RENAME TO uploads;
CREATE INDEX uploads_of_uid ON uploads (owner_uid, id);
CREATE INDEX uploads_unfinished ON uploads (phase) WHERE phase IN (0, 1, 3);
CREATE INDEX uploads_ended ON uploads (owner_uid, end_number) WHERE end_number IS NOT NULL;
",
];

/// Brings the file up to this version.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), String> {
    take(connection, &STEPS)
}

fn take(connection: &mut Connection, steps: &[&str]) -> Result<(), String> {
    let known = steps.len();
    let version: usize = connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
        .map_err(|why| format!("cannot be read: {why}"))?
        .try_into()
        .unwrap_or(usize::MAX);
    if version > known {
        return Err(format!(
            "is of version {version}, this daemon knows versions up to {known}: install the newer daemon again"
        ));
    }
    // A table that makes room for its successor must not take with it what refers to it.
    enforce_references(connection, false)?;
    for (index, step) in steps.iter().enumerate().skip(version) {
        let taken: rusqlite::Result<()> = (|| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", u32::try_from(index + 1).unwrap_or(u32::MAX))?;
            around(Step::JournalMigration, || transaction.commit())
        })();
        taken.map_err(|why| format!("step {} of the migration failed: {why}", index + 1))?;
    }
    enforce_references(connection, true)
}

/// To be called outside of a transaction: inside, SQLite ignores it.
fn enforce_references(connection: &Connection, on: bool) -> Result<(), String> {
    connection
        .pragma_update(None, "foreign_keys", on)
        .map_err(|why| format!("its references cannot be switched: {why}"))
}

/// Looks for damage.
pub(super) fn quick_check(connection: &Connection) -> Result<(), String> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|why| format!("cannot be checked: {why}: restore it, or move the state directory away"))?;
    if found == "ok" {
        return Ok(());
    }
    Err(format!("is damaged ({found}): restore it, or move the state directory away; spooled bytes lie in spool/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rusqlite::types::Value;

    use super::*;

    #[test]
    fn an_older_file_keeps_uploads_parts_and_ends() {
        let mut file = Connection::open_in_memory().unwrap();
        take(&mut file, &STEPS[..4]).unwrap();
        file.execute_batch(
            r#"INSERT INTO uploads (id, owner_uid, session, identity, identity_id, destination, bucket, object_key, spec,
                spec_hash, source, phase, received_bytes, received_crc, create_ms, update_ms, end_number, failing_s)
             VALUES (x'02', 7, 's', 'app', 'i', 'photos', 'b', 'k', '{}', x'00', '"Spool"', 1, 9, -1, 3, 4, NULL, 23),
                    (x'01', 7, 's', 'app', 'i', 'photos', 'b', 'k', '{}', x'00', '"Spool"', 2, 9, -1, 1, 2, 5, 0);
             INSERT INTO parts VALUES (x'02', 1, 'etag', 5, -1), (x'02', 2, 'etag', 4, -1);
             INSERT INTO arrived VALUES (x'02', 1, 5, -1);
             UPDATE counters SET value = 5;"#,
        )
        .unwrap();
        let rows = |file: &Connection| {
            let mut query = file.prepare("SELECT * FROM uploads ORDER BY id").unwrap();
            let columns: Vec<String> = query.column_names().map(str::to_owned).collect();
            let values = |row: &rusqlite::Row<'_>| (0..columns.len()).map(|at| row.get::<_, Value>(at)).collect();
            let rows: Result<Vec<Vec<Value>>, _> = query.query_map([], values).unwrap().collect();
            (columns.clone(), rows.unwrap())
        };
        let before = rows(&file);
        migrate(&mut file).unwrap();
        assert_eq!(rows(&file), before);
        let count = |what: &str| file.query_row(&format!("SELECT {what}"), [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("count(*) FROM parts WHERE upload = x'02'"), 2);
        assert_eq!(count("count(*) FROM arrived WHERE upload = x'02'"), 1);
        assert_eq!(count("value FROM counters"), 5);
        // What refers to an upload still goes with it.
        file.execute("DELETE FROM uploads WHERE id = x'02'", []).unwrap();
        assert_eq!(count("(SELECT count(*) FROM parts) + (SELECT count(*) FROM arrived)"), 0);
        assert!(file.execute("INSERT INTO arrived VALUES (x'09', 1, 5, -1)", []).is_err(), "of no upload");
    }
}
