//! `tidegate uploads`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::text::{one_line, resource, size, table, time, upload_state, wait_reason};
use crate::api::v1::{ListUploadsRequest, Upload, UploadState};

/// The most that one page may hold.
const MAX_PAGE: usize = 1_000;

/// List your uploads, newest first.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those in this state; may be repeated.
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<State>,
    /// Only those of this session.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// How many at most; 0 lists all.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum State {
    Receiving,
    Queued,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Cancelled,
}

impl From<State> for UploadState {
    fn from(state: State) -> Self {
        match state {
            State::Receiving => Self::Receiving,
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Waiting => Self::Waiting,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let states: Vec<i32> = args.states.iter().map(|&state| UploadState::from(state).into()).collect();
    let session = resource("sessions", &args.session);
    let mut uploads: Vec<Upload> = Vec::new();
    let mut page_token = String::new();
    while uploads.len() < limit {
        let wanted = (limit - uploads.len()).min(MAX_PAGE);
        let request = ListUploadsRequest {
            page_size: i32::try_from(wanted).unwrap_or(0),
            page_token,
            states: states.clone(),
            session: session.clone(),
        };
        let page = answer("list the uploads", client.uploads().list_uploads(unary(request)).await)?;
        uploads.extend(page.uploads);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let more = !page_token.is_empty();
    output.show(
        || json!({ "uploads": uploads.iter().map(json::upload).collect::<Vec<_>>(), "more": more }),
        || {
            if uploads.is_empty() {
                return "no uploads".to_owned();
            }
            let head = ["UPLOAD", "STATE", "STORED", "CREATED", "OBJECT"];
            let mut text = table(&head, &uploads.iter().map(row).collect::<Vec<_>>());
            if more {
                text.push_str("\n(there are more: --limit 0 lists all)");
            }
            text
        },
    );
    Ok(())
}

fn row(upload: &Upload) -> Vec<String> {
    let total = if upload.total_bytes > 0 { size(upload.total_bytes) } else { "?".to_owned() };
    vec![
        upload.name.clone(),
        state_of(upload),
        format!("{} of {total}", size(upload.stored_bytes)),
        time(upload.create_time.as_ref()).unwrap_or_else(|| "-".to_owned()),
        object_of(upload),
    ]
}

/// The state with what there is to say about it ("WAITING (OFFLINE)", "FAILED (ACCESS_DENIED)").
pub fn state_of(upload: &Upload) -> String {
    let state = upload_state(upload.state);
    let why = wait_reason(upload.wait_reason);
    match &upload.failure {
        _ if !why.is_empty() => format!("{state} ({why})"),
        Some(failure) if upload.state() == UploadState::Failed => format!("{state} ({})", one_line(&failure.reason)),
        _ => state,
    }
}

/// `s3://bucket/key`.
pub fn object_of(upload: &Upload) -> String {
    match &upload.object {
        Some(object) => format!("s3://{}/{}", one_line(&object.bucket), one_line(&object.key)),
        None => "-".to_owned(),
    }
}

/// One upload on one line.
pub fn line_of(upload: &Upload) -> String {
    let mut line = format!("{}  {}  {}", upload.name, state_of(upload), object_of(upload));
    if let Some(failure) = upload.failure.as_ref().filter(|failure| !failure.message.is_empty()) {
        line.push_str(&format!("  {}", one_line(&failure.message)));
    }
    line
}
