//! The only place that names concrete plug-ins: one line for each kind of the configuration.

use std::sync::Arc;
use std::time::Duration;

use super::DaemonError;
use crate::account::UserDirectory;
use crate::account::cognito::CognitoDirectory;
use crate::api::Directories;
use crate::clock::Clock;
use crate::config::{Config, DestinationConfig, IdentityConfig, StoreConfig};
use crate::credential::basic::BasicFlow;
use crate::credential::cognito::EnhancedFlow;
use crate::credential::sdk_chain::SdkChain;
use crate::credential::static_keys::StaticKeys;
use crate::credential::web_identity::WebIdentity;
use crate::credential::{CredentialSource, SetupError, SourceKind};
use crate::session::cognito_tokens::CognitoTokens;
use crate::session::hosted_ui::HostedUi;
use crate::session::oidc_tokens::OidcTokens;
use crate::session::{Federation, Identity, TokenSource, TokensKind};
use crate::upload::Destination;
use crate::{session, store};

/// Builds every identity; makes no call.
///
/// # Errors
/// The first table that cannot be used.
pub(super) fn identities(config: &Config, clock: &Clock) -> Result<Vec<Identity>, DaemonError> {
    config.identities.iter().map(|identity| build_identity(identity, &config.session, clock)).collect()
}

/// Builds the user directories, by the identity's name.
///
/// # Errors
/// The first table that cannot be used.
pub(super) fn directories(config: &Config, clock: &Clock) -> Result<Directories, DaemonError> {
    let (connect, call) = timeouts(&config.session);
    let build = |identity: &IdentityConfig| {
        let tokens = &identity.tokens;
        let directory: Arc<dyn UserDirectory> = match tokens.kind {
            TokensKind::CognitoUserPool => Arc::new(
                CognitoDirectory::new(
                    &tokens.region,
                    &tokens.client_id,
                    tokens.endpoint_url.as_deref(),
                    connect,
                    call,
                    clock.clone(),
                )
                .map_err(|error| unusable(identity, "tokens", &error))?,
            ),
            // Accounts are the issuer's own business.
            TokensKind::Oidc => return Ok((identity.name.clone(), None)),
        };
        Ok((identity.name.clone(), Some(directory)))
    };
    config.identities.iter().map(build).collect()
}

/// Builds every destination; connects to nothing.
///
/// # Errors
/// The first table that cannot be used.
pub(super) fn destinations(config: &Config, clock: &Clock) -> Result<Vec<Destination>, DaemonError> {
    let build = |destination: &DestinationConfig| {
        let store = match &destination.store {
            StoreConfig::S3(s3) => store::s3::open(s3.clone(), clock.clone()),
            StoreConfig::Directory(directory) => store::directory::open(directory.clone()),
        };
        let store = store.map_err(|error| DaemonError::Unusable {
            table: format!("destination {:?}", destination.name),
            why: error.to_string(),
        })?;
        Ok(Destination { name: destination.name.clone(), prefix: destination.prefix.clone(), store })
    };
    config.destinations.iter().map(build).collect()
}

fn build_identity(
    identity: &IdentityConfig,
    session: &session::Config,
    clock: &Clock,
) -> Result<Identity, DaemonError> {
    let (connect, call) = timeouts(session);
    let tokens: Arc<dyn TokenSource> = match identity.tokens.kind {
        TokensKind::CognitoUserPool => Arc::new(
            CognitoTokens::new(&identity.tokens, connect, call, clock.clone())
                .map_err(|error| unusable(identity, "tokens", &error))?,
        ),
        TokensKind::Oidc => Arc::new(
            OidcTokens::new(&identity.tokens, connect, call, clock.clone())
                .map_err(|error| unusable(identity, "tokens", &error))?,
        ),
    };
    let federation: Option<Arc<dyn Federation>> = match &identity.hosted_ui {
        None => None,
        Some(page) => Some(Arc::new(
            HostedUi::new(page, &identity.tokens.client_id, connect, call, clock.clone())
                .map_err(|error| unusable(identity, "hosted_ui", &error))?,
        )),
    };
    let source = &identity.credentials;
    let failed = |error: SetupError| unusable(identity, "credentials", &error);
    let credentials: Arc<dyn CredentialSource> = match source.kind {
        SourceKind::CognitoIdentityPool => {
            Arc::new(EnhancedFlow::new(source, connect, call, clock.clone()).map_err(failed)?)
        }
        SourceKind::CognitoIdentityPoolBasic => {
            Arc::new(BasicFlow::new(source, connect, call, clock.clone()).map_err(failed)?)
        }
        SourceKind::SdkChain => Arc::new(SdkChain::new(source, clock.clone()).map_err(failed)?),
        SourceKind::Static => Arc::new(StaticKeys::new(source, clock.clone()).map_err(failed)?),
        SourceKind::WebIdentity => Arc::new(WebIdentity::new(source, connect, call, clock.clone()).map_err(failed)?),
    };
    Ok(Identity {
        name: identity.name.clone(),
        tiered: identity.tiered,
        tokens,
        credentials,
        federation,
        allow_client_role_choice: source.allow_client_role_choice,
        guests: identity.guests,
    })
}

fn timeouts(session: &session::Config) -> (Duration, Duration) {
    (Duration::from_millis(session.connect_timeout_ms), Duration::from_millis(session.call_timeout_ms))
}

fn unusable(identity: &IdentityConfig, part: &str, error: &SetupError) -> DaemonError {
    DaemonError::Unusable {
        table: format!("identity {:?}, {part}.{}", identity.name, error.field),
        why: error.why.clone(),
    }
}
