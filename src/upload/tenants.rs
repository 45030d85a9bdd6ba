//! What uploads need of the session registry, as a trait, so that workers can be tested without one.

use tokio::sync::watch;

use crate::caller::Caller;
use crate::session::{SessionError, SessionId, SessionView, Sessions};
use crate::store::Signer;

/// Whose uploads there are, and what signs them.
#[async_trait::async_trait]
pub trait Tenants: Send + Sync + std::fmt::Debug + 'static {
    /// The caller's session of that id, or its only one.
    ///
    /// # Errors
    /// As [`Sessions::get`].
    fn session(&self, caller: &Caller, id: Option<&SessionId>) -> Result<SessionView, SessionError>;

    /// The service session of that name, which the caller must be allowed to use.
    ///
    /// # Errors
    /// As [`Sessions::service`].
    fn service(&self, caller: &Caller, name: &str) -> Result<SessionId, SessionError>;

    /// The session's identity id where the view does not have it yet.
    ///
    /// # Errors
    /// As [`Sessions::credentials`].
    async fn identity_id(&self, caller: &Caller, id: &SessionId) -> Result<String, SessionError>;

    /// The session is there and takes uploads; false from the first moment of a sign-out on.
    fn takes_uploads(&self, session: &SessionId) -> bool;

    /// What signs uploads of exactly this identity id for this uid.
    ///
    /// # Errors
    /// As [`Sessions::credentials_for_upload`].
    async fn signer(&self, owner_uid: u32, identity: &str, identity_id: &str) -> Result<Signer, SessionError>;

    /// Whether a session may still sign as this guest: as soon as it says no, it never will again.
    fn guest_may_sign(&self, owner_uid: u32, identity: &str, identity_id: &str) -> bool;

    /// Other credentials after a denial; `Ok(false)` where it is too early.
    ///
    /// # Errors
    /// As [`Sessions::refresh_after_denied`].
    async fn refresh_after_denied(
        &self,
        owner_uid: u32,
        identity: &str,
        identity_id: &str,
        denied_access_key_id: &str,
    ) -> Result<bool, SessionError>;

    /// Moves with every sign-in and every refresh.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Sessions that only wait for their uploads.
    fn signing_out(&self) -> Vec<SessionId>;

    /// The uploads of a session that is signing out are done.
    async fn uploads_done(&self, session: &SessionId);
}

#[async_trait::async_trait]
impl Tenants for Sessions {
    fn session(&self, caller: &Caller, id: Option<&SessionId>) -> Result<SessionView, SessionError> {
        self.get(caller, id)
    }

    fn service(&self, caller: &Caller, name: &str) -> Result<SessionId, SessionError> {
        Sessions::service(self, caller, name)
    }

    async fn identity_id(&self, caller: &Caller, id: &SessionId) -> Result<String, SessionError> {
        Ok(self.credentials(caller, Some(id)).await?.identity_id)
    }

    fn takes_uploads(&self, session: &SessionId) -> bool {
        Sessions::takes_uploads(self, session)
    }

    fn guest_may_sign(&self, owner_uid: u32, identity: &str, identity_id: &str) -> bool {
        Sessions::guest_may_sign(self, owner_uid, identity, identity_id)
    }

    async fn signer(&self, owner_uid: u32, identity: &str, identity_id: &str) -> Result<Signer, SessionError> {
        let served = self.credentials_for_upload(owner_uid, identity, identity_id).await?;
        if served.identity_id != identity_id {
            return Err(SessionError::IdentityChanged(
                "the session has credentials of another identity id: the upload waits for its own user".into(),
            ));
        }
        Ok(Signer {
            access_key_id: served.credentials.access_key_id.clone(),
            secret_access_key: served.credentials.secret_access_key.clone(),
            session_token: served.credentials.session_token.clone(),
        })
    }

    async fn refresh_after_denied(
        &self,
        owner_uid: u32,
        identity: &str,
        identity_id: &str,
        denied_access_key_id: &str,
    ) -> Result<bool, SessionError> {
        Sessions::refresh_after_denied(self, owner_uid, identity, identity_id, denied_access_key_id).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed()
    }

    fn signing_out(&self) -> Vec<SessionId> {
        Sessions::signing_out(self)
    }

    async fn uploads_done(&self, session: &SessionId) {
        Sessions::uploads_done(self, session).await;
    }
}
