//! What the configuration says about sessions. Defaults are those of `config/full.toml`.

use std::path::PathBuf;

use crate::credential::SecretPlace;

/// `[session]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The most sessions that this device holds.
    pub max_sessions: usize,
    /// The file with the 32 bytes that seal refresh tokens; made at the first start. A systemd credential named
    /// `tidegate-seal-key` goes first.
    pub seal_key_file: PathBuf,
    /// Upstream calls per second of the whole process.
    pub max_upstream_calls_per_s: u32,
    /// Upstream calls that may go out at once after a quiet time.
    pub upstream_burst: u32,
    /// Credentials are served until this long before they expire (at most a quarter of their lifetime).
    pub serve_until_before_expiry_ms: u64,
    /// An ID token with less than this left is refreshed before it is used (at most a third of its lifetime).
    pub id_token_refresh_before_ms: u64,
    /// The first back-off; doubles with every failure, full jitter.
    pub backoff_initial_ms: u64,
    /// The longest back-off.
    pub backoff_max_ms: u64,
    /// The longest back-off while valid credentials have less than 15 minutes left.
    pub backoff_urgent_max_ms: u64,
    /// For how long after a lost reply the user pool takes the refresh token from before a rotation.
    pub rotation_grace_ms: u64,
    /// The longest back-off in that time.
    pub rotation_retry_max_ms: u64,
    /// How often a configuration error is tried again.
    pub configuration_retry_ms: u64,
    /// How often a refused refresh token is tried again.
    pub refused_retry_ms: u64,
    /// A refresh token that was refused for this long is wiped.
    pub refused_wipe_after_ms: u64,
    /// After a start, and when the link returns, sessions that nobody waits for spread over this time.
    pub boot_spread_ms: u64,
    /// The first interval between refreshes after an `AccessDenied`; doubles.
    pub denied_refresh_initial_ms: u64,
    /// The longest interval between refreshes after an `AccessDenied`.
    pub denied_refresh_max_ms: u64,
    /// A session that is signed out with its uploads drained ends after this long.
    pub drain_max_ms: u64,
    /// How long a sign-in waits for the first credentials before it answers without them.
    pub sign_in_wait_ms: u64,
    /// How long a challenge may be answered: shorter than the user pool waits (`AuthSessionValidity`, 3 minutes at least).
    pub challenge_lifetime_ms: u64,
    /// The most challenges that wait for an answer; the oldest makes room.
    pub max_challenges: usize,
    /// The same of one uid.
    pub max_challenges_per_uid: usize,
    /// The most remembered devices that are kept; the oldest makes room.
    pub max_remembered_devices: usize,
    /// The most callers that wait for one session.
    pub max_waiters_per_session: usize,
    /// From the beginning of a sign-in by a page in the browser to the browser's return.
    pub federated_sign_in_lifetime_ms: u64,
    /// The most of them under way.
    pub max_federated_sign_ins: usize,
    /// The most of them of one uid; one more ends its oldest one.
    pub max_federated_sign_ins_per_uid: usize,
    /// How long connecting to AWS may take.
    pub connect_timeout_ms: u64,
    /// How long a call to AWS may take in all.
    pub call_timeout_ms: u64,
    /// How long a sign-in waits for a guest's uploads, so that the guest's identity id can become the user's.
    pub guest_hand_over_wait_ms: u64,
    /// `[[service_session]]`.
    pub services: Vec<ServiceConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_sessions: 1_000,
            seal_key_file: PathBuf::from("/var/lib/tidegate-key/seal.key"),
            max_upstream_calls_per_s: 2,
            upstream_burst: 10,
            serve_until_before_expiry_ms: 60_000,
            id_token_refresh_before_ms: 300_000,
            backoff_initial_ms: 1_000,
            backoff_max_ms: 120_000,
            backoff_urgent_max_ms: 30_000,
            rotation_grace_ms: 60_000,
            rotation_retry_max_ms: 10_000,
            configuration_retry_ms: 300_000,
            refused_retry_ms: 3_600_000,
            refused_wipe_after_ms: 72 * 3_600_000,
            boot_spread_ms: 180_000,
            denied_refresh_initial_ms: 30_000,
            denied_refresh_max_ms: 900_000,
            drain_max_ms: 24 * 3_600_000,
            sign_in_wait_ms: 10_000,
            challenge_lifetime_ms: 170_000,
            max_challenges: 1_024,
            max_challenges_per_uid: 32,
            max_remembered_devices: 4_096,
            max_waiters_per_session: 16_384,
            federated_sign_in_lifetime_ms: 600_000,
            max_federated_sign_ins: 64,
            max_federated_sign_ins_per_uid: 8,
            connect_timeout_ms: 3_000,
            call_timeout_ms: 10_000,
            guest_hand_over_wait_ms: 5_000,
            services: Vec::new(),
        }
    }
}

/// `[[service_session]]`: a device account that signs itself in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Its name; the session keeps its id as long as name, identity and account stay the same.
    pub name: String,
    /// The identity's name.
    pub identity: String,
    /// The uids that may use it.
    pub allowed_uids: Vec<u32>,
    /// How it signs in.
    pub login: ServiceLogin,
}

/// How a service session signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceLogin {
    /// By name and password.
    Password {
        /// The account's name.
        username: String,
        /// Where its password is.
        password: SecretPlace,
    },
    /// By the tokens that the identity's source has of its own.
    Source,
}

/// The kinds of token source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokensKind {
    /// `cognito_user_pool`.
    #[default]
    CognitoUserPool,
    /// `oidc`: any OpenID Connect issuer.
    Oidc,
}

/// `[identity.tokens]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokensConfig {
    /// Which plug-in.
    pub kind: TokensKind,
    /// The pool's region.
    pub region: String,
    /// The pool's id, `us-east-1_…`.
    pub user_pool_id: String,
    /// The app client's id: the audience of ID tokens.
    pub client_id: String,
    /// Another endpoint than AWS's; `https`, or `http` on loopback.
    pub endpoint_url: Option<String>,
    /// The tokens' `iss`; left out: see [`TokensConfig::issuer`].
    pub issuer: Option<String>,
    /// Where the issuer's keys are; left out: a pool's own `/.well-known/jwks.json`, or where the issuer says.
    pub jwks_url: Option<String>,
    /// How a password is proved.
    pub sign_in_flow: SignInFlow,
    /// Whether the pool is told to remember this device.
    pub remember_device: RememberDevice,
    /// Only `oidc`: the file that somebody keeps an ID token of the device in.
    pub token_file: Option<PathBuf>,
    /// Only `oidc`: the command that prints one; the first is the program's absolute path.
    pub token_command: Vec<String>,
    /// How long the command may take.
    pub token_command_timeout_ms: u64,
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            kind: TokensKind::default(),
            region: String::new(),
            user_pool_id: String::new(),
            client_id: String::new(),
            endpoint_url: None,
            issuer: None,
            jwks_url: None,
            sign_in_flow: SignInFlow::default(),
            remember_device: RememberDevice::default(),
            token_file: None,
            token_command: Vec::new(),
            token_command_timeout_ms: 10_000,
        }
    }
}

/// How a user signs in by name and password. What the pool answers never changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignInFlow {
    /// `USER_SRP_AUTH`: the password never leaves the device.
    #[default]
    Srp,
    /// `USER_PASSWORD_AUTH`: the password is sent to the pool, over TLS.
    Password,
    /// `USER_AUTH`: with a password SRP, without one the user chooses among what the pool offers.
    Choice,
}

/// What becomes of the device after a sign-in, in pools that track devices. Such a pool refreshes only for a confirmed
/// device, so it is confirmed in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RememberDevice {
    /// As the pool says: remembered where the pool always does, not where it leaves that to the user.
    #[default]
    Pool,
    /// Remembered also where the pool leaves that to the user.
    Always,
    /// Not remembered: every sign-in needs its second factor.
    Never,
}

impl TokensConfig {
    /// The `iss` that tokens must have: as configured, else `{endpoint_url}/{pool}` with another endpoint, else AWS's.
    pub fn issuer(&self) -> String {
        match (&self.issuer, &self.endpoint_url) {
            (Some(issuer), _) => issuer.clone(),
            (None, Some(endpoint)) => format!("{}/{}", endpoint.trim_end_matches('/'), self.user_pool_id),
            (None, None) => format!("https://{}", self.provider()),
        }
    }

    /// Where the pool's keys are.
    pub fn jwks_url(&self) -> String {
        match &self.jwks_url {
            Some(url) => url.clone(),
            None => format!("{}/.well-known/jwks.json", self.issuer()),
        }
    }

    /// The source has tokens of its own: nobody signs in.
    pub fn needs_no_user(&self) -> bool {
        self.kind == TokensKind::Oidc && (self.token_file.is_some() || !self.token_command.is_empty())
    }

    /// The identity pool's login key: `cognito-idp.REGION.amazonaws.com/POOL`, wherever the endpoint is; of another
    /// issuer its URL without the scheme.
    pub fn provider(&self) -> String {
        if self.kind == TokensKind::Oidc {
            let issuer = self.issuer.as_deref().unwrap_or_default();
            return issuer.split_once("://").map_or(issuer, |(_, rest)| rest).trim_end_matches('/').to_owned();
        }
        format!("cognito-idp.{}.amazonaws.com/{}", self.region, self.user_pool_id)
    }
}
