//! `GatewayService`: shows and steers the daemon. Who may steer it is decided in `server`, before a request is read.

use std::sync::Arc;
use std::time::SystemTime;

use tonic::{Request, Response, Status};

use super::reason::Reason;
use super::server::caller;
use super::status::{Failure, of_upload};
use super::v1::gateway_service_server::GatewayService;
use super::{convert, v1};
use crate::session::Sessions;
use crate::upload::Uploads;

/// The daemon, as this service needs it.
#[tonic::async_trait]
pub trait Gateway: Send + Sync + 'static {
    /// When it started.
    fn start_time(&self) -> SystemTime;
    /// The destinations' names.
    fn destinations(&self) -> Vec<String>;
    /// The identities' names.
    fn identities(&self) -> Vec<String>;
    /// The hot folders.
    fn hot_folders(&self) -> Vec<HotFolder>;
    /// Reads the configuration file again.
    ///
    /// # Errors
    /// Every mistake with its place; the running configuration is kept then.
    async fn reload(&self) -> Result<Reloaded, Vec<String>>;
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that are in force now.
    pub applied_keys: Vec<String>,
    /// Keys that need a restart.
    pub restart_keys: Vec<String>,
}

/// A hot folder.
#[derive(Debug, Clone)]
pub struct HotFolder {
    /// The folder.
    pub path: String,
    /// The service session's name.
    pub session: String,
    /// Whose uploads they are.
    pub owner_uid: u32,
    /// The destination's name.
    pub destination: String,
    /// How it is.
    pub condition: FolderCondition,
    /// What is wrong, or nothing.
    pub last_error: String,
    /// Files that were taken since the start.
    pub taken_count: u64,
    /// Files that may soon be complete.
    pub waiting_count: u64,
    /// Files on their way.
    pub open_count: u64,
    /// Files whose uploads failed.
    pub failed_count: u64,
    /// Files that were refused.
    pub refused_count: u64,
    /// Files that could not be deleted or moved.
    pub stuck_count: u64,
    /// When the whole folder was last looked through.
    pub scan_time: Option<SystemTime>,
}

/// How a hot folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderCondition {
    /// Not looked at yet.
    Starting,
    /// Every file is told.
    Watching,
    /// Files are found by looking.
    Polling,
    /// It is not there.
    Missing,
    /// It cannot be read.
    Unreadable,
}

/// See the module.
pub struct GatewayApi {
    gateway: Arc<dyn Gateway>,
    sessions: Sessions,
    uploads: Uploads,
}

impl GatewayApi {
    /// Serves `gateway`, counting `sessions` and `uploads`.
    pub fn new(gateway: Arc<dyn Gateway>, sessions: Sessions, uploads: Uploads) -> Self {
        Self { gateway, sessions, uploads }
    }
}

#[tonic::async_trait]
impl GatewayService for GatewayApi {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let caller = caller(&request)?;
        let counted_uid = (!caller.is_admin).then_some(caller.uid);
        let stats = self.uploads.stats(counted_uid).await;
        let stats = stats.map_err(|error| of_upload(&error, Reason::UploadEnded))?;
        let named = |(name, number): (&str, u64)| (name.to_owned(), convert::count(number));
        let sessions = self.sessions.count(counted_uid);
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(convert::timestamp(self.gateway.start_time())),
            paused: stats.paused,
            accepting: stats.accepting,
            session_count: i64::try_from(sessions).unwrap_or(i64::MAX),
            upload_counts: stats.counts.into_iter().map(named).collect(),
            waiting_counts: stats.waiting.into_iter().map(named).collect(),
            spool_bytes: convert::count(stats.spool_bytes),
            spool_limit_bytes: convert::count(stats.spool_limit_bytes),
            disk_free_bytes: convert::count(stats.disk_free_bytes),
            destinations: self.gateway.destinations(),
            identities: self.gateway.identities(),
            all_uids: caller.is_admin,
            hot_folders: self
                .gateway
                .hot_folders()
                .into_iter()
                .filter(|folder| caller.is_admin || folder.owner_uid == caller.uid)
                .map(convert::hot_folder)
                .collect(),
        }))
    }

    async fn pause(&self, _request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        self.uploads.set_paused(true);
        Ok(Response::new(v1::PauseResponse {}))
    }

    async fn resume(&self, _request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        self.uploads.set_paused(false);
        // Who calls this knows that sending is possible now: nobody waits out a back-off for the link.
        self.uploads.link_returned();
        self.sessions.link_returned();
        Ok(Response::new(v1::ResumeResponse {}))
    }

    async fn reload_config(
        &self,
        _request: Request<v1::ReloadConfigRequest>,
    ) -> Result<Response<v1::ReloadConfigResponse>, Status> {
        let reloaded = self.gateway.reload().await.map_err(|mistakes| {
            let message = format!("the configuration is kept as it was; the file has {}", list(&mistakes));
            Failure::new(Reason::InvalidConfig, message).with("mistakes", mistakes.len()).into_status()
        })?;
        Ok(Response::new(v1::ReloadConfigResponse {
            applied_keys: reloaded.applied_keys,
            restart_keys: reloaded.restart_keys,
        }))
    }
}

fn list(mistakes: &[String]) -> String {
    let noun = if mistakes.len() == 1 { "1 mistake" } else { "mistakes" };
    format!("{noun}: {}", mistakes.join("; "))
}
