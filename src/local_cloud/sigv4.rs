//! Signature version 4 for everything that is not S3: whether the signature fits the request, and whose it is.
//!
//! Promises to compare in constant time and to look at nothing that is not signed. Never reads a body that was not
//! bounded before.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use http::HeaderMap;
use http::request::Parts;
use secrecy::{ExposeSecret, SecretString};

use crate::clock::unix_ms;
use crate::local_cloud::site::Site;
use crate::local_cloud::sts::{Auth, SessionError, Sts};

/// How far a request's time may be from the cloud's, in milliseconds.
pub const MAX_SKEW_MS: i64 = 15 * 60 * 1_000;

/// Why a signature does not count. Each service has its own code for each of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header is missing or cannot be read.
    #[error("the request's signature is incomplete: {0}")]
    Incomplete(&'static str),
    /// It was signed for another service.
    #[error("Credential should be scoped to correct service: '{expected}'. ")]
    Scope {
        /// The service that was called.
        expected: &'static str,
    },
    /// Too far from the cloud's time.
    #[error("Signature not yet current or expired: {signed} is too far from {now}")]
    Skewed {
        /// The request's time.
        signed: String,
        /// The cloud's time.
        now: String,
    },
    /// It does not fit the request.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    /// The keys do not count.
    #[error("The security token included in the request is invalid.")]
    InvalidToken,
    /// The session ended.
    #[error("The security token included in the request is expired")]
    Expired,
}

/// The parts of an `Authorization` header.
struct Authorization<'a> {
    access_key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

/// The access key id that a request names, signed or not, valid or not.
pub fn access_key_id(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    let credential = match authorization {
        Some(authorization) => authorization.split_once("Credential=")?.1,
        None => query?.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?,
    };
    let end = credential.find(['/', '%', ',']).unwrap_or(credential.len());
    Some(credential[..end].chars().take(128).collect())
}

/// Milliseconds since 1970 of `20261123T010203Z`.
pub fn parse_amz_date(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    if date.len() != 8 || time.len() != 6 || !text.is_ascii() {
        return None;
    }
    let dashed =
        format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..], &time[..2], &time[2..4], &time[4..]);
    humantime::parse_rfc3339(&dashed).ok().map(unix_ms)
}

/// Whose signature this is; [`Auth::Anonymous`] where there is none.
///
/// # Errors
/// [`SignatureError`].
pub fn authenticate(
    parts: &Parts,
    body: &[u8],
    service: &'static str,
    site: &Site,
    sts: &Sts,
) -> Result<Auth, SignatureError> {
    let Some(header) = text(&parts.headers, "authorization") else { return Ok(Auth::Anonymous) };
    let authorization = Authorization::parse(header)?;
    if authorization.service != service {
        return Err(SignatureError::Scope { expected: service });
    }
    let amz_date = text(&parts.headers, "x-amz-date").ok_or(SignatureError::Incomplete("X-Amz-Date is missing"))?;
    let signed_unix_ms = parse_amz_date(amz_date).ok_or(SignatureError::Incomplete("X-Amz-Date is not a time"))?;
    if !amz_date.starts_with(authorization.date) {
        return Err(SignatureError::Incomplete("the credential's scope is of another day"));
    }
    let now = site.clock.wall();
    if unix_ms(now).abs_diff(signed_unix_ms) > MAX_SKEW_MS.unsigned_abs() {
        let now = humantime::format_rfc3339_seconds(now).to_string();
        return Err(SignatureError::Skewed { signed: amz_date.to_owned(), now });
    }
    let secret = sts.secret(authorization.access_key_id).ok_or(SignatureError::InvalidToken)?;
    let canonical = authorization.canonical_request(parts, body)?;
    let expected = authorization.sign(&secret, amz_date, &canonical);
    verify_slices_are_equal(expected.as_bytes(), authorization.signature.as_bytes())
        .map_err(|_| SignatureError::Mismatch)?;
    let token = text(&parts.headers, "x-amz-security-token");
    sts.session(authorization.access_key_id, token).map_err(|error| match error {
        SessionError::Expired => SignatureError::Expired,
        SessionError::UnknownAccessKey | SessionError::InvalidToken => SignatureError::InvalidToken,
    })
}

impl<'a> Authorization<'a> {
    fn parse(header: &'a str) -> Result<Self, SignatureError> {
        let fields = header
            .strip_prefix("AWS4-HMAC-SHA256")
            .ok_or(SignatureError::Incomplete("only AWS4-HMAC-SHA256 is known"))?;
        let field = |name: &str| {
            let mut fields = fields.split(',').map(str::trim);
            fields
                .find_map(|field| field.strip_prefix(name))
                .ok_or(SignatureError::Incomplete("Authorization needs Credential, SignedHeaders and Signature"))
        };
        let scope: Vec<&str> = field("Credential=")?.split('/').collect();
        let [access_key_id, date, region, service, "aws4_request"] = scope[..] else {
            return Err(SignatureError::Incomplete("Credential is not KEY/DATE/REGION/SERVICE/aws4_request"));
        };
        let signed_headers: Vec<&str> = field("SignedHeaders=")?.split(';').collect();
        if !signed_headers.contains(&"host") {
            return Err(SignatureError::Incomplete("'Host' must be a signed header"));
        }
        Ok(Self { access_key_id, date, region, service, signed_headers, signature: field("Signature=")? })
    }

    fn canonical_request(&self, parts: &Parts, body: &[u8]) -> Result<String, SignatureError> {
        let mut headers = String::new();
        for name in &self.signed_headers {
            let values: Vec<&str> =
                parts.headers.get_all(*name).iter().filter_map(|value| value.to_str().ok()).collect();
            // HTTP/2 has the host in its own place.
            let authority = parts.uri.authority().map(http::uri::Authority::as_str);
            let value = match authority {
                Some(authority) if values.is_empty() && *name == "host" => authority.to_owned(),
                _ if values.is_empty() => return Err(SignatureError::Mismatch),
                _ => values.iter().map(|value| squeeze(value)).collect::<Vec<_>>().join(","),
            };
            headers += &format!("{name}:{value}\n");
        }
        let mut query: Vec<(&str, &str)> = parts
            .uri
            .query()
            .into_iter()
            .flat_map(|query| query.split('&'))
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        query.sort_unstable();
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(format!(
            "{}\n{}\n{}\n{headers}\n{}\n{}",
            parts.method,
            parts.uri.path(),
            query.join("&"),
            self.signed_headers.join(";"),
            hex(digest(&SHA256, body).as_ref())
        ))
    }

    fn sign(&self, secret: &SecretString, amz_date: &str, canonical: &str) -> String {
        let scope = format!("{}/{}/{}/aws4_request", self.date, self.region, self.service);
        let hashed = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{hashed}");
        let mut key = format!("AWS4{}", secret.expose_secret()).into_bytes();
        for step in [self.date, self.region, self.service, "aws4_request", &text] {
            key = sign(&Key::new(HMAC_SHA256, &key), step.as_bytes()).as_ref().to_vec();
        }
        hex(&key)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Outer spaces go, inner runs of spaces become one.
fn squeeze(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The example request of AWS's documentation ("GET ListUsers").
    #[test]
    fn the_documented_example_signs_as_documented() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
                      SignedHeaders=content-type;host;x-amz-date, \
                      Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        let request = http::Request::get("https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .header("host", "iam.amazonaws.com")
            .header("x-amz-date", "20150830T123600Z")
            .body(())
            .unwrap();
        let (parts, ()) = request.into_parts();
        let authorization = Authorization::parse(header).unwrap();
        let canonical = authorization.canonical_request(&parts, b"").unwrap();
        assert_eq!(
            hex(digest(&SHA256, canonical.as_bytes()).as_ref()),
            "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
        );
        let secret = SecretString::from("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        assert_eq!(authorization.sign(&secret, "20150830T123600Z", &canonical), authorization.signature);
    }

    #[test]
    fn a_host_that_is_not_signed_is_refused() {
        let header = "AWS4-HMAC-SHA256 Credential=A/20150830/us-east-1/iam/aws4_request, SignedHeaders=x-amz-date, \
                      Signature=00";
        assert!(matches!(Authorization::parse(header), Err(SignatureError::Incomplete(_))));
        assert!(Authorization::parse("Bearer x").is_err());
    }

    #[test]
    fn dates_and_keys_are_read() {
        assert_eq!(parse_amz_date("20150830T123600Z"), Some(1_440_938_160_000));
        assert_eq!(parse_amz_date("2015-08-30"), None);
        let mut headers = HeaderMap::new();
        assert_eq!(access_key_id(&headers, Some("X-Amz-Credential=ASIA1%2F20150830")).as_deref(), Some("ASIA1"));
        headers.insert("authorization", "AWS4-HMAC-SHA256 Credential=AKIA2/2015/x, SignedHeaders=".parse().unwrap());
        assert_eq!(access_key_id(&headers, None).as_deref(), Some("AKIA2"));
    }
}
