//! The words of the state machine: what it is told, what it is asked, what it wants done. No behaviour.

use std::time::Duration;

use super::Config;
use crate::clock::BootInstant;

/// One upstream call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// New tokens for the refresh token.
    Tokens,
    /// The identity id.
    IdentityId,
    /// New credentials.
    Credentials,
}

/// What a failed call means, by what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Try again later.
    Transient,
    /// Try again soon: nobody knows whether the refresh token was rotated.
    ReplyLost,
    /// Try again much later.
    Throttled,
    /// The refresh token was refused, which a misconfiguration can cause too.
    TokenRefused,
    /// The identity pool or STS refused the ID token.
    LoginRefused,
    /// The identity id is not the login's any more.
    IdentityMoved,
    /// Somebody must mend the configuration.
    Configuration,
    /// The refresh token is finished.
    Terminal,
    /// The answer is about another user, issuer, client or identity id.
    OtherUser,
}

/// What a call that worked gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Success {
    /// Tokens of the same user.
    Tokens {
        /// When the ID token ends.
        id_token_deadline: BootInstant,
        /// The groups are other ones than before.
        groups_changed: bool,
        /// A new refresh token came along: the pool rotates them.
        rotated: bool,
    },
    /// The identity id, the same one where one was known.
    IdentityId,
    /// Credentials.
    Credentials {
        /// When they were received.
        received: BootInstant,
        /// When they end.
        deadline: BootInstant,
    },
}

/// What happens to a session, besides being asked for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The time that [`Machine::next_wake`] named may have come.
    Wake,
    /// The call in flight ended.
    Done(Result<Success, Failure>),
    /// The user signed in (again).
    SignedIn {
        /// When the ID token ends.
        id_token_deadline: BootInstant,
        /// There is a refresh token.
        can_refresh: bool,
    },
    /// A guest signed in (again): there are no tokens, and the identity id is known.
    GuestSignedIn,
    /// The user signs out.
    SignOut {
        /// Uploads are sent first.
        drain: bool,
        /// The refresh token is ended at once.
        everywhere: bool,
    },
    /// The uploads of a drained session are done.
    UploadsDone,
    /// The link is back.
    LinkReturned,
}

/// What somebody wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Credentials for a local program.
    Credentials,
    /// Credentials for the upload worker.
    UploadCredentials,
    /// JWTs for a local program.
    Tokens,
    /// New tokens and credentials now.
    Refresh,
    /// The same for the upload worker after an `AccessDenied`: at most once per interval.
    DeniedRefresh,
}

/// Why somebody does not get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The user must sign in again.
    NeedsSignIn,
    /// The session has ended for local programs.
    SignedOut,
    /// Not now.
    Unavailable {
        /// When the next attempt is made.
        retry_after: Duration,
    },
    /// Somebody must mend the configuration.
    Configuration,
    /// Parked, because an answer was about somebody else.
    OtherUser,
    /// A guest has no tokens.
    Guest,
}

/// The answer to a want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// At once.
    Now(Result<(), Refusal>),
    /// Ask [`Machine::verdict`] with this round after every event.
    Wait(u64),
    /// Another refresh after a denial comes too early.
    TooEarly,
}

/// What the actor has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Begin this call; nothing else is in flight.
    Start(Call),
    /// Drop the call in flight; its result does not count any more.
    Abort,
    /// Credentials may not be served any more.
    DropCredentials,
    /// Remove the tokens from memory and from the sealed file.
    WipeTokens,
    /// Something that has to survive a restart has changed.
    Persist,
    /// The session is over: wipe and revoke everything.
    End,
}

/// The part of [`Config`] that the machine needs, as durations.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub(super) serve_margin: Duration,
    pub(super) id_token_ahead: Duration,
    pub(super) backoff_initial: Duration,
    pub(super) backoff_max: Duration,
    pub(super) backoff_urgent_max: Duration,
    pub(super) rotation_grace: Duration,
    pub(super) rotation_retry_max: Duration,
    pub(super) configuration_retry: Duration,
    pub(super) refused_retry: Duration,
    pub(super) refused_wipe_after: Duration,
    pub(super) boot_spread: Duration,
    pub(super) denied_initial: Duration,
    pub(super) denied_max: Duration,
    pub(super) drain_max: Duration,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        let ms = Duration::from_millis;
        Self {
            serve_margin: ms(config.serve_until_before_expiry_ms),
            id_token_ahead: ms(config.id_token_refresh_before_ms),
            backoff_initial: ms(config.backoff_initial_ms),
            backoff_max: ms(config.backoff_max_ms),
            backoff_urgent_max: ms(config.backoff_urgent_max_ms),
            rotation_grace: ms(config.rotation_grace_ms),
            rotation_retry_max: ms(config.rotation_retry_max_ms),
            configuration_retry: ms(config.configuration_retry_ms),
            refused_retry: ms(config.refused_retry_ms),
            refused_wipe_after: ms(config.refused_wipe_after_ms),
            boot_spread: ms(config.boot_spread_ms),
            denied_initial: ms(config.denied_refresh_initial_ms),
            denied_max: ms(config.denied_refresh_max_ms),
            drain_max: ms(config.drain_max_ms),
        }
    }
}

/// What is known of a session when its machine starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// A guest: there are no tokens, and none are needed.
    pub guest: bool,
    /// Tokens can be had without the user: there is a refresh token, or a device account signs itself in.
    pub can_refresh: bool,
    /// The identity id is known.
    pub identity_id: bool,
    /// The pool rotates refresh tokens, or has not shown yet that it does not.
    pub may_rotate: bool,
    /// A refresh that may have rotated the token was under way when the daemon ended: its reply is lost.
    pub reply_lost: bool,
    /// For how long the refresh token has been refused.
    pub refused_for: Option<Duration>,
    /// The session was signing out, and has this long left.
    pub draining_for: Option<Duration>,
}
