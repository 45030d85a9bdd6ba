//! Where objects end up. Owns the [`ObjectStore`] trait and its plug-ins; promises that every failure says whether the
//! write certainly did not happen or might have; must never retry by itself (that is `upload`) and never keep a live
//! handle: a multipart upload is addressed by ids, so that any later process can go on with it.

pub mod directory;
mod progress;
pub mod s3;

#[doc(hidden)]
pub mod conformance;
#[doc(hidden)]
pub mod faulty;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;

pub use self::progress::{Progress, RateLimit};

/// Takes objects. Clones of the `Arc` share connections.
#[async_trait::async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug + 'static {
    /// The bucket, or the directory: for showing.
    fn location(&self) -> &str;

    /// What this store can do.
    fn profile(&self) -> Profile;

    /// True where it is on this device: no link leads to it.
    fn is_local(&self) -> bool {
        false
    }

    /// Writes one object in one request.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn put(&self, signer: &Signer, target: &Target, body: &PartBody) -> Result<Stored, StoreError>;

    /// Begins a multipart upload; answers the store's id of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn create_multipart(&self, signer: &Signer, target: &Target) -> Result<String, StoreError>;

    /// Writes one part; the same number again replaces it.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn upload_part(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        number: u32,
        body: &PartBody,
    ) -> Result<PartReceipt, StoreError>;

    /// Makes the object visible.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn complete(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        parts: &[PartReceipt],
    ) -> Result<Stored, StoreError>;

    /// Forgets a multipart upload and its parts. One that is gone already is `NoSuchUpload`.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn abort(&self, signer: &Signer, target: &Target, multipart_id: &str) -> Result<(), StoreError>;

    /// The parts that the store has, by number.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn list_parts(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
    ) -> Result<Vec<PartReceipt>, StoreError>;

    /// What is at the key now; `None` where nothing is.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn head(&self, signer: &Signer, target: &Target) -> Result<Option<ObjectHead>, StoreError>;
}

/// The name of the user metadata that says which upload made an object.
pub const UPLOAD_ID_METADATA: &str = "tidegate-upload-id";

/// Whose credentials sign a request. Debug shows no secret.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The access key id.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: SecretString,
    /// The session token; absent for long-lived keys.
    pub session_token: Option<SecretString>,
}

/// What a store can do, so that `upload` asks for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// `If-None-Match: *` is honoured by `put` and `complete`.
    pub conditional_writes: bool,
    /// The store checks and reports CRC64NVME.
    pub crc64nvme: bool,
    /// The smallest part, except for the last one.
    pub part_min_bytes: u64,
    /// The largest part, and the largest single put.
    pub part_max_bytes: u64,
    /// The most parts of one object.
    pub part_max_count: u32,
    /// The largest object.
    pub object_max_bytes: u64,
}

impl Profile {
    /// S3's figures.
    pub const S3: Self = Self {
        conditional_writes: true,
        crc64nvme: true,
        part_min_bytes: 5 << 20,
        part_max_bytes: 5 << 30,
        part_max_count: 10_000,
        // 10,000 parts of 5 GiB.
        object_max_bytes: 10_000 * (5 << 30),
    };
}

/// One object that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The whole key.
    pub key: String,
    /// The Content-Type.
    pub content_type: String,
    /// User metadata, [`UPLOAD_ID_METADATA`] included.
    pub metadata: BTreeMap<String, String>,
    /// Fail with `PreconditionFailed` where the key is taken (on stores with `conditional_writes`).
    pub if_none_match: bool,
    /// The whole object's size.
    pub total_bytes: u64,
    /// The whole object's CRC64NVME; needed by `complete` and `put`.
    pub crc64nvme: Option<u64>,
}

/// A range of an open file: what one request sends. Read by position, so many may share the file, and reading it twice
/// gives the same bytes.
#[derive(Debug, Clone)]
pub struct PartBody {
    /// The file.
    pub file: Arc<std::fs::File>,
    /// Where the range starts.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
    /// CRC64NVME of the range.
    pub crc64nvme: u64,
    /// Told about every byte that is handed on; says how fast they may be.
    pub progress: Progress,
}

/// One part that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReceipt {
    /// 1 to 10,000.
    pub number: u32,
    /// As the store gave it.
    pub etag: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its CRC64NVME: ours where we sent it; from `list_parts` only where the store tells.
    pub crc64nvme: Option<u64>,
}

/// The object as the store confirmed it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// The ETag, as the store gave it.
    pub etag: Option<String>,
    /// The version, in versioned buckets.
    pub version_id: Option<String>,
    /// The whole object's CRC64NVME, where the store says it.
    pub crc64nvme: Option<u64>,
}

/// What is at a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectHead {
    /// What identifies it.
    pub stored: Stored,
    /// Its size.
    pub size_bytes: u64,
    /// Which of our uploads made it.
    pub upload_id: Option<String>,
}

/// Whether a failed write may have happened all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It certainly did not.
    NotDone,
    /// It might have.
    Unknown,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No connection: the link or the endpoint is down. Wait for it; nothing is wrong with the upload.
    Offline,
    /// The server's certificate is outside its dates by our clock: wait, never weaken the check.
    Clock,
    /// Broken off, stalled, or an answer that is none: try again.
    Interrupted,
    /// The store asks for patience.
    Throttled,
    /// The store failed.
    Server,
    /// The credentials are past their time: get new ones.
    CredentialsExpired,
    /// The signature's time is off; the server's own was taken over from the answer: sign again.
    ClockSkew,
    /// These credentials may not do that.
    AccessDenied,
    /// The key is taken.
    PreconditionFailed,
    /// Another write is going on at the key.
    Conflict,
    /// The store does not know the multipart upload: begin another.
    NoSuchUpload,
    /// The parts do not fit the multipart upload: begin another.
    InvalidParts,
    /// The bytes that arrived have another checksum.
    BadDigest,
    /// The body could not be read here.
    Source,
    /// This store cannot do this operation at all.
    Unsupported,
    /// The store refuses the request for good: configuration or request are wrong.
    Refused,
}

/// Why a store call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct StoreError {
    /// Which operation, for example "PutObject".
    pub operation: &'static str,
    /// What to do about it.
    pub kind: StoreErrorKind,
    /// Whether it may have happened.
    pub outcome: Outcome,
    /// The store's code, for example "SlowDown".
    pub code: Option<String>,
    /// For a person; holds no secret and no key.
    pub message: String,
}

impl StoreError {
    /// A failure after which the write certainly did not happen.
    pub fn not_done(operation: &'static str, kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { operation, kind, outcome: Outcome::NotDone, code: None, message: message.into() }
    }

    /// A failure after which the write might have happened.
    pub fn unknown(operation: &'static str, kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { operation, kind, outcome: Outcome::Unknown, code: None, message: message.into() }
    }
}

/// A store cannot be built from its configuration.
#[derive(Debug, Clone, thiserror::Error)]
#[error("destination {location:?}: {why}")]
pub struct StoreBuildError {
    /// The bucket or the directory.
    pub location: String,
    /// What is wrong and what to do.
    pub why: String,
}
