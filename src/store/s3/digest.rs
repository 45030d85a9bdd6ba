//! The older proof of the bytes, for S3-likes that do not know CRC64NVME: their MD5 as a header. Promises that what is
//! proven to the store are the bytes whose CRC64NVME we know; must never be taken for more than a proof against accidents.

use std::os::unix::fs::FileExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::{Digest as _, Md5};

use crate::store::{PartBody, StoreError, StoreErrorKind as Kind};

const PIECE_BYTES: usize = 256 << 10;

/// The `Content-MD5` of a range, read once more.
///
/// # Errors
/// `Source` where it cannot be read, `BadDigest` where its bytes are not those of its CRC64NVME any more.
pub(super) async fn content_md5(operation: &'static str, body: &PartBody) -> Result<String, StoreError> {
    let part = body.clone();
    let read = tokio::task::spawn_blocking(move || digests(&part)).await;
    let read = read.unwrap_or_else(|why| Err(std::io::Error::other(why)));
    let (md5, crc64nvme) =
        read.map_err(|why| StoreError::not_done(operation, Kind::Source, format!("reading the file failed: {why}")))?;
    if crc64nvme != body.crc64nvme {
        let why = "the file's bytes are not those of their checksum any more";
        return Err(StoreError::not_done(operation, Kind::BadDigest, why));
    }
    Ok(md5)
}

fn digests(part: &PartBody) -> std::io::Result<(String, u64)> {
    let (mut md5, mut crc) = (Md5::new(), Crc::new(CrcAlgorithm::Crc64Nvme));
    let mut buffer = vec![0; usize::try_from(part.len).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
    let mut done = 0;
    while done < part.len {
        let want = usize::try_from(part.len - done).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        part.file.read_exact_at(&mut buffer[..want], part.offset + done)?;
        md5.update(&buffer[..want]);
        crc.update(&buffer[..want]);
        done += want as u64;
    }
    Ok((STANDARD.encode(md5.finalize()), crc.finalize()))
}
