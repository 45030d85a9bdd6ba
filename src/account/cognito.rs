//! The user pool as directory. AWS SDK types stay in this file; passwords and codes go out and are kept nowhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_sdk_cognitoidentityprovider::Client;
use aws_sdk_cognitoidentityprovider::types::{AttributeType, CodeDeliveryDetailsType};
use secrecy::{ExposeSecret as _, SecretString};

use super::{AccountError, CodeDelivery, SignedUp, UserDirectory};
use crate::clock::Clock;
use crate::credential::SetupError;
use crate::credential::aws::{self, Refused, Route, sdk_config};
use crate::telemetry::metrics::UpstreamOperation;

/// A Cognito user pool, through one of its app clients.
#[derive(Debug)]
pub struct CognitoDirectory {
    client: Client,
    route: Route,
    client_id: String,
}

/// Sends one call: times it, reads the reply's date, and maps what went wrong.
macro_rules! call {
    ($directory:expr, $what:literal, $request:expr) => {{
        let began = Instant::now();
        let reply = $request.customize().interceptor($directory.route.probe()).send().await;
        let reply = reply.map_err(|error| Refused::of($what, &error));
        aws::record(UpstreamOperation::Account, began, &reply);
        reply.map_err(account_error)
    }};
}

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
        if client_id.is_empty() {
            return Err(SetupError { field: "client_id", why: "is empty: write the app client's id".to_owned() });
        }
        let route = Route::new(region, endpoint_url, connect, call, clock)?;
        let client = Client::from_conf(sdk_config!(aws_sdk_cognitoidentityprovider, &route));
        Ok(Self { client, route, client_id: client_id.to_owned() })
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
        let mut request = self.client.sign_up().client_id(&self.client_id).username(username);
        request = request.password(password.expose_secret());
        for (name, value) in attributes {
            let attribute = AttributeType::builder().name(name).value(value).build();
            request = request.user_attributes(attribute.map_err(|_| unnamed_attribute())?);
        }
        let reply = call!(self, "SignUp", request)?;
        Ok(SignedUp {
            subject: reply.user_sub,
            confirmed: reply.user_confirmed,
            delivery: reply.code_delivery_details.map(delivery),
        })
    }

    async fn confirm_sign_up(&self, username: &str, code: &SecretString) -> Result<(), AccountError> {
        let request = self.client.confirm_sign_up().client_id(&self.client_id).username(username);
        call!(self, "ConfirmSignUp", request.confirmation_code(code.expose_secret())).map(drop)
    }

    async fn resend_confirmation_code(&self, username: &str) -> Result<Option<CodeDelivery>, AccountError> {
        let request = self.client.resend_confirmation_code().client_id(&self.client_id).username(username);
        let reply = call!(self, "ResendConfirmationCode", request)?;
        Ok(reply.code_delivery_details.map(delivery))
    }

    async fn forgot_password(&self, username: &str) -> Result<Option<CodeDelivery>, AccountError> {
        let request = self.client.forgot_password().client_id(&self.client_id).username(username);
        let reply = call!(self, "ForgotPassword", request)?;
        Ok(reply.code_delivery_details.map(delivery))
    }

    async fn confirm_forgot_password(
        &self,
        username: &str,
        code: &SecretString,
        new_password: &SecretString,
    ) -> Result<(), AccountError> {
        let request = self.client.confirm_forgot_password().client_id(&self.client_id).username(username);
        let request = request.confirmation_code(code.expose_secret()).password(new_password.expose_secret());
        call!(self, "ConfirmForgotPassword", request).map(drop)
    }
}

fn delivery(details: CodeDeliveryDetailsType) -> CodeDelivery {
    CodeDelivery {
        destination: details.destination.unwrap_or_default(),
        medium: details.delivery_medium.map(|medium| medium.as_str().to_owned()).unwrap_or_default(),
    }
}

fn unnamed_attribute() -> AccountError {
    AccountError::InvalidParameter("a user attribute has no name".to_owned())
}

fn account_error(refused: Refused) -> AccountError {
    let text = refused.message;
    match refused.code.as_deref() {
        Some("UsernameExistsException") => AccountError::UserExists(text),
        Some("AliasExistsException") => AccountError::AliasExists(text),
        Some("InvalidPasswordException" | "PasswordHistoryPolicyViolationException") => {
            AccountError::InvalidPassword(text)
        }
        Some("InvalidParameterException") => AccountError::InvalidParameter(text),
        // A trigger of the pool refuses what it was given.
        Some("UserLambdaValidationException") => AccountError::Refused(text),
        Some("CodeMismatchException") => AccountError::CodeMismatch(text),
        Some("ExpiredCodeException") => AccountError::CodeExpired(text),
        Some("LimitExceededException" | "TooManyFailedAttemptsException") => AccountError::LimitExceeded(text),
        Some("UserNotFoundException") => AccountError::UserNotFound(text),
        Some("UserNotConfirmedException") => AccountError::UserNotConfirmed(text),
        // The same code for an account's state and for a client that needs a secret: only the text tells.
        Some("NotAuthorizedException") if is_about_the_client(&text) => AccountError::Configuration(text),
        Some("NotAuthorizedException") => AccountError::NotAuthorized(text),
        Some("CodeDeliveryFailureException") => AccountError::CodeNotDelivered(text),
        Some(code) if aws::is_throttling(code) => AccountError::Throttled(text),
        Some(code) if aws::is_transient(code) => AccountError::Unavailable(text),
        None if refused.status == Some(429) => AccountError::Throttled(text),
        Some(_) if refused.status.is_some_and(|status| status < 500) => AccountError::Configuration(text),
        _ => AccountError::Unavailable(text),
    }
}

fn is_about_the_client(text: &str) -> bool {
    text.contains("secret hash") || text.contains("SECRET_HASH") || text.contains("Client ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_what_the_api_knows() {
        type Is = fn(&AccountError) -> bool;
        let table: [(Option<&str>, Option<u16>, Is); 21] = [
            (Some("UsernameExistsException"), Some(400), |it| matches!(it, AccountError::UserExists(_))),
            (Some("AliasExistsException"), Some(400), |it| matches!(it, AccountError::AliasExists(_))),
            (Some("InvalidPasswordException"), Some(400), |it| matches!(it, AccountError::InvalidPassword(_))),
            (Some("InvalidParameterException"), Some(400), |it| matches!(it, AccountError::InvalidParameter(_))),
            (Some("UserLambdaValidationException"), Some(400), |it| matches!(it, AccountError::Refused(_))),
            (Some("UserNotConfirmedException"), Some(400), |it| matches!(it, AccountError::UserNotConfirmed(_))),
            (Some("PasswordHistoryPolicyViolationException"), Some(400), |it| {
                matches!(it, AccountError::InvalidPassword(_))
            }),
            (Some("TooManyFailedAttemptsException"), Some(400), |it| matches!(it, AccountError::LimitExceeded(_))),
            (None, Some(429), |it| matches!(it, AccountError::Throttled(_))),
            (Some("CodeMismatchException"), Some(400), |it| matches!(it, AccountError::CodeMismatch(_))),
            (Some("ExpiredCodeException"), Some(400), |it| matches!(it, AccountError::CodeExpired(_))),
            (Some("LimitExceededException"), Some(400), |it| matches!(it, AccountError::LimitExceeded(_))),
            (Some("UserNotFoundException"), Some(400), |it| matches!(it, AccountError::UserNotFound(_))),
            (Some("NotAuthorizedException"), Some(400), |it| matches!(it, AccountError::NotAuthorized(_))),
            (Some("TooManyRequestsException"), Some(400), |it| matches!(it, AccountError::Throttled(_))),
            (Some("InternalErrorException"), Some(500), |it| matches!(it, AccountError::Unavailable(_))),
            (Some("CodeDeliveryFailureException"), Some(400), |it| matches!(it, AccountError::CodeNotDelivered(_))),
            (Some("ResourceNotFoundException"), Some(400), |it| matches!(it, AccountError::Configuration(_))),
            (Some("InvalidLambdaResponseException"), Some(400), |it| matches!(it, AccountError::Configuration(_))),
            (None, Some(502), |it| matches!(it, AccountError::Unavailable(_))),
            (None, None, |it| matches!(it, AccountError::Unavailable(_))),
        ];
        for (code, status, expected) in table {
            let refused =
                Refused { code: code.map(str::to_owned), status, message: "SignUp: why".to_owned(), unsent: false };
            let error = account_error(refused);
            assert!(expected(&error), "{code:?} {status:?} became {error:?}");
            assert_eq!(error.to_string(), "SignUp: why");
        }
    }
}
