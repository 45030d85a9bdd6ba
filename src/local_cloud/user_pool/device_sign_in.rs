//! The proof of being a remembered device: SRP over the secret that the device made for itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::user_pool::challenge::{Attempt, Question};
use crate::local_cloud::user_pool::device::no_device;
use crate::local_cloud::user_pool::directory::User;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter};
use crate::local_cloud::user_pool::sign_in::{bad_srp_a, is_srp_timestamp, wrong_password};
use crate::local_cloud::user_pool::srp::Handshake;

/// What a client sends to prove a password by SRP.
pub struct SrpProof<'r> {
    pub secret_block: &'r str,
    pub timestamp: &'r str,
    signature: Vec<u8>,
}

impl<'r> SrpProof<'r> {
    /// Reads it from the answer.
    pub fn read(request: &'r Request) -> Result<Self, AwsError> {
        let answer = |name| request.parameter("ChallengeResponses", name);
        let secret_block = answer("PASSWORD_CLAIM_SECRET_BLOCK")?;
        let timestamp = answer("TIMESTAMP")?;
        let signature = STANDARD.decode(answer("PASSWORD_CLAIM_SIGNATURE")?).unwrap_or_default();
        if !is_srp_timestamp(timestamp) {
            return Err(invalid_parameter("TIMESTAMP format should be EEE MMM d HH:mm:ss z yyyy in english."));
        }
        Ok(Self { secret_block, timestamp, signature })
    }

    /// Whether it is right for `name` in `realm`: the user in the pool, or the device in its group.
    pub fn holds(&self, handshake: &Handshake, realm: &str, name: &str) -> bool {
        let block = STANDARD.decode(self.secret_block).unwrap_or_default();
        handshake.proves(realm, name, &block, self.timestamp, &self.signature)
    }
}

impl Request {
    /// The attempt with the device that this answer names, if it names one and the pool remembers devices.
    pub(super) fn with_device(
        &self,
        pool: &Pool,
        user: &User,
        map: &str,
        mut attempt: Attempt,
    ) -> Result<Attempt, AwsError> {
        let named = self.field(map)["DEVICE_KEY"].as_str().filter(|key| !key.is_empty());
        let named = named.filter(|_| pool.seed.devices.is_some());
        if let Some(key) = named {
            if user.device(key).is_none() {
                return Err(no_device());
            }
            attempt.device_key = Some(key.to_owned());
        }
        Ok(attempt)
    }

    /// Asks for the device's own proof.
    pub(super) fn ask_device(&self, pool: &Pool, client: &UserPoolClientSeed, attempt: Attempt, user: &User) -> Value {
        let parameters = json!({ "USERNAME": user.username, "DEVICE_KEY": attempt.device_key });
        self.ask(pool, client, attempt, "DEVICE_SRP_AUTH", Question::DeviceSrp, &parameters)
    }

    pub(super) fn answer_device_srp(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let client_public = self.parameter("ChallengeResponses", "SRP_A")?;
        let key = self.parameter("ChallengeResponses", "DEVICE_KEY")?;
        let (_, pending) = self.answered(pool, client, |pending| {
            matches!(pending.question, Question::DeviceSrp) && pending.attempt.device_key.as_deref() == Some(key)
        })?;
        let user = self.user_of(pool, &pending.attempt)?;
        let device = user.device(key).ok_or_else(no_device)?;
        let handshake = Handshake::begin(client_public, device.verifier.clone()).ok_or_else(bad_srp_a)?;
        let (salt, server_public) = (handshake.salt().to_owned(), handshake.public());
        let question = Question::DevicePassword(Box::new(handshake));
        let mut asked = self.ask(pool, client, pending.attempt, "DEVICE_PASSWORD_VERIFIER", question, &Value::Null);
        asked["ChallengeParameters"] = json!({
            "SALT": salt, "SRP_B": server_public, "SECRET_BLOCK": asked["Session"],
            "USERNAME": user.username, "DEVICE_KEY": key,
        });
        Ok(asked)
    }

    pub(super) fn answer_device_password(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        let key = self.parameter("ChallengeResponses", "DEVICE_KEY")?;
        let proof = SrpProof::read(self)?;
        let pending = self.answered_at(pool, client, proof.secret_block, |pending| {
            matches!(pending.question, Question::DevicePassword(_))
                && pending.attempt.device_key.as_deref() == Some(key)
        })?;
        let user = self.user_of(pool, &pending.attempt)?;
        let device = user.device(key).ok_or_else(no_device)?;
        let Question::DevicePassword(handshake) = &pending.question else { return Err(wrong_password()) };
        if !proof.holds(handshake, &device.group_key, key) {
            let now_ms = self.now_ms();
            pool.directory.update(&user.sub, |user| user.attempts.record_failure(now_ms))?;
            return Err(wrong_password());
        }
        self.complete(pool, client, &user.sub, Some(key))
    }
}
