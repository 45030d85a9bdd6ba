//! The identity pool's enhanced flow. Promises never to send `CustomRoleArn`: the role comes from the token.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_sdk_cognitoidentity::operation::get_credentials_for_identity::GetCredentialsForIdentityOutput;
use secrecy::ExposeSecret as _;

use super::aws::{self, DateProbe, Refused, Route, sdk_config};
use super::{CredentialError, CredentialErrorKind, CredentialSource, Credentials, Login, SetupError, SourceConfig};
use crate::clock::Clock;
use crate::telemetry::metrics::UpstreamOperation;

/// The identity pool, enhanced flow: `GetId`, then `GetCredentialsForIdentity`.
#[derive(Debug)]
pub struct EnhancedFlow {
    pub(super) client: aws_sdk_cognitoidentity::Client,
    pub(super) route: Route,
    identity_pool_id: String,
}

impl EnhancedFlow {
    /// Builds the clients; makes no call.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &SourceConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        let identity_pool_id = aws::required("identity_pool_id", config.identity_pool_id.as_ref())?.to_owned();
        let route = Route::of(config, connect, call, clock)?;
        let client = aws_sdk_cognitoidentity::Client::from_conf(sdk_config!(aws_sdk_cognitoidentity, &route));
        Ok(Self { client, route, identity_pool_id })
    }
}

#[async_trait::async_trait]
impl CredentialSource for EnhancedFlow {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        let began = Instant::now();
        let call = self.client.get_id().identity_pool_id(&self.identity_pool_id).set_logins(logins(login));
        let reply = call.customize().interceptor(self.route.probe()).send().await;
        let reply = reply.map_err(|error| Refused::of("GetId", &error));
        aws::record(UpstreamOperation::GetId, began, &reply);
        let id = reply.map_err(Refused::into_credential_error)?.identity_id;
        id.filter(|id| !id.is_empty()).ok_or_else(|| aws::unreadable("IdentityId"))
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        let probe = self.route.probe();
        let reply = self.get_credentials(identity_id, login, &probe).await?;
        if reply.identity_id.as_deref().is_some_and(|id| id != identity_id) {
            return Err(CredentialError {
                kind: CredentialErrorKind::IdentityMoved,
                message: "GetCredentialsForIdentity: the credentials are for another identity id".to_owned(),
            });
        }
        let given = reply.credentials.ok_or_else(|| aws::unreadable("Credentials"))?;
        let (Some(key), Some(secret), Some(token), Some(end)) =
            (given.access_key_id(), given.secret_key(), given.session_token(), given.expiration())
        else {
            return Err(aws::unreadable("a part of Credentials"));
        };
        aws::credentials(&probe, key, secret, token, *end)
    }

    async fn link(&self, guest_identity_id: &str, login: &Login) -> Result<String, CredentialError> {
        // Where the login has an identity already, the reply is about that one, and the guest's is merged into it.
        match self.get_credentials(guest_identity_id, Some(login), &self.route.probe()).await {
            Ok(reply) => Ok(reply.identity_id.unwrap_or_else(|| guest_identity_id.to_owned())),
            Err(error) => own_id_instead(self, error, login).await,
        }
    }

    fn client_names_role(&self) -> bool {
        false
    }
}

impl EnhancedFlow {
    async fn get_credentials(
        &self,
        identity_id: &str,
        login: Option<&Login>,
        probe: &DateProbe,
    ) -> Result<GetCredentialsForIdentityOutput, CredentialError> {
        let began = Instant::now();
        let call = self.client.get_credentials_for_identity().identity_id(identity_id).set_logins(logins(login));
        let reply = call.customize().interceptor(probe.clone()).send().await;
        let reply = reply.map_err(|error| Refused::of("GetCredentialsForIdentity", &error));
        aws::record(UpstreamOperation::GetCredentials, began, &reply);
        reply.map_err(Refused::into_credential_error)
    }
}

/// What an offer that was not taken leaves: the login's own identity id, where the refusal is final.
pub(super) async fn own_id_instead(
    source: &impl CredentialSource,
    refusal: CredentialError,
    login: &Login,
) -> Result<String, CredentialError> {
    match refusal.kind {
        // Nobody knows whether the offer was taken: asked again, it comes to the same.
        CredentialErrorKind::Transient | CredentialErrorKind::Throttled => Err(refusal),
        _ => source.identity_id(Some(login)).await,
    }
}

/// The `Logins` of a call; none for a guest.
pub(super) fn logins(login: Option<&Login>) -> Option<HashMap<String, String>> {
    login.map(|login| HashMap::from([(login.provider.clone(), login.id_token.expose_secret().to_owned())]))
}
