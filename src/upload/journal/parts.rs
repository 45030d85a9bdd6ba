//! What of an upload has arrived in whole parts, and which of its parts the store has. Promises that a receipt is only
//! ever kept for the multipart upload that the row names, and that what arrived is written in the same commit as the
//! bytes that count as received.

use rusqlite::{Connection, named_params, params};
use ulid::Ulid;

use super::rows::{self, Row, bits, blob, find, size};
use super::{Journal, JournalError, aborts};
use crate::store::PartReceipt;
use crate::upload::plan::Part;
use crate::upload::recovery;
use crate::upload::spool::Mark;
use crate::upload::state::{Event, Phase};

/// A part of a stream that is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// From 1.
    pub number: u32,
    /// Its size: that of all others, or less for the last one of a complete stream.
    pub size_bytes: u64,
    /// CRC64NVME, computed as it arrived.
    pub crc64nvme: u64,
}

impl Arrived {
    /// Its place in parts of `part_bytes`.
    pub fn place(&self, part_bytes: u64) -> Part {
        let offset = u64::from(self.number.saturating_sub(1)).saturating_mul(part_bytes);
        Part { number: self.number, offset, len: self.size_bytes }
    }
}

fn read_arrived(row: &rusqlite::Row<'_>) -> rusqlite::Result<Arrived> {
    Ok(Arrived {
        number: row.get("number")?,
        size_bytes: row.get::<_, i64>("size_bytes")?.cast_unsigned(),
        crc64nvme: row.get::<_, i64>("crc64nvme")?.cast_unsigned(),
    })
}

fn note_arrived(connection: &Connection, id: Ulid, arrived: &[Arrived]) -> rusqlite::Result<()> {
    let mut insert = connection
        .prepare_cached("INSERT OR IGNORE INTO arrived (upload, number, size_bytes, crc64nvme) VALUES (?, ?, ?, ?)")?;
    for part in arrived {
        insert.execute(params![blob(id), part.number, size(part.size_bytes), bits(part.crc64nvme)])?;
    }
    Ok(())
}

impl Journal {
    /// More of a stream is synced; only while it is RECEIVING, otherwise the row as it is comes back as `Err`.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn received(
        &self,
        id: Ulid,
        synced: Mark,
        arrived: Vec<Arrived>,
        now_ms: i64,
    ) -> Result<Option<Result<Row, Row>>, JournalError> {
        self.write(move |connection| {
            let Some(mut row) = find(connection, id)? else { return Ok(None) };
            if row.phase != Phase::Receiving {
                return Ok(Some(Err(row)));
            }
            row.received_bytes = synced.bytes;
            row.received_crc = synced.crc64nvme;
            row.update_ms = now_ms;
            rows::store(connection, &row)?;
            note_arrived(connection, id, &arrived)?;
            Ok(Some(Ok(row)))
        })
        .await
    }

    /// The last byte of a stream is here, checked and synced: as [`Journal::advance`] by [`Event::Finish`].
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn finished(
        &self,
        id: Ulid,
        all: Mark,
        sha256: Option<[u8; 32]>,
        arrived: Vec<Arrived>,
        now_ms: i64,
    ) -> Result<Option<Result<Row, Row>>, JournalError> {
        self.write(move |connection| {
            let finished = rows::advance(connection, id, Event::Finish, now_ms, |row| {
                row.received_bytes = all.bytes;
                row.received_crc = all.crc64nvme;
                row.total_bytes = Some(all.bytes);
                row.crc64nvme = Some(all.crc64nvme);
                row.sha256 = sha256;
            })?;
            if let Some(Ok(_)) = finished {
                note_arrived(connection, id, &arrived)?;
            }
            Ok(finished)
        })
        .await
    }

    /// A stream starts again at its first byte: what arrived of it is forgotten, what was sent of it is to be aborted.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn restart_stream(&self, id: Ulid, now_ms: i64) -> Result<Option<Result<Row, Row>>, JournalError> {
        self.write(move |connection| {
            let Some(mut row) = find(connection, id)? else { return Ok(None) };
            if row.phase != Phase::Receiving {
                return Ok(Some(Err(row)));
            }
            row.received_bytes = recovery::nothing().bytes;
            row.received_crc = recovery::nothing().crc64nvme;
            if let Some(multipart_id) = row.multipart_id.take() {
                aborts::note(connection, &row, &multipart_id, now_ms)?;
            }
            row.update_ms = now_ms;
            forget_all(connection, id)?;
            rows::store(connection, &row)?;
            Ok(Some(Ok(row)))
        })
        .await
    }

    /// What has arrived in whole parts, by number; `unsent` leaves out what the store has.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn arrived(&self, id: Ulid, unsent: bool) -> Result<Vec<Arrived>, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT number, size_bytes, crc64nvme FROM arrived
                 WHERE upload = :id
                    AND NOT (:unsent AND number IN (SELECT number FROM parts WHERE upload = :id))
                 ORDER BY number",
            )?;
            let rows = query.query_map(named_params! { ":id": blob(id), ":unsent": unsent }, read_arrived)?;
            rows.collect()
        })
        .await
    }

    /// A multipart upload was begun at the store. False where the upload does not want it any more: then nothing has
    /// changed, and the caller aborts it.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn multipart_begun(
        &self,
        id: Ulid,
        multipart_id: String,
        part_bytes: u64,
        now_ms: i64,
    ) -> Result<bool, JournalError> {
        self.write(move |connection| {
            let wants =
                |row: &Row| matches!(row.phase, Phase::Receiving | Phase::Pending) && row.multipart_id.is_none();
            let Some(mut row) = find(connection, id)?.filter(wants) else { return Ok(false) };
            if row.part_bytes.replace(part_bytes) != Some(part_bytes) {
                forget_all(connection, id)?;
            }
            row.multipart_id = Some(multipart_id);
            row.multipart_ms = Some(now_ms);
            row.update_ms = now_ms;
            rows::store(connection, &row)?;
            Ok(true)
        })
        .await
    }

    /// A part is in the store. False where the upload has left that multipart upload: then nothing has changed.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn part_done(&self, id: Ulid, multipart_id: String, part: PartReceipt) -> Result<bool, JournalError> {
        self.write(move |connection| {
            let mut insert = connection.prepare_cached(
                "INSERT OR REPLACE INTO parts (upload, number, etag, size_bytes, crc64nvme)
                 SELECT id, :number, :etag, :size, :crc FROM uploads WHERE id = :id AND multipart_id = :multipart_id",
            )?;
            let kept = insert.execute(named_params! {
                ":id": blob(id),
                ":multipart_id": multipart_id,
                ":number": part.number,
                ":etag": part.etag,
                ":size": size(part.size_bytes),
                ":crc": bits(part.crc64nvme.unwrap_or_default()),
            })?;
            Ok(kept > 0)
        })
        .await
    }

    /// The store does not have these parts after all.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn parts_lost(&self, id: Ulid, numbers: Vec<u32>) -> Result<(), JournalError> {
        self.write(move |connection| {
            let mut delete = connection.prepare_cached("DELETE FROM parts WHERE upload = ? AND number = ?")?;
            for number in numbers {
                delete.execute(params![blob(id), number])?;
            }
            Ok(())
        })
        .await
    }

    /// How many bytes of it are in the store, in parts.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn stored_bytes(&self, id: Ulid) -> Result<u64, JournalError> {
        self.read(move |connection| {
            let mut query =
                connection.prepare_cached("SELECT COALESCE(SUM(size_bytes), 0) FROM parts WHERE upload = ?")?;
            query.query_row([blob(id)], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
        })
        .await
    }

    /// The parts that are in the store, by number.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn parts(&self, id: Ulid) -> Result<Vec<PartReceipt>, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT * FROM parts WHERE upload = ? ORDER BY number")?;
            let rows = query.query_map([blob(id)], |row| {
                Ok(PartReceipt {
                    number: row.get("number")?,
                    etag: row.get("etag")?,
                    size_bytes: row.get::<_, i64>("size_bytes")?.cast_unsigned(),
                    crc64nvme: Some(row.get::<_, i64>("crc64nvme")?.cast_unsigned()),
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// Forgets the multipart upload, so that another one is begun; notes the old one for abortion where the store may
    /// still have it.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn restart_multipart(&self, id: Ulid, abort: bool, now_ms: i64) -> Result<(), JournalError> {
        self.write(move |connection| {
            let Some(mut row) = find(connection, id)? else { return Ok(()) };
            if let Some(multipart_id) = row.multipart_id.take().filter(|_| abort) {
                aborts::note(connection, &row, &multipart_id, now_ms)?;
            }
            row.update_ms = now_ms;
            forget_sent(connection, id)?;
            rows::store(connection, &row)
        })
        .await
    }
}

fn forget_sent(connection: &Connection, id: Ulid) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM parts WHERE upload = ?")?.execute([blob(id)]).map(|_| ())
}

pub(super) fn forget_all(connection: &Connection, id: Ulid) -> rusqlite::Result<()> {
    forget_sent(connection, id)?;
    connection.prepare_cached("DELETE FROM arrived WHERE upload = ?")?.execute([blob(id)]).map(|_| ())
}
