//! A bar per file on a terminal; nothing otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::text::one_line;
use super::super::uploads::state_of;
use crate::api::v1;

/// The bars of one command.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
}

/// One file's bar; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    bar: ProgressBar,
    sent: Arc<AtomicU64>,
}

impl Bars {
    /// Bars on stderr where people look at it.
    pub(super) fn new(visible: bool) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { all: MultiProgress::with_draw_target(target) }
    }

    /// A bar for one more file.
    pub(super) fn add(&self, name: &str) -> Bar {
        let bar = self.all.add(ProgressBar::new(0));
        let style = ProgressStyle::with_template(
            "{prefix:24!} [{bar:30}] {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12} {msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(one_line(name.rsplit('/').next().unwrap_or(name)));
        Bar { bar, sent: Arc::default() }
    }

    /// Prints between the bars.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        self.all.suspend(print);
    }
}

impl Bar {
    /// The file is handed over to the daemon: `sent_bytes` of `total_bytes` so far.
    pub(super) fn sending(&self, sent_bytes: u64, total_bytes: u64) {
        self.sent.store(sent_bytes, Ordering::Relaxed);
        self.bar.set_length(total_bytes);
        self.bar.set_position(sent_bytes);
        self.bar.set_message("to the daemon");
    }

    /// The daemon sends it on.
    pub(super) fn storing(&self, upload: &v1::Upload) {
        self.bar.set_length(u64::try_from(upload.total_bytes).unwrap_or(0));
        self.bar.set_position(u64::try_from(upload.stored_bytes).unwrap_or(0));
        self.bar.set_message(state_of(upload));
    }

    /// Takes the bar away: the result's line stands in its place.
    pub(super) fn close(&self) {
        self.bar.finish_and_clear();
    }
}
