//! Listings: prefixes, delimiters and pages over keys in the order of their bytes.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::{
    BucketVersioningStatus, ChecksumAlgorithm, CommonPrefix, DeleteMarkerEntry, ETag, GetBucketLocationInput,
    GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput,
    ListBucketsInput, ListBucketsOutput, ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object as Listed, ObjectStorageClass, ObjectVersion,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Buckets;
use super::index::Object;
use super::object::{signed, timestamp};
use super::operation::encode;

/// Most entries of a page.
const MAX_PAGE: usize = 1_000;

impl Buckets {
    pub(super) async fn list_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let limit = page_size(input.max_keys, "max-keys")?;
        let after = match &input.continuation_token {
            Some(token) => {
                let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                decoded.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?
            }
            None => input.start_after.clone().unwrap_or_default(),
        };
        let prefix = input.prefix.clone().unwrap_or_default();
        let page = self.page(&input.bucket, &prefix, input.delimiter.as_deref(), &after, limit).await?;
        let url = input.encoding_type.is_some();
        let owner = input.fetch_owner.unwrap_or(false);
        let entries = page.items.len() + page.prefixes.len();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encoded(prefix, url)),
            max_keys: i32::try_from(limit).ok(),
            key_count: i32::try_from(entries).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.truncated),
            next_continuation_token: page.truncated.then(|| URL_SAFE_NO_PAD.encode(&page.last)),
            common_prefixes: Some(page.common_prefixes(url)),
            contents: Some(page.items.into_iter().map(|object| self.listed(object, url, owner)).collect()),
            delimiter: input.delimiter.map(|delimiter| encoded(delimiter, url)),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(|after| encoded(after, url)),
            request_charged: None,
        }))
    }

    pub(super) async fn list_v1(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        let limit = page_size(input.max_keys, "max-keys")?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.marker.clone().unwrap_or_default();
        let page = self.page(&input.bucket, &prefix, input.delimiter.as_deref(), &after, limit).await?;
        let url = input.encoding_type.is_some();
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encoded(prefix, url)),
            marker: Some(encoded(after, url)),
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(page.truncated),
            next_marker: (page.truncated && input.delimiter.is_some()).then(|| encoded(page.last.clone(), url)),
            common_prefixes: Some(page.common_prefixes(url)),
            contents: Some(page.items.into_iter().map(|object| self.listed(object, url, true)).collect()),
            delimiter: input.delimiter.map(|delimiter| encoded(delimiter, url)),
            encoding_type: input.encoding_type,
            request_charged: None,
        }))
    }

    /// All versions in one answer: a rehearsal has few.
    pub(super) async fn list_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = req.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let (bucket, from) = (input.bucket.clone(), prefix.clone());
        let all = self.index(move |index| index.versions(&bucket, &from)).await?;
        let url = input.encoding_type.is_some();
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (latest, object) in all {
            if object.delete_marker {
                markers.push(DeleteMarkerEntry {
                    is_latest: Some(latest),
                    key: Some(encoded(object.key, url)),
                    last_modified: Some(timestamp(object.modified_unix_ms)),
                    owner: Some(self.owner()),
                    version_id: Some(object.version_id),
                });
            } else {
                versions.push(ObjectVersion {
                    e_tag: Some(ETag::Strong(object.etag)),
                    is_latest: Some(latest),
                    key: Some(encoded(object.key, url)),
                    last_modified: Some(timestamp(object.modified_unix_ms)),
                    owner: Some(self.owner()),
                    size: Some(signed(object.size)),
                    version_id: Some(object.version_id),
                    ..Default::default()
                });
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            delete_markers: Some(markers),
            encoding_type: input.encoding_type,
            is_truncated: Some(false),
            name: Some(input.bucket),
            prefix: Some(encoded(prefix, url)),
            versions: Some(versions),
            ..Default::default()
        }))
    }

    pub(super) fn list_buckets(&self, req: &S3Request<ListBucketsInput>) -> S3Response<ListBucketsOutput> {
        let prefix = req.input.prefix.as_deref().unwrap_or_default();
        let buckets = self.0.buckets.iter().filter(|(name, _)| name.starts_with(prefix));
        let buckets = buckets.map(|(name, bucket)| s3s::dto::Bucket {
            bucket_region: Some(self.0.site.region.clone()),
            creation_date: Some(timestamp(bucket.created_unix_ms)),
            name: Some(name.clone()),
        });
        S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            continuation_token: None,
            owner: Some(self.owner()),
            prefix: req.input.prefix.clone(),
        })
    }

    pub(super) fn head_bucket(&self, req: &S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&req.input.bucket)?;
        let bucket_region = Some(self.0.site.region.clone());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..Default::default() }))
    }

    pub(super) fn bucket_location(
        &self,
        req: &S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket(&req.input.bucket)?;
        // S3's oldest region has no name here.
        let region = Some(self.0.site.region.clone()).filter(|region| region != "us-east-1");
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: region.map(Into::into) }))
    }

    pub(super) fn bucket_versioning(
        &self,
        req: &S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let versioned = self.bucket(&req.input.bucket)?.seed.versioning;
        let status = versioned.then(|| BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED));
        Ok(S3Response::new(GetBucketVersioningOutput { mfa_delete: None, status }))
    }

    async fn page(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: &str,
        limit: usize,
    ) -> S3Result<Page<Object>> {
        self.bucket(bucket)?;
        let mut page = Page::new(prefix, delimiter, limit, after);
        let mut from = after.to_owned();
        loop {
            let (in_bucket, start, behind) = (bucket.to_owned(), prefix.to_owned(), from.clone());
            let objects = self.index(move |index| index.list(&in_bucket, &start, &behind, MAX_PAGE + 1)).await?;
            let last = objects.len() <= MAX_PAGE;
            for object in objects {
                from.clone_from(&object.key);
                let key = object.key.clone();
                if !page.add(&key, object) {
                    return Ok(page);
                }
            }
            if last {
                return Ok(page);
            }
            // The rest of a group adds nothing to the page: go on behind it.
            if let Some(group) = page.prefixes.last().filter(|group| from.starts_with(group.as_str())) {
                from = format!("{group}{}", char::MAX);
            }
        }
    }

    fn listed(&self, object: Object, url: bool, owner: bool) -> Listed {
        let checksum = object.checksum;
        Listed {
            checksum_algorithm: checksum
                .as_ref()
                .map(|checksum| vec![ChecksumAlgorithm::from(checksum.algorithm.name().to_owned())]),
            checksum_type: checksum.map(|checksum| checksum.coverage.name().to_owned().into()),
            e_tag: Some(ETag::Strong(object.etag)),
            key: Some(encoded(object.key, url)),
            last_modified: Some(timestamp(object.modified_unix_ms)),
            owner: owner.then(|| self.owner()),
            restore_status: None,
            size: Some(signed(object.size)),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        }
    }
}

/// One page of a listing while it fills.
#[derive(Debug)]
pub(super) struct Page<T> {
    /// Entries with keys of their own.
    pub items: Vec<T>,
    /// Groups of keys that share everything up to the delimiter.
    pub prefixes: BTreeSet<String>,
    /// There is more behind it.
    pub truncated: bool,
    /// The last key or group of the page.
    pub last: String,
    prefix: String,
    delimiter: Option<String>,
    limit: usize,
    after: String,
}

impl<T> Page<T> {
    /// An empty page of the entries behind `after`, which may be a key or a group.
    pub fn new(prefix: &str, delimiter: Option<&str>, limit: usize, after: &str) -> Self {
        Self {
            items: Vec::new(),
            prefixes: BTreeSet::new(),
            truncated: false,
            last: after.to_owned(),
            prefix: prefix.to_owned(),
            delimiter: delimiter.filter(|delimiter| !delimiter.is_empty()).map(str::to_owned),
            limit,
            after: after.to_owned(),
        }
    }

    /// Takes the next entry in order; false where the page is full.
    pub fn add(&mut self, key: &str, item: T) -> bool {
        let rest = key.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        let group = self.delimiter.as_ref().and_then(|delimiter| {
            rest.find(delimiter.as_str()).map(|at| key[..self.prefix.len() + at + delimiter.len()].to_owned())
        });
        if let Some(group) = &group
            && (self.prefixes.contains(group) || *group <= self.after)
        {
            return true;
        }
        if self.items.len() + self.prefixes.len() >= self.limit {
            self.truncated = self.limit > 0;
            return false;
        }
        match group {
            Some(group) => {
                self.last.clone_from(&group);
                self.prefixes.insert(group);
            }
            None => {
                key.clone_into(&mut self.last);
                self.items.push(item);
            }
        }
        true
    }

    /// The groups as S3 shows them.
    pub fn common_prefixes(&self, url: bool) -> Vec<CommonPrefix> {
        self.prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(encoded(prefix.clone(), url)) }).collect()
    }
}

/// A key as the listing shows it.
pub(super) fn encoded(key: String, url: bool) -> String {
    if url { encode(&key) } else { key }
}

/// # Errors
/// `InvalidArgument` where it is negative.
pub(super) fn page_size(wanted: Option<i32>, name: &str) -> S3Result<usize> {
    let Some(wanted) = wanted else { return Ok(MAX_PAGE) };
    let wanted = usize::try_from(wanted)
        .map_err(|_| s3_error!(InvalidArgument, "Argument {name} must be an integer between 0 and 2147483647"))?;
    Ok(wanted.min(MAX_PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(keys: &[&str], prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<(Vec<String>, Vec<String>)> {
        let mut pages = Vec::new();
        let mut after = String::new();
        loop {
            let mut page = Page::new(prefix, delimiter, limit, &after);
            for key in keys.iter().filter(|key| key.starts_with(prefix) && **key > after.as_str()) {
                if !page.add(key, (*key).to_owned()) {
                    break;
                }
            }
            let truncated = page.truncated;
            after.clone_from(&page.last);
            pages.push((page.items, page.prefixes.into_iter().collect()));
            if !truncated {
                return pages;
            }
        }
    }

    #[test]
    fn groups_count_once_and_pages_join_without_gap_or_repeat() {
        let keys = ["a", "b/1", "b/2", "b/3", "c", "d/1", "e"];
        let all = walk(&keys, "", Some("/"), 100);
        assert_eq!(all, [(vec!["a".into(), "c".into(), "e".into()], vec!["b/".into(), "d/".into()])]);
        for limit in 1..6 {
            let (mut items, mut groups) = (Vec::new(), Vec::new());
            for (more_items, more_groups) in walk(&keys, "", Some("/"), limit) {
                assert!(more_items.len() + more_groups.len() <= limit);
                items.extend(more_items);
                groups.extend(more_groups);
            }
            assert_eq!((items, groups), all[0], "{limit}");
        }
        assert_eq!(walk(&keys, "b/", Some("/"), 2).len(), 2);
    }
}
