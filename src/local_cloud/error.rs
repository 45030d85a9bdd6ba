//! An AWS error: the code and the status are what SDKs type by.

/// An AWS service's refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AwsError {
    /// The HTTP status.
    pub status: u16,
    /// The code, for example `NotAuthorizedException`.
    pub code: &'static str,
    /// AWS's own words where they are known.
    pub message: String,
}

impl AwsError {
    /// A 400 with this code.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code, message: message.into() }
    }
}
