//! `tidegate sign-in`.

use secrecy::{ExposeSecret as _, SecretString};

use super::challenge;
use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::federated;
use super::output::Output;
use super::secret::{PasswordArgs, stdin_to_end};
use crate::api::v1::sign_in_request::Method;
use crate::api::v1::{GuestSignIn, PasswordSignIn, SignInRequest, TokenSignIn};

/// Sign in on this device. Signing in again as the same user gives the same session.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The account's name; left out with --provider, --tokens-stdin and --guest.
    #[arg(required_unless_present_any = ["provider", "tokens_stdin", "guest"])]
    username: Option<String>,
    /// The identity, where the configuration has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    identity: String,
    #[command(flatten)]
    password: PasswordArgs,
    /// Sign in without a password: for identities that let the user choose how (`sign_in_flow = "choice"`).
    #[arg(long, conflicts_with_all = ["password_stdin", "tokens_stdin", "guest", "provider"])]
    no_password: bool,
    #[command(flatten)]
    page: federated::PageArgs,
    /// Sign in with tokens that you already have: a JSON object on stdin with `id_token` and, where you have them,
    /// `access_token` and `refresh_token`.
    #[arg(long, conflicts_with_all = ["username", "password_stdin", "guest", "provider"])]
    tokens_stdin: bool,
    /// Sign in as a guest.
    #[arg(long, conflicts_with_all = ["username", "password_stdin", "provider"])]
    guest: bool,
}

pub async fn run<F>(args: Args, connect: impl FnOnce() -> F, output: &Output) -> Result<(), CliError>
where
    F: Future<Output = Result<Client, CliError>>,
{
    let client = connect().await?;
    // Who pipes the password in is a script: it gets the question, and answers by another command.
    let asks = args.username.clone().filter(|_| !args.password.password_stdin);
    if args.page.provider.is_some() {
        return federated::run(args.page, args.identity, &client, output).await;
    }
    let method = if args.guest {
        Method::Guest(GuestSignIn {})
    } else if args.tokens_stdin {
        Method::Tokens(tokens().await?)
    } else {
        let password = if args.no_password { SecretString::default() } else { args.password.existing().await? };
        let username = args.username.unwrap_or_default();
        Method::Password(PasswordSignIn { username, password: password.expose_secret().to_owned() })
    };
    let request = SignInRequest { identity: args.identity, method: Some(method) };
    let done = answer("sign in", client.sessions().sign_in(unary(request)).await)?;
    match done.result {
        Some(result) => challenge::finish(&client, result.into(), asks.as_deref(), output).await,
        None => Err(CliError::failed("cannot sign in: the daemon's answer is empty; are both of the same version?")),
    }
}

async fn tokens() -> Result<TokenSignIn, CliError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Tokens {
        id_token: String,
        #[serde(default)]
        access_token: String,
        #[serde(default)]
        refresh_token: String,
    }
    let text = stdin_to_end().await?;
    // serde's message would quote the input.
    let tokens: Tokens = serde_json::from_str(text.expose_secret()).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        CliError::usage(format!(
            "stdin is not a JSON object with `id_token`, `access_token`, `refresh_token` ({place})"
        ))
    })?;
    let Tokens { id_token, access_token, refresh_token } = tokens;
    Ok(TokenSignIn { id_token, access_token, refresh_token })
}
