//! Any OpenID Connect issuer as token source. Its ID tokens are handed in by an app, or are the device's own: read from a
//! file that somebody keeps fresh, or printed by a command. Promises that every token is verified like a user pool's, and
//! that a command gets no environment, no shell and bounded time and output; must never sign anybody in by password.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::jwks::{Expected, Jwks, Rules};
use super::{Challenge, RefreshGrant, RememberedDevice, SignInStep, TokenError, TokenSet, TokenSource, TokensConfig};
use crate::clock::Clock;
use crate::credential::aws::check_url;
use crate::credential::{SetupError, secret_place};

/// No ID token is longer.
const TOKEN_MAX_BYTES: u64 = 16 * 1024;

/// An issuer, and where its tokens for us come from.
#[derive(Debug)]
pub struct OidcTokens {
    provider: String,
    issuer: String,
    origin: Origin,
    jwks: Jwks,
}

#[derive(Debug)]
enum Origin {
    /// From apps, which hand them in.
    HandedIn,
    /// From a file.
    File(PathBuf),
    /// From a command's output.
    Command { argv: Vec<String>, timeout: Duration },
}

impl OidcTokens {
    /// Builds the source; makes no call and runs nothing.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &TokensConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        let issuer = config.issuer();
        check_url("issuer", &issuer)?;
        if let Some(url) = &config.jwks_url {
            check_url("jwks_url", url)?;
        }
        if config.client_id.is_empty() {
            return Err(SetupError { field: "client_id", why: "is empty".to_owned() });
        }
        let origin = match (&config.token_file, config.token_command.as_slice()) {
            (Some(file), []) => Origin::File(file.clone()),
            (None, []) => Origin::HandedIn,
            (None, argv) => {
                Origin::Command { argv: argv.to_vec(), timeout: Duration::from_millis(config.token_command_timeout_ms) }
            }
            (Some(_), _) => {
                let why = "must be left out where there is a token_file".to_owned();
                return Err(SetupError { field: "token_command", why });
            }
        };
        let expected = Expected {
            rules: Rules::OpenId,
            jwks_url: config.jwks_url.clone(),
            issuer: issuer.clone(),
            audience: config.client_id.clone(),
            connect_timeout: connect,
            call_timeout: call,
        };
        Ok(Self { provider: config.provider(), issuer, origin, jwks: Jwks::new(expected, clock) })
    }

    async fn set(&self, id_token: SecretString) -> Result<TokenSet, TokenError> {
        let claims = self.jwks.verify_id(&id_token).await?;
        Ok(TokenSet {
            id_token,
            access_token: None,
            access_token_expire_time: None,
            refresh_token: None,
            device: None,
            claims,
        })
    }

    /// The device's own token, as it is now.
    async fn own(&self) -> Result<SecretString, TokenError> {
        match &self.origin {
            Origin::HandedIn => Err(TokenError::NotAuthorized(
                "this issuer's tokens cannot be renewed here: sign in again with a new ID token".to_owned(),
            )),
            Origin::File(path) => {
                let file = path.clone();
                let read = tokio::task::spawn_blocking(move || secret_place::read_text(&file)).await;
                let read = read.map_err(|_| TokenError::Transient("the daemon is stopping".to_owned()))?;
                read.map_err(|error| {
                    let text = format!("token_file {}: {error}", path.display());
                    match error.kind() {
                        std::io::ErrorKind::PermissionDenied => TokenError::Configuration(text),
                        // Whoever writes it may not have done so yet, or may be at it.
                        _ => TokenError::Transient(text),
                    }
                })
            }
            Origin::Command { argv, timeout } => run(argv, *timeout).await,
        }
    }

    fn unsupported(&self, what: &str) -> TokenError {
        let text = match &self.origin {
            Origin::HandedIn => format!("{what}: hand in an ID token of {}", self.issuer),
            Origin::File(_) | Origin::Command { .. } => {
                format!("{what}: the tokens are the device's own, and only a [[service_session]] uses them")
            }
        };
        TokenError::MethodUnsupported(text)
    }
}

#[async_trait::async_trait]
impl TokenSource for OidcTokens {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn needs_no_user(&self) -> bool {
        !matches!(self.origin, Origin::HandedIn)
    }

    async fn sign_in(
        &self,
        _username: &str,
        _password: &SecretString,
        _device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        Err(self.unsupported("this identity takes no password"))
    }

    async fn answer(
        &self,
        _challenge: &Challenge,
        _answers: &BTreeMap<String, SecretString>,
        _device: Option<&RememberedDevice>,
    ) -> Result<SignInStep, TokenError> {
        Err(self.unsupported("this identity asks nothing"))
    }

    async fn verify(
        &self,
        id_token: SecretString,
        access_token: Option<SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<TokenSet, TokenError> {
        if self.needs_no_user() {
            return Err(self.unsupported("this identity takes no tokens from callers"));
        }
        if access_token.is_some() || refresh_token.is_some() {
            let what = "access and refresh tokens of this issuer cannot be used here, leave them out";
            return Err(self.unsupported(what));
        }
        self.set(id_token).await
    }

    async fn refresh(&self, _grant: &RefreshGrant) -> Result<TokenSet, TokenError> {
        self.set(self.own().await?).await
    }

    async fn revoke(
        &self,
        _grant: &RefreshGrant,
        _access_token: Option<&SecretString>,
        _everywhere: bool,
    ) -> Result<(), TokenError> {
        // There is nothing of the issuer's here that outlives the session.
        Ok(())
    }
}

/// Ends a command and whatever it started, unless it has ended by itself.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What the command prints. Its standard error is not looked at: it may hold the token.
async fn run(argv: &[String], timeout: Duration) -> Result<SecretString, TokenError> {
    let [program, arguments @ ..] = argv else {
        return Err(TokenError::Configuration("token_command is empty".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child =
        command.spawn().map_err(|error| TokenError::Configuration(format!("token_command {program}: {error}")))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut running = Running { child, group };
    let mut printed = Zeroizing::new(Vec::new());
    let work = async {
        if let Some(output) = running.child.stdout.take() {
            output.take(TOKEN_MAX_BYTES + 1).read_to_end(&mut printed).await?;
        }
        // One that prints more than that is not waited for.
        if printed.len() as u64 > TOKEN_MAX_BYTES { Ok(None) } else { running.child.wait().await.map(Some) }
    };
    let ended = tokio::time::timeout(timeout, work).await.map_err(|_| {
        TokenError::Transient(format!("token_command {program} took longer than {} ms", timeout.as_millis()))
    })?;
    let failed = |why: String| TokenError::Transient(format!("token_command {program} {why}"));
    let Some(status) = ended.map_err(|error| failed(format!("cannot be read: {error}")))? else {
        return Err(failed(format!("printed more than {TOKEN_MAX_BYTES} bytes: that is no ID token")));
    };
    running.group = None;
    if !status.success() {
        return Err(failed(format!("ended with {status}: run it by hand to see why")));
    }
    match std::str::from_utf8(&printed).map(str::trim) {
        Ok("") => Err(failed("printed nothing".to_owned())),
        Ok(token) => Ok(SecretString::from(token)),
        Err(_) => Err(failed("did not print text".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::ExposeSecret as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn sh(script: &str, timeout: Duration) -> Result<SecretString, TokenError> {
        run(&["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()], timeout).await
    }

    #[tokio::test]
    async fn a_command_prints_the_token_and_gets_no_environment() {
        let said = sh("echo ' canary '; echo noise >&2", PATIENCE).await.unwrap();
        assert_eq!(said.expose_secret(), "canary");
        let environment = run(&["/usr/bin/env".to_owned()], PATIENCE).await;
        assert!(matches!(&environment, Err(TokenError::Transient(why)) if why.contains("nothing")), "{environment:?}");
        let folder = sh("pwd", PATIENCE).await.unwrap();
        assert_eq!(folder.expose_secret(), "/");
    }

    #[tokio::test]
    async fn a_command_that_fails_hangs_or_floods_is_told_apart_and_shows_nothing_of_its_output() {
        for (script, why) in [
            ("echo canary; exit 3", "exit status: 3"),
            ("yes canary", "more than 16384 bytes"),
            ("printf '\\377'", "did not print text"),
        ] {
            let error = sh(script, PATIENCE).await.unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
        let missing = run(&["/no/such/program".to_owned()], PATIENCE).await.unwrap_err();
        assert!(matches!(missing, TokenError::Configuration(_)), "{missing:?}");
    }

    #[tokio::test]
    async fn what_a_command_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", note.display());
        let error = sh(&script, Duration::from_millis(500)).await.unwrap_err();
        assert!(error.to_string().contains("took longer than 500 ms"), "{error}");
        let pid: i32 = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
        let is_gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => true,
            Ok(stat) => stat.contains(") Z "),
        };
        let gone = async {
            while !is_gone() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the whole group was killed");
    }
}
