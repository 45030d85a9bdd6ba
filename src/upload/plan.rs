//! Part arithmetic: pure. Promises that the parts of a plan cover the object exactly once, in order, within the store's
//! limits; the part size is fixed for an upload, so that any later process comes to the same parts.

use super::UploadError;
use crate::store::Profile;

/// How an object is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// In one request.
    Single,
    /// In parts of this size; the last may be smaller.
    Multipart {
        /// The size of a part.
        part_bytes: u64,
    },
}

/// One part's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    /// Where it starts.
    pub offset: u64,
    /// Its size.
    pub len: u64,
}

/// What decides about the size of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartSizes {
    /// Where nothing speaks against it.
    pub normal_bytes: u64,
    /// On the fastest link.
    pub most_bytes: u64,
    /// What the link moves, where it is known.
    pub link_bytes_per_s: Option<u64>,
}

/// A part that takes the whole link longer than this is too large: it is what a broken connection loses.
const SLOW_PART_S: u64 = 10;
/// S3's smallest part, for slow links.
const SLOW_PART_BYTES: u64 = 5 << 20;
/// A part that takes the whole link less than this costs more in requests than it is worth, as a divisor of a second.
const FAST_PARTS_PER_S: u64 = 4;
/// However fast the link is, an object is in so many parts that several of them can be on their way.
const PARTS_MIN: u64 = 16;

/// The size of the parts of an object that is `total_bytes` long at most.
pub fn part_bytes(total_bytes: u64, sizes: PartSizes, profile: &Profile) -> u64 {
    let slow = SLOW_PART_BYTES.max(profile.part_min_bytes);
    let mut bytes = sizes.normal_bytes.clamp(profile.part_min_bytes, profile.part_max_bytes);
    if let Some(rate) = sizes.link_bytes_per_s {
        if rate < bytes / SLOW_PART_S {
            bytes = bytes.min(slow);
        }
        while bytes.saturating_mul(FAST_PARTS_PER_S) <= rate
            && bytes.saturating_mul(2) <= sizes.most_bytes.min(profile.part_max_bytes)
            && bytes.saturating_mul(2 * PARTS_MIN) <= total_bytes
        {
            bytes *= 2;
        }
    }
    // Whole MiB, where the part count asks for more.
    let needed = total_bytes.div_ceil(u64::from(profile.part_max_count).max(1)).next_multiple_of(1 << 20);
    let enough = total_bytes.div_ceil(bytes) <= u64::from(profile.part_max_count);
    if enough { bytes } else { needed.min(profile.part_max_bytes) }
}

/// Plans an object of `total_bytes`.
///
/// # Errors
/// `TooLarge`.
pub fn plan(
    total_bytes: u64,
    single_put_max_bytes: u64,
    sizes: PartSizes,
    profile: &Profile,
) -> Result<Plan, UploadError> {
    if total_bytes > profile.object_max_bytes {
        return Err(UploadError::TooLarge { size_bytes: total_bytes, limit_bytes: profile.object_max_bytes });
    }
    // One part of a multipart upload is three requests for nothing.
    if total_bytes <= single_put_max_bytes.min(profile.part_max_bytes) {
        return Ok(Plan::Single);
    }
    Ok(Plan::Multipart { part_bytes: part_bytes(total_bytes, sizes, profile) })
}

/// How many parts of `part_bytes` an object has.
pub fn part_count(total_bytes: u64, part_bytes: u64) -> u32 {
    u32::try_from(total_bytes.div_ceil(part_bytes.max(1))).unwrap_or(u32::MAX)
}

/// The place of part `number` (from 1).
pub fn part(total_bytes: u64, part_bytes: u64, number: u32) -> Part {
    let offset = u64::from(number.saturating_sub(1)).saturating_mul(part_bytes);
    Part { number, offset, len: part_bytes.min(total_bytes.saturating_sub(offset)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn sizes(normal_bytes: u64, link_bytes_per_s: Option<u64>) -> PartSizes {
        PartSizes { normal_bytes, most_bytes: 32 * MIB, link_bytes_per_s }
    }

    #[test]
    fn the_figures_of_the_design() {
        let plan = |total| plan(total, 8 * MIB, sizes(8 * MIB, None), &Profile::S3);
        assert_eq!(plan(0).unwrap(), Plan::Single);
        assert_eq!(plan(8 * MIB).unwrap(), Plan::Single);
        assert_eq!(plan(8 * MIB + 1).unwrap(), Plan::Multipart { part_bytes: 8 * MIB });
        assert_eq!(plan(80_000 * MIB).unwrap(), Plan::Multipart { part_bytes: 8 * MIB });
        assert_eq!(plan(80_000 * MIB + 1).unwrap(), Plan::Multipart { part_bytes: 9 * MIB });
        assert_eq!(plan(Profile::S3.object_max_bytes).unwrap(), Plan::Multipart { part_bytes: 5 << 30 });
        assert!(matches!(plan(Profile::S3.object_max_bytes + 1), Err(UploadError::TooLarge { .. })));
        let small = super::plan(20 * MIB, MIB, sizes(MIB, None), &Profile::S3);
        assert_eq!(small.unwrap(), Plan::Multipart { part_bytes: 5 * MIB }, "S3 takes no smaller part");
    }

    #[test]
    fn parts_follow_the_link() {
        let at =
            |total_mib: u64, rate: u64| part_bytes(total_mib * MIB, sizes(8 * MIB, Some(rate)), &Profile::S3) / MIB;
        assert_eq!(at(1_024, 64_000), 5, "half a megabit per second");
        assert_eq!(at(1_024, 2 * MIB), 8);
        assert_eq!(at(1_024, 40 * MIB), 16);
        assert_eq!(at(1_024, 1_000 * MIB), 32, "no larger than the configuration says");
        assert_eq!(at(100, 1_000 * MIB), 8, "an object is in several parts all the same");
        assert_eq!(at(60_000, 64_000), 6, "5 MiB would be more than 10,000");
    }

    proptest! {
        #[test]
        fn parts_cover_the_object_exactly(
            total in prop_oneof![0..=Profile::S3.object_max_bytes, 0..200 * MIB],
            single in 0..=5 * (1_u64 << 30),
            size in 1..=64 * MIB,
            link in proptest::option::of(0..=4 * (1_u64 << 30)),
        ) {
            if let Plan::Multipart { part_bytes } = plan(total, single, sizes(size, link), &Profile::S3).unwrap() {
                let count = part_count(total, part_bytes);
                prop_assert!((1..=10_000).contains(&count));
                let mut next = 0;
                for number in 1..=count {
                    let part = part(total, part_bytes, number);
                    prop_assert_eq!(part.offset, next);
                    prop_assert!(part.len > 0 && part.len <= Profile::S3.part_max_bytes);
                    prop_assert!(number == count || part.len >= Profile::S3.part_min_bytes);
                    next += part.len;
                }
                prop_assert_eq!(next, total);
            }
        }
    }
}
