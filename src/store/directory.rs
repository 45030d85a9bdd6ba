//! A local directory as a store: for tests, air-gapped devices and mounted network shares. Promises the same as S3 where
//! the trait asks for it: an object is whole and synced before it is visible, and `if_none_match` is atomic. Objects lie
//! under the hash of their key, so that a key can never become a path.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crc_fast::{CrcAlgorithm, Digest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use super::{
    ObjectHead, ObjectStore, PartBody, PartReceipt, Profile, Signer, StoreBuildError, StoreError, StoreErrorKind,
    Stored, Target, UPLOAD_ID_METADATA,
};

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Where objects lie: `objects/` and `multipart/` are made beneath it.
    pub path: PathBuf,
}

/// Makes the directories.
///
/// # Errors
/// A directory that cannot be made or written.
pub fn open(config: Config) -> Result<Arc<dyn ObjectStore>, StoreBuildError> {
    let location = config.path.display().to_string();
    for name in ["objects", "multipart"] {
        let path = config.path.join(name);
        fs::create_dir_all(&path).map_err(|why| StoreBuildError {
            location: location.clone(),
            why: format!("cannot make {}: {why}", path.display()),
        })?;
    }
    Ok(Arc::new(DirectoryStore(Arc::new(Place { location, root: config.path }))))
}

#[derive(Debug)]
struct DirectoryStore(Arc<Place>);

#[derive(Debug)]
struct Place {
    location: String,
    root: PathBuf,
}

/// Stands before the bytes of an object, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    key: String,
    content_type: String,
    metadata: BTreeMap<String, String>,
    etag: String,
    crc64nvme: u64,
    size_bytes: u64,
}

const COPY_BYTES: usize = 256 << 10;
/// Ends the header; JSON never holds a raw line feed.
const HEADER_END: u8 = b'\n';

impl Place {
    fn object(&self, key: &str) -> PathBuf {
        self.root.join("objects").join(URL_SAFE_NO_PAD.encode(Sha256::digest(key.as_bytes())))
    }

    fn multipart(&self, multipart_id: &str) -> Result<PathBuf, StoreError> {
        let id: Ulid = multipart_id.parse().map_err(|_| gone("multipart"))?;
        Ok(self.root.join("multipart").join(id.to_string()))
    }

    fn scratch(&self) -> PathBuf {
        self.root.join("multipart").join(format!("{}.part", Ulid::generate()))
    }

    /// Makes `write`'s bytes an object: whole, synced, then visible.
    fn publish(
        &self,
        target: &Target,
        etag: String,
        crc64nvme: u64,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Stored, StoreError> {
        let scratch = self.scratch();
        let header = Header {
            key: target.key.clone(),
            content_type: target.content_type.clone(),
            metadata: target.metadata.clone(),
            etag: etag.clone(),
            crc64nvme,
            size_bytes: target.total_bytes,
        };
        let made = (|| {
            let mut file = File::create_new(&scratch)?;
            serde_json::to_writer(&mut file, &header)?;
            file.write_all(&[HEADER_END])?;
            write(&mut file)?;
            file.sync_all()?;
            let object = self.object(&target.key);
            if target.if_none_match {
                // A link fails where the name is taken; a rename would replace it.
                fs::hard_link(&scratch, &object)?;
                fs::remove_file(&scratch)?;
            } else {
                fs::rename(&scratch, &object)?;
            }
            File::open(self.root.join("objects"))?.sync_all()
        })();
        if let Err(why) = made {
            let _ = fs::remove_file(&scratch);
            return Err(match why.kind() {
                io::ErrorKind::AlreadyExists => {
                    StoreError::not_done("put", StoreErrorKind::PreconditionFailed, "the key is taken")
                }
                _ => StoreError::unknown("put", StoreErrorKind::Server, why.to_string()),
            });
        }
        Ok(Stored { etag: Some(etag), version_id: None, crc64nvme: Some(crc64nvme) })
    }

    fn read_header(path: &Path) -> io::Result<Option<Header>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(why),
        };
        let mut line = Vec::new();
        let mut reader = io::BufReader::new(file);
        io::BufRead::read_until(&mut reader, HEADER_END, &mut line)?;
        Ok(Some(serde_json::from_slice(&line)?))
    }

    fn parts(&self, multipart_id: &str) -> Result<Vec<PartReceipt>, StoreError> {
        let directory = self.multipart(multipart_id)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).map_err(|why| lost("list_parts", &why))? {
            let entry = entry.map_err(|why| lost("list_parts", &why))?;
            // "{number}-{crc}"; what is being written ends in ".tmp".
            let name = entry.file_name();
            let Some((number, crc)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
            let (Ok(number), Ok(crc)) = (number.parse(), u64::from_str_radix(crc, 16)) else { continue };
            let size_bytes = match entry.metadata() {
                Ok(metadata) => metadata.len(),
                // Replaced a moment ago by the same number again.
                Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
                Err(why) => return Err(lost("list_parts", &why)),
            };
            found.push(PartReceipt { number, etag: part_etag(crc), size_bytes, crc64nvme: Some(crc) });
        }
        found.sort_by_key(|part| part.number);
        Ok(found)
    }
}

fn part_etag(crc: u64) -> String {
    format!("\"{crc:016x}\"")
}

fn gone(operation: &'static str) -> StoreError {
    StoreError::not_done(operation, StoreErrorKind::NoSuchUpload, "no such multipart upload")
}

fn lost(operation: &'static str, why: &io::Error) -> StoreError {
    if why.kind() == io::ErrorKind::NotFound {
        return gone(operation);
    }
    StoreError::unknown(operation, StoreErrorKind::Server, why.to_string())
}

/// Copies the range and proves it against its checksum.
fn copy_part(body: &PartBody, into: &mut File) -> Result<(), StoreError> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut at = 0;
    while at < body.len {
        let want = usize::try_from((body.len - at).min(COPY_BYTES as u64)).unwrap_or(COPY_BYTES);
        body.file
            .read_exact_at(&mut buffer[..want], body.offset + at)
            .map_err(|why| StoreError::not_done("upload_part", StoreErrorKind::Source, why.to_string()))?;
        digest.update(&buffer[..want]);
        into.write_all(&buffer[..want]).map_err(|why| lost("upload_part", &why))?;
        at += want as u64;
        body.progress.add(want as u64);
    }
    if digest.finalize() != body.crc64nvme {
        let why = "the bytes have another checksum than was announced";
        return Err(StoreError::not_done("upload_part", StoreErrorKind::BadDigest, why));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|why| Err(StoreError::unknown("directory", StoreErrorKind::Server, why.to_string())))
}

#[async_trait::async_trait]
impl ObjectStore for DirectoryStore {
    fn location(&self) -> &str {
        &self.0.location
    }

    fn is_local(&self) -> bool {
        true
    }

    fn profile(&self) -> Profile {
        Profile { part_min_bytes: 1, ..Profile::S3 }
    }

    async fn put(&self, _signer: &Signer, target: &Target, body: &PartBody) -> Result<Stored, StoreError> {
        let (place, target, body) = (Arc::clone(&self.0), target.clone(), body.clone());
        blocking(move || {
            let mut refused = None;
            let stored = place.publish(&target, part_etag(body.crc64nvme), body.crc64nvme, |file| {
                copy_part(&body, file).map_err(|why| {
                    refused = Some(why);
                    io::Error::other("refused")
                })
            });
            refused.map_or(stored, Err)
        })
        .await
    }

    async fn create_multipart(&self, _signer: &Signer, _target: &Target) -> Result<String, StoreError> {
        let place = Arc::clone(&self.0);
        blocking(move || {
            let id = Ulid::generate().to_string();
            fs::create_dir(place.multipart(&id)?).map_err(|why| lost("create_multipart", &why))?;
            Ok(id)
        })
        .await
    }

    async fn upload_part(
        &self,
        _signer: &Signer,
        _target: &Target,
        multipart_id: &str,
        number: u32,
        body: &PartBody,
    ) -> Result<PartReceipt, StoreError> {
        let (place, multipart_id, body) = (Arc::clone(&self.0), multipart_id.to_owned(), body.clone());
        blocking(move || {
            let directory = place.multipart(&multipart_id)?;
            let scratch = directory.join(format!("{}.tmp", Ulid::generate()));
            let written = (|| {
                let mut file = File::create_new(&scratch).map_err(|why| lost("upload_part", &why))?;
                copy_part(&body, &mut file)?;
                file.sync_all().map_err(|why| lost("upload_part", &why))?;
                let name = format!("{number}-{:016x}", body.crc64nvme);
                fs::rename(&scratch, directory.join(&name)).map_err(|why| lost("upload_part", &why))?;
                // The same number again replaces the part, whatever its checksum was.
                for old in place.parts(&multipart_id)?.into_iter().filter(|part| part.number == number) {
                    let old = format!("{number}-{:016x}", old.crc64nvme.unwrap_or_default());
                    if old != name {
                        let _ = fs::remove_file(directory.join(old));
                    }
                }
                Ok(())
            })();
            if written.is_err() {
                let _ = fs::remove_file(&scratch);
            }
            written?;
            Ok(PartReceipt {
                number,
                etag: part_etag(body.crc64nvme),
                size_bytes: body.len,
                crc64nvme: Some(body.crc64nvme),
            })
        })
        .await
    }

    async fn complete(
        &self,
        _signer: &Signer,
        target: &Target,
        multipart_id: &str,
        parts: &[PartReceipt],
    ) -> Result<Stored, StoreError> {
        let (place, target, multipart_id, parts) =
            (Arc::clone(&self.0), target.clone(), multipart_id.to_owned(), parts.to_vec());
        blocking(move || {
            let directory = place.multipart(&multipart_id)?;
            let here = place.parts(&multipart_id)?;
            let mismatch = |why| Err(StoreError::not_done("complete", StoreErrorKind::InvalidParts, why));
            let mut crc = 0;
            let mut size_bytes = 0;
            for part in &parts {
                let Some(found) = here.iter().find(|found| found.number == part.number && found.etag == part.etag)
                else {
                    return mismatch("a part is not here");
                };
                let part_crc = found.crc64nvme.unwrap_or_default();
                crc = crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, crc, part_crc, found.size_bytes);
                size_bytes += found.size_bytes;
            }
            if parts.is_empty() || size_bytes != target.total_bytes {
                return mismatch("the parts have another size than was announced");
            }
            if target.crc64nvme.is_some_and(|told| told != crc) {
                let why = "the object has another checksum than was announced";
                return Err(StoreError::not_done("complete", StoreErrorKind::BadDigest, why));
            }
            let etag = format!("\"{crc:016x}-{}\"", parts.len());
            let stored = place.publish(&target, etag, crc, |file| {
                for part in &parts {
                    let name = format!("{}-{:016x}", part.number, part.crc64nvme.unwrap_or_default());
                    io::copy(&mut File::open(directory.join(name))?, file)?;
                }
                Ok(())
            })?;
            let _ = fs::remove_dir_all(&directory);
            Ok(stored)
        })
        .await
    }

    async fn abort(&self, _signer: &Signer, _target: &Target, multipart_id: &str) -> Result<(), StoreError> {
        let (place, multipart_id) = (Arc::clone(&self.0), multipart_id.to_owned());
        blocking(move || fs::remove_dir_all(place.multipart(&multipart_id)?).map_err(|why| lost("abort", &why))).await
    }

    async fn list_parts(
        &self,
        _signer: &Signer,
        _target: &Target,
        multipart_id: &str,
    ) -> Result<Vec<PartReceipt>, StoreError> {
        let (place, multipart_id) = (Arc::clone(&self.0), multipart_id.to_owned());
        blocking(move || place.parts(&multipart_id)).await
    }

    async fn head(&self, _signer: &Signer, target: &Target) -> Result<Option<ObjectHead>, StoreError> {
        let (place, key) = (Arc::clone(&self.0), target.key.clone());
        blocking(move || {
            let header = Place::read_header(&place.object(&key)).map_err(|why| lost("head", &why))?;
            Ok(header.map(|header| ObjectHead {
                size_bytes: header.size_bytes,
                upload_id: header.metadata.get(UPLOAD_ID_METADATA).cloned(),
                stored: Stored { etag: Some(header.etag), version_id: None, crc64nvme: Some(header.crc64nvme) },
            }))
        })
        .await
    }
}

/// Reads an object back.
///
/// # Errors
/// Where there is none at the key, or it cannot be read.
pub fn read_object(root: &Path, key: &str) -> io::Result<Vec<u8>> {
    let place = Place { location: String::new(), root: root.to_owned() };
    let mut bytes = Vec::new();
    File::open(place.object(key))?.read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == HEADER_END).map_or(bytes.len(), |at| at + 1);
    Ok(bytes.split_off(end))
}

/// The keys of all objects, sorted.
///
/// # Errors
/// Where the directory cannot be read.
pub fn object_keys(root: &Path) -> io::Result<Vec<String>> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(root.join("objects"))? {
        keys.extend(Place::read_header(&entry?.path())?.map(|header| header.key));
    }
    keys.sort();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn passes_the_suite() {
        let root = tempfile::tempdir().unwrap();
        let store = open(Config { path: root.path().to_owned() }).unwrap();
        crate::store::conformance::run(store, &crate::store::conformance::nobody(), "suite/").await;
    }
}
