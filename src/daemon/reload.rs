//! Takes a changed configuration over while the daemon runs: all of it that can, or nothing where it has a mistake.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;
use tracing::{info, warn};

use super::plug_ins;
use crate::api::Reloaded;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, changed_keys};
use crate::hot_folder::HotFolders;
use crate::telemetry::metrics::ReloadOutcome;
use crate::telemetry::{FilterHandle, metrics};
use crate::upload::Uploads;

/// Keys that a reload puts in force at once; all others need a restart.
const LIVE_KEYS: [&str; 18] = [
    "telemetry.log_filter",
    "upload.file_roots",
    "upload.single_put_max_bytes",
    "upload.part_size_",
    "upload.multipart_max_age_s",
    "upload.max_upload_bytes_per_s",
    "upload.metered_",
    "upload.max_uploads_in_flight",
    "upload.part_attempts",
    "upload.backoff_",
    "upload.stall_timeout_ms",
    "upload.complete_timeout_ms",
    "upload.max_failing_s",
    "upload.receiving_idle_max_s",
    "upload.receipt_retention_s",
    "upload.spool_sync_interval_bytes",
    "destination[",
    "hot_folder[",
];

/// Reloads one file; clones share it.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    /// The text that is in force, as far as it can be without a restart.
    text: Mutex<String>,
    destinations: RwLock<Vec<String>>,
    uploads: Uploads,
    hot_folders: HotFolders,
    log_filter: Option<FilterHandle>,
    clock: Clock,
}

impl Reloader {
    pub(super) fn new(
        source: Option<(PathBuf, String)>,
        config: &Config,
        uploads: Uploads,
        hot_folders: HotFolders,
        log_filter: Option<FilterHandle>,
        clock: Clock,
    ) -> Self {
        let (file, text) = source.map_or((None, String::new()), |(file, text)| (Some(file), text));
        let destinations = RwLock::new(names(config));
        Self(Arc::new(Inner { file, text: Mutex::new(text), destinations, uploads, hot_folders, log_filter, clock }))
    }

    /// The names of the destinations that are in force.
    pub fn destinations(&self) -> Vec<String> {
        self.0.destinations.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again and takes it over.
    ///
    /// # Errors
    /// Every mistake of the file; then nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let result = self.take_over().await;
        metrics().config_reload(match &result {
            Ok(reloaded) if reloaded.applied_keys.is_empty() && reloaded.restart_keys.is_empty() => {
                ReloadOutcome::Unchanged
            }
            Ok(_) => ReloadOutcome::Applied,
            Err(_) => ReloadOutcome::Refused,
        });
        result
    }

    async fn take_over(&self) -> Result<Reloaded, ReloadError> {
        let inner = &self.0;
        let Some(file) = inner.file.clone() else { return Ok(Reloaded::default()) };
        // Held to the end, so that two reloads cannot cross.
        let mut text = inner.text.lock().await;
        let (config, new_text) = tokio::task::spawn_blocking(move || Config::load(&file))
            .await
            .map_err(|panic| ReloadError::Unusable(panic.to_string()))??;
        let mut reloaded = Reloaded::default();
        for key in changed_keys(&text, &new_text) {
            let is_live = LIVE_KEYS.iter().any(|live| key.starts_with(live));
            if is_live { &mut reloaded.applied_keys } else { &mut reloaded.restart_keys }.push(key);
        }
        if !reloaded.applied_keys.is_empty() {
            let destinations = plug_ins::destinations(&config, &inner.clock)
                .map_err(|error| ReloadError::Unusable(error.to_string()))?;
            inner
                .uploads
                .reconfigure(config.upload.clone(), destinations)
                .map_err(|error| ReloadError::Unusable(error.to_string()))?;
            if let Some(log_filter) = &inner.log_filter {
                log_filter
                    .set(&config.telemetry.log_filter)
                    .map_err(|error| ReloadError::Unusable(error.to_string()))?;
            }
            inner.hot_folders.reconfigure(config.hot_folders.clone());
            *inner.destinations.write().unwrap_or_else(PoisonError::into_inner) = names(&config);
        }
        *text = new_text;
        Ok(reloaded)
    }

    /// Reloads and says in the log what came of it.
    pub(super) async fn reload_and_log(&self, why: &'static str) {
        match self.reload().await {
            Ok(Reloaded { applied_keys, restart_keys }) => {
                if !restart_keys.is_empty() {
                    warn!(why, keys = restart_keys.join(", "), "the configuration changed in keys that need a restart");
                }
                if !applied_keys.is_empty() {
                    info!(why, keys = applied_keys.join(", "), "the changed configuration is in force");
                }
            }
            Err(error) => warn!(why, %error, "the changed configuration is not taken over; the running one stays"),
        }
    }
}

fn names(config: &Config) -> Vec<String> {
    config.destinations.iter().map(|destination| destination.name.clone()).collect()
}

/// Why a changed configuration was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A value cannot be used on this machine.
    #[error("{0}")]
    Unusable(String),
}
