//! The public face of uploads.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::{Config, Destination, Ingest, ListFilter, UploadError, UploadSpec, UploadStats, UploadView};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::session::{SessionId, Sessions, SignOutUploads};

/// Why uploads cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another daemon has the state directory.
    #[error("state directory {path}: in use by another daemon (pid {pid}): stop it, or set another daemon.state_dir")]
    Locked {
        /// The directory.
        path: String,
        /// The other daemon's pid, or "unknown".
        pid: String,
    },
    /// The state directory cannot be used.
    #[error("state directory {path}: {why}")]
    StateDir {
        /// The directory.
        path: String,
        /// What failed and what to do.
        why: String,
    },
    /// The journal cannot be used.
    #[error("journal {path}: {why}")]
    Journal {
        /// The file.
        path: String,
        /// What failed and what to do.
        why: String,
    },
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
}

/// Every upload of this device; clones share it.
#[derive(Debug, Clone)]
pub struct Uploads(());

impl Uploads {
    /// Takes the state directory, recovers what it holds and starts sending. `cancel` stops everything at once;
    /// [`Uploads::drain`] first lets running parts end.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: Config,
        destinations: Vec<Destination>,
        sessions: Sessions,
        state_dir: &Path,
        clock: Clock,
        cancel: CancellationToken,
    ) -> Result<Self, StartError> {
        todo!()
    }

    /// Takes nothing more, lets the parts in flight end (for `timeout` at most), and closes the journal.
    pub async fn drain(&self, timeout: Duration) {
        todo!()
    }

    /// Begins an upload whose bytes come over the socket; the same id and spec again gives the same upload.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn begin(&self, caller: &Caller, id: Ulid, spec: UploadSpec) -> Result<Ingest, UploadError> {
        todo!()
    }

    /// Goes on with one that was interrupted.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn resume(&self, caller: &Caller, id: Ulid, offset: u64) -> Result<Ingest, UploadError> {
        todo!()
    }

    /// Queues a file of the device.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn create_from_file(
        &self,
        caller: &Caller,
        id: Option<Ulid>,
        spec: UploadSpec,
        path: &Path,
    ) -> Result<UploadView, UploadError> {
        todo!()
    }

    /// One of the caller's uploads.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, caller: &Caller, id: Ulid) -> Result<UploadView, UploadError> {
        todo!()
    }

    /// The caller's uploads, newest first, older than `before`; and where the next page starts.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn list(
        &self,
        caller: &Caller,
        filter: &ListFilter,
        page_size: usize,
        before: Option<Ulid>,
    ) -> Result<(Vec<UploadView>, Option<Ulid>), UploadError> {
        todo!()
    }

    /// The upload now and after every change; the channel closes after the last one.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn watch(&self, caller: &Caller, id: Ulid) -> Result<watch::Receiver<UploadView>, UploadError> {
        todo!()
    }

    /// Stops an upload and removes its bytes.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn cancel(&self, caller: &Caller, id: Ulid) -> Result<UploadView, UploadError> {
        todo!()
    }

    /// Queues a failed upload again.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn retry(&self, caller: &Caller, id: Ulid) -> Result<UploadView, UploadError> {
        todo!()
    }

    /// Carries out what a sign-out says about the session's uploads; answers how many were unfinished.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn session_ended(&self, session: &SessionId, what: SignOutUploads) -> Result<u64, UploadError> {
        todo!()
    }

    /// Stops and starts sending.
    pub fn set_paused(&self, paused: bool) {
        todo!()
    }

    /// Counts and sizes; of one uid, or of all.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn stats(&self, uid: Option<u32>) -> Result<UploadStats, UploadError> {
        todo!()
    }
}
