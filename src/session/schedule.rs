//! When to refresh, until when to serve, how long to back off. Pure: every function is a formula over times and a
//! random number in `[0, 1)` that comes in from outside; no clock is read.

use std::time::Duration;

use crate::clock::BootInstant;

/// The share of the lifetime that is left when the earliest session refreshes.
const REFRESH_EARLIEST_LEFT: f64 = 0.42;
/// The share of the lifetime that is left when the latest session refreshes.
const REFRESH_LATEST_LEFT: f64 = 0.33;
/// Below this, valid credentials are refreshed with the shorter back-off.
pub const URGENT_BELOW: Duration = Duration::from_secs(15 * 60);
/// No back-off is shorter: full jitter may give nothing at all.
const BACKOFF_FLOOR: Duration = Duration::from_millis(100);

/// When credentials that were received at `received` and end at `deadline` are refreshed ahead.
pub fn refresh_at(received: BootInstant, deadline: BootInstant, unit: f64) -> BootInstant {
    let lifetime = deadline.saturating_since(received);
    let left = REFRESH_LATEST_LEFT + (REFRESH_EARLIEST_LEFT - REFRESH_LATEST_LEFT) * unit.clamp(0.0, 1.0);
    deadline.saturating_sub(lifetime.mul_f64(left)).max(received)
}

/// Until when credentials are given out: `margin` before their end, or a quarter of a very short lifetime.
pub fn serve_until(received: BootInstant, deadline: BootInstant, margin: Duration) -> BootInstant {
    let lifetime = deadline.saturating_since(received);
    deadline.saturating_sub(margin.min(lifetime / 4))
}

/// From when on an ID token is refreshed before it is used: `ahead` of its end, or a third of a very short lifetime.
pub fn id_token_fresh_until(received: BootInstant, deadline: BootInstant, ahead: Duration) -> BootInstant {
    let lifetime = deadline.saturating_since(received);
    deadline.saturating_sub(ahead.min(lifetime / 3))
}

/// Full jitter: anything up to `initial` doubled `failures - 1` times, capped.
pub fn backoff(failures: u32, initial: Duration, cap: Duration, unit: f64) -> Duration {
    let doubled = initial.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(cap).mul_f64(unit.clamp(0.0, 1.0)).max(BACKOFF_FLOOR.min(cap))
}

/// A fixed wait, longer by up to a tenth, so that a fleet does not come back as one.
pub fn spread_wait(wait: Duration, unit: f64) -> Duration {
    wait + wait.mul_f64(0.1 * unit.clamp(0.0, 1.0))
}

/// A small generator of numbers in `[0, 1)`: the spread needs no secrecy, and a seed makes a history repeatable.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// A generator that gives the same numbers for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // 53 bits are what an f64 holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let unit = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(s: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs(s))
    }

    #[test]
    fn an_hour_is_refreshed_between_25_and_20_minutes_before_its_end() {
        assert_eq!(refresh_at(at(0), at(3_600), 0.0), at(3_600 - 1_188));
        assert_eq!(refresh_at(at(0), at(3_600), 1.0), at(3_600 - 1_512));
    }

    #[test]
    fn refreshes_of_a_fleet_are_spread() {
        let mut jitter = Jitter::new(7);
        let mut buckets = [0_u32; 10];
        for _ in 0..10_000 {
            let left = at(3_600).saturating_since(refresh_at(at(0), at(3_600), jitter.unit())).as_secs_f64();
            let bucket = ((left - 1_188.0) / 32.4).clamp(0.0, 9.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bucket = bucket as usize;
            buckets[bucket] += 1;
        }
        assert!(buckets.iter().all(|count| (800..1_200).contains(count)), "not uniform: {buckets:?}");
    }

    #[test]
    fn throttling_never_comes_back_early() {
        let wait = Duration::from_secs(120);
        assert_eq!(spread_wait(wait, 0.0), wait);
        assert!(spread_wait(wait, 0.999) < Duration::from_secs(133));
    }

    proptest! {
        #[test]
        fn nothing_is_served_or_refreshed_at_or_after_its_end(
            received in 0_u64..1_000_000, lifetime_ms in 1_u64..200_000_000, unit in 0.0_f64..1.0, margin_ms in 1_u64..600_000,
        ) {
            let received = at(received);
            let deadline = received + Duration::from_millis(lifetime_ms);
            let margin = Duration::from_millis(margin_ms);
            let serve = serve_until(received, deadline, margin);
            prop_assert!(serve < deadline && serve >= received);
            let refresh = refresh_at(received, deadline, unit);
            prop_assert!(refresh >= received && refresh < deadline);
            let fresh = id_token_fresh_until(received, deadline, margin);
            prop_assert!(fresh < deadline && fresh >= received);
        }

        #[test]
        fn backoff_stays_within_its_bounds(failures in 0_u32..200, unit in 0.0_f64..1.0, cap_s in 1_u64..300) {
            let (initial, cap) = (Duration::from_secs(1), Duration::from_secs(cap_s));
            let wait = backoff(failures, initial, cap, unit);
            prop_assert!(wait <= cap && wait >= BACKOFF_FLOOR);
            prop_assert!(wait <= initial * 2_u32.pow(failures.saturating_sub(1).min(20)));
        }
    }
}
