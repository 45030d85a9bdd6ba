//! `tidegate respond`.

use super::challenge::{self, finish};
use super::client::Client;
use super::exit::CliError;
use super::output::Output;
use super::secret;

/// Answer what a sign-in asks. The answers are lines on stdin, NAME=VALUE each, by the names that `sign-in` printed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The challenge's id.
    challenge_id: String,
}

pub async fn run<F>(args: Args, connect: impl FnOnce() -> F, output: &Output) -> Result<(), CliError>
where
    F: Future<Output = Result<Client, CliError>>,
{
    let client = connect().await?;
    let answers = secret::answers().await?;
    let progress = challenge::respond(&client, &args.challenge_id, answers).await?;
    // What is asked next is for the same script.
    finish(&client, progress, None, output).await
}
