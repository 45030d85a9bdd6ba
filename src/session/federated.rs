//! Signing in by a page in the user's browser: begins it, takes the browser's return, makes it a session. Promises that
//! a code is tried once, that its tokens are verified as any others and are those of this very attempt, and that a caller
//! that goes away leaves no half of a session.

use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::federation::{Asked, Begin, ExchangeError, Finish};
use super::landing;
use super::redirect::Returned;
use super::registry::{SigningIn, stopping};
use super::{FederationError, RefreshGrant, SessionError, SessionView, Sessions, TokenError};
use crate::caller::Caller;
use crate::telemetry::metrics;
use crate::telemetry::metrics::SignInOutcome;

/// How a user wants to sign in by the page.
#[derive(Debug, Clone, Default)]
pub struct FederatedSignIn {
    /// The identity's name.
    pub identity: Option<String>,
    /// The provider to go to at once.
    pub provider: Option<String>,
    /// One of the configured redirect URIs.
    pub redirect_uri: Option<String>,
    /// Whoever signed in with this browser before may be taken without being asked.
    pub reuse_browser_session: bool,
}

/// A sign-in that waits for the browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedBegun {
    /// The page to open.
    pub authorize_url: String,
    /// Names the attempt.
    pub state: String,
    /// After this it is forgotten.
    pub expire_time: SystemTime,
    /// Where the browser ends.
    pub redirect_uri: String,
    /// The daemon waits for it there.
    pub is_listening: bool,
    /// Ends the page's own cookie first.
    pub sign_out_url: Option<String>,
}

impl Sessions {
    /// Begins a sign-in by the identity's page.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn begin_federated(&self, caller: &Caller, wanted: &FederatedSignIn) -> Result<FederatedBegun, SessionError> {
        let shared = self.shared();
        let identity = shared.identity(wanted.identity.as_deref())?;
        let not_configured = || FederationError::NotConfigured(identity.name.clone());
        let page = identity.federation.as_ref().ok_or_else(not_configured)?;
        let redirect_uri = page.redirect_uri(wanted.redirect_uri.as_deref())?;
        let is_listening = page.listens_at(&redirect_uri);
        let is_fresh = !wanted.reuse_browser_session;
        let begin = Begin {
            uid: caller.uid,
            identity: identity.name.clone(),
            redirect_uri: redirect_uri.clone(),
            listens: is_listening,
            is_fresh,
        };
        let (state, authorize_url) = shared.attempts.begin(begin, shared.clock.boot(), |begun| {
            page.authorize_url(&Asked {
                redirect_uri: &redirect_uri,
                provider: wanted.provider.as_deref(),
                state: &begun.state,
                nonce: &begun.nonce,
                code_challenge: &begun.code_challenge,
                is_fresh,
            })
        })?;
        if is_listening && let Err(error) = landing::listen(shared, &redirect_uri) {
            shared.attempts.forget(&state);
            return Err(error.into());
        }
        let lifetime = Duration::from_millis(shared.config.federated_sign_in_lifetime_ms);
        let expire_time = shared.clock.wall() + lifetime;
        let sign_out_url = page.sign_out_url();
        tracing::info!(identity = %identity.name, provider = wanted.provider, "a sign-in by the hosted page has begun");
        Ok(FederatedBegun { authorize_url, state, expire_time, redirect_uri, is_listening, sign_out_url })
    }

    /// Finishes a sign-in with the URL that the browser was sent to, where an app caught it.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn complete_federated(&self, caller: &Caller, redirect_url: &str) -> Result<SessionView, SessionError> {
        counted(self.complete(caller, redirect_url).await)
    }

    /// Waits until the browser is back at the daemon's own listener, and finishes the sign-in.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn await_federated(&self, caller: &Caller, state: &str) -> Result<SessionView, SessionError> {
        counted(self.wait_and_complete(caller, state).await)
    }

    /// Ends the cookie of the identity's page in the browser that opens it; `None` where there is no page, or no place to
    /// go to afterwards.
    pub fn hosted_sign_out_url(&self, identity: &str) -> Option<String> {
        let identity = self.shared().identities.iter().find(|known| known.name == identity)?;
        identity.federation.as_ref()?.sign_out_url()
    }

    async fn complete(&self, caller: &Caller, redirect_url: &str) -> Result<SessionView, SessionError> {
        let returned = Returned::read(redirect_url)?;
        let shared = self.shared();
        let _one_of_few = SigningIn::new(shared, caller.uid)?;
        let (finish, code) = shared.attempts.take_returned(caller.uid, &returned, shared.clock.boot())?;
        self.finish(caller, returned.state, finish, code).await
    }

    async fn wait_and_complete(&self, caller: &Caller, state: &str) -> Result<SessionView, SessionError> {
        let shared = self.shared();
        loop {
            let (mut progress, left) = shared.attempts.follow(caller.uid, state, shared.clock.boot())?;
            progress.mark_unchanged();
            {
                let _one_of_few = SigningIn::new(shared, caller.uid)?;
                if let Some((finish, code)) = shared.attempts.take_arrived(caller.uid, state, shared.clock.boot())? {
                    return self.finish(caller, state.to_owned(), finish, code).await;
                }
            }
            // Whatever wakes it, the attempt says where it stands.
            tokio::select! {
                () = shared.stop.cancelled() => return Err(stopping()),
                () = tokio::time::sleep(left) => {}
                _ = progress.changed() => {}
            }
        }
    }

    async fn finish(
        &self,
        caller: &Caller,
        state: String,
        finish: Finish,
        code: SecretString,
    ) -> Result<SessionView, SessionError> {
        let (sessions, caller) = (self.clone(), *caller);
        let work = async move {
            let result = sessions.exchange(&caller, &state, &finish, code).await;
            if !matches!(&result, Err(Unfinished::PutBack(_))) {
                sessions.shared().attempts.finished(&state, result.is_ok());
            }
            result.map_err(Unfinished::into_error)
        };
        // A code is worth nothing a second time: what was begun is finished, also where the caller has gone away.
        self.shared().tasks.spawn(work).await.map_err(|_| stopping())?
    }

    async fn exchange(
        &self,
        caller: &Caller,
        state: &str,
        finish: &Finish,
        code: SecretString,
    ) -> Result<SessionView, Unfinished> {
        let shared = self.shared();
        let identity = shared.identity(Some(&finish.identity))?;
        let not_configured = || FederationError::NotConfigured(finish.identity.clone());
        let page = identity.federation.clone().ok_or_else(not_configured)?;
        shared.limiter.acquire_urgent().await;
        let given = match page.exchange(&code, &finish.verifier, &finish.redirect_uri).await {
            Ok(given) => given,
            Err(ExchangeError::CodeRefused) => return Err(FederationError::CodeRefused.into()),
            Err(ExchangeError::Failed(error)) => return Err(SessionError::from(error).into()),
            Err(ExchangeError::NotSent(error)) => {
                shared.attempts.put_back(state, code);
                return Err(Unfinished::PutBack(error));
            }
        };
        let (access_token, refresh_token) = (given.access_token.clone(), given.refresh_token.clone());
        let verified = identity.tokens.verify(given.id_token, given.access_token, given.refresh_token).await;
        let checked = verified.map_err(SessionError::from).and_then(|tokens| {
            finish.check(&tokens.claims, shared.clock.boot())?;
            Ok(tokens)
        });
        let tokens = match checked {
            Ok(tokens) => tokens,
            Err(error) => {
                // Nobody else has them: they end here.
                if let Some(refresh_token) = refresh_token {
                    let grant = RefreshGrant { refresh_token: Some(refresh_token), device: None };
                    shared.revoke_later(identity.tokens, grant, access_token, false);
                }
                return Err(error.into());
            }
        };
        // The address says more to people than the pool's own name of a user, which is an id.
        let username = tokens.claims.sign_in.email.clone().unwrap_or_else(|| tokens.claims.username.clone());
        let signed_in = self.take_in(caller, identity, tokens, username, true).await?;
        // Verified tokens leave nothing to ask.
        signed_in.session().ok_or_else(|| stopping().into())
    }
}

/// Why a sign-in was not finished.
enum Unfinished {
    /// It may be finished by another try.
    PutBack(TokenError),
    /// It is over.
    Over(SessionError),
}

impl Unfinished {
    fn into_error(self) -> SessionError {
        match self {
            Self::PutBack(error) => error.into(),
            Self::Over(error) => error,
        }
    }
}

impl<E: Into<SessionError>> From<E> for Unfinished {
    fn from(error: E) -> Self {
        Self::Over(error.into())
    }
}

fn counted(result: Result<SessionView, SessionError>) -> Result<SessionView, SessionError> {
    metrics().sign_in(match &result {
        Ok(_) => SignInOutcome::Ok,
        Err(SessionError::Token(_) | SessionError::Federation(_)) => SignInOutcome::Refused,
        Err(_) => SignInOutcome::Failed,
    });
    result
}
