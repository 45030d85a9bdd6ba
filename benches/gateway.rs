//! The small client of `benches/compare`: drives a running daemon over its socket and prints what it measured as one
//! line of JSON. Without arguments (as `cargo bench` calls it) it says how it is used.
//!
//! ```text
//! gateway SOCKET sign-in USER PASSWORD   signs in, so that the other commands have a session
//! gateway SOCKET credentials [SESSION]   GetAwsCredentials from the cache: one caller, then 64
//! gateway SOCKET create FOLDER FILE...   CreateUpload of every file, waits until all are in S3
//! gateway SOCKET stream FOLDER FILE...   Upload of every file, waits until all are in S3
//! ```
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tidegate::api::v1::credential_service_client::CredentialServiceClient;
use tidegate::api::v1::session_service_client::SessionServiceClient;
use tidegate::api::v1::upload_request::Message;
use tidegate::api::v1::upload_service_client::UploadServiceClient;
use tidegate::api::v1::{
    CreateUploadRequest, GetAwsCredentialsRequest, PasswordSignIn, SignInRequest, Upload, UploadBegin, UploadFinish,
    UploadRequest, UploadSpec, UploadState, WaitFor, sign_in_request,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Calls of the one caller whose times are listed.
const SINGLE_CALLS: usize = 20_000;
/// Callers at once, and for how long.
const CALLERS: usize = 64;
const CALLERS_FOR: Duration = Duration::from_secs(3);
/// Files on their way at once: a kiosk hands over a handful, not hundreds.
const FILES_AT_ONCE: usize = 8;
const CHUNK_BYTES: usize = 256 * 1024;
const WINDOW_BYTES: u32 = 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [socket, "sign-in", username, password] => sign_in(connect(socket).await?, username, password).await,
        [socket, "credentials"] => credentials(socket, "").await,
        [socket, "credentials", session] => credentials(socket, session).await,
        [socket, "create", folder, files @ ..] => hand_over(connect(socket).await?, true, folder, files).await,
        [socket, "stream", folder, files @ ..] => hand_over(connect(socket).await?, false, folder, files).await,
        _ => {
            println!("this is the client of benches/compare: run that");
            Ok(())
        }
    }
}

async fn connect(socket: &str) -> Result<Channel, Box<dyn Error>> {
    let socket = socket.to_owned();
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector(connector).await?)
}

async fn sign_in(channel: Channel, username: &str, password: &str) -> Result<(), Box<dyn Error>> {
    let password = PasswordSignIn { username: username.to_owned(), password: password.to_owned() };
    let method = Some(sign_in_request::Method::Password(password));
    SessionServiceClient::new(channel).sign_in(SignInRequest { identity: String::new(), method }).await?;
    println!("{{}}");
    Ok(())
}

async fn credentials(socket: &str, session: &str) -> Result<(), Box<dyn Error>> {
    let request = GetAwsCredentialsRequest { session: session.to_owned() };
    let mut client = CredentialServiceClient::new(connect(socket).await?);
    // The first call fetches them and is not what is measured.
    client.get_aws_credentials(request.clone()).await?;
    let mut times = Vec::with_capacity(SINGLE_CALLS);
    for _ in 0..SINGLE_CALLS {
        let start = Instant::now();
        client.get_aws_credentials(request.clone()).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let percentile = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;

    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, request) = (client.clone(), request.clone());
        callers.spawn(async move {
            let mut calls = 0_u64;
            while start.elapsed() < CALLERS_FOR {
                client.get_aws_credentials(request.clone()).await?;
                calls += 1;
            }
            Ok::<_, tonic::Status>(calls)
        });
    }
    let mut calls = 0;
    while let Some(done) = callers.join_next().await {
        calls += done??;
    }
    let rate = calls as f64 / start.elapsed().as_secs_f64();
    let (p50, p99) = (percentile(50), percentile(99));
    println!(r#"{{"p50_us": {p50:.1}, "p99_us": {p99:.1}, "calls_per_s": {rate:.0}}}"#);
    Ok(())
}

async fn hand_over(channel: Channel, by_path: bool, folder: &str, files: &[&str]) -> Result<(), Box<dyn Error>> {
    // Every upload's call answers when it is in S3.
    let client = UploadServiceClient::new(channel);
    let at_once = Arc::new(Semaphore::new(if by_path { files.len().max(1) } else { FILES_AT_ONCE }));
    let start = Instant::now();
    let mut uploads = JoinSet::new();
    for file in files {
        let (client, at_once, file) = (client.clone(), Arc::clone(&at_once), (*file).to_owned());
        let name = Path::new(&file).file_name().unwrap().to_string_lossy().into_owned();
        let spec =
            UploadSpec { key: format!("{folder}/{name}"), wait_for: WaitFor::Stored.into(), ..UploadSpec::default() };
        uploads.spawn(async move {
            let _turn = at_once.acquire_owned().await.expect("is never closed");
            if by_path { create(client, spec, file).await } else { stream(client, spec, file).await }
        });
    }
    let mut bytes = 0;
    while let Some(done) = uploads.join_next().await {
        let upload = done?.map_err(|error| error.to_string())?;
        if upload.state() != UploadState::Succeeded {
            return Err(format!("{} ended {:?}: {:?}", upload.name, upload.state(), upload.failure).into());
        }
        bytes += upload.stored_bytes;
    }
    println!(r#"{{"wall_s": {:.3}, "bytes": {bytes}}}"#, start.elapsed().as_secs_f64());
    Ok(())
}

async fn create(
    mut client: UploadServiceClient<Channel>,
    spec: UploadSpec,
    path: String,
) -> Result<Upload, Box<dyn Error + Send + Sync>> {
    let request = CreateUploadRequest { upload_id: String::new(), spec: Some(spec), path };
    Ok(client.create_upload(request).await?.into_inner().upload.ok_or("no upload in the answer")?)
}

async fn stream(
    mut client: UploadServiceClient<Channel>,
    spec: UploadSpec,
    path: String,
) -> Result<Upload, Box<dyn Error + Send + Sync>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let upload_id = ulid::Ulid::generate().to_string();
    let message = |message| UploadRequest { message: Some(message) };
    let reader = async move {
        let mut file = tokio::fs::File::open(path).await?;
        let mut total_bytes = 0;
        sender.send(message(Message::Begin(UploadBegin { upload_id, spec: Some(spec) }))).await?;
        loop {
            let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
            while chunk.len() < CHUNK_BYTES && file.read_buf(&mut chunk).await? > 0 {}
            if chunk.is_empty() {
                break;
            }
            total_bytes += i64::try_from(chunk.len())?;
            sender.send(message(Message::Chunk(chunk.freeze()))).await?;
        }
        sender.send(message(Message::Finish(UploadFinish { total_bytes, checksum: None }))).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    let (sent, answered) = tokio::join!(reader, client.upload(ReceiverStream::new(receiver)));
    // A refusal ends the stream, so the sender fails as well: the answer says why.
    let upload = answered?.into_inner().upload.ok_or("no upload in the answer")?;
    sent?;
    Ok(upload)
}
