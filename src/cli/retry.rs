//! `tidegate retry`.

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::text::resource;
use super::uploads::line_of;
use crate::api::v1::RetryUploadRequest;

/// Queue a FAILED upload again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The upload: "uploads/…" or its id.
    name: String,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let request = RetryUploadRequest { name: resource("uploads", &args.name) };
    let done = answer("retry the upload", client.uploads().retry_upload(unary(request)).await)?;
    let upload = done.upload.unwrap_or_default();
    output.show(|| json::upload(&upload), || line_of(&upload));
    Ok(())
}
