//! One call to a token or credential source, as a future that a session's task drives. It waits for its turn at the
//! process-wide limit, ahead of the background once somebody waits for it, and always comes back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::event::Call;
use super::guests::Offer;
use super::registry::Shared;
use super::{Identity, RefreshGrant, ServiceConfig, TokenError, TokenSet};
use crate::credential::{CredentialError, CredentialErrorKind, Credentials, Login};

/// A call in flight; dropping it cancels it.
pub type Pending = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What came of a call.
pub enum Outcome {
    Tokens(Result<TokenSet, TokenError>),
    IdentityId(Result<String, CredentialError>),
    Credentials(Result<Credentials, CredentialError>),
}

/// What a call is made with: the session's, as it is now.
pub struct Secrets {
    /// None for a guest.
    pub login: Option<Login>,
    /// What a refresh of the tokens is made with.
    pub grant: RefreshGrant,
    /// Once known.
    pub identity_id: Option<String>,
    /// The device account, for a service session.
    pub service: Option<Arc<ServiceConfig>>,
    /// What a guest left to this user.
    pub offer: Option<Offer>,
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
        let Secrets { login, grant, identity_id, service, offer } = secrets;
        // A guest's uploads go first, and only for so long; then this is a call like any other.
        let offer = match offer.filter(|_| call == Call::IdentityId) {
            Some(offer) => {
                let wait = Duration::from_millis(shared.config.guest_hand_over_wait_ms);
                let is_free = offer.is_free_within(wait).await;
                if !is_free {
                    tracing::info!("a guest's uploads are still under way: the user gets an identity id of their own");
                }
                Some(offer).filter(|_| is_free)
            }
            None => None,
        };
        shared.limiter.acquire(urgent).await;
        let mut limit = shared.give_up_after;
        match call {
            Call::Tokens => {
                if service.is_some() {
                    // A refused refresh and a sign-in.
                    limit *= 2;
                }
                let call = async {
                    match &service {
                        Some(account) => account.tokens(tokens.as_ref(), &grant).await,
                        None => tokens.refresh(&grant).await,
                    }
                };
                let late = || Err(TokenError::ReplyLost(late("the token refresh", limit)));
                Outcome::Tokens(tokio::time::timeout(limit, call).await.unwrap_or_else(|_| late()))
            }
            Call::IdentityId => {
                let call = async {
                    match (&offer, &login) {
                        (Some(offer), Some(login)) => credentials.link(&offer.guest_identity_id, login).await,
                        _ => credentials.identity_id(login.as_ref()).await,
                    }
                };
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
