//! Sign-ins under way: what the pool has asked and is waiting to hear. A question can be answered once, in time, and
//! only by the client and for the user that it was put to. Only a wrong code leaves it open, as with Cognito.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;

use crate::local_cloud::error::AwsError;
use crate::local_cloud::user_pool::factors::Factor;
use crate::local_cloud::user_pool::request::not_authorized;
use crate::local_cloud::user_pool::srp::Handshake;
use crate::local_cloud::user_pool::totp::Secret;

/// Who signs in, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub client_id: String,
    /// None where there is no such user, which must not show.
    pub sub: Option<String>,
    /// The remembered device that the client says it is.
    pub device_key: Option<String>,
}

/// What was asked.
#[derive(Debug)]
pub enum Question {
    /// To prove the password.
    PasswordVerifier {
        /// The name that the proof is made for.
        username: String,
        handshake: Box<Handshake>,
    },
    /// To replace the temporary password.
    NewPassword,
    /// To choose how to prove who it is.
    SelectChallenge,
    /// To type the code that was sent.
    SentCode {
        /// The challenge's name, for example `SMS_MFA`.
        name: &'static str,
        code: String,
        /// It stands for the password.
        is_first: bool,
    },
    /// To type a code of the authenticator app.
    SoftwareToken,
    /// To choose a second factor.
    SelectMfa(Vec<Factor>),
    /// To set up an authenticator app; with the secret once it was asked for.
    MfaSetup(Option<Secret>),
    /// The app is set up: to go on.
    MfaIsSetUp,
    /// To begin the proof of being the remembered device.
    DeviceSrp,
    /// To end it.
    DevicePassword(Box<Handshake>),
}

/// An open question.
#[derive(Debug)]
pub struct Pending {
    pub attempt: Attempt,
    pub question: Question,
    /// Wrong answers so far.
    wrong: u32,
    until_ms: u64,
}

/// Why there is nothing to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Never asked, or not of this client, user or kind.
    Never,
    /// Answered already.
    Used,
    /// Too late.
    Expired,
}

impl Gone {
    /// Cognito's words for it.
    pub fn refusal(self) -> AwsError {
        not_authorized(match self {
            Self::Never => "Invalid session for the user.",
            Self::Used => "Invalid session for the user, session can only be used once.",
            Self::Expired => "Invalid session for the user, session is expired.",
        })
    }
}

/// The questions that are open.
#[derive(Debug, Default)]
pub struct Challenges(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    slots: BTreeMap<String, Slot>,
    /// Oldest first; may name slots that are gone.
    order: VecDeque<String>,
}

/// A question, or the memory of one that was answered.
#[derive(Debug)]
struct Slot {
    until_ms: u64,
    pending: Option<Pending>,
}

/// The real service's default `AuthSessionValidity`, in seconds.
pub const DEFAULT_VALID_S: u64 = 180;
/// How long an answered or late question is told from one that never was.
const REMEMBERED_MS: u64 = 15 * 60_000;
/// Anybody may begin a sign-in, so their number needs a bound; the oldest go first.
const MOST_OPEN: usize = 10_000;
/// Wrong codes for one question. A code has six digits at least; what is counted for the user bounds the rest.
const MOST_WRONG: u32 = 10;
const HANDLE_BYTES: usize = 96;

impl Challenges {
    /// Opens a question; the handle is base64, unguessable and good for one answer.
    pub fn open(&self, attempt: Attempt, question: Question, now_ms: u64, valid_s: u64) -> String {
        let handle = STANDARD.encode(rand::rng().random::<[u8; HANDLE_BYTES]>());
        let until_ms = now_ms.saturating_add(valid_s * 1_000);
        self.lock().put(&handle, Pending { attempt, question, wrong: 0, until_ms }, now_ms);
        handle
    }

    /// Takes the question of a handle away, if it `fits`; one that does not stays for whom it was put to.
    pub fn take(&self, handle: &str, now_ms: u64, fits: impl FnOnce(&Pending) -> bool) -> Result<Pending, Gone> {
        let mut open = self.lock();
        let slot = open.slots.get_mut(handle).ok_or(Gone::Never)?;
        let Some(pending) = &slot.pending else { return Err(Gone::Used) };
        if !fits(pending) {
            return Err(Gone::Never);
        }
        if now_ms >= slot.until_ms {
            return Err(Gone::Expired);
        }
        slot.pending.take().ok_or(Gone::Used)
    }

    /// Opens the question again that was just taken.
    pub fn put_back(&self, handle: &str, pending: Pending, now_ms: u64) {
        self.lock().put(handle, pending, now_ms);
    }

    /// The same after a wrong answer; after too many it stays closed.
    pub fn answered_wrong(&self, handle: &str, mut pending: Pending, now_ms: u64) {
        pending.wrong += 1;
        if pending.wrong < MOST_WRONG {
            self.put_back(handle, pending, now_ms);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn put(&mut self, handle: &str, pending: Pending, now_ms: u64) {
        while let Some(oldest) = self.order.front() {
            let is_over =
                self.slots.get(oldest).is_none_or(|slot| now_ms >= slot.until_ms.saturating_add(REMEMBERED_MS));
            if !is_over && self.slots.len() < MOST_OPEN {
                break;
            }
            let oldest = self.order.pop_front().unwrap_or_default();
            self.slots.remove(&oldest);
        }
        let until_ms = pending.until_ms;
        if self.slots.insert(handle.to_owned(), Slot { until_ms, pending: Some(pending) }).is_none() {
            self.order.push_back(handle.to_owned());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const VALID_MS: u64 = DEFAULT_VALID_S * 1_000;

    fn open(challenges: &Challenges, now_ms: u64) -> String {
        let attempt = Attempt { client_id: "c".into(), sub: Some("s".into()), device_key: None };
        challenges.open(attempt, Question::NewPassword, now_ms, DEFAULT_VALID_S)
    }

    fn take(challenges: &Challenges, handle: &str, now_ms: u64) -> Result<Pending, Gone> {
        challenges.take(handle, now_ms, |_| true)
    }

    #[test]
    fn a_question_is_answered_once_and_in_time() {
        let challenges = Challenges::default();
        let handle = open(&challenges, 0);
        assert_eq!(challenges.take(&handle, 1, |_| false).unwrap_err(), Gone::Never);
        assert!(take(&challenges, &handle, 1).is_ok());
        assert_eq!(take(&challenges, &handle, 1).unwrap_err(), Gone::Used);
        let handle = open(&challenges, 0);
        assert!(take(&challenges, &handle, VALID_MS - 1).is_ok());
        let handle = open(&challenges, 0);
        assert_eq!(take(&challenges, &handle, VALID_MS).unwrap_err(), Gone::Expired);
        assert_eq!(take(&challenges, "none", 0).unwrap_err(), Gone::Never);
    }

    #[test]
    fn a_wrong_answer_leaves_it_open_but_not_for_ever() {
        let challenges = Challenges::default();
        let handle = open(&challenges, 0);
        for _ in 0..MOST_WRONG {
            let pending = take(&challenges, &handle, 1).unwrap();
            challenges.answered_wrong(&handle, pending, 1);
        }
        assert_eq!(take(&challenges, &handle, 1).unwrap_err(), Gone::Used);
        let handle = open(&challenges, 0);
        let pending = take(&challenges, &handle, 1).unwrap();
        challenges.put_back(&handle, pending, VALID_MS - 1);
        assert_eq!(take(&challenges, &handle, VALID_MS).unwrap_err(), Gone::Expired);
    }

    #[test]
    fn open_questions_are_bounded_and_the_oldest_go() {
        let challenges = Challenges::default();
        let handles: Vec<_> = (0..=MOST_OPEN).map(|_| open(&challenges, 0)).collect();
        assert_eq!(take(&challenges, &handles[0], 0).unwrap_err(), Gone::Never);
        assert!(take(&challenges, &handles[1], 0).is_ok());
        open(&challenges, VALID_MS + REMEMBERED_MS);
        let open = challenges.lock();
        assert_eq!((open.order.len(), open.slots.len()), (1, 1));
    }
}
