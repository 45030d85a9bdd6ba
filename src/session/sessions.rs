//! What the other rooms call. Promises that signing in again gives the same session, that another uid's session does not
//! exist, and that no credentials are given out once a sign-out has returned.

mod endpoint;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::actor::Start;
use super::files::Files;
use super::guests;
use super::mailbox::{Asker, Command};
use super::registry::{Handle, Shared, SigningIn, stopping};
use super::service::Services;
use super::{
    Config, Identity, ServedCredentials, ServedTokens, SessionError, SessionId, SessionKind, SessionView, SignInMethod,
    SignInProgress, SignOutUploads, TokenError, TokenSet,
};
use crate::caller::Caller;
use crate::clock::Clock;
use crate::telemetry::metrics;
use crate::telemetry::metrics::{CacheResult, SignInOutcome};

pub use endpoint::EndpointRefusal;

/// No refresh token is longer; what is could not be read again after a restart.
const TOKEN_MAX_BYTES: usize = 16 * 1024;

/// Every session of this device; clones share it.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Shared>);

impl Sessions {
    /// Opens the sealed sessions of `state_dir` and starts their tasks. `stop` ends every task; see
    /// [`Sessions::shutdown`].
    ///
    /// # Errors
    /// `Configuration` where a tiered identity has a source in which the client names the role; `Storage` where the
    /// state directory or the seal key cannot be used.
    pub async fn start(
        config: Config,
        identities: Vec<Identity>,
        state_dir: &Path,
        clock: Clock,
        stop: CancellationToken,
    ) -> Result<Self, SessionError> {
        for identity in &identities {
            if identity.tiered && identity.credentials.client_names_role() && !identity.allow_client_role_choice {
                return Err(SessionError::Configuration(format!(
                    "identity {:?} is tiered, and in its credential source the role does not come from the token: use \
                     kind = \"cognito_identity_pool\", or set tiered = false",
                    identity.name
                )));
            }
        }
        let credentials_dir = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
        let (files, found) =
            Files::open(state_dir.join("sessions"), credentials_dir, config.seal_key_file.clone()).await?;
        let shared = Shared::new(config, identities, clock, files, stop, found.len());
        let guest_drain_ms = u64::try_from(guests::DRAIN_MAX.as_millis()).unwrap_or(u64::MAX);
        let (services, found) = Services::sort(&shared, found)?;
        for session in found {
            let id = session.place.id.clone();
            let Some(identity) = shared.identities.iter().find(|it| it.name == session.place.identity).cloned() else {
                tracing::warn!(session = %id, identity = %session.place.identity, "no such identity any more: kept, not used");
                continue;
            };
            if session.contents.is_none() {
                tracing::error!(session = %id, "the seal key does not open this session: the user must sign in again");
            }
            let mut contents = session.contents;
            if session.place.kind == SessionKind::Guest && !identity.guests {
                tracing::warn!(session = %id, "guests are not allowed any more: this one's uploads are sent, then it ends");
                if let Some(contents) = &mut contents {
                    contents.draining_for_ms.get_or_insert(guest_drain_ms);
                }
            }
            let place = session.place;
            shared.spawn(Start { place, contents, tokens: None, identity, offer: None, service: None });
        }
        services.start(&shared).await?;
        Ok(Self(shared))
    }

    /// Waits until every task has ended; cancels them first. Nothing is lost: what matters is on disk already.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Sessions that only wait for their uploads: after a start, those without unfinished uploads are to be told
    /// [`Sessions::uploads_done`].
    pub fn signing_out(&self) -> Vec<SessionId> {
        let registry = self.0.read();
        let signing_out = registry.by_id.values().filter(|handle| !handle.vending.load(Ordering::SeqCst));
        signing_out.map(|handle| SessionId(handle.place.id.clone())).collect()
    }

    /// The uploads of a session that is signing out are done (or were parked): its tokens are revoked and wiped. Nothing
    /// happens where the session is not signing out.
    pub async fn uploads_done(&self, session: &SessionId) {
        let handle = self.0.read().by_id.get(&session.0).cloned();
        if let Some(handle) = handle {
            let _ = handle.tell(Command::UploadsDone).await;
        }
    }

    /// Moves with every sign-in, every new set of credentials and every end of a session: uploads that wait for any of
    /// them try again then.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The link is back: sessions whose last refresh failed for its sake spread over the boot jitter, or try earlier
    /// where their back-off ends earlier.
    pub fn link_returned(&self) {
        for handle in self.0.read().by_id.values() {
            // A full mailbox means that somebody is asking anyway.
            let _ = handle.commands.try_send(Command::LinkReturned);
        }
    }

    /// Signs a user in; again as the same user gives the same session.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn sign_in(
        &self,
        caller: &Caller,
        identity: Option<&str>,
        method: SignInMethod,
    ) -> Result<SignInProgress, SessionError> {
        let result = self.sign_in_and_wait(caller, identity, method).await;
        count_sign_in(&result);
        result
    }

    /// The caller's session of that id, or its only one.
    ///
    /// # Errors
    /// `NotFound`, `NoSession`, `Ambiguous`.
    pub fn get(&self, caller: &Caller, id: Option<&SessionId>) -> Result<SessionView, SessionError> {
        Ok(self.0.find(caller, id)?.view.borrow().clone())
    }

    /// The caller's sessions, oldest first.
    pub fn list(&self, caller: &Caller) -> Vec<SessionView> {
        let mut views: Vec<SessionView> = {
            let registry = self.0.read();
            let owned = registry.by_uid.get(&caller.uid).map(Vec::as_slice).unwrap_or_default();
            owned.iter().map(|handle| handle.view.borrow().clone()).collect()
        };
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    /// How many sessions there are (`None`) or that uid has.
    pub fn count(&self, uid: Option<u32>) -> usize {
        let registry = self.0.read();
        match uid {
            Some(uid) => registry.by_uid.get(&uid).map_or(0, Vec::len),
            None => registry.by_id.len(),
        }
    }

    /// The caller's session now and after every change; the channel closes when the session is gone.
    ///
    /// # Errors
    /// As [`Sessions::get`].
    pub fn watch(&self, caller: &Caller, id: Option<&SessionId>) -> Result<watch::Receiver<SessionView>, SessionError> {
        Ok(self.0.find(caller, id)?.view.clone())
    }

    /// Credentials for a local program; from memory where they are valid.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn credentials(
        &self,
        caller: &Caller,
        id: Option<&SessionId>,
    ) -> Result<ServedCredentials, SessionError> {
        self.credentials_of(&*self.0.find(caller, id)?).await
    }

    async fn credentials_of(&self, handle: &Handle) -> Result<ServedCredentials, SessionError> {
        if handle.vending.load(Ordering::SeqCst)
            && let Some(served) = self.0.cached(handle)
        {
            return Ok(served);
        }
        metrics().credential_read(CacheResult::Miss);
        handle.ask(Asker::Credentials).await
    }

    /// The user's JWTs for a local program, refreshed where the ID token has less than 5 minutes left.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn tokens(&self, caller: &Caller, id: Option<&SessionId>) -> Result<ServedTokens, SessionError> {
        self.0.find(caller, id)?.ask(Asker::Tokens).await
    }

    /// New tokens and credentials now.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn refresh(&self, caller: &Caller, id: Option<&SessionId>) -> Result<SessionView, SessionError> {
        self.0.find(caller, id)?.ask(Asker::Refresh).await
    }

    /// Ends a session: vending, streams and tokens stop before this returns. The caller then tells
    /// `Uploads::session_ended`, and after a drain that had nothing to send [`Sessions::uploads_done`]. The refresh token
    /// is revoked in the background, a few times where the pool cannot be reached.
    ///
    /// With `everywhere` the pool ends every session of the user at once; a drain then only has what was given out.
    ///
    /// # Errors
    /// `NotFound`, `NoSession`, `Ambiguous`; `Storage` where the session has ended but its sealed file could not be
    /// removed.
    pub async fn sign_out(
        &self,
        caller: &Caller,
        id: Option<&SessionId>,
        uploads: SignOutUploads,
        everywhere: bool,
    ) -> Result<SessionId, SessionError> {
        let handle = self.0.find(caller, id)?;
        if handle.place.kind == SessionKind::Service {
            return Err(SessionError::ServiceSession(handle.place.service.clone()));
        }
        // Before the task hears of it: nobody gets credentials from here on.
        handle.vending.store(false, Ordering::SeqCst);
        let drain = uploads.of_a(handle.place.kind) == SignOutUploads::Drain;
        handle.tell(|done| Command::SignOut { drain, everywhere, done }).await?;
        Ok(SessionId(handle.place.id.clone()))
    }

    /// True while the session is there and nobody has begun to sign it out: an upload that is written down at such a moment
    /// is one that the sign-out finds.
    pub fn takes_uploads(&self, session: &SessionId) -> bool {
        self.0.read().by_id.get(&session.0).is_some_and(|handle| handle.vending.load(Ordering::SeqCst))
    }

    /// Whether a session of this uid may still sign as the guest with this identity id: the guest's own, or that of the
    /// user whom the id has become. A guest who is gone never comes back. One whose identity is missing in the
    /// configuration, or whose sealed file does not open now, is not gone.
    pub fn guest_may_sign(&self, owner_uid: u32, identity: &str, identity_id: &str) -> bool {
        let unknown = |handle: &Arc<Handle>| {
            handle.place.kind == SessionKind::Guest
                && handle.place.identity == identity
                && handle.identity_id.get().is_none()
        };
        self.0.identities.iter().all(|configured| configured.name != identity)
            || self.0.of_identity_id(owner_uid, identity, identity_id).is_ok()
            || self.0.read().by_uid.get(&owner_uid).is_some_and(|owned| owned.iter().any(unknown))
    }

    /// For the upload worker: credentials of exactly this identity id for this uid, also while signing out (drain).
    ///
    /// # Errors
    /// `NeedsSignIn` where no session of this uid has the identity id now: the upload is parked.
    pub async fn credentials_for_upload(
        &self,
        owner_uid: u32,
        identity: &str,
        identity_id: &str,
    ) -> Result<ServedCredentials, SessionError> {
        let handle = self.0.of_identity_id(owner_uid, identity, identity_id)?;
        let served = match self.0.cached(&handle) {
            Some(served) => served,
            None => handle.ask(Asker::UploadCredentials).await?,
        };
        if served.identity_id == identity_id {
            Ok(served)
        } else {
            Err(SessionError::IdentityChanged("the session has another identity id now: sign in again".to_owned()))
        }
    }

    /// For the upload worker after an `AccessDenied` of a request that was signed with `denied_access_key_id`: new
    /// tokens and credentials, at most once per interval and session. `Ok(true)` where the credentials are other ones
    /// now (also where they were already), `Ok(false)` where it is too early for another refresh.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn refresh_after_denied(
        &self,
        owner_uid: u32,
        identity: &str,
        identity_id: &str,
        denied_access_key_id: &str,
    ) -> Result<bool, SessionError> {
        let handle = self.0.of_identity_id(owner_uid, identity, identity_id)?;
        handle.ask(|reply| Asker::Denied(denied_access_key_id.to_owned(), reply)).await
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    async fn sign_in_and_wait(
        &self,
        caller: &Caller,
        identity: Option<&str>,
        method: SignInMethod,
    ) -> Result<SignInProgress, SessionError> {
        let identity = self.0.identity(identity)?;
        let one_of_few = SigningIn::new(&self.0, caller.uid)?;
        self.0.limiter.acquire_urgent().await;
        let (tokens, username, ours) = match method {
            SignInMethod::Guest => {
                // In a task of its own, as below.
                let (shared, uid) = (Arc::clone(&self.0), caller.uid);
                let adopted = self.0.tasks.spawn(async move { shared.adopt_guest(uid, identity).await });
                let handle = adopted.await.map_err(|_| stopping())??;
                return Ok(self.first_credentials(&handle).await);
            }
            SignInMethod::Password { username, password } => {
                return self.sign_in_by_password(*caller, identity, username, password, one_of_few).await;
            }
            SignInMethod::Tokens { id_token, access_token, refresh_token } => {
                if refresh_token.as_ref().is_some_and(|token| token.expose_secret().len() > TOKEN_MAX_BYTES) {
                    let why = format!("the refresh token has more than {TOKEN_MAX_BYTES} bytes");
                    return Err(TokenError::TokenInvalid(why).into());
                }
                let tokens = identity.tokens.verify(id_token, access_token, refresh_token).await?;
                let username = tokens.claims.username.clone();
                (tokens, username, false)
            }
        };
        self.take_in(caller, identity, tokens, username, ours).await
    }

    /// Makes verified tokens a session. `ours` says that nobody else holds the refresh token: it is revoked where there
    /// is no room for the session.
    pub(super) async fn take_in(
        &self,
        caller: &Caller,
        identity: Identity,
        tokens: TokenSet,
        username: String,
        ours: bool,
    ) -> Result<SignInProgress, SessionError> {
        // From here on in a task of its own: a caller that goes away leaves no half of a session.
        let (shared, uid) = (Arc::clone(&self.0), caller.uid);
        let adopted = self.0.tasks.spawn(async move { shared.adopt(uid, identity, tokens, username, ours).await });
        let handle = adopted.await.map_err(|_| stopping())??;
        Ok(self.first_credentials(&handle).await)
    }

    /// The first credentials, so that the identity id is known even when the link goes down next. A failure is the
    /// session's to show, not the sign-in's.
    async fn first_credentials(&self, handle: &Handle) -> SignInProgress {
        let wait = Duration::from_millis(self.0.config.sign_in_wait_ms);
        let _ = tokio::time::timeout(wait, handle.ask(Asker::Credentials)).await;
        let view = handle.view.borrow().clone();
        SignInProgress::SignedIn(Box::new(view))
    }
}

/// Counts what came of a step.
pub(super) fn count_sign_in(result: &Result<SignInProgress, SessionError>) {
    metrics().sign_in(match result {
        Ok(SignInProgress::SignedIn(_)) => SignInOutcome::Ok,
        Ok(SignInProgress::Challenged(_)) => SignInOutcome::Challenged,
        Err(SessionError::Token(
            TokenError::BadCredentials(_)
            | TokenError::RefusedByPool(_)
            | TokenError::TokenInvalid(_)
            | TokenError::TokenExpired(_)
            | TokenError::TokenWrongAudience(_)
            | TokenError::CodeMismatch(_)
            | TokenError::CodeExpired(_),
        ))
        | Err(SessionError::GuestsRefused(_)) => SignInOutcome::Refused,
        Err(_) => SignInOutcome::Failed,
    });
}
