//! The user pool as directory. AWS SDK types stay in this file.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;

use super::{AccountError, CodeDelivery, SignedUp, UserDirectory};
use crate::clock::Clock;
use crate::credential::SetupError;

/// A Cognito user pool, through one of its app clients.
#[derive(Debug)]
pub struct CognitoDirectory(());

impl CognitoDirectory {
    /// Builds the client; makes no call. `endpoint_url` is another endpoint than AWS's.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(
        region: &str,
        client_id: &str,
        endpoint_url: Option<&str>,
        connect: Duration,
        call: Duration,
        clock: Clock,
    ) -> Result<Self, SetupError> {
        todo!()
    }
}

#[async_trait::async_trait]
impl UserDirectory for CognitoDirectory {
    async fn sign_up(
        &self,
        username: &str,
        password: &SecretString,
        attributes: &BTreeMap<String, String>,
    ) -> Result<SignedUp, AccountError> {
        todo!()
    }
    async fn confirm_sign_up(&self, username: &str, code: &SecretString) -> Result<(), AccountError> {
        todo!()
    }
    async fn resend_confirmation_code(&self, username: &str) -> Result<Option<CodeDelivery>, AccountError> {
        todo!()
    }
    async fn forgot_password(&self, username: &str) -> Result<Option<CodeDelivery>, AccountError> {
        todo!()
    }
    async fn confirm_forgot_password(
        &self,
        username: &str,
        code: &SecretString,
        new_password: &SecretString,
    ) -> Result<(), AccountError> {
        todo!()
    }
}
