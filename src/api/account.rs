//! `AccountService`: the user directories, by identity.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use tonic::{Request, Response, Status};

use super::reason::Reason;
use super::status::{Failure, of_account, of_session, require};
use super::v1::account_service_server::AccountService;
use super::{convert, v1};
use crate::account::UserDirectory;
use crate::session::SessionError;

/// The directory of each identity; `None` where its users are managed elsewhere.
pub type Directories = BTreeMap<String, Option<Arc<dyn UserDirectory>>>;

/// See the module.
#[derive(Debug)]
pub struct Accounts {
    directories: Directories,
}

impl Accounts {
    /// Serves these directories.
    pub fn new(directories: Directories) -> Self {
        Self { directories }
    }

    fn directory(&self, identity: &str) -> Result<&dyn UserDirectory, Status> {
        let name = self.identity(identity).map_err(|error| of_session(&error, "identity"))?;
        self.directories.get(name).and_then(Option::as_deref).ok_or_else(|| {
            let message = format!("identity {name:?} has no user directory of its own: sign in with tokens");
            Failure::new(Reason::IdentityHasNoDirectory, message).with("identity", name).into_status()
        })
    }

    /// The name of the identity that is meant.
    fn identity<'a>(&'a self, identity: &'a str) -> Result<&'a str, SessionError> {
        if self.directories.contains_key(identity) {
            return Ok(identity);
        }
        if !identity.is_empty() {
            let known = self.directories.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(SessionError::IdentityNotFound(identity.to_owned(), known));
        }
        let mut all = self.directories.keys();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(SessionError::IdentityAmbiguous(self.directories.len())),
        }
    }
}

#[tonic::async_trait]
impl AccountService for Accounts {
    async fn sign_up(&self, request: Request<v1::SignUpRequest>) -> Result<Response<v1::SignUpResponse>, Status> {
        let request = request.into_inner();
        require(&[("username", !request.username.is_empty()), ("password", !request.password.is_empty())])?;
        let directory = self.directory(&request.identity)?;
        let password = SecretString::from(request.password);
        let attributes = request.attributes.into_iter().collect();
        let signed_up = directory.sign_up(&request.username, &password, &attributes).await;
        let signed_up = signed_up.map_err(|error| of_account(&error, "password"))?;
        Ok(Response::new(v1::SignUpResponse {
            subject: signed_up.subject,
            confirmed: signed_up.confirmed,
            code_delivery: signed_up.delivery.map(convert::code_delivery),
        }))
    }

    async fn confirm_sign_up(
        &self,
        request: Request<v1::ConfirmSignUpRequest>,
    ) -> Result<Response<v1::ConfirmSignUpResponse>, Status> {
        let request = request.into_inner();
        let has_code = !request.confirmation_code.is_empty();
        require(&[("username", !request.username.is_empty()), ("confirmation_code", has_code)])?;
        let directory = self.directory(&request.identity)?;
        let code = SecretString::from(request.confirmation_code);
        let confirmed = directory.confirm_sign_up(&request.username, &code).await;
        confirmed.map_err(|error| of_account(&error, "password"))?;
        Ok(Response::new(v1::ConfirmSignUpResponse {}))
    }

    async fn resend_confirmation_code(
        &self,
        request: Request<v1::ResendConfirmationCodeRequest>,
    ) -> Result<Response<v1::ResendConfirmationCodeResponse>, Status> {
        let request = request.into_inner();
        require(&[("username", !request.username.is_empty())])?;
        let sent = self.directory(&request.identity)?.resend_confirmation_code(&request.username).await;
        let sent = sent.map_err(|error| of_account(&error, "password"))?;
        let code_delivery = sent.map(convert::code_delivery);
        Ok(Response::new(v1::ResendConfirmationCodeResponse { code_delivery }))
    }

    async fn forgot_password(
        &self,
        request: Request<v1::ForgotPasswordRequest>,
    ) -> Result<Response<v1::ForgotPasswordResponse>, Status> {
        let request = request.into_inner();
        require(&[("username", !request.username.is_empty())])?;
        let sent = self.directory(&request.identity)?.forgot_password(&request.username).await;
        let sent = sent.map_err(|error| of_account(&error, "password"))?;
        Ok(Response::new(v1::ForgotPasswordResponse { code_delivery: sent.map(convert::code_delivery) }))
    }

    async fn confirm_forgot_password(
        &self,
        request: Request<v1::ConfirmForgotPasswordRequest>,
    ) -> Result<Response<v1::ConfirmForgotPasswordResponse>, Status> {
        let request = request.into_inner();
        require(&[
            ("username", !request.username.is_empty()),
            ("confirmation_code", !request.confirmation_code.is_empty()),
            ("new_password", !request.new_password.is_empty()),
        ])?;
        let directory = self.directory(&request.identity)?;
        let code = SecretString::from(request.confirmation_code);
        let new_password = SecretString::from(request.new_password);
        let reset = directory.confirm_forgot_password(&request.username, &code, &new_password).await;
        reset.map_err(|error| of_account(&error, "new_password"))?;
        Ok(Response::new(v1::ConfirmForgotPasswordResponse {}))
    }
}
