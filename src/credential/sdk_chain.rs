//! AWS's default chain: environment, profiles, web identity, container and instance metadata. The only place of the daemon
//! where any of these counts. Promises that it is asked only for identities that are configured so; must never be given
//! to people: the machine's own role is everybody's of the identity.

use std::time::{Duration, Instant};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use tokio::sync::OnceCell;

use super::static_keys::{READ_AGAIN, fixed_identity_id, only_this, only_users};
use super::{
    CredentialError, CredentialErrorKind, CredentialSource, Credentials, Login, SetupError, SourceConfig, aws,
};
use crate::clock::Clock;
use crate::telemetry::metrics;
use crate::telemetry::metrics::{Outcome, UpstreamOperation};

/// The default chain of AWS's SDKs.
#[derive(Debug)]
pub struct SdkChain {
    identity_id: String,
    region: String,
    clock: Clock,
    /// Built when first asked: building reads the environment and the profiles.
    chain: OnceCell<DefaultCredentialsChain>,
}

impl SdkChain {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &SourceConfig, clock: Clock) -> Result<Self, SetupError> {
        let region = aws::required("region", Some(&config.region))?.to_owned();
        Ok(Self { identity_id: fixed_identity_id(config)?, region, clock, chain: OnceCell::new() })
    }

    async fn build(&self) -> DefaultCredentialsChain {
        let config = ProviderConfig::without_region().with_http_client(aws::http_client());
        let region = aws_config::Region::new(self.region.clone());
        DefaultCredentialsChain::builder().configure(config).region(region).build().await
    }
}

#[async_trait::async_trait]
impl CredentialSource for SdkChain {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        only_users(login)?;
        Ok(self.identity_id.clone())
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        only_users(login)?;
        only_this(&self.identity_id, identity_id)?;
        let began = Instant::now();
        let chain = self.chain.get_or_init(|| self.build()).await;
        let given = chain.provide_credentials().await.map_err(|error| refusal(&error));
        let outcome = match &given {
            Ok(_) => Outcome::Ok,
            Err(error) if error.kind == CredentialErrorKind::Transient => Outcome::Transient,
            Err(_) => Outcome::Configuration,
        };
        metrics().upstream_call(UpstreamOperation::SdkChain, outcome, began.elapsed());
        let given = given?;
        let (received, wall) = (self.clock.boot(), self.clock.wall());
        // Without an end the chain is asked again after a while.
        let lasts = given.expiry().map_or(READ_AGAIN, |end| end.duration_since(wall).unwrap_or(Duration::ZERO));
        Ok(Credentials {
            access_key_id: given.access_key_id().to_owned(),
            secret_access_key: given.secret_access_key().into(),
            session_token: given.session_token().map(Into::into),
            expire_time: wall + lasts,
            deadline: received + lasts,
            received,
        })
    }

    fn client_names_role(&self) -> bool {
        true
    }
}

/// By what kind of failure it is; the cause is not shown, it may quote a profile.
fn refusal(error: &CredentialsError) -> CredentialError {
    let (kind, why) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            CredentialErrorKind::Configuration,
            "AWS's default chain has no credentials: give the daemon's process an instance or container role, a profile, \
             or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        CredentialsError::InvalidConfiguration(_) => (
            CredentialErrorKind::Configuration,
            "AWS's default chain: the profile or the environment of the daemon's process cannot be used",
        ),
        CredentialsError::ProviderTimedOut(_) => {
            (CredentialErrorKind::Transient, "AWS's default chain: a provider did not answer in time")
        }
        _ => (CredentialErrorKind::Transient, "AWS's default chain: a provider failed"),
    };
    CredentialError { kind, message: why.to_owned() }
}
