//! A line per step with its time, and the last line.

use std::future::Future;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::exit::CliError;
use super::super::output::Output;

/// The longest that one step may take: the clip on a slow machine, in a debug build.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// Where the times stand.
const TIME_COLUMN: usize = 98;

/// The steps' bookkeeping.
#[derive(Debug)]
pub(super) struct Program<'a> {
    output: &'a Output,
    colour: bool,
    total: usize,
    passed: usize,
    started: Instant,
}

impl<'a> Program<'a> {
    pub(super) fn new(output: &'a Output, total: usize) -> Self {
        let colour = !output.is_json() && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { output, colour, total, passed: 0, started: Instant::now() }
    }

    /// Takes one step; it answers what there is to say about it.
    pub(super) async fn perform(
        &mut self,
        title: &str,
        work: impl Future<Output = Result<String, CliError>>,
    ) -> Result<(), CliError> {
        let started = Instant::now();
        let ended = match tokio::time::timeout(STEP_TIMEOUT, work).await {
            Ok(ended) => ended,
            Err(_) => Err(CliError::failed(format!("took longer than {} s", STEP_TIMEOUT.as_secs()))),
        };
        let took = started.elapsed();
        let (passed, detail) = match &ended {
            Ok(detail) => (true, detail.clone()),
            Err(error) => (false, error.message().to_owned()),
        };
        self.output.show(
            || json!({ "step": title, "passed": passed, "detail": detail, "duration_ms": milliseconds(took) }),
            || self.line(passed, title, &detail, took),
        );
        self.passed += usize::from(passed);
        ended.map(|_| ()).map_err(|error| error.about(title))
    }

    /// The last line.
    pub(super) fn curtain(&self) {
        let took = self.started.elapsed();
        self.output.show(
            || json!({ "passed": self.passed, "total": self.total, "duration_ms": milliseconds(took) }),
            || format!("demo: {} of {} steps passed in {:.1} s", self.passed, self.total, took.as_secs_f64()),
        );
    }

    fn line(&self, passed: bool, title: &str, detail: &str, took: Duration) -> String {
        let (mark, colour) = if passed { ("✓", "\u{1b}[32m") } else { ("✗", "\u{1b}[31m") };
        let mark = if self.colour { format!("{colour}{mark}\u{1b}[0m") } else { mark.to_owned() };
        let mut lines = detail.lines();
        let text = format!("{title:<26} {}", lines.next().unwrap_or_default());
        let time = format!("{} ms", milliseconds(took));
        let mut line = format!("{mark} {text:<TIME_COLUMN$} {time:>8}");
        for more in lines {
            line.push_str("\n      ");
            line.push_str(more);
        }
        line
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
