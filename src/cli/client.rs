//! The way to the daemon. Owns the connection; promises the authority `localhost` and a bounded wait for every answer.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use super::exit::CliError;
use crate::api::v1::account_service_client::AccountServiceClient;
use crate::api::v1::credential_service_client::CredentialServiceClient;
use crate::api::v1::gateway_service_client::GatewayServiceClient;
use crate::api::v1::session_service_client::SessionServiceClient;
use crate::api::v1::upload_service_client::UploadServiceClient;

/// How long the daemon may take to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one answer may take: longer than the daemon's own bounds for the calls that it makes to AWS.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to the daemon; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// `Exit::Unreachable`, saying why.
    pub async fn connect(socket: &Path) -> Result<Self, CliError> {
        let path: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The authority must not be the socket's path: HTTP/2 stacks reject that.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
        match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await {
            Ok(Ok(channel)) => Ok(Self { channel }),
            Ok(Err(error)) => Err(explain(socket, &error)),
            Err(_) => Err(CliError::unreachable(socket, "it does not take the connection")),
        }
    }

    /// Sign-up, codes, passwords.
    pub fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel.clone())
    }

    /// Signed-in users.
    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
    }

    /// AWS credentials and JWTs.
    pub fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel.clone())
    }

    /// Photos.
    pub fn uploads(&self) -> UploadServiceClient<Channel> {
        UploadServiceClient::new(self.channel.clone())
    }

    /// The daemon itself.
    pub fn gateway(&self) -> GatewayServiceClient<Channel> {
        GatewayServiceClient::new(self.channel.clone())
    }
}

/// A request whose answer comes in bounded time; not for streams.
pub fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The answer to `action` ("sign in"), or why there is none.
pub fn answer<T>(action: &str, result: Result<Response<T>, Status>) -> Result<T, CliError> {
    result.map(Response::into_inner).map_err(|status| CliError::from_status(action, &status))
}

fn explain(socket: &Path, error: &tonic::transport::Error) -> CliError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::NotFound => CliError::unreachable(socket, "there is no such socket"),
                std::io::ErrorKind::ConnectionRefused => CliError::unreachable(socket, "nobody listens there"),
                std::io::ErrorKind::PermissionDenied => CliError::socket_denied(socket),
                _ => CliError::unreachable(socket, &io.to_string()),
            };
        }
        cause = error.source();
    }
    CliError::unreachable(socket, &error.to_string())
}
