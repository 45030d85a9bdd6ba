//! Many rows at once: pages for their owners, and what a start and the housekeeping ask for.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{named_params, params};
use ulid::Ulid;

use super::rows::{COLUMNS, Row, blob, phase, read_row, to_phase};
use super::{Journal, JournalError};
use crate::session::SessionId;
use crate::upload::scheduler::LaneKey;
use crate::upload::state::Phase;

/// How many rows one page looks at: a filter that few of many uploads pass must not keep everybody else who reads
/// waiting. A larger page has no more rows than this.
pub const SCAN_MAX: usize = 250;

/// Some of a uid's uploads.
#[derive(Debug, Default)]
pub struct Page {
    /// Those that passed, newest first.
    pub rows: Vec<Row>,
    /// How many were looked at.
    pub scanned: usize,
    /// Behind which one to go on; `None` at the end.
    pub next: Option<Ulid>,
}

/// An upload that is to be sent: its priority (0 is first), and all its bytes, once known.
pub type Pending = (Ulid, u8, Option<u64>);

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

/// The uploads that have not ended, or whose bytes are kept.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// Those that may have a file in the spool.
    pub spooled: Vec<Usage>,
    /// Those that are to be sent, as they were accepted, by the lane that each is sent in.
    pub pending: HashMap<LaneKey, Vec<Pending>>,
}

impl Journal {
    /// A page of a uid's uploads, newest first, older than `before`, in one of `phases`: at most `limit`, and fewer where
    /// [`SCAN_MAX`] were looked at.
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
    ) -> Result<Page, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM uploads WHERE owner_uid = ? AND id < ? ORDER BY id DESC"
            ))?;
            let mut found = query.query(params![owner_uid, blob(before.unwrap_or(Ulid::max()))])?;
            let mut page = Page::default();
            while let Some(row) = found.next()? {
                if page.rows.len() == limit || page.scanned == SCAN_MAX {
                    return Ok(page);
                }
                page.scanned += 1;
                page.next = Some(Ulid::from_bytes(row.get("id")?));
                let in_session = match &session {
                    Some(session) => row.get_ref("session")?.as_str()? == session.0,
                    None => true,
                };
                if in_session && phases.contains(&phase(row)?) {
                    page.rows.push(read_row(row)?);
                }
            }
            Ok(Page { next: None, ..page })
        })
        .await
    }

    /// What a start must know of the uploads that have not ended.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn unfinished(&self) -> Result<Unfinished, JournalError> {
        self.read(|connection| {
            // There may be a hundred thousand of them, in a handful of lanes: each row is read once, as it lies on the disk.
            let mut query = connection.prepare(
                r#"SELECT id, owner_uid, phase, received_bytes, source = '"Spool"', identity_id, destination,
                    json_extract(spec, '$.priority'), total_bytes
                   FROM uploads WHERE phase IN (0, 1, 3) ORDER BY phase, rowid"#,
            )?;
            let mut found = query.query([])?;
            let mut all = Unfinished::default();
            while let Some(row) = found.next()? {
                let (id, owner_uid, phase) = (Ulid::from_bytes(row.get(0)?), row.get(1)?, to_phase(row.get(2)?)?);
                if row.get(4)? {
                    let received_bytes = row.get::<_, i64>(3)?.cast_unsigned();
                    all.spooled.push(Usage { id, owner_uid, phase, received_bytes });
                }
                if phase == Phase::Pending {
                    let lane = LaneKey { owner_uid, identity_id: row.get(5)?, destination: row.get(6)? };
                    let total_bytes = row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned);
                    all.pending.entry(lane).or_default().push((id, row.get(7)?, total_bytes));
                }
            }
            Ok(all)
        })
        .await
    }

    /// The unfinished uploads of a session, behind every write that has begun: see [`Journal::enter`].
    ///
    /// # Errors
    /// Where the journal cannot be read, or a write has failed.
    pub async fn unfinished_of(&self, session: SessionId) -> Result<Vec<Ulid>, JournalError> {
        self.write(move |connection| {
            // The first condition is that of the index, which is taken for it.
            let mut query = connection.prepare_cached(
                "SELECT id FROM uploads WHERE phase IN (0, 1, 3) AND phase <> 3 AND session = ? ORDER BY id",
            )?;
            let ids = query.query_map([session.0], |row| Ok(Ulid::from_bytes(row.get(0)?)))?;
            ids.collect()
        })
        .await
    }

    /// Streams that nobody went on with since `before_ms`.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn idle_streams(&self, before_ms: i64) -> Result<Vec<Ulid>, JournalError> {
        self.read(move |connection| {
            // As above.
            let mut query = connection
                .prepare_cached("SELECT id FROM uploads WHERE phase IN (0, 1, 3) AND phase = 0 AND update_ms < ?")?;
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
            // By the index of those that have ended: never through everything that waits.
            let mut delete = connection.prepare_cached(
                r#"DELETE FROM uploads INDEXED BY uploads_ended WHERE end_number IS NOT NULL AND update_ms < ?
                    AND (phase IN (2, 4) OR (phase = 3 AND source <> '"Spool"'))
                    AND NOT EXISTS (SELECT 1 FROM folder_files WHERE upload = uploads.id AND state <> 1)"#,
            )?;
            delete.execute([before_ms])
        })
        .await
    }

    /// Removes rows of parts that nobody needs, and answers how many: their upload has ended for good, or is gone. Each goes
    /// in the commit that ends its upload, so there are none; a start makes sure of it.
    ///
    /// # Errors
    /// Where the journal cannot be read or written.
    pub async fn sweep_parts(&self) -> Result<usize, JournalError> {
        const NEEDLESS: &str = "coalesce((SELECT phase FROM uploads WHERE id = upload), 2) IN (2, 4)";
        self.write(|connection| {
            let parts = connection.execute(&format!("DELETE FROM parts WHERE {NEEDLESS}"), [])?;
            Ok(parts + connection.execute(&format!("DELETE FROM arrived WHERE {NEEDLESS}"), [])?)
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
