//! Multipart uploads: create, parts, complete, abort, and their listings.

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumType, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
    Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload,
    Owner, Part as ListedPart, StorageClass, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::access::Resolved;
use super::checksum::{Algorithm, Checksum, Claim, Coverage, Digests, combine, mismatch, multipart_etag};
use super::index::{Attributes, Condition, Object, Part, Upload};
use super::listing::{Page, encoded, page_size};
use super::object::{check_size, condition, new_version_id, signed, timestamp};
use super::{Buckets, DAY, MAX_PARTS, MIN_PART_BYTES};

impl Buckets {
    pub(super) async fn create_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let resolved = Resolved::of(&req.extensions)?;
        let attributes = Attributes::read(&req.headers, req.input.metadata.as_ref())?;
        let input = req.input;
        let named = input.checksum_algorithm.as_ref().map(|named| {
            Algorithm::parse(named.as_str()).ok_or_else(|| {
                s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
            })
        });
        let named = named.transpose()?;
        let wanted = input.checksum_type.as_ref().map(ChecksumType::as_str);
        if named.is_none() && wanted.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            ));
        }
        let algorithm = named.unwrap_or(Algorithm::Crc64Nvme);
        let coverage = Coverage::choose(algorithm, wanted)?;
        let bucket = self.bucket(&input.bucket)?;
        let now_unix_ms = self.now_unix_ms();
        let abort_days = bucket.seed.abort_multipart_after_days;
        let upload = Upload {
            // Ids sort by their age.
            id: format!("{}{}", ulid::Ulid::generate(), ulid::Ulid::generate()),
            bucket: input.bucket,
            key: input.key,
            initiated_unix_ms: now_unix_ms,
            initiator_arn: resolved.arn(),
            attributes,
            algorithm,
            algorithm_was_named: named.is_some(),
            coverage,
        };
        let noted = upload.clone();
        self.index(move |index| index.create_upload(&noted)).await?;
        let abort_unix_ms = abort_days
            .map(|days| now_unix_ms.saturating_add(i64::try_from((DAY * days).as_millis()).unwrap_or(i64::MAX)));
        Ok(S3Response::new(CreateMultipartUploadOutput {
            abort_date: abort_unix_ms.map(timestamp),
            abort_rule_id: abort_days.map(|_| "abort-incomplete-multipart-upload".to_owned()),
            checksum_algorithm: named.map(|named| named.name().to_owned().into()),
            checksum_type: named.map(|_| coverage.name().to_owned().into()),
            bucket: Some(upload.bucket),
            key: Some(upload.key),
            upload_id: Some(upload.id),
            ..Default::default()
        }))
    }

    pub(super) async fn put_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let claim = Claim::read(&req.headers)?;
        let input = req.input;
        let number = part_number(input.part_number)?;
        check_size(input.content_length)?;
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id);
        let upload = self.index(move |index| index.upload(&bucket, &key, &id)).await?;
        if let Some(actual) = claim.algorithm()
            && upload.algorithm_was_named
            && actual != upload.algorithm
        {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                upload.algorithm.name().to_ascii_lowercase(),
                actual.name().to_ascii_lowercase()
            ));
        }
        let wanted = [Some(upload.algorithm), claim.algorithm()].into_iter().flatten();
        let stored = self.receive(&input.bucket, &input.key, input.body, wanted).await?;
        let trailer = req.trailing_headers.and_then(|trailer| trailer.take());
        claim.verify(&stored.digests, trailer.as_ref())?;
        let shown = claim.algorithm().or(upload.algorithm_was_named.then_some(upload.algorithm));
        let digests = stored.digests.clone();
        let part = Part {
            number,
            segment: stored.segment.clone(),
            digests: digests.clone(),
            modified_unix_ms: self.now_unix_ms(),
        };
        self.change(Some(stored), move |index| index.put_part(&upload, &part)).await?;
        let value = |algorithm| (shown == Some(algorithm)).then(|| digests.base64(algorithm)).flatten();
        Ok(S3Response::new(UploadPartOutput {
            checksum_crc32: value(Algorithm::Crc32),
            checksum_crc32c: value(Algorithm::Crc32c),
            checksum_crc64nvme: value(Algorithm::Crc64Nvme),
            checksum_sha1: value(Algorithm::Sha1),
            checksum_sha256: value(Algorithm::Sha256),
            e_tag: Some(ETag::Strong(digests.etag())),
            ..Default::default()
        }))
    }

    pub(super) async fn complete(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let condition = condition(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let versioned = self.bucket(&input.bucket)?.seed.versioning;
        let writer = (condition != Condition::None).then(|| self.0.races.begin(&input.bucket, &input.key));
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
        let (upload, parts) = self
            .index(move |index| {
                let upload = index.upload(&bucket, &key, &id)?;
                let parts = index.parts(&upload.id)?;
                Ok((upload, parts))
            })
            .await?;
        let stated = input.multipart_upload.and_then(|stated| stated.parts).unwrap_or_default();
        let parts = chosen_parts(&upload, parts, &stated)?;
        let size: u64 = parts.iter().map(|part| part.segment.size).sum();
        if let Some(expected) = input.mpu_object_size
            && u64::try_from(expected) != Ok(size)
        {
            return Err(s3_error!(
                InvalidRequest,
                "The provided 'x-amz-mp-object-size' header value {expected} does not match what was computed: {size}"
            ));
        }
        let values: Vec<_> = parts.iter().map(|part| (value_of(part, upload.algorithm), part.segment.size)).collect();
        let checksum = combine(upload.algorithm, upload.coverage, &values);
        check_coverage(&upload, input.checksum_type.as_ref().map(ChecksumType::as_str))?;
        let claims = [
            (Algorithm::Crc32, input.checksum_crc32),
            (Algorithm::Crc32c, input.checksum_crc32c),
            (Algorithm::Crc64Nvme, input.checksum_crc64nvme),
            (Algorithm::Sha1, input.checksum_sha1),
            (Algorithm::Sha256, input.checksum_sha256),
        ];
        for (algorithm, claimed) in claims {
            let Some(claimed) = claimed else { continue };
            let bare = checksum.value.split_once('-').map_or(checksum.value.as_str(), |(bare, _)| bare);
            if algorithm != checksum.algorithm || (claimed != checksum.value && claimed != bare) {
                return Err(mismatch(algorithm));
            }
        }
        let object = Object {
            bucket: upload.bucket.clone(),
            key: upload.key.clone(),
            version_id: new_version_id(versioned),
            delete_marker: false,
            etag: multipart_etag(parts.iter().map(|part| part.digests.md5.as_slice())),
            size,
            modified_unix_ms: self.now_unix_ms(),
            parts: u32::try_from(parts.len()).ok(),
            segments: parts.into_iter().map(|part| part.segment).collect(),
            attributes: upload.attributes.clone(),
            checksum: Some(checksum.clone()),
        };
        if let Some(writer) = &writer {
            writer.check()?;
        }
        let written = object.clone();
        self.change(None, move |index| index.complete(&upload, &written, &condition, versioned)).await?;
        let shown = Some(&checksum);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            location: Some(format!(
                "{}/{}/{}",
                self.0.site.base_url,
                object.bucket,
                super::operation::encode(&object.key)
            )),
            bucket: Some(object.bucket),
            key: Some(object.key),
            checksum_crc32: Checksum::of(shown, Algorithm::Crc32),
            checksum_crc32c: Checksum::of(shown, Algorithm::Crc32c),
            checksum_crc64nvme: Checksum::of(shown, Algorithm::Crc64Nvme),
            checksum_sha1: Checksum::of(shown, Algorithm::Sha1),
            checksum_sha256: Checksum::of(shown, Algorithm::Sha256),
            checksum_type: Some(checksum.coverage.name().to_owned().into()),
            e_tag: Some(ETag::Strong(object.etag)),
            version_id: versioned.then_some(object.version_id),
            ..Default::default()
        }))
    }

    pub(super) async fn abort(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        self.change(None, move |index| index.abort(&input.bucket, &input.key, &input.upload_id)).await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(super) async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let limit = page_size(input.max_parts, "max-parts")?;
        let after = u32::try_from(input.part_number_marker.unwrap_or(0)).unwrap_or(0);
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id);
        let (upload, parts) = self
            .index(move |index| {
                let upload = index.upload(&bucket, &key, &id)?;
                let parts = index.parts(&upload.id)?;
                Ok((upload, parts))
            })
            .await?;
        let mut behind = parts.into_iter().filter(|part| part.number > after);
        let parts: Vec<_> = behind.by_ref().take(limit).collect();
        let truncated = behind.next().is_some();
        let last = parts.last().map_or(after, |part| part.number);
        let shown = upload.algorithm_was_named.then_some(upload.algorithm);
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            checksum_algorithm: shown.map(|shown| shown.name().to_owned().into()),
            checksum_type: shown.map(|_| upload.coverage.name().to_owned().into()),
            initiator: Some(initiator(&upload)),
            owner: Some(self.owner()),
            is_truncated: Some(truncated),
            max_parts: i32::try_from(limit).ok(),
            next_part_number_marker: i32::try_from(last).ok(),
            part_number_marker: i32::try_from(after).ok(),
            parts: Some(parts.iter().map(|part| listed(part, shown)).collect()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            upload_id: Some(upload.id),
            ..Default::default()
        }))
    }

    pub(super) async fn list_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let limit = page_size(input.max_uploads, "max-uploads")?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let (bucket, from) = (input.bucket.clone(), prefix.clone());
        let uploads = self.index(move |index| index.uploads(&bucket, &from)).await?;
        let after = (input.key_marker.clone().unwrap_or_default(), input.upload_id_marker.clone());
        let behind = uploads.into_iter().filter(|upload| match &after {
            (key, Some(id)) => (&upload.key, &upload.id) > (key, id),
            (key, None) => key.is_empty() || upload.key > *key,
        });
        let mut page = Page::new(&prefix, input.delimiter.as_deref(), limit, "");
        for upload in behind {
            let key = upload.key.clone();
            if !page.add(&key, upload) {
                break;
            }
        }
        let url = input.encoding_type.is_some();
        let last = page.items.last();
        let (next_key, next_id) = match last {
            Some(last) if page.truncated => (Some(page.last.clone()), Some(last.id.clone())),
            None if page.truncated => (Some(page.last.clone()), None),
            _ => (None, None),
        };
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            common_prefixes: Some(page.common_prefixes(url)),
            delimiter: input.delimiter,
            encoding_type: input.encoding_type,
            is_truncated: Some(page.truncated),
            key_marker: Some(input.key_marker.unwrap_or_default()),
            max_uploads: i32::try_from(limit).ok(),
            next_key_marker: next_key.map(|key| encoded(key, url)),
            next_upload_id_marker: next_id,
            prefix: Some(encoded(prefix, url)),
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
            uploads: Some(
                page.items
                    .into_iter()
                    .map(|upload| MultipartUpload {
                        checksum_algorithm: upload
                            .algorithm_was_named
                            .then(|| upload.algorithm.name().to_owned().into()),
                        checksum_type: upload.algorithm_was_named.then(|| upload.coverage.name().to_owned().into()),
                        initiated: Some(timestamp(upload.initiated_unix_ms)),
                        initiator: Some(initiator(&upload)),
                        owner: Some(self.owner()),
                        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                        upload_id: Some(upload.id),
                        key: Some(encoded(upload.key, url)),
                    })
                    .collect(),
            ),
            ..Default::default()
        }))
    }

    pub(super) fn owner(&self) -> Owner {
        Owner { display_name: None, id: Some(self.0.site.account_id.clone()) }
    }
}

/// The parts that the client names, as they are stored.
fn chosen_parts(upload: &Upload, parts: Vec<Part>, stated: &[CompletedPart]) -> S3Result<Vec<Part>> {
    if stated.is_empty() {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        ));
    }
    let mut known: std::collections::BTreeMap<u32, Part> = parts.into_iter().map(|part| (part.number, part)).collect();
    let mut chosen: Vec<Part> = Vec::with_capacity(stated.len());
    let mut before = 0;
    for wanted in stated {
        let number = part_number(wanted.part_number.unwrap_or(0))?;
        if number <= before {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part number."
            ));
        }
        before = number;
        let part = known.remove(&number).ok_or_else(invalid_part)?;
        let etag = wanted.e_tag.as_ref().map(|etag| etag.value().trim_matches('"'));
        if etag != Some(part.digests.etag().as_str()) {
            return Err(invalid_part());
        }
        check_stated_checksum(upload, wanted, &part.digests, number)?;
        chosen.push(part);
    }
    let all_but_last = chosen.len() - 1;
    if chosen.iter().take(all_but_last).any(|part| part.segment.size < MIN_PART_BYTES) {
        return Err(s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size"));
    }
    Ok(chosen)
}

fn check_stated_checksum(upload: &Upload, wanted: &CompletedPart, digests: &Digests, number: u32) -> S3Result<()> {
    let stated = [
        (Algorithm::Crc32, &wanted.checksum_crc32),
        (Algorithm::Crc32c, &wanted.checksum_crc32c),
        (Algorithm::Crc64Nvme, &wanted.checksum_crc64nvme),
        (Algorithm::Sha1, &wanted.checksum_sha1),
        (Algorithm::Sha256, &wanted.checksum_sha256),
    ];
    let mut any = false;
    for (algorithm, value) in stated {
        let Some(value) = value else { continue };
        any = true;
        if digests.base64(algorithm).as_ref() != Some(value) {
            return Err(invalid_part());
        }
    }
    if !any && upload.algorithm_was_named && upload.coverage == Coverage::Composite {
        return Err(s3_error!(
            InvalidRequest,
            "The upload was created using a {} checksum. The complete request must include the checksum for each part. \
             It was missing for part {number} in the request.",
            upload.algorithm.name().to_ascii_lowercase()
        ));
    }
    Ok(())
}

fn check_coverage(upload: &Upload, wanted: Option<&str>) -> S3Result<()> {
    match wanted {
        Some(wanted) if wanted != upload.coverage.name() => Err(s3_error!(
            InvalidRequest,
            "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
            upload.coverage.name()
        )),
        _ => Ok(()),
    }
}

fn part_number(number: i32) -> S3Result<u32> {
    let number = u32::try_from(number).ok().filter(|number| (1..=MAX_PARTS).contains(number));
    number.ok_or_else(|| {
        s3_error!(InvalidArgument, "Part number must be an integer between 1 and {MAX_PARTS}, inclusive")
    })
}

fn value_of(part: &Part, algorithm: Algorithm) -> Vec<u8> {
    part.digests.values.get(&algorithm).cloned().unwrap_or_default()
}

fn listed(part: &Part, shown: Option<Algorithm>) -> ListedPart {
    let value = |algorithm| (shown == Some(algorithm)).then(|| part.digests.base64(algorithm)).flatten();
    ListedPart {
        checksum_crc32: value(Algorithm::Crc32),
        checksum_crc32c: value(Algorithm::Crc32c),
        checksum_crc64nvme: value(Algorithm::Crc64Nvme),
        checksum_sha1: value(Algorithm::Sha1),
        checksum_sha256: value(Algorithm::Sha256),
        e_tag: Some(ETag::Strong(part.digests.etag())),
        last_modified: Some(timestamp(part.modified_unix_ms)),
        part_number: i32::try_from(part.number).ok(),
        size: Some(signed(part.segment.size)),
    }
}

fn initiator(upload: &Upload) -> Initiator {
    Initiator { display_name: None, id: Some(upload.initiator_arn.clone()) }
}

fn invalid_part() -> S3Error {
    s3_error!(
        InvalidPart,
        "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified \
         entity tag may not match the part's entity tag."
    )
}
