//! The public face of uploads: who may do what with which, and how they start and stop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::core::{Core, count_phase, whole};
use super::ingest::{HANDOVER, Slot};
use super::journal::{Journal, Row, SCAN_MAX, Source};
use super::recovery::{blocking, recover, restart_stream, stop};
use super::spool::{Mark, Spool};
use super::state::{Event, Phase, matches, name, phases, reason_name};
use super::state_dir::StateDir;
use super::tenants::Tenants;
use super::{
    Config, Destination, Ingest, ListFilter, UploadError, UploadSpec, UploadState, UploadStats, UploadView, admission,
    engine, housekeeping, key, source,
};
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
pub struct Uploads(pub(super) Arc<Core>);

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
        Self::start_for(config, destinations, Arc::new(sessions), state_dir, clock, cancel).await
    }

    /// The same for anything that knows who may upload.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(super) async fn start_for(
        config: Config,
        destinations: Vec<Destination>,
        tenants: Arc<dyn Tenants>,
        state_dir: &Path,
        clock: Clock,
        cancel: CancellationToken,
    ) -> Result<Self, StartError> {
        check_destinations(&destinations)?;
        let root = state_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let state_dir = Arc::new(StateDir::open(&root)?);
            Ok((Journal::open(Arc::clone(&state_dir))?, state_dir))
        });
        let shown = state_dir.display().to_string();
        let failed = |why: String| StartError::StateDir { path: shown.clone(), why };
        let (journal, state_dir) = opened.await.map_err(|why| failed(why.to_string()))??;
        let spool = Arc::new(Spool::new(Arc::clone(&state_dir), &config));
        let core = Arc::new(Core::new(config, destinations, tenants, state_dir, journal, spool, clock, cancel));
        recover(&core).await.map_err(|why| failed(why.to_string()))?;
        core.tasks.spawn(engine::run(Arc::clone(&core)));
        core.tasks.spawn(housekeeping::run(Arc::clone(&core)));
        Ok(Self(core))
    }

    /// Takes nothing more, lets the parts in flight end (for `timeout` at most), and closes the journal.
    pub async fn drain(&self, timeout: Duration) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        if !self.0.state_dir.is_trusted() {
            // What a part in flight would still bring about cannot be written down any more.
            self.0.cancel.cancel();
        }
        if tokio::time::timeout(timeout, self.0.tasks.wait()).await.is_err() {
            self.0.cancel.cancel();
            self.0.tasks.wait().await;
        }
        self.0.state_dir.close();
    }

    /// Returns only where the disk has failed: what failed. Nothing more is accepted then, and only a start that reads what
    /// the disk really holds can go on.
    pub async fn failed(&self) -> String {
        self.0.state_dir.failed().await.to_owned()
    }

    /// Lets another daemon have the state directory. After [`Uploads::drain`], when no caller is left.
    pub fn release(&self) {
        self.0.state_dir.release();
    }

    /// Begins an upload whose bytes come over the socket; the same id and spec again gives the same upload. One that is
    /// still RECEIVING starts again at its first byte: [`Uploads::resume`] goes on instead.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn begin(&self, caller: &Caller, id: Ulid, spec: UploadSpec) -> Result<Ingest, UploadError> {
        let core = &self.0;
        self.check_running()?;
        let spec_hash = admission::spec_hash(&spec, None);
        let row = match core.journal.find(id).await? {
            Some(row) => admission::same(row, caller, &spec_hash)?,
            None => {
                core.spool.check()?;
                core.spool.reserve(caller.uid, 0)?;
                let row = admission::admit(core, caller, id, &spec, spec_hash, Source::Spool).await?;
                match admission::enter(core, &row).await? {
                    Some(there) => admission::same(there, caller, &spec_hash)?,
                    None => {
                        count_phase(row.phase);
                        row
                    }
                }
            }
        };
        if row.phase != Phase::Receiving {
            return Ok(Ingest::complete(core.view(&row).await?));
        }
        let slot = self.take_slot(id).await?;
        // The stream before this one may have finished the upload while it was let go.
        let taken = async {
            let row = self.find(caller, id).await?;
            if row.phase != Phase::Receiving {
                return Ok(Ingest::complete(core.view(&row).await?));
            }
            let row = if row.received_bytes == 0 { row } else { restart_stream(core, id).await? };
            let (spool, uid, part_bytes) = (Arc::clone(&core.spool), caller.uid, part_bytes(&row));
            let writer = blocking(move || spool.create(id, uid, part_bytes)).await?;
            Ok(Ingest::arriving(Arc::clone(core), &row, core.view(&row).await?, Arc::clone(&slot), writer))
        };
        self.or_give_back(id, &slot, taken.await)
    }

    /// Goes on with one that was interrupted.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn resume(&self, caller: &Caller, id: Ulid, offset: u64) -> Result<Ingest, UploadError> {
        let core = &self.0;
        self.check_running()?;
        core.spool.check()?;
        self.find(caller, id).await?;
        let slot = self.take_slot(id).await?;
        let taken = async {
            let row = self.find(caller, id).await?;
            if row.phase != Phase::Receiving {
                return Err(UploadError::WrongState(id, name(row.phase.shown())));
            }
            let synced = Mark { bytes: row.received_bytes, crc64nvme: row.received_crc };
            if offset != synced.bytes {
                return Err(UploadError::OffsetMismatch { received_bytes: synced.bytes, offset });
            }
            let (spool, uid, part_bytes) = (Arc::clone(&core.spool), caller.uid, part_bytes(&row));
            let writer = blocking(move || {
                if synced.bytes == 0 {
                    spool.create(id, uid, part_bytes).map(Some)
                } else {
                    spool.reopen(id, synced, part_bytes)
                }
            });
            match writer.await? {
                Some(writer) => {
                    Ok(Ingest::arriving(Arc::clone(core), &row, core.view(&row).await?, Arc::clone(&slot), writer))
                }
                None => {
                    // What is on the disk is not what arrived: it is of no use, and the caller still has the photo.
                    tracing::error!(upload = %id, "spooled bytes are damaged: the stream starts again");
                    restart_stream(core, id).await?;
                    Err(UploadError::OffsetMismatch { received_bytes: 0, offset })
                }
            }
        };
        self.or_give_back(id, &slot, taken.await)
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
        let core = &self.0;
        self.check_running()?;
        core.state_dir.check()?;
        let spec_hash = admission::spec_hash(&spec, Some(path));
        if let Some(id) = id
            && let Some(row) = core.journal.find(id).await?
        {
            return core.view(&admission::same(row, caller, &spec_hash)?).await;
        }
        let id = id.unwrap_or_else(Ulid::generate);
        // Nothing is told about files to somebody who has no session.
        let row = admission::admit(core, caller, id, &spec, spec_hash, Source::Spool).await?;
        let (roots, path, caller) = (core.config().file_roots.clone(), path.to_owned(), *caller);
        let accepted = blocking(move || source::accept(&roots, &path, &caller)).await?;
        let row = admission::of_file(core, row, accepted)?;
        let queued = Arc::clone(core);
        let row = whole(core, async move {
            if let Some(there) = admission::enter(&queued, &row).await? {
                return admission::same(there, &caller, &spec_hash);
            }
            count_phase(row.phase);
            queued.enqueue(&row);
            Ok(row)
        });
        core.view(&row.await?).await
    }

    /// One of the caller's uploads.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, caller: &Caller, id: Ulid) -> Result<UploadView, UploadError> {
        self.0.view(&self.find(caller, id).await?).await
    }

    /// The caller's uploads, newest first, older than `before`; and where the next page starts. A page with a next one
    /// may hold fewer than `page_size`, where few uploads pass the filter.
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
        let wanted = phases(&filter.states);
        let page_size = page_size.max(1);
        let (mut views, mut scanned, mut before) = (Vec::new(), 0, before);
        loop {
            let room = page_size - views.len();
            let page = self.0.journal.page(caller.uid, filter.session.clone(), wanted.clone(), before, room).await?;
            for row in &page.rows {
                let view = self.0.view(row).await?;
                // What is running or waiting only the queue knows.
                if matches(&filter.states, view.state) {
                    views.push(view);
                }
            }
            (scanned, before) = (scanned + page.scanned, page.next);
            if before.is_none() || views.len() == page_size || scanned >= SCAN_MAX {
                return Ok((views, before));
            }
        }
    }

    /// The upload now and after every change; the channel closes after the last one.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn watch(&self, caller: &Caller, id: Ulid) -> Result<watch::Receiver<UploadView>, UploadError> {
        self.find(caller, id).await?;
        self.0.watch(id).await
    }

    /// Stops an upload and removes its bytes; one that was cancelled already stays so. The object may appear all the same
    /// where its last request was on its way.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn cancel(&self, caller: &Caller, id: Ulid) -> Result<UploadView, UploadError> {
        self.find(caller, id).await?;
        let core = Arc::clone(&self.0);
        let row = whole(&self.0, async move { stop(&core, id, None).await }).await?;
        self.0.view(&row).await
    }

    /// Queues a failed upload again.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`; `Busy` where the attempt that failed does not come to its end.
    pub async fn retry(&self, caller: &Caller, id: Ulid) -> Result<UploadView, UploadError> {
        self.check_running()?;
        let row = self.find(caller, id).await?;
        if row.phase != Phase::Failed {
            return Err(UploadError::WrongState(id, name(self.0.view(&row).await?.state)));
        }
        if let Some(failing) = self.0.running(id) {
            // The journal says first that it has failed, and then the attempt leaves the queue: it would take the place of
            // the next one along.
            let ended = tokio::time::timeout(HANDOVER, failing.ended.cancelled()).await;
            ended.map_err(|_| UploadError::Busy(id))?;
        }
        let core = Arc::clone(&self.0);
        let retried = whole(&self.0, async move {
            let retried = core.journal.advance(id, Event::Retry, core.now_ms(), |row| {
                row.attempts = row.attempts.saturating_add(1);
                row.failing_s = 0;
            });
            let retried = retried.await?;
            if let Some(Ok(row)) = &retried {
                count_phase(row.phase);
                core.enqueue(row);
                core.publish(row).await;
            }
            Ok(retried)
        });
        match retried.await? {
            Some(Ok(row)) => self.0.view(&row).await,
            Some(Err(row)) => Err(UploadError::WrongState(id, name(self.0.view(&row).await?.state))),
            None => Err(UploadError::NotFound(id)),
        }
    }

    /// Carries out what a sign-out says about the session's uploads; answers how many were unfinished.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn session_ended(&self, session: &SessionId, what: SignOutUploads) -> Result<u64, UploadError> {
        let (uploads, session) = (self.clone(), session.clone());
        // Whoever signs out may be gone before the last one is cancelled.
        let told = whole(&self.0, async move {
            let unfinished = uploads.0.journal.unfinished_of(session).await?;
            for id in &unfinished {
                match what {
                    SignOutUploads::Drain => {}
                    // From now on the session signs nothing; the next attempt finds that out and waits for the user.
                    SignOutUploads::Park => uploads.interrupt(*id).await,
                    SignOutUploads::Cancel => {
                        // One that got through meanwhile, or is forgotten already, is no failure of the sign-out.
                        match stop(&uploads.0, *id, None).await {
                            Ok(_) | Err(UploadError::WrongState(..) | UploadError::NotFound(_)) => {}
                            Err(why) => return Err(why),
                        }
                    }
                }
            }
            Ok(unfinished.len() as u64)
        });
        told.await
    }

    /// Takes another configuration over: what begins from now on follows it. The limits of the spool and
    /// `max_parts_in_flight` stay as they were at the start.
    ///
    /// # Errors
    /// `Config` where a destination's prefix is no template; then nothing has changed.
    pub fn reconfigure(&self, config: Config, destinations: Vec<Destination>) -> Result<(), StartError> {
        check_destinations(&destinations)?;
        self.0.reconfigure(config, destinations);
        Ok(())
    }

    /// Stops and starts sending. Parts that are on their way end, no further one is sent; they go on from there.
    pub fn set_paused(&self, paused: bool) {
        self.0.set_paused(paused);
    }

    /// These interfaces lead off the device now; none: there is no way out.
    pub fn network_changed(&self, interfaces: Vec<String>) {
        self.0.network_changed(interfaces);
    }

    /// The link is back: whoever waits for it tries at once.
    pub fn link_returned(&self) {
        self.0.queue().wake_link();
        self.0.refresh_all();
        self.0.wake.notify_one();
    }

    /// Counts and sizes; of one uid, or of all.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn stats(&self, uid: Option<u32>) -> Result<UploadStats, UploadError> {
        let core = &self.0;
        let mut counts: BTreeMap<&'static str, u64> = core.journal.counts(uid).await?;
        let queued = counts.remove("QUEUED").unwrap_or(0);
        let mut waiting = BTreeMap::new();
        if queued > 0 {
            let mut running = 0;
            for (state, count) in core.queue().counts(uid, core.clock.boot()) {
                match state {
                    UploadState::Running => running = count,
                    UploadState::Waiting(reason) => drop(waiting.insert(reason_name(reason), count)),
                    _ => {}
                }
            }
            // The journal was read a moment earlier.
            let running = running.min(queued);
            let all_waiting = waiting.values().sum::<u64>().min(queued - running);
            counts.extend([("QUEUED", queued - running - all_waiting), ("RUNNING", running), ("WAITING", all_waiting)]);
            counts.retain(|_, count| *count > 0);
        }
        Ok(UploadStats {
            counts,
            waiting,
            spool_bytes: core.spool.used_bytes(uid),
            spool_limit_bytes: if uid.is_some() {
                core.config().spool_max_bytes_per_uid
            } else {
                core.spool.limit_bytes()
            },
            disk_free_bytes: core.spool.free_bytes(),
            paused: core.queue().is_paused(),
            accepting: core.state_dir.is_trusted() && !core.stopping.is_cancelled(),
        })
    }

    #[cfg(test)]
    pub(super) fn core(&self) -> &Core {
        &self.0
    }

    /// For tests that end a daemon without putting anything in order.
    #[cfg(test)]
    pub(super) async fn wait_for_tasks(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(super) fn check_running(&self) -> Result<(), UploadError> {
        if self.0.stopping.is_cancelled() { Err(UploadError::Stopping) } else { Ok(()) }
    }

    /// Another uid's upload does not exist.
    async fn find(&self, caller: &Caller, id: Ulid) -> Result<Row, UploadError> {
        let row = self.0.journal.find(id).await?;
        row.filter(|row| row.owner_uid == caller.uid).ok_or(UploadError::NotFound(id))
    }

    /// The right to write an upload's bytes: of one stream at a time.
    async fn take_slot(&self, id: Ulid) -> Result<Arc<Slot>, UploadError> {
        let deadline = tokio::time::Instant::now() + HANDOVER;
        loop {
            let before = {
                let mut receiving = self.0.receiving();
                match receiving.get(&id) {
                    None => {
                        let slot = Arc::new(Slot::default());
                        receiving.insert(id, Arc::clone(&slot));
                        return Ok(slot);
                    }
                    Some(slot) if slot.parked.load(Ordering::Acquire) => Arc::clone(slot),
                    Some(_) => return Err(UploadError::Busy(id)),
                }
            };
            let freed = tokio::time::timeout_at(deadline, before.free.cancelled()).await;
            freed.map_err(|_| UploadError::Busy(id))?;
        }
    }

    /// A slot whose stream did not come about is free again.
    fn or_give_back(&self, id: Ulid, slot: &Slot, taken: Result<Ingest, UploadError>) -> Result<Ingest, UploadError> {
        if !matches!(&taken, Ok(ingest) if ingest.view().state == UploadState::Receiving) {
            self.0.receiving().remove(&id);
            if let (true, Ok(ingest)) = (slot.cancelled.is_cancelled(), &taken) {
                // Cancelled meanwhile, and left to this stream to clean up.
                let (spool, uid) = (Arc::clone(&self.0.spool), ingest.view().owner_uid);
                self.0.tasks.spawn_blocking(move || spool.remove(id, uid));
            }
            slot.free.cancel();
        }
        taken
    }

    async fn interrupt(&self, id: Ulid) {
        if let Some(running) = self.0.running(id) {
            running.cancel.cancel();
            running.ended.cancelled().await;
        }
    }
}

/// The size of the parts that a stream is cut into. One that began before there were any has one that fits nothing.
fn part_bytes(row: &Row) -> u64 {
    row.part_bytes.unwrap_or(u64::MAX)
}

fn check_destinations(destinations: &[Destination]) -> Result<(), StartError> {
    destinations.iter().try_for_each(|destination| {
        key::check_template(&destination.prefix)
            .map_err(|why| StartError::Config(format!("destination {:?}: {why}", destination.name)))
    })
}
