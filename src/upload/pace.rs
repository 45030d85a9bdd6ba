//! How many transfers are on the wire at once: pure, the time comes in. Promises to stay between one and the most that
//! configuration and memory allow, to grow only while more of them move more bytes, and to give way where the store or
//! the link says that it is too much; must never grow for transfers that nobody wants to make.

use std::time::Duration;

use crate::clock::BootInstant;

/// What one transfer holds in memory at most: the pieces of its body on their way through HTTP and TLS, the state of its
/// request and of its connection.
const TRANSFER_BYTES: u64 = 768 << 10;
/// Transfers at once, before anything is known of the link.
const FIRST: usize = 4;
/// A level is judged over this time at least, and over two rounds of transfers.
const EPOCH: Duration = Duration::from_secs(1);
/// What one more transfer must bring, in percent: less is noise.
const WORTH_PERCENT: u64 = 5;
/// Epochs until a level that brought nothing is tried again; doubled each time.
const FIRST_PATIENCE: u32 = 8;
const LONGEST_PATIENCE: u32 = 128;

/// The most transfers at once for a configuration.
pub fn most(max_parts_in_flight: usize, transfer_memory_max_bytes: u64) -> usize {
    let fit = usize::try_from(transfer_memory_max_bytes / TRANSFER_BYTES).unwrap_or(usize::MAX);
    max_parts_in_flight.min(fit).max(1)
}

/// The controller.
#[derive(Debug)]
pub struct Pace {
    most: usize,
    limit: usize,
    in_flight: usize,
    /// Since when there is none.
    idle_since: Option<BootInstant>,
    epoch: Option<Epoch>,
    stage: Stage,
    patience: u32,
    goodput: Option<u64>,
}

/// What is measured of the present limit.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    since: BootInstant,
    bytes: u64,
    done: usize,
    /// Somebody waited for a place: the limit is what held the transfers back.
    wanted: bool,
    /// The store or the link had too much already.
    shrunk: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The limit was raised from `limit`, which moved `rate` bytes/s.
    Trying { limit: usize, rate: u64 },
    /// Stays for so many epochs.
    Resting(u32),
}

impl Pace {
    /// Nothing is known yet; `most` from [`most`].
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            most,
            limit: FIRST.min(most),
            in_flight: 0,
            idle_since: None,
            epoch: None,
            stage: Stage::Resting(0),
            patience: FIRST_PATIENCE,
            goodput: None,
        }
    }

    /// How many may be on the wire.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes per second that got through, smoothed; of a link that was not kept busy, what it did at least.
    pub fn goodput(&self) -> Option<u64> {
        self.goodput
    }

    /// A transfer begins.
    pub fn begin(&mut self, now: BootInstant) {
        self.in_flight += 1;
        let epoch = self.epoch.get_or_insert_with(|| Epoch::at(now));
        if let Some(idle) = self.idle_since.take() {
            // A time without transfers says nothing of the link.
            epoch.since = epoch.since + now.saturating_since(idle);
        }
    }

    /// A transfer would begin, and the limit does not let it.
    pub fn wanted(&mut self) {
        if let Some(epoch) = &mut self.epoch {
            epoch.wanted = true;
        }
    }

    /// A transfer has ended, whatever came of it.
    pub fn end(&mut self, now: BootInstant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            self.idle_since = Some(now);
        }
    }

    /// The store has taken `bytes`.
    pub fn delivered(&mut self, now: BootInstant, bytes: u64) {
        let Some(epoch) = &mut self.epoch else { return };
        epoch.bytes = epoch.bytes.saturating_add(bytes);
        epoch.done += 1;
        let took = now.saturating_since(epoch.since);
        if took < EPOCH || epoch.done < 2 * self.limit {
            return;
        }
        let ended = *epoch;
        self.epoch = Some(Epoch::at(now));
        let rate = ended.rate(took);
        self.goodput = Some(match self.goodput {
            Some(old) if ended.wanted => old - old / 4 + rate / 4,
            // Forgotten slowly: the link may be another one by now.
            Some(old) => (old - old / 8).max(rate),
            None => rate,
        });
        if ended.wanted && !ended.shrunk {
            self.judge(rate);
        }
    }

    fn judge(&mut self, rate: u64) {
        match self.stage {
            Stage::Trying { limit, rate: before } => {
                if rate > before.saturating_add(before / 100 * WORTH_PERCENT) {
                    self.patience = FIRST_PATIENCE;
                    self.try_more(rate);
                } else {
                    self.limit = limit;
                    self.stage = Stage::Resting(self.patience);
                    self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
                }
            }
            Stage::Resting(0) => self.try_more(rate),
            Stage::Resting(left) => self.stage = Stage::Resting(left - 1),
        }
    }

    fn try_more(&mut self, rate: u64) {
        let more = (self.limit + (self.limit / 4).max(1)).min(self.most);
        self.stage =
            if more > self.limit { Stage::Trying { limit: self.limit, rate } } else { Stage::Resting(self.patience) };
        self.limit = more;
    }

    /// The store asked for patience, or the link lost a transfer: half as many, once per epoch.
    pub fn too_much(&mut self, now: BootInstant) {
        if self.epoch.is_some_and(|epoch| epoch.shrunk && now.saturating_since(epoch.since) < EPOCH) {
            return;
        }
        self.limit = (self.limit / 2).max(1);
        self.stage = Stage::Resting(FIRST_PATIENCE);
        self.epoch = Some(Epoch { shrunk: true, ..Epoch::at(now) });
    }
}

impl Epoch {
    fn at(now: BootInstant) -> Self {
        Self { since: now, bytes: 0, done: 0, wanted: false, shrunk: false }
    }

    fn rate(&self, took: Duration) -> u64 {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        u64::try_from(u128::from(self.bytes) * 1_000 / u128::from(ms)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
