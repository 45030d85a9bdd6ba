//! The process-wide limit on upstream calls: a token bucket. Promises that whoever has a caller waiting goes before
//! background refreshes, and that within each of the two kinds the first comes first.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The background waits this long behind callers, then in line with them: a refresh ahead has a quarter of an hour.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the background steps back while somebody waits.
const STEP_BACK: Duration = Duration::from_millis(100);

/// The bucket.
#[derive(Debug)]
pub struct Limiter {
    per_second: f64,
    burst: f64,
    bucket: Mutex<Bucket>,
    urgent_waiting: AtomicUsize,
    // Fair locks: only the first of each kind looks at the bucket.
    urgent: tokio::sync::Mutex<()>,
    background: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Bucket {
    level: f64,
    at: Instant,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Limiter {
    /// A full bucket; a rate or burst of 0 counts as 1.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Self {
            per_second: f64::from(per_second.max(1)),
            burst,
            bucket: Mutex::new(Bucket { level: burst, at: Instant::now() }),
            urgent_waiting: AtomicUsize::new(0),
            urgent: tokio::sync::Mutex::new(()),
            background: tokio::sync::Mutex::new(()),
        }
    }

    /// Waits for one call's worth, before the background. Dropping it gives up the place.
    pub async fn acquire_urgent(&self) {
        self.urgent_waiting.fetch_add(1, Ordering::SeqCst);
        let _counted = Counted(&self.urgent_waiting);
        let _turn = self.urgent.lock().await;
        while let Some(wait) = self.take() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits for one call's worth: in the background until `urgent` becomes true.
    pub async fn acquire(&self, mut urgent: watch::Receiver<bool>) {
        let raised = async {
            if urgent.wait_for(|urgent| *urgent).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = raised => self.acquire_urgent().await,
            () = self.acquire_background() => {}
            () = tokio::time::sleep(PATIENCE) => self.acquire_urgent().await,
        }
    }

    async fn acquire_background(&self) {
        let _turn = self.background.lock().await;
        loop {
            let wait = if self.urgent_waiting.load(Ordering::SeqCst) > 0 { Some(STEP_BACK) } else { self.take() };
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return,
            }
        }
    }

    /// Takes one, or says how long until there is one.
    fn take(&self) -> Option<Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_second;
        bucket.level = (bucket.level + gained).min(self.burst);
        bucket.at = now;
        if bucket.level >= 1.0 {
            bucket.level -= 1.0;
            return None;
        }
        // Never nothing: rounding must not make a busy loop.
        Some(Duration::from_secs_f64((1.0 - bucket.level) / self.per_second).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_the_burst_at_once_and_then_the_rate() {
        let limiter = Limiter::new(2, 10);
        let start = Instant::now();
        for _ in 0..10 {
            limiter.acquire_urgent().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            limiter.acquire_urgent().await;
        }
        let took = start.elapsed().as_secs_f64();
        assert!((9.9..10.2).contains(&took), "20 more took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_without_end_do_not_starve_the_background() {
        let limiter = Arc::new(Limiter::new(2, 1));
        let flood: Vec<_> = (0..4)
            .map(|_| {
                let limiter = Arc::clone(&limiter);
                tokio::spawn(async move {
                    loop {
                        limiter.acquire_urgent().await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = Instant::now();
        limiter.acquire(watch::channel(false).1).await;
        assert!(start.elapsed() >= PATIENCE && start.elapsed() < PATIENCE + Duration::from_secs(5));
        for task in flood {
            task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_caller_goes_first() {
        let limiter = Arc::new(Limiter::new(2, 1));
        limiter.acquire_urgent().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        let (raise, urgent) = watch::channel(false);
        for (name, urgent) in [("background", watch::channel(false).1), ("raised", urgent)] {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                limiter.acquire(urgent).await;
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                limiter.acquire_urgent().await;
                order.lock().unwrap().push("caller");
            }));
            tokio::task::yield_now().await;
        }
        raise.send(true).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["caller", "caller", "raised", "background"]);
    }
}
