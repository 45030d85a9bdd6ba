//! What one uid, and all together, may use: connections, calls that run at the same time, account calls per minute.
//! Refuses at once, never queues; keeps nothing of a uid that is gone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts what is in use, in total and by uid.
#[derive(Debug)]
pub struct Gate {
    max_total: usize,
    max_per_uid: usize,
    in_use: Mutex<InUse>,
}

#[derive(Debug, Default)]
struct InUse {
    total: usize,
    by_uid: HashMap<u32, usize>,
}

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// That of all uids together.
    Total(usize),
    /// That of this uid.
    PerUid(usize),
}

impl Gate {
    /// At most `max_total`, and `max_per_uid` of one uid.
    pub fn new(max_total: usize, max_per_uid: usize) -> Arc<Self> {
        Arc::new(Self { max_total, max_per_uid, in_use: Mutex::default() })
    }

    /// Takes one; it is given back when the permit is dropped.
    ///
    /// # Errors
    /// The limit that was met.
    pub fn enter(self: &Arc<Self>, uid: u32) -> Result<Permit, Full> {
        let mut in_use = lock(&self.in_use);
        if in_use.total >= self.max_total {
            return Err(Full::Total(self.max_total));
        }
        let own = in_use.by_uid.entry(uid).or_default();
        if *own >= self.max_per_uid {
            return Err(Full::PerUid(self.max_per_uid));
        }
        *own += 1;
        in_use.total += 1;
        Ok(Permit { gate: Arc::clone(self), uid })
    }
}

/// One of a [`Gate`].
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    uid: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_use = lock(&self.gate.in_use);
        in_use.total -= 1;
        if let Some(own) = in_use.by_uid.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                in_use.by_uid.remove(&self.uid);
            }
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
/// Beyond this many uids, those without a recent call are forgotten.
const REMEMBERED_UIDS: usize = 256;

/// At most so many calls of one uid in any 60 seconds.
#[derive(Debug)]
pub struct CallRate {
    max_per_minute: u32,
    recent: Mutex<HashMap<u32, VecDeque<Instant>>>,
}

impl CallRate {
    /// At most `max_per_minute` calls of one uid in any 60 seconds.
    pub fn new(max_per_minute: u32) -> Self {
        Self { max_per_minute, recent: Mutex::default() }
    }

    /// The limit.
    pub fn max_per_minute(&self) -> u32 {
        self.max_per_minute
    }

    /// Counts a call of `uid` at `now`.
    ///
    /// # Errors
    /// How long until the next call is allowed; a refused call does not count.
    pub fn take(&self, uid: u32, now: Instant) -> Result<(), Duration> {
        let is_recent = |call: &Instant| now.saturating_duration_since(*call) < MINUTE;
        let mut recent = lock(&self.recent);
        if recent.len() > REMEMBERED_UIDS {
            recent.retain(|_, calls| calls.back().is_some_and(is_recent));
        }
        let calls = recent.entry(uid).or_default();
        while calls.front().is_some_and(|call| !is_recent(call)) {
            calls.pop_front();
        }
        if calls.len() >= usize::try_from(self.max_per_minute).unwrap_or(usize::MAX) {
            let waited = calls.front().map_or(Duration::ZERO, |oldest| now.saturating_duration_since(*oldest));
            return Err(MINUTE.saturating_sub(waited));
        }
        calls.push_back(now);
        Ok(())
    }
}

/// Lets something happen at most once per interval.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// At most once per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: Mutex::default() }
    }

    /// True where it may happen at `now`; it has happened then.
    pub fn is_due(&self, now: Instant) -> bool {
        let mut last = lock(&self.last);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// Counters stay right whatever a thread that held them did.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uid_cannot_take_everything() {
        let gate = Gate::new(3, 2);
        let first = gate.enter(1).unwrap();
        let _second = gate.enter(1).unwrap();
        assert_eq!(gate.enter(1).unwrap_err(), Full::PerUid(2));
        let _other = gate.enter(2).unwrap();
        assert_eq!(gate.enter(3).unwrap_err(), Full::Total(3));
        drop(first);
        let _third = gate.enter(3).unwrap();
    }

    #[test]
    fn account_calls_come_back_after_a_minute() {
        let rate = CallRate::new(2);
        let start = Instant::now();
        rate.take(1, start).unwrap();
        rate.take(1, start + Duration::from_secs(10)).unwrap();
        assert_eq!(rate.take(1, start + Duration::from_secs(20)), Err(Duration::from_secs(40)));
        rate.take(2, start + Duration::from_secs(20)).unwrap();
        rate.take(1, start + Duration::from_secs(60)).unwrap();
        assert_eq!(rate.take(1, start + Duration::from_secs(61)), Err(Duration::from_secs(9)));
    }

    #[test]
    fn what_is_seldom_is_not_often() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let start = Instant::now();
        let due = [0, 1, 9, 10, 11, 20].map(|second| seldom.is_due(start + Duration::from_secs(second)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }

    #[test]
    fn uids_that_are_gone_are_forgotten() {
        let rate = CallRate::new(2);
        let start = Instant::now();
        for uid in 0..1_000 {
            rate.take(uid, start + Duration::from_secs(u64::from(uid))).unwrap();
        }
        assert!(lock(&rate.recent).len() <= REMEMBERED_UIDS + 1);
    }

    proptest! {
        #[test]
        fn permits_are_never_more_than_the_limits_and_all_come_back(
            steps in proptest::collection::vec((0_u32..4, any::<bool>()), 0..200)
        ) {
            let gate = Gate::new(7, 3);
            let mut held: Vec<(u32, Permit)> = Vec::new();
            for (uid, enters) in steps {
                if enters {
                    let own = held.iter().filter(|(owner, _)| *owner == uid).count();
                    match gate.enter(uid) {
                        Ok(permit) => held.push((uid, permit)),
                        Err(Full::Total(_)) => prop_assert_eq!(held.len(), 7),
                        Err(Full::PerUid(_)) => prop_assert_eq!(own, 3),
                    }
                } else if let Some(at) = held.iter().position(|(owner, _)| *owner == uid) {
                    held.swap_remove(at);
                }
                prop_assert!(held.len() <= 7);
            }
            held.clear();
            let in_use = lock(&gate.in_use);
            prop_assert!(in_use.total == 0 && in_use.by_uid.is_empty());
        }
    }
}
