//! Who is sent next: pure, the time comes in. Promises that no upload starts while its destination, its session or the
//! gateway waits, that higher priorities go first, sessions take turns and small objects never wait for large ones to
//! end, and that every upload which may start does so after a bounded number of other starts; must never forget an
//! upload: each is ready, delayed or running until it is removed.

mod room;
mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use ulid::Ulid;

use super::{UploadState, WaitReason};
use crate::clock::BootInstant;

/// What uploads of one lane share: the user's credentials and the destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaneKey {
    /// Who owns them.
    pub owner_uid: u32,
    /// Whose credentials sign them.
    pub identity_id: String,
    /// Where they go.
    pub destination: String,
}

impl LaneKey {
    /// Sessions take turns, wherever their uploads go.
    fn is_of_session_of(&self, other: &Self) -> bool {
        self.owner_uid == other.owner_uid && self.identity_id == other.identity_id
    }
}

/// How many priorities there are; 0 is first.
pub const PRIORITIES: usize = 3;

/// An upload that failed by itself so often goes behind those that were ready meanwhile; before, it keeps its age. Else
/// uploads that never get through would fill the places again and again before anybody younger.
const FAILURES_WITH_AGE: u16 = 3;

/// How an upload takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// 0 is first.
    pub priority: u8,
    /// One PutObject: done in one go.
    pub is_small: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    lanes: Vec<Lane>,
    lane_of: HashMap<LaneKey, u32>,
    /// Lanes without uploads, for the next keys.
    unused: Vec<u32>,
    /// Of small and of large uploads: [`Class::track`].
    tracks: [Track; 2],
    places: HashMap<Ulid, Place>,
    delayed: BTreeSet<(BootInstant, Ulid)>,
    gates: HashMap<String, Gate>,
    metered: Metered,
    paused: bool,
    /// Since when.
    running: BTreeMap<Ulid, BootInstant>,
    running_large: usize,
    /// How many there were.
    starts: u64,
    /// Running ones that end their requests to make room.
    resting: BTreeSet<Ulid>,
    next_age: u64,
}

/// Small uploads take turns among each other, as do large ones: a small one that goes into the kept place must not use up
/// its lane's or its priority's turn for large ones.
#[derive(Debug, Default)]
struct Track {
    levels: [Level; PRIORITIES],
    /// Starts of the other track since the last one of this, while it could have gone as well.
    passed_over: u32,
}

/// One priority of a track.
#[derive(Debug, Default)]
struct Level {
    /// Lanes with something ready, in the order in which they are next.
    turns: VecDeque<u32>,
    /// Starts of other priorities since the last one of this, while it had something ready.
    passed_over: u32,
}

#[derive(Debug)]
struct Lane {
    key: LaneKey,
    uploads: usize,
    /// By track and priority.
    lines: [[Line; PRIORITIES]; 2],
    hold: Option<Hold>,
    failures: u32,
}

/// What is ready of a lane, in one track at one priority.
#[derive(Debug, Default)]
struct Line {
    ready: BTreeMap<u64, Ulid>,
    /// The number of the last start of it, or of the one after which something was ready.
    since: u64,
    /// The age of the upload that was started last and came back because its lane or its destination is closed: the next
    /// one to start is another one, so that none holds up all others for ever.
    tried: Option<u64>,
}

/// What a track would start next.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    track: usize,
    level: usize,
    lane: u32,
    id: Ulid,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    reason: WaitReason,
    /// `None`: until it is woken.
    until: Option<BootInstant>,
}

/// Which priorities wait for a link that is not metered, and which destinations need none.
#[derive(Debug, Default)]
struct Metered {
    waits: [bool; PRIORITIES],
    local: BTreeSet<String>,
}

/// A destination that cannot be reached. When the time is up, one upload tries; the others wait for what it finds.
#[derive(Debug)]
struct Gate {
    reason: WaitReason,
    until: BootInstant,
    failures: u32,
    probe: Option<Ulid>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    lane: u32,
    /// Smaller is older. An upload that is put back, held or gated keeps it.
    age: u64,
    class: Class,
    failures: u16,
    /// Still RECEIVING, and here only for the parts that have arrived.
    early: bool,
    turn: Turn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Ready,
    Delayed(WaitReason, BootInstant),
    Running,
}

const SMALL: usize = 0;
const LARGE: usize = 1;

impl Lane {
    fn came_back(&mut self, place: Place) {
        self.lines[place.class.track()][usize::from(place.class.priority)].tried = Some(place.age);
    }
}

impl Class {
    fn track(self) -> usize {
        if self.is_small { SMALL } else { LARGE }
    }
}

impl Queue {
    /// Adds an upload that still arrives, for the parts of it that are here.
    pub fn push_early(&mut self, id: Ulid, key: &LaneKey, priority: u8) {
        if !self.places.contains_key(&id) {
            self.push(id, key, Class { priority, is_small: false });
            if let Some(place) = self.places.get_mut(&id) {
                place.early = true;
            }
        }
    }

    /// Adds an upload; one that is there already stays where it is.
    pub fn push(&mut self, id: Ulid, key: &LaneKey, class: Class) {
        if let Some(place) = self.places.get_mut(&id) {
            place.early = false;
            return;
        }
        let lane = self.lane(key);
        self.lanes[lane as usize].uploads += 1;
        let class = Class { priority: class.priority.min(PRIORITIES as u8 - 1), ..class };
        let age = self.take_age();
        self.places.insert(id, Place { lane, age, class, failures: 0, early: false, turn: Turn::Ready });
        self.make_ready(id);
    }

    fn lane(&mut self, key: &LaneKey) -> u32 {
        if let Some(lane) = self.lane_of.get(key) {
            return *lane;
        }
        let new = Lane { key: key.clone(), uploads: 0, lines: Default::default(), hold: None, failures: 0 };
        let lane = match self.unused.pop() {
            Some(lane) => {
                self.lanes[lane as usize] = new;
                lane
            }
            None => {
                self.lanes.push(new);
                u32::try_from(self.lanes.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.lane_of.insert(key.clone(), lane);
        lane
    }

    fn take_age(&mut self) -> u64 {
        self.next_age += 1;
        self.next_age
    }

    /// The next one to send, which counts as running from now on. Of `slots` places one is kept for small objects.
    pub fn next(&mut self, now: BootInstant, slots: usize) -> Option<Ulid> {
        self.release_due(now);
        if self.paused || self.running.len() >= slots {
            return None;
        }
        let small = self.candidate(SMALL, now);
        let large = if self.large_may(slots) { self.candidate(LARGE, now) } else { None };
        let next = match (small, large) {
            (Some(small), Some(large)) => self.either(small, large),
            (small, large) => small.or(large)?,
        };
        self.start(next, now);
        Some(next.id)
    }

    /// True where large ones hold fewer places than they may; the only place is everybody's.
    fn large_may(&self, slots: usize) -> bool {
        self.running_large < slots.saturating_sub(1).max(1)
    }

    fn meter_holds(&self, lane: &Lane, level: usize) -> bool {
        self.metered.waits[level] && !self.metered.local.contains(&lane.key.destination)
    }

    fn start(&mut self, next: Candidate, now: BootInstant) {
        let Candidate { track, level, lane, id } = next;
        self.had_its_turn(track, level, lane, now);
        self.leave_ready(id);
        if let Some(place) = self.places.get_mut(&id) {
            place.turn = Turn::Running;
        }
        self.running_large += usize::from(track == LARGE);
        self.running.insert(id, now);
        self.starts += 1;
        let lane = &mut self.lanes[lane as usize];
        lane.hold = None;
        lane.lines[track][level].tried = None;
        lane.lines[track][level].since = self.starts;
        if let Some(gate) = self.gates.get_mut(&lane.key.destination) {
            gate.probe = Some(id);
        }
    }

    fn is_open(&self, lane: &Lane, level: usize, now: BootInstant) -> bool {
        let held = lane.hold.is_some_and(|hold| hold.until.is_none_or(|until| until > now));
        let gate = self.gates.get(&lane.key.destination);
        let metered = self.meter_holds(lane, level);
        !held && !metered && gate.is_none_or(|gate| gate.probe.is_none() && gate.until <= now)
    }

    /// All lanes of the session that might have gone go to the end, this one last; and whoever was passed over remembers
    /// it.
    fn had_its_turn(&mut self, track: usize, level: usize, lane: u32, now: BootInstant) {
        let key = &self.lanes[lane as usize].key;
        let rank = |number: u32| {
            let other = &self.lanes[number as usize];
            if number == lane {
                2
            } else {
                u8::from(other.key.is_of_session_of(key) && self.is_open(other, level, now))
            }
        };
        let mut turns: Vec<u32> = self.tracks[track].levels[level].turns.iter().copied().collect();
        // Stable: everybody else keeps the order.
        turns.sort_by_key(|lane| rank(*lane));
        let levels = &mut self.tracks[track].levels;
        levels[level].turns = turns.into();
        for (number, other) in levels.iter_mut().enumerate() {
            let waits = number != level && !other.turns.is_empty();
            other.passed_over = if waits { other.passed_over.saturating_add(1) } else { 0 };
        }
    }

    fn release_due(&mut self, now: BootInstant) {
        while let Some((at, id)) = self.delayed.first().copied()
            && at <= now
        {
            self.delayed.pop_first();
            self.end_delay(id);
        }
    }

    fn end_delay(&mut self, id: Ulid) {
        let age = self.take_age();
        if let Some(place) = self.places.get_mut(&id).filter(|place| place.failures > FAILURES_WITH_AGE) {
            place.age = age;
        }
        self.make_ready(id);
    }

    fn make_ready(&mut self, id: Ulid) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.turn = Turn::Ready;
        let (track, level) = (place.class.track(), usize::from(place.class.priority));
        let line = &mut self.lanes[place.lane as usize].lines[track][level];
        if line.ready.is_empty() {
            self.tracks[track].levels[level].turns.push_back(place.lane);
            line.since = self.starts;
        }
        line.ready.insert(place.age, id);
    }

    fn leave_ready(&mut self, id: Ulid) {
        let Some(place) = self.places.get(&id) else { return };
        let (track, level) = (place.class.track(), usize::from(place.class.priority));
        let ready = &mut self.lanes[place.lane as usize].lines[track][level].ready;
        ready.remove(&place.age);
        if ready.is_empty() {
            self.tracks[track].levels[level].turns.retain(|lane| *lane != place.lane);
        }
    }

    /// Whatever came of it: where it was to find out for others, the next one does.
    fn stop_running(&mut self, id: Ulid) -> Option<Place> {
        let place = *self.places.get(&id).filter(|place| place.turn == Turn::Running)?;
        self.running.remove(&id);
        self.resting.remove(&id);
        self.running_large -= usize::from(!place.class.is_small);
        let lane = &mut self.lanes[place.lane as usize];
        if let Some(gate) = self.gates.get_mut(&lane.key.destination).filter(|gate| gate.probe == Some(id)) {
            gate.probe = None;
            lane.came_back(place);
        }
        Some(place)
    }

    /// The upload has ended, or is not to be sent any more.
    pub fn remove(&mut self, id: Ulid) {
        match self.places.get(&id).map(|place| place.turn) {
            Some(Turn::Ready) => self.leave_ready(id),
            Some(Turn::Delayed(_, until)) => drop(self.delayed.remove(&(until, id))),
            Some(Turn::Running) => drop(self.stop_running(id)),
            None => return,
        }
        let Some(place) = self.places.remove(&id) else { return };
        let lane = &mut self.lanes[place.lane as usize];
        lane.uploads -= 1;
        if lane.uploads == 0 {
            lane.hold = None;
            self.lane_of.remove(&lane.key);
            self.unused.push(place.lane);
        }
    }

    /// The destination answered a running upload: whoever waited for that may go. True where somebody did.
    pub fn reached(&mut self, id: Ulid) -> bool {
        let Some(place) = self.places.get(&id).filter(|place| place.turn == Turn::Running) else { return false };
        let lane = &mut self.lanes[place.lane as usize];
        lane.failures = 0;
        self.gates.remove(&lane.key.destination).is_some()
    }

    /// How many times in a row this upload was put aside.
    pub fn failures(&self, id: Ulid) -> u32 {
        self.places.get(&id).map_or(0, |place| u32::from(place.failures))
    }

    /// A part of it got through: it waits next as after its first failure, and keeps its age.
    pub fn got_on(&mut self, id: Ulid) {
        if let Some(place) = self.places.get_mut(&id) {
            place.failures = 0;
        }
    }

    /// A running upload did not get through; it is ready again at `until`.
    pub fn delay(&mut self, id: Ulid, reason: WaitReason, until: BootInstant) {
        if self.stop_running(id).is_none() {
            return;
        }
        if let Some(place) = self.places.get_mut(&id) {
            place.failures = place.failures.saturating_add(1);
            place.turn = Turn::Delayed(reason, until);
            self.delayed.insert((until, id));
        }
    }

    /// A running upload found that its whole lane must wait: until it is woken, or until `until(failures)`.
    pub fn hold(&mut self, id: Ulid, reason: WaitReason, until: impl FnOnce(u32) -> Option<BootInstant>) {
        let Some(place) = self.stop_running(id) else { return };
        self.make_ready(id);
        let lane = &mut self.lanes[place.lane as usize];
        let until = until(lane.failures);
        lane.failures = lane.failures.saturating_add(1);
        lane.hold = Some(Hold { reason, until });
        lane.came_back(place);
    }

    /// A running upload found its destination unreachable: all wait until `until(failures)`.
    pub fn gate(&mut self, id: Ulid, reason: WaitReason, until: impl FnOnce(u32) -> BootInstant) {
        let Some(place) = self.places.get(&id).filter(|place| place.turn == Turn::Running) else { return };
        let destination = self.lanes[place.lane as usize].key.destination.clone();
        let before = self.gates.get(&destination);
        let failures = before.map_or(0, |gate| gate.failures);
        // Uploads that were under way when the link went find out one after the other; that is one failure, not four.
        let first = before.is_none_or(|gate| gate.probe == Some(id));
        if let Some(place) = self.stop_running(id) {
            self.lanes[place.lane as usize].came_back(place);
            self.make_ready(id);
        }
        if first {
            let gate = Gate { reason, until: until(failures), failures: failures.saturating_add(1), probe: None };
            self.gates.insert(destination, gate);
        }
    }

    /// A running upload was interrupted and is ready again. It is the first one of its lane to go on: a large one must not
    /// wait until all others have had a try, while what it has at the store grows too old.
    pub fn put_back(&mut self, id: Ulid) {
        if self.stop_running(id).is_some() {
            self.make_ready(id);
        }
    }

    /// Sessions have changed: whoever waits for credentials, a sign-in or other groups may try again.
    pub fn wake_sessions(&mut self) {
        for lane in &mut self.lanes {
            lane.hold = None;
        }
        self.wake_delayed(|reason| matches!(reason, WaitReason::Credentials | WaitReason::SignIn | WaitReason::Denied));
    }

    /// The link is back: nobody waits for it any more.
    pub fn wake_link(&mut self) {
        self.gates.clear();
        self.wake_delayed(|reason| matches!(reason, WaitReason::Retry | WaitReason::Offline | WaitReason::Clock));
    }

    fn wake_delayed(&mut self, wakes: impl Fn(WaitReason) -> bool) {
        let woken: Vec<_> = self
            .delayed
            .iter()
            .filter(|(_, id)| match self.places.get(id).map(|place| place.turn) {
                Some(Turn::Delayed(reason, _)) => wakes(reason),
                _ => false,
            })
            .copied()
            .collect();
        for entry in woken {
            self.delayed.remove(&entry);
            self.end_delay(entry.1);
        }
    }

    /// The link is gone: nobody tries to reach the destination before `until`.
    pub fn close(&mut self, destination: &str, until: BootInstant) {
        let gate = Gate { reason: WaitReason::Offline, until, failures: 0, probe: None };
        self.gates.entry(destination.to_owned()).or_insert(gate);
    }

    /// From now on these priorities wait for another link, wherever one leads over it: not to `local` destinations.
    pub fn set_metered(&mut self, waits: [bool; PRIORITIES], local: BTreeSet<String>) {
        self.metered = Metered { waits, local };
    }

    /// True where an upload waits, or should, for a link that is not metered.
    pub fn is_metered(&self, id: Ulid) -> bool {
        self.places
            .get(&id)
            .is_some_and(|place| self.meter_holds(&self.lanes[place.lane as usize], usize::from(place.class.priority)))
    }

    /// Stops and starts sending.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// True between pause and resume.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// How many are being sent.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many there are.
    pub fn all(&self) -> usize {
        self.places.len()
    }

    /// What is shown of an upload; `None` where it is not in the queue.
    pub fn state(&self, id: Ulid, now: BootInstant) -> Option<UploadState> {
        let place = self.places.get(&id)?;
        if place.turn == Turn::Running {
            return Some(UploadState::Running);
        }
        let lane = &self.lanes[place.lane as usize];
        let held = lane.hold.filter(|hold| hold.until.is_none_or(|until| until > now));
        let metered = self.meter_holds(lane, usize::from(place.class.priority));
        let reason = match (self.paused, held, metered, self.gates.get(&lane.key.destination), place.turn) {
            (true, ..) => WaitReason::Paused,
            (_, Some(hold), ..) => hold.reason,
            (_, _, true, ..) => WaitReason::Metered,
            (_, _, _, Some(gate), _) => gate.reason,
            (_, _, _, _, Turn::Delayed(reason, until)) if until > now => reason,
            _ => return Some(UploadState::Queued),
        };
        Some(UploadState::Waiting(reason))
    }

    /// How many uploads of a uid (or of all) are shown in each state. Those that still arrive are not: they are RECEIVING.
    pub fn counts(&self, uid: Option<u32>, now: BootInstant) -> HashMap<UploadState, u64> {
        let mut counts = HashMap::new();
        for (id, place) in &self.places {
            let counted = uid.is_none_or(|uid| self.lanes[place.lane as usize].key.owner_uid == uid) && !place.early;
            if let (true, Some(state)) = (counted, self.state(*id, now)) {
                *counts.entry(state).or_default() += 1;
            }
        }
        counts
    }

    /// When, after `now`, [`Queue::next`] or [`Queue::should_rest`] may have something that it has not now.
    pub fn next_change(&self, now: BootInstant) -> Option<BootInstant> {
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let later = |until: &BootInstant| *until > now;
        let held = self.lanes.iter().filter_map(|lane| lane.hold.and_then(|hold| hold.until)).filter(later).min();
        let open = self.gates.values().filter(|gate| gate.probe.is_none());
        let gated = open.map(|gate| gate.until).filter(later).min();
        [delayed, held, gated, self.turn_ends(now)].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
