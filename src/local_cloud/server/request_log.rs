//! Who asked for what: the last requests, for tests. Holds access key ids, identity ids, operations and keys; never a
//! secret, a token or a body.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Requests that are remembered.
const KEPT_REQUESTS: usize = 10_000;

/// One answered (or cut) request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Counts up from 1.
    pub sequence: u64,
    /// When it came, in milliseconds since 1970, by the cloud's clock.
    pub unix_ms: i64,
    /// For example `s3:UploadPart`.
    pub operation: String,
    /// The key id that the request names; none for an unsigned one. Not necessarily a right one: see the status.
    pub access_key_id: Option<String>,
    /// The identity id whose keys these are, by the session token; none for keys of nobody in an identity pool.
    pub identity_id: Option<String>,
    /// S3's bucket; empty for other services.
    pub bucket: String,
    /// S3's key, decoded; empty for other services.
    pub key: String,
    /// The answer's status; none where the connection was cut in its place.
    pub status: Option<u16>,
    /// The answer's error code.
    pub code: Option<String>,
}

/// The last requests; clones share them.
#[derive(Debug, Clone, Default)]
pub struct RequestLog(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    last_sequence: u64,
    records: VecDeque<RequestRecord>,
}

impl RequestLog {
    /// Remembers a request; its sequence number is given here.
    pub fn add(&self, mut record: RequestRecord) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last_sequence += 1;
        record.sequence = kept.last_sequence;
        if kept.records.len() >= KEPT_REQUESTS {
            kept.records.pop_front();
        }
        kept.records.push_back(record);
    }

    /// The remembered requests behind `after`, oldest first; zero gives all.
    pub fn after(&self, after: u64) -> Vec<RequestRecord> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.records.iter().filter(|record| record.sequence > after).cloned().collect()
    }
}
