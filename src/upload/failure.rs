//! Why uploads fail: the stable reasons, in one place.

use super::UploadFailure;

/// S3 denied it, also with fresh credentials.
pub const ACCESS_DENIED: &str = "ACCESS_DENIED";
/// Something else is at the key.
pub const OBJECT_EXISTS: &str = "OBJECT_EXISTS";
/// Whether it was stored cannot be found out without permission to read.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// The store cannot promise not to overwrite.
pub const OVERWRITE_UNGUARDED: &str = "OVERWRITE_UNGUARDED";
/// The file on the device is not the accepted one any more.
pub const SOURCE_CHANGED: &str = "SOURCE_CHANGED";
/// The file on the device is gone.
pub const SOURCE_MISSING: &str = "SOURCE_MISSING";
/// The bytes in the spool are not the ones that arrived.
pub const SPOOL_CORRUPT: &str = "SPOOL_CORRUPT";
/// The store confirmed other bytes than were sent.
pub const CHECKSUM_MISMATCH: &str = "CHECKSUM_MISMATCH";
/// The store refuses the request for good.
pub const STORE_REFUSED: &str = "STORE_REFUSED";
/// The configuration has no such destination any more.
pub const DESTINATION_GONE: &str = "DESTINATION_GONE";
/// The stream never went on.
pub const STREAM_ABANDONED: &str = "STREAM_ABANDONED";
/// Not reachable.
pub const OFFLINE: &str = "OFFLINE";
/// The clock is outside the certificate's dates.
pub const CLOCK: &str = "CLOCK";
/// The store or the link failed; it is tried again.
pub const STORE_UNAVAILABLE: &str = "STORE_UNAVAILABLE";
/// No valid credentials now.
pub const CREDENTIALS_UNAVAILABLE: &str = "CREDENTIALS_UNAVAILABLE";
/// The user must sign in again.
pub const SIGN_IN_NEEDED: &str = "SIGN_IN_NEEDED";
/// The guest whose upload this is has gone, and nobody else may sign it.
pub const GUEST_GONE: &str = "GUEST_GONE";
/// It has failed for too long; it is not tried any more.
pub const LIFETIME_EXCEEDED: &str = "LIFETIME_EXCEEDED";
/// This device failed to read or to keep records.
pub const DEVICE_FAILED: &str = "DEVICE_FAILED";

const ALL: [&str; 19] = [
    ACCESS_DENIED,
    OBJECT_EXISTS,
    OUTCOME_UNKNOWN,
    OVERWRITE_UNGUARDED,
    SOURCE_CHANGED,
    SOURCE_MISSING,
    SPOOL_CORRUPT,
    CHECKSUM_MISMATCH,
    STORE_REFUSED,
    DESTINATION_GONE,
    STREAM_ABANDONED,
    OFFLINE,
    CLOCK,
    STORE_UNAVAILABLE,
    CREDENTIALS_UNAVAILABLE,
    SIGN_IN_NEEDED,
    GUEST_GONE,
    LIFETIME_EXCEEDED,
    DEVICE_FAILED,
];

/// A failure for showing.
pub fn failure(reason: &'static str, message: impl Into<String>) -> UploadFailure {
    UploadFailure { reason, message: message.into() }
}

/// The reason of a text in the journal; one of a later version is `DEVICE_FAILED`.
pub fn reason(text: &str) -> &'static str {
    ALL.into_iter().find(|reason| *reason == text).unwrap_or(DEVICE_FAILED)
}
