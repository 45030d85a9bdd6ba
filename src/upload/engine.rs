//! Keeps as many uploads on their way as may be, writes down what came of each, and puts it back where it did not get
//! through. Promises that no attempt's end is lost and that nothing new is begun once the daemon stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Instrument as _;
use ulid::Ulid;

use super::core::{Core, Running, count_phase, lane_of};
use super::journal::{JournalError, Source};
use super::lifetime::Failing;
use super::scheduler::LaneKey;
use super::state::{Event, Phase};
use super::worker::{Ended, Scope, Wait, send, send_early};
use super::{UploadFailure, UploadState, WaitReason, failure, recovery};
use crate::telemetry::metrics::{UploadStateLabel, metrics};

/// The clock may be moved by hand in tests, and suspended machines wake late: never sleep much longer than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Sessions say when a user is back. Who came back between the question and the wait would be missed: asked again then.
const LANE_RECHECK: Duration = Duration::from_secs(60);

/// Runs until the daemon stops and the last upload has come to a rest.
pub(super) async fn run(core: Arc<Core>) {
    let mut changes = core.tenants.changes();
    let mut under_way = JoinSet::new();
    loop {
        if !core.stopping.is_cancelled() {
            while under_way.len() < slots(&core)
                && let Some((id, running)) = core.begin_next(slots(&core))
            {
                let task = attempt(Arc::clone(&core), id, running);
                under_way.spawn(task.instrument(tracing::info_span!("upload", upload = %id)));
            }
            core.make_room(slots(&core));
        } else if under_way.is_empty() {
            save_failing(&core, core.unsaved_failing()).await;
            return;
        }
        report(&core);
        let now = core.clock.boot();
        let sleep = core.queue().next_change(now).map_or(LONGEST_SLEEP, |at| at.saturating_since(now));
        tokio::select! {
            Some(_) = under_way.join_next(), if !under_way.is_empty() => {}
            () = core.wake.notified() => {}
            // Waits end with time alone, also those of uploads that there is no place for yet.
            () = tokio::time::sleep(sleep.min(LONGEST_SLEEP)) => core.refresh_all(),
            () = core.stopping.cancelled(), if !core.stopping.is_cancelled() => {}
            // A registry that is gone changes no more.
            Ok(()) = changes.changed() => {
                core.queue().wake_sessions();
                core.refresh_all();
                if !core.tenants.signing_out().is_empty() {
                    // A guest makes way for a user without anybody's telling us: see `session/guests`.
                    core.tasks.spawn(release(Arc::clone(&core)));
                }
            }
        }
    }
}

/// How many uploads may be on their way: one more than there is room for on the wire, so that there is always a next one;
/// and at least two, because one place is kept for small ones.
fn slots(core: &Core) -> usize {
    core.config().max_uploads_in_flight.max(2).min(core.wire.limit() + 1)
}

async fn release(core: Arc<Core>) {
    if let Err(error) = recovery::release_sessions(&core).await {
        tracing::warn!(%error, "whether sessions still have uploads cannot be read: looked at again with the next change");
    }
}

async fn save_failing(core: &Core, seconds: Vec<(Ulid, u64)>) {
    if !seconds.is_empty()
        && let Err(why) = core.journal.failing(seconds).await
    {
        tracing::warn!(%why, "for how long uploads have been failing cannot be written down: a restart counts less");
    }
}

fn report(core: &Core) {
    let (all, running) = {
        let queue = core.queue();
        (queue.all() as u64, queue.running() as u64)
    };
    metrics().uploads_now(all.saturating_sub(running), running);
}

/// Ends a running attempt, also where it broke off: its upload is tried again later, as after any other failure.
struct Attempt<'a> {
    core: &'a Core,
    id: Ulid,
    running: Running,
    /// All its bytes are here: a failure is the upload's own.
    counts: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.break_off();
        self.core.end_running(self.id, &self.running);
        self.core.refresh(self.id);
        self.core.wake.notify_one();
    }
}

impl Attempt<'_> {
    /// Whoever came to an end has left its place. One that still has it would keep it for ever, and would have all others
    /// wait where it was to find out whether their destination answers.
    fn break_off(&self) {
        let now = self.core.clock.boot();
        {
            let mut queue = self.core.queue();
            if queue.state(self.id, now) != Some(UploadState::Running) {
                return;
            }
            let until = now + self.core.backoff(queue.failures(self.id));
            queue.delay(self.id, WaitReason::Retry, until);
        }
        let why = "the attempt to send it broke off inside the daemon, which is a bug";
        tracing::error!(upload = %self.id, "{why}: it is tried again later; the panic is in the log before this");
        let max_failing_s = self.core.config().max_failing_s;
        self.core.amend(self.id, |note| {
            note.failure = Some(failure::failure(failure::DEVICE_FAILED, why));
            if self.counts {
                note.attempts = note.attempts.saturating_add(1);
                note.failed(now, max_failing_s);
            }
        });
    }
}

async fn attempt(core: Arc<Core>, id: Ulid, running: Running) {
    let mut attempt = Attempt { core: &core, id, running: running.clone(), counts: false };
    let row = core.journal.find(id).await;
    if let Ok(Some(row)) = &row
        && row.failing_s > 0
    {
        core.amend(id, |note| {
            if note.failing.is_none() {
                // From before the daemon started. Nobody knows how much the store has had of one that must begin anew.
                note.failing = Some(Failing::saved(row.failing_s));
                note.most_stored = if row.multipart_id.is_none() { u64::MAX } else { 0 };
            }
        });
    }
    save_failing(&core, core.due_failing(id).into_iter().collect()).await;
    let early = match &row {
        Ok(Some(row)) if row.phase == Phase::Receiving => Some((lane_of(row), row.spec.priority)),
        _ => None,
    };
    if let Ok(Some(row)) = &row
        && row.multipart_id.is_some()
        && let Ok(stored_bytes) = core.journal.stored_bytes(id).await
    {
        running.stored_bytes.store(stored_bytes, Ordering::Relaxed);
    }
    attempt.counts = early.is_none();
    if attempt.counts {
        metrics().upload_entered(UploadStateLabel::Running);
    }
    core.refresh(id);
    let ended = match row {
        Ok(Some(row)) if row.phase == Phase::Receiving => Some(send_early(Arc::clone(&core), row, running).await),
        Ok(Some(row)) if row.phase == Phase::Pending => Some(match outlived(&core, id) {
            Some(why) => Ended::Failed(why),
            None => send(Arc::clone(&core), row, running).await,
        }),
        // Cancelled, or gone with its receipt.
        Ok(_) => None,
        Err(why) => Some(Ended::Wait(waiting(why.to_string()))),
    };
    match ended {
        None => core.queue().remove(id),
        Some(Ended::Stored { stored, crc64nvme, completed }) => {
            let written = core.journal.stored(id, stored, Some(crc64nvme), completed, core.now_ms()).await;
            match written {
                Ok(Some(Ok(row))) => {
                    let took = core.clock.wall().duration_since(crate::clock::from_unix_ms(row.create_ms));
                    metrics().upload_stored_after(took.unwrap_or_default());
                    tracing::info!(bytes = row.total_bytes, "stored");
                    finish(&core, &row).await;
                }
                Ok(_) => core.queue().remove(id),
                // The object is there; the next attempt finds its own key taken and settles it.
                Err(why) => put_aside(&core, id, &waiting(why.to_string())),
            }
        }
        Some(Ended::Failed(why)) if early.is_some() => stop_early(&core, id, &why).await,
        Some(Ended::Failed(why)) => fail(&core, id, why).await,
        Some(Ended::Wait(wait)) if wait.counts && early.is_none() => {
            let (now, max_failing_s) = (core.clock.boot(), core.config().max_failing_s);
            core.amend(id, |note| note.failed(now, max_failing_s));
            put_aside(&core, id, &wait);
        }
        Some(Ended::Wait(wait)) => put_aside(&core, id, &wait),
        Some(Ended::Stopped) => {
            core.amend(id, |note| note.failing.iter_mut().for_each(Failing::interrupted));
            core.queue().put_back(id);
        }
        Some(Ended::Drained) => core.queue().remove(id),
    }
    drop(attempt);
    if let Some((lane, priority)) = early {
        reconsider(&core, id, &lane, priority).await;
    }
}

/// Parts of a stream cannot be sent while it arrives. That is not the upload's end: once everything is here it is tried
/// as any other, and fails with its bytes kept. Only bytes that are known to be wrong are not worth waiting for.
async fn stop_early(core: &Core, id: Ulid, why: &UploadFailure) {
    tracing::info!(reason = why.reason, "sends nothing before everything has arrived");
    core.queue().remove(id);
    let slot = core.receiving().get(&id).cloned();
    match (slot, why.reason) {
        (Some(slot), failure::SPOOL_CORRUPT) => slot.damaged.store(true, Ordering::Release),
        (Some(slot), _) => slot.waits_for_all.store(true, Ordering::Relaxed),
        (None, failure::SPOOL_CORRUPT) => {
            tracing::error!("spooled bytes are damaged: the stream starts again");
            match core.journal.restart_stream(id, core.now_ms()).await {
                Ok(Some(Ok(row))) => core.publish(&row).await,
                Ok(_) => {}
                Err(why) => tracing::warn!(%why, "a stream with damaged bytes cannot be put back to its start"),
            }
            core.aborts.notify_one();
        }
        (None, _) => {}
    }
}

/// What came while an early attempt had the upload's place in the queue was not put into it: the stream's end, or more
/// parts. Where it has its place still, this changes nothing.
async fn reconsider(core: &Core, id: Ulid, lane: &LaneKey, priority: u8) {
    let unsent = async {
        match core.journal.find(id).await? {
            Some(row) if row.phase == Phase::Receiving => {
                let waits = core.receiving().get(&id).is_some_and(|slot| slot.waits_for_all.load(Ordering::Relaxed));
                Ok((!waits && !core.journal.arrived(id, true).await?.is_empty()).then_some(row))
            }
            row => Ok(row.filter(|row| row.phase == Phase::Pending)),
        }
    };
    match unsent.await {
        Ok(Some(row)) => core.enqueue(&row),
        Ok(None) => {}
        Err::<_, JournalError>(why) => {
            tracing::warn!(%why, "whether an upload has more to send cannot be read: the next attempt asks again");
            core.queue().push_early(id, lane, priority);
        }
    }
}

fn waiting(why: String) -> Wait {
    Wait {
        reason: WaitReason::Retry,
        scope: Scope::Upload,
        failure: failure::failure(failure::DEVICE_FAILED, why),
        counts: false,
    }
}

/// The journal says that an upload has ended: now, and not before, its bytes may go.
pub(super) async fn finish(core: &Core, row: &super::journal::Row) {
    core.queue().remove(row.id);
    if !row.phase.keeps_bytes() && row.source == Source::Spool {
        let (spool, id, uid) = (Arc::clone(&core.spool), row.id, row.owner_uid);
        let _ = tokio::task::spawn_blocking(move || spool.remove(id, uid)).await;
    }
    count_phase(row.phase);
    core.publish_end(row).await;
    core.aborts.notify_one();
    tell_session(core, row).await;
}

/// A session that only waits for its uploads is told when the last one has ended.
async fn tell_session(core: &Core, row: &super::journal::Row) {
    if core.tenants.signing_out().contains(&row.session)
        && core.journal.unfinished_of(row.session.clone()).await.is_ok_and(|left| left.is_empty())
    {
        core.tenants.uploads_done(&row.session).await;
    }
}

async fn fail(core: &Core, id: Ulid, why: UploadFailure) {
    tracing::warn!(reason = why.reason, "failed");
    let note = core.note(id);
    let kept = matches!(
        why.reason,
        failure::ACCESS_DENIED | failure::OUTCOME_UNKNOWN | failure::STORE_REFUSED | failure::LIFETIME_EXCEEDED
    );
    let failed = core.journal.advance(id, Event::Fail, core.now_ms(), move |row| {
        row.failure = Some(why);
        row.attempts = row.attempts.max(note.attempts);
    });
    match failed.await {
        Ok(Some(Ok(row))) => {
            if !kept && row.multipart_id.is_some() {
                // Trying again would begin anew: the parts at the store help nobody.
                let _ = core.journal.restart_multipart(id, true, core.now_ms()).await;
            }
            finish(core, &row).await;
        }
        Ok(_) => core.queue().remove(id),
        Err(why) => put_aside(core, id, &waiting(why.to_string())),
    }
}

/// An upload that has failed by itself for its whole lifetime is set aside: it must not take turns from others for ever.
fn outlived(core: &Core, id: Ulid) -> Option<UploadFailure> {
    let note = core.note(id);
    let (true, Some(failing)) = (note.outlived, note.failing) else { return None };
    let last = note.failure.map(|last| format!("; it failed last with {}: {}", last.reason, last.message));
    let why = format!(
        "it has failed for {}, so it is not tried any more; its bytes are kept: see to the cause, then retry it{}",
        humantime::format_duration(Duration::from_secs(failing.seconds())),
        last.unwrap_or_default(),
    );
    Some(failure::failure(failure::LIFETIME_EXCEEDED, why))
}

fn put_aside(core: &Core, id: Ulid, wait: &Wait) {
    tracing::info!(reason = ?wait.reason, failure = wait.failure.reason, "waits");
    metrics().upload_entered(UploadStateLabel::Waiting);
    let mut attempts = 0;
    core.amend(id, |note| {
        note.failure = Some(wait.failure.clone());
        note.attempts = note.attempts.saturating_add(u32::from(wait.counts));
        if !wait.counts {
            note.failing.iter_mut().for_each(Failing::interrupted);
        }
        attempts = note.attempts;
    });
    let now = core.clock.boot();
    {
        let mut queue = core.queue();
        match wait.scope {
            Scope::Upload => {
                let until = now + core.backoff(queue.failures(id));
                queue.delay(id, wait.reason, until);
            }
            Scope::UploadFor(time) => queue.delay(id, wait.reason, now + time),
            Scope::Lane => queue.hold(id, wait.reason, |_| Some(now + LANE_RECHECK)),
            Scope::LaneFor(time) => queue.hold(id, wait.reason, |_| Some(now + time)),
            Scope::Destination => queue.gate(id, wait.reason, |failures| now + core.backoff(failures)),
        }
    }
    core.refresh_all();
    let shown = core.queue().state(id, now);
    debug_assert!(!matches!(shown, Some(UploadState::Running)), "put aside, and running all the same");
}
