//! CRC-64/NVME of bytes of which only the checksums of the pieces are known, as zlib's `crc32_combine` does it: appending
//! a zero bit to a message multiplies its checksum by x modulo the polynomial, so the checksum of the front is shifted
//! past the back with one multiplication for each bit of the back's length. `crc_fast::checksum_combine` gives the same
//! with matrices, 0.2 ms a time: for a GiB in parts that was a fortieth of the daemon's time.

/// The polynomial of CRC-64/NVME (the 64b CRC of the NVM Express NVM Command Set Specification), bits reversed as the
/// checksum has them.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// `x^(2^n)`: the length in bits of the longest message has fewer than 67 bits.
const POWERS: [u64; 67] = powers();

/// The checksum of no bytes.
pub(super) const EMPTY: u64 = 0;

/// The checksum of two pieces, one behind the other, from theirs and the second one's length.
pub(super) fn combine(first: u64, second: u64, second_len_bytes: u64) -> u64 {
    let mut shifted = first;
    let mut left = second_len_bytes;
    // A byte is 2^3 zero bits.
    for power in &POWERS[3..] {
        if left == 0 {
            break;
        }
        if left & 1 == 1 {
            shifted = multiply(*power, shifted);
        }
        left >>= 1;
    }
    shifted ^ second
}

/// The product of two polynomials of bits, modulo the polynomial; the highest bit is that of x^0.
const fn multiply(first: u64, mut second: u64) -> u64 {
    let mut product = 0;
    let mut bit = 1 << 63;
    while bit != 0 {
        if first & bit != 0 {
            product ^= second;
        }
        second = (second >> 1) ^ (POLYNOMIAL & (second & 1).wrapping_neg());
        bit >>= 1;
    }
    product
}

const fn powers() -> [u64; 67] {
    let mut powers = [1 << 62; 67];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = multiply(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
    use proptest::prelude::*;

    use super::*;

    const CRC: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

    #[test]
    fn of_nothing() {
        assert_eq!(EMPTY, checksum(CRC, b""));
    }

    proptest! {
        #[test]
        fn two_pieces_have_the_checksum_of_the_whole(
            first in proptest::collection::vec(any::<u8>(), 0..3_000),
            second in proptest::collection::vec(any::<u8>(), 0..3_000),
        ) {
            let whole = checksum(CRC, &[first.as_slice(), second.as_slice()].concat());
            prop_assert_eq!(combine(checksum(CRC, &first), checksum(CRC, &second), second.len() as u64), whole);
        }

        #[test]
        fn of_any_length_as_another_implementation_says(first: u64, second: u64, len in 0_u64..1 << 46) {
            prop_assert_eq!(combine(first, second, len), checksum_combine(CRC, first, second, len));
        }
    }
}
