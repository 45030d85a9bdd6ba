//! One sealed file per session in the state directory. Promises that a saved session is whole and durable when `save`
//! returns, and that a damaged file is a session that needs a sign-in, never a crash; must never write a token in the
//! clear.

mod devices;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

pub use devices::DevicePlace;

use super::endpoint_token::EndpointToken;
use super::seal::SealKey;
use super::{RememberedDevice, SessionError, SessionKind};
use crate::failpoint::{Step, around};

/// No session's file is longer; what is, is not ours.
const FILE_MAX_BYTES: u64 = 256 * 1024;
const SUFFIX: &str = "session";

/// What names a session: readable, but bound to the sealed part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its id.
    pub id: String,
    /// The identity's name.
    pub identity: String,
    /// The user's `sub`; empty for a guest, who has none, and for a service session, which learns it later.
    pub subject: String,
    /// Who owns it; [`NO_OWNER`] for a service session.
    pub owner_uid: u32,
    /// Who is signed in.
    // Left out for people: what was sealed before there were other kinds must still open.
    #[serde(default, skip_serializing_if = "is_user")]
    pub kind: SessionKind,
    /// The service session's name in the configuration; empty for people and guests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// When the user signed in here, milliseconds since 1970.
    pub create_time_unix_ms: i64,
}

/// The uid of nobody: a service session is its configuration's.
pub const NO_OWNER: u32 = u32::MAX;

/// What is sealed.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// The name the user signed in with.
    pub username: String,
    /// The `sub` of a service session, once known.
    pub subject: Option<String>,
    /// `iss` of the tokens.
    pub issuer: String,
    /// `aud` of the tokens.
    pub audience: String,
    /// The groups in the last ID token.
    pub groups: Vec<String>,
    /// The identity id, once known.
    pub identity_id: Option<String>,
    /// The refresh token, where there is one.
    pub refresh_token: Option<SecretString>,
    /// The device that the user pool remembers.
    pub device: Option<RememberedDevice>,
    /// The guest identity id whose objects stayed behind.
    pub merged_from: Option<String>,
    /// What the session's credentials endpoint takes.
    pub endpoint_token: Option<EndpointToken>,
    /// Who could have that token, for a service session: the uids that the configuration allowed last.
    pub allowed_uids: Vec<u32>,
    /// Whether the pool rotates refresh tokens; nothing before the first refresh has shown it.
    pub rotates: Option<bool>,
    /// A refresh that may rotate the refresh token was sent, and its reply has not come.
    pub reply_open: bool,
    /// For how long the refresh token has been refused. Counted while the daemon ran: after a restart the wall clock may
    /// be years off, and must neither wipe a token nor keep it for ever.
    pub refused_for_ms: Option<u64>,
    /// How long the session still drains, counted in the same way.
    pub draining_for_ms: Option<u64>,
}

/// A session as it was found.
#[derive(Debug)]
pub struct Found {
    /// What names it.
    pub place: Place,
    /// What was sealed; `None` where the key does not open it.
    pub contents: Option<Contents>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    #[serde(flatten)]
    place: Place,
    sealed: String,
}

#[derive(Serialize, Deserialize)]
struct Plain {
    username: String,
    #[serde(default)]
    subject: Option<String>,
    issuer: String,
    audience: String,
    groups: Vec<String>,
    identity_id: Option<String>,
    refresh_token: Option<String>,
    #[serde(default)]
    device: Option<PlainDevice>,
    #[serde(default)]
    merged_from: Option<String>,
    #[serde(default)]
    endpoint_token: Option<String>,
    #[serde(default)]
    allowed_uids: Vec<u32>,
    #[serde(default)]
    rotates: Option<bool>,
    #[serde(default)]
    reply_open: bool,
    refused_for_ms: Option<u64>,
    draining_for_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct PlainDevice {
    key: String,
    group_key: String,
    password: Option<String>,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.refresh_token.zeroize();
        self.endpoint_token.zeroize();
    }
}

impl Drop for PlainDevice {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

impl From<&RememberedDevice> for PlainDevice {
    fn from(device: &RememberedDevice) -> Self {
        let RememberedDevice { key, group_key, password } = device.clone();
        Self { key, group_key, password: password.map(|password| password.expose_secret().to_owned()) }
    }
}

impl From<PlainDevice> for RememberedDevice {
    fn from(mut plain: PlainDevice) -> Self {
        Self {
            key: std::mem::take(&mut plain.key),
            group_key: std::mem::take(&mut plain.group_key),
            password: plain.password.take().map(SecretString::from),
        }
    }
}

/// The directory of sealed sessions; clones share it.
#[derive(Debug, Clone)]
pub struct Files(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    key: SealKey,
}

impl Files {
    /// Opens (or makes) the directory and reads every session in it.
    ///
    /// # Errors
    /// `Storage` where the directory or the key cannot be used.
    pub async fn open(
        dir: PathBuf,
        credentials_dir: Option<PathBuf>,
        key_file: PathBuf,
    ) -> Result<(Self, Vec<Found>), SessionError> {
        blocking(move || {
            let key = SealKey::load(credentials_dir.as_deref(), &key_file)?;
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| unusable(&dir, &error))?;
            let found = read_all(&dir, &key).map_err(|error| unusable(&dir, &error))?;
            Ok((Self(Arc::new(Inner { dir, key })), found))
        })
        .await
    }

    /// Writes the session; durable when this returns.
    ///
    /// # Errors
    /// `Storage`; the file from before is whole then.
    pub async fn save(&self, place: Place, contents: Contents) -> Result<(), SessionError> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let path = inner.path(&place.id);
            inner.write(place, &contents).map_err(|error| unusable(&path, &error))
        })
        .await
    }

    /// Removes the session; durable when this returns. One that is not there is removed already.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn remove(&self, id: &str) -> Result<(), SessionError> {
        let inner = Arc::clone(&self.0);
        let path = inner.path(id);
        blocking(move || {
            match around(Step::SessionRemove, || std::fs::remove_file(&path)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(unusable(&path, &error)),
                _ => {}
            }
            inner.sync().map_err(|error| unusable(&path, &error))
        })
        .await
    }
}

impl Inner {
    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.{SUFFIX}"))
    }

    fn write(&self, place: Place, contents: &Contents) -> std::io::Result<()> {
        let plain = Plain {
            username: contents.username.clone(),
            subject: contents.subject.clone(),
            issuer: contents.issuer.clone(),
            audience: contents.audience.clone(),
            groups: contents.groups.clone(),
            identity_id: contents.identity_id.clone(),
            refresh_token: contents.refresh_token.as_ref().map(|token| token.expose_secret().to_owned()),
            device: contents.device.as_ref().map(PlainDevice::from),
            merged_from: contents.merged_from.clone(),
            endpoint_token: contents.endpoint_token.as_ref().map(|token| token.secret().expose_secret().to_owned()),
            allowed_uids: contents.allowed_uids.clone(),
            rotates: contents.rotates,
            reply_open: contents.reply_open,
            refused_for_ms: contents.refused_for_ms,
            draining_for_ms: contents.draining_for_ms,
        };
        let plain = Zeroizing::new(serde_json::to_vec(&plain)?);
        let sealed = STANDARD.encode(self.key.seal(&bound(&place), &plain));
        let name = place.id.clone();
        self.put(&name, SUFFIX, &serde_json::to_vec(&OnDisk { version: 1, place, sealed })?)
    }

    /// Puts a whole file in the place of the one before; durable when this returns.
    fn put(&self, name: &str, suffix: &str, text: &[u8]) -> std::io::Result<()> {
        let (path, temporary) = (self.dir.join(format!("{name}.{suffix}")), self.dir.join(format!("{name}.new")));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        around(Step::SessionSync, || file.sync_all())?;
        around(Step::SessionRename, || std::fs::rename(&temporary, &path))?;
        self.sync()
    }

    /// Makes sure of the names in the directory.
    fn sync(&self) -> std::io::Result<()> {
        around(Step::SessionDirectorySync, || File::open(&self.dir)?.sync_all())
    }
}

// serde hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_user(kind: &SessionKind) -> bool {
    *kind == SessionKind::User
}

/// What the sealed part is bound to; JSON keeps the fields apart whatever they hold.
fn bound(place: &Place) -> Vec<u8> {
    serde_json::to_vec(place).expect("strings and numbers are JSON")
}

fn read_all(dir: &Path, key: &SealKey) -> std::io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("new") => std::fs::remove_file(&path)?,
            Some(SUFFIX) => match read_one(&path, key) {
                Ok(session) => found.push(session),
                Err(why) => tracing::error!(file = %path.display(), why, "not a session: left where it is"),
            },
            _ => {}
        }
    }
    found.sort_by(|a, b| a.place.id.cmp(&b.place.id));
    Ok(found)
}

fn read_one(path: &Path, key: &SealKey) -> Result<Found, String> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let on_disk: OnDisk = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(on_disk.place.id.as_str()) {
        return Err("its name is not its id".to_owned());
    }
    if ulid::Ulid::from_string(&on_disk.place.id).is_err() {
        return Err("its id is no ULID".to_owned());
    }
    if on_disk.version != 1 {
        return Err(format!("version {} is not known here", on_disk.version));
    }
    let contents = STANDARD
        .decode(&on_disk.sealed)
        .ok()
        .and_then(|sealed| key.open(&bound(&on_disk.place), &sealed))
        .and_then(|plain| serde_json::from_slice::<Plain>(&plain).ok())
        .map(|mut plain| Contents {
            username: std::mem::take(&mut plain.username),
            subject: plain.subject.take(),
            issuer: std::mem::take(&mut plain.issuer),
            audience: std::mem::take(&mut plain.audience),
            groups: std::mem::take(&mut plain.groups),
            identity_id: plain.identity_id.take(),
            refresh_token: plain.refresh_token.take().map(SecretString::from),
            device: plain.device.take().map(RememberedDevice::from),
            merged_from: plain.merged_from.take(),
            endpoint_token: plain.endpoint_token.take().map(EndpointToken::kept),
            allowed_uids: std::mem::take(&mut plain.allowed_uids),
            rotates: plain.rotates,
            reply_open: plain.reply_open,
            refused_for_ms: plain.refused_for_ms,
            draining_for_ms: plain.draining_for_ms,
        });
    Ok(Found { place: on_disk.place, contents })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, SessionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(SessionError::Storage),
        Err(_) => Err(SessionError::Storage("the daemon is stopping".to_owned())),
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}: the state directory must be writable for the daemon and have room", path.display())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(id: &str, uid: u32) -> Place {
        Place {
            id: id.into(),
            identity: "app".into(),
            subject: "s-1".into(),
            owner_uid: uid,
            kind: SessionKind::User,
            service: String::new(),
            create_time_unix_ms: 5,
        }
    }

    fn contents() -> Contents {
        Contents {
            username: "ada@example.com".into(),
            identity_id: Some("us-east-1:1".into()),
            refresh_token: Some("canary-refresh".into()),
            ..Contents::default()
        }
    }

    async fn open(dir: &Path, key: &str) -> (Files, Vec<Found>) {
        Files::open(dir.join("sessions"), None, dir.join(key)).await.unwrap()
    }

    const ONE: &str = "01J00000000000000000000001";
    const TWO: &str = "01J00000000000000000000002";

    #[tokio::test]
    async fn what_was_saved_is_found_again_and_is_not_in_the_clear() {
        let dir = tempfile::tempdir().unwrap();
        let (files, found) = open(dir.path(), "k").await;
        assert!(found.is_empty());
        files.save(place(ONE, 7), contents()).await.unwrap();
        files.save(place(ONE, 7), contents()).await.unwrap();
        let text = std::fs::read_to_string(dir.path().join(format!("sessions/{ONE}.session"))).unwrap();
        assert!(!text.contains("canary") && !text.contains("us-east-1:1") && !text.contains("ada@"));
        let (files, found) = open(dir.path(), "k").await;
        assert_eq!(found.len(), 1);
        let got = found[0].contents.as_ref().unwrap();
        assert_eq!(got.refresh_token.as_ref().unwrap().expose_secret(), "canary-refresh");
        assert_eq!((found[0].place.owner_uid, got.identity_id.as_deref()), (7, Some("us-east-1:1")));
        files.remove(ONE).await.unwrap();
        files.remove(ONE).await.unwrap();
        assert!(open(dir.path(), "k").await.1.is_empty());
    }

    #[tokio::test]
    async fn what_was_kept_before_there_were_guests_still_opens() {
        let dir = tempfile::tempdir().unwrap();
        let (files, _) = open(dir.path(), "k").await;
        let path = dir.path().join(format!("sessions/{ONE}.session"));
        let bound =
            format!(r#"{{"id":"{ONE}","identity":"app","subject":"s-1","owner_uid":7,"create_time_unix_ms":5}}"#);
        let plain = r#"{"username":"ada","issuer":"i","audience":"a","groups":[],"identity_id":"us-east-1:1",
            "refresh_token":"canary","refused_since_unix_ms":null,"draining_until_unix_ms":null}"#;
        let sealed = STANDARD.encode(files.0.key.seal(bound.as_bytes(), plain.as_bytes()));
        std::fs::write(path, bound.replacen('{', &format!(r#"{{"version":1,"sealed":"{sealed}","#), 1)).unwrap();
        let (_, found) = open(dir.path(), "k").await;
        let contents = found[0].contents.as_ref().expect("the seal holds");
        assert_eq!((found[0].place.kind, contents.username.as_str()), (SessionKind::User, "ada"));
        let guest = Place { kind: SessionKind::Guest, subject: String::new(), ..place(TWO, 7) };
        files.save(guest.clone(), contents.clone()).await.unwrap();
        let (_, found) = open(dir.path(), "k").await;
        assert_eq!(found[1].place, guest);
        assert!(found[1].contents.is_some());
    }

    #[tokio::test]
    async fn a_wrong_key_damage_and_a_swapped_file_leave_a_session_without_contents() {
        let dir = tempfile::tempdir().unwrap();
        let (files, _) = open(dir.path(), "k").await;
        files.save(place(ONE, 7), contents()).await.unwrap();
        files.save(place(TWO, 8), contents()).await.unwrap();
        let (_, found) = open(dir.path(), "another").await;
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|session| session.contents.is_none()));

        let path = |id: &str| dir.path().join(format!("sessions/{id}.session"));
        let mut one: serde_json::Value = serde_json::from_slice(&std::fs::read(path(ONE)).unwrap()).unwrap();
        let two: serde_json::Value = serde_json::from_slice(&std::fs::read(path(TWO)).unwrap()).unwrap();
        one["sealed"] = two["sealed"].clone();
        std::fs::write(path(ONE), one.to_string()).unwrap();
        let mut stolen = two;
        stolen["owner_uid"] = 1_000.into();
        std::fs::write(path(TWO), stolen.to_string()).unwrap();
        let (_, found) = open(dir.path(), "k").await;
        assert!(found.iter().all(|session| session.contents.is_none()), "another place, another owner");
    }

    #[tokio::test]
    async fn rubbish_is_passed_over_and_half_written_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (files, _) = open(dir.path(), "k").await;
        files.save(place(ONE, 7), contents()).await.unwrap();
        let sessions = dir.path().join("sessions");
        std::fs::write(sessions.join(format!("{TWO}.new")), b"half").unwrap();
        std::fs::write(sessions.join(format!("{TWO}.session")), b"{\"version\":1,").unwrap();
        std::fs::copy(sessions.join(format!("{ONE}.session")), sessions.join("copy.session")).unwrap();
        let (_, found) = open(dir.path(), "k").await;
        assert_eq!(found.len(), 1);
        assert!(!sessions.join(format!("{TWO}.new")).exists());
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_said() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sessions"), b"a file").unwrap();
        let error = Files::open(dir.path().join("sessions"), None, dir.path().join("k")).await.unwrap_err();
        assert!(matches!(&error, SessionError::Storage(text) if text.contains("sessions")), "{error}");
    }
}
