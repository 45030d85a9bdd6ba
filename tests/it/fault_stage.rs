//! What the fault tests stand on: two people whose roles differ, an S3 behind a proxy that spoils requests, and the real
//! upload engine with the real S3 client. The S3 is the local cloud's, or another one that the environment names.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;
use tidegate::caller::Caller;
use tidegate::clock::Clock;
use tidegate::credential::static_keys::StaticKeys;
use tidegate::credential::{CredentialSource, SecretPlace, SourceConfig};
use tidegate::local_cloud::{Options, TemplateSource, template};
use tidegate::session::{self, Identity, Sessions, SignInMethod};
use tidegate::store::faulty::Faulty;
use tidegate::store::{UPLOAD_ID_METADATA, s3};
use tidegate::upload::{
    Config, Destination, KeyPolicy, StartError, Ulid, UploadError, UploadSpec, UploadState, UploadView, Uploads,
};
use tokio_util::sync::CancellationToken;

use crate::fault_proxy::Proxy;
use crate::rehearsal::{PASSWORD, Rehearsal, keys};

const TIMEOUT: Duration = Duration::from_secs(20);
/// How long anything may take on a loaded machine before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;

/// Who uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `s3:PutObject` and nothing else, as the template has it.
    PutOnly,
    /// May also look, list parts and abort.
    Reader,
}

impl Role {
    pub const BOTH: [Self; 2] = [Self::PutOnly, Self::Reader];

    pub fn caller(self) -> Caller {
        let uid = if self == Self::PutOnly { 1_000 } else { 1_001 };
        Caller { uid, gid: uid, is_admin: false }
    }

    pub fn name(self) -> &'static str {
        if self == Self::PutOnly { "put-only" } else { "reader" }
    }

    fn email(self) -> String {
        format!("{}@example.com", self.name())
    }
}

/// An S3 of somebody else's, with three keys: `admin`, `put-only` and `reader`, whose secrets are `NAME-secret`.
#[derive(Debug, Clone)]
struct Judge {
    url: String,
    bucket: String,
}

impl Judge {
    fn from_environment() -> Option<Self> {
        let url = std::env::var("TIDEGATE_FAULTS_S3_URL").ok()?;
        Some(Self { url, bucket: std::env::var("TIDEGATE_FAULTS_S3_BUCKET").unwrap_or_else(|_| "photos".into()) })
    }

    fn secret(name: &str) -> String {
        format!("{name}-secret")
    }
}

pub struct Stage {
    pub rehearsal: Rehearsal,
    pub proxy: Proxy,
    /// Sees what the daemons ask of the S3, and which writes they did not wait for.
    pub asked: Faulty,
    pub admin: Client,
    pub bucket: String,
    /// Short stalls and waits.
    pub config: Config,
    /// What the store is told about the S3.
    pub store: s3::Config,
    pub clock: Clock,
    pub dir: tempfile::TempDir,
    judge: Option<Judge>,
}

/// The template with a paid role that may look, list its parts and abort.
fn template_with_a_reader() -> String {
    let own = "              - Sid: OwnPremiumPhotos\n";
    let more = "              - Sid: Look\n                Effect: Allow\n                Action: \
                [s3:GetObject, s3:AbortMultipartUpload, s3:ListMultipartUploadParts]\n                Resource: !Sub \
                ${Bucket.Arn}/users/${!cognito-identity.amazonaws.com:sub}/*\n              - Sid: Names\n                \
                Effect: Allow\n                Action: s3:ListBucket\n                Resource: !GetAtt Bucket.Arn\n";
    let text = template::built_in().replace(own, &format!("{more}{own}"));
    assert!(text.contains("Sid: Look"), "the template's paid role has changed");
    text
}

impl Stage {
    /// On the S3 that the environment names, or the local cloud's.
    pub async fn new() -> Self {
        Self::on(Judge::from_environment(), Clock::system(), Clock::system()).await
    }

    /// On the local cloud.
    pub async fn on_local_cloud() -> Self {
        Self::on(None, Clock::system(), Clock::system()).await
    }

    /// On a local cloud that goes, as the device does, by this clock.
    pub async fn with_clock(clock: Clock) -> Self {
        Self::on(None, clock.clone(), clock).await
    }

    async fn on(judge: Option<Judge>, clock: Clock, clouds_clock: Clock) -> Self {
        let parameters = BTreeMap::from([("HostedDomainPrefix".to_owned(), "rehearsal".to_owned())]);
        let template = TemplateSource::Text(template_with_a_reader());
        let listen = ([127, 0, 0, 1], 0).into();
        let rehearsal =
            Rehearsal::with(Options { listen, template, parameters, clock: clouds_clock, ..Options::default() }).await;
        for (role, group) in [(Role::PutOnly, "free"), (Role::Reader, "paid")] {
            rehearsal.sign_up(&role.email()).await;
            let users = rehearsal.users(Some(rehearsal.administrator()));
            let add = users.admin_add_user_to_group().user_pool_id(&rehearsal.pool_id);
            add.username(role.email()).group_name(rehearsal.group(group)).send().await.unwrap();
        }
        let url = judge.as_ref().map_or(rehearsal.cloud.url(), |judge| judge.url.as_str());
        let upstream: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
        let proxy = Proxy::start(upstream);
        let admin = match &judge {
            None => rehearsal.admin_s3(),
            Some(judge) => {
                let config = rehearsal.s3_config(keys("admin", Judge::secret("admin"), None));
                Client::from_conf(config.endpoint_url(&judge.url).build())
            }
        };
        let bucket = judge.as_ref().map_or(&rehearsal.bucket, |judge| &judge.bucket).clone();
        let store = s3::Config {
            bucket: bucket.clone(),
            endpoint_url: Some(proxy.url()),
            path_style: true,
            connect_timeout_ms: 10_000,
            ..s3::Config::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let photos = dir.path().join("photos");
        std::fs::create_dir(&photos).unwrap();
        let config = Config {
            file_roots: vec![photos],
            disk_free_floor_bytes: 0,
            single_put_max_bytes: MIB,
            part_size_bytes: 5 * MIB,
            // Two parts are two parts, however fast loopback is.
            part_size_max_bytes: 5 * MIB,
            max_uploads_in_flight: 12,
            max_parts_in_flight: 12,
            backoff_initial_ms: 10,
            backoff_max_ms: 200,
            stall_timeout_ms: 200,
            complete_timeout_ms: 3_000,
            ..Config::default()
        };
        let asked = Faulty::new(s3::open(store.clone(), clock.clone()).unwrap());
        Self { rehearsal, proxy, asked, admin, bucket, config, store, clock, dir, judge }
    }

    pub fn is_local_cloud(&self) -> bool {
        self.judge.is_none()
    }

    fn identity(&self, role: Role) -> Identity {
        let credentials: Arc<dyn CredentialSource> = match &self.judge {
            None => Arc::new(self.rehearsal.enhanced_flow(TIMEOUT, &self.clock)),
            Some(_) => Arc::new(self.static_keys(role)),
        };
        Identity {
            name: role.name().into(),
            tiered: false,
            tokens: Arc::new(self.rehearsal.tokens(TIMEOUT, &self.clock)),
            credentials,
            federation: None,
            allow_client_role_choice: false,
            guests: false,
        }
    }

    fn static_keys(&self, role: Role) -> StaticKeys {
        use std::os::unix::fs::PermissionsExt as _;
        let (name, path) = (role.name(), self.dir.path().join(role.name()));
        let text = format!("aws_access_key_id = {name}\naws_secret_access_key = {}\n", Judge::secret(name));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let source = SourceConfig {
            region: "us-east-1".into(),
            identity_id: Some(name.into()),
            keys: Some(SecretPlace::File(path)),
            ..SourceConfig::default()
        };
        StaticKeys::new(&source, self.clock.clone()).unwrap()
    }

    pub fn destination(&self) -> Destination {
        let inner = s3::open(self.store.clone(), self.clock.clone()).unwrap();
        let store = Arc::new(self.asked.over(inner));
        Destination { name: "photos".into(), prefix: "users/{identity_id}/".into(), store }
    }

    /// Starts a daemon's inside; the people are signed in, or still are.
    pub async fn start(&self) -> Daemon {
        let cancel = CancellationToken::new();
        let config = session::Config {
            seal_key_file: self.dir.path().join("seal.key"),
            // A campaign of expired tokens is no fleet: whoever is denied may refresh at once.
            denied_refresh_initial_ms: 1,
            denied_refresh_max_ms: 1,
            max_upstream_calls_per_s: 1_000,
            upstream_burst: 1_000,
            boot_spread_ms: 1,
            ..session::Config::default()
        };
        let identities = Role::BOTH.map(|role| self.identity(role)).to_vec();
        let state = self.dir.path().join("sessions");
        let sessions = Sessions::start(config, identities, &state, self.clock.clone(), cancel.clone()).await.unwrap();
        for role in Role::BOTH {
            if sessions.get(&role.caller(), None).is_err() {
                let method = SignInMethod::Password { username: role.email(), password: PASSWORD.into() };
                sessions.sign_in(&role.caller(), Some(role.name()), method).await.unwrap();
            }
        }
        let state = self.dir.path().join("uploads");
        loop {
            let (cancel, clock) = (cancel.child_token(), self.clock.clone());
            let destinations = vec![self.destination()];
            let started =
                Uploads::start(self.config.clone(), destinations, sessions.clone(), &state, clock, cancel.clone());
            match started.await {
                // The daemon before this one lets go of the lock with its last task.
                Err(StartError::Locked { .. }) => tokio::task::yield_now().await,
                uploads => return Daemon { uploads: uploads.unwrap(), sessions, cancel },
            }
        }
    }

    pub fn photos(&self) -> PathBuf {
        self.dir.path().join("photos")
    }

    /// A file on the device that the person may hand over.
    pub fn file(&self, role: Role, name: &str, content: &[u8]) -> PathBuf {
        let path = self.photos().join(name);
        std::fs::write(&path, content).unwrap();
        // Without the right to give files away, the test's own uid is the caller's.
        let _ = std::os::unix::fs::chown(&path, Some(role.caller().uid), None);
        path
    }

    /// The spooled bytes of an upload.
    pub fn spooled(&self, id: Ulid) -> PathBuf {
        self.dir.path().join("uploads/spool").join(id.to_string())
    }

    pub fn spool_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("uploads/spool")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// The keys below a prefix, as the administrator sees them.
    pub async fn keys_below(&self, prefix: &str) -> Vec<String> {
        let listed = self.admin.list_objects_v2().bucket(&self.bucket).prefix(prefix).send().await.unwrap();
        listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }

    /// Lets the administrator's client learn the S3's time, which it may refuse once.
    pub async fn learn_time(&self) {
        let _ = self.admin.list_objects_v2().bucket(&self.bucket).send().await;
    }

    pub async fn content(&self, key: &str) -> Vec<u8> {
        let got = self.admin.get_object().bucket(&self.bucket).key(key).send().await.unwrap();
        got.body.collect().await.unwrap().to_vec()
    }

    pub async fn put(&self, key: &str, content: &[u8]) {
        let body = aws_sdk_s3::primitives::ByteStream::from(content.to_vec());
        self.admin.put_object().bucket(&self.bucket).key(key).body(body).send().await.unwrap();
    }

    /// The same, as if an upload of this id had made it.
    pub async fn put_as(&self, key: &str, content: &[u8], id: Ulid) {
        let body = aws_sdk_s3::primitives::ByteStream::from(content.to_vec());
        let put = self.admin.put_object().bucket(&self.bucket).key(key).body(body);
        put.metadata(UPLOAD_ID_METADATA, id.to_string()).send().await.unwrap();
    }

    /// Makes room at the S3: objects and multipart uploads go.
    pub async fn empty(&self) {
        let (admin, bucket) = (&self.admin, &self.bucket);
        loop {
            let keys = self.keys_below("").await;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                admin.delete_object().bucket(bucket).key(key).send().await.unwrap();
            }
        }
        let listed = admin.list_multipart_uploads().bucket(bucket).send().await.unwrap();
        for upload in listed.uploads() {
            let abort = admin.abort_multipart_upload().bucket(bucket).set_key(upload.key.clone());
            abort.set_upload_id(upload.upload_id.clone()).send().await.unwrap();
        }
    }

    /// Keys of multipart uploads that nobody has ended.
    pub async fn open_multiparts(&self) -> Vec<String> {
        let listed = self.admin.list_multipart_uploads().bucket(&self.bucket).send().await.unwrap();
        listed.uploads().iter().filter_map(|upload| upload.key().map(str::to_owned)).collect()
    }
}

pub struct Daemon {
    pub uploads: Uploads,
    pub sessions: Sessions,
    cancel: CancellationToken,
}

impl Daemon {
    /// Everything ends where it stands.
    pub async fn crash(self) {
        self.cancel.cancel();
        self.uploads.drain(TIMEOUT).await;
        self.sessions.shutdown().await;
    }

    /// The identity id that a person's uploads are pinned to.
    pub async fn identity_id(&self, role: Role) -> String {
        self.sessions.credentials(&role.caller(), None).await.unwrap().identity_id
    }

    pub async fn stream(
        &self,
        role: Role,
        id: Ulid,
        spec: UploadSpec,
        content: &[u8],
    ) -> Result<UploadView, UploadError> {
        let mut ingest = self.uploads.begin(&role.caller(), id, spec).await?;
        for chunk in content.chunks(256 << 10) {
            ingest.write(Bytes::copy_from_slice(chunk)).await?;
        }
        ingest.finish(content.len() as u64, None).await
    }

    pub async fn get(&self, role: Role, id: Ulid) -> UploadView {
        self.uploads.get(&role.caller(), id).await.unwrap()
    }

    /// Waits until the upload is as wanted; `None` where it never is.
    pub async fn until(
        &self,
        role: Role,
        id: Ulid,
        wanted: impl Fn(&UploadView) -> bool + Send + Sync,
    ) -> Option<UploadView> {
        let mut watched = self.uploads.watch(&role.caller(), id).await.unwrap();
        let found = tokio::time::timeout(PATIENCE, watched.wait_for(&wanted)).await;
        let found = found.ok().and_then(Result::ok).map(|view| view.clone());
        match found {
            Some(view) => Some(view),
            // The channel closes after the last change, which may have gone before.
            None => Some(self.get(role, id).await).filter(wanted),
        }
    }

    /// Waits until the upload has ended, or shows how it hangs.
    pub async fn end(&self, role: Role, id: Ulid) -> UploadView {
        match self.until(role, id, |view| ended(view.state)).await {
            Some(view) => view,
            None => self.get(role, id).await,
        }
    }
}

pub fn ended(state: UploadState) -> bool {
    matches!(state, UploadState::Succeeded | UploadState::Failed | UploadState::Cancelled)
}

pub fn spec(key: &str, exact: bool) -> UploadSpec {
    let key_policy = if exact { KeyPolicy::Exact } else { KeyPolicy::Unique };
    UploadSpec { key: key.into(), key_policy, ..UploadSpec::default() }
}

/// How often, by an environment variable.
pub fn times(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
