//! The file that `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE` names. Promises that only its owner can read it, that it is
//! whole at every moment, and that it has no newline, which SDKs would send along.

use std::path::{Path, PathBuf};

use super::super::exit::CliError;
use super::super::private_file;

/// Where the token of `session` ("sessions/…") goes where nobody says: a directory of the user's own, in memory.
///
/// # Errors
/// `Exit::Usage` where there is no such directory.
pub(super) fn default_path(session: &str) -> Result<PathBuf, CliError> {
    let id = session.rsplit('/').next().unwrap_or_default();
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let dir = dir.ok_or_else(|| CliError::usage("XDG_RUNTIME_DIR is not set: say where with --token-file PATH"))?;
    Ok(dir.join(format!("tidegate-{id}.token")))
}

/// Writes the token; answers the absolute path, which a program finds from wherever it runs.
///
/// # Errors
/// `Exit::Usage` where the path leads to what is no file, `Exit::Failed` with what else stands in the way; what was there
/// before is whole then.
pub(super) fn write(path: &Path, token: &str) -> Result<PathBuf, CliError> {
    let failed = |error: std::io::Error| {
        CliError::failed(format!("cannot write the token to {}: {error}", path.display()))
            .hint("name a file in a directory of your own with --token-file")
    };
    let path = std::path::absolute(path).map_err(failed)?;
    // Root may replace /dev/null or /dev/stdout, and would break the machine by it.
    if std::fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
        return Err(CliError::usage(format!("{} is no file: name one with --token-file", path.display())));
    }
    private_file::replace(&path, token).map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_its_owners_has_no_newline_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("token"), dir.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert_eq!(write(&path, "secret").unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "a link is replaced, not followed");
        write(&path, "another").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"another");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        for path in [&device, &folder] {
            let error = write(path, "secret").unwrap_err();
            assert!(error.message().contains("is no file") && !error.message().contains("secret"), "{error:?}");
        }
        assert_eq!(std::fs::read_link(&device).unwrap(), Path::new("/dev/null"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_directory_that_is_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&dir.path().join("none/token"), "secret").unwrap_err();
        assert!(error.message().contains("none/token") && !error.message().contains("secret"), "{error:?}");
        assert!(write(Path::new("/"), "secret").is_err());
    }
}
