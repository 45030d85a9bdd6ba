//! Asks for what must not be seen. Promises that a password comes from a prompt without echo or from stdin, never from
//! the arguments or the environment, and is never shown.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _, Write as _};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::exit::CliError;

/// The longest input that is taken from stdin, in bytes: tokens are a few KiB each.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

/// Where a password comes from.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct PasswordArgs {
    /// Read the password from the first line of stdin instead of asking for it.
    #[arg(long)]
    pub password_stdin: bool,
}

impl PasswordArgs {
    /// The password of an account that exists.
    ///
    /// # Errors
    /// `Exit::Usage` where there is neither a terminal nor `--password-stdin`, or nothing was typed.
    pub async fn existing(self) -> Result<SecretString, CliError> {
        blocking(move || if self.password_stdin { first_line() } else { prompt("Password: ") }).await
    }

    /// A new password: typed twice where it is typed.
    ///
    /// # Errors
    /// As [`PasswordArgs::existing`], and where the two differ.
    pub async fn new_one(self) -> Result<SecretString, CliError> {
        use secrecy::ExposeSecret as _;
        blocking(move || {
            if self.password_stdin {
                return first_line();
            }
            let first = prompt("New password: ")?;
            let second = prompt("Again: ")?;
            if first.expose_secret() == second.expose_secret() {
                Ok(first)
            } else {
                Err(CliError::usage("the two passwords differ: nothing was done"))
            }
        })
        .await
    }
}

/// A new password, typed twice.
///
/// # Errors
/// As [`PasswordArgs::new_one`].
pub async fn new_password() -> Result<SecretString, CliError> {
    PasswordArgs { password_stdin: false }.new_one().await
}

/// A password, typed.
///
/// # Errors
/// As [`PasswordArgs::existing`].
pub async fn password() -> Result<SecretString, CliError> {
    PasswordArgs { password_stdin: false }.existing().await
}

/// A line that may be seen while it is typed: a code that is good for once, a name.
///
/// # Errors
/// `Exit::Usage` where nothing was typed.
pub async fn line(question: String) -> Result<SecretString, CliError> {
    blocking(move || {
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
        drop(stderr);
        let text = Zeroizing::new(read_bounded(|byte| byte == b'\n')?);
        match text.trim() {
            "" => Err(CliError::usage("nothing was typed")),
            typed => Ok(SecretString::from(typed)),
        }
    })
    .await
}

/// Answers: `NAME=VALUE` on each line of stdin; empty lines do not count.
///
/// # Errors
/// `Exit::Usage` by the line's number, never with what it says.
pub async fn answers() -> Result<BTreeMap<String, SecretString>, CliError> {
    use secrecy::ExposeSecret as _;
    let text = stdin_to_end().await?;
    let mut answers = BTreeMap::new();
    for (index, line) in text.expose_secret().lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (name, value) = line.split_once('=').ok_or_else(|| {
            CliError::usage(format!("line {} of stdin is not NAME=VALUE, for example SMS_MFA_CODE=123456", index + 1))
        })?;
        if answers.insert(name.trim().to_owned(), SecretString::from(value.trim_end_matches('\r'))).is_some() {
            return Err(CliError::usage(format!("line {} of stdin answers a second time", index + 1)));
        }
    }
    if answers.is_empty() {
        return Err(CliError::usage("stdin has no answers: pass NAME=VALUE lines, for example SMS_MFA_CODE=123456"));
    }
    Ok(answers)
}

/// All of stdin, for tokens.
///
/// # Errors
/// `Exit::Usage` where it is too long or not UTF-8.
pub async fn stdin_to_end() -> Result<SecretString, CliError> {
    blocking(|| read_bounded(|_| false).map(SecretString::from)).await
}

/// The next line of stdin; `None` at its end.
///
/// # Errors
/// `Exit::Usage` where it is too long or not UTF-8.
pub async fn stdin_line() -> Result<Option<SecretString>, CliError> {
    blocking(|| {
        let text = read_bounded(|byte| byte == b'\n')?;
        let line = text.trim();
        Ok((!line.is_empty() || text.ends_with('\n')).then(|| SecretString::from(line)))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer,
        Err(_) => Err(CliError::failed("the prompt was aborted")),
    }
}

fn prompt(question: &str) -> Result<SecretString, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::usage("there is no terminal to ask for the password: pass it by --password-stdin"));
    }
    // The prompt takes Ctrl-C itself, to give the terminal its echo back.
    match rpassword::prompt_password(question) {
        Ok(typed) => not_empty(typed),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(CliError::interrupted()),
        Err(error) => Err(CliError::usage(format!("cannot ask for the password: {error}; use --password-stdin"))),
    }
}

fn first_line() -> Result<SecretString, CliError> {
    let text = read_bounded(|byte| byte == b'\n')?;
    not_empty(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn not_empty(password: String) -> Result<SecretString, CliError> {
    if password.is_empty() { Err(CliError::usage("the password is empty")) } else { Ok(SecretString::from(password)) }
}

fn read_bounded(is_last: impl Fn(u8) -> bool) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    for byte in std::io::stdin().lock().take(MAX_INPUT_BYTES + 1).bytes() {
        let byte = byte.map_err(|error| CliError::failed(format!("cannot read stdin: {error}")))?;
        bytes.push(byte);
        if is_last(byte) {
            break;
        }
    }
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(CliError::usage(format!("stdin has more than {MAX_INPUT_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| CliError::usage("stdin is not UTF-8"))
}
