//! Signing in: by password, by SRP, by a refresh token, and the questions in between.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::site::uuid_of;
use crate::local_cloud::user_pool::challenge::Pending;
use crate::local_cloud::user_pool::directory::{Attempts, User, UserStatus, no_user};
use crate::local_cloud::user_pool::hosted;
use crate::local_cloud::user_pool::password;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter, no_client, not_authorized};
use crate::local_cloud::user_pool::srp::{Handshake, Verifier};
use crate::local_cloud::user_pool::tokens::SignIn;

const DEFAULT_FLOWS: &[&str] = &["ALLOW_CUSTOM_AUTH", "ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"];

impl Request {
    pub(super) fn initiate_auth(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        match self.required("AuthFlow", "authFlow")? {
            "USER_PASSWORD_AUTH" => {
                allow(client, "ALLOW_USER_PASSWORD_AUTH", "USER_PASSWORD_AUTH flow not enabled for this client")?;
                self.password_auth(pool, client)
            }
            other => self.shared_flow(pool, client, other),
        }
    }

    pub(super) fn admin_initiate_auth(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminInitiateAuth")?;
        let client = self.client_of(pool)?;
        match self.required("AuthFlow", "authFlow")? {
            "ADMIN_USER_PASSWORD_AUTH" | "ADMIN_NO_SRP_AUTH" => {
                let refusal = "Auth flow not enabled for this client";
                allow(client, "ALLOW_ADMIN_USER_PASSWORD_AUTH", refusal)?;
                self.password_auth(pool, client)
            }
            "USER_PASSWORD_AUTH" => Err(invalid_parameter("USER_PASSWORD_AUTH is not an administrator's flow.")),
            other => self.shared_flow(pool, client, other),
        }
    }

    pub(super) fn respond_to_auth_challenge(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        self.respond(pool, client)
    }

    pub(super) fn admin_respond_to_auth_challenge(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminRespondToAuthChallenge")?;
        self.respond(pool, self.client_of(pool)?)
    }

    fn shared_flow(&self, pool: &Pool, client: &UserPoolClientSeed, flow: &str) -> Result<Value, AwsError> {
        match flow {
            "USER_SRP_AUTH" => {
                allow(client, "ALLOW_USER_SRP_AUTH", "USER_SRP_AUTH is not enabled for the client.")?;
                self.begin_srp(pool, client)
            }
            "REFRESH_TOKEN_AUTH" | "REFRESH_TOKEN" => {
                allow(client, "ALLOW_REFRESH_TOKEN_AUTH", "Auth flow not enabled for this client")?;
                self.refresh_token_auth(pool, client)
            }
            "CUSTOM_AUTH" | "USER_AUTH" | "ADMIN_USER_PASSWORD_AUTH" | "ADMIN_NO_SRP_AUTH" => {
                Err(invalid_parameter(format!("{flow} is not enabled for the client.")))
            }
            _ => Err(invalid_parameter(format!(
                "1 validation error detected: Value '{}' at 'authFlow' failed to satisfy constraint: Member must \
                 satisfy enum value set: [USER_SRP_AUTH, REFRESH_TOKEN_AUTH, REFRESH_TOKEN, CUSTOM_AUTH, \
                 ADMIN_NO_SRP_AUTH, USER_PASSWORD_AUTH, ADMIN_USER_PASSWORD_AUTH, USER_AUTH]",
                flow.chars().take(40).collect::<String>()
            ))),
        }
    }

    pub(super) fn password_auth(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let name = self.parameter("AuthParameters", "USERNAME")?;
        let password = self.parameter("AuthParameters", "PASSWORD")?;
        let user = pool.directory.find(name).filter(|user| user.verifier.is_some());
        let Some(user) = user else {
            // As much work as for a user: the time tells nothing either.
            Verifier::of(pool.srp_name(), name, password);
            return Err(unknown_user(client));
        };
        self.check_lock(&user)?;
        let verifier = user.verifier.clone().expect("users without one were filtered out");
        let is_right = verifier.matches(pool.srp_name(), &user.username, password);
        self.password_checked(pool, client, &user.sub, is_right)
    }

    fn begin_srp(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let name = self.parameter("AuthParameters", "USERNAME")?;
        let client_public = self.parameter("AuthParameters", "SRP_A")?;
        let user = pool.directory.find(name).filter(|user| user.verifier.is_some());
        if user.is_none() && !client.prevent_user_existence_errors {
            return Err(no_user());
        }
        let (sub, username, verifier) = match user {
            Some(User { sub, username, verifier: Some(verifier), .. }) => (Some(sub), username, verifier),
            _ => {
                let (username, verifier) = decoy(pool, name);
                (None, username, verifier)
            }
        };
        let handshake = Handshake::begin(client_public, verifier)
            .ok_or_else(|| invalid_parameter("SRP_A must be a hexadecimal number that the prime does not divide."))?;
        let (salt, server_public) = (handshake.salt().to_owned(), handshake.public());
        let pending = Pending::PasswordVerifier {
            client_id: client.id.clone(),
            sub,
            username: username.clone(),
            handshake: Box::new(handshake),
        };
        let secret_block = pool.challenges.open(pending, self.now_ms());
        Ok(json!({
            "ChallengeName": "PASSWORD_VERIFIER",
            "ChallengeParameters": {
                "SALT": salt, "SRP_B": server_public, "SECRET_BLOCK": secret_block,
                "USERNAME": username, "USER_ID_FOR_SRP": username,
            },
        }))
    }

    pub(super) fn respond(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        match self.required("ChallengeName", "challengeName")? {
            "PASSWORD_VERIFIER" => self.answer_password_verifier(pool, client),
            "NEW_PASSWORD_REQUIRED" => self.answer_new_password(pool, client),
            other => {
                let shown: String = other.chars().take(40).collect();
                Err(invalid_parameter(format!("The challenge {shown} was not asked.")))
            }
        }
    }

    fn answer_password_verifier(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let answer = |name| self.parameter("ChallengeResponses", name);
        answer("USERNAME")?;
        let secret_block = answer("PASSWORD_CLAIM_SECRET_BLOCK")?;
        let timestamp = answer("TIMESTAMP")?;
        let signature = STANDARD.decode(answer("PASSWORD_CLAIM_SIGNATURE")?).unwrap_or_default();
        if !is_srp_timestamp(timestamp) {
            return Err(invalid_parameter("TIMESTAMP format should be EEE MMM d HH:mm:ss z yyyy in english."));
        }
        let pending = pool.challenges.take(secret_block, self.now_ms());
        let Some(Pending::PasswordVerifier { client_id, sub, username, handshake }) = pending else {
            return Err(not_authorized("Invalid session for the user."));
        };
        if client_id != client.id {
            return Err(not_authorized("Invalid session for the user."));
        }
        let Some(user) = sub.and_then(|sub| pool.directory.get(&sub)) else { return Err(unknown_user(client)) };
        self.check_lock(&user)?;
        let block = STANDARD.decode(secret_block).unwrap_or_default();
        let is_right = handshake.proves(pool.srp_name(), &username, &block, timestamp, &signature);
        self.password_checked(pool, client, &user.sub, is_right)
    }

    fn answer_new_password(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let new_password = self.parameter("ChallengeResponses", "NEW_PASSWORD")?;
        let session = self.required("Session", "session")?;
        password::check(&pool.seed.password_policy, new_password)?;
        let Some(Pending::NewPassword { client_id, sub }) = pool.challenges.take(session, self.now_ms()) else {
            return Err(not_authorized("Invalid session for the user."));
        };
        if client_id != client.id {
            return Err(not_authorized("Invalid session for the user."));
        }
        let user = pool.directory.get(&sub).ok_or_else(no_user)?;
        let verifier = Verifier::of(pool.srp_name(), &user.username, new_password);
        let now_ms = self.now_ms();
        pool.directory.update(&sub, |user| {
            user.verifier = Some(verifier);
            user.status = UserStatus::Confirmed;
            user.modify_ms = now_ms;
        })?;
        self.password_checked(pool, client, &sub, true)
    }

    /// What follows a password that was right or wrong: a count, a refusal, a further question, or tokens.
    fn password_checked(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        sub: &str,
        is_right: bool,
    ) -> Result<Value, AwsError> {
        let now_ms = self.now_ms();
        if !is_right {
            pool.directory.update(sub, |user| user.attempts.record_failure(now_ms))?;
            return Err(wrong_password());
        }
        let user = pool.directory.get(sub).ok_or_else(no_user)?;
        if !user.enabled {
            return Err(not_authorized("User is disabled."));
        }
        match user.status {
            UserStatus::ExternalProvider => Err(wrong_password()),
            UserStatus::Unconfirmed => Err(AwsError::new("UserNotConfirmedException", "User is not confirmed.")),
            UserStatus::ForceChangePassword => {
                let pending = Pending::NewPassword { client_id: client.id.clone(), sub: sub.to_owned() };
                let session = pool.challenges.open(pending, now_ms);
                let attributes = serde_json::to_string(&user.attributes).unwrap_or_default();
                Ok(json!({
                    "ChallengeName": "NEW_PASSWORD_REQUIRED",
                    "Session": session,
                    "ChallengeParameters": {
                        "USER_ID_FOR_SRP": user.username, "requiredAttributes": "[]", "userAttributes": attributes,
                    },
                }))
            }
            UserStatus::Confirmed if self.is_hosted => {
                pool.directory.update(sub, |user| user.attempts = Attempts::default())?;
                Ok(hosted::signed_in(sub))
            }
            UserStatus::Confirmed => {
                let (user, (sign_in, refresh_token)) = pool.directory.update(sub, |user| {
                    user.attempts = Attempts::default();
                    let begun = SignIn::begin(user, client, now_ms / 1_000);
                    (user.clone(), begun)
                })?;
                let result = self.authentication_result(pool, client, &user, &sign_in, Some(refresh_token));
                Ok(json!({ "AuthenticationResult": result, "ChallengeParameters": {} }))
            }
        }
    }

    fn check_lock(&self, user: &User) -> Result<(), AwsError> {
        if user.attempts.is_locked(self.now_ms()) {
            return Err(not_authorized("Password attempts exceeded"));
        }
        Ok(())
    }

    fn client_of<'p>(&self, pool: &'p Pool) -> Result<&'p UserPoolClientSeed, AwsError> {
        let id = self.required("ClientId", "clientId")?;
        pool.client(id).ok_or_else(|| no_client(id))
    }
}

fn allow(client: &UserPoolClientSeed, flow: &str, refusal: &str) -> Result<(), AwsError> {
    let is_allowed = if client.explicit_auth_flows.is_empty() {
        DEFAULT_FLOWS.contains(&flow)
    } else {
        client.explicit_auth_flows.iter().any(|allowed| allowed == flow)
    };
    if is_allowed { Ok(()) } else { Err(invalid_parameter(refusal)) }
}

/// What a sign-in of nobody is shown: the same for a name at every try, and of the form that a user's has.
fn decoy(pool: &Pool, name: &str) -> (String, Verifier) {
    let derived = pool.key.derive(&format!("nobody called {}", name.to_lowercase()));
    let (id, salt) = derived.split_at(16);
    let half = |bytes: &[u8]| bytes.try_into().expect("32 bytes have two halves of 16");
    let username = if pool.seed.email_as_username { uuid_of(half(id)) } else { name.to_owned() };
    (username, Verifier::decoy(half(salt)))
}

fn unknown_user(client: &UserPoolClientSeed) -> AwsError {
    if client.prevent_user_existence_errors { wrong_password() } else { no_user() }
}

/// The one refusal for a wrong name and for a wrong password.
pub fn wrong_password() -> AwsError {
    not_authorized("Incorrect username or password.")
}

/// `Tue Nov 3 09:05:01 UTC 2026`.
fn is_srp_timestamp(text: &str) -> bool {
    const DAYS: &str = "Mon Tue Wed Thu Fri Sat Sun";
    const MONTHS: &str = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec";
    let is_digits =
        |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split(' ').collect();
    let [day, month, date, time, "UTC", year] = parts[..] else { return false };
    DAYS.split(' ').any(|known| known == day)
        && MONTHS.split(' ').any(|known| known == month)
        && is_digits(date, 2)
        && time.split(':').count() == 3
        && time.split(':').all(|part| part.len() == 2 && is_digits(part, 2))
        && year.len() == 4
        && is_digits(year, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_cognitos_format() {
        for text in ["Tue Nov 3 09:05:01 UTC 2026", "Sun Dec 31 23:59:59 UTC 2026"] {
            assert!(is_srp_timestamp(text), "{text}");
        }
        for text in [
            "",
            "2026-11-03T09:05:01Z",
            "Tue Nov 3 9:05:01 UTC 2026",
            "Tue Nov  3 09:05:01 UTC 2026",
            "Tue Nov 3 09:05:01 CET 2026",
            "Di Nov 3 09:05:01 UTC 2026",
        ] {
            assert!(!is_srp_timestamp(text), "{text}");
        }
    }
}
