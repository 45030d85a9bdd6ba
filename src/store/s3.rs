//! S3 and S3-compatibles. The only file that knows the AWS SDK of S3. Requests are signed at dispatch with the caller's
//! credentials and the corrected clock; the SDK's own retry and stall protection are off, because `upload` does both;
//! a part's checksum goes as a header, so nothing is chunk-encoded; HTTPS except on loopback.

use std::path::PathBuf;

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The bucket's name.
    pub bucket: String,
    /// The bucket's region.
    pub region: String,
    /// Another endpoint than AWS's; plain HTTP only on loopback.
    pub endpoint_url: Option<String>,
    /// `https://endpoint/bucket/key` instead of `https://bucket.endpoint/key`.
    pub path_style: bool,
    /// The account that must own the bucket, 12 digits: sent with every request.
    pub expected_bucket_owner: Option<String>,
    /// What proves the bytes to the store.
    pub checksum: Checksum,
    /// `If-None-Match: *` on every write that may not overwrite.
    pub conditional_writes: bool,
    /// PEM certificates to trust besides the system's own (and `SSL_CERT_FILE`'s).
    pub ca_file: Option<PathBuf>,
    /// How long connecting (DNS, TCP, TLS) may take.
    pub connect_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            region: "us-east-1".into(),
            endpoint_url: None,
            path_style: false,
            expected_bucket_owner: None,
            checksum: Checksum::Crc64Nvme,
            conditional_writes: true,
            ca_file: None,
            connect_timeout_ms: 3_000,
        }
    }
}

/// What proves the bytes to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// CRC64NVME with every part and for the whole object.
    #[default]
    Crc64Nvme,
    /// Nothing, for S3-likes without it; our own checks stay.
    None,
}

/// Checks the configuration and builds the client; connects to nothing. All requests share one connection pool.
///
/// # Errors
/// Plain HTTP off loopback, an unreadable `ca_file`, an empty bucket or region.
pub fn open(
    config: Config,
    clock: crate::clock::Clock,
) -> Result<std::sync::Arc<dyn super::ObjectStore>, super::StoreBuildError> {
    todo!()
}
