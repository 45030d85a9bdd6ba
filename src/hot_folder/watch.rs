//! What the kernel says about a folder. Owns the inotify watches; promises that signs are merged by file and bounded, and
//! that whoever reads them learns when some were lost; must never wait for a reader.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RenameMode};
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::state::Sign;

/// The watches of one folder; they end with it.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    inbox: Arc<Inbox>,
}

/// Signs that nobody has read yet.
#[derive(Debug)]
pub(super) struct Inbox {
    limit: usize,
    signs: Mutex<Signs>,
    /// Told when there is something to read.
    pub(super) told: Notify,
}

/// What was told since the last reading.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// The last sign of each file, by its whole path.
    pub(super) files: HashMap<PathBuf, Sign>,
    /// There were more than could be kept, here or in the kernel.
    pub(super) lost: bool,
    /// A folder has appeared, or gone: what is in it was not told.
    pub(super) folders: bool,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// What the system refuses, and what to do.
    pub(super) fn new(limit: usize) -> Result<Self, String> {
        let inbox = Arc::new(Inbox { limit, signs: Mutex::default(), told: Notify::new() });
        let teller = Arc::clone(&inbox);
        let watcher = notify::recommended_watcher(move |event| teller.take(event)).map_err(|error| explain(&error))?;
        Ok(Self { watcher, inbox })
    }

    /// Watches one folder, without those in it; again does no harm. Before its entries are read, so that nothing which
    /// comes in between is missed. Blocks.
    ///
    /// # Errors
    /// What the system refuses, and what to do.
    pub(super) fn add(&mut self, folder: &Path) -> Result<(), String> {
        self.watcher.watch(folder, RecursiveMode::NonRecursive).map_err(|error| explain(&error))
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }
}

impl Inbox {
    /// Takes everything out.
    pub(super) fn read(&self) -> Signs {
        std::mem::take(&mut *self.lock())
    }

    fn take(&self, event: notify::Result<notify::Event>) {
        let mut signs = self.lock();
        match event {
            // An error hides what it is about.
            Err(_) => signs.lost = true,
            Ok(event) if event.flag() == Some(Flag::Rescan) => signs.lost = true,
            Ok(event) => {
                let Some(sign) = sign_of(event.kind) else { return };
                match sign {
                    Told::Folders => signs.folders = true,
                    Told::File(sign) => {
                        for path in event.paths {
                            signs.put(path, sign, self.limit);
                        }
                    }
                }
            }
        }
        drop(signs);
        self.told.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Signs> {
        // Whole between any two statements.
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signs {
    fn put(&mut self, path: PathBuf, sign: Sign, limit: usize) {
        if let Some(before) = self.files.get_mut(&path) {
            *before = before.then(sign);
        } else if self.files.len() < limit {
            self.files.insert(path, sign);
        } else {
            self.lost = true;
        }
    }
}

enum Told {
    File(Sign),
    Folders,
}

fn sign_of(kind: EventKind) -> Option<Told> {
    Some(match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Told::File(Sign::Closed),
        // Reading is what everybody does, this daemon above all. A rename has its two halves as well.
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return None,
        EventKind::Create(CreateKind::Folder) => Told::Folders,
        EventKind::Create(_) => Told::File(Sign::Created),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Told::File(Sign::Arrived),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Told::File(Sign::Gone),
        EventKind::Modify(ModifyKind::Data(_)) => Told::File(Sign::Written),
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Told::File(Sign::Touched),
    })
}

fn explain(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => {
            "no inotify watch is free: raise the sysctl fs.inotify.max_user_watches; until then new files are found only by \
             looking through the folder"
                .to_owned()
        }
        ErrorKind::Io(why) if why.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "no inotify instance is free: raise the sysctl fs.inotify.max_user_instances; until then new files are found \
             only by looking through the folder"
                .to_owned()
        }
        _ => format!("cannot be watched ({error}): new files are found only by looking through the folder"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use notify::event::DataChange;

    use super::*;

    fn inbox(limit: usize) -> Inbox {
        Inbox { limit, signs: Mutex::default(), told: Notify::new() }
    }

    fn tell(inbox: &Inbox, kind: EventKind, path: &str) {
        inbox.take(Ok(notify::Event::new(kind).add_path(PathBuf::from(path))));
    }

    #[test]
    fn signs_of_one_file_are_one_and_too_many_files_are_told_as_lost() {
        let inbox = inbox(2);
        for _ in 0..1_000 {
            tell(&inbox, EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/a");
        }
        tell(&inbox, EventKind::Access(AccessKind::Close(AccessMode::Write)), "/a");
        tell(&inbox, EventKind::Modify(ModifyKind::Metadata(notify::event::MetadataKind::Any)), "/a");
        tell(&inbox, EventKind::Access(AccessKind::Open(AccessMode::Any)), "/never");
        let signs = inbox.read();
        assert_eq!(signs.files, HashMap::from([(PathBuf::from("/a"), Sign::Closed)]));
        assert!(!signs.lost && !signs.folders);
        for name in ["/a", "/b", "/c"] {
            tell(&inbox, EventKind::Create(CreateKind::File), name);
        }
        let signs = inbox.read();
        assert!(signs.files.len() == 2 && signs.lost);
        inbox.take(Ok(notify::Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert!(inbox.read().lost, "the kernel's own queue has overflowed");
        tell(&inbox, EventKind::Create(CreateKind::Folder), "/d");
        assert!(inbox.read().folders);
        assert!(!inbox.read().folders, "what was read is gone");
    }
}
