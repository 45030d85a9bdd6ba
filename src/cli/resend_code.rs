//! `tidegate resend-code`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use crate::api::v1;

/// Have a new confirmation code sent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name given at sign-up.
    username: String,
    /// The identity, where the configuration has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    identity: String,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let request = v1::ResendConfirmationCodeRequest { identity: args.identity, username: args.username };
    let done = answer("send a new code", client.accounts().resend_confirmation_code(unary(request)).await)?;
    show_delivery(done.code_delivery.as_ref(), output);
    Ok(())
}

/// Where the code went.
pub fn show_delivery(delivery: Option<&v1::CodeDelivery>, output: &Output) {
    output.show(
        || json!({ "code_delivery": json::code_delivery(delivery) }),
        || match delivery {
            Some(to) => format!("a code went to {} ({})", to.destination, to.medium),
            None => "a code was sent".to_owned(),
        },
    );
}
