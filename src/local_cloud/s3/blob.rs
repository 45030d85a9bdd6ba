//! The bytes of objects and parts: files with hashed names beneath one directory.
//!
//! Promises that a name never comes from a key's own characters, that a file appears whole (written aside, then
//! renamed) and that a reader that has a lease never loses the file under it. Never flushes to the medium: this is a
//! rehearsal, what must survive is a restart of the process.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use s3s::crypto::{Checksum as _, Sha256};
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::checksum::{Algorithm, Digests, Hashers, hex};
use super::failure;

/// Chunks that may wait for the writer's thread.
const QUEUED_CHUNKS: usize = 16;
/// Bytes that one read takes from a file.
const READ_BYTES: usize = 256 * 1024;

/// A stored run of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The file's name.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The directory of the files; clones share it.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    leases: Mutex<Leases>,
}

#[derive(Debug, Default)]
struct Leases {
    readers: usize,
    unwanted: Vec<String>,
}

/// While it lives, no file is removed.
#[derive(Debug)]
pub struct Lease(Blobs);

impl Drop for Lease {
    fn drop(&mut self) {
        let unwanted = {
            let mut leases = self.0.leases();
            leases.readers -= 1;
            if leases.readers == 0 { std::mem::take(&mut leases.unwanted) } else { Vec::new() }
        };
        self.0.unlink(&unwanted);
    }
}

impl Blobs {
    /// Opens the directory, makes it where it is missing, and clears what was half written.
    ///
    /// # Errors
    /// Any of the file system's.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let aside = directory.join("incoming");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::create_dir_all(&aside)?;
        Ok(Self(Arc::new(Inner { directory: directory.to_owned(), leases: Mutex::default() })))
    }

    /// Removes every file that is not in `wanted`: what a stop between commit and removal left behind.
    ///
    /// # Errors
    /// Any of the file system's.
    pub fn sweep(&self, wanted: &HashSet<String>) -> io::Result<()> {
        for shelf in fs::read_dir(&self.0.directory)? {
            let shelf = shelf?;
            if !shelf.file_type()?.is_dir() || shelf.file_name() == "incoming" {
                continue;
            }
            for file in fs::read_dir(shelf.path())? {
                let file = file?;
                if !file.file_name().to_str().is_some_and(|name| wanted.contains(name)) {
                    fs::remove_file(file.path())?;
                }
            }
        }
        Ok(())
    }

    /// Stores a body under a name derived from bucket and key, and computes its digests on the way.
    ///
    /// # Errors
    /// The body's own failure as S3 names it, or `InternalError` for the file system's.
    pub async fn receive(
        &self,
        bucket: &str,
        key: &str,
        body: Option<StreamingBlob>,
        wanted: &[Algorithm],
    ) -> S3Result<(Segment, Digests)> {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUED_CHUNKS);
        let mut draft = self.draft(bucket, key, wanted);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = receiver.blocking_recv() {
                draft.write(&chunk)?;
            }
            io::Result::Ok(draft)
        });
        let mut failed = None;
        if let Some(mut body) = body {
            while let Some(chunk) = body.next().await {
                match chunk {
                    Ok(chunk) => {
                        if sender.send(chunk).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        failed = Some(body_failure(&error.to_string()));
                        break;
                    }
                }
            }
        }
        drop(sender);
        let draft = writer.await.map_err(S3Error::internal_error)?.map_err(S3Error::internal_error)?;
        if let Some(failed) = failed {
            return Err(failed);
        }
        tokio::task::spawn_blocking(move || draft.keep())
            .await
            .map_err(S3Error::internal_error)?
            .map_err(S3Error::internal_error)
    }

    /// A file to be written by the caller; it disappears unless it is kept.
    pub fn draft(&self, bucket: &str, key: &str, wanted: &[Algorithm]) -> Draft {
        let mut hasher = Sha256::new();
        hasher.update(bucket.as_bytes());
        hasher.update(b"/");
        hasher.update(key.as_bytes());
        let hash = hex(hasher.finalize().as_ref());
        let name = format!("{hash}-{}", ulid::Ulid::generate());
        let aside = self.0.directory.join("incoming").join(&name);
        Draft { blobs: self.clone(), name, aside, file: None, size: 0, hashers: Hashers::new(wanted), kept: false }
    }

    /// Keeps every file where it is until the lease is dropped. Take it before looking up what to read.
    pub fn lease(&self) -> Lease {
        self.leases().readers += 1;
        Lease(self.clone())
    }

    /// Removes files, once nobody reads.
    pub fn remove(&self, files: Vec<String>) {
        {
            let mut leases = self.leases();
            if leases.readers > 0 {
                leases.unwanted.extend(files);
                return;
            }
        }
        self.unlink(&files);
    }

    /// The bytes from `start` on, `length` of them, out of the segments in their order.
    pub fn read(&self, lease: Lease, segments: Vec<Segment>, start: u64, length: u64) -> StreamingBlob {
        let (sender, receiver) = mpsc::channel(4);
        let blobs = self.clone();
        tokio::spawn(async move {
            let _lease = lease;
            if let Err(error) = blobs.send(&segments, start, length, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        StreamingBlob::wrap(ReceiverStream::new(receiver))
    }

    /// The path of a stored file.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.directory.join(file.get(..2).unwrap_or("00")).join(file)
    }

    async fn send(
        &self,
        segments: &[Segment],
        start: u64,
        length: u64,
        sender: &mpsc::Sender<io::Result<Bytes>>,
    ) -> io::Result<()> {
        let (mut skip, mut left) = (start, length);
        for segment in segments {
            if left == 0 {
                break;
            }
            if skip >= segment.size {
                skip -= segment.size;
                continue;
            }
            let mut file = tokio::fs::File::open(self.path(&segment.file)).await?;
            file.seek(io::SeekFrom::Start(skip)).await?;
            let mut here = (segment.size - skip).min(left);
            skip = 0;
            left -= here;
            file.set_max_buf_size(READ_BYTES);
            while here > 0 {
                let want = usize::try_from(here).unwrap_or(READ_BYTES).min(READ_BYTES);
                let mut buffer = bytes::BytesMut::with_capacity(want);
                let mut limited = (&mut file).take(want as u64);
                if limited.read_buf(&mut buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                here -= buffer.len() as u64;
                if sender.send(Ok(buffer.freeze())).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn unlink(&self, files: &[String]) {
        for file in files {
            if let Err(error) = fs::remove_file(self.path(file))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "a stored file that nothing refers to could not be removed");
            }
        }
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.0.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file while it is written. For blocking threads only.
pub struct Draft {
    blobs: Blobs,
    name: String,
    aside: PathBuf,
    file: Option<File>,
    size: u64,
    hashers: Hashers,
    kept: bool,
}

impl Draft {
    /// Appends.
    ///
    /// # Errors
    /// Any of the file system's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hashers.update(bytes);
        self.size += bytes.len() as u64;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create_new(&self.aside)?),
        };
        file.write_all(bytes)
    }

    /// Gives the file its place.
    ///
    /// # Errors
    /// Any of the file system's.
    pub fn keep(mut self) -> io::Result<(Segment, Digests)> {
        if self.file.is_none() {
            self.file = Some(File::create_new(&self.aside)?);
        }
        let place = self.blobs.path(&self.name);
        if let Some(shelf) = place.parent() {
            fs::create_dir_all(shelf)?;
        }
        fs::rename(&self.aside, place)?;
        self.kept = true;
        let hashers = std::mem::replace(&mut self.hashers, Hashers::new(&[]));
        Ok((Segment { file: self.name.clone(), size: self.size }, hashers.finish()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept && self.file.is_some() {
            let _ = fs::remove_file(&self.aside);
        }
    }
}

/// The body streams of `s3s` say what went wrong only in words.
fn body_failure(error: &str) -> S3Error {
    if error.contains("Sha256Mismatch") {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return failure(400, "XAmzContentSHA256Mismatch", message);
    }
    if error.contains("SignatureMismatch") {
        return s3_error!(
            SignatureDoesNotMatch,
            "The request signature we calculated does not match the signature you provided. Check your key and \
             signing method."
        );
    }
    s3_error!(IncompleteBody, "You did not provide the number of bytes specified by the Content-Length HTTP header")
}
