//! Bytes that have arrived and are not written yet: pure. Promises to hold little more memory than it counts, whatever
//! the client's chunks are like: a chunk keeps the whole message alive that it came in.

use bytes::{Bytes, BytesMut};

/// Smaller chunks are copied together: into one write, and out of their messages.
const SMALL_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    pieces: Vec<Bytes>,
    /// Small chunks, behind the last piece.
    gathered: BytesMut,
    bytes: u64,
}

impl Waiting {
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len() as u64;
        if chunk.len() < SMALL_BYTES {
            self.gathered.extend_from_slice(&chunk);
        } else {
            self.close_gathered();
            self.pieces.push(chunk);
        }
    }

    /// How many there are.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of them, in their order.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.close_gathered();
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }

    fn close_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces.push(std::mem::take(&mut self.gathered).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everything_is_there_once_in_its_order_and_in_few_pieces(
            sizes in proptest::collection::vec(prop_oneof![0..9_usize, 0..2 * SMALL_BYTES], 0..40),
        ) {
            let mut waiting = Waiting::default();
            let mut all = Vec::new();
            for (number, size) in sizes.into_iter().enumerate() {
                let chunk = vec![number as u8; size];
                all.extend_from_slice(&chunk);
                waiting.push(Bytes::from(chunk));
                prop_assert_eq!(waiting.bytes(), all.len() as u64);
            }
            let pieces = waiting.take();
            prop_assert!(pieces.len() <= 2 * all.len() / SMALL_BYTES + 1, "{} pieces of {} bytes", pieces.len(), all.len());
            prop_assert_eq!(pieces.concat(), all);
            prop_assert_eq!((waiting.bytes(), waiting.take().len()), (0, 0));
        }
    }

    #[test]
    fn a_small_chunk_lets_go_of_its_message() {
        let message = Bytes::from(vec![7; 1 << 20]);
        let mut waiting = Waiting::default();
        waiting.push(message.slice(..9));
        assert!(message.is_unique());
    }
}
