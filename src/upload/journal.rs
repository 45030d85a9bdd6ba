//! What was accepted and how far it got: one SQLite file. Promises that a write which returned is on the disk, that
//! writes which wait together share one sync, and that readers never wait for writers; must never try a failed sync
//! again: after one, every write is refused until a restart.

mod aborts;
mod ends;
mod folder_files;
mod lists;
mod parts;
mod rows;
mod schema;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

pub use self::aborts::Abort;
pub use self::folder_files::{Ended as EndedFile, FolderCounts, FolderFile, Known, Settled};
pub use self::lists::{Pending, SCAN_MAX, Unfinished, Usage};
pub use self::parts::Arrived;
pub use self::rows::{Entered, Row, Source, StoredSpec};
use super::StartError;
use super::state_dir::StateDir;
use crate::failpoint::{DiskError, Step, around};
use crate::telemetry::metrics::metrics;

/// A journal call failed; the text is for a person.
#[derive(Debug, Clone, thiserror::Error)]
#[error("journal: {0}")]
pub struct JournalError(String);

impl From<JournalError> for super::UploadError {
    fn from(error: JournalError) -> Self {
        Self::Storage(error.to_string())
    }
}

/// The journal; clones share it.
#[derive(Debug, Clone)]
pub struct Journal {
    writes: mpsc::Sender<Write>,
    reader: Arc<Mutex<Connection>>,
}

/// Does its work, and answers once it is known whether the commit went well.
type Write = Box<dyn FnOnce(&Connection) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// Writes that may wait; more callers than this wait for room.
const WAITING_WRITES: usize = 256;
/// Writes that share one sync at most.
const BATCH: usize = 64;
/// The size of the file's pages, and what is kept of the write-ahead log between checkpoints.
const PAGE_BYTES: u32 = 1 << 10;
const LOG_KEPT_BYTES: u32 = 2 << 20;

impl Journal {
    /// Opens the file, brings it up to date and starts the writing thread, which ends with the last clone. After an
    /// unclean stop the file is checked first.
    ///
    /// # Errors
    /// `Journal`: damaged, of a later version, not writable.
    pub fn open(state_dir: Arc<StateDir>) -> Result<Self, StartError> {
        let path = state_dir.journal();
        let fail = |why: String| StartError::Journal { path: path.display().to_string(), why };
        let mut writer = connect(&path).map_err(|why| fail(why.to_string()))?;
        if state_dir.was_unclean() {
            schema::quick_check(&writer).map_err(fail)?;
        }
        schema::migrate(&mut writer).map_err(fail)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&path, flags).map_err(|why| fail(why.to_string()))?;
        reader.busy_timeout(schema::BUSY).map_err(|why| fail(why.to_string()))?;
        let (writes, waiting) = mpsc::channel(WAITING_WRITES);
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_all(&mut writer, waiting, &state_dir))
            .map_err(|why| fail(format!("cannot start its thread: {why}")))?;
        Ok(Self { writes, reader: Arc::new(Mutex::new(reader)) })
    }

    /// Runs `work` in the next commit; returns when that is on the disk. A failing `work` undoes only itself.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        let write: Write = Box::new(move |connection| {
            let done = in_savepoint(connection, work);
            Box::new(move |committed| {
                let result = committed.and_then(|()| done.map_err(|why| JournalError(why.to_string())));
                // The caller may be gone; what is committed stays committed.
                let _ = reply.send(result);
            })
        });
        let refused = || JournalError("refused: a write failed earlier, or the daemon is stopping".into());
        self.writes.send(write).await.map_err(|_| refused())?;
        answer.await.map_err(|_| refused())?
    }

    /// Runs `work` on what is committed.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let reader = Arc::clone(&self.reader);
        let read = tokio::task::spawn_blocking(move || {
            // A panic in another reader leaves nothing half done on a read-only connection.
            work(&reader.lock().unwrap_or_else(PoisonError::into_inner))
        });
        read.await.map_err(|why| JournalError(why.to_string()))?.map_err(|why| JournalError(why.to_string()))
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(schema::BUSY)?;
    // Of a new file; an older one keeps its own. A commit writes whole pages, most of them for a few changed bytes: small
    // ones halve what an upload costs the device's flash.
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // Receipts come and go: the file keeps the size of its busiest time, the write-ahead log does not. The limit is more
    // than the log has at a checkpoint (1,000 pages): a file that is cut and grows again costs the file system's own log.
    connection.pragma_update(None, "journal_size_limit", LOG_KEPT_BYTES)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT one")?;
    match work(connection) {
        Ok(value) => {
            connection.execute_batch("RELEASE one")?;
            Ok(value)
        }
        Err(why) => {
            connection.execute_batch("ROLLBACK TO one; RELEASE one")?;
            Err(why)
        }
    }
}

fn write_all(connection: &mut Connection, mut waiting: mpsc::Receiver<Write>, state_dir: &StateDir) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        let begun = Instant::now();
        let mut answers = Vec::with_capacity(batch.len());
        let committed = if state_dir.is_trusted() {
            commit(connection, batch, &mut answers)
        } else {
            // Dropping the writes drops their replies, which their callers see as an error.
            Ok(())
        };
        match &committed {
            Ok(()) => metrics().journal_commit(begun.elapsed()),
            Err(why) if loses_trust(why) => state_dir.distrust(&format!("journal commit: {why}")),
            Err(why) => tracing::warn!(%why, "a journal commit failed and was undone"),
        }
        let committed = committed.map_err(|why| JournalError(why.to_string()));
        for answer in answers {
            answer(committed.clone());
        }
    }
}

fn commit(connection: &mut Connection, batch: Vec<Write>, answers: &mut Vec<Answer>) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for write in batch {
        answers.push(write(&transaction));
    }
    around(Step::JournalCommit, || transaction.commit())
}

impl DiskError for rusqlite::Error {
    fn input_output() -> Self {
        Self::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None)
    }
}

/// A full disk undoes the transaction and says so; after anything else nobody knows what the disk holds.
fn loses_trust(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

#[cfg(test)]
mod tests;
