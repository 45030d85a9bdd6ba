//! `tidegate sign-up`.

use std::collections::HashMap;

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::secret::PasswordArgs;
use crate::api::v1;

/// Create an account. The directory then sends a confirmation code.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name to sign in with: the e-mail address in pools that use addresses as names.
    username: String,
    /// The identity, where the configuration has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    identity: String,
    /// A user attribute, for example given_name=Ada; may be repeated. A name with an "@" is the `email` too.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = pair)]
    attributes: Vec<(String, String)>,
    #[command(flatten)]
    password: PasswordArgs,
}

/// `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("is not NAME=VALUE".to_owned()),
    }
}

pub async fn run<F>(args: Args, connect: impl FnOnce() -> F, output: &Output) -> Result<(), CliError>
where
    F: Future<Output = Result<Client, CliError>>,
{
    // Connect first: nobody should type a password for nothing.
    let client = connect().await?;
    let password = args.password.new_one().await?;
    let mut attributes: HashMap<String, String> = args.attributes.into_iter().collect();
    if args.username.contains('@') {
        attributes.entry("email".to_owned()).or_insert_with(|| args.username.clone());
    }
    let request = v1::SignUpRequest {
        identity: args.identity,
        username: args.username.clone(),
        password: password.expose_secret().to_owned(),
        attributes,
    };
    let done = answer("sign up", client.accounts().sign_up(unary(request)).await)?;
    output.show(
        || {
            json!({
                "subject": done.subject,
                "confirmed": done.confirmed,
                "code_delivery": json::code_delivery(done.code_delivery.as_ref()),
            })
        },
        || match (done.confirmed, &done.code_delivery) {
            (true, _) => format!("{} is signed up and confirmed: tidegate sign-in {0}", args.username),
            (false, Some(to)) => format!(
                "{} is signed up; a code went to {} ({}): tidegate confirm {0} CODE",
                args.username, to.destination, to.medium
            ),
            (false, None) => format!("{} is signed up and waits for a confirmation", args.username),
        },
    );
    Ok(())
}
