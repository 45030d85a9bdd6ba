//! Files of the device. Promises that a file is read for a caller only where the caller itself could read it, that no
//! symbolic link and no `..` leads out of the configured roots, and that a file which is not the accepted one any more
//! is noticed; must never open a FIFO or a device in a way that waits.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use crc_fast::{CrcAlgorithm, Digest};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{UploadError, UploadFailure, failure};
use crate::caller::Caller;
use crate::failpoint::{Step, around};

/// What a file was when it was accepted. Every write changes the times; a replacement changes the inode. The number of
/// its file system is no part of it: after a reboot, or where a card was taken out and put back, the same file system may
/// have another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The inode.
    pub ino: u64,
    /// The size.
    pub size_bytes: u64,
    /// Last write, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Last change of any kind, nanoseconds since 1970.
    pub ctime_ns: i128,
}

impl Fingerprint {
    /// What a file with these attributes is.
    pub fn of(metadata: &fs::Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self {
            ino: metadata.ino(),
            size_bytes: metadata.len(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The configured root.
    pub root: PathBuf,
    /// The path beneath it.
    pub relative: PathBuf,
    /// What the file is now.
    pub fingerprint: Fingerprint,
}

/// The kernel's clock for file times ticks this slowly at worst (CONFIG_HZ=100): two writes within one tick have the
/// same time, so a file is only accepted once its last change is older than that.
const TIME_TICK: Duration = Duration::from_millis(20);
/// A checksum is computed over pieces of this size.
const READ_BYTES: u64 = 256 << 10;

/// Checks a file for a caller and syncs it with its directory. Blocks.
///
/// # Errors
/// `PathOutsideRoots`, `FileNotFound`, `NotARegularFile`, `FileNotReadable`, `Storage`.
pub fn accept(roots: &[PathBuf], path: &Path, caller: &Caller) -> Result<Accepted, UploadError> {
    let shown = path.display().to_string();
    let (root, relative) = place(roots, path)?;
    let opened = open(&root, &relative, Some(caller.uid)).map_err(|why| why.for_caller(&shown, caller.uid, roots))?;
    let failed = |what: &str, why: std::io::Error| UploadError::Storage(format!("{shown}: {what} failed: {why}"));
    around(Step::SourceSync, || opened.file.sync_all()).map_err(|why| failed("syncing the file", why))?;
    let named = around(Step::SourceDirectorySync, || opened.sync_parent());
    named.map_err(|why| failed("syncing its directory", why))?;
    let mut metadata = opened.file.metadata().map_err(|why| failed("reading its attributes", why))?;
    let changed = SystemTime::UNIX_EPOCH
        + Duration::from_secs(metadata.ctime().max(0).cast_unsigned())
        + Duration::from_nanos(metadata.ctime_nsec().max(0).cast_unsigned());
    if changed.elapsed().unwrap_or_default() < TIME_TICK {
        std::thread::sleep(TIME_TICK);
        metadata = opened.file.metadata().map_err(|why| failed("reading its attributes", why))?;
    }
    Ok(Accepted { root, relative, fingerprint: Fingerprint::of(&metadata) })
}

/// Opens an accepted file again. Blocks.
///
/// # Errors
/// SOURCE_MISSING, SOURCE_CHANGED, DEVICE_FAILED.
pub fn reopen(root: &Path, relative: &Path, accepted: &Fingerprint) -> Result<File, UploadFailure> {
    let opened = open(root, relative, None).map_err(|why| match why {
        OpenError::Missing => failure::failure(
            failure::SOURCE_MISSING,
            "the file was removed or renamed before it was sent: put it back as it was, or upload it again",
        ),
        OpenError::Kind(kind) => {
            failure::failure(failure::SOURCE_CHANGED, format!("the file was replaced by {kind}: upload it again"))
        }
        OpenError::Denied { .. } => failure::failure(
            failure::SOURCE_CHANGED,
            "the daemon may not read the file any more: restore its permissions and retry the upload",
        ),
        OpenError::Outside => failure::failure(failure::SOURCE_CHANGED, "the path leads out of its root now"),
        OpenError::Failed(why) => failure::failure(failure::DEVICE_FAILED, format!("opening the file failed: {why}")),
    })?;
    unchanged(&opened.file, accepted)?;
    Ok(opened.file)
}

/// Checks that an open file is still what was accepted. Blocks, shortly.
///
/// # Errors
/// SOURCE_CHANGED, DEVICE_FAILED.
pub fn unchanged(file: &File, accepted: &Fingerprint) -> Result<(), UploadFailure> {
    let metadata = file.metadata();
    let metadata =
        metadata.map_err(|why| failure::failure(failure::DEVICE_FAILED, format!("reading its attributes: {why}")))?;
    let now = Fingerprint::of(&metadata);
    if now == *accepted {
        return Ok(());
    }
    let what = if now.ino != accepted.ino {
        "replaced by another file"
    } else if now.size_bytes != accepted.size_bytes {
        "made shorter or longer"
    } else {
        "written to, or its attributes were changed"
    };
    Err(failure::failure(
        failure::SOURCE_CHANGED,
        format!("the file was {what} after it was accepted: nothing was stored; upload it again"),
    ))
}

/// Which root the path is beneath, and where.
fn place(roots: &[PathBuf], path: &Path) -> Result<(PathBuf, PathBuf), UploadError> {
    let outside = || UploadError::PathOutsideRoots {
        path: path.display().to_string(),
        roots: roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    if !path.is_absolute() {
        return Err(outside());
    }
    // The longest root that fits: roots may lie in one another.
    let root = roots.iter().filter(|root| path.starts_with(root)).max_by_key(|root| root.components().count());
    let root = root.ok_or_else(outside)?;
    let relative = path.strip_prefix(root).map_err(|_| outside())?;
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(outside());
    }
    if relative.as_os_str().is_empty() {
        return Err(UploadError::NotARegularFile { path: path.display().to_string(), kind: "a directory" });
    }
    Ok((root.clone(), relative.to_owned()))
}

enum OpenError {
    Missing,
    Kind(&'static str),
    Outside,
    /// The caller could not read it, or the daemon cannot.
    Denied {
        by_daemon: bool,
    },
    Failed(std::io::Error),
}

impl OpenError {
    fn for_caller(self, path: &str, uid: u32, roots: &[PathBuf]) -> UploadError {
        let path = path.to_owned();
        match self {
            Self::Missing => UploadError::FileNotFound(path),
            Self::Kind(kind) => UploadError::NotARegularFile { path, kind },
            Self::Outside => UploadError::PathOutsideRoots {
                path,
                roots: roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", "),
            },
            Self::Denied { by_daemon: false } => UploadError::FileNotReadable(path, uid),
            Self::Denied { by_daemon: true } => UploadError::FileNotReadable(format!("{path} (by the daemon)"), uid),
            Self::Failed(why) => UploadError::Storage(format!("{path}: opening failed: {why}")),
        }
    }
}

struct Opened {
    file: File,
    parent: OwnedFd,
}

impl Opened {
    fn sync_parent(&self) -> std::io::Result<()> {
        // The walk holds directories by O_PATH, which cannot be synced.
        match openat2(&self.parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH) {
            Ok(directory) => match rustix::fs::fsync(&directory) {
                // Some file systems (FUSE, network shares) cannot sync a directory.
                Ok(()) | Err(Errno::INVAL) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            // Searchable, but not readable: the whole file system then.
            Err(Errno::ACCESS) => Ok(rustix::fs::syncfs(&self.file)?),
            Err(errno) => Err(errno.into()),
        }
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Walks down from the root, one directory at a time, each held open: what is checked is what is opened, also where
/// somebody renames things meanwhile. `uid` is the caller for whom the file is opened; root may read whatever the
/// daemon may, because it could do so itself.
fn open(root: &Path, relative: &Path, uid: Option<u32>) -> Result<Opened, OpenError> {
    let asks = uid.filter(|uid| *uid != 0);
    let mut searchable = match asks {
        Some(_) => is_searchable_from_the_top(root),
        None => true,
    };
    // Whether something exists in a directory that the caller cannot search is none of its business.
    let hide = |error: OpenError, searchable: bool| match error {
        OpenError::Missing | OpenError::Kind(_) if !searchable => OpenError::Denied { by_daemon: false },
        other => other,
    };
    let path_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut parent = rustix::fs::open(root, path_flags, Mode::empty()).map_err(from_errno)?;
    searchable &= asks.is_none_or(|uid| may_search(&parent, uid));
    let parts: Vec<_> = relative.components().map(Component::as_os_str).collect();
    let Some((name, directories)) = parts.split_last() else { return Err(OpenError::Outside) };
    for directory in directories {
        let next = openat2(&parent, *directory, path_flags | OFlags::NOFOLLOW, Mode::empty(), BENEATH);
        parent = next.map_err(|errno| hide(from_errno(errno), searchable))?;
        searchable &= asks.is_none_or(|uid| may_search(&parent, uid));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat2(&parent, *name, flags, Mode::empty(), BENEATH);
    let file = File::from(opened.map_err(|errno| hide(from_errno(errno), searchable))?);
    let metadata = file.metadata().map_err(OpenError::Failed)?;
    if let Some(kind) = other_kind(&metadata) {
        return Err(hide(OpenError::Kind(kind), searchable));
    }
    if let Some(uid) = asks {
        // Owner: could always make it readable. Others: group and world bits both, since the caller may be in the
        // file's group, whose bits then count instead of the world's.
        let readable = metadata.uid() == uid || (searchable && metadata.mode() & 0o044 == 0o044);
        if !readable {
            return Err(OpenError::Denied { by_daemon: false });
        }
    }
    Ok(Opened { file, parent })
}

fn from_errno(errno: Errno) -> OpenError {
    match errno {
        Errno::NOENT => OpenError::Missing,
        // ENOTDIR: a directory of the path is a file, or (O_DIRECTORY) a link.
        Errno::LOOP => OpenError::Kind("a symbolic link"),
        Errno::NOTDIR => OpenError::Missing,
        Errno::NXIO => OpenError::Kind("a socket"),
        Errno::XDEV => OpenError::Outside,
        Errno::ACCESS | Errno::PERM => OpenError::Denied { by_daemon: true },
        other => OpenError::Failed(other.into()),
    }
}

fn other_kind(metadata: &fs::Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = metadata.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// By group and world bits both, for the same reason as with files.
fn may_search(directory: &impl AsFd, uid: u32) -> bool {
    rustix::fs::fstat(directory).is_ok_and(|stat| {
        let all = stat.st_mode & 0o011 == 0o011;
        all || (stat.st_uid == uid && stat.st_mode & 0o100 != 0)
    })
}

/// CRC64NVME of `len` bytes from `offset` on. Blocks.
///
/// # Errors
/// `UnexpectedEof` where the file has fewer; otherwise as the file system says.
pub fn crc64nvme_of(file: &File, offset: u64, len: u64) -> std::io::Result<u64> {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut buffer = vec![0; usize::try_from(len.min(READ_BYTES)).unwrap_or_default()];
    let mut at = 0;
    while at < len {
        let want = usize::try_from((len - at).min(buffer.len() as u64)).unwrap_or(buffer.len());
        file.read_exact_at(&mut buffer[..want], offset + at)?;
        digest.update(&buffer[..want]);
        at += want as u64;
    }
    Ok(digest.finalize())
}

/// The directories above a root are the administrator's: world-searchable or not.
fn is_searchable_from_the_top(root: &Path) -> bool {
    let Ok(real) = fs::canonicalize(root) else { return false };
    real.ancestors().skip(1).all(|above| fs::metadata(above).is_ok_and(|metadata| metadata.mode() & 0o011 == 0o011))
}

#[cfg(test)]
mod tests;
