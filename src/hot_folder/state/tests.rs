#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const QUIET: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(1_000);

fn at(ms: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_millis(ms))
}

fn look(size_bytes: u64) -> Look {
    let fingerprint = Fingerprint { ino: 1, size_bytes, mtime_ns: 0, ctime_ns: 0 };
    Look { fingerprint, is_linked: false }
}

fn settling(rule: Settle) -> Settling {
    Settling::new(rule, QUIET, PATIENCE, 4)
}

#[test]
fn a_file_that_is_written_waits_for_its_closing() {
    let mut state = settling(Settle::CloseWrite);
    assert!(state.told("a", Sign::Created, look(0), at(0)));
    assert!(state.told("a", Sign::Written, look(5), at(10)));
    assert_eq!((state.due(at(900), 9), state.next_due()), (vec![], None));
    assert!(state.told("a", Sign::Closed, look(9), at(901)));
    assert_eq!(state.due(at(901), 9), ["a"]);
    assert!(state.is_complete("a", look(9), at(901)));
    assert!(state.told("a", Sign::Written, look(9), at(902)), "somebody goes on");
    assert!(state.due(at(2_000), 9).is_empty() && !state.is_complete("a", look(9), at(2_000)));
}

#[test]
fn a_file_that_arrives_is_complete_and_one_that_was_linked_only_after_a_while() {
    let mut state = settling(Settle::CloseWrite);
    assert!(state.told("moved", Sign::Arrived, look(1), at(0)));
    assert!(state.told("linked", Sign::Created, Look { is_linked: true, ..look(1) }, at(0)));
    assert_eq!(state.due(at(0), 9), ["moved"]);
    assert_eq!(state.due(at(100), 9), ["linked", "moved"]);
    assert!(state.told("touched", Sign::Touched, look(1), at(0)), "a stranger is looked at after a while");
    assert_eq!(state.due(at(100), 1).len(), 1);
}

#[test]
fn the_quiet_rule_waits_until_nothing_changes() {
    let mut state = settling(Settle::Quiet);
    assert!(state.told("a", Sign::Closed, look(1), at(0)));
    assert!(state.told("a", Sign::Written, look(2), at(90)));
    assert!(state.due(at(189), 9).is_empty());
    assert_eq!(state.next_due(), Some(at(190)));
    assert_eq!(state.due(at(190), 9), ["a"]);
    assert!(!state.is_complete("a", look(3), at(190)), "it has grown without anybody's saying so");
    assert!(state.due(at(289), 9).is_empty());
    assert!(state.is_complete("a", look(3), at(290)));
}

#[test]
fn after_lost_signs_an_open_file_is_complete_when_it_is_quiet() {
    let mut state = settling(Settle::CloseWrite);
    assert!(state.told("a", Sign::Written, look(1), at(0)));
    state.unsure(at(50));
    assert!(state.due(at(149), 9).is_empty());
    assert!(state.found("a", look(2), at(149)), "a look finds it grown");
    assert!(state.due(at(248), 9).is_empty());
    assert_eq!(state.due(at(249), 9), ["a"]);
}

#[test]
fn a_file_that_stays_open_for_ever_is_not_forgotten() {
    let mut state = settling(Settle::CloseWrite);
    assert!(state.told("a", Sign::Created, look(1), at(0)));
    assert!(state.found("a", look(1), at(999)));
    assert_eq!(state.next_due(), None);
    assert!(state.found("a", look(1), at(1_000)));
    assert_eq!(state.due(at(1_100), 9), ["a"]);
}

#[test]
fn what_there_is_no_room_for_is_told() {
    let mut state = settling(Settle::CloseWrite);
    for name in ["a", "b", "c", "d"] {
        assert!(state.found(name, look(1), at(0)));
    }
    assert!(!state.found("e", look(1), at(0)) && !state.told("e", Sign::Closed, look(1), at(0)));
    assert!(state.found("a", look(1), at(0)), "one that is there has its room");
    assert!(!state.has_room());
    state.remove("a");
    state.remove("b");
    assert!(state.has_room() && state.len() == 2);
}

#[test]
fn attributes_do_not_hide_what_was_told_before() {
    assert_eq!(Sign::Closed.then(Sign::Touched), Sign::Closed);
    assert_eq!(Sign::Closed.then(Sign::Written), Sign::Written);
    assert_eq!(Sign::Gone.then(Sign::Created), Sign::Created);
}

fn any_sign() -> impl Strategy<Value = Sign> {
    prop_oneof![Just(Sign::Created), Just(Sign::Written), Just(Sign::Closed), Just(Sign::Arrived), Just(Sign::Touched),]
}

proptest! {
    /// Whatever was told: a file whose last word is its closing is due at once, one whose last word is a write is not, and
    /// with looks now and then every file is due at last.
    #[test]
    fn every_file_is_due_at_last_and_none_while_it_is_written(
        signs in proptest::collection::vec((any_sign(), 0_u64..400), 1..20), quiet: bool,
    ) {
        let rule = if quiet { Settle::Quiet } else { Settle::CloseWrite };
        let mut state = settling(rule);
        let (mut now, mut last) = (0, Sign::Created);
        for (sign, pause) in signs {
            now += pause;
            prop_assert!(state.told("a", sign, look(now), at(now)));
            last = last.then(sign);
            let is_due = !state.due(at(now), 9).is_empty();
            match (rule, last) {
                (Settle::Quiet, _) | (Settle::CloseWrite, Sign::Written | Sign::Created) => prop_assert!(!is_due),
                (Settle::CloseWrite, Sign::Closed | Sign::Arrived) => prop_assert!(is_due),
                _ => {}
            }
        }
        let size = now;
        let mut due = false;
        for _ in 0..40 {
            now += 100;
            prop_assert!(state.found("a", look(size), at(now)));
            due |= !state.due(at(now), 9).is_empty() && state.is_complete("a", look(size), at(now));
        }
        prop_assert!(due);
    }
}
