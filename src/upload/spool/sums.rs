//! The checksums of a stream's parts and of its whole, in one pass over the bytes.

use crc_fast::{CrcAlgorithm, Digest};

use super::Mark;
use crate::upload::crc64nvme;
use crate::upload::journal::Arrived;

const CRC: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// Sums up bytes as they come.
#[derive(Debug)]
pub struct Sums {
    part_bytes: u64,
    /// All parts before the one that is being filled.
    whole: Mark,
    /// The part that is being filled, and how far it is.
    part: Digest,
    len: u64,
    /// Whole parts that nobody has taken yet.
    ready: Vec<Arrived>,
    number: u32,
}

impl Sums {
    /// Of nothing, in parts of `part_bytes` (at least one byte).
    pub fn new(part_bytes: u64) -> Self {
        Self {
            part_bytes: part_bytes.max(1),
            whole: Mark { bytes: 0, crc64nvme: Digest::new(CRC).finalize() },
            part: Digest::new(CRC),
            len: 0,
            ready: Vec::new(),
            number: 1,
        }
    }

    /// The size of a part.
    pub fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// More bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(self.part_bytes - self.len).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.part.update(now);
            self.len += now.len() as u64;
            bytes = later;
            if self.len == self.part_bytes {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let all = self.mark();
        self.ready.push(Arrived { number: self.number, size_bytes: self.len, crc64nvme: self.part.finalize() });
        (self.whole, self.part, self.len) = (all, Digest::new(CRC), 0);
        self.number = self.number.saturating_add(1);
    }

    /// How many bytes so far.
    pub fn bytes(&self) -> u64 {
        self.whole.bytes + self.len
    }

    /// Everything so far.
    pub fn mark(&self) -> Mark {
        if self.len == 0 {
            return self.whole;
        }
        let crc64nvme = crc64nvme::combine(self.whole.crc64nvme, self.part.finalize(), self.len);
        Mark { bytes: self.bytes(), crc64nvme }
    }

    /// The whole parts among the first `bytes` that were not taken before.
    pub fn take(&mut self, bytes: u64) -> Vec<Arrived> {
        let part_bytes = self.part_bytes;
        let ends_within = |part: &Arrived| part.place(part_bytes).offset + part.size_bytes <= bytes;
        let count = self.ready.iter().take_while(|part| ends_within(part)).count();
        self.ready.drain(..count).collect()
    }

    /// There are no more bytes: what is left is the last part.
    pub fn finish(&mut self) {
        if self.len > 0 {
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crc_fast::checksum;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_and_whole_are_right_however_the_bytes_come(
            content in proptest::collection::vec(any::<u8>(), 0..2_000),
            part_bytes in 1_u64..300,
            piece in 1_usize..700,
            taken_at in 0_u64..2_000,
        ) {
            let mut sums = Sums::new(part_bytes);
            let mut parts = Vec::new();
            for piece in content.chunks(piece) {
                sums.update(piece);
                parts.extend(sums.take(taken_at));
            }
            let whole = Mark { bytes: content.len() as u64, crc64nvme: checksum(CRC, &content) };
            prop_assert_eq!(sums.mark(), whole);
            prop_assert!(parts.iter().all(|part| part.size_bytes == part_bytes));
            prop_assert_eq!(parts.len() as u64, taken_at.min(whole.bytes) / part_bytes);
            sums.finish();
            prop_assert_eq!(sums.mark(), whole);
            parts.extend(sums.take(whole.bytes));
            let expected: Vec<Arrived> = content
                .chunks(usize::try_from(part_bytes).unwrap())
                .zip(1..)
                .map(|(part, number)| {
                    Arrived { number, size_bytes: part.len() as u64, crc64nvme: checksum(CRC, part) }
                })
                .collect();
            prop_assert_eq!(parts, expected);
        }
    }
}
