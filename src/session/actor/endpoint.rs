//! The token of a session's credentials endpoint: made once, sealed with the session, gone with a sign-out.

use super::super::endpoint_token::EndpointToken;
use super::super::event::Refusal;
use super::super::files::Contents;
use super::super::{SessionError, SessionState};
use super::Actor;

impl Actor {
    /// The token that there is, or, where there is none or with `renew`, a new one that is durable already.
    pub(super) async fn endpoint_token(&mut self, renew: bool) -> Result<EndpointToken, SessionError> {
        let refused = |refusal| Err(self.refused(refusal));
        match (self.machine.state(self.shared.clock.boot()), &self.contents.endpoint_token) {
            (SessionState::SigningOut, _) => return refused(Refusal::SignedOut),
            (_, Some(token)) if !renew => return Ok(token.clone()),
            // What could not be opened must not be written over, and what is parked may end.
            (SessionState::NeedsSignIn, _) => return refused(Refusal::NeedsSignIn),
            (SessionState::Active | SessionState::Stale, _) => {}
        }
        let token = EndpointToken::generate()?;
        let contents = Contents { endpoint_token: Some(token.clone()), ..self.contents.clone() };
        self.shared.files.save(self.handle.place.clone(), contents.clone()).await?;
        self.contents = contents;
        self.handle.endpoint.replace(Some(&token));
        tracing::info!(session = %self.handle.place.id, renew, "a credentials endpoint was handed out");
        Ok(token)
    }

    /// The user signs out: the token is refused from now on, and does not come back with the next sign-in.
    pub(super) fn close_endpoint(&mut self) {
        self.contents.endpoint_token = None;
        self.handle.endpoint.replace(None);
    }
}
