//! Bytes that arrive over the socket. Promises that an upload which [`Ingest::finish`] acknowledged is on the disk with
//! its row, and that a stream which breaks off keeps what it has synced; holds no thread while nothing arrives.

mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use self::waiting::Waiting;
use super::core::{Core, count_phase, whole};
use super::journal::{Arrived, Row};
use super::recovery;
use super::spool::{Mark, Spool, Writer};
use super::state::name;
use super::{ExpectedChecksum, UploadError, UploadView};
use crate::telemetry::metrics::metrics;

/// Fewer bytes than this are not worth a turn of a blocking thread: they wait for more, or for the end of the stream.
const WRITE_MIN_BYTES: u64 = 512 << 10;
/// Where more streams than this are open, bytes that could be written do not wait: all who fall silent keep them in memory.
const PATIENT_STREAMS_MAX: usize = 16;
/// Bytes that may wait for the writer before the caller waits too.
const WAITING_MAX_BYTES: u64 = 1 << 20;

/// How long a `resume` or a cancellation waits for a stream to let go of the upload.
pub(super) const HANDOVER: Duration = Duration::from_secs(5);

/// One stream has an upload at a time.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Its stream has gone; what it left behind is being synced.
    pub(super) parked: AtomicBool,
    /// Its upload was cancelled: the bytes go with the stream.
    pub(super) cancelled: CancellationToken,
    /// What is on the disk is not what arrived: the stream must start again.
    pub(super) damaged: AtomicBool,
    /// Sending parts early failed in a way that will show again once everything is here: not tried again before.
    pub(super) waits_for_all: AtomicBool,
    /// It is free again.
    pub(super) free: CancellationToken,
}

/// An upload whose bytes arrive. Dropping it without [`Ingest::finish`] leaves the upload RECEIVING.
#[derive(Debug)]
pub struct Ingest(Kind);

#[derive(Debug)]
enum Kind {
    Arriving(Box<Arriving>),
    /// Complete before: what comes is counted, not stored.
    Complete {
        view: Box<UploadView>,
        counted: u64,
    },
}

#[derive(Debug)]
struct Arriving {
    view: UploadView,
    stream: Held,
}

/// The stream; however it goes, also in the middle of a call, its slot becomes free.
#[derive(Debug)]
struct Held(Option<Stream>);

impl Drop for Held {
    fn drop(&mut self) {
        let Some(stream) = self.0.take() else { return };
        stream.slot.parked.store(true, Ordering::Release);
        let tasks = stream.core.tasks.clone();
        // Without a runtime the process is ending, and the next start recovers.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            tasks.spawn_on(stream.park(), &runtime);
        }
    }
}

/// What must be put in order when the stream goes, however it goes.
#[derive(Debug)]
struct Stream {
    core: Arc<Core>,
    id: Ulid,
    uid: u32,
    slot: Arc<Slot>,
    writer: Spooling,
    /// A write failed: what was taken is not what is written, and nothing more is taken.
    failed: bool,
    waiting: Waiting,
    /// Everything that was taken, waiting or written.
    taken: u64,
    /// What the journal says is synced.
    journalled: Mark,
    limit_bytes: u64,
    /// Up to this size it is one request, and no part of it is sent early.
    single_put_max_bytes: u64,
}

#[derive(Debug)]
enum Spooling {
    Idle(Box<Writer>),
    Busy(JoinHandle<(Box<Writer>, Result<Mark, UploadError>)>),
    /// Its task broke off.
    Lost,
}

impl Ingest {
    pub(super) fn complete(view: UploadView) -> Self {
        Self(Kind::Complete { view: Box::new(view), counted: 0 })
    }

    pub(super) fn arriving(core: Arc<Core>, row: &Row, view: UploadView, slot: Arc<Slot>, writer: Writer) -> Self {
        let limit_bytes =
            core.destination(&row.destination).map_or(u64::MAX, |one| one.store.profile().object_max_bytes);
        let single_put_max_bytes = core.config().single_put_max_bytes;
        let written = writer.written();
        let stream = Stream {
            core,
            id: row.id,
            uid: row.owner_uid,
            slot,
            writer: Spooling::Idle(Box::new(writer)),
            failed: false,
            waiting: Waiting::default(),
            taken: written.bytes,
            journalled: written,
            limit_bytes,
            single_put_max_bytes,
        };
        Self(Kind::Arriving(Box::new(Arriving { view, stream: Held(Some(stream)) })))
    }

    /// The upload as it is: for a repeated `begin` of a complete upload there is nothing to send any more
    /// (`state` is not `Receiving`), and further chunks are counted against it, not stored.
    pub fn view(&self) -> UploadView {
        match &self.0 {
            Kind::Arriving(arriving) => arriving.view.clone(),
            Kind::Complete { view, .. } => (**view).clone(),
        }
    }

    /// Told when somebody cancels the upload: a stream that waits for its client lets go of the bytes then.
    pub fn cancellation(&self) -> CancellationToken {
        match &self.0 {
            Kind::Arriving(arriving) => {
                arriving.stream.0.as_ref().map(|stream| stream.slot.cancelled.clone()).unwrap_or_default()
            }
            Kind::Complete { .. } => CancellationToken::new(),
        }
    }

    /// The same as dropping it, but returns only when what has come is synced: the upload's `received_bytes` is right
    /// then. Being broken off changes nothing.
    pub async fn leave(self) {
        if let Kind::Arriving(mut arriving) = self.0
            && let Some(stream) = arriving.stream.0.take()
        {
            stream.slot.parked.store(true, Ordering::Release);
            let tasks = stream.core.tasks.clone();
            // A panic in there shows in the log; the next start recovers.
            let _ = tasks.spawn(stream.park()).await;
        }
    }

    /// Takes the next bytes; waits while the writer is behind (bounded).
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        match &mut self.0 {
            Kind::Complete { counted, .. } => {
                *counted = counted.saturating_add(chunk.len() as u64);
                Ok(())
            }
            Kind::Arriving(arriving) => match &mut arriving.stream.0 {
                Some(stream) => stream.take(chunk).await,
                None => Err(broken()),
            },
        }
    }

    /// Checks size and checksum, syncs, and queues. The upload is durable when this returns.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn finish(self, total_bytes: u64, expected: Option<ExpectedChecksum>) -> Result<UploadView, UploadError> {
        match self.0 {
            Kind::Complete { view, counted } => repeated(*view, counted, total_bytes, expected),
            Kind::Arriving(mut arriving) => match &mut arriving.stream.0 {
                Some(stream) => stream.finish(total_bytes, expected).await,
                None => Err(broken()),
            },
        }
    }
}

/// The same call again must say the same about the bytes.
fn repeated(
    view: UploadView,
    counted: u64,
    total_bytes: u64,
    expected: Option<ExpectedChecksum>,
) -> Result<UploadView, UploadError> {
    let here = view.total_bytes.unwrap_or(view.received_bytes);
    if total_bytes != here || (counted != 0 && counted != here) {
        return Err(UploadError::SizeMismatch { received_bytes: here, total_bytes });
    }
    if let (Some(ExpectedChecksum::Crc64Nvme(expected)), Some(actual)) = (expected, view.crc64nvme)
        && expected != actual
    {
        return Err(mismatch("CRC64NVME", &actual.to_be_bytes(), &expected.to_be_bytes()));
    }
    Ok(view)
}

fn mismatch(algorithm: &'static str, actual: &[u8], expected: &[u8]) -> UploadError {
    UploadError::ChecksumMismatch { algorithm, actual: STANDARD.encode(actual), expected: STANDARD.encode(expected) }
}

impl Stream {
    fn check(&self) -> Result<(), UploadError> {
        if self.slot.cancelled.is_cancelled() {
            return Err(UploadError::WrongState(self.id, "CANCELLED"));
        }
        if self.core.stopping.is_cancelled() {
            return Err(UploadError::Stopping);
        }
        if self.slot.damaged.load(Ordering::Acquire) {
            return Err(damaged());
        }
        if self.failed { Err(broken()) } else { Ok(()) }
    }

    async fn take(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.check()?;
        let len = chunk.len() as u64;
        if len == 0 {
            return Ok(());
        }
        let size_bytes = self.taken.saturating_add(len);
        if size_bytes > self.limit_bytes {
            return Err(UploadError::TooLarge { size_bytes, limit_bytes: self.limit_bytes });
        }
        self.core.spool.reserve(self.uid, len)?;
        self.taken = size_bytes;
        self.waiting.push(chunk);
        metrics().bytes_received(len);
        let enough = match &self.writer {
            Spooling::Busy(work) if !work.is_finished() => WAITING_MAX_BYTES,
            _ if self.core.receiving().len() > PATIENT_STREAMS_MAX => 0,
            _ => WRITE_MIN_BYTES,
        };
        if self.waiting.bytes() < enough {
            return Ok(());
        }
        self.collect().await?;
        self.write_waiting()
    }

    /// Hands everything that waits to the blocking pool.
    fn write_waiting(&mut self) -> Result<(), UploadError> {
        if self.waiting.bytes() == 0 {
            return Ok(());
        }
        self.core.spool.check()?;
        let pieces = self.waiting.take();
        let interval = self.core.config().spool_sync_interval_bytes;
        self.start(move |spool, writer| spool.append(writer, &pieces, interval))
    }

    fn start(
        &mut self,
        work: impl FnOnce(&Spool, &mut Writer) -> Result<Mark, UploadError> + Send + 'static,
    ) -> Result<(), UploadError> {
        match std::mem::replace(&mut self.writer, Spooling::Lost) {
            Spooling::Idle(mut writer) => {
                let spool = Arc::clone(&self.core.spool);
                self.writer = Spooling::Busy(tokio::task::spawn_blocking(move || {
                    let done = work(&spool, &mut writer);
                    (writer, done)
                }));
                Ok(())
            }
            other => {
                self.writer = other;
                Err(broken())
            }
        }
    }

    /// Waits for the writer; journals what it has synced meanwhile. May be dropped at any point and called again.
    async fn collect(&mut self) -> Result<(), UploadError> {
        match self.settle().await? {
            Some(synced) => self.journal(synced).await,
            None => Ok(()),
        }
    }

    /// Waits for the writer, where it is at work; answers what is synced.
    async fn settle(&mut self) -> Result<Option<Mark>, UploadError> {
        if let Spooling::Busy(work) = &mut self.writer {
            let ended = work.await;
            self.writer = Spooling::Lost;
            self.failed = true;
            let (writer, done) = ended.map_err(|why| UploadError::Storage(format!("writing broke off: {why}")))?;
            self.writer = Spooling::Idle(writer);
            let mark = done?;
            self.failed = false;
            return Ok(Some(mark));
        }
        Ok(None)
    }

    async fn journal(&mut self, synced: Mark) -> Result<(), UploadError> {
        if synced == self.journalled {
            return Ok(());
        }
        let arrived = self.whole_parts(synced, false);
        let sendable = !arrived.is_empty();
        let written = self.core.journal.received(self.id, synced, arrived, self.core.now_ms());
        let row = self.still(written.await?)?;
        self.journalled = synced;
        self.core.publish(&row).await;
        if sendable && !self.slot.waits_for_all.load(Ordering::Relaxed) {
            self.core.enqueue(&row);
        }
        Ok(())
    }

    /// The parts that are synced now, where there will be parts at all.
    fn whole_parts(&mut self, synced: Mark, complete: bool) -> Vec<Arrived> {
        match &mut self.writer {
            Spooling::Idle(writer) if synced.bytes > self.single_put_max_bytes => writer.take_parts(complete),
            _ => Vec::new(),
        }
    }

    /// The row after a write that only a RECEIVING upload takes.
    fn still(&self, written: Option<Result<Row, Row>>) -> Result<Row, UploadError> {
        match written {
            Some(Ok(row)) => Ok(row),
            Some(Err(row)) => Err(UploadError::WrongState(self.id, name(row.phase.shown()))),
            None => Err(UploadError::NotFound(self.id)),
        }
    }

    /// Runs `work` with the writer on the blocking pool, and journals nothing. The writer stays in reach also where the caller goes meanwhile:
    /// no later stream may open the file before this one has let go of it.
    async fn with_writer<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Spool, &mut Writer) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let (give, take) = oneshot::channel();
        self.start(move |spool, writer| {
            let value = work(spool, writer)?;
            let _ = give.send(value);
            Ok(writer.synced())
        })?;
        self.settle().await?;
        take.await.map_err(|_| broken())
    }

    async fn finish(
        &mut self,
        total_bytes: u64,
        expected: Option<ExpectedChecksum>,
    ) -> Result<UploadView, UploadError> {
        self.check()?;
        self.collect().await?;
        self.write_waiting()?;
        // Not journalled by itself: the end of the stream is one write with it.
        self.settle().await?;
        if self.taken != total_bytes {
            let received_bytes = self.taken;
            if received_bytes > total_bytes {
                self.start_over().await?;
            }
            return Err(UploadError::SizeMismatch { received_bytes, total_bytes });
        }
        let proves_sha256 = matches!(expected, Some(ExpectedChecksum::Sha256(_)));
        let (mark, sha256) = self
            .with_writer(move |spool, writer| {
                let mark = spool.sync(writer)?;
                let hash = proves_sha256.then(|| writer.sha256()).transpose();
                let hash = hash.map_err(|why| UploadError::Storage(format!("reading the bytes back: {why}")))?;
                Ok((mark, hash))
            })
            .await?;
        let wrong = match (expected, sha256) {
            (Some(ExpectedChecksum::Crc64Nvme(expected)), _) if expected != mark.crc64nvme => {
                Some(mismatch("CRC64NVME", &mark.crc64nvme.to_be_bytes(), &expected.to_be_bytes()))
            }
            (Some(ExpectedChecksum::Sha256(expected)), Some(actual)) if expected != actual => {
                Some(mismatch("SHA-256", &actual, &expected))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.start_over().await?;
            return Err(wrong);
        }
        self.check()?;
        let arrived = self.whole_parts(mark, true);
        let (core, id) = (Arc::clone(&self.core), self.id);
        let finished = whole(&self.core, async move {
            let finished = core.journal.finished(id, mark, sha256, arrived, core.now_ms()).await?;
            if let Some(Ok(row)) = &finished {
                count_phase(row.phase);
                core.enqueue(row);
                core.publish(row).await;
            }
            Ok(finished)
        });
        let row = self.still(finished.await?)?;
        self.journalled = mark;
        let core = Arc::clone(&self.core);
        core.view(&row).await
    }

    /// The bytes are the wrong ones: a repeated `begin` starts at zero, and what was sent of them is dropped. The parts
    /// that are on their way end first, because they are read from the file.
    async fn start_over(&mut self) -> Result<(), UploadError> {
        recovery::restart_stream(&self.core, self.id).await?;
        let uid = self.uid;
        self.journalled = recovery::nothing();
        self.with_writer(move |spool, writer| spool.empty(writer, uid)).await?;
        self.taken = 0;
        Ok(())
    }

    /// The stream has gone: syncs what it brought, so that the next one goes on from there.
    async fn park(mut self) {
        let mut collected = self.collect().await;
        if collected.is_ok() && !self.failed && !self.slot.cancelled.is_cancelled() {
            collected = match self.write_waiting() {
                Ok(()) => self.collect().await,
                Err(why) => Err(why),
            };
        }
        self.waiting.take();
        let damaged = self.slot.damaged.load(Ordering::Acquire);
        if damaged && let Err(why) = recovery::restart_stream(&self.core, self.id).await {
            tracing::warn!(upload = %self.id, %why, "a stream with damaged bytes cannot be put back to its start");
        }
        if let (Err(why), false) = (&collected, self.failed) {
            tracing::warn!(upload = %self.id, %why, "a broken-off stream keeps only what was journalled before");
        }
        if let Spooling::Idle(writer) = &self.writer {
            let written = writer.written().bytes;
            self.core.spool.release(self.uid, self.taken.saturating_sub(written));
            let unsynced = writer.written() != writer.synced();
            if unsynced && !damaged && !self.slot.cancelled.is_cancelled() {
                // Where this fails, the bytes are sent again.
                if let Ok(mark) = self.with_writer(Spool::sync).await {
                    let _ = self.journal(mark).await;
                }
            }
        }
        self.writer = Spooling::Lost;
        let (core, id, uid) = (Arc::clone(&self.core), self.id, self.uid);
        core.receiving().remove(&id);
        if self.slot.cancelled.is_cancelled() {
            let spool = Arc::clone(&core.spool);
            let _ = tokio::task::spawn_blocking(move || spool.remove(id, uid)).await;
        }
        self.slot.free.cancel();
    }
}

fn damaged() -> UploadError {
    UploadError::Storage("the spooled bytes are not the ones that arrived: check the disk, and upload it again".into())
}

fn broken() -> UploadError {
    UploadError::Storage("an earlier write of this stream failed: resume the upload".into())
}
