//! The user pool as token source. AWS SDK types stay in this file.

use std::time::Duration;

use secrecy::SecretString;

use super::{TokenError, TokenSet, TokenSource, TokensConfig};
use crate::clock::Clock;
use crate::credential::SetupError;

/// A Cognito user pool and one of its app clients.
#[derive(Debug)]
pub struct CognitoTokens {
    provider: String,
}

impl CognitoTokens {
    /// Builds the clients; makes no call.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &TokensConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        todo!()
    }
}

#[async_trait::async_trait]
impl TokenSource for CognitoTokens {
    fn provider(&self) -> &str {
        &self.provider
    }

    async fn sign_in(&self, username: &str, password: &SecretString) -> Result<TokenSet, TokenError> {
        todo!()
    }

    async fn verify(
        &self,
        id_token: SecretString,
        access_token: Option<SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<TokenSet, TokenError> {
        todo!()
    }

    async fn refresh(&self, refresh_token: &SecretString) -> Result<TokenSet, TokenError> {
        todo!()
    }

    async fn revoke(
        &self,
        refresh_token: &SecretString,
        access_token: Option<&SecretString>,
        everywhere: bool,
    ) -> Result<(), TokenError> {
        todo!()
    }
}
