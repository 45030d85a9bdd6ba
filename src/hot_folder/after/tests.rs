#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::*;
use crate::upload::Ulid;

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("hot/sub")).unwrap();
        Self { root }
    }

    fn hot(&self) -> PathBuf {
        self.root.path().join("hot")
    }

    fn done(&self) -> PathBuf {
        self.root.path().join("done")
    }

    /// Makes a file, as it is when it has been uploaded.
    fn uploaded(&self, relative: &str) -> EndedFile {
        let path = self.hot().join(relative);
        fs::write(&path, b"bytes").unwrap();
        let fingerprint = Fingerprint::of(&fs::symlink_metadata(path).unwrap());
        EndedFile { relative: relative.to_owned(), fingerprint, upload: Ulid::generate(), outcome: Ok(Some(1)) }
    }

    fn delete(&self, file: &EndedFile) -> Done {
        dispose(&self.hot(), file, &AfterUpload::Delete)
    }

    fn shift(&self, file: &EndedFile) -> Done {
        dispose(&self.hot(), file, &AfterUpload::Move(self.done()))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.path().join(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn the_uploaded_file_is_deleted_or_moved() {
    let place = Place::new();
    let (a, b) = (place.uploaded("a.jpg"), place.uploaded("sub/b.jpg"));
    assert_eq!((place.delete(&a), place.delete(&b)), (Done::Away, Done::Away));
    assert_eq!(place.names("hot"), ["sub"]);
    assert!(place.names("hot/sub").is_empty());
    let (a, b) = (place.uploaded("a.jpg"), place.uploaded("sub/b.jpg"));
    assert_eq!((place.shift(&a), place.shift(&b)), (Done::Away, Done::Away));
    assert_eq!(
        (place.names("done"), place.names("done/sub")),
        (vec!["a.jpg".into(), "sub".into()], vec!["b.jpg".into()])
    );
    let again = place.uploaded("a.jpg");
    assert_eq!(place.shift(&again), Done::Away);
    assert_eq!(place.names("done"), [format!("a-{}.jpg", again.upload), "a.jpg".to_owned(), "sub".to_owned()]);
    assert_eq!(place.delete(&again), Done::Changed, "what is gone already needs nothing");
}

#[test]
fn another_file_at_the_path_is_left_alone() {
    let place = Place::new();
    let hot = place.hot();
    type Change = fn(&Path);
    let changes: [Change; 5] = [
        |path| fs::write(path, b"other").unwrap(),
        |path| fs::write(path, b"longer bytes").unwrap(),
        |path| {
            let next = path.with_extension("next");
            fs::write(&next, b"bytes").unwrap();
            fs::rename(next, path).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
        },
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
    ];
    for change in changes {
        let file = place.uploaded("a.jpg");
        // The kernel's clock for file times ticks slowly.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(&hot.join("a.jpg"));
        let before = fs::symlink_metadata(hot.join("a.jpg")).unwrap();
        assert_eq!((place.delete(&file), place.shift(&file)), (Done::Changed, Done::Changed));
        let after = fs::symlink_metadata(hot.join("a.jpg")).unwrap();
        assert_eq!(Fingerprint::of(&before), Fingerprint::of(&after));
        assert_eq!(place.names("hot"), ["a.jpg", "sub"]);
        fs::remove_file(hot.join("a.jpg")).unwrap();
    }
}

#[test]
fn a_crash_in_between_is_taken_up_again() {
    let place = Place::new();
    let file = place.uploaded("a.jpg");
    let doomed = format!(".tidegate-{}.deleting", file.upload);
    fs::rename(place.hot().join("a.jpg"), place.hot().join(&doomed)).unwrap();
    fs::write(place.hot().join("a.jpg"), b"a new one").unwrap();
    assert_eq!(place.delete(&file), Done::Away);
    assert_eq!(place.names("hot"), ["a.jpg", "sub"]);
    assert_eq!(fs::read(place.hot().join("a.jpg")).unwrap(), b"a new one");

    // Somebody wrote to it right before: it gets its name back.
    let file = place.uploaded("b.jpg");
    std::thread::sleep(std::time::Duration::from_millis(20));
    let doomed = format!(".tidegate-{}.deleting", file.upload);
    fs::write(place.hot().join("b.jpg"), b"more than was uploaded").unwrap();
    fs::rename(place.hot().join("b.jpg"), place.hot().join(&doomed)).unwrap();
    assert_eq!(place.delete(&file), Done::Changed);
    assert_eq!(place.names("hot"), ["a.jpg", "b.jpg", "sub"]);
    // And another one where the name is taken meanwhile.
    fs::rename(place.hot().join("b.jpg"), place.hot().join(&doomed)).unwrap();
    fs::write(place.hot().join("b.jpg"), b"a third").unwrap();
    assert_eq!(place.delete(&file), Done::Changed);
    assert_eq!(
        place.names("hot"),
        ["a.jpg".to_owned(), format!("b-{}.jpg", file.upload), "b.jpg".into(), "sub".into()]
    );
}

#[test]
fn no_link_leads_out_of_the_folder() {
    let place = Place::new();
    let file = place.uploaded("sub/a.jpg");
    fs::rename(place.hot().join("sub"), place.root.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.root.path().join("elsewhere"), place.hot().join("sub")).unwrap();
    assert_eq!((place.delete(&file), place.shift(&file)), (Done::Changed, Done::Changed));
    assert_eq!(place.names("elsewhere"), ["a.jpg"]);
}

#[test]
fn a_failure_says_what_to_do() {
    let place = Place::new();
    let file = place.uploaded("a.jpg");
    fs::write(place.done(), b"not a folder").unwrap();
    let Done::Failed(why) = place.shift(&file) else { panic!("it cannot be moved into a file") };
    assert!(why.contains("a.jpg: cannot be moved"), "{why}");
    let shm = Path::new("/dev/shm");
    let apart = |path: &Path| fs::metadata(path).is_ok_and(|m| fs::metadata(place.hot()).unwrap().dev() != m.dev());
    if apart(shm) {
        let other = tempfile::tempdir_in(shm).unwrap();
        let Done::Failed(why) = dispose(&place.hot(), &file, &AfterUpload::Move(other.path().into())) else {
            panic!("it is another file system");
        };
        assert!(why.contains("same file system"), "{why}");
    }
    assert!(place.hot().join("a.jpg").exists());
}
