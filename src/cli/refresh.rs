//! `tidegate refresh`.

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::sessions;
use super::text::resource;
use crate::api::v1::RefreshSessionRequest;

/// Fetch new tokens and credentials now, for example after a change of tier.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session; left out: your only one.
    #[arg(default_value = "", hide_default_value = true)]
    session: String,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let request = RefreshSessionRequest { name: resource("sessions", &args.session) };
    let done = answer("refresh the session", client.sessions().refresh_session(unary(request)).await)?;
    let session = done.session.unwrap_or_default();
    output.show(|| json::session(&session), || sessions::signed_in(&session));
    Ok(())
}
