//! A multipart upload between its creation and the journal. Promises that one whose answer arrives while nobody waits
//! for it any more (the upload was cancelled, or the next attempt has begun) is aborted, and not forgotten.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Transfer;
use crate::store::{Signer, StoreError, StoreErrorKind};
use crate::upload::core::Core;
use crate::upload::journal::Row;

/// A multipart upload that the store has, and no row. Dropped before `recorded`, it is noted for an abort.
#[derive(Debug)]
pub(super) struct Unrecorded {
    core: Arc<Core>,
    row: Row,
    multipart_id: Option<String>,
}

impl Unrecorded {
    /// The store's id.
    pub(super) fn id(&self) -> &str {
        self.multipart_id.as_deref().unwrap_or_default()
    }

    /// The journal has it now.
    pub(super) fn recorded(mut self) -> String {
        self.multipart_id.take().unwrap_or_default()
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        let Some(multipart_id) = self.multipart_id.take() else { return };
        // Without a runtime the process is ending, and the bucket's lifecycle rule removes it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (core, row) = (Arc::clone(&self.core), self.row.clone());
        let noting = async move {
            let id = row.id;
            match core.journal.note_abort(row, multipart_id, core.now_ms()).await {
                Ok(()) => core.aborts.notify_one(),
                Err(why) => {
                    tracing::warn!(upload = %id, %why, "a multipart upload is left to the bucket's lifecycle rule");
                }
            }
        };
        self.core.tasks.spawn_on(noting, &runtime);
    }
}

impl Transfer {
    /// Creates a multipart upload, in a task of its own: dropping this future does not lose the store's answer.
    pub(super) async fn create_multipart(&self, signer: &Signer) -> Result<Unrecorded, StoreError> {
        let (core, row, signer) = (Arc::clone(&self.core), self.row.clone(), signer.clone());
        let (store, target) = (Arc::clone(&self.store), self.target.clone());
        // As long as any call may take: whoever waits for this one has less patience.
        let timeout = Duration::from_millis(core.config().complete_timeout_ms);
        let (reply, answer) = oneshot::channel();
        self.core.tasks.spawn(async move {
            let created = tokio::select! {
                created = store.create_multipart(&signer, &target) => created,
                () = tokio::time::sleep(timeout) => return,
                () = core.cancel.cancelled() => return,
            };
            let created = created.map(|id| Unrecorded { core, row, multipart_id: Some(id) });
            // Where nobody listens any more, dropping it has it aborted.
            drop(reply.send(created));
        });
        answer.await.unwrap_or_else(|_| {
            let why = "the daemon stopped before the store answered";
            Err(StoreError::unknown("CreateMultipartUpload", StoreErrorKind::Interrupted, why))
        })
    }
}
