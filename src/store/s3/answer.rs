//! The one table from the SDK's failures to ours: by S3's code first, then by the status.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::body::SourceFailed;
use crate::store::{Outcome, StoreError, StoreErrorKind as Kind};

/// What a failed call means.
pub(super) fn failed<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let code = context.err().code();
            let kind = match (operation, status, code) {
                // An answer to HEAD has no body to name a code. S3's 400 to a well-formed one is an expired token.
                ("HeadObject", 400, None) => Kind::CredentialsExpired,
                _ => kind_of(status, code),
            };
            // A 2xx with an error inside and every 5xx come from a server that may have done the work all the same.
            let done_anyway = !(300..500).contains(&status);
            let said = context.err().message().unwrap_or("no message");
            StoreError {
                operation,
                kind,
                outcome: if done_anyway { Outcome::Unknown } else { Outcome::NotDone },
                code: code.map(str::to_owned),
                message: format!("{} (status {status}): {said}", code.unwrap_or("no code")),
            }
        }
        SdkError::ConstructionFailure(_) => {
            StoreError::not_done(operation, Kind::Refused, format!("cannot build the request: {}", chain(error)))
        }
        SdkError::DispatchFailure(_) => undelivered(operation, error),
        SdkError::TimeoutError(_) => {
            // Only the connect timeout is set.
            StoreError::not_done(operation, Kind::Offline, format!("no connection in time: {}", chain(error)))
        }
        _ => StoreError::unknown(operation, Kind::Interrupted, format!("the answer cannot be read: {}", chain(error))),
    }
}

/// A success that says too little to be believed.
pub(super) fn unreadable(operation: &'static str, missing: &str) -> StoreError {
    StoreError::unknown(operation, Kind::Interrupted, format!("the answer is a success without {missing}"))
}

fn undelivered(operation: &'static str, error: &(dyn Error + 'static)) -> StoreError {
    let text = chain(error);
    let mut cause = Some(error);
    let mut connecting = false;
    while let Some(this) = cause {
        if this.is::<SourceFailed>() {
            return StoreError::unknown(operation, Kind::Source, text);
        }
        connecting |= this
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect);
        cause = this.source();
    }
    if !connecting {
        // A connect timeout arrives here too, as a dispatch failure of the kind "timeout".
        if text.contains("HTTP connect timeout") {
            return StoreError::not_done(operation, Kind::Offline, text);
        }
        return StoreError::unknown(operation, Kind::Interrupted, text);
    }
    // rustls names the reason in its text; its type is not a dependency of ours.
    let lower = text.to_ascii_lowercase();
    let dates =
        ["certificate expired", "certificate not valid yet", "notvalidyet", "invalid peer certificate: expired"];
    if dates.iter().any(|phrase| lower.contains(phrase)) {
        return StoreError::not_done(operation, Kind::Clock, text);
    }
    StoreError::not_done(operation, Kind::Offline, text)
}

fn kind_of(status: u16, code: Option<&str>) -> Kind {
    match code.unwrap_or_default() {
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" | "InvalidAccessKeyId" => {
            return Kind::CredentialsExpired;
        }
        "RequestTimeTooSkewed" | "RequestExpired" => return Kind::ClockSkew,
        "AccessDenied" | "AccessDeniedException" | "AllAccessDisabled" | "SignatureDoesNotMatch" => {
            return Kind::AccessDenied;
        }
        "PreconditionFailed" => return Kind::PreconditionFailed,
        "ConditionalRequestConflict" | "OperationAborted" => return Kind::Conflict,
        "NoSuchUpload" => return Kind::NoSuchUpload,
        "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" => return Kind::InvalidParts,
        "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" => {
            return Kind::BadDigest;
        }
        "SlowDown"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "ServiceUnavailable"
        | "Busy" => return Kind::Throttled,
        "RequestTimeout" | "IncompleteBody" => return Kind::Interrupted,
        "InternalError" | "InternalFailure" => return Kind::Server,
        "NotImplemented" | "MethodNotAllowed" => return Kind::Unsupported,
        _ => {}
    }
    match status {
        // A body that is neither result nor error.
        200..300 => Kind::Interrupted,
        // A bucket that was made minutes ago redirects for a while.
        307 => Kind::Server,
        403 => Kind::AccessDenied,
        409 => Kind::Conflict,
        412 => Kind::PreconditionFailed,
        405 | 501 => Kind::Unsupported,
        408 => Kind::Interrupted,
        429 | 503 => Kind::Throttled,
        500.. => Kind::Server,
        _ => Kind::Refused,
    }
}

/// The causes, outermost first, each once. Causes never hold headers or keys: those are in the SDK's Debug only.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(this) = cause {
        let next = this.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = this.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_goes_before_the_status() {
        let table = [
            (400, Some("ExpiredToken"), Kind::CredentialsExpired),
            (403, Some("RequestTimeTooSkewed"), Kind::ClockSkew),
            (403, Some("AccessDenied"), Kind::AccessDenied),
            (403, None, Kind::AccessDenied),
            (412, None, Kind::PreconditionFailed),
            (409, Some("ConditionalRequestConflict"), Kind::Conflict),
            (404, Some("NoSuchUpload"), Kind::NoSuchUpload),
            (404, Some("NoSuchBucket"), Kind::Refused),
            (400, Some("InvalidPart"), Kind::InvalidParts),
            (400, Some("BadDigest"), Kind::BadDigest),
            (503, Some("SlowDown"), Kind::Throttled),
            (200, Some("InternalError"), Kind::Server),
            (200, None, Kind::Interrupted),
            (500, Some("InternalError"), Kind::Server),
            (501, Some("NotImplemented"), Kind::Unsupported),
            (301, Some("PermanentRedirect"), Kind::Refused),
            (400, Some("RequestTimeout"), Kind::Interrupted),
        ];
        for (status, code, kind) in table {
            assert_eq!(kind_of(status, code), kind, "{status} {code:?}");
        }
    }
}
