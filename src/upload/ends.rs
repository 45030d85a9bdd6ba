//! How uploads ended, in that order: for whoever follows them. Promises that a follower which hands in the number of the
//! last end it has seen gets every later one once, whatever was restarted meanwhile, as long as the receipts are kept.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::journal::{Row, Source};
use super::manager::Uploads;
use super::state::Phase;
use super::{UploadError, UploadView};
use crate::caller::Caller;
use crate::clock::{from_unix_ms, unix_ms};

/// One end.
#[derive(Debug, Clone)]
pub struct End {
    /// Its number: later ends have larger ones.
    pub number: u64,
    /// The upload.
    pub view: UploadView,
}

impl Uploads {
    /// Moves with every end of an upload, of any uid.
    pub fn ends_changed(&self) -> watch::Receiver<u64> {
        self.0.ended.subscribe()
    }

    /// The caller's uploads that ended after number `after`, in that order, at most `limit`.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn ended_after(&self, caller: &Caller, after: u64, limit: usize) -> Result<Vec<End>, UploadError> {
        let mut ends = Vec::new();
        for (number, row) in self.0.journal.ended_after(caller.uid, after, limit).await? {
            ends.push(End { number, view: self.0.view(&row).await? });
        }
        Ok(ends)
    }

    /// The number of the last end until now; of all uids, which tells nobody anything.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn last_end(&self) -> Result<u64, UploadError> {
        Ok(self.0.journal.last_end().await?)
    }

    /// The number after which the caller's uploads ended at `time` or later.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn last_end_before(&self, caller: &Caller, time: SystemTime) -> Result<u64, UploadError> {
        Ok(self.0.journal.last_end_before(caller.uid, unix_ms(time)).await?)
    }
}

/// When the receipt of an upload is forgotten, as far as its row says. A failed one keeps it as long as the spool has its
/// bytes.
pub(super) fn expire_time(row: &Row, retention_s: u64) -> Option<SystemTime> {
    let expires = match row.phase {
        Phase::Succeeded | Phase::Cancelled => true,
        Phase::Failed => row.source != Source::Spool,
        Phase::Receiving | Phase::Pending => false,
    };
    expires.then(|| from_unix_ms(row.update_ms).checked_add(Duration::from_secs(retention_s))).flatten()
}
