//! Streams the ends of a caller's uploads, each once and in order. A slow reader holds up nobody: what it has not read
//! lies in the journal.

use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::names::Listing;
use super::reason::Reason;
use super::status::{field, of_upload};
use super::watch::{Answers, until_stopped};
use super::{convert, v1};
use crate::caller::Caller;
use crate::upload::{Ulid, Uploads};

/// Ends that are read from the journal at once.
const PAGE: usize = 64;

/// Answers now, after every end, until the client goes away or `stop` is cancelled (then with STOPPING).
///
/// # Errors
/// INVALID_PAGE_TOKEN, INVALID_FIELD.
pub async fn watch(
    uploads: &Uploads,
    caller: Caller,
    request: v1::WatchUploadsRequest,
    stop: CancellationToken,
) -> Result<Answers<v1::WatchUploadsResponse>, Status> {
    let failed = |error| of_upload(&error, Reason::UploadEnded);
    let tokens = Listing::new("WatchUploads", caller.uid, &"");
    // Before anything is read: an end that comes in between is told by it.
    let mut ends = uploads.ends_changed();
    let last = uploads.last_end().await.map_err(failed)?;
    let mut after = match (tokens.cursor(&request.resume_token)?, request.since) {
        (Some(token), _) => {
            u64::try_from(u128::from(token)).ok().filter(|number| *number <= last).ok_or_else(|| {
                let why = "is newer than this device's records, which were made anew: begin with `since`";
                field(Reason::InvalidPageToken, "resume_token", why)
            })?
        }
        (None, Some(since)) => {
            let since = SystemTime::try_from(since)
                .map_err(|_| field(Reason::InvalidField, "since", "is no time of the calendar"))?;
            uploads.last_end_before(&caller, since).await.map_err(failed)?
        }
        (None, None) => last,
    };
    let (answers, stream) = mpsc::channel(1);
    let uploads = uploads.clone();
    let watching = async move {
        let answer = |upload, number: u64| v1::WatchUploadsResponse {
            upload,
            resume_token: tokens.token(Some(Ulid::from(u128::from(number)))),
        };
        if answers.send(Ok(answer(None, after))).await.is_err() {
            return;
        }
        loop {
            let page = match uploads.ended_after(&caller, after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    let _ = answers.send(Err(failed(error))).await;
                    return;
                }
            };
            let is_last = page.len() < PAGE;
            for end in page {
                after = end.number;
                if answers.send(Ok(answer(Some(convert::upload(end.view)), after))).await.is_err() {
                    return;
                }
            }
            if is_last {
                tokio::select! {
                    Ok(()) = ends.changed() => {}
                    () = answers.closed() => return,
                }
            }
        }
    };
    Ok(until_stopped(watching, stream, stop))
}
