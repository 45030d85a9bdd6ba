//! What the credentials endpoint asks of the sessions: a token for the session's owner, credentials for the token.

use std::sync::atomic::Ordering;

use secrecy::SecretString;

use super::super::endpoint_token::Lock;
use super::super::mailbox::Command;
use super::super::{ServedCredentials, SessionError, SessionId};
use super::Sessions;
use crate::caller::Caller;

/// Why a token gets no credentials.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EndpointRefusal {
    /// It is not the token of that session: there is no such session, it is signed out, or has another token.
    #[error("not the token of this session")]
    NotAdmitted,
    /// It is, but the session has nothing to give.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Sessions {
    /// The token by which programs get this session's credentials: always the same one, also after a restart, until it is
    /// renewed or the session is signed out.
    ///
    /// # Errors
    /// `NotFound`, `NoSession`, `Ambiguous`, `NeedsSignIn`; `Storage` where a new one could not be kept.
    pub async fn endpoint_token(
        &self,
        caller: &Caller,
        id: Option<&SessionId>,
        renew: bool,
    ) -> Result<(SessionId, SecretString), SessionError> {
        let handle = self.0.find(caller, id)?;
        let token = handle.tell(|done| Command::EndpointToken { renew, done }).await?;
        Ok((SessionId(handle.place.id.clone()), token.secret().clone()))
    }

    /// Whether local programs get something of this session: it exists and is not signed out.
    pub fn vends(&self, id: &SessionId) -> bool {
        self.0.read().by_id.get(&id.0).is_some_and(|handle| handle.vending.load(Ordering::SeqCst))
    }

    /// Credentials of session `id` for whoever presents its token; from memory where they are valid.
    ///
    /// # Errors
    /// [`EndpointRefusal`].
    pub async fn credentials_for_token(
        &self,
        id: &SessionId,
        presented: &[u8],
    ) -> Result<ServedCredentials, EndpointRefusal> {
        let handle = self.0.read().by_id.get(&id.0).cloned();
        let opens = || {
            Lock::opens(handle.as_ref().map(|handle| &handle.endpoint), presented)
                && handle.as_ref().is_some_and(|handle| handle.vending.load(Ordering::SeqCst))
        };
        if !opens() {
            return Err(EndpointRefusal::NotAdmitted);
        }
        let Some(handle) = &handle else { return Err(EndpointRefusal::NotAdmitted) };
        let served = self.credentials_of(handle).await;
        // Signed out while it waited.
        if opens() { Ok(served?) } else { Err(EndpointRefusal::NotAdmitted) }
    }
}
