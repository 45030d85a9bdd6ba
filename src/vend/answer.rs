//! What a request is answered with: the JSON that every SDK reads, or an error in the form that they show to people. The
//! only table from what went wrong to an HTTP status: 4xx where asking again is of no use, 5xx where it is.

use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::request::{Gate, Turned};
use crate::session::{EndpointRefusal, ServedCredentials, SessionError, Sessions};
use crate::telemetry::metrics;
use crate::telemetry::metrics::VendOutcome;

/// Answers the requests of one listener; clones share the sessions.
#[derive(Debug, Clone)]
pub(super) struct Answerer {
    /// What requests must look like.
    pub(super) gate: Gate,
    /// Where credentials come from.
    pub(super) sessions: Sessions,
    /// How long they may take.
    pub(super) timeout: Duration,
}

impl Answerer {
    /// The answer to one request.
    pub(super) async fn answer(&self, request: &Parts) -> Response<String> {
        let (outcome, answer) = match self.serve(request).await {
            Ok(served) if served.stale => (VendOutcome::Stale, Answer::credentials(&served)),
            Ok(served) => (VendOutcome::Ok, Answer::credentials(&served)),
            Err(no) => (no.outcome(), no.answer()),
        };
        metrics().vend_request(outcome);
        answer.into_response()
    }

    async fn serve(&self, request: &Parts) -> Result<ServedCredentials, No> {
        let asked = self.gate.pass(request).map_err(No::Turned)?;
        let credentials = self.sessions.credentials_for_token(&asked.session, asked.token);
        match tokio::time::timeout(self.timeout, credentials).await {
            Ok(Ok(served)) => Ok(served),
            Ok(Err(EndpointRefusal::NotAdmitted)) => Err(No::Turned(Turned::NoToken)),
            Ok(Err(EndpointRefusal::Session(error))) => Err(No::Session(error)),
            // The refresh goes on: the next request finds what it brings.
            Err(_) => Err(No::TimedOut),
        }
    }
}

/// Why there are no credentials.
enum No {
    Turned(Turned),
    Session(SessionError),
    TimedOut,
}

impl No {
    fn outcome(&self) -> VendOutcome {
        match self {
            Self::Turned(Turned::Forwarded) => VendOutcome::Forwarded,
            Self::Turned(Turned::WrongHost) => VendOutcome::WrongHost,
            Self::Turned(Turned::Method | Turned::Path) => VendOutcome::BadRequest,
            Self::Turned(Turned::NoToken) => VendOutcome::Unauthorized,
            Self::TimedOut => VendOutcome::TimedOut,
            Self::Session(SessionError::NeedsSignIn(_) | SessionError::IdentityChanged(_)) => VendOutcome::NeedsSignIn,
            Self::Session(SessionError::Configuration(_) | SessionError::Storage(_)) => VendOutcome::Broken,
            Self::Session(_) => VendOutcome::Unavailable,
        }
    }

    fn answer(&self) -> Answer {
        let plain = Answer::error;
        match self {
            Self::Turned(Turned::Forwarded) => {
                plain(StatusCode::FORBIDDEN, "FORWARDED", "requests through a proxy are refused: ask this host itself")
            }
            Self::Turned(Turned::WrongHost) => plain(
                StatusCode::FORBIDDEN,
                "WRONG_HOST",
                "the Host header is not this endpoint's: use the URL exactly as tidegate gave it",
            ),
            Self::Turned(Turned::Method) => {
                let answer = plain(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "only GET without a body");
                answer.with(header::ALLOW, "GET")
            }
            Self::Turned(Turned::Path) => {
                plain(StatusCode::NOT_FOUND, "NOT_FOUND", "nothing is here: use the URL exactly as tidegate gave it")
            }
            Self::Turned(Turned::NoToken) => plain(
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED",
                "the authorization token is not this session's, or the user has signed out: get a new one with \
                 `tidegate credentials --endpoint`",
            ),
            Self::TimedOut => {
                let message = "no credentials in time: the daemon is still fetching them, try again";
                plain(StatusCode::SERVICE_UNAVAILABLE, "CREDENTIALS_UNAVAILABLE", message).retry_after(TRY_AGAIN)
            }
            Self::Session(error) => {
                let (status, code) = match error {
                    SessionError::NeedsSignIn(_) => (StatusCode::FORBIDDEN, "NEEDS_SIGN_IN"),
                    SessionError::IdentityChanged(_) => (StatusCode::FORBIDDEN, "IDENTITY_CHANGED"),
                    SessionError::Configuration(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UPSTREAM_MISCONFIGURED"),
                    SessionError::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "STORAGE_FAILED"),
                    _ => (StatusCode::SERVICE_UNAVAILABLE, "CREDENTIALS_UNAVAILABLE"),
                };
                let answer = plain(status, code, &error.to_string());
                match error {
                    SessionError::Unavailable { retry_after, .. } => answer.retry_after(*retry_after),
                    _ => answer,
                }
            }
        }
    }
}

/// What a client is told to wait where nothing better is known.
const TRY_AGAIN: Duration = Duration::from_secs(1);

struct Answer {
    status: StatusCode,
    header: Option<(header::HeaderName, HeaderValue)>,
    body: Value,
}

impl Answer {
    /// The names are those of the container-credentials contract. From here on the secrets are in the clear: the text is
    /// made only to be sent.
    fn credentials(served: &ServedCredentials) -> Self {
        let credentials = &served.credentials;
        let token = credentials.session_token.as_ref().map(secrecy::ExposeSecret::expose_secret);
        let body = json!({
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key.expose_secret(),
            "Token": token.unwrap_or_default(),
            "Expiration": rfc3339(credentials.expire_time),
        });
        Self { status: StatusCode::OK, header: None, body }
    }

    /// `Code` and `Message` are what the SDKs put into their own errors.
    fn error(status: StatusCode, code: &str, message: &str) -> Self {
        Self { status, header: None, body: json!({ "Code": code, "Message": message }) }
    }

    fn with(mut self, name: header::HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header = Some((header::RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    fn into_response(self) -> Response<String> {
        let mut response = Response::new(self.body.to_string());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}

/// RFC 3339 in UTC to the second, the form that AWS's own endpoints use; the earlier second, so that nothing is used too
/// long.
fn rfc3339(time: SystemTime) -> String {
    // humantime cannot write years after 9999.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, last)).to_string()
}
