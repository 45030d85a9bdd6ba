//! `CredentialService`: what a session's owner may take out of it. Answers are made from memory; nothing here is kept.

use std::sync::{Arc, Mutex, PoisonError};

use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::server::caller;
use super::status::of_session;
use super::v1::credential_service_server::CredentialService;
use super::watch::{Answers, Next, answers};
use super::{convert, names, status, v1};
use crate::caller::Caller;
use crate::clock::BootInstant;
use crate::session::{ServedCredentials, SessionError, SessionId, Sessions};

/// See the module.
#[derive(Debug)]
pub struct CredentialApi {
    sessions: Sessions,
    endpoint_base: Option<String>,
    stop: CancellationToken,
}

impl CredentialApi {
    /// Serves the credentials of `sessions`; a session's URL is `endpoint_base` and its id; streams end with `stop`.
    pub fn new(sessions: Sessions, endpoint_base: Option<String>, stop: CancellationToken) -> Self {
        Self { sessions, endpoint_base, stop }
    }
}

/// The session is in the field `session`.
const FIELD: &str = "session";

#[tonic::async_trait]
impl CredentialService for CredentialApi {
    type WatchAwsCredentialsStream = Answers<v1::WatchAwsCredentialsResponse>;

    async fn get_aws_credentials(
        &self,
        request: Request<v1::GetAwsCredentialsRequest>,
    ) -> Result<Response<v1::GetAwsCredentialsResponse>, Status> {
        let caller = caller(&request)?;
        let id = names::session(FIELD, &request.get_ref().session)?;
        let served =
            self.sessions.credentials(&caller, id.as_ref()).await.map_err(|error| of_session(&error, FIELD))?;
        Ok(Response::new(v1::GetAwsCredentialsResponse { credentials: Some(convert::credentials(&served)) }))
    }

    async fn watch_aws_credentials(
        &self,
        request: Request<v1::WatchAwsCredentialsRequest>,
    ) -> Result<Response<Self::WatchAwsCredentialsStream>, Status> {
        let caller = caller(&request)?;
        let id = names::session(FIELD, &request.get_ref().session)?;
        let states = self.sessions.watch(&caller, id.as_ref()).map_err(|error| of_session(&error, FIELD))?;
        // The session is fixed now: another one may come while the stream runs.
        let id = states.borrow().id.clone();
        let rotation = Arc::new(Rotation { sessions: self.sessions.clone(), caller, id, sent: Mutex::default() });
        let show = move |_| {
            let rotation = Arc::clone(&rotation);
            async move { rotation.next().await }
        };
        Ok(Response::new(answers(states, self.stop.clone(), show)))
    }

    async fn get_tokens(
        &self,
        request: Request<v1::GetTokensRequest>,
    ) -> Result<Response<v1::GetTokensResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let id = names::session(FIELD, &request.session)?;
        let served = self.sessions.tokens(&caller, id.as_ref()).await.map_err(|error| of_session(&error, FIELD))?;
        Ok(Response::new(convert::tokens(&served, request.include_access_token)))
    }

    async fn create_credentials_endpoint(
        &self,
        request: Request<v1::CreateCredentialsEndpointRequest>,
    ) -> Result<Response<v1::CreateCredentialsEndpointResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let id = names::session(FIELD, &request.session)?;
        let base = self.endpoint_base.as_deref().ok_or_else(status::vending_disabled)?;
        let (id, token) = self
            .sessions
            .endpoint_token(&caller, id.as_ref(), request.renew_token)
            .await
            .map_err(|error| of_session(&error, FIELD))?;
        Ok(Response::new(v1::CreateCredentialsEndpointResponse {
            url: format!("{base}{}", id.0),
            authorization_token: token.expose_secret().to_owned(),
            session: names::of_session(&id),
        }))
    }
}

/// The credentials of one session, as one stream shows them.
struct Rotation {
    sessions: Sessions,
    caller: Caller,
    id: SessionId,
    sent: Mutex<Option<Shown>>,
}

/// What tells one answer from the next: access key id, end, stale mark and why. Long-lived keys come again under the same
/// id with a later end.
type Shown = (String, BootInstant, bool, Option<String>);

impl Rotation {
    /// The credentials, where they are other than those sent last. While there are none the stream waits; it ends where
    /// the user signed out, and with an error where there will be none before the next sign-in.
    async fn next(&self) -> Next<v1::WatchAwsCredentialsResponse> {
        match self.sessions.credentials(&self.caller, Some(&self.id)).await {
            Ok(served) => {
                let shown = shown(&served);
                let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
                if sent.as_ref() == Some(&shown) {
                    return Next::Skip;
                }
                *sent = Some(shown);
                Next::Send(v1::WatchAwsCredentialsResponse { credentials: Some(convert::credentials(&served)) })
            }
            Err(error) if !self.has_sent() => Next::Fail(of_session(&error, FIELD)),
            Err(_) if !self.sessions.vends(&self.id) => Next::End,
            Err(SessionError::Unavailable { .. }) => Next::Skip,
            Err(error) => Next::Fail(of_session(&error, FIELD)),
        }
    }

    fn has_sent(&self) -> bool {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

fn shown(served: &ServedCredentials) -> Shown {
    let credentials = &served.credentials;
    (credentials.access_key_id.clone(), credentials.deadline, served.stale, served.last_error.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, from_unix_ms};
    use crate::credential::Credentials;

    #[test]
    fn the_same_keys_with_a_later_end_are_sent_again() {
        let clock = Clock::manual(from_unix_ms(1_800_000_000_000));
        let served = |lasts: Duration| ServedCredentials {
            credentials: Arc::new(Credentials {
                access_key_id: "AKIA1".into(),
                secret_access_key: "secret".into(),
                session_token: None,
                expire_time: clock.wall() + lasts,
                deadline: clock.boot() + lasts,
                received: clock.boot(),
            }),
            identity_id: "kiosk".into(),
            stale: false,
            last_error: None,
        };
        let hour = Duration::from_secs(3_600);
        assert!(shown(&served(hour)) == shown(&served(hour)));
        assert!(shown(&served(hour)) != shown(&served(2 * hour)), "whoever follows would count them as over");
    }
}
