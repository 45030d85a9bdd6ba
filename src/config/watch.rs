//! Tells when the configuration file may have changed. Watches the folder, because editors and configuration managers
//! replace the file (and Kubernetes swaps a link) instead of writing into it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// A burst of events within this time is one change: an editor makes several for one save.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches one file.
#[derive(Debug)]
pub struct FileWatch {
    changed: Arc<Notify>,
    // Ends the watch when dropped.
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// Where the folder cannot be watched (the system's limit of inotify watches, for example).
    pub fn start(file: &Path) -> notify::Result<Self> {
        let changed = Arc::new(Notify::new());
        let teller = Arc::clone(&changed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may hide a change, so it counts as one. Reading is what the reload itself does.
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                teller.notify_one();
            }
        })?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        watcher.watch(&folder.map_or_else(|| PathBuf::from("."), Path::to_path_buf), RecursiveMode::NonRecursive)?;
        Ok(Self { changed, _watcher: watcher })
    }

    /// Waits for the next change, and until the file has been left alone for a moment. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
        while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_replaced_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, "one").unwrap();
        let watch = FileWatch::start(&file).unwrap();
        let next = folder.path().join("next");
        std::fs::write(&next, "two").unwrap();
        std::fs::rename(&next, &file).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
        std::fs::write(&file, "three").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
    }
}
