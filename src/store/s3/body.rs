//! A request body that reads its range of the file by position. What the kernel has in memory is read in place; what it
//! must fetch from the disk is read on the blocking pool, while the kernel reads ahead. Holds two small pieces, whose
//! buffers come back when they are sent: never a part. Goes no faster than its [`Progress`] lets it. Whoever takes the
//! body must send it as it comes.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use http_body::{Frame, SizeHint};
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep_until};

use crate::store::{PartBody, Progress};

/// Large enough that what a piece costs beside its bytes is nothing, small enough to stay in the processor's cache.
const PIECE_BYTES: usize = 64 << 10;
/// One is sent while the next is read. The HTTP client would take three times as many into its own queue.
const PIECES_MAX: usize = 2;
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
            waiting: None,
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
    /// Read, and not let through by the limit yet.
    waiting: Option<(Piece, Pin<Box<Sleep>>)>,
    buffers: Buffers,
    /// The file system can say what it has in memory.
    asks_first: bool,
    proof: Option<(Digest, u64)>,
    progress: Progress,
}

/// The buffers of one body, [`PIECES_MAX`] at most.
#[derive(Debug, Clone, Default)]
struct Buffers(Arc<Mutex<Pool>>);

#[derive(Debug, Default)]
struct Pool {
    free: Vec<Box<[u8]>>,
    made: usize,
    /// Who waits for a buffer to come back.
    waiting: Option<Waker>,
}

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_take(&self, context: &Context<'_>) -> Poll<Piece> {
        let mut pool = self.lock();
        let buffer = match pool.free.pop() {
            Some(buffer) => buffer,
            None if pool.made < PIECES_MAX => {
                pool.made += 1;
                vec![0; PIECE_BYTES].into_boxed_slice()
            }
            None => {
                pool.waiting = Some(context.waker().clone());
                return Poll::Pending;
            }
        };
        Poll::Ready(Piece { buffer, len: 0, home: self.clone() })
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
        let mut pool = self.home.lock();
        pool.free.push(buffer);
        let waiting = pool.waiting.take();
        drop(pool);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

fn shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")
}

impl FileBody {
    fn want(&self) -> usize {
        usize::try_from(self.unsent.min(self.progress.piece_max_bytes())).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)
    }

    /// Reads what is in memory; false where the disk must be waited for.
    fn read_now(&mut self, piece: &mut Piece) -> io::Result<bool> {
        if !self.asks_first {
            return Ok(false);
        }
        let want = self.want();
        let into = &mut [IoSliceMut::new(&mut piece.buffer[..want])];
        match preadv2(&self.file, into, self.at, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(shorter()),
            Ok(count) => {
                piece.len = count;
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.asks_first = false;
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads on the blocking pool.
    fn read_soon(&self, mut piece: Piece) -> JoinHandle<io::Result<Piece>> {
        let (file, at, want, ahead) = (Arc::clone(&self.file), self.at, self.want(), self.unsent.min(AHEAD_BYTES));
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
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let mut piece = ready!(self.buffers.poll_take(context));
                match self.read_now(&mut piece) {
                    Ok(true) => return Poll::Ready(Ok(piece)),
                    Ok(false) => self.read_soon(piece),
                    Err(why) => return Poll::Ready(Err(why)),
                }
            }
        };
        match Pin::new(&mut reading).poll(context) {
            Poll::Ready(read) => Poll::Ready(read.unwrap_or_else(|why| Err(io::Error::other(why)))),
            Poll::Pending => {
                self.reading = Some(reading);
                Poll::Pending
            }
        }
    }

    /// A piece, once the limit lets it go.
    fn poll_allowed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Piece>> {
        let (piece, mut sleep) = match self.waiting.take() {
            Some(waiting) => waiting,
            None => {
                let piece = ready!(self.poll_piece(context)).and_then(|piece| self.check(&piece).map(|()| piece))?;
                match self.progress.wait_for(piece.len as u64) {
                    Some(at) => (piece, Box::pin(sleep_until(at))),
                    None => return Poll::Ready(Ok(piece)),
                }
            }
        };
        if sleep.as_mut().poll(context).is_pending() {
            self.waiting = Some((piece, sleep));
            return Poll::Pending;
        }
        Poll::Ready(Ok(piece))
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
        let piece = match ready!(this.poll_allowed(context)) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;
    use crate::store::RateLimit;

    /// All bodies together go as fast as the limit says, by its own clock, and none of them looks stalled meanwhile.
    #[tokio::test(start_paused = true)]
    async fn bodies_share_a_limit() {
        const EACH: usize = 100_000;
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; EACH], 0).unwrap();
        let (file, limit) = (Arc::new(file), RateLimit::default());
        for (rate, stall) in [(8_000_u64, 30), (2_000_000, 1)] {
            limit.set(rate);
            let begun = Instant::now();
            let mut bodies = JoinSet::new();
            for _ in 0..16 {
                let progress = Progress::limited(limit.clone());
                let part = PartBody { file: Arc::clone(&file), offset: 0, len: EACH as u64, crc64nvme: 0, progress };
                bodies.spawn(async move {
                    let stalled = part.progress.stalled(Duration::from_secs(stall));
                    let sending = async {
                        let (mut body, mut sent) = (stream(&part, false), 0);
                        // Each piece is let go of, as the wire does.
                        while let Some(piece) = body.next().await {
                            sent += piece.unwrap().len();
                        }
                        sent
                    };
                    tokio::select! {
                        sent = sending => sent,
                        () = stalled => panic!("stalled by our own limit"),
                    }
                });
            }
            let sent: usize = bodies.join_all().await.iter().sum();
            let (took, expected) = (begun.elapsed().as_secs_f64(), sent as f64 / rate as f64);
            assert_eq!(sent, 16 * EACH);
            assert!((expected - 1.0..expected + 1.0).contains(&took), "{took} s for {sent} bytes at {rate} bytes/s");
        }
    }
}
