//! A local directory as a store: for tests, air-gapped devices and mounted network shares.

use std::path::PathBuf;

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Where objects lie: `objects/` and `multipart/` are made beneath it.
    pub path: PathBuf,
}

/// Makes the directories.
///
/// # Errors
/// A directory that cannot be made or written.
pub fn open(config: Config) -> Result<std::sync::Arc<dyn super::ObjectStore>, super::StoreBuildError> {
    todo!()
}
