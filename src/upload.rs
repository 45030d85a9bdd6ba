//! Durable jobs: one object on its way. Owns journal, spool, scheduler and workers; promises that an accepted upload
//! survives any crash, appears at most once and only ever goes out under the identity id that it was accepted for;
//! must never evict unsent bytes.

mod admission;
mod config;
mod core;
mod crc64nvme;
mod ends;
mod engine;
mod failure;
mod folders;
mod housekeeping;
mod ingest;
mod journal;
pub mod key;
mod lifetime;
mod manager;
mod network;
mod pace;
pub mod plan;
mod recovery;
mod scheduler;
mod source;
mod spool;
mod state;
mod state_dir;
mod tenants;
#[cfg(test)]
mod tests;
mod watchers;
mod wire;
mod worker;

use std::collections::BTreeMap;
use std::time::SystemTime;

pub use ulid::Ulid;

pub use self::config::{Config, Destination};
pub use self::ends::End;
pub use self::folders::Imported;
pub use self::ingest::Ingest;
pub use self::journal::{EndedFile, FolderCounts, FolderFile, Known, Settled};
pub use self::key::check_template as check_prefix;
pub use self::manager::{StartError, Uploads};
pub use self::source::Fingerprint;
use crate::session::SessionId;

/// How far an upload got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UploadState {
    /// Bytes still arrive.
    Receiving,
    /// Durable here, not started.
    Queued,
    /// On its way.
    Running,
    /// Not now.
    Waiting(WaitReason),
    /// In the store.
    Succeeded,
    /// Will not be tried again by itself; bytes kept.
    Failed,
    /// Stopped by its owner.
    Cancelled,
}

impl UploadState {
    /// True where nothing happens by itself any more.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Receiving | Self::Queued | Self::Running | Self::Waiting(_) => false,
        }
    }
}

/// Why an upload waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// The link or the endpoint is down.
    Offline,
    /// After a failure, until the next attempt.
    Retry,
    /// No valid credentials now.
    Credentials,
    /// The user must sign in again.
    SignIn,
    /// The gateway is paused.
    Paused,
    /// The clock is outside the server certificate's dates.
    Clock,
    /// Denied; waits until the user's groups change.
    Denied,
    /// The link is metered, and this priority waits for another one.
    Metered,
}

/// What the last segment of the key will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyPolicy {
    /// The upload's ULID is put into it.
    #[default]
    Unique,
    /// As given.
    Exact,
}

/// Who goes first; the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Somebody waits at the screen.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// When nothing else waits, and now and then in any case.
    Background,
}

/// What happens on a denial that a refresh does not cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDenied {
    /// FAILED, bytes kept.
    #[default]
    Fail,
    /// WAITING until the groups change.
    Wait,
}

/// What to upload to where, as the caller asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadSpec {
    /// The session, or the caller's only one.
    pub session: Option<SessionId>,
    /// The destination's name, or the only one.
    pub destination: Option<String>,
    /// The key below the destination's prefix.
    pub key: String,
    /// What the last segment will be.
    pub key_policy: KeyPolicy,
    /// The Content-Type.
    pub content_type: Option<String>,
    /// User metadata.
    pub metadata: BTreeMap<String, String>,
    /// Allow overwriting (only with `Exact`).
    pub overwrite: bool,
    /// Who goes first.
    pub priority: Priority,
    /// What a denial does.
    pub on_denied: OnDenied,
}

/// A proof of the whole content that the caller hands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedChecksum {
    /// CRC64NVME.
    Crc64Nvme(u64),
    /// SHA-256.
    Sha256([u8; 32]),
}

/// Why an upload failed, or failed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadFailure {
    /// Stable, UPPER_SNAKE.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// What may be shown of an upload.
#[derive(Debug, Clone)]
pub struct UploadView {
    /// Its id.
    pub id: Ulid,
    /// The session it was accepted for.
    pub session: SessionId,
    /// Who owns it.
    pub owner_uid: u32,
    /// The destination's name.
    pub destination: String,
    /// How far it got.
    pub state: UploadState,
    /// Bytes that arrived and were synced.
    pub received_bytes: u64,
    /// Bytes that the store has taken.
    pub stored_bytes: u64,
    /// All bytes, once known.
    pub total_bytes: Option<u64>,
    /// The bucket.
    pub bucket: String,
    /// The whole key.
    pub key: String,
    /// The ETag, once stored.
    pub etag: Option<String>,
    /// The version, once stored in a versioned bucket.
    pub version_id: Option<String>,
    /// CRC64NVME of the whole content, once known.
    pub crc64nvme: Option<u64>,
    /// What went wrong last.
    pub failure: Option<UploadFailure>,
    /// When it was accepted.
    pub create_time: SystemTime,
    /// When it last changed.
    pub update_time: SystemTime,
    /// When it ended.
    pub end_time: Option<SystemTime>,
    /// When its receipt is forgotten; `None` while something is left to do with it.
    pub expire_time: Option<SystemTime>,
    /// The file on the device, where the bytes came from one.
    pub path: Option<String>,
    /// How many times sending was begun again.
    pub attempt_count: u32,
}

/// Which uploads to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only these kinds of state (a `Waiting` matches every reason); empty means all.
    pub states: Vec<UploadState>,
    /// Only those of this session.
    pub session: Option<SessionId>,
}

/// Why an upload call failed. `api/status.rs` maps every variant to a status.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// From the session registry.
    #[error(transparent)]
    Session(#[from] crate::session::SessionError),
    /// No such upload, or another uid's.
    #[error("no upload {0} of this uid: list yours with ListUploads")]
    NotFound(Ulid),
    /// No such destination.
    #[error("no destination {0:?} in the configuration; it has: {1}")]
    DestinationNotFound(String, String),
    /// The destination was left out and the configuration has several.
    #[error("the configuration has {0} destinations: say which one")]
    DestinationAmbiguous(usize),
    /// The key cannot be used.
    #[error("key {key:?}: {why}")]
    InvalidKey {
        /// As given.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another field of the spec cannot be used.
    #[error("{field}: {why}")]
    InvalidField {
        /// The field's path in the request.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The id names an upload with another spec.
    #[error("upload id {0} was used for an upload with another spec: make a new ULID")]
    IdReused(Ulid),
    /// The stream went on at the wrong place.
    #[error("the upload has {received_bytes} bytes, the stream goes on at {offset}: resume at {received_bytes}")]
    OffsetMismatch {
        /// What is here.
        received_bytes: u64,
        /// What the caller said.
        offset: u64,
    },
    /// Another stream is sending this upload now.
    #[error("another stream is sending upload {0} now")]
    Busy(Ulid),
    /// The upload has ended or is complete here already.
    #[error("upload {0} is {1}: it takes no more of this")]
    WrongState(Ulid, &'static str),
    /// More or fewer bytes than `finish` says.
    #[error("{received_bytes} bytes arrived, finish says {total_bytes}: nothing is sent; cancel it and upload again")]
    SizeMismatch {
        /// What is here.
        received_bytes: u64,
        /// What the caller said.
        total_bytes: u64,
    },
    /// The bytes are not the ones that the caller meant.
    #[error("{algorithm} of the bytes that arrived is {actual}, finish says {expected}: upload them again")]
    ChecksumMismatch {
        /// Which checksum.
        algorithm: &'static str,
        /// base64.
        actual: String,
        /// base64.
        expected: String,
    },
    /// The object would be larger than the store takes.
    #[error("{size_bytes} bytes, the most for one object is {limit_bytes}")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// No such file.
    #[error("{0}: no such file")]
    FileNotFound(String),
    /// Not a regular file.
    #[error("{path}: is {kind}, not a regular file")]
    NotARegularFile {
        /// The path.
        path: String,
        /// "a directory", "a FIFO", "a symbolic link".
        kind: &'static str,
    },
    /// The caller itself could not read it.
    #[error("{0}: uid {1} could not read this file, so it is not read for it: make it yours or world-readable")]
    FileNotReadable(String, u32),
    /// Outside the configured roots.
    #[error("{path}: is not beneath one of upload.file_roots ({roots})")]
    PathOutsideRoots {
        /// The path.
        path: String,
        /// The roots.
        roots: String,
    },
    /// The spool is full.
    #[error("the spool holds {used_bytes} of {limit_bytes} bytes{scope}: wait until uploads are done")]
    SpoolQuota {
        /// In use.
        used_bytes: u64,
        /// Allowed.
        limit_bytes: u64,
        /// " for this uid", or nothing.
        scope: &'static str,
    },
    /// The disk has too little room.
    #[error("the disk has {free_bytes} bytes free, less than the floor of {floor_bytes}: make room")]
    DiskFloor {
        /// Free.
        free_bytes: u64,
        /// The floor.
        floor_bytes: u64,
    },
    /// The state directory failed; nothing more is accepted until a restart.
    #[error("{0}")]
    Storage(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping: try again when it is back")]
    Stopping,
}

/// Counts and sizes.
#[derive(Debug, Clone, Default)]
pub struct UploadStats {
    /// Uploads by the state's name ("QUEUED").
    pub counts: BTreeMap<&'static str, u64>,
    /// Those that wait, by the reason's name ("OFFLINE").
    pub waiting: BTreeMap<&'static str, u64>,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// What the spool may hold.
    pub spool_limit_bytes: u64,
    /// Free bytes on the spool's file system.
    pub disk_free_bytes: u64,
    /// True between pause and resume.
    pub paused: bool,
    /// False after a failed sync.
    pub accepting: bool,
}
