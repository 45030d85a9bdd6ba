//! The state directory: who has it, where things lie in it, and whether it can still be trusted. Promises that two
//! daemons never share it; must never try a failed sync again.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

use super::{StartError, UploadError};
use crate::failpoint::{Step, around};

/// The state directory, locked as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    spool: PathBuf,
    /// Closing it gives the lock back.
    lock: File,
    unclean: bool,
    broken: OnceLock<String>,
    /// Cancelled once `broken` is set.
    failed: CancellationToken,
}

impl StateDir {
    /// Makes and locks the directory.
    ///
    /// # Errors
    /// `Locked`, `StateDir`.
    pub fn open(root: &Path) -> Result<Self, StartError> {
        let fail = |what: &Path, why: std::io::Error| StartError::StateDir {
            path: root.display().to_string(),
            why: format!("{}: {why}: make it writable for the daemon's user", what.display()),
        };
        let spool = root.join("spool");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool).map_err(|why| fail(&spool, why))?;
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|why| fail(&path, why))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
                return Err(StartError::Locked { path: root.display().to_string(), pid: pid.to_owned() });
            }
            Err(errno) => return Err(fail(&path, errno.into())),
        }
        // For the message above only; the lock is the kernel's.
        lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(|why| fail(&path, why))?;
        let running = root.join("running");
        let unclean = running.exists();
        // On the disk before anything else: a power cut must not hide that this daemon ran. The directory's sync also makes
        // sure of the spool's name in it.
        let marked = around(Step::MarkerSync, || {
            File::create(&running)?.sync_all()?;
            File::open(root)?.sync_all()
        });
        marked.map_err(|why| fail(&running, why))?;
        // Its own name, where it is new. A parent that cannot be synced (a read-only file system, no permission to read it)
        // is one in which this daemon cannot have made anything either.
        if let Some(parent) = root.parent().and_then(|parent| File::open(parent).ok()) {
            let _ = parent.sync_all();
        }
        Ok(Self {
            root: root.to_owned(),
            spool,
            lock,
            unclean,
            broken: OnceLock::new(),
            failed: CancellationToken::new(),
        })
    }

    /// True where the last daemon did not stop in an orderly way.
    pub fn was_unclean(&self) -> bool {
        self.unclean
    }

    /// Says that this daemon stopped in an orderly way.
    pub fn close(&self) {
        if self.broken.get().is_none() {
            let _ = fs::remove_file(self.root.join("running"));
        }
    }

    /// Gives the lock back. Only once nobody can write any more: the journal's thread and the last handles end a little
    /// later, by themselves, and a daemon that starts in between must not be refused.
    pub fn release(&self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }

    /// The journal's file.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.db")
    }

    /// Where bytes from the socket lie.
    pub fn spool(&self) -> &Path {
        &self.spool
    }

    /// From now on nothing is accepted: a write or a sync failed, and what the disk holds is not known any more.
    pub fn distrust(&self, why: &str) {
        if self.broken.set(why.to_owned()).is_ok() {
            tracing::error!(why, "the state directory failed: nothing more is accepted until a restart");
            self.failed.cancel();
        }
    }

    /// False after a failed sync.
    pub fn is_trusted(&self) -> bool {
        self.broken.get().is_none()
    }

    /// Returns only after a failed write or sync: what failed.
    pub async fn failed(&self) -> &str {
        self.failed.cancelled().await;
        self.broken.get().map_or("", String::as_str)
    }

    /// Refuses where the directory is not trusted.
    ///
    /// # Errors
    /// `Storage`.
    pub fn check(&self) -> Result<(), UploadError> {
        match self.broken.get() {
            Some(why) => Err(UploadError::Storage(format!(
                "the state directory failed ({why}): nothing more is accepted; check the disk and restart the daemon"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_has_it() {
        let root = tempfile::tempdir().unwrap();
        let first = StateDir::open(root.path()).unwrap();
        assert!(!first.was_unclean());
        let error = StateDir::open(root.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        let second = StateDir::open(root.path()).unwrap();
        assert!(second.was_unclean(), "the first one did not say good-bye");
        second.close();
        drop(second);
        assert!(!StateDir::open(root.path()).unwrap().was_unclean());
    }

    #[test]
    fn a_failed_sync_is_final() {
        let root = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(root.path()).unwrap();
        state_dir.check().unwrap();
        state_dir.distrust("fdatasync: Input/output error");
        state_dir.distrust("another one");
        let error = state_dir.check().unwrap_err().to_string();
        assert!(error.contains("fdatasync: Input/output error"), "{error}");
    }
}
