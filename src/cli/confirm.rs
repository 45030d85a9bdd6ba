//! `tidegate confirm`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use crate::api::v1;

/// Confirm an account with the code that was sent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name given at sign-up.
    username: String,
    /// The code that was sent; it is good for this once.
    code: String,
    /// The identity, where the configuration has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    identity: String,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let username = args.username.clone();
    let request = v1::ConfirmSignUpRequest {
        identity: args.identity,
        username: args.username,
        confirmation_code: args.code.trim().to_owned(),
    };
    answer("confirm the account", client.accounts().confirm_sign_up(unary(request)).await)?;
    output.show(
        || json!({ "username": username, "confirmed": true }),
        || format!("{username} is confirmed: tidegate sign-in {username}"),
    );
    Ok(())
}
