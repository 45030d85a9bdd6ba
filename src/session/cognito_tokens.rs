//! The user pool as token source. AWS SDK types stay here. Promises that every ID token that leaves it is verified, and
//! that a password leaves the device only where the configuration says so, whatever the pool answers; must never show a
//! token in an error.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_cognitoidentityprovider::Client;
use aws_sdk_cognitoidentityprovider::types::{AuthFlowType, AuthenticationResultType};
use secrecy::{ExposeSecret as _, SecretString};

use super::codes::{PoolCall, is_unknown_call, token_error};
use super::jwks::{Expected, Jwks, Rules};
use super::{
    Challenge, RefreshGrant, RememberDevice, RememberedDevice, SignInFlow, SignInStep, TokenError, TokenSet,
    TokenSource, TokensConfig,
};
use crate::clock::Clock;
use crate::credential::SetupError;
use crate::credential::aws::{self, Refused, Route, sdk_config};
use crate::telemetry::metrics::UpstreamOperation;

/// A Cognito user pool and one of its app clients.
#[derive(Debug)]
pub struct CognitoTokens {
    provider: String,
    /// The pool's id after the underscore: SRP mixes it into passwords.
    srp_realm: String,
    client_id: String,
    flow: SignInFlow,
    remember: RememberDevice,
    client: Client,
    route: Route,
    jwks: Jwks,
    /// The endpoint does not know `GetTokensFromRefreshToken`.
    refreshes_by_auth: AtomicBool,
}

/// Sends one call: times it and reads the reply's date.
macro_rules! call {
    ($pool:expr, $operation:ident, $what:literal, $request:expr) => {{
        let began = Instant::now();
        let reply = $request.customize().interceptor($pool.route.probe()).send().await;
        let reply = reply.map_err(|error| Refused::of($what, &error));
        aws::record(UpstreamOperation::$operation, began, &reply);
        reply
    }};
}

// Behind the macro, which they use.
mod challenge;
mod device;
mod srp;

impl CognitoTokens {
    /// Builds the clients; makes no call.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &TokensConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        for (field, value) in [("user_pool_id", &config.user_pool_id), ("client_id", &config.client_id)] {
            if value.is_empty() {
                return Err(SetupError { field, why: "is empty".to_owned() });
            }
        }
        let route = Route::new(&config.region, config.endpoint_url.as_deref(), connect, call, clock.clone())?;
        aws::check_url("jwks_url", &config.jwks_url())?;
        let expected = Expected {
            rules: Rules::Cognito,
            jwks_url: Some(config.jwks_url()),
            issuer: config.issuer(),
            audience: config.client_id.clone(),
            connect_timeout: connect,
            call_timeout: call,
        };
        Ok(Self {
            provider: config.provider(),
            srp_realm: config.user_pool_id.split_once('_').map_or(&*config.user_pool_id, |(_, id)| id).to_owned(),
            client_id: config.client_id.clone(),
            flow: config.sign_in_flow,
            remember: config.remember_device,
            client: Client::from_conf(sdk_config!(aws_sdk_cognitoidentityprovider, &route)),
            route,
            jwks: Jwks::new(expected, clock),
            refreshes_by_auth: AtomicBool::new(false),
        })
    }

    /// The tokens of a reply, verified.
    async fn tokens(&self, given: Option<AuthenticationResultType>) -> Result<TokenSet, TokenError> {
        let given = given.ok_or_else(|| lacking("AuthenticationResult"))?;
        let id_token = SecretString::from(given.id_token.ok_or_else(|| lacking("IdToken"))?);
        self.set(id_token, given.access_token.map(Into::into), given.refresh_token.map(Into::into)).await
    }

    async fn set(
        &self,
        id_token: SecretString,
        access_token: Option<SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<TokenSet, TokenError> {
        let claims = self.jwks.verify_id(&id_token).await?;
        let access_token_expire_time = match &access_token {
            Some(token) => Some(self.jwks.verify_access(token, &claims.subject).await?),
            None => None,
        };
        Ok(TokenSet { id_token, access_token, access_token_expire_time, refresh_token, device: None, claims })
    }

    /// `GetTokensFromRefreshToken` works with rotation and without; `None` where the endpoint does not know it.
    async fn refresh_by_token(
        &self,
        refresh_token: &SecretString,
        device: Option<&RememberedDevice>,
    ) -> Result<Option<AuthenticationResultType>, TokenError> {
        let request = self.client.get_tokens_from_refresh_token().client_id(&self.client_id);
        let request = request.refresh_token(refresh_token.expose_secret());
        let request = request.set_device_key(device.map(|device| device.key.clone()));
        match call!(self, TokenRefresh, "GetTokensFromRefreshToken", request) {
            Ok(reply) => Ok(Some(reply.authentication_result.ok_or_else(|| lacking("AuthenticationResult"))?)),
            Err(refused) if is_unknown_call(&refused) => Ok(None),
            Err(refused) => Err(token_error(PoolCall::Refresh, refused)),
        }
    }

    async fn refresh_by_auth(
        &self,
        refresh_token: &SecretString,
        device: Option<&RememberedDevice>,
    ) -> Result<Option<AuthenticationResultType>, TokenError> {
        let request = self.client.initiate_auth().client_id(&self.client_id).auth_flow(AuthFlowType::RefreshTokenAuth);
        let mut request = request.auth_parameters("REFRESH_TOKEN", refresh_token.expose_secret());
        if let Some(device) = device {
            request = request.auth_parameters("DEVICE_KEY", &device.key);
        }
        let reply = call!(self, TokenRefresh, "InitiateAuth(REFRESH_TOKEN_AUTH)", request);
        Ok(reply.map_err(|refused| token_error(PoolCall::Refresh, refused))?.authentication_result)
    }
}

#[async_trait::async_trait]
impl TokenSource for CognitoTokens {
    fn provider(&self) -> &str {
        &self.provider
    }

    async fn sign_in(
        &self,
        username: &str,
        password: &SecretString,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        // A device without a password has nothing to prove itself with.
        let device = device.filter(|device| device.password.is_some());
        match self.sign_in_once(username, password, device).await {
            Err(TokenError::DeviceUnknown(why)) if device.is_some() => {
                tracing::info!(%why, "the user pool does not know this device any more: signing in without it");
                self.sign_in_once(username, password, None).await
            }
            other => other,
        }
    }

    async fn answer(
        &self,
        challenge: &Challenge,
        answers: &BTreeMap<String, SecretString>,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        self.answer_challenge(challenge, answers, device).await
    }

    async fn verify(
        &self,
        id_token: SecretString,
        access_token: Option<SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<TokenSet, TokenError> {
        self.set(id_token, access_token, refresh_token).await
    }

    async fn refresh(&self, grant: &RefreshGrant) -> Result<TokenSet, TokenError> {
        let Some(refresh_token) = &grant.refresh_token else {
            return Err(TokenError::NotAuthorized("there is no refresh token".to_owned()));
        };
        let mut given = None;
        if !self.refreshes_by_auth.load(Ordering::Relaxed) {
            given = self.refresh_by_token(refresh_token, grant.device.as_ref()).await?;
            self.refreshes_by_auth.store(given.is_none(), Ordering::Relaxed);
        }
        if given.is_none() {
            given = self.refresh_by_auth(refresh_token, grant.device.as_ref()).await?;
        }
        let rotated = given.as_ref().and_then(|given| given.refresh_token.clone()).map(SecretString::from);
        let mut set = self.tokens(given).await.map_err(|why| match rotated {
            // The old token is over now, or soon: the new one must not be lost with the reply.
            Some(refresh_token) => TokenError::Unverified { refresh_token, why: Box::new(why) },
            None => why,
        })?;
        set.device.clone_from(&grant.device);
        Ok(set)
    }

    async fn revoke(
        &self,
        grant: &RefreshGrant,
        access_token: Option<&SecretString>,
        everywhere: bool,
    ) -> Result<(), TokenError> {
        let others = if everywhere { self.sign_out_everywhere(grant, access_token).await } else { Ok(()) };
        if let Err(TokenError::Transient(_) | TokenError::ReplyLost(_) | TokenError::Throttled(_)) = others {
            // Tried again, for which the refresh token may be needed.
            return others;
        }
        let Some(refresh_token) = &grant.refresh_token else { return others };
        let request = self.client.revoke_token().client_id(&self.client_id).token(refresh_token.expose_secret());
        match call!(self, Revoke, "RevokeToken", request) {
            Ok(_) => others,
            // After a global sign-out the token is over already; the pool may say so.
            Err(refused) => match token_error(PoolCall::Revoke, refused) {
                TokenError::NotAuthorized(_) if everywhere => others,
                error => Err(error),
            },
        }
    }
}

impl CognitoTokens {
    /// `GlobalSignOut` needs an access token that is still good: a new one is got where there is none.
    async fn sign_out_everywhere(
        &self,
        grant: &RefreshGrant,
        access_token: Option<&SecretString>,
    ) -> Result<(), TokenError> {
        if let Some(token) = access_token {
            match self.global_sign_out(token).await {
                Err(TokenError::NotAuthorized(_)) => {}
                other => return other,
            }
        }
        match self.refresh(grant).await {
            Ok(TokenSet { access_token: Some(token), .. }) => self.global_sign_out(&token).await,
            Ok(_) => Err(lacking("AccessToken")),
            // Whoever cannot refresh is signed out already.
            Err(TokenError::NotAuthorized(_) | TokenError::Terminal(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn global_sign_out(&self, access_token: &SecretString) -> Result<(), TokenError> {
        let request = self.client.global_sign_out().access_token(access_token.expose_secret());
        let reply = call!(self, Revoke, "GlobalSignOut", request);
        reply.map(drop).map_err(|refused| token_error(PoolCall::Revoke, refused))
    }
}

fn lacking(what: &str) -> TokenError {
    TokenError::Transient(format!("the user pool's reply lacks {what}"))
}
