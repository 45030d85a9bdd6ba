//! What follows a proof: the next question, or tokens. Promises that nobody gets tokens before every proof that the pool
//! wants is in, and that a question is answered by whom it was put to.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::user_pool::challenge::{Attempt, DEFAULT_VALID_S, Gone, Pending, Question};
use crate::local_cloud::user_pool::device::NewDevice;
use crate::local_cloud::user_pool::directory::{Attempts, User, UserStatus, no_user};
use crate::local_cloud::user_pool::hosted;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter, not_authorized};
use crate::local_cloud::user_pool::sign_in::wrong_password;
use crate::local_cloud::user_pool::tokens::SignIn;

impl Request {
    /// Asks something.
    pub(super) fn ask(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: Attempt,
        name: &str,
        question: Question,
        parameters: &Value,
    ) -> Value {
        let valid_s = match client.auth_session_validity_s {
            0 => DEFAULT_VALID_S,
            validity_s => validity_s,
        };
        let session = pool.challenges.open(attempt, question, self.now_ms(), valid_s);
        json!({ "ChallengeName": name, "Session": session, "ChallengeParameters": parameters })
    }

    /// The question of the request's session and its handle, taken if it fits the answer.
    pub(super) fn answered(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        fits: impl FnOnce(&Pending) -> bool,
    ) -> Result<(String, Pending), AwsError> {
        let session = self.text("Session").filter(|session| !session.is_empty());
        let session = session.ok_or_else(|| invalid_parameter("Missing required parameter Session"))?;
        Ok((session.to_owned(), self.answered_at(pool, client, session, fits)?))
    }

    /// The same for a question that another field names. It was put to this client about the user that the answer names.
    pub(super) fn answered_at(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        handle: &str,
        fits: impl FnOnce(&Pending) -> bool,
    ) -> Result<Pending, AwsError> {
        let name = self.parameter("ChallengeResponses", "USERNAME")?;
        let sub = pool.directory.find(name).map(|user| user.sub);
        let is_theirs = |pending: &Pending| {
            let attempt = &pending.attempt;
            // Nobody's sign-in takes any name: it comes to nothing anyway, and must not show why.
            attempt.client_id == client.id && (attempt.sub.is_none() || attempt.sub == sub) && fits(pending)
        };
        pool.challenges.take(handle, self.now_ms(), is_theirs).map_err(Gone::refusal)
    }

    /// The user who signs in.
    pub(super) fn user_of(&self, pool: &Pool, attempt: &Attempt) -> Result<User, AwsError> {
        attempt.sub.as_deref().and_then(|sub| pool.directory.get(sub)).ok_or_else(no_user)
    }

    /// After the password, or what stands for it.
    pub(super) fn first_factor_passed(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: Attempt,
    ) -> Result<Value, AwsError> {
        let user = self.user_of(pool, &attempt)?;
        if !user.enabled {
            return Err(not_authorized("User is disabled."));
        }
        match user.status {
            UserStatus::ExternalProvider => Err(wrong_password()),
            UserStatus::Unconfirmed => Err(AwsError::new("UserNotConfirmedException", "User is not confirmed.")),
            UserStatus::ResetRequired => {
                Err(AwsError::new("PasswordResetRequiredException", "Password reset required for the user"))
            }
            UserStatus::ForceChangePassword => Ok(self.ask_new_password(pool, client, attempt, &user)),
            UserStatus::Confirmed => {
                let device = attempt.device_key.as_deref().and_then(|key| user.device(key));
                let replaces = pool.seed.devices.is_some_and(|devices| devices.replace_second_factor);
                if replaces && device.is_some_and(|device| device.is_remembered) {
                    return Ok(self.ask_device(pool, client, attempt, &user));
                }
                match self.second_factor(pool, client, &attempt, &user)? {
                    Some(question) => Ok(question),
                    None => self.factors_passed(pool, client, attempt),
                }
            }
        }
    }

    /// After the second factor, or where none is wanted.
    pub(super) fn factors_passed(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: Attempt,
    ) -> Result<Value, AwsError> {
        let user = self.user_of(pool, &attempt)?;
        if attempt.device_key.as_deref().is_some_and(|key| user.device(key).is_some()) {
            return Ok(self.ask_device(pool, client, attempt, &user));
        }
        self.complete(pool, client, &user.sub, None)
    }

    /// Every proof is in: tokens. `device_key` where a device has proven itself.
    pub(super) fn complete(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        sub: &str,
        device_key: Option<&str>,
    ) -> Result<Value, AwsError> {
        let now_ms = self.now_ms();
        let forget_failures = |user: &mut User| {
            user.attempts = Attempts::default();
            user.factors.attempts = Attempts::default();
        };
        if self.is_hosted {
            pool.directory.update(sub, forget_failures)?;
            return Ok(hosted::signed_in(sub));
        }
        let is_new = pool.seed.devices.is_some() && device_key.is_none();
        let new_device = is_new.then(|| NewDevice::generate(&self.inner.site.region));
        let (user, (sign_in, refresh_token)) = pool.directory.update(sub, |user| {
            forget_failures(user);
            let known = user.devices.iter_mut().filter(|device| Some(device.key.as_str()) == device_key);
            known.for_each(|device| device.authenticate_ms = now_ms);
            let key = new_device.as_ref().map(|new| new.key.as_str()).or(device_key).map(str::to_owned);
            let begun = SignIn::begin(user, client, now_ms / 1_000, key, new_device.clone());
            (user.clone(), begun)
        })?;
        let mut result = self.authentication_result(pool, client, &user, &sign_in, Some(refresh_token));
        if let Some(new_device) = &new_device {
            result["NewDeviceMetadata"] = new_device.metadata();
        }
        Ok(json!({ "AuthenticationResult": result, "ChallengeParameters": {} }))
    }
}
