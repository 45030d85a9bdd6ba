//! Things that the page remembers for a while under an unguessable name: codes, signed-in browsers, trips to another
//! provider. Bounded: the oldest go first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt as _;

/// Anybody may open the page, so what it remembers needs a bound.
const MOST_KEPT: usize = 10_000;
const NAME_BYTES: usize = 32;

/// Values with names and an end.
#[derive(Debug)]
pub struct Expiring<T> {
    valid_ms: u64,
    kept: Mutex<Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    by_name: BTreeMap<String, (u64, T)>,
    /// Oldest first.
    order: VecDeque<String>,
}

impl<T: Clone> Expiring<T> {
    /// Nothing yet; each value ends `valid_ms` after it came.
    pub fn new(valid_ms: u64) -> Self {
        Self { valid_ms, kept: Mutex::new(Kept { by_name: BTreeMap::new(), order: VecDeque::new() }) }
    }

    /// Keeps a value; its name is base64url.
    pub fn put(&self, value: T, now_ms: u64) -> String {
        let name = random_name();
        let mut kept = self.lock();
        while let Some(oldest) = kept.order.front() {
            let is_over = kept.by_name.get(oldest).is_none_or(|(until_ms, _)| now_ms >= *until_ms);
            if !is_over && kept.by_name.len() < MOST_KEPT {
                break;
            }
            let oldest = kept.order.pop_front().unwrap_or_default();
            kept.by_name.remove(&oldest);
        }
        kept.by_name.insert(name.clone(), (now_ms.saturating_add(self.valid_ms), value));
        kept.order.push_back(name.clone());
        name
    }

    /// The value of a name, if it has not ended.
    pub fn get(&self, name: &str, now_ms: u64) -> Option<T> {
        self.lock().by_name.get(name).filter(|(until_ms, _)| now_ms < *until_ms).map(|(_, value)| value.clone())
    }

    /// Takes a value away; only one caller gets it.
    pub fn take(&self, name: &str, now_ms: u64) -> Option<T> {
        let mut kept = self.lock();
        let (until_ms, value) = kept.by_name.remove(name)?;
        kept.order.retain(|other| other != name);
        (now_ms < until_ms).then_some(value)
    }

    /// Changes a value in its place; none where it has ended.
    pub fn update<R>(&self, name: &str, now_ms: u64, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut kept = self.lock();
        let (until_ms, value) = kept.by_name.get_mut(name)?;
        (now_ms < *until_ms).then(|| change(value))
    }

    fn lock(&self) -> MutexGuard<'_, Kept<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 256 random bits as base64url.
pub fn random_name() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; NAME_BYTES]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_in_time_and_is_taken_once() {
        let kept = Expiring::new(100);
        let name = kept.put("a", 0);
        assert_eq!((kept.get(&name, 99), kept.get(&name, 100)), (Some("a"), None));
        assert_eq!((kept.take(&name, 1), kept.take(&name, 1)), (Some("a"), None));
        assert_eq!(kept.take(&kept.put("b", 0), 100), None);
    }

    #[test]
    fn the_oldest_make_room() {
        let kept = Expiring::new(100);
        let names: Vec<_> = (0..=MOST_KEPT).map(|number| kept.put(number, 0)).collect();
        assert_eq!((kept.get(&names[0], 1), kept.get(&names[1], 1)), (None, Some(1)));
        kept.put(0, 100);
        assert_eq!(kept.lock().order.len(), 1);
    }
}
