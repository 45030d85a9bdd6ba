//! Time. Deadlines count on the boot clock, which no step of the wall clock moves; signatures and anything shown to
//! people use the correct time: that of the last server that proved who it is, carried on by the boot clock, so that a
//! later step of the wall clock moves it neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A point on the boot clock (`CLOCK_BOOTTIME`: counts through suspend, never steps).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The point `since_boot` after the clock's zero.
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// How long after `earlier` this is; zero where it is not later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `duration` earlier; the clock's zero where that would be before it.
    #[must_use]
    pub const fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

impl std::ops::Add<Duration> for BootInstant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// A handle to the clock; clones share it.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Correct time minus the boot clock; [`NOBODY_TOLD`] before a server has said what time it is.
    told_ms: AtomicI64,
    manual: Option<Manual>,
}

#[derive(Debug)]
struct Manual {
    boot_ms: AtomicU64,
    wall_unix_ms: AtomicI64,
    /// Follows the test runtime's own time from here on.
    #[cfg(test)]
    since: Option<tokio::time::Instant>,
}

impl Manual {
    /// How far the runtime's time has gone.
    fn run_ms(&self) -> u64 {
        #[cfg(test)]
        return self.since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        #[cfg(not(test))]
        0
    }
}

/// The correct time is the system's, as far as anybody knows.
const NOBODY_TOLD: i64 = i64::MIN;

/// Differences below this are the network's, not the clock's: `Date` has whole seconds.
const IGNORED_SKEW_MS: i64 = 2_000;

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Arc::new(Inner { told_ms: AtomicI64::new(NOBODY_TOLD), manual: None }))
    }

    /// A clock that moves only by [`Clock::advance`], for tests.
    pub fn manual(wall: SystemTime) -> Self {
        Self::moved_by_hand(Manual {
            boot_ms: AtomicU64::new(1_000),
            wall_unix_ms: AtomicI64::new(unix_ms(wall)),
            #[cfg(test)]
            since: None,
        })
    }

    /// A manual clock that also goes with the test runtime's paused time.
    #[cfg(test)]
    pub fn simulated(wall: SystemTime) -> Self {
        Self::moved_by_hand(Manual {
            boot_ms: AtomicU64::new(1_000),
            wall_unix_ms: AtomicI64::new(unix_ms(wall)),
            since: Some(tokio::time::Instant::now()),
        })
    }

    fn moved_by_hand(manual: Manual) -> Self {
        Self(Arc::new(Inner { told_ms: AtomicI64::new(NOBODY_TOLD), manual: Some(manual) }))
    }

    /// Moves a manual clock on; the system's clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0.manual {
            let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            manual.boot_ms.fetch_add(by_ms, Ordering::SeqCst);
            manual.wall_unix_ms.fetch_add(i64::try_from(by_ms).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Steps a manual clock's wall time, as somebody who sets the device's clock does; the boot clock goes on as it was.
    pub fn step_wall(&self, by_ms: i64) {
        if let Some(manual) = &self.0.manual {
            manual.wall_unix_ms.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// Now on the boot clock.
    pub fn boot(&self) -> BootInstant {
        if let Some(manual) = &self.0.manual {
            return BootInstant(Duration::from_millis(manual.boot_ms.load(Ordering::SeqCst) + manual.run_ms()));
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        BootInstant(Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// The correct time, as far as it is known.
    pub fn wall(&self) -> SystemTime {
        match self.0.told_ms.load(Ordering::SeqCst) {
            NOBODY_TOLD => from_unix_ms(self.system_unix_ms()),
            told_ms => from_unix_ms(told_ms.saturating_add(self.boot_ms())),
        }
    }

    /// Correct time minus the system's wall clock, in milliseconds; 0 where they agree.
    pub fn offset_ms(&self) -> i64 {
        let skew_ms = unix_ms(self.wall()).saturating_sub(self.system_unix_ms());
        if skew_ms.abs() <= IGNORED_SKEW_MS { 0 } else { skew_ms }
    }

    /// Takes the time from a server's `Date` header that has just come. Call it only for answers over verified TLS or
    /// loopback.
    pub fn observe_server_date(&self, date: SystemTime) {
        let (date_ms, system_ms) = (unix_ms(date), self.system_unix_ms());
        let agrees = date_ms.saturating_sub(system_ms).abs() <= IGNORED_SKEW_MS;
        let correct_ms = if agrees { system_ms } else { date_ms };
        self.0.told_ms.store(correct_ms.saturating_sub(self.boot_ms()), Ordering::SeqCst);
    }

    fn boot_ms(&self) -> i64 {
        i64::try_from(self.boot().0.as_millis()).unwrap_or(i64::MAX)
    }

    /// What the system's own wall clock says.
    fn system_unix_ms(&self) -> i64 {
        match &self.0.manual {
            Some(manual) => {
                let run_ms = i64::try_from(manual.run_ms()).unwrap_or(i64::MAX);
                manual.wall_unix_ms.load(Ordering::SeqCst).saturating_add(run_ms)
            }
            None => unix_ms(SystemTime::now()),
        }
    }
}

/// Milliseconds since 1970; negative before.
pub fn unix_ms(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// The time `ms` milliseconds after 1970 (before it where negative).
pub fn from_unix_ms(ms: i64) -> SystemTime {
    let distance = Duration::from_millis(ms.unsigned_abs());
    let time = if ms >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_follows_the_servers_and_boot_does_not() {
        let wall = from_unix_ms(1_700_000_000_000);
        let clock = Clock::manual(wall);
        let boot = clock.boot();
        clock.observe_server_date(wall + Duration::from_secs(86_400));
        assert_eq!(clock.wall(), wall + Duration::from_secs(86_400));
        assert_eq!(clock.boot(), boot);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.wall(), wall + Duration::from_secs(86_405));
        assert_eq!(clock.boot().saturating_since(boot), Duration::from_secs(5));
    }

    #[test]
    fn once_told_no_step_of_the_system_clock_moves_the_time() {
        const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;
        let wall = from_unix_ms(1_700_000_000_000);
        let clock = Clock::manual(wall);
        clock.step_wall(5_000);
        assert_eq!(clock.wall(), wall + Duration::from_secs(5), "nobody else knows better");
        clock.observe_server_date(wall);
        for step_ms in [TEN_YEARS_MS, -TEN_YEARS_MS, -TEN_YEARS_MS] {
            clock.step_wall(step_ms);
            assert_eq!(clock.wall(), wall);
        }
        assert_eq!(clock.offset_ms(), TEN_YEARS_MS - 5_000);
    }

    #[test]
    fn a_second_of_skew_is_not_a_wrong_clock() {
        let wall = from_unix_ms(1_700_000_000_000);
        let clock = Clock::manual(wall);
        clock.observe_server_date(wall + Duration::from_secs(1));
        assert_eq!(clock.offset_ms(), 0);
    }

    #[test]
    fn times_before_1970_survive() {
        assert_eq!(unix_ms(from_unix_ms(-5)), -5);
    }
}
