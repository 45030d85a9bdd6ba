//! What hot folders need of uploads: taking a file in together with the note of which upload it became, and settling what
//! is left to do once that has ended. Promises that a file is taken in once, however often it is offered, and again when
//! its bytes are other ones.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use ulid::Ulid;

use super::core::{count_phase, whole};
use super::journal::{EndedFile, FolderCounts, FolderFile, Known, Settled, Source};
use super::manager::Uploads;
use super::recovery::blocking;
use super::source::{self, Accepted, Fingerprint};
use super::{UploadError, UploadSpec, admission};
use crate::caller::Caller;

/// What became of a file that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is a new upload.
    Taken(Ulid),
    /// It was taken before.
    Known,
}

impl Uploads {
    /// Takes a file of a hot folder as an upload of `caller` by the service session of that name.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn import(
        &self,
        caller: &Caller,
        service: &str,
        spec: UploadSpec,
        file: &FolderFile,
    ) -> Result<Imported, UploadError> {
        let core = &self.0;
        self.check_running()?;
        core.state_dir.check()?;
        // Its row needs room too.
        core.spool.check()?;
        let session = core.tenants.service(caller, service)?;
        let spec = UploadSpec { session: Some(session), ..spec };
        let path = file.folder.join(&file.relative);
        let (id, spec_hash) = (Ulid::generate(), admission::spec_hash(&spec, Some(&path)));
        let row = admission::admit(core, caller, id, &spec, spec_hash, Source::Spool).await?;
        let (roots, caller) = (vec![file.folder.clone()], *caller);
        let accepted = blocking(move || source::accept(&roots, &path, &caller)).await?;
        let fingerprint = accepted.fingerprint;
        let known = core.journal.known_files(&file.folder, vec![(file.relative.clone(), fingerprint)]).await?;
        match known.first() {
            Some(Known::Same) => return Ok(Imported::Known),
            Some(Known::Touched(crc64nvme)) if has_bytes(&accepted, *crc64nvme).await? => {
                core.journal.file_touched(file, fingerprint).await?;
                return Ok(Imported::Known);
            }
            _ => {}
        }
        let row = admission::of_file(core, row, accepted)?;
        let (queued, file) = (Arc::clone(core), file.clone());
        let taken = whole(core, async move {
            if !queued.journal.insert_file(row.clone(), &file, fingerprint).await? {
                return Ok(Imported::Known);
            }
            count_phase(row.phase);
            queued.enqueue(&row);
            Ok(Imported::Taken(id))
        });
        taken.await
    }

    /// What is known of files as they are now, in their order.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn known_files(
        &self,
        folder: &Path,
        files: Vec<(String, Fingerprint)>,
    ) -> Result<Vec<Known>, UploadError> {
        Ok(self.0.journal.known_files(folder, files).await?)
    }

    /// Files of a folder whose uploads have ended, with something left to do; at most `limit`, by path after `after`.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn ended_files(&self, folder: &Path, after: &str, limit: usize) -> Result<Vec<EndedFile>, UploadError> {
        Ok(self.0.journal.ended_files(folder, after, limit).await?)
    }

    /// Writes down what was done about a file whose upload has ended.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn settle_file(&self, folder: &Path, ended: &EndedFile, settled: Settled) -> Result<(), UploadError> {
        let file = FolderFile { folder: folder.to_owned(), relative: ended.relative.clone() };
        let crc64nvme = ended.outcome.as_ref().ok().copied().flatten();
        Ok(self.0.journal.settle_file(&file, ended.upload, settled, crc64nvme).await?)
    }

    /// A page of a folder's files with nothing on its way, by path after `after`.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn resting_files(&self, folder: &Path, after: &str, limit: usize) -> Result<Vec<String>, UploadError> {
        Ok(self.0.journal.resting_files(folder, after, limit).await?)
    }

    /// Forgets files that are not in the folder any more.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn forget_files(&self, folder: &Path, gone: Vec<String>) -> Result<usize, UploadError> {
        Ok(self.0.journal.forget_files(folder, gone).await?)
    }

    /// How many files of a folder are how far.
    ///
    /// # Errors
    /// `Storage`.
    pub async fn folder_counts(&self, folder: &Path) -> Result<FolderCounts, UploadError> {
        Ok(self.0.journal.folder_counts(folder).await?)
    }
}

/// Whether the file's bytes have this CRC64NVME.
async fn has_bytes(accepted: &Accepted, crc64nvme: u64) -> Result<bool, UploadError> {
    let (root, relative, fingerprint) = (accepted.root.clone(), accepted.relative.clone(), accepted.fingerprint);
    blocking(move || {
        // A file that changes meanwhile has other bytes.
        let Ok(file) = source::reopen(&root, &relative, &fingerprint) else { return Ok(false) };
        match source::crc64nvme_of(&file, 0, fingerprint.size_bytes) {
            Ok(read) => Ok(read == crc64nvme && source::unchanged(&file, &fingerprint).is_ok()),
            Err(why) if why.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(why) => Err(UploadError::Storage(format!("reading {}: {why}", relative.display()))),
        }
    })
    .await
}
