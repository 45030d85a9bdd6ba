//! Signed-in users. Owns the registry, the refresh schedule and the sealed token store; promises that credentials are
//! never used after their deadline, that a failure never removes valid ones and that one session makes one upstream
//! call at a time; must never show a session to another uid.

mod actor;
mod codes;
pub mod cognito_tokens;
mod config;
mod endpoint_token;
mod event;
mod failure;
#[cfg(test)]
mod fake;
mod files;
mod guests;
mod jwks;
mod limiter;
mod mailbox;
mod registry;
mod schedule;
mod seal;
mod service;
mod sessions;
mod state;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::SecretString;

use crate::credential::{CredentialSource, Credentials};

pub use config::{Config, ServiceConfig, ServiceLogin, TokensConfig, TokensKind};
pub use sessions::{EndpointRefusal, Sessions};

/// `sessions/{id}`; the id is a ULID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub String);

/// What a session can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Credentials are fresh, or are fetched when first asked for.
    Active,
    /// The last refresh failed; what is still valid is served.
    Stale,
    /// The user must sign in again.
    NeedsSignIn,
    /// Signed out; only uploads still use it.
    SigningOut,
}

/// Who is signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// A person.
    #[default]
    User,
    /// Nobody: the identity pool's unauthenticated role.
    Guest,
    /// A device account of the configuration.
    Service,
}

/// What may be shown of a session. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Who is signed in.
    pub kind: SessionKind,
    /// The identity's name.
    pub identity: String,
    /// The user's `sub`.
    pub subject: String,
    /// The name the user signed in with.
    pub username: String,
    /// Who owns it.
    pub owner_uid: u32,
    /// What it can do.
    pub state: SessionState,
    /// The identity id, once known; never changes for a session.
    pub identity_id: Option<String>,
    /// The groups in the ID token.
    pub groups: Vec<String>,
    /// When the user signed in here.
    pub create_time: SystemTime,
    /// When the cached credentials end.
    pub credentials_expire_time: Option<SystemTime>,
    /// Why the last refresh failed.
    pub last_error: Option<String>,
    /// The guest identity id whose objects stayed behind when a guest signed in.
    pub merged_from: Option<String>,
}

/// What came of a sign-in, as far as it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignInProgress {
    /// Signed in.
    SignedIn(Box<SessionView>),
    /// Something is left to do: see `Sessions::respond_to_challenge`.
    Challenged(ChallengeView),
}

impl SignInProgress {
    /// The session, where nothing is left to do.
    pub fn session(self) -> Option<SessionView> {
        match self {
            Self::SignedIn(view) => Some(*view),
            Self::Challenged(_) => None,
        }
    }
}

/// What may be shown of a challenge. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeView {
    /// Names the attempt; unguessable, good for one answer of the uid that signs in.
    pub id: String,
    /// Cognito's name of it.
    pub name: String,
    /// What the directory says about it.
    pub parameters: BTreeMap<String, String>,
}

/// Credentials as they are served.
#[derive(Debug, Clone)]
pub struct ServedCredentials {
    /// The credentials.
    pub credentials: Arc<Credentials>,
    /// Whose they are.
    pub identity_id: String,
    /// True where the last refresh failed.
    pub stale: bool,
    /// Why it failed.
    pub last_error: Option<String>,
}

/// JWTs as they are served.
#[derive(Debug, Clone)]
pub struct ServedTokens {
    /// The ID token.
    pub id_token: SecretString,
    /// When it ends.
    pub id_token_expire_time: SystemTime,
    /// The access token, where there is one.
    pub access_token: Option<(SecretString, SystemTime)>,
}

/// How a user proves who they are.
#[derive(Debug, Clone)]
pub enum SignInMethod {
    /// By name and password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// As nobody, by the identity pool's unauthenticated role.
    Guest,
    /// By tokens that the app has already.
    Tokens {
        /// The ID token.
        id_token: SecretString,
        /// The access token.
        access_token: Option<SecretString>,
        /// The refresh token.
        refresh_token: Option<SecretString>,
    },
}

/// What happens to the uploads of a session that ends. `upload` carries it out; see `Uploads::session_ended`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignOutUploads {
    /// Sent first.
    Drain,
    /// Wait for the same user.
    Park,
    /// Cancelled.
    Cancel,
}

/// One identity of the configuration, built by `daemon`.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Tiers hang on the role: the client must never name one.
    pub tiered: bool,
    /// Signs users in.
    pub tokens: Arc<dyn TokenSource>,
    /// Exchanges logins for credentials.
    pub credentials: Arc<dyn CredentialSource>,
    /// Only for tests against other clouds: lets a tiered identity use a source where the client names the role.
    pub allow_client_role_choice: bool,
    /// Guests may sign in.
    pub guests: bool,
}

/// The tokens of one user, as a source gave them.
#[derive(Debug, Clone)]
pub struct TokenSet {
    /// The ID token.
    pub id_token: SecretString,
    /// The access token.
    pub access_token: Option<SecretString>,
    /// When the access token ends.
    pub access_token_expire_time: Option<SystemTime>,
    /// The refresh token; absent where the source has none, or where a refresh did not give a new one.
    pub refresh_token: Option<SecretString>,
    /// The device that the user pool remembers from now on, or still.
    pub device: Option<RememberedDevice>,
    /// What the verified ID token says.
    pub claims: IdClaims,
}

/// A device that a user pool remembers for a user: a second proof instead of a second factor. See "Using device tracking
/// and remembering" in Cognito's developer guide.
#[derive(Debug, Clone)]
pub struct RememberedDevice {
    /// `DeviceKey`.
    pub key: String,
    /// `DeviceGroupKey`.
    pub group_key: String,
    /// The password that this device made for itself.
    pub password: SecretString,
}

/// How far a token source got with a sign-in.
#[derive(Debug, Clone)]
pub enum SignInStep {
    /// The tokens.
    Tokens(Box<TokenSet>),
    /// Something is asked first.
    Challenge(Box<Challenge>),
}

/// What a token source asks before it gives tokens. Kept here until it is answered; only its name and parameters are
/// shown.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// Cognito's name of it, for example `SOFTWARE_TOKEN_MFA`.
    pub name: String,
    /// What may be shown to the user.
    pub parameters: BTreeMap<String, String>,
    /// The name that the user signs in with.
    pub username: String,
    /// What the source needs to take the answer.
    pub handle: SecretString,
}

/// What a refresh is made with.
#[derive(Debug, Clone, Default)]
pub struct RefreshGrant {
    /// The refresh token; absent where the source needs none.
    pub refresh_token: Option<SecretString>,
    /// The device that the pool remembers: its key goes with every refresh.
    pub device: Option<RememberedDevice>,
}

/// What a verified ID token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdClaims {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`: the client.
    pub audience: String,
    /// `cognito:username`, else `email`, else `sub`.
    pub username: String,
    /// `cognito:groups`.
    pub groups: Vec<String>,
    /// `exp`.
    pub expire_time: SystemTime,
}

/// Signs users in and keeps their tokens fresh. Every ID token that it returns is verified: signature, issuer,
/// audience, expiry, `token_use`.
#[async_trait::async_trait]
pub trait TokenSource: Send + Sync + std::fmt::Debug + 'static {
    /// The identity pool's login key for this source's tokens.
    fn provider(&self) -> &str;
    /// True where [`TokenSource::refresh`] gives tokens without a refresh token and without a user: a device's own
    /// tokens, which only the service sessions of the configuration may use.
    fn needs_no_user(&self) -> bool {
        false
    }
    /// Signs a user in by password; `device` is what the pool remembers of an earlier sign-in here.
    ///
    /// # Errors
    /// By what to do about it: see [`TokenError`].
    async fn sign_in(
        &self,
        username: &str,
        password: &SecretString,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError>;
    /// Answers what [`TokenSource::sign_in`] was asked, by Cognito's names of the answers.
    ///
    /// # Errors
    /// By what to do about it: see [`TokenError`].
    async fn answer(
        &self,
        challenge: &Challenge,
        answers: &BTreeMap<String, SecretString>,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError>;
    /// Verifies tokens that the app got by itself.
    ///
    /// # Errors
    /// By what to do about it: see [`TokenError`].
    async fn verify(
        &self,
        id_token: SecretString,
        access_token: Option<SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<TokenSet, TokenError>;
    /// New tokens of the same user.
    ///
    /// # Errors
    /// By what to do about it: see [`TokenError`].
    async fn refresh(&self, grant: &RefreshGrant) -> Result<TokenSet, TokenError>;
    /// Ends the refresh token (and, with `everywhere`, all the user's sessions) at the source.
    ///
    /// # Errors
    /// By what to do about it: see [`TokenError`].
    async fn revoke(
        &self,
        refresh_token: &SecretString,
        access_token: Option<&SecretString>,
        everywhere: bool,
    ) -> Result<(), TokenError>;
}

/// A failure of a token source, by what to do about it. The text is for a person and holds no secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// Wrong name or password.
    #[error("{0}")]
    BadCredentials(String),
    /// The account waits for its confirmation code.
    #[error("{0}")]
    UserNotConfirmed(String),
    /// The user must reset the password first.
    #[error("{0}")]
    PasswordResetRequired(String),
    /// The pool asks for a challenge, named here.
    #[error("{0}")]
    ChallengeRequired(String),
    /// Forged, malformed, or not an ID token.
    #[error("{0}")]
    TokenInvalid(String),
    /// Expired.
    #[error("{0}")]
    TokenExpired(String),
    /// For another client or another pool.
    #[error("{0}")]
    TokenWrongAudience(String),
    /// The refresh token is finished (used again after rotation, user deleted): wipe at once.
    #[error("{0}")]
    Terminal(String),
    /// The refresh was refused, which a misconfiguration can cause too: stop vending at expiry, keep the token.
    #[error("{0}")]
    NotAuthorized(String),
    /// Try again later: network, timeout, 5xx.
    #[error("{0}")]
    Transient(String),
    /// Try again much later.
    #[error("{0}")]
    Throttled(String),
    /// Somebody must mend the configuration.
    #[error("{0}")]
    Configuration(String),
}

/// Why a session call failed. `api/status.rs` maps every variant to a status.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// No such session, or another uid's.
    #[error("no session {0:?} of this uid: list yours with ListSessions, or sign in")]
    NotFound(String),
    /// The name was left out and the caller has none.
    #[error("this uid has no session: sign in first")]
    NoSession,
    /// The name was left out and the caller has several.
    #[error("this uid has {0} sessions: say which one")]
    Ambiguous(usize),
    /// No such identity in the configuration.
    #[error("no identity {0:?} in the configuration; it has: {1}")]
    IdentityNotFound(String, String),
    /// The identity was left out and the configuration has several.
    #[error("the configuration has {0} identities: say which one")]
    IdentityAmbiguous(usize),
    /// The device holds as many sessions as it may.
    #[error("this device holds {0} sessions, as many as max_sessions allows: sign one out")]
    LimitReached(usize),
    /// From the token source.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The user must sign in again.
    #[error("{0}")]
    NeedsSignIn(String),
    /// No valid credentials now; worth another try after a while.
    #[error("{message}")]
    Unavailable {
        /// What failed last.
        message: String,
        /// When another try makes sense.
        retry_after: std::time::Duration,
    },
    /// Somebody must mend the configuration.
    #[error("{0}")]
    Configuration(String),
    /// The refresh gave another user, issuer, client or identity id.
    #[error("{0}")]
    IdentityChanged(String),
    /// The identity, or its pool, takes no guests.
    #[error("{0}")]
    GuestsRefused(String),
    /// A guest has no JWTs.
    #[error("a guest has no tokens: sign a user in to get some")]
    GuestHasNoTokens,
    /// Callers cannot end a session of the configuration.
    #[error(
        "service session {0:?} is the device's own account: only the administrator ends it, by taking it out of the \
         configuration"
    )]
    ServiceSession(String),
    /// The state directory failed.
    #[error("{0}")]
    Storage(String),
}
