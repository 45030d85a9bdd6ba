//! What became of a write: the cases in which the answer alone does not say it.

use std::sync::atomic::Ordering;

use super::call::{Reply, Request, Stop};
use super::{Ended, Scope, Transfer, Wait};
use crate::store::{ObjectHead, StoreError, StoreErrorKind as Kind, Stored};
use crate::upload::{WaitReason, failure};

impl Transfer {
    /// The store says that it has the object.
    pub(super) fn confirmed(&self, stored: Stored, crc64nvme: u64, completed: bool) -> Ended {
        if stored.crc64nvme.is_some_and(|told| told != crc64nvme) {
            let why = "the store confirmed an object with another checksum than was sent: look at it before you retry";
            return Ended::Failed(failure::failure(failure::CHECKSUM_MISMATCH, why));
        }
        Ended::Stored { stored, crc64nvme, completed }
    }

    /// The key is taken. By us?
    pub(super) async fn settle_taken(&self, crc64nvme: u64) -> Result<Ended, Ended> {
        let exists = || {
            let why = "another object is at this key: choose another key, or allow overwriting";
            Err(Ended::Failed(failure::failure(failure::OBJECT_EXISTS, why)))
        };
        let in_doubt = self.in_doubt.load(Ordering::Relaxed);
        // Without an attempt of ours that may have worked, an exact key was somebody else's before.
        if !self.row.spec.unique && !in_doubt {
            return exists();
        }
        match self.call(Request::Head).await {
            Ok(Reply::Head(Some(head))) if self.is_ours(&head) && self.is_whole(&head, crc64nvme) => {
                Ok(self.confirmed(head.stored, crc64nvme, false))
            }
            Ok(Reply::Head(Some(head))) if self.is_ours(&head) => {
                let why = "the object that the store has of this upload holds other bytes than were accepted: look at it, \
                           remove it and retry";
                Err(Ended::Failed(failure::failure(failure::CHECKSUM_MISMATCH, why)))
            }
            Ok(Reply::Head(Some(_))) => exists(),
            // Taken a moment ago and free now: somebody removed it. Ours may go there.
            Ok(Reply::Head(None)) => Err(self.once_more("the key was taken, and is free now")),
            Err(Stop::Store(error)) if self.row.spec.unique => {
                tracing::debug!(upload = %self.row.id, %error, "taken key, not allowed to look: its name makes it ours");
                // The upload's own id is in the key: whoever wrote it was us.
                Ok(Ended::Stored { stored: Stored::default(), crc64nvme, completed: false })
            }
            Err(Stop::Store(_)) => {
                let why = "an attempt may have stored the object, and this role may not look: check the bucket, then \
                           cancel the upload or retry it under another key";
                Err(Ended::Failed(failure::failure(failure::OUTCOME_UNKNOWN, why)))
            }
            Ok(_) => Err(self.puzzled()),
            Err(Stop::Ended(ended)) => Err(ended),
        }
    }

    /// This upload made it.
    fn is_ours(&self, head: &ObjectHead) -> bool {
        head.upload_id.as_deref() == Some(&self.row.id.to_string())
    }

    /// Its bytes are those that were accepted. A store that is given CRC64NVME has it of every object of ours.
    fn is_whole(&self, head: &ObjectHead, crc64nvme: u64) -> bool {
        let proven = match head.stored.crc64nvme {
            Some(told) => told == crc64nvme,
            None => !self.store.profile().crc64nvme,
        };
        proven && head.size_bytes == self.total_bytes
    }

    /// After a completion with an unknown outcome, the multipart upload is gone: did it become the object? `None` where
    /// nobody may look, or nothing is there.
    pub(super) async fn settle_gone(&self, crc64nvme: u64) -> Result<Option<Ended>, Ended> {
        // One that an earlier attempt had begun may have been completed right before this process was killed.
        if !self.in_doubt.load(Ordering::Relaxed) && self.row.multipart_id.is_none() {
            return Ok(None);
        }
        match self.call(Request::Head).await {
            Ok(Reply::Head(Some(head))) if self.is_ours(&head) && self.is_whole(&head, crc64nvme) => {
                Ok(Some(self.confirmed(head.stored, crc64nvme, true)))
            }
            Ok(_) | Err(Stop::Store(_)) => Ok(None),
            Err(Stop::Ended(ended)) => Err(ended),
        }
    }

    /// On a store that cannot refuse to overwrite, looking first is all there is.
    pub(super) async fn check_free(&self) -> Result<(), Ended> {
        match self.call(Request::Head).await {
            Ok(Reply::Head(None)) => Ok(()),
            Ok(Reply::Head(Some(head))) if head.upload_id.as_deref() == Some(&self.row.id.to_string()) => Ok(()),
            Ok(_) => {
                let why = "another object is at this key: choose another key, or allow overwriting";
                Err(Ended::Failed(failure::failure(failure::OBJECT_EXISTS, why)))
            }
            Err(Stop::Store(error)) => {
                let why = format!(
                    "the store has no conditional writes, and looking first failed ({error}): use the key policy UNIQUE, \
                     or allow overwriting"
                );
                Err(Ended::Failed(failure::failure(failure::OVERWRITE_UNGUARDED, why)))
            }
            Err(Stop::Ended(ended)) => Err(ended),
        }
    }

    /// An error that no rule above knows how to cure.
    pub(super) fn give_up(&self, stop: Stop) -> Ended {
        match stop {
            Stop::Ended(ended) => ended,
            Stop::Store(error) => refused(&error),
        }
    }

    /// Tries the upload from its beginning, after a while.
    pub(super) fn once_more(&self, why: &str) -> Ended {
        let failure = failure::failure(failure::STORE_UNAVAILABLE, why);
        Ended::Wait(Wait { reason: WaitReason::Retry, scope: Scope::Upload, failure, counts: true })
    }
}

fn refused(error: &StoreError) -> Ended {
    match error.kind {
        // These belong to operations that handle them; elsewhere the store is odd, which may pass.
        Kind::NoSuchUpload | Kind::InvalidParts | Kind::Conflict | Kind::BadDigest => {
            let failure = failure::failure(failure::STORE_UNAVAILABLE, error.to_string());
            Ended::Wait(Wait { reason: WaitReason::Retry, scope: Scope::Upload, failure, counts: true })
        }
        Kind::Unsupported => {
            let why = format!(
                "the store cannot do that: {error}: set the destination's checksum and conditional_writes to what this \
                 store knows, then retry"
            );
            Ended::Failed(failure::failure(failure::STORE_REFUSED, why))
        }
        _ => {
            let why = format!("the store refuses it: {error}: check the destination's configuration, then retry");
            Ended::Failed(failure::failure(failure::STORE_REFUSED, why))
        }
    }
}
