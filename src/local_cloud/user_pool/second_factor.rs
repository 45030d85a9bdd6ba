//! Asking for a second factor and taking the answer: codes that were sent, codes of an app, the choice between them, and
//! setting one up where the pool insists. Also the codes that stand for a password (`EMAIL_OTP`, `SMS_OTP`).

use rand::RngExt as _;
use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::{MfaMode, UserPoolClientSeed};
use crate::local_cloud::user_pool::challenge::{Attempt, Pending, Question};
use crate::local_cloud::user_pool::codes::{CodePurpose, masked, masked_phone};
use crate::local_cloud::user_pool::directory::User;
use crate::local_cloud::user_pool::factors::Factor;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter, not_authorized};

/// How a code travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    Email,
    Sms,
}

impl Medium {
    fn name(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Sms => "SMS",
        }
    }
}

impl Request {
    /// The question for the user's second factor; none where none is wanted.
    pub(super) fn second_factor(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: &Attempt,
        user: &User,
    ) -> Result<Option<Value>, AwsError> {
        let mfa = pool.mfa();
        let (usable, preferred) = user.usable_factors(mfa);
        let only = if let [only] = usable[..] { Some(only) } else { None };
        if let Some(factor) = preferred.or(only) {
            return self.ask_factor(pool, client, attempt.clone(), user, factor).map(Some);
        }
        let attempt = attempt.clone();
        if !usable.is_empty() {
            let names: Vec<_> = usable.iter().map(|factor| factor.name()).collect();
            let parameters = json!({ "USER_ID_FOR_SRP": user.username, "MFAS_CAN_CHOOSE": json!(names).to_string() });
            return Ok(Some(self.ask(
                pool,
                client,
                attempt,
                "SELECT_MFA_TYPE",
                Question::SelectMfa(usable),
                &parameters,
            )));
        }
        match mfa.mode {
            MfaMode::Off | MfaMode::Optional => Ok(None),
            MfaMode::On if mfa.software_token => {
                let parameters =
                    json!({ "USER_ID_FOR_SRP": user.username, "MFAS_CAN_SETUP": "[\"SOFTWARE_TOKEN_MFA\"]" });
                Ok(Some(self.ask(pool, client, attempt, "MFA_SETUP", Question::MfaSetup(None), &parameters)))
            }
            MfaMode::On => {
                let message = "No MFA mechanism registered in the account.";
                Err(AwsError::new("MFAMethodNotFoundException", message))
            }
        }
    }

    fn ask_factor(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: Attempt,
        user: &User,
        factor: Factor,
    ) -> Result<Value, AwsError> {
        let medium = match factor {
            Factor::SoftwareToken => {
                let mut parameters = json!({ "USER_ID_FOR_SRP": user.username });
                if let Some(name) = user.factors.token_name() {
                    parameters["FRIENDLY_DEVICE_NAME"] = json!(name);
                }
                return Ok(self.ask(pool, client, attempt, factor.name(), Question::SoftwareToken, &parameters));
            }
            Factor::Sms => Medium::Sms,
            Factor::Email => Medium::Email,
        };
        self.send_and_ask(pool, client, attempt, (factor.name(), medium, CodePurpose::SecondFactor), user)
    }

    /// Sends a code and asks for it. For a user who is not there nothing is sent, which the answer does not show.
    pub(super) fn send_and_ask(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: Attempt,
        (name, medium, purpose): (&'static str, Medium, CodePurpose),
        user: &User,
    ) -> Result<Value, AwsError> {
        // As with Cognito, the code that stands for the password is the longer one.
        let digits = if purpose == CodePurpose::SignIn { 8 } else { 6 };
        let code: String = (0..digits).map(|_| char::from(b'0' + rand::rng().random_range(0..10_u8))).collect();
        let (to, shown) = match medium {
            Medium::Email => (user.email(), masked(user.email().unwrap_or_default())),
            Medium::Sms => (user.phone(), masked_phone(user.phone().unwrap_or_default())),
        };
        if let Some(sub) = &attempt.sub {
            let now_ms = self.now_ms();
            pool.directory.update(sub, |user| user.codes.count_delivery(now_ms))??;
            self.deliver_to(pool, user, to.unwrap_or_default(), purpose, code.clone());
        }
        let parameters = json!({
            "USERNAME": user.username, "USER_ID_FOR_SRP": user.username,
            "CODE_DELIVERY_DELIVERY_MEDIUM": medium.name(), "CODE_DELIVERY_DESTINATION": shown,
        });
        let question = Question::SentCode { name, code, is_first: purpose == CodePurpose::SignIn };
        Ok(self.ask(pool, client, attempt, name, question, &parameters))
    }

    /// `SOFTWARE_TOKEN_MFA`, `SMS_MFA`, `EMAIL_OTP`, `SMS_OTP`.
    pub(super) fn answer_code(&self, pool: &Pool, client: &UserPoolClientSeed, name: &str) -> Result<Value, AwsError> {
        let given = self.parameter("ChallengeResponses", &format!("{name}_CODE"))?;
        let (handle, pending) = self.answered(pool, client, |pending| match &pending.question {
            Question::SoftwareToken => name == Factor::SoftwareToken.name(),
            Question::SentCode { name: asked, .. } => *asked == name,
            _ => false,
        })?;
        let now_ms = self.now_ms();
        let Ok(user) = self.user_of(pool, &pending.attempt) else {
            pool.challenges.answered_wrong(&handle, pending, now_ms);
            return Err(wrong_code());
        };
        let attempt = match self.may_try(pool, &user, &pending) {
            Ok(attempt) => attempt,
            Err(refusal) => {
                pool.challenges.put_back(&handle, pending, now_ms);
                return Err(refusal);
            }
        };
        match self.check_code(pool, &user, &pending.question, given) {
            Ok(()) if matches!(pending.question, Question::SentCode { is_first: true, .. }) => {
                self.first_factor_passed(pool, client, attempt)
            }
            Ok(()) => self.factors_passed(pool, client, attempt),
            Err(refusal) => {
                pool.challenges.answered_wrong(&handle, pending, now_ms);
                Err(refusal)
            }
        }
    }

    pub(super) fn answer_select_mfa(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let answer = self.parameter("ChallengeResponses", "ANSWER")?;
        let (handle, pending) =
            self.answered(pool, client, |pending| matches!(pending.question, Question::SelectMfa(_)))?;
        let chosen = match &pending.question {
            Question::SelectMfa(choices) => choices.iter().copied().find(|factor| factor.name() == answer),
            _ => None,
        };
        let Some(factor) = chosen else {
            pool.challenges.answered_wrong(&handle, pending, self.now_ms());
            return Err(invalid_parameter("The MFA type is not among those that the user can choose."));
        };
        let user = self.user_of(pool, &pending.attempt)?;
        self.ask_factor(pool, client, pending.attempt, &user, factor)
    }

    pub(super) fn answer_mfa_setup(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let (handle, pending) = self.answered(pool, client, |pending| {
            matches!(pending.question, Question::MfaIsSetUp | Question::MfaSetup(_))
        })?;
        if !matches!(pending.question, Question::MfaIsSetUp) {
            pool.challenges.put_back(&handle, pending, self.now_ms());
            return Err(invalid_parameter("User has not verified software token mfa"));
        }
        self.factors_passed(pool, client, pending.attempt)
    }

    /// Whether a code is looked at now, and the attempt with the device that the answer names.
    fn may_try(&self, pool: &Pool, user: &User, pending: &Pending) -> Result<Attempt, AwsError> {
        if user.factors.attempts.is_locked(self.now_ms()) {
            return Err(not_authorized("User temporarily locked. Try again soon."));
        }
        self.with_device(pool, user, "ChallengeResponses", pending.attempt.clone())
    }

    fn check_code(&self, pool: &Pool, user: &User, question: &Question, given: &str) -> Result<(), AwsError> {
        let now_ms = self.now_ms();
        pool.directory.update(&user.sub, |user| {
            let checked = match question {
                Question::SentCode { name, code, .. } => {
                    let is_right = aws_lc_rs::constant_time::verify_slices_are_equal(code.as_bytes(), given.as_bytes());
                    is_right.map_err(|_| wrong_code()).map(|()| {
                        if name.starts_with("SMS") {
                            user.attributes.insert("phone_number_verified".into(), "true".into());
                        }
                    })
                }
                _ => user.factors.check_token(given, now_ms / 1_000),
            };
            if checked.as_ref().is_err_and(|refusal| refusal.code == "CodeMismatchException") {
                user.factors.attempts.record_failure(now_ms);
            }
            checked
        })?
    }
}

/// The code that was sent is another one.
fn wrong_code() -> AwsError {
    AwsError::new("CodeMismatchException", "Invalid code or auth state for the user.")
}
