//! What others see of a session's task: the readers' copy, the view, and the answers. Promises that nothing is shown that
//! the state machine would not serve; must never show a secret in a view or a log line.

use std::sync::Arc;
use std::time::Duration;

use super::super::event::Refusal;
use super::super::failure::session_error;
use super::super::mailbox::Asker;
use super::super::registry::Served;
use super::super::{ServedCredentials, ServedTokens, SessionError, SessionState, SessionView, TokenSet};
use super::Actor;
use crate::clock::BootInstant;
use crate::telemetry::metrics;
use crate::telemetry::metrics::SessionStateLabel;

impl Actor {
    /// True where readers get something else than before.
    pub(super) fn copy_for_readers(&mut self, now: BootInstant) -> bool {
        let Some(serve_until) = self.machine.servable_until(now) else { return false };
        let Some(credentials) = self.served() else { return false };
        let same = self.copied.as_ref().is_some_and(|(copied, last_error)| {
            Arc::ptr_eq(copied, &credentials.credentials) && *last_error == credentials.last_error
        });
        if !same {
            self.copied = Some((Arc::clone(&credentials.credentials), credentials.last_error.clone()));
            self.shared.cache.insert(self.handle.serial, Arc::new(Served { serve_until, credentials }));
            self.shared.has_changed();
        }
        !same
    }

    /// Shows the view; those who follow it hear of every rotation, also where new credentials end in the same second.
    pub(super) fn publish(&mut self, now: BootInstant, rotated: bool) {
        let view = self.view_now(now);
        let mut moved = None;
        self.view.send_if_modified(|shown| {
            if view.state != shown.state {
                moved = Some((shown.state, view.state));
            }
            let changed = rotated || *shown != view;
            *shown = view;
            changed
        });
        if let Some((from, to)) = moved {
            tracing::info!(session = %self.handle.place.id, ?from, ?to, "session state changed");
            metrics().session_moved(Some(label(from)), Some(label(to)));
        }
    }

    pub(super) fn view_now(&self, now: BootInstant) -> SessionView {
        let mut view = self.view.borrow().clone();
        view.username.clone_from(&self.contents.username);
        view.state = self.machine.state(now);
        view.identity_id.clone_from(&self.contents.identity_id);
        view.groups.clone_from(&self.contents.groups);
        view.credentials_expire_time = self.credentials.as_ref().map(|credentials| credentials.expire_time);
        view.last_error.clone_from(&self.last_error);
        view.merged_from = self.contents.stayed_behind();
        if let Some(subject) = &self.contents.subject {
            view.subject.clone_from(subject);
        }
        view
    }

    fn served(&self) -> Option<ServedCredentials> {
        let credentials = self.credentials.as_ref()?;
        Some(ServedCredentials {
            credentials: Arc::clone(credentials),
            identity_id: self.contents.identity_id.clone()?,
            stale: self.last_error.is_some(),
            last_error: self.last_error.clone(),
        })
    }

    /// What a caller is told, who can sign a user in again, but not a device account.
    pub(super) fn refused(&self, refusal: Refusal) -> SessionError {
        match (&self.service, refusal) {
            (Some(account), Refusal::NeedsSignIn) => SessionError::NeedsSignIn(format!(
                "service session {:?} cannot sign itself in ({}): the administrator must put its account right",
                account.name,
                self.last_error.as_deref().unwrap_or("its tokens have ended")
            )),
            (_, refusal) => session_error(refusal, self.last_error.clone()),
        }
    }

    pub(super) fn answer(&self, asker: Asker, verdict: Result<(), Refusal>) {
        if let Err(refusal) = verdict {
            return asker.refuse(self.refused(refusal));
        }
        let nothing = Refusal::Unavailable { retry_after: Duration::from_secs(1) };
        let missing = || self.refused(nothing);
        match asker {
            Asker::Credentials(reply) | Asker::UploadCredentials(reply) => {
                let _ = reply.send(self.served().ok_or_else(missing));
            }
            Asker::Tokens(reply) => {
                let _ = reply.send(self.tokens.clone().ok_or_else(missing));
            }
            Asker::Refresh(reply) => {
                let _ = reply.send(Ok(self.view_now(self.shared.clock.boot())));
            }
            Asker::Denied(_, reply) => {
                let _ = reply.send(Ok(true));
            }
        }
    }
}

impl From<TokenSet> for ServedTokens {
    fn from(set: TokenSet) -> Self {
        Self {
            id_token: set.id_token,
            id_token_expire_time: set.claims.expire_time,
            access_token: set.access_token.zip(set.access_token_expire_time),
        }
    }
}

pub(super) fn label(state: SessionState) -> SessionStateLabel {
    match state {
        SessionState::Active => SessionStateLabel::Active,
        SessionState::Stale => SessionStateLabel::Stale,
        SessionState::NeedsSignIn => SessionStateLabel::NeedsSignIn,
        SessionState::SigningOut => SessionStateLabel::SigningOut,
    }
}
