//! Connections and calls. Accepts, tells callers apart, keeps the limits, gives every call its span and its measure,
//! and drains: no new connections, calls end by themselves, streams are told to, and what is left is cut.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;
use tracing::Instrument as _;

use super::limits::{CallRate, Full, Gate, Permit, Seldom};
use super::listener::Listener;
use super::peer::Peers;
use super::reason::Reason;
use super::{Config, status, v1};
use crate::caller::Caller;
use crate::telemetry::metrics::{Refusal, metrics};

/// How long the answers that say "stopping" may take once the time to drain is over.
const CUT_GRACE: Duration = Duration::from_millis(500);
/// After an `accept` that failed for lack of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Whoever is refused can come again at once: the log must not fill up with it.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// RPCs for root and `admin_uids`.
const ADMIN_METHODS: [&str; 3] = ["GatewayService/Pause", "GatewayService/Resume", "GatewayService/ReloadConfig"];
const ACCOUNT_METHODS: &str = "AccountService/";
/// What a call to anything but our own methods is measured as.
const OTHER_METHOD: &str = "other";

/// The two steps of a stop.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// No new calls; watchers are told.
    pub stop: CancellationToken,
    /// The time to drain is over: whatever still receives bytes is told.
    pub cut: CancellationToken,
}

/// The caller of a request.
///
/// # Errors
/// INTERNAL where no connection gave one, which the server rules out.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().copied().ok_or_else(|| {
        super::status::Failure::new(Reason::Internal, "a call reached a service without a caller").into_status()
    })
}

/// Accepts connections until `lifecycle.stop`, then drains for at most `drain_timeout`.
pub async fn run(listener: Listener, routes: Routes, config: &Config, lifecycle: Lifecycle, drain_timeout: Duration) {
    let server = Arc::new(Server::new(routes, config));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = lifecycle.stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    if let Some(admitted) = server.admit(stream) {
                        let stop = lifecycle.stop.clone();
                        connections.spawn(Arc::clone(&server).serve(admitted, stop));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
    // From here on the socket is gone, and a new daemon can take its place.
    drop(listener);
    let drained = tokio::time::timeout(drain_timeout, all_ended(&mut connections)).await;
    if drained.is_err() {
        tracing::info!(open = connections.len(), "calls are still running after drain_timeout_ms: they are cut");
        lifecycle.cut.cancel();
        let _ = tokio::time::timeout(CUT_GRACE, all_ended(&mut connections)).await;
    }
    lifecycle.cut.cancel();
    connections.shutdown().await;
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

struct Server {
    routes: Routes,
    peers: Peers,
    connections: Arc<Gate>,
    streams: Arc<Gate>,
    account_calls: CallRate,
    refusals: Seldom,
    http: hyper::server::conn::http2::Builder<TokioExecutor>,
    max_message_bytes: usize,
}

/// A connection within the limits.
struct Admitted {
    stream: UnixStream,
    caller: Caller,
    _permit: Permit,
}

impl Server {
    fn new(routes: Routes, config: &Config) -> Self {
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(config.window_bytes)
            .initial_connection_window_size(config.window_bytes)
            .max_frame_size(config.max_frame_bytes)
            .max_concurrent_streams(config.max_streams_per_connection)
            .max_header_list_size(config.max_header_bytes)
            // Late bytes of refused streams count as local errors, so hyper's own, wider limit stays for those.
            .max_pending_accept_reset_streams(config.max_reset_streams)
            .keep_alive_interval(Duration::from_millis(config.keepalive_interval_ms))
            .keep_alive_timeout(Duration::from_millis(config.keepalive_timeout_ms));
        Self {
            routes: routes.prepare(),
            peers: Peers::new(&config.admin_uids),
            connections: Gate::new(config.max_connections, config.max_connections_per_uid),
            streams: Gate::new(config.max_streams, config.max_streams_per_uid),
            account_calls: CallRate::new(config.max_account_calls_per_minute),
            refusals: Seldom::new(REFUSAL_LOG_INTERVAL),
            http,
            max_message_bytes: config.max_message_bytes,
        }
    }

    /// `None`: the connection is closed at once, and counted.
    fn admit(&self, stream: UnixStream) -> Option<Admitted> {
        let refused = |reason: Refusal| {
            metrics().connection_refused(reason);
            if self.refusals.is_due(Instant::now()) {
                tracing::warn!(reason = reason.label(), "connections are refused; the metrics count them");
            }
        };
        let Some(caller) = self.peers.caller(&stream) else {
            refused(Refusal::NoPeer);
            return None;
        };
        match self.connections.enter(caller.uid) {
            Ok(permit) => Some(Admitted { stream, caller, _permit: permit }),
            Err(full) => {
                refused(match full {
                    Full::Total(_) => Refusal::Total,
                    Full::PerUid(_) => Refusal::PerUid,
                });
                None
            }
        }
    }

    async fn serve(self: Arc<Self>, admitted: Admitted, stop: CancellationToken) {
        metrics().connection_opened();
        let Admitted { stream, caller, _permit } = admitted;
        tracing::debug!(uid = caller.uid, "connected");
        let server = Arc::clone(&self);
        let service = hyper::service::service_fn(move |request| Arc::clone(&server).call(caller, request));
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, uid = caller.uid, "a connection ended badly");
        }
        metrics().connection_closed();
    }

    async fn call(self: Arc<Self>, caller: Caller, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let method = METHODS.get(request.uri().path()).copied();
        let name = method.unwrap_or(OTHER_METHOD);
        let mut measure = Measure { method: name, started: Instant::now(), permit: None, code: None };
        let span = tracing::info_span!("rpc", method = name, upload = tracing::field::Empty);
        tracing::debug!(parent: &span, uid = caller.uid, "called");
        let admitted = self.allow(&caller, name);
        let response = match admitted {
            Err(status) => status.into_http(),
            Ok(permit) => {
                measure.permit = Some(permit);
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(caller);
                let mut routes = self.routes.clone();
                let answered = async move {
                    // An axum router is always ready; being asked is part of tower's contract.
                    std::future::poll_fn(|context| tower::Service::<Request<Body>>::poll_ready(&mut routes, context))
                        .await?;
                    routes.call(request).await
                };
                answered.instrument(span).await?
            }
        };
        Ok(self.measured(response, measure, method.is_some()))
    }

    /// Whether `caller` may call `method` now.
    fn allow(&self, caller: &Caller, method: &'static str) -> Result<Permit, Status> {
        if ADMIN_METHODS.contains(&method) && !caller.is_admin {
            return Err(status::not_admin(method));
        }
        let permit = self.streams.enter(caller.uid).map_err(|full| match full {
            Full::Total(limit) => status::too_many_streams("in total", limit),
            Full::PerUid(limit) => status::too_many_streams("of this uid", limit),
        })?;
        if method.starts_with(ACCOUNT_METHODS) {
            let taken = self.account_calls.take(caller.uid, Instant::now());
            taken.map_err(|wait| status::account_rate(self.account_calls.max_per_minute(), wait))?;
        }
        Ok(permit)
    }

    /// Gives a status that the transport made its reason, and lets the body end the measure.
    fn measured(&self, response: Response<Body>, mut measure: Measure, is_ours: bool) -> Response<Body> {
        let early = Status::from_header_map(response.headers());
        let response = match early {
            Some(status) if status.details().is_empty() && (is_ours || status.code() == Code::Unimplemented) => {
                if status.code() == Code::Ok {
                    response
                } else {
                    status::of_transport(&status, self.max_message_bytes).into_http()
                }
            }
            _ => response,
        };
        measure.code = Status::from_header_map(response.headers()).map(|status| status.code());
        if response.body().is_end_stream() {
            return response;
        }
        response.map(|body| Body::new(Measured { body, measure }))
    }
}

/// Our own methods by path: "/tidegate.v1.UploadService/Upload" → "UploadService/Upload".
static METHODS: LazyLock<BTreeMap<String, &'static str>> = LazyLock::new(|| {
    let set = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("our own descriptors");
    let mut methods = BTreeMap::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}/{}", service.name(), method.name());
                // Once for the process: names of metrics live as long.
                methods.insert(format!("/{}.{name}", file.package()), &*name.leak());
            }
        }
    }
    methods
});

/// One running call. Dropping it is its end, whatever ended it.
#[derive(Debug)]
struct Measure {
    method: &'static str,
    started: Instant,
    permit: Option<Permit>,
    code: Option<Code>,
}

impl Drop for Measure {
    fn drop(&mut self) {
        // Without a status the client went away, or was cut off.
        let code = self.code.unwrap_or(Code::Cancelled);
        metrics().rpc(self.method, code, self.started.elapsed());
    }
}

/// A body that tells how the call ended.
struct Measured {
    body: Body,
    measure: Measure,
}

impl http_body::Body for Measured {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.measure.code = Status::from_header_map(trailers).map(|status| status.code());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
