//! What the task of a session is sent, and how its callers are refused.

use tokio::sync::oneshot;

use super::endpoint_token::EndpointToken;
use super::event::Want;
use super::guests::Offer;
use super::{ServedCredentials, ServedTokens, SessionError, SessionView, TokenSet};

/// Where an answer goes.
pub type Answer<T> = oneshot::Sender<Result<T, SessionError>>;

/// Somebody who wants something of the session.
pub enum Asker {
    /// A local program.
    Credentials(Answer<ServedCredentials>),
    /// The upload worker.
    UploadCredentials(Answer<ServedCredentials>),
    /// A local program.
    Tokens(Answer<ServedTokens>),
    /// By hand.
    Refresh(Answer<SessionView>),
    /// The upload worker, whose request with this access key was denied.
    Denied(String, Answer<bool>),
}

/// What the registry tells the task.
pub enum Command {
    /// Somebody wants something.
    Ask(Asker),
    /// The user signed in again.
    SignedIn(Box<SignIn>, Answer<()>),
    /// The guest signed in again.
    GuestSignedIn(Answer<()>),
    /// The user signs out.
    SignOut {
        /// Uploads are sent first.
        drain: bool,
        /// All the user's sessions end at the source.
        everywhere: bool,
        /// Answered once vending has ended.
        done: Answer<()>,
    },
    /// The uploads of a drained session are done.
    UploadsDone(Answer<()>),
    /// The link is back.
    LinkReturned,
    /// Somebody wants the token of the session's credentials endpoint.
    EndpointToken {
        /// A new one in any case.
        renew: bool,
        /// Answered once it is durable.
        done: Answer<EndpointToken>,
    },
}

/// A sign-in that worked.
pub struct SignIn {
    /// What it gave.
    pub tokens: TokenSet,
    /// The name that the user signed in with.
    pub username: String,
    /// What a guest of the same uid leaves.
    pub offer: Option<Offer>,
}

impl Asker {
    /// What it means to the state machine.
    pub fn want(&self) -> Want {
        match self {
            Self::Credentials(_) => Want::Credentials,
            Self::UploadCredentials(_) => Want::UploadCredentials,
            Self::Tokens(_) => Want::Tokens,
            Self::Refresh(_) => Want::Refresh,
            Self::Denied(..) => Want::DeniedRefresh,
        }
    }

    /// True where nobody waits any more.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Credentials(reply) | Self::UploadCredentials(reply) => reply.is_closed(),
            Self::Tokens(reply) => reply.is_closed(),
            Self::Refresh(reply) => reply.is_closed(),
            Self::Denied(_, reply) => reply.is_closed(),
        }
    }

    /// Answers with an error; nobody may be there to hear it.
    pub fn refuse(self, error: SessionError) {
        match self {
            Self::Credentials(reply) | Self::UploadCredentials(reply) => drop(reply.send(Err(error))),
            Self::Tokens(reply) => drop(reply.send(Err(error))),
            Self::Refresh(reply) => drop(reply.send(Err(error))),
            Self::Denied(_, reply) => drop(reply.send(Err(error))),
        }
    }
}
