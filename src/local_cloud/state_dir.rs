//! Where the local cloud keeps its state between starts: small JSON files, each replaced as a whole, readable by their
//! owner only. Without a directory nothing is kept.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A directory of JSON files; clones share it.
#[derive(Debug, Clone, Default)]
pub struct StateDir(Option<Arc<PathBuf>>);

/// A state file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {source}; check the local cloud's data directory", path.display())]
pub struct StateError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StateDir {
    /// State lives as long as the process.
    pub fn in_memory() -> Self {
        Self(None)
    }

    /// State lives in `path`, which is made where it is missing.
    pub fn at(path: &Path) -> Result<Self, StateError> {
        make_dir(path)?;
        Ok(Self(Some(Arc::new(path.to_owned()))))
    }

    /// The value of the file `name`; none where there is no such file or no directory.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        self.0.as_ref().map_or(Ok(None), |dir| read_json(&dir.join(name)))
    }

    /// Replaces the file `name` as a whole: after a crash it holds the old value or the new one.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let Some(dir) = &self.0 else { return Ok(()) };
        let path = dir.join(name);
        let failed = |source| StateError { doing: "write", path: path.clone(), source };
        let parent = path.parent().expect("a joined path has a parent");
        make_dir(parent)?;
        let bytes = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
        let unfinished = path.with_extension("json.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&unfinished, &path).map_err(failed)?;
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// Removes the file `name`, where there is one.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let Some(dir) = &self.0 else { return Ok(()) };
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError { doing: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The values of all files in the folder `name`.
    pub fn read_all<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, StateError> {
        let Some(dir) = &self.0 else { return Ok(Vec::new()) };
        let folder = dir.join(name);
        let failed = |source| StateError { doing: "list", path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut values = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                values.extend(read_json(&path)?);
            }
        }
        Ok(values)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let failed = |source| StateError { doing: "read", path: path.to_owned(), source };
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
    }
}

fn make_dir(path: &Path) -> Result<(), StateError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StateError { doing: "create", path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn values_survive_and_only_their_owner_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(&dir.path().join("cloud")).unwrap();
        state.write("pool/users/a.json", &vec![1, 2]).unwrap();
        state.write("pool/users/a.json", &vec![3]).unwrap();
        state.write("pool/users/b.json", &vec![4]).unwrap();
        let again = StateDir::at(&dir.path().join("cloud")).unwrap();
        assert_eq!(again.read::<Vec<u8>>("pool/users/a.json").unwrap(), Some(vec![3]));
        assert_eq!(again.read_all::<Vec<u8>>("pool/users").unwrap().len(), 2);
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("cloud/pool/users/a.json"), 0o600);
        assert_eq!(mode("cloud/pool/users"), 0o700);
        again.remove("pool/users/a.json").unwrap();
        again.remove("pool/users/a.json").unwrap();
        assert_eq!(again.read::<Vec<u8>>("pool/users/a.json").unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.json"), b"{").unwrap();
        let error = StateDir::at(dir.path()).unwrap().read::<Vec<u8>>("x.json").unwrap_err();
        assert!(error.to_string().contains("x.json"), "{error}");
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let state = StateDir::in_memory();
        state.write("a.json", &1).unwrap();
        assert_eq!(state.read::<u8>("a.json").unwrap(), None);
    }
}
