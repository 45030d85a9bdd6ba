//! The calls of a session's task: what is written down before one goes out, and what is taken of its answer. Promises
//! that a rotated refresh token is durable before anything that came with it is used, that an answer about somebody else
//! is never taken, and that nothing valid is replaced by something that had ended when it arrived.

use std::sync::Arc;

use super::super::event::{Call, Event, Failure, Success};
use super::super::failure::{credential_failure, token_failure};
use super::super::upstream::{self, Outcome};
use super::super::{RefreshGrant, RememberedDevice, TokenError, TokenSet};
use super::Actor;
use crate::clock::BootInstant;
use crate::credential::{Credentials, Login};

/// What came of a call: the text is for a person.
type Taken = Result<Success, (Failure, String)>;

impl Actor {
    /// Begins a call. Before a refresh that may rotate the refresh token, the session's file says that one is under way:
    /// where its reply is lost in a crash, the next start asks again at once, inside the pool's grace for the old token.
    pub(super) async fn begin(&mut self, call: Call) {
        let unwritten = !self.contents.reply_open || self.unsaved_since.is_some();
        // A device account loses nothing: it signs itself in again.
        let may_rotate = self.service.is_none() && self.contents.rotates != Some(false);
        if call == Call::Tokens && may_rotate && unwritten {
            self.contents.reply_open = true;
            let written = self.try_save().await;
            // A refresh token that cannot be kept must not be fetched.
            if let (Err(error), Some(true)) = (written, self.contents.rotates) {
                let text = format!("no refresh is made, because its refresh token could not be kept: {error}");
                let refused = Outcome::Tokens(Err(TokenError::Transient(text)));
                self.pending = Some(Box::pin(std::future::ready(refused)));
                return;
            }
        }
        self.send(call);
    }

    /// Sends a call; see [`upstream::call`].
    pub(super) fn send(&mut self, call: Call) {
        let secrets = upstream::Secrets {
            login: self.tokens.as_ref().map(|tokens| Login {
                provider: self.identity.tokens.provider().to_owned(),
                subject: self.subject().to_owned(),
                id_token: tokens.id_token.clone(),
            }),
            grant: RefreshGrant {
                refresh_token: self.contents.refresh_token.clone(),
                device: self.contents.device.clone(),
            },
            identity_id: self.contents.identity_id.clone(),
            service: self.service.clone(),
            offer: self.offer.clone(),
        };
        let urgent = self.urgent.subscribe();
        self.pending = Some(upstream::call(&self.shared, &self.identity, secrets, urgent, call));
    }

    /// Takes what came of the call in flight.
    pub(super) async fn finished(&mut self, outcome: Outcome) {
        let now = self.now();
        let taken = match outcome {
            Outcome::Tokens(result) => self.take_refresh(result).await,
            Outcome::IdentityId(Ok(id)) => self.take_identity_id(id).await,
            Outcome::IdentityId(Err(error)) | Outcome::Credentials(Err(error)) => {
                Err((credential_failure(error.kind), error.message))
            }
            Outcome::Credentials(Ok(credentials)) => self.take_credentials(now, credentials),
        };
        let failed = match &taken {
            Ok(_) => None,
            Err((failure, text)) => {
                let session = &self.handle.place.id;
                if matches!(failure, Failure::Transient | Failure::ReplyLost | Failure::Throttled) {
                    tracing::warn!(%session, ?failure, why = %text, "a refresh failed; what is valid is served");
                } else {
                    tracing::error!(%session, ?failure, why = %text, "a refresh failed");
                }
                Some(text.clone())
            }
        };
        self.happen_at(now, Event::Done(taken.map_err(|(failure, _)| failure))).await;
        if failed.is_some() {
            self.last_error = failed;
        } else if self.machine.in_flight().is_none() {
            self.last_error = None;
        }
    }

    /// Takes the answer of a token refresh.
    pub(super) async fn take_refresh(&mut self, result: Result<TokenSet, TokenError>) -> Taken {
        match result {
            Ok(set) => self.take_tokens(set).await,
            Err(error) => {
                let failure = (token_failure(&error), error.to_string());
                if let TokenError::Unverified { refresh_token, .. } = error {
                    self.contents.refresh_token = Some(refresh_token);
                    self.contents.rotates = Some(true);
                    self.contents.reply_open = false;
                    self.save().await;
                }
                Err(failure)
            }
        }
    }

    async fn take_tokens(&mut self, mut set: TokenSet) -> Taken {
        let is_first = self.service.is_some() && self.contents.subject.is_none();
        if is_first {
            self.contents.subject = Some(set.claims.subject.clone());
            self.contents.issuer.clone_from(&set.claims.issuer);
            self.contents.audience.clone_from(&set.claims.audience);
            let account = self.service.as_ref().and_then(|account| account.username());
            self.contents.username = account.unwrap_or(&set.claims.username).to_owned();
        }
        let expected = (self.contents.issuer.as_str(), self.subject(), self.contents.audience.as_str());
        if (set.claims.issuer.as_str(), set.claims.subject.as_str(), set.claims.audience.as_str()) != expected {
            let text = if self.service.is_some() {
                "the device account is another user, issuer or client than before: its session is parked; give the \
                 [[service_session]] another name to begin anew as that user"
            } else {
                "the refreshed token is for another user, issuer or client: the session is parked, sign in again"
            };
            return Err((Failure::OtherUser, text.to_owned()));
        }
        let groups_changed = set.claims.groups != self.contents.groups;
        let rotated = set.refresh_token.is_some();
        let noted = self.contents.reply_open || self.contents.rotates != Some(rotated);
        if let Some(token) = set.refresh_token.take() {
            self.contents.refresh_token = Some(token);
        }
        // A device account that signed itself in again may be a new device to the pool, which refreshes only for that one.
        let key = |device: &Option<RememberedDevice>| device.as_ref().map(|device| device.key.clone());
        let device_changed = key(&set.device) != key(&self.contents.device);
        self.contents.device.clone_from(&set.device);
        self.contents.rotates = Some(rotated);
        self.contents.reply_open = false;
        let groups = std::mem::replace(&mut self.contents.groups, set.claims.groups.clone());
        if (rotated || groups_changed || noted || is_first || device_changed)
            && let Err(error) = self.try_save().await
            && rotated
            && self.service.is_none()
        {
            // What came along is dropped; the next refresh is made once the new token could be written.
            self.contents.groups = groups;
            return Err((Failure::Transient, format!("the new refresh token could not be kept: {error}")));
        }
        let id_token_deadline = self.boot_deadline(set.claims.expire_time);
        if self.now() >= id_token_deadline {
            self.contents.groups = groups;
            let text = "the refreshed ID token had ended when it arrived: is the user pool's clock right?";
            return Err((Failure::Transient, text.to_owned()));
        }
        self.tokens = Some(set.into());
        Ok(Success::Tokens { id_token_deadline, groups_changed, rotated })
    }

    async fn take_identity_id(&mut self, id: String) -> Taken {
        match &self.contents.identity_id {
            Some(known) if *known != id => {
                let text = if self.service.is_some() {
                    "the device account has another identity id than before: its session is parked; give the \
                     [[service_session]] another name to begin anew under the new one"
                } else {
                    "the identity pool gives this user another identity id than before: the session is parked, sign in \
                     again to use the new one"
                };
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

    fn take_credentials(&mut self, now: BootInstant, credentials: Credentials) -> Taken {
        let (received, deadline) = (credentials.received, credentials.deadline);
        if !self.machine.can_serve(now, received, deadline) {
            let text = "the credentials had ended when they arrived: is the service's clock right?";
            return Err((Failure::Transient, text.to_owned()));
        }
        self.credentials = Some(Arc::new(credentials));
        Ok(Success::Credentials { received, deadline })
    }

    /// Who is signed in: the `sub` of every one of the session's tokens. A service session learns it from the first ones.
    fn subject(&self) -> &str {
        self.contents.subject.as_ref().unwrap_or(&self.handle.place.subject)
    }

    fn now(&self) -> BootInstant {
        self.shared.clock.boot()
    }
}
