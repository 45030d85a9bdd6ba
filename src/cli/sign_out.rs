//! `tidegate sign-out`.

use serde_json::{Value, json};

use super::browser;
use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use super::text::resource;
use crate::api::v1::{SignOutRequest, SignOutUploads};

/// Sign out on this device: credentials and tokens end at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session; left out: your only one.
    #[arg(default_value = "", hide_default_value = true)]
    session: String,
    /// What happens to unfinished uploads.
    #[arg(long, value_enum, default_value_t = Uploads::Park)]
    uploads: Uploads,
    /// Also end the user's sessions on every other device.
    #[arg(long)]
    everywhere: bool,
    /// Also end the hosted page's own cookie, in this device's browser: the next person is asked who they are.
    #[arg(long)]
    browser: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Uploads {
    /// They are sent first (24 hours at most, then parked).
    Drain,
    /// They wait until the same user signs in again.
    Park,
    /// They are cancelled and their bytes are removed.
    Cancel,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let uploads = match args.uploads {
        Uploads::Drain => SignOutUploads::Drain,
        Uploads::Park => SignOutUploads::Park,
        Uploads::Cancel => SignOutUploads::Cancel,
    };
    let request = SignOutRequest {
        name: resource("sessions", &args.session),
        uploads: uploads.into(),
        everywhere: args.everywhere,
    };
    let done = answer("sign out", client.sessions().sign_out(unary(request)).await)?;
    let left = done.unfinished_upload_count;
    let url = done.hosted_sign_out_url;
    let is_opened = args.browser && !url.is_empty() && browser::open(&url).await;
    let shown_url = if url.is_empty() { Value::Null } else { json!(url) };
    output.show(
        || json!({ "unfinished_upload_count": left, "hosted_sign_out_url": shown_url }),
        || match (left, args.uploads) {
            (0, _) => "signed out".to_owned(),
            (left, Uploads::Drain) => format!("signed out; {left} uploads are still sent"),
            (left, Uploads::Park) => format!("signed out; {left} uploads wait for the same user"),
            (left, Uploads::Cancel) => format!("signed out; {left} uploads were cancelled"),
        },
    );
    match (args.browser, is_opened) {
        (true, false) if url.is_empty() => Err(CliError::failed(
            "signed out here, but the hosted page's cookie could not be ended: the configuration has no sign_out_uri",
        )),
        (true, false) => Err(CliError::failed(format!(
            "signed out here, but no browser could be opened to end the hosted page's cookie: open {url} in it"
        ))),
        _ => Ok(()),
    }
}
