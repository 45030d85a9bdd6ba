//! Every session of this device. Owns who sees which session; promises that signing in again gives the same session and
//! that another uid's session does not exist; must never hold a lock while it waits.

use std::path::Path;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Config, Identity, ServedCredentials, ServedTokens, SessionError, SessionId, SessionView, SignInMethod,
    SignOutUploads,
};
use crate::caller::Caller;
use crate::clock::Clock;

/// Every session of this device; clones share it.
#[derive(Debug, Clone)]
pub struct Sessions(());

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
        todo!()
    }

    /// Waits until every task has ended; cancels them first. Nothing is lost: what matters is on disk already.
    pub async fn shutdown(&self) {
        todo!()
    }

    /// Sessions that only wait for their uploads: after a start, those without unfinished uploads are to be told
    /// [`Sessions::uploads_done`].
    pub fn signing_out(&self) -> Vec<SessionId> {
        todo!()
    }

    /// The uploads of a session that is signing out are done (or were parked): its tokens are revoked and wiped.
    pub async fn uploads_done(&self, session: &SessionId) {
        todo!()
    }

    /// Moves with every sign-in, every new set of credentials and every end of a session: uploads that wait for any of
    /// them try again then.
    pub fn changed(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// The link is back: sessions that somebody waits for try at once, the others spread over the boot jitter.
    pub fn link_returned(&self) {
        todo!()
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
        todo!()
    }

    /// The caller's session of that id, or its only one.
    ///
    /// # Errors
    /// `NotFound`, `NoSession`, `Ambiguous`.
    pub fn get(&self, caller: &Caller, id: Option<&SessionId>) -> Result<SessionView, SessionError> {
        todo!()
    }

    /// The caller's sessions, oldest first.
    pub fn list(&self, caller: &Caller) -> Vec<SessionView> {
        todo!()
    }

    /// How many sessions there are (`None`) or that uid has.
    pub fn count(&self, uid: Option<u32>) -> usize {
        todo!()
    }

    /// The caller's session now and after every change; the channel closes when the session is gone.
    ///
    /// # Errors
    /// As [`Sessions::get`].
    pub fn watch(&self, caller: &Caller, id: Option<&SessionId>) -> Result<watch::Receiver<SessionView>, SessionError> {
        todo!()
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
        todo!()
    }

    /// The user's JWTs for a local program, refreshed where the ID token has less than 5 minutes left.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn tokens(&self, caller: &Caller, id: Option<&SessionId>) -> Result<ServedTokens, SessionError> {
        todo!()
    }

    /// New tokens and credentials now.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn refresh(&self, caller: &Caller, id: Option<&SessionId>) -> Result<SessionView, SessionError> {
        todo!()
    }

    /// Ends a session: vending stops before this returns. `upload` has been told by [`Sessions::ended`].
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn sign_out(
        &self,
        caller: &Caller,
        id: Option<&SessionId>,
        uploads: SignOutUploads,
        everywhere: bool,
    ) -> Result<SessionId, SessionError> {
        todo!()
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
        todo!()
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
        todo!()
    }
}
