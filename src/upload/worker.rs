//! Sends one upload. Promises that a request is only ever signed with credentials of the identity id that the upload was
//! accepted for, that at most one object appears whatever is repeated, and that a restart repeats no part that the
//! journal knows; must never decide when to try the whole upload again (that is `engine`).

mod call;
mod multipart;
mod settle;
mod unrecorded;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::call::{Reply, Request, Stop};
use super::core::{Core, Running};
use super::journal::{JournalError, Row, Source};
use super::plan::{Plan, part_count, plan};
use super::source::{Fingerprint, crc64nvme_of, reopen, unchanged};
use super::{Destination, UploadFailure, WaitReason, failure};
use crate::store::{ObjectStore, PartBody, Progress, StoreErrorKind, Stored, Target, UPLOAD_ID_METADATA};

/// How an attempt to send an upload ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The object is there.
    Stored {
        /// What the store says of it.
        stored: Stored,
        /// CRC64NVME of the bytes that were sent.
        crc64nvme: u64,
        /// The multipart upload has become the object: there is nothing to abort.
        completed: bool,
    },
    /// Trying again makes no sense.
    Failed(UploadFailure),
    /// Not now.
    Wait(Wait),
    /// Interrupted by a cancellation or a stop.
    Stopped,
    /// It still arrives, and every part that is here is sent.
    Drained,
}

/// Why not now, and who else it is true for.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) reason: WaitReason,
    pub(super) scope: Scope,
    pub(super) failure: UploadFailure,
    /// Uses up an attempt: the store or the link failed in the middle, and not the world around it.
    pub(super) counts: bool,
}

/// For whom a wait is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// For this upload.
    Upload,
    /// For this upload, for a fixed time.
    UploadFor(Duration),
    /// For all uploads of the same user there, until sessions change.
    Lane,
    /// For all uploads of the same user there, for a time, or until sessions change.
    LaneFor(Duration),
    /// For everything that goes to the same destination.
    Destination,
}

/// One upload on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    core: Arc<Core>,
    row: Row,
    store: Arc<dyn ObjectStore>,
    target: Target,
    total_bytes: u64,
    file: Arc<File>,
    /// Of a file of the device.
    fingerprint: Option<Fingerprint>,
    running: Running,
    /// A write was sent of which nobody knows whether it happened.
    in_doubt: AtomicBool,
}

/// Sends the upload, as far as it goes now.
pub(super) async fn send(core: Arc<Core>, row: Row, running: Running) -> Ended {
    let Some(destination) = core.destination(&row.destination) else {
        let why = format!("the configuration has no destination {:?} any more: add it and retry", row.destination);
        return Ended::Failed(failure::failure(failure::DESTINATION_GONE, why));
    };
    let marked = row.in_doubt;
    let transfer = match Transfer::open(core, row, destination, running).await {
        Ok(transfer) => Arc::new(transfer),
        Err(ended) => return ended,
    };
    let ended = match transfer.plan() {
        Ok(Plan::Single) => transfer.single().await,
        Ok(Plan::Multipart { part_bytes }) => transfer.multipart(part_bytes).await,
        Err(failure) => Err(Ended::Failed(failure)),
    };
    let ended = ended.unwrap_or_else(|ended| ended);
    if !marked && !matches!(ended, Ended::Stored { .. }) {
        transfer.clear_mark().await;
    }
    ended
}

/// Sends the parts of a stream that are here already; never completes anything.
pub(super) async fn send_early(core: Arc<Core>, row: Row, running: Running) -> Ended {
    let Some(destination) = core.destination(&row.destination) else { return Ended::Drained };
    match Transfer::open(core, row, destination, running).await {
        Ok(transfer) => Arc::new(transfer).early().await.unwrap_or_else(|ended| ended),
        Err(ended) => ended,
    }
}

impl Transfer {
    async fn open(core: Arc<Core>, row: Row, destination: Destination, running: Running) -> Result<Self, Ended> {
        let (spool, source, id) = (Arc::clone(&core.spool), row.source.clone(), row.id);
        let opened = tokio::task::spawn_blocking(move || match source {
            Source::Spool => File::open(spool.path(id)).map(|file| (file, None)).map_err(|why| match why.kind() {
                std::io::ErrorKind::NotFound => Ended::Failed(failure::failure(
                    failure::SPOOL_CORRUPT,
                    "the spooled bytes are gone: somebody removed them from the state directory",
                )),
                _ => Ended::Wait(device_failed(format!("opening the spooled bytes: {why}"))),
            }),
            Source::File { root, relative, fingerprint } => {
                reopen(&root, &relative, &fingerprint).map(|file| (file, Some(fingerprint))).map_err(|failure| {
                    if failure.reason == failure::DEVICE_FAILED {
                        Ended::Wait(device_failed(failure.message))
                    } else {
                        Ended::Failed(failure)
                    }
                })
            }
        });
        let (file, fingerprint) = opened.await.map_err(|why| Ended::Wait(device_failed(why.to_string())))??;
        let total_bytes = row.total_bytes.unwrap_or(row.received_bytes);
        let mut metadata: BTreeMap<String, String> = row.spec.metadata.clone();
        metadata.insert(UPLOAD_ID_METADATA.to_owned(), row.id.to_string());
        Ok(Self {
            target: Target {
                key: row.key.clone(),
                content_type: row.spec.content_type.clone(),
                metadata,
                if_none_match: !row.spec.overwrite,
                total_bytes,
                crc64nvme: row.crc64nvme,
            },
            total_bytes,
            file: Arc::new(file),
            fingerprint,
            in_doubt: AtomicBool::new(row.in_doubt),
            store: destination.store,
            core,
            row,
            running,
        })
    }

    fn plan(&self) -> Result<Plan, UploadFailure> {
        let (config, profile) = (self.core.config(), self.store.profile());
        // A part size that was fixed stays, whatever the configuration says now; unless the stream has become longer than
        // anybody thought, and S3 takes no more parts.
        let fits = |bytes: &u64| part_count(self.total_bytes, *bytes) <= profile.part_max_count;
        let fixed = self.row.part_bytes.filter(fits);
        if let (Some(part_bytes), Some(_)) = (fixed, &self.row.multipart_id) {
            return Ok(Plan::Multipart { part_bytes });
        }
        let plan = plan(self.total_bytes, config.single_put_max_bytes, self.core.part_sizes(), &profile)
            .map_err(|why| failure::failure(failure::STORE_REFUSED, why.to_string()))?;
        Ok(match (plan, fixed) {
            (Plan::Multipart { .. }, Some(part_bytes)) => Plan::Multipart { part_bytes },
            _ => plan,
        })
    }

    async fn single(self: &Arc<Self>) -> Result<Ended, Ended> {
        let crc64nvme = match self.row.crc64nvme {
            // Computed as it arrived, and proven to the store: it is not read a second time for that.
            Some(arrived) if self.fingerprint.is_none() => arrived,
            _ => self.crc(0, self.total_bytes).await?,
        };
        self.check_whole(crc64nvme)?;
        self.check_source().await?;
        self.guard_key().await?;
        let body = self.body(0, self.total_bytes, crc64nvme);
        match self.call(Request::Put(&body)).await {
            Ok(Reply::Stored(stored)) => {
                self.running.stored_bytes.store(self.total_bytes, Ordering::Relaxed);
                Ok(self.confirmed(stored, crc64nvme, false))
            }
            Ok(_) => Err(self.puzzled()),
            Err(Stop::Store(error)) if error.kind == StoreErrorKind::PreconditionFailed => {
                self.settle_taken(crc64nvme).await
            }
            Err(stop) => Err(self.give_up(stop)),
        }
    }

    fn body(&self, offset: u64, len: u64, crc64nvme: u64) -> PartBody {
        PartBody { file: Arc::clone(&self.file), offset, len, crc64nvme, progress: Progress::new() }
    }

    /// CRC64NVME of a range of the file.
    async fn crc(&self, offset: u64, len: u64) -> Result<u64, Ended> {
        let file = Arc::clone(&self.file);
        let read = tokio::task::spawn_blocking(move || crc64nvme_of(&file, offset, len));
        match read.await {
            Ok(Ok(crc64nvme)) => Ok(crc64nvme),
            Ok(Err(why)) => Err(self.unreadable(&why).await),
            Err(why) => Err(Ended::Wait(device_failed(why.to_string()))),
        }
    }

    /// The bytes could not be read: is the file another one, or is the disk bad?
    async fn unreadable(&self, why: &std::io::Error) -> Ended {
        if let Err(ended) = self.check_source().await {
            return ended;
        }
        if why.kind() == std::io::ErrorKind::UnexpectedEof {
            let why = "the spooled bytes are fewer than those that arrived";
            return Ended::Failed(failure::failure(failure::SPOOL_CORRUPT, why));
        }
        Ended::Wait(device_failed(format!("reading the bytes: {why}")))
    }

    /// What arrived over the socket must be what is sent.
    fn check_whole(&self, crc64nvme: u64) -> Result<(), Ended> {
        match self.row.crc64nvme {
            Some(arrived) if arrived != crc64nvme && self.fingerprint.is_none() => {
                let why = "the spooled bytes are not the ones that arrived: check the disk";
                Err(Ended::Failed(failure::failure(failure::SPOOL_CORRUPT, why)))
            }
            _ => Ok(()),
        }
    }

    /// A file of the device must still be what was accepted.
    async fn check_source(&self) -> Result<(), Ended> {
        let Source::File { root, relative, fingerprint } = self.row.source.clone() else { return Ok(()) };
        let file = Arc::clone(&self.file);
        let checked = tokio::task::spawn_blocking(move || {
            unchanged(&file, &fingerprint)?;
            // The open file may be fine and its name lead elsewhere by now.
            reopen(&root, &relative, &fingerprint).map(drop)
        });
        let checked = checked.await.map_err(|why| Ended::Wait(device_failed(why.to_string())))?;
        checked.map_err(Ended::Failed)
    }

    /// Before the write that makes an object visible under an exact key: later, also after a crash, a taken key may mean
    /// that this very write took it.
    async fn guard_key(&self) -> Result<(), Ended> {
        if self.row.spec.unique || self.row.spec.overwrite {
            return Ok(());
        }
        if !self.store.profile().conditional_writes {
            self.check_free().await?;
        }
        if !self.row.in_doubt {
            let marked = self.core.journal.change(self.row.id, self.core.now_ms(), |row| row.in_doubt = true).await;
            marked.map_err(|why| journal_failed(&why))?;
        }
        Ok(())
    }

    /// Nothing is in doubt after all: a taken key is somebody else's.
    async fn clear_mark(&self) {
        let guarded = !self.row.spec.unique && !self.row.spec.overwrite;
        if guarded && !self.in_doubt.load(Ordering::Relaxed) {
            // Where this fails, the next attempt asks the store instead.
            let _ = self.core.journal.change(self.row.id, self.core.now_ms(), |row| row.in_doubt = false).await;
        }
    }

    fn puzzled(&self) -> Ended {
        Ended::Wait(device_failed("a store call answered with another call's result".into()))
    }
}

fn device_failed(why: String) -> Wait {
    Wait {
        reason: WaitReason::Retry,
        scope: Scope::Upload,
        failure: failure::failure(failure::DEVICE_FAILED, why),
        counts: true,
    }
}

fn journal_failed(why: &JournalError) -> Ended {
    Ended::Wait(device_failed(why.to_string()))
}
