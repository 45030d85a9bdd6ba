//! Request bodies: bounded ones for calls, and S3's, of which what nobody read is read and forgotten, so that the
//! client sees the answer and not a reset.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Most bytes of a call that is not S3's.
pub const MAX_CALL_BYTES: usize = 1024 * 1024;
/// Most bytes that are read only to be forgotten.
const MAX_DRAINED_BYTES: usize = 64 * 1024 * 1024;
/// How long that may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call's body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More than [`MAX_CALL_BYTES`].
    #[error("the request is larger than {MAX_CALL_BYTES} bytes")]
    TooLarge,
    /// The client went away.
    #[error("the request's body could not be read: {0}")]
    Broken(#[from] hyper::Error),
}

/// Reads a call's body as a whole.
///
/// # Errors
/// [`BodyError`].
pub async fn read(mut body: Incoming) -> Result<Bytes, BodyError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.len() + data.len() > MAX_CALL_BYTES {
            drop(DrainedBody::new(body, false));
            return Err(BodyError::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// A body that is read to its end even if its reader loses interest.
#[derive(Debug)]
pub struct DrainedBody {
    inner: Option<Incoming>,
    /// The client waits for a word before it sends: as long as nobody asked for a byte, none will come.
    waits: bool,
}

impl DrainedBody {
    /// Wraps a request's body; `waits` is true for `Expect: 100-continue`.
    pub fn new(inner: Incoming, waits: bool) -> Self {
        Self { inner: Some(inner), waits }
    }
}

impl Body for DrainedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.waits = false;
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for DrainedBody {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take() else { return };
        if self.waits || inner.is_end_stream() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(DRAIN_TIMEOUT, async move {
            let mut drained = 0;
            while let Some(Ok(frame)) = inner.frame().await {
                drained += frame.data_ref().map_or(0, Bytes::len);
                if drained > MAX_DRAINED_BYTES {
                    break;
                }
            }
        }));
    }
}
