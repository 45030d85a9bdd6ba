//! Integration tests: one binary, one file per subject.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "local-cloud")]
mod activation;
#[cfg(feature = "local-cloud")]
mod authoriser;
#[cfg(feature = "local-cloud")]
mod bad_input;
#[cfg(feature = "local-cloud")]
mod bandwidth;
#[cfg(feature = "local-cloud")]
mod browser;
#[cfg(feature = "local-cloud")]
mod challenges;
#[cfg(feature = "local-cloud")]
mod cli;
#[cfg(feature = "local-cloud")]
mod ends;
#[cfg(feature = "local-cloud")]
mod fault_bits;
#[cfg(feature = "local-cloud")]
mod fault_campaign;
#[cfg(feature = "local-cloud")]
mod fault_links;
#[cfg(feature = "local-cloud")]
mod fault_profiles;
#[cfg(feature = "local-cloud")]
mod fault_proxy;
#[cfg(feature = "local-cloud")]
mod fault_stage;
#[cfg(feature = "local-cloud")]
mod federated_cli;
#[cfg(feature = "local-cloud")]
mod federation;
#[cfg(feature = "local-cloud")]
mod fixture;
#[cfg(feature = "local-cloud")]
mod guests;
#[cfg(feature = "local-cloud")]
mod hosted_page;
#[cfg(feature = "local-cloud")]
mod hosted_providers;
#[cfg(feature = "local-cloud")]
mod hot_folders;
mod house;
#[cfg(feature = "local-cloud")]
mod iam;
#[cfg(feature = "local-cloud")]
mod issuer;
#[cfg(feature = "local-cloud")]
mod lifecycle;
mod link;
#[cfg(feature = "local-cloud")]
mod local_cloud_buckets;
#[cfg(feature = "local-cloud")]
mod local_cloud_faults;
#[cfg(feature = "local-cloud")]
mod local_cloud_s3;
#[cfg(feature = "local-cloud")]
mod local_cloud_scenario;
#[cfg(feature = "local-cloud")]
mod owners;
#[cfg(feature = "local-cloud")]
mod rehearsal;
#[cfg(feature = "local-cloud")]
mod rig;
#[cfg(feature = "local-cloud")]
mod service_sessions;
#[cfg(feature = "local-cloud")]
mod session_changes;
#[cfg(feature = "local-cloud")]
mod sessions;
#[cfg(feature = "local-cloud")]
mod sources;
#[cfg(feature = "local-cloud")]
mod store;
#[cfg(feature = "local-cloud")]
mod telemetry;
#[cfg(feature = "local-cloud")]
mod two_uids;
#[cfg(feature = "local-cloud")]
mod uploads;
#[cfg(feature = "local-cloud")]
mod vending;
