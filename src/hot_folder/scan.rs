//! Looks at folders and files. Promises that no symbolic link is followed beneath the folder, and that every folder is
//! watched before its entries are read; must never open a file. Everything here blocks.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::config::Config;
use super::state::Look;
use crate::upload::Fingerprint;

/// Files that are handed over at once.
const BATCH: usize = 256;

/// What came of looking through a folder.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Nobody broke it off, and every sub-folder could be read.
    pub(super) is_complete: bool,
    /// The first thing in it that could not be read or used.
    pub(super) problem: Option<String>,
    /// Folders in it.
    pub(super) folders: Vec<String>,
}

/// One file: its path beneath the folder, and what it is now.
pub(super) type Found = (String, Look);

/// Looks through the folder. `enter` hears of every folder before it is read; `take` gets files until it breaks off.
///
/// # Errors
/// Where the folder itself cannot be read.
pub(super) fn scan(
    config: &Config,
    mut enter: impl FnMut(&Path),
    mut take: impl FnMut(Vec<Found>) -> ControlFlow<()>,
) -> io::Result<Scanned> {
    let mut scanned = Scanned { is_complete: true, ..Scanned::default() };
    let mut to_read = vec![String::new()];
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(folder) = to_read.pop() {
        let place = config.path.join(&folder);
        enter(&place);
        let entries = match fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(why) if folder.is_empty() => return Err(why),
            // Gone since it was seen.
            Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
            Err(why) => {
                scanned.is_complete = false;
                scanned.problem.get_or_insert_with(|| format!("{}: cannot be read: {why}", place.display()));
                continue;
            }
        };
        for entry in entries {
            let Ok(entry) = entry.inspect_err(|why| {
                scanned.is_complete = false;
                scanned.problem.get_or_insert_with(|| format!("{}: cannot be read: {why}", place.display()));
            }) else {
                break;
            };
            let Ok(name) = entry.file_name().into_string() else {
                let text = "its name is not UTF-8, which object keys must be: rename it";
                scanned.problem.get_or_insert_with(|| format!("{}: {text}", entry.path().display()));
                continue;
            };
            let relative = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && config.enters(&relative) {
                scanned.folders.push(relative.clone());
                to_read.push(relative);
            } else if metadata.is_file() && config.takes(&relative) {
                batch.push((relative, look_of(&metadata)));
                if batch.len() == BATCH && take(std::mem::take(&mut batch)).is_break() {
                    scanned.is_complete = false;
                    return Ok(scanned);
                }
            }
        }
    }
    if !batch.is_empty() && take(batch).is_break() {
        scanned.is_complete = false;
    }
    Ok(scanned)
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A regular file.
    File(Look),
    /// A folder.
    Folder,
    /// Something else, which is none of ours.
    Other,
    /// Nothing.
    Nothing,
}

/// Looks at one path; links are not followed.
pub(super) fn look(path: &Path) -> Seen {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Seen::File(look_of(&metadata)),
        Ok(metadata) if metadata.is_dir() => Seen::Folder,
        Ok(_) => Seen::Other,
        // Whatever else is wrong with the way there, the next look at the folder says it.
        Err(_) => Seen::Nothing,
    }
}

fn look_of(metadata: &fs::Metadata) -> Look {
    Look { fingerprint: Fingerprint::of(metadata), is_linked: metadata.nlink() > 1 }
}
