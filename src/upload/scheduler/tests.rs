#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_secs(seconds))
}

fn id(number: u128) -> Ulid {
    Ulid::from_parts(1, number)
}

fn lane(uid: u32) -> LaneKey {
    LaneKey { owner_uid: uid, identity_id: format!("id-{uid}"), destination: "photos".into() }
}

#[test]
fn priorities_first_then_sessions_in_turn() {
    let mut queue = Queue::default();
    for number in 0..3 {
        queue.push(id(number), &lane(1), 1);
    }
    queue.push(id(10), &lane(2), 1);
    queue.push(id(11), &lane(2), 1);
    queue.push(id(20), &lane(1), 2);
    queue.push(id(30), &lane(3), 0);
    let order: Vec<_> = std::iter::from_fn(|| queue.next(at(0))).collect();
    assert_eq!(order, [id(30), id(0), id(10), id(1), id(11), id(2), id(20)]);
    assert_eq!(queue.running(), 7);
}

#[test]
fn one_probe_finds_out_for_all() {
    let mut queue = Queue::default();
    for number in 0..4 {
        queue.push(id(number), &lane(number as u32), 1);
    }
    let first = queue.next(at(0)).unwrap();
    let second = queue.next(at(0)).unwrap();
    queue.gate(first, WaitReason::Offline, |failures| at(10 + u64::from(failures)));
    queue.gate(second, WaitReason::Offline, |_| unreachable!("the same outage"));
    assert_eq!(queue.next(at(5)), None);
    assert_eq!(queue.state(id(3), at(5)), Some(UploadState::Waiting(WaitReason::Offline)));
    assert_eq!(queue.next_change(at(5)), Some(at(10)));
    let probe = queue.next(at(10)).unwrap();
    assert_eq!(queue.next(at(10)), None, "one is enough to find out");
    queue.gate(probe, WaitReason::Offline, |failures| at(20 + u64::from(failures)));
    assert_eq!(queue.next(at(20)), None, "waits longer each time");
    let probe = queue.next(at(21)).unwrap();
    queue.remove(probe);
    assert!(queue.next(at(21)).is_some() && queue.next(at(21)).is_some(), "it got through: everybody may go");
}

#[test]
fn a_parked_session_does_not_stop_the_others() {
    let mut queue = Queue::default();
    queue.push(id(1), &lane(1), 0);
    queue.push(id(2), &lane(1), 0);
    queue.push(id(3), &lane(2), 2);
    assert_eq!(queue.next(at(0)), Some(id(1)));
    queue.hold(id(1), WaitReason::SignIn, |_| None);
    assert_eq!(queue.next(at(1_000_000)), Some(id(3)));
    assert_eq!(queue.next(at(1_000_000)), None);
    assert_eq!(queue.state(id(2), at(1)), Some(UploadState::Waiting(WaitReason::SignIn)));
    queue.wake_sessions();
    assert_eq!(queue.next(at(1)), Some(id(1)));
}

#[test]
fn a_delay_ends_by_time_or_by_the_link() {
    let mut queue = Queue::default();
    queue.push(id(1), &lane(1), 1);
    queue.next(at(0)).unwrap();
    queue.delay(id(1), WaitReason::Retry, at(50));
    assert_eq!((queue.next(at(49)), queue.failures(id(1))), (None, 1));
    assert_eq!(queue.state(id(1), at(49)), Some(UploadState::Waiting(WaitReason::Retry)));
    assert_eq!(queue.next(at(50)), Some(id(1)));
    queue.delay(id(1), WaitReason::Retry, at(500));
    queue.wake_link();
    assert_eq!(queue.next(at(51)), Some(id(1)));
    queue.set_paused(true);
    queue.put_back(id(1));
    assert_eq!(queue.next(at(51)), None);
    assert_eq!(queue.state(id(1), at(51)), Some(UploadState::Waiting(WaitReason::Paused)));
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8, u8, u8),
    Next,
    Remove(u8),
    Delay(u8, u8),
    Hold(u8, bool),
    Gate(u8, u8),
    PutBack(u8),
    Wake,
    Link,
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let small = 0_u8..12;
    prop_oneof![
        4 => (small.clone(), 0_u8..3, 0_u8..3).prop_map(|(id, lane, priority)| Step::Push(id, lane, priority)),
        6 => Just(Step::Next),
        2 => small.clone().prop_map(Step::Remove),
        2 => (small.clone(), 0_u8..9).prop_map(|(id, by)| Step::Delay(id, by)),
        1 => (small.clone(), any::<bool>()).prop_map(|(id, timed)| Step::Hold(id, timed)),
        2 => (small.clone(), 0_u8..9).prop_map(|(id, by)| Step::Gate(id, by)),
        1 => small.prop_map(Step::PutBack),
        1 => Just(Step::Wake),
        1 => Just(Step::Link),
        3 => (0_u8..9).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens: nothing is sent twice at once, nothing is forgotten, and once everything that holds is undone,
    /// every upload comes out exactly once.
    #[test]
    fn no_upload_is_lost_or_doubled(steps in proptest::collection::vec(step(), 0..120)) {
        let mut queue = Queue::default();
        let mut known = std::collections::BTreeSet::new();
        let mut running = std::collections::BTreeSet::new();
        let mut now = 0;
        let number = |id: u8| super::tests::id(u128::from(id));
        for step in steps {
            match step {
                Step::Push(id, to, priority) => {
                    queue.push(number(id), &lane(u32::from(to)), priority);
                    known.insert(number(id));
                }
                Step::Next => {
                    if let Some(id) = queue.next(at(now)) {
                        prop_assert!(known.contains(&id));
                        prop_assert!(running.insert(id), "sent twice at once");
                    }
                }
                Step::Remove(id) => {
                    queue.remove(number(id));
                    known.remove(&number(id));
                    running.remove(&number(id));
                }
                Step::Delay(id, by) => {
                    queue.delay(number(id), WaitReason::Retry, at(now + u64::from(by)));
                    running.remove(&number(id));
                }
                Step::Hold(id, timed) => {
                    queue.hold(number(id), WaitReason::SignIn, |_| timed.then(|| at(now + 3)));
                    running.remove(&number(id));
                }
                Step::Gate(id, by) => {
                    queue.gate(number(id), WaitReason::Offline, |_| at(now + u64::from(by)));
                    running.remove(&number(id));
                }
                Step::PutBack(id) => {
                    queue.put_back(number(id));
                    running.remove(&number(id));
                }
                Step::Wake => queue.wake_sessions(),
                Step::Link => queue.wake_link(),
                Step::Pass(by) => now += u64::from(by),
            }
            prop_assert_eq!(queue.running(), running.len());
            prop_assert_eq!(queue.all(), known.len());
        }
        for id in running {
            queue.put_back(id);
        }
        queue.wake_sessions();
        queue.wake_link();
        let mut out = std::collections::BTreeSet::new();
        while let Some(id) = queue.next(at(now + 100)) {
            prop_assert!(out.insert(id));
            queue.reached(id);
        }
        prop_assert_eq!(out, known);
    }
}
