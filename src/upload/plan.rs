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

/// Plans an object of `total_bytes`.
///
/// # Errors
/// `TooLarge`.
pub fn plan(
    total_bytes: u64,
    single_put_max_bytes: u64,
    part_size_bytes: u64,
    profile: &Profile,
) -> Result<Plan, UploadError> {
    if total_bytes > profile.object_max_bytes {
        return Err(UploadError::TooLarge { size_bytes: total_bytes, limit_bytes: profile.object_max_bytes });
    }
    // One part of a multipart upload is three requests for nothing.
    if total_bytes <= single_put_max_bytes.min(profile.part_max_bytes) {
        return Ok(Plan::Single);
    }
    let needed = total_bytes.div_ceil(u64::from(profile.part_max_count));
    // Whole MiB, where the part count asks for more than the configuration does.
    let needed = needed.next_multiple_of(1 << 20);
    let wanted = part_size_bytes.max(profile.part_min_bytes).min(profile.part_max_bytes);
    let part_bytes = if total_bytes.div_ceil(wanted) > u64::from(profile.part_max_count) { needed } else { wanted };
    Ok(Plan::Multipart { part_bytes: part_bytes.min(profile.part_max_bytes) })
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

    #[test]
    fn the_figures_of_the_design() {
        let plan = |total| plan(total, 8 * MIB, 8 * MIB, &Profile::S3);
        assert_eq!(plan(0).unwrap(), Plan::Single);
        assert_eq!(plan(8 * MIB).unwrap(), Plan::Single);
        assert_eq!(plan(8 * MIB + 1).unwrap(), Plan::Multipart { part_bytes: 8 * MIB });
        assert_eq!(plan(80_000 * MIB).unwrap(), Plan::Multipart { part_bytes: 8 * MIB });
        assert_eq!(plan(80_000 * MIB + 1).unwrap(), Plan::Multipart { part_bytes: 9 * MIB });
        assert_eq!(plan(Profile::S3.object_max_bytes).unwrap(), Plan::Multipart { part_bytes: 5 << 30 });
        assert!(matches!(plan(Profile::S3.object_max_bytes + 1), Err(UploadError::TooLarge { .. })));
        let small = super::plan(20 * MIB, MIB, MIB, &Profile::S3);
        assert_eq!(small.unwrap(), Plan::Multipart { part_bytes: 5 * MIB }, "S3 takes no smaller part");
    }

    proptest! {
        #[test]
        fn parts_cover_the_object_exactly(
            total in prop_oneof![0..=Profile::S3.object_max_bytes, 0..200 * MIB],
            single in 0..=5 * (1_u64 << 30),
            size in 1..=64 * MIB,
        ) {
            if let Plan::Multipart { part_bytes } = plan(total, single, size, &Profile::S3).unwrap() {
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
