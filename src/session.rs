//! Signed-in users. Owns the registry, the refresh schedule and the sealed token store; promises that credentials are
//! never used after their deadline, that a failure never removes valid ones and that one session makes one upstream
//! call at a time; must never show a session to another uid.

mod actor;
mod challenges;
mod codes;
pub mod cognito_tokens;
mod config;
pub mod conformance;
mod endpoint_token;
mod event;
mod failure;
#[cfg(test)]
mod fake;
mod federated;
mod federation;
mod files;
mod guests;
#[cfg(test)]
mod histories;
pub mod hosted_ui;
mod jwks;
mod landing;
mod limiter;
mod mailbox;
pub mod oidc_tokens;
mod redirect;
mod registry;
mod schedule;
mod seal;
mod service;
mod sessions;
mod signing_in;
mod state;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::SecretString;

use crate::credential::{CredentialSource, Credentials};

pub use config::{Config, RememberDevice, ServiceConfig, ServiceLogin, SignInFlow, TokensConfig, TokensKind};
pub use federated::{FederatedBegun, FederatedSignIn};
pub use federation::{Federation, FederationError};
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

/// What is shown of a challenge to the caller that signs in.
#[derive(Clone, PartialEq, Eq)]
pub struct ChallengeView {
    /// Names the attempt; unguessable, good for one accepted answer of the uid that signs in.
    pub id: String,
    /// Cognito's name of it.
    pub name: String,
    /// What the directory says about it; may hold a secret that is shown once (`SECRET_CODE`).
    pub parameters: BTreeMap<String, String>,
    /// The names that an answer must have.
    pub answers: Vec<String>,
    /// After this it cannot be answered.
    pub expire_time: SystemTime,
}

impl std::fmt::Debug for ChallengeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChallengeView").field("name", &self.name).finish_non_exhaustive()
    }
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

impl SignOutUploads {
    /// What that means for a session of this kind: nobody comes back as a guest who has signed out, so what would wait
    /// for one is sent.
    #[must_use]
    pub fn of_a(self, kind: SessionKind) -> Self {
        match (self, kind) {
            (Self::Park, SessionKind::Guest) => Self::Drain,
            (what, _) => what,
        }
    }
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
    /// Signs users in by a page in their browser, where there is one.
    pub federation: Option<Arc<dyn Federation>>,
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
    /// The password that this device made for itself; absent where the pool knows only the key, which then goes with
    /// refreshes but proves nothing at a sign-in.
    pub password: Option<SecretString>,
}

/// How far a token source got with a sign-in.
#[derive(Debug, Clone)]
pub enum SignInStep {
    /// The tokens.
    Tokens(Box<TokenSet>),
    /// Something is asked first.
    Challenge(Box<Challenge>),
}

/// What a token source asks before it gives tokens. Kept here until it is answered; only its name, its parameters and
/// the answers' names are shown.
#[derive(Clone)]
pub struct Challenge {
    /// Cognito's name of it, for example `SOFTWARE_TOKEN_MFA`.
    pub name: String,
    /// What is shown to the user, once: it may hold a secret (`SECRET_CODE`), so it is not kept.
    pub parameters: BTreeMap<String, String>,
    /// The names that an answer must have.
    pub answers: Vec<String>,
    /// The name that the user signs in with.
    pub username: String,
    /// What the source needs to take the answer.
    pub handle: SecretString,
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenge").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One answer that cannot be used, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerProblem {
    /// The answer's name.
    pub name: String,
    /// What is wrong and what would be right; holds no answer.
    pub why: String,
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
    /// About the sign-in that it is from.
    pub sign_in: Box<SignInClaims>,
}

/// What a verified ID token says about the sign-in that it is from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignInClaims {
    /// `iat`.
    pub issue_time: Option<SystemTime>,
    /// `auth_time`: when the user proved who they are.
    pub auth_time: Option<SystemTime>,
    /// `email`, verified or not.
    pub email: Option<String>,
    /// `nonce`: which sign-in by a page it is for.
    pub nonce: Option<String>,
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
    /// Signs a user in by password; `device` is what the pool remembers of an earlier sign-in here. Where the pool does
    /// not know it any more, the sign-in goes on without; the device that counts from now on is in the [`TokenSet`].
    ///
    /// # Errors
    /// By what to do about it: see [`TokenError`].
    async fn sign_in(
        &self,
        username: &str,
        password: &SecretString,
        device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError>;
    /// Answers what [`TokenSource::sign_in`] was asked, by Cognito's names of the answers; `device` is the one that the
    /// sign-in was begun with. See [`TokenError::keeps_challenge`] for what may be answered again.
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
        grant: &RefreshGrant,
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
    /// A rule of the pool (one of its triggers) refuses the sign-in; the text is the pool's.
    #[error("{0}")]
    RefusedByPool(String),
    /// The source asks for something that cannot be answered here.
    #[error("{why}")]
    ChallengeRequired {
        /// Cognito's name of it.
        name: String,
        /// Why it cannot be answered, and what to do.
        why: String,
    },
    /// The sign-in has no password, and this source needs one.
    #[error("a password is needed to sign in here")]
    PasswordMissing,
    /// Answers are missing, or have names that the challenge does not know. Nothing was sent.
    #[error("the challenge cannot be answered like this: {}", shown(.0))]
    InvalidAnswers(Vec<AnswerProblem>),
    /// The source refuses an answer's form; the text says which.
    #[error("{0}")]
    AnswerRefused(String),
    /// The code is wrong.
    #[error("{0}")]
    CodeMismatch(String),
    /// The code is too old, or was used already.
    #[error("{0}")]
    CodeExpired(String),
    /// The new password does not meet the pool's policy, which the text names.
    #[error("{0}")]
    InvalidPassword(String),
    /// The source does not wait for this answer any more: the sign-in starts over.
    #[error("{0}")]
    ChallengeOver(String),
    /// The source does not know the remembered device any more: it is to be forgotten, and the sign-in starts over.
    #[error("{0}")]
    DeviceUnknown(String),
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
    /// A refresh was answered, but the ID token in the answer could not be verified. Its refresh token may be the only one
    /// that is still good.
    #[error("{why}")]
    Unverified {
        /// The rotated refresh token.
        refresh_token: SecretString,
        /// Why the rest does not count.
        why: Box<TokenError>,
    },
    /// The refresh was refused, which a misconfiguration can cause too: stop vending at expiry, keep the token.
    #[error("{0}")]
    NotAuthorized(String),
    /// Try again later: network, timeout, 5xx.
    #[error("{0}")]
    Transient(String),
    /// A refresh was sent and no answer came: nobody knows whether the refresh token was rotated. Try again soon.
    #[error("{0}")]
    ReplyLost(String),
    /// Try again much later.
    #[error("{0}")]
    Throttled(String),
    /// Somebody must mend the configuration.
    #[error("{0}")]
    Configuration(String),
    /// This source signs nobody in that way.
    #[error("{0}")]
    MethodUnsupported(String),
}

impl TokenError {
    /// True where the same challenge may be answered again: the source has not taken the answer, or may not have.
    pub fn keeps_challenge(&self) -> bool {
        matches!(
            self,
            Self::InvalidAnswers(_)
                | Self::AnswerRefused(_)
                | Self::CodeMismatch(_)
                | Self::CodeExpired(_)
                | Self::InvalidPassword(_)
                | Self::Transient(_)
                | Self::Throttled(_)
        )
    }
}

fn shown(problems: &[AnswerProblem]) -> String {
    problems.iter().map(|problem| format!("{} {}", problem.name, problem.why)).collect::<Vec<_>>().join("; ")
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
    /// No such challenge, or another uid's.
    #[error("no open challenge of this uid has this id: sign in again")]
    ChallengeNotFound,
    /// It was answered.
    #[error("this challenge was answered already: go on with the next one, or sign in again")]
    ChallengeAnswered,
    /// It was not answered in time, or made room for newer ones.
    #[error("this challenge is over: {0}; sign in again")]
    ChallengeExpired(&'static str),
    /// Another answer is on its way.
    #[error("another answer to this challenge is on its way: wait for what comes of it")]
    ChallengeBusy,
    /// From a sign-in by a page in the browser.
    #[error(transparent)]
    Federation(#[from] FederationError),
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
