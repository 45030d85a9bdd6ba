//! Whole objects: put, get, head, copy, delete.

use std::collections::BTreeMap;
use std::io::Read;

use http::HeaderMap;
use s3s::dto::{
    ChecksumMode, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, DeleteObjectInput,
    DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, ETagCondition, GetObjectInput,
    GetObjectOutput, HeadObjectInput, HeadObjectOutput, Metadata, PutObjectInput, PutObjectOutput, Range, Timestamp,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::access::Resolved;
use super::checksum::{Algorithm, Checksum, Claim, Coverage};
use super::index::{Attributes, Condition, Object};
use super::{Buckets, MAX_METADATA_BYTES, MAX_PART_BYTES, Stored, failure, no_such_key};
use crate::clock::from_unix_ms;

/// Bytes that a copy takes at a time.
const COPY_BYTES: usize = 256 * 1024;

impl Buckets {
    pub(super) async fn put(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let claim = Claim::read(&req.headers)?;
        let attributes = Attributes::read(&req.headers, req.input.metadata.as_ref())?;
        let input = req.input;
        let (bucket, key) = (input.bucket, input.key);
        let condition = condition(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let versioned = self.bucket(&bucket)?.seed.versioning;
        check_size(input.content_length)?;
        let writer = (condition != Condition::None).then(|| self.0.races.begin(&bucket, &key));
        self.check_condition(&bucket, &key, &condition).await?;
        let stored = self.receive(&bucket, &key, input.body, claim.algorithm()).await?;
        let trailer = req.trailing_headers.and_then(|trailer| trailer.take());
        claim.verify(&stored.digests, trailer.as_ref())?;
        let algorithm = claim.algorithm().unwrap_or(Algorithm::Crc64Nvme);
        let checksum = stored.digests.base64(algorithm);
        let checksum = checksum.map(|value| Checksum { algorithm, value, coverage: Coverage::FullObject });
        let object = Object {
            version_id: new_version_id(versioned),
            delete_marker: false,
            etag: stored.digests.etag(),
            size: stored.segment.size,
            modified_unix_ms: self.now_unix_ms(),
            segments: vec![stored.segment.clone()],
            parts: None,
            attributes,
            checksum,
            bucket,
            key,
        };
        if let Some(writer) = &writer {
            writer.check()?;
        }
        let written = object.clone();
        self.change(Some(stored), move |index| index.put(&written, &condition, versioned)).await?;
        let checksum = object.checksum.as_ref();
        Ok(S3Response::new(PutObjectOutput {
            checksum_crc32: Checksum::of(checksum, Algorithm::Crc32),
            checksum_crc32c: Checksum::of(checksum, Algorithm::Crc32c),
            checksum_crc64nvme: Checksum::of(checksum, Algorithm::Crc64Nvme),
            checksum_sha1: Checksum::of(checksum, Algorithm::Sha1),
            checksum_sha256: Checksum::of(checksum, Algorithm::Sha256),
            checksum_type: checksum.map(|checksum| checksum.coverage.name().to_owned().into()),
            e_tag: Some(ETag::Strong(object.etag)),
            version_id: versioned.then_some(object.version_id),
            ..Default::default()
        }))
    }

    pub(super) async fn get(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let resolved = Resolved::of(&req.extensions)?;
        let input = req.input;
        // Before the lookup: what it finds must stay until it is read.
        let lease = self.0.blobs.lease();
        let versioned = self.bucket(&input.bucket)?.seed.versioning;
        let object = self.find(&resolved, &input.bucket, &input.key, input.version_id).await?;
        check_read(
            &object,
            &ReadConditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            },
        )?;
        let (start, length) = extent(&object, input.range, input.part_number)?;
        let partial = input.range.is_some() || input.part_number.is_some();
        let shown = object.checksum.as_ref();
        let shown = shown.filter(|_| wants_checksum(input.checksum_mode.as_ref()) && !partial);
        let attributes = object.attributes;
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            body: Some(self.0.blobs.read(lease, object.segments, start, length)),
            cache_control: attributes.cache_control,
            checksum_crc32: Checksum::of(shown, Algorithm::Crc32),
            checksum_crc32c: Checksum::of(shown, Algorithm::Crc32c),
            checksum_crc64nvme: Checksum::of(shown, Algorithm::Crc64Nvme),
            checksum_sha1: Checksum::of(shown, Algorithm::Sha1),
            checksum_sha256: Checksum::of(shown, Algorithm::Sha256),
            checksum_type: shown.map(|checksum| checksum.coverage.name().to_owned().into()),
            content_disposition: attributes.content_disposition,
            content_encoding: attributes.content_encoding,
            content_language: attributes.content_language,
            content_length: Some(signed(length)),
            content_range: partial.then(|| content_range(start, length, object.size)),
            content_type: attributes.content_type,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(timestamp(object.modified_unix_ms)),
            metadata: metadata(&attributes.metadata),
            parts_count: input.part_number.and(object.parts).and_then(|parts| i32::try_from(parts).ok()),
            version_id: versioned.then_some(object.version_id),
            ..Default::default()
        }))
    }

    pub(super) async fn head(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let resolved = Resolved::of(&req.extensions)?;
        let input = req.input;
        let versioned = self.bucket(&input.bucket)?.seed.versioning;
        let object = self.find(&resolved, &input.bucket, &input.key, input.version_id).await?;
        check_read(
            &object,
            &ReadConditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            },
        )?;
        let (start, length) = extent(&object, input.range, input.part_number)?;
        let partial = input.range.is_some() || input.part_number.is_some();
        let shown = object.checksum.as_ref();
        let shown = shown.filter(|_| wants_checksum(input.checksum_mode.as_ref()) && !partial);
        let attributes = object.attributes;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            cache_control: attributes.cache_control,
            checksum_crc32: Checksum::of(shown, Algorithm::Crc32),
            checksum_crc32c: Checksum::of(shown, Algorithm::Crc32c),
            checksum_crc64nvme: Checksum::of(shown, Algorithm::Crc64Nvme),
            checksum_sha1: Checksum::of(shown, Algorithm::Sha1),
            checksum_sha256: Checksum::of(shown, Algorithm::Sha256),
            checksum_type: shown.map(|checksum| checksum.coverage.name().to_owned().into()),
            content_disposition: attributes.content_disposition,
            content_encoding: attributes.content_encoding,
            content_language: attributes.content_language,
            content_length: Some(signed(length)),
            content_range: partial.then(|| content_range(start, length, object.size)),
            content_type: attributes.content_type,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(timestamp(object.modified_unix_ms)),
            metadata: metadata(&attributes.metadata),
            parts_count: input.part_number.and(object.parts).and_then(|parts| i32::try_from(parts).ok()),
            version_id: versioned.then_some(object.version_id),
            ..Default::default()
        }))
    }

    pub(super) async fn copy(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let resolved = Resolved::of(&req.extensions)?;
        let replaces = req.input.metadata_directive.as_ref().is_some_and(|directive| directive.as_str() == "REPLACE");
        let given = Attributes::read(&req.headers, req.input.metadata.as_ref())?;
        let input = req.input;
        let CopySource::Bucket { bucket: from_bucket, key: from_key, version_id } = input.copy_source else {
            return Err(s3_error!(NotImplemented, "Access points are not known here."));
        };
        if *from_bucket == *input.bucket && *from_key == *input.key && !replaces {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the \
                 object's metadata, storage class, website redirect location or encryption attributes."
            ));
        }
        self.authorize(&resolved, "s3:GetObject", &from_bucket, Some(&from_key))?;
        let lease = self.0.blobs.lease();
        let source = self.find(&resolved, &from_bucket, &from_key, version_id.map(String::from)).await?;
        let versioned = self.bucket(&input.bucket)?.seed.versioning;
        let wanted = input.checksum_algorithm.as_ref().and_then(|named| Algorithm::parse(named.as_str()));
        let algorithm = wanted.unwrap_or(Algorithm::Crc64Nvme);
        let segments = source.segments.clone();
        let mut draft = self.0.blobs.draft(&input.bucket, &input.key, &[algorithm]);
        let blobs = self.0.blobs.clone();
        let (segment, digests) = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; COPY_BYTES];
            for segment in &segments {
                let mut file = std::fs::File::open(blobs.path(&segment.file))?;
                loop {
                    let read = file.read(&mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    draft.write(&buffer[..read])?;
                }
            }
            draft.keep()
        })
        .await
        .map_err(S3Error::internal_error)?
        .map_err(S3Error::internal_error)?;
        drop(lease);
        let stored = Stored { blobs: self.0.blobs.clone(), segment, digests, adopted: false };
        let checksum = stored.digests.base64(algorithm);
        let object = Object {
            version_id: new_version_id(versioned),
            delete_marker: false,
            etag: stored.digests.etag(),
            size: stored.segment.size,
            modified_unix_ms: self.now_unix_ms(),
            segments: vec![stored.segment.clone()],
            parts: None,
            attributes: if replaces { given } else { source.attributes },
            checksum: checksum.map(|value| Checksum { algorithm, value, coverage: Coverage::FullObject }),
            bucket: input.bucket,
            key: input.key,
        };
        let written = object.clone();
        self.change(Some(stored), move |index| index.put(&written, &Condition::None, versioned)).await?;
        let checksum = object.checksum.as_ref();
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                checksum_crc32: Checksum::of(checksum, Algorithm::Crc32),
                checksum_crc32c: Checksum::of(checksum, Algorithm::Crc32c),
                checksum_crc64nvme: Checksum::of(checksum, Algorithm::Crc64Nvme),
                checksum_sha1: Checksum::of(checksum, Algorithm::Sha1),
                checksum_sha256: Checksum::of(checksum, Algorithm::Sha256),
                checksum_type: checksum.map(|checksum| checksum.coverage.name().to_owned().into()),
                e_tag: Some(ETag::Strong(object.etag)),
                last_modified: Some(timestamp(object.modified_unix_ms)),
            }),
            version_id: versioned.then_some(object.version_id),
            ..Default::default()
        }))
    }

    pub(super) async fn delete(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        if input.if_match.is_some() || input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
            return Err(not_implemented());
        }
        let marker = self.remove(&input.bucket, &input.key, input.version_id.clone()).await?;
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: marker.is_some().then_some(true),
            version_id: marker.or(input.version_id),
            ..Default::default()
        }))
    }

    pub(super) async fn delete_many(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let resolved = Resolved::of(&req.extensions)?;
        let input = req.input;
        if input.delete.objects.is_empty() || input.delete.objects.len() > 1_000 {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided was not well-formed or did not validate against our published schema"
            ));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            let action = if object.version_id.is_some() { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" };
            let result = match self.authorize(&resolved, action, &input.bucket, Some(&object.key)) {
                Ok(()) => self.remove(&input.bucket, &object.key, object.version_id.clone()).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(marker) if !quiet => deleted.push(DeletedObject {
                    delete_marker: marker.is_some().then_some(true),
                    delete_marker_version_id: marker,
                    key: Some(object.key),
                    version_id: object.version_id,
                }),
                Ok(_) => {}
                Err(error) => errors.push(s3s::dto::Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), request_charged: None }))
    }

    /// Stores a body; what comes back removes itself unless it is adopted.
    pub(super) async fn receive(
        &self,
        bucket: &str,
        key: &str,
        body: Option<s3s::dto::StreamingBlob>,
        wanted: impl IntoIterator<Item = Algorithm>,
    ) -> S3Result<Stored> {
        let wanted: Vec<_> = wanted.into_iter().collect();
        let (segment, digests) = self.0.blobs.receive(bucket, key, body, &wanted).await?;
        Ok(Stored { blobs: self.0.blobs.clone(), segment, digests, adopted: false })
    }

    pub(super) async fn check_condition(&self, bucket: &str, key: &str, condition: &Condition) -> S3Result<()> {
        if *condition == Condition::None {
            return Ok(());
        }
        let (bucket, key, condition) = (bucket.to_owned(), key.to_owned(), condition.clone());
        self.index(move |index| index.check(&bucket, &key, &condition)).await
    }

    /// The object, or S3's words for its absence; these depend on whether the caller may list the bucket.
    async fn find(&self, resolved: &Resolved, bucket: &str, key: &str, version_id: Option<String>) -> S3Result<Object> {
        let (in_bucket, wanted) = (bucket.to_owned(), key.to_owned());
        let asked = version_id.clone();
        let found = self.index(move |index| index.object(&in_bucket, &wanted, asked.as_deref())).await?;
        match found {
            Some(object) if !object.delete_marker => Ok(object),
            Some(_) if version_id.is_some() => {
                Err(s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource."))
            }
            _ => {
                self.authorize(resolved, "s3:ListBucket", bucket, None)?;
                match version_id {
                    Some(_) => Err(s3_error!(NoSuchVersion, "The specified version does not exist.")),
                    None => Err(no_such_key()),
                }
            }
        }
    }

    /// Deletes; gives the version id of the delete marker, where one was left.
    async fn remove(&self, bucket: &str, key: &str, version_id: Option<String>) -> S3Result<Option<String>> {
        let versioned = self.bucket(bucket)?.seed.versioning;
        let (in_bucket, wanted) = (bucket.to_owned(), key.to_owned());
        if versioned && version_id.is_none() {
            let marker = Object {
                bucket: in_bucket,
                key: wanted,
                version_id: new_version_id(true),
                delete_marker: true,
                etag: String::new(),
                size: 0,
                modified_unix_ms: self.now_unix_ms(),
                segments: Vec::new(),
                parts: None,
                attributes: Attributes::default(),
                checksum: None,
            };
            let id = marker.version_id.clone();
            self.change(None, move |index| index.put(&marker, &Condition::None, true)).await?;
            self.0.races.deleted(bucket, key);
            return Ok(Some(id));
        }
        self.change(None, move |index| index.delete(&in_bucket, &wanted, version_id.as_deref())).await?;
        self.0.races.deleted(bucket, key);
        Ok(None)
    }
}

impl Attributes {
    /// Reads what a client says about an object.
    ///
    /// # Errors
    /// `MetadataTooLarge`.
    pub fn read(headers: &HeaderMap, metadata: Option<&Metadata>) -> S3Result<Self> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let metadata: BTreeMap<_, _> = metadata.cloned().unwrap_or_default().into_iter().collect();
        let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MAX_METADATA_BYTES {
            return Err(s3_error!(MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
        }
        let encodings = header("content-encoding").map(|encodings| {
            let kept =
                encodings.split(',').map(str::trim).filter(|encoding| !encoding.eq_ignore_ascii_case("aws-chunked"));
            kept.collect::<Vec<_>>().join(",")
        });
        Ok(Self {
            content_type: Some(header("content-type").unwrap_or_else(|| "binary/octet-stream".into())),
            cache_control: header("cache-control"),
            content_disposition: header("content-disposition"),
            content_encoding: encodings.filter(|encodings| !encodings.is_empty()),
            content_language: header("content-language"),
            metadata,
        })
    }
}

/// The condition of a write.
///
/// # Errors
/// `NotImplemented` for conditions that S3 does not know for writes either.
pub(super) fn condition(none_match: Option<&ETagCondition>, matches: Option<&ETagCondition>) -> S3Result<Condition> {
    match (none_match, matches) {
        (None, None) => Ok(Condition::None),
        (Some(ETagCondition::Any), None) => Ok(Condition::Absent),
        (None, Some(ETagCondition::ETag(etag))) => Ok(Condition::Etag(etag.value().to_owned())),
        _ => Err(not_implemented()),
    }
}

/// # Errors
/// `EntityTooLarge`.
pub(super) fn check_size(content_length: Option<i64>) -> S3Result<()> {
    if content_length.is_some_and(|length| u64::try_from(length).is_ok_and(|length| length > MAX_PART_BYTES)) {
        return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size"));
    }
    Ok(())
}

pub(super) fn new_version_id(versioned: bool) -> String {
    if versioned { ulid::Ulid::generate().to_string() } else { "null".to_owned() }
}

pub(super) fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp::from(from_unix_ms(unix_ms))
}

pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

struct ReadConditions {
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
}

fn check_read(object: &Object, conditions: &ReadConditions) -> S3Result<()> {
    let is_it = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    };
    // Whole seconds: that is all that the header can say.
    let modified = timestamp(object.modified_unix_ms.div_euclid(1_000) * 1_000);
    let failed = || s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold");
    match (&conditions.if_match, &conditions.if_unmodified_since) {
        (Some(condition), _) if !is_it(condition) => return Err(failed()),
        (None, Some(since)) if modified > *since => return Err(failed()),
        _ => {}
    }
    match (&conditions.if_none_match, &conditions.if_modified_since) {
        (Some(condition), _) if is_it(condition) => Err(s3_error!(NotModified, "Not Modified")),
        (None, Some(since)) if modified <= *since => Err(s3_error!(NotModified, "Not Modified")),
        _ => Ok(()),
    }
}

/// Which bytes are asked for: where they begin and how many they are.
fn extent(object: &Object, range: Option<Range>, part_number: Option<i32>) -> S3Result<(u64, u64)> {
    match (range, part_number) {
        (None, None) => Ok((0, object.size)),
        (Some(range), None) => {
            let range = range
                .check(object.size)
                .map_err(|_| s3_error!(InvalidRange, "The requested range is not satisfiable"))?;
            Ok((range.start, range.end - range.start))
        }
        (Some(_), Some(_)) => {
            Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter"))
        }
        (None, Some(number)) => {
            let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let Some(segment) = place.and_then(|place| object.segments.get(place)) else {
                return Err(failure(416, "InvalidPartNumber", "The requested partnumber is not satisfiable"));
            };
            let before = object.segments.iter().take(place.unwrap_or(0)).map(|segment| segment.size).sum();
            Ok((before, segment.size))
        }
    }
}

fn content_range(start: u64, length: u64, size: u64) -> String {
    format!("bytes {start}-{}/{size}", (start + length).saturating_sub(1))
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case("ENABLED"))
}

fn metadata(metadata: &BTreeMap<String, String>) -> Option<Metadata> {
    (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect())
}

fn not_implemented() -> S3Error {
    s3_error!(NotImplemented, "A header you provided implies functionality that is not implemented")
}
