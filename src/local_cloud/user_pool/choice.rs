//! `USER_AUTH`: the client asks which ways to sign in a user has, and chooses one. A name that nobody has gets what a
//! user without a second factor would get. Source: "Choice-based authentication" in Cognito's developer guide.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::{MfaMode, UserPoolClientSeed};
use crate::local_cloud::user_pool::challenge::{Attempt, Question};
use crate::local_cloud::user_pool::codes::CodePurpose;
use crate::local_cloud::user_pool::directory::{User, UserStatus, no_user};
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter};
use crate::local_cloud::user_pool::second_factor::Medium;

const PASSWORD: &str = "PASSWORD";
const PASSWORD_SRP: &str = "PASSWORD_SRP";
const EMAIL_OTP: &str = "EMAIL_OTP";
const SMS_OTP: &str = "SMS_OTP";

impl Pool {
    /// What of `PASSWORD`, `EMAIL_OTP` and `SMS_OTP` this user can sign in with. Codes alone are not for who has, or has
    /// to have, a second factor.
    pub fn first_factors_of(&self, user: &User) -> Vec<&'static str> {
        let mfa = self.mfa();
        let is_allowed = |name: &str| match self.seed.first_factors.as_slice() {
            [] => name == PASSWORD,
            factors => factors.iter().any(|factor| factor == name),
        };
        let by_codes = mfa.mode != MfaMode::On && user.usable_factors(mfa).0.is_empty();
        let has_number = user.phone().is_some() && user.phone_is_verified();
        [
            (PASSWORD, user.verifier.is_some()),
            (EMAIL_OTP, by_codes && user.email().is_some() && user.email_is_verified()),
            (SMS_OTP, by_codes && has_number),
        ]
        .into_iter()
        .filter(|(name, has)| *has && is_allowed(name))
        .map(|(name, _)| name)
        .collect()
    }

    /// The same as challenges.
    fn choices_of(&self, user: &User) -> Vec<&'static str> {
        let mut choices = self.first_factors_of(user);
        if let Some(at) = choices.iter().position(|choice| *choice == PASSWORD) {
            choices.insert(at + 1, PASSWORD_SRP);
        }
        choices
    }
}

impl Request {
    pub(super) fn user_auth(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let map = "AuthParameters";
        let name = self.parameter(map, "USERNAME")?;
        let (user, sub) = self.user_or_decoy(pool, client, name)?;
        let choices = pool.choices_of(&user);
        let preferred = self.parameter(map, "PREFERRED_CHALLENGE").ok();
        let preferred = preferred.and_then(|wanted| choices.iter().copied().find(|choice| *choice == wanted));
        let attempt = Attempt { client_id: client.id.clone(), sub, device_key: None };
        match preferred {
            Some(PASSWORD) if self.parameter(map, "PASSWORD").is_err() => {}
            Some(PASSWORD_SRP) if self.parameter(map, "SRP_A").is_err() => {}
            Some(choice) => return self.chosen(pool, client, attempt, &user, (choice, map)),
            None => {}
        }
        let parameters = json!({ "USERNAME": user.username });
        let mut asked = self.ask(pool, client, attempt, "SELECT_CHALLENGE", Question::SelectChallenge, &parameters);
        asked["AvailableChallenges"] = json!(choices);
        Ok(asked)
    }

    pub(super) fn answer_select_challenge(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let map = "ChallengeResponses";
        let answer = self.parameter(map, "ANSWER")?;
        let name = self.parameter(map, "USERNAME")?;
        let (handle, pending) =
            self.answered(pool, client, |pending| matches!(pending.question, Question::SelectChallenge))?;
        let (user, _) = self.user_or_decoy(pool, client, name)?;
        let choice = pool.choices_of(&user).into_iter().find(|choice| *choice == answer);
        let needs = match choice {
            Some(PASSWORD) => self.parameter(map, "PASSWORD").map(drop),
            Some(PASSWORD_SRP) => self.parameter(map, "SRP_A").map(drop),
            Some(_) => Ok(()),
            None => Err(invalid_parameter("The challenge is not among those that are available to the user.")),
        };
        let choice = match needs.map(|()| choice.unwrap_or_default()) {
            Ok(choice) => choice,
            Err(refusal) => {
                pool.challenges.put_back(&handle, pending, self.now_ms());
                return Err(refusal);
            }
        };
        self.chosen(pool, client, pending.attempt, &user, (choice, map))
    }

    fn chosen(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        attempt: Attempt,
        user: &User,
        (choice, map): (&'static str, &str),
    ) -> Result<Value, AwsError> {
        let (name, medium) = match choice {
            PASSWORD => return self.password_in(pool, client, map),
            PASSWORD_SRP => {
                let mut asked = self.srp_in(pool, client, map)?;
                asked["Session"] = asked["ChallengeParameters"]["SECRET_BLOCK"].clone();
                return Ok(asked);
            }
            SMS_OTP => (SMS_OTP, Medium::Sms),
            _ => (EMAIL_OTP, Medium::Email),
        };
        self.send_and_ask(pool, client, attempt, (name, medium, CodePurpose::SignIn), user)
    }

    /// The user of a name with their `sub`; somebody who looks like a user where a client may not see the difference.
    fn user_or_decoy(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        name: &str,
    ) -> Result<(User, Option<String>), AwsError> {
        // Who comes by another provider has no other way in.
        if let Some(user) = pool.directory.find(name).filter(|user| user.status != UserStatus::ExternalProvider) {
            let sub = user.sub.clone();
            return Ok((user, Some(sub)));
        }
        if !client.prevent_user_existence_errors {
            return Err(no_user());
        }
        let (username, verifier) = pool.decoy(name);
        let email = [("email", name), ("email_verified", "true")];
        let attributes = email.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut user = User::new(username.clone(), username, attributes, self.now_ms());
        user.verifier = Some(verifier);
        user.status = UserStatus::Confirmed;
        Ok((user, None))
    }
}
