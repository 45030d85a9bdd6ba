//! Offers complete files to the uploads.

use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;

use super::super::config::Config;
use super::super::key::Values;
use super::super::scan::Seen;
use super::super::state::Look;
use super::Driver;
use crate::media_type;
use crate::upload::{FolderFile, Imported, Known, UploadError, UploadSpec};

/// What a refusal says to do.
enum Refusal {
    /// This file, as it is.
    File(String),
    /// Not now: it is about the folder, the session or the device.
    Now(String),
    /// The file is gone.
    Gone,
}

impl Driver {
    /// Offers what is complete, as much as there is room for.
    pub(super) async fn import_due(&mut self) {
        loop {
            let now = self.clock.boot();
            if self.stop.is_cancelled() || self.held_until.is_some_and(|until| until > now) {
                return;
            }
            let room = self.config.max_queued_uploads.saturating_sub(self.open);
            let count = self.config.max_imports_in_flight.min(usize::try_from(room).unwrap_or(usize::MAX));
            let due = self.state.due(now, count);
            if due.is_empty() {
                return;
            }
            let complete = self.complete(due).await;
            let Some(new) = self.unknown(complete).await else { return };
            self.import(new).await;
            // Signs go on arriving meanwhile: what was closed a moment ago may be written again.
            self.read_signs().await;
        }
    }

    /// Those that still look as they did.
    async fn complete(&mut self, due: Vec<String>) -> Vec<(String, Look)> {
        let seen = self.look_at(due.clone()).await;
        let now = self.clock.boot();
        let mut complete = Vec::new();
        for (relative, seen) in due.into_iter().zip(seen) {
            match seen {
                Seen::File(look) if self.state.is_complete(&relative, look, now) => complete.push((relative, look)),
                Seen::File(_) => {}
                _ => self.state.remove(&relative),
            }
        }
        complete
    }

    /// Those that were not taken before; `None` where nobody can tell now.
    async fn unknown(&mut self, files: Vec<(String, Look)>) -> Option<Vec<(String, Look)>> {
        let asked = files.iter().map(|(relative, look)| (relative.clone(), look.fingerprint)).collect();
        match self.uploads.known_files(&self.config.path, asked).await {
            Ok(known) => {
                let mut new = Vec::new();
                for (file, known) in files.into_iter().zip(known) {
                    if known == Known::Same {
                        self.state.remove(&file.0);
                    } else {
                        new.push(file);
                    }
                }
                Some(new)
            }
            Err(error) => {
                self.hold(&error.to_string());
                None
            }
        }
    }

    async fn import(&mut self, files: Vec<(String, Look)>) {
        let mut under_way = JoinSet::new();
        for (relative, look) in files {
            let (uploads, caller, session) = (self.uploads.clone(), self.caller(), self.config.session.clone());
            let spec = spec(&self.config, &self.device, &relative, &look);
            let file = FolderFile { folder: self.config.path.clone(), relative };
            under_way.spawn(async move {
                let imported = uploads.import(&caller, &session, spec, &file).await;
                (file.relative, look, imported)
            });
        }
        let stop = self.stop.clone();
        loop {
            let joined = tokio::select! {
                joined = under_way.join_next() => joined,
                // They end by themselves, wholly or not at all.
                () = stop.cancelled() => return under_way.detach_all(),
            };
            let Some(joined) = joined else { return };
            let Ok((relative, look, imported)) = joined else {
                self.hold("taking a file in broke off: see the daemon's log");
                continue;
            };
            match imported {
                Ok(Imported::Taken(id)) => {
                    tracing::debug!(folder = %self.config.path.display(), upload = %id, "taken");
                    self.state.remove(&relative);
                    self.open += 1;
                    self.show(|view| {
                        view.taken_count += 1;
                        view.held.clear();
                    });
                }
                Ok(Imported::Known) => self.state.remove(&relative),
                Err(error) => match judge(&error) {
                    Refusal::Gone => self.state.remove(&relative),
                    Refusal::Now(why) => self.hold(&why),
                    Refusal::File(why) => self.refuse(&relative, look, &why),
                },
            }
        }
    }

    fn refuse(&mut self, relative: &str, look: Look, why: &str) {
        let path = self.config.path.join(relative);
        tracing::warn!(file = %path.display(), why, "a file of a hot folder is refused");
        self.state.remove(relative);
        if self.refused.len() >= self.config.max_tracked_files {
            // Whatever is new behind so many would never have its turn.
            self.held_until = Some(self.rescan_at);
            return;
        }
        self.refused.insert(relative.to_owned(), look.fingerprint);
        let count = self.refused.len() as u64;
        let text = if why.contains(relative) { why.to_owned() } else { format!("{}: {why}", path.display()) };
        self.show(|view| (view.refused_count, view.refusal) = (count, text));
    }
}

fn spec(config: &Config, device: &str, relative: &str, look: &Look) -> UploadSpec {
    let written = u64::try_from(look.fingerprint.mtime_ns / 1_000_000_000).unwrap_or(0);
    let written = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(written)).unwrap_or(SystemTime::UNIX_EPOCH);
    UploadSpec {
        // The session is the configuration's: see `Uploads::import`.
        session: None,
        destination: Some(config.destination.clone()),
        key: config.key.fill(&Values { relative, written, device }),
        key_policy: config.key_policy,
        content_type: media_type::of(std::path::Path::new(relative)).map(str::to_owned),
        metadata: std::collections::BTreeMap::new(),
        overwrite: config.overwrite,
        priority: config.priority,
        on_denied: config.on_denied,
    }
}

fn judge(error: &UploadError) -> Refusal {
    use UploadError as E;
    match error {
        E::FileNotFound(_) => Refusal::Gone,
        E::InvalidKey { .. }
        | E::InvalidField { .. }
        | E::TooLarge { .. }
        | E::NotARegularFile { .. }
        | E::FileNotReadable(..)
        | E::PathOutsideRoots { .. } => Refusal::File(error.to_string()),
        E::Session(_)
        | E::DestinationNotFound(..)
        | E::DestinationAmbiguous(_)
        | E::SpoolQuota { .. }
        | E::DiskFloor { .. }
        | E::Storage(_)
        | E::Stopping
        // None of these is about a file of the device.
        | E::NotFound(_)
        | E::IdReused(_)
        | E::OffsetMismatch { .. }
        | E::Busy(_)
        | E::WrongState(..)
        | E::SizeMismatch { .. }
        | E::ChecksumMismatch { .. } => Refusal::Now(error.to_string()),
    }
}
