//! What can be set about a hot folder.

use std::path::PathBuf;

use super::key::KeyTemplate;
use super::pattern::Patterns;
use crate::upload::{KeyPolicy, OnDenied, Priority};

/// Where keys go unless the configuration says otherwise.
pub const DEFAULT_KEY: &str = "free/{folder}{name}";
/// What this daemon calls files that it is just deleting.
pub const OWN_NAMES: &str = ".tidegate-";
/// What is left alone unless the configuration says otherwise: files that programs have not finished.
pub const DEFAULT_EXCLUDE: [&str; 3] = ["*.tmp", "*.part", "*.crdownload"];

/// `[[hot_folder]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The folder.
    pub path: PathBuf,
    /// The name of the service session whose account uploads.
    pub session: String,
    /// Whose uploads they are: one of the session's `allowed_uids`.
    pub owner_uid: u32,
    /// The destination's name.
    pub destination: String,
    /// What becomes of a file's name.
    pub key: KeyTemplate,
    /// What the key's last segment will be.
    pub key_policy: KeyPolicy,
    /// Allow an object at the key to be overwritten.
    pub overwrite: bool,
    /// Who goes first.
    pub priority: Priority,
    /// What a denial does.
    pub on_denied: OnDenied,
    /// The device's name in keys; `None`: the host's.
    pub device: Option<String>,
    /// When a file is complete.
    pub settle: Settle,
    /// For how long a file must not have changed, where its closing was not seen.
    pub quiet_ms: u64,
    /// Only files that one of these fits; empty means all.
    pub include: Patterns,
    /// No files that one of these fits.
    pub exclude: Patterns,
    /// Files and folders whose name begins with a dot count too.
    pub hidden: bool,
    /// Sub-folders count too.
    pub recursive: bool,
    /// What happens with a file that is in the store.
    pub after_upload: AfterUpload,
    /// How often the whole folder is looked through, whatever the kernel says.
    pub rescan_interval_ms: u64,
    /// How often it is looked at whether the folder is there and still the same.
    pub check_interval_ms: u64,
    /// After what time something that did not work is tried again.
    pub retry_interval_ms: u64,
    /// How many files may be waited for at once; the others stay in the folder until there is room.
    pub max_tracked_files: usize,
    /// How many files are taken in at once.
    pub max_imports_in_flight: usize,
    /// How many uploads of this folder may be unfinished; the other files stay in the folder until then.
    pub max_queued_uploads: u64,
}

/// When a file is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Settle {
    /// Once whoever wrote it has closed it, or moved it here.
    #[default]
    CloseWrite,
    /// Once it has not changed for a while.
    Quiet,
}

/// What happens with a file that is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AfterUpload {
    /// It stays.
    #[default]
    Keep,
    /// It is deleted.
    Delete,
    /// It is moved beneath this folder.
    Move(PathBuf),
}

impl Config {
    /// A folder with nothing but defaults.
    ///
    /// # Errors
    /// Never with the defaults above; the text is for the one who changed them.
    pub fn of(path: PathBuf, session: String, owner_uid: u32, destination: String) -> Result<Self, String> {
        let exclude: Vec<String> = DEFAULT_EXCLUDE.iter().map(|&pattern| pattern.to_owned()).collect();
        Ok(Self {
            path,
            session,
            owner_uid,
            destination,
            key: KeyTemplate::parse(DEFAULT_KEY)?,
            key_policy: KeyPolicy::Unique,
            overwrite: false,
            priority: Priority::Normal,
            on_denied: OnDenied::Wait,
            device: None,
            settle: Settle::CloseWrite,
            quiet_ms: 2_000,
            include: Patterns::default(),
            exclude: Patterns::parse(&exclude)?,
            hidden: false,
            recursive: false,
            after_upload: AfterUpload::Keep,
            rescan_interval_ms: 300_000,
            check_interval_ms: 5_000,
            retry_interval_ms: 10_000,
            max_tracked_files: 4_096,
            max_imports_in_flight: 8,
            max_queued_uploads: 1_000,
        })
    }

    /// Whether the names say that a file belongs to this folder's.
    pub fn takes(&self, relative: &str) -> bool {
        let is_hidden = || relative.split('/').any(|part| part.starts_with('.'));
        let is_nested = || relative.contains('/');
        let is_ours = || relative.rsplit('/').next().is_some_and(|name| name.starts_with(OWN_NAMES));
        !((!self.hidden && is_hidden())
            || is_ours()
            || (!self.recursive && is_nested())
            || self.is_moved(relative)
            || self.exclude.fit(relative))
            && (self.include.is_empty() || self.include.fit(relative))
    }

    /// Whether the names say that a sub-folder may hold such files.
    pub fn enters(&self, relative: &str) -> bool {
        let name = relative.rsplit('/').next().unwrap_or(relative);
        self.recursive && (self.hidden || !name.starts_with('.')) && !self.is_moved(relative)
    }

    /// Whether it lies where uploaded files are moved to.
    fn is_moved(&self, relative: &str) -> bool {
        match &self.after_upload {
            AfterUpload::Move(target) => self.path.join(relative).starts_with(target),
            AfterUpload::Keep | AfterUpload::Delete => false,
        }
    }
}
