//! The stage of the integration tests: a local cloud, a real daemon on a socket in a temporary directory, clients over
//! it, and users. Everything is loopback on free ports, and gone when the stage is dropped.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tidegate::api::v1::account_service_client::AccountServiceClient;
use tidegate::api::v1::credential_service_client::CredentialServiceClient;
use tidegate::api::v1::gateway_service_client::GatewayServiceClient;
use tidegate::api::v1::session_service_client::SessionServiceClient;
use tidegate::api::v1::upload_request::Message;
use tidegate::api::v1::upload_service_client::UploadServiceClient;
use tidegate::api::v1::{self, sign_in_request, sign_in_response};
use tidegate::config::Config;
use tidegate::daemon::{Daemon, DaemonError};
use tidegate::local_cloud::{LocalCloud, Options, TemplateSource};
use tidegate::upload::Ulid;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

/// Meets every password policy of the template.
pub const PASSWORD: &str = "Correct-horse-7-battery";
/// A uid that owns nothing, for the second caller.
pub const OTHER_UID: u32 = 54_321;

/// A local cloud, a daemon, and a directory for both.
pub struct Stage {
    pub cloud: LocalCloud,
    folder: tempfile::TempDir,
    daemon: Option<Daemon>,
    adjusted: String,
    users: AtomicU32,
}

/// A signed-up, confirmed user.
#[derive(Debug, Clone)]
pub struct User {
    pub username: String,
}

impl Stage {
    /// With the configuration of [`Stage::config_text`].
    pub async fn start() -> Self {
        Self::start_with(TemplateSource::BuiltIn, |text| text).await
    }

    /// With another template, or with changes to the configuration's text.
    pub async fn start_with(template: TemplateSource, adjust: impl FnOnce(String) -> String) -> Self {
        Self::start_on(Options { template, ..Options::default() }, adjust).await
    }

    /// With another cloud, or with changes to the configuration's text.
    pub async fn start_on(options: Options, adjust: impl FnOnce(String) -> String) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let cloud = LocalCloud::start(Options { listen, ..options }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Another uid must be able to reach the socket, and to be refused by the daemon instead.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.path().join("photos")).unwrap();
        let adjusted = adjust(config_text(&cloud, folder.path()));
        let mut stage = Self { cloud, folder, daemon: None, adjusted, users: AtomicU32::new(0) };
        stage.start_daemon().await.unwrap();
        stage
    }

    /// The configuration's text.
    pub fn config_text(&self) -> &str {
        &self.adjusted
    }

    /// Where the configuration is.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    /// The socket.
    pub fn socket_path(&self) -> PathBuf {
        self.folder.path().join("tidegate.sock")
    }

    /// The daemon's state.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A directory whose files may be handed over by path.
    pub fn photos_dir(&self) -> PathBuf {
        self.folder.path().join("photos")
    }

    /// Starts the daemon; after [`Stage::stop_daemon`] again, on the same state.
    pub async fn start_daemon(&mut self) -> Result<(), DaemonError> {
        let file = self.config_file();
        std::fs::write(&file, &self.adjusted).unwrap();
        let (config, text) = Config::load(&file).unwrap();
        self.daemon = Some(Daemon::start(config, Some((file, text)), None).await?);
        Ok(())
    }

    /// Stops the daemon, changes its configuration and starts it again on the same state.
    pub async fn restart_with(&mut self, adjust: impl FnOnce(&str) -> String) {
        self.stop_daemon().await;
        self.adjusted = adjust(&self.adjusted);
        self.start_daemon().await.unwrap();
    }

    /// Stops the daemon and waits for it.
    pub async fn stop_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop().await;
        }
    }

    /// A connection as the test's own uid.
    pub async fn channel(&self) -> Channel {
        channel(&self.socket_path()).await
    }

    /// A connection as [`OTHER_UID`]; `None` where the test may not become another uid.
    pub async fn channel_of_other_uid(&self) -> Option<Channel> {
        let path = self.socket_path();
        let stream = std::thread::spawn(move || connect_as(OTHER_UID, &path)).join().unwrap()?;
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(stream).unwrap();
        let once = Arc::new(std::sync::Mutex::new(Some(stream)));
        let connector = tower::service_fn(move |_| {
            let stream = once.lock().unwrap().take();
            async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("connected once only")) }
        });
        Some(Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap())
    }

    pub async fn accounts(&self) -> AccountServiceClient<Channel> {
        AccountServiceClient::new(self.channel().await)
    }

    pub async fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel().await)
    }

    pub async fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel().await)
    }

    pub async fn uploads(&self) -> UploadServiceClient<Channel> {
        UploadServiceClient::new(self.channel().await)
    }

    pub async fn gateway(&self) -> GatewayServiceClient<Channel> {
        GatewayServiceClient::new(self.channel().await)
    }

    /// Signs up a new user, without the confirmation code.
    pub async fn sign_up_unconfirmed(&self) -> User {
        let username = format!("user{}@example.com", self.users.fetch_add(1, Ordering::SeqCst));
        let request = v1::SignUpRequest {
            username: username.clone(),
            password: PASSWORD.to_owned(),
            attributes: [("email".to_owned(), username.clone())].into(),
            ..Default::default()
        };
        let signed_up = self.accounts().await.sign_up(request).await.unwrap().into_inner();
        assert!(!signed_up.confirmed);
        User { username }
    }

    /// Signs up a new user and confirms it with the code from the outbox.
    pub async fn sign_up(&self) -> User {
        let user = self.sign_up_unconfirmed().await;
        let message = self.cloud.outbox().pop().unwrap();
        assert_eq!(message.to, user.username);
        let request = v1::ConfirmSignUpRequest {
            username: user.username.clone(),
            confirmation_code: message.code,
            ..Default::default()
        };
        self.accounts().await.confirm_sign_up(request).await.unwrap();
        user
    }

    /// Signs `user` in.
    pub async fn sign_in(&self, user: &User) -> v1::Session {
        let response = self.sessions().await.sign_in(by_password(&user.username, PASSWORD)).await.unwrap();
        session_of(response.into_inner())
    }

    /// Signs in as a guest.
    pub async fn sign_in_as_guest(&self) -> Result<v1::Session, Status> {
        Ok(session_of(self.sessions().await.sign_in(by_guest()).await?.into_inner()))
    }

    /// Uploads `bytes` and waits until they are stored, or what went wrong.
    pub async fn upload_and_wait(&self, key: &str, bytes: &[u8]) -> Result<v1::Upload, Status> {
        let id = Ulid::generate();
        let spec = v1::UploadSpec { wait_for: v1::WaitFor::Stored.into(), ..spec(key) };
        let finish = v1::UploadFinish { total_bytes: i64::try_from(bytes.len()).unwrap(), checksum: None };
        let mut messages = vec![begin(id, spec)];
        messages.extend(bytes.chunks(256 * 1024).map(|chunk| Message::Chunk(Bytes::copy_from_slice(chunk))));
        messages.push(Message::Finish(finish));
        send(&mut self.uploads().await, messages).await
    }

    /// The keys in the bucket, sorted.
    pub async fn stored_keys(&self) -> Vec<String> {
        let bucket = self.cloud.outputs()["BucketName"].clone();
        let listed = self.s3().list_objects_v2().bucket(bucket).send().await.unwrap();
        let mut keys: Vec<String> =
            listed.contents().iter().filter_map(|object| object.key()).map(str::to_owned).collect();
        keys.sort();
        keys
    }

    /// S3 as the cloud's administrator.
    pub fn s3(&self) -> aws_sdk_s3::Client {
        use secrecy::ExposeSecret as _;
        let keys = self.cloud.administrator();
        let secret = keys.secret_access_key.expose_secret();
        let credentials =
            aws_sdk_s3::config::Credentials::new(&keys.access_key_id, secret, None, None, "administrator");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
            .region(aws_sdk_s3::config::Region::new(self.cloud.outputs()["Region"].clone()))
            .endpoint_url(self.cloud.url())
            .force_path_style(true)
            .credentials_provider(credentials)
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// The user pool as the cloud's administrator.
    pub fn users(&self) -> aws_sdk_cognitoidentityprovider::Client {
        use aws_sdk_cognitoidentityprovider::config::{BehaviorVersion, Credentials, Region};
        use secrecy::ExposeSecret as _;
        let keys = self.cloud.administrator();
        let secret = keys.secret_access_key.expose_secret();
        let config = aws_sdk_cognitoidentityprovider::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.cloud.outputs()["Region"].clone()))
            .endpoint_url(self.cloud.url())
            .credentials_provider(Credentials::new(&keys.access_key_id, secret, None, None, "administrator"))
            .build();
        aws_sdk_cognitoidentityprovider::Client::from_conf(config)
    }

    /// The files in the spool.
    pub fn spool_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files_below(&self.state_dir().join("spool"), &mut found);
        found
    }
}

/// A daemon for `cloud` with everything in `folder`.
fn config_text(cloud: &LocalCloud, folder: &Path) -> String {
    let output = |name: &str| cloud.outputs()[name].clone();
    let (url, folder) = (cloud.url(), folder.display());
    format!(
        r#"
[daemon]
state_dir = "{folder}/state"
drain_timeout_ms = 2000

[api]
socket_path = "{folder}/tidegate.sock"
socket_mode = "0666"
max_account_calls_per_minute = 1000

[session]
seal_key_file = "{folder}/seal/seal.key"
max_upstream_calls_per_s = 100
upstream_burst = 100

[upload]
file_roots = ["{folder}/photos"]
backoff_initial_ms = 50
backoff_max_ms = 200

[[identity]]
name = "app"
tiered = true

[identity.tokens]
kind = "cognito_user_pool"
region = "{region}"
user_pool_id = "{pool}"
client_id = "{client}"
endpoint_url = "{url}"
jwks_url = "{url}/{pool}/.well-known/jwks.json"

[identity.credentials]
kind = "cognito_identity_pool"
region = "{region}"
identity_pool_id = "{identity_pool}"
endpoint_url = "{url}"

[[destination]]
name = "photos"
kind = "s3"
bucket = "{bucket}"
region = "{region}"
prefix = "users/{{identity_id}}/"
endpoint_url = "{url}"
path_style = true
"#,
        region = output("Region"),
        pool = output("UserPoolId"),
        client = output("UserPoolClientId"),
        identity_pool = output("IdentityPoolId"),
        bucket = output("BucketName"),
    )
}

/// A client connection to a daemon's socket.
pub async fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// Connects with the effective uid of somebody else; for a thread of its own, whose uid this changes.
fn connect_as(uid: u32, path: &Path) -> Option<std::os::unix::net::UnixStream> {
    let uid = rustix::process::Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).ok()?;
    Some(std::os::unix::net::UnixStream::connect(path).unwrap())
}

/// A sign-in by password at the only identity.
pub fn by_password(username: &str, password: &str) -> v1::SignInRequest {
    let method = v1::PasswordSignIn { username: username.to_owned(), password: password.to_owned() };
    v1::SignInRequest { identity: String::new(), method: Some(sign_in_request::Method::Password(method)) }
}

/// A guest's sign-in at the only identity.
pub fn by_guest() -> v1::SignInRequest {
    let method = Some(sign_in_request::Method::Guest(v1::GuestSignIn {}));
    v1::SignInRequest { identity: String::new(), method }
}

/// A sign-in by an ID token at the only identity.
pub fn by_id_token(id_token: &str) -> v1::SignInRequest {
    let method = v1::TokenSignIn { id_token: id_token.to_owned(), ..Default::default() };
    v1::SignInRequest { identity: String::new(), method: Some(sign_in_request::Method::Tokens(method)) }
}

/// The session of a sign-in without a challenge.
pub fn session_of(response: v1::SignInResponse) -> v1::Session {
    match response.result {
        Some(sign_in_response::Result::Session(session)) => session,
        other => panic!("no session: {other:?}"),
    }
}

/// A spec with nothing but its key.
pub fn spec(key: &str) -> v1::UploadSpec {
    v1::UploadSpec { key: key.to_owned(), ..Default::default() }
}

/// The first message of a stream.
pub fn begin(id: Ulid, spec: v1::UploadSpec) -> Message {
    Message::Begin(v1::UploadBegin { upload_id: id.to_string(), spec: Some(spec) })
}

/// The last message of a stream.
pub fn finish(total_bytes: i64) -> Message {
    Message::Finish(v1::UploadFinish { total_bytes, checksum: None })
}

/// Sends a whole stream.
pub async fn send(
    uploads: &mut UploadServiceClient<Channel>,
    messages: impl IntoIterator<Item = Message>,
) -> Result<v1::Upload, Status> {
    let messages: Vec<_> = messages.into_iter().map(|message| v1::UploadRequest { message: Some(message) }).collect();
    let answer = uploads.upload(tokio_stream::iter(messages)).await?;
    Ok(answer.into_inner().upload.unwrap())
}

/// The `reason` of a status's `ErrorInfo`; every status of the daemon has one, in its domain.
#[track_caller]
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, tidegate::api::ERROR_DOMAIN);
    info.reason.clone()
}

/// The variables of a status's `ErrorInfo`.
pub fn variables(status: &Status) -> BTreeMap<String, String> {
    let details = status.get_error_details();
    details.error_info().map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default()
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}
