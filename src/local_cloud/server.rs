//! The one HTTP server of the local cloud: accepts connections, sends each request to its service, drains on stop.
//!
//! Promises that every answer carries `Date` and a request id, that only S3 takes bodies of any size, and that a stop
//! ends within its bound. Never decides anything that a service decides.

mod admin;
mod answer;
mod body;
mod dispatch;
mod request_log;
mod route;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use dispatch::Services;
pub use request_log::{RequestLog, RequestRecord};

/// Connections at a time; further ones wait.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a connection may take for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the loop rests when the system has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The running server.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    cut: CancellationToken,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on the listener until it is stopped.
    pub fn start(listener: TcpListener, services: Services) -> Self {
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let accepting = tokio::spawn(accept(listener, Arc::new(services), stop.clone(), cut.clone()));
        Self { stop, cut, accepting: Some(accepting) }
    }

    /// Takes no new request, lets those under way finish for `grace`, then cuts them.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.cancel();
        let Some(mut accepting) = self.accepting.take() else { return };
        if tokio::time::timeout(grace, &mut accepting).await.is_err() {
            self.cut.cancel();
            let _ = accepting.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

async fn accept(listener: TcpListener, services: Arc<Services>, stop: CancellationToken, cut: CancellationToken) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next(&listener, &slots) => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the local cloud could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let services = Arc::clone(&services);
        let service = service_fn(move |request| {
            let services = Arc::clone(&services);
            async move { services.answer(request).await }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let cut = cut.clone();
        connections.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                served = connection => {
                    if let Err(error) = served {
                        tracing::debug!(%peer, error = %error, "a connection to the local cloud ended early");
                    }
                }
            }
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
    while connections.join_next().await.is_some() {}
}

async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}
