//! One folder's task: carries signs and looks to the pure state, files to the uploads, and what has ended to its end.
//! Promises that whatever is refused for now is offered again, and that a folder which is gone, unreadable or full is
//! shown as that and taken up when it is back.

mod imports;
mod settling;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::scan::{self, Found, Seen};
use super::state::{Look, Settling, Sign};
use super::watch::{Inbox, Watch};
use super::{Condition, HotFolderView};
use crate::caller::Caller;
use crate::clock::{BootInstant, Clock};
use crate::upload::{Fingerprint, Known, Uploads};

/// Uploads that end one after the other are settled together.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// Signs that come one after the other are read together.
const SIGN_PAUSE: Duration = Duration::from_millis(20);
/// Where the kernel does not tell of new files, the folder is looked through at least so often.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Batches of a look that may wait for the journal.
const BATCHES_AHEAD: usize = 2;
/// The clock may be moved by hand in tests, and suspended machines wake late: never sleep much longer than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A folder and everything that is known of it.
pub(super) struct Driver {
    config: Arc<Config>,
    uploads: Uploads,
    clock: Clock,
    device: String,
    stop: CancellationToken,
    shown: Arc<Mutex<HotFolderView>>,
    ends: Receiver<u64>,
    state: Settling,
    /// The watches; `None` where the system refuses them, or the folder is not there.
    watch: Option<Arc<Mutex<Watch>>>,
    inbox: Option<Arc<Inbox>>,
    /// The kernel tells of everything in the folder.
    is_told: bool,
    /// The folder's file system and inode, while it is there.
    root: Option<(u64, u64)>,
    check_at: BootInstant,
    /// The next look through the whole folder that nobody asked for.
    rescan_at: BootInstant,
    /// Something in the folder is not known: look through it when there is room.
    rescan: bool,
    settle_at: Option<BootInstant>,
    /// Nothing is offered before this.
    held_until: Option<BootInstant>,
    /// Files that were refused as they are, until the next look that nobody asked for.
    refused: HashMap<String, Fingerprint>,
    /// Files that could not be deleted or moved.
    stuck: HashSet<String>,
    stuck_until: Option<BootInstant>,
    /// Uploads of the folder that are unfinished, as of the last count.
    open: u64,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        uploads: Uploads,
        clock: Clock,
        device: String,
        shown: Arc<Mutex<HotFolderView>>,
        stop: CancellationToken,
    ) -> Self {
        let (quiet, patience) = (ms(config.quiet_ms), ms(config.rescan_interval_ms));
        let now = clock.boot();
        Self {
            state: Settling::new(config.settle, quiet, patience, config.max_tracked_files),
            ends: uploads.ends_changed(),
            config: Arc::new(config),
            uploads,
            clock,
            device,
            stop,
            shown,
            watch: None,
            inbox: None,
            is_told: false,
            root: None,
            check_at: now,
            rescan_at: now,
            rescan: false,
            // What ended while nobody looked.
            settle_at: Some(now),
            held_until: None,
            refused: HashMap::new(),
            stuck: HashSet::new(),
            stuck_until: None,
            open: 0,
        }
    }

    /// Runs until it is stopped.
    pub(super) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            self.turn().await;
            self.wait().await;
        }
    }

    async fn turn(&mut self) {
        let now = self.clock.boot();
        if now >= self.check_at {
            self.check_at = now + ms(self.config.check_interval_ms);
            self.check_root().await;
        }
        self.read_signs().await;
        if self.root.is_some() {
            if self.may_look(now) && (self.rescan || now >= self.rescan_at) {
                if now >= self.rescan_at {
                    self.rescan_at = now + self.rescan_interval();
                    self.refused.clear();
                    self.show(|view| (view.refused_count, view.refusal) = (0, String::new()));
                }
                self.rescan = false;
                self.look_through().await;
            }
            if self.settle_at.is_some_and(|at| at <= now) || self.stuck_until.is_some_and(|at| at <= now) {
                self.settle_ended().await;
            }
            self.import_due().await;
        }
        self.count().await;
    }

    /// Whether looking through the folder may bring anything: what is found must have room.
    fn may_look(&self, now: BootInstant) -> bool {
        self.root.is_some() && self.state.has_room() && self.held_until.is_none_or(|until| until <= now)
    }

    fn rescan_interval(&self) -> Duration {
        let interval = ms(self.config.rescan_interval_ms);
        if self.is_told { interval } else { interval.min(POLL_INTERVAL) }
    }

    /// Until there may be something to do.
    async fn wait(&mut self) {
        let now = self.clock.boot();
        let held = self.held_until.filter(|until| *until > now);
        let is_full = self.open >= self.config.max_queued_uploads;
        let due = if self.root.is_none() || is_full { None } else { held.or_else(|| self.state.next_due()) };
        let rescan = self.may_look(now).then_some(if self.rescan { now } else { self.rescan_at });
        let next = match self.root {
            Some(_) => {
                [Some(self.check_at), due, rescan, held, self.settle_at, self.stuck_until].into_iter().flatten().min()
            }
            None => Some(self.check_at),
        };
        let sleep = next.map_or(LONGEST_SLEEP, |at| at.saturating_since(now)).min(LONGEST_SLEEP);
        let inbox = self.inbox.clone();
        tokio::select! {
            // A file that is being written is told about all the time.
            () = told(inbox.as_deref()) => tokio::time::sleep(SIGN_PAUSE).await,
            Ok(()) = self.ends.changed() => {
                self.settle_at.get_or_insert(self.clock.boot() + SETTLE_PAUSE);
            }
            () = tokio::time::sleep(sleep) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Is the folder there, and is it still the same one? A file system that was mounted over it or taken away leaves the
    /// path as it is.
    async fn check_root(&mut self) {
        let path = self.config.path.clone();
        let found = blocking(move || std::fs::metadata(&path).map(|it| (it.is_dir(), (it.dev(), it.ino())))).await;
        let root = match found {
            Some(Ok((true, root))) => Ok(root),
            Some(Ok((false, _))) => Err((Condition::Missing, "is not a folder".to_owned())),
            Some(Err(why)) if why.kind() == std::io::ErrorKind::NotFound => {
                Err((Condition::Missing, "does not exist (yet): make it, or mount it".to_owned()))
            }
            Some(Err(why)) => Err((
                Condition::Unreadable,
                format!("cannot be looked at: {why}: let the daemon's user into the folders above it"),
            )),
            None => return,
        };
        match root {
            Ok(root) if self.root == Some(root) => {}
            Ok(root) => {
                if self.root.is_some() {
                    tracing::info!(folder = %self.config.path.display(), "another folder is here now");
                }
                self.leave();
                self.root = Some(root);
                self.rescan_at = self.clock.boot();
                self.settle_at = Some(self.clock.boot());
                match Watch::new(self.config.max_tracked_files) {
                    Ok(watch) => {
                        self.inbox = Some(watch.inbox());
                        self.watch = Some(Arc::new(Mutex::new(watch)));
                    }
                    Err(why) => self.show_condition(Condition::Polling, why),
                }
            }
            Err((condition, why)) => {
                self.leave();
                self.show_condition(condition, why);
            }
        }
    }

    /// The folder is not there, or another one.
    fn leave(&mut self) {
        (self.root, self.watch, self.inbox, self.is_told) = (None, None, None, false);
        self.state.clear();
        self.refused.clear();
        self.held_until = None;
    }

    /// What the kernel has told since the last time.
    async fn read_signs(&mut self) {
        let Some(inbox) = &self.inbox else { return };
        let signs = inbox.read();
        if signs.lost {
            tracing::debug!(folder = %self.config.path.display(), "signs were lost: looking through the folder");
            self.state.unsure(self.clock.boot());
        }
        self.rescan |= signs.lost || signs.folders;
        let mut told: Vec<(String, Sign)> = Vec::new();
        for (path, sign) in signs.files {
            match path.strip_prefix(&self.config.path) {
                Ok(relative) if relative.as_os_str().is_empty() => self.check_at = self.clock.boot(),
                Ok(relative) => match relative.to_str() {
                    Some(relative) => told.push((relative.to_owned(), sign)),
                    // A look through the folder says it.
                    None => self.rescan = true,
                },
                Err(_) => {}
            }
        }
        if told.is_empty() {
            return;
        }
        let paths = told.iter().map(|(relative, _)| relative.clone()).collect();
        let seen = self.look_at(paths).await;
        let now = self.clock.boot();
        let mut gone = Vec::new();
        for ((relative, sign), seen) in told.into_iter().zip(seen) {
            match seen {
                Seen::File(look) if self.config.takes(&relative) => {
                    // Gone by the sign and there again by the look: another one has come.
                    let sign = if sign == Sign::Gone { Sign::Touched } else { sign };
                    if !self.state.told(&relative, sign, look, now) {
                        self.rescan = true;
                    }
                }
                Seen::Folder => self.rescan |= self.config.enters(&relative),
                Seen::File(_) | Seen::Other => self.state.remove(&relative),
                Seen::Nothing => {
                    self.state.remove(&relative);
                    self.refused.remove(&relative);
                    gone.push(relative);
                }
            }
        }
        if !gone.is_empty()
            && let Err(error) = self.uploads.forget_files(&self.config.path, gone).await
        {
            tracing::warn!(%error, "files that are gone from a hot folder stay noted for now");
        }
    }

    /// Looks at paths beneath the folder, in their order.
    async fn look_at(&self, paths: Vec<String>) -> Vec<Seen> {
        let (folder, count) = (self.config.path.clone(), paths.len());
        let seen = blocking(move || paths.iter().map(|path| scan::look(&folder.join(path))).collect()).await;
        seen.unwrap_or_else(|| vec![Seen::Nothing; count])
    }

    /// Looks through the whole folder for what is not known.
    async fn look_through(&mut self) {
        let (batches, mut found) = tokio::sync::mpsc::channel::<Vec<Found>>(BATCHES_AHEAD);
        let (config, watch) = (Arc::clone(&self.config), self.watch.clone());
        let walk = tokio::task::spawn_blocking(move || {
            let mut refused = None;
            let enter = |folder: &Path| {
                if let Some(watch) = &watch
                    && let Err(why) = watch.lock().unwrap_or_else(PoisonError::into_inner).add(folder)
                {
                    refused.get_or_insert(why);
                }
            };
            let take = |batch| match batches.blocking_send(batch) {
                Ok(()) => std::ops::ControlFlow::Continue(()),
                Err(_) => std::ops::ControlFlow::Break(()),
            };
            let scanned = scan::scan(&config, enter, take);
            (scanned, refused)
        });
        // Folders with files that were taken before: what is missing beside them is gone, and not on another disk.
        let mut alive = HashSet::new();
        while let Some(batch) = found.recv().await {
            if !self.take_batch(&batch, &mut alive).await {
                self.rescan = true;
                found.close();
            }
        }
        let Ok((scanned, refused)) = walk.await else { return };
        match scanned {
            Ok(scanned) => {
                self.is_told = self.watch.is_some() && refused.is_none();
                match refused {
                    Some(why) => self.show_condition(Condition::Polling, why),
                    None if self.is_told => self.show_condition(Condition::Watching, String::new()),
                    None => {}
                }
                self.show(|view| view.problem = scanned.problem.clone().unwrap_or_default());
                if scanned.is_complete {
                    let now = std::time::SystemTime::now();
                    self.show(|view| view.scan_time = Some(now));
                    self.forget_missing(&alive, &scanned.folders).await;
                }
            }
            Err(why) => {
                let text = match why.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        format!("cannot be read: {why}: let the daemon's user read it")
                    }
                    _ => format!("cannot be read: {why}"),
                };
                self.leave();
                self.show_condition(Condition::Unreadable, text);
            }
        }
    }

    /// False where there is no room for what is new.
    async fn take_batch(&mut self, batch: &[Found], alive: &mut HashSet<String>) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        let files = batch.iter().map(|(relative, look)| (relative.clone(), look.fingerprint)).collect();
        let known = match self.uploads.known_files(&self.config.path, files).await {
            Ok(known) => known,
            Err(error) => {
                self.hold(&error.to_string());
                return false;
            }
        };
        let now = self.clock.boot();
        for ((relative, look), known) in batch.iter().zip(known) {
            match known {
                Known::Same => drop(alive.insert(folder_of(relative).to_owned())),
                Known::New | Known::Touched(_) if self.refused.get(relative) == Some(&look.fingerprint) => {}
                Known::New | Known::Touched(_) => {
                    if !self.state.found(relative, *look, now) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Takes a file up as if nothing were known of it.
    fn take_up(&mut self, relative: &str, look: Look) {
        if self.config.takes(relative) && !self.state.found(relative, look, self.clock.boot()) {
            self.rescan = true;
        }
    }

    /// Nothing more is offered for a while.
    fn hold(&mut self, why: &str) {
        self.held_until = Some(self.clock.boot() + ms(self.config.retry_interval_ms));
        self.show(|view| {
            if view.held != why {
                tracing::info!(folder = %view.path.display(), why, "files wait in the folder");
                why.clone_into(&mut view.held);
            }
        });
    }

    async fn count(&mut self) {
        let waiting = self.state.len() as u64;
        match self.uploads.folder_counts(&self.config.path).await {
            Ok(counts) => {
                self.open = counts.open;
                let is_full = counts.open >= self.config.max_queued_uploads;
                let limit = self.config.max_queued_uploads;
                let nobody_waits = waiting == 0 && !self.rescan;
                self.show(|view| {
                    (view.open_count, view.failed_count, view.waiting_count) = (counts.open, counts.failed, waiting);
                    if is_full && view.held.is_empty() && waiting > 0 {
                        view.held = format!("{limit} uploads of this folder are unfinished (max_queued_uploads)");
                    } else if nobody_waits || (!is_full && view.held.ends_with("(max_queued_uploads)")) {
                        view.held.clear();
                    }
                });
            }
            Err(error) => tracing::debug!(%error, "the files of a hot folder cannot be counted"),
        }
    }

    fn caller(&self) -> Caller {
        Caller { uid: self.config.owner_uid, gid: self.config.owner_uid, is_admin: false }
    }

    fn show(&self, change: impl FnOnce(&mut HotFolderView)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn show_condition(&self, condition: Condition, why: String) {
        self.show(|view| {
            if view.condition != condition && condition != Condition::Watching {
                tracing::warn!(folder = %view.path.display(), ?condition, why, "hot folder");
            }
            (view.condition, view.reason) = (condition, why);
        });
    }
}

async fn told(inbox: Option<&Inbox>) {
    match inbox {
        Some(inbox) => inbox.told.notified().await,
        None => std::future::pending().await,
    }
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// The sub-folder that a path lies in.
fn folder_of(relative: &str) -> &str {
    relative.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Runs `work` on the blocking pool; `None` where it broke off.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.inspect_err(|error| tracing::error!(%error, "a look broke off")).ok()
}
