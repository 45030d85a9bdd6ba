//! A rehearsal cloud and a daemon, both as processes of the real binary, in a directory of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Of every account that a rig signs in.
pub const PASSWORD: &str = "Correct-horse-7";

/// The binary, with nothing of this process's settings.
pub fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_remove("TIDEGATE_SOCKET").env_remove("TIDEGATE_KEY_PREFIX");
    command
}

/// Asks a process to stop.
pub fn terminate(child: &Child) {
    let id = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
}

/// Ctrl-C.
pub fn interrupt(child: &Child) {
    let id = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
}

/// A socket in front of the daemon's that breaks its first connection after so many bytes.
pub struct BreakingSocket {
    path: PathBuf,
    carried: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl BreakingSocket {
    fn start(path: PathBuf, daemon: PathBuf, break_at: usize) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let (carried, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (bytes, count) = (Arc::clone(&carried), Arc::clone(&connections));
        // The thread ends with the process: the test's last connection is its last work.
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let limit = if count.fetch_add(1, Ordering::SeqCst) == 0 { break_at } else { usize::MAX };
                let server = UnixStream::connect(&daemon).unwrap();
                let (back, forth) = ((server.try_clone().unwrap(), client.try_clone().unwrap()), Arc::clone(&bytes));
                std::thread::spawn(move || carry(back.0, back.1, usize::MAX, &AtomicUsize::new(0)));
                std::thread::spawn(move || carry(client, server, limit, &forth));
            }
        });
        Self { path, carried, connections }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes from clients to the daemon.
    pub fn carried_bytes(&self) -> usize {
        self.carried.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Copies until one end closes, or breaks both off after `limit` bytes.
fn carry(mut from: UnixStream, mut to: UnixStream, limit: usize, carried: &AtomicUsize) {
    let (mut buffer, mut sum) = (vec![0; 64 * 1024], 0);
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
        sum += length;
        carried.fetch_add(length, Ordering::SeqCst);
        if sum >= limit {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Cloud and daemon; both end with it.
pub struct Rig {
    folder: tempfile::TempDir,
    cloud: Child,
    url: String,
    daemon: Child,
}

impl Rig {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more tables in the daemon's configuration.
    pub fn start_with(tables: &str) -> Self {
        Self::start_on(&[], |_| tables.to_owned())
    }

    /// With more arguments for the cloud, and tables that know its URL.
    pub fn start_on(arguments: &[&str], tables: impl FnOnce(&str) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["state", "photos", "key"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut cloud = tidegate();
        cloud.args(["local-cloud", "--json", "--listen", "127.0.0.1:0", "--data-dir"]);
        let log = log_file(folder.path(), "cloud.log");
        let mut cloud =
            cloud.arg(folder.path().join("cloud")).args(arguments).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(cloud.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let url = said["url"].as_str().unwrap().to_owned();
        std::fs::write(folder.path().join("tidegate.toml"), config(folder.path(), &said) + &tables(&url)).unwrap();
        let daemon = serve(folder.path());
        Self { folder, cloud, url, daemon }
    }

    /// The cloud's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client command.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidegate();
        command.args(arguments).env("TIDEGATE_SOCKET", self.state_file("tidegate.sock"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    pub fn with_stdin(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The command may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The one document of a command that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.json_with_stdin(arguments, "")
    }

    pub fn json_with_stdin(&self, arguments: &[&str], input: &str) -> Value {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let output = self.with_stdin(&with_json, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{arguments:?}: {error}: {}", String::from_utf8_lossy(&output.stdout));
        })
    }

    /// The newest code for an address.
    pub fn newest_code(&self, address: &str) -> String {
        let url = format!("{}/_tidegate/outbox", self.url);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outbox: Value = runtime.block_on(async { reqwest::get(url).await.unwrap().json::<Value>().await.unwrap() });
        let messages = outbox["messages"].as_array().unwrap();
        let newest = messages.iter().rev().find(|message| message["to"] == address);
        newest.expect("a code was sent")["code"].as_str().unwrap().to_owned()
    }

    /// Asks the user pool something as an app of the user does.
    pub fn ask_pool(&self, action: &str, body: &Value) -> Value {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = reqwest::Client::new().post(&self.url).body(body.to_string());
        let request = request.header("x-amz-target", format!("AWSCognitoIdentityProviderService.{action}"));
        let request = request.header("content-type", "application/x-amz-json-1.1");
        let answer = runtime.block_on(async { request.send().await.unwrap().text().await.unwrap() });
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{action}: {error}: {answer}"))
    }

    /// An account that is signed in.
    pub fn sign_in(&self, address: &str) {
        let password = PASSWORD;
        self.json_with_stdin(&["sign-up", address, "--password-stdin"], password);
        self.json(&["confirm", address, &self.newest_code(address)]);
        self.json_with_stdin(&["sign-in", address, "--password-stdin"], password);
    }

    /// Where files may be handed over by path.
    pub fn photos(&self) -> PathBuf {
        self.state_file("photos")
    }

    /// Something in the rig's directory.
    pub fn state_file(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// A way to the daemon that breaks once.
    pub fn breaking_socket(&self, break_at: usize) -> BreakingSocket {
        BreakingSocket::start(self.state_file("proxy.sock"), self.state_file("tidegate.sock"), break_at)
    }

    /// Stops the daemon in order and starts it again on the same state.
    pub fn restart_daemon(&mut self) {
        self.stop_daemon();
        self.daemon = serve(self.folder.path());
    }

    /// Kills the daemon where it is, and starts it again on what that left.
    pub fn kill_daemon(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = serve(self.folder.path());
    }

    /// Stops the daemon in order.
    pub fn stop_daemon(&mut self) {
        terminate(&self.daemon);
        assert!(self.daemon.wait().unwrap().success(), "{}", self.log("daemon.log"));
    }

    /// What a process has logged: `cloud.log` or `daemon.log`.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.state_file(name)).unwrap()
    }

    /// No log has any of these.
    pub fn nothing_logged_contains(&self, secrets: &[&str]) {
        for name in ["cloud.log", "daemon.log"] {
            let log = self.log(name);
            for secret in secrets {
                assert!(!log.contains(secret), "{name} has a password");
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.cloud] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the daemon and waits until its socket answers.
fn serve(folder: &Path) -> Child {
    let mut daemon = tidegate();
    daemon.arg("serve").arg("--config").arg(folder.join("tidegate.toml"));
    let mut daemon = daemon.stdin(Stdio::null()).stderr(log_file(folder, "daemon.log")).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::os::unix::net::UnixStream::connect(folder.join("tidegate.sock")).is_err() {
        let log = || std::fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
        if let Some(status) = daemon.try_wait().unwrap() {
            panic!("the daemon ended with {status}:\n{}", log());
        }
        assert!(Instant::now() < deadline, "the daemon does not answer:\n{}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon
}

fn log_file(folder: &Path, name: &str) -> std::fs::File {
    std::fs::OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap()
}

fn config(folder: &Path, cloud: &Value) -> String {
    let path = |name: &str| folder.canonicalize().unwrap().join(name).display().to_string();
    let output = |name: &str| cloud["outputs"][name].as_str().unwrap();
    let url = cloud["url"].as_str().unwrap();
    format!(
        r#"
[daemon]
state_dir = "{state}"
[api]
socket_path = "{socket}"
max_account_calls_per_minute = 1000
[session]
seal_key_file = "{key}"
[upload]
file_roots = ["{photos}"]
[[identity]]
name = "app"
[identity.tokens]
kind = "cognito_user_pool"
region = "{region}"
user_pool_id = "{pool}"
client_id = "{client}"
endpoint_url = "{url}"
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
        state = path("state"),
        socket = path("tidegate.sock"),
        key = path("key/seal.key"),
        photos = path("photos"),
        region = output("Region"),
        pool = output("UserPoolId"),
        client = output("UserPoolClientId"),
        identity_pool = output("IdentityPoolId"),
        bucket = output("BucketName"),
    )
}
