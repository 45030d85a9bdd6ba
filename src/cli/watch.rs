//! `tidegate watch`.

use super::client::{Client, answer};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::sessions;
use super::text::{has_ended, resource, size, upload_state};
use super::uploads::{line_of, state_of};
use crate::api::v1::{Upload, UploadState, WatchSessionRequest, WatchUploadRequest};

/// Follow an upload until it has ended, or a session until it is signed out. With --json one line per change.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// "uploads/…" or "sessions/…"; an id alone is an upload's.
    name: String,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    if args.name.starts_with("sessions/") {
        session(args.name, client, output).await
    } else {
        upload(args, client, output).await
    }
}

async fn upload(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let name = resource("uploads", &args.name);
    let mut last = None;
    follow(client, &name, output, |upload| {
        output.show(|| json::upload(upload), || progress_line(upload));
        last = Some(upload.clone());
    })
    .await?;
    match last {
        Some(upload) if has_ended(upload.state) => verdict(&upload),
        _ => Ok(()),
    }
}

/// Calls `seen` with the upload now and after every change, until it has ended or nobody reads the output.
pub async fn follow(
    client: &Client,
    name: &str,
    output: &Output,
    mut seen: impl FnMut(&Upload),
) -> Result<(), CliError> {
    let request = WatchUploadRequest { name: name.to_owned() };
    let mut changes = answer("watch the upload", client.uploads().watch_upload(request).await)?;
    loop {
        let change = changes.message().await.map_err(|status| CliError::from_status("watch the upload", &status))?;
        let Some(change) = change else { return Ok(()) };
        let upload = change.upload.unwrap_or_default();
        seen(&upload);
        if has_ended(upload.state) || output.is_closed() {
            return Ok(());
        }
    }
}

/// An upload that has ended: `Ok` only where it SUCCEEDED.
pub fn verdict(upload: &Upload) -> Result<(), CliError> {
    if upload.state() == UploadState::Succeeded {
        return Ok(());
    }
    let failure = upload.failure.clone().unwrap_or_default();
    Err(CliError::upload_ended(&upload.name, &upload_state(upload.state), &failure.reason, &failure.message))
}

fn progress_line(upload: &Upload) -> String {
    if has_ended(upload.state) {
        return line_of(upload);
    }
    let total = if upload.total_bytes > 0 { size(upload.total_bytes) } else { "?".to_owned() };
    format!(
        "{}  {}  received {}, stored {} of {total}",
        upload.name,
        state_of(upload),
        size(upload.received_bytes),
        size(upload.stored_bytes)
    )
}

async fn session(name: String, client: &Client, output: &Output) -> Result<(), CliError> {
    let request = WatchSessionRequest { name };
    let mut changes = answer("watch the session", client.sessions().watch_session(request).await)?;
    while !output.is_closed() {
        let change = changes.message().await.map_err(|status| CliError::from_status("watch the session", &status))?;
        let Some(change) = change else { break };
        let session = change.session.unwrap_or_default();
        output.show(|| json::session(&session), || sessions::signed_in(&session));
    }
    Ok(())
}
