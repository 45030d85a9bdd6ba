//! `tidegate tokens`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use super::text::{resource, time};
use crate::api::v1::GetTokensRequest;

/// Print the session's JWTs for your own API. They are secrets: do not put them into a log. Without --json only the
/// token itself is printed, for `curl -H "Authorization: Bearer $(tidegate tokens)"`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session; left out: your only one.
    #[arg(default_value = "", hide_default_value = true)]
    session: String,
    /// The access token instead of the ID token (with --json: both).
    #[arg(long)]
    access_token: bool,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let request =
        GetTokensRequest { session: resource("sessions", &args.session), include_access_token: args.access_token };
    let tokens = answer("give tokens", client.credentials().get_tokens(unary(request)).await)?;
    if args.access_token && tokens.access_token.is_empty() {
        return Err(CliError::not_found("this session has no access token: it was signed in with an ID token alone"));
    }
    output.show(
        || {
            let mut document = json!({
                "id_token": tokens.id_token,
                "id_token_expire_time": time(tokens.id_token_expire_time.as_ref()),
            });
            if args.access_token {
                document["access_token"] = json!(tokens.access_token);
                document["access_token_expire_time"] = json!(time(tokens.access_token_expire_time.as_ref()));
            }
            document
        },
        || if args.access_token { tokens.access_token.clone() } else { tokens.id_token.clone() },
    );
    Ok(())
}
