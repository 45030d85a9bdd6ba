//! What the demo runs on: a temporary directory, the rehearsal cloud in this process, the daemon as its own process from
//! the same executable. Promises to take all of it down again.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use ulid::Ulid;

use super::super::client::Client;
use super::super::exit::CliError;
use crate::local_cloud::{LocalCloud, Options};

/// How long the daemon may take until its socket answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the socket is tried meanwhile.
const START_POLL: Duration = Duration::from_millis(20);

/// How long the daemon may take to stop by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest path that a socket may have on Linux, in bytes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The stage.
#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    cloud: Option<LocalCloud>,
    daemon: Option<Child>,
}

impl Stage {
    /// Makes the directory; nothing runs yet.
    pub(super) fn set() -> Result<Self, CliError> {
        let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", Ulid::generate()));
        if folder.join("tidegate.sock").as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            let text = format!("{} is too long for the path of a socket", folder.display());
            return Err(CliError::failed(text).hint("set TMPDIR to a shorter path, for example /tmp"));
        }
        let stage = Self { folder, cloud: None, daemon: None };
        stage.make_folder(&stage.folder)?;
        Ok(stage)
    }

    /// Where everything lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The daemon's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("tidegate.sock")
    }

    /// True while there is something to talk to.
    pub(super) fn is_running(&self) -> bool {
        self.cloud.is_some() && self.daemon.is_some()
    }

    /// Starts the rehearsal cloud on a free port.
    pub(super) async fn start_cloud(&mut self) -> Result<&LocalCloud, CliError> {
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir: Some(self.folder.join("cloud")),
            parameters: [("AllowGuests".to_owned(), "true".to_owned())].into(),
            ..Options::default()
        };
        let cloud = LocalCloud::start(options).await.map_err(|error| CliError::failed(error.to_string()))?;
        Ok(self.cloud.insert(cloud))
    }

    /// The rehearsal cloud.
    pub(super) fn cloud(&self) -> Result<&LocalCloud, CliError> {
        self.cloud.as_ref().ok_or_else(|| CliError::failed("the local cloud does not run"))
    }

    /// The access key id and secret of the cloud's administrator.
    pub(super) fn administrator(&self) -> Result<(String, String), CliError> {
        let (key_id, secret) = self.cloud()?.administrator().expose();
        Ok((key_id.to_owned(), secret.to_owned()))
    }

    /// The newest code that was mailed to `address`.
    pub(super) fn newest_code(&self, address: &str) -> Option<String> {
        let messages = self.cloud().ok()?.outbox();
        messages.into_iter().rev().find(|message| message.to == address).map(|message| message.code)
    }

    /// One of the template's outputs.
    pub(super) fn template_output(&self, name: &str) -> Result<String, CliError> {
        let value = self.cloud()?.outputs().get(name).cloned();
        value.ok_or_else(|| CliError::failed(format!("the template has no output {name}")))
    }

    /// Starts the daemon on the cloud's resources and connects to it.
    pub(super) async fn start_daemon(&mut self) -> Result<Client, CliError> {
        for folder in ["state", "key", "photos"] {
            self.make_folder(&self.folder.join(folder))?;
        }
        self.write(&self.folder.join("tidegate.toml"), &self.config()?)?;
        self.run_daemon().await
    }

    /// Starts the daemon on what is there.
    pub(super) async fn run_daemon(&mut self) -> Result<Client, CliError> {
        let log = self.folder.join("daemon.log");
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)
            .map_err(|error| CliError::failed(format!("cannot open {}: {error}", log.display())))?;
        let program = std::env::current_exe()
            .map_err(|error| CliError::failed(format!("cannot find this program's own file: {error}")))?;
        let daemon = Command::new(program)
            .args(["serve", "--config"])
            .arg(self.folder.join("tidegate.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which then stops the daemon in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| CliError::failed(format!("cannot start the daemon: {error}")))?;
        let daemon = self.daemon.insert(daemon);
        let socket = self.folder.join("tidegate.sock");
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(client) = Client::connect(&socket).await {
                return Ok(client);
            }
            let died = daemon.try_wait().ok().flatten();
            if died.is_some() || Instant::now() > deadline {
                let what = died.map_or("does not answer".to_owned(), |status| format!("ended at once ({status})"));
                let log = std::fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(8).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                return Err(CliError::failed(format!("the daemon {what}:\n{}", last.join("\n"))));
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    /// Stops the daemon and starts it again on what it left.
    pub(super) async fn restart_daemon(&mut self) -> Result<Client, CliError> {
        self.stop_daemon().await;
        self.run_daemon().await
    }

    /// What a power cut or a crash does: SIGKILL, in the middle of whatever it does.
    pub(super) async fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill().await;
        }
    }

    /// Asked first, then by force.
    async fn stop_daemon(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let id = daemon.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(STOP_TIMEOUT, daemon.wait()).await.is_err() {
            let _ = daemon.kill().await;
        }
    }

    /// Stops the daemon and the cloud, and removes the directory.
    pub(super) async fn clear(mut self) {
        self.stop_daemon().await;
        if let Some(cloud) = self.cloud.take() {
            cloud.shutdown().await;
        }
        // The directory goes when `self` is dropped, as it does where this was never called.
    }

    /// The configuration that a team would write for its own pools, with the cloud's endpoint.
    fn config(&self) -> Result<String, CliError> {
        let url = self.cloud()?.url();
        let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let path = |name: &str| text(&self.folder.join(name).to_string_lossy());
        let output = |name: &str| self.template_output(name).map(|value| text(&value));
        Ok(format!(
            r#"# Written by `tidegate demo`.
[daemon]
state_dir = {state}

[api]
socket_path = {socket}
socket_mode = "0600"

[telemetry]
log_format = "human"
prometheus_listen = "127.0.0.1:0"

[session]
seal_key_file = {key}
# The whole story within seconds: a device has no need of as many calls.
max_upstream_calls_per_s = 100
upstream_burst = 100

[vend]
listen = "127.0.0.1:0"

[upload]
file_roots = [{photos}]

[[identity]]
name = "app"
tiered = true
guests = true

[identity.tokens]
kind = "cognito_user_pool"
region = {region}
user_pool_id = {pool}
client_id = {client}
endpoint_url = {url}

[identity.hosted_ui]
domain_url = {url}
redirect_uris = ["http://127.0.0.1:8484/callback"]
# The demo is its own browser, and brings the redirect itself.
listen_on_loopback = false

[identity.credentials]
kind = "cognito_identity_pool"
region = {region}
identity_pool_id = {identity_pool}
endpoint_url = {url}

[[destination]]
name = "photos"
kind = "s3"
bucket = {bucket}
region = {region}
prefix = "users/{{identity_id}}/"
endpoint_url = {url}
path_style = true
"#,
            state = path("state"),
            socket = path("tidegate.sock"),
            key = path("key/seal.key"),
            photos = path("photos"),
            region = output("Region")?,
            pool = output("UserPoolId")?,
            client = output("UserPoolClientId")?,
            identity_pool = output("IdentityPoolId")?,
            bucket = output("BucketName")?,
            url = text(url),
        ))
    }

    fn make_folder(&self, folder: &Path) -> Result<(), CliError> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
        made.map_err(|error| CliError::failed(format!("cannot make {}: {error}", folder.display())))
    }

    fn create(&self, file: &Path) -> Result<std::fs::File, CliError> {
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        made.map_err(|error| CliError::failed(format!("cannot make {}: {error}", file.display())))
    }

    /// Writes a file for this user alone.
    pub(super) fn write(&self, file: &Path, text: &str) -> Result<(), CliError> {
        let written = self.create(file)?.write_all(text.as_bytes());
        written.map_err(|error| CliError::failed(format!("cannot write {}: {error}", file.display())))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
