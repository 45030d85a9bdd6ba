//! Which file of a hot folder became which upload. Promises that a file and its upload are noted in one commit, so that
//! no crash makes a second upload of it, and that a changed file is never taken for the one that was uploaded.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use ulid::Ulid;

use super::rows::{self, Row, blob, phase};
use super::{Journal, JournalError};
use crate::upload::source::Fingerprint;
use crate::upload::state::Phase;
use crate::upload::{UploadFailure, failure};

/// A file of a hot folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FolderFile {
    /// The folder.
    pub folder: PathBuf,
    /// The path beneath it; UTF-8.
    pub relative: String,
}

/// What the journal knows of a file as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing, or of other bytes at this path.
    New,
    /// It is on its way, was stored, or failed.
    Same,
    /// It has the size and the time of last write of a file that was stored, but something else about it differs: only
    /// its bytes, whose CRC64NVME this is, can tell.
    Touched(u64),
}

/// What is to be written down about a file whose upload has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is in the store and stays here.
    Kept,
    /// It failed: a retry of its upload takes it up again.
    Failed,
    /// It is gone, or is to be taken as a new one.
    Forgotten,
}

/// A file whose upload has ended, with what is left to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The path beneath the folder.
    pub relative: String,
    /// What the file was when it was taken.
    pub fingerprint: Fingerprint,
    /// Its upload.
    pub upload: Ulid,
    /// `Ok` with the CRC64NVME where it is in the store; `None` where the receipt has none. `Err(None)`: cancelled.
    pub outcome: Result<Option<u64>, Option<UploadFailure>>,
}

/// How many files of a folder are how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FolderCounts {
    /// On their way, or stored with something left to do here.
    pub open: u64,
    /// Failed, bytes kept.
    pub failed: u64,
}

const OPEN: u8 = 0;
const KEPT: u8 = 1;
const FAILED: u8 = 2;

struct Record {
    fingerprint: Fingerprint,
    state: u8,
    crc64nvme: Option<u64>,
}

impl Record {
    fn compare(&self, now: &Fingerprint) -> Known {
        let was = &self.fingerprint;
        if now == was {
            return Known::Same;
        }
        match self.crc64nvme {
            Some(crc64nvme)
                if self.state == KEPT && now.size_bytes == was.size_bytes && now.mtime_ns == was.mtime_ns =>
            {
                Known::Touched(crc64nvme)
            }
            _ => Known::New,
        }
    }
}

/// Nanoseconds since 1970 fit until 2262; a file from later than that changes every time.
fn ns(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

fn read_fingerprint(row: &rusqlite::Row<'_>) -> rusqlite::Result<Fingerprint> {
    Ok(Fingerprint {
        ino: row.get::<_, i64>("ino")?.cast_unsigned(),
        size_bytes: row.get::<_, i64>("size_bytes")?.cast_unsigned(),
        mtime_ns: row.get::<_, i64>("mtime_ns")?.into(),
        ctime_ns: row.get::<_, i64>("ctime_ns")?.into(),
    })
}

fn shown(folder: &Path) -> String {
    folder.display().to_string()
}

fn find(connection: &Connection, folder: &str, relative: &str) -> rusqlite::Result<Option<Record>> {
    let mut query = connection.prepare_cached("SELECT * FROM folder_files WHERE folder = ? AND path = ?")?;
    query
        .query_row([folder, relative], |row| {
            Ok(Record {
                fingerprint: read_fingerprint(row)?,
                state: row.get("state")?,
                crc64nvme: row.get::<_, Option<i64>>("crc64nvme")?.map(i64::cast_unsigned),
            })
        })
        .optional()
}

/// A failed upload is tried again: its file has something left to do again.
pub(super) fn reopen(connection: &Connection, upload: Ulid) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached("UPDATE folder_files SET state = 0 WHERE upload = ? AND state = 2")?;
    update.execute([blob(upload)]).map(|_| ())
}

impl Journal {
    /// What is known of files as they are now, in their order.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn known_files(
        &self,
        folder: &Path,
        files: Vec<(String, Fingerprint)>,
    ) -> Result<Vec<Known>, JournalError> {
        let folder = shown(folder);
        self.read(move |connection| {
            let known = files.iter().map(|(relative, fingerprint)| {
                let record = find(connection, &folder, relative)?;
                Ok(record.map_or(Known::New, |record| record.compare(fingerprint)))
            });
            known.collect()
        })
        .await
    }

    /// Writes a new upload together with the file that it is of, unless the file is known: then answers `false`.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn insert_file(
        &self,
        row: Row,
        file: &FolderFile,
        fingerprint: Fingerprint,
    ) -> Result<bool, JournalError> {
        let (folder, relative) = (shown(&file.folder), file.relative.clone());
        self.write(move |connection| {
            let known = find(connection, &folder, &relative)?;
            if known.is_some_and(|record| record.compare(&fingerprint) == Known::Same) {
                return Ok(false);
            }
            rows::insert(connection, &row)?;
            let mut replace = connection.prepare_cached(
                "INSERT OR REPLACE INTO folder_files
                    (folder, path, ino, size_bytes, mtime_ns, ctime_ns, upload, state)
                 VALUES (:folder, :path, :ino, :size, :mtime, :ctime, :upload, 0)",
            )?;
            replace.execute(named_params! {
                ":folder": folder,
                ":path": relative,
                ":ino": fingerprint.ino.cast_signed(),
                ":size": fingerprint.size_bytes.cast_signed(),
                ":mtime": ns(fingerprint.mtime_ns),
                ":ctime": ns(fingerprint.ctime_ns),
                ":upload": blob(row.id),
            })?;
            Ok(true)
        })
        .await
    }

    /// A stored file has the same bytes as before; this is what else it is now.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn file_touched(&self, file: &FolderFile, now: Fingerprint) -> Result<(), JournalError> {
        let (folder, relative) = (shown(&file.folder), file.relative.clone());
        self.write(move |connection| {
            let mut update = connection.prepare_cached(
                "UPDATE folder_files SET ino = ?, ctime_ns = ?
                 WHERE folder = ? AND path = ? AND state = 1 AND size_bytes = ? AND mtime_ns = ?",
            )?;
            let size = now.size_bytes.cast_signed();
            let ino = now.ino.cast_signed();
            update.execute(params![ino, ns(now.ctime_ns), folder, relative, size, ns(now.mtime_ns)]).map(|_| ())
        })
        .await
    }

    /// Files of a folder whose uploads have ended, with something left to do; at most `limit`, by path after `after`.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn ended_files(&self, folder: &Path, after: &str, limit: usize) -> Result<Vec<Ended>, JournalError> {
        let (folder, after) = (shown(folder), after.to_owned());
        self.read(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT folder_files.*, uploads.phase, uploads.crc64nvme AS stored_crc, failure, failure_text
                 FROM folder_files JOIN uploads ON uploads.id = folder_files.upload
                 WHERE folder = ? AND state <> 1 AND state = 0 AND path > ? AND uploads.phase IN (2, 3, 4)
                 ORDER BY path LIMIT ?",
            )?;
            let rows = query.query_map(params![folder, after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                let outcome = match phase(row)? {
                    Phase::Succeeded => Ok(row.get::<_, Option<i64>>("stored_crc")?.map(i64::cast_unsigned)),
                    Phase::Failed => {
                        let reason: String = row.get::<_, Option<String>>("failure")?.unwrap_or_default();
                        let text: Option<String> = row.get("failure_text")?;
                        Err(Some(failure::failure(failure::reason(&reason), text.unwrap_or_default())))
                    }
                    _ => Err(None),
                };
                Ok(Ended {
                    relative: row.get("path")?,
                    fingerprint: read_fingerprint(row)?,
                    upload: Ulid::from_bytes(row.get("upload")?),
                    outcome,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// Writes down what was done about a file; nothing where the path belongs to another upload by now.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn settle_file(
        &self,
        file: &FolderFile,
        upload: Ulid,
        settled: Settled,
        crc64nvme: Option<u64>,
    ) -> Result<(), JournalError> {
        let (folder, relative) = (shown(&file.folder), file.relative.clone());
        self.write(move |connection| {
            let state = match settled {
                Settled::Kept => KEPT,
                Settled::Failed => FAILED,
                Settled::Forgotten => {
                    let mut delete = connection
                        .prepare_cached("DELETE FROM folder_files WHERE folder = ? AND path = ? AND upload = ?")?;
                    return delete.execute(params![folder, relative, blob(upload)]).map(|_| ());
                }
            };
            // A retry may have come in between: then the file is on its way again.
            let mut update = connection.prepare_cached(
                "UPDATE folder_files SET state = ?, crc64nvme = ? WHERE folder = ? AND path = ? AND upload = ?
                    AND EXISTS (SELECT 1 FROM uploads WHERE id = folder_files.upload AND phase IN (2, 3, 4))",
            )?;
            let crc64nvme = crc64nvme.map(u64::cast_signed);
            update.execute(params![state, crc64nvme, folder, relative, blob(upload)]).map(|_| ())
        })
        .await
    }

    /// A page of a folder's files with nothing on its way, by path after `after`.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn resting_files(&self, folder: &Path, after: &str, limit: usize) -> Result<Vec<String>, JournalError> {
        let (folder, after) = (shown(folder), after.to_owned());
        self.read(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT path FROM folder_files WHERE folder = ? AND path > ? AND state <> 0 ORDER BY path LIMIT ?",
            )?;
            let bounds = params![folder, after, i64::try_from(limit).unwrap_or(i64::MAX)];
            let paths = query.query_map(bounds, |row| row.get(0))?;
            paths.collect()
        })
        .await
    }

    /// Forgets files that are not there any more; one that is on its way is left to its end. Answers how many it were.
    ///
    /// # Errors
    /// Where the journal cannot be written.
    pub async fn forget_files(&self, folder: &Path, gone: Vec<String>) -> Result<usize, JournalError> {
        let folder = shown(folder);
        self.write(move |connection| {
            let mut delete =
                connection.prepare_cached("DELETE FROM folder_files WHERE folder = ? AND path = ? AND state <> 0")?;
            let mut count = 0;
            for relative in gone {
                count += delete.execute([&folder, &relative])?;
            }
            Ok(count)
        })
        .await
    }

    /// How many files of a folder are how far.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn folder_counts(&self, folder: &Path) -> Result<FolderCounts, JournalError> {
        let folder = shown(folder);
        self.read(move |connection| {
            let mut query = connection
                .prepare_cached("SELECT count(*) FROM folder_files WHERE folder = ? AND state <> 1 AND state = ?")?;
            let mut count = |state: u8| -> rusqlite::Result<u64> {
                Ok(query.query_row(params![folder, state], |row| row.get::<_, i64>(0))?.cast_unsigned())
            };
            Ok(FolderCounts { open: count(OPEN)?, failed: count(FAILED)? })
        })
        .await
    }
}
