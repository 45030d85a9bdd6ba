//! The gRPC API on the Unix socket. Owns listener, caller, limits and the services; the only place (with `cli`) that
//! knows prost types; must never decide anything that belongs to a capability.

mod config;
pub mod reason;

pub use config::Config;
pub use reason::Reason;

/// The generated messages and services of `proto/tidegate/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]
pub mod v1 {
    tonic::include_proto!("tidegate.v1");

    /// The files' descriptors, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate_descriptor.bin"));
}
