//! Bytes from the socket on their way to the disk. Promises that what counts as received is synced, that the
//! quota is checked before bytes are taken and the free-space floor before they are written, and that the checksums are computed over what was written; must
//! never delete bytes that the journal still needs.

mod sums;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use self::sums::Sums;
use super::journal::{Arrived, Usage};
use super::state_dir::StateDir;
use super::{Config, UploadError};
use crate::failpoint::{Step, around};

/// The spool directory and what is in it.
#[derive(Debug)]
pub struct Spool {
    state_dir: Arc<StateDir>,
    max_bytes: u64,
    max_bytes_per_uid: u64,
    floor_bytes: u64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    all: u64,
    by_uid: HashMap<u32, u64>,
}

/// What a sweep found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Uploads whose bytes are gone or too short.
    pub missing: Vec<Usage>,
    /// Files that no upload needed: removed.
    pub orphan_files: u64,
    /// Files with more than was synced: cut.
    pub cut_files: u64,
}

/// One file that bytes are appended to. Every method blocks.
#[derive(Debug)]
pub struct Writer {
    file: File,
    sums: Sums,
    synced: Mark,
    names_file: bool,
}

/// A place in the bytes, and their checksum up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many bytes.
    pub bytes: u64,
    /// CRC64NVME of them.
    pub crc64nvme: u64,
}

const READ_BYTES: usize = 256 << 10;

impl Spool {
    /// The spool of a state directory; empty until [`Spool::sweep`].
    pub fn new(state_dir: Arc<StateDir>, config: &Config) -> Self {
        Self {
            state_dir,
            max_bytes: config.spool_max_bytes,
            max_bytes_per_uid: config.spool_max_bytes_per_uid,
            floor_bytes: config.disk_free_floor_bytes,
            used: Mutex::default(),
        }
    }

    /// The file of an upload.
    pub fn path(&self, id: Ulid) -> PathBuf {
        self.state_dir.spool().join(id.to_string())
    }

    /// Makes the directory what the journal says: files that nobody needs go, streams lose what was not synced. Blocks.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn sweep(&self, expected: &[Usage]) -> io::Result<Swept> {
        let mut wanted: HashMap<Ulid, &Usage> = expected.iter().map(|usage| (usage.id, usage)).collect();
        let mut swept = Swept::default();
        for entry in fs::read_dir(self.state_dir.spool())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // Nothing of ours, and not to be removed with whatever is in it: the lost+found of a disk, for example.
                tracing::warn!(path = %entry.path().display(), "a directory in the spool is left alone");
                continue;
            }
            let id = entry.file_name().to_str().and_then(|name| name.parse::<Ulid>().ok());
            let Some(usage) = id.and_then(|id| wanted.remove(&id)) else {
                around(Step::SweepRemove, || fs::remove_file(entry.path()))?;
                swept.orphan_files += 1;
                continue;
            };
            let length = entry.metadata()?.len();
            if length > usage.received_bytes {
                // Written, but never synced: after a power cut it may hold anything.
                let file = OpenOptions::new().write(true).open(entry.path())?;
                around(Step::SpoolCut, || file.set_len(usage.received_bytes))?;
                swept.cut_files += 1;
            }
            self.add(usage.owner_uid, length.min(usage.received_bytes));
            if length < usage.received_bytes {
                wanted.insert(usage.id, usage);
            }
        }
        // A stream that never synced a byte may have no file yet.
        swept.missing = wanted.into_values().filter(|usage| usage.received_bytes > 0).copied().collect();
        Ok(swept)
    }

    /// Takes `bytes` off the quota of `uid`.
    ///
    /// # Errors
    /// `SpoolQuota`; nothing is taken then.
    pub fn reserve(&self, uid: u32, bytes: u64) -> Result<(), UploadError> {
        let mut used = self.used();
        let own = used.by_uid.get(&uid).copied().unwrap_or(0);
        let refuse = |used_bytes, limit_bytes, scope| Err(UploadError::SpoolQuota { used_bytes, limit_bytes, scope });
        if own.saturating_add(bytes) > self.max_bytes_per_uid {
            return refuse(own, self.max_bytes_per_uid, " for this uid");
        }
        if used.all.saturating_add(bytes) > self.max_bytes {
            return refuse(used.all, self.max_bytes, "");
        }
        used.all += bytes;
        *used.by_uid.entry(uid).or_default() += bytes;
        Ok(())
    }

    /// Gives quota back.
    pub fn release(&self, uid: u32, bytes: u64) {
        let mut used = self.used();
        used.all = used.all.saturating_sub(bytes);
        if let Some(own) = used.by_uid.get_mut(&uid) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                used.by_uid.remove(&uid);
            }
        }
    }

    fn add(&self, uid: u32, bytes: u64) {
        let mut used = self.used();
        used.all = used.all.saturating_add(bytes);
        *used.by_uid.entry(uid).or_default() += bytes;
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        // Sums only: a panic elsewhere cannot leave them half changed.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in the spool: of one uid, or all.
    pub fn used_bytes(&self, uid: Option<u32>) -> u64 {
        let used = self.used();
        uid.map_or(used.all, |uid| used.by_uid.get(&uid).copied().unwrap_or(0))
    }

    /// What the spool may hold.
    pub fn limit_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Free bytes on the spool's file system; zero where it cannot be asked.
    pub fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(self.state_dir.spool()).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Refuses where the disk has too little room, or the state directory is not trusted.
    ///
    /// # Errors
    /// `DiskFloor`, `Storage`.
    pub fn check(&self) -> Result<(), UploadError> {
        self.state_dir.check()?;
        let free_bytes = self.free_bytes();
        if free_bytes < self.floor_bytes {
            return Err(UploadError::DiskFloor { free_bytes, floor_bytes: self.floor_bytes });
        }
        Ok(())
    }

    /// An empty file for an upload that is sent in parts of `part_bytes`; what was there is cut off, and its quota given
    /// back. Blocks.
    ///
    /// # Errors
    /// `Storage`, `DiskFloor`.
    pub fn create(&self, id: Ulid, uid: u32, part_bytes: u64) -> Result<Writer, UploadError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.path(id));
        let file = file.map_err(|why| self.failed("creating a spool file", &why))?;
        let old = file.metadata().map_or(0, |metadata| metadata.len());
        let cut = around(Step::SpoolCut, || file.set_len(0));
        cut.map_err(|why| self.failed("emptying a spool file", &why))?;
        self.release(uid, old);
        let sums = Sums::new(part_bytes);
        Ok(Writer { file, synced: sums.mark(), sums, names_file: false })
    }

    /// The file of an interrupted stream, after reading it back: `None` where it does not hold what was synced. Blocks.
    ///
    /// # Errors
    /// `Storage`.
    pub fn reopen(&self, id: Ulid, synced: Mark, part_bytes: u64) -> Result<Option<Writer>, UploadError> {
        let file = match OpenOptions::new().read(true).write(true).open(self.path(id)) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(self.failed("opening a spool file", &why)),
        };
        let length = file.metadata().map_err(|why| self.failed("reading a spool file", &why))?.len();
        if length < synced.bytes {
            return Ok(None);
        }
        let cut = around(Step::SpoolCut, || file.set_len(synced.bytes));
        cut.map_err(|why| self.failed("cutting a spool file", &why))?;
        let mut sums = Sums::new(part_bytes);
        read_all(&file, |piece| sums.update(piece)).map_err(|why| self.failed("reading a spool file", &why))?;
        if sums.mark() != synced {
            return Ok(None);
        }
        Ok(Some(Writer { file, sums, synced, names_file: synced.bytes > 0 }))
    }

    /// Appends, and syncs where `sync_interval` bytes are not synced yet; answers how far it is synced. Blocks.
    ///
    /// # Errors
    /// `Storage`, `DiskFloor`.
    pub fn append(&self, writer: &mut Writer, pieces: &[Bytes], sync_interval: u64) -> Result<Mark, UploadError> {
        for piece in pieces {
            let end = writer.sums.bytes();
            if let Err(why) = writer.file.write_all_at(piece, end) {
                // A part of the piece may be there: the file ends where the count does.
                let _ = writer.file.set_len(end);
                return Err(self.failed("writing to the spool", &why));
            }
            writer.sums.update(piece);
        }
        if writer.sums.bytes() - writer.synced.bytes >= sync_interval {
            return self.sync(writer);
        }
        Ok(writer.synced)
    }

    /// Syncs everything that was appended. Blocks.
    ///
    /// # Errors
    /// `Storage`: and from then on nothing is accepted.
    pub fn sync(&self, writer: &mut Writer) -> Result<Mark, UploadError> {
        self.state_dir.check()?;
        let synced = (|| {
            around(Step::SpoolSync, || writer.file.sync_data())?;
            if !writer.names_file {
                around(Step::SpoolDirectorySync, || File::open(self.state_dir.spool())?.sync_all())?;
            }
            Ok(())
        })();
        if let Err(why) = synced {
            let why: io::Error = why;
            // The kernel may have dropped the pages: a second sync would claim success for bytes that are gone.
            self.state_dir.distrust(&format!("syncing the spool: {why}"));
            return Err(self.failed("syncing the spool", &why));
        }
        writer.names_file = true;
        writer.synced = writer.sums.mark();
        Ok(writer.synced)
    }

    /// Cuts everything off, and gives its quota back. Blocks.
    ///
    /// # Errors
    /// `Storage`.
    pub fn empty(&self, writer: &mut Writer, uid: u32) -> Result<Mark, UploadError> {
        let cut = around(Step::SpoolCut, || writer.file.set_len(0));
        cut.map_err(|why| self.failed("emptying a spool file", &why))?;
        self.release(uid, writer.sums.bytes());
        writer.sums = Sums::new(writer.sums.part_bytes());
        self.sync(writer)
    }

    /// Removes an upload's bytes: call it only after the journal says that nobody needs them. Blocks.
    pub fn remove(&self, id: Ulid, uid: u32) {
        let path = self.path(id);
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        match around(Step::SpoolRemove, || fs::remove_file(&path)) {
            Ok(()) => self.release(uid, length),
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            // The next start's sweep tries again.
            Err(why) => tracing::warn!(upload = %id, %why, "cannot remove a spool file"),
        }
    }

    fn failed(&self, what: &str, why: &io::Error) -> UploadError {
        match why.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                UploadError::DiskFloor { free_bytes: self.free_bytes(), floor_bytes: self.floor_bytes }
            }
            _ => UploadError::Storage(format!("{what} failed: {why}: check the disk of the state directory")),
        }
    }
}

impl Writer {
    /// Everything that was appended, synced or not.
    pub fn written(&self) -> Mark {
        self.sums.mark()
    }

    /// The whole parts that are synced and that nobody has taken yet; with `complete`, also the last one, which may be
    /// smaller: then nothing may follow.
    pub fn take_parts(&mut self, complete: bool) -> Vec<Arrived> {
        if complete {
            self.sums.finish();
        }
        self.sums.take(self.synced.bytes)
    }

    /// What is certainly on the disk.
    pub fn synced(&self) -> Mark {
        self.synced
    }

    /// SHA-256 of everything, read back. Blocks.
    ///
    /// # Errors
    /// As the file system says.
    pub fn sha256(&self) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        read_all(&self.file, |piece| hash.update(piece))?;
        Ok(hash.finalize().into())
    }
}

fn read_all(file: &File, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                each(&buffer[..count]);
                at += count as u64;
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crc_fast::{CrcAlgorithm, checksum};

    use super::*;
    use crate::upload::state::Phase;

    fn spool(root: &std::path::Path, config: &Config) -> Spool {
        Spool::new(Arc::new(StateDir::open(root).unwrap()), config)
    }

    fn small() -> Config {
        Config { spool_max_bytes: 100, spool_max_bytes_per_uid: 60, disk_free_floor_bytes: 0, ..Config::default() }
    }

    #[test]
    fn quotas_are_per_uid_and_in_all() {
        let root = tempfile::tempdir().unwrap();
        let spool = spool(root.path(), &small());
        spool.reserve(1, 60).unwrap();
        assert!(matches!(spool.reserve(1, 1), Err(UploadError::SpoolQuota { scope: " for this uid", .. })));
        spool.reserve(2, 40).unwrap();
        assert!(matches!(spool.reserve(2, 1), Err(UploadError::SpoolQuota { used_bytes: 100, scope: "", .. })));
        spool.release(1, 60);
        spool.reserve(2, 20).unwrap();
        assert_eq!((spool.used_bytes(None), spool.used_bytes(Some(1)), spool.used_bytes(Some(2))), (60, 0, 60));
    }

    #[test]
    fn the_floor_is_refused_before_anything_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let spool = spool(root.path(), &Config { disk_free_floor_bytes: u64::MAX, ..small() });
        assert!(matches!(spool.check(), Err(UploadError::DiskFloor { floor_bytes: u64::MAX, .. })));
    }

    #[test]
    fn the_checksum_goes_on_after_an_interruption() {
        let root = tempfile::tempdir().unwrap();
        let spool = spool(root.path(), &small());
        let id = Ulid::generate();
        let mut writer = spool.create(id, 1, 4).unwrap();
        let mark = spool.append(&mut writer, &[Bytes::from_static(b"hello "), Bytes::from_static(b"wor")], 8).unwrap();
        assert_eq!(mark, Mark { bytes: 9, crc64nvme: checksum(CrcAlgorithm::Crc64Nvme, b"hello wor") });
        let unsynced = spool.append(&mut writer, &[Bytes::from_static(b"xx")], 8).unwrap();
        assert_eq!(unsynced, mark, "what is not synced does not count");
        drop(writer);
        let mut writer = spool.reopen(id, mark, 4).unwrap().unwrap();
        spool.append(&mut writer, &[Bytes::from_static(b"ld")], 1).unwrap();
        assert_eq!(writer.written().crc64nvme, checksum(CrcAlgorithm::Crc64Nvme, b"hello world"));
        assert_eq!(writer.sha256().unwrap(), <[u8; 32]>::from(Sha256::digest(b"hello world")));
        assert_eq!(fs::read(spool.path(id)).unwrap(), b"hello world");
        // A flipped bit on the disk is found when the stream goes on.
        let mark = writer.written();
        writer.file.write_all_at(b"H", 0).unwrap();
        assert!(spool.reopen(id, mark, 4).unwrap().is_none());
    }

    #[test]
    fn the_sweep_leaves_what_the_journal_says() {
        let root = tempfile::tempdir().unwrap();
        let spool = spool(root.path(), &small());
        let [tail, orphan, short, gone, fresh] = std::array::from_fn(|_| Ulid::generate());
        for (id, content) in [(tail, "synced+tail"), (orphan, "x"), (short, "abc")] {
            fs::write(spool.path(id), content).unwrap();
        }
        fs::write(root.path().join("spool/not-an-upload"), "x").unwrap();
        let usage = |id, received_bytes| Usage { id, owner_uid: 1, phase: Phase::Receiving, received_bytes };
        fs::create_dir(root.path().join("spool/lost+found")).unwrap();
        let expected = [usage(tail, 6), usage(short, 5), usage(gone, 7), usage(fresh, 0)];
        let mut swept = spool.sweep(&expected).unwrap();
        swept.missing.sort_by_key(|usage| usage.received_bytes);
        assert_eq!(swept, Swept { missing: vec![usage(short, 5), usage(gone, 7)], orphan_files: 2, cut_files: 1 });
        assert_eq!(fs::read(spool.path(tail)).unwrap(), b"synced");
        assert_eq!(fs::read_dir(root.path().join("spool")).unwrap().count(), 3, "tail, short, lost+found");
        assert_eq!(spool.used_bytes(Some(1)), 6 + 3);
        spool.remove(tail, 1);
        spool.remove(tail, 1);
        assert_eq!(spool.used_bytes(None), 3);
    }
}
