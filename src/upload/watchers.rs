//! What is shown of an upload, and to whom. Promises that a watcher, whenever it comes, is never left with anything older
//! than the last durable change, and that the last one closes its channel.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use ulid::Ulid;

use super::core::{Core, lock};
use super::journal::{Row, Source};
use super::state::Phase;
use super::{UploadError, UploadState, UploadView, ends};
use crate::clock::from_unix_ms;

/// Who watches which upload. Of all locks this one is taken first: what is shown is read under it, so that nothing older is
/// shown after it.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<Watching>);

#[derive(Debug, Default)]
struct Watching {
    uploads: HashMap<Ulid, Watched>,
    /// Counts durable changes that were shown, and uploads that began to be watched.
    changes: u64,
}

#[derive(Debug)]
struct Watched {
    shown: watch::Sender<UploadView>,
    /// The number of the last change of it.
    change: u64,
}

impl Watching {
    fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}

impl Core {
    /// What is shown of an upload now.
    pub(super) async fn view(&self, row: &Row) -> Result<UploadView, UploadError> {
        let stored_bytes = match row.phase {
            Phase::Succeeded => row.total_bytes.unwrap_or(0),
            Phase::Receiving | Phase::Pending | Phase::Failed if row.multipart_id.is_some() => {
                self.journal.stored_bytes(row.id).await?
            }
            _ => 0,
        };
        let mut view = UploadView {
            id: row.id,
            session: row.session.clone(),
            owner_uid: row.owner_uid,
            destination: row.destination.clone(),
            state: row.phase.shown(),
            received_bytes: row.received_bytes,
            stored_bytes,
            total_bytes: row.total_bytes,
            bucket: row.bucket.clone(),
            key: row.key.clone(),
            etag: row.etag.clone(),
            version_id: row.version_id.clone(),
            crc64nvme: row.crc64nvme,
            failure: row.failure.clone(),
            create_time: from_unix_ms(row.create_ms),
            update_time: from_unix_ms(row.update_ms),
            end_time: row.phase.has_ended().then(|| from_unix_ms(row.update_ms)),
            expire_time: ends::expire_time(row, self.config().receipt_retention_s),
            path: match &row.source {
                Source::Spool => None,
                Source::File { root, relative, .. } => Some(root.join(relative).display().to_string()),
            },
            attempt_count: row.attempts,
        };
        self.show_passing(&mut view);
        Ok(view)
    }

    /// Brings up to date what no journal knows: the state of one that is sent, its last failure, the bytes that the store
    /// has.
    fn show_passing(&self, view: &mut UploadView) {
        if view.state.has_ended() {
            return;
        }
        if let Some(running) = self.running(view.id) {
            view.stored_bytes = running.stored_bytes.load(Ordering::Relaxed);
        }
        let note = self.note(view.id);
        view.attempt_count = view.attempt_count.max(note.attempts);
        // One that still arrives is in the queue for the parts that are here already; only its last byte moves it on.
        if view.state != UploadState::Receiving {
            view.state = self.queue().state(view.id, self.clock.boot()).unwrap_or(view.state);
            view.failure = note.failure;
        }
    }

    /// Watches an upload; the caller has checked that it may.
    pub(super) async fn watch(&self, id: Ulid) -> Result<watch::Receiver<UploadView>, UploadError> {
        let read = async || {
            let row = self.journal.find(id).await?.ok_or(UploadError::NotFound(id))?;
            self.view(&row).await
        };
        let view = read().await?;
        let (receiver, mut seen) = {
            let mut watching = lock(&self.watchers.0);
            let change = watching.next_change();
            let new = || Watched { shown: watch::Sender::new(view), change };
            let watched = watching.uploads.entry(id).or_insert_with(new);
            (watched.shown.subscribe(), watched.change)
        };
        // Whatever happened between reading and subscribing is caught up with here. Where a change was shown since, nobody
        // knows which of the two is newer: it is read again.
        loop {
            match self.show(read().await?, Some(seen)) {
                Ok(()) => return Ok(receiver),
                Err(change) => seen = change,
            }
        }
    }

    /// Shows a durable change to whoever watches; the last one closes the channel.
    pub(super) async fn publish(&self, row: &Row) {
        let is_watched = lock(&self.watchers.0).uploads.contains_key(&row.id);
        if !is_watched {
            return;
        }
        match self.view(row).await {
            Ok(view) => drop(self.show(view, None)),
            // Its watchers ask again.
            Err(_) if row.phase.has_ended() => drop(lock(&self.watchers.0).uploads.remove(&row.id)),
            Err(_) => {}
        }
    }

    /// Shows what was read of an upload, if somebody watches it. Not where a change of it was shown after `seen`: the number
    /// of that one.
    pub(super) fn show(&self, mut view: UploadView, seen: Option<u64>) -> Result<(), u64> {
        let (id, has_ended) = (view.id, view.state.has_ended());
        let mut watching = lock(&self.watchers.0);
        let change = watching.next_change();
        let Some(watched) = watching.uploads.get_mut(&id) else { return Ok(()) };
        if seen.is_some_and(|seen| seen != watched.change) {
            return Err(watched.change);
        }
        self.show_passing(&mut view);
        watched.change = change;
        watched.shown.send_replace(view);
        if has_ended {
            watching.uploads.remove(&id);
        }
        Ok(())
    }

    /// The upload has ended: shows it to its watchers, and to whoever follows the ends of all.
    pub(super) async fn publish_end(&self, row: &Row) {
        self.forget(row.id);
        self.publish(row).await;
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Shows a passing change: the state, the last failure, the bytes that the store has.
    pub(super) fn refresh(&self, id: Ulid) {
        if let Some(watched) = lock(&self.watchers.0).uploads.get(&id) {
            watched.shown.send_modify(|view| self.show_passing(view));
        }
    }

    /// Shows to everybody what a change of the whole queue (pause, a gate, a parked session) means for them.
    pub(super) fn refresh_all(&self) {
        let mut watching = lock(&self.watchers.0);
        watching.uploads.retain(|_, watched| watched.shown.receiver_count() > 0);
        for watched in watching.uploads.values() {
            watched.shown.send_if_modified(|view| {
                let before = (view.state, view.attempt_count);
                self.show_passing(view);
                (view.state, view.attempt_count) != before
            });
        }
    }
}
