//! What a session's task takes from upstream. Promises that an answer about another user, issuer, client or identity id
//! never becomes this session's, and that a rotated refresh token is durable before anything is done with what came along.

use std::sync::Arc;

use super::super::TokenSet;
use super::super::event::{Event, Failure, Success};
use super::super::failure::{credential_failure, token_failure};
use super::super::upstream::Outcome;
use super::Actor;

impl Actor {
    pub(super) async fn finished(&mut self, outcome: Outcome) {
        let result = match outcome {
            Outcome::Tokens(Ok(set)) => self.take_tokens(set).await,
            Outcome::Tokens(Err(error)) => Err((token_failure(&error), error.to_string())),
            Outcome::IdentityId(Ok(id)) => self.take_identity_id(id).await,
            Outcome::IdentityId(Err(error)) | Outcome::Credentials(Err(error)) => {
                Err((credential_failure(error.kind), error.message))
            }
            Outcome::Credentials(Ok(credentials)) => {
                let (received, deadline) = (credentials.received, credentials.deadline);
                self.credentials = Some(Arc::new(credentials));
                Ok(Success::Credentials { received, deadline })
            }
        };
        let failed = match &result {
            Ok(_) => None,
            Err((failure, text)) => {
                let session = &self.handle.place.id;
                if matches!(failure, Failure::Transient | Failure::Throttled) {
                    tracing::warn!(%session, ?failure, why = %text, "a refresh failed; what is valid is served");
                } else {
                    tracing::error!(%session, ?failure, why = %text, "a refresh failed");
                }
                Some(text.clone())
            }
        };
        self.happen(Event::Done(result.map_err(|(failure, _)| failure))).await;
        if failed.is_some() {
            self.last_error = failed;
        } else if self.machine.in_flight().is_none() {
            self.last_error = None;
        }
    }

    pub(super) async fn take_tokens(&mut self, set: TokenSet) -> Result<Success, (Failure, String)> {
        let is_first = self.service.is_some() && self.contents.subject.is_none();
        if is_first {
            self.contents.subject = Some(set.claims.subject.clone());
            self.contents.issuer.clone_from(&set.claims.issuer);
            self.contents.audience.clone_from(&set.claims.audience);
            let account = self.service.as_ref().and_then(|account| account.username());
            self.contents.username = account.unwrap_or(&set.claims.username).to_owned();
        }
        let subject = self.contents.subject.as_ref().unwrap_or(&self.handle.place.subject);
        let expected = (&self.contents.issuer, subject, &self.contents.audience);
        if (&set.claims.issuer, &set.claims.subject, &set.claims.audience) != expected {
            let text = if self.service.is_some() {
                "the device account is another user, issuer or client than before: its session is parked; give the \
                 [[service_session]] another name to begin anew as that user"
            } else {
                "the refreshed token is for another user, issuer or client: the session is parked, sign in again"
            };
            return Err((Failure::OtherUser, text.to_owned()));
        }
        let groups_changed = set.claims.groups != self.contents.groups;
        let id_token_deadline = self.boot_deadline(set.claims.expire_time);
        let rotated = set.refresh_token.is_some();
        if let Some(token) = &set.refresh_token {
            self.contents.refresh_token = Some(token.clone());
        }
        self.contents.groups.clone_from(&set.claims.groups);
        self.tokens = Some(set);
        if rotated || groups_changed || is_first {
            // The new refresh token is durable before anything is done with what came along with it.
            self.save().await;
        }
        Ok(Success::Tokens { id_token_deadline, groups_changed })
    }

    async fn take_identity_id(&mut self, id: String) -> Result<Success, (Failure, String)> {
        match &self.contents.identity_id {
            Some(known) if *known != id => {
                let text = "the identity pool gives this user another identity id than before: the session is parked, \
                            sign in again to use the new one";
                Err((Failure::OtherUser, text.to_owned()))
            }
            Some(_) => Ok(Success::IdentityId),
            None => {
                self.offer = None;
                match &self.contents.merged_from {
                    Some(guest) if *guest == id => {
                        tracing::info!(session = %self.handle.place.id, "the guest's identity id is the user's now");
                        self.contents.merged_from = None;
                    }
                    Some(_) => tracing::info!(session = %self.handle.place.id, "a guest's objects stay where they are"),
                    None => {}
                }
                let _ = self.handle.identity_id.set(id.clone());
                self.contents.identity_id = Some(id);
                self.save().await;
                Ok(Success::IdentityId)
            }
        }
    }
}
