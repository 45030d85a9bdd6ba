//! What the parts of the upload room share: the journal, the spool, the queue, and what is known only now. Must never hold
//! one of its locks while it waits.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use ulid::Ulid;

use super::journal::{Journal, Pending, Row};
use super::lifetime::Failing;
use super::pace;
use super::plan::PartSizes;
use super::scheduler::{Class, LaneKey, Queue};
use super::spool::Spool;
use super::state::Phase;
use super::state_dir::StateDir;
use super::tenants::Tenants;
use super::watchers::Watchers;
use super::wire::Wire;
use super::{Config, Destination, UploadError, UploadFailure};
use crate::clock::{BootInstant, Clock, unix_ms};
use crate::store::RateLimit;
use crate::telemetry::metrics::{UploadStateLabel, metrics};

/// Everything shared.
#[derive(Debug)]
pub(super) struct Core {
    settings: RwLock<Arc<Settings>>,
    pub(super) tenants: Arc<dyn Tenants>,
    pub(super) state_dir: Arc<StateDir>,
    pub(super) journal: Journal,
    pub(super) spool: Arc<Spool>,
    pub(super) clock: Clock,
    queue: Mutex<Queue>,
    notes: Mutex<HashMap<Ulid, Note>>,
    running: Mutex<HashMap<Ulid, Running>>,
    pub(super) watchers: Watchers,
    /// The interfaces that lead off this device; `None`: not known.
    pub(super) network: Mutex<Option<Vec<String>>>,
    pub(super) receiving: Mutex<HashMap<Ulid, Arc<super::ingest::Slot>>>,
    /// Told when the queue may have something to do.
    pub(super) wake: Notify,
    /// Moves with every end of an upload.
    pub(super) ended: watch::Sender<u64>,
    /// Told when there is something to abort at a store.
    pub(super) aborts: Notify,
    /// Parts on the wire, of all uploads together.
    pub(super) wire: Wire,
    /// How fast they go, all together.
    pub(super) rate: RateLimit,
    /// Nothing new is begun.
    pub(super) stopping: CancellationToken,
    /// Everything ends at once.
    pub(super) cancel: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// What a reload of the configuration replaces, as one.
#[derive(Debug)]
struct Settings {
    config: Arc<Config>,
    destinations: Vec<Destination>,
}

/// What is known of an upload that did not get through, until it does or the daemon stops.
#[derive(Debug, Clone, Default)]
pub(super) struct Note {
    pub(super) failure: Option<UploadFailure>,
    /// How many times sending was begun again, since it was accepted.
    pub(super) attempts: u32,
    /// For how long it has failed by itself.
    pub(super) failing: Option<Failing>,
    /// Its last failure was one too many: it is not tried again.
    pub(super) outlived: bool,
    /// The most bytes in parts that the store ever had of it: what is sent again is no progress.
    pub(super) most_stored: u64,
    /// How many times in a row its transfers stalled: the next ones are given twice the time of those before.
    pub(super) stalls: u32,
    /// The last attempt left no part of which nobody knows whether the store has it.
    pub(super) parts_known: bool,
    /// Since when it is denied without having been able to get other credentials.
    pub(super) denied_since: Option<BootInstant>,
}

impl Note {
    /// It has failed by itself once more; `max_s` is for how long it may. Only a failure sets it aside: a lower limit gives
    /// those that wait one more try, under a configuration that may be a better one.
    pub(super) fn failed(&mut self, now: BootInstant, max_s: u64) {
        let failing = self.failing.get_or_insert_with(|| Failing::saved(0));
        failing.failed(now);
        self.outlived = failing.seconds() >= max_s;
    }
}

/// An upload that is being sent.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) cancel: CancellationToken,
    /// Requests that are on their way end, and no further one is made.
    pub(super) rest: CancellationToken,
    pub(super) ended: CancellationToken,
    pub(super) stored_bytes: Arc<AtomicU64>,
}

/// Maps and sums that are whole between any two statements: a panic elsewhere does not spoil them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    #[allow(clippy::too_many_arguments)] // One place makes it.
    pub(super) fn new(
        config: Config,
        destinations: Vec<Destination>,
        tenants: Arc<dyn Tenants>,
        state_dir: Arc<StateDir>,
        journal: Journal,
        spool: Arc<Spool>,
        clock: Clock,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            rate: limited(&config),
            wire: Wire::new(clock.clone(), pace::most(config.max_parts_in_flight, config.transfer_memory_max_bytes)),
            settings: RwLock::new(Arc::new(Settings { config: Arc::new(config), destinations })),
            tenants,
            state_dir,
            journal,
            spool,
            clock,
            queue: Mutex::default(),
            notes: Mutex::default(),
            running: Mutex::default(),
            watchers: Watchers::default(),
            network: Mutex::default(),
            receiving: Mutex::default(),
            wake: Notify::new(),
            ended: watch::Sender::new(0),
            aborts: Notify::new(),
            stopping: cancel.child_token(),
            cancel,
            tasks: TaskTracker::new(),
        }
    }

    pub(super) fn now_ms(&self) -> i64 {
        unix_ms(self.clock.wall())
    }

    /// The configuration that is in force now.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.settings().config)
    }

    pub(super) fn destinations(&self) -> Vec<Destination> {
        self.settings().destinations.clone()
    }

    pub(super) fn destination(&self, name: &str) -> Option<Destination> {
        self.settings().destinations.iter().find(|destination| destination.name == name).cloned()
    }

    /// Takes another configuration over: what begins from now on follows it, what runs goes on with the old one.
    pub(super) fn reconfigure(&self, config: Config, destinations: Vec<Destination>) {
        if config.max_upload_bytes_per_s != self.config().max_upload_bytes_per_s {
            self.rate.set(config.max_upload_bytes_per_s);
        }
        let settings = Arc::new(Settings { config: Arc::new(config), destinations });
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        self.follow_meter();
        self.refresh_all();
        self.wake.notify_one();
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    pub(super) fn receiving(&self) -> MutexGuard<'_, HashMap<Ulid, Arc<super::ingest::Slot>>> {
        lock(&self.receiving)
    }

    /// What decides about the size of parts now.
    pub(super) fn part_sizes(&self) -> PartSizes {
        let config = self.config();
        PartSizes {
            normal_bytes: config.part_size_bytes,
            most_bytes: config.part_size_max_bytes,
            link_bytes_per_s: self.wire.goodput(),
        }
    }

    /// Puts a durable upload into the queue, or one that still arrives and has parts to send.
    pub(super) fn enqueue(&self, row: &Row) {
        let lane = lane_of(row);
        match row.phase {
            Phase::Receiving => self.queue().push_early(row.id, &lane, row.spec.priority),
            _ => self.queue().push(row.id, &lane, self.class(row.spec.priority, row.total_bytes)),
        }
        self.refresh(row.id);
        self.wake.notify_one();
    }

    pub(super) fn enqueue_all(&self, pending: &HashMap<LaneKey, Vec<Pending>>) {
        let mut queue = self.queue();
        for (lane, uploads) in pending {
            for (id, priority, total_bytes) in uploads {
                queue.push(*id, lane, self.class(*priority, *total_bytes));
            }
        }
    }

    fn class(&self, priority: u8, total_bytes: Option<u64>) -> Class {
        let is_small = total_bytes.is_some_and(|bytes| bytes <= self.config().single_put_max_bytes);
        Class { priority, is_small }
    }

    /// The destination answered a running upload. Whoever waited for that goes on.
    pub(super) fn reached(&self, id: Ulid) {
        let others_waited = self.queue().reached(id);
        if others_waited {
            self.refresh_all();
            self.wake.notify_one();
        }
    }

    pub(super) fn note(&self, id: Ulid) -> Note {
        lock(&self.notes).get(&id).cloned().unwrap_or_default()
    }

    pub(super) fn amend(&self, id: Ulid, change: impl FnOnce(&mut Note)) {
        change(lock(&self.notes).entry(id).or_default());
    }

    /// The store has so much of it. More than ever: it got on, and does not keep failing. True where the journal says that
    /// it does.
    pub(super) fn got_on(&self, id: Ulid, stored_bytes: u64) -> bool {
        let mut notes = lock(&self.notes);
        let note = notes.entry(id).or_default();
        if stored_bytes <= note.most_stored {
            return false;
        }
        note.most_stored = stored_bytes;
        let failing = note.failing.take();
        drop(notes);
        self.queue().got_on(id);
        failing.is_some_and(|failing| failing.is_saved())
    }

    /// Everybody waits now, or did: the time until they fail next is none of their own.
    pub(super) fn break_failing(&self) {
        lock(&self.notes).values_mut().filter_map(|note| note.failing.as_mut()).for_each(Failing::interrupted);
    }

    /// For how long it has been failing, where it is time to write that down.
    pub(super) fn due_failing(&self, id: Ulid) -> Option<(Ulid, u64)> {
        let mut notes = lock(&self.notes);
        let failing = notes.get_mut(&id)?.failing.as_mut().filter(|failing| failing.is_due())?;
        Some((id, failing.save()?))
    }

    /// Times of failing that are not written down yet.
    pub(super) fn unsaved_failing(&self) -> Vec<(Ulid, u64)> {
        let mut notes = lock(&self.notes);
        let unsaved = |(id, note): (&Ulid, &mut Note)| Some((*id, note.failing.as_mut()?.save()?));
        notes.iter_mut().filter_map(unsaved).collect()
    }

    pub(super) fn forget(&self, id: Ulid) {
        lock(&self.notes).remove(&id);
    }

    /// The next upload to send. It is out of the queue and to be found as running in one step: whoever wants it stopped
    /// sees it in one place or the other.
    pub(super) fn begin_next(&self, slots: usize) -> Option<(Ulid, Running)> {
        let mut queue = self.queue();
        let id = queue.next(self.clock.boot(), slots)?;
        if lock(&self.running).contains_key(&id) {
            // Its last attempt is ending, and says so when it has.
            queue.put_back(id);
            return None;
        }
        let running = Running {
            cancel: self.cancel.child_token(),
            rest: self.stopping.child_token(),
            ended: CancellationToken::new(),
            stored_bytes: Arc::default(),
        };
        lock(&self.running).insert(id, running.clone());
        Some((id, running))
    }

    /// The attempt is over. Its upload may be running again already: that stays.
    pub(super) fn end_running(&self, id: Ulid, this: &Running) {
        let mut running = lock(&self.running);
        if running.get(&id).is_some_and(|now| Arc::ptr_eq(&now.stored_bytes, &this.stored_bytes)) {
            running.remove(&id);
        }
        this.ended.cancel();
    }

    pub(super) fn running(&self, id: Ulid) -> Option<Running> {
        lock(&self.running).get(&id).cloned()
    }

    /// Stops and starts sending. What is on its way ends its parts and goes on afterwards.
    pub(super) fn set_paused(&self, paused: bool) {
        self.queue().set_paused(paused);
        self.break_failing();
        if paused {
            self.rest(|_| true);
        }
        self.refresh_all();
        self.wake.notify_one();
    }

    /// Lets running uploads end their requests and go back into the queue. Whatever was begun before the queue was told
    /// why is here: beginning takes the queue, too.
    pub(super) fn rest(&self, which: impl Fn(Ulid) -> bool) {
        let running = lock(&self.running);
        running.iter().filter(|(id, _)| which(**id)).for_each(|(_, running)| running.rest.cancel());
    }

    /// Lets uploads make room where more urgent ones need it.
    pub(super) fn make_room(&self, slots: usize) {
        let mut queue = self.queue();
        while let Some(tired) = queue.should_rest(self.clock.boot(), slots) {
            self.rest(|id| id == tired);
        }
    }

    /// A wait between zero and `initial_ms · 2^failures`, at most `backoff_max_ms`.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let ceiling = self.config().backoff_initial_ms.saturating_mul(1_u64.checked_shl(failures).unwrap_or(u64::MAX));
        let ceiling = ceiling.min(self.config().backoff_max_ms);
        Duration::from_millis(rand::random_range(0..=ceiling))
    }
}

fn limited(config: &Config) -> RateLimit {
    let rate = RateLimit::default();
    rate.set(config.max_upload_bytes_per_s);
    rate
}

/// Runs a step that must not stop half-way to its end, also where whoever asked for it goes away: what the journal says
/// and what the queue holds would differ until the next start.
pub(super) async fn whole<T: Send + 'static>(
    core: &Arc<Core>,
    step: impl Future<Output = Result<T, UploadError>> + Send + 'static,
) -> Result<T, UploadError> {
    let done = core.tasks.spawn(step.in_current_span()).await;
    done.unwrap_or_else(|why| Err(UploadError::Storage(format!("a step broke off: {why}"))))
}

/// The lane of an upload.
pub(super) fn lane_of(row: &Row) -> LaneKey {
    LaneKey { owner_uid: row.owner_uid, identity_id: row.identity_id.clone(), destination: row.destination.clone() }
}

/// Counts a change of phase.
pub(super) fn count_phase(phase: Phase) {
    let label = match phase {
        Phase::Receiving => UploadStateLabel::Receiving,
        Phase::Pending => UploadStateLabel::Queued,
        Phase::Succeeded => UploadStateLabel::Succeeded,
        Phase::Failed => UploadStateLabel::Failed,
        Phase::Cancelled => UploadStateLabel::Cancelled,
    };
    metrics().upload_entered(label);
}
