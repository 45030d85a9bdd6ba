//! Multipart uploads that are to be aborted at the store.

use rusqlite::{Connection, params};

use super::rows::Row;
use super::{Journal, JournalError};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// Its row.
    pub id: i64,
    /// Whose credentials may do it.
    pub owner_uid: u32,
    /// The identity's name.
    pub identity: String,
    /// The identity id.
    pub identity_id: String,
    /// The destination's name.
    pub destination: String,
    /// The whole key.
    pub key: String,
    /// The store's id.
    pub multipart_id: String,
    /// Since when.
    pub create_ms: i64,
}

/// Notes that the upload's multipart upload is to be aborted, in the caller's transaction.
pub(super) fn note(connection: &Connection, row: &Row, multipart_id: &str, now_ms: i64) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO aborts (owner_uid, identity, identity_id, destination, object_key, multipart_id, create_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    insert.execute(params![
        row.owner_uid,
        row.identity,
        row.identity_id,
        row.destination,
        row.key,
        multipart_id,
        now_ms
    ])?;
    Ok(())
}

impl Journal {
    /// Notes a multipart upload that the row's upload does not use.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn note_abort(&self, row: Row, multipart_id: String, now_ms: i64) -> Result<(), JournalError> {
        self.write(move |connection| note(connection, &row, &multipart_id, now_ms)).await
    }

    /// The oldest pending aborts.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn aborts(&self, limit: u32) -> Result<Vec<Abort>, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT * FROM aborts ORDER BY id LIMIT ?")?;
            let rows = query.query_map([limit], |row| {
                Ok(Abort {
                    id: row.get("id")?,
                    owner_uid: row.get("owner_uid")?,
                    identity: row.get("identity")?,
                    identity_id: row.get("identity_id")?,
                    destination: row.get("destination")?,
                    key: row.get("object_key")?,
                    multipart_id: row.get("multipart_id")?,
                    create_ms: row.get("create_ms")?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// Forgets one: it is done, or nobody can do it.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn abort_done(&self, id: i64) -> Result<(), JournalError> {
        self.write(move |connection| connection.execute("DELETE FROM aborts WHERE id = ?", [id]).map(|_| ())).await
    }
}
