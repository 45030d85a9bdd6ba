#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const PART: u64 = 8 << 20;

/// A link on which one transfer moves `each` bytes/s, and all of them `all` at most.
#[derive(Debug, Clone, Copy)]
struct Link {
    each: u64,
    all: u64,
}

impl Link {
    /// How many transfers fill it.
    fn knee(self) -> usize {
        usize::try_from(self.all.div_ceil(self.each)).unwrap()
    }

    /// Keeps the link as busy as `pace` allows, for `transfers` of them.
    fn drive(self, pace: &mut Pace, now: &mut BootInstant, transfers: usize) {
        for _ in 0..transfers {
            while pace.in_flight < pace.limit() {
                pace.begin(*now);
            }
            pace.wanted();
            let rate = (self.each * pace.in_flight as u64).min(self.all);
            *now = *now + Duration::from_millis(PART * 1_000 / rate);
            pace.delivered(*now, PART);
            pace.end(*now);
        }
    }
}

fn start() -> BootInstant {
    crate::clock::Clock::manual(std::time::UNIX_EPOCH).boot()
}

#[test]
fn memory_bounds_it_as_well() {
    assert_eq!(most(16, 8 << 20), 10);
    assert_eq!(most(4, 8 << 20), 4);
    assert_eq!(most(16, 0), 1, "one transfer there must be");
}

#[test]
fn a_link_that_gives_more_is_used_and_one_that_does_not_is_left_alone() {
    let mut now = start();
    let fast = Link { each: 10 << 20, all: 200 << 20 };
    let mut pace = Pace::new(16);
    fast.drive(&mut pace, &mut now, 2_000);
    assert_eq!(pace.limit(), 16, "each transfer is slow and the link is not");
    let rate = pace.goodput().unwrap();
    assert!((150 << 20..=160 << 20).contains(&rate), "{rate}");
    let full = Link { each: 100 << 20, all: 100 << 20 };
    let mut pace = Pace::new(16);
    let mut at_start = 0;
    for _ in 0..100 {
        full.drive(&mut pace, &mut now, 20);
        assert!(pace.limit() <= FIRST + 1, "{}", pace.limit());
        at_start += usize::from(pace.limit() == FIRST);
    }
    assert!(at_start > 80, "one transfer fills it: more are tried seldom, {at_start}");
}

#[test]
fn what_nobody_wants_is_no_reason_to_grow() {
    let mut now = start();
    let mut pace = Pace::new(16);
    for _ in 0..1_000 {
        pace.begin(now);
        now = now + Duration::from_secs(1);
        pace.delivered(now, PART);
        pace.end(now);
        now = now + Duration::from_secs(60);
    }
    assert_eq!(pace.limit(), FIRST);
    assert_eq!(pace.goodput(), Some(PART));
}

#[test]
fn one_flood_of_refusals_halves_it_once() {
    let now = start();
    let mut pace = Pace::new(16);
    pace.limit = 16;
    for _ in 0..16 {
        pace.begin(now);
        pace.too_much(now);
    }
    assert_eq!(pace.limit(), 8);
    pace.too_much(now + EPOCH);
    assert_eq!(pace.limit(), 4);
}

proptest! {
    #[test]
    fn it_finds_the_knee_of_any_link_and_comes_back_to_it(
        each in (1_u64 << 20)..(20 << 20),
        width in 1_u64..14,
        most in 1_usize..24,
    ) {
        let link = Link { each, all: each * width };
        let mut now = start();
        let mut pace = Pace::new(most);
        for _ in 0..2 {
            link.drive(&mut pace, &mut now, 4_000);
            let knee = link.knee().min(most);
            // A link that fewer than the first ones fill is not emptied for it; above, one step to try is allowed.
            let tried = knee.max(FIRST.min(most));
            let step = tried / 4 + 2;
            prop_assert!(pace.limit() + 1 >= knee, "{} of {}", pace.limit(), knee);
            prop_assert!(pace.limit() <= tried + step, "{} of {}", pace.limit(), knee);
            for _ in 0..5 {
                now = now + EPOCH;
                pace.too_much(now);
            }
            prop_assert_eq!(pace.limit(), 1, "much too much");
        }
    }

    #[test]
    fn it_stays_within_its_bounds_whatever_happens(
        most in 0_usize..40,
        events in proptest::collection::vec((0_u8..5, 0_u64..3_000, any::<u32>()), 0..400),
    ) {
        let mut now = start();
        let mut pace = Pace::new(most);
        for (event, passes_ms, bytes) in events {
            now = now + Duration::from_millis(passes_ms);
            let before = pace.limit();
            match event {
                0 => pace.begin(now),
                1 => pace.wanted(),
                2 => pace.end(now),
                3 => pace.delivered(now, u64::from(bytes)),
                _ => {
                    pace.too_much(now);
                    prop_assert!(pace.limit() <= before);
                }
            }
            prop_assert!((1..=most.max(1)).contains(&pace.limit()));
            prop_assert!(pace.limit() <= before + (before / 4).max(1));
        }
    }
}
