//! Where AWS credentials come from. Owns the [`CredentialSource`] trait and its plug-ins; promises that a secret has no
//! `Debug`; must never decide when to refresh (that is `session`).

pub(crate) mod aws;
pub mod basic;
pub(crate) mod codes;
pub mod cognito;
pub mod conformance;
pub mod sdk_chain;
pub mod secret_place;
pub mod static_keys;
pub mod web_identity;

use std::time::SystemTime;

use secrecy::SecretString;

pub use self::secret_place::SecretPlace;
use crate::clock::BootInstant;

/// AWS credentials of one user. Secrets are zeroised on drop and redacted in `Debug`.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The access key id.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: SecretString,
    /// The session token; absent for long-lived keys.
    pub session_token: Option<SecretString>,
    /// When AWS stops accepting them, by AWS's clock.
    pub expire_time: SystemTime,
    /// The same on our boot clock: what decides.
    pub deadline: BootInstant,
    /// When they were received: with `deadline` the lifetime.
    pub received: BootInstant,
}

/// The proof of a sign-in that a source exchanges for credentials.
#[derive(Debug, Clone)]
pub struct Login {
    /// The identity pool's login key, for example `cognito-idp.us-east-1.amazonaws.com/us-east-1_AbC`.
    pub provider: String,
    /// The user's `sub`.
    pub subject: String,
    /// The ID token.
    pub id_token: SecretString,
}

/// Exchanges a login for credentials. `None` as login means a guest.
#[async_trait::async_trait]
pub trait CredentialSource: Send + Sync + std::fmt::Debug + 'static {
    /// The stable id of this user in the pool: the `{identity_id}` of prefixes.
    ///
    /// # Errors
    /// By what to do about it: see [`CredentialErrorKind`].
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError>;

    /// New credentials for `identity_id`.
    ///
    /// # Errors
    /// By what to do about it: see [`CredentialErrorKind`].
    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError>;

    /// Offers a guest's identity id for this login, before its first [`CredentialSource::identity_id`]: where the login
    /// has no identity yet, the guest's becomes the user's. Answers what the login's identity id is from now on. Asked
    /// again after a failure, it comes to the same.
    ///
    /// # Errors
    /// By what to do about it: see [`CredentialErrorKind`].
    async fn link(&self, guest_identity_id: &str, login: &Login) -> Result<String, CredentialError> {
        let _ = guest_identity_id;
        self.identity_id(Some(login)).await
    }

    /// True where the client names the role, or has it anyway: refused for identities marked `tiered`.
    fn client_names_role(&self) -> bool;
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialErrorKind {
    /// Try again later: network, timeout, 5xx.
    Transient,
    /// Try again much later: the service is throttling.
    Throttled,
    /// The login was refused: refresh the ID token once, then it is a configuration error.
    NotAuthorized,
    /// The identity id is not the login's any more: ask for it once more.
    IdentityMoved,
    /// Somebody must mend the configuration.
    Configuration,
}

/// A failure to get credentials; the text is for a person and holds no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct CredentialError {
    /// What to do about it.
    pub kind: CredentialErrorKind,
    /// What failed, on what, why.
    pub message: String,
}

/// The kinds of credential source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceKind {
    /// `cognito_identity_pool`: the enhanced flow.
    #[default]
    CognitoIdentityPool,
    /// `cognito_identity_pool_basic`: the client names the role.
    CognitoIdentityPoolBasic,
    /// `web_identity`: STS takes the ID token itself; the client names the role.
    WebIdentity,
    /// `sdk_chain`: AWS's default chain.
    SdkChain,
    /// `static`: long-lived keys.
    Static,
}

impl SourceKind {
    /// The identity pool chooses the role from the token: nothing else is good enough for tiers.
    pub fn has_role_from_token(self) -> bool {
        self == Self::CognitoIdentityPool
    }

    /// There is an identity pool.
    pub fn has_pool(self) -> bool {
        matches!(self, Self::CognitoIdentityPool | Self::CognitoIdentityPoolBasic)
    }
}

/// `[identity.credentials]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceConfig {
    /// Which plug-in.
    pub kind: SourceKind,
    /// The region.
    pub region: String,
    /// The identity pool's id; not for `web_identity`.
    pub identity_pool_id: Option<String>,
    /// Another endpoint than AWS's; `https`, or `http` on loopback.
    pub endpoint_url: Option<String>,
    /// The role; only for the kinds where the client names it.
    pub role_arn: Option<String>,
    /// Only for tests against other clouds: lets a tiered identity use a kind where the client names the role.
    pub allow_client_role_choice: bool,
    /// The identity id of everybody; only for the kinds without a pool and without a login.
    pub identity_id: Option<String>,
    /// Where the keys lie; only for `static`.
    pub keys: Option<SecretPlace>,
}

/// A field of a plug-in's configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct SetupError {
    /// The key within the plug-in's table.
    pub field: &'static str,
    /// What is wrong with it and what to write instead.
    pub why: String,
}
