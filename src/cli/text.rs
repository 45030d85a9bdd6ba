//! Words and shapes that the commands show: names, sizes, times, tables. Pure.

use std::fmt::Write as _;
use std::time::SystemTime;

use crate::api::v1;

/// The name of an enumerator without its type ("QUEUED"), as the API's other places show it.
pub fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

/// An upload's state ("QUEUED").
pub fn upload_state(state: i32) -> String {
    match v1::UploadState::try_from(state) {
        Ok(state) => short(state.as_str_name(), "UPLOAD_STATE_"),
        Err(_) => format!("STATE_{state}"),
    }
}

/// Why an upload waits ("OFFLINE"); empty where it does not.
pub fn wait_reason(reason: i32) -> String {
    match v1::WaitReason::try_from(reason) {
        Ok(v1::WaitReason::Unspecified) => String::new(),
        Ok(reason) => short(reason.as_str_name(), "WAIT_REASON_"),
        Err(_) => format!("REASON_{reason}"),
    }
}

/// A session's state ("ACTIVE").
pub fn session_state(state: i32) -> String {
    match v1::SessionState::try_from(state) {
        Ok(state) => short(state.as_str_name(), "SESSION_STATE_"),
        Err(_) => format!("STATE_{state}"),
    }
}

/// Who is signed in ("GUEST").
pub fn session_kind(kind: i32) -> String {
    match v1::SessionKind::try_from(kind) {
        Ok(kind) => short(kind.as_str_name(), "SESSION_KIND_"),
        Err(_) => format!("KIND_{kind}"),
    }
}

/// How a hot folder is ("WATCHING").
pub fn hot_folder_state(state: i32) -> String {
    match v1::HotFolderState::try_from(state) {
        Ok(state) => short(state.as_str_name(), "HOT_FOLDER_STATE_"),
        Err(_) => format!("STATE_{state}"),
    }
}

/// True where nothing more happens to an upload by itself.
pub fn has_ended(state: i32) -> bool {
    matches!(
        v1::UploadState::try_from(state),
        Ok(v1::UploadState::Succeeded | v1::UploadState::Failed | v1::UploadState::Cancelled)
    )
}

/// RFC 3339 in UTC, to the second.
pub fn time(timestamp: Option<&prost_types::Timestamp>) -> Option<String> {
    let time = SystemTime::try_from(*timestamp?).ok()?;
    // humantime cannot write years before 1970 or after 9999.
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    (seconds < 253_402_300_800).then(|| humantime::format_rfc3339_seconds(time).to_string())
}

/// Bytes for people ("3.1 MiB").
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss)] // one digit behind the point is shown
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The text with nothing in it that steers a terminal: names and keys come from other people.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// "sessions/{id}" from that or from the id alone; empty stays empty (the caller's only one).
pub fn resource(collection: &str, given: &str) -> String {
    if given.is_empty() || given.contains('/') { given.to_owned() } else { format!("{collection}/{given}") }
}

/// Rows under a head, each column as wide as its widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(64 << 20), "64.0 MiB");
        assert_eq!(size(i64::MAX), "8192.0 PiB");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&["X", "Y"], &rows), "X    Y\na    bb\nccc  d");
    }

    #[test]
    fn bare_ids_become_names() {
        assert_eq!(resource("uploads", "01J"), "uploads/01J");
        assert_eq!(resource("uploads", "uploads/01J"), "uploads/01J");
        assert_eq!(resource("sessions", ""), "");
    }

    #[test]
    fn times_outside_the_calendar_are_left_out() {
        assert_eq!(time(None), None);
        assert_eq!(time(Some(&prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })), None);
        let known = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 };
        assert_eq!(time(Some(&known)).as_deref(), Some("2023-11-14T22:13:20Z"));
    }
}
