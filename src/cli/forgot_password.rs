//! `tidegate forgot-password`.

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use super::resend_code::show_delivery;
use crate::api::v1;

/// Have a code for a new password sent; `tidegate reset-password` takes it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The account's name.
    username: String,
    /// The identity, where the configuration has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    identity: String,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let request = v1::ForgotPasswordRequest { identity: args.identity, username: args.username };
    let done = answer("send a code", client.accounts().forgot_password(unary(request)).await)?;
    show_delivery(done.code_delivery.as_ref(), output);
    Ok(())
}
