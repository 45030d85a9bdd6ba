//! Starts `sdk_app` as another program of the device would be started: with nothing but an environment and a profile.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::super::exit::CliError;
use super::stage::Stage;

/// How long the app may take for one object.
const PUT_TIMEOUT: Duration = Duration::from_secs(30);

/// How the app comes by credentials.
#[derive(Debug)]
pub(super) enum Way<'a> {
    /// A profile that runs `tidegate credentials`.
    CredentialProcess {
        /// "sessions/{id}".
        session: &'a str,
    },
    /// The daemon's endpoint on loopback.
    ContainerEndpoint {
        /// Its address.
        url: &'a str,
        /// What goes into the token's file.
        token: &'a str,
    },
}

/// The running app.
#[derive(Debug)]
pub(super) struct App {
    /// Killed when this is dropped.
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl App {
    pub(super) fn start(stage: &Stage, way: &Way<'_>) -> Result<Self, CliError> {
        let program = std::env::current_exe()
            .map_err(|error| CliError::failed(format!("cannot find this program's own file: {error}")))?;
        let file = |name: &str, text: &str| -> Result<PathBuf, CliError> {
            let path = stage.folder().join(name);
            stage.write(&path, text).map(|()| path)
        };
        let mut command = Command::new(&program);
        command.args(["demo-app", "--json", "--bucket", &stage.template_output("BucketName")?]);
        command
            .env_clear()
            .env("AWS_ENDPOINT_URL", stage.cloud()?.url())
            .env("AWS_REGION", stage.template_output("Region")?);
        match way {
            Way::CredentialProcess { session } => {
                // The quotes are for folders with a space.
                let process = format!(
                    "\"{}\" --socket \"{}\" credentials --session {session}",
                    program.display(),
                    stage.socket().display()
                );
                let profile = file("aws-config", &format!("[default]\ncredential_process = {process}\n"))?;
                command.env("AWS_CONFIG_FILE", profile);
            }
            Way::ContainerEndpoint { url, token } => {
                command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
                command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file("endpoint-token", token)?);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| CliError::failed(format!("cannot start the app: {error}")))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self { _child: child, stdin, stdout: BufReader::new(stdout).lines() }),
            _ => Err(CliError::failed("the app has no stdin and stdout")),
        }
    }

    /// Has it put an object.
    pub(super) async fn put(&mut self, key: &str) -> Result<(), CliError> {
        let broken = |what: String| CliError::failed(format!("the app {what}"));
        self.stdin.write_all(format!("{key}\n").as_bytes()).await.map_err(|error| broken(error.to_string()))?;
        let line = match tokio::time::timeout(PUT_TIMEOUT, self.stdout.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Err(broken("ended".to_owned())),
            Ok(Err(error)) => return Err(broken(error.to_string())),
            Err(_) => return Err(broken(format!("took longer than {} s", PUT_TIMEOUT.as_secs()))),
        };
        let said: Value = serde_json::from_str(&line).map_err(|_| broken(format!("said {line}")))?;
        match said["error"].as_str() {
            None => Ok(()),
            Some(error) => Err(broken(format!("was refused: {error}"))),
        }
    }
}
