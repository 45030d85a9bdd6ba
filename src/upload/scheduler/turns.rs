//! Whose turn it is: pure. Promises that higher priorities go first and lanes take turns, and that whoever may start does
//! so after a bounded number of other starts.

use ulid::Ulid;

use super::{Candidate, LARGE, Level, PRIORITIES, Queue, SMALL};
use crate::clock::BootInstant;

/// How many starts of other priorities of its track may pass over one that has something ready; then it goes next. So
/// in the worst case every eighth start is a background one, and every fourth or fifth a normal one.
const PASSED_OVER_MAX: [u32; PRIORITIES] = [u32::MAX, 3, 7];
/// How many starts may pass over a line that may go, whatever its priority. The counts of priorities alone let one wait
/// for ever whose destination is open only at moments at which its priority is not overdue.
const STARTS_PASSED_OVER_MAX: u64 = 64;

/// How many starts of one track may pass over the other where both could go.
const TRACK_PASSED_OVER_MAX: u32 = 3;

impl Queue {
    /// The more urgent one, or the small one; unless the other track was passed over for too long.
    pub(super) fn either(&mut self, small: Candidate, large: Candidate) -> Candidate {
        let overdue = |track: &usize| self.tracks[*track].passed_over >= TRACK_PASSED_OVER_MAX;
        let preferred = if large.level < small.level { LARGE } else { SMALL };
        let forgotten = self.forgotten(&[small, large]).map(|next| next.track);
        let track = forgotten.or_else(|| [SMALL, LARGE].into_iter().find(overdue)).unwrap_or(preferred);
        self.tracks[track].passed_over = 0;
        self.tracks[1 - track].passed_over += 1;
        if track == SMALL { small } else { large }
    }

    /// Whose turn it is in a track: a line that waits for far too long, else a priority that was passed over for too
    /// long, else the highest one that may go.
    pub(super) fn candidate(&self, track: usize, now: BootInstant) -> Option<Candidate> {
        let levels = &self.tracks[track].levels;
        let overdue = |next: &&Candidate| levels[next.level].passed_over >= PASSED_OVER_MAX[next.level];
        let next: Vec<Candidate> = self.candidates(track, now).collect();
        self.forgotten(&next).or_else(|| next.iter().rev().find(overdue).or(next.first()).copied())
    }

    /// The one whose line has waited for longest, where that is too long.
    fn forgotten(&self, next: &[Candidate]) -> Option<Candidate> {
        let since = |next: &&Candidate| self.lanes[next.lane as usize].lines[next.track][next.level].since;
        let longest = next.iter().min_by_key(since)?;
        (self.starts - since(&longest) >= STARTS_PASSED_OVER_MAX).then_some(*longest)
    }

    /// Of each priority the first lane's that may go, highest first. A lane that may not keeps its turn.
    pub(super) fn candidates(&self, track: usize, now: BootInstant) -> impl Iterator<Item = Candidate> {
        let first = move |(level, turns): (usize, &Level)| {
            turns.turns.iter().find_map(|lane| {
                let id = self.head(*lane, track, level, now)?;
                Some(Candidate { track, level, lane: *lane, id })
            })
        };
        self.tracks[track].levels.iter().enumerate().filter_map(first)
    }

    /// What the lane would start now, if its user and its destination let it: the oldest one, or where somebody has
    /// tried, the oldest behind that.
    fn head(&self, lane: u32, track: usize, level: usize, now: BootInstant) -> Option<Ulid> {
        let lane = &self.lanes[lane as usize];
        if !self.is_open(lane, level, now) {
            return None;
        }
        let line = &lane.lines[track][level];
        let behind = line.tried.and_then(|tried| line.ready.range(tried + 1..).next());
        behind.or_else(|| line.ready.first_key_value()).map(|(_, id)| *id)
    }
}
