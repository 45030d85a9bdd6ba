//! Credentials for other SDKs over a real daemon and the local cloud: the container-credentials endpoint and everything
//! that it refuses, the stream of rotations, and AWS's own SDK living on both ways across rotations.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::api::v1;
use tidegate::local_cloud::TemplateSource;
use tidegate::local_cloud::faults::{Effect, Rule};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tonic::Streaming;

use crate::fixture::{Stage, reason};

const LISTEN: &str = "[vend]\nlisten = \"127.0.0.1:0\"\n";

async fn stage() -> Stage {
    Stage::start_with(TemplateSource::BuiltIn, |text| text + LISTEN).await
}

/// A session's endpoint.
#[derive(Debug, Clone, PartialEq)]
struct Endpoint {
    url: String,
    token: String,
}

impl Endpoint {
    fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap().split('/').next().unwrap()
    }

    fn path(&self) -> &str {
        &self.url[self.url.find("/v1/").unwrap()..]
    }

    /// As an SDK asks.
    async fn get(&self) -> Answer {
        self.with_token(&self.token).await
    }

    async fn with_token(&self, token: &str) -> Answer {
        self.ask("GET", self.path(), &[("Host", self.address()), ("Authorization", token)]).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        stream.write_all((request + "\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let head = head.lines().filter(|line| !line.to_lowercase().starts_with("date:")).collect::<Vec<_>>().join("\n");
        Answer { status, head, body: serde_json::from_str(body).unwrap_or(Value::Null), took: began.elapsed() }
    }
}

#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
    took: Duration,
}

impl Answer {
    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.body["Code"].as_str().unwrap_or_default()), (status, code), "{self:?}");
        assert!(self.body["Message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        assert!(self.body.get("SecretAccessKey").is_none() && self.head.contains("no-store"), "{self:?}");
    }

    #[track_caller]
    fn access_key(&self) -> &str {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["AccessKeyId"].as_str().unwrap()
    }
}

async fn open(stage: &Stage, session: &v1::Session, renew_token: bool) -> Endpoint {
    let request = v1::CreateCredentialsEndpointRequest { session: session.name.clone(), renew_token };
    let given = stage.credentials().await.create_credentials_endpoint(request).await.unwrap().into_inner();
    assert_eq!(given.session, session.name);
    Endpoint { url: given.url, token: given.authorization_token }
}

async fn signed_in(stage: &Stage) -> (v1::Session, Endpoint) {
    let user = stage.sign_up().await;
    let session = stage.sign_in(&user).await;
    let endpoint = open(stage, &session, false).await;
    (session, endpoint)
}

async fn credentials(stage: &Stage, session: &v1::Session) -> v1::AwsCredentials {
    let request = v1::GetAwsCredentialsRequest { session: session.name.clone() };
    stage.credentials().await.get_aws_credentials(request).await.unwrap().into_inner().credentials.unwrap()
}

async fn refresh(stage: &Stage, session: &v1::Session) -> Result<(), tonic::Status> {
    let request = v1::RefreshSessionRequest { name: session.name.clone() };
    stage.sessions().await.refresh_session(request).await.map(|_| ())
}

async fn sign_out(stage: &Stage, session: &v1::Session, uploads: v1::SignOutUploads) {
    let request =
        v1::SignOutRequest { name: session.name.clone(), uploads: uploads.into(), ..v1::SignOutRequest::default() };
    stage.sessions().await.sign_out(request).await.unwrap();
}

fn fail(stage: &Stage, operation: &str, status: u16, code: &str) {
    let effect = Effect::Error { status, code: code.to_owned(), message: None };
    stage.cloud.faults().add(Rule::new(operation, effect)).unwrap();
}

fn slow(stage: &Stage, operation: &str) {
    stage.cloud.faults().add(Rule::new(operation, Effect::Delay).latency(Duration::from_secs(3))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_gives_what_the_sdks_parse() {
    let stage = stage().await;
    let (session, endpoint) = signed_in(&stage).await;
    assert!(endpoint.url.starts_with("http://127.0.0.1:") && endpoint.url.contains("/v1/credentials/"));
    assert_eq!(endpoint.token.len(), 43, "256 bits");
    let answer = endpoint.get().await;
    let vended = credentials(&stage, &session).await;
    assert_eq!(answer.access_key(), vended.access_key_id);
    assert_eq!(answer.body["SecretAccessKey"], vended.secret_access_key.as_str());
    assert_eq!(answer.body["Token"], vended.session_token.as_str());
    let expiration = humantime::parse_rfc3339(answer.body["Expiration"].as_str().unwrap()).unwrap();
    let end = std::time::SystemTime::try_from(vended.expire_time.unwrap()).unwrap();
    assert!(end.duration_since(expiration).unwrap() < Duration::from_secs(1));
    assert!(answer.head.contains("content-type: application/json") && answer.head.contains("no-store"));
    let fields: Vec<_> = answer.body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["AccessKeyId", "Expiration", "SecretAccessKey", "Token"]);
    let localhost = format!("localhost:{}", endpoint.address().rsplit(':').next().unwrap());
    let named = [("Host", localhost.as_str()), ("Authorization", endpoint.token.as_str())];
    assert_eq!(endpoint.ask("GET", endpoint.path(), &named).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_sessions_token_every_session_looks_the_same() {
    let stage = stage().await;
    let (_, ada) = signed_in(&stage).await;
    let (bens, ben) = signed_in(&stage).await;
    assert_ne!(ada.token, ben.token);
    let host = ("Host", ada.address());
    let missing = ada.ask("GET", ada.path(), &[host]).await;
    missing.is(401, "UNAUTHORIZED");
    let unknown = format!("{}{}", &ada.path()[..ada.path().len() - 26], "01JD8Q4Z6M3N5P7R9T1V3X5Z7B");
    let token = ("Authorization", ada.token.as_str());
    let bearer = format!("Bearer {}", ada.token);
    let others = [
        ada.with_token("wrong").await,
        ada.with_token("").await,
        ada.with_token(&ben.token).await,
        ada.with_token(&ada.token[..42]).await,
        ada.with_token(&bearer).await,
        ada.ask("GET", &unknown, &[host, token]).await,
        ada.ask("GET", ada.path(), &[host, token, token]).await,
        {
            sign_out(&stage, &bens, v1::SignOutUploads::Park).await;
            ben.get().await
        },
    ];
    for other in others {
        assert_eq!((other.status, &other.head, &other.body), (401, &missing.head, &missing.body));
    }
    assert_eq!(ada.get().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_proxies_methods_and_paths_are_refused_with_the_right_token() {
    let stage = stage().await;
    let (_, endpoint) = signed_in(&stage).await;
    let (host, token) = (("Host", endpoint.address()), ("Authorization", endpoint.token.as_str()));
    let path = endpoint.path();
    let rebound = format!("evil.example:{}", endpoint.address().rsplit(':').next().unwrap());
    for other in [rebound.as_str(), "169.254.170.23", "127.0.0.1", ""] {
        endpoint.ask("GET", path, &[("Host", other), token]).await.is(403, "WRONG_HOST");
    }
    endpoint.ask("GET", path, &[token]).await.is(403, "WRONG_HOST");
    for proxied in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
        endpoint.ask("GET", path, &[host, token, (proxied, "127.0.0.1")]).await.is(403, "FORWARDED");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = endpoint.ask(method, path, &[host, token, ("Content-Length", "0")]).await;
        answer.is(405, "METHOD_NOT_ALLOWED");
        assert!(answer.head.contains("allow: GET"), "{answer:?}");
    }
    for other in ["/", "/v1/credentials", "/v1/credentials/", "/metrics", &format!("{path}/x"), &format!("{path}?x=1")]
    {
        endpoint.ask("GET", other, &[host, token]).await.is(404, "NOT_FOUND");
    }
    let long = "x".repeat(20_000);
    let answer = endpoint.ask("GET", path, &[host, token, ("X", &long)]).await;
    assert_eq!((answer.status, answer.body), (431, Value::Null), "the head is too long");
    assert_eq!(endpoint.get().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stays_until_it_is_renewed_and_through_a_restart() {
    let mut stage = stage().await;
    let (session, first) = signed_in(&stage).await;
    assert_eq!(open(&stage, &session, false).await, first, "asking again gives the same");
    let renewed = open(&stage, &session, true).await;
    assert_eq!(renewed.url, first.url);
    first.get().await.is(401, "UNAUTHORIZED");
    assert_eq!(renewed.get().await.status, 200);

    stage.stop_daemon().await;
    assert!(TcpStream::connect(first.address()).await.is_err(), "nobody listens");
    let mut kept = Vec::new();
    for file in std::fs::read_dir(stage.state_dir().join("sessions")).unwrap() {
        kept.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    assert!(!String::from_utf8_lossy(&kept).contains(&renewed.token), "sealed");
    stage.start_daemon().await.unwrap();
    let again = open(&stage, &session, false).await;
    assert_eq!(again.token, renewed.token, "the program's file is still good");
    assert_eq!(again.get().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_ends_the_url_at_once_and_for_good() {
    let stage = stage().await;
    let user = stage.sign_up().await;
    for uploads in [v1::SignOutUploads::Park, v1::SignOutUploads::Cancel, v1::SignOutUploads::Drain] {
        let session = stage.sign_in(&user).await;
        let endpoint = open(&stage, &session, false).await;
        assert_eq!(endpoint.get().await.status, 200);
        stage.gateway().await.pause(v1::PauseRequest {}).await.unwrap();
        let photo = stage.photos_dir().join("a.jpg");
        std::fs::write(&photo, b"a photo").unwrap();
        let spec = v1::UploadSpec { session: session.name.clone(), ..crate::fixture::spec("free/a.jpg") };
        let request = v1::CreateUploadRequest {
            spec: Some(spec),
            path: photo.display().to_string(),
            ..v1::CreateUploadRequest::default()
        };
        stage.uploads().await.create_upload(request).await.unwrap();
        sign_out(&stage, &session, uploads).await;
        endpoint.get().await.is(401, "UNAUTHORIZED");
        let request = v1::CreateCredentialsEndpointRequest { session: session.name.clone(), renew_token: false };
        let refused = stage.credentials().await.create_credentials_endpoint(request).await.unwrap_err();
        assert!(["SESSION_NOT_FOUND", "NEEDS_SIGN_IN"].contains(&reason(&refused).as_str()), "{refused:?}");
        // The same user again, which may be the same session: the old token stays dead.
        let back = stage.sign_in(&user).await;
        endpoint.get().await.is(401, "UNAUTHORIZED");
        let fresh = open(&stage, &back, false).await;
        assert_ne!(fresh.token, endpoint.token, "{uploads:?}");
        assert_eq!(fresh.get().await.status, 200);
        sign_out(&stage, &back, v1::SignOutUploads::Cancel).await;
        stage.gateway().await.resume(v1::ResumeRequest {}).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guests_url_ends_when_the_guest_becomes_a_user() {
    let with_guests = |text: String| text.replace("tiered = true", "tiered = true\nguests = true") + LISTEN;
    let stage = Stage::start_with(TemplateSource::BuiltIn, with_guests).await;
    let user = stage.sign_up().await;
    let guest = stage.sign_in_as_guest().await.unwrap();
    let guests = open(&stage, &guest, false).await;
    assert_eq!(guests.get().await.access_key(), credentials(&stage, &guest).await.access_key_id);
    let session = stage.sign_in(&user).await;
    guests.get().await.is(401, "UNAUTHORIZED");
    let users = open(&stage, &session, false).await;
    assert!(users.token != guests.token && users.url != guests.url);
    assert_eq!(users.get().await.access_key(), credentials(&stage, &session).await.access_key_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_sign_in_without_a_sign_out_keeps_the_url() {
    let stage = stage().await;
    let user = stage.sign_up().await;
    let session = stage.sign_in(&user).await;
    let endpoint = open(&stage, &session, false).await;
    let again = stage.sign_in(&user).await;
    assert_eq!(again.name, session.name);
    assert_eq!(endpoint.get().await.status, 200);
    assert_eq!(open(&stage, &again, false).await, endpoint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_session_is_answered_in_time_whatever_the_cloud_does() {
    // Less than the default, so that a busy machine has time to spare in the 800 ms that SDKs are promised.
    let soon = |text: String| text + LISTEN + "answer_timeout_ms = 400\n";
    let mut stage = Stage::start_with(TemplateSource::BuiltIn, soon).await;
    let (session, _) = signed_in(&stage).await;
    stage.stop_daemon().await;
    stage.cloud.faults().set_offline(true);
    stage.start_daemon().await.unwrap();
    let endpoint = open(&stage, &session, false).await;
    let offline = endpoint.get().await;
    offline.is(503, "CREDENTIALS_UNAVAILABLE");
    assert!(offline.took < Duration::from_millis(800) && offline.head.contains("retry-after: "), "{offline:?}");

    stage.stop_daemon().await;
    stage.cloud.faults().set_offline(false);
    slow(&stage, "GetCredentialsForIdentity");
    stage.start_daemon().await.unwrap();
    let endpoint = open(&stage, &session, false).await;
    let cold = endpoint.get().await;
    cold.is(503, "CREDENTIALS_UNAVAILABLE");
    assert!(cold.took < Duration::from_millis(800) && cold.head.contains("retry-after: 1"), "{cold:?}");
    // What the first request began goes on: somebody with more patience gets it, then everybody.
    let patient = credentials(&stage, &session).await;
    assert_eq!(endpoint.get().await.access_key(), patient.access_key_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_is_refused_when_the_user_signs_out() {
    let mut stage = stage().await;
    let (session, _) = signed_in(&stage).await;
    stage.stop_daemon().await;
    let delay = Rule::new("*", Effect::Delay).latency(Duration::from_secs(3));
    stage.cloud.faults().add(delay.next(100)).unwrap();
    stage.start_daemon().await.unwrap();
    let endpoint = open(&stage, &session, false).await;
    let waiting = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { endpoint.get().await }
    });
    let called = async {
        while stage.cloud.faults().plan().rules[0].next == Some(100) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), called).await.expect("the request has made the daemon call");
    sign_out(&stage, &session, v1::SignOutUploads::Park).await;
    waiting.await.unwrap().is(401, "UNAUTHORIZED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_needs_a_sign_in_says_so() {
    let stage = stage().await;
    let user = stage.sign_up().await;
    stage.cloud.sts().limit_lifetimes(Some(Duration::from_secs(10)));
    let session = stage.sign_in(&user).await;
    let endpoint = open(&stage, &session, false).await;
    let mut rotations = watch(&stage, &session).await;
    rotations.message().await.unwrap().unwrap();
    fail(&stage, "GetTokensFromRefreshToken", 400, "NotAuthorizedException");
    assert_eq!(reason(&refresh(&stage, &session).await.unwrap_err()), "NEEDS_SIGN_IN");
    let stale = next(&mut rotations).await;
    assert!(stale.stale && !stale.last_error.is_empty(), "what is valid is still served, marked");
    assert_eq!(endpoint.get().await.access_key(), stale.access_key_id);
    let ended = loop {
        match tokio::time::timeout(Duration::from_secs(20), rotations.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), "NEEDS_SIGN_IN");
    let refused = endpoint.get().await;
    refused.is(403, "NEEDS_SIGN_IN");
    assert!(refused.body["Message"].as_str().unwrap().contains("sign in again"));
    // The next sign-in brings the program back to life.
    stage.cloud.faults().clear();
    stage.sign_in(&user).await;
    assert_eq!(endpoint.get().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_listener_the_endpoint_is_refused_and_others_see_nothing() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let request = v1::CreateCredentialsEndpointRequest::default();
    let refused = stage.credentials().await.create_credentials_endpoint(request).await.unwrap_err();
    assert_eq!(reason(&refused), "VENDING_DISABLED");
    assert!(refused.message().contains("vend.listen"), "{refused:?}");

    let stage = self::stage().await;
    let (session, _) = signed_in(&stage).await;
    let Some(channel) = stage.channel_of_other_uid().await else { return };
    let mut other = v1::credential_service_client::CredentialServiceClient::new(channel);
    let request = v1::CreateCredentialsEndpointRequest { session: session.name, renew_token: true };
    assert_eq!(reason(&other.create_credentials_endpoint(request).await.unwrap_err()), "SESSION_NOT_FOUND");
}

async fn watch(stage: &Stage, session: &v1::Session) -> Streaming<v1::WatchAwsCredentialsResponse> {
    let request = v1::WatchAwsCredentialsRequest { session: session.name.clone() };
    stage.credentials().await.watch_aws_credentials(request).await.unwrap().into_inner()
}

async fn next(rotations: &mut Streaming<v1::WatchAwsCredentialsResponse>) -> v1::AwsCredentials {
    let next = tokio::time::timeout(Duration::from_secs(20), rotations.message()).await.expect("a rotation comes");
    next.unwrap().expect("the stream goes on").credentials.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rotation_and_a_stale_mark_are_streamed_until_the_sign_out() {
    let stage = stage().await;
    let user = stage.sign_up().await;
    for uploads in [v1::SignOutUploads::Park, v1::SignOutUploads::Drain] {
        let session = stage.sign_in(&user).await;
        let mut rotations = watch(&stage, &session).await;
        let mut seen = vec![next(&mut rotations).await.access_key_id];
        // Several within the same second: their ends are the same, they are not.
        for _ in 0..4 {
            refresh(&stage, &session).await.unwrap();
            let rotated = next(&mut rotations).await;
            assert!(!rotated.stale && !seen.contains(&rotated.access_key_id));
            seen.push(rotated.access_key_id);
        }
        stage.cloud.faults().set_offline(true);
        refresh(&stage, &session).await.unwrap_err();
        let stale = next(&mut rotations).await;
        assert!(stale.stale && !stale.last_error.is_empty() && Some(&stale.access_key_id) == seen.last());
        stage.cloud.faults().set_offline(false);
        let back = next(&mut rotations).await;
        assert!(!back.stale && back.last_error.is_empty() && !seen.contains(&back.access_key_id), "by itself");
        sign_out(&stage, &session, uploads).await;
        let end = tokio::time::timeout(Duration::from_secs(20), rotations.message()).await.unwrap();
        assert!(matches!(end, Ok(None)), "{uploads:?}: {end:?}");
    }
}

/// AWS's SDK for Rust in a process of its own, with its default chain.
struct SdkApp {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    puts: u32,
}

impl SdkApp {
    fn start(stage: &Stage, environment: &[(&str, &str)]) -> Self {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["demo-app", "--json", "--bucket", &stage.cloud.outputs()["BucketName"]]);
        command.env_clear().env("AWS_ENDPOINT_URL", stage.cloud.url()).env("AWS_REGION", "us-east-1");
        command.env("AWS_EC2_METADATA_DISABLED", "true").envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { stdin: child.stdin.take().unwrap(), stdout, child, puts: 0 }
    }

    /// Puts an object beneath `prefix`; answers the access key that signed it, as the cloud saw.
    async fn put(&mut self, stage: &Stage, prefix: &str) -> Result<String, String> {
        self.puts += 1;
        let key = format!("{prefix}free/{}-{}.txt", self.child.id().unwrap(), self.puts);
        self.stdin.write_all(format!("{key}\n").as_bytes()).await.unwrap();
        let line = tokio::time::timeout(Duration::from_secs(20), self.stdout.next_line()).await.expect("it answers");
        let said: Value = serde_json::from_str(&line.unwrap().expect("it runs")).unwrap();
        if let Some(error) = said["error"].as_str() {
            return Err(error.to_owned());
        }
        let put = stage.cloud.requests(0).into_iter().rev().find(|record| record.key == key).unwrap();
        Ok(put.access_key_id.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn awss_sdk_lives_on_both_ways_across_rotations() {
    let stage = stage().await;
    let user = stage.sign_up().await;
    // Short lives, so that every one of them ends while the apps run: what was rotated away is refused by S3.
    stage.cloud.sts().limit_lifetimes(Some(Duration::from_secs(10)));
    let session = stage.sign_in(&user).await;
    let endpoint = open(&stage, &session, false).await;
    let prefix = format!("users/{}/", credentials(&stage, &session).await.identity_id);
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, &endpoint.token).unwrap();
    let profile = folder.path().join("config");
    let program = env!("CARGO_BIN_EXE_tidegate");
    let socket = stage.socket_path();
    let process = format!("{program} --socket {} credentials --session {}", socket.display(), session.name);
    std::fs::write(&profile, format!("[default]\ncredential_process = {process}\n")).unwrap();

    let mut apps = [
        SdkApp::start(
            &stage,
            &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &endpoint.url),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file.to_str().unwrap()),
            ],
        ),
        SdkApp::start(&stage, &[("AWS_CONFIG_FILE", profile.to_str().unwrap())]),
    ];
    let mut rotations = watch(&stage, &session).await;
    let mut used = [Vec::new(), Vec::new()];
    // The first set and two rotations; each set is used as soon as it is there.
    for _ in 0..3 {
        let rotated = next(&mut rotations).await;
        for (app, used) in apps.iter_mut().zip(&mut used) {
            for _ in 0..3 {
                used.push(app.put(&stage, &prefix).await.expect("no call fails"));
            }
            assert!(used.contains(&rotated.access_key_id), "the new set is used");
        }
    }
    for used in &mut used {
        used.dedup();
        assert!(used.len() >= 3, "at least two rotations: {used:?}");
    }
    // Signed out: what the SDK has lasts no longer than it lasts, and it gets no more.
    sign_out(&stage, &session, v1::SignOutUploads::Park).await;
    for app in &mut apps {
        let refused = async {
            loop {
                if let Err(error) = app.put(&stage, &prefix).await {
                    return error;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), refused).await.expect("it ends");
    }
}
