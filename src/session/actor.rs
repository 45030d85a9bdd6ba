//! The task of one session: the only place that calls upstream for it. Owns the session's secrets; promises one call at
//! a time however many callers wait, and that a caller that goes away cancels nothing; must never hold credentials that
//! the state machine has dropped.

mod endpoint;
mod shown;
mod taken;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

use self::shown::label;
use super::event::{Call, Effect, Event, Known, Reply};
use super::files::{Contents, Place};
use super::guests::{self, Offer};
use super::mailbox::{Answer, Asker, Command, SignIn};
use super::registry::{Handle, Shared, stopping};
use super::state::Machine;
use super::upstream::{self, Outcome};
use super::{
    Identity, RefreshGrant, ServedTokens, ServiceConfig, SessionError, SessionId, SessionKind, SessionState,
    SessionView, TokenSet,
};
use crate::clock::{BootInstant, from_unix_ms};
use crate::credential::Credentials;
use crate::telemetry::metrics;

/// The longest sleep: the runtime's timers do not count suspend, the boot clock does.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// A stop waits this long for a token refresh in flight: its answer may hold the only refresh token that is still good.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// The most commands between two looks at the call in flight.
const BATCH_MAX: usize = 1_024;
/// A server's date has whole seconds, and the clock passes over two of skew: a token ends this much earlier here.
const CLOCK_DOUBT: Duration = Duration::from_secs(3);
/// What could not be written is tried again after this long.
const SAVE_AGAIN: Duration = Duration::from_secs(30);
/// How long a session still drains is written down this often: a restart goes on counting from there.
const COUNT_AGAIN: Duration = Duration::from_secs(3_600);

struct Waiting {
    asker: Asker,
    round: u64,
}

/// What the task starts from.
pub struct Start {
    /// What names the session.
    pub place: Place,
    /// What was sealed; `None` where the key did not open it.
    pub contents: Option<Contents>,
    /// Tokens of a sign-in just now.
    pub tokens: Option<TokenSet>,
    /// Its identity.
    pub identity: Identity,
    /// What a guest leaves to the user who signed in just now.
    pub offer: Option<Offer>,
    /// The device account, for a service session.
    pub service: Option<Arc<ServiceConfig>>,
}

/// The task.
pub struct Actor {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    identity: Identity,
    service: Option<Arc<ServiceConfig>>,
    /// Until the identity id is known.
    offer: Option<Offer>,
    machine: Machine,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<SessionView>,
    urgent: watch::Sender<bool>,
    pending: Option<upstream::Pending>,
    waiting: Vec<Waiting>,
    contents: Contents,
    /// Nothing else of a [`TokenSet`] is held: a thousand sessions wait here.
    tokens: Option<ServedTokens>,
    credentials: Option<Arc<Credentials>>,
    last_error: Option<String>,
    /// What the readers' copy was made of.
    copied: Option<(Arc<Credentials>, Option<String>)>,
    unsaved_since: Option<BootInstant>,
    /// When saving was tried last.
    saved: BootInstant,
    ending: Vec<Answer<()>>,
    ended: bool,
    everywhere: bool,
    /// Something happened since the waiting callers' answers were looked for.
    moved: bool,
}

impl Actor {
    /// Builds the task and the handle to it; [`Actor::run`] is to be spawned.
    pub fn new(shared: &Arc<Shared>, start: Start) -> (Box<Self>, Arc<Handle>) {
        let now = shared.clock.boot();
        let readable = start.contents.is_some();
        let contents = start.contents.unwrap_or_default();
        let kind = start.place.kind;
        let known = Known {
            guest: kind == SessionKind::Guest,
            can_refresh: start.service.is_some() || (contents.refresh_token.is_some() && start.tokens.is_none()),
            identity_id: contents.identity_id.is_some(),
            may_rotate: start.service.is_none() && contents.rotates != Some(false),
            reply_lost: start.service.is_none() && contents.reply_open,
            refused_for: contents.refused_for_ms.map(Duration::from_millis),
            draining_for: contents.draining_for_ms.map(Duration::from_millis),
        };
        let last_error = if !readable && kind != SessionKind::Service {
            Some("what was kept of this session cannot be opened with the seal key of now".to_owned())
        } else if kind == SessionKind::User && start.tokens.is_none() && contents.refresh_token.is_none() {
            Some("this session has no refresh token, so it ended with the daemon's restart".to_owned())
        } else if known.refused_for.is_some() {
            Some("the sign-in was refused before the daemon's restart".to_owned())
        } else {
            None
        };
        let mut limits = shared.limits;
        if kind == SessionKind::Service {
            // There is nothing to give up: the account can sign itself in at any time.
            limits.refused_wipe_after = Duration::MAX;
        }
        if kind == SessionKind::Guest {
            limits.drain_max = guests::DRAIN_MAX;
        }
        let machine = Machine::new(limits, seed(), now, known);
        let (sender, commands) = mpsc::channel(256);
        let view = SessionView {
            id: SessionId(start.place.id.clone()),
            kind,
            identity: start.place.identity.clone(),
            subject: contents.subject.clone().unwrap_or_else(|| start.place.subject.clone()),
            username: contents.username.clone(),
            owner_uid: start.place.owner_uid,
            state: machine.state(now),
            identity_id: contents.identity_id.clone(),
            groups: contents.groups.clone(),
            create_time: from_unix_ms(start.place.create_time_unix_ms),
            credentials_expire_time: None,
            last_error: last_error.clone(),
            merged_from: contents.stayed_behind(),
        };
        metrics().session_moved(None, Some(label(view.state)));
        let (view, watcher) = watch::channel(view);
        let vending = known.draining_for.is_none();
        let mut uids = match &start.service {
            Some(account) => account.allowed_uids.clone(),
            None => vec![start.place.owner_uid],
        };
        // One that is named twice has one session all the same.
        uids.sort_unstable();
        uids.dedup();
        let handle = Handle::new(start.place, uids, sender, watcher, vending, contents.identity_id.clone());
        handle.endpoint.replace(contents.endpoint_token.as_ref());
        let handle = Arc::new(handle);
        let mut actor = Box::new(Self {
            shared: Arc::clone(shared),
            handle: Arc::clone(&handle),
            identity: start.identity,
            service: start.service,
            offer: start.offer,
            machine,
            commands,
            view,
            urgent: watch::channel(false).0,
            pending: None,
            waiting: Vec::new(),
            contents,
            tokens: start.tokens.map(ServedTokens::from),
            credentials: None,
            last_error,
            copied: None,
            unsaved_since: None,
            saved: now,
            ending: Vec::new(),
            ended: false,
            everywhere: false,
            moved: false,
        });
        if let Some(tokens) = &actor.tokens {
            let event = Event::SignedIn {
                id_token_deadline: actor.boot_deadline(tokens.id_token_expire_time),
                can_refresh: actor.contents.refresh_token.is_some(),
            };
            // A new session's first effect is one call: nothing of it has to be waited for.
            for effect in actor.machine.on(now, event) {
                if let Effect::Start(call) = effect {
                    actor.send(call);
                }
            }
        }
        (actor, handle)
    }

    /// Runs until the session ends or the daemon stops. A thousand sessions wait in here: what they do now and then is
    /// boxed, so that waiting takes no more room than the session itself.
    pub async fn run(mut self: Box<Self>) {
        let stop = self.shared.stop.clone();
        loop {
            let now = self.shared.clock.boot();
            let sleep = self.machine.next_wake().map_or(SLEEP_MAX, |wake| wake.saturating_since(now).min(SLEEP_MAX));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Box::pin(self.stop()).await,
                outcome = upstream::done(&mut self.pending) => {
                    self.pending = None;
                    Box::pin(self.finished(outcome)).await;
                }
                command = self.commands.recv() => match command {
                    Some(command) => Box::pin(self.told_all(command)).await,
                    None => return,
                },
                () = tokio::time::sleep(sleep) => Box::pin(self.happen(Event::Wake)).await,
            }
            Box::pin(self.settle()).await;
            if self.ended {
                return Box::pin(self.end()).await;
            }
        }
    }

    /// Takes what has come in since together: thousands of callers are answered in one go.
    async fn told_all(&mut self, first: Command) {
        self.told(first).await;
        for _ in 0..BATCH_MAX {
            match self.commands.try_recv() {
                Ok(command) if !self.ended => self.told(command).await,
                _ => break,
            }
        }
    }

    async fn told(&mut self, command: Command) {
        match command {
            Command::Ask(asker) => self.asked(asker).await,
            Command::SignedIn(sign_in, done) => {
                let outcome = self.signed_in(*sign_in).await;
                let _ = done.send(outcome);
            }
            // One who has signed out meanwhile does not come back: whoever comes is another guest.
            Command::GuestSignedIn(done)
                if self.machine.state(self.shared.clock.boot()) == SessionState::SigningOut =>
            {
                let _ = done.send(Err(stopping()));
            }
            Command::GuestSignedIn(done) => {
                self.last_error = None;
                self.happen(Event::GuestSignedIn).await;
                let _ = done.send(Ok(()));
            }
            Command::SignOut { drain, everywhere, done } => {
                self.handle.vending.store(false, Ordering::SeqCst);
                self.everywhere |= everywhere;
                self.close_endpoint();
                self.happen(Event::SignOut { drain, everywhere }).await;
                if self.ended {
                    self.ending.push(done);
                } else {
                    if everywhere {
                        self.revoke(true);
                    }
                    tracing::info!(session = %self.handle.place.id, "signed out; its uploads go on");
                    let _ = done.send(Ok(()));
                }
            }
            Command::UploadsDone(done) => {
                self.happen(Event::UploadsDone).await;
                if self.ended {
                    self.ending.push(done);
                } else {
                    let _ = done.send(Ok(()));
                }
            }
            Command::LinkReturned => self.happen(Event::LinkReturned).await,
            Command::EndpointToken { renew, done } => {
                let outcome = self.endpoint_token(renew).await;
                let _ = done.send(outcome);
            }
        }
    }

    async fn asked(&mut self, asker: Asker) {
        let now = self.shared.clock.boot();
        if let Asker::Denied(key, _) = &asker
            && self.machine.servable_until(now).is_some()
            && self.credentials.as_ref().is_some_and(|current| current.access_key_id != *key)
        {
            return self.answer(asker, Ok(()));
        }
        let (reply, effects) = self.machine.ask(now, asker.want());
        self.apply(effects).await;
        match reply {
            Reply::Now(verdict) => self.answer(asker, verdict),
            Reply::TooEarly => {
                if let Asker::Denied(_, reply) = asker {
                    let _ = reply.send(Ok(false));
                }
            }
            Reply::Wait(round) => {
                if self.waiting.len() >= self.shared.config.max_waiters_per_session {
                    self.waiting.retain(|waiting| !waiting.asker.is_gone());
                }
                if self.waiting.len() >= self.shared.config.max_waiters_per_session {
                    asker.refuse(SessionError::Unavailable {
                        message: format!("{} callers wait for this session already", self.waiting.len()),
                        retry_after: Duration::from_secs(1),
                    });
                } else {
                    self.waiting.push(Waiting { asker, round });
                }
            }
        }
    }

    async fn signed_in(&mut self, sign_in: SignIn) -> Result<(), SessionError> {
        let SignIn { tokens, username, offer } = sign_in;
        let left = offer.as_ref().map(|offer| offer.guest_identity_id.clone());
        let contents = Contents {
            identity_id: self.contents.identity_id.clone(),
            merged_from: left.or_else(|| self.contents.merged_from.clone()),
            // Programs that live on the endpoint go on, unless the user had signed out.
            endpoint_token: self.contents.endpoint_token.clone(),
            ..Contents::of_sign_in(&tokens, username)
        };
        // Durable before it counts: a full disk leaves the session as it was.
        self.shared.files.save(self.handle.place.clone(), contents.clone()).await?;
        self.contents = contents;
        self.offer = offer;
        self.last_error = None;
        self.everywhere = false;
        let event = Event::SignedIn {
            id_token_deadline: self.boot_deadline(tokens.claims.expire_time),
            can_refresh: self.contents.refresh_token.is_some(),
        };
        self.tokens = Some(tokens.into());
        self.happen(event).await;
        self.handle.vending.store(true, Ordering::SeqCst);
        tracing::info!(session = %self.handle.place.id, "signed in again");
        self.shared.has_changed();
        Ok(())
    }

    async fn happen(&mut self, event: Event) {
        self.happen_at(self.shared.clock.boot(), event).await;
    }

    async fn happen_at(&mut self, now: BootInstant, event: Event) {
        self.moved = true;
        let effects = self.machine.on(now, event);
        self.apply(effects).await;
    }

    async fn apply(&mut self, effects: Vec<Effect>) {
        self.moved |= !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Start(call) => self.begin(call).await,
                Effect::Abort => self.pending = None,
                Effect::DropCredentials => {
                    self.credentials = None;
                    self.copied = None;
                    self.shared.cache.invalidate(&self.handle.serial);
                }
                Effect::WipeTokens => {
                    tracing::warn!(session = %self.handle.place.id, "tokens wiped; the user must sign in again");
                    self.tokens = None;
                    self.contents.refresh_token = None;
                    self.save().await;
                }
                Effect::Persist => self.save().await,
                Effect::End => self.ended = true,
            }
        }
    }

    /// Shows what is so now, and answers everybody whose answer there is.
    async fn settle(&mut self) {
        let now = self.shared.clock.boot();
        if self.unsaved_since.is_some_and(|since| now.saturating_since(since) >= SAVE_AGAIN) {
            self.save().await;
        }
        let counts_down = self.machine.draining_for(now).is_some();
        if counts_down && now.saturating_since(self.saved) >= COUNT_AGAIN {
            self.save().await;
        }
        if std::mem::take(&mut self.moved) {
            self.handle.other_user.store(self.machine.is_other_user(), Ordering::SeqCst);
            let rotated = self.copy_for_readers(now);
            self.publish(now, rotated);
            self.answer_waiting(now);
        }
        let urgent = !self.waiting.is_empty() || self.machine.is_in_rotation_grace(now);
        self.urgent.send_if_modified(|now| std::mem::replace(now, urgent) != urgent);
    }

    fn answer_waiting(&mut self, now: BootInstant) {
        let machine = &self.machine;
        let verdicts: Vec<_> = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|waiting| (machine.verdict(now, waiting.asker.want(), waiting.round), waiting))
            .collect();
        for (verdict, waiting) in verdicts {
            match verdict {
                Some(verdict) => self.answer(waiting.asker, verdict),
                None => self.waiting.push(waiting),
            }
        }
    }

    async fn save(&mut self) {
        // A failure is logged, and tried again by `settle`.
        let _ = self.try_save().await;
    }

    async fn try_save(&mut self) -> Result<(), SessionError> {
        let now = self.shared.clock.boot();
        let ms = |long: Duration| u64::try_from(long.as_millis()).unwrap_or(u64::MAX);
        self.contents.refused_for_ms = self.machine.refused_for(now).map(ms);
        self.contents.draining_for_ms = self.machine.draining_for(now).map(ms);
        self.saved = now;
        let outcome = self.shared.files.save(self.handle.place.clone(), self.contents.clone()).await;
        match &outcome {
            Ok(()) => self.unsaved_since = None,
            Err(error) => {
                tracing::error!(session = %self.handle.place.id, %error, "a session could not be saved; tried again");
                self.unsaved_since = Some(now);
            }
        }
        outcome
    }

    fn revoke(&self, everywhere: bool) {
        let access_token = self.tokens.as_ref().and_then(|tokens| tokens.access_token.as_ref());
        let access_token = access_token.map(|(token, _)| token.clone());
        let refresh_token = self.contents.refresh_token.clone();
        // An access token alone ends the user's other sessions still.
        if refresh_token.is_some() || (everywhere && access_token.is_some()) {
            let grant = RefreshGrant { refresh_token, device: self.contents.device.clone() };
            self.shared.revoke_later(Arc::clone(&self.identity.tokens), grant, access_token, everywhere);
        }
    }

    async fn end(mut self: Box<Self>) {
        self.shared.forget(&self.handle);
        self.commands.close();
        let outcome = self.shared.files.remove(&self.handle.place.id).await;
        if let Err(error) = &outcome {
            tracing::error!(session = %self.handle.place.id, %error, "the sealed file of an ended session is still there");
        }
        self.revoke(self.everywhere);
        let state = self.view.borrow().state;
        metrics().session_moved(Some(label(state)), None);
        tracing::info!(session = %self.handle.place.id, "session ended");
        for done in std::mem::take(&mut self.ending) {
            let _ = done.send(outcome.clone());
        }
    }

    async fn stop(mut self: Box<Self>) {
        if self.machine.in_flight() == Some(Call::Tokens)
            && let Some(pending) = self.pending.take()
            && let Ok(Outcome::Tokens(result)) = tokio::time::timeout(STOP_WAIT, pending).await
        {
            let _ = self.take_refresh(result).await;
        }
        let counts = self.machine.draining_for(self.shared.clock.boot()).is_some();
        if self.unsaved_since.is_some() || counts {
            self.save().await;
        }
    }

    fn boot_deadline(&self, expire_time: SystemTime) -> BootInstant {
        self.shared.clock.boot() + between(self.shared.clock.wall() + CLOCK_DOUBT, expire_time)
    }
}

/// Where a session's jitter starts.
fn seed() -> u64 {
    #[cfg(test)]
    if let Some(seed) = super::histories::seed() {
        return seed;
    }
    rand::random()
}

impl Contents {
    /// What is kept of a sign-in.
    pub fn of_sign_in(tokens: &TokenSet, username: String) -> Self {
        Self {
            username,
            issuer: tokens.claims.issuer.clone(),
            audience: tokens.claims.audience.clone(),
            groups: tokens.claims.groups.clone(),
            refresh_token: tokens.refresh_token.clone(),
            device: tokens.device.clone(),
            ..Self::default()
        }
    }

    /// The guest identity id whose objects stayed behind; none while it may still become the user's own, and none where
    /// it has.
    pub fn stayed_behind(&self) -> Option<String> {
        let own = self.identity_id.as_ref()?;
        self.merged_from.clone().filter(|guest| guest != own)
    }
}

fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}
