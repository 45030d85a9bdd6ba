//! The composition root: builds every room, names the plug-ins, owns the tasks, drains on stop. Promises that a start
//! either serves or says precisely why not and leaves nothing behind; must hold no logic that belongs to a room.

mod hardening;
mod plug_ins;
mod reload;

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use reload::{ReloadError, Reloader};

use crate::api;
use crate::clock::Clock;
use crate::config::watch::FileWatch;
use crate::config::{Config, ConfigError};
use crate::hot_folder::{Condition, HotFolderView, HotFolders};
use crate::link::{self, Ways};
use crate::session::{SessionError, Sessions};
use crate::telemetry::{self, FilterHandle, TelemetryError};
use crate::upload::{StartError, Uploads};
use crate::vend::{self, VendError};

/// What a stop may take beyond the drain, before the process ends all the same.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What hot folders may take to come to a rest.
const FOLDERS_GRACE: Duration = Duration::from_secs(1);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Logs, traces or metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The kernel refuses to protect the process.
    #[error("cannot harden the process: {0}")]
    Hardening(#[from] rustix::io::Errno),
    /// The state directory cannot be used.
    #[error("daemon.state_dir {path}: {why}")]
    StateDir {
        /// The directory.
        path: String,
        /// What failed and what to do.
        why: String,
    },
    /// A table of the configuration cannot be used on this machine.
    #[error("{table}: {why}")]
    Unusable {
        /// Which table.
        table: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The session room.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The upload room.
    #[error(transparent)]
    Upload(#[from] StartError),
    /// The socket.
    #[error(transparent)]
    Listen(#[from] api::ListenError),
    /// The credentials endpoint.
    #[error("vend.listen: {0}")]
    Vend(#[from] VendError),
    /// Something that must run forever has ended.
    #[error("{0} ended by itself: {1}")]
    Ended(&'static str, String),
    /// The disk failed under a running daemon.
    #[error(
        "the state directory failed: {0}: stopped, because what the disk holds is not known any more; everything that was \
         acknowledged is taken up by the next start; check the disk (the kernel's log, room, read-only mounts), then start \
         the daemon again"
    )]
    StateFailed(String),
    /// A signal handler could not be installed, or the like.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// A running daemon. [`Daemon::stop`] it; dropping it breaks everything off.
#[derive(Debug)]
pub struct Daemon {
    socket_path: PathBuf,
    drain_timeout: Duration,
    sessions: Sessions,
    uploads: Uploads,
    hot_folders: HotFolders,
    reloader: Reloader,
    /// Ends the API: no new connections, watch streams end.
    stop_api: CancellationToken,
    /// Ends everything else.
    stop: CancellationToken,
    /// The API and the credentials endpoint, by name.
    servers: JoinSet<&'static str>,
}

impl Daemon {
    /// Builds everything and serves. `source` is the configuration's file and text, for reloading.
    ///
    /// # Errors
    /// What cannot be used, and why; everything that was started has been ended.
    pub async fn start(
        config: Config,
        source: Option<(PathBuf, String)>,
        log_filter: Option<FilterHandle>,
    ) -> Result<Self, DaemonError> {
        let start_time = SystemTime::now();
        let clock = Clock::system();
        let identities = plug_ins::identities(&config, &clock)?;
        let directories = plug_ins::directories(&config, &clock)?;
        let destinations = plug_ins::destinations(&config, &clock)?;
        prepare_state_dir(&config.state_dir)?;
        // The socket first: it tells whether another daemon lives here, before anything of its state is touched.
        let listener = api::Listener::open(&config.api).await?;
        let endpoint = vend::Endpoint::open(&config.vend)?;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let sessions =
            Sessions::start(config.session.clone(), identities, &config.state_dir, clock.clone(), stop.child_token())
                .await?;
        let uploads = Uploads::start(
            config.upload.clone(),
            destinations,
            sessions.clone(),
            &config.state_dir,
            clock.clone(),
            stop.child_token(),
        )
        .await?;
        tokio::spawn(follow_link(link::follow(stop.child_token()).await, uploads.clone(), sessions.clone()));
        let hot_folders =
            HotFolders::start(config.hot_folders.clone(), uploads.clone(), clock.clone(), stop.child_token());
        let reloader = Reloader::new(source, &config, uploads.clone(), hot_folders.clone(), log_filter, clock);
        let stop_api = stop.child_token();
        let socket_path = config.api.socket_path.clone();
        let drain_timeout = Duration::from_millis(config.drain_timeout_ms);
        let services = api::Services {
            sessions: sessions.clone(),
            uploads: uploads.clone(),
            directories,
            gateway: Arc::new(Steering {
                start_time,
                identities: config.identities.into_iter().map(|identity| identity.name).collect(),
                hot_folders: hot_folders.clone(),
                reloader: reloader.clone(),
            }),
            endpoint_base: endpoint.as_ref().map(vend::Endpoint::url_base),
        };
        let mut servers = JoinSet::new();
        if let Some(endpoint) = endpoint {
            let (sessions, stopped) = (sessions.clone(), stop_api.clone());
            servers.spawn(async move {
                endpoint.serve(sessions, stopped).await;
                "the credentials endpoint"
            });
        }
        let stopped = stop_api.clone();
        servers.spawn(async move {
            api::serve(listener, &config.api, services, drain_timeout, stopped).await;
            "the API"
        });
        guard.disarm();
        Ok(Self { socket_path, drain_timeout, sessions, uploads, hot_folders, reloader, stop_api, stop, servers })
    }

    /// Where it listens.
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// Reloads the configuration.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// Ends only when the state directory has failed, or the API or the credentials endpoint has ended by itself, which
    /// neither must. May be dropped and called again.
    pub async fn ended(&mut self) -> DaemonError {
        let uploads = self.uploads.clone();
        tokio::select! {
            why = uploads.failed() => DaemonError::StateFailed(why),
            ended = self.servers.join_next() => match ended {
                Some(Err(panic)) => DaemonError::Ended("a server", panic.to_string()),
                Some(Ok(name)) => DaemonError::Ended(name, "nobody stopped it".to_owned()),
                None => DaemonError::Ended("the API", "it ended before".to_owned()),
            },
        }
    }

    /// Stops: no new calls, running ones end, parts in flight end (for the drain timeout at most), then the rest.
    pub async fn stop(mut self) {
        self.stop_api.cancel();
        // Nothing new comes from the folders: what is in them is there at the next start. A dead network share may hold
        // one up, but nobody else.
        let _ = tokio::time::timeout(FOLDERS_GRACE, self.hot_folders.stop()).await;
        // The API bounds its own drain; calls that wait for an upload end with the uploads' drain.
        let served = async { while self.servers.join_next().await.is_some() {} };
        tokio::join!(served, self.uploads.drain(self.drain_timeout));
        self.sessions.shutdown().await;
        self.stop.cancel();
        self.uploads.release();
    }
}

/// Tells everybody of the ways out of this device, until nobody follows them any more.
async fn follow_link(mut ways: watch::Receiver<Ways>, uploads: Uploads, sessions: Sessions) {
    uploads.network_changed(ways.borrow_and_update().interfaces());
    while ways.changed().await.is_ok() {
        let interfaces = ways.borrow_and_update().interfaces();
        info!(interfaces = interfaces.join(", "), "the ways out of this device have changed");
        if !interfaces.is_empty() {
            sessions.link_returned();
        }
        uploads.network_changed(interfaces);
    }
}

/// What `GatewayService` needs of the daemon.
#[derive(Debug)]
struct Steering {
    start_time: SystemTime,
    identities: Vec<String>,
    hot_folders: HotFolders,
    reloader: Reloader,
}

#[async_trait::async_trait]
impl api::Gateway for Steering {
    fn start_time(&self) -> SystemTime {
        self.start_time
    }

    fn destinations(&self) -> Vec<String> {
        self.reloader.destinations()
    }

    fn identities(&self) -> Vec<String> {
        self.identities.clone()
    }

    fn hot_folders(&self) -> Vec<api::HotFolder> {
        self.hot_folders.views().into_iter().map(shown).collect()
    }

    async fn reload(&self) -> Result<api::Reloaded, Vec<String>> {
        self.reloader.reload().await.map_err(|error| match error {
            ReloadError::Config(ConfigError::Invalid { problems, .. }) => {
                problems.iter().map(ToString::to_string).collect()
            }
            other => vec![other.to_string()],
        })
    }
}

/// A hot folder as the API shows it.
fn shown(view: HotFolderView) -> api::HotFolder {
    api::HotFolder {
        last_error: view.trouble(),
        path: view.path.display().to_string(),
        session: view.session,
        owner_uid: view.owner_uid,
        destination: view.destination,
        condition: match view.condition {
            Condition::Starting => api::FolderCondition::Starting,
            Condition::Watching => api::FolderCondition::Watching,
            Condition::Polling => api::FolderCondition::Polling,
            Condition::Missing => api::FolderCondition::Missing,
            Condition::Unreadable => api::FolderCondition::Unreadable,
        },
        taken_count: view.taken_count,
        waiting_count: view.waiting_count,
        open_count: view.open_count,
        failed_count: view.failed_count,
        refused_count: view.refused_count,
        stuck_count: view.stuck_count,
        scan_time: view.scan_time,
    }
}

/// Runs the daemon with a configuration file until a signal stops it.
///
/// # Errors
/// What cannot be used, and why.
pub async fn run(config_file: &Path) -> Result<(), DaemonError> {
    hardening::harden()?;
    let (config, text) = Config::load(config_file)?;
    let telemetry = telemetry::init(&config.telemetry)?;
    let result = serve(config_file, config, text, telemetry.filter()).await;
    if let Err(error) = &result {
        error!(%error, "the daemon does not run");
    }
    telemetry.shutdown().await;
    result
}

async fn serve(config_file: &Path, config: Config, text: String, filter: FilterHandle) -> Result<(), DaemonError> {
    // Installed before the daemon starts, so that no signal is lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let watch = FileWatch::start(config_file)
        .inspect_err(|error| warn!(%error, "changes of the configuration file are not noticed: use `tidegate reload`"))
        .ok();
    let stop_timeout = Duration::from_millis(config.drain_timeout_ms) + STOP_GRACE;
    let mut daemon = Daemon::start(config, Some((config_file.to_owned(), text)), Some(filter)).await?;
    info!(version = env!("CARGO_PKG_VERSION"), socket = %daemon.socket_path().display(), "ready");
    tell_systemd(&[NotifyState::Ready]);
    let mut watchdog = sd_notify::watchdog_enabled().map(|every| tokio::time::interval(every / 2));
    let result = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hang_up.recv() => reload(&daemon, "SIGHUP").await,
            () = next_change(watch.as_ref()) => daemon.reloader().reload_and_log("the file changed").await,
            () = next_tick(watchdog.as_mut()) => tell_systemd(&[NotifyState::Watchdog]),
            error = daemon.ended() => break Err(error),
        }
    };
    info!("stopping");
    tell_systemd(&[NotifyState::Stopping]);
    tokio::select! {
        stopped = tokio::time::timeout(stop_timeout, daemon.stop()) => {
            if stopped.is_err() {
                warn!("stopping took too long; what is left is taken up by the next start");
            }
        }
        _ = terminate.recv() => warn!("a second signal: stopping at once"),
        _ = interrupt.recv() => warn!("a second signal: stopping at once"),
    }
    info!("stopped");
    result
}

async fn reload(daemon: &Daemon, why: &'static str) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell_systemd(&[NotifyState::Reloading, now]);
    }
    daemon.reloader().reload_and_log(why).await;
    tell_systemd(&[NotifyState::Ready]);
}

async fn next_change(watch: Option<&FileWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn next_tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Tells systemd, where it started us; anywhere else this does nothing.
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd does not hear us");
    }
}

/// Makes the state directory with mode 0700, or checks that it is ours to write.
fn prepare_state_dir(path: &Path) -> Result<(), DaemonError> {
    let failed = |why: String| DaemonError::StateDir { path: path.display().to_string(), why };
    if let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        return Err(failed(format!("cannot be made: {error}: make it and give it to the daemon's user")));
    }
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(failed("is not a directory".to_owned()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| failed(format!("others can look into it, and its mode cannot be set to 0700: {error}")))?;
    }
    let probe = path.join(".writable");
    std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).map_err(|error| {
        failed(format!("cannot be written: {error}: give it to the daemon's user, or mount it read-write"))
    })
}
