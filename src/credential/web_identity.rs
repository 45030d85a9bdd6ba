//! STS takes the ID token itself. The client names the role, so tiered identities refuse it.

use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};

use super::aws::{self, Refused, Route, sdk_config};
use super::{CredentialError, CredentialErrorKind, CredentialSource, Credentials, Login, SetupError, SourceConfig};
use crate::clock::Clock;
use crate::telemetry::metrics::UpstreamOperation;

/// STS's bounds of a role session's name.
const SESSION_NAME_CHARS: std::ops::RangeInclusive<usize> = 2..=64;

/// `AssumeRoleWithWebIdentity` with the ID token itself; the identity id is the `sub`.
#[derive(Debug)]
pub struct WebIdentity(Assume);

impl WebIdentity {
    /// Builds the clients; makes no call.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &SourceConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        Assume::new(config, connect, call, clock).map(Self)
    }
}

#[async_trait::async_trait]
impl CredentialSource for WebIdentity {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        login.map(|login| login.subject.clone()).ok_or_else(no_guests)
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        let login = login.ok_or_else(no_guests)?;
        if identity_id != login.subject {
            return Err(CredentialError {
                kind: CredentialErrorKind::IdentityMoved,
                message: "the ID token is another user's than the identity id".to_owned(),
            });
        }
        self.0.role(identity_id, &login.id_token).await
    }

    fn client_names_role(&self) -> bool {
        true
    }
}

/// `AssumeRoleWithWebIdentity` for the configured role.
#[derive(Debug)]
pub(super) struct Assume {
    client: aws_sdk_sts::Client,
    route: Route,
    role_arn: String,
}

impl Assume {
    pub(super) fn new(
        config: &SourceConfig,
        connect: Duration,
        call: Duration,
        clock: Clock,
    ) -> Result<Self, SetupError> {
        let role_arn = aws::required("role_arn", config.role_arn.as_ref())?.to_owned();
        let route = Route::of(config, connect, call, clock)?;
        let client = aws_sdk_sts::Client::from_conf(sdk_config!(aws_sdk_sts, &route));
        Ok(Self { client, route, role_arn })
    }

    /// Credentials of the role for whoever the token names; `name` shows in the role session's ARN.
    pub(super) async fn role(&self, name: &str, token: &SecretString) -> Result<Credentials, CredentialError> {
        let (began, probe) = (Instant::now(), self.route.probe());
        let call = self.client.assume_role_with_web_identity().role_arn(&self.role_arn);
        let call = call.role_session_name(session_name(name)).web_identity_token(token.expose_secret());
        let reply = call.customize().interceptor(probe.clone()).send().await;
        let reply = reply.map_err(|error| Refused::of("AssumeRoleWithWebIdentity", &error));
        aws::record(UpstreamOperation::AssumeRole, began, &reply);
        let reply = reply.map_err(Refused::into_credential_error)?;
        let given = reply.credentials.ok_or_else(|| aws::unreadable("Credentials"))?;
        let (key, secret, token) = (given.access_key_id(), given.secret_access_key(), given.session_token());
        aws::credentials(&probe, key, secret, token, *given.expiration())
    }
}

fn no_guests() -> CredentialError {
    CredentialError {
        kind: CredentialErrorKind::Configuration,
        message: "AssumeRoleWithWebIdentity needs a signed-in user: there are no guests here".to_owned(),
    }
}

/// `[\w+=,.@-]{2,64}`, as near to `name` as that allows.
fn session_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let mut text: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    text.truncate(*SESSION_NAME_CHARS.end());
    while text.len() < *SESSION_NAME_CHARS.start() {
        text.push('-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_are_what_sts_takes() {
        assert_eq!(session_name("us-east-1:0a1b"), "us-east-1-0a1b");
        assert_eq!(session_name("é"), "--");
        assert_eq!(session_name(&"x".repeat(80)).len(), 64);
    }
}
