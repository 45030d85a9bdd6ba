//! What a file is called in the bucket, and whether it can be uploaded at all.

use std::path::Path;

use super::super::exit::CliError;
use crate::media_type;

/// How keys and types are chosen.
#[derive(Debug)]
pub(super) struct Naming {
    /// The key, where the user named it.
    pub(super) key: Option<String>,
    /// What stands before the file's own name otherwise.
    pub(super) prefix: String,
    /// The type, where the user named it.
    pub(super) content_type: Option<String>,
}

impl Naming {
    /// The key of `file` below the destination's prefix.
    pub(super) fn key_of(&self, file: &Path) -> Result<String, CliError> {
        if let Some(key) = &self.key {
            return Ok(key.clone());
        }
        let shown = file.display();
        let Some(name) = file.file_name() else {
            return Err(CliError::usage(format!("{shown} has no file name: give the object's key with --key")));
        };
        let Some(name) = name.to_str() else {
            return Err(CliError::usage(format!(
                "the name of {shown} is not UTF-8, which object keys must be: give the key with --key"
            )));
        };
        Ok(format!("{}{name}", self.prefix))
    }

    /// The Content-Type of `file`; empty where its extension says nothing.
    pub(super) fn content_type_of(&self, file: &Path) -> String {
        if let Some(content_type) = &self.content_type {
            return content_type.clone();
        }
        media_type::of(file).unwrap_or_default().to_owned()
    }
}

/// Refuses what is not a regular file before anything is opened: opening a FIFO would wait for its writer.
pub(super) fn check_file(file: &Path) -> Result<(), CliError> {
    let shown = file.display();
    let metadata = std::fs::metadata(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CliError::not_found(format!("{shown}: no such file")),
        std::io::ErrorKind::PermissionDenied => CliError::denied(format!("{shown}: you may not read it")),
        _ => CliError::failed(format!("{shown}: {error}")),
    })?;
    if metadata.is_file() {
        return Ok(());
    }
    let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
    Err(CliError::usage(format!("{shown} is {kind}: only regular files can be uploaded")))
}

/// The path that the daemon is to open: absolute, without symbolic links, UTF-8.
pub(super) async fn absolute(file: &Path) -> Result<String, CliError> {
    let shown = file.display();
    let path = tokio::fs::canonicalize(file)
        .await
        .map_err(|error| CliError::failed(format!("{shown}: cannot find its absolute path: {error}")))?;
    path.into_os_string().into_string().map_err(|_| {
        CliError::usage(format!("the path of {shown} is not UTF-8: leave --by-path out, then the bytes are sent"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::PathBuf;

    use super::super::super::exit::Exit;
    use super::*;

    fn naming() -> Naming {
        Naming { key: None, prefix: "free/".to_owned(), content_type: None }
    }

    #[test]
    fn a_file_keeps_its_name_below_the_prefix() {
        assert_eq!(naming().key_of(Path::new("/tmp/a b.JPG")).unwrap(), "free/a b.JPG");
        assert_eq!(naming().content_type_of(Path::new("/tmp/a b.JPG")), "image/jpeg");
        assert_eq!(naming().content_type_of(Path::new("raw")), "");
        assert_eq!(naming().key_of(Path::new("..")).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_name_that_is_not_utf8_needs_a_key() {
        let file = PathBuf::from(OsStr::from_bytes(b"/tmp/caf\xe9.jpg"));
        let error = naming().key_of(&file).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_text().contains("--key"));
        let named = Naming { key: Some("free/cafe.jpg".to_owned()), ..naming() };
        assert_eq!(named.key_of(&file).unwrap(), "free/cafe.jpg");
    }

    #[test]
    fn only_regular_files_pass() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check_file(folder.path()).unwrap_err().exit(), Exit::Usage);
        assert_eq!(check_file(&folder.path().join("none")).unwrap_err().exit(), Exit::NotFound);
        assert_eq!(check_file(Path::new("/dev/null")).unwrap_err().exit(), Exit::Usage);
    }
}
