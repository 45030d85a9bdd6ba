//! What must be done now and then: streams that nobody went on with, receipts that are too old, multipart uploads that
//! are to be aborted, and the gauges.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::journal::Abort;
use super::recovery::stop;
use crate::store::{StoreErrorKind as Kind, Target};
use crate::telemetry::metrics::metrics;

const ROUND: Duration = Duration::from_secs(60);
const ABORTS_PER_ROUND: u32 = 64;

/// Runs until the daemon stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !core.stopping.is_cancelled() {
        tokio::select! {
            () = core.stopping.cancelled() => {}
            // With every end of an upload: what looks through all that have ended has its time in the rounds.
            () = core.aborts.notified() => tidy(&core).await,
            _ = rounds.tick() => sweep(&core).await,
        }
    }
}

/// One round.
pub(super) async fn sweep(core: &Core) {
    tidy(core).await;
    if let Err(why) = core.journal.expire_receipts(ago_ms(core, core.config().receipt_retention_s)).await {
        tracing::warn!(%why, "cannot remove old receipts");
    }
    metrics().spool_now(core.spool.used_bytes(None), core.spool.free_bytes());
}

fn ago_ms(core: &Core, seconds: u64) -> i64 {
    core.now_ms().saturating_sub(i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX))
}

/// Ends abandoned streams, and aborts what is to be aborted.
async fn tidy(core: &Core) {
    match core.journal.idle_streams(ago_ms(core, core.config().receiving_idle_max_s)).await {
        Ok(idle) => {
            for id in idle {
                // One that is being sent now only had nothing synced for a while.
                if core.receiving().contains_key(&id) {
                    continue;
                }
                let why = "its stream did not go on: upload it again";
                if let Err(why) = stop(core, id, Some(why)).await {
                    tracing::warn!(upload = %id, %why, "cannot drop an abandoned stream");
                }
            }
        }
        Err(why) => tracing::warn!(%why, "cannot look for abandoned streams"),
    }
    abort_all(core, core.now_ms()).await;
}

async fn abort_all(core: &Core, now_ms: i64) {
    let aborts = match core.journal.aborts(ABORTS_PER_ROUND).await {
        Ok(aborts) => aborts,
        Err(why) => return tracing::warn!(%why, "cannot look for multipart uploads to abort"),
    };
    // The bucket's lifecycle rule removes them soon after: older ones are left to it.
    let max_age_ms = i64::try_from(core.config().multipart_max_age_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
    for abort in aborts {
        if core.stopping.is_cancelled() {
            return;
        }
        let too_old = now_ms.saturating_sub(abort.create_ms) > max_age_ms;
        if too_old || is_settled(core, &abort).await {
            if too_old {
                tracing::info!("an unfinished multipart upload is left to the bucket's lifecycle rule");
            }
            if let Err(why) = core.journal.abort_done(abort.id).await {
                tracing::warn!(%why, "cannot forget an abort");
            }
        }
    }
}

/// True where the abort is done, or this role will never be allowed to do it.
async fn is_settled(core: &Core, abort: &Abort) -> bool {
    let Some(destination) = core.destination(&abort.destination) else { return false };
    let Ok(signer) = core.tenants.signer(abort.owner_uid, &abort.identity, &abort.identity_id).await else {
        return false;
    };
    let target = Target {
        key: abort.key.clone(),
        content_type: String::new(),
        metadata: std::collections::BTreeMap::new(),
        if_none_match: false,
        total_bytes: 0,
        crc64nvme: None,
    };
    let work = destination.store.abort(&signer, &target, &abort.multipart_id);
    let timeout = Duration::from_millis(core.config().stall_timeout_ms);
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "abort failed");
            matches!(error.kind, Kind::NoSuchUpload | Kind::AccessDenied | Kind::Unsupported | Kind::Refused)
        }
        Err(_) => false,
    }
}
