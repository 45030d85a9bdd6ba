//! What can be set about uploads.

use std::path::PathBuf;
use std::sync::Arc;

use super::Priority;
use crate::store::ObjectStore;

/// `[upload]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A file may be handed over by its path only beneath one of these directories.
    pub file_roots: Vec<PathBuf>,
    /// Objects up to this size are one PutObject, larger ones are multipart.
    pub single_put_max_bytes: u64,
    /// The size of a part, unless the object would then have more than 10,000 of them; at least 5 MiB.
    pub part_size_bytes: u64,
    /// On a link on which such a part takes no time, parts of a file grow up to this size.
    pub part_size_max_bytes: u64,
    /// A multipart upload that is older is begun anew: the bucket's lifecycle rule removes unfinished ones (ours after 7
    /// days).
    pub multipart_max_age_s: u64,
    /// Parts (and single puts) on the wire at once, of all uploads together: the most that there may be. How many there
    /// are follows goodput.
    pub max_parts_in_flight: usize,
    /// What those may hold in memory; bounds their number as well.
    pub transfer_memory_max_bytes: u64,
    /// Bytes of bodies per second to S3, all transfers together; 0 is no limit.
    pub max_upload_bytes_per_s: u64,
    /// Interfaces over which sending costs money: a name, or the beginning of names with a `*` behind it.
    pub metered_interfaces: Vec<String>,
    /// Who goes over those all the same; others wait for another link.
    pub metered_priorities: Vec<Priority>,
    /// Uploads that are sent at once; at least two, because one place is kept for small ones, which must not wait for large
    /// ones to end.
    pub max_uploads_in_flight: usize,
    /// How many times a part is tried before its upload is put aside for a while.
    pub part_attempts: u32,
    /// The first wait after a failure; doubled every time, with full jitter.
    pub backoff_initial_ms: u64,
    /// The longest wait after a failure.
    pub backoff_max_ms: u64,
    /// A transfer that moves no byte for this long is broken off and tried again.
    pub stall_timeout_ms: u64,
    /// How long CompleteMultipartUpload may take.
    pub complete_timeout_ms: u64,
    /// An upload that fails by itself for this long, all in all, is set aside as FAILED; its bytes are kept. Only time in
    /// which it is tried counts.
    pub max_failing_s: u64,
    /// A stream that stays without a byte for this long is dropped, with its upload.
    pub receiving_idle_max_s: u64,
    /// Receipts of ended uploads are kept this long.
    pub receipt_retention_s: u64,
    /// What the spool may hold.
    pub spool_max_bytes: u64,
    /// What the spool may hold for one uid.
    pub spool_max_bytes_per_uid: u64,
    /// Free space on the spool's file system below which nothing more is taken.
    pub disk_free_floor_bytes: u64,
    /// A stream is synced every so many bytes, so that one that a crash interrupts loses no more than that and 1 MiB.
    pub spool_sync_interval_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file_roots: Vec::new(),
            single_put_max_bytes: 8 << 20,
            part_size_bytes: 8 << 20,
            part_size_max_bytes: 32 << 20,
            multipart_max_age_s: 518_400,
            max_parts_in_flight: 16,
            transfer_memory_max_bytes: 8 << 20,
            max_upload_bytes_per_s: 0,
            metered_interfaces: Vec::new(),
            metered_priorities: vec![Priority::Interactive],
            max_uploads_in_flight: 16,
            part_attempts: 4,
            backoff_initial_ms: 1_000,
            backoff_max_ms: 300_000,
            stall_timeout_ms: 20_000,
            complete_timeout_ms: 600_000,
            max_failing_s: 2_678_400,
            receiving_idle_max_s: 86_400,
            receipt_retention_s: 604_800,
            spool_max_bytes: 10 << 30,
            spool_max_bytes_per_uid: 5 << 30,
            disk_free_floor_bytes: 256 << 20,
            spool_sync_interval_bytes: 16 << 20,
        }
    }
}

/// Where uploads may go, built by `daemon`.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its name in the configuration.
    pub name: String,
    /// What every key starts with: a template with `{identity_id}` and `{sub}`, for example `users/{identity_id}/`.
    pub prefix: String,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
}
