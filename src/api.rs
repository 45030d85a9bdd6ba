//! The gRPC API on the Unix socket. Owns listener, caller, limits and the services; the only place (with `cli`) that
//! knows prost types; must never decide anything that belongs to a capability.

mod account;
mod config;
mod convert;
mod credential;
mod ends;
mod gateway;
mod limits;
mod listener;
mod names;
mod peer;
pub mod reason;
mod server;
mod session;
mod status;
pub mod strict;
mod upload;
mod upload_stream;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;

pub use account::Directories;
pub use config::Config;
pub use gateway::{FolderCondition, Gateway, HotFolder, Reloaded};
pub use listener::{ListenError, Listener};
pub use reason::Reason;
pub use status::DOMAIN as ERROR_DOMAIN;
pub use upload_stream::CHUNK_MAX_BYTES;

use crate::session::Sessions;
use crate::upload::Uploads;

/// The generated messages and services of `proto/tidegate/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]
pub mod v1 {
    tonic::include_proto!("tidegate.v1");

    /// The files' descriptors, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate_descriptor.bin"));
}

/// What the services serve.
pub struct Services {
    /// Signed-in users.
    pub sessions: Sessions,
    /// Uploads.
    pub uploads: Uploads,
    /// User directories, by identity; every identity of the configuration is a key.
    pub directories: Directories,
    /// The daemon.
    pub gateway: Arc<dyn Gateway>,
    /// What the URL of a session's credentials endpoint starts with (its id follows), where there is such an endpoint.
    pub endpoint_base: Option<String>,
}

/// Serves the API on `listener` until `stop` is cancelled and the calls that run then have ended, or `drain_timeout`
/// is over. The socket is gone as soon as the drain begins.
pub async fn serve(
    listener: Listener,
    config: &Config,
    services: Services,
    drain_timeout: Duration,
    stop: CancellationToken,
) {
    let lifecycle = server::Lifecycle { stop: stop.clone(), cut: CancellationToken::new() };
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    let limit = config.max_message_bytes;
    let routes = service_routes(services, &lifecycle, limit).add_service(health.max_decoding_message_size(limit));
    let routes = add_reflection(routes);
    let telling = async {
        stop.cancelled().await;
        for service in SERVICES.into_iter().chain([""]) {
            reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
        // Dropping the last reporter would end the watchers without a word.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server::run(listener, routes, config, lifecycle, drain_timeout) => {}
        () = telling => {}
    }
}

/// The names that the health service knows.
const SERVICES: [&str; 5] = [
    "tidegate.v1.AccountService",
    "tidegate.v1.SessionService",
    "tidegate.v1.CredentialService",
    "tidegate.v1.UploadService",
    "tidegate.v1.GatewayService",
];

fn service_routes(services: Services, lifecycle: &server::Lifecycle, limit: usize) -> Routes {
    let Services { sessions, uploads, directories, gateway, endpoint_base } = services;
    let stop = || lifecycle.stop.clone();
    let accounts = account::Accounts::new(directories);
    let session = session::SessionApi::new(sessions.clone(), uploads.clone(), stop());
    let credential = credential::CredentialApi::new(sessions.clone(), endpoint_base, stop());
    let upload = upload::UploadApi::new(uploads.clone(), lifecycle.clone(), limit);
    let gateway = gateway::GatewayApi::new(gateway, sessions, uploads);
    Routes::new(v1::account_service_server::AccountServiceServer::new(accounts).max_decoding_message_size(limit))
        .add_service(v1::session_service_server::SessionServiceServer::new(session).max_decoding_message_size(limit))
        .add_service(
            v1::credential_service_server::CredentialServiceServer::new(credential).max_decoding_message_size(limit),
        )
        .add_service(v1::upload_service_server::UploadServiceServer::new(upload).max_decoding_message_size(limit))
        .add_service(v1::gateway_service_server::GatewayServiceServer::new(gateway).max_decoding_message_size(limit))
}

/// Reflection in both versions: grpcurl before 1.9 asks for v1alpha only.
fn add_reflection(routes: Routes) -> Routes {
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients which know us only by reflection can read the details of our errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = described().build_v1().expect("our own descriptors, made by the build");
    let v1alpha = described().build_v1alpha().expect("our own descriptors, made by the build");
    routes.add_service(v1).add_service(v1alpha)
}

#[cfg(test)]
mod tests;
