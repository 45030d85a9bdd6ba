//! The server over a real socket, with the services that need no cloud.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::v1::account_service_client::AccountServiceClient;
use super::v1::account_service_server::AccountServiceServer;
use super::v1::{ForgotPasswordRequest, SignUpRequest};
use super::*;
use crate::account::{AccountError, CodeDelivery, SignedUp, UserDirectory};

/// A directory whose `sign_up` waits for the test.
#[derive(Debug)]
struct Waiting {
    entered: Semaphore,
    may_leave: Semaphore,
}

#[async_trait::async_trait]
impl UserDirectory for Waiting {
    async fn sign_up(
        &self,
        username: &str,
        _password: &SecretString,
        _attributes: &BTreeMap<String, String>,
    ) -> Result<SignedUp, AccountError> {
        self.entered.add_permits(1);
        self.may_leave.acquire().await.unwrap().forget();
        Ok(SignedUp { subject: username.to_owned(), confirmed: true, delivery: None })
    }

    async fn confirm_sign_up(&self, _username: &str, _code: &SecretString) -> Result<(), AccountError> {
        Ok(())
    }

    async fn resend_confirmation_code(&self, _username: &str) -> Result<Option<CodeDelivery>, AccountError> {
        Ok(None)
    }

    async fn forgot_password(&self, username: &str) -> Result<Option<CodeDelivery>, AccountError> {
        Err(AccountError::UserNotFound(format!("no user {username}")))
    }

    async fn confirm_forgot_password(
        &self,
        _username: &str,
        _code: &SecretString,
        _new_password: &SecretString,
    ) -> Result<(), AccountError> {
        Ok(())
    }
}

struct Running {
    _folder: tempfile::TempDir,
    config: Config,
    directory: Arc<Waiting>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { socket_path: folder.path().join("s"), ..Config::default() };
        adjust(&mut config);
        let directory = Arc::new(Waiting { entered: Semaphore::new(0), may_leave: Semaphore::new(0) });
        let served: Arc<dyn UserDirectory> = directory.clone();
        let accounts = account::Accounts::new(BTreeMap::from([("app".to_owned(), Some(served))]));
        let accounts = AccountServiceServer::new(accounts).max_decoding_message_size(config.max_message_bytes);
        let (_, health) = tonic_health::server::health_reporter();
        let routes = add_reflection(Routes::new(accounts).add_service(health));
        let listener = Listener::bind(&config).await.unwrap();
        let stop = CancellationToken::new();
        let lifecycle = server::Lifecycle { stop: stop.clone(), cut: CancellationToken::new() };
        let served_config = config.clone();
        let task = tokio::spawn(async move {
            server::run(listener, routes, &served_config, lifecycle, Duration::from_millis(200)).await;
        });
        Self { _folder: folder, config, directory, stop, task }
    }

    async fn channel(&self) -> Channel {
        let path = self.config.socket_path.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
    }

    async fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel().await)
    }
}

fn sign_up() -> SignUpRequest {
    SignUpRequest { username: "ana".to_owned(), password: "secret".to_owned(), ..Default::default() }
}

fn forgot() -> ForgotPasswordRequest {
    ForgotPasswordRequest { username: "ana".to_owned(), ..Default::default() }
}

#[track_caller]
fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, ERROR_DOMAIN);
    info.reason.clone()
}

/// A call to `path` with these bytes as its message.
async fn raw_call(channel: Channel, path: &'static str, message: &[u8]) -> Status {
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let request = http::Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
    let request = request.body(tonic::body::Body::new(OneFrame(Some(body.into())))).unwrap();
    let mut channel = channel;
    std::future::poll_fn(|context| tower::Service::poll_ready(&mut channel, context)).await.unwrap();
    let response = tower::Service::call(&mut channel, request).await.unwrap();
    Status::from_header_map(response.headers()).unwrap()
}

struct OneFrame(Option<bytes::Bytes>);

impl http_body::Body for OneFrame {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

#[tokio::test]
async fn health_and_both_reflections_are_served() {
    use tonic_reflection::pb::{v1 as new, v1alpha as old};
    let running = Running::start(|_| {}).await;
    let channel = running.channel().await;
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);

    let list = old::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = old::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = old::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let old::server_reflection_response::MessageResponse::ListServicesResponse(services) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES {
        assert!(names.iter().any(|name| name == service), "{service} is not in {names:?}");
    }

    for symbol in ["tidegate.v1.Upload", "google.rpc.ErrorInfo"] {
        let symbol = new::server_reflection_request::MessageRequest::FileContainingSymbol(symbol.to_owned());
        let request = new::ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
        let mut client = new::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
        assert!(matches!(answer, new::server_reflection_response::MessageResponse::FileDescriptorResponse(_)));
    }
}

#[tokio::test]
async fn calls_that_reach_no_method_get_a_reason() {
    let running = Running::start(|config| config.max_message_bytes = 1_000).await;
    let channel = running.channel().await;
    let sign_up = "/tidegate.v1.AccountService/SignUp";
    let unknown_field = raw_call(channel.clone(), sign_up, &[0x80, 0x7d, 0x01]).await;
    assert_eq!((unknown_field.code(), reason(&unknown_field).as_str()), (Code::InvalidArgument, "UNKNOWN_FIELD"));
    let malformed = raw_call(channel.clone(), sign_up, &[0x0a, 0xff]).await;
    assert_eq!((malformed.code(), reason(&malformed).as_str()), (Code::InvalidArgument, "MALFORMED_MESSAGE"));
    let too_large = raw_call(channel.clone(), sign_up, &[0; 1_001]).await;
    assert_eq!((too_large.code(), reason(&too_large).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    let no_method = raw_call(channel.clone(), "/tidegate.v1.AccountService/Nothing", &[]).await;
    assert_eq!((no_method.code(), reason(&no_method).as_str()), (Code::Unimplemented, "UNKNOWN_METHOD"));
    let no_service = raw_call(channel.clone(), "/other.Service/Method", &[]).await;
    assert_eq!((no_service.code(), reason(&no_service).as_str()), (Code::Unimplemented, "UNKNOWN_METHOD"));
    let missing = raw_call(channel, sign_up, &[]).await;
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::InvalidArgument, "MISSING_FIELD"));
}

#[tokio::test]
async fn errors_of_the_directory_arrive_with_their_reason() {
    let running = Running::start(|_| {}).await;
    let mut accounts = running.accounts().await;
    let status = accounts.forgot_password(forgot()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "USER_NOT_FOUND"));
    let other = ForgotPasswordRequest { identity: "other".to_owned(), ..forgot() };
    let status = accounts.forgot_password(other).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "IDENTITY_NOT_FOUND"));
}

#[tokio::test]
async fn account_calls_are_limited() {
    let running = Running::start(|config| config.max_account_calls_per_minute = 2).await;
    let mut accounts = running.accounts().await;
    for _ in 0..2 {
        assert_eq!(reason(&accounts.forgot_password(forgot()).await.unwrap_err()), "USER_NOT_FOUND");
    }
    let status = accounts.forgot_password(forgot()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "ACCOUNT_RATE_LIMITED"));
    let delay = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::from_secs(30) && delay <= Duration::from_secs(60), "{delay:?}");
}

#[tokio::test]
async fn running_calls_are_limited() {
    let running = Running::start(|config| config.max_streams_per_uid = 1).await;
    let accounts = running.accounts().await;
    let mut waiting = accounts.clone();
    let first = tokio::spawn(async move { waiting.sign_up(sign_up()).await });
    running.directory.entered.acquire().await.unwrap().forget();
    let status = accounts.clone().forgot_password(forgot()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "STREAM_LIMIT_REACHED"));
    running.directory.may_leave.add_permits(1);
    first.await.unwrap().unwrap();
    assert_eq!(reason(&accounts.clone().forgot_password(forgot()).await.unwrap_err()), "USER_NOT_FOUND");
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let running = Running::start(|config| config.max_connections_per_uid = 1).await;
    let mut accounts = running.accounts().await;
    assert_eq!(reason(&accounts.forgot_password(forgot()).await.unwrap_err()), "USER_NOT_FOUND");
    let mut second = UnixStream::connect(&running.config.socket_path).await.unwrap();
    let mut answer = Vec::new();
    // End of file, or a reset where the kernel saw our bytes first: closed either way, without an answer.
    let _ = second.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    assert_eq!(reason(&accounts.forgot_password(forgot()).await.unwrap_err()), "USER_NOT_FOUND");
}

#[tokio::test]
async fn a_stop_lets_running_calls_end_and_frees_the_socket() {
    let running = Running::start(|_| {}).await;
    let mut accounts = running.accounts().await;
    let call = tokio::spawn(async move { accounts.sign_up(sign_up()).await });
    running.directory.entered.acquire().await.unwrap().forget();
    running.stop.cancel();
    // The next daemon may start while this one drains.
    let next = loop {
        match Listener::bind(&running.config).await {
            Ok(next) => break next,
            Err(ListenError::Taken { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    running.directory.may_leave.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap().into_inner().subject, "ana");
    running.task.await.unwrap();
    UnixStream::connect(&running.config.socket_path).await.unwrap();
    drop(next);
    assert!(!running.config.socket_path.exists());
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let running = Running::start(|_| {}).await;
    let mut accounts = running.accounts().await;
    let call = tokio::spawn(async move { accounts.sign_up(sign_up()).await });
    running.directory.entered.acquire().await.unwrap().forget();
    running.stop.cancel();
    running.task.await.unwrap();
    assert!(call.await.unwrap().is_err());
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Everything until the server closes: the kinds of the frames, and GOAWAY's error code.
async fn frames_until_closed(mut stream: UnixStream) -> (Vec<u8>, Option<u32>) {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.expect("stays open");
    let (mut kinds, mut error) = (Vec::new(), None);
    let mut rest = bytes.as_slice();
    while let Some((head, behind)) = rest.split_at_checked(9) {
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        let Some((payload, behind)) = behind.split_at_checked(length) else { break };
        kinds.push(head[3]);
        if head[3] == GOAWAY {
            error = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
        }
        rest = behind;
    }
    (kinds, error)
}

#[tokio::test]
async fn a_reset_flood_ends_its_connection() {
    let running = Running::start(|_| {}).await;
    let mut flooder = UnixStream::connect(&running.config.socket_path).await.unwrap();
    // POST, http, "/", authority "a".
    let headers = [0x83, 0x86, 0x84, 0x41, 1, b'a'];
    let mut flood = PREFACE.to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    for stream in (1..4_000_u32).step_by(2) {
        flood.extend(frame(HEADERS, END_HEADERS, stream, &headers));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let _ = flooder.write_all(&flood).await;
    let (_, error) = frames_until_closed(flooder).await;
    assert_eq!(error, Some(0xb), "ENHANCE_YOUR_CALM");
    // Everybody else is served.
    assert_eq!(reason(&running.accounts().await.forgot_password(forgot()).await.unwrap_err()), "USER_NOT_FOUND");
}

#[tokio::test]
async fn a_continuation_flood_ends_its_connection() {
    let running = Running::start(|_| {}).await;
    let mut flooder = UnixStream::connect(&running.config.socket_path).await.unwrap();
    let mut flood = PREFACE.to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    flood.extend(frame(HEADERS, 0, 1, &[0x83, 0x86, 0x84]));
    for number in 0..2_000_u32 {
        // A literal header that is new each time: "x" and four digits, each with a long value.
        let mut header = vec![0, 5, b'x'];
        header.extend(format!("{number:04}").bytes());
        header.push(100);
        header.extend([b'v'; 100]);
        flood.extend(frame(CONTINUATION, 0, 1, &header));
    }
    let _ = flooder.write_all(&flood).await;
    let (kinds, _) = frames_until_closed(flooder).await;
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
    assert_eq!(reason(&running.accounts().await.forgot_password(forgot()).await.unwrap_err()), "USER_NOT_FOUND");
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_dropped() {
    let running = Running::start(|config| {
        config.keepalive_interval_ms = 20;
        config.keepalive_timeout_ms = 20;
    })
    .await;
    let mut dead = UnixStream::connect(&running.config.socket_path).await.unwrap();
    let mut hello = PREFACE.to_vec();
    hello.extend(frame(SETTINGS, 0, 0, &[]));
    dead.write_all(&hello).await.unwrap();
    frames_until_closed(dead).await;
}
