//! STS: temporary credentials and who holds them. Owns the administrator's keys, the sessions of roles and the checks
//! of trust and permission; promises that credentials say for themselves whose they are and when they end, so nothing
//! is looked up in a table and a restart on the same data directory forgets none. Must never name a role that its trust
//! policy withholds.

mod access;
mod query;
mod sealed;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};

use crate::clock::{from_unix_ms, unix_ms};
use crate::local_cloud::seed::RoleSeed;
use crate::local_cloud::site::{Site, StartError};

pub use access::Role;
pub use query::QueryReply;
use sealed::{SealedSession, Seals};

/// The condition key that says whose credentials of an identity pool these are.
const IDENTITY_ID: &str = "cognito-identity.amazonaws.com:sub";

/// Who signed a request, as the server found it out from the signature.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Nobody: the request carries no signature.
    Anonymous,
    /// The local cloud's static keys, to which nothing is denied.
    Administrator,
    /// A role's session.
    Role(Principal),
}

/// Who signed a request, as IAM sees it.
#[derive(Debug, Clone)]
pub struct Principal {
    /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`, or `arn:aws:iam::ACCOUNT:root` for the administrator.
    pub arn: String,
    /// The role; none for the administrator, whom nothing is denied.
    pub role_arn: Option<String>,
    /// Condition keys that the session carries, for example `cognito-identity.amazonaws.com:sub`.
    pub context: BTreeMap<String, Vec<String>>,
}

/// Temporary credentials as they are given out.
#[derive(Clone)]
pub struct IssuedCredentials {
    /// `ASIA…`.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: String,
    /// The session token.
    pub session_token: String,
    /// When they end.
    pub expire_time: SystemTime,
}

impl fmt::Debug for IssuedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCredentials")
            .field("access_key_id", &self.access_key_id)
            .field("expire_time", &self.expire_time)
            .finish_non_exhaustive()
    }
}

/// The static keys of the local cloud's administrator.
#[derive(Debug, Clone)]
pub struct AdministratorKeys {
    /// The access key id; must not begin with `ASIA`, which is for temporary keys.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: SecretString,
}

/// Why a request's keys do not count. Each service has its own code for each of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// S3 `InvalidAccessKeyId`, JSON services `UnrecognizedClientException`.
    #[error("the access key id does not exist")]
    UnknownAccessKey,
    /// The token is missing, not ours, or another key's: S3 `InvalidToken`, JSON `UnrecognizedClientException`.
    #[error("the session token is missing or does not belong to the access key id")]
    InvalidToken,
    /// S3 `ExpiredToken`, JSON `ExpiredTokenException`.
    #[error("the session token has expired")]
    Expired,
}

/// What a role's session is made from.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    /// The role.
    pub role_arn: String,
    /// The last part of the session's ARN.
    pub session_name: String,
    /// How long the credentials last.
    pub lifetime: Duration,
    /// Condition keys that policies see in every request of the session.
    pub context: BTreeMap<String, Vec<String>>,
}

/// Gives out and recognises credentials; clones share everything.
#[derive(Clone)]
pub struct Sts(Arc<Inner>);

struct Inner {
    site: Site,
    roles: BTreeMap<String, Role>,
    administrator: AdministratorKeys,
    seals: Seals,
    /// Sessions issued before this moment count as expired.
    expired_before_ms: AtomicU64,
    /// No session lasts longer.
    longest_lifetime_ms: AtomicU64,
}

impl Sts {
    /// Reads the roles' policies, and reads or makes its keys.
    pub fn start(site: &Site, roles: &[RoleSeed], administrator: AdministratorKeys) -> Result<Self, StartError> {
        let roles =
            roles.iter().map(|seed| Ok((seed.arn.clone(), Role::new(seed)?))).collect::<Result<_, StartError>>()?;
        let seals = Seals::load_or_generate(&site.state)?;
        Ok(Self(Arc::new(Inner {
            site: site.clone(),
            roles,
            administrator,
            seals,
            expired_before_ms: AtomicU64::new(0),
            longest_lifetime_ms: AtomicU64::new(u64::MAX),
        })))
    }

    /// The secret of an access key id: what a signature is checked with. None for an id that was never given out.
    pub fn secret(&self, access_key_id: &str) -> Option<SecretString> {
        if access_key_id == self.0.administrator.access_key_id {
            return Some(self.0.administrator.secret_access_key.clone());
        }
        self.0.seals.secret_of(access_key_id).map(SecretString::from)
    }

    /// Whose keys these are. The caller has checked, or checks, the signature with [`Sts::secret`].
    pub fn session(&self, access_key_id: &str, session_token: Option<&str>) -> Result<Auth, SessionError> {
        if access_key_id == self.0.administrator.access_key_id {
            return Ok(Auth::Administrator);
        }
        if self.secret(access_key_id).is_none() {
            return Err(SessionError::UnknownAccessKey);
        }
        let session = session_token.and_then(|token| self.0.seals.open(token)).ok_or(SessionError::InvalidToken)?;
        if session.access_key_id != access_key_id {
            return Err(SessionError::InvalidToken);
        }
        let expired_before_ms = self.0.expired_before_ms.load(Ordering::SeqCst);
        if self.0.site.now_ms() >= session.expire_ms || session.issue_ms < expired_before_ms {
            return Err(SessionError::Expired);
        }
        Ok(Auth::Role(self.principal(&session)))
    }

    /// The identity id whose keys these are, where the token is one of ours and belongs to them; ended ones count as well.
    pub fn identity_id(&self, access_key_id: &str, session_token: Option<&str>) -> Option<String> {
        let session = self.0.seals.open(session_token?)?;
        let names = session.context.get(IDENTITY_ID).filter(|_| session.access_key_id == access_key_id)?;
        names.first().cloned()
    }

    /// Makes credentials for a role. Does not ask whether anybody may have them: see [`Sts::trusts_web_identity`].
    pub fn issue(&self, request: &SessionRequest) -> IssuedCredentials {
        let access_key_id = self.0.seals.new_access_key_id();
        let secret_access_key = self.0.seals.secret_of(&access_key_id).expect("the id was made by these seals");
        let issue_ms = self.0.site.now_ms();
        // Real credentials end at a whole second.
        let longest_ms = self.0.longest_lifetime_ms.load(Ordering::SeqCst);
        let lifetime_ms = u64::try_from(request.lifetime.as_millis()).unwrap_or(u64::MAX).min(longest_ms);
        let expire_ms = issue_ms.saturating_add(lifetime_ms) / 1_000 * 1_000;
        let session_token = self.0.seals.seal(&SealedSession {
            access_key_id: access_key_id.clone(),
            role_arn: request.role_arn.clone(),
            session_name: request.session_name.clone(),
            context: request.context.clone(),
            issue_ms,
            expire_ms,
        });
        let expire_time = from_unix_ms(i64::try_from(expire_ms).unwrap_or(i64::MAX));
        IssuedCredentials { access_key_id, secret_access_key, session_token, expire_time }
    }

    /// The role with this ARN.
    pub fn role(&self, arn: &str) -> Option<&Role> {
        self.0.roles.get(arn)
    }

    /// A fault for rehearsals: all temporary credentials given out so far count as expired from now on.
    pub fn expire_sessions(&self) {
        self.0.expired_before_ms.store(self.0.site.now_ms().saturating_add(1), Ordering::SeqCst);
    }

    /// A fault for rehearsals: credentials given out from now on last this long at most, so that a refresh can be seen
    /// within minutes; `None` lifts it.
    pub fn limit_lifetimes(&self, longest: Option<Duration>) {
        let longest_ms = longest.map_or(u64::MAX, |longest| u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
        self.0.longest_lifetime_ms.store(longest_ms, Ordering::SeqCst);
    }

    /// The administrator's access key id and secret, as a start-up message or a test's client needs them.
    pub fn administrator(&self) -> &AdministratorKeys {
        &self.0.administrator
    }

    fn principal(&self, session: &SealedSession) -> Principal {
        let role_name = session.role_arn.rsplit('/').next().unwrap_or_default();
        let account = &self.0.site.account_id;
        let arn = format!("arn:aws:sts::{account}:assumed-role/{role_name}/{}", session.session_name);
        Principal { arn, role_arn: Some(session.role_arn.clone()), context: session.context.clone() }
    }
}

impl fmt::Debug for Sts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sts").field("roles", &self.0.roles.keys()).finish_non_exhaustive()
    }
}

impl AdministratorKeys {
    /// The two keys; the secret in the clear, for a start-up message.
    pub fn expose(&self) -> (&str, &str) {
        (&self.access_key_id, self.secret_access_key.expose_secret())
    }
}

/// Seconds since 1970 of a time.
pub(crate) fn unix_s(time: SystemTime) -> u64 {
    u64::try_from(unix_ms(time)).unwrap_or(0) / 1_000
}

#[cfg(test)]
pub(crate) mod tests;
