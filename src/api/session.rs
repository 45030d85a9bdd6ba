//! `SessionService`: signing users in and out, and what a session can do now.

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::reason::Reason;
use super::server::caller;
use super::status::{field, of_session, of_upload, require, stopping};
use super::v1::session_service_server::SessionService;
use super::watch::{Answers, Next, answers};
use super::{convert, names, v1};
use crate::session::{
    FederatedSignIn, SessionError, SessionView, Sessions, SignInMethod, SignInProgress, SignOutUploads,
};
use crate::upload::{Ulid, UploadError, Uploads};

/// See the module.
#[derive(Debug)]
pub struct SessionApi {
    sessions: Sessions,
    uploads: Uploads,
    stop: CancellationToken,
}

impl SessionApi {
    /// Serves `sessions`; `uploads` is told when one ends; streams end with `stop`.
    pub fn new(sessions: Sessions, uploads: Uploads, stop: CancellationToken) -> Self {
        Self { sessions, uploads, stop }
    }
}

/// The session is in the field `name`.
const FIELD: &str = "name";

#[tonic::async_trait]
impl SessionService for SessionApi {
    type WatchSessionStream = Answers<v1::WatchSessionResponse>;

    async fn sign_in(&self, request: Request<v1::SignInRequest>) -> Result<Response<v1::SignInResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let method = sign_in_method(request.method)?;
        let identity = convert::given(request.identity);
        use v1::sign_in_response::Result as Shown;
        let progress = self.sessions.sign_in(&caller, identity.as_deref(), method).await;
        let shown = match progress.map_err(|error| of_session(&error, FIELD))? {
            SignInProgress::SignedIn(view) => Shown::Session(convert::session(*view)),
            SignInProgress::Challenged(challenge) => Shown::Challenge(convert::challenge(challenge)),
        };
        Ok(Response::new(v1::SignInResponse { result: Some(shown) }))
    }

    async fn respond_to_challenge(
        &self,
        request: Request<v1::RespondToChallengeRequest>,
    ) -> Result<Response<v1::RespondToChallengeResponse>, Status> {
        let caller = caller(&request)?;
        let v1::RespondToChallengeRequest { challenge_id, responses } = request.into_inner();
        require(&[("challenge_id", !challenge_id.is_empty())])?;
        let answers = responses.into_iter().map(|(name, answer)| (name, SecretString::from(answer))).collect();
        use v1::respond_to_challenge_response::Result as Shown;
        let progress = self.sessions.respond_to_challenge(&caller, &challenge_id, answers).await;
        let shown = match progress.map_err(|error| of_session(&error, FIELD))? {
            SignInProgress::SignedIn(view) => Shown::Session(convert::session(*view)),
            SignInProgress::Challenged(challenge) => Shown::Challenge(convert::challenge(challenge)),
        };
        Ok(Response::new(v1::RespondToChallengeResponse { result: Some(shown) }))
    }

    async fn begin_federated_sign_in(
        &self,
        request: Request<v1::BeginFederatedSignInRequest>,
    ) -> Result<Response<v1::BeginFederatedSignInResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let wanted = FederatedSignIn {
            identity: convert::given(request.identity),
            provider: convert::given(request.provider),
            redirect_uri: convert::given(request.redirect_uri),
            reuse_browser_session: request.reuse_browser_session,
        };
        let begun = self.sessions.begin_federated(&caller, &wanted).map_err(|error| of_session(&error, FIELD))?;
        Ok(Response::new(v1::BeginFederatedSignInResponse {
            authorize_url: begun.authorize_url,
            state: begun.state,
            expire_time: Some(convert::timestamp(begun.expire_time)),
            redirect_uri: begun.redirect_uri,
            daemon_listens: begun.is_listening,
            sign_out_url: begun.sign_out_url.unwrap_or_default(),
        }))
    }

    async fn complete_federated_sign_in(
        &self,
        request: Request<v1::CompleteFederatedSignInRequest>,
    ) -> Result<Response<v1::CompleteFederatedSignInResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let done = match (convert::given(request.redirect_url), convert::given(request.state)) {
            (Some(redirect_url), None) => self.sessions.complete_federated(&caller, &redirect_url).await,
            // A wait may be long: it ends with the API, not with the drain's patience.
            (None, Some(state)) => tokio::select! {
                done = self.sessions.await_federated(&caller, &state) => done,
                () = self.stop.cancelled() => return Err(stopping()),
            },
            (None, None) => return Err(require(&[("redirect_url", false)]).expect_err("it is missing")),
            (Some(_), Some(_)) => {
                return Err(field(
                    Reason::InvalidField,
                    "state",
                    "must be left out beside redirect_url, which names it",
                ));
            }
        };
        let view = done.map_err(|error| of_session(&error, FIELD))?;
        Ok(Response::new(v1::CompleteFederatedSignInResponse { session: Some(convert::session(view)) }))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::GetSessionResponse>, Status> {
        let caller = caller(&request)?;
        let id = names::session(FIELD, &request.get_ref().name)?;
        let view = self.sessions.get(&caller, id.as_ref()).map_err(|error| of_session(&error, FIELD))?;
        Ok(Response::new(v1::GetSessionResponse { session: Some(convert::session(view)) }))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let page_size = names::page_size(request.page_size)?;
        let listing = names::Listing::new("ListSessions", caller.uid, &());
        let behind = listing.cursor(&request.page_token)?;
        let (page, next) = page(self.sessions.list(&caller), page_size, behind);
        Ok(Response::new(v1::ListSessionsResponse {
            sessions: page.into_iter().map(convert::session).collect(),
            next_page_token: listing.token(next),
        }))
    }

    async fn watch_session(
        &self,
        request: Request<v1::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let caller = caller(&request)?;
        let id = names::session(FIELD, &request.get_ref().name)?;
        let states = self.sessions.watch(&caller, id.as_ref()).map_err(|error| of_session(&error, FIELD))?;
        let show = |view| async { Next::Send(v1::WatchSessionResponse { session: Some(convert::session(view)) }) };
        Ok(Response::new(answers(states, self.stop.clone(), show)))
    }

    async fn refresh_session(
        &self,
        request: Request<v1::RefreshSessionRequest>,
    ) -> Result<Response<v1::RefreshSessionResponse>, Status> {
        let caller = caller(&request)?;
        let id = names::session(FIELD, &request.get_ref().name)?;
        let view = self.sessions.refresh(&caller, id.as_ref()).await.map_err(|error| of_session(&error, FIELD))?;
        Ok(Response::new(v1::RefreshSessionResponse { session: Some(convert::session(view)) }))
    }

    async fn sign_out(&self, request: Request<v1::SignOutRequest>) -> Result<Response<v1::SignOutResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let id = names::session(FIELD, &request.name)?;
        let what = convert::sign_out_uploads(request.uploads)?;
        // The one that is meant now: its uploads are told even where only its file could not be removed.
        let meant = self.sessions.get(&caller, id.as_ref()).map_err(|error| of_session(&error, FIELD))?;
        let (session, what) = (meant.id, what.of_a(meant.kind));
        let (sessions, uploads, everywhere) = (self.sessions.clone(), self.uploads.clone(), request.everywhere);
        // Whoever signs out may go at any moment: the session's end and what it means for its uploads are one step.
        let signed_out = tokio::spawn(async move {
            let ended = sessions.sign_out(&caller, Some(&session), what, everywhere).await;
            match ended {
                Ok(_) | Err(SessionError::Storage(_)) => {}
                Err(error) => return Err(of_session(&error, FIELD)),
            }
            let told = uploads.session_ended(&session, what).await;
            let unfinished = told.map_err(|error| of_upload(&error, Reason::UploadEnded))?;
            if what == SignOutUploads::Drain && unfinished == 0 {
                sessions.uploads_done(&session).await;
            }
            ended.map_err(|error| of_session(&error, FIELD))?;
            Ok(unfinished)
        });
        let unfinished = signed_out.await.unwrap_or_else(|why| {
            let broken = UploadError::Storage(format!("signing out broke off: {why}"));
            Err(of_upload(&broken, Reason::UploadEnded))
        })?;
        Ok(Response::new(v1::SignOutResponse {
            unfinished_upload_count: convert::count(unfinished),
            hosted_sign_out_url: self.sessions.hosted_sign_out_url(&meant.identity).unwrap_or_default(),
        }))
    }
}

fn sign_in_method(method: Option<v1::sign_in_request::Method>) -> Result<SignInMethod, Status> {
    use v1::sign_in_request::Method;
    match method {
        None => Err(require(&[("method", false)]).expect_err("it is missing")),
        Some(Method::Password(given)) => {
            // Whether the password may be left out is the identity's to say.
            require(&[("password.username", !given.username.is_empty())])?;
            Ok(SignInMethod::Password { username: given.username, password: SecretString::from(given.password) })
        }
        Some(Method::Tokens(given)) => {
            require(&[("tokens.id_token", !given.id_token.is_empty())])?;
            let secret = |token| convert::given(token).map(SecretString::from);
            Ok(SignInMethod::Tokens {
                id_token: SecretString::from(given.id_token),
                access_token: secret(given.access_token),
                refresh_token: secret(given.refresh_token),
            })
        }
        Some(Method::Guest(_)) => Ok(SignInMethod::Guest),
    }
}

/// The sessions behind the cursor, oldest first, and where the next page starts. Ids grow with time, so a session that
/// is gone by now does not break the order.
fn page(mut sessions: Vec<SessionView>, page_size: usize, behind: Option<Ulid>) -> (Vec<SessionView>, Option<Ulid>) {
    if let Some(behind) = behind {
        let behind = behind.to_string();
        sessions.retain(|session| session.id.0 > behind);
    }
    sessions.sort_by(|a, b| a.id.cmp(&b.id));
    let has_more = sessions.len() > page_size;
    sessions.truncate(page_size);
    let last = sessions.last().filter(|_| has_more).and_then(|last| Ulid::from_string(&last.id.0).ok());
    (sessions, last)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::session::{SessionId, SessionKind, SessionState};

    fn view(number: u128) -> SessionView {
        SessionView {
            id: SessionId(Ulid::from_parts(1_700_000_000_000, number).to_string()),
            kind: SessionKind::User,
            identity: "app".to_owned(),
            subject: "sub".to_owned(),
            username: "ana".to_owned(),
            owner_uid: 1_000,
            state: SessionState::Active,
            identity_id: None,
            groups: Vec::new(),
            create_time: SystemTime::UNIX_EPOCH,
            credentials_expire_time: None,
            last_error: None,
            merged_from: None,
        }
    }

    #[test]
    fn pages_hold_every_session_once() {
        let all: Vec<_> = [5, 3, 1, 4, 2].into_iter().map(view).collect();
        let mut seen = Vec::new();
        let mut behind = None;
        loop {
            let (sessions, next) = page(all.clone(), 2, behind);
            seen.extend(sessions.into_iter().map(|session| session.id));
            if next.is_none() {
                break;
            }
            behind = next;
        }
        let expected: Vec<_> = (1..=5).map(|number| view(number).id).collect();
        assert_eq!(seen, expected);
    }
}
