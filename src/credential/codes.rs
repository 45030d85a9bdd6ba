//! AWS's error codes, by what to do about them: a table, because the HTTP status says too little (throttling is a 400,
//! and so is the wrong role).

use super::CredentialErrorKind;

/// What a failure of the identity pool or of STS means. Without a code the status decides, without both nothing was
/// answered.
pub(crate) fn credential_kind(code: Option<&str>, status: Option<u16>) -> CredentialErrorKind {
    match code {
        Some(code) if is_throttling(code) => CredentialErrorKind::Throttled,
        Some(
            "NotAuthorizedException"
            | "ExpiredTokenException"
            | "ExpiredToken"
            | "InvalidIdentityToken"
            | "InvalidIdentityTokenException"
            | "IDPRejectedClaim"
            | "IDPRejectedClaimException"
            | "AccessDenied"
            | "AccessDeniedException",
        ) => CredentialErrorKind::NotAuthorized,
        Some("ResourceConflictException") => CredentialErrorKind::IdentityMoved,
        Some(code) if is_transient(code) => CredentialErrorKind::Transient,
        _ => by_status(code.is_some(), status),
    }
}

/// Too many calls.
pub(crate) fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "TooManyRequestsException"
            | "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "RequestLimitExceeded"
            | "LimitExceededException"
            | "TooManyFailedAttemptsException"
            | "SlowDown"
    )
}

/// The service's own trouble, or its neighbour's.
pub(crate) fn is_transient(code: &str) -> bool {
    matches!(
        code,
        "InternalErrorException"
            | "InternalError"
            | "InternalFailure"
            | "InternalServerError"
            | "ExternalServiceException"
            | "IDPCommunicationError"
            | "IDPCommunicationErrorException"
            | "ServiceUnavailable"
            | "ServiceUnavailableException"
            | "RequestTimeout"
            | "RequestTimeoutException"
            | "ConcurrentModificationException"
    )
}

fn by_status(has_code: bool, status: Option<u16>) -> CredentialErrorKind {
    match status {
        Some(429) => CredentialErrorKind::Throttled,
        Some(400..500) => CredentialErrorKind::Configuration,
        // A code with a status that explains nothing is a refusal that we do not know: somebody must look.
        None if has_code => CredentialErrorKind::Configuration,
        // Gateways, captive portals, cut connections.
        _ => CredentialErrorKind::Transient,
    }
}

#[cfg(test)]
mod tests {
    use CredentialErrorKind::{Configuration, IdentityMoved, NotAuthorized, Throttled, Transient};

    use super::*;

    #[test]
    fn codes_decide_and_the_status_only_without_one() {
        let table = [
            (Some("NotAuthorizedException"), Some(400), NotAuthorized),
            (Some("ExpiredTokenException"), Some(400), NotAuthorized),
            (Some("InvalidIdentityToken"), Some(400), NotAuthorized),
            (Some("AccessDenied"), Some(403), NotAuthorized),
            (Some("IDPRejectedClaim"), Some(403), NotAuthorized),
            (Some("TooManyRequestsException"), Some(400), Throttled),
            (Some("Throttling"), Some(400), Throttled),
            (Some("LimitExceededException"), Some(400), Throttled),
            (Some("InternalErrorException"), Some(400), Transient),
            (Some("InternalErrorException"), Some(500), Transient),
            (Some("ExternalServiceException"), Some(400), Transient),
            (Some("IDPCommunicationError"), Some(400), Transient),
            (Some("ResourceConflictException"), Some(400), IdentityMoved),
            (Some("InvalidIdentityPoolConfigurationException"), Some(400), Configuration),
            (Some("ResourceNotFoundException"), Some(400), Configuration),
            (Some("InvalidParameterException"), Some(400), Configuration),
            (Some("ForbiddenException"), Some(403), Configuration),
            (Some("SomethingNew"), Some(400), Configuration),
            (Some("SomethingNew"), Some(503), Transient),
            (None, Some(400), Configuration),
            (None, Some(404), Configuration),
            (None, Some(429), Throttled),
            (None, Some(502), Transient),
            (None, Some(200), Transient),
            (None, None, Transient),
        ];
        for (code, status, expected) in table {
            assert_eq!(credential_kind(code, status), expected, "{code:?} {status:?}");
        }
    }
}
