//! A device for tests: people who sign in and out, a faulty store, and a daemon that can crash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::clock::Clock;
use crate::session::{SessionError, SessionId, SessionKind, SessionState, SessionView};
use crate::store::faulty::Faulty;
use crate::store::{Signer, directory};
use crate::upload::tenants::Tenants;
use crate::upload::{
    Config, Destination, ExpectedChecksum, StartError, Ulid, UploadError, UploadSpec, UploadState, UploadView, Uploads,
};

pub(super) const ALICE: Caller = Caller { uid: 1001, gid: 1001, is_admin: false };
pub(super) const BOB: Caller = Caller { uid: 1002, gid: 1002, is_admin: false };
const PATIENCE: Duration = Duration::from_secs(30);

/// Who is signed in, and how often somebody asked for other credentials.
#[derive(Debug)]
pub(super) struct People {
    state: Mutex<PeopleState>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct PeopleState {
    signed_in: BTreeSet<u32>,
    signing_out: BTreeSet<u32>,
    done: Vec<SessionId>,
    generation: BTreeMap<u32, u32>,
    refreshes: u32,
    too_early: bool,
    /// Who is a guest.
    guests: BTreeSet<u32>,
    /// Who it is that is signed in under a uid, where that is not always the same one.
    users: BTreeMap<u32, &'static str>,
    /// How many more times somebody who asks is told that sessions take uploads; then everybody signs out.
    looks_left: Option<u32>,
}

impl People {
    pub(super) fn sign_in(&self, uid: u32) {
        let mut state = self.state.lock().unwrap();
        state.signed_in.insert(uid);
        state.signing_out.remove(&uid);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The uid's session is this user's from now on.
    pub(super) fn sign_in_as(&self, uid: u32, user: &'static str) {
        self.state.lock().unwrap().users.insert(uid, user);
        self.sign_in(uid);
    }

    pub(super) fn sign_out(&self, uid: u32) {
        self.state.lock().unwrap().signed_in.remove(&uid);
        self.changes.send_modify(|count| *count += 1);
    }

    /// From now on this uid's session is a guest's.
    pub(super) fn make_guest(&self, uid: u32) {
        self.state.lock().unwrap().guests.insert(uid);
    }

    /// Everybody signs out after the next `looks` at whether a session takes uploads.
    pub(super) fn sign_out_after(&self, looks: u32) {
        self.state.lock().unwrap().looks_left = Some(looks);
    }

    /// Only uploads may go on with the session.
    pub(super) fn begin_sign_out(&self, uid: u32) {
        self.state.lock().unwrap().signing_out.insert(uid);
    }

    pub(super) fn refreshes(&self) -> u32 {
        self.state.lock().unwrap().refreshes
    }

    pub(super) fn refuse_refreshes(&self, too_early: bool) {
        self.state.lock().unwrap().too_early = too_early;
    }

    pub(super) fn done(&self) -> Vec<SessionId> {
        self.state.lock().unwrap().done.clone()
    }

    pub(super) fn groups_changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl PeopleState {
    fn identity_id(&self, uid: u32) -> String {
        format!("us-east-1:{uid}{}", self.users.get(&uid).unwrap_or(&""))
    }
}

pub(super) fn session_of(uid: u32) -> SessionId {
    SessionId(format!("session-{uid}"))
}

#[async_trait::async_trait]
impl Tenants for People {
    fn session(&self, caller: &Caller, id: Option<&SessionId>) -> Result<SessionView, SessionError> {
        let state = self.state.lock().unwrap();
        let own = session_of(caller.uid);
        if !state.signed_in.contains(&caller.uid) || id.is_some_and(|id| *id != own) {
            return Err(SessionError::NoSession);
        }
        let leaving = state.signing_out.contains(&caller.uid);
        Ok(SessionView {
            id: own,
            kind: if state.guests.contains(&caller.uid) { SessionKind::Guest } else { SessionKind::User },
            identity: "app".into(),
            subject: format!("sub-{}", caller.uid),
            username: String::new(),
            owner_uid: caller.uid,
            state: if leaving { SessionState::SigningOut } else { SessionState::Active },
            identity_id: Some(state.identity_id(caller.uid)),
            groups: Vec::new(),
            create_time: SystemTime::UNIX_EPOCH,
            credentials_expire_time: None,
            last_error: None,
            merged_from: None,
        })
    }

    fn takes_uploads(&self, session: &SessionId) -> bool {
        let mut state = self.state.lock().unwrap();
        match &mut state.looks_left {
            Some(0) => state.signed_in.clear(),
            Some(left) => *left -= 1,
            None => {}
        }
        let here = |uid: &&u32| session_of(**uid) == *session && !state.signing_out.contains(*uid);
        state.signed_in.iter().find(here).is_some()
    }

    fn guest_may_sign(&self, owner_uid: u32, _identity: &str, _identity_id: &str) -> bool {
        self.state.lock().unwrap().signed_in.contains(&owner_uid)
    }

    fn service(&self, caller: &Caller, name: &str) -> Result<SessionId, SessionError> {
        if name == "device" { Ok(session_of(caller.uid)) } else { Err(SessionError::NoSession) }
    }

    async fn identity_id(&self, caller: &Caller, _id: &SessionId) -> Result<String, SessionError> {
        Ok(self.state.lock().unwrap().identity_id(caller.uid))
    }

    async fn signer(&self, owner_uid: u32, _identity: &str, identity_id: &str) -> Result<Signer, SessionError> {
        let state = self.state.lock().unwrap();
        if !state.signed_in.contains(&owner_uid) || state.identity_id(owner_uid) != identity_id {
            return Err(SessionError::NeedsSignIn("sign in again".into()));
        }
        let generation = state.generation.get(&owner_uid).copied().unwrap_or(0);
        Ok(Signer {
            access_key_id: format!("{identity_id}#{generation}"),
            secret_access_key: "secret".into(),
            session_token: None,
        })
    }

    async fn refresh_after_denied(
        &self,
        owner_uid: u32,
        _identity: &str,
        identity_id: &str,
        denied: &str,
    ) -> Result<bool, SessionError> {
        let mut state = self.state.lock().unwrap();
        let generation = state.generation.get(&owner_uid).copied().unwrap_or(0);
        if denied != format!("{identity_id}#{generation}") {
            return Ok(true);
        }
        if state.too_early {
            return Ok(false);
        }
        state.refreshes += 1;
        state.generation.insert(owner_uid, generation + 1);
        Ok(true)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn signing_out(&self) -> Vec<SessionId> {
        self.state.lock().unwrap().signing_out.iter().map(|uid| session_of(*uid)).collect()
    }

    async fn uploads_done(&self, session: &SessionId) {
        self.state.lock().unwrap().done.push(session.clone());
    }
}

/// Small parts, short waits. Nothing stalls by itself: on a busy machine any call may take a while, and a second try would
/// be another story than the test's.
pub(super) fn config() -> Config {
    Config {
        single_put_max_bytes: 64 << 10,
        part_size_bytes: 64 << 10,
        part_size_max_bytes: 64 << 10,
        max_parts_in_flight: 4,
        max_uploads_in_flight: 4,
        // What 10,000 such parts hold: a stream's could not be this small otherwise.
        spool_max_bytes_per_uid: 512 << 20,
        part_attempts: 3,
        backoff_initial_ms: 1,
        backoff_max_ms: 5,
        stall_timeout_ms: 60_000,
        complete_timeout_ms: 60_000,
        disk_free_floor_bytes: 0,
        spool_sync_interval_bytes: 64 << 10,
        ..Config::default()
    }
}

pub(super) struct Device {
    pub(super) root: tempfile::TempDir,
    pub(super) people: Arc<People>,
    pub(super) store: Faulty,
    pub(super) clock: Clock,
    pub(super) config: Config,
}

impl Device {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let inner = directory::open(directory::Config { path: root.path().join("bucket") }).unwrap();
        let people = People { state: Mutex::default(), changes: watch::Sender::new(0) };
        people.sign_in(ALICE.uid);
        people.sign_in(BOB.uid);
        let photos = root.path().join("photos");
        std::fs::create_dir(&photos).unwrap();
        Self {
            people: Arc::new(people),
            store: Faulty::new(inner),
            clock: Clock::system(),
            config: Config { file_roots: vec![photos], ..config() },
            root,
        }
    }

    /// One that takes a transfer without a byte for a stall soon.
    pub(super) fn impatient() -> Self {
        let mut device = Self::new();
        device.config.stall_timeout_ms = 200;
        device.config.complete_timeout_ms = 400;
        device
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.root.path().join("state")
    }

    pub(super) fn destination(&self) -> Destination {
        Destination {
            name: "photos".into(),
            prefix: "users/{identity_id}/".into(),
            store: Arc::new(self.store.clone()),
        }
    }

    /// Starts a daemon; waits until the one before has let go of the state directory.
    pub(super) async fn start(&self) -> Running {
        loop {
            let (cancel, state_dir) = (CancellationToken::new(), self.state_dir());
            let started = Uploads::start_for(
                self.config.clone(),
                vec![self.destination()],
                Arc::clone(&self.people) as Arc<dyn Tenants>,
                &state_dir,
                self.clock.clone(),
                cancel.clone(),
            );
            match started.await {
                Err(StartError::Locked { .. }) => tokio::task::yield_now().await,
                other => return Running { uploads: other.unwrap(), cancel },
            }
        }
    }

    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.root.path().join("photos").join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn objects(&self) -> Vec<String> {
        directory::object_keys(&self.root.path().join("bucket")).unwrap()
    }

    pub(super) fn object(&self, key: &str) -> Vec<u8> {
        directory::read_object(&self.root.path().join("bucket"), key).unwrap()
    }

    pub(super) fn spool_files(&self) -> usize {
        std::fs::read_dir(self.state_dir().join("spool")).unwrap().count()
    }
}

pub(super) struct Running {
    pub(super) uploads: Uploads,
    cancel: CancellationToken,
}

impl std::ops::Deref for Running {
    type Target = Uploads;
    fn deref(&self) -> &Uploads {
        &self.uploads
    }
}

impl Running {
    /// Everything ends where it stands; nothing is put in order.
    pub(super) async fn crash(self) {
        self.cancel.cancel();
        self.uploads.wait_for_tasks().await;
    }

    pub(super) async fn stop(self) {
        self.uploads.drain(PATIENCE).await;
    }

    pub(super) async fn stream(&self, id: Ulid, spec: UploadSpec, content: &[u8]) -> Result<UploadView, UploadError> {
        let mut ingest = self.begin(&ALICE, id, spec).await?;
        for chunk in content.chunks(40_000) {
            ingest.write(Bytes::copy_from_slice(chunk)).await?;
        }
        ingest.finish(content.len() as u64, None).await
    }

    /// Waits until the upload is as asked.
    pub(super) async fn until(&self, id: Ulid, wanted: impl Fn(&UploadView) -> bool) -> UploadView {
        let owner = if self.get(&ALICE, id).await.is_ok() { ALICE } else { BOB };
        let mut watched = self.watch(&owner, id).await.unwrap();
        let found = tokio::time::timeout(PATIENCE, watched.wait_for(&wanted)).await;
        let now = self.get(&owner, id).await.unwrap();
        match found {
            Ok(Ok(view)) => view.clone(),
            // The channel closes after the last change, which may have gone before.
            Ok(Err(_)) if wanted(&now) => now,
            _ => panic!("never as wanted: {now:?}"),
        }
    }

    pub(super) async fn end(&self, id: Ulid) -> UploadView {
        self.until(id, |view| view.state.has_ended()).await
    }

    pub(super) async fn state(&self, id: Ulid, wanted: UploadState) -> UploadView {
        self.until(id, move |view| view.state == wanted).await
    }
}

pub(super) fn spec(key: &str) -> UploadSpec {
    UploadSpec { key: key.into(), ..UploadSpec::default() }
}

/// Bytes in which every part differs from every other.
pub(super) fn crc(content: &[u8]) -> ExpectedChecksum {
    ExpectedChecksum::Crc64Nvme(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, content))
}

pub(super) fn photo(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}
