//! `tidegate status`.

use std::collections::BTreeMap;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::text::{hot_folder_state, one_line, size, time};
use crate::api::v1::{GetStatusRequest, GetStatusResponse, HotFolder};

pub async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    let status = answer("read the status", client.gateway().get_status(unary(GetStatusRequest {})).await)?;
    output.show(|| json::status(&status), || describe(&status));
    Ok(())
}

fn describe(status: &GetStatusResponse) -> String {
    let since = time(status.start_time.as_ref()).unwrap_or_else(|| "an unknown time".to_owned());
    let sending = if status.paused { "paused" } else { "sending" };
    let accepting = if status.accepting { "accepting" } else { "NOT ACCEPTING (see the daemon's log)" };
    let whose = if status.all_uids { "all users" } else { "yours" };
    let counts: BTreeMap<_, _> = status.upload_counts.iter().filter(|(_, count)| **count > 0).collect();
    let waiting: BTreeMap<_, _> = status.waiting_counts.iter().collect();
    let list = |counts: &BTreeMap<&String, &i64>| {
        counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    let mut uploads = if counts.is_empty() { "none".to_owned() } else { list(&counts) };
    if !waiting.is_empty() {
        uploads.push_str(&format!(" (waiting: {})", list(&waiting)));
    }
    let mut text = format!(
        "tidegate {} since {since}: {accepting}, {sending}\n\
         sessions ({whose}): {}\n\
         uploads ({whose}): {uploads}\n\
         spool: {} of {}, {} free on the disk\n\
         identities: {}\n\
         destinations: {}",
        status.version,
        status.session_count,
        size(status.spool_bytes),
        size(status.spool_limit_bytes),
        size(status.disk_free_bytes),
        status.identities.join(", "),
        status.destinations.join(", "),
    );
    for folder in &status.hot_folders {
        text.push_str(&describe_folder(folder));
    }
    text
}

fn describe_folder(folder: &HotFolder) -> String {
    let counts = [
        (folder.waiting_count, "waiting"),
        (folder.open_count, "on their way"),
        (folder.failed_count, "failed"),
        (folder.refused_count, "refused"),
        (folder.stuck_count, "stuck"),
    ];
    let counts: String = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
    let mut text = format!(
        "\nhot folder {}: {}, {} taken{counts}",
        one_line(&folder.path),
        hot_folder_state(folder.state),
        folder.taken_count
    );
    if !folder.last_error.is_empty() {
        text.push_str("\n  ");
        text.push_str(&one_line(&folder.last_error));
    }
    text
}
