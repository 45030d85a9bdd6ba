//! Tidegate: a one-way gate for photos on their way to S3.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod account;
pub mod api;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credential;
pub mod daemon;
pub mod failpoint;
pub mod hot_folder;
pub mod link;
#[cfg(feature = "local-cloud")]
pub mod local_cloud;
pub mod loopback;
pub mod media_type;
pub mod pre_sign_up;
pub mod session;
pub mod srp;
pub mod store;
pub mod telemetry;
pub mod upload;
pub mod vend;
