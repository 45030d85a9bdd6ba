//! Follows the ends of all the caller's uploads, across restarts of the daemon: none is missed, none is handled twice.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tonic::Streaming;

use super::super::client::{Client, answer};
use super::super::exit::CliError;
use super::super::json;
use super::super::output::Output;
use super::super::uploads::line_of;
use super::Args;
use super::command::Program;
use super::cursor::Cursor;
use crate::api::v1::{Upload, WatchUploadsRequest, WatchUploadsResponse};

/// Before each try to reach a daemon that has gone away.
const PAUSE: Duration = Duration::from_secs(1);

type Ended = (u64, String, std::io::Result<ExitStatus>);

struct Ends<'a> {
    output: &'a Output,
    program: Option<Program>,
    jobs: usize,
    cursor: Cursor,
    running: JoinSet<Ended>,
    left: Option<u64>,
    failures: u64,
}

pub(super) async fn run(args: Args, client: &Client, socket: &Path, output: &Output) -> Result<(), CliError> {
    let (cursor, mut token) = Cursor::load(args.cursor_file)?;
    let program = args.exec.map(|program| Program::new(program, args.arguments, args.shell, socket));
    let mut ends = Ends {
        output,
        program,
        jobs: args.jobs.into(),
        cursor,
        running: JoinSet::new(),
        left: args.count,
        failures: 0,
    };
    let mut was_told = false;
    loop {
        let since = args.since.filter(|_| token.is_empty()).map(prost_types::Timestamp::from);
        let request = WatchUploadsRequest { resume_token: token.clone(), since };
        let followed = match answer("watch the uploads", client.uploads().watch_uploads(request).await) {
            Ok(stream) => {
                was_told = false;
                ends.follow(stream, &mut token).await
            }
            Err(error) => Err(error),
        };
        match followed {
            Ok(true) => return ends.finish(args.count).await,
            Err(error) if !error.is_transient() => {
                return Err(match error.reason() {
                    Some("INVALID_PAGE_TOKEN") => error.hint("remove the cursor file, and begin with --since"),
                    _ => error,
                });
            }
            Ok(false) | Err(_) => {
                if !was_told {
                    eprintln!("tidegate: the daemon has gone; waiting for it");
                    was_told = true;
                }
                // Programs that end meanwhile are settled with the next one.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Ends<'_> {
    /// Handles what the stream says; `Ok(true)` where there is nothing more to do, `Ok(false)` where the stream ended.
    async fn follow(
        &mut self,
        mut stream: Streaming<WatchUploadsResponse>,
        token: &mut String,
    ) -> Result<bool, CliError> {
        loop {
            if self.left == Some(0) || self.output.is_closed() {
                return Ok(true);
            }
            if self.running.len() >= self.jobs {
                if let Some(joined) = self.running.join_next().await {
                    self.settle(joined)?;
                }
                continue;
            }
            tokio::select! {
                Some(joined) = self.running.join_next(), if !self.running.is_empty() => self.settle(joined)?,
                message = stream.message() => {
                    let message = message.map_err(|status| CliError::from_status("watch the uploads", &status))?;
                    let Some(message) = message else { return Ok(false) };
                    self.handle(message, token)?;
                }
            }
        }
    }

    fn handle(&mut self, message: WatchUploadsResponse, token: &mut String) -> Result<(), CliError> {
        token.clone_from(&message.resume_token);
        let number = self.cursor.begin(message.resume_token);
        let Some(upload) = message.upload else { return self.cursor.done(number) };
        self.left = self.left.map(|left| left.saturating_sub(1));
        match &self.program {
            Some(program) => self.start(number, program.start(&upload)?, upload),
            None => {
                self.output.show(|| json::upload(&upload), || line_of(&upload));
                self.cursor.done(number)?;
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        number: u64,
        program: impl Future<Output = std::io::Result<ExitStatus>> + Send + 'static,
        upload: Upload,
    ) {
        self.running.spawn(async move { (number, upload.name, program.await) });
    }

    fn settle(&mut self, joined: Result<Ended, JoinError>) -> Result<(), CliError> {
        let Ok((number, upload, status)) = joined else {
            return Err(CliError::failed("a task of this command panicked"));
        };
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => self.complain(&upload, &format!("the program ended with {status}")),
            Err(error) => self.complain(&upload, &format!("the program cannot be waited for: {error}")),
        }
        self.cursor.done(number)
    }

    fn complain(&mut self, upload: &str, why: &str) {
        self.failures += 1;
        eprintln!("tidegate: {upload}: {why}");
    }

    /// Waits for the programs that still run.
    async fn finish(mut self, count: Option<u64>) -> Result<(), CliError> {
        while let Some(joined) = self.running.join_next().await {
            self.settle(joined)?;
        }
        match self.failures {
            0 => Ok(()),
            failures => Err(CliError::failed(format!("{failures} of {} programs failed", count.unwrap_or(failures)))),
        }
    }
}
