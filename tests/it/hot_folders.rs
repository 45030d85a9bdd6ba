//! Hot folders with a real daemon: what is put into one is in the local cloud once, whatever happens on the way.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::api::v1;

use crate::fixture::{PASSWORD, Stage, reason};
use crate::rig::Rig;

/// Under the load of all other tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// A stage whose device account uploads what is in `hot`.
struct Hot {
    stage: Stage,
    folder: tempfile::TempDir,
}

impl Hot {
    /// With more keys in `[[hot_folder]]`.
    async fn start(keys: &str) -> Self {
        let stage = Stage::start().await;
        let account = stage.sign_up().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut hot = Self { stage, folder };
        std::fs::create_dir(hot.path()).unwrap();
        let password = hot.folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
        let own = rustix::process::getuid().as_raw();
        let service = format!(
            "\n[[service_session]]\nname = \"kiosk\"\nallowed_uids = [{own}]\nusername = \"{}\"\npassword_file = \"{}\"\n",
            account.username,
            password.display()
        );
        let table = hot.table(keys);
        let adjust = |text: &str| text.replace("[session]", "[session]\nboot_spread_ms = 0") + &service + &table;
        hot.stage.restart_with(adjust).await;
        hot
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("hot")
    }

    fn table(&self, keys: &str) -> String {
        format!(
            "\n[[hot_folder]]\npath = \"{}\"\nkey = \"free/{{folder}}{{name}}\"\ndevice = \"kiosk-7\"\nquiet_ms = 100\n\
             check_interval_ms = 100\nretry_interval_ms = 200\n{keys}\n",
            self.path().display()
        )
    }

    /// Puts a whole file into the folder, as a camera does.
    fn put(&self, relative: &str, bytes: &[u8]) {
        let path = self.path().join(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The names of what is stored, without prefix and ids, each with how often.
    async fn stored(&self) -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        let bucket = self.stage.cloud.outputs()["BucketName"].clone();
        let mut pages = self.stage.s3().list_objects_v2().bucket(bucket).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page.unwrap().contents() {
                let key = object.key().unwrap();
                let relative = key.split_once("/free/").unwrap().1;
                let (stem, rest) = relative.split_at(relative.rfind('-').unwrap());
                // "-" and the 26 characters of the upload's id.
                *names.entry(format!("{stem}{}", &rest[27..])).or_insert(0) += 1;
            }
        }
        names
    }

    async fn status(&self) -> v1::HotFolder {
        let status = self.stage.gateway().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        status.hot_folders.into_iter().next().unwrap()
    }

    /// Waits until the folder is as it should be.
    #[track_caller]
    fn until<'a>(&'a self, is_so: impl Fn(&v1::HotFolder) -> bool + 'a) -> impl Future<Output = v1::HotFolder> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut last = v1::HotFolder::default();
            let found = async {
                loop {
                    last = self.status().await;
                    if is_so(&last) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let found = tokio::time::timeout(PATIENCE, found).await;
            assert!(found.is_ok(), "{caller}: it never comes to be so: {last:?}");
            last
        }
    }

    /// Waits until everything that was taken has been settled, and there is so much of it.
    async fn until_taken(&self, count: i64) {
        self.until(|folder| folder.taken_count == count && folder.open_count == 0 && folder.waiting_count == 0).await;
    }

    async fn until_stored(&self, name: &str, times: usize) {
        let stored = async {
            while self.stored().await.get(name) != Some(&times) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, stored).await.is_ok(), "{name} is never stored {times} times");
    }

    async fn uploads(&self) -> Vec<v1::Upload> {
        let request = v1::ListUploadsRequest { page_size: 1_000, ..Default::default() };
        self.stage.uploads().await.list_uploads(request).await.unwrap().into_inner().uploads
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn once(names: &[&str]) -> BTreeMap<String, usize> {
    names.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

#[tokio::test]
async fn what_is_put_into_the_folder_is_stored_once_also_after_a_restart_and_again_when_it_changes() {
    let mut hot = Hot::start("recursive = true").await;
    hot.put("a.jpg", b"first");
    hot.put("sub/deep/b.jpg", b"second");
    for left_alone in [".hidden.jpg", "c.jpg.part", "d.tmp", ".cache/e.jpg"] {
        hot.put(left_alone, b"not this");
    }
    hot.until_taken(2).await;
    let expected = once(&["a.jpg", "sub/deep/b.jpg"]);
    assert_eq!(hot.stored().await, expected);
    let upload = hot.uploads().await.into_iter().find(|upload| upload.path.ends_with("/a.jpg")).unwrap();
    assert_eq!((upload.state(), upload.total_bytes), (v1::UploadState::Succeeded, 5));
    assert!(upload.end_time.unwrap().seconds + 604_800 == upload.expire_time.unwrap().seconds);

    hot.stage.restart_with(str::to_owned).await;
    hot.until(|folder| folder.scan_time.is_some()).await;
    hot.put("new.jpg", b"third");
    hot.until_taken(1).await;
    // A rename over it, a write into it, other attributes: two new uploads, and one that is none.
    let next = hot.folder.path().join("next");
    std::fs::write(&next, b"first, changed").unwrap();
    std::fs::rename(next, hot.path().join("a.jpg")).unwrap();
    hot.until(|folder| folder.taken_count >= 2 && folder.open_count == 0).await;
    std::fs::set_permissions(hot.path().join("sub/deep/b.jpg"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(hot.path().join("sub/deep/b.jpg"), std::fs::Permissions::from_mode(0o664)).unwrap();
    hot.put("new.jpg", b"third, longer");
    // A file that was taken in while it was written is taken in again: only the store says when the last one is there.
    hot.until_stored("new.jpg", 2).await;
    hot.until(|folder| folder.open_count == 0 && folder.waiting_count == 0).await;
    let stored = hot.stored().await;
    let of = |name: &str| stored.get(name).copied().unwrap_or(0);
    assert_eq!((of("a.jpg"), of("new.jpg"), of("sub/deep/b.jpg")), (2, 2, 1), "{stored:?}");
}

#[tokio::test]
async fn stored_files_are_deleted_or_moved_and_others_stay() {
    let mut hot = Hot::start("after_upload = \"delete\"").await;
    hot.put("a.jpg", b"first");
    hot.until_taken(1).await;
    assert!(names(&hot.path()).is_empty());
    assert_eq!(hot.stored().await, once(&["a.jpg"]));

    let moved = hot.folder.path().join("moved");
    let to = format!("after_upload = \"move\"\nmove_to = \"{}\"", moved.display());
    hot.stage.restart_with(|text| text.replace("after_upload = \"delete\"", &to)).await;
    hot.put("b.jpg", b"second");
    hot.until_taken(1).await;
    assert_eq!((names(&hot.path()), names(&moved)), (vec![], vec!["b.jpg".to_owned()]));

    // What the store refuses stays where it is; a retry that gets through takes it away.
    hot.stage.restart_with(|text| text.replace("key = \"free/", "on_denied = \"fail\"\nkey = \"premium/")).await;
    hot.put("c.jpg", b"third");
    let folder = hot.until(|folder| folder.failed_count == 1 && folder.open_count == 0).await;
    assert_eq!((folder.last_error.as_str(), names(&hot.path())), ("", vec!["c.jpg".to_owned()]));
    let failed = hot.uploads().await.into_iter().find(|upload| upload.state() == v1::UploadState::Failed).unwrap();
    assert_eq!(failed.failure.unwrap().reason, "ACCESS_DENIED");
    hot.stage.restart_with(str::to_owned).await;
    hot.until(|folder| folder.scan_time.is_some() && folder.failed_count == 1).await;
    assert_eq!(hot.uploads().await.len(), 3, "it is not taken again by itself");
    let request = v1::CancelUploadRequest { name: failed.name };
    hot.stage.uploads().await.cancel_upload(request).await.unwrap();
    assert_eq!(names(&hot.path()), ["c.jpg"]);
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet_or_goes_away_is_shown_and_taken_up() {
    let hot = Hot::start("").await;
    std::fs::remove_dir(hot.path()).unwrap();
    let folder = hot.until(|folder| folder.state() == v1::HotFolderState::Missing).await;
    assert!(folder.last_error.contains("does not exist"), "{}", folder.last_error);
    // As after a mount: another folder is at the path, with files in it already.
    let other = hot.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("a.jpg"), b"first").unwrap();
    std::fs::rename(&other, hot.path()).unwrap();
    hot.until_taken(1).await;
    // Away and empty for a while, then back: nothing is uploaded twice.
    let away = hot.folder.path().join("away");
    std::fs::rename(hot.path(), &away).unwrap();
    std::fs::create_dir(hot.path()).unwrap();
    let scanned = hot.status().await.scan_time;
    hot.until(|folder| folder.state() == v1::HotFolderState::Watching && folder.scan_time != scanned).await;
    std::fs::remove_dir(hot.path()).unwrap();
    std::fs::rename(&away, hot.path()).unwrap();
    hot.put("b.jpg", b"second");
    hot.until_taken(2).await;
    assert_eq!(hot.stored().await, once(&["a.jpg", "b.jpg"]));

    std::fs::remove_dir_all(hot.path()).unwrap();
    std::fs::write(hot.path(), b"a file").unwrap();
    let folder = hot.until(|folder| folder.state() == v1::HotFolderState::Missing).await;
    assert!(folder.last_error.contains("is not a folder"), "{}", folder.last_error);
}

#[tokio::test]
async fn what_cannot_be_taken_is_shown_and_what_can_is_taken_all_the_same() {
    let mut hot = Hot::start("rescan_interval_ms = 1000").await;
    let long = "x".repeat(250) + ".jpg";
    // Together with the prefix the key of this one is too long: the file is refused, not the folder.
    hot.stage.restart_with(|text| text.replace("key = \"free/", &format!("key = \"free/{}/", "y".repeat(750)))).await;
    hot.put(&long, b"refused");
    let folder = hot.until(|folder| folder.refused_count == 1).await;
    assert!(folder.last_error.contains("at most 1024 are allowed"), "{}", folder.last_error);
    hot.put("a.jpg", b"taken");
    hot.until(|folder| folder.taken_count == 1 && folder.open_count == 0).await;
    std::fs::remove_file(hot.path().join(&long)).unwrap();
    hot.until(|folder| folder.refused_count == 0 && folder.last_error.is_empty()).await;
}

#[tokio::test]
async fn files_wait_in_the_folder_while_nothing_can_be_accepted() {
    let mut hot = Hot::start("max_queued_uploads = 3").await;
    hot.until(|folder| folder.state() == v1::HotFolderState::Watching).await;
    hot.stage.gateway().await.pause(v1::PauseRequest {}).await.unwrap();
    for number in 0..10 {
        hot.put(&format!("{number}.jpg"), b"photo");
    }
    let folder = hot.until(|folder| folder.open_count == 3 && folder.waiting_count == 7).await;
    assert!(folder.last_error.contains("max_queued_uploads"), "{}", folder.last_error);
    hot.stage.gateway().await.resume(v1::ResumeRequest {}).await.unwrap();
    hot.until_taken(10).await;
    assert!(hot.stored().await.values().all(|count| *count == 1));

    // No room on the disk for one more row: refused for now, and taken when there is room.
    let floor = "[upload]\ndisk_free_floor_bytes = 1125899906842624";
    hot.stage.restart_with(|text| text.replace("[upload]", floor)).await;
    hot.put("late.jpg", b"late");
    let folder = hot.until(|folder| folder.last_error.contains("less than the floor")).await;
    assert_eq!(folder.open_count, 0);
    hot.stage.restart_with(|text| text.replace(floor, "[upload]")).await;
    hot.until_taken(1).await;
    assert_eq!(hot.stored().await.len(), 11);
}

#[tokio::test]
async fn a_file_that_is_written_again_while_it_waits_is_stored_as_it_is_at_last() {
    let hot = Hot::start("after_upload = \"delete\"").await;
    hot.until(|folder| folder.state() == v1::HotFolderState::Watching).await;
    hot.stage.gateway().await.pause(v1::PauseRequest {}).await.unwrap();
    hot.put("a.jpg", b"first");
    hot.until(|folder| folder.open_count == 1 && folder.waiting_count == 0).await;
    hot.put("a.jpg", b"first and more");
    hot.until(|folder| folder.taken_count == 2).await;
    hot.stage.gateway().await.resume(v1::ResumeRequest {}).await.unwrap();
    hot.until_taken(2).await;
    assert!(names(&hot.path()).is_empty());
    assert_eq!(hot.stored().await, once(&["a.jpg"]), "of the first version nothing became visible");
    let reasons: Vec<_> = hot.uploads().await.into_iter().filter_map(|upload| upload.failure).collect();
    assert!(reasons.iter().any(|failure| failure.reason == "SOURCE_CHANGED"), "{reasons:?}");
}

#[tokio::test]
async fn a_reload_begins_and_ends_folders() {
    let hot = Hot::start("").await;
    hot.put("a.jpg", b"first");
    hot.until_taken(1).await;
    let other = hot.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let file = hot.stage.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let moved =
        text.replace(&format!("path = \"{}\"", hot.path().display()), &format!("path = \"{}\"", other.display()));
    std::fs::write(&file, &moved).unwrap();
    let reloaded = hot.stage.gateway().await.reload_config(v1::ReloadConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (reloaded.applied_keys.as_slice(), reloaded.restart_keys.len()),
        (&["hot_folder[0].path".to_owned()][..], 0)
    );
    std::fs::write(other.join("b.jpg"), b"second").unwrap();
    hot.put("c.jpg", b"nobody looks here");
    hot.until_taken(1).await;
    assert_eq!(hot.stored().await, once(&["a.jpg", "b.jpg"]));

    std::fs::write(&file, moved.replace("\nkey = \"free/", "\nkey = \"free/{nmae}")).unwrap();
    let error = hot.stage.gateway().await.reload_config(v1::ReloadConfigRequest {}).await.unwrap_err();
    assert_eq!(reason(&error), "INVALID_CONFIG");
    assert!(error.message().contains("names {nmae}"), "{}", error.message());
    std::fs::write(&file, &text).unwrap();
    hot.stage.gateway().await.reload_config(v1::ReloadConfigRequest {}).await.unwrap();
    hot.until_taken(1).await;
    assert_eq!(hot.stored().await, once(&["a.jpg", "b.jpg", "c.jpg"]), "a.jpg was known still");
}

/// A daemon that is killed again and again in the middle of it: every file becomes one upload, and is gone at last.
#[test]
fn a_burst_of_files_survives_kills() {
    let count: usize = std::env::var("TIDEGATE_BURST").map_or(150, |count| count.parse().unwrap());
    let kills = 5;
    let mut rig = Rig::start();
    rig.sign_in("kiosk@example.com");
    let (hot, password) = (rig.state_file("hot"), rig.state_file("password"));
    std::fs::create_dir(&hot).unwrap();
    std::fs::write(&password, crate::rig::PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = rig.state_file("tidegate.toml");
    let tables = format!(
        "\n[[service_session]]\nname = \"kiosk\"\nallowed_uids = [{}]\nusername = \"kiosk@example.com\"\n\
         password_file = \"{}\"\n[[hot_folder]]\npath = \"{}\"\nquiet_ms = 100\nretry_interval_ms = 200\n\
         after_upload = \"delete\"\nmax_tracked_files = 64\n",
        rustix::process::getuid().as_raw(),
        password.display(),
        hot.display()
    );
    let text = std::fs::read_to_string(&config).unwrap().replace("[session]", "[session]\nboot_spread_ms = 0");
    std::fs::write(&config, text + &tables).unwrap();
    rig.restart_daemon();
    let folder = hot.clone();
    let camera = std::thread::spawn(move || {
        for number in 0..count {
            std::fs::write(folder.join(format!("{number}.jpg")), format!("photo {number}")).unwrap();
        }
    });
    let wait = |left_at_most: usize| {
        let deadline =
            std::time::Instant::now() + PATIENCE.max(Duration::from_millis(50) * u32::try_from(count).unwrap());
        while names(&hot).len() > left_at_most {
            assert!(std::time::Instant::now() < deadline, "{:?} are left", names(&hot));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    camera.join().unwrap();
    for kill in 1..=kills {
        wait(count - count * kill / (kills + 1));
        rig.kill_daemon();
    }
    wait(0);
    let listed = rig.json(&["uploads", "--limit", "0"]);
    let mut of_path = BTreeMap::new();
    for upload in listed["uploads"].as_array().unwrap() {
        assert_eq!(upload["state"], "SUCCEEDED", "{upload}");
        *of_path.entry(upload["path"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(of_path.len(), count);
    assert!(of_path.values().all(|times| *times == 1), "{of_path:?}");
}

/// A storm of files: more than can be tracked, more than the kernel's queue holds where it is small, a kill in between.
#[tokio::test]
async fn a_burst_of_files_is_stored_once_each_across_restarts() {
    let count: usize = std::env::var("TIDEGATE_BURST").map_or(300, |count| count.parse().unwrap());
    let limits = "max_tracked_files = 64\nmax_queued_uploads = 200\nafter_upload = \"delete\"\nrecursive = true";
    let mut hot = Hot::start(limits).await;
    hot.until(|folder| folder.state() == v1::HotFolderState::Watching).await;
    let begun = std::time::Instant::now();
    let folder = hot.path();
    let camera = std::thread::spawn(move || {
        for number in 0..count {
            let sub = folder.join(format!("{}", number % 7));
            std::fs::create_dir_all(&sub).unwrap();
            std::fs::write(sub.join(format!("{number}.jpg")), format!("photo {number}")).unwrap();
        }
    });
    for _ in 0..3 {
        hot.until(|folder| folder.taken_count as usize >= count / 8).await;
        hot.stage.restart_with(str::to_owned).await;
    }
    tokio::task::spawn_blocking(|| camera.join().unwrap()).await.unwrap();
    let left = || (0..7).map(|sub| names(&hot.path().join(sub.to_string())).len()).sum::<usize>();
    tokio::time::timeout(PATIENCE.max(Duration::from_millis(50) * u32::try_from(count).unwrap()), async {
        while left() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    println!("{count} files in {:.1} s", begun.elapsed().as_secs_f64());
    let stored = hot.stored().await;
    assert_eq!(stored.len(), count);
    let twice: Vec<_> = stored.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
