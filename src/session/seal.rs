//! Seals what a session must keep at rest. Owns the key; promises that a file is useless without it, and in another
//! session's place; must never write a key where the sealed files are by itself: the path comes from the configuration.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac};
use zeroize::Zeroizing;

use crate::failpoint::{Step, around};

/// The credential's name in `$CREDENTIALS_DIRECTORY`.
const CREDENTIAL_NAME: &str = "tidegate-seal-key";
/// Bytes of a key file; a systemd credential may be longer (a text form, for example), never shorter.
const KEY_BYTES: usize = 32;
/// No key is longer; what is, is another file.
const KEY_MAX_BYTES: u64 = 4_096;

/// AES-256-GCM under a key derived from the key file or the systemd credential, and a second key for files' names.
pub struct SealKey {
    seal: RandomizedNonceKey,
    names: hmac::Key,
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

impl SealKey {
    /// The systemd credential where there is one, else the key file, which is made where it is missing. A key file that
    /// is too short to be a key counts as lost: it is set aside and a new one is made.
    ///
    /// # Errors
    /// A text for a person: the file cannot be read or made.
    pub fn load(credentials_dir: Option<&Path>, key_file: &Path) -> Result<Self, String> {
        if let Some(path) = credentials_dir.map(|dir| dir.join(CREDENTIAL_NAME)) {
            match read_key(&path) {
                Ok(bytes) if bytes.len() >= KEY_BYTES => return Self::derive(&bytes),
                Ok(bytes) => {
                    return Err(format!(
                        "the systemd credential {CREDENTIAL_NAME} has {} bytes: give it at least {KEY_BYTES} random ones",
                        bytes.len()
                    ));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(format!("the systemd credential {}: {error}", path.display())),
            }
        }
        match read_key(key_file) {
            Ok(bytes) if bytes.len() >= KEY_BYTES => {
                tighten(key_file);
                Self::derive(&bytes)
            }
            Ok(bytes) => {
                let aside = key_file.with_extension("short");
                tracing::error!(
                    file = %key_file.display(), bytes = bytes.len(), aside = %aside.display(),
                    "the seal key is too short to be one: it is set aside, a new one is made, and everybody has to sign in again"
                );
                std::fs::rename(key_file, &aside).map_err(|error| unusable(key_file, &error))?;
                Self::create(key_file)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Self::create(key_file),
            Err(error) => Err(unusable(key_file, &error)),
        }
    }

    /// Seals `plain` for `place`: only the same place opens it.
    ///
    /// # Panics
    /// Never: AES-GCM seals any text of less than 64 GiB.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut sealed = plain.to_vec();
        let nonce =
            self.seal.seal_in_place_append_tag(Aad::from(place), &mut sealed).expect("AES-GCM seals short texts");
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut sealed);
        out
    }

    /// Opens what was sealed for `place`; `None` for another key, another place or damage.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let length = self.seal.open_in_place(nonce, Aad::from(place), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }

    /// A file's name for `place` that tells nobody without the key what it stands for.
    pub fn name(&self, place: &[u8]) -> String {
        hmac::sign(&self.names, place).as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn create(key_file: &Path) -> Result<Self, String> {
        let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| "the system gives no random bytes".to_owned())?;
        let write = || -> std::io::Result<()> {
            let parent = key_file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            // Half a key after a power cut would be set aside as lost, and with it the tokens sealed under the whole one.
            let temporary = key_file.with_extension("new");
            let _ = std::fs::remove_file(&temporary);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&bytes[..])?;
            around(Step::SealKeySync, || file.sync_all())?;
            around(Step::SealKeyRename, || std::fs::rename(&temporary, key_file))?;
            around(Step::SealKeyDirectorySync, || File::open(parent)?.sync_all())
        };
        write().map_err(|error| unusable(key_file, &error))?;
        tracing::info!(file = %key_file.display(), "made a new seal key");
        Self::derive(&bytes[..])
    }

    fn derive(material: &[u8]) -> Result<Self, String> {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        let material = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate").extract(material);
        let names = material.expand(&[b"names of files, version 1"], hmac::HMAC_SHA256).map(hmac::Key::from);
        material
            .expand(&[b"sealed sessions, version 1"], &AES_256_GCM)
            .and_then(|okm| okm.fill(&mut key[..]))
            .and_then(|()| Ok(Self { seal: RandomizedNonceKey::new(&AES_256_GCM, &key[..])?, names: names? }))
            .map_err(|_| "the seal key cannot be derived".to_owned())
    }
}

fn read_key(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(64));
    File::open(path)?.take(KEY_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn tighten(key_file: &Path) {
    let Ok(metadata) = std::fs::metadata(key_file) else { return };
    if metadata.permissions().mode() & 0o077 == 0 {
        return;
    }
    let outcome = std::fs::set_permissions(key_file, Permissions::from_mode(0o600));
    tracing::warn!(file = %key_file.display(), tightened = outcome.is_ok(), "others could read the seal key");
}

fn unusable(key_file: &Path, error: &std::io::Error) -> String {
    format!(
        "the seal key {}: {error}: make it readable and its directory writable for the daemon, or set session.seal_key_file",
        key_file.display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn opens_only_with_the_key_and_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let key = SealKey::load(None, &dir.path().join("keys/seal.key")).unwrap();
        let sealed = key.seal(b"session 1", b"refresh token");
        assert!(!sealed.windows(7).any(|window| window == b"refresh"));
        assert_eq!(&key.open(b"session 1", &sealed).unwrap()[..], b"refresh token");
        assert!(key.open(b"session 2", &sealed).is_none(), "copied to another session");
        for cut in 0..sealed.len() {
            assert!(key.open(b"session 1", &sealed[..cut]).is_none(), "truncated to {cut}");
        }
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(b"session 1", &damaged).is_none(), "bit {bit} flipped");
        }
        let other = SealKey::load(None, &dir.path().join("other.key")).unwrap();
        assert!(other.open(b"session 1", &sealed).is_none());
        assert_ne!(key.seal(b"session 1", b"refresh token"), sealed, "the nonce is random");
    }

    #[test]
    fn the_key_file_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/seal.key");
        let sealed = SealKey::load(None, &path).unwrap().seal(b"x", b"y");
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, 32));
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(SealKey::load(None, &path).unwrap().open(b"x", &sealed).is_some());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_systemd_credential_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CREDENTIAL_NAME), [7_u8; 44]).unwrap();
        let unused = dir.path().join("keys/seal.key");
        let sealed = SealKey::load(Some(dir.path()), &unused).unwrap().seal(b"x", b"y");
        assert!(SealKey::load(Some(dir.path()), &unused).unwrap().open(b"x", &sealed).is_some());
        assert!(!unused.exists());
        std::fs::write(dir.path().join(CREDENTIAL_NAME), b"short").unwrap();
        assert!(SealKey::load(Some(dir.path()), &unused).unwrap_err().contains("at least 32"));
    }

    #[test]
    fn a_short_key_is_a_lost_key_and_an_unreadable_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        std::fs::write(&path, b"cut off").unwrap();
        SealKey::load(None, &path).unwrap();
        assert_eq!(std::fs::read(dir.path().join("seal.short")).unwrap(), b"cut off");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 32);
        let error = SealKey::load(None, dir.path()).unwrap_err();
        assert!(error.contains("session.seal_key_file"), "{error}");
    }
}
