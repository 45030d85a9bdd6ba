//! The handles to the sessions' tasks and what the tasks share. Owns who is found by whom; promises that another uid's
//! session is not found and that signing in again finds the same one; must never hold a lock while it waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::{Actor, Start};
use super::challenges::Challenges;
use super::event::Limits;
use super::federation::{AttemptLimits, Attempts};
use super::files::{Contents, Files, Place};
use super::guests::Offer;
use super::landing::Landings;
use super::limiter::Limiter;
use super::mailbox::{Answer, Asker, Command, SignIn};
use super::{
    Config, Identity, RefreshGrant, ServedCredentials, SessionError, SessionId, SessionKind, SessionView, TokenError,
    TokenSet, TokenSource, endpoint_token,
};
use crate::caller::Caller;
use crate::clock::{BootInstant, Clock, unix_ms};
use crate::telemetry::metrics;
use crate::telemetry::metrics::CacheResult;

/// A call is one or two requests; what has not come back after this many call timeouts is given up.
const GIVE_UP_CALLS: u64 = 3;
/// No caller waits longer for a session's task; the process-wide limit may be that far behind.
const CALLER_WAIT_MAX: Duration = Duration::from_secs(60);
/// The most sign-ins of one uid at a time: no program takes the others' turns.
const SIGN_INS_PER_UID: usize = 4;
/// How often a revocation is tried, and how long after a failure.
const REVOKE_WAITS: [Duration; 3] = [Duration::from_secs(0), Duration::from_secs(2), Duration::from_secs(15)];

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
    /// Sign-ins that wait for the user.
    pub challenges: Challenges,
    /// By [`Handle::serial`]; only the sessions' tasks write.
    pub cache: moka::sync::Cache<u64, Arc<Served>>,
    pub registry: RwLock<Registry>,
    /// Sign-ins become sessions one after the other.
    pub adopting: tokio::sync::Mutex<()>,
    /// Sign-ins under way, by uid.
    signing_in: Mutex<HashMap<u32, usize>>,
    /// Sign-ins by a page in the browser, under way.
    pub attempts: Attempts,
    /// Where the daemon waits for browsers.
    pub landings: Landings,
    pub changes: watch::Sender<u64>,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// The handles.
#[derive(Debug, Default)]
pub struct Registry {
    pub by_id: HashMap<String, Arc<Handle>>,
    /// By who may use them.
    pub by_uid: HashMap<u32, Vec<Arc<Handle>>>,
}

/// The way to one session's task.
#[derive(Debug)]
pub struct Handle {
    /// Names the session in the readers' copy.
    pub serial: u64,
    /// What names the session.
    pub place: Place,
    /// Who may use it: its owner, or the uids that the configuration allows.
    pub uids: Vec<u32>,
    /// The task's mailbox.
    pub commands: mpsc::Sender<Command>,
    /// What may be shown.
    pub view: watch::Receiver<SessionView>,
    /// Local programs get credentials and tokens.
    pub vending: AtomicBool,
    /// Parked, because an answer was about somebody else.
    pub other_user: AtomicBool,
    /// Once known.
    pub identity_id: OnceLock<String>,
    /// What the session's credentials endpoint takes.
    pub endpoint: endpoint_token::Lock,
}

impl Handle {
    /// A handle with a serial number of its own.
    pub fn new(
        place: Place,
        uids: Vec<u32>,
        commands: mpsc::Sender<Command>,
        view: watch::Receiver<SessionView>,
        vending: bool,
        identity_id: Option<String>,
    ) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            place,
            uids,
            commands,
            view,
            vending: AtomicBool::new(vending),
            other_user: AtomicBool::new(false),
            identity_id: identity_id.map(OnceLock::from).unwrap_or_default(),
            endpoint: endpoint_token::Lock::default(),
        }
    }

    pub async fn ask<T>(&self, asker: impl FnOnce(Answer<T>) -> Asker) -> Result<T, SessionError> {
        self.tell(|reply| Command::Ask(asker(reply))).await
    }

    /// Sends a command and waits for its answer. A task that is gone has ended its session, or the daemon stops.
    pub async fn tell<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, SessionError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            match (self.commands.send(command(reply)).await, answer.await) {
                (Ok(()), Ok(answer)) => answer,
                _ => Err(stopping()),
            }
        };
        match tokio::time::timeout(CALLER_WAIT_MAX, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(SessionError::Unavailable {
                message: format!("nothing came back within {} s: many sessions wait", CALLER_WAIT_MAX.as_secs()),
                retry_after: Duration::from_secs(5),
            }),
        }
    }
}

impl Shared {
    /// Without sessions yet; `found` is how many will be restored.
    pub fn new(
        config: Config,
        identities: Vec<Identity>,
        clock: Clock,
        files: Files,
        stop: CancellationToken,
        found: usize,
    ) -> Arc<Self> {
        // Twice the limit: an entry that is pushed out costs a detour through the session's task.
        let capacity = (config.max_sessions.max(found) as u64).saturating_mul(2);
        Arc::new(Self {
            limits: Limits::from(&config),
            limiter: Limiter::new(config.max_upstream_calls_per_s, config.upstream_burst),
            give_up_after: Duration::from_millis(
                config.connect_timeout_ms.saturating_add(config.call_timeout_ms.saturating_mul(GIVE_UP_CALLS)),
            ),
            challenges: Challenges::new(&config),
            attempts: Attempts::new(AttemptLimits {
                total: config.max_federated_sign_ins,
                per_uid: config.max_federated_sign_ins_per_uid,
                lifetime: Duration::from_millis(config.federated_sign_in_lifetime_ms),
            }),
            landings: Landings::default(),
            config,
            identities,
            clock,
            files,
            signing_in: Mutex::default(),
            cache: moka::sync::Cache::new(capacity),
            registry: RwLock::default(),
            adopting: tokio::sync::Mutex::default(),
            changes: watch::channel(0).0,
            stop,
            tasks: TaskTracker::new(),
        })
    }

    pub fn read(&self) -> std::sync::RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn identity(&self, name: Option<&str>) -> Result<Identity, SessionError> {
        match (name, self.identities.as_slice()) {
            (None, [only]) => Ok(only.clone()),
            (None, all) => Err(SessionError::IdentityAmbiguous(all.len())),
            (Some(name), all) => all.iter().find(|identity| identity.name == name).cloned().ok_or_else(|| {
                let names: Vec<_> = all.iter().map(|identity| identity.name.as_str()).collect();
                SessionError::IdentityNotFound(name.to_owned(), names.join(", "))
            }),
        }
    }

    pub fn find(&self, caller: &Caller, id: Option<&SessionId>) -> Result<Arc<Handle>, SessionError> {
        let registry = self.read();
        if let Some(id) = id {
            let handle = registry.by_id.get(&id.0).filter(|handle| handle.uids.contains(&caller.uid));
            return handle.cloned().ok_or_else(|| SessionError::NotFound(id.0.clone()));
        }
        let owned = registry.by_uid.get(&caller.uid).map(Vec::as_slice).unwrap_or_default();
        // Who signs in while an old session still drains means the new one.
        let mut live = owned.iter().filter(|handle| handle.vending.load(Ordering::SeqCst));
        match (live.next(), live.count()) {
            (Some(only), 0) => Ok(Arc::clone(only)),
            (None, _) => Err(SessionError::NoSession),
            (Some(_), others) => Err(SessionError::Ambiguous(others + 1)),
        }
    }

    pub fn of_identity_id(&self, uid: u32, identity: &str, identity_id: &str) -> Result<Arc<Handle>, SessionError> {
        let registry = self.read();
        let owned = registry.by_uid.get(&uid).map(Vec::as_slice).unwrap_or_default();
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

    pub fn cached(&self, handle: &Handle) -> Option<ServedCredentials> {
        let served = self.cache.get(&handle.serial)?;
        if self.clock.boot() >= served.serve_until {
            return None;
        }
        let result = if served.credentials.stale { CacheResult::Stale } else { CacheResult::Hit };
        metrics().credential_read(result);
        Some(served.credentials.clone())
    }

    /// Makes a sign-in a session, or the session again that the user has.
    pub async fn adopt(
        self: Arc<Self>,
        uid: u32,
        identity: Identity,
        tokens: TokenSet,
        username: String,
        ours: bool,
    ) -> Result<Arc<Handle>, SessionError> {
        let _one_by_one = self.adopting.lock().await;
        let guest = self.guest_of(uid, &identity.name);
        let offer = guest.as_ref().and_then(Offer::of);
        let existing = {
            let registry = self.read();
            let owned = registry.by_uid.get(&uid).map(Vec::as_slice).unwrap_or_default();
            let mut same = owned.iter().filter(|handle| {
                handle.place.kind == SessionKind::User
                    && handle.place.identity == identity.name
                    && handle.place.subject == tokens.claims.subject
            });
            same.next().cloned()
        };
        if let Some(handle) = existing {
            if handle.other_user.load(Ordering::SeqCst) {
                // A session's identity id never changes: the user's new one belongs to a new session.
                handle.tell(|done| Command::SignOut { drain: false, everywhere: false, done }).await?;
            } else {
                let sign_in = SignIn { tokens: tokens.clone(), username: username.clone(), offer: offer.clone() };
                match handle.tell(|done| Command::SignedIn(Box::new(sign_in), done)).await {
                    // It ended between two looks: a new one, then.
                    Err(SessionError::Unavailable { .. }) if !self.stop.is_cancelled() => {}
                    other => {
                        if other.is_ok() {
                            self.retire_guest(guest.as_deref()).await;
                        }
                        return other.map(|()| handle);
                    }
                }
            }
        }
        // A guest who signs in makes room for the user.
        let is_guest = |held: &Handle| guest.as_ref().is_some_and(|guest| guest.serial == held.serial);
        let held = self.read().by_id.values().filter(|held| !is_guest(held)).count();
        if held >= self.config.max_sessions {
            if ours && tokens.refresh_token.is_some() {
                let grant = RefreshGrant { refresh_token: tokens.refresh_token, device: tokens.device };
                self.revoke_later(identity.tokens, grant, tokens.access_token, false);
            }
            return Err(SessionError::LimitReached(held));
        }
        let place = Place {
            id: ulid::Ulid::generate().to_string(),
            identity: identity.name.clone(),
            subject: tokens.claims.subject.clone(),
            owner_uid: uid,
            kind: SessionKind::User,
            service: String::new(),
            create_time_unix_ms: unix_ms(self.clock.wall()),
        };
        let mut contents = Contents::of_sign_in(&tokens, username);
        // Durable before the guest goes: whatever happens now, the user learns where the guest's photos are.
        contents.merged_from = offer.as_ref().map(|offer| offer.guest_identity_id.clone());
        self.files.save(place.clone(), contents.clone()).await?;
        tracing::info!(session = %place.id, identity = %place.identity, "signed in");
        let start = Start { place, contents: Some(contents), tokens: Some(tokens), identity, offer, service: None };
        let handle = self.spawn(start);
        self.retire_guest(guest.as_deref()).await;
        Ok(handle)
    }

    pub fn spawn(self: &Arc<Self>, start: Start) -> Arc<Handle> {
        let (actor, handle) = Actor::new(self, start);
        {
            let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
            registry.by_id.insert(handle.place.id.clone(), Arc::clone(&handle));
            for uid in &handle.uids {
                registry.by_uid.entry(*uid).or_default().push(Arc::clone(&handle));
            }
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
        for uid in &handle.uids {
            if let Some(owned) = registry.by_uid.get_mut(uid) {
                owned.retain(|other| other.serial != handle.serial);
                if owned.is_empty() {
                    registry.by_uid.remove(uid);
                }
            }
        }
    }

    /// Ends a refresh token at its source, as far as that can be reached.
    pub fn revoke_later(
        self: &Arc<Self>,
        source: Arc<dyn TokenSource>,
        grant: RefreshGrant,
        access_token: Option<SecretString>,
        everywhere: bool,
    ) {
        let shared = Arc::clone(self);
        let revoke = async move {
            for wait in REVOKE_WAITS {
                tokio::time::sleep(wait).await;
                shared.limiter.acquire_urgent().await;
                let call = source.revoke(&grant, access_token.as_ref(), everywhere);
                match tokio::time::timeout(shared.give_up_after, call).await {
                    Ok(Ok(())) => return,
                    Ok(Err(TokenError::Transient(_) | TokenError::ReplyLost(_) | TokenError::Throttled(_)))
                    | Err(_) => {}
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

/// One of the sign-ins that a uid may have under way.
pub struct SigningIn {
    shared: Arc<Shared>,
    uid: u32,
}

impl SigningIn {
    pub fn new(shared: &Arc<Shared>, uid: u32) -> Result<Self, SessionError> {
        let mut under_way = lock(&shared.signing_in);
        let count = under_way.entry(uid).or_default();
        if *count >= SIGN_INS_PER_UID {
            return Err(SessionError::Unavailable {
                message: format!("this uid has {SIGN_INS_PER_UID} sign-ins under way already"),
                retry_after: Duration::from_secs(1),
            });
        }
        *count += 1;
        drop(under_way);
        Ok(Self { shared: Arc::clone(shared), uid })
    }
}

impl Drop for SigningIn {
    fn drop(&mut self) {
        let mut under_way = lock(&self.shared.signing_in);
        if let Some(count) = under_way.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.uid);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn stopping() -> SessionError {
    SessionError::Unavailable {
        message: "the session has ended or the daemon is stopping".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}
