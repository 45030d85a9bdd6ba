//! Every session of this device. Owns who sees which session; promises that signing in again gives the same session and
//! that another uid's session does not exist; must never hold a lock while it waits.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::{Actor, Start};
use super::event::Limits;
use super::files::{Contents, Files, Place};
use super::limiter::Limiter;
use super::mailbox::{Answer, Asker, Command};
use super::{
    Config, Identity, ServedCredentials, ServedTokens, SessionError, SessionId, SessionView, SignInMethod,
    SignOutUploads, TokenError, TokenSet, TokenSource,
};
use crate::caller::Caller;
use crate::clock::{BootInstant, Clock, unix_ms};
use crate::telemetry::metrics;
use crate::telemetry::metrics::{CacheResult, SignInOutcome};

/// A call is one or two requests; what has not come back after this many call timeouts is given up.
const GIVE_UP_CALLS: u64 = 3;
/// How often a revocation is tried, and how long after a failure.
const REVOKE_WAITS: [Duration; 3] = [Duration::from_secs(0), Duration::from_secs(2), Duration::from_secs(15)];

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
                    "identity {:?} is tiered, and in its credential source the client names the role: use kind = \
                     \"cognito_identity_pool\", or set tiered = false",
                    identity.name
                )));
            }
        }
        let credentials_dir = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
        let (files, found) =
            Files::open(state_dir.join("sessions"), credentials_dir, config.seal_key_file.clone()).await?;
        // Twice the limit: an entry that is pushed out costs a detour through the session's task.
        let capacity = (config.max_sessions.max(found.len()) as u64).saturating_mul(2);
        let shared = Arc::new(Shared {
            limits: Limits::from(&config),
            limiter: Limiter::new(config.max_upstream_calls_per_s, config.upstream_burst),
            give_up_after: Duration::from_millis(
                config.connect_timeout_ms.saturating_add(config.call_timeout_ms.saturating_mul(GIVE_UP_CALLS)),
            ),
            config,
            identities,
            clock,
            files,
            cache: moka::sync::Cache::new(capacity),
            registry: RwLock::default(),
            adopting: tokio::sync::Mutex::default(),
            changes: watch::channel(0).0,
            stop,
            tasks: TaskTracker::new(),
        });
        for session in found {
            let id = session.place.id.clone();
            let Some(identity) = shared.identities.iter().find(|it| it.name == session.place.identity).cloned() else {
                tracing::warn!(session = %id, identity = %session.place.identity, "no such identity any more: kept, not used");
                continue;
            };
            if session.contents.is_none() {
                tracing::error!(session = %id, "the seal key does not open this session: the user must sign in again");
            }
            shared.spawn(Start { place: session.place, contents: session.contents, tokens: None, identity });
        }
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
    ) -> Result<SessionView, SessionError> {
        let result = self.sign_in_and_wait(caller, identity, method).await;
        metrics().sign_in(match &result {
            Ok(_) => SignInOutcome::Ok,
            Err(SessionError::Token(
                TokenError::BadCredentials(_)
                | TokenError::TokenInvalid(_)
                | TokenError::TokenExpired(_)
                | TokenError::TokenWrongAudience(_),
            )) => SignInOutcome::Refused,
            Err(_) => SignInOutcome::Failed,
        });
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
            let owned = registry.by_owner.get(&caller.uid).map(Vec::as_slice).unwrap_or_default();
            owned.iter().map(|handle| handle.view.borrow().clone()).collect()
        };
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    /// How many sessions there are (`None`) or that uid has.
    pub fn count(&self, uid: Option<u32>) -> usize {
        let registry = self.0.read();
        match uid {
            Some(uid) => registry.by_owner.get(&uid).map_or(0, Vec::len),
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
        let handle = self.0.find(caller, id)?;
        if handle.vending.load(Ordering::SeqCst)
            && let Some(served) = self.0.cached(&handle)
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
        // Before the task hears of it: nobody gets credentials from here on.
        handle.vending.store(false, Ordering::SeqCst);
        let drain = uploads == SignOutUploads::Drain;
        handle.tell(|done| Command::SignOut { drain, everywhere, done }).await?;
        Ok(SessionId(handle.place.id.clone()))
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

    async fn sign_in_and_wait(
        &self,
        caller: &Caller,
        identity: Option<&str>,
        method: SignInMethod,
    ) -> Result<SessionView, SessionError> {
        let identity = self.0.identity(identity)?;
        self.0.limiter.acquire_urgent().await;
        let (tokens, username, ours) = match method {
            SignInMethod::Password { username, password } => {
                let tokens = identity.tokens.sign_in(&username, &password).await?;
                (tokens, username, true)
            }
            SignInMethod::Tokens { id_token, access_token, refresh_token } => {
                let tokens = identity.tokens.verify(id_token, access_token, refresh_token).await?;
                let username = tokens.claims.username.clone();
                (tokens, username, false)
            }
        };
        // From here on in a task of its own: a caller that goes away leaves no half of a session.
        let (shared, uid) = (Arc::clone(&self.0), caller.uid);
        let adopted = self.0.tasks.spawn(async move { shared.adopt(uid, identity, tokens, username, ours).await });
        let handle = adopted.await.map_err(|_| stopping())??;
        // The first credentials, so that the identity id is known even when the link goes down next. A failure is the
        // session's to show, not the sign-in's.
        let wait = Duration::from_millis(self.0.config.sign_in_wait_ms);
        let _ = tokio::time::timeout(wait, handle.ask(Asker::Credentials)).await;
        let view = handle.view.borrow().clone();
        Ok(view)
    }
}

/// Credentials as the readers' copy holds them.
#[derive(Debug)]
pub struct Served {
    /// Until when.
    pub serve_until: BootInstant,
    /// The credentials.
    pub credentials: ServedCredentials,
}

/// What every session's task shares.
#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub limits: Limits,
    pub give_up_after: Duration,
    pub identities: Vec<Identity>,
    pub clock: Clock,
    pub limiter: Limiter,
    pub files: Files,
    /// By [`Handle::serial`]; only the sessions' tasks write.
    pub cache: moka::sync::Cache<u64, Arc<Served>>,
    pub registry: RwLock<Registry>,
    /// Sign-ins become sessions one after the other.
    adopting: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// The handles.
#[derive(Debug, Default)]
pub struct Registry {
    by_id: HashMap<String, Arc<Handle>>,
    by_owner: HashMap<u32, Vec<Arc<Handle>>>,
}

/// The way to one session's task.
#[derive(Debug)]
pub struct Handle {
    /// Names the session in the readers' copy.
    pub serial: u64,
    /// What names the session.
    pub place: Place,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<SessionView>,
    /// Local programs get credentials and tokens.
    pub vending: AtomicBool,
    /// Parked, because an answer was about somebody else.
    pub other_user: AtomicBool,
    /// Once known.
    pub identity_id: OnceLock<String>,
}

impl Handle {
    /// A handle with a serial number of its own.
    pub fn new(
        place: Place,
        commands: mpsc::Sender<Command>,
        view: watch::Receiver<SessionView>,
        vending: bool,
        identity_id: Option<String>,
    ) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            place,
            commands,
            view,
            vending: AtomicBool::new(vending),
            other_user: AtomicBool::new(false),
            identity_id: identity_id.map(OnceLock::from).unwrap_or_default(),
        }
    }

    async fn ask<T>(&self, asker: impl FnOnce(Answer<T>) -> Asker) -> Result<T, SessionError> {
        self.tell(|reply| Command::Ask(asker(reply))).await
    }

    /// Sends a command and waits for its answer. A task that is gone has ended its session, or the daemon stops.
    async fn tell<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, SessionError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        match (sent, answer.await) {
            (Ok(()), Ok(answer)) => answer,
            _ => Err(stopping()),
        }
    }
}

impl Shared {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity(&self, name: Option<&str>) -> Result<Identity, SessionError> {
        match (name, self.identities.as_slice()) {
            (None, [only]) => Ok(only.clone()),
            (None, all) => Err(SessionError::IdentityAmbiguous(all.len())),
            (Some(name), all) => all.iter().find(|identity| identity.name == name).cloned().ok_or_else(|| {
                let names: Vec<_> = all.iter().map(|identity| identity.name.as_str()).collect();
                SessionError::IdentityNotFound(name.to_owned(), names.join(", "))
            }),
        }
    }

    fn find(&self, caller: &Caller, id: Option<&SessionId>) -> Result<Arc<Handle>, SessionError> {
        let registry = self.read();
        if let Some(id) = id {
            let handle = registry.by_id.get(&id.0).filter(|handle| handle.place.owner_uid == caller.uid);
            return handle.cloned().ok_or_else(|| SessionError::NotFound(id.0.clone()));
        }
        let owned = registry.by_owner.get(&caller.uid).map(Vec::as_slice).unwrap_or_default();
        // Who signs in while an old session still drains means the new one.
        let mut live = owned.iter().filter(|handle| handle.vending.load(Ordering::SeqCst));
        match (live.next(), live.count()) {
            (Some(only), 0) => Ok(Arc::clone(only)),
            (None, _) => Err(SessionError::NoSession),
            (Some(_), others) => Err(SessionError::Ambiguous(others + 1)),
        }
    }

    fn of_identity_id(&self, uid: u32, identity: &str, identity_id: &str) -> Result<Arc<Handle>, SessionError> {
        let registry = self.read();
        let owned = registry.by_owner.get(&uid).map(Vec::as_slice).unwrap_or_default();
        let matching = owned.iter().filter(|handle| {
            handle.place.identity == identity && handle.identity_id.get().is_some_and(|known| known == identity_id)
        });
        // Where a parked session was replaced, the one that works goes first.
        matching.min_by_key(|handle| handle.other_user.load(Ordering::SeqCst)).cloned().ok_or_else(|| {
            SessionError::NeedsSignIn(
                "the user whose upload this is has no session here: sign in as that user".to_owned(),
            )
        })
    }

    fn cached(&self, handle: &Handle) -> Option<ServedCredentials> {
        let served = self.cache.get(&handle.serial)?;
        if self.clock.boot() >= served.serve_until {
            return None;
        }
        let result = if served.credentials.stale { CacheResult::Stale } else { CacheResult::Hit };
        metrics().credential_read(result);
        Some(served.credentials.clone())
    }

    /// Makes a sign-in a session, or the session again that the user has.
    async fn adopt(
        self: Arc<Self>,
        uid: u32,
        identity: Identity,
        tokens: TokenSet,
        username: String,
        ours: bool,
    ) -> Result<Arc<Handle>, SessionError> {
        let _one_by_one = self.adopting.lock().await;
        let existing = {
            let registry = self.read();
            let owned = registry.by_owner.get(&uid).map(Vec::as_slice).unwrap_or_default();
            let mut same = owned.iter().filter(|handle| {
                handle.place.identity == identity.name && handle.place.subject == tokens.claims.subject
            });
            same.next().cloned()
        };
        if let Some(handle) = existing {
            if handle.other_user.load(Ordering::SeqCst) {
                // A session's identity id never changes: the user's new one belongs to a new session.
                handle.tell(|done| Command::SignOut { drain: false, everywhere: false, done }).await?;
            } else {
                let signed_in =
                    handle.tell(|done| Command::SignedIn(Box::new(tokens.clone()), username.clone(), done)).await;
                match signed_in {
                    // It ended between two looks: a new one, then.
                    Err(SessionError::Unavailable { .. }) if !self.stop.is_cancelled() => {}
                    other => return other.map(|()| handle),
                }
            }
        }
        let held = self.read().by_id.len();
        if held >= self.config.max_sessions {
            if let (true, Some(refresh_token)) = (ours, tokens.refresh_token) {
                self.revoke_later(identity.tokens, refresh_token, tokens.access_token, false);
            }
            return Err(SessionError::LimitReached(held));
        }
        let place = Place {
            id: ulid::Ulid::generate().to_string(),
            identity: identity.name.clone(),
            subject: tokens.claims.subject.clone(),
            owner_uid: uid,
            create_time_unix_ms: unix_ms(self.clock.wall()),
        };
        let contents = Contents::of_sign_in(&tokens, username);
        self.files.save(place.clone(), contents.clone()).await?;
        tracing::info!(session = %place.id, identity = %place.identity, "signed in");
        Ok(self.spawn(Start { place, contents: Some(contents), tokens: Some(tokens), identity }))
    }

    fn spawn(self: &Arc<Self>, start: Start) -> Arc<Handle> {
        let (actor, handle) = Actor::new(self, start);
        {
            let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
            registry.by_id.insert(handle.place.id.clone(), Arc::clone(&handle));
            registry.by_owner.entry(handle.place.owner_uid).or_default().push(Arc::clone(&handle));
        }
        self.tasks.spawn(actor.run());
        handle
    }

    /// Something that a waiting upload may wait for has changed.
    pub fn has_changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The session does not exist any more.
    pub fn forget(&self, handle: &Handle) {
        self.cache.invalidate(&handle.serial);
        self.remove(handle);
        self.has_changed();
    }

    fn remove(&self, handle: &Handle) {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        registry.by_id.remove(&handle.place.id);
        if let Some(owned) = registry.by_owner.get_mut(&handle.place.owner_uid) {
            owned.retain(|other| other.serial != handle.serial);
            if owned.is_empty() {
                registry.by_owner.remove(&handle.place.owner_uid);
            }
        }
    }

    /// Ends a refresh token at its source, as far as that can be reached.
    pub fn revoke_later(
        self: &Arc<Self>,
        source: Arc<dyn TokenSource>,
        refresh_token: SecretString,
        access_token: Option<SecretString>,
        everywhere: bool,
    ) {
        let shared = Arc::clone(self);
        let revoke = async move {
            for wait in REVOKE_WAITS {
                tokio::time::sleep(wait).await;
                shared.limiter.acquire_urgent().await;
                let call = source.revoke(&refresh_token, access_token.as_ref(), everywhere);
                match tokio::time::timeout(shared.give_up_after, call).await {
                    Ok(Ok(())) => return,
                    Ok(Err(TokenError::Transient(_) | TokenError::Throttled(_))) | Err(_) => {}
                    Ok(Err(error)) => return tracing::warn!(%error, "a refresh token could not be revoked"),
                }
            }
            tracing::warn!("a refresh token could not be revoked: the user pool cannot be reached; it ends by itself");
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = revoke => {}
            }
        });
    }
}

fn stopping() -> SessionError {
    SessionError::Unavailable {
        message: "the session has ended or the daemon is stopping".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}
