//! Settles files whose uploads have ended, and forgets files that are not there any more.

use std::collections::HashSet;

use super::super::after::{Done, dispose};
use super::super::config::AfterUpload;
use super::super::scan::Seen;
use super::{Driver, blocking, folder_of, ms};
use crate::upload::{EndedFile, Settled, UploadError};

/// Files that are settled between two looks at the journal.
const PAGE: usize = 128;
/// The file is not the accepted one any more: as it is now it is a new upload.
const ANOTHER_FILE: [&str; 2] = ["SOURCE_CHANGED", "SOURCE_MISSING"];

impl Driver {
    /// Does what is left to do with files whose uploads have ended.
    pub(super) async fn settle_ended(&mut self) {
        let now = self.clock.boot();
        self.settle_at = None;
        if self.stuck_until.is_some_and(|at| at <= now) {
            self.stuck_until = None;
            self.stuck.clear();
            self.show(|view| (view.stuck_count, view.stuck) = (0, String::new()));
        }
        let mut after = String::new();
        loop {
            let page = match self.uploads.ended_files(&self.config.path, &after, PAGE).await {
                Ok(page) => page,
                Err(error) => return self.settle_later(&error),
            };
            let Some(last) = page.last() else { return };
            after.clone_from(&last.relative);
            for ended in page {
                if self.stop.is_cancelled() {
                    return;
                }
                if let Err(error) = self.settle(&ended).await {
                    return self.settle_later(&error);
                }
            }
        }
    }

    fn settle_later(&mut self, error: &UploadError) {
        tracing::warn!(folder = %self.config.path.display(), %error, "what is left to do with uploaded files waits");
        self.settle_at = Some(self.clock.boot() + ms(self.config.retry_interval_ms));
    }

    async fn settle(&mut self, ended: &EndedFile) -> Result<(), UploadError> {
        if self.stuck.contains(&ended.relative) {
            return Ok(());
        }
        let settled = match &ended.outcome {
            Ok(_) if self.config.after_upload == AfterUpload::Keep => Settled::Kept,
            Ok(_) => {
                let (folder, file, action) =
                    (self.config.path.clone(), ended.clone(), self.config.after_upload.clone());
                match blocking(move || dispose(&folder, &file, &action)).await {
                    Some(Done::Away | Done::Changed) => Settled::Forgotten,
                    Some(Done::Failed(why)) => {
                        self.is_stuck(&ended.relative, why);
                        return Ok(());
                    }
                    None => return Ok(()),
                }
            }
            Err(Some(failure)) if ANOTHER_FILE.contains(&failure.reason) => Settled::Forgotten,
            Err(Some(_)) => Settled::Failed,
            // Whoever cancelled it does not want it sent.
            Err(None) => Settled::Kept,
        };
        self.uploads.settle_file(&self.config.path, ended, settled).await?;
        if settled == Settled::Forgotten
            && let Some(Seen::File(look)) = self.look_at(vec![ended.relative.clone()]).await.first()
        {
            self.take_up(&ended.relative, *look);
        }
        Ok(())
    }

    fn is_stuck(&mut self, relative: &str, why: String) {
        if self.stuck.is_empty() {
            tracing::warn!(why, "an uploaded file stays in its hot folder; it is tried again");
        }
        self.stuck.insert(relative.to_owned());
        self.stuck_until.get_or_insert(self.clock.boot() + ms(self.config.retry_interval_ms));
        let count = self.stuck.len() as u64;
        self.show(|view| (view.stuck_count, view.stuck) = (count, why));
    }

    /// Forgets files that are gone: those beside files that were taken before, and those whose sub-folder is gone. A
    /// folder without any of them may be a disk that is not mounted now.
    pub(super) async fn forget_missing(&mut self, alive: &HashSet<String>, folders: &[String]) {
        if alive.is_empty() {
            return;
        }
        let there: HashSet<&str> = folders.iter().map(String::as_str).collect();
        let is_gone = |folder: &str| !folder.is_empty() && !there.contains(folder);
        let mut after = String::new();
        loop {
            let page = match self.uploads.resting_files(&self.config.path, &after, PAGE).await {
                Ok(page) => page,
                Err(error) => return tracing::debug!(%error, "files that are gone stay noted for now"),
            };
            let Some(last) = page.last() else { return };
            after.clone_from(last);
            let asked: Vec<String> = page
                .into_iter()
                .filter(|relative| alive.contains(folder_of(relative)) || is_gone(folder_of(relative)))
                .collect();
            let seen = self.look_at(asked.clone()).await;
            let gone: Vec<String> =
                asked.into_iter().zip(seen).filter(|(_, seen)| *seen == Seen::Nothing).map(|(path, _)| path).collect();
            if !gone.is_empty()
                && let Err(error) = self.uploads.forget_files(&self.config.path, gone).await
            {
                return tracing::debug!(%error, "files that are gone stay noted for now");
            }
        }
    }
}
