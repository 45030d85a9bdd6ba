//! The user pool's error codes, by what to do about them. A code means different things in different calls: refused
//! credentials at a sign-in, a refused token at a refresh.

use super::TokenError;
use crate::credential::aws::Refused;
use crate::credential::codes::{is_throttling, is_transient};

/// The call that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolCall {
    /// By name and password.
    SignIn,
    /// The user's answer to a challenge.
    Answer,
    /// A device's confirmation, or its proof.
    Device,
    /// By refresh token.
    Refresh,
    /// Ending tokens.
    Revoke,
}

/// What the refusal means.
pub(super) fn token_error(call: PoolCall, refused: Refused) -> TokenError {
    let text = refused.message;
    match (refused.code.as_deref(), call) {
        (Some(code), PoolCall::Device) if is_about_the_device(code) => TokenError::DeviceUnknown(text),
        (Some("ResourceNotFoundException"), PoolCall::SignIn | PoolCall::Answer) if is_no_device(&text) => {
            TokenError::DeviceUnknown(text)
        }
        // The refresh token hangs on a device that somebody removed.
        (Some("ResourceNotFoundException"), PoolCall::Refresh) if is_no_device(&text) => {
            TokenError::NotAuthorized(text)
        }
        // The same code for a wrong password, too many of them, and a client that needs a secret: only the text tells.
        (Some("NotAuthorizedException"), PoolCall::SignIn | PoolCall::Answer) if is_lockout(&text) => {
            TokenError::Throttled(text)
        }
        (Some("NotAuthorizedException"), PoolCall::Answer) if text.contains("session") => {
            TokenError::ChallengeOver(text)
        }
        (Some("UserLambdaValidationException"), PoolCall::SignIn | PoolCall::Answer) => TokenError::RefusedByPool(text),
        (Some("NotAuthorizedException" | "UserNotFoundException"), PoolCall::Answer) => {
            TokenError::BadCredentials(text)
        }
        (Some("CodeMismatchException" | "EnableSoftwareTokenMFAException"), _) => TokenError::CodeMismatch(text),
        (Some("ExpiredCodeException"), _) => TokenError::CodeExpired(text),
        (Some("InvalidPasswordException" | "PasswordHistoryPolicyViolationException"), _) => {
            TokenError::InvalidPassword(text)
        }
        (Some("InvalidParameterException" | "AliasExistsException"), PoolCall::Answer) => {
            TokenError::AnswerRefused(text)
        }
        (Some("NotAuthorizedException"), PoolCall::SignIn) if is_about_the_client(&text) => {
            TokenError::Configuration(text)
        }
        (Some("NotAuthorizedException" | "UserNotFoundException"), PoolCall::SignIn) => {
            TokenError::BadCredentials(text)
        }
        (Some("RefreshTokenReuseException" | "UserNotFoundException"), _) => TokenError::Terminal(text),
        (Some("NotAuthorizedException" | "UnauthorizedException" | "UserLambdaValidationException"), _) => {
            TokenError::NotAuthorized(text)
        }
        (Some("UserNotConfirmedException"), _) => TokenError::UserNotConfirmed(text),
        (Some("PasswordResetRequiredException"), _) => TokenError::PasswordResetRequired(text),
        (Some(code), _) if is_throttling(code) => TokenError::Throttled(text),
        (Some(code), _) if is_transient(code) => TokenError::Transient(text),
        _ => match refused.status {
            Some(429) => TokenError::Throttled(text),
            Some(400..500) => TokenError::Configuration(text),
            // A gateway's error or none at all: the pool may have done it all the same.
            _ if call == PoolCall::Refresh && refused.code.is_none() && !refused.unsent => TokenError::ReplyLost(text),
            _ => TokenError::Transient(text),
        },
    }
}

/// True where the endpoint does not know the call, so that an older one is to be tried.
pub(super) fn is_unknown_call(refused: &Refused) -> bool {
    matches!(
        refused.code.as_deref(),
        Some("UnknownOperationException" | "InvalidAction" | "UnsupportedOperationException" | "NotImplemented")
    )
}

/// Too many wrong passwords, or too many wrong codes.
fn is_lockout(text: &str) -> bool {
    text.contains("attempts exceeded") || text.contains("temporarily locked")
}

fn is_no_device(text: &str) -> bool {
    text.contains("Device does not exist")
}

fn is_about_the_device(code: &str) -> bool {
    matches!(
        code,
        "NotAuthorizedException"
            | "ResourceNotFoundException"
            | "InvalidParameterException"
            | "UserNotFoundException"
            | "DeviceKeyExistsException"
    )
}

fn is_about_the_client(text: &str) -> bool {
    text.contains("secret hash") || text.contains("SECRET_HASH") || text.contains("Client ")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Is = fn(&TokenError) -> bool;

    #[test]
    fn codes_decide_by_call() {
        let bad: Is = |it| matches!(it, TokenError::BadCredentials(_));
        let by_rule: Is = |it| matches!(it, TokenError::RefusedByPool(_));
        let terminal: Is = |it| matches!(it, TokenError::Terminal(_));
        let refused: Is = |it| matches!(it, TokenError::NotAuthorized(_));
        let throttled: Is = |it| matches!(it, TokenError::Throttled(_));
        let transient: Is = |it| matches!(it, TokenError::Transient(_));
        let configuration: Is = |it| matches!(it, TokenError::Configuration(_));
        let lost: Is = |it| matches!(it, TokenError::ReplyLost(_));
        let unconfirmed: Is = |it| matches!(it, TokenError::UserNotConfirmed(_));
        let reset: Is = |it| matches!(it, TokenError::PasswordResetRequired(_));
        let over: Is = |it| matches!(it, TokenError::ChallengeOver(_));
        let mismatch: Is = |it| matches!(it, TokenError::CodeMismatch(_));
        let expired: Is = |it| matches!(it, TokenError::CodeExpired(_));
        let policy: Is = |it| matches!(it, TokenError::InvalidPassword(_));
        let form: Is = |it| matches!(it, TokenError::AnswerRefused(_));
        let device: Is = |it| matches!(it, TokenError::DeviceUnknown(_));
        let (sign_in, refresh, revoke) = (PoolCall::SignIn, PoolCall::Refresh, PoolCall::Revoke);
        let (answer, of_device) = (PoolCall::Answer, PoolCall::Device);
        let table = [
            (sign_in, Some("NotAuthorizedException"), Some(400), "Incorrect username or password.", bad),
            (sign_in, Some("NotAuthorizedException"), Some(400), "Password attempts exceeded", throttled),
            (
                sign_in,
                Some("NotAuthorizedException"),
                Some(400),
                "Unable to verify secret hash for client 1",
                configuration,
            ),
            (sign_in, Some("NotAuthorizedException"), Some(400), "User is disabled.", bad),
            (sign_in, Some("UserNotFoundException"), Some(400), "User does not exist.", bad),
            (sign_in, Some("UserLambdaValidationException"), Some(400), "PreAuthentication failed", by_rule),
            (sign_in, Some("UserNotConfirmedException"), Some(400), "User is not confirmed.", unconfirmed),
            (sign_in, Some("PasswordResetRequiredException"), Some(400), "Password reset required", reset),
            (
                sign_in,
                Some("InvalidParameterException"),
                Some(400),
                "USER_PASSWORD_AUTH flow not enabled",
                configuration,
            ),
            (
                sign_in,
                Some("ResourceNotFoundException"),
                Some(400),
                "User pool client x does not exist.",
                configuration,
            ),
            (sign_in, Some("TooManyRequestsException"), Some(400), "Rate exceeded", throttled),
            (sign_in, Some("InternalErrorException"), Some(500), "", transient),
            (refresh, Some("NotAuthorizedException"), Some(400), "Refresh Token has been revoked", refused),
            (refresh, Some("NotAuthorizedException"), Some(400), "Invalid Refresh Token", refused),
            (refresh, Some("RefreshTokenReuseException"), Some(400), "", terminal),
            (refresh, Some("UserNotFoundException"), Some(400), "", terminal),
            (refresh, Some("TooManyRequestsException"), Some(400), "", throttled),
            (refresh, Some("InternalErrorException"), Some(400), "a 400, and still transient", transient),
            (refresh, Some("ResourceNotFoundException"), Some(400), "", configuration),
            (refresh, Some("InvalidParameterException"), Some(400), "", configuration),
            (refresh, Some("ForbiddenException"), Some(403), "WAF", configuration),
            (refresh, Some("InternalErrorException"), Some(500), "", transient),
            (refresh, Some("UserLambdaValidationException"), Some(400), "PreTokenGeneration failed", refused),
            (refresh, Some("UnexpectedLambdaException"), Some(400), "", configuration),
            (refresh, Some("InvalidLambdaResponseException"), Some(400), "", configuration),
            (refresh, Some("LimitExceededException"), Some(400), "", throttled),
            (refresh, Some("SomethingNew"), Some(503), "", transient),
            (refresh, None, Some(503), "a gateway's", lost),
            (refresh, None, Some(200), "cut off", lost),
            (refresh, None, Some(429), "", throttled),
            (refresh, None, None, "no answer", lost),
            (sign_in, None, None, "no answer", transient),
            (revoke, Some("UnauthorizedException"), Some(400), "", refused),
            (sign_in, Some("ResourceNotFoundException"), Some(400), "Device does not exist.", device),
            (answer, Some("ResourceNotFoundException"), Some(400), "Device does not exist.", device),
            (refresh, Some("ResourceNotFoundException"), Some(400), "Device does not exist.", refused),
            (of_device, Some("NotAuthorizedException"), Some(400), "Incorrect username or password.", device),
            (of_device, Some("ResourceNotFoundException"), Some(400), "Device does not exist.", device),
            (of_device, Some("TooManyRequestsException"), Some(400), "", throttled),
            (of_device, None, None, "no answer", transient),
            (answer, Some("CodeMismatchException"), Some(400), "Invalid code or auth state for the user.", mismatch),
            (answer, Some("EnableSoftwareTokenMFAException"), Some(400), "Code mismatch", mismatch),
            (
                answer,
                Some("ExpiredCodeException"),
                Some(400),
                "Your software token has already been used once.",
                expired,
            ),
            (answer, Some("InvalidPasswordException"), Some(400), "Password did not conform with policy", policy),
            (answer, Some("PasswordHistoryPolicyViolationException"), Some(400), "", policy),
            (answer, Some("InvalidParameterException"), Some(400), "Missing required attributes", form),
            (answer, Some("NotAuthorizedException"), Some(400), "Invalid session for the user.", over),
            (
                answer,
                Some("NotAuthorizedException"),
                Some(400),
                "Invalid session for the user, session is expired.",
                over,
            ),
            (answer, Some("NotAuthorizedException"), Some(400), "Incorrect username or password.", bad),
            (answer, Some("NotAuthorizedException"), Some(400), "Password attempts exceeded", throttled),
            (answer, Some("NotAuthorizedException"), Some(400), "User temporarily locked. Try again soon.", throttled),
            (answer, Some("UserLambdaValidationException"), Some(400), "", by_rule),
            (answer, Some("TooManyFailedAttemptsException"), Some(400), "", throttled),
            (answer, Some("InternalErrorException"), Some(500), "", transient),
            (revoke, Some("UnsupportedTokenTypeException"), Some(400), "", configuration),
        ];
        for (call, code, status, message, expected) in table {
            let refusal = Refused { code: code.map(str::to_owned), status, message: message.to_owned(), unsent: false };
            let error = token_error(call, refusal);
            assert!(expected(&error), "{call:?} {code:?} {status:?} {message:?} became {error:?}");
        }
        let unsent = Refused { code: None, status: None, message: "no route".to_owned(), unsent: true };
        assert!(transient(&token_error(refresh, unsent)), "what was never sent was never applied");
    }

    #[test]
    fn only_unknown_calls_fall_back() {
        let refused =
            |code: &str| Refused { code: Some(code.into()), status: Some(400), message: String::new(), unsent: false };
        assert!(is_unknown_call(&refused("UnknownOperationException")));
        assert!(!is_unknown_call(&refused("NotAuthorizedException")));
    }
}
