//! A request body that reads its range of the file by position, a piece ahead of the socket. Holds two pieces at most,
//! never a part.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::buffer::spare_capacity;
use tokio::task::JoinHandle;

use crate::store::{PartBody, Progress};

/// Large enough that a hop to the blocking pool costs nothing beside it, small enough to stay in the cache.
const PIECE_BYTES: u64 = 256 << 10;

/// The range could not be read here. Found again in the chain of the SDK's errors.
#[derive(Debug, thiserror::Error)]
#[error("reading the file failed: {0}")]
pub(super) struct SourceFailed(std::io::Error);

/// The body of one request.
pub(super) fn stream(part: &PartBody) -> ByteStream {
    let part = part.clone();
    ByteStream::new(SdkBody::retryable(move || {
        SdkBody::from_body_1_x(FileBody {
            file: Arc::clone(&part.file),
            at: part.offset,
            unread: part.len,
            unsent: part.len,
            reading: None,
            progress: part.progress.clone(),
        })
    }))
}

struct FileBody {
    file: Arc<File>,
    at: u64,
    unread: u64,
    unsent: u64,
    reading: Option<JoinHandle<std::io::Result<Bytes>>>,
    progress: Progress,
}

impl FileBody {
    fn read_ahead(&mut self) {
        if self.unread == 0 {
            return;
        }
        let len = self.unread.min(PIECE_BYTES);
        let (file, at) = (Arc::clone(&self.file), self.at);
        self.at += len;
        self.unread -= len;
        self.reading = Some(tokio::task::spawn_blocking(move || read_exactly(&file, at, len)));
    }
}

fn read_exactly(file: &File, mut at: u64, len: u64) -> std::io::Result<Bytes> {
    let mut piece = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX));
    let end = at + len;
    while at < end {
        let count = match rustix::io::pread(file, spare_capacity(&mut piece), at) {
            Ok(0) => return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file has become shorter")),
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        at += count as u64;
    }
    // The allocator may have given more room than was asked for, and pread fills all of it.
    piece.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    Ok(piece.into())
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = SourceFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SourceFailed>>> {
        let this = self.get_mut();
        if this.unsent == 0 {
            return Poll::Ready(None);
        }
        if this.reading.is_none() {
            this.read_ahead();
        }
        let Some(reading) = this.reading.as_mut() else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(context));
        this.reading = None;
        let piece = match read {
            Ok(Ok(piece)) => piece,
            Ok(Err(why)) => return Poll::Ready(Some(Err(SourceFailed(why)))),
            Err(why) => return Poll::Ready(Some(Err(SourceFailed(std::io::Error::other(why))))),
        };
        let count = piece.len() as u64;
        this.unsent = this.unsent.saturating_sub(count);
        this.progress.add(count);
        this.read_ahead();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.unsent == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unsent)
    }
}
