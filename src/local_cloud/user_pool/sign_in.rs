//! Signing in: by password, by SRP, by a refresh token; and the new password for a temporary one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::site::uuid_of;
use crate::local_cloud::user_pool::challenge::{Attempt, Question};
use crate::local_cloud::user_pool::device_sign_in::SrpProof;
use crate::local_cloud::user_pool::directory::{User, UserStatus, no_user};
use crate::local_cloud::user_pool::password;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter, no_client, not_authorized};
use crate::local_cloud::user_pool::sign_up::attribute;
use crate::local_cloud::user_pool::srp::{Handshake, Verifier};

const ATTRIBUTE_PREFIX: &str = "userAttributes.";
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
                self.srp_in(pool, client, "AuthParameters")
            }
            "REFRESH_TOKEN_AUTH" | "REFRESH_TOKEN" => {
                allow(client, "ALLOW_REFRESH_TOKEN_AUTH", "Auth flow not enabled for this client")?;
                self.refresh_token_auth(pool, client)
            }
            "USER_AUTH" => {
                allow(client, "ALLOW_USER_AUTH", "USER_AUTH is not enabled for the client.")?;
                self.user_auth(pool, client)
            }
            "CUSTOM_AUTH" | "ADMIN_USER_PASSWORD_AUTH" | "ADMIN_NO_SRP_AUTH" => {
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

    /// By password, from `AuthParameters`.
    pub(super) fn password_auth(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        self.password_in(pool, client, "AuthParameters")
    }

    /// By the password in `map`.
    pub(super) fn password_in(&self, pool: &Pool, client: &UserPoolClientSeed, map: &str) -> Result<Value, AwsError> {
        let name = self.parameter(map, "USERNAME")?;
        let password = self.parameter(map, "PASSWORD")?;
        let user = pool.directory.find(name).filter(|user| user.verifier.is_some());
        let Some(user) = user else {
            // As much work as for a user: the time tells nothing either.
            Verifier::of(pool.srp_name(), name, password);
            return Err(unknown_user(client));
        };
        self.check_lock(&user)?;
        let verifier = user.verifier.clone().expect("users without one were filtered out");
        if !verifier.matches(pool.srp_name(), &user.username, password) {
            return Err(self.wrong(pool, &user)?);
        }
        let attempt = Attempt { client_id: client.id.clone(), sub: Some(user.sub.clone()), device_key: None };
        let attempt = self.with_device(pool, &user, map, attempt)?;
        self.first_factor_passed(pool, client, attempt)
    }

    /// By SRP, whose beginning is in `map`.
    pub(super) fn srp_in(&self, pool: &Pool, client: &UserPoolClientSeed, map: &str) -> Result<Value, AwsError> {
        let name = self.parameter(map, "USERNAME")?;
        let client_public = self.parameter(map, "SRP_A")?;
        let user = pool.directory.find(name).filter(|user| user.verifier.is_some());
        if user.is_none() && !client.prevent_user_existence_errors {
            return Err(no_user());
        }
        let (sub, username, verifier) = match user {
            Some(User { sub, username, verifier: Some(verifier), .. }) => (Some(sub), username, verifier),
            _ => {
                let (username, verifier) = pool.decoy(name);
                (None, username, verifier)
            }
        };
        let handshake = Handshake::begin(client_public, verifier).ok_or_else(bad_srp_a)?;
        let (salt, server_public) = (handshake.salt().to_owned(), handshake.public());
        let question = Question::PasswordVerifier { username: username.clone(), handshake: Box::new(handshake) };
        let attempt = Attempt { client_id: client.id.clone(), sub, device_key: None };
        let mut asked = self.ask(pool, client, attempt, "PASSWORD_VERIFIER", question, &Value::Null);
        // The block names the question, so there is no session beside it.
        let secret_block = asked["Session"].take();
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
            "SELECT_CHALLENGE" => self.answer_select_challenge(pool, client),
            "SELECT_MFA_TYPE" => self.answer_select_mfa(pool, client),
            "MFA_SETUP" => self.answer_mfa_setup(pool, client),
            "DEVICE_SRP_AUTH" => self.answer_device_srp(pool, client),
            "DEVICE_PASSWORD_VERIFIER" => self.answer_device_password(pool, client),
            code @ ("SOFTWARE_TOKEN_MFA" | "SMS_MFA" | "EMAIL_OTP" | "SMS_OTP") => self.answer_code(pool, client, code),
            other => {
                let shown: String = other.chars().take(40).collect();
                Err(invalid_parameter(format!("The challenge {shown} was not asked.")))
            }
        }
    }

    fn answer_password_verifier(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let proof = SrpProof::read(self)?;
        let pending = self.answered_at(pool, client, proof.secret_block, |pending| {
            matches!(pending.question, Question::PasswordVerifier { .. })
        })?;
        let Some(user) = pending.attempt.sub.as_ref().and_then(|sub| pool.directory.get(sub)) else {
            return Err(unknown_user(client));
        };
        self.check_lock(&user)?;
        let Question::PasswordVerifier { username, handshake } = &pending.question else {
            return Err(wrong_password());
        };
        if !proof.holds(handshake, pool.srp_name(), username) {
            return Err(self.wrong(pool, &user)?);
        }
        match self.with_device(pool, &user, "ChallengeResponses", pending.attempt.clone()) {
            Ok(attempt) => self.first_factor_passed(pool, client, attempt),
            Err(no_device) => {
                // Clients then forget the device and send the same answer again without it.
                pool.challenges.put_back(proof.secret_block, pending, self.now_ms());
                Err(no_device)
            }
        }
    }

    /// Asks for a password that only the user knows, and for what the pool has to know of them.
    pub(super) fn ask_new_password(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: Attempt,
        user: &User,
    ) -> Value {
        let missing: Vec<_> = missing_attributes(pool, user).map(|name| format!("{ATTRIBUTE_PREFIX}{name}")).collect();
        let parameters = json!({
            "USER_ID_FOR_SRP": user.username,
            "requiredAttributes": json!(missing).to_string(),
            "userAttributes": json!(user.attributes).to_string(),
        });
        self.ask(pool, client, attempt, "NEW_PASSWORD_REQUIRED", Question::NewPassword, &parameters)
    }

    fn answer_new_password(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let new_password = self.parameter("ChallengeResponses", "NEW_PASSWORD")?;
        password::check(&pool.seed.password_policy, new_password)?;
        let (handle, pending) =
            self.answered(pool, client, |pending| matches!(pending.question, Question::NewPassword))?;
        let user = self.user_of(pool, &pending.attempt)?;
        let told = match self.told_attributes(pool, &user) {
            Ok(told) => told,
            Err(refusal) => {
                pool.challenges.put_back(&handle, pending, self.now_ms());
                return Err(refusal);
            }
        };
        let verifier = Verifier::of(pool.srp_name(), &user.username, new_password);
        let now_ms = self.now_ms();
        pool.directory.update(&user.sub, |user| {
            user.verifier = Some(verifier);
            user.attributes.extend(told);
            user.status = UserStatus::Confirmed;
            user.modify_ms = now_ms;
        })?;
        self.first_factor_passed(pool, client, pending.attempt)
    }

    /// The attributes that come with a new password: each that is missing, and none that has a value.
    fn told_attributes(&self, pool: &Pool, user: &User) -> Result<BTreeMap<String, String>, AwsError> {
        let mut told = BTreeMap::new();
        for (field, value) in self.field("ChallengeResponses").as_object().into_iter().flatten() {
            let Some(name) = field.strip_prefix(ATTRIBUTE_PREFIX) else { continue };
            if name.ends_with("_verified") {
                return Err(not_authorized("A client attempted to write unauthorized attribute"));
            }
            if user.attributes.contains_key(name) {
                return Err(not_authorized(format!("Cannot modify an already provided {name}")));
            }
            let (name, value) = attribute(&json!({ "Name": name, "Value": value })).map_err(invalid_parameter)?;
            told.insert(name, value);
        }
        match missing_attributes(pool, user).find(|name| !told.contains_key(*name)) {
            Some(name) => Err(invalid_parameter(format!("Invalid attributes given, {name} is missing"))),
            None => Ok(told),
        }
    }

    /// Counts a wrong password and gives its refusal.
    fn wrong(&self, pool: &Pool, user: &User) -> Result<AwsError, AwsError> {
        let now_ms = self.now_ms();
        pool.directory.update(&user.sub, |user| user.attempts.record_failure(now_ms))?;
        Ok(wrong_password())
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

/// The required attributes that the user has no value of.
fn missing_attributes<'p>(pool: &'p Pool, user: &'p User) -> impl Iterator<Item = &'p str> {
    pool.seed.required_attributes.iter().map(String::as_str).filter(|name| !user.attributes.contains_key(*name))
}

impl Pool {
    /// What a sign-in of nobody is shown: the same for a name at every try, and of the form that a user's has.
    pub fn decoy(&self, name: &str) -> (String, Verifier) {
        let derived = self.key.derive(&format!("nobody called {}", name.to_lowercase()));
        let (id, salt) = derived.split_at(16);
        let half = |bytes: &[u8]| bytes.try_into().expect("32 bytes have two halves of 16");
        let username = if self.seed.email_as_username { uuid_of(half(id)) } else { name.to_owned() };
        (username, Verifier::decoy(half(salt)))
    }
}

/// The client's public value would fix the key, or is none.
pub fn bad_srp_a() -> AwsError {
    invalid_parameter("SRP_A must be a hexadecimal number that the prime does not divide.")
}

fn unknown_user(client: &UserPoolClientSeed) -> AwsError {
    if client.prevent_user_existence_errors { wrong_password() } else { no_user() }
}

/// The one refusal for a wrong name and for a wrong password.
pub fn wrong_password() -> AwsError {
    not_authorized("Incorrect username or password.")
}

/// `Tue Nov 3 09:05:01 UTC 2026`.
pub fn is_srp_timestamp(text: &str) -> bool {
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
