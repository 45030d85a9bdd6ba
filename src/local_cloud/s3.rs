//! S3: buckets from the template, objects and multipart uploads on disk.
//!
//! `s3s` parses requests, checks their signatures and frames the bytes; this room decides who may do what, keeps the
//! objects, and verifies every checksum that a client states. Promises that a key is never a path (`a/../b` is a
//! literal key), that a conditional write decides and writes in one step, and that what was stored is there after a
//! restart on the same directory. Never forgives a missing or foreign session token.

mod access;
mod blob;
mod checksum;
mod index;
mod listing;
mod multipart;
mod object;
mod operation;
mod race;
mod service;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::clock::unix_ms;
use crate::local_cloud::iam::Policy;
use crate::local_cloud::seed::BucketSeed;
use crate::local_cloud::site::Site;
use crate::local_cloud::sts::Sts;

use blob::{Blobs, Segment};
use checksum::Digests;
use index::{Index, IndexError};
pub use operation::{S3Target, decode, operation_of};
use race::Races;

/// Fewest bytes of a part that is not the last.
pub const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
/// Most bytes of a part, and of an object that comes in one piece.
pub const MAX_PART_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// The highest part number.
pub const MAX_PARTS: u32 = 10_000;

const MAX_METADATA_BYTES: usize = 2 * 1024;
const DAY: Duration = Duration::from_secs(86_400);

/// The buckets; clones share them.
#[derive(Debug, Clone)]
pub struct Buckets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    site: Site,
    sts: Sts,
    buckets: BTreeMap<String, Bucket>,
    blobs: Blobs,
    index: Arc<Mutex<Index>>,
    races: Races,
}

/// A bucket as the template describes it.
#[derive(Debug, Clone)]
struct Bucket {
    seed: BucketSeed,
    policy: Option<Policy>,
    created_unix_ms: i64,
}

/// Why S3 could not start.
#[derive(Debug, thiserror::Error)]
pub enum S3StartError {
    /// The directory of the objects cannot be used.
    #[error("the local cloud cannot keep objects in {directory}: {source}; give it a directory that is writable")]
    Directory {
        /// The directory.
        directory: String,
        /// The file system's reason.
        source: std::io::Error,
    },
    /// The index cannot be used.
    #[error(
        "the local cloud cannot use its object index in {directory}: {reason}; delete the directory to start afresh"
    )]
    Index {
        /// The directory.
        directory: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A bucket policy of the template is not one.
    #[error("the policy of the bucket {bucket} is not valid: {reason}; correct it in the template")]
    BucketPolicy {
        /// The bucket.
        bucket: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Buckets {
    /// Opens `directory`, makes it where it is missing, and clears uploads whose lifecycle rule says so.
    ///
    /// # Errors
    /// [`S3StartError`].
    pub fn start(site: &Site, sts: &Sts, directory: &Path, seeds: &[BucketSeed]) -> Result<Self, S3StartError> {
        let named = || directory.display().to_string();
        let unusable = |source| S3StartError::Directory { directory: named(), source };
        let broken = |error: IndexError| S3StartError::Index { directory: named(), reason: error.to_string() };
        let blobs = Blobs::open(&directory.join("blobs")).map_err(unusable)?;
        let mut index = Index::open(&directory.join("index.sqlite")).map_err(broken)?;
        let now_unix_ms = unix_ms(site.clock.wall());
        let mut buckets = BTreeMap::new();
        for seed in seeds {
            let created_unix_ms = index.ensure_bucket(&seed.name, now_unix_ms).map_err(broken)?;
            abort_stale(&mut index, seed, now_unix_ms).map_err(broken)?;
            let policy = access::bucket_policy(seed)?;
            buckets.insert(seed.name.clone(), Bucket { seed: seed.clone(), policy, created_unix_ms });
        }
        blobs.sweep(&index.files().map_err(broken)?).map_err(unusable)?;
        Ok(Self(Arc::new(Inner {
            site: site.clone(),
            sts: sts.clone(),
            buckets,
            blobs,
            index: Arc::new(Mutex::new(index)),
            races: Races::default(),
        })))
    }

    /// The service behind which the buckets are reached.
    pub fn service(&self) -> S3Service {
        let mut config = S3Config::default();
        // The skew is checked by the server, against the cloud's own clock.
        config.presigned_url_max_skew_time_secs = u32::MAX;
        let mut builder = S3ServiceBuilder::new(service::Service(self.clone()));
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        builder.set_auth(access::Gate(self.clone()));
        builder.set_access(access::Gate(self.clone()));
        builder.build()
    }

    /// The buckets' names.
    pub fn names(&self) -> Vec<String> {
        self.0.buckets.keys().cloned().collect()
    }

    fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        self.0.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
    }

    fn now_unix_ms(&self) -> i64 {
        unix_ms(self.0.site.clock.wall())
    }

    /// Works on the index on a blocking thread; what it says is no longer referred to is removed.
    async fn index<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Index) -> Result<T, IndexError> + Send + 'static,
    ) -> S3Result<T> {
        let index = Arc::clone(&self.0.index);
        tokio::task::spawn_blocking(move || {
            let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut index)
        })
        .await
        .map_err(S3Error::internal_error)?
        .map_err(index_failure)
    }

    /// As [`Buckets::index`], for changes: the files that they free are removed, and the bytes that they were about
    /// are removed too where the change is refused.
    async fn change(
        &self,
        stored: Option<Stored>,
        work: impl FnOnce(&mut Index) -> Result<Vec<String>, IndexError> + Send + 'static,
    ) -> S3Result<()> {
        let blobs = self.0.blobs.clone();
        self.index(move |index| {
            let freed = work(index)?;
            if let Some(stored) = stored {
                stored.adopt();
            }
            blobs.remove(freed);
            Ok(())
        })
        .await
    }
}

/// Bytes that arrived but belong to nothing yet; they are removed unless they are adopted.
struct Stored {
    blobs: Blobs,
    segment: Segment,
    digests: Digests,
    adopted: bool,
}

impl Stored {
    fn adopt(mut self) {
        self.adopted = true;
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if !self.adopted {
            self.blobs.remove(vec![self.segment.file.clone()]);
        }
    }
}

/// An error whose code S3 has but `s3s` may not.
fn failure(status: u16, code: &str, message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, message);
    if let Ok(status) = StatusCode::from_u16(status) {
        error.set_status_code(status);
    }
    error
}

fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

fn index_failure(error: IndexError) -> S3Error {
    match error {
        IndexError::Precondition => {
            s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
        }
        IndexError::NoSuchKey => no_such_key(),
        IndexError::NoSuchUpload => s3_error!(
            NoSuchUpload,
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted \
             or completed."
        ),
        // As S3 says whenever asking again helps.
        IndexError::PartReplaced | IndexError::Database(_) | IndexError::Record(_) => S3Error::internal_error(error),
    }
}

fn abort_stale(index: &mut Index, seed: &BucketSeed, now_unix_ms: i64) -> Result<(), IndexError> {
    let Some(days) = seed.abort_multipart_after_days else { return Ok(()) };
    let age_ms = i64::try_from((DAY * days).as_millis()).unwrap_or(i64::MAX);
    for upload in index.uploads(&seed.name, "")? {
        if upload.initiated_unix_ms.saturating_add(age_ms) < now_unix_ms {
            // The sweep that follows removes the files.
            index.abort(&seed.name, &upload.key, &upload.id)?;
        }
    }
    Ok(())
}
