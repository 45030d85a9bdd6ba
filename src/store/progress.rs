//! How much of the bodies was handed on, watched for stalls, and how fast they may go, all together. Promises that waiting
//! for our own limit is never taken for a stall, and that what a limit lets through in any time is what it says, a moment
//! and a piece more at most.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What was not used of a limit in this time may be made up for.
const BURST: Duration = Duration::from_millis(250);
/// Pieces are so small that eight of them go in a second: stores close connections on which nothing comes for long.
const PIECES_PER_S: u64 = 8;
const PIECE_MIN_BYTES: u64 = 1 << 10;

/// A limit that all bodies share which were made with a clone of it.
#[derive(Debug, Clone, Default)]
pub struct RateLimit(Arc<Mutex<Bucket>>);

impl RateLimit {
    /// So many bytes per second; 0 is no limit. Bodies that are on their way follow it with their next piece.
    pub fn set(&self, bytes_per_s: u64) {
        *self.lock() = Bucket { bytes_per_s: NonZeroU64::new(bytes_per_s), taken_until: None };
    }

    fn lock(&self) -> MutexGuard<'_, Bucket> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The arithmetic of a limit: until when everything that was let through takes at its rate.
#[derive(Debug, Default)]
struct Bucket {
    bytes_per_s: Option<NonZeroU64>,
    taken_until: Option<Instant>,
}

impl Bucket {
    /// When `bytes` more may go; `now` or later.
    fn take(&mut self, now: Instant, bytes: u64) -> Instant {
        let Some(rate) = self.bytes_per_s else { return now };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.taken_until.map_or(earliest, |until| until.max(earliest));
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate.get()));
        self.taken_until = Some(from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        from.max(now)
    }

    fn piece(&self) -> u64 {
        self.bytes_per_s.map_or(u64::MAX, |rate| (rate.get() / PIECES_PER_S).max(PIECE_MIN_BYTES))
    }
}

/// How much of a request's body was handed on; somebody else watches it for stalls.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: AtomicU64,
    /// Since when nothing was handed on; later than now where our own limit does not let it.
    silent_since: watch::Sender<Instant>,
    longest_silence_ms: AtomicU64,
    limit: RateLimit,
}

impl Progress {
    /// Nothing yet, and no limit.
    pub fn new() -> Self {
        Self::limited(RateLimit::default())
    }

    /// Nothing yet; the body goes as fast as `limit` lets it.
    pub fn limited(limit: RateLimit) -> Self {
        let silent_since = watch::Sender::new(Instant::now());
        Self(Arc::new(Inner { bytes: AtomicU64::new(0), silent_since, longest_silence_ms: AtomicU64::new(0), limit }))
    }

    /// `bytes` more went out.
    pub fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.end_silence(Instant::now());
    }

    /// All that went out.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// The largest piece to hand on at once.
    pub fn piece_max_bytes(&self) -> u64 {
        self.0.limit.lock().piece()
    }

    /// When the next `bytes` may be handed on; `None`: now. They count from now on.
    pub fn wait_for(&self, bytes: u64) -> Option<Instant> {
        let now = Instant::now();
        let at = self.0.limit.lock().take(now, bytes);
        if at <= now {
            return None;
        }
        self.end_silence(at);
        Some(at)
    }

    /// The next silence counts from `next`.
    fn end_silence(&self, next: Instant) {
        let silence = self.0.silent_since.send_replace(next).elapsed();
        self.0.longest_silence_ms.fetch_max(in_ms(silence), Ordering::Relaxed);
    }

    /// The longest time in which nothing was handed on, though our own limit would have let it; what lasts still is in it.
    pub fn longest_silence(&self) -> Duration {
        let before = Duration::from_millis(self.0.longest_silence_ms.load(Ordering::Relaxed));
        before.max(self.0.silent_since.borrow().elapsed())
    }

    /// Ends when nothing was handed on for `stall`, though our own limit would have let it.
    pub async fn stalled(&self, stall: Duration) {
        let begun = Instant::now();
        let mut silent = self.0.silent_since.subscribe();
        loop {
            let since = (*silent.borrow_and_update()).max(begun);
            if !matches!(tokio::time::timeout_at(since + stall, silent.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever asks how often for how much: never more than the rate, and nothing of it is lost while somebody asks.
        #[test]
        fn a_limit_lets_through_what_it_says(
            rate in 1_000_u64..10_000_000,
            asked in proptest::collection::vec((0_u64..2_000, 1_u64..65_536), 1..200),
        ) {
            let start = Instant::now() + Duration::from_secs(3_600);
            let mut bucket = Bucket { bytes_per_s: NonZeroU64::new(rate), taken_until: None };
            let (mut now, mut begun, mut sum, mut busy) = (start, None, 0, true);
            for (pause_ms, bytes) in asked {
                now += Duration::from_millis(pause_ms);
                let start = *begun.get_or_insert(now);
                busy &= bucket.taken_until.is_none_or(|until| until >= now - BURST);
                let at = bucket.take(now, bytes);
                let may = rate as f64 * (at - start + BURST).as_secs_f64();
                prop_assert!(sum as f64 <= may + 1.0, "{sum} bytes before this one, {may} allowed");
                if busy {
                    let possible = start - BURST + Duration::from_secs_f64(sum as f64 / rate as f64);
                    let late = at.saturating_duration_since(possible.max(now));
                    prop_assert!(late < Duration::from_micros(10), "{late:?} later than the limit asks for");
                }
                sum += bytes;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_silence_that_the_limit_does_not_explain_is_a_stall() {
        let limit = RateLimit::default();
        limit.set(1_000);
        let (progress, begun) = (Progress::limited(limit), Instant::now());
        assert_eq!(progress.wait_for(100_250), None);
        let at = progress.wait_for(1).expect("a hundred seconds are taken");
        assert_eq!(at - begun, Duration::from_secs(100));
        progress.stalled(Duration::from_secs(20)).await;
        assert_eq!(begun.elapsed().as_secs(), 120);
        assert_eq!(progress.longest_silence().as_secs(), 20, "what lasts still counts");
        progress.add(1);
        assert_eq!(progress.wait_for(1), None);
        assert_eq!(progress.longest_silence().as_secs(), 20, "and what is over");
    }
}
