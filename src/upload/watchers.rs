//! What is shown of an upload, and to whom. Promises that a watcher, whenever it comes, sees the upload as it is in the end:
//! every durable change, and the last one of those that pass.

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
pub(super) struct Watchers(Mutex<HashMap<Ulid, Watched>>);

#[derive(Debug)]
struct Watched {
    shown: watch::Sender<UploadView>,
    /// How many durable changes were shown.
    changes: u64,
}

impl Core {
    /// What is shown of an upload now.
    pub(super) async fn view(&self, row: &Row) -> Result<UploadView, UploadError> {
        let stored_bytes = match row.phase {
            Phase::Succeeded => row.total_bytes.unwrap_or(0),
            Phase::Receiving | Phase::Pending | Phase::Failed if row.multipart_id.is_some() => {
                self.journal.parts(row.id).await?.iter().map(|part| part.size_bytes).sum()
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
        if let Some(running) = self.running(view.id).filter(|_| view.state != UploadState::Succeeded) {
            view.stored_bytes = running.stored_bytes.load(Ordering::Relaxed);
        }
        // One that still arrives is in the queue for the parts that are here already; only its last byte moves it on.
        if matches!(view.state, UploadState::Queued | UploadState::Running | UploadState::Waiting(_)) {
            let note = self.note(view.id);
            view.state = self.queue().state(view.id, self.clock.boot()).unwrap_or(view.state);
            view.failure = note.failure;
            view.attempt_count = view.attempt_count.max(note.attempts);
        }
    }

    /// Watches an upload; the caller has checked that it may.
    pub(super) async fn watch(&self, id: Ulid) -> Result<watch::Receiver<UploadView>, UploadError> {
        let gone = || UploadError::NotFound(id);
        let row = self.journal.find(id).await?.ok_or_else(gone)?;
        let view = self.view(&row).await?;
        let (receiver, changes) = {
            let mut watchers = lock(&self.watchers.0);
            let watched = watchers.entry(id).or_insert_with(|| Watched { shown: watch::Sender::new(view), changes: 0 });
            (watched.shown.subscribe(), watched.changes)
        };
        // Whatever happened between reading and subscribing is caught up with here; what was shown since is newer.
        let row = self.journal.find(id).await?.ok_or_else(gone)?;
        let view = self.view(&row).await?;
        self.show(view, row.phase.has_ended(), Some(changes));
        Ok(receiver)
    }

    /// Shows a durable change to whoever watches; the last one closes the channel.
    pub(super) async fn publish(&self, row: &Row) {
        if lock(&self.watchers.0).contains_key(&row.id)
            && let Ok(view) = self.view(row).await
        {
            self.show(view, row.phase.has_ended(), None);
        }
    }

    /// Unless a durable change came after so many; the end is always the last.
    pub(super) fn show(&self, mut view: UploadView, has_ended: bool, after: Option<u64>) {
        let mut watchers = lock(&self.watchers.0);
        let Some(watched) = watchers.get_mut(&view.id) else { return };
        if !has_ended && after.is_some_and(|after| after != watched.changes) {
            return;
        }
        let id = view.id;
        self.show_passing(&mut view);
        watched.changes += 1;
        watched.shown.send_replace(view);
        if has_ended {
            watchers.remove(&id);
        }
    }

    /// The upload has ended: shows it to its watchers, and to whoever follows the ends of all.
    pub(super) async fn publish_end(&self, row: &Row) {
        self.forget(row.id);
        self.publish(row).await;
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Shows a passing change: the state, the last failure, the bytes that the store has.
    pub(super) fn refresh(&self, id: Ulid) {
        if let Some(watched) = lock(&self.watchers.0).get(&id) {
            watched.shown.send_modify(|view| self.show_passing(view));
        }
    }

    /// Shows to everybody what a change of the whole queue (pause, a gate, a parked session) means for them.
    pub(super) fn refresh_all(&self) {
        let mut watchers = lock(&self.watchers.0);
        watchers.retain(|_, watched| watched.shown.receiver_count() > 0);
        for watched in watchers.values() {
            watched.shown.send_if_modified(|view| {
                let before = (view.state, view.attempt_count);
                self.show_passing(view);
                (view.state, view.attempt_count) != before
            });
        }
    }
}
