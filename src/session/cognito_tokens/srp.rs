//! Signing in by name and password, and the proofs on the way: the password's, and a remembered device's. The arithmetic
//! runs on the blocking pool.

use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use aws_sdk_cognitoidentityprovider::primitives::{DateTime, DateTimeFormat};
use aws_sdk_cognitoidentityprovider::types::{AuthFlowType, ChallengeNameType};
use secrecy::{ExposeSecret as _, SecretString};

use super::CognitoTokens;
use super::challenge::{Attempt, Reply};
use crate::clock::unix_ms;
use crate::credential::aws::{self, Refused};
use crate::session::codes::{PoolCall, token_error};
use crate::session::{RememberedDevice, SignInFlow, SignInStep, TokenError};
use crate::srp::{Exchange, Prover, Question, SrpError};
use crate::telemetry::metrics::UpstreamOperation;

/// A password and the exchange that proves it.
pub(super) struct Proof {
    pub password: SecretString,
    pub exchange: Exchange,
}

impl CognitoTokens {
    /// By the configured flow, with or without the remembered device.
    pub(super) async fn sign_in_once(
        &self,
        username: &str,
        password: &SecretString,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        let has_password = !password.expose_secret().is_empty();
        if !has_password && self.flow != SignInFlow::Choice {
            return Err(TokenError::PasswordMissing);
        }
        let mut attempt = Attempt::new(username, device);
        let mut parameters = vec![("USERNAME", username.to_owned())];
        if let Some(device) = device {
            parameters.push(("DEVICE_KEY", device.key.clone()));
        }
        let flow = match self.flow {
            SignInFlow::Password => {
                parameters.push(("PASSWORD", password.expose_secret().to_owned()));
                AuthFlowType::UserPasswordAuth
            }
            SignInFlow::Srp => AuthFlowType::UserSrpAuth,
            SignInFlow::Choice => {
                if has_password {
                    parameters.push(("PREFERRED_CHALLENGE", "PASSWORD_SRP".to_owned()));
                }
                AuthFlowType::UserAuth
            }
        };
        if has_password && self.flow != SignInFlow::Password {
            let exchange = begin().await?;
            parameters.push(("SRP_A", exchange.public()));
            attempt.proof = Some(Proof { password: password.clone(), exchange });
        }
        let reply = self.initiate(flow, parameters).await?;
        let asks = reply.challenge.as_ref().map(ChallengeNameType::as_str);
        // A pool that skips the proof has not seen that the password is right, and has shown nothing of itself either:
        // nobody is signed in by that, and nothing more is told to it.
        let is_expected = match asks {
            Some("PASSWORD_VERIFIER") => true,
            Some("SELECT_CHALLENGE") => self.flow == SignInFlow::Choice,
            _ => attempt.proof.is_none(),
        };
        if !is_expected {
            return Err(TokenError::Configuration(format!(
                "the user pool did not ask for the proof of the password ({} instead): endpoint_url is not a Cognito \
                 user pool's, or its app client has other flows than SRP",
                asks.unwrap_or("tokens")
            )));
        }
        self.proceed(attempt, reply).await
    }

    async fn initiate(&self, flow: AuthFlowType, parameters: Vec<(&str, String)>) -> Result<Reply, TokenError> {
        let mut request = self.client.initiate_auth().client_id(&self.client_id).auth_flow(flow.clone());
        for (name, value) in parameters {
            request = request.auth_parameters(name, value);
        }
        let reply = match flow {
            AuthFlowType::UserSrpAuth => call!(self, PasswordAuth, "InitiateAuth(USER_SRP_AUTH)", request),
            AuthFlowType::UserAuth => call!(self, PasswordAuth, "InitiateAuth(USER_AUTH)", request),
            _ => call!(self, PasswordAuth, "InitiateAuth(USER_PASSWORD_AUTH)", request),
        };
        reply.map(Reply::from).map_err(|refused| self.with_advice(token_error(PoolCall::SignIn, refused)))
    }

    /// A client that does not allow the configured flow is mended here or there, and nowhere by itself.
    fn with_advice(&self, error: TokenError) -> TokenError {
        let (allows, other) = match self.flow {
            SignInFlow::Srp => ("ALLOW_USER_SRP_AUTH", "\"password\" (which sends the password to the pool)"),
            SignInFlow::Password => ("ALLOW_USER_PASSWORD_AUTH", "\"srp\""),
            SignInFlow::Choice => ("ALLOW_USER_AUTH", "\"srp\""),
        };
        match error {
            TokenError::Configuration(text) if text.contains("not enabled") => TokenError::Configuration(format!(
                "{text} Give the app client {allows}, or set identity.tokens.sign_in_flow to {other}."
            )),
            other => other,
        }
    }

    /// Answers `PASSWORD_VERIFIER`.
    pub(super) async fn prove_password(
        &self,
        attempt: &mut Attempt<'_>,
        parameters: &HashMap<String, String>,
    ) -> Result<Reply, TokenError> {
        let Some(proof) = attempt.proof.take() else {
            return Err(TokenError::Configuration(
                "the user pool asks for a proof of the password that was not begun".to_owned(),
            ));
        };
        let (realm, user) = (self.srp_realm.clone(), attempt.user.clone());
        let mut responses = self.proved(realm, user, proof, parameters).await?;
        responses.push(("USERNAME", attempt.user.clone()));
        self.respond(ChallengeNameType::PasswordVerifier, attempt, responses, PoolCall::SignIn).await
    }

    /// Answers `DEVICE_SRP_AUTH` and the `DEVICE_PASSWORD_VERIFIER` that follows.
    pub(super) async fn prove_device(&self, attempt: &mut Attempt<'_>) -> Result<Reply, TokenError> {
        let Some((device, password)) = attempt.device.and_then(|device| Some((device, device.password.clone()?)))
        else {
            return Err(TokenError::DeviceUnknown(
                "the user pool asks for a device that is not remembered here".to_owned(),
            ));
        };
        let proof = Proof { password, exchange: begin().await? };
        let responses = vec![("USERNAME", attempt.user.clone()), ("SRP_A", proof.exchange.public())];
        let mut reply = self.respond(ChallengeNameType::DeviceSrpAuth, attempt, responses, PoolCall::Device).await?;
        attempt.learn(&mut reply);
        if reply.challenge.as_ref() != Some(&ChallengeNameType::DevicePasswordVerifier) {
            return Ok(reply);
        }
        let (realm, name) = (device.group_key.clone(), device.key.clone());
        let mut responses = self.proved(realm, name, proof, &reply.parameters).await?;
        responses.push(("USERNAME", attempt.user.clone()));
        self.respond(ChallengeNameType::DevicePasswordVerifier, attempt, responses, PoolCall::Device).await
    }

    async fn proved(
        &self,
        realm: String,
        name: String,
        Proof { password, exchange }: Proof,
        parameters: &HashMap<String, String>,
    ) -> Result<Vec<(&'static str, String)>, TokenError> {
        let part = |name: &'static str| {
            let missing = || TokenError::Transient(format!("the user pool's question lacks {name}"));
            parameters.get(name).cloned().ok_or_else(missing)
        };
        let (salt, server_public, secret_block) = (part("SALT")?, part("SRP_B")?, part("SECRET_BLOCK")?);
        let timestamp = timestamp(self.route.clock.wall());
        let (block, signed_at) = (secret_block.clone(), timestamp.clone());
        let signature = computed(move || {
            let question = Question { salt: &salt, server_public: &server_public, secret_block: &block };
            exchange.prove(Prover { realm: &realm, name: &name }, &password, question, &signed_at)
        })
        .await?;
        Ok(vec![
            ("PASSWORD_CLAIM_SIGNATURE", signature),
            ("PASSWORD_CLAIM_SECRET_BLOCK", secret_block),
            ("TIMESTAMP", timestamp),
        ])
    }
}

/// An exchange for one proof.
pub(super) async fn begin() -> Result<Exchange, TokenError> {
    computed(Exchange::begin).await
}

/// Runs big-number work where it holds nobody up.
pub(super) async fn computed<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SrpError> + Send + 'static,
) -> Result<T, TokenError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ SrpError::NoRandomness)) => Err(TokenError::Transient(error.to_string())),
        Ok(Err(error)) => Err(TokenError::Configuration(format!(
            "{error}: whoever answers at endpoint_url does not hold this user's verifier"
        ))),
        Err(_) => Err(TokenError::Transient("the daemon is stopping".to_owned())),
    }
}

/// `Thu Nov 3 09:05:01 UTC 2026`: Cognito takes no other form.
fn timestamp(now: SystemTime) -> String {
    let date = DateTime::from_secs(unix_ms(now).div_euclid(1_000));
    // "Thu, 03 Nov 2026 09:05:01 GMT"
    let date = date.fmt(DateTimeFormat::HttpDate).unwrap_or_default();
    let part = |index: usize| date.split(' ').nth(index).unwrap_or_default();
    let (weekday, day) = (part(0).trim_end_matches(','), part(1).trim_start_matches('0'));
    format!("{weekday} {} {day} {} UTC {}", part(2), part(4), part(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_ms;

    #[test]
    fn the_time_has_cognitos_form() {
        assert_eq!(timestamp(from_unix_ms(1_793_696_701_999)), "Tue Nov 3 09:05:01 UTC 2026");
        assert_eq!(timestamp(from_unix_ms(1_798_761_599_000)), "Thu Dec 31 23:59:59 UTC 2026");
        assert_eq!(timestamp(from_unix_ms(0)), "Thu Jan 1 00:00:00 UTC 1970");
    }
}
