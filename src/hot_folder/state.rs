//! When a file is finished: pure, the time and the looks come in. Promises that a file is due only once its writer has
//! closed it, or once it has not changed for the quiet time, and that whoever loses signs or has no room is told; must
//! never hold more files than its limit: the rest stays in the folder, where the next look finds it.

use std::collections::HashMap;
use std::time::Duration;

use super::config::Settle;
use crate::clock::BootInstant;
use crate::upload::Fingerprint;

/// What the kernel says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It has appeared; somebody has it open, or made a link.
    Created,
    /// Somebody writes.
    Written,
    /// Somebody who could write has closed it.
    Closed,
    /// It was moved here.
    Arrived,
    /// Something else about it has changed.
    Touched,
    /// It is gone.
    Gone,
}

impl Sign {
    /// What counts of two signs, one after the other.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        // Attributes say nothing about whether it is complete.
        if next == Self::Touched { self } else { next }
    }
}

/// A file as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What it is.
    pub fingerprint: Fingerprint,
    /// It has more than one name.
    pub is_linked: bool,
}

/// Files that may soon be complete.
#[derive(Debug)]
pub struct Settling {
    rule: Settle,
    quiet: Duration,
    /// A file that stays open for this long without a change is looked at as if nobody knew.
    patience: Duration,
    limit: usize,
    files: HashMap<String, Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    look: Look,
    /// Of the last change.
    since: BootInstant,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its closing will be told.
    Open,
    /// Only time can tell.
    Unsure,
    /// Complete.
    Closed,
}

impl Settling {
    /// Nothing yet.
    pub fn new(rule: Settle, quiet: Duration, patience: Duration, limit: usize) -> Self {
        Self { rule, quiet, patience, limit, files: HashMap::new() }
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// True where a look at the folder is worth while.
    pub fn has_room(&self) -> bool {
        self.files.len() <= self.limit / 2
    }

    /// The kernel has said something about a file, which now looks like this. False where there is no room for it.
    #[must_use]
    pub fn told(&mut self, path: &str, sign: Sign, look: Look, now: BootInstant) -> bool {
        let before = self.files.get(path).copied();
        let stage = match (self.rule, sign, before) {
            (Settle::Quiet, ..) => Stage::Unsure,
            (_, Sign::Closed | Sign::Arrived, _) => Stage::Closed,
            // A second name of a complete file is made without opening it.
            (_, Sign::Created, _) if look.is_linked => Stage::Unsure,
            (_, Sign::Created | Sign::Written, _) => Stage::Open,
            (_, _, Some(before)) => before.stage,
            (_, _, None) => Stage::Unsure,
        };
        self.put(path, Candidate { look, since: now, stage })
    }

    /// A look at the folder has found a file of which nothing is known. False where there is no room for it.
    #[must_use]
    pub fn found(&mut self, path: &str, look: Look, now: BootInstant) -> bool {
        let Some(before) = self.files.get_mut(path) else {
            return self.put(path, Candidate { look, since: now, stage: Stage::Unsure });
        };
        if before.look.fingerprint != look.fingerprint {
            (before.look, before.since) = (look, now);
        } else if before.stage == Stage::Open && now.saturating_since(before.since) >= self.patience {
            *before = Candidate { look, since: now, stage: Stage::Unsure };
        }
        true
    }

    /// Signs were lost: whether an open file was closed meanwhile only time can tell.
    pub fn unsure(&mut self, now: BootInstant) {
        for candidate in self.files.values_mut().filter(|candidate| candidate.stage == Stage::Open) {
            (candidate.since, candidate.stage) = (now, Stage::Unsure);
        }
    }

    /// Up to `count` files that are complete by now, the longest waiting first.
    pub fn due(&self, now: BootInstant, count: usize) -> Vec<String> {
        let is_due = |candidate: &Candidate| self.due_at(candidate).is_some_and(|at| at <= now);
        let mut due: Vec<_> = self.files.iter().filter(|(_, candidate)| is_due(candidate)).collect();
        due.sort_unstable_by(|(a, first), (b, second)| first.since.cmp(&second.since).then_with(|| a.cmp(b)));
        due.into_iter().take(count).map(|(path, _)| path.clone()).collect()
    }

    /// When the next file is complete, unless something changes.
    pub fn next_due(&self) -> Option<BootInstant> {
        self.files.values().filter_map(|candidate| self.due_at(candidate)).min()
    }

    /// Whether a file that was due is complete: it must look as it did when it came to be so.
    pub fn is_complete(&mut self, path: &str, look: Look, now: BootInstant) -> bool {
        let Some(candidate) = self.files.get_mut(path) else { return false };
        if candidate.stage == Stage::Unsure && candidate.look.fingerprint != look.fingerprint {
            (candidate.look, candidate.since) = (look, now);
            return false;
        }
        candidate.stage != Stage::Open
    }

    /// A file was taken, or is none of ours.
    pub fn remove(&mut self, path: &str) {
        self.files.remove(path);
    }

    /// The folder is another one.
    pub fn clear(&mut self) {
        self.files.clear();
    }

    fn due_at(&self, candidate: &Candidate) -> Option<BootInstant> {
        match candidate.stage {
            Stage::Open => None,
            Stage::Unsure => Some(candidate.since + self.quiet),
            Stage::Closed => Some(candidate.since),
        }
    }

    fn put(&mut self, path: &str, candidate: Candidate) -> bool {
        if self.files.len() >= self.limit && !self.files.contains_key(path) {
            return false;
        }
        self.files.insert(path.to_owned(), candidate);
        true
    }
}

#[cfg(test)]
mod tests;
