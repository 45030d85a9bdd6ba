//! STS: temporary credentials and who holds them.

use std::collections::BTreeMap;
use std::time::SystemTime;

/// Who signed a request, as IAM sees it.
#[derive(Debug, Clone)]
pub struct Principal {
    /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`, or `arn:aws:iam::ACCOUNT:root` for the administrator.
    pub arn: String,
    /// The role; none for the administrator, whom nothing is denied.
    pub role_arn: Option<String>,
    /// Condition keys that the session carries, for example `cognito-identity.amazonaws.com:sub`.
    pub context: BTreeMap<String, Vec<String>>,
}

/// Temporary credentials as they are given out.
#[derive(Debug, Clone)]
pub struct IssuedCredentials {
    /// `ASIA…`.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: String,
    /// The session token.
    pub session_token: String,
    /// When they end.
    pub expire_time: SystemTime,
}
