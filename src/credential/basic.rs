//! The identity pool's basic flow. The client names the role, so tiered identities refuse it: the OpenID token carries
//! no groups, and whoever is signed in may assume any role that trusts the pool.

use std::time::{Duration, Instant};

use secrecy::SecretString;

use super::aws::{self, Refused};
use super::cognito::{EnhancedFlow, logins, own_id_instead};
use super::web_identity::Assume;
use super::{CredentialError, CredentialErrorKind, CredentialSource, Credentials, Login, SetupError, SourceConfig};
use crate::clock::Clock;
use crate::telemetry::metrics::UpstreamOperation;

/// The identity pool, basic flow: `GetOpenIdToken`, then `AssumeRoleWithWebIdentity`.
#[derive(Debug)]
pub struct BasicFlow {
    pool: EnhancedFlow,
    assume: Assume,
}

impl BasicFlow {
    /// Builds the clients; makes no call.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &SourceConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        let assume = Assume::new(config, connect, call, clock.clone())?;
        Ok(Self { pool: EnhancedFlow::new(config, connect, call, clock)?, assume })
    }
}

#[async_trait::async_trait]
impl CredentialSource for BasicFlow {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        self.pool.identity_id(login).await
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        let (owner, token) = self.open_id_token(identity_id, login).await?;
        if owner != identity_id {
            return Err(CredentialError {
                kind: CredentialErrorKind::IdentityMoved,
                message: "GetOpenIdToken: the token is for another identity id".to_owned(),
            });
        }
        self.assume.role(identity_id, &token).await
    }

    async fn link(&self, guest_identity_id: &str, login: &Login) -> Result<String, CredentialError> {
        match self.open_id_token(guest_identity_id, Some(login)).await {
            Ok((owner, _)) => Ok(owner),
            Err(error) => own_id_instead(self, error, login).await,
        }
    }

    fn client_names_role(&self) -> bool {
        true
    }
}

impl BasicFlow {
    /// Whose the token is, and the token.
    async fn open_id_token(
        &self,
        identity_id: &str,
        login: Option<&Login>,
    ) -> Result<(String, SecretString), CredentialError> {
        let began = Instant::now();
        let call = self.pool.client.get_open_id_token().identity_id(identity_id).set_logins(logins(login));
        let reply = call.customize().interceptor(self.pool.route.probe()).send().await;
        let reply = reply.map_err(|error| Refused::of("GetOpenIdToken", &error));
        aws::record(UpstreamOperation::GetOpenIdToken, began, &reply);
        let reply = reply.map_err(Refused::into_credential_error)?;
        let token = SecretString::from(reply.token.ok_or_else(|| aws::unreadable("Token"))?);
        Ok((reply.identity_id.unwrap_or_else(|| identity_id.to_owned()), token))
    }
}
