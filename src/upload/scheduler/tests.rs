#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SLOTS: usize = 100;
const NORMAL: Class = Class { priority: 1, is_small: true };

fn at(seconds: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_secs(seconds))
}

fn id(number: u128) -> Ulid {
    Ulid::from_parts(1, number)
}

fn lane(uid: u32) -> LaneKey {
    lane_to(uid, "photos")
}

fn lane_to(uid: u32, destination: &str) -> LaneKey {
    LaneKey { owner_uid: uid, identity_id: format!("id-{uid}"), destination: destination.into() }
}

fn class(priority: u8, is_small: bool) -> Class {
    Class { priority, is_small }
}

#[test]
fn priorities_first_then_sessions_in_turn() {
    let mut queue = Queue::default();
    for number in 0..3 {
        queue.push(id(number), &lane(1), NORMAL);
    }
    queue.push(id(10), &lane(2), NORMAL);
    queue.push(id(11), &lane_to(2, "videos"), NORMAL);
    queue.push(id(20), &lane(1), class(2, true));
    queue.push(id(30), &lane(3), class(0, true));
    let order: Vec<_> = std::iter::from_fn(|| queue.next(at(0), SLOTS)).collect();
    assert_eq!(order, [id(30), id(0), id(10), id(1), id(11), id(2), id(20)], "two destinations are not two turns");
    assert_eq!(queue.running(), 7);
}

#[test]
fn an_endless_stream_of_urgent_ones_leaves_starts_for_the_others() {
    let mut queue = Queue::default();
    let mut number = 0;
    let mut push = |queue: &mut Queue, priority| {
        number += 1;
        queue.push(id(number * 10 + u128::from(priority)), &lane(u32::from(priority)), class(priority, true));
    };
    let mut starts = [0; PRIORITIES];
    for _ in 0..80 {
        (0..3).for_each(|priority| push(&mut queue, priority));
        let next = queue.next(at(0), SLOTS).unwrap();
        starts[(next.random() % 10) as usize] += 1;
        queue.remove(next);
    }
    assert_eq!(starts, [51, 19, 10]);
}

#[test]
fn a_place_is_kept_for_small_objects() {
    let mut queue = Queue::default();
    for number in 0..4 {
        queue.push(id(number), &lane(1), class(0, false));
    }
    assert_eq!((queue.next(at(0), 3), queue.next(at(0), 3)), (Some(id(0)), Some(id(1))));
    assert_eq!(queue.next(at(0), 3), None, "the third is kept");
    queue.push(id(10), &lane(1), class(2, true));
    assert_eq!((queue.next(at(0), 3), queue.next(at(0), 3)), (Some(id(10)), None));
    queue.remove(id(10));
    queue.remove(id(0));
    assert_eq!((queue.next(at(0), 3), queue.next(at(0), 3)), (Some(id(2)), None));
    queue.remove(id(1));
    queue.remove(id(2));
    assert_eq!((queue.next(at(0), 1), queue.next(at(0), 1)), (Some(id(3)), None), "the only place is everybody's");
}

#[test]
fn a_large_one_makes_room_for_one_that_is_more_urgent() {
    let mut queue = Queue::default();
    queue.push(id(1), &lane(1), class(2, false));
    queue.push(id(2), &lane(1), class(1, false));
    queue.next(at(0), 3).unwrap();
    queue.next(at(5), 3).unwrap();
    queue.push(id(3), &lane(2), class(2, false));
    assert_eq!(queue.should_rest(at(100), 3), None, "nobody is more urgent");
    queue.push(id(4), &lane(3), class(0, true));
    assert_eq!((queue.next(at(100), 3), queue.should_rest(at(100), 3)), (Some(id(4)), None), "it has its own place");
    queue.push(id(5), &lane(3), class(1, false));
    assert_eq!(queue.should_rest(at(14), 3), None, "so soon nothing is done");
    assert_eq!(queue.should_rest(at(15), 3), Some(id(1)));
    assert_eq!(queue.should_rest(at(15), 5), None, "there is room");
    queue.remove(id(4));
    queue.put_back(id(1));
    assert_eq!((queue.next(at(15), 3), queue.should_rest(at(99), 3)), (Some(id(5)), None));
}

#[test]
fn no_more_make_room_than_are_needed() {
    let mut queue = Queue::default();
    for number in 1..=3 {
        queue.push(id(number), &lane(1), class(2, false));
        queue.next(at(0), 4).unwrap();
    }
    queue.push(id(10), &lane(2), class(1, false));
    assert_eq!(queue.next_change(at(0)), Some(at(10)), "then one has had its turn");
    assert_eq!(queue.should_rest(at(10), 4), Some(id(3)));
    assert_eq!(queue.should_rest(at(10), 4), None, "its place is enough");
    queue.push(id(11), &lane(2), class(1, false));
    assert_eq!((queue.should_rest(at(11), 4), queue.should_rest(at(11), 4)), (Some(id(2)), None));
    queue.put_back(id(3));
    queue.put_back(id(2));
    assert_eq!((queue.next(at(12), 4), queue.next(at(12), 4)), (Some(id(10)), Some(id(11))));
    assert_eq!((queue.should_rest(at(99), 4), queue.next_change(at(99))), (None, None));
}

#[test]
fn nobody_makes_room_where_small_ones_have_it() {
    let mut queue = Queue::default();
    queue.push(id(1), &lane(1), class(2, false));
    queue.push(id(2), &lane(1), NORMAL);
    queue.push(id(3), &lane(1), NORMAL);
    for _ in 0..3 {
        queue.next(at(0), 3).unwrap();
    }
    queue.push(id(4), &lane(2), class(1, false));
    assert_eq!((queue.next(at(20), 3), queue.should_rest(at(20), 3)), (None, None));
    queue.remove(id(2));
    assert_eq!(queue.next(at(20), 3), Some(id(4)));
}

#[test]
fn one_that_was_interrupted_goes_on_before_its_equals() {
    let mut queue = Queue::default();
    (1..=3).for_each(|number| queue.push(id(number), &lane(1), class(1, false)));
    for _ in 0..5 {
        assert_eq!(queue.next(at(0), 2), Some(id(1)));
        queue.put_back(id(1));
    }
}

#[test]
fn small_ones_in_the_kept_place_use_up_no_turn_of_large_ones() {
    let mut queue = Queue::default();
    let (mut smalls, mut larges) = (1_000, 2_000);
    queue.push(id(1), &lane(1), class(1, false));
    for _ in 0..8 {
        for uid in 1..3 {
            smalls += 1;
            queue.push(id(smalls), &lane(uid), NORMAL);
            larges += 1;
            queue.push(id(larges), &lane(2), class(0, false));
        }
        while let Some(next) = queue.next(at(0), 2) {
            if next == id(1) {
                return;
            }
            if next < id(2_000) {
                queue.remove(next);
            }
        }
        let large = *queue.running.keys().next().unwrap();
        queue.remove(large);
    }
    panic!("the large one never started");
}

#[test]
fn one_probe_finds_out_for_all() {
    let mut queue = Queue::default();
    for number in 0..4 {
        queue.push(id(number), &lane(number as u32), NORMAL);
    }
    let first = queue.next(at(0), SLOTS).unwrap();
    let second = queue.next(at(0), SLOTS).unwrap();
    queue.gate(first, WaitReason::Offline, |failures| at(10 + u64::from(failures)));
    queue.gate(second, WaitReason::Offline, |_| unreachable!("the same outage"));
    assert_eq!(queue.next(at(5), SLOTS), None);
    assert_eq!(queue.state(id(3), at(5)), Some(UploadState::Waiting(WaitReason::Offline)));
    assert_eq!(queue.next_change(at(5)), Some(at(10)));
    let probe = queue.next(at(10), SLOTS).unwrap();
    assert_eq!(queue.next(at(10), SLOTS), None, "one is enough to find out");
    queue.gate(probe, WaitReason::Offline, |failures| at(20 + u64::from(failures)));
    assert_eq!(queue.next(at(20), SLOTS), None, "waits longer each time");
    let probe = queue.next(at(21), SLOTS).unwrap();
    assert!(queue.reached(probe));
    assert!(queue.next(at(21), SLOTS).is_some() && queue.next(at(21), SLOTS).is_some(), "while it is still under way");
}

#[test]
fn one_that_never_finds_anything_out_does_not_keep_the_gate() {
    let mut queue = Queue::default();
    for number in 0..3 {
        queue.push(id(number), &lane(1), NORMAL);
    }
    let poisoned = queue.next(at(0), SLOTS).unwrap();
    queue.gate(poisoned, WaitReason::Offline, |_| at(1));
    let mut probes = Vec::new();
    for now in 1..5 {
        let probe = queue.next(at(now), SLOTS).unwrap();
        probes.push(probe);
        match now {
            1 => queue.put_back(probe),
            2 => queue.delay(probe, WaitReason::Retry, at(3)),
            _ => queue.gate(probe, WaitReason::Offline, |_| at(now + 1)),
        }
        assert_eq!(queue.state(id(0), at(now)), Some(UploadState::Waiting(WaitReason::Offline)), "nobody got through");
    }
    assert_eq!(probes, [id(1), id(2), id(0), id(1)]);
    queue.wake_link();
    let order: Vec<_> = std::iter::from_fn(|| queue.next(at(5), SLOTS)).collect();
    assert_eq!(order, [id(2), id(0), id(1)], "it has lost no more than that turn");
}

#[test]
fn a_parked_session_does_not_stop_the_others() {
    let mut queue = Queue::default();
    queue.push(id(1), &lane(1), class(0, true));
    queue.push(id(2), &lane(1), class(0, true));
    queue.push(id(3), &lane(2), class(2, true));
    assert_eq!(queue.next(at(0), SLOTS), Some(id(1)));
    queue.hold(id(1), WaitReason::SignIn, |_| None);
    assert_eq!(queue.next(at(1_000_000), SLOTS), Some(id(3)));
    assert_eq!(queue.next(at(1_000_000), SLOTS), None);
    assert_eq!(queue.state(id(2), at(1)), Some(UploadState::Waiting(WaitReason::SignIn)));
    queue.wake_sessions();
    assert_eq!(queue.next(at(1), SLOTS), Some(id(2)), "another one than the one that closed the lane");
    assert_eq!(queue.next(at(1), SLOTS), Some(id(1)));
}

#[test]
fn a_delay_ends_by_time_or_by_the_link() {
    let mut queue = Queue::default();
    queue.push(id(1), &lane(1), NORMAL);
    queue.next(at(0), SLOTS).unwrap();
    queue.delay(id(1), WaitReason::Retry, at(50));
    assert_eq!((queue.next(at(49), SLOTS), queue.failures(id(1))), (None, 1));
    assert_eq!(queue.state(id(1), at(49)), Some(UploadState::Waiting(WaitReason::Retry)));
    assert_eq!(queue.next(at(50), SLOTS), Some(id(1)));
    queue.delay(id(1), WaitReason::Retry, at(500));
    queue.wake_link();
    assert_eq!(queue.next(at(51), SLOTS), Some(id(1)));
    queue.set_paused(true);
    queue.put_back(id(1));
    assert_eq!(queue.next(at(51), SLOTS), None);
    assert_eq!(queue.state(id(1), at(51)), Some(UploadState::Waiting(WaitReason::Paused)));
}

#[test]
fn one_that_fails_again_and_again_goes_behind_those_that_were_ready_meanwhile() {
    let mut queue = Queue::default();
    (1..=2).for_each(|number| queue.push(id(number), &lane(1), NORMAL));
    for failure in 0..=FAILURES_WITH_AGE {
        assert_eq!(queue.next(at(0), SLOTS), Some(id(1)), "failure {failure}");
        queue.delay(id(1), WaitReason::Retry, at(0));
    }
    assert_eq!((queue.next(at(0), SLOTS), queue.next(at(0), SLOTS)), (Some(id(2)), Some(id(1))));
}

#[test]
fn who_is_gone_leaves_no_lane_behind() {
    let mut queue = Queue::default();
    for uid in 0..1_000 {
        queue.push(id(1), &lane(uid), NORMAL);
        queue.next(at(0), SLOTS).unwrap();
        queue.hold(id(1), WaitReason::SignIn, |_| None);
        queue.remove(id(1));
    }
    assert_eq!((queue.lanes.len(), queue.lane_of.len(), queue.next_change(at(0))), (1, 0, None));
    queue.push(id(1), &lane(7), NORMAL);
    assert_eq!(queue.next(at(0), SLOTS), Some(id(1)), "the hold was somebody else's");
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8, u8, u8, bool),
    Next,
    Remove(u8),
    Reach(u8),
    Delay(u8, u8),
    Hold(u8, bool),
    Gate(u8, u8),
    PutBack(u8),
    Pause(bool),
    Wake,
    Link,
    Pass(u8),
}

const IDS: u8 = 12;

fn step() -> impl Strategy<Value = Step> {
    let small = 0..IDS;
    prop_oneof![
        4 => (small.clone(), 0_u8..4, 0_u8..3, any::<bool>()).prop_map(|(id, to, level, is)| Step::Push(id, to, level, is)),
        8 => Just(Step::Next),
        2 => small.clone().prop_map(Step::Remove),
        1 => small.clone().prop_map(Step::Reach),
        2 => (small.clone(), 0_u8..9).prop_map(|(id, by)| Step::Delay(id, by)),
        1 => (small.clone(), any::<bool>()).prop_map(|(id, timed)| Step::Hold(id, timed)),
        2 => (small.clone(), 0_u8..9).prop_map(|(id, by)| Step::Gate(id, by)),
        1 => small.prop_map(Step::PutBack),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Wake),
        1 => Just(Step::Link),
        3 => (0_u8..9).prop_map(Step::Pass),
    ]
}

/// What a queue must keep to, in as few words as possible.
#[derive(Debug, Default)]
struct Model {
    uploads: BTreeMap<Ulid, (LaneKey, bool)>,
    running: BTreeSet<Ulid>,
    holds: HashMap<LaneKey, Option<u64>>,
    gates: BTreeMap<String, (u64, Option<Ulid>)>,
    paused: bool,
    now: u64,
}

impl Model {
    /// The upload has stopped running: it finds nothing out any more.
    fn stopped(&mut self, id: Ulid) -> Option<LaneKey> {
        if !self.running.remove(&id) {
            return None;
        }
        self.gates.values_mut().filter(|gate| gate.1 == Some(id)).for_each(|gate| gate.1 = None);
        Some(self.uploads[&id].0.clone())
    }

    fn started(&mut self, id: Ulid, slots: usize) -> Result<(), TestCaseError> {
        let Some((lane, is_small)) = self.uploads.get(&id) else { return Err(TestCaseError::fail("nobody's")) };
        prop_assert!(!self.paused, "paused");
        prop_assert!(self.running.len() < slots);
        let large = self.running.iter().filter(|id| !self.uploads[id].1).count();
        prop_assert!(*is_small || slots == 1 || large + 1 < slots, "the kept place");
        let held = self.holds.get(lane).is_some_and(|until| until.is_none_or(|until| until > self.now));
        prop_assert!(!held, "its lane is held");
        if let Some((until, probe)) = self.gates.get_mut(&lane.destination) {
            prop_assert!(*until <= self.now && probe.is_none(), "its gate is closed");
            *probe = Some(id);
        }
        prop_assert!(self.running.insert(id), "sent twice at once");
        Ok(())
    }
}

proptest! {
    /// Whatever happens: nothing starts that must wait, nothing is sent twice at once, nothing is forgotten; and once
    /// everything that holds is undone, every upload comes out exactly once.
    #[test]
    fn no_upload_is_lost_or_doubled_or_let_through(
        steps in proptest::collection::vec(step(), 0..150),
        slots in 1_usize..5,
    ) {
        let mut queue = Queue::default();
        let mut model = Model::default();
        let number = |id: u8| super::tests::id(u128::from(id));
        for step in steps {
            let now = model.now;
            match step {
                Step::Push(id, to, level, is_small) => {
                    let key = lane_to(u32::from(to / 2), if to % 2 == 0 { "photos" } else { "videos" });
                    queue.push(number(id), &key, class(level, is_small));
                    model.uploads.entry(number(id)).or_insert((key, is_small));
                }
                Step::Next => {
                    if let Some(id) = queue.next(at(now), slots) {
                        model.started(id, slots)?;
                    }
                }
                Step::Remove(id) => {
                    queue.remove(number(id));
                    model.stopped(number(id));
                    if let Some((lane, _)) = model.uploads.remove(&number(id))
                        && model.uploads.values().all(|(other, _)| *other != lane)
                    {
                        model.holds.remove(&lane);
                    }
                }
                Step::Reach(id) => {
                    queue.reached(number(id));
                    if model.running.contains(&number(id)) {
                        model.gates.remove(&model.uploads[&number(id)].0.destination);
                    }
                }
                Step::Delay(id, by) => {
                    queue.delay(number(id), WaitReason::Retry, at(now + u64::from(by)));
                    model.stopped(number(id));
                }
                Step::Hold(id, timed) => {
                    queue.hold(number(id), WaitReason::SignIn, |_| timed.then(|| at(now + 3)));
                    if let Some(lane) = model.stopped(number(id)) {
                        model.holds.insert(lane, timed.then_some(now + 3));
                    }
                }
                Step::Gate(id, by) => {
                    let probes = model.gates.values().any(|gate| gate.1 == Some(number(id)));
                    queue.gate(number(id), WaitReason::Offline, |_| at(now + u64::from(by)));
                    if let Some(lane) = model.stopped(number(id))
                        && (probes || !model.gates.contains_key(&lane.destination))
                    {
                        model.gates.insert(lane.destination, (now + u64::from(by), None));
                    }
                }
                Step::PutBack(id) => {
                    queue.put_back(number(id));
                    model.stopped(number(id));
                }
                Step::Pause(paused) => {
                    queue.set_paused(paused);
                    model.paused = paused;
                }
                Step::Wake => {
                    queue.wake_sessions();
                    model.holds.clear();
                }
                Step::Link => {
                    queue.wake_link();
                    model.gates.clear();
                }
                Step::Pass(by) => model.now += u64::from(by),
            }
            prop_assert_eq!(queue.running(), model.running.len());
            prop_assert_eq!(queue.all(), model.uploads.len());
        }
        for id in model.running {
            queue.put_back(id);
        }
        queue.set_paused(false);
        queue.wake_sessions();
        queue.wake_link();
        let mut out = BTreeSet::new();
        while let Some(id) = queue.next(at(model.now + 100), SLOTS) {
            prop_assert!(out.insert(id));
        }
        prop_assert!(out.iter().eq(model.uploads.keys()));
    }
}

/// What becomes of an upload whenever it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Delayed,
    ClosesItsLane,
    ClosesItsDestination,
    Interrupted,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Stored),
        1 => Just(Fate::Delayed),
        1 => Just(Fate::ClosesItsLane),
        1 => Just(Fate::ClosesItsDestination),
        1 => Just(Fate::Interrupted),
    ]
}

/// Rounds (of as many starts as there are places, and one second) in which every upload of a test has started: far more
/// than any of them needs, far less than for ever.
const ROUNDS: u64 = 10_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// While new uploads of every kind keep coming, old ones that can never get through are tried again and again, and
    /// everything pauses now and then: every other upload starts. Interrupted ones get through in the end.
    #[test]
    fn no_upload_starves(
        old in proptest::collection::vec((0_u32..3, any::<bool>(), 0_u8..3, any::<bool>(), fate()), 1..16),
        crowd in proptest::collection::vec((0_u32..20, any::<bool>(), 0_u8..3, any::<bool>()), 8..24),
        slots in 1_usize..5,
    ) {
        let mut queue = Queue::default();
        let mut fates = HashMap::new();
        let mut waiting = BTreeSet::new();
        let key = |uid, photos| lane_to(uid, if photos { "photos" } else { "videos" });
        for (number, (uid, photos, level, is_small, fate)) in old.into_iter().enumerate() {
            let id = id(number as u128);
            queue.push(id, &key(uid, photos), class(level, is_small));
            fates.insert(id, fate);
            if fate == Fate::Stored {
                waiting.insert(id);
            }
        }
        let mut interruptions = 0;
        let mut comers = (1_000_u128..).zip(crowd.iter().cycle());
        let mut running = VecDeque::new();
        for now in 0..ROUNDS {
            if waiting.is_empty() {
                break;
            }
            queue.set_paused(now % 10 == 3);
            while queue.all() < 60 {
                let (number, (uid, photos, level, is_small)) = comers.next().unwrap();
                queue.push(id(number), &key(*uid, *photos), class(*level, *is_small));
            }
            while let Some(id) = queue.next(at(now), slots) {
                running.push_back(id);
                waiting.remove(&id);
            }
            // The one that has run for longest ends; the others are large, or slow.
            let Some(id) = running.pop_front() else { continue };
            match fates.get(&id).copied().unwrap_or(Fate::Stored) {
                Fate::Stored => {
                    queue.reached(id);
                    queue.remove(id);
                }
                Fate::Delayed => queue.delay(id, WaitReason::Retry, at(now)),
                Fate::ClosesItsLane => queue.hold(id, WaitReason::Credentials, |_| Some(at(now + 2))),
                Fate::ClosesItsDestination => queue.gate(id, WaitReason::Offline, |failures| at(now + 1 + u64::from(failures.min(3)))),
                Fate::Interrupted => {
                    queue.put_back(id);
                    // It gets on every time.
                    interruptions += 1;
                    if interruptions % 8 == 0 {
                        fates.insert(id, Fate::Stored);
                    }
                }
            }
        }
        prop_assert!(waiting.is_empty(), "never started: {waiting:?}");
    }
}
