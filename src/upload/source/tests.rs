#![allow(clippy::unwrap_used, clippy::type_complexity)]

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use super::*;

const STRANGER: u32 = 54_321;

struct Device {
    top: tempfile::TempDir,
    root: PathBuf,
}

impl Device {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("photos");
        fs::create_dir_all(root.join("sub")).unwrap();
        for directory in [top.path(), &root, &root.join("sub")] {
            fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        }
        Self { top, root }
    }

    fn file(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.root.join(name);
        fs::write(&path, "photo").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn accept(&self, path: &Path, uid: u32) -> Result<Accepted, UploadError> {
        accept(std::slice::from_ref(&self.root), path, &Caller { uid, gid: uid, is_admin: false })
    }
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn what_may_be_handed_over() {
    let device = Device::new();
    let world = device.file("world.jpg", 0o644);
    let own = device.file("sub/own.jpg", 0o600);
    let accepted = device.accept(&world, STRANGER).unwrap();
    assert_eq!((accepted.relative.as_path(), accepted.fingerprint.size_bytes), (Path::new("world.jpg"), 5));
    device.accept(&own, me()).unwrap();
    assert!(matches!(device.accept(&own, STRANGER), Err(UploadError::FileNotReadable(..))));
    let no_group = device.file("nogroup.jpg", 0o604);
    assert!(matches!(device.accept(&no_group, STRANGER), Err(UploadError::FileNotReadable(..))));
}

#[test]
fn a_closed_directory_hides_what_is_in_it() {
    let device = Device::new();
    device.file("sub/world.jpg", 0o644);
    fs::set_permissions(device.root.join("sub"), Permissions::from_mode(0o700)).unwrap();
    for name in ["sub/world.jpg", "sub/nothing.jpg", "sub"] {
        let answer = device.accept(&device.root.join(name), STRANGER);
        let hidden = matches!(answer, Err(UploadError::FileNotReadable(..)));
        assert!(hidden || name == "sub", "{name}: {answer:?}");
    }
    fs::set_permissions(device.root.join("sub"), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(device.top.path(), Permissions::from_mode(0o700)).unwrap();
    let answer = device.accept(&device.root.join("sub/world.jpg"), STRANGER);
    assert!(matches!(answer, Err(UploadError::FileNotReadable(..))), "closed above the root: {answer:?}");
    device.accept(&device.root.join("sub/world.jpg"), me()).unwrap();
}

#[test]
fn what_is_no_file_beneath_a_root_is_refused() {
    let device = Device::new();
    let world = device.file("world.jpg", 0o644);
    let outside = device.top.path().join("outside.jpg");
    fs::write(&outside, "secret").unwrap();
    symlink(&outside, device.root.join("link.jpg")).unwrap();
    symlink(&world, device.root.join("inner.jpg")).unwrap();
    symlink(device.top.path(), device.root.join("up")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, device.root.join("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(device.root.join("socket")).unwrap();
    let table: [(&str, &str); 13] = [
        ("nothing.jpg", "FileNotFound"),
        ("sub/nothing/x.jpg", "FileNotFound"),
        ("world.jpg/x", "FileNotFound"),
        ("sub", "a directory"),
        ("", "a directory"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("link.jpg", "a symbolic link"),
        ("inner.jpg", "a symbolic link"),
        ("up/outside.jpg", "FileNotFound"),
        ("../outside.jpg", "PathOutsideRoots"),
        ("sub/../../outside.jpg", "PathOutsideRoots"),
        ("sub/../world.jpg", "PathOutsideRoots"),
    ];
    for (name, expected) in table {
        let error = format!("{:?}", device.accept(&device.root.join(name), me()).unwrap_err());
        // A link in the middle is no directory: either answer names it.
        let fits = error.contains(expected) || (name.starts_with("up/") && error.contains("a symbolic link"));
        assert!(fits, "{name}: {error}");
    }
    for path in [&outside, Path::new("relative.jpg"), Path::new("/")] {
        let error = device.accept(path, me()).unwrap_err();
        assert!(matches!(error, UploadError::PathOutsideRoots { .. }), "{error}");
    }
}

#[test]
fn a_change_after_acceptance_is_noticed() {
    let device = Device::new();
    let changes: [(&str, fn(&Path)); 6] = [
        ("append", |path| fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap()),
        ("overwrite", |path| fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"PHOTO").unwrap()),
        ("truncate", |path| fs::File::create(path).map(drop).unwrap()),
        ("replace", |path| {
            let other = path.with_extension("new");
            fs::write(&other, "photo").unwrap();
            fs::rename(other, path).unwrap();
        }),
        ("remove", |path| fs::remove_file(path).unwrap()),
        ("link", |path| {
            fs::rename(path, path.with_extension("old")).unwrap();
            symlink(path.with_extension("old"), path).unwrap();
        }),
    ];
    for (name, change) in changes {
        let path = device.file("changing.jpg", 0o644);
        let accepted = device.accept(&path, me()).unwrap();
        let again = || reopen(&accepted.root, &accepted.relative, &accepted.fingerprint);
        again().unwrap();
        change(&path);
        let failure = again().unwrap_err();
        let expected = if name == "remove" { failure::SOURCE_MISSING } else { failure::SOURCE_CHANGED };
        assert_eq!(failure.reason, expected, "{name}: {}", failure.message);
        let _ = fs::remove_file(&path);
    }
}
