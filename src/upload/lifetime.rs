//! For how long an upload has been failing: pure, the time comes in. Promises to count only time in which it was tried
//! and failed by itself: not while the daemon is off, nor while it waits for the link, a sign-in, other groups or an end
//! of a pause; so no clock of the wall decides about anybody's photo.

use std::time::Duration;

use crate::clock::BootInstant;

/// Between two failures no more than this counts: a longer time was spent waiting for something else.
const STEP_MAX: Duration = Duration::from_secs(3_600);
/// What may be lost in a crash: the journal is written this seldom, and at a stop.
const UNSAVED_MAX: Duration = Duration::from_secs(3_600);

/// The time that an upload has spent failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    total: Duration,
    saved: Duration,
    last: Option<BootInstant>,
}

impl Failing {
    /// What the journal says.
    pub fn saved(seconds: u64) -> Self {
        let saved = Duration::from_secs(seconds);
        Self { total: saved, saved, last: None }
    }

    /// It has failed again.
    pub fn failed(&mut self, now: BootInstant) {
        if let Some(last) = self.last.replace(now) {
            self.total = self.total.saturating_add(now.saturating_since(last).min(STEP_MAX));
        }
    }

    /// It is not tried for a while, for another reason than its own failures: the time until it fails next does not count.
    pub fn interrupted(&mut self) {
        self.last = None;
    }

    /// All of it.
    pub fn seconds(&self) -> u64 {
        self.total.as_secs()
    }

    /// True where it is time to write it down.
    pub fn is_due(&self) -> bool {
        self.total.saturating_sub(self.saved) >= UNSAVED_MAX
    }

    /// What is to be written down, if anything; it counts as written.
    pub fn save(&mut self) -> Option<u64> {
        let changed = self.total.as_secs() != self.saved.as_secs();
        self.saved = self.total;
        changed.then(|| self.seconds())
    }

    /// True where the journal knows of a time.
    pub fn is_saved(&self) -> bool {
        !self.saved.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn only_time_between_failures_counts_and_of_long_ones_an_hour() {
        let mut failing = Failing::saved(100);
        failing.failed(at(50));
        assert_eq!((failing.seconds(), failing.save()), (100, None), "nobody knows for how long before the start");
        failing.failed(at(350));
        assert_eq!((failing.seconds(), failing.is_due()), (400, false));
        // Offline, or its user was away.
        failing.failed(at(10_000_000));
        assert_eq!((failing.seconds(), failing.is_due()), (4_000, true));
        assert_eq!((failing.save(), failing.is_due(), failing.save()), (Some(4_000), false, None));
        failing.interrupted();
        failing.failed(at(20_000_000));
        failing.failed(at(20_000_060));
        assert_eq!(failing.seconds(), 4_060, "no more than between the last two");
    }
}
