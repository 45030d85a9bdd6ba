//! Guests: sessions without tokens, under the identity pool's unauthenticated role. Owns how a guest comes and how one
//! makes way for a user; promises that a guest who has signed out is never continued by the next one, and that a guest's
//! identity id is offered to a user only after the guest's uploads have ended; must never touch those uploads.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::actor::Start;
use super::files::{Contents, Place};
use super::mailbox::Command;
use super::registry::{Handle, Shared};
use super::{Identity, SessionError, SessionKind, TokenError};
use crate::clock::unix_ms;
use crate::credential::{CredentialError, CredentialErrorKind};

/// For how long a guest that has signed out sends what it left. Nobody can come back as that guest, so nothing of it is
/// ever parked: it goes on until its uploads have ended, and those have a lifetime of their own.
pub const DRAIN_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What a guest leaves to the user who signs in: an identity id that may become the user's.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The guest's identity id.
    pub guest_identity_id: String,
    guest: Arc<Handle>,
}

impl Offer {
    /// What this guest leaves.
    pub fn of(guest: &Arc<Handle>) -> Option<Self> {
        let guest_identity_id = guest.identity_id.get()?.clone();
        Some(Self { guest_identity_id, guest: Arc::clone(guest) })
    }

    /// Waits until the guest's session has ended, its uploads with it; false where that takes longer than `wait`.
    pub async fn is_free_within(&self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.guest.commands.closed()).await.is_ok()
    }
}

impl Shared {
    /// The guest of that uid at that identity, while it is signed in.
    pub fn guest_of(&self, uid: u32, identity: &str) -> Option<Arc<Handle>> {
        let registry = self.read();
        let owned = registry.by_uid.get(&uid).map(Vec::as_slice).unwrap_or_default();
        let mut guests = owned.iter().filter(|handle| {
            handle.place.kind == SessionKind::Guest
                && handle.place.identity == identity
                && handle.vending.load(Ordering::SeqCst)
        });
        guests.next().cloned()
    }

    /// Ends a guest's session for local programs; what it uploads is sent first. The upload room says when that is done:
    /// it looks whenever sessions change.
    pub async fn retire_guest(&self, guest: Option<&Handle>) {
        let Some(guest) = guest else { return };
        guest.vending.store(false, Ordering::SeqCst);
        // One that has ended meanwhile is as well.
        let _ = guest.tell(|done| Command::SignOut { drain: true, everywhere: false, done }).await;
        self.has_changed();
    }

    /// The guest of that uid: the one that is signed in, else a new one.
    ///
    /// # Errors
    /// `GuestsRefused`, `LimitReached`, `Storage`, and why the identity pool gives no identity id.
    pub async fn adopt_guest(self: Arc<Self>, uid: u32, identity: Identity) -> Result<Arc<Handle>, SessionError> {
        if !identity.guests {
            return Err(SessionError::GuestsRefused(format!(
                "identity {:?} takes no guests: sign a user in, or set guests = true in its configuration",
                identity.name
            )));
        }
        if let Some(handle) = self.guest_again(uid, &identity).await? {
            return Ok(handle);
        }
        self.check_room()?;
        // Not under the lock: the pool may take its time, and others sign in meanwhile.
        let asked = tokio::time::timeout(self.give_up_after, identity.credentials.identity_id(None)).await;
        let identity_id = match asked {
            Ok(Ok(identity_id)) => identity_id,
            Ok(Err(error)) => return Err(refused(&identity.name, error)),
            Err(_) => return Err(TokenError::Transient("the identity pool did not answer in time".to_owned()).into()),
        };
        let _one_by_one = self.adopting.lock().await;
        if let Some(handle) = self.guest_again(uid, &identity).await? {
            return Ok(handle);
        }
        self.check_room()?;
        let place = Place {
            id: ulid::Ulid::generate().to_string(),
            identity: identity.name.clone(),
            subject: String::new(),
            owner_uid: uid,
            kind: SessionKind::Guest,
            service: String::new(),
            create_time_unix_ms: unix_ms(self.clock.wall()),
        };
        let contents = Contents { identity_id: Some(identity_id), ..Contents::default() };
        self.files.save(place.clone(), contents.clone()).await?;
        tracing::info!(session = %place.id, identity = %place.identity, "a guest signed in");
        let start = Start { place, contents: Some(contents), tokens: None, identity, offer: None, service: None };
        let handle = self.spawn(start);
        handle.tell(Command::GuestSignedIn).await?;
        Ok(handle)
    }

    /// The guest that is signed in already, awake again.
    async fn guest_again(&self, uid: u32, identity: &Identity) -> Result<Option<Arc<Handle>>, SessionError> {
        let Some(handle) = self.guest_of(uid, &identity.name) else { return Ok(None) };
        if handle.identity_id.get().is_none() {
            // What was kept of it cannot be opened: it is nobody any more.
            handle.tell(|done| Command::SignOut { drain: false, everywhere: false, done }).await?;
            return Ok(None);
        }
        match handle.tell(Command::GuestSignedIn).await {
            // It ended between two looks.
            Err(SessionError::Unavailable { .. }) if !self.stop.is_cancelled() => Ok(None),
            other => other.map(|()| Some(handle)),
        }
    }

    fn check_room(&self) -> Result<(), SessionError> {
        let held = self.read().by_id.len();
        if held >= self.config.max_sessions { Err(SessionError::LimitReached(held)) } else { Ok(()) }
    }
}

fn refused(identity: &str, error: CredentialError) -> SessionError {
    match error.kind {
        CredentialErrorKind::Transient => TokenError::Transient(error.message).into(),
        CredentialErrorKind::Throttled => TokenError::Throttled(error.message).into(),
        CredentialErrorKind::NotAuthorized => SessionError::GuestsRefused(format!(
            "the identity pool of identity {identity:?} takes no guests: sign a user in, or allow unauthenticated \
             identities in the pool ({})",
            error.message
        )),
        CredentialErrorKind::IdentityMoved | CredentialErrorKind::Configuration => {
            SessionError::Configuration(error.message)
        }
    }
}
