//! The rehearsal AWS: user pool, identity pool, STS, IAM, S3 and hosted sign-in at one URL. Owns everything behind
//! `tidegate local-cloud`; promises AWS's codes and shapes; must never be imported by the daemon.

pub mod counters;
pub mod error;
pub mod iam;
pub mod identity_pool;
pub mod s3;
pub mod seed;
pub mod signing_key;
pub mod site;
pub mod state_dir;
pub mod sts;
pub mod template;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::missing_docs_in_private_items, missing_docs)]
pub(crate) mod test_stage;
pub mod user_pool;
