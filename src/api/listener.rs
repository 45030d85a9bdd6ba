//! The Unix socket: makes it, or takes it from systemd. Promises that nobody can connect before mode and group are
//! right, that a socket which somebody listens on is never taken away, that what a crash left is replaced, and that a
//! clean exit removes our own socket and nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

use super::Config;

/// What a Unix socket's address can hold.
const PATH_MAX_BYTES: usize = 107;
/// Connections that the kernel keeps until they are accepted; it clips this to `net.core.somaxconn`.
const BACKLOG: i32 = 1_024;
/// How long a daemon that starts at the same moment may hold the folder's lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// How long a socket may take to accept before it counts as live and busy.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Made beside the socket, 0700, and gone again before anybody can connect.
const NURSERY: &str = ".tidegate-new";
const SOCKET_IN_NURSERY: &str = ".tidegate-new/s";

/// The listening socket. Dropping it removes the file that it made; a socket from systemd stays.
#[derive(Debug)]
pub struct Listener {
    socket: tokio::net::UnixListener,
    file: Option<SocketFile>,
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("socket {path}: {holder} listens on it already: stop that one, or set another api.socket_path")]
    Taken {
        /// The path.
        path: String,
        /// "the process 123 (uid 5)", as the kernel tells.
        holder: String,
    },
    /// Something is there that is no socket.
    #[error("socket {path}: there is {kind}, which is not replaced: move it away, or set another api.socket_path")]
    NotASocket {
        /// The path.
        path: String,
        /// "a regular file".
        kind: &'static str,
    },
    /// The path does not fit into a socket's address.
    #[error("socket {path}: the path has {length_bytes} bytes, a socket's may have {PATH_MAX_BYTES}")]
    PathTooLong {
        /// The path.
        path: String,
        /// How long it is.
        length_bytes: usize,
    },
    /// The path names no file.
    #[error("socket {0}: is not the path of a file")]
    NoFileName(String),
    /// The group is not there.
    #[error("api.socket_group {0:?}: is neither in /etc/group nor a number")]
    NoSuchGroup(String),
    /// Another starting daemon holds the folder.
    #[error("socket {0}: another process keeps the folder locked: is another daemon starting here?")]
    Locked(String),
    /// systemd passed something else than one listening Unix socket.
    #[error("socket activation: {0}: the socket unit needs exactly one ListenStream= with a path")]
    Activation(String),
    /// A system call failed.
    #[error("socket {path}: cannot {action}: {source}")]
    Io {
        /// The path.
        path: String,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Listener {
    /// The socket that systemd passed, else a new one at the configured path.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub async fn open(config: &Config) -> Result<Self, ListenError> {
        match Self::activated()? {
            Some(listener) => Ok(listener),
            None => Self::bind(config).await,
        }
    }

    /// The socket that systemd passed (`LISTEN_FDS`), if it did; its path, mode and group are systemd's.
    ///
    /// # Errors
    /// `Activation`.
    pub fn activated() -> Result<Option<Self>, ListenError> {
        let activation = |error: io::Error| ListenError::Activation(error.to_string());
        let mut passed = listenfd::ListenFd::from_env();
        match passed.len() {
            0 => Ok(None),
            1 => {
                let socket = passed.take_unix_listener(0).map_err(activation)?;
                let socket = socket.ok_or_else(|| ListenError::Activation("the socket is gone".to_owned()))?;
                Ok(Some(Self { socket: into_tokio(socket).map_err(activation)?, file: None }))
            }
            count => Err(ListenError::Activation(format!("{count} sockets were passed"))),
        }
    }

    /// Makes the socket at the configured path. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub async fn bind(config: &Config) -> Result<Self, ListenError> {
        let place = Place::open(&config.socket_path)?;
        let group = config.socket_group.as_deref().map(group_id).transpose()?;
        place.lock().await?;
        place.refuse_unless_free().await?;
        let (socket, file) = place.make_socket(config.socket_mode, group)?;
        let socket = into_tokio(socket).map_err(|source| place.io("listen on it", source))?;
        Ok(Self { socket, file: Some(file) })
    }

    /// The next connection.
    ///
    /// # Errors
    /// As `accept(2)`; many pass, none closes the listener.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }

    /// False for a socket that systemd made.
    pub fn is_our_own(&self) -> bool {
        self.file.is_some()
    }
}

fn into_tokio(socket: std::os::unix::net::UnixListener) -> io::Result<tokio::net::UnixListener> {
    socket.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(socket)
}

/// Where the socket goes: its folder, open, and its name there.
struct Place {
    path: PathBuf,
    folder: OwnedFd,
    name: std::ffi::OsString,
}

impl Place {
    fn open(path: &Path) -> Result<Self, ListenError> {
        let shown = path.display().to_string();
        let length_bytes = path.as_os_str().as_bytes().len();
        if length_bytes > PATH_MAX_BYTES {
            return Err(ListenError::PathTooLong { path: shown, length_bytes });
        }
        let name = path.file_name().ok_or_else(|| ListenError::NoFileName(shown.clone()))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| ListenError::Io {
            path: shown,
            action: "open its folder (make it first)",
            source: error.into(),
        })?;
        Ok(Self { path: path.to_owned(), folder, name })
    }

    /// Two daemons that start together would both find a stale socket; the lock lets one go first. It ends with the
    /// descriptor, so nothing is left behind.
    async fn lock(&self) -> Result<(), ListenError> {
        let give_up = tokio::time::Instant::now() + LOCK_WAIT;
        loop {
            match rustix::fs::flock(&self.folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK) if tokio::time::Instant::now() >= give_up => {
                    return Err(ListenError::Locked(self.shown()));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => tokio::time::sleep(LOCK_POLL).await,
                Err(error) => return Err(self.io("lock its folder", error)),
            }
        }
    }

    /// `Ok` where nothing is there, or a socket that nobody listens on.
    async fn refuse_unless_free(&self) -> Result<(), ListenError> {
        match self.stat(&self.name) {
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.io("look at it", error)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket => {}
                kind => return Err(ListenError::NotASocket { path: self.shown(), kind: kind_name(kind) }),
            },
        }
        match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(&self.path)).await {
            Ok(Ok(stream)) => Err(self.taken(&holder(&stream))),
            Ok(Err(error)) => match error.kind() {
                // Reset: its listener closed while we were in its backlog.
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::NotFound => Ok(()),
                // A live listener with a full backlog.
                io::ErrorKind::WouldBlock => Err(self.taken("a process")),
                _ => Err(self.io("find out whether somebody listens on it", error)),
            },
            Err(_) => Err(self.taken("a process")),
        }
    }

    /// Binds in a private folder, sets group and mode, listens, and only then moves the socket to its place: there is
    /// no moment at which it can be reached with another mode.
    fn make_socket(
        &self,
        mode: u32,
        group: Option<Gid>,
    ) -> Result<(std::os::unix::net::UnixListener, SocketFile), ListenError> {
        // What a daemon that died right here left; we hold the lock.
        self.clear_nursery();
        let made = rustix::fs::mkdirat(&self.folder, NURSERY, Mode::RWXU);
        made.map_err(|error| self.io("make a folder beside it", error))?;
        let result = self.make_socket_in_nursery(mode, group);
        self.clear_nursery();
        result
    }

    fn make_socket_in_nursery(
        &self,
        mode: u32,
        group: Option<Gid>,
    ) -> Result<(std::os::unix::net::UnixListener, SocketFile), ListenError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.map_err(|error| self.io("make a socket", error))?;
        // By way of the open folder, so that the address is short however long the path is.
        let folder = std::os::fd::AsRawFd::as_raw_fd(&self.folder);
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{folder}/{SOCKET_IN_NURSERY}"));
        let bound = address.and_then(|address| rustix::net::bind(&socket, &address));
        bound.map_err(|error| self.io("bind it", error))?;
        if group.is_some() {
            let owned = rustix::fs::chownat(&self.folder, SOCKET_IN_NURSERY, None, group, AtFlags::empty());
            owned.map_err(|error| self.io("give it to api.socket_group", error))?;
        }
        let mode = Mode::from_raw_mode(mode & 0o777);
        let allowed = rustix::fs::chmodat(&self.folder, SOCKET_IN_NURSERY, mode, AtFlags::empty());
        allowed.map_err(|error| self.io("set its mode", error))?;
        rustix::net::listen(&socket, BACKLOG).map_err(|error| self.io("listen on it", error))?;
        let stat = self.stat(SOCKET_IN_NURSERY).map_err(|error| self.io("look at it", error))?;
        let folder = self.folder.try_clone().map_err(|error| self.io("keep its folder open", error))?;
        let moved = rustix::fs::renameat(&self.folder, SOCKET_IN_NURSERY, &self.folder, self.name.as_os_str());
        moved.map_err(|error| self.io("move it to its place", error))?;
        Ok((socket.into(), SocketFile { folder, name: self.name.clone(), identity: (stat.st_dev, stat.st_ino) }))
    }

    /// Best effort: what cannot be removed makes `mkdirat` say why.
    fn clear_nursery(&self) {
        let _ = rustix::fs::unlinkat(&self.folder, SOCKET_IN_NURSERY, AtFlags::empty());
        let _ = rustix::fs::unlinkat(&self.folder, NURSERY, AtFlags::REMOVEDIR);
    }

    fn stat(&self, name: impl rustix::path::Arg) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn taken(&self, holder: &str) -> ListenError {
        ListenError::Taken { path: self.shown(), holder: holder.to_owned() }
    }

    fn io(&self, action: &'static str, source: impl Into<io::Error>) -> ListenError {
        ListenError::Io { path: self.shown(), action, source: source.into() }
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The socket's file keeps a duplicate of the descriptor, and a lock lives as long as any of them.
        let _ = rustix::fs::flock(&self.folder, FlockOperation::NonBlockingUnlock);
    }
}

/// The file of the socket that we made.
#[derive(Debug)]
struct SocketFile {
    folder: OwnedFd,
    name: std::ffi::OsString,
    /// Device and inode: another daemon may have put its own socket there.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Not waited for: who holds the lock is a daemon that starts, and replaces the socket itself.
        if rustix::fs::flock(&self.folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        let name = self.name.as_os_str();
        if let Ok(stat) = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && (stat.st_dev, stat.st_ino) == self.identity
        {
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

/// The process at the other end of a probe, as the kernel names it.
fn holder(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(peer) => match peer.pid().filter(|pid| *pid > 0) {
            Some(pid) => format!("process {pid} (uid {})", peer.uid()),
            None => format!("a process of uid {}", peer.uid()),
        },
        Err(_) => "a process".to_owned(),
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        _ => "something that is no socket",
    }
}

/// A group's number, by its name in `/etc/group` or as a number.
fn group_id(group: &str) -> Result<Gid, ListenError> {
    let file = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let by_name = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    let id: Option<u32> = by_name.or_else(|| group.parse().ok());
    id.map(Gid::from_raw).ok_or_else(|| ListenError::NoSuchGroup(group.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn config(folder: &tempfile::TempDir) -> Config {
        Config { socket_path: folder.path().join("tidegate.sock"), ..Config::default() }
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_is_removed_on_exit() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { socket_mode: 0o620, ..config(&folder) };
        let listener = Listener::bind(&config).await.unwrap();
        let file = std::fs::metadata(&config.socket_path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o620);
        assert_eq!(names(&folder), ["tidegate.sock"]);
        UnixStream::connect(&config.socket_path).await.unwrap();
        listener.accept().await.unwrap();
        drop(listener);
        assert!(names(&folder).is_empty());
    }

    #[tokio::test]
    async fn a_group_is_taken_by_name_or_number() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(group_id("root").unwrap().as_raw(), 0);
        let own = rustix::process::getegid().as_raw();
        let config = Config { socket_group: Some(own.to_string()), ..config(&folder) };
        let _listener = Listener::bind(&config).await.unwrap();
        assert_eq!(std::fs::metadata(&config.socket_path).unwrap().gid(), own);
        let config = Config { socket_group: Some("no such group".to_owned()), ..config };
        assert!(matches!(Listener::bind(&config).await, Err(ListenError::NoSuchGroup(_))));
    }

    #[tokio::test]
    async fn what_a_crash_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        drop(std::os::unix::net::UnixListener::bind(&config.socket_path).unwrap());
        std::fs::create_dir(folder.path().join(NURSERY)).unwrap();
        drop(std::os::unix::net::UnixListener::bind(folder.path().join(SOCKET_IN_NURSERY)).unwrap());
        let _listener = Listener::bind(&config).await.unwrap();
        UnixStream::connect(&config.socket_path).await.unwrap();
        assert_eq!(names(&folder), ["tidegate.sock"]);
    }

    #[tokio::test]
    async fn a_live_socket_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let first = Listener::bind(&config).await.unwrap();
        let error = Listener::bind(&config).await.unwrap_err();
        let expected = format!("process {} (uid", std::process::id());
        assert!(matches!(&error, ListenError::Taken { holder, .. } if holder.starts_with(&expected)), "{error}");
        UnixStream::connect(&config.socket_path).await.unwrap();
        drop(first);
    }

    #[tokio::test]
    async fn of_daemons_that_start_together_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let (a, b, c) = tokio::join!(Listener::bind(&config), Listener::bind(&config), Listener::bind(&config));
        assert_eq!([a, b, c].iter().filter(|result| result.is_ok()).count(), 1);
    }

    #[tokio::test]
    async fn anything_but_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        std::fs::write(&config.socket_path, "precious").unwrap();
        let error = Listener::bind(&config).await.unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { kind: "a regular file", .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&config.socket_path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn only_our_own_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder);
        let ours = Listener::bind(&config).await.unwrap();
        std::fs::remove_file(&config.socket_path).unwrap();
        let theirs = Listener::bind(&config).await.unwrap();
        drop(ours);
        UnixStream::connect(&config.socket_path).await.unwrap();
        drop(theirs);
        assert!(names(&folder).is_empty());
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_is_said_precisely() {
        let folder = tempfile::tempdir().unwrap();
        let long = Config { socket_path: folder.path().join("x".repeat(108)), ..Config::default() };
        assert!(matches!(Listener::bind(&long).await, Err(ListenError::PathTooLong { length_bytes: 109.., .. })));
        let nowhere = Config { socket_path: folder.path().join("nowhere/s"), ..Config::default() };
        let error = Listener::bind(&nowhere).await.unwrap_err().to_string();
        assert!(error.contains("make it first"), "{error}");
        let longest = PATH_MAX_BYTES - folder.path().as_os_str().len() - 1;
        let fits = Config { socket_path: folder.path().join("y".repeat(longest)), ..Config::default() };
        let _listener = Listener::bind(&fits).await.unwrap();
        UnixStream::connect(&fits.socket_path).await.unwrap();
    }
}
