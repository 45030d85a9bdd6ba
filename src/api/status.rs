//! The only place where an error becomes a gRPC status. Every status carries one `google.rpc.ErrorInfo` (see
//! [`Reason`]), a `RetryInfo` where another try helps, and a `BadRequest` where a field is at fault. Texts are clipped:
//! a status travels in HTTP/2 headers, and what a caller sent must not make them too large to arrive.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::reason::Reason;
use crate::account::AccountError;
use crate::session::{FederationError, SessionError, TokenError};
use crate::upload::UploadError;

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "tidegate";

const MESSAGE_MAX_BYTES: usize = 2_048;
const DETAIL_MAX_BYTES: usize = 256;
const VIOLATIONS_MAX: usize = 16;

/// Upstream failures are worth another try after the first step of our own backoff.
const TRANSIENT_RETRY: Duration = Duration::from_secs(1);
/// Throttling backs off as far as our own refreshes do.
const THROTTLED_RETRY: Duration = Duration::from_secs(120);
/// Cognito locks an account's codes and passwords for up to this long.
const LOCKOUT_RETRY: Duration = Duration::from_secs(900);
/// Another stream, a full spool, a full table of calls: things that pass.
const BUSY_RETRY: Duration = Duration::from_secs(1);
const SPACE_RETRY: Duration = Duration::from_secs(30);
/// A restart of the daemon.
const RESTART_RETRY: Duration = Duration::from_secs(5);

/// An error on its way to becoming a status.
#[derive(Debug)]
#[must_use]
pub struct Failure {
    reason: Reason,
    message: String,
    metadata: HashMap<String, String>,
    violations: Vec<(String, String)>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with this reason; `message` says what failed, on what, why, and what to do.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), metadata: HashMap::new(), violations: Vec::new(), retry_after: None }
    }

    /// Adds a variable for programs.
    #[expect(clippy::needless_pass_by_value, reason = "numbers, texts and references alike")]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), clipped(value.to_string(), DETAIL_MAX_BYTES));
        self
    }

    /// Names a field that is at fault.
    pub fn violation(mut self, field: impl Into<String>, why: impl Into<String>) -> Self {
        if self.violations.len() < VIOLATIONS_MAX {
            let (field, why) = (clipped(field.into(), DETAIL_MAX_BYTES), clipped(why.into(), DETAIL_MAX_BYTES));
            self.violations.push((field, why));
        }
        self
    }

    /// Says when another try makes sense.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The status.
    pub fn into_status(self) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, self.metadata);
        for (field, why) in self.violations {
            details.add_bad_request_violation(field, why);
        }
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(self.reason.code(), clipped(self.message, MESSAGE_MAX_BYTES), details)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.into_status()
    }
}

/// Fields that must not be empty: `Ok` where none of `fields` (path, whether it is there) is missing.
///
/// # Errors
/// MISSING_FIELD with a violation for each.
pub fn require(fields: &[(&str, bool)]) -> Result<(), Status> {
    let missing: Vec<&str> = fields.iter().filter(|(_, is_there)| !is_there).map(|(path, _)| *path).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(Reason::MissingField, format!("{}: must not be empty", missing.join(", ")));
    for path in missing {
        failure = failure.violation(path, "must not be empty");
    }
    Err(failure.into_status())
}

/// One field whose value cannot be used.
pub fn field(reason: Reason, path: &str, why: &str) -> Status {
    Failure::new(reason, format!("{path}: {why}")).violation(path, why).into_status()
}

/// Sent to whoever still waits when the daemon stops.
pub fn stopping() -> Status {
    let message = "the daemon is stopping: try again when it is back";
    Failure::new(Reason::Stopping, message).retry_after(RESTART_RETRY).into_status()
}

/// As many calls are running as may.
pub fn too_many_streams(scope: &str, limit: usize) -> Status {
    let message = format!("{limit} calls {scope} are running, as many as the daemon allows: try again when some ended");
    Failure::new(Reason::StreamLimitReached, message).with("limit", limit).retry_after(BUSY_RETRY).into_status()
}

/// There is no credentials endpoint.
pub fn vending_disabled() -> Status {
    let message = "this daemon serves no credentials endpoint: set vend.listen in its configuration and restart it, or \
                   let programs use `tidegate credentials` as credential_process";
    Failure::new(Reason::VendingDisabled, message).into_status()
}

/// Only root and admins may call `method`.
pub fn not_admin(method: &str) -> Status {
    let message = format!("{method}: only root and api.admin_uids may call this");
    Failure::new(Reason::NotAdmin, message).with("method", method).into_status()
}

/// Too many account calls of this uid.
pub fn account_rate(limit: u32, retry_after: Duration) -> Status {
    let message = format!("this uid made {limit} account calls within a minute, as many as the daemon allows: wait");
    let failure = Failure::new(Reason::AccountRateLimited, message).with("max_account_calls_per_minute", limit);
    failure.retry_after(retry_after).into_status()
}

/// Gives a status that the transport made by itself (before or instead of a method of ours) its reason.
pub fn of_transport(status: &Status, max_message_bytes: usize) -> Status {
    let text = status.message();
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            let message = format!("a message is larger than {max_message_bytes} bytes ({text}): send smaller chunks");
            Failure::new(Reason::MessageTooLarge, message).with("max_message_bytes", max_message_bytes).into_status()
        }
        Code::Unimplemented if text.is_empty() => {
            let message = "no such service or method in this version of the daemon: list them by reflection";
            Failure::new(Reason::UnknownMethod, message).into_status()
        }
        Code::Unimplemented => Failure::new(Reason::UnsupportedEncoding, text).into_status(),
        _ => Failure::new(Reason::MalformedMessage, format!("the request cannot be read: {text}")).into_status(),
    }
}

/// Session errors; `path` is the request's field that names the session.
pub fn of_session(error: &SessionError, path: &str) -> Status {
    let text = error.to_string();
    let failure = |reason| Failure::new(reason, text.clone());
    match error {
        SessionError::NotFound(name) => failure(Reason::SessionNotFound).with("session", name),
        SessionError::NoSession => failure(Reason::NoSession),
        SessionError::Ambiguous(count) => {
            failure(Reason::SessionAmbiguous).with("count", count).violation(path, "say which session")
        }
        SessionError::IdentityNotFound(name, known) => {
            failure(Reason::IdentityNotFound).with("identity", name).with("known", known)
        }
        SessionError::IdentityAmbiguous(count) => {
            failure(Reason::IdentityAmbiguous).with("count", count).violation("identity", "say which identity")
        }
        SessionError::LimitReached(limit) => failure(Reason::SessionLimitReached).with("max_sessions", limit),
        SessionError::Token(token) => return of_token(token),
        SessionError::ChallengeNotFound => failure(Reason::ChallengeNotFound),
        SessionError::ChallengeAnswered => failure(Reason::ChallengeAnswered),
        SessionError::ChallengeExpired(_) => failure(Reason::ChallengeExpired),
        SessionError::ChallengeBusy => failure(Reason::ChallengeBusy).retry_after(BUSY_RETRY),
        SessionError::Federation(error) => return of_federation(error),
        SessionError::NeedsSignIn(_) => failure(Reason::NeedsSignIn),
        SessionError::Unavailable { retry_after, .. } => {
            failure(Reason::CredentialsUnavailable).retry_after(*retry_after)
        }
        SessionError::Configuration(_) => failure(Reason::UpstreamMisconfigured),
        SessionError::IdentityChanged(_) => failure(Reason::IdentityChanged),
        SessionError::Storage(_) => failure(Reason::StorageFailed),
        SessionError::GuestsRefused(_) => failure(Reason::GuestsNotAllowed),
        SessionError::GuestHasNoTokens => failure(Reason::GuestHasNoTokens),
        SessionError::ServiceSession(name) => failure(Reason::ServiceSessionStays).with("service", name),
    }
    .into_status()
}

/// Errors of a token source.
pub fn of_token(error: &TokenError) -> Status {
    let failure = |reason| Failure::new(reason, error.to_string());
    match error {
        TokenError::BadCredentials(_) => failure(Reason::BadCredentials),
        TokenError::UserNotConfirmed(_) => failure(Reason::UserNotConfirmed),
        TokenError::PasswordResetRequired(_) => failure(Reason::PasswordResetRequired),
        TokenError::RefusedByPool(_) => failure(Reason::RefusedByPool),
        TokenError::ChallengeRequired { name, .. } => failure(Reason::ChallengeRequired).with("challenge", name),
        TokenError::PasswordMissing => {
            failure(Reason::MissingField).violation("password.password", "must not be empty for this identity")
        }
        TokenError::InvalidAnswers(problems) => {
            let invalid = failure(Reason::InvalidField);
            problems.iter().fold(invalid, |failure, problem| {
                failure.violation(format!("responses.{}", problem.name), problem.why.as_str())
            })
        }
        TokenError::AnswerRefused(why) => failure(Reason::InvalidParameter).violation("responses", why),
        TokenError::CodeMismatch(why) => failure(Reason::CodeMismatch).violation("responses", why),
        TokenError::CodeExpired(_) => failure(Reason::CodeExpired),
        TokenError::InvalidPassword(why) => failure(Reason::InvalidPassword).violation("responses.NEW_PASSWORD", why),
        TokenError::ChallengeOver(_) | TokenError::DeviceUnknown(_) => {
            let text = format!("the user pool does not wait for this answer any more; sign in again ({error})");
            Failure::new(Reason::ChallengeExpired, text)
        }
        TokenError::TokenInvalid(_) => failure(Reason::TokenInvalid),
        TokenError::TokenExpired(_) => failure(Reason::TokenExpired),
        TokenError::TokenWrongAudience(_) => failure(Reason::TokenWrongAudience),
        // Refused refreshes: whoever uses the session can only sign in again.
        TokenError::Terminal(_) | TokenError::NotAuthorized(_) => failure(Reason::NeedsSignIn),
        TokenError::Transient(_) | TokenError::ReplyLost(_) => {
            failure(Reason::UpstreamUnavailable).retry_after(TRANSIENT_RETRY)
        }
        TokenError::Throttled(_) => failure(Reason::UpstreamThrottled).retry_after(THROTTLED_RETRY),
        TokenError::Configuration(_) => failure(Reason::UpstreamMisconfigured),
        TokenError::Unverified { why, .. } => return of_token(why),
        TokenError::MethodUnsupported(_) => failure(Reason::SignInMethodUnsupported),
    }
    .into_status()
}

/// Errors of a sign-in by a page in the browser.
pub fn of_federation(error: &FederationError) -> Status {
    let failure = |reason| Failure::new(reason, error.to_string());
    match error {
        FederationError::NotConfigured(identity) => failure(Reason::FederationNotConfigured).with("identity", identity),
        FederationError::RedirectNotAllowed(_, known) => {
            let why = "is not one of identity.hosted_ui.redirect_uris";
            failure(Reason::RedirectUriNotAllowed).with("known", known).violation("redirect_uri", why)
        }
        FederationError::ProviderNotFound(name, known) => {
            failure(Reason::ProviderNotFound).with("provider", name).with("known", known)
        }
        FederationError::TooMany(limit) => {
            failure(Reason::FederationLimitReached).with("max_federated_sign_ins", limit).retry_after(SPACE_RETRY)
        }
        FederationError::ListenerBusy { address, .. } => {
            failure(Reason::RedirectPortBusy).with("redirect_uri", address).retry_after(SPACE_RETRY)
        }
        FederationError::MalformedRedirect(why) => failure(Reason::InvalidField).violation("redirect_url", *why),
        FederationError::NotListening(redirect_uri) => {
            let why = format!("the daemon does not listen at {redirect_uri}");
            failure(Reason::InvalidField).violation("state", why)
        }
        FederationError::StateUnknown => failure(Reason::FederationStateUnknown),
        FederationError::StateExpired | FederationError::StateReplaced => failure(Reason::FederationStateExpired),
        FederationError::StateUsed => failure(Reason::FederationStateUsed),
        FederationError::RedirectMismatch(redirect_uri) => {
            let why = "is from another place than the redirect URI";
            failure(Reason::RedirectMismatch).with("redirect_uri", redirect_uri).violation("redirect_url", why)
        }
        FederationError::Cancelled(_) => failure(Reason::FederationCancelled),
        FederationError::Refused { error, .. } => failure(Reason::FederationRefused).with("error", error),
        FederationError::PageTrouble(_) => failure(Reason::UpstreamUnavailable).retry_after(TRANSIENT_RETRY),
        FederationError::LinkedNow => failure(Reason::FederationLinkedNow).retry_after(TRANSIENT_RETRY),
        FederationError::CodeRefused => failure(Reason::FederationCodeRefused),
        FederationError::NonceMismatch => failure(Reason::FederationNonceMismatch),
        FederationError::NotFresh => failure(Reason::FederationNotFresh),
    }
    .into_status()
}

/// Errors of the user directory; `password_field` is the request's field that holds the password.
pub fn of_account(error: &AccountError, password_field: &str) -> Status {
    let text = error.to_string();
    let failure = |reason| Failure::new(reason, text.clone());
    match error {
        AccountError::UserExists(_) => failure(Reason::UserExists),
        AccountError::AliasExists(_) => failure(Reason::AliasExists),
        AccountError::InvalidPassword(why) => failure(Reason::InvalidPassword).violation(password_field, why),
        AccountError::InvalidParameter(_) => failure(Reason::InvalidParameter),
        AccountError::CodeMismatch(why) => failure(Reason::CodeMismatch).violation("confirmation_code", why),
        AccountError::CodeExpired(_) => failure(Reason::CodeExpired),
        AccountError::Refused(_) => failure(Reason::RefusedByPool),
        AccountError::UserNotConfirmed(_) => failure(Reason::UserNotConfirmed),
        AccountError::CodeNotDelivered(_) => failure(Reason::CodeDeliveryFailed).retry_after(TRANSIENT_RETRY),
        AccountError::Throttled(_) => failure(Reason::UpstreamThrottled).retry_after(THROTTLED_RETRY),
        AccountError::LimitExceeded(_) => failure(Reason::LimitExceeded).retry_after(LOCKOUT_RETRY),
        AccountError::UserNotFound(_) => failure(Reason::UserNotFound),
        AccountError::NotAuthorized(_) => failure(Reason::AccountStateConflict),
        AccountError::Unavailable(_) => failure(Reason::UpstreamUnavailable).retry_after(TRANSIENT_RETRY),
        AccountError::Configuration(_) => failure(Reason::UpstreamMisconfigured),
    }
    .into_status()
}

/// Upload errors of a call without a spec; `wrong_state` is what the method calls an upload that is too far or not far
/// enough for it.
pub fn of_upload(error: &UploadError, wrong_state: Reason) -> Status {
    of_upload_spec(error, wrong_state, "spec")
}

/// Upload errors of a call whose spec is at `spec` in the request.
pub fn of_upload_spec(error: &UploadError, wrong_state: Reason, spec: &str) -> Status {
    let text = error.to_string();
    let failure = |reason| Failure::new(reason, text.clone());
    match error {
        UploadError::Session(session) => return of_session(session, &format!("{spec}.session")),
        UploadError::NotFound(id) => failure(Reason::UploadNotFound).with("upload", name(*id)),
        UploadError::DestinationNotFound(name, known) => {
            failure(Reason::DestinationNotFound).with("destination", name).with("known", known)
        }
        UploadError::DestinationAmbiguous(count) => {
            let why = "say which destination";
            failure(Reason::DestinationAmbiguous).with("count", count).violation(format!("{spec}.destination"), why)
        }
        UploadError::InvalidKey { key, why } => {
            failure(Reason::InvalidKey).with("key", key).violation(format!("{spec}.key"), why)
        }
        UploadError::InvalidField { field, why } => {
            let within = field.strip_prefix("spec").map(|rest| format!("{spec}{rest}"));
            failure(Reason::InvalidField).violation(within.unwrap_or_else(|| (*field).to_owned()), why)
        }
        UploadError::IdReused(id) => failure(Reason::UploadIdReused).with("upload", name(*id)),
        UploadError::OffsetMismatch { received_bytes, offset } => {
            let failure = failure(Reason::OffsetMismatch).with("received_bytes", received_bytes);
            failure.with("offset", offset)
        }
        UploadError::Busy(id) => failure(Reason::UploadBusy).with("upload", name(*id)).retry_after(BUSY_RETRY),
        UploadError::WrongState(id, state) => failure(wrong_state).with("upload", name(*id)).with("state", state),
        UploadError::SizeMismatch { received_bytes, total_bytes } => {
            let failure = failure(Reason::SizeMismatch).with("received_bytes", received_bytes);
            failure.with("total_bytes", total_bytes).violation("finish.total_bytes", "is not what arrived")
        }
        UploadError::ChecksumMismatch { algorithm, actual, expected } => {
            let failure = failure(Reason::ChecksumMismatch).with("algorithm", algorithm).with("actual", actual);
            failure.with("expected", expected).violation("finish.checksum", "is not that of the bytes that arrived")
        }
        UploadError::TooLarge { size_bytes, limit_bytes } => {
            failure(Reason::ObjectTooLarge).with("size_bytes", size_bytes).with("limit_bytes", limit_bytes)
        }
        UploadError::FileNotFound(path) => failure(Reason::FileNotFound).with("path", path),
        UploadError::NotARegularFile { path, kind } => {
            failure(Reason::NotARegularFile).with("path", path).violation("path", format!("is {kind}"))
        }
        UploadError::FileNotReadable(path, _) => failure(Reason::FileNotReadableByCaller).with("path", path),
        UploadError::PathOutsideRoots { path, .. } => failure(Reason::PathOutsideRoots).with("path", path),
        UploadError::SpoolQuota { used_bytes, limit_bytes, .. } => {
            let failure = failure(Reason::SpoolQuotaExceeded).with("used_bytes", used_bytes);
            failure.with("limit_bytes", limit_bytes).retry_after(SPACE_RETRY)
        }
        UploadError::DiskFloor { free_bytes, floor_bytes } => {
            let failure = failure(Reason::DiskFloorReached).with("free_bytes", free_bytes);
            failure.with("floor_bytes", floor_bytes).retry_after(SPACE_RETRY)
        }
        UploadError::Storage(_) => failure(Reason::StorageFailed),
        UploadError::Stopping => failure(Reason::Stopping).retry_after(RESTART_RETRY),
    }
    .into_status()
}

fn name(id: crate::upload::Ulid) -> String {
    format!("uploads/{id}")
}

/// Cuts `text` to at most `max_bytes`, at a character's end.
fn clipped(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let mark = "…";
        text.truncate(text.floor_char_boundary(max_bytes - mark.len()));
        text.push_str(mark);
    }
    text
}

#[cfg(test)]
mod tests;
