//! The ends of uploads, each once and in order, whoever is restarted: over the API, and with programs that run for them.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tidegate::api::v1;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use crate::fixture::{OTHER_UID, Stage, reason};
use crate::rig::{Rig, interrupt};

const PATIENCE: Duration = Duration::from_secs(60);

async fn watch(stage: &Stage, request: v1::WatchUploadsRequest) -> Streaming<v1::WatchUploadsResponse> {
    stage.uploads().await.watch_uploads(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<v1::WatchUploadsResponse>) -> v1::WatchUploadsResponse {
    let next = tokio::time::timeout(PATIENCE, stream.next()).await.expect("something comes");
    next.expect("the stream does not end").unwrap()
}

/// The name of the next upload that ended, and the token behind it.
async fn next_end(stream: &mut Streaming<v1::WatchUploadsResponse>) -> (String, String) {
    let answer = next(stream).await;
    (answer.upload.unwrap().name, answer.resume_token)
}

fn from(resume_token: &str) -> v1::WatchUploadsRequest {
    v1::WatchUploadsRequest { resume_token: resume_token.to_owned(), since: None }
}

#[tokio::test]
async fn every_end_comes_once_and_in_order_also_across_a_restart() {
    let mut stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let before = stage.upload_and_wait("free/before.jpg", b"x").await.unwrap();

    let mut stream = watch(&stage, v1::WatchUploadsRequest::default()).await;
    let first = next(&mut stream).await;
    assert!(first.upload.is_none() && !first.resume_token.is_empty());
    let a = stage.upload_and_wait("free/a.jpg", b"a").await.unwrap();
    let denied = stage.upload_and_wait("premium/b.jpg", b"b").await.unwrap();
    assert_eq!(denied.state(), v1::UploadState::Failed);
    assert_eq!(next_end(&mut stream).await.0, a.name);
    let (name, behind) = next_end(&mut stream).await;
    assert_eq!(name, denied.name);
    drop(stream);

    // While nobody watches, and across a restart: a new end, and that of a cancelled failure.
    let c = stage.upload_and_wait("free/c.jpg", b"c").await.unwrap();
    stage.restart_with(str::to_owned).await;
    let cancel = v1::CancelUploadRequest { name: denied.name.clone() };
    stage.uploads().await.cancel_upload(cancel.clone()).await.unwrap();
    stage.uploads().await.cancel_upload(cancel).await.unwrap();
    let mut stream = watch(&stage, from(&behind)).await;
    assert!(next(&mut stream).await.upload.is_none());
    assert_eq!(next_end(&mut stream).await.0, c.name);
    let again = next(&mut stream).await.upload.unwrap();
    assert_eq!((again.name, again.state), (denied.name.clone(), v1::UploadState::Cancelled.into()));
    let d = stage.upload_and_wait("free/d.jpg", b"d").await.unwrap();
    assert_eq!(next_end(&mut stream).await.0, d.name, "the second cancellation was no end");

    // By time: everything that is kept, or nothing.
    let since =
        |time: std::time::SystemTime| v1::WatchUploadsRequest { since: Some(time.into()), ..Default::default() };
    let mut stream = watch(&stage, since(std::time::UNIX_EPOCH)).await;
    next(&mut stream).await;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(next_end(&mut stream).await.0);
    }
    assert_eq!(names, [before.name, a.name, c.name, denied.name, d.name]);
    let mut stream = watch(&stage, since(std::time::SystemTime::now() + Duration::from_secs(60))).await;
    next(&mut stream).await;
    let e = stage.upload_and_wait("free/e.jpg", b"e").await.unwrap();
    assert_eq!(next_end(&mut stream).await.0, e.name);

    if let Some(channel) = stage.channel_of_other_uid().await {
        let mut other = v1::upload_service_client::UploadServiceClient::new(channel);
        let error = other.watch_uploads(from(&behind)).await.unwrap_err();
        assert_eq!(reason(&error), "INVALID_PAGE_TOKEN", "uid {OTHER_UID} has another's token");
        let mut stream = other.watch_uploads(since(std::time::UNIX_EPOCH)).await.unwrap().into_inner();
        assert!(next(&mut stream).await.upload.is_none());
        let more = tokio::time::timeout(Duration::from_millis(200), stream.next()).await;
        assert!(more.is_err(), "another uid's uploads do not exist: {more:?}");
    }
}

/// A running `tidegate watch`; ends with it.
struct Watching(Child);

impl Watching {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn interrupt(mut self) -> Option<i32> {
        interrupt(&self.0);
        self.0.wait().unwrap().code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never comes to be so");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_program_runs_once_for_each_upload_whoever_is_restarted() {
    let mut rig = Rig::start();
    rig.sign_in("ada@example.com");
    let (said, cursor) = (rig.state_file("said"), rig.state_file("cursor"));
    let line = format!("echo \"$TIDEGATE_STATE ${{TIDEGATE_KEY##*/}} $TIDEGATE_REASON\" >> {}", said.display());
    let watch = |rig: &Rig| {
        let cursor = cursor.to_str().unwrap();
        Watching::start(&mut rig.command(&["watch", "--cursor-file", cursor, "--shell", "--exec", &line]))
    };
    let upload = |rig: &Rig, key: &str| {
        let file = rig.photos().join("photo.jpg");
        std::fs::write(&file, b"a photo").unwrap();
        rig.run(&["upload", "--wait", "--exact", "--key", key, file.to_str().unwrap()])
    };
    let lines = || std::fs::read_to_string(&said).unwrap_or_default();
    let watching = watch(&rig);
    until(|| cursor.exists());
    assert!(upload(&rig, "free/a.jpg").status.success());
    assert_eq!(upload(&rig, "premium/b.jpg").status.code(), Some(4));
    until(|| lines().lines().count() == 2);
    rig.restart_daemon();
    assert!(upload(&rig, "free/c.jpg").status.success());
    until(|| lines().lines().count() == 3);
    // A program's line is there before its end is noted; another follower says what is noted after the third.
    let third = rig.state_file("third");
    let third_cursor = ["watch", "--since", "1h", "--count", "3", "--cursor-file", third.to_str().unwrap()];
    assert!(rig.run(&third_cursor).status.success());
    until(|| std::fs::read(&cursor).unwrap() == std::fs::read(&third).unwrap());
    assert_eq!(watching.interrupt(), Some(130));
    assert!(upload(&rig, "free/d.jpg").status.success());
    let watching = watch(&rig);
    until(|| lines().lines().count() == 4);
    drop(watching);
    assert_eq!(lines(), "SUCCEEDED a.jpg \nFAILED b.jpg ACCESS_DENIED\nSUCCEEDED c.jpg \nSUCCEEDED d.jpg \n");

    // A bounded number of ends, from a time on; a program that fails, and one that there is not.
    let failing = rig.run(&["watch", "--since", "1h", "--count", "4", "--jobs", "2", "--exec", "false"]);
    assert_eq!(failing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failing.stderr).contains("4 of 4 programs failed"));
    let missing = rig.run(&["watch", "--since", "1h", "--exec", "/no/such/program"]);
    assert_eq!(missing.status.code(), Some(5), "{}", String::from_utf8_lossy(&missing.stderr));
    let shown = rig.run(&["watch", "--since", "1h", "--count", "4", "--json"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.lines().filter(|line| line.contains("\"SUCCEEDED\"")).count(), 3, "{shown}");
}

#[test]
fn a_source_file_is_removed_only_when_its_bytes_are_stored() {
    let rig = Rig::start();
    rig.sign_in("ada@example.com");
    let file = |name: &str| {
        let file = rig.photos().join(name);
        std::fs::write(&file, name.repeat(1_000)).unwrap();
        file
    };
    let remove = ["upload", "--wait", "--remove-source-files"];
    let run = |arguments: &[&str]| rig.run(&[&remove[..], arguments].concat());
    let (streamed, by_path) = (file("a.jpg"), file("b.jpg"));
    assert!(run(&[streamed.to_str().unwrap()]).status.success());
    assert!(run(&["--by-path", by_path.to_str().unwrap()]).status.success());
    assert!(!streamed.exists() && !by_path.exists());
    let denied = file("c.jpg");
    assert_eq!(run(&["--key-prefix", "premium/", denied.to_str().unwrap()]).status.code(), Some(4));
    assert!(denied.exists());
    let usage = rig.run(&["upload", "--remove-source-files", denied.to_str().unwrap()]);
    assert_eq!(usage.status.code(), Some(2), "without waiting nobody knows");
}
