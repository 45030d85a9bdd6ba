//! S3's checksums: which there are, how a client states one, how those of the parts make the object's.
//!
//! Promises that a stated checksum is compared with the bytes that arrived, whatever the way it was stated in (header,
//! trailer, body of the completion). Never stores anything.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};

use super::failure;

/// One of S3's checksum algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (iSCSI).
    Crc32c,
    /// CRC-64/NVME, S3's default.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// S3's name, for example `CRC64NVME`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header that carries it, in lower case.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The algorithm of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    const fn length(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    const fn crc(self) -> Option<crc_fast::CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(crc_fast::CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(crc_fast::CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }
}

/// What the checksum of a multipart object covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coverage {
    /// The object's bytes.
    FullObject,
    /// The parts' checksums; ends in `-N`.
    Composite,
}

impl Coverage {
    /// S3's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    /// The coverage of an upload with this algorithm; `wanted` is `x-amz-checksum-type`.
    ///
    /// # Errors
    /// `InvalidRequest` where the two do not go together.
    pub fn choose(algorithm: Algorithm, wanted: Option<&str>) -> S3Result<Self> {
        let coverage = match wanted {
            None if algorithm == Algorithm::Crc64Nvme => Self::FullObject,
            None | Some("COMPOSITE") => Self::Composite,
            Some("FULL_OBJECT") => Self::FullObject,
            Some(other) => {
                return Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid: {other}"));
            }
        };
        let fits = match coverage {
            Self::FullObject => algorithm.crc().is_some(),
            Self::Composite => algorithm != Algorithm::Crc64Nvme,
        };
        if fits {
            return Ok(coverage);
        }
        Err(s3_error!(
            InvalidRequest,
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            coverage.name(),
            algorithm.name().to_ascii_lowercase()
        ))
    }
}

/// A checksum as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// Base64, with `-N` behind it where composite.
    pub value: String,
    /// What it covers.
    pub coverage: Coverage,
}

impl Checksum {
    /// The value, where it is one of `algorithm`.
    pub fn of(this: Option<&Self>, algorithm: Algorithm) -> Option<String> {
        this.filter(|checksum| checksum.algorithm == algorithm).map(|checksum| checksum.value.clone())
    }
}

/// Computes MD5 and the wanted checksums in one pass.
pub struct Hashers {
    md5: Md5,
    crc32: Option<Crc32>,
    crc32c: Option<Crc32c>,
    crc64nvme: Crc64Nvme,
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
}

impl Hashers {
    /// Hashers for CRC64NVME, MD5 and these.
    pub fn new(wanted: &[Algorithm]) -> Self {
        let wants = |algorithm| wanted.contains(&algorithm);
        Self {
            md5: Md5::new(),
            crc32: wants(Algorithm::Crc32).then(Crc32::new),
            crc32c: wants(Algorithm::Crc32c).then(Crc32c::new),
            crc64nvme: Crc64Nvme::new(),
            sha1: wants(Algorithm::Sha1).then(Sha1::new),
            sha256: wants(Algorithm::Sha256).then(Sha256::new),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc64nvme.update(bytes);
        if let Some(hasher) = &mut self.crc32 {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.crc32c {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.sha1 {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.sha256 {
            hasher.update(bytes);
        }
    }

    /// What the bytes add up to.
    pub fn finish(self) -> Digests {
        let mut values = BTreeMap::new();
        values.insert(Algorithm::Crc64Nvme, self.crc64nvme.finalize().to_vec());
        if let Some(hasher) = self.crc32 {
            values.insert(Algorithm::Crc32, hasher.finalize().to_vec());
        }
        if let Some(hasher) = self.crc32c {
            values.insert(Algorithm::Crc32c, hasher.finalize().to_vec());
        }
        if let Some(hasher) = self.sha1 {
            values.insert(Algorithm::Sha1, hasher.finalize().as_ref().to_vec());
        }
        if let Some(hasher) = self.sha256 {
            values.insert(Algorithm::Sha256, hasher.finalize().as_ref().to_vec());
        }
        Digests { md5: self.md5.finalize().as_ref().to_vec(), values }
    }
}

/// The digests of one body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Digests {
    /// MD5, from which ETags are made.
    pub md5: Vec<u8>,
    /// Checksums by algorithm; CRC64NVME is always among them.
    pub values: BTreeMap<Algorithm, Vec<u8>>,
}

impl Digests {
    /// The checksum in base64, where it was computed.
    pub fn base64(&self, algorithm: Algorithm) -> Option<String> {
        self.values.get(&algorithm).map(|value| STANDARD.encode(value))
    }

    /// The ETag of a body that was sent in one piece, without quotes.
    pub fn etag(&self) -> String {
        hex(&self.md5)
    }
}

/// What a client says about the bytes that it sends.
#[derive(Debug, Default)]
pub struct Claim {
    /// A checksum in a header: its value is known before the bytes.
    stated: Option<(Algorithm, String)>,
    /// A checksum that the trailer will bring.
    trailing: Option<Algorithm>,
    md5: Option<Vec<u8>>,
}

impl Claim {
    /// Reads the claim from a request's headers.
    ///
    /// # Errors
    /// `InvalidRequest` or `InvalidDigest` for claims that cannot be true of any bytes.
    pub fn read(headers: &HeaderMap) -> S3Result<Self> {
        let mut claim = Self::default();
        for algorithm in Algorithm::ALL {
            let Some(value) = headers.get(algorithm.header()) else { continue };
            if claim.stated.is_some() {
                return Err(s3_error!(
                    InvalidRequest,
                    "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
                ));
            }
            let value = value.to_str().unwrap_or_default();
            check_form(algorithm, value)?;
            claim.stated = Some((algorithm, value.to_owned()));
        }
        if let Some(trailer) = headers.get("x-amz-trailer").and_then(|value| value.to_str().ok()) {
            let mut named = trailer.split(',').map(str::trim);
            claim.trailing = named
                .find_map(|name| Algorithm::ALL.into_iter().find(|known| known.header().eq_ignore_ascii_case(name)));
        }
        let announced = headers.get("x-amz-sdk-checksum-algorithm").and_then(|value| value.to_str().ok());
        if let Some(announced) = announced
            && claim.algorithm().is_none()
        {
            Algorithm::parse(announced).ok_or_else(|| {
                s3_error!(InvalidRequest, "Value for x-amz-sdk-checksum-algorithm header is invalid.")
            })?;
            if !headers.contains_key("content-md5") {
                return Err(s3_error!(
                    InvalidRequest,
                    "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                     headers were found."
                ));
            }
        }
        if let Some(md5) = headers.get("content-md5") {
            let decoded = STANDARD.decode(md5.as_bytes()).ok().filter(|digest| digest.len() == 16);
            claim.md5 =
                Some(decoded.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."))?);
        }
        Ok(claim)
    }

    /// The algorithm that the client chose.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.stated.as_ref().map(|(algorithm, _)| *algorithm).or(self.trailing)
    }

    /// Compares the claim with the bytes; `trailer` is what came behind them.
    ///
    /// # Errors
    /// `BadDigest`, or `MalformedTrailerError` where an announced checksum did not come.
    pub fn verify(&self, digests: &Digests, trailer: Option<&HeaderMap>) -> S3Result<()> {
        if let Some(md5) = &self.md5
            && *md5 != digests.md5
        {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        if let Some(algorithm) = self.trailing {
            let value =
                trailer.and_then(|headers| headers.get(algorithm.header())).and_then(|value| value.to_str().ok());
            let Some(value) = value else {
                let message = "The request contained trailing data that was not well-formed or did not conform to our \
                               published schema.";
                return Err(failure(400, "MalformedTrailerError", message));
            };
            check_form(algorithm, value)?;
            compare(algorithm, value, digests)?;
        }
        match &self.stated {
            Some((algorithm, value)) => compare(*algorithm, value, digests),
            None => Ok(()),
        }
    }
}

/// The checksum of the whole object from those of its parts.
pub fn combine(algorithm: Algorithm, coverage: Coverage, parts: &[(Vec<u8>, u64)]) -> Checksum {
    let value = match (coverage, algorithm.crc()) {
        (Coverage::FullObject, Some(crc)) => {
            let mut whole = None;
            for (value, size) in parts {
                let value = value.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
                whole = Some(match whole {
                    None => value,
                    Some(before) => crc_fast::checksum_combine(crc, before, value, *size),
                });
            }
            let whole = whole.unwrap_or_default().to_be_bytes();
            STANDARD.encode(&whole[8 - algorithm.length()..])
        }
        _ => {
            let mut hashers = Hashers::new(&[algorithm]);
            for (value, _) in parts {
                hashers.update(value);
            }
            let composite = hashers.finish().base64(algorithm).unwrap_or_default();
            format!("{composite}-{}", parts.len())
        }
    };
    Checksum { algorithm, value, coverage }
}

/// The ETag of a multipart object, without quotes.
pub fn multipart_etag<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut md5 = Md5::new();
    let mut count = 0_usize;
    for part in parts {
        md5.update(part);
        count += 1;
    }
    format!("{}-{count}", hex(md5.finalize().as_ref()))
}

/// S3's words for a checksum that is not that of the bytes.
pub fn mismatch(algorithm: Algorithm) -> S3Error {
    s3_error!(BadDigest, "The {} you specified did not match the calculated checksum.", algorithm.name())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn check_form(algorithm: Algorithm, value: &str) -> S3Result<()> {
    match STANDARD.decode(value) {
        Ok(decoded) if decoded.len() == algorithm.length() => Ok(()),
        _ => Err(s3_error!(InvalidRequest, "Value for {} header is invalid.", algorithm.header())),
    }
}

fn compare(algorithm: Algorithm, value: &str, digests: &Digests) -> S3Result<()> {
    if digests.base64(algorithm).as_deref() == Some(value) { Ok(()) } else { Err(mismatch(algorithm)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn digests(bytes: &[u8]) -> Digests {
        let mut hashers = Hashers::new(&Algorithm::ALL);
        hashers.update(bytes);
        hashers.finish()
    }

    #[test]
    fn crcs_of_parts_make_the_crc_of_the_whole() {
        let whole: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let parts: Vec<_> = whole
                .chunks(33_333)
                .map(|part| (digests(part).values[&algorithm].clone(), part.len() as u64))
                .collect();
            let combined = combine(algorithm, Coverage::FullObject, &parts);
            assert_eq!(Some(combined.value), digests(&whole).base64(algorithm), "{}", algorithm.name());
        }
    }

    #[test]
    fn a_composite_is_the_checksum_of_the_parts_checksums() {
        let parts = [
            (digests(b"one").values[&Algorithm::Sha256].clone(), 3),
            (digests(b"two").values[&Algorithm::Sha256].clone(), 3),
        ];
        let joined: Vec<u8> = parts.iter().flat_map(|(value, _)| value.clone()).collect();
        let expected = format!("{}-2", digests(&joined).base64(Algorithm::Sha256).unwrap());
        assert_eq!(combine(Algorithm::Sha256, Coverage::Composite, &parts).value, expected);
    }

    #[test]
    fn known_values() {
        let digests = digests(b"123456789");
        assert_eq!(digests.values[&Algorithm::Crc32], 0xcbf4_3926_u32.to_be_bytes());
        assert_eq!(digests.values[&Algorithm::Crc32c], 0xe306_9283_u32.to_be_bytes());
        assert_eq!(digests.values[&Algorithm::Crc64Nvme], 0xae8b_1486_0a79_9888_u64.to_be_bytes());
        assert_eq!(digests.etag(), "25f9e794323b453885f5181f1b624d0b");
    }

    #[test]
    fn claims_are_read_and_compared() {
        let digests = digests(b"photo");
        let mut headers = HeaderMap::new();
        let value = digests.base64(Algorithm::Crc64Nvme).unwrap();
        headers.insert("x-amz-checksum-crc64nvme", value.parse().unwrap());
        assert!(Claim::read(&headers).unwrap().verify(&digests, None).is_ok());
        headers.insert("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=".parse().unwrap());
        let error = Claim::read(&headers).unwrap().verify(&digests, None).unwrap_err();
        assert_eq!(error.code().as_str(), "BadDigest");
        headers.insert("x-amz-checksum-crc32", "AAAAAA==".parse().unwrap());
        assert_eq!(Claim::read(&headers).unwrap_err().code().as_str(), "InvalidRequest");
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-checksum-sha256", "short".parse().unwrap());
        assert_eq!(Claim::read(&headers).unwrap_err().code().as_str(), "InvalidRequest");
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-trailer", "x-amz-checksum-crc32".parse().unwrap());
        let claim = Claim::read(&headers).unwrap();
        assert_eq!(claim.algorithm(), Some(Algorithm::Crc32));
        assert_eq!(claim.verify(&digests, None).unwrap_err().code().as_str(), "MalformedTrailerError");
    }

    #[test]
    fn coverage_must_fit_the_algorithm() {
        assert_eq!(Coverage::choose(Algorithm::Crc64Nvme, None).unwrap(), Coverage::FullObject);
        assert_eq!(Coverage::choose(Algorithm::Sha256, None).unwrap(), Coverage::Composite);
        assert_eq!(Coverage::choose(Algorithm::Crc32, Some("FULL_OBJECT")).unwrap(), Coverage::FullObject);
        assert!(Coverage::choose(Algorithm::Sha1, Some("FULL_OBJECT")).is_err());
        assert!(Coverage::choose(Algorithm::Crc64Nvme, Some("COMPOSITE")).is_err());
    }
}
