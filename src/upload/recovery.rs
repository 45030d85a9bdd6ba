//! What brings spool, queue and journal back to one story: at a start, and when an upload is stopped.

use std::collections::HashSet;
use std::sync::Arc;

use ulid::Ulid;

use super::core::Core;
use super::ingest::HANDOVER;
use super::journal::{Row, Unfinished, Usage};
use super::spool::Mark;
use super::state::{Event, Phase, name};
use super::{UploadError, engine, failure};

/// Makes spool and queue what the journal says.
pub(super) async fn recover(core: &Arc<Core>) -> Result<(), UploadError> {
    let Unfinished { spooled, mut pending } = core.journal.unfinished().await?;
    let spool = Arc::clone(&core.spool);
    let swept = blocking(move || {
        spool.sweep(&spooled).map_err(|why| UploadError::Storage(format!("sweeping the spool: {why}")))
    });
    let swept = swept.await?;
    let needless_rows = core.journal.sweep_parts().await?;
    for &Usage { id, phase, .. } in &swept.missing {
        tracing::error!(upload = %id, "spooled bytes are missing or too short");
        if phase == Phase::Receiving {
            core.journal.restart_stream(id, core.now_ms()).await?;
        } else {
            let why =
                "the spooled bytes were gone or too short at a start: the disk lost them, or somebody removed them";
            let failed = core.journal.advance(id, Event::Fail, core.now_ms(), move |row| {
                row.failure = Some(failure::failure(failure::SPOOL_CORRUPT, why));
            });
            failed.await?;
        }
    }
    let lost: HashSet<Ulid> = swept.missing.iter().map(|usage| usage.id).collect();
    for uploads in pending.values_mut() {
        uploads.retain(|(id, ..)| !lost.contains(id));
    }
    tracing::info!(
        pending = pending.values().map(Vec::len).sum::<usize>(),
        orphan_files = swept.orphan_files,
        cut_files = swept.cut_files,
        missing_files = swept.missing.len(),
        needless_rows,
        "uploads recovered"
    );
    core.enqueue_all(&pending);
    release_sessions(core).await
}

/// Tells sessions that only wait for their uploads where there are none (any more).
pub(super) async fn release_sessions(core: &Core) -> Result<(), UploadError> {
    for session in core.tenants.signing_out() {
        if core.journal.unfinished_of(session.clone()).await?.is_empty() {
            core.tenants.uploads_done(&session).await;
        }
    }
    Ok(())
}

/// Cancels an upload: out of the queue first, so that it is not begun again meanwhile.
pub(super) async fn stop(core: &Core, id: Ulid, why: Option<&'static str>) -> Result<Row, UploadError> {
    quiesce(core, id).await;
    let cancelled = core.journal.advance(id, Event::Cancel, core.now_ms(), move |row| {
        if let Some(why) = why {
            row.failure = Some(failure::failure(failure::STREAM_ABANDONED, why));
        }
    });
    match cancelled.await {
        Ok(Some(Ok(row))) => {
            // A stream may have had more of its parts sent meanwhile.
            quiesce(core, id).await;
            let streaming = core.receiving().get(&id).cloned();
            if let Some(slot) = streaming {
                slot.cancelled.cancel();
                core.publish_end(&row).await;
                // The stream removes the bytes when it lets go of them, which it does at once.
                let _ = tokio::time::timeout(HANDOVER, slot.free.cancelled()).await;
            } else {
                engine::finish(core, &row).await;
            }
            Ok(row)
        }
        Ok(Some(Err(row))) => Err(UploadError::WrongState(id, name(row.phase.shown()))),
        Ok(None) => Err(UploadError::NotFound(id)),
        Err(why) => {
            // Not cancelled after all.
            if let Ok(Some(row)) = core.journal.find(id).await
                && row.phase == Phase::Pending
            {
                core.enqueue(&row);
            }
            Err(why.into())
        }
    }
}

/// Takes an upload out of the queue, and ends what is being sent of it.
async fn quiesce(core: &Core, id: Ulid) {
    core.queue().remove(id);
    if let Some(running) = core.running(id) {
        running.cancel.cancel();
        running.ended.cancelled().await;
    }
}

/// Puts a stream back to its first byte: parts on their way end, those that the store has are dropped there as well. The
/// caller empties the file afterwards, not before.
pub(super) async fn restart_stream(core: &Core, id: Ulid) -> Result<Row, UploadError> {
    quiesce(core, id).await;
    let restarted = core.journal.restart_stream(id, core.now_ms()).await?;
    // One that has begun in between may have read of parts that are no more.
    quiesce(core, id).await;
    match restarted {
        Some(Ok(row)) => {
            core.aborts.notify_one();
            core.publish(&row).await;
            Ok(row)
        }
        Some(Err(row)) => Err(UploadError::WrongState(id, name(row.phase.shown()))),
        None => Err(UploadError::NotFound(id)),
    }
}

/// Nothing has arrived.
pub(super) fn nothing() -> Mark {
    Mark { bytes: 0, crc64nvme: crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"") }
}

/// Runs `work` on the blocking pool.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|why| Err(UploadError::Storage(format!("a blocking task broke off: {why}"))))
}
