//! What a request to S3 is about, told from its line alone: for logs and faults, which come before `s3s` does.

use http::Method;

/// Bucket and key of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Target {
    /// Empty for the list of buckets.
    pub bucket: String,
    /// Decoded; empty for operations on a bucket.
    pub key: String,
}

/// The operation's name, for example `s3:UploadPart`, and what it is about.
pub fn operation_of(method: &Method, path: &str, query: Option<&str>, copies: bool) -> (&'static str, S3Target) {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let (bucket, key) = trimmed.split_once('/').unwrap_or((trimmed, ""));
    let target = S3Target { bucket: decode(bucket), key: decode(key) };
    let has = |name: &str| {
        query.is_some_and(|query| {
            query.split('&').any(|pair| pair.split_once('=').map_or(pair, |(name, _)| name) == name)
        })
    };
    let operation = match (method.as_str(), target.bucket.is_empty(), target.key.is_empty()) {
        ("GET", true, _) => "s3:ListBuckets",
        ("GET", _, true) if has("uploads") => "s3:ListMultipartUploads",
        ("GET", _, true) if has("versions") => "s3:ListObjectVersions",
        ("GET", _, true) if has("location") => "s3:GetBucketLocation",
        ("GET", _, true) if has("versioning") => "s3:GetBucketVersioning",
        ("GET", _, true) if has("list-type") => "s3:ListObjectsV2",
        ("GET", _, true) => "s3:ListObjects",
        ("HEAD", false, true) => "s3:HeadBucket",
        ("POST", false, true) if has("delete") => "s3:DeleteObjects",
        ("GET", false, false) if has("uploadId") => "s3:ListParts",
        ("GET", false, false) => "s3:GetObject",
        ("HEAD", false, false) => "s3:HeadObject",
        ("PUT", false, false) if has("partNumber") && copies => "s3:UploadPartCopy",
        ("PUT", false, false) if has("partNumber") => "s3:UploadPart",
        ("PUT", false, false) if copies => "s3:CopyObject",
        ("PUT", false, false) => "s3:PutObject",
        ("POST", false, false) if has("uploads") => "s3:CreateMultipartUpload",
        ("POST", false, false) if has("uploadId") => "s3:CompleteMultipartUpload",
        ("DELETE", false, false) if has("uploadId") => "s3:AbortMultipartUpload",
        ("DELETE", false, false) => "s3:DeleteObject",
        _ => "s3:Other",
    };
    (operation, target)
}

/// Undoes percent encoding; what is not UTF-8 is shown with replacement characters.
pub fn decode(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Percent encoding of a key as listings with `encoding-type=url` show it.
pub fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_told_apart() {
        let of = |method: &str, line: &str| {
            let (path, query) = line.split_once('?').map_or((line, None), |(path, query)| (path, Some(query)));
            operation_of(&Method::from_bytes(method.as_bytes()).unwrap_or_default(), path, query, false).0
        };
        assert_eq!(of("GET", "/"), "s3:ListBuckets");
        assert_eq!(of("GET", "/b?list-type=2&prefix=x"), "s3:ListObjectsV2");
        assert_eq!(of("GET", "/b/"), "s3:ListObjects");
        assert_eq!(of("PUT", "/b/k"), "s3:PutObject");
        assert_eq!(of("PUT", "/b/k?partNumber=1&uploadId=u"), "s3:UploadPart");
        assert_eq!(of("POST", "/b/k?uploads"), "s3:CreateMultipartUpload");
        assert_eq!(of("POST", "/b/k?uploadId=u"), "s3:CompleteMultipartUpload");
        assert_eq!(of("DELETE", "/b/k?uploadId=u"), "s3:AbortMultipartUpload");
        assert_eq!(of("GET", "/b/k?uploadId=u"), "s3:ListParts");
        assert_eq!(of("HEAD", "/b/k"), "s3:HeadObject");
    }

    #[test]
    fn keys_are_decoded_and_encoded() {
        let target = operation_of(&Method::PUT, "/b/users/us-east-1%3Aid/free/../premium/x", None, false).1;
        assert_eq!(target.key, "users/us-east-1:id/free/../premium/x");
        assert_eq!(decode("a%2"), "a%2");
        assert_eq!(encode("a b/ü"), "a%20b/%C3%BC");
        assert_eq!(decode(&encode("a b/ü+%")), "a b/ü+%");
    }
}
