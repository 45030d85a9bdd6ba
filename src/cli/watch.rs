//! `tidegate watch`.

mod command;
mod cursor;
mod ends;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::client::{Client, answer};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::sessions;
use super::text::{has_ended, resource, size, upload_state};
use super::uploads::{line_of, state_of};
use crate::api::v1::{Upload, UploadState, WatchSessionRequest, WatchUploadRequest};

/// Follow an upload until it has ended, a session until it is signed out, or, without a name, every upload of yours as it
/// ends. With --json one line per change.
#[derive(Debug, clap::Args)]
#[command(after_long_help = command::help())]
pub struct Args {
    /// "uploads/…" or "sessions/…"; an id alone is an upload's. Left out: every upload of yours that ends.
    #[arg(conflicts_with_all = ["exec", "since", "cursor_file", "count"])]
    name: Option<String>,
    /// Run this program for every upload of yours that ends; its own arguments go behind --. It runs here, as you, never
    /// in the daemon, and learns about the upload from its environment (see below).
    #[arg(long, value_name = "PROGRAM")]
    exec: Option<OsString>,
    /// PROGRAM is a line for /bin/sh.
    #[arg(long, requires = "exec")]
    shell: bool,
    /// How many programs may run at once; with more than one the order is not kept.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Begin with uploads that ended at this time (2026-11-26T17:00:00Z) or so long ago (90s, 10m, 2h); left out: with
    /// those that end from now on.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
    /// Keep in this file how far it got, and go on there the next time: no end is missed, and none handled twice.
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// End after so many uploads, and fail where one of the programs has failed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The program's arguments.
    #[arg(last = true, requires = "exec", value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

pub async fn run(args: Args, client: &Client, socket: &Path, output: &Output) -> Result<(), CliError> {
    match &args.name {
        Some(name) if name.starts_with("sessions/") => session(name.clone(), client, output).await,
        Some(name) => upload(name, client, output).await,
        None => ends::run(args, client, socket, output).await,
    }
}

/// A time, or how long ago it was.
fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago: Duration = humantime::parse_duration(text)
        .map_err(|_| "must be a time as 2026-11-26T17:00:00Z, or how long ago as 90s, 10m, 2h".to_owned())?;
    Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

async fn upload(name: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let name = resource("uploads", name);
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
