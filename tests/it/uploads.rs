//! Uploads from acceptance to S3, with real sessions and real signatures, against the local cloud.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::caller::Caller;
use tidegate::clock::Clock;
use tidegate::local_cloud::faults::{Effect, Rule};
use tidegate::session::{self, Identity, Sessions, SignInMethod};
use tidegate::store::s3;
use tidegate::upload::{Config, Destination, Ulid, UploadSpec, UploadState, UploadView, Uploads, WaitReason};
use tokio_util::sync::CancellationToken;

use crate::rehearsal::{PASSWORD, Rehearsal, bytes};

const ANA: Caller = Caller { uid: 1_000, gid: 1_000, is_admin: false };
const EMAIL: &str = "ana@example.com";
const TIMEOUT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
const PART: u64 = 8 << 20;

struct Stage {
    rehearsal: Rehearsal,
    dir: tempfile::TempDir,
}

struct Daemon {
    uploads: Uploads,
    sessions: Sessions,
    cancel: CancellationToken,
}

impl Stage {
    /// A local cloud with one confirmed user without a tier.
    async fn new() -> Self {
        let rehearsal = Rehearsal::start().await;
        rehearsal.sign_up(EMAIL).await;
        Self { rehearsal, dir: tempfile::tempdir().unwrap() }
    }

    async fn group(&self, name: &str) {
        let users = self.rehearsal.users(Some(self.rehearsal.administrator()));
        let add = users.admin_add_user_to_group().user_pool_id(&self.rehearsal.pool_id);
        add.username(EMAIL).group_name(self.rehearsal.group(name)).send().await.unwrap();
    }

    async fn sessions(&self, cancel: &CancellationToken, clock: &Clock) -> Sessions {
        let identity = Identity {
            name: "app".into(),
            tiered: true,
            tokens: Arc::new(self.rehearsal.tokens(TIMEOUT, clock)),
            credentials: Arc::new(self.rehearsal.enhanced_flow(TIMEOUT, clock)),
            federation: None,
            allow_client_role_choice: false,
            guests: false,
        };
        let config = session::Config { seal_key_file: self.dir.path().join("seal.key"), ..session::Config::default() };
        let state = self.dir.path().join("sessions");
        Sessions::start(config, vec![identity], &state, clock.clone(), cancel.clone()).await.unwrap()
    }

    async fn start(&self) -> Daemon {
        let (cancel, clock) = (CancellationToken::new(), Clock::system());
        let sessions = self.sessions(&cancel, &clock).await;
        let store = s3::Config {
            bucket: self.rehearsal.bucket.clone(),
            endpoint_url: Some(self.rehearsal.cloud.url().to_owned()),
            path_style: true,
            ..s3::Config::default()
        };
        let destination = Destination {
            name: "photos".into(),
            prefix: "users/{identity_id}/".into(),
            store: s3::open(store, clock.clone()).unwrap(),
        };
        let config = Config {
            file_roots: vec![self.dir.path().to_owned()],
            disk_free_floor_bytes: 0,
            backoff_initial_ms: 5,
            backoff_max_ms: 50,
            ..Config::default()
        };
        let state = self.dir.path().join("uploads");
        loop {
            let destinations = vec![destination.clone()];
            let (sessions, clock, cancel) = (sessions.clone(), clock.clone(), cancel.child_token());
            let started = Uploads::start(config.clone(), destinations, sessions.clone(), &state, clock, cancel.clone());
            match started.await {
                // The daemon before this one lets go of the lock with its last task.
                Err(tidegate::upload::StartError::Locked { .. }) => tokio::task::yield_now().await,
                uploads => return Daemon { uploads: uploads.unwrap(), sessions, cancel },
            }
        }
    }

    fn file(&self, name: &str, content: &[u8]) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::os::unix::fs::chown(&path, Some(ANA.uid), None).or_else(not_root).unwrap();
        path
    }

    async fn content(&self, key: &str) -> Vec<u8> {
        let get = self.rehearsal.admin_s3().get_object().bucket(&self.rehearsal.bucket).key(key).send().await;
        get.unwrap().body.collect().await.unwrap().to_vec()
    }
}

/// Without the right to give files away, the test's own uid is the caller's.
fn not_root(_: std::io::Error) -> std::io::Result<()> {
    Ok(())
}

impl Daemon {
    async fn sign_in(&self) {
        let method = SignInMethod::Password { username: EMAIL.into(), password: PASSWORD.into() };
        self.sessions.sign_in(&ANA, None, method).await.unwrap();
    }

    async fn stream(&self, key: &str, content: &[u8]) -> Ulid {
        let id = Ulid::generate();
        let mut ingest = self.uploads.begin(&ANA, id, spec(key)).await.unwrap();
        for chunk in content.chunks(256 << 10) {
            ingest.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        ingest.finish(content.len() as u64, None).await.unwrap();
        id
    }

    async fn until(&self, id: Ulid, wanted: impl Fn(&UploadView) -> bool) -> UploadView {
        let mut watched = self.uploads.watch(&ANA, id).await.unwrap();
        let found = tokio::time::timeout(PATIENCE, watched.wait_for(&wanted)).await;
        let now = self.uploads.get(&ANA, id).await.unwrap();
        match found {
            Ok(Ok(view)) => view.clone(),
            Ok(Err(_)) if wanted(&now) => now,
            _ => panic!("never as wanted: {now:?}"),
        }
    }

    async fn end(&self, id: Ulid) -> UploadView {
        self.until(id, |view| {
            matches!(view.state, UploadState::Succeeded | UploadState::Failed | UploadState::Cancelled)
        })
        .await
    }
}

fn spec(key: &str) -> UploadSpec {
    UploadSpec { key: key.into(), ..UploadSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tier_decides_and_an_upgrade_needs_no_new_sign_in() {
    let stage = Stage::new().await;
    stage.group("free").await;
    let daemon = stage.start().await;
    daemon.sign_in().await;
    let photo = bytes(300_000);
    let free = daemon.end(daemon.stream("free/cat.jpg", &photo).await).await;
    assert_eq!(free.state, UploadState::Succeeded, "{:?}", free.failure);
    assert_eq!(stage.content(&free.key).await, photo);
    let premium = daemon.stream("premium/cat.jpg", &photo).await;
    let denied = daemon.end(premium).await;
    assert_eq!(denied.failure.unwrap().reason, "ACCESS_DENIED");
    stage.group("paid").await;
    daemon.sessions.refresh(&ANA, None).await.unwrap();
    daemon.uploads.retry(&ANA, premium).await.unwrap();
    let paid = daemon.end(premium).await;
    assert_eq!(paid.state, UploadState::Succeeded, "{:?}", paid.failure);
    assert_eq!(stage.content(&paid.key).await, photo);
    daemon.uploads.drain(TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_64_mib_clip_survives_a_kill_in_the_middle() {
    let stage = Stage::new().await;
    stage.group("free").await;
    let daemon = stage.start().await;
    daemon.sign_in().await;
    let clip = bytes(64 << 20);
    let path = stage.file("clip.mp4", &clip);
    // Slow enough that the kill comes in the middle.
    let slow = Rule::new("s3:UploadPart", Effect::Delay).latency(Duration::from_millis(150));
    stage.rehearsal.cloud.faults().add(slow).unwrap();
    let id = daemon.uploads.create_from_file(&ANA, None, spec("free/clip.mp4"), Path::new(&path)).await.unwrap().id;
    daemon.until(id, |view| view.stored_bytes >= PART).await;
    daemon.cancel.cancel();
    daemon.uploads.drain(TIMEOUT).await;
    daemon.sessions.shutdown().await;
    let state = daemon.uploads.get(&ANA, id).await.unwrap();
    assert!(state.stored_bytes < clip.len() as u64, "it was too fast for this test");
    drop(daemon);
    stage.rehearsal.cloud.faults().clear();

    let daemon = stage.start().await;
    let done = daemon.end(id).await;
    assert_eq!(done.state, UploadState::Succeeded, "{:?}", done.failure);
    assert_eq!(done.crc64nvme, Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &clip)));
    assert!(stage.content(&done.key).await == clip, "the object is the file");
    let counters = stage.rehearsal.cloud.counters();
    assert_eq!(counters.of("s3:CreateMultipartUpload"), 1);
    let parts = counters.of("s3:UploadPart");
    assert!((8..=12).contains(&parts), "{parts} parts were sent for 8: at most the 4 in flight go twice");
    daemon.uploads.drain(TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_and_outages_end_in_one_object_with_put_object_alone() {
    let stage = Stage::new().await;
    stage.group("free").await;
    let daemon = stage.start().await;
    daemon.sign_in().await;
    let (small, large) = (bytes(100_000), bytes(9 << 20));
    let faults = stage.rehearsal.cloud.faults();
    for (content, operation) in [
        (&small, "s3:PutObject"),
        (&large, "s3:CreateMultipartUpload"),
        (&large, "s3:UploadPart"),
        (&large, "s3:CompleteMultipartUpload"),
    ] {
        for effect in [
            Effect::DropAfter,
            Effect::DropBefore,
            Effect::ExpiredCredentials,
            Effect::Error { status: 503, code: "SlowDown".into(), message: None },
        ] {
            faults.add(Rule::new(operation, effect.clone()).next(1)).unwrap();
            let before = stage.rehearsal.keys().await.len();
            let done = daemon.end(daemon.stream("free/cat.jpg", content).await).await;
            assert_eq!(done.state, UploadState::Succeeded, "{operation} {effect:?}: {:?}", done.failure);
            assert!(stage.content(&done.key).await == **content, "{operation} {effect:?}");
            assert_eq!(stage.rehearsal.keys().await.len(), before + 1, "{operation} {effect:?}");
            faults.clear();
        }
    }
    daemon.uploads.set_paused(true);
    let id = daemon.stream("free/later.jpg", &small).await;
    daemon.until(id, |view| view.state == UploadState::Waiting(WaitReason::Paused)).await;
    daemon.uploads.set_paused(false);
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    // Every write was signed with keys of the user's own role.
    let requests = stage.rehearsal.cloud.requests(0);
    let admin = stage.rehearsal.cloud.administrator().access_key_id.clone();
    let writes = requests.iter().filter(|request| request.operation == "s3:PutObject");
    assert!(writes.filter_map(|request| request.access_key_id.as_ref()).all(|key| *key != admin));
    daemon.uploads.drain(TIMEOUT).await;
}
