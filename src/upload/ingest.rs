//! Bytes that arrive over the socket.

use bytes::Bytes;

use super::{ExpectedChecksum, UploadError, UploadView};

/// An upload whose bytes arrive. Dropping it without [`Ingest::finish`] leaves the upload RECEIVING.
#[derive(Debug)]
pub struct Ingest(());

impl Ingest {
    /// The upload as it is: for a repeated `begin` of a complete upload there is nothing to send any more
    /// (`state` is not `Receiving`), and further chunks are counted against it, not stored.
    pub fn view(&self) -> UploadView {
        todo!()
    }

    /// Takes the next bytes; waits while the writer is behind (bounded).
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        todo!()
    }

    /// Checks size and checksum, syncs, and queues. The upload is durable when this returns.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn finish(self, total_bytes: u64, expected: Option<ExpectedChecksum>) -> Result<UploadView, UploadError> {
        todo!()
    }
}
