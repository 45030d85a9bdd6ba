//! What the commands print. Owns stdout; promises one JSON document (or one line per event) with `--json`, and quiet
//! where the reader has gone away.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::exit::CliError;

/// Where results go; clones share it.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    reader_gone: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Output {
    /// JSON, or text for people.
    pub fn new(json: bool) -> Self {
        Self { json, state: Arc::default() }
    }

    /// True where the results are for a program.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// True where people see progress: a terminal at both ends, and no JSON.
    pub fn is_interactive(&self) -> bool {
        !self.json && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
    }

    /// True where nobody reads any more: a stream of events may end.
    pub fn is_closed(&self) -> bool {
        self.state.reader_gone.load(Ordering::Relaxed)
    }

    /// One result: `json` on one line, or the text.
    pub fn show(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
        if self.json {
            self.line(&json().to_string());
        } else {
            let text = text();
            if !text.is_empty() {
                self.line(&text);
            }
        }
    }

    fn line(&self, line: &str) {
        let mut stdout = std::io::stdout().lock();
        self.take(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
    }

    fn take(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            self.state.reader_gone.store(true, Ordering::Relaxed);
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                let mut failure = self.state.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failure.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// Whether everything that had to be printed was, or its reader did not want it.
    ///
    /// # Errors
    /// `Exit::Failed`, for example with a full disk behind stdout.
    pub fn finish(&self) -> Result<(), CliError> {
        let failure = self.state.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*failure {
            Some(why) => Err(CliError::failed(format!("cannot write the result to stdout: {why}"))),
            None => Ok(()),
        }
    }
}

/// Prints an error to stderr.
pub fn show_error(error: &CliError, json: bool) {
    let line = if json { error.to_json().to_string() } else { error.to_text() };
    // With nobody at stderr there is nothing left to tell.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
