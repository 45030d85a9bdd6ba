//! One sealed file per device that a user pool remembers, beside the sessions: it outlives them. Its name tells nobody
//! without the key whose it is. A file that cannot be used is no device: the sign-in then is a new device's.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{FILE_MAX_BYTES, Files, Inner, PlainDevice, blocking, unusable};
use crate::session::{RememberedDevice, SessionError};

const SUFFIX: &str = "device";

/// Whose device: what names the file, and what its contents are bound to.
#[derive(Debug, Clone, Serialize)]
pub struct DevicePlace {
    /// The identity's name.
    pub identity: String,
    /// The name that the user signs in with.
    pub username: String,
    /// Who signs in.
    pub owner_uid: u32,
}

impl Files {
    /// The device that was kept; none where there is none, or none that can be opened.
    pub async fn device(&self, place: DevicePlace) -> Option<RememberedDevice> {
        let inner = Arc::clone(&self.0);
        let found = blocking(move || inner.read_device(&place)).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "a remembered device cannot be read: signing in without it");
            None
        })
    }

    /// Keeps a device; durable when this returns. The ones that were kept longest ago go, so that there are `most`.
    ///
    /// # Errors
    /// `Storage`; what was kept before is whole then.
    pub async fn save_device(
        &self,
        place: DevicePlace,
        device: RememberedDevice,
        most: usize,
    ) -> Result<(), SessionError> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let place = bound(&place);
            let name = inner.key.name(&place);
            let write = || -> std::io::Result<()> {
                inner.drop_oldest(&name, most.saturating_sub(1))?;
                let plain = Zeroizing::new(serde_json::to_vec(&PlainDevice::from(&device))?);
                let sealed = STANDARD.encode(inner.key.seal(&place, &plain));
                inner.put(&name, SUFFIX, sealed.as_bytes())
            };
            write().map_err(|error| unusable(&inner.dir, &error))
        })
        .await
    }

    /// Forgets a device; one that is not there is forgotten already.
    pub async fn forget_device(&self, place: DevicePlace) {
        let inner = Arc::clone(&self.0);
        let forgotten = blocking(move || {
            let path = inner.device_path(&inner.key.name(&bound(&place)));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(unusable(&path, &error)),
                _ => Ok(()),
            }
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "a device that the user pool does not know any more is still kept");
        }
    }
}

impl Inner {
    fn device_path(&self, name: &str) -> std::path::PathBuf {
        self.dir.join(format!("{name}.{SUFFIX}"))
    }

    fn read_device(&self, place: &DevicePlace) -> Result<Option<RememberedDevice>, String> {
        let place = bound(place);
        let path = self.device_path(&self.key.name(&place));
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_string(&mut text)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&path, &error)),
            Ok(_) => {}
        }
        let sealed = STANDARD.decode(text.trim_end()).ok();
        let plain = sealed.and_then(|sealed| self.key.open(&place, &sealed));
        let plain: Option<PlainDevice> = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
        match plain {
            Some(plain) => Ok(Some(plain.into())),
            None => Err(format!("{} is damaged", path.display())),
        }
    }

    /// Leaves the newest `most`, not counting the one called `but`.
    fn drop_oldest(&self, but: &str, most: usize) -> std::io::Result<()> {
        let mut kept: Vec<(SystemTime, std::path::PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let path = entry.path();
            let is_other = path.file_stem().and_then(|stem| stem.to_str()) != Some(but);
            if is_other && path.extension().is_some_and(|extension| extension == Path::new(SUFFIX)) {
                kept.push((entry.metadata()?.modified()?, path));
            }
        }
        kept.sort();
        for (_, path) in &kept[..kept.len().saturating_sub(most)] {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// JSON keeps the fields apart whatever they hold; the first word keeps devices and sessions apart.
fn bound(place: &DevicePlace) -> Vec<u8> {
    serde_json::to_vec(&("device", place)).expect("strings and numbers are JSON")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::ExposeSecret as _;

    use super::*;

    fn place(username: &str, owner_uid: u32) -> DevicePlace {
        DevicePlace { identity: "app".into(), username: username.into(), owner_uid }
    }

    fn device(key: &str) -> RememberedDevice {
        RememberedDevice { key: key.into(), group_key: "-g".into(), password: Some("canary-device".into()) }
    }

    async fn open(dir: &Path, key: &str) -> Files {
        Files::open(dir.join("sessions"), None, dir.join(key)).await.unwrap().0
    }

    fn files(dir: &Path) -> Vec<std::path::PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(dir.join("sessions")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[tokio::test]
    async fn it_is_its_users_and_uids_alone_and_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = open(dir.path(), "k").await;
        assert!(kept.device(place("ada", 7)).await.is_none());
        kept.save_device(place("ada", 7), device("one"), 9).await.unwrap();
        kept.save_device(place("ada", 7), device("two"), 9).await.unwrap();
        kept.save_device(place("bob", 7), device("three"), 9).await.unwrap();
        let kept = open(dir.path(), "k").await;
        let found = kept.device(place("ada", 7)).await.unwrap();
        assert_eq!((found.key.as_str(), found.password.unwrap().expose_secret()), ("two", "canary-device"));
        assert!(kept.device(place("ada", 8)).await.is_none());
        for path in files(dir.path()) {
            let text = format!("{}{}", path.display(), std::fs::read_to_string(&path).unwrap());
            assert!(!["canary", "ada", "two"].iter().any(|word| text.contains(word)), "{text}");
        }
        assert!(open(dir.path(), "another").await.device(place("ada", 7)).await.is_none(), "a lost key");
        kept.forget_device(place("ada", 7)).await;
        kept.forget_device(place("ada", 7)).await;
        assert!(kept.device(place("ada", 7)).await.is_none());
        assert!(kept.device(place("bob", 7)).await.is_some());
    }

    #[tokio::test]
    async fn a_damaged_or_swapped_file_is_no_device() {
        let dir = tempfile::tempdir().unwrap();
        let kept = open(dir.path(), "k").await;
        kept.save_device(place("ada", 7), device("one"), 9).await.unwrap();
        kept.save_device(place("bob", 7), device("two"), 9).await.unwrap();
        let found = files(dir.path());
        std::fs::copy(&found[0], &found[1]).unwrap();
        let (ada, bob) = (kept.device(place("ada", 7)).await, kept.device(place("bob", 7)).await);
        assert!(ada.is_some() != bob.is_some(), "the copied one opens only in its own place");
        for path in &found {
            std::fs::write(path, b"rubbish").unwrap();
        }
        assert!(kept.device(place("ada", 7)).await.is_none() && kept.device(place("bob", 7)).await.is_none());
        kept.save_device(place("ada", 7), device("three"), 9).await.unwrap();
        assert_eq!(kept.device(place("ada", 7)).await.unwrap().key, "three");
    }

    #[tokio::test]
    async fn the_oldest_go_where_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let kept = open(dir.path(), "k").await;
        for (number, username) in ["a", "b", "c"].into_iter().enumerate() {
            kept.save_device(place(username, 7), device(username), 9).await.unwrap();
            let path =
                dir.path().join("sessions").join(format!("{}.device", kept.0.key.name(&bound(&place(username, 7)))));
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64 + 1);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
        kept.save_device(place("a", 7), device("a2"), 2).await.unwrap();
        assert_eq!(kept.device(place("a", 7)).await.unwrap().key, "a2");
        assert!(kept.device(place("b", 7)).await.is_none());
        assert!(kept.device(place("c", 7)).await.is_some());
    }
}
