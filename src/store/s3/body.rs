//! A request body that reads its range of the file by position. What the kernel has in memory is read in place; what it
//! must fetch from the disk is read on the blocking pool, while the kernel reads ahead. Holds a few small pieces, whose
//! buffers come back when they are sent: never a part.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use http_body::{Frame, SizeHint};
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use crate::store::{PartBody, Progress};

/// Large enough that what a piece costs beside its bytes is nothing, small enough to stay in the processor's cache.
const PIECE_BYTES: usize = 128 << 10;
/// What the kernel is asked to fetch while a piece is read from the disk.
const AHEAD_BYTES: u64 = 1 << 20;

/// The range could not be read here, or holds other bytes than its checksum says. Found again in the chain of the SDK's
/// errors.
#[derive(Debug, thiserror::Error)]
#[error("reading the file failed: {0}")]
pub(super) struct SourceFailed(io::Error);

/// The body of one request. With `proves`, the store does not check the bytes: the body does, and breaks off before its
/// last piece where they are not those of the checksum.
pub(super) fn stream(part: &PartBody, proves: bool) -> ByteStream {
    let part = part.clone();
    ByteStream::new(SdkBody::retryable(move || {
        SdkBody::from_body_1_x(FileBody {
            file: Arc::clone(&part.file),
            at: part.offset,
            unsent: part.len,
            reading: None,
            buffers: Buffers::default(),
            asks_first: true,
            proof: proves.then(|| (Digest::new(CrcAlgorithm::Crc64Nvme), part.crc64nvme)),
            progress: part.progress.clone(),
        })
    }))
}

struct FileBody {
    file: Arc<File>,
    at: u64,
    unsent: u64,
    reading: Option<JoinHandle<io::Result<Piece>>>,
    buffers: Buffers,
    /// The file system can say what it has in memory.
    asks_first: bool,
    proof: Option<(Digest, u64)>,
    progress: Progress,
}

/// Buffers that are not in use.
#[derive(Debug, Clone, Default)]
struct Buffers(Arc<Mutex<VecDeque<Box<[u8]>>>>);

impl Buffers {
    fn take(&self) -> Piece {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let buffer = free.unwrap_or_else(|| vec![0; PIECE_BYTES].into_boxed_slice());
        Piece { buffer, len: 0, home: self.clone() }
    }
}

/// A filled buffer. Goes home when the last one who holds it lets go.
#[derive(Debug)]
struct Piece {
    buffer: Box<[u8]>,
    len: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(buffer);
    }
}

fn shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")
}

impl FileBody {
    fn want(&self) -> usize {
        usize::try_from(self.unsent).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)
    }

    /// Reads what is in memory; `None` where the disk must be waited for.
    fn read_now(&mut self) -> io::Result<Option<Piece>> {
        if !self.asks_first {
            return Ok(None);
        }
        let mut piece = self.buffers.take();
        let want = self.want();
        let read =
            preadv2(&self.file, &mut [IoSliceMut::new(&mut piece.buffer[..want])], self.at, ReadWriteFlags::NOWAIT);
        match read {
            Ok(0) => Err(shorter()),
            Ok(count) => {
                piece.len = count;
                Ok(Some(piece))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.asks_first = false;
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads on the blocking pool.
    fn read_soon(&self) -> JoinHandle<io::Result<Piece>> {
        let (file, at, want, ahead) = (Arc::clone(&self.file), self.at, self.want(), self.unsent.min(AHEAD_BYTES));
        let mut piece = self.buffers.take();
        tokio::task::spawn_blocking(move || {
            // A hint only: what comes of it shows in the reads.
            let _ = rustix::fs::fadvise(&file, at, std::num::NonZeroU64::new(ahead), Advice::WillNeed);
            file.read_exact_at(&mut piece.buffer[..want], at).map_err(|why| match why.kind() {
                io::ErrorKind::UnexpectedEof => shorter(),
                _ => why,
            })?;
            piece.len = want;
            Ok(piece)
        })
    }

    fn check(&mut self, piece: &Piece) -> io::Result<()> {
        let Some((digest, expected)) = &mut self.proof else { return Ok(()) };
        digest.update(piece.as_ref());
        if piece.len as u64 == self.unsent && digest.finalize() != *expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its bytes are not those of its checksum"));
        }
        Ok(())
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Piece>> {
        if self.reading.is_none() {
            match self.read_now() {
                Ok(Some(piece)) => return Poll::Ready(Ok(piece)),
                Ok(None) => {}
                Err(why) => return Poll::Ready(Err(why)),
            }
        }
        let mut reading = self.reading.take().unwrap_or_else(|| self.read_soon());
        match Pin::new(&mut reading).poll(context) {
            Poll::Ready(read) => Poll::Ready(read.unwrap_or_else(|why| Err(io::Error::other(why)))),
            Poll::Pending => {
                self.reading = Some(reading);
                Poll::Pending
            }
        }
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = SourceFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SourceFailed>>> {
        let this = self.get_mut();
        if this.unsent == 0 {
            return Poll::Ready(None);
        }
        let read = ready!(this.poll_piece(context)).and_then(|piece| this.check(&piece).map(|()| piece));
        let piece = match read {
            Ok(piece) => piece,
            Err(why) => return Poll::Ready(Some(Err(SourceFailed(why)))),
        };
        let count = piece.len as u64;
        this.at += count;
        this.unsent = this.unsent.saturating_sub(count);
        this.progress.add(count);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.unsent == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unsent)
    }
}
