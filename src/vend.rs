//! Credentials for AWS SDKs that know nothing of Tidegate: the container-credentials contract
//! (`AWS_CONTAINER_CREDENTIALS_FULL_URI` and `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`) over HTTP on loopback; see
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>. Owns the listener and what
//! requests must look like; promises an answer within `answer_timeout_ms`, from memory where there are valid credentials,
//! and 401 from the moment on that the user signs out; must never answer without the session's token, through a proxy, or
//! to a page of another host (DNS rebinding), and never tell a wrong token from a session that does not exist.
//!
//! A session's URL is `/v1/credentials/{id}`. Its token is made by `session`, sealed with it, and handed out by
//! `CredentialService.CreateCredentialsEndpoint` to the session's owner, whose own command line writes the file: so with a
//! fixed port programs live on through a restart of the daemon. A port belongs to no user: while the daemon is away another
//! local user may take an unprivileged one and be sent the token by a program that asks just then, and one who opens many
//! connections makes the others wait. Where local users do not trust each other, take a port below 1024, or
//! `credential_process`, which goes over the socket, where the kernel names the caller and limits are per uid.

mod answer;
mod request;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::loopback::{self, Limits};
use crate::session::Sessions;
use answer::Answerer;
use request::Gate;

/// What every session's path starts with; its id follows.
const PATH: &str = "/v1/credentials/";

/// `[vend]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the endpoint listens: a loopback address; port 0 takes a free one. No endpoint if absent.
    pub listen: Option<SocketAddr>,
    /// Open connections; one more waits.
    pub max_connections: usize,
    /// The longest head of a request; at least 8 KiB.
    pub max_header_bytes: usize,
    /// How long a connection may last; a silent one holds its place that long, so it is short.
    pub connection_timeout_ms: u64,
    /// Where there are no credentials within this time the answer is 503. The least patient SDK gives up after 1 s.
    pub answer_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            max_connections: 64,
            max_header_bytes: 8 * 1024,
            connection_timeout_ms: 1_000,
            answer_timeout_ms: 700,
        }
    }
}

/// Why the endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}: choose another port of 127.0.0.1, or leave vend.listen out")]
pub struct VendError {
    address: SocketAddr,
    source: std::io::Error,
}

/// An open endpoint; [`Endpoint::serve`] answers.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
}

impl Endpoint {
    /// Listens where the configuration says so. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`VendError`].
    pub fn open(config: &Config) -> Result<Option<Self>, VendError> {
        let Some(address) = config.listen else { return Ok(None) };
        let failed = |source| VendError { address, source };
        let listener = loopback::listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some(Self { listener, address, config: config.clone() }))
    }

    /// What the URL of a session's endpoint starts with; its id follows.
    pub fn url_base(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Answers from `sessions` until `stop` is cancelled.
    pub async fn serve(self, sessions: Sessions, stop: CancellationToken) {
        tracing::info!(address = %self.address, "the credentials endpoint listens");
        let limits = Limits {
            max_connections: self.config.max_connections,
            connection_timeout: Duration::from_millis(self.config.connection_timeout_ms),
            max_header_bytes: self.config.max_header_bytes,
        };
        let answerer = Answerer {
            gate: Gate::new(self.address),
            sessions,
            timeout: Duration::from_millis(self.config.answer_timeout_ms),
        };
        loopback::serve(self.listener, limits, stop, move |request| {
            let answerer = answerer.clone();
            async move { answerer.answer(&request.into_parts().0).await }
        })
        .await;
    }
}
