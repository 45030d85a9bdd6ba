//! How a command ends. Owns the one table of exit codes and the way from a gRPC status to it; promises that an error
//! says what failed, why, and what to do.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::text::one_line;

/// Declares the exit codes: the variant, the number, and its meaning for people.
macro_rules! exit_codes {
    ($($variant:ident = $code:literal, $meaning:literal;)+) => {
        /// How a command ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit { $(#[doc = $meaning] $variant,)+ }

        impl Exit {
            /// Every way to end, by code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The process's exit code.
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }
    };
}

exit_codes! {
    Ok = 0, "done";
    Failed = 1, "failed, and nothing below fits (also: an upload that FAILED or was CANCELLED)";
    Usage = 2, "wrong arguments or input: trying again unchanged fails again";
    Unreachable = 3, "no daemon answers at the socket";
    Denied = 4, "not signed in, wrong password, or not allowed (also: denied by S3)";
    NotFound = 5, "no such session, upload, destination, file or user";
    TryLater = 6, "not now: offline, throttled, full or stopping; trying again later may work";
    Conflict = 7, "the state does not allow it: exists already, ended already, not confirmed yet";
    MoreToDo = 8, "more to do: the sign-in asks for something; answer with `tidegate respond`";
    Interrupted = 130, "interrupted (Ctrl-C)";
}

/// The table for `--help`.
pub fn help_table() -> String {
    let mut table = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        let _ = writeln!(table, "  {:>3}  {}", exit.code(), exit.meaning());
    }
    table
}

/// Why a command failed, ready to be shown.
#[derive(Debug)]
pub struct CliError(Box<Details>);

#[derive(Debug)]
struct Details {
    exit: Exit,
    code: Option<&'static str>,
    reason: Option<String>,
    message: String,
    hint: Option<String>,
    metadata: Vec<(String, String)>,
    retry_after: Option<Duration>,
}

impl CliError {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            exit,
            code: None,
            reason: None,
            message: message.into(),
            hint: None,
            metadata: Vec::new(),
            retry_after: None,
        }))
    }

    /// Wrong arguments or input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// It did not work, for no reason that has its own code.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Not allowed, or not signed in far enough.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(Exit::Denied, message)
    }

    /// A step was done and another is left.
    pub fn more_to_do(message: impl Into<String>) -> Self {
        Self::new(Exit::MoreToDo, message)
    }

    /// Something local does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// No daemon answers.
    pub fn unreachable(socket: &Path, why: &str) -> Self {
        Self::new(Exit::Unreachable, format!("no daemon answers at {}: {why}", socket.display())).hint(
            "is it running? Start it with `tidegate serve`, or name another socket with --socket or TIDEGATE_SOCKET",
        )
    }

    /// The process may not open the socket.
    pub fn socket_denied(socket: &Path) -> Self {
        Self::new(Exit::Unreachable, format!("this user may not open {}", socket.display()))
            .hint("join the group that owns the socket (api.socket_group), or ask whoever runs the daemon")
    }

    /// An upload that FAILED or was CANCELLED, by its failure's reason.
    pub fn upload_ended(name: &str, state: &str, reason: &str, message: &str) -> Self {
        let exit = if reason == "ACCESS_DENIED" { Exit::Denied } else { Exit::Failed };
        let text = if message.is_empty() { format!("{name} {state}") } else { format!("{name} {state}: {message}") };
        let mut error = Self::new(exit, text);
        if !reason.is_empty() {
            error.0.reason = Some(reason.to_owned());
            error.0.hint = hint_for(reason).map(str::to_owned);
        }
        error
    }

    /// The daemon's answer to `action` ("sign in").
    pub fn from_status(action: &str, status: &Status) -> Self {
        let info = status.get_details_error_info();
        if info.is_none() && is_transport_failure(status) {
            let message = format!("cannot {action}: the connection to the daemon broke");
            return Self::new(Exit::Unreachable, message).hint("is it stopping? Try again when it is back");
        }
        let text = if status.message().is_empty() { "no message" } else { status.message() };
        let mut error = Self::new(exit_for(status.code()), format!("cannot {action}: {text}"));
        error.0.code = Some(code_name(status.code()));
        error.0.retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        if let Some(bad_request) = status.get_details_bad_request() {
            for violation in bad_request.field_violations {
                error.0.metadata.push((format!("field:{}", violation.field), violation.description));
            }
        }
        if let Some(info) = info {
            error.0.hint = hint_for(&info.reason).map(str::to_owned);
            error.0.reason = Some(info.reason);
            let mut metadata: Vec<_> = info.metadata.into_iter().collect();
            metadata.sort();
            error.0.metadata.extend(metadata);
        }
        error
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says which of several things it is about.
    #[must_use]
    pub fn about(mut self, subject: &str) -> Self {
        self.0.message = format!("{subject}: {}", self.0.message);
        self
    }

    /// The same end for a whole of which this was the first part to fail.
    pub fn summary(&self, message: String) -> Self {
        Self::new(self.0.exit, message)
    }

    /// True where the same call may work soon.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.exit, Exit::Unreachable | Exit::TryLater)
    }

    /// What failed and why, without reason and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The daemon's reason, where it gave one.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// How the process ends.
    pub fn exit(&self) -> Exit {
        self.0.exit
    }

    /// For people, on several lines.
    pub fn to_text(&self) -> String {
        let mut text = format!("tidegate: {}", printable(&self.0.message));
        if let Some(reason) = &self.0.reason {
            let _ = write!(text, "\n  reason: {}", one_line(reason));
        }
        for (name, value) in self.0.metadata.iter().filter(|(name, _)| name.starts_with("field:")) {
            let _ = write!(text, "\n  {}: {}", one_line(&name["field:".len()..]), one_line(value));
        }
        if let Some(after) = self.0.retry_after {
            let _ = write!(text, "\n  try again in {}", humantime::format_duration(whole_milliseconds(after)));
        }
        if let Some(hint) = &self.0.hint {
            let _ = write!(text, "\n  {hint}");
        }
        text
    }

    /// For programs: one line.
    pub fn to_json(&self) -> serde_json::Value {
        let metadata: serde_json::Map<_, _> =
            self.0.metadata.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({ "error": {
            "exit_code": self.0.exit.code(),
            "code": self.0.code,
            "reason": self.0.reason,
            "message": self.0.message,
            "hint": self.0.hint,
            "metadata": metadata,
            "retry_after_ms": self.0.retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }})
    }
}

/// True where the status was made here because the connection failed, not sent by the daemon.
pub fn is_transport_failure(status: &Status) -> bool {
    use std::error::Error as _;
    status.source().is_some()
}

/// The exit code for a gRPC code.
fn exit_for(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Exit::Usage,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        Code::NotFound => Exit::NotFound,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted => Exit::TryLater,
        Code::FailedPrecondition | Code::AlreadyExists => Exit::Conflict,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => Exit::Failed,
    }
}

/// What to type next; the daemon's text says the rest.
fn hint_for(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "NEEDS_SIGN_IN" | "NO_SESSION" => "sign in: tidegate sign-in USERNAME",
        "SESSION_NOT_FOUND" | "SESSION_AMBIGUOUS" => "see yours: tidegate sessions",
        "USER_NOT_CONFIRMED" => "confirm the account: tidegate confirm USERNAME CODE",
        "CODE_EXPIRED" => "get a new code: tidegate resend-code USERNAME (at a sign-in: sign in again)",
        "CHALLENGE_NOT_FOUND" | "CHALLENGE_ANSWERED" | "CHALLENGE_EXPIRED" => "sign in: tidegate sign-in USERNAME",
        "PASSWORD_RESET_REQUIRED" => "reset the password: tidegate forgot-password USERNAME",
        "VENDING_DISABLED" => "programs can use it as credential_process instead: tidegate credentials",
        "UPLOAD_NOT_FOUND" => "see yours: tidegate uploads",
        "DESTINATION_NOT_FOUND" | "DESTINATION_AMBIGUOUS" => "see them: tidegate status",
        "IDENTITY_NOT_FOUND" | "IDENTITY_AMBIGUOUS" => "see them: tidegate status",
        "ACCESS_DENIED" => {
            "this account may not write there; its bytes are kept: after a change of tier, `tidegate retry UPLOAD`"
        }
        "OBJECT_EXISTS" => "there is an object with this key: choose another, or leave --exact out",
        "PATH_OUTSIDE_ROOTS" | "FILE_NOT_READABLE_BY_CALLER" => "leave --by-path out: then the bytes are sent",
        _ => return None,
    })
}

/// gRPC's own name of a code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn whole_milliseconds(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A message may have lines (every mistake of a configuration), but nothing that steers the terminal.
fn printable(message: &str) -> String {
    message.lines().map(one_line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::{BTreeSet, HashMap};

    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn codes_are_unique_and_in_the_help() {
        let codes: BTreeSet<_> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes.len(), Exit::ALL.len());
        for exit in Exit::ALL {
            assert!(help_table().contains(exit.meaning()));
        }
    }

    #[test]
    fn a_status_becomes_what_why_and_what_to_do() {
        let mut details = ErrorDetails::new();
        details.set_error_info("NEEDS_SIGN_IN", "tidegate", HashMap::from([("session".to_owned(), "x".to_owned())]));
        details.set_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::Unauthenticated, "the session has ended", details);
        let error = CliError::from_status("give credentials", &status);
        assert_eq!(error.exit(), Exit::Denied);
        let text = error.to_text();
        for part in ["cannot give credentials: the session has ended", "NEEDS_SIGN_IN", "3s", "tidegate sign-in"] {
            assert!(text.contains(part), "{text}");
        }
        let json = error.to_json();
        assert_eq!(json["error"]["reason"], "NEEDS_SIGN_IN");
        assert_eq!(json["error"]["exit_code"], 4);
        assert_eq!(json["error"]["metadata"]["session"], "x");
        assert_eq!(json["error"]["retry_after_ms"], 3000);
    }

    #[test]
    fn field_violations_are_shown() {
        let mut details = ErrorDetails::new();
        details.set_error_info("INVALID_KEY", "tidegate", HashMap::new());
        details.add_bad_request_violation("spec.key", "has a \"..\" segment");
        let status = Status::with_error_details(Code::InvalidArgument, "the key cannot be used", details);
        let error = CliError::from_status("upload", &status);
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_text().contains("spec.key: has a \"..\" segment"), "{}", error.to_text());
    }

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let error = CliError::failed("a\u{1b}[2Jb\nline two\u{7}");
        assert!(!error.to_text().contains('\u{1b}'));
        assert!(error.to_text().contains("\nline two"));
    }

    #[test]
    fn a_denied_upload_has_its_own_code() {
        assert_eq!(CliError::upload_ended("uploads/x", "FAILED", "ACCESS_DENIED", "no").exit(), Exit::Denied);
        assert_eq!(CliError::upload_ended("uploads/x", "FAILED", "OBJECT_EXISTS", "no").exit(), Exit::Failed);
        assert_eq!(CliError::upload_ended("uploads/x", "CANCELLED", "", "").exit(), Exit::Failed);
    }
}
