//! Where a secret of the configuration lies: in a systemd credential, or in a file that nobody else can read. Promises
//! that it is read anew each time, so that a corrected one counts without a restart; must never take one from the
//! configuration itself or from the environment, nor show it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

/// No password and no key file is longer; what is, is another file.
const SECRET_MAX_BYTES: u64 = 16 * 1024;

/// Where a secret lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// `$CREDENTIALS_DIRECTORY/NAME`: systemd puts it there (`LoadCredential=`, `LoadCredentialEncrypted=`).
    SystemdCredential(String),
    /// A file of the daemon's user (or root's) that nobody else can read: mode 0600 or less.
    File(PathBuf),
}

impl SecretPlace {
    /// Reads it; one line end at its end is not part of it. Blocking work runs on the blocking pool.
    ///
    /// # Errors
    /// What is wrong with the place, for a person; nothing of what is in it.
    pub async fn read(&self) -> Result<SecretString, String> {
        let place = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
            place.read_in(directory.as_deref())
        });
        read.await.unwrap_or_else(|_| Err("the daemon is stopping".to_owned()))
    }

    fn read_in(&self, credentials_directory: Option<&Path>) -> Result<SecretString, String> {
        match self {
            Self::SystemdCredential(name) => {
                let directory = credentials_directory.ok_or_else(|| {
                    format!(
                        "systemd gave this process no credentials: add LoadCredential={name}:/path/to/it to the unit"
                    )
                })?;
                let path = directory.join(name);
                read_text(&path).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => format!(
                        "there is no systemd credential {name:?}: add LoadCredential={name}:/path/to/it to the unit"
                    ),
                    _ => format!("the systemd credential {}: {error}", path.display()),
                })
            }
            Self::File(path) => {
                let unusable = |error: std::io::Error| format!("{}: {error}", path.display());
                let file = open(path).map_err(unusable)?;
                let metadata = file.metadata().map_err(unusable)?;
                let own = rustix::process::geteuid().as_raw();
                if !metadata.is_file() {
                    return Err(format!("{}: is not a regular file", path.display()));
                }
                if metadata.uid() != own && metadata.uid() != 0 {
                    return Err(format!(
                        "{}: belongs to uid {}: give it to the daemon's user (uid {own})",
                        path.display(),
                        metadata.uid()
                    ));
                }
                if metadata.mode() & 0o077 != 0 {
                    return Err(format!(
                        "{}: others can read it (mode {:04o}): chmod 0600, and take a new secret",
                        path.display(),
                        metadata.mode() & 0o7777
                    ));
                }
                read_from(file).map_err(unusable)
            }
        }
    }
}

/// Without waiting for the other end of a FIFO.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    std::fs::OpenOptions::new().read(true).custom_flags(i32::try_from(flags).unwrap_or(0)).open(path)
}

/// The text of a file, for those whose content is no secret to its other readers.
pub(crate) fn read_text(path: &Path) -> std::io::Result<SecretString> {
    read_from(open(path)?)
}

fn read_from(file: File) -> std::io::Result<SecretString> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SECRET_MAX_BYTES {
        return Err(std::io::Error::other(format!("more than {SECRET_MAX_BYTES} bytes: this is another file")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| std::io::Error::other("is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(std::io::Error::other("is empty"));
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn written(dir: &Path, name: &str, text: &[u8], mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_secret_is_read_from_where_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &[u8], mode| {
            SecretPlace::File(written(dir.path(), name, text, mode))
                .read_in(None)
                .map(|it| it.expose_secret().to_owned())
        };
        assert_eq!(read("plain", b"canary", 0o600).unwrap(), "canary");
        assert_eq!(read("line", b" canary \r\n", 0o400).unwrap(), " canary ");
        for (name, text, mode, why) in [
            ("open", &b"canary"[..], 0o644, "others can read it (mode 0644)"),
            ("group", b"canary", 0o640, "others can read it"),
            ("empty", b"\n", 0o600, "is empty"),
            ("binary", b"\xff\xfe", 0o600, "is not UTF-8"),
        ] {
            let error = read(name, text, mode).unwrap_err();
            assert!(error.contains(why) && error.contains(name) && !error.contains("canary"), "{error}");
        }
        let error = read("long", &vec![b'x'; 20_000], 0o600).unwrap_err();
        assert!(error.contains("more than 16384 bytes"), "{error}");
        let error = SecretPlace::File(dir.path().into()).read_in(None).unwrap_err();
        assert!(error.contains("not a regular file"), "{error}");
        let error = SecretPlace::File(dir.path().join("none")).read_in(None).unwrap_err();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_systemd_credential_is_read_where_systemd_says() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), "kiosk-password", b"canary\n", 0o440);
        let place = SecretPlace::SystemdCredential("kiosk-password".into());
        assert_eq!(place.read_in(Some(dir.path())).unwrap().expose_secret(), "canary");
        let error = place.read_in(None).unwrap_err();
        assert!(error.contains("LoadCredential=kiosk-password"), "{error}");
        let other = SecretPlace::SystemdCredential("other".into());
        assert!(other.read_in(Some(dir.path())).unwrap_err().contains("no systemd credential \"other\""));
    }
}
