//! How often each operation was called. Owns the numbers that a test reads to prove, for example, that many callers
//! cost one call; holds operation names only, never anything of a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts calls by operation; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Counters {
    /// Counts one call of `operation`, for example `cognito-identity:GetCredentialsForIdentity`.
    pub fn count(&self, operation: &'static str) {
        *self.lock().entry(operation).or_default() += 1;
    }

    /// How often `operation` was called.
    pub fn of(&self, operation: &str) -> u64 {
        self.lock().get(operation).copied().unwrap_or(0)
    }

    /// All counts since the start or the last [`Counters::reset`].
    pub fn call_counts(&self) -> BTreeMap<String, u64> {
        self.lock().iter().map(|(operation, calls)| ((*operation).to_owned(), *calls)).collect()
    }

    /// Starts again at zero.
    pub fn reset(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
