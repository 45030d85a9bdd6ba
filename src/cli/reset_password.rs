//! `tidegate reset-password`.

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use super::secret::PasswordArgs;
use crate::api::v1;

/// Set a new password with the code that `tidegate forgot-password` had sent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The account's name.
    username: String,
    /// The code that was sent; it is good for this once.
    code: String,
    /// The identity, where the configuration has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    identity: String,
    #[command(flatten)]
    password: PasswordArgs,
}

pub async fn run<F>(args: Args, connect: impl FnOnce() -> F, output: &Output) -> Result<(), CliError>
where
    F: Future<Output = Result<Client, CliError>>,
{
    let client = connect().await?;
    let password = args.password.new_one().await?;
    let username = args.username.clone();
    let request = v1::ConfirmForgotPasswordRequest {
        identity: args.identity,
        username: args.username,
        confirmation_code: args.code.trim().to_owned(),
        new_password: password.expose_secret().to_owned(),
    };
    answer("set the new password", client.accounts().confirm_forgot_password(unary(request)).await)?;
    output.show(
        || json!({ "username": username, "password_changed": true }),
        || format!("the new password is set: tidegate sign-in {username}"),
    );
    Ok(())
}
