//! One-time codes: made, delivered to the outbox, checked, counted. The outbox stands for the mail that a real pool
//! sends, so it can be read.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;

/// What a code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CodePurpose {
    /// Confirms an address after sign-up.
    ConfirmSignUp,
    /// Sets a new password.
    ResetPassword,
    /// Is the temporary password of an account that an administrator made.
    Invitation,
    /// Proves at a sign-in that it is the user.
    SecondFactor,
    /// Signs in instead of the password.
    SignIn,
}

/// A delivered message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutboxMessage {
    /// The address, or the phone number.
    pub to: String,
    /// The user's name in the pool.
    pub username: String,
    /// The user pool.
    pub pool_id: String,
    /// What the code is for.
    pub purpose: CodePurpose,
    /// The code.
    pub code: String,
    /// When it was sent, in milliseconds since 1970.
    #[serde(rename = "time_ms", serialize_with = "as_unix_ms")]
    pub time: SystemTime,
}

fn as_unix_ms<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(crate::clock::unix_ms(*time))
}

/// The latest messages.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<VecDeque<OutboxMessage>>);

const MOST_MESSAGES: usize = 1_000;

impl Outbox {
    /// Delivers a message; the oldest one makes room.
    pub fn deliver(&self, message: OutboxMessage) {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.len() >= MOST_MESSAGES {
            messages.pop_front();
        }
        messages.push_back(message);
    }

    /// All of them, oldest first.
    pub fn messages(&self) -> Vec<OutboxMessage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// A user's codes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Codes {
    confirm: Option<Code>,
    reset: Option<Code>,
    wrong: u32,
    locked_until_ms: u64,
    /// When the latest codes were sent.
    sent_ms: VecDeque<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Code {
    code: String,
    expire_ms: u64,
}

const CONFIRM_VALID_MS: u64 = 24 * 3_600_000;
const RESET_VALID_MS: u64 = 3_600_000;
const MOST_WRONG: u32 = 5;
const LOCK_MS: u64 = 15 * 60_000;
const MOST_SENT_AN_HOUR: usize = 20;
const HOUR_MS: u64 = 3_600_000;

impl Codes {
    /// A new code, which replaces an older one of the same purpose.
    pub fn issue(&mut self, purpose: CodePurpose, now_ms: u64) -> Result<String, AwsError> {
        self.count_delivery(now_ms)?;
        let code = format!("{:06}", rand::rng().random_range(0..1_000_000));
        let (slot, valid_ms) = self.slot(purpose);
        *slot = Some(Code { code: code.clone(), expire_ms: now_ms + valid_ms });
        Ok(code)
    }

    /// Counts a message to the user, which is refused where there were too many.
    pub fn count_delivery(&mut self, now_ms: u64) -> Result<(), AwsError> {
        self.sent_ms.retain(|sent_ms| now_ms.saturating_sub(*sent_ms) < HOUR_MS);
        if self.sent_ms.len() >= MOST_SENT_AN_HOUR {
            return Err(limit_exceeded());
        }
        self.sent_ms.push_back(now_ms);
        Ok(())
    }

    /// Lets the right code pass. It stays usable until [`Codes::used`], so that what follows may still be refused.
    pub fn check(&mut self, purpose: CodePurpose, code: &str, now_ms: u64) -> Result<(), AwsError> {
        if now_ms < self.locked_until_ms {
            return Err(limit_exceeded());
        }
        let (slot, _) = self.slot(purpose);
        match slot {
            Some(right) if now_ms >= right.expire_ms => Err(expired()),
            Some(right) if right.code == code => {
                self.wrong = 0;
                Ok(())
            }
            Some(_) => {
                self.wrong += 1;
                if self.wrong < MOST_WRONG {
                    return Err(mismatch());
                }
                self.wrong = 0;
                self.locked_until_ms = now_ms + LOCK_MS;
                Err(mismatch())
            }
            None => Err(expired()),
        }
    }

    /// The code did its work.
    pub fn used(&mut self, purpose: CodePurpose) {
        *self.slot(purpose).0 = None;
    }

    fn slot(&mut self, purpose: CodePurpose) -> (&mut Option<Code>, u64) {
        match purpose {
            CodePurpose::ResetPassword => (&mut self.reset, RESET_VALID_MS),
            // The codes of a sign-in wait with its question, not here.
            CodePurpose::ConfirmSignUp | CodePurpose::Invitation | CodePurpose::SecondFactor | CodePurpose::SignIn => {
                (&mut self.confirm, CONFIRM_VALID_MS)
            }
        }
    }
}

/// `CodeDeliveryDetails` of a mail to this address.
pub fn delivery_details(email: &str) -> Value {
    json!({ "AttributeName": "email", "DeliveryMedium": "EMAIL", "Destination": masked(email) })
}

/// The code is wrong.
pub fn mismatch() -> AwsError {
    AwsError::new("CodeMismatchException", "Invalid verification code provided, please try again.")
}

/// There is no code, or it is too old.
pub fn expired() -> AwsError {
    AwsError::new("ExpiredCodeException", "Invalid code provided, please request a code again.")
}

fn limit_exceeded() -> AwsError {
    AwsError::new("LimitExceededException", "Attempt limit exceeded, please try after some time.")
}

/// The last four digits: `+*******1234`.
pub fn masked_phone(number: &str) -> String {
    let shown = number.chars().count().saturating_sub(4);
    let mask = |(at, c)| if at >= shown || (at == 0 && c == '+') { c } else { '*' };
    number.chars().enumerate().map(mask).collect()
}

/// `a***@e***`.
pub fn masked(email: &str) -> String {
    let first = |part: &str| part.chars().next().map(String::from).unwrap_or_default();
    let (local, domain) = email.split_once('@').unwrap_or((email, ""));
    format!("{}***@{}***", first(local), first(domain))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PURPOSE: CodePurpose = CodePurpose::ConfirmSignUp;

    #[test]
    fn five_wrong_codes_lock_even_the_right_one_out_for_a_while() {
        let mut codes = Codes::default();
        let code = codes.issue(PURPOSE, 0).unwrap();
        for _ in 0..MOST_WRONG {
            assert_eq!(codes.check(PURPOSE, "nope", 0).unwrap_err().code, "CodeMismatchException");
        }
        assert_eq!(codes.check(PURPOSE, &code, 0).unwrap_err().code, "LimitExceededException");
        assert_eq!(codes.check(PURPOSE, &code, LOCK_MS), Ok(()));
    }

    #[test]
    fn a_code_is_for_one_purpose_and_one_day() {
        let mut codes = Codes::default();
        let code = codes.issue(PURPOSE, 0).unwrap();
        assert_eq!(codes.check(CodePurpose::ResetPassword, &code, 0).unwrap_err().code, "ExpiredCodeException");
        assert_eq!(codes.check(PURPOSE, &code, CONFIRM_VALID_MS).unwrap_err().code, "ExpiredCodeException");
        assert_eq!(codes.check(PURPOSE, &code, CONFIRM_VALID_MS - 1), Ok(()));
        codes.used(PURPOSE);
        assert_eq!(codes.check(PURPOSE, &code, 1).unwrap_err().code, "ExpiredCodeException");
    }

    #[test]
    fn deliveries_are_limited_by_the_hour() {
        let mut codes = Codes::default();
        for _ in 0..MOST_SENT_AN_HOUR {
            codes.issue(PURPOSE, 0).unwrap();
        }
        assert_eq!(codes.issue(PURPOSE, HOUR_MS - 1).unwrap_err().code, "LimitExceededException");
        codes.issue(PURPOSE, HOUR_MS).unwrap();
    }

    #[test]
    fn the_outbox_keeps_the_latest() {
        let outbox = Outbox::default();
        for number in 0..=MOST_MESSAGES {
            outbox.deliver(OutboxMessage {
                to: "a@example.com".into(),
                username: "a".into(),
                pool_id: "p".into(),
                purpose: PURPOSE,
                code: number.to_string(),
                time: SystemTime::UNIX_EPOCH,
            });
        }
        let messages = outbox.messages();
        assert_eq!((messages.len(), messages[0].code.as_str()), (MOST_MESSAGES, "1"));
        assert_eq!(delivery_details("ann@example.com")["Destination"], "a***@e***");
        assert_eq!((masked_phone("+12065551234"), masked_phone("12")), ("+*******1234".into(), "12".into()));
    }
}
