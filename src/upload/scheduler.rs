//! Who is sent next: pure, the time comes in. Promises that higher priorities go first, that within one the sessions
//! take turns, and that no upload starts while its destination, its session or the gateway waits; must never forget an
//! upload: each is ready, delayed or running until it is removed.

use std::collections::{BTreeSet, HashMap, VecDeque};

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

/// How many priorities there are; 0 is first.
pub const PRIORITIES: usize = 3;

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    lanes: Vec<Lane>,
    lane_of: HashMap<LaneKey, usize>,
    /// Lanes in the order in which they are next.
    turns: VecDeque<usize>,
    places: HashMap<Ulid, Place>,
    delayed: BTreeSet<(BootInstant, Ulid)>,
    gates: HashMap<String, Gate>,
    paused: bool,
    running: usize,
}

#[derive(Debug)]
struct Lane {
    owner_uid: u32,
    destination: String,
    ready: [BTreeSet<Ulid>; PRIORITIES],
    hold: Option<Hold>,
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    reason: WaitReason,
    /// `None`: until it is woken.
    until: Option<BootInstant>,
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
    priority: u8,
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

impl Queue {
    /// Adds an upload that still arrives, for the parts of it that are here.
    pub fn push_early(&mut self, id: Ulid, key: &LaneKey, priority: u8) {
        if !self.places.contains_key(&id) {
            self.push(id, key, priority);
            if let Some(place) = self.places.get_mut(&id) {
                place.early = true;
            }
        }
    }

    /// Adds an upload; one that is there already stays where it is.
    pub fn push(&mut self, id: Ulid, key: &LaneKey, priority: u8) {
        if let Some(place) = self.places.get_mut(&id) {
            place.early = false;
            return;
        }
        let lane = match self.lane_of.get(key) {
            Some(lane) => *lane,
            None => {
                let lane = self.lanes.len();
                self.lanes.push(Lane {
                    owner_uid: key.owner_uid,
                    destination: key.destination.clone(),
                    ready: Default::default(),
                    hold: None,
                    failures: 0,
                });
                self.lane_of.insert(key.clone(), lane);
                self.turns.push_back(lane);
                lane
            }
        };
        let priority = priority.min(PRIORITIES as u8 - 1);
        let lane_number = u32::try_from(lane).unwrap_or(u32::MAX);
        self.places.insert(id, Place { lane: lane_number, priority, failures: 0, early: false, turn: Turn::Ready });
        self.lanes[lane].ready[usize::from(priority)].insert(id);
    }

    /// The next one to send, which counts as running from now on.
    pub fn next(&mut self, now: BootInstant) -> Option<Ulid> {
        self.release_due(now);
        if self.paused {
            return None;
        }
        for priority in 0..PRIORITIES {
            for _ in 0..self.turns.len() {
                let lane = *self.turns.front()?;
                self.turns.rotate_left(1);
                if let Some(id) = self.take(lane, priority, now) {
                    return Some(id);
                }
            }
        }
        None
    }

    fn take(&mut self, number: usize, priority: usize, now: BootInstant) -> Option<Ulid> {
        let lane = &mut self.lanes[number];
        let id = *lane.ready[priority].first()?;
        if let Some(hold) = lane.hold {
            if hold.until.is_none_or(|until| until > now) {
                return None;
            }
            lane.hold = None;
        }
        if let Some(gate) = self.gates.get_mut(&lane.destination) {
            if gate.probe.is_some() || gate.until > now {
                return None;
            }
            gate.probe = Some(id);
        }
        lane.ready[priority].remove(&id);
        self.running += 1;
        if let Some(place) = self.places.get_mut(&id) {
            place.turn = Turn::Running;
        }
        Some(id)
    }

    fn release_due(&mut self, now: BootInstant) {
        while let Some((at, id)) = self.delayed.first().copied()
            && at <= now
        {
            self.delayed.pop_first();
            self.make_ready(id);
        }
    }

    fn make_ready(&mut self, id: Ulid) {
        if let Some(place) = self.places.get_mut(&id) {
            place.turn = Turn::Ready;
            self.lanes[place.lane as usize].ready[usize::from(place.priority)].insert(id);
        }
    }

    fn stop_running(&mut self, id: Ulid) -> Option<&mut Place> {
        let place = self.places.get_mut(&id).filter(|place| place.turn == Turn::Running)?;
        self.running -= 1;
        Some(place)
    }

    /// The upload has ended, or is not to be sent any more.
    pub fn remove(&mut self, id: Ulid) {
        self.reached(id);
        let Some(place) = self.places.remove(&id) else { return };
        match place.turn {
            Turn::Ready => drop(self.lanes[place.lane as usize].ready[usize::from(place.priority)].remove(&id)),
            Turn::Delayed(_, until) => drop(self.delayed.remove(&(until, id))),
            Turn::Running => self.running -= 1,
        }
    }

    /// Its destination answered: whoever waited for that may go.
    pub fn reached(&mut self, id: Ulid) {
        let Some(place) = self.places.get(&id).filter(|place| place.turn == Turn::Running) else { return };
        let lane = &mut self.lanes[place.lane as usize];
        lane.failures = 0;
        self.gates.remove(&lane.destination);
    }

    /// How many times in a row this upload was put aside.
    pub fn failures(&self, id: Ulid) -> u32 {
        self.places.get(&id).map_or(0, |place| u32::from(place.failures))
    }

    /// A running upload did not get through; it is ready again at `until`.
    pub fn delay(&mut self, id: Ulid, reason: WaitReason, until: BootInstant) {
        self.reached(id);
        let Some(place) = self.stop_running(id) else { return };
        place.failures = place.failures.saturating_add(1);
        place.turn = Turn::Delayed(reason, until);
        self.delayed.insert((until, id));
    }

    /// A running upload found that its whole lane must wait: until it is woken, or until `until(failures)`.
    pub fn hold(&mut self, id: Ulid, reason: WaitReason, until: impl FnOnce(u32) -> Option<BootInstant>) {
        if self.gates.values().any(|gate| gate.probe == Some(id)) {
            self.reached(id);
        }
        let Some(place) = self.stop_running(id) else { return };
        let number = place.lane as usize;
        self.make_ready(id);
        let lane = &mut self.lanes[number];
        let until = until(lane.failures);
        lane.failures = lane.failures.saturating_add(1);
        lane.hold = Some(Hold { reason, until });
    }

    /// A running upload found its destination unreachable: all wait until `until(failures)`.
    pub fn gate(&mut self, id: Ulid, reason: WaitReason, until: impl FnOnce(u32) -> BootInstant) {
        let Some(number) = self.stop_running(id).map(|place| place.lane as usize) else { return };
        let destination = self.lanes[number].destination.clone();
        self.make_ready(id);
        let failures = self.gates.get(&destination).map_or(0, |gate| gate.failures);
        // Uploads that were under way when the link went find out one after the other; that is one failure, not four.
        let first = self.gates.get(&destination).is_none_or(|gate| gate.probe == Some(id));
        if first {
            let gate = Gate { reason, until: until(failures), failures: failures.saturating_add(1), probe: None };
            self.gates.insert(destination, gate);
        }
    }

    /// A running upload was interrupted and is ready again.
    pub fn put_back(&mut self, id: Ulid) {
        if let Some(gate) = self.gates.values_mut().find(|gate| gate.probe == Some(id)) {
            gate.probe = None;
        }
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
            self.make_ready(entry.1);
        }
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
        self.running
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
        let reason = match (self.paused, held, self.gates.get(&lane.destination), place.turn) {
            (true, ..) => WaitReason::Paused,
            (_, Some(hold), ..) => hold.reason,
            (_, _, Some(gate), _) => gate.reason,
            (_, _, _, Turn::Delayed(reason, until)) if until > now => reason,
            _ => return Some(UploadState::Queued),
        };
        Some(UploadState::Waiting(reason))
    }

    /// How many uploads of a uid (or of all) are shown in a state that `counts`. Those that still arrive are not: they are
    /// RECEIVING.
    pub fn count(&self, uid: Option<u32>, now: BootInstant, counts: impl Fn(UploadState) -> bool) -> u64 {
        let own =
            |place: &Place| !place.early && uid.is_none_or(|uid| self.lanes[place.lane as usize].owner_uid == uid);
        let counted = self.places.iter().filter(|(id, place)| own(place) && self.state(**id, now).is_some_and(&counts));
        counted.count() as u64
    }

    /// When, after `now`, [`Queue::next`] may have something that it has not now.
    pub fn next_change(&self, now: BootInstant) -> Option<BootInstant> {
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let later = |until: &BootInstant| *until > now;
        let held = self.lanes.iter().filter_map(|lane| lane.hold.and_then(|hold| hold.until)).filter(later).min();
        let open = self.gates.values().filter(|gate| gate.probe.is_none());
        let gated = open.map(|gate| gate.until).filter(later).min();
        [delayed, held, gated].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
