//! What failures mean: for the session, and for the caller. Tables, no behaviour.

use super::event::{Failure, Refusal};
use super::{SessionError, TokenError};
use crate::credential::CredentialErrorKind;

/// What a failed refresh means for the session.
pub fn token_failure(error: &TokenError) -> Failure {
    match error {
        TokenError::Terminal(_) => Failure::Terminal,
        TokenError::NotAuthorized(_)
        | TokenError::BadCredentials(_)
        | TokenError::UserNotConfirmed(_)
        | TokenError::PasswordResetRequired(_)
        | TokenError::RefusedByPool(_)
        | TokenError::ChallengeRequired { .. }
        | TokenError::PasswordMissing
        | TokenError::InvalidAnswers(_)
        | TokenError::AnswerRefused(_)
        | TokenError::CodeMismatch(_)
        | TokenError::CodeExpired(_)
        | TokenError::InvalidPassword(_)
        | TokenError::ChallengeOver(_)
        | TokenError::DeviceUnknown(_) => Failure::TokenRefused,
        TokenError::TokenWrongAudience(_) => Failure::OtherUser,
        // A token that is over on arrival is a wrong clock, not a wrong user.
        TokenError::Transient(_) | TokenError::TokenExpired(_) => Failure::Transient,
        TokenError::ReplyLost(_) => Failure::ReplyLost,
        TokenError::Throttled(_) => Failure::Throttled,
        TokenError::TokenInvalid(_) | TokenError::Configuration(_) | TokenError::MethodUnsupported(_) => {
            Failure::Configuration
        }
        TokenError::Unverified { why, .. } => token_failure(why),
    }
}

/// What a failure of the credential source means for the session.
pub fn credential_failure(kind: CredentialErrorKind) -> Failure {
    match kind {
        CredentialErrorKind::Transient => Failure::Transient,
        CredentialErrorKind::Throttled => Failure::Throttled,
        CredentialErrorKind::NotAuthorized => Failure::LoginRefused,
        CredentialErrorKind::IdentityMoved => Failure::IdentityMoved,
        CredentialErrorKind::Configuration => Failure::Configuration,
    }
}

/// What a caller is told; `why` is what failed last.
pub fn session_error(refusal: Refusal, why: Option<String>) -> SessionError {
    match refusal {
        Refusal::NeedsSignIn => SessionError::NeedsSignIn(match why {
            Some(why) => format!("the user must sign in again: {why}"),
            None => "the user must sign in again: the tokens have ended".to_owned(),
        }),
        Refusal::Guest => SessionError::GuestHasNoTokens,
        Refusal::SignedOut => SessionError::NeedsSignIn("this session is signed out: sign in again".to_owned()),
        Refusal::Unavailable { retry_after } => SessionError::Unavailable {
            message: why.unwrap_or_else(|| "there are no credentials yet".to_owned()),
            retry_after,
        },
        Refusal::Configuration => {
            SessionError::Configuration(why.unwrap_or_else(|| "the configuration does not work".to_owned()))
        }
        Refusal::OtherUser => {
            SessionError::IdentityChanged(why.unwrap_or_else(|| "an answer was about another user".to_owned()))
        }
    }
}
