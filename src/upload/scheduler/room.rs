//! Who makes room for whom: pure. Promises that a large upload rests only where a more urgent large one gets its place,
//! and not before it has had a turn in which it got on.

use std::time::Duration;

use ulid::Ulid;

use super::{LARGE, Queue};
use crate::clock::BootInstant;

/// For how long a large upload keeps its place where a more urgent one waits for it: so long, that it gets on in any case.
const TURN_MIN: Duration = Duration::from_secs(10);

impl Queue {
    /// A running upload that is to make room, and counts as doing so from now on: it is large, and a large one of a higher
    /// priority has no place, nor gets that of one that makes room already. Small ones that fill the places end by
    /// themselves, and soon.
    pub fn should_rest(&mut self, now: BootInstant, slots: usize) -> Option<Ulid> {
        if self.paused || self.large_may(slots) {
            return None;
        }
        let had_a_turn = |since: BootInstant| now.saturating_since(since) >= TURN_MIN;
        let victims = self.may_rest().filter(|(_, _, since)| had_a_turn(*since));
        let (level, id) = victims.map(|(level, id, _)| (level, id)).max()?;
        if self.waiting_above(level, now) <= self.resting.len() {
            return None;
        }
        self.resting.insert(id);
        Some(id)
    }

    /// When, after `now`, a running upload has had its turn, where a more urgent one waits for that.
    pub(super) fn turn_ends(&self, now: BootInstant) -> Option<BootInstant> {
        let waiting = self.candidates(LARGE, now).map(|candidate| candidate.level).min()?;
        let less_urgent = self.may_rest().filter(|(level, ..)| *level > waiting);
        less_urgent.map(|(_, _, since)| since + TURN_MIN).filter(|end| *end > now).min()
    }

    /// Large ones that are not making room already: their priorities, and since when they run.
    fn may_rest(&self) -> impl Iterator<Item = (usize, Ulid, BootInstant)> {
        self.running.iter().filter(|(id, _)| !self.resting.contains(id)).filter_map(|(id, since)| {
            let class = self.places.get(id)?.class;
            (!class.is_small).then_some((usize::from(class.priority), *id, *since))
        })
    }

    /// How many large ones of higher priorities than `level` could go, if there were places.
    fn waiting_above(&self, level: usize, now: BootInstant) -> usize {
        let levels = self.tracks[LARGE].levels.iter().enumerate().take(level);
        let ready = |level: usize, lane: u32| {
            let lane = &self.lanes[lane as usize];
            if self.is_open(lane, level, now) { lane.lines[LARGE][level].ready.len() } else { 0 }
        };
        levels.flat_map(|(level, turns)| turns.turns.iter().map(move |lane| ready(level, *lane))).sum()
    }
}
