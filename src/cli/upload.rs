//! `tidegate upload`: hands files over, several at a time, and with `--wait` follows them into S3.

mod naming;
mod progress;
mod removal;
mod sending;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use ulid::Ulid;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::{Output, show_error};
use super::sign_up::pair;
use super::text::resource;
use super::uploads::line_of;
use super::watch;
use crate::api::v1::{self, CancelUploadRequest, CreateUploadRequest};
use naming::Naming;
use progress::{Bar, Bars};
use sending::Sending;
#[cfg(feature = "local-cloud")]
pub use sending::crc64nvme_base64;

/// Files that are handed over at the same time.
const MAX_AT_ONCE: usize = 4;

/// How often `--wait` connects again after the connection broke, and how long it waits before each time.
const WATCH_ATTEMPTS: u32 = 30;
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// How long an interruption may take to cancel what was not handed over yet.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(3);

/// Upload files. The command ends when the photos are durable on this device; the daemon then sends them, across
/// restarts. With --wait it ends when they are in S3.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Wait until the uploads have ended, and fail where one did not succeed.
    #[arg(long)]
    wait: bool,
    /// Remove each file once its object is in S3 and has the file's bytes.
    #[arg(long, requires = "wait")]
    remove_source_files: bool,
    /// The object's key below the destination's prefix, for example free/cat.jpg (one file).
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Without --key: what stands before the file's own name.
    #[arg(long, value_name = "PREFIX", default_value = "free/", env = "TIDEGATE_KEY_PREFIX", conflicts_with = "key")]
    key_prefix: String,
    /// Use the key as it is; otherwise the upload's id is put into its last segment (cat-{ulid}.jpg).
    #[arg(long)]
    exact: bool,
    /// Replace an object that has this key already.
    #[arg(long, requires = "exact")]
    overwrite: bool,
    /// Do not send the bytes: the daemon reads the file where it lies, beneath one of its `file_roots`. The file must
    /// stay as it is until the upload has succeeded.
    #[arg(long)]
    by_path: bool,
    /// The object's Content-Type; left out: by the file's extension.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// User metadata of the object (x-amz-meta-NAME); may be repeated.
    #[arg(long = "metadata", value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Who goes first.
    #[arg(long, value_enum, default_value_t = Priority::Normal)]
    priority: Priority,
    /// What happens when S3 denies the upload: `fail` keeps the bytes for `tidegate retry`, `wait` waits until the
    /// account's groups change.
    #[arg(long, value_enum, default_value_t = OnDenied::Fail)]
    on_denied: OnDenied,
    /// The session; left out: your only one.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// The destination, where the configuration has several.
    #[arg(long, default_value = "", hide_default_value = true)]
    destination: String,
    /// Your own ULID for the upload (one file): running the same command again goes on where it stopped, and never
    /// makes a second object.
    #[arg(long, value_name = "ULID")]
    upload_id: Option<Ulid>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Priority {
    /// Somebody stands in front of the screen.
    Interactive,
    /// The default.
    Normal,
    /// When nothing else is waiting, and now and then in any case.
    Background,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum OnDenied {
    Fail,
    Wait,
}

/// One file on its way to the daemon.
#[derive(Debug)]
struct Job {
    /// As the user wrote it, for messages.
    shown: String,
    file: PathBuf,
    id: Ulid,
    /// The user named the id: an interruption leaves the upload to be continued.
    named: bool,
    spec: v1::UploadSpec,
    by_path: bool,
    wait: bool,
    remove: bool,
}

pub async fn run(args: Args, socket: &Path, output: &Output) -> Result<(), CliError> {
    let jobs = jobs(args)?;
    let client = Client::connect(socket).await?;
    let ids: Vec<(Ulid, bool)> = jobs.iter().map(|job| (job.id, job.named)).collect();
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
    tokio::select! {
        ended = run_all(jobs, &client, output, Arc::clone(&acknowledged)) => ended,
        _ = tokio::signal::ctrl_c() => {
            interrupted(&client, &ids, &acknowledged).await;
            Err(CliError::interrupted())
        }
    }
}

/// Everything that can be wrong with the arguments is found before the first byte is sent.
fn jobs(args: Args) -> Result<Vec<Job>, CliError> {
    if args.files.len() > 1 && args.key.is_some() {
        return Err(CliError::usage("--key names one object, but there are several files: use --key-prefix"));
    }
    if args.files.len() > 1 && args.upload_id.is_some() {
        return Err(CliError::usage("--upload-id names one upload, but there are several files"));
    }
    let naming = Naming { key: args.key, prefix: args.key_prefix, content_type: args.content_type };
    let spec = v1::UploadSpec {
        session: resource("sessions", &args.session),
        destination: args.destination,
        key_policy: if args.exact { v1::KeyPolicy::Exact } else { v1::KeyPolicy::Unique }.into(),
        metadata: args.metadata.into_iter().collect(),
        overwrite: args.overwrite,
        priority: match args.priority {
            Priority::Interactive => v1::Priority::Interactive,
            Priority::Normal => v1::Priority::Normal,
            Priority::Background => v1::Priority::Background,
        }
        .into(),
        on_denied: match args.on_denied {
            OnDenied::Fail => v1::OnDenied::Fail,
            OnDenied::Wait => v1::OnDenied::Wait,
        }
        .into(),
        ..v1::UploadSpec::default()
    };
    let (by_path, wait, named) = (args.by_path, args.wait, args.upload_id.is_some());
    let remove = args.remove_source_files;
    let job = |file: PathBuf| {
        naming::check_file(&file)?;
        let spec =
            v1::UploadSpec { key: naming.key_of(&file)?, content_type: naming.content_type_of(&file), ..spec.clone() };
        let id = args.upload_id.unwrap_or_else(Ulid::generate);
        Ok(Job { shown: file.display().to_string(), file, id, named, spec, by_path, wait, remove })
    };
    args.files.into_iter().map(job).collect()
}

type Acknowledged = Arc<std::sync::Mutex<Vec<Ulid>>>;

async fn run_all(jobs: Vec<Job>, client: &Client, output: &Output, acknowledged: Acknowledged) -> Result<(), CliError> {
    let count = jobs.len();
    let bars = Bars::new(output.is_interactive());
    let seats = Arc::new(Semaphore::new(MAX_AT_ONCE));
    let mut running = JoinSet::new();
    for job in jobs {
        let (client, output, seats) = (client.clone(), output.clone(), Arc::clone(&seats));
        let (bar, acknowledged) = (bars.add(&job.shown), Arc::clone(&acknowledged));
        running.spawn(async move {
            let ended = run_one(&job, &client, &output, &seats, &bar, &acknowledged).await;
            bar.close();
            (job, ended)
        });
    }
    let (mut failures, mut first) = (0, None);
    while let Some(joined) = running.join_next().await {
        let Ok((job, ended)) = joined else { return Err(CliError::failed("a task of this command panicked")) };
        match ended {
            Ok(upload) => bars.suspend(|| {
                output.show(
                    || json!({ "file": job.shown, "upload": json::upload(&upload) }),
                    || format!("{}  {}", job.shown, line_of(&upload)),
                );
            }),
            Err(error) if count == 1 => return Err(error),
            Err(error) => {
                failures += 1;
                let error = error.about(&job.shown);
                bars.suspend(|| show_error(&error, output.is_json()));
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) => Err(error.summary(format!("{failures} of {count} files failed; see above"))),
        None => Ok(()),
    }
}

async fn run_one(
    job: &Job,
    client: &Client,
    output: &Output,
    seats: &Semaphore,
    bar: &Bar,
    acknowledged: &Acknowledged,
) -> Result<v1::Upload, CliError> {
    let upload = {
        let _seat = seats.acquire().await.expect("the semaphore is never closed");
        if job.by_path { create(job, client).await? } else { Sending::new(client, job, bar).run().await? }
    };
    acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(job.id);
    if !job.wait {
        return Ok(upload);
    }
    let upload = until_ended(upload, client, output, bar).await?;
    watch::verdict(&upload)?;
    if job.remove {
        removal::remove(&job.file, &upload).await?;
    }
    Ok(upload)
}

async fn create(job: &Job, client: &Client) -> Result<v1::Upload, CliError> {
    let path = naming::absolute(&job.file).await?;
    let request = CreateUploadRequest { upload_id: job.id.to_string(), spec: Some(job.spec.clone()), path };
    let done = answer("upload the file", client.uploads().create_upload(unary(request)).await)?;
    Ok(done.upload.unwrap_or_default())
}

/// Follows an upload to its end, also across a restart of the daemon.
async fn until_ended(upload: v1::Upload, client: &Client, output: &Output, bar: &Bar) -> Result<v1::Upload, CliError> {
    let name = upload.name.clone();
    let mut last = upload;
    let mut attempts = 0;
    loop {
        let followed = watch::follow(client, &name, output, |upload| {
            bar.storing(upload);
            last = upload.clone();
        })
        .await;
        if super::text::has_ended(last.state) || output.is_closed() {
            return Ok(last);
        }
        attempts += 1;
        match followed {
            Err(error) if !error.is_transient() || attempts > WATCH_ATTEMPTS => return Err(error),
            Ok(()) if attempts > WATCH_ATTEMPTS => {
                return Err(CliError::failed(format!("{name}: the daemon does not say how it ends")));
            }
            _ => tokio::time::sleep(WATCH_PAUSE).await,
        }
    }
}

/// Cancels what was not handed over yet; what was goes on without this command.
async fn interrupted(client: &Client, ids: &[(Ulid, bool)], acknowledged: &Acknowledged) {
    let acknowledged = acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    for (id, named) in ids {
        let name = format!("uploads/{id}");
        if acknowledged.contains(id) {
            eprintln!("{name} is safe on this device and goes on: tidegate watch {name}");
        } else if *named {
            eprintln!("{name}: run the same command again to go on");
        } else {
            let request = CancelUploadRequest { name };
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, client.uploads().cancel_upload(request)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser as _;

    use super::super::exit::Exit;
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Args {
        Line::try_parse_from(std::iter::once(&"upload").chain(words)).unwrap().args
    }

    #[test]
    fn one_key_is_for_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.jpg"), folder.path().join("b.jpg"));
        std::fs::write(&a, b"a").unwrap();
        std::fs::write(&b, b"b").unwrap();
        let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
        assert_eq!(jobs(parse(&["--key", "free/x", a, b])).unwrap_err().exit(), Exit::Usage);
        let made = jobs(parse(&["--key-prefix", "free/2026/", a, b])).unwrap();
        assert_eq!(made[0].spec.key, "free/2026/a.jpg");
        assert_eq!(made[1].spec.key, "free/2026/b.jpg");
        assert_eq!(made[0].spec.content_type, "image/jpeg");
        assert_ne!(made[0].id, made[1].id);
        assert_eq!(jobs(parse(&["--upload-id", &Ulid::generate().to_string(), a, b])).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn overwriting_needs_an_exact_key() {
        assert!(Line::try_parse_from(["upload", "--overwrite", "x"]).is_err());
        assert!(parse(&["--overwrite", "--exact", "x"]).overwrite);
    }
}
