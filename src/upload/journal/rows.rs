//! One row per upload, and every write that moves it on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::types::{FromSql, Type};
use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{Journal, JournalError, aborts, ends, parts};
use crate::session::{SessionId, SessionKind};
use crate::store::Stored;
use crate::upload::source::Fingerprint;
use crate::upload::state::{Event, Phase};
use crate::upload::{KeyPolicy, OnDenied, Priority, UploadFailure, UploadSpec, failure};

/// One upload, as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: Ulid,
    /// Who owns it.
    pub owner_uid: u32,
    /// The session it was accepted for.
    pub session: SessionId,
    /// The session's identity.
    pub identity: String,
    /// Pinned: no other identity id ever signs this upload.
    pub identity_id: String,
    /// The destination's name.
    pub destination: String,
    /// The bucket.
    pub bucket: String,
    /// The whole key.
    pub key: String,
    /// What else was asked for.
    pub spec: StoredSpec,
    /// SHA-256 of the spec as the caller gave it.
    pub spec_hash: [u8; 32],
    /// Where the bytes are.
    pub source: Source,
    /// How far it got.
    pub phase: Phase,
    /// Bytes that are synced.
    pub received_bytes: u64,
    /// CRC64NVME of those.
    pub received_crc: u64,
    /// All bytes, once known.
    pub total_bytes: Option<u64>,
    /// CRC64NVME of all bytes, once known.
    pub crc64nvme: Option<u64>,
    /// SHA-256 of all bytes, where the caller proved it.
    pub sha256: Option<[u8; 32]>,
    /// The size of a part: fixed when a stream or a multipart upload begins.
    pub part_bytes: Option<u64>,
    /// The store's id of the multipart upload.
    pub multipart_id: Option<String>,
    /// When that was begun.
    pub multipart_ms: Option<i64>,
    /// A write was sent whose outcome may not be known.
    pub in_doubt: bool,
    /// How many times sending was begun again.
    pub attempts: u32,
    /// For how long it has been failing, as far as that was written down.
    pub failing_s: u64,
    /// What went wrong last.
    pub failure: Option<UploadFailure>,
    /// The ETag, once stored.
    pub etag: Option<String>,
    /// The version, once stored in a versioned bucket.
    pub version_id: Option<String>,
    /// When it was accepted.
    pub create_ms: i64,
    /// When it last changed.
    pub update_ms: i64,
}

/// What of the spec is needed after acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoredSpec {
    /// The Content-Type.
    pub content_type: String,
    /// The caller's metadata.
    pub metadata: BTreeMap<String, String>,
    /// `KeyPolicy::Unique`.
    pub unique: bool,
    /// May replace an object.
    pub overwrite: bool,
    /// 0 is first.
    pub priority: u8,
    /// `OnDenied::Wait`.
    pub waits_when_denied: bool,
    /// Accepted for a guest, who never comes back once the session is gone.
    #[serde(default)]
    pub of_guest: bool,
}

impl StoredSpec {
    /// What of `spec`, in a session of this kind, is needed later.
    pub fn of(spec: &UploadSpec, kind: SessionKind) -> Self {
        Self {
            content_type: spec.content_type.clone().unwrap_or_else(|| "application/octet-stream".into()),
            metadata: spec.metadata.clone(),
            unique: spec.key_policy == KeyPolicy::Unique,
            overwrite: spec.overwrite,
            priority: match spec.priority {
                Priority::Interactive => 0,
                Priority::Normal => 1,
                Priority::Background => 2,
            },
            waits_when_denied: spec.on_denied == OnDenied::Wait,
            of_guest: kind == SessionKind::Guest,
        }
    }
}

/// Where the bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// In the spool, under the upload's id.
    Spool,
    /// A file of the device.
    File {
        /// The configured root.
        root: PathBuf,
        /// The path beneath it.
        relative: PathBuf,
        /// What the file was when it was accepted.
        fingerprint: Fingerprint,
    },
}

pub(super) fn blob(id: Ulid) -> [u8; 16] {
    id.to_bytes()
}

/// SQLite's integers are signed; sizes stay below 49 TiB.
pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// All 64 bits of a checksum count.
pub(super) fn bits(crc: u64) -> i64 {
    crc.cast_signed()
}

fn bad(why: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, why.into())
}

pub(super) fn phase(row: &rusqlite::Row<'_>) -> rusqlite::Result<Phase> {
    to_phase(row.get("phase")?)
}

pub(super) fn to_phase(code: u8) -> rusqlite::Result<Phase> {
    Phase::from_code(code).ok_or_else(|| bad(format!("phase {code} is unknown")))
}

/// What [`read_row`] reads, in its order.
pub(super) const COLUMNS: &str = "id, owner_uid, session, identity, identity_id, destination, bucket, object_key, spec,
    spec_hash, source, phase, received_bytes, received_crc, total_bytes, crc64nvme, sha256, part_bytes, multipart_id,
    multipart_ms, in_doubt, attempts, failing_s, failure, failure_text, etag, version_id, create_ms, update_ms";

/// The values of a row, one after the other. Asking for each by its name costs several times what reading it does, and a
/// page has a thousand rows.
struct Values<'a, 'b> {
    row: &'a rusqlite::Row<'b>,
    at: usize,
}

impl Values<'_, '_> {
    fn value<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.at += 1;
        self.row.get(self.at - 1)
    }

    fn unsigned(&mut self) -> rusqlite::Result<u64> {
        self.value().map(i64::cast_unsigned)
    }

    fn optional_unsigned(&mut self) -> rusqlite::Result<Option<u64>> {
        Ok(self.value::<Option<i64>>()?.map(i64::cast_unsigned))
    }

    fn json<T: for<'de> Deserialize<'de>>(&mut self) -> rusqlite::Result<T> {
        self.at += 1;
        serde_json::from_str(self.row.get_ref(self.at - 1)?.as_str()?).map_err(|why| bad(why.to_string()))
    }

    fn phase(&mut self) -> rusqlite::Result<Phase> {
        to_phase(self.value()?)
    }

    fn failure(&mut self) -> rusqlite::Result<Option<UploadFailure>> {
        let (reason, text): (Option<String>, Option<String>) = (self.value()?, self.value()?);
        Ok(reason.map(|reason| failure::failure(failure::reason(&reason), text.unwrap_or_default())))
    }
}

/// A row of `SELECT {COLUMNS}`.
pub(super) fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let mut values = Values { row, at: 0 };
    // The fields are read as they stand here.
    Ok(Row {
        id: Ulid::from_bytes(values.value()?),
        owner_uid: values.value()?,
        session: SessionId(values.value()?),
        identity: values.value()?,
        identity_id: values.value()?,
        destination: values.value()?,
        bucket: values.value()?,
        key: values.value()?,
        spec: values.json()?,
        spec_hash: values.value()?,
        source: values.json()?,
        phase: values.phase()?,
        received_bytes: values.unsigned()?,
        received_crc: values.unsigned()?,
        total_bytes: values.optional_unsigned()?,
        crc64nvme: values.optional_unsigned()?,
        sha256: values.value()?,
        part_bytes: values.optional_unsigned()?,
        multipart_id: values.value()?,
        multipart_ms: values.value()?,
        in_doubt: values.value()?,
        attempts: values.value()?,
        failing_s: values.unsigned()?,
        failure: values.failure()?,
        etag: values.value()?,
        version_id: values.value()?,
        create_ms: values.value()?,
        update_ms: values.value()?,
    })
}

pub(super) fn find(connection: &Connection, id: Ulid) -> rusqlite::Result<Option<Row>> {
    let mut query = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM uploads WHERE id = ?"))?;
    query.query_row([blob(id)], read_row).optional()
}

/// Writes everything that may change, except the phase: naming it writes pages of the indexes over it, changed or not.
pub(super) fn store(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE uploads SET received_bytes = :received, received_crc = :received_crc,
            total_bytes = :total, crc64nvme = :crc, sha256 = :sha256, part_bytes = :part_bytes,
            multipart_id = :multipart_id, multipart_ms = :multipart_ms, in_doubt = :in_doubt, attempts = :attempts,
            failing_s = :failing_s, failure = :failure, failure_text = :failure_text, etag = :etag,
            version_id = :version_id, update_ms = :update_ms
         WHERE id = :id",
    )?;
    update.execute(named_params! {
        ":id": blob(row.id),
        ":received": size(row.received_bytes),
        ":received_crc": bits(row.received_crc),
        ":total": row.total_bytes.map(size),
        ":crc": row.crc64nvme.map(bits),
        ":sha256": row.sha256,
        ":part_bytes": row.part_bytes.map(size),
        ":multipart_id": row.multipart_id,
        ":multipart_ms": row.multipart_ms,
        ":in_doubt": row.in_doubt,
        ":attempts": row.attempts,
        ":failing_s": size(row.failing_s),
        ":failure": row.failure.as_ref().map(|failure| failure.reason),
        ":failure_text": row.failure.as_ref().map(|failure| &failure.message),
        ":etag": row.etag,
        ":version_id": row.version_id,
        ":update_ms": row.update_ms,
    })?;
    Ok(())
}

/// Writes a new row.
pub(super) fn insert(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let text = |value: serde_json::Result<String>| value.map_err(|why| bad(why.to_string()));
    let mut insert = connection.prepare_cached(
        "INSERT INTO uploads (id, owner_uid, session, identity, identity_id, destination, bucket, object_key,
            spec, spec_hash, source, phase, received_bytes, received_crc, create_ms, update_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?)",
    )?;
    insert.execute(params![
        blob(row.id),
        row.owner_uid,
        row.session.0,
        row.identity,
        row.identity_id,
        row.destination,
        row.bucket,
        row.key,
        text(serde_json::to_string(&row.spec))?,
        row.spec_hash,
        text(serde_json::to_string(&row.source))?,
        row.phase.code(),
        row.create_ms,
        row.update_ms,
    ])?;
    store(connection, row)
}

/// What became of an upload that was to enter.
#[derive(Debug, Clone, PartialEq)]
pub enum Entered {
    /// It is written down.
    New,
    /// Its id is taken, by this one.
    There(Box<Row>),
    /// It may not enter, and has left nothing behind.
    Refused,
}

/// [`Journal::advance`] in the caller's transaction.
pub(super) fn advance(
    connection: &Connection,
    id: Ulid,
    event: Event,
    now_ms: i64,
    change: impl FnOnce(&mut Row),
) -> rusqlite::Result<Option<Result<Row, Row>>> {
    let Some(mut row) = find(connection, id)? else { return Ok(None) };
    let Some(phase) = row.phase.after(event) else { return Ok(Some(Err(row))) };
    let before = std::mem::replace(&mut row.phase, phase);
    change(&mut row);
    row.update_ms = now_ms;
    if matches!(phase, Phase::Succeeded | Phase::Cancelled) {
        if let Some(multipart_id) = row.multipart_id.take() {
            aborts::note(connection, &row, &multipart_id, now_ms)?;
        }
        parts::forget_all(connection, id)?;
    }
    store(connection, &row)?;
    if phase != before {
        let mut update = connection.prepare_cached("UPDATE uploads SET phase = ? WHERE id = ?")?;
        update.execute(params![phase.code(), blob(id)])?;
    }
    ends::note(connection, &row, before)?;
    Ok(Some(Ok(row)))
}

impl Journal {
    /// Writes a new upload, unless its id is taken, or `may_enter` says no. That is asked in between two writes: whoever
    /// makes it say no, and then asks for [`Journal::unfinished_of`], sees every upload that has entered before.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn enter(
        &self,
        row: Row,
        may_enter: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Entered, JournalError> {
        self.write(move |connection| {
            if let Some(there) = find(connection, row.id)? {
                return Ok(Entered::There(Box::new(there)));
            }
            if !may_enter() {
                return Ok(Entered::Refused);
            }
            insert(connection, &row).map(|()| Entered::New)
        })
        .await
    }

    /// One upload.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn find(&self, id: Ulid) -> Result<Option<Row>, JournalError> {
        self.read(move |connection| find(connection, id)).await
    }

    /// Changes an upload; answers it as it is afterwards, `None` where it is gone.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn change(
        &self,
        id: Ulid,
        now_ms: i64,
        change: impl FnOnce(&mut Row) + Send + 'static,
    ) -> Result<Option<Row>, JournalError> {
        self.write(move |connection| {
            let Some(mut row) = find(connection, id)? else { return Ok(None) };
            change(&mut row);
            row.update_ms = now_ms;
            store(connection, &row)?;
            Ok(Some(row))
        })
        .await
    }

    /// Moves an upload on, and changes it with that. Where `event` cannot happen in its phase, nothing changes and the
    /// row as it is comes back as `Err`. A multipart upload that nobody completes any more is noted for abortion.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn advance(
        &self,
        id: Ulid,
        event: Event,
        now_ms: i64,
        change: impl FnOnce(&mut Row) + Send + 'static,
    ) -> Result<Option<Result<Row, Row>>, JournalError> {
        self.write(move |connection| advance(connection, id, event, now_ms, change)).await
    }

    /// Notes for how long uploads have been failing.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn failing(&self, seconds: Vec<(Ulid, u64)>) -> Result<(), JournalError> {
        self.write(move |connection| {
            let mut update = connection.prepare_cached("UPDATE uploads SET failing_s = ? WHERE id = ?")?;
            for (id, seconds) in seconds {
                update.execute(params![size(seconds), blob(id)])?;
            }
            Ok(())
        })
        .await
    }

    /// The upload is in the store.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn stored(
        &self,
        id: Ulid,
        stored: Stored,
        crc64nvme: Option<u64>,
        completed_multipart: bool,
        now_ms: i64,
    ) -> Result<Option<Result<Row, Row>>, JournalError> {
        self.advance(id, Event::Store, now_ms, move |row| {
            row.etag = stored.etag;
            row.version_id = stored.version_id;
            row.crc64nvme = row.crc64nvme.or(crc64nvme);
            row.failure = None;
            row.in_doubt = false;
            if completed_multipart {
                // It is an object now: there is nothing left to abort.
                row.multipart_id = None;
            }
        })
        .await
    }
}
