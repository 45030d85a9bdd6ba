//! What happens with a file that is in the store. Promises that only the very file which was uploaded is deleted or moved
//! (the same inode, size and times), that nothing is ever replaced, and that a crash in between is taken up again; must
//! never follow a symbolic link beneath the folder. Everything here blocks.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::config::{AfterUpload, OWN_NAMES};
use crate::upload::{EndedFile, Fingerprint};

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    /// It is gone from the folder.
    Away,
    /// It is another file by now, which was left alone.
    Changed,
    /// It was not done: what failed and what to do.
    Failed(String),
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Deletes or moves the file; `Keep` has nothing to do.
pub(super) fn dispose(folder: &Path, ended: &EndedFile, after: &AfterUpload) -> Done {
    let (within, name) = ended.relative.rsplit_once('/').unwrap_or((".", &ended.relative));
    let opened = rustix::fs::open(folder, FOLDER, Mode::empty())
        .and_then(|root| openat2(root, within, FOLDER, Mode::empty(), BENEATH));
    let parent = match opened {
        Ok(parent) => parent,
        // The whole sub-folder is gone, or something else is there.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Done::Changed,
        Err(errno) => return Done::Failed(format!("cannot open its folder: {errno}")),
    };
    let done = match after {
        AfterUpload::Keep => return Done::Changed,
        AfterUpload::Delete => delete(&parent, name, ended),
        AfterUpload::Move(target) if within == "." => shift(&parent, name, ended, target),
        AfterUpload::Move(target) => shift(&parent, name, ended, &target.join(within)),
    };
    done.unwrap_or_else(|errno| {
        let verb = if *after == AfterUpload::Delete { "deleted" } else { "moved" };
        let advice = match errno {
            Errno::ACCESS | Errno::PERM => {
                ": the daemon's user must be able to write to both folders (and under systemd they must be in \
                 ReadWritePaths)"
            }
            Errno::ROFS => ": mount it for writing (under systemd, name it in ReadWritePaths)",
            Errno::XDEV => {
                ": move_to must be on the same file system (and under systemd within the same ReadWritePaths)"
            }
            _ => "",
        };
        Done::Failed(format!("{}: cannot be {verb}: {errno}{advice}", folder.join(&ended.relative).display()))
    })
}

/// First gives it a name of its own, so that what is looked at last is what is deleted.
fn delete(parent: &OwnedFd, name: &str, ended: &EndedFile) -> Result<Done, Errno> {
    let doomed = format!("{OWN_NAMES}{}.deleting", ended.upload);
    // From before a crash.
    if let Some(there) = look(parent, &doomed)? {
        if is_same_but_renamed(&there, &ended.fingerprint) {
            unlinkat(parent, &doomed, AtFlags::empty())?;
            rustix::fs::fsync(parent)?;
            return Ok(Done::Away);
        }
        give_back(parent, &doomed, name)?;
        return Ok(Done::Changed);
    }
    if look(parent, name)? != Some(ended.fingerprint) {
        return Ok(Done::Changed);
    }
    rename(parent, name, parent, &doomed)?;
    match look(parent, &doomed)? {
        Some(there) if is_same_but_renamed(&there, &ended.fingerprint) => {
            unlinkat(parent, &doomed, AtFlags::empty())?;
            // A file that came back with a power cut would be uploaded again.
            rustix::fs::fsync(parent)?;
            Ok(Done::Away)
        }
        _ => {
            give_back(parent, &doomed, name)?;
            Ok(Done::Changed)
        }
    }
}

/// Moves it; a file that turns out to be another one is moved back.
fn shift(parent: &OwnedFd, name: &str, ended: &EndedFile, target: &Path) -> Result<Done, Errno> {
    if look(parent, name)? != Some(ended.fingerprint) {
        return Ok(Done::Changed);
    }
    make(target).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
    let into = rustix::fs::open(target, FOLDER, Mode::empty())?;
    let mut moved = name.to_owned();
    match rename(parent, name, &into, &moved) {
        Err(Errno::EXIST) => {
            moved = with_id(name, &ended.upload.to_string());
            rename(parent, name, &into, &moved)?;
        }
        other => other?,
    }
    if look(&into, &moved)?.is_some_and(|there| !is_same_but_renamed(&there, &ended.fingerprint)) {
        rename(&into, &moved, parent, name)?;
        return Ok(Done::Changed);
    }
    rustix::fs::fsync(&into)?;
    rustix::fs::fsync(parent)?;
    Ok(Done::Away)
}

/// Makes a folder that others can look into, as they could into the one where the file was.
fn make(target: &Path) -> std::io::Result<()> {
    if target.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))
}

fn look(parent: &OwnedFd, name: &str) -> Result<Option<Fingerprint>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
            #[allow(clippy::unnecessary_cast, clippy::cast_lossless)] // the widths differ between targets
            Ok(Some(Fingerprint {
                ino: stat.st_ino as u64,
                size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
                mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
                ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            }))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A rename is a change of its own to some file systems.
fn is_same_but_renamed(there: &Fingerprint, was: &Fingerprint) -> bool {
    Fingerprint { ctime_ns: was.ctime_ns, ..*there } == *was
}

/// Never replaces anything.
fn rename(from: &OwnedFd, name: &str, to: &OwnedFd, new_name: &str) -> Result<(), Errno> {
    match renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        // Some file systems (network shares, FUSE) cannot promise it: looking first is all there is.
        Err(Errno::INVAL | Errno::NOSYS) => match look(to, new_name)? {
            Some(_) => Err(Errno::EXIST),
            None => rustix::fs::renameat(from, name, to, new_name),
        },
        other => other,
    }
}

/// Gives a file its name back; where something else has the name by now it gets another one, in sight.
fn give_back(parent: &OwnedFd, doomed: &str, name: &str) -> Result<(), Errno> {
    match rename(parent, doomed, parent, name) {
        Err(Errno::EXIST) => {
            let id = doomed.trim_start_matches(OWN_NAMES).trim_end_matches(".deleting");
            rename(parent, doomed, parent, &with_id(name, id))
        }
        other => other,
    }
}

/// "cat.jpg" becomes "cat-{id}.jpg".
fn with_id(name: &str, id: &str) -> String {
    let dot = name.rfind('.').filter(|at| *at > 0).unwrap_or(name.len());
    format!("{}-{id}{}", &name[..dot], &name[dot..])
}

#[cfg(test)]
mod tests;
