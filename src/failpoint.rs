//! Where a crash is worth a test: the steps that change what the disk holds. Promises to cost nothing, and to do nothing,
//! in a build without the feature `failpoints`, which no shipped build has; with it, `TIDEGATE_FAILPOINT` says at which
//! of them the process is killed, or told that the disk failed.
//!
//! The variable is `POINT:N[:ACTION]`. A point is a step's name with `.before` or `.after`; `N` counts how often it was
//! reached, from 1. The action is `kill` (the default: SIGKILL, so nothing is put in order), `eio` (that one time the
//! step fails with an input/output error; at `.before` it is not done, at `.after` it is) or `skip` (from then on the
//! step is left out, and said to have gone well: what a run that looks for lost bytes must notice).

/// A step that changes what the disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The file that says that a daemon runs is synced, with its directory.
    MarkerSync,
    /// The journal's tables are brought up to date.
    JournalMigration,
    /// Writes to the journal are committed, which syncs its log.
    JournalCommit,
    /// A spool file's bytes are synced.
    SpoolSync,
    /// The spool's directory is synced, so that it names a new file.
    SpoolDirectorySync,
    /// A spool file is cut to what is known of it.
    SpoolCut,
    /// A spool file that nobody needs any more is removed.
    SpoolRemove,
    /// The sweep of a start removes a file that no upload needs.
    SweepRemove,
    /// A file of the device is synced before it is accepted.
    SourceSync,
    /// The directory of such a file is synced.
    SourceDirectorySync,
    /// A new sealed session is synced beside the old one.
    SessionSync,
    /// It takes the old one's place.
    SessionRename,
    /// The directory of sessions is synced.
    SessionDirectorySync,
    /// A sealed session is removed.
    SessionRemove,
    /// A new seal key is synced.
    SealKeySync,
    /// It takes its place.
    SealKeyRename,
    /// Its directory is synced.
    SealKeyDirectorySync,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::MarkerSync,
        Self::JournalMigration,
        Self::JournalCommit,
        Self::SpoolSync,
        Self::SpoolDirectorySync,
        Self::SpoolCut,
        Self::SpoolRemove,
        Self::SweepRemove,
        Self::SourceSync,
        Self::SourceDirectorySync,
        Self::SessionSync,
        Self::SessionRename,
        Self::SessionDirectorySync,
        Self::SessionRemove,
        Self::SealKeySync,
        Self::SealKeyRename,
        Self::SealKeyDirectorySync,
    ];

    /// Its name in `TIDEGATE_FAILPOINT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MarkerSync => "marker-sync",
            Self::JournalMigration => "journal-migration",
            Self::JournalCommit => "journal-commit",
            Self::SpoolSync => "spool-sync",
            Self::SpoolDirectorySync => "spool-directory-sync",
            Self::SpoolCut => "spool-cut",
            Self::SpoolRemove => "spool-remove",
            Self::SweepRemove => "sweep-remove",
            Self::SourceSync => "source-sync",
            Self::SourceDirectorySync => "source-directory-sync",
            Self::SessionSync => "session-sync",
            Self::SessionRename => "session-rename",
            Self::SessionDirectorySync => "session-directory-sync",
            Self::SessionRemove => "session-remove",
            Self::SealKeySync => "seal-key-sync",
            Self::SealKeyRename => "seal-key-rename",
            Self::SealKeyDirectorySync => "seal-key-directory-sync",
        }
    }

    /// The names of all points: before and after each step.
    pub fn points() -> impl Iterator<Item = String> {
        let both = |step: Self| ["before", "after"].map(|side| format!("{}.{side}", step.name()));
        Self::ALL.into_iter().flat_map(both)
    }
}

/// An error that can say that the disk failed.
pub trait DiskError {
    /// An input/output error.
    fn input_output() -> Self;
}

impl DiskError for std::io::Error {
    fn input_output() -> Self {
        rustix::io::Errno::IO.into()
    }
}

/// Does `work`, one step; a test may end the process before or after it, have it fail, or have it left out.
///
/// # Errors
/// Those of `work`, and in a test an input/output error.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn around<E: DiskError>(_step: Step, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    work()
}

#[cfg(feature = "failpoints")]
pub use armed::around;

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{DiskError, Step};

    const VARIABLE: &str = "TIDEGATE_FAILPOINT";

    struct Armed {
        point: String,
        at: u64,
        action: Action,
        reached: AtomicU64,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Action {
        Kill,
        Fail,
        Skip,
    }

    /// The same as without the feature, with what `TIDEGATE_FAILPOINT` says.
    ///
    /// # Errors
    /// Those of `work`, and where the variable asks for it an input/output error.
    pub fn around<E: DiskError>(step: Step, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        match reach(step, "before") {
            Some(Action::Fail) => return Err(E::input_output()),
            Some(Action::Skip) => return Ok(()),
            _ => {}
        }
        let done = work();
        if reach(step, "after") == Some(Action::Fail) {
            return Err(E::input_output());
        }
        done
    }

    fn reach(step: Step, side: &str) -> Option<Action> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(read).as_ref()?;
        let here = armed.point.strip_prefix(step.name()).and_then(|rest| rest.strip_prefix('.')) == Some(side);
        if !here {
            return None;
        }
        let number = armed.reached.fetch_add(1, Ordering::Relaxed) + 1;
        match armed.action {
            Action::Kill if number == armed.at => kill(),
            Action::Fail if number == armed.at => Some(Action::Fail),
            Action::Skip if number >= armed.at => Some(Action::Skip),
            _ => None,
        }
    }

    fn kill() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Never reached: it cannot be caught.
        std::process::abort()
    }

    fn read() -> Option<Armed> {
        let text = std::env::var(VARIABLE).ok()?;
        let Some(armed) = parse(&text) else {
            // A test whose fault does not come must not pass.
            eprintln!("{VARIABLE}={text}: is not POINT:N[:kill|eio|skip]; `tidegate failpoints` names the points");
            std::process::exit(2);
        };
        tracing::warn!(point = %armed.point, at = armed.at, "this process is to fail for a test");
        Some(armed)
    }

    fn parse(text: &str) -> Option<Armed> {
        let mut parts = text.split(':');
        let point = parts.next().filter(|point| Step::points().any(|known| known == *point))?;
        let at = parts.next()?.parse().ok().filter(|at| *at > 0)?;
        let action = match parts.next() {
            None | Some("kill") => Action::Kill,
            Some("eio") => Action::Fail,
            Some("skip") if point.ends_with(".before") => Action::Skip,
            Some(_) => return None,
        };
        parts.next().is_none().then(|| Armed { point: point.to_owned(), at, action, reached: AtomicU64::new(0) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_what_names_a_point_is_understood() {
            assert!(parse("spool-sync.before:3").is_some_and(|armed| armed.at == 3 && armed.action == Action::Kill));
            assert!(parse("journal-commit.after:1:eio").is_some_and(|armed| armed.action == Action::Fail));
            assert!(parse("spool-sync.before:1:skip").is_some_and(|armed| armed.action == Action::Skip));
            for wrong in [
                "",
                "spool-sync:1",
                "spool-sync.before",
                "spool-sync.before:0",
                "nowhere.before:1",
                "spool-sync.after:1:skip",
                "spool-sync.before:1:kill:more",
            ] {
                assert!(parse(wrong).is_none(), "{wrong}");
            }
        }
    }
}
