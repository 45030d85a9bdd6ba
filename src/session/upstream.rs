//! One call to a token or credential source, as a future that a session's task drives. It waits for its turn at the
//! process-wide limit, ahead of the background once somebody waits for it, and always comes back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::event::Call;
use super::files::Contents;
use super::registry::Shared;
use super::{Identity, RefreshGrant, TokenError, TokenSet};
use crate::credential::{CredentialError, CredentialErrorKind, Credentials, Login};

/// A call in flight; dropping it cancels it.
pub type Pending = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What came of a call.
pub enum Outcome {
    Tokens(Result<TokenSet, TokenError>),
    IdentityId(Result<String, CredentialError>),
    Credentials(Result<Credentials, CredentialError>),
}

/// What a call sends.
pub struct Secrets {
    login: Option<Login>,
    grant: RefreshGrant,
    identity_id: Option<String>,
}

impl Secrets {
    /// The session's, as they are now.
    pub fn of(identity: &Identity, subject: &str, tokens: Option<&TokenSet>, contents: &Contents) -> Self {
        let login = tokens.map(|set| Login {
            provider: identity.tokens.provider().to_owned(),
            subject: subject.to_owned(),
            id_token: set.id_token.clone(),
        });
        let grant = RefreshGrant { refresh_token: contents.refresh_token.clone(), device: contents.device.clone() };
        Self { login, grant, identity_id: contents.identity_id.clone() }
    }
}

/// Makes the call, once it is its turn.
pub fn call(
    shared: &Arc<Shared>,
    identity: &Identity,
    secrets: Secrets,
    urgent: watch::Receiver<bool>,
    call: Call,
) -> Pending {
    let shared = Arc::clone(shared);
    let (tokens, credentials) = (Arc::clone(&identity.tokens), Arc::clone(&identity.credentials));
    Box::pin(async move {
        let Secrets { login, grant, identity_id } = secrets;
        shared.limiter.acquire(urgent).await;
        let limit = shared.give_up_after;
        match call {
            Call::Tokens => {
                let call = tokens.refresh(&grant);
                let late = || Err(TokenError::Transient(late("the token refresh", limit)));
                Outcome::Tokens(tokio::time::timeout(limit, call).await.unwrap_or_else(|_| late()))
            }
            Call::IdentityId => {
                let call = credentials.identity_id(login.as_ref());
                let late = || Err(late_credentials("asking for the identity id", limit));
                Outcome::IdentityId(tokio::time::timeout(limit, call).await.unwrap_or_else(|_| late()))
            }
            Call::Credentials => {
                let identity_id = identity_id.unwrap_or_default();
                let call = credentials.credentials(&identity_id, login.as_ref());
                let late = || Err(late_credentials("asking for credentials", limit));
                Outcome::Credentials(tokio::time::timeout(limit, call).await.unwrap_or_else(|_| late()))
            }
        }
    })
}

/// The call in flight, or never.
pub async fn done(pending: &mut Option<Pending>) -> Outcome {
    match pending {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

fn late(what: &str, limit: Duration) -> String {
    format!("{what} took longer than {} s", limit.as_secs())
}

fn late_credentials(what: &str, limit: Duration) -> CredentialError {
    CredentialError { kind: CredentialErrorKind::Transient, message: late(what, limit) }
}
