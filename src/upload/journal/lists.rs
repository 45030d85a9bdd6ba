//! Many rows at once: pages for their owners, and what a start and the housekeeping ask for.

use std::collections::BTreeMap;

use rusqlite::named_params;
use ulid::Ulid;

use super::rows::{Row, blob, phase, read_row};
use super::{Journal, JournalError};
use crate::session::SessionId;
use crate::upload::state::Phase;

/// What the scheduler needs of an upload that is to be sent.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// Its id.
    pub id: Ulid,
    /// Who owns it.
    pub owner_uid: u32,
    /// Whose credentials sign it.
    pub identity_id: String,
    /// The destination's name.
    pub destination: String,
    /// 0 is first.
    pub priority: u8,
}

/// Bytes in the spool, by owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The upload.
    pub id: Ulid,
    /// Its owner.
    pub owner_uid: u32,
    /// How far it got.
    pub phase: Phase,
    /// Synced bytes.
    pub received_bytes: u64,
}

impl Journal {
    /// A page of a uid's uploads, newest first, older than `before`, in one of `phases`.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn page(
        &self,
        owner_uid: u32,
        session: Option<SessionId>,
        phases: Vec<Phase>,
        before: Option<Ulid>,
        limit: usize,
    ) -> Result<Vec<Row>, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT * FROM uploads WHERE owner_uid = :uid AND id < :before
                    AND (:session IS NULL OR session = :session) AND (1 << phase) & :phases
                 ORDER BY id DESC LIMIT :limit",
            )?;
            let phases = phases.iter().fold(0_i64, |mask, phase| mask | 1 << phase.code());
            let rows = query.query_map(
                named_params! {
                    ":uid": owner_uid,
                    ":before": blob(before.unwrap_or(Ulid::max())),
                    ":session": session.map(|session| session.0),
                    ":phases": phases,
                    ":limit": i64::try_from(limit).unwrap_or(i64::MAX),
                },
                read_row,
            )?;
            rows.collect()
        })
        .await
    }

    /// Everything that is to be sent, oldest first.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn pending(&self) -> Result<Vec<Unfinished>, JournalError> {
        self.read(|connection| {
            let mut query = connection.prepare(
                "SELECT id, owner_uid, identity_id, destination, json_extract(spec, '$.priority') AS priority
                 FROM uploads WHERE phase = 1 ORDER BY id",
            )?;
            let rows = query.query_map([], |row| {
                Ok(Unfinished {
                    id: Ulid::from_bytes(row.get("id")?),
                    owner_uid: row.get("owner_uid")?,
                    identity_id: row.get("identity_id")?,
                    destination: row.get("destination")?,
                    priority: row.get("priority")?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// The unfinished uploads of a session.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn unfinished_of(&self, session: SessionId) -> Result<Vec<Ulid>, JournalError> {
        self.read(move |connection| {
            let mut query = connection
                .prepare_cached("SELECT id FROM uploads WHERE phase IN (0, 1) AND session = ? ORDER BY id")?;
            let ids = query.query_map([session.0], |row| Ok(Ulid::from_bytes(row.get(0)?)))?;
            ids.collect()
        })
        .await
    }

    /// Every upload that may have a file in the spool.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn spooled(&self) -> Result<Vec<Usage>, JournalError> {
        self.read(|connection| {
            let mut query = connection.prepare(
                r#"SELECT id, owner_uid, phase, received_bytes FROM uploads WHERE phase IN (0, 1, 3) AND source = '"Spool"'"#,
            )?;
            let rows = query.query_map([], |row| {
                Ok(Usage {
                    id: Ulid::from_bytes(row.get("id")?),
                    owner_uid: row.get("owner_uid")?,
                    phase: phase(row)?,
                    received_bytes: row.get::<_, i64>("received_bytes")?.cast_unsigned(),
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// Streams that nobody went on with since `before_ms`.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn idle_streams(&self, before_ms: i64) -> Result<Vec<Ulid>, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT id FROM uploads WHERE phase = 0 AND update_ms < ?")?;
            let ids = query.query_map([before_ms], |row| Ok(Ulid::from_bytes(row.get(0)?)))?;
            ids.collect()
        })
        .await
    }

    /// Forgets receipts of uploads that ended before `before_ms`. A failed one whose bytes lie in the spool stays: they
    /// may be the only copy. So does one of a hot folder's file with which something is left to do.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn expire_receipts(&self, before_ms: i64) -> Result<usize, JournalError> {
        self.write(move |connection| {
            let mut note = connection.prepare_cached(
                r#"INSERT INTO aborts (owner_uid, identity, identity_id, destination, object_key, multipart_id, create_ms)
                   SELECT owner_uid, identity, identity_id, destination, object_key, multipart_id, update_ms FROM uploads
                   WHERE update_ms < ? AND phase = 3 AND source <> '"Spool"' AND multipart_id IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM folder_files WHERE upload = uploads.id AND state <> 1)"#,
            )?;
            note.execute([before_ms])?;
            let mut delete = connection.prepare_cached(
                r#"DELETE FROM uploads WHERE update_ms < ?
                    AND (phase IN (2, 4) OR (phase = 3 AND source <> '"Spool"'))
                    AND NOT EXISTS (SELECT 1 FROM folder_files WHERE upload = uploads.id AND state <> 1)"#,
            )?;
            delete.execute([before_ms])
        })
        .await
    }

    /// How many uploads are in each phase, of one uid or of all.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn counts(&self, uid: Option<u32>) -> Result<BTreeMap<&'static str, u64>, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT phase, count(*) AS count FROM uploads WHERE :uid IS NULL OR owner_uid = :uid GROUP BY phase",
            )?;
            let rows = query.query_map(named_params! { ":uid": uid }, |row| {
                Ok((phase(row)?, row.get::<_, i64>("count")?.cast_unsigned()))
            })?;
            rows.map(|row| row.map(|(phase, count)| (crate::upload::state::name(phase.shown()), count))).collect()
        })
        .await
    }
}
