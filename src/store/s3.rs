//! S3 and S3-compatibles. The only file that knows the AWS SDK of S3. Requests are signed at dispatch with the caller's
//! credentials and the corrected clock; the SDK's own retry and stall protection are off, because `upload` does both;
//! a part's checksum goes as a header, so nothing is chunk-encoded; HTTPS except on loopback.

mod answer;
mod body;
mod digest;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, ConfigBag, Credentials, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use aws_smithy_async::time::TimeSource;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_types::date_time::Format;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;

use self::answer::{failed, unreadable};
use super::{
    ObjectHead, ObjectStore, PartBody, PartReceipt, Profile, Signer, StoreBuildError, StoreError, StoreErrorKind,
    Stored, Target, UPLOAD_ID_METADATA,
};
use crate::clock::Clock;

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
    /// MD5 with every part (Content-MD5, which every S3-like knows), for those without CRC64NVME.
    Md5,
    /// Nothing, for S3-likes that know neither; our own checks stay, and TLS's.
    None,
}

/// Checks the configuration and builds the client; connects to nothing. All requests share one connection pool.
///
/// # Errors
/// Plain HTTP off loopback, an unreadable `ca_file`, an empty bucket or region.
pub fn open(config: Config, clock: Clock) -> Result<Arc<dyn ObjectStore>, StoreBuildError> {
    let refuse = |why: String| StoreBuildError { location: config.bucket.clone(), why };
    if config.bucket.is_empty() {
        return Err(refuse("bucket is empty: name the bucket".into()));
    }
    if config.region.is_empty() {
        return Err(refuse("region is empty: name the bucket's region".into()));
    }
    let mut path_style = config.path_style;
    let mut is_local = false;
    if let Some(url) = &config.endpoint_url {
        let uri: http::Uri = url.parse().map_err(|why| refuse(format!("endpoint_url {url:?}: {why}")))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<IpAddr>().ok();
        // A bucket cannot stand before an address.
        path_style |= address.is_some();
        let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        is_local = loopback;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if loopback => {}
            Some("http") => {
                return Err(refuse(format!("endpoint_url {url:?}: plain HTTP only on loopback: use https")));
            }
            _ => return Err(refuse(format!("endpoint_url {url:?}: must start with https://"))),
        }
    }
    // Plain HTTP on loopback needs no roots, and a machine for tests may have none.
    let plain = config.endpoint_url.as_ref().is_some_and(|url| url.starts_with("http://"));
    let mut roots = if plain { TrustStore::empty() } else { TrustStore::default() };
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path).map_err(|why| refuse(format!("ca_file {}: {why}", path.display())))?;
        check_certificates(&pem).map_err(|why| refuse(format!("ca_file {}: {why}", path.display())))?;
        roots.add_pem_certificate(pem);
    }
    let tls = TlsContext::builder().with_trust_store(roots).build();
    let tls = tls.map_err(|why| refuse(format!("TLS cannot be set up: {why}")))?;
    let http_client = aws_smithy_http_client::Builder::new()
        .pool_max_idle_per_host(POOL_MAX_IDLE)
        .pool_idle_timeout(POOL_IDLE)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls)
        .build_https();
    let timeouts = TimeoutConfig::builder().connect_timeout(Duration::from_millis(config.connect_timeout_ms)).build();
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client)
        .region(Region::new(config.region.clone()))
        .force_path_style(path_style)
        .disable_s3_express_session_auth(true)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .identity_cache(IdentityCache::no_cache())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .time_source(SigningClock(clock.clone()))
        .disable_clock_skew_correction(true)
        .interceptor(DateWatch(clock));
    if let Some(url) = &config.endpoint_url {
        builder = builder.endpoint_url(url);
    }
    Ok(Arc::new(S3Store { client: Client::from_conf(builder.build()), config, is_local }))
}

/// The SDK reads certificates when it first connects, and panics over those that it cannot read.
fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|why| why.to_string())?;
    if certificates.is_empty() {
        return Err("holds no PEM certificate".into());
    }
    let checked = reqwest::Client::builder().tls_certs_only(certificates).build();
    checked.map(drop).map_err(|why| format!("a certificate cannot be read: {}", answer::chain(&why)))
}

/// Idle connections that are kept; as many as requests are ever in flight at once.
const POOL_MAX_IDLE: usize = 16;
/// S3 closes idle connections after about 20 s: reusing a connection that is about to be closed costs an attempt.
const POOL_IDLE: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct S3Store {
    client: Client,
    config: Config,
    is_local: bool,
}

#[derive(Debug)]
struct SigningClock(Clock);

impl TimeSource for SigningClock {
    fn now(&self) -> SystemTime {
        self.0.wall()
    }
}

/// Takes the time from every answer. All of them come over verified TLS or loopback, because `open` allows nothing else.
#[derive(Debug)]
struct DateWatch(Clock);

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for DateWatch {
    fn name(&self) -> &'static str {
        "DateWatch"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| aws_smithy_types::DateTime::from_str(text, Format::HttpDate).ok());
        if let Some(date) = date.and_then(|date| SystemTime::try_from(date).ok()) {
            self.0.observe_server_date(date);
        }
        Ok(())
    }
}

impl S3Store {
    fn signed_by(signer: &Signer) -> Builder {
        let credentials = Credentials::new(
            &signer.access_key_id,
            signer.secret_access_key.expose_secret(),
            signer.session_token.as_ref().map(|token| token.expose_secret().to_owned()),
            None,
            "tidegate",
        );
        Builder::new().credentials_provider(credentials).identity_cache(IdentityCache::no_cache())
    }

    fn owner(&self) -> Option<String> {
        self.config.expected_bucket_owner.clone()
    }

    fn sends_crc(&self) -> bool {
        self.config.checksum == Checksum::Crc64Nvme
    }

    fn condition(&self, target: &Target) -> Option<String> {
        (target.if_none_match && self.config.conditional_writes).then(|| "*".to_owned())
    }

    fn crc(&self, crc64nvme: Option<u64>) -> Option<String> {
        crc64nvme.filter(|_| self.sends_crc()).map(encode_crc)
    }

    async fn md5(&self, operation: &'static str, body: &PartBody) -> Result<Option<String>, StoreError> {
        match self.config.checksum {
            Checksum::Md5 => digest::content_md5(operation, body).await.map(Some),
            Checksum::Crc64Nvme | Checksum::None => Ok(None),
        }
    }

    /// What the store says of the bytes that it took. One that says nothing where it should does not check them.
    fn proven(&self, operation: &'static str, told: Option<u64>, sent: u64) -> Result<(), StoreError> {
        match told {
            _ if !self.sends_crc() => Ok(()),
            Some(told) if told == sent => Ok(()),
            Some(_) => {
                let why = "the store confirmed another checksum than was sent";
                Err(StoreError::unknown(operation, StoreErrorKind::BadDigest, why))
            }
            None => {
                let why = "the store does not confirm the bytes' CRC64NVME, so it may not check them: set checksum = \
                           \"md5\" for this destination";
                Err(StoreError::unknown(operation, StoreErrorKind::Refused, why))
            }
        }
    }
}

fn encode_crc(crc64nvme: u64) -> String {
    STANDARD.encode(crc64nvme.to_be_bytes())
}

fn decode_crc(text: Option<&str>) -> Option<u64> {
    let bytes = STANDARD.decode(text?).ok()?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// Sizes stay below 49 TiB, so this never saturates.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[async_trait::async_trait]
impl ObjectStore for S3Store {
    fn location(&self) -> &str {
        &self.config.bucket
    }

    fn is_local(&self) -> bool {
        self.is_local
    }

    fn profile(&self) -> Profile {
        Profile { conditional_writes: self.config.conditional_writes, crc64nvme: self.sends_crc(), ..Profile::S3 }
    }

    async fn put(&self, signer: &Signer, target: &Target, body: &PartBody) -> Result<Stored, StoreError> {
        let md5 = self.md5("PutObject", body).await?;
        let answer = self
            .client
            .put_object()
            .bucket(&self.config.bucket)
            .key(&target.key)
            .content_type(&target.content_type)
            .set_metadata(Some(target.metadata.clone().into_iter().collect()))
            .set_if_none_match(self.condition(target))
            .set_expected_bucket_owner(self.owner())
            .set_checksum_crc64_nvme(self.crc(Some(body.crc64nvme)))
            .set_content_md5(md5)
            .content_length(signed(body.len))
            .body(body::stream(body, !self.sends_crc()))
            .customize()
            .config_override(Self::signed_by(signer))
            .disable_payload_signing()
            .send()
            .await
            .map_err(|why| failed("PutObject", &why))?;
        let told = decode_crc(answer.checksum_crc64_nvme());
        if told.is_none() {
            self.proven("PutObject", None, body.crc64nvme)?;
        }
        Ok(Stored { crc64nvme: told, etag: answer.e_tag, version_id: answer.version_id })
    }

    async fn create_multipart(&self, signer: &Signer, target: &Target) -> Result<String, StoreError> {
        let crc = self.sends_crc();
        let answer = self
            .client
            .create_multipart_upload()
            .bucket(&self.config.bucket)
            .key(&target.key)
            .content_type(&target.content_type)
            .set_metadata(Some(target.metadata.clone().into_iter().collect()))
            .set_expected_bucket_owner(self.owner())
            .set_checksum_algorithm(crc.then_some(ChecksumAlgorithm::Crc64Nvme))
            .set_checksum_type(crc.then_some(ChecksumType::FullObject))
            .customize()
            .config_override(Self::signed_by(signer))
            .send()
            .await
            .map_err(|why| failed("CreateMultipartUpload", &why))?;
        answer.upload_id.filter(|id| !id.is_empty()).ok_or_else(|| unreadable("CreateMultipartUpload", "an upload id"))
    }

    async fn upload_part(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        number: u32,
        body: &PartBody,
    ) -> Result<PartReceipt, StoreError> {
        let md5 = self.md5("UploadPart", body).await?;
        let answer = self
            .client
            .upload_part()
            .bucket(&self.config.bucket)
            .key(&target.key)
            .upload_id(multipart_id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .set_expected_bucket_owner(self.owner())
            .set_checksum_crc64_nvme(self.crc(Some(body.crc64nvme)))
            .set_content_md5(md5)
            .content_length(signed(body.len))
            .body(body::stream(body, !self.sends_crc()))
            .customize()
            .config_override(Self::signed_by(signer))
            .disable_payload_signing()
            .send()
            .await
            .map_err(|why| failed("UploadPart", &why))?;
        self.proven("UploadPart", decode_crc(answer.checksum_crc64_nvme()), body.crc64nvme)?;
        let etag = answer.e_tag.ok_or_else(|| unreadable("UploadPart", "an ETag"))?;
        Ok(PartReceipt { number, etag, size_bytes: body.len, crc64nvme: Some(body.crc64nvme) })
    }

    async fn complete(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        parts: &[PartReceipt],
    ) -> Result<Stored, StoreError> {
        let crc = self.sends_crc();
        let parts = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .e_tag(&part.etag)
                .set_checksum_crc64_nvme(self.crc(part.crc64nvme))
                .build()
        });
        let whole = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let answer = self
            .client
            .complete_multipart_upload()
            .bucket(&self.config.bucket)
            .key(&target.key)
            .upload_id(multipart_id)
            .multipart_upload(whole)
            .set_if_none_match(self.condition(target))
            .set_expected_bucket_owner(self.owner())
            .set_checksum_crc64_nvme(self.crc(target.crc64nvme))
            .set_checksum_type(crc.then_some(ChecksumType::FullObject))
            .set_mpu_object_size(crc.then_some(signed(target.total_bytes)))
            .customize()
            .config_override(Self::signed_by(signer))
            .send()
            .await
            .map_err(|why| failed("CompleteMultipartUpload", &why))?;
        // A 200 is sent before the work is done; what makes it a success is the result that follows.
        if answer.e_tag.is_none() {
            return Err(unreadable("CompleteMultipartUpload", "an ETag"));
        }
        Ok(Stored {
            crc64nvme: decode_crc(answer.checksum_crc64_nvme()),
            etag: answer.e_tag,
            version_id: answer.version_id,
        })
    }

    async fn abort(&self, signer: &Signer, target: &Target, multipart_id: &str) -> Result<(), StoreError> {
        self.client
            .abort_multipart_upload()
            .bucket(&self.config.bucket)
            .key(&target.key)
            .upload_id(multipart_id)
            .set_expected_bucket_owner(self.owner())
            .customize()
            .config_override(Self::signed_by(signer))
            .send()
            .await
            .map_err(|why| failed("AbortMultipartUpload", &why))?;
        Ok(())
    }

    async fn list_parts(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
    ) -> Result<Vec<PartReceipt>, StoreError> {
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let page = self
                .client
                .list_parts()
                .bucket(&self.config.bucket)
                .key(&target.key)
                .upload_id(multipart_id)
                .set_part_number_marker(marker.take())
                .set_expected_bucket_owner(self.owner())
                .customize()
                .config_override(Self::signed_by(signer))
                .send()
                .await
                .map_err(|why| failed("ListParts", &why))?;
            for part in page.parts() {
                found.push(PartReceipt {
                    number: part.part_number().and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
                    etag: part.e_tag().unwrap_or_default().to_owned(),
                    size_bytes: part.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    crc64nvme: decode_crc(part.checksum_crc64_nvme()),
                });
            }
            marker = page.next_part_number_marker().map(str::to_owned);
            // The second condition ends the walk at a store that pages without end.
            if page.is_truncated() != Some(true) || marker.is_none() || found.len() > 10_000 {
                return Ok(found);
            }
        }
    }

    async fn head(&self, signer: &Signer, target: &Target) -> Result<Option<ObjectHead>, StoreError> {
        let crc = self.sends_crc();
        let answer = self
            .client
            .head_object()
            .bucket(&self.config.bucket)
            .key(&target.key)
            .set_expected_bucket_owner(self.owner())
            .set_checksum_mode(crc.then_some(aws_sdk_s3::types::ChecksumMode::Enabled))
            .customize()
            .config_override(Self::signed_by(signer))
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) if why.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) => return Ok(None),
            Err(why) => return Err(failed("HeadObject", &why)),
        };
        let upload_id = answer.metadata().and_then(|metadata| metadata.get(UPLOAD_ID_METADATA)).cloned();
        Ok(Some(ObjectHead {
            size_bytes: answer.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or(0),
            upload_id,
            stored: Stored {
                crc64nvme: decode_crc(answer.checksum_crc64_nvme()),
                etag: answer.e_tag,
                version_id: answer.version_id,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        let at = |url: &str| Config { bucket: "photos".into(), endpoint_url: Some(url.into()), ..Config::default() };
        for url in ["http://127.0.0.1:9000", "http://localhost:1", "http://[::1]:1", "https://s3.example"] {
            open(at(url), Clock::system()).unwrap();
        }
        for url in ["http://s3.example", "http://10.0.0.1", "ftp://127.0.0.1", "nonsense"] {
            assert!(open(at(url), Clock::system()).is_err(), "{url}");
        }
    }

    #[test]
    fn a_ca_file_must_hold_certificates() {
        let nonsense = "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n";
        for (text, why) in [("", "no PEM certificate"), (nonsense, "cannot be read")] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let config = Config { bucket: "photos".into(), ca_file: Some(file.path().to_owned()), ..Config::default() };
            let error = open(config, Clock::system()).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn checksums_are_base64_of_big_endian() {
        assert_eq!(encode_crc(0xae8b_1486_0a79_9888), "rosUhgp5mIg=");
        assert_eq!(decode_crc(Some("rosUhgp5mIg=")), Some(0xae8b_1486_0a79_9888));
        assert_eq!(decode_crc(Some("rosU")), None);
    }
}
