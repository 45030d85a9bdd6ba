//! Conditional writes that are under way, and whether somebody deleted their key meanwhile: S3 answers such a race
//! with `ConditionalRequestConflict`. Holds keys only while a write is under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use s3s::{S3Result, s3_error};

type Key = (String, String);

/// The conditional writes that are under way; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Races(Arc<Mutex<HashMap<Key, Race>>>);

#[derive(Debug, Default)]
struct Race {
    writers: usize,
    deletions: u64,
}

/// One conditional write.
#[derive(Debug)]
pub struct Writer {
    races: Races,
    key: Key,
    seen: u64,
}

impl Races {
    /// Begins a conditional write.
    pub fn begin(&self, bucket: &str, key: &str) -> Writer {
        let key = (bucket.to_owned(), key.to_owned());
        let mut races = self.lock();
        let race = races.entry(key.clone()).or_default();
        race.writers += 1;
        Writer { races: self.clone(), seen: race.deletions, key }
    }

    /// A key was deleted.
    pub fn deleted(&self, bucket: &str, key: &str) {
        if let Some(race) = self.lock().get_mut(&(bucket.to_owned(), key.to_owned())) {
            race.deletions += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Race>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Whether the write may go on.
    ///
    /// # Errors
    /// `ConditionalRequestConflict` where the key was deleted since it began.
    pub fn check(&self) -> S3Result<()> {
        let conflict = self.races.lock().get(&self.key).is_some_and(|race| race.deletions != self.seen);
        if conflict {
            return Err(s3_error!(
                ConditionalRequestConflict,
                "The conditional request cannot succeed due to a conflicting operation against this resource."
            ));
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut races = self.races.lock();
        if let Some(race) = races.get_mut(&self.key) {
            race.writers -= 1;
            if race.writers == 0 {
                races.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_during_a_conditional_write_is_a_conflict() {
        let races = Races::default();
        races.deleted("b", "k");
        let writer = races.begin("b", "k");
        assert!(writer.check().is_ok());
        races.deleted("b", "other");
        assert!(writer.check().is_ok());
        races.deleted("b", "k");
        assert!(writer.check().is_err());
        drop(writer);
        assert!(races.begin("b", "k").check().is_ok());
        assert!(races.lock().is_empty());
    }
}
