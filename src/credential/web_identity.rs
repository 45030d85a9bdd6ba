//! STS takes the ID token itself. The client names the role, so tiered identities refuse it.

use std::time::Duration;

use super::{CredentialError, CredentialSource, Credentials, Login, SetupError, SourceConfig};
use crate::clock::Clock;

/// `AssumeRoleWithWebIdentity` with the ID token itself; the identity id is the `sub`.
#[derive(Debug)]
pub struct WebIdentity(());

impl WebIdentity {
    /// Builds the clients; makes no call.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &SourceConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        todo!()
    }
}

#[async_trait::async_trait]
impl CredentialSource for WebIdentity {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        todo!()
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        todo!()
    }

    fn client_names_role(&self) -> bool {
        true
    }
}
