//! Sign-ins under way: what the pool has asked and is waiting to hear. A question can be answered once, within three
//! minutes. Further kinds of question (MFA and the like) are further variants of [`Pending`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;

use crate::local_cloud::user_pool::srp::Handshake;

/// What was asked.
#[derive(Debug)]
pub enum Pending {
    /// To prove the password. `sub` is none where there is no such user, which must not show.
    PasswordVerifier { client_id: String, sub: Option<String>, username: String, handshake: Box<Handshake> },
    /// To replace the temporary password.
    NewPassword { client_id: String, sub: String },
}

/// The questions that are open.
#[derive(Debug, Default)]
pub struct Challenges(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    pending: BTreeMap<String, (u64, Pending)>,
    /// Oldest first.
    order: VecDeque<String>,
}

/// The real service's default `AuthSessionValidity`.
const VALID_MS: u64 = 3 * 60_000;
/// Anybody may begin a sign-in, so their number needs a bound; the oldest go first.
const MOST_OPEN: usize = 10_000;
const HANDLE_BYTES: usize = 96;

impl Challenges {
    /// Opens a question; the handle is base64, unguessable and good for one answer.
    pub fn open(&self, pending: Pending, now_ms: u64) -> String {
        let handle = STANDARD.encode(rand::rng().random::<[u8; HANDLE_BYTES]>());
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(oldest) = open.order.front() {
            let is_over = open.pending.get(oldest).is_none_or(|(until_ms, _)| now_ms >= *until_ms);
            if !is_over && open.pending.len() < MOST_OPEN {
                break;
            }
            let oldest = open.order.pop_front().unwrap_or_default();
            open.pending.remove(&oldest);
        }
        open.pending.insert(handle.clone(), (now_ms.saturating_add(VALID_MS), pending));
        open.order.push_back(handle.clone());
        handle
    }

    /// Takes the question of a handle away; none where it was answered, is over, or never was.
    pub fn take(&self, handle: &str, now_ms: u64) -> Option<Pending> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (until_ms, pending) = open.pending.remove(handle)?;
        (now_ms < until_ms).then_some(pending)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pending() -> Pending {
        Pending::NewPassword { client_id: "c".into(), sub: "s".into() }
    }

    #[test]
    fn a_question_is_answered_once_and_in_time() {
        let challenges = Challenges::default();
        let handle = challenges.open(pending(), 0);
        assert!(challenges.take(&handle, 1).is_some());
        assert!(challenges.take(&handle, 1).is_none());
        let handle = challenges.open(pending(), 0);
        assert!(challenges.take(&handle, VALID_MS).is_none());
    }

    #[test]
    fn open_questions_are_bounded_and_the_oldest_go() {
        let challenges = Challenges::default();
        let handles: Vec<_> = (0..=MOST_OPEN).map(|_| challenges.open(pending(), 0)).collect();
        assert!(challenges.take(&handles[0], 0).is_none());
        assert!(challenges.take(&handles[1], 0).is_some());
        challenges.open(pending(), VALID_MS);
        assert_eq!(challenges.0.lock().unwrap().order.len(), 1);
    }
}
