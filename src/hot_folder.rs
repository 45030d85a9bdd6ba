//! Hot folders: whatever is put into one becomes an upload of a service session. Owns the watches, the key templates and
//! what happens with a file afterwards; promises that a file is uploaded once, also across restarts, a storm of files and
//! a disk that comes and goes, that a file which is changed later is uploaded again, and that one is deleted or moved only
//! when the very bytes of it are in the store. The folder itself is the queue: what there is no room for stays in it.

mod after;
pub mod config;
mod driver;
pub mod key;
pub mod pattern;
mod scan;
mod state;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::config::{AfterUpload, Config, Settle};
use self::driver::Driver;
use crate::clock::Clock;
use crate::upload::Uploads;

/// How a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Not looked at yet.
    Starting,
    /// The kernel tells of every file.
    Watching,
    /// The kernel does not: new files are found by looking now and then.
    Polling,
    /// It is not there.
    Missing,
    /// It cannot be read.
    Unreadable,
}

/// What may be shown of a folder.
#[derive(Debug, Clone)]
pub struct HotFolderView {
    /// The folder.
    pub path: PathBuf,
    /// The service session's name.
    pub session: String,
    /// Whose uploads they are.
    pub owner_uid: u32,
    /// The destination's name.
    pub destination: String,
    /// How it is.
    pub condition: Condition,
    /// Why it is not being watched.
    pub reason: String,
    /// Why nothing is taken in now; empty where that is not so.
    pub held: String,
    /// Files that were refused as they are, and why the last one was.
    pub refused_count: u64,
    /// See there.
    pub refusal: String,
    /// Files that could not be deleted or moved, and why the last one could not.
    pub stuck_count: u64,
    /// See there.
    pub stuck: String,
    /// Something in the folder that could not be read or used.
    pub problem: String,
    /// Files that were taken since the start.
    pub taken_count: u64,
    /// Files that may soon be complete, or wait for room.
    pub waiting_count: u64,
    /// Files on their way, or with something left to do.
    pub open_count: u64,
    /// Files whose uploads failed.
    pub failed_count: u64,
    /// When the whole folder was last looked through.
    pub scan_time: Option<SystemTime>,
}

impl HotFolderView {
    fn of(config: &Config) -> Self {
        Self {
            path: config.path.clone(),
            session: config.session.clone(),
            owner_uid: config.owner_uid,
            destination: config.destination.clone(),
            condition: Condition::Starting,
            reason: String::new(),
            held: String::new(),
            refused_count: 0,
            refusal: String::new(),
            stuck_count: 0,
            stuck: String::new(),
            problem: String::new(),
            taken_count: 0,
            waiting_count: 0,
            open_count: 0,
            failed_count: 0,
            scan_time: None,
        }
    }

    /// What is wrong with it, for a person; empty where nothing is.
    pub fn trouble(&self) -> String {
        let path = self.path.display();
        let others = |count: u64| match count {
            0 | 1 => String::new(),
            count => format!(" (and {} others)", count - 1),
        };
        let mut all = Vec::new();
        if !self.reason.is_empty() {
            all.push(format!("{path} {}", self.reason));
        }
        if !self.held.is_empty() {
            all.push(format!("files wait in the folder: {}", self.held));
        }
        if !self.refusal.is_empty() {
            all.push(format!("refused: {}{}", self.refusal, others(self.refused_count)));
        }
        if !self.stuck.is_empty() {
            all.push(format!("uploaded, but {}{}", self.stuck, others(self.stuck_count)));
        }
        if !self.problem.is_empty() {
            all.push(self.problem.clone());
        }
        all.join("; ")
    }
}

/// Every hot folder; clones share them.
#[derive(Debug, Clone)]
pub struct HotFolders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uploads: Uploads,
    clock: Clock,
    stop: CancellationToken,
    folders: Mutex<Vec<Folder>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Folder {
    config: Config,
    shown: Arc<Mutex<HotFolderView>>,
    stop: CancellationToken,
    ended: TaskTracker,
}

impl HotFolders {
    /// Starts a task for each folder. None of them needs to be there.
    pub fn start(configs: Vec<Config>, uploads: Uploads, clock: Clock, stop: CancellationToken) -> Self {
        let inner = Inner { uploads, clock, stop, folders: Mutex::default(), tasks: TaskTracker::new() };
        let folders = Self(Arc::new(inner));
        folders.reconfigure(configs);
        folders
    }

    /// Takes another configuration over: new folders begin, others end, and one that has changed ends and begins.
    pub fn reconfigure(&self, configs: Vec<Config>) {
        let mut folders = self.0.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *folders).into_iter().partition(|folder| configs.contains(&folder.config));
        for folder in &go {
            folder.stop.cancel();
        }
        for config in configs {
            if stay.iter().any(|folder| folder.config == config) {
                continue;
            }
            let before = go.iter().find(|folder| folder.config.path == config.path).map(|folder| folder.ended.clone());
            stay.push(self.begin(config, before));
        }
        *folders = stay;
    }

    /// How every folder is, in the order of their paths.
    pub fn views(&self) -> Vec<HotFolderView> {
        let folders = self.0.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<HotFolderView> =
            folders.iter().map(|folder| folder.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect();
        views.sort_by(|a, b| a.path.cmp(&b.path));
        views
    }

    /// Ends every task and waits for it.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// A path has one task at a time: `before` is that of the folder's earlier configuration.
    fn begin(&self, config: Config, before: Option<TaskTracker>) -> Folder {
        let inner = &self.0;
        let (stop, ended) = (inner.stop.child_token(), TaskTracker::new());
        let shown = Arc::new(Mutex::new(HotFolderView::of(&config)));
        let device = config.device.clone().unwrap_or_else(host_name);
        let driver = Driver::new(
            config.clone(),
            inner.uploads.clone(),
            inner.clock.clone(),
            device,
            Arc::clone(&shown),
            stop.clone(),
        );
        let task = ended.track_future(async move {
            if let Some(before) = before {
                before.wait().await;
            }
            driver.run().await;
        });
        ended.close();
        inner.tasks.spawn(task);
        Folder { config, shown, stop, ended }
    }
}

/// What the machine is called; "device" where that cannot be part of a key.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if check_device(&name).is_ok() { name } else { "device".to_owned() }
}

/// Whether a device's name can be part of a key.
///
/// # Errors
/// What is wrong with it.
pub fn check_device(name: &str) -> Result<(), String> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') || name.contains(char::is_control) {
        return Err(format!("must be one part of a key (no /, no control characters), is {name:?}"));
    }
    Ok(())
}
