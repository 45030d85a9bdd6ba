//! Every error of every room becomes a status that says everything, and fits into its headers.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::session::AnswerProblem;
use crate::upload::Ulid;

fn text() -> String {
    "what failed, why, what to do".to_owned()
}

fn session_errors() -> Vec<(SessionError, Reason)> {
    let retry_after = Duration::from_secs(7);
    vec![
        (SessionError::NotFound(text()), Reason::SessionNotFound),
        (SessionError::NoSession, Reason::NoSession),
        (SessionError::Ambiguous(2), Reason::SessionAmbiguous),
        (SessionError::IdentityNotFound("a".to_owned(), "b".to_owned()), Reason::IdentityNotFound),
        (SessionError::IdentityAmbiguous(2), Reason::IdentityAmbiguous),
        (SessionError::LimitReached(3), Reason::SessionLimitReached),
        (SessionError::Token(TokenError::BadCredentials(text())), Reason::BadCredentials),
        (SessionError::ChallengeNotFound, Reason::ChallengeNotFound),
        (SessionError::ChallengeAnswered, Reason::ChallengeAnswered),
        (SessionError::ChallengeExpired("late"), Reason::ChallengeExpired),
        (SessionError::ChallengeBusy, Reason::ChallengeBusy),
        (SessionError::NeedsSignIn(text()), Reason::NeedsSignIn),
        (SessionError::Unavailable { message: text(), retry_after }, Reason::CredentialsUnavailable),
        (SessionError::Configuration(text()), Reason::UpstreamMisconfigured),
        (SessionError::IdentityChanged(text()), Reason::IdentityChanged),
        (SessionError::Storage(text()), Reason::StorageFailed),
    ]
}

fn token_errors() -> Vec<(TokenError, Reason)> {
    vec![
        (TokenError::BadCredentials(text()), Reason::BadCredentials),
        (TokenError::UserNotConfirmed(text()), Reason::UserNotConfirmed),
        (TokenError::PasswordResetRequired(text()), Reason::PasswordResetRequired),
        (TokenError::RefusedByPool(text()), Reason::RefusedByPool),
        (TokenError::ChallengeRequired { name: "WEB_AUTHN".to_owned(), why: text() }, Reason::ChallengeRequired),
        (TokenError::PasswordMissing, Reason::MissingField),
        (
            TokenError::InvalidAnswers(vec![AnswerProblem { name: "SMS_MFA_CODE".to_owned(), why: text() }]),
            Reason::InvalidField,
        ),
        (TokenError::AnswerRefused(text()), Reason::InvalidParameter),
        (TokenError::CodeMismatch(text()), Reason::CodeMismatch),
        (TokenError::CodeExpired(text()), Reason::CodeExpired),
        (TokenError::InvalidPassword(text()), Reason::InvalidPassword),
        (TokenError::ChallengeOver(text()), Reason::ChallengeExpired),
        (TokenError::DeviceUnknown(text()), Reason::ChallengeExpired),
        (TokenError::TokenInvalid(text()), Reason::TokenInvalid),
        (TokenError::TokenExpired(text()), Reason::TokenExpired),
        (TokenError::TokenWrongAudience(text()), Reason::TokenWrongAudience),
        (TokenError::Terminal(text()), Reason::NeedsSignIn),
        (TokenError::NotAuthorized(text()), Reason::NeedsSignIn),
        (TokenError::Transient(text()), Reason::UpstreamUnavailable),
        (TokenError::Throttled(text()), Reason::UpstreamThrottled),
        (TokenError::Configuration(text()), Reason::UpstreamMisconfigured),
    ]
}

fn federation_errors() -> Vec<(FederationError, Reason)> {
    let text = || "x".to_owned();
    vec![
        (FederationError::NotConfigured(text()), Reason::FederationNotConfigured),
        (FederationError::RedirectNotAllowed(text(), text()), Reason::RedirectUriNotAllowed),
        (FederationError::ProviderNotFound(text(), text()), Reason::ProviderNotFound),
        (FederationError::TooMany(3), Reason::FederationLimitReached),
        (FederationError::ListenerBusy { address: text(), why: text() }, Reason::RedirectPortBusy),
        (FederationError::MalformedRedirect("is no URL"), Reason::InvalidField),
        (FederationError::NotListening(text()), Reason::InvalidField),
        (FederationError::StateUnknown, Reason::FederationStateUnknown),
        (FederationError::StateExpired, Reason::FederationStateExpired),
        (FederationError::StateReplaced, Reason::FederationStateExpired),
        (FederationError::StateUsed, Reason::FederationStateUsed),
        (FederationError::RedirectMismatch(text()), Reason::RedirectMismatch),
        (FederationError::Cancelled(text()), Reason::FederationCancelled),
        (FederationError::Refused { error: text(), description: text() }, Reason::FederationRefused),
        (FederationError::PageTrouble(text()), Reason::UpstreamUnavailable),
        (FederationError::LinkedNow, Reason::FederationLinkedNow),
        (FederationError::CodeRefused, Reason::FederationCodeRefused),
        (FederationError::NonceMismatch, Reason::FederationNonceMismatch),
        (FederationError::NotFresh, Reason::FederationNotFresh),
    ]
}

fn account_errors() -> Vec<(AccountError, Reason)> {
    vec![
        (AccountError::UserExists(text()), Reason::UserExists),
        (AccountError::AliasExists(text()), Reason::AliasExists),
        (AccountError::InvalidPassword(text()), Reason::InvalidPassword),
        (AccountError::InvalidParameter(text()), Reason::InvalidParameter),
        (AccountError::CodeMismatch(text()), Reason::CodeMismatch),
        (AccountError::CodeExpired(text()), Reason::CodeExpired),
        (AccountError::LimitExceeded(text()), Reason::LimitExceeded),
        (AccountError::CodeNotDelivered(text()), Reason::CodeDeliveryFailed),
        (AccountError::Refused(text()), Reason::RefusedByPool),
        (AccountError::UserNotConfirmed(text()), Reason::UserNotConfirmed),
        (AccountError::Throttled(text()), Reason::UpstreamThrottled),
        (AccountError::UserNotFound(text()), Reason::UserNotFound),
        (AccountError::NotAuthorized(text()), Reason::AccountStateConflict),
        (AccountError::Unavailable(text()), Reason::UpstreamUnavailable),
        (AccountError::Configuration(text()), Reason::UpstreamMisconfigured),
    ]
}

fn upload_errors() -> Vec<(UploadError, Reason)> {
    let id = Ulid::from_bytes([7; 16]);
    let (algorithm, actual, expected) = ("CRC64NVME", "a".to_owned(), "b".to_owned());
    vec![
        (UploadError::Session(SessionError::NoSession), Reason::NoSession),
        (UploadError::NotFound(id), Reason::UploadNotFound),
        (UploadError::DestinationNotFound("a".to_owned(), "b".to_owned()), Reason::DestinationNotFound),
        (UploadError::DestinationAmbiguous(2), Reason::DestinationAmbiguous),
        (UploadError::InvalidKey { key: "a/../b".to_owned(), why: text() }, Reason::InvalidKey),
        (UploadError::InvalidField { field: "spec.metadata", why: text() }, Reason::InvalidField),
        (UploadError::IdReused(id), Reason::UploadIdReused),
        (UploadError::OffsetMismatch { received_bytes: 5, offset: 6 }, Reason::OffsetMismatch),
        (UploadError::Busy(id), Reason::UploadBusy),
        (UploadError::WrongState(id, "SUCCEEDED"), Reason::UploadEnded),
        (UploadError::SizeMismatch { received_bytes: 5, total_bytes: 6 }, Reason::SizeMismatch),
        (UploadError::ChecksumMismatch { algorithm, actual, expected }, Reason::ChecksumMismatch),
        (UploadError::TooLarge { size_bytes: 2, limit_bytes: 1 }, Reason::ObjectTooLarge),
        (UploadError::FileNotFound("/p".to_owned()), Reason::FileNotFound),
        (UploadError::NotARegularFile { path: "/p".to_owned(), kind: "a FIFO" }, Reason::NotARegularFile),
        (UploadError::FileNotReadable("/p".to_owned(), 7), Reason::FileNotReadableByCaller),
        (UploadError::PathOutsideRoots { path: "/p".to_owned(), roots: "/r".to_owned() }, Reason::PathOutsideRoots),
        (UploadError::SpoolQuota { used_bytes: 1, limit_bytes: 1, scope: "" }, Reason::SpoolQuotaExceeded),
        (UploadError::DiskFloor { free_bytes: 1, floor_bytes: 2 }, Reason::DiskFloorReached),
        (UploadError::Storage(text()), Reason::StorageFailed),
        (UploadError::Stopping, Reason::Stopping),
    ]
}

#[track_caller]
fn assert_complete(status: &Status, reason: Reason) {
    let details = status.get_error_details();
    let info = details.error_info().expect("every status has an ErrorInfo");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.name(), DOMAIN));
    assert_eq!(status.code(), reason.code());
    assert!(!status.message().is_empty());
    let is_retried = matches!(status.code(), Code::Unavailable | Code::Aborted);
    assert!(!is_retried || details.retry_info().is_some(), "{}: says nothing about when to retry", reason.name());
}

#[test]
fn every_error_has_its_reason_and_code() {
    for (error, reason) in session_errors() {
        assert_complete(&of_session(&error, "name"), reason);
    }
    for (error, reason) in token_errors() {
        assert_complete(&of_token(&error), reason);
    }
    for (error, reason) in federation_errors() {
        assert_complete(&of_federation(&error), reason);
    }
    for (error, reason) in account_errors() {
        assert_complete(&of_account(&error, "password"), reason);
    }
    for (error, reason) in upload_errors() {
        assert_complete(&of_upload(&error, Reason::UploadEnded), reason);
    }
    assert_complete(&stopping(), Reason::Stopping);
    assert_complete(&too_many_streams("of this uid", 3), Reason::StreamLimitReached);
    assert_complete(&not_admin("GatewayService/Pause"), Reason::NotAdmin);
    assert_complete(&account_rate(30, Duration::from_secs(3)), Reason::AccountRateLimited);
}

#[test]
fn missing_fields_are_all_named_at_once() {
    require(&[("username", true)]).unwrap();
    let status = require(&[("username", false), ("identity", true), ("password", false)]).unwrap_err();
    assert_complete(&status, Reason::MissingField);
    let details = status.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["username", "password"]);
}

#[test]
fn what_a_caller_sent_cannot_make_a_status_too_large_to_arrive() {
    let key = "ü".repeat(500_000);
    let error = UploadError::InvalidKey { key: key.clone(), why: key };
    let status = of_upload(&error, Reason::UploadEnded);
    assert_complete(&status, Reason::InvalidKey);
    let headers: http::HeaderMap = status.into_http::<()>().into_parts().0.headers;
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    // Every client takes at least 16 KiB of headers; most say so explicitly.
    assert!(size < 16_000, "{size}");
}

#[test]
fn statuses_of_the_transport_get_a_reason() {
    let too_large =
        Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 5 bytes");
    assert_complete(&of_transport(&too_large, 5), Reason::MessageTooLarge);
    assert_complete(&of_transport(&Status::unimplemented(""), 5), Reason::UnknownMethod);
    let gzip = Status::unimplemented("Content is compressed with `gzip` which isn't supported");
    assert_complete(&of_transport(&gzip, 5), Reason::UnsupportedEncoding);
    assert_complete(&of_transport(&Status::internal("Missing request message."), 5), Reason::MalformedMessage);
}

#[test]
fn retries_and_fields_travel_with_the_status() {
    let status =
        of_session(&SessionError::Unavailable { message: text(), retry_after: Duration::from_secs(7) }, "name");
    assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(Duration::from_secs(7)));
    let status = of_account(&AccountError::InvalidPassword("too short".to_owned()), "new_password");
    let details = status.get_error_details();
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert_eq!((violation.field.as_str(), violation.description.as_str()), ("new_password", "too short"));
}
