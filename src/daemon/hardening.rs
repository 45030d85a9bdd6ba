//! What the process gives up before it touches a secret: core dumps, being traced, and files that others can read.

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Hardens the process. Called once, before any other thread runs.
///
/// # Errors
/// The kernel's answer, where it refuses.
pub(super) fn harden() -> rustix::io::Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // No core dump and no ptrace by the same uid: both would show tokens.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A connection, a spool file or a source for each of thousands of uploads: take what the system allows.
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
}
