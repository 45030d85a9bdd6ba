//! The user directory: sign-up, confirmation codes, forgotten passwords. Owns the [`UserDirectory`] trait; keeps
//! nothing; must never log a password or a code.

pub mod cognito;

use std::collections::BTreeMap;

use secrecy::SecretString;

/// Where a code went.
#[derive(Debug, Clone, Default)]
pub struct CodeDelivery {
    /// The address, masked by the directory.
    pub destination: String,
    /// `EMAIL` or `SMS`.
    pub medium: String,
}

/// What a sign-up gave.
#[derive(Debug, Clone)]
pub struct SignedUp {
    /// The user's `sub`.
    pub subject: String,
    /// True where no code is needed.
    pub confirmed: bool,
    /// Where the code went.
    pub delivery: Option<CodeDelivery>,
}

/// A directory of users that can sign up by themselves.
#[async_trait::async_trait]
pub trait UserDirectory: Send + Sync + std::fmt::Debug + 'static {
    /// Creates an account.
    ///
    /// # Errors
    /// As the directory answers; see [`AccountError`].
    async fn sign_up(
        &self,
        username: &str,
        password: &SecretString,
        attributes: &BTreeMap<String, String>,
    ) -> Result<SignedUp, AccountError>;
    /// Confirms an account by the code.
    ///
    /// # Errors
    /// As the directory answers; see [`AccountError`].
    async fn confirm_sign_up(&self, username: &str, code: &SecretString) -> Result<(), AccountError>;
    /// Sends a new code.
    ///
    /// # Errors
    /// As the directory answers; see [`AccountError`].
    async fn resend_confirmation_code(&self, username: &str) -> Result<Option<CodeDelivery>, AccountError>;
    /// Starts a password reset.
    ///
    /// # Errors
    /// As the directory answers; see [`AccountError`].
    async fn forgot_password(&self, username: &str) -> Result<Option<CodeDelivery>, AccountError>;
    /// Ends a password reset.
    ///
    /// # Errors
    /// As the directory answers; see [`AccountError`].
    async fn confirm_forgot_password(
        &self,
        username: &str,
        code: &SecretString,
        new_password: &SecretString,
    ) -> Result<(), AccountError>;
}

/// Why the directory said no. The text is the directory's own, where it has one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccountError {
    /// The name or the e-mail is taken.
    #[error("{0}")]
    UserExists(String),
    /// The alias belongs to another account.
    #[error("{0}")]
    AliasExists(String),
    /// The password does not meet the pool's policy, which the text names.
    #[error("{0}")]
    InvalidPassword(String),
    /// An input was refused.
    #[error("{0}")]
    InvalidParameter(String),
    /// The code is wrong.
    #[error("{0}")]
    CodeMismatch(String),
    /// The code is too old.
    #[error("{0}")]
    CodeExpired(String),
    /// The directory could not send the code.
    #[error("{0}")]
    CodeNotDelivered(String),
    /// A rule of the directory's own refuses it; the text is the rule's.
    #[error("{0}")]
    Refused(String),
    /// The account waits for its confirmation code.
    #[error("{0}")]
    UserNotConfirmed(String),
    /// The directory is throttling this device.
    #[error("{0}")]
    Throttled(String),
    /// Too many tries.
    #[error("{0}")]
    LimitExceeded(String),
    /// No such user (where the pool tells).
    #[error("{0}")]
    UserNotFound(String),
    /// The account's state does not allow it, for example it is confirmed already.
    #[error("{0}")]
    NotAuthorized(String),
    /// The directory cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// The pool or client is set up in a way that cannot work.
    #[error("{0}")]
    Configuration(String),
}
