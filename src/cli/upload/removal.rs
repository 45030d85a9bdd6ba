//! Removes a file that has been uploaded: in this process and with its user's own rights, because the daemon runs as
//! somebody else, who has no business in a user's folders. Promises that only a file whose bytes are those of the object
//! is removed.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};

use super::super::exit::CliError;
use super::sending::crc64nvme_base64;
use crate::api::v1::Upload;

/// Removes `file`, which became `upload`.
///
/// # Errors
/// Where it is not that file any more, or cannot be removed; then it is still there.
pub(super) async fn remove(file: &Path, upload: &Upload) -> Result<(), CliError> {
    let (path, upload) = (file.to_owned(), upload.clone());
    let removed = tokio::task::spawn_blocking(move || remove_now(&path, &upload)).await;
    let shown = file.display();
    removed
        .unwrap_or_else(|_| Err("removing it was aborted".to_owned()))
        .map_err(|why| CliError::failed(format!("{shown} is uploaded, but was not removed: {why}")))
}

fn remove_now(path: &Path, upload: &Upload) -> Result<(), String> {
    let stored = upload.object.as_ref().map(|object| object.checksum_crc64nvme.as_str()).unwrap_or_default();
    if stored.is_empty() {
        return Err("the daemon gives no checksum of the object to compare it with".to_owned());
    }
    let failed = |error: std::io::Error| error.to_string();
    let before = fs::symlink_metadata(path).map_err(failed)?;
    if !before.is_file() {
        return Err("it is not a regular file (a link is not followed)".to_owned());
    }
    let mut file = File::open(path).map_err(failed)?;
    if !is_same(&before, &file.metadata().map_err(failed)?) || crc_of(&mut file).map_err(failed)? != stored {
        return Err("its bytes are not those of the object: it was changed meanwhile".to_owned());
    }
    // A name of its own first: what is looked at last is what is removed.
    let id = upload.name.rsplit('/').next().unwrap_or_default();
    let doomed = path.with_file_name(format!(".tidegate-{id}.deleting"));
    fs::rename(path, &doomed).map_err(failed)?;
    let after = fs::symlink_metadata(&doomed).map_err(failed)?;
    if is_same(&before, &after) {
        return fs::remove_file(&doomed).map_err(failed);
    }
    // Linking refuses to replace what may be at the name by now.
    match fs::hard_link(&doomed, path).and_then(|()| fs::remove_file(&doomed)) {
        Ok(()) => Err("it was changed at the last moment".to_owned()),
        Err(error) => Err(format!("it was changed at the last moment, and is now {}: {error}", doomed.display())),
    }
}

/// The same bytes in the same file; its attributes may differ by the renaming.
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    let of = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    of(a) == of(b)
}

fn crc_of(file: &mut File) -> std::io::Result<String> {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc64nvme_base64(digest.finalize())),
            read => digest.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::v1;

    fn stored(bytes: &[u8]) -> Upload {
        let checksum_crc64nvme = crc64nvme_base64(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes));
        let object = v1::StoredObject { checksum_crc64nvme, ..Default::default() };
        Upload { name: "uploads/01J".into(), object: Some(object), ..Default::default() }
    }

    #[test]
    fn only_the_bytes_that_are_stored_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        fs::write(&path, b"other").unwrap();
        assert!(remove_now(&path, &stored(b"bytes")).unwrap_err().contains("changed"));
        assert!(remove_now(&path, &Upload::default()).unwrap_err().contains("no checksum"));
        let link = folder.path().join("link.jpg");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(remove_now(&link, &stored(b"other")).unwrap_err().contains("link"));
        assert!(path.exists() && link.is_symlink());
        remove_now(&path, &stored(b"other")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the link is left");
    }
}
