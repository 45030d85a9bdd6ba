//! Who may do what: keys and session tokens, then IAM over the role's policies and the bucket's.
//!
//! Promises that an explicit deny goes before every allow, that the bytes of a denied request are not kept, and that a
//! temporary key without its own token is nobody's. Loopback counts as `aws:SecureTransport`, so that a policy that
//! demands TLS can be rehearsed as it stands.

use http::{Extensions, HeaderMap};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Error, S3Result, s3_error};
use secrecy::ExposeSecret;

use super::operation::decode;
use super::{Bucket, Buckets, S3StartError, failure};
use crate::clock::unix_ms;
use crate::local_cloud::iam::{Context, Decision, Policy, Request, evaluate};
use crate::local_cloud::seed::BucketSeed;
use crate::local_cloud::sts::{Auth, SessionError};

/// The signed request's owner and what IAM may ask about the request.
#[derive(Debug, Clone)]
pub struct Resolved {
    auth: Auth,
    request_keys: Context,
}

impl Resolved {
    /// What the gate found out about this request.
    ///
    /// # Errors
    /// `AccessDenied` for a request that did not pass the gate.
    pub fn of(extensions: &Extensions) -> S3Result<Self> {
        extensions.get::<Self>().cloned().ok_or_else(denied)
    }

    /// The caller's ARN.
    pub fn arn(&self) -> String {
        match &self.auth {
            Auth::Anonymous => "anonymous".to_owned(),
            Auth::Administrator => "administrator".to_owned(),
            Auth::Role(principal) => principal.arn.clone(),
        }
    }
}

/// The gate in front of every operation.
pub(super) struct Gate(pub Buckets);

#[async_trait::async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let secret = self.0.0.sts.secret(access_key).ok_or_else(unknown_key)?;
        Ok(SecretKey::from(secret.expose_secret()))
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = cx.credentials() else { return Err(denied()) };
        check_signing(cx.headers(), cx.uri().query())?;
        let token = session_token(cx.headers(), cx.uri().query());
        let session = self.0.0.sts.session(&credentials.access_key, token.as_deref());
        let auth = session.map_err(|error| match error {
            SessionError::InvalidToken if token.is_some() => {
                s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid.")
            }
            SessionError::UnknownAccessKey | SessionError::InvalidToken => unknown_key(),
            SessionError::Expired => s3_error!(ExpiredToken, "The provided token has expired."),
        })?;
        let buckets = self.0.clone();
        let resolved = Resolved { auth, request_keys: buckets.request_keys(cx) };
        let versioned = query_value(cx.uri().query(), "versionId").is_some();
        match cx.s3_path() {
            S3Path::Root => buckets.allow(&resolved, "s3:ListAllMyBuckets", None, "*")?,
            S3Path::Bucket { bucket } => {
                buckets.check_owner(cx.headers())?;
                buckets.bucket(bucket)?;
                if let Some(action) = bucket_action(cx.s3_op().name()) {
                    buckets.authorize(&resolved, action, bucket, None)?;
                }
            }
            S3Path::Object { bucket, key } => {
                check_key(key)?;
                buckets.check_owner(cx.headers())?;
                buckets.bucket(bucket)?;
                for action in object_actions(cx.s3_op().name(), versioned, cx.headers()) {
                    buckets.authorize(&resolved, action, bucket, Some(key))?;
                }
            }
        }
        cx.extensions_mut().insert(resolved);
        Ok(())
    }
}

impl Buckets {
    /// Lets the caller pass if it may do `action` on the bucket (without a key) or the object.
    ///
    /// # Errors
    /// `AccessDenied`, in AWS's words.
    pub(super) fn authorize(&self, resolved: &Resolved, action: &str, bucket: &str, key: Option<&str>) -> S3Result<()> {
        let resource = match key {
            Some(key) => format!("arn:aws:s3:::{bucket}/{key}"),
            None => format!("arn:aws:s3:::{bucket}"),
        };
        self.allow(resolved, action, Some(self.bucket(bucket)?), &resource)
    }

    fn allow(&self, resolved: &Resolved, action: &str, bucket: Option<&Bucket>, resource: &str) -> S3Result<()> {
        let principal = match &resolved.auth {
            Auth::Administrator => return Ok(()),
            Auth::Anonymous => return Err(denied()),
            Auth::Role(principal) => principal,
        };
        let by_role = self.0.sts.decide(&resolved.auth, action, resource, &resolved.request_keys);
        let mut context = resolved.request_keys.clone();
        context.extend(principal.request_context());
        let request = Request { principal: principal.for_iam(), action, resource, context: &context };
        let by_bucket = evaluate(bucket.and_then(|bucket| bucket.policy.as_ref()), &request);
        let reason = match (by_role, by_bucket) {
            (Decision::ExplicitDeny, _) => "with an explicit deny in an identity-based policy".to_owned(),
            (_, Decision::ExplicitDeny) => "with an explicit deny in a resource-based policy".to_owned(),
            _ if by_role.or(by_bucket).is_allowed() => return Ok(()),
            _ => format!("because no identity-based policy allows the {action} action"),
        };
        Err(s3_error!(
            AccessDenied,
            "User: {} is not authorized to perform: {action} on resource: \"{resource}\" {reason}",
            principal.arn
        ))
    }

    fn check_owner(&self, headers: &HeaderMap) -> S3Result<()> {
        let account = self.0.site.account_id.as_bytes();
        let strange = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"]
            .iter()
            .filter_map(|name| headers.get(*name))
            .any(|owner| owner.as_bytes() != account);
        if strange { Err(denied()) } else { Ok(()) }
    }

    /// The condition keys that the request supplies; those of the session are its own.
    fn request_keys(&self, cx: &S3AccessContext<'_>) -> Context {
        let mut context = Context::new();
        let mut add = |key: &str, value: String| {
            context.insert(key.to_owned(), vec![value]);
        };
        let site = &self.0.site;
        add("aws:SecureTransport", "true".into());
        add("aws:SourceIp", "127.0.0.1".into());
        add("aws:CurrentTime", humantime::format_rfc3339_seconds(site.clock.wall()).to_string());
        add("aws:EpochTime", (unix_ms(site.clock.wall()) / 1_000).to_string());
        add("aws:RequestedRegion", site.region.clone());
        add("aws:ResourceAccount", site.account_id.clone());
        add("s3:ResourceAccount", site.account_id.clone());
        add("s3:signatureversion", "AWS4-HMAC-SHA256".into());
        add(
            "s3:authType",
            if cx.headers().contains_key("authorization") { "REST-HEADER" } else { "REST-QUERY-STRING" }.into(),
        );
        for (header, key) in HEADER_KEYS {
            if let Some(value) = cx.headers().get(header).and_then(|value| value.to_str().ok()) {
                add(key, value.to_owned());
            }
        }
        for (parameter, key) in QUERY_KEYS {
            if let Some(value) = query_value(cx.uri().query(), parameter) {
                add(key, value);
            }
        }
        context
    }
}

const HEADER_KEYS: [(&str, &str); 9] = [
    ("user-agent", "aws:UserAgent"),
    ("referer", "aws:Referer"),
    ("x-amz-acl", "s3:x-amz-acl"),
    ("x-amz-content-sha256", "s3:x-amz-content-sha256"),
    ("x-amz-copy-source", "s3:x-amz-copy-source"),
    ("x-amz-storage-class", "s3:x-amz-storage-class"),
    ("x-amz-server-side-encryption", "s3:x-amz-server-side-encryption"),
    ("if-none-match", "s3:if-none-match"),
    ("if-match", "s3:if-match"),
];

const QUERY_KEYS: [(&str, &str); 4] = [
    ("prefix", "s3:prefix"),
    ("delimiter", "s3:delimiter"),
    ("max-keys", "s3:max-keys"),
    ("versionId", "s3:VersionId"),
];

/// The bucket's own policy, read.
///
/// # Errors
/// [`S3StartError::BucketPolicy`].
pub(super) fn bucket_policy(seed: &BucketSeed) -> Result<Option<Policy>, S3StartError> {
    let read = seed.policy.as_ref().map(Policy::parse_resource).transpose();
    read.map_err(|error| S3StartError::BucketPolicy { bucket: seed.name.clone(), reason: error.to_string() })
}

fn bucket_action(operation: &str) -> Option<&'static str> {
    Some(match operation {
        "ListObjects" | "ListObjectsV2" | "HeadBucket" => "s3:ListBucket",
        "ListObjectVersions" => "s3:ListBucketVersions",
        "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
        "GetBucketLocation" => "s3:GetBucketLocation",
        "GetBucketVersioning" => "s3:GetBucketVersioning",
        // Each of its keys is asked for by itself.
        "DeleteObjects" => return None,
        // Not served; nobody's role has this action.
        _ => "s3:Unsupported",
    })
}

fn object_actions(operation: &str, versioned: bool, headers: &HeaderMap) -> Vec<&'static str> {
    let mut actions = vec![match operation {
        "PutObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "CompleteMultipartUpload"
        | "CopyObject"
        | "UploadPartCopy" => "s3:PutObject",
        "GetObject" | "HeadObject" if versioned => "s3:GetObjectVersion",
        "GetObject" | "HeadObject" => "s3:GetObject",
        "DeleteObject" if versioned => "s3:DeleteObjectVersion",
        "DeleteObject" => "s3:DeleteObject",
        "AbortMultipartUpload" => "s3:AbortMultipartUpload",
        "ListParts" => "s3:ListMultipartUploadParts",
        _ => "s3:Unsupported",
    }];
    if actions == ["s3:PutObject"] {
        if headers.contains_key("x-amz-tagging") {
            actions.push("s3:PutObjectTagging");
        }
        if headers.keys().any(|name| name == "x-amz-acl" || name.as_str().starts_with("x-amz-grant-")) {
            actions.push("s3:PutObjectAcl");
        }
    }
    actions
}

/// A key with more `..` than segments before them cannot even be asked for; all others are literal.
fn check_key(key: &str) -> S3Result<()> {
    let mut depth = 0_i64;
    for segment in key.split('/') {
        depth += if segment == ".." { -1 } else { 1 };
        if depth < 0 {
            return Err(failure(400, "InvalidURI", "Couldn't parse the specified URI."));
        }
    }
    Ok(())
}

/// What `s3s` lets pass and AWS does not: signature version 2, and `x-amz-` headers that are not signed.
fn check_signing(headers: &HeaderMap, query: Option<&str>) -> S3Result<()> {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    let signed = match authorization {
        Some(authorization) if authorization.starts_with("AWS4-HMAC-SHA256") => authorization
            .split_once("SignedHeaders=")
            .map(|(_, rest)| rest.split(',').next().unwrap_or_default().to_owned()),
        Some(_) => None,
        None => query_value(query, "X-Amz-SignedHeaders"),
    };
    let Some(signed) = signed else {
        return Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        ));
    };
    let is_signed = |name: &str| signed.trim().split(';').any(|known| known.eq_ignore_ascii_case(name));
    let hash_may_stay_out = authorization.is_none();
    let forgotten = headers.keys().map(http::HeaderName::as_str).find(|name| {
        name.starts_with("x-amz-") && !is_signed(name) && !(hash_may_stay_out && *name == "x-amz-content-sha256")
    });
    if forgotten.is_some() || !is_signed("host") {
        return Err(s3_error!(AccessDenied, "There were headers present in the request which were not signed"));
    }
    Ok(())
}

fn session_token(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let header = headers.get("x-amz-security-token").and_then(|value| value.to_str().ok()).map(str::to_owned);
    header.or_else(|| query_value(query, "X-Amz-Security-Token"))
}

fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| decode(&value.replace('+', " ")))
}

fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

fn unknown_key() -> S3Error {
    s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_keys_that_climb_out_are_refused() {
        for literal in ["a", "a/../b", "users/me/free/../premium/x", "a/b/../..", "..a", "a//../../b", "./x"] {
            assert!(check_key(literal).is_ok(), "{literal}");
        }
        for out in ["..", "../a", "a/../../b", "a/b/../../.."] {
            assert_eq!(check_key(out).unwrap_err().code().as_str(), "InvalidURI", "{out}");
        }
    }

    #[test]
    fn every_amz_header_must_be_signed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-date", "20261123T000000Z".parse().unwrap());
        let authorization = |signed: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=A/20261123/us-east-1/s3/aws4_request, SignedHeaders={signed}, Signature=0"
            )
            .parse()
            .unwrap()
        };
        headers.insert("authorization", authorization("host;x-amz-date"));
        assert!(check_signing(&headers, None).is_ok());
        headers.insert("x-amz-security-token", "t".parse().unwrap());
        assert_eq!(check_signing(&headers, None).unwrap_err().code().as_str(), "AccessDenied");
        headers.insert("authorization", authorization("host;x-amz-date;x-amz-security-token"));
        assert!(check_signing(&headers, None).is_ok());
        headers.insert("authorization", "AWS A:signature".parse().unwrap());
        assert_eq!(check_signing(&headers, None).unwrap_err().code().as_str(), "InvalidRequest");
    }

    #[test]
    fn what_a_write_carries_needs_its_own_permission() {
        let mut headers = HeaderMap::new();
        for operation in ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"] {
            assert_eq!(object_actions(operation, false, &headers), ["s3:PutObject"]);
        }
        headers.insert("x-amz-tagging", "a=b".parse().unwrap());
        assert_eq!(object_actions("PutObject", false, &headers), ["s3:PutObject", "s3:PutObjectTagging"]);
    }
}
