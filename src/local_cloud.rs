//! The rehearsal AWS: user pool, identity pool, STS, IAM, S3 and hosted sign-in at one URL. Owns everything behind
//! `tidegate local-cloud`; promises AWS's codes and shapes, that what runs is what the template says, and that a start
//! on the same directory forgets nothing; must never be imported by the daemon.
//!
//! One URL serves everything: `X-Amz-Target` leads to the pools, a form with `Action` to STS, `/.well-known/` to keys,
//! `/login`, `/oauth2/…` and the other paths of Cognito's hosted page to [`hosted_ui`], `/_tidegate/providers/` to the
//! stand-ins for Google and Apple ([`oidc_provider`]), the rest of `/_tidegate/` to the cloud's own pages (`health`,
//! `outbox`, `counters`, `requests`, `outputs`, `faults`, `expire-sessions`), all else to S3, path style. Known
//! differences from AWS: loopback counts as TLS for `aws:SecureTransport`; the hosted page's cookies lack `Secure` and
//! its errors are shown at the address that was asked for; a completed multipart upload is gone at once, where S3 still answers a repeated completion
//! for a while; stale uploads are cleared at the start, not daily; bytes survive a restart of the process, not a power
//! cut; buckets come from the template only.

pub mod api_gateway;
pub mod counters;
pub mod error;
pub mod faults;
pub mod hosted_ui;
pub mod iam;
pub mod identity_pool;
pub mod oidc_provider;
pub mod s3;
pub mod seed;
pub mod server;
pub mod signing_key;
pub mod sigv4;
pub mod site;
pub mod state_dir;
pub mod sts;
pub mod template;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::missing_docs_in_private_items, missing_docs)]
pub(crate) mod test_stage;
pub mod user_pool;
pub mod welcome;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;

use crate::clock::Clock;
use counters::Counters;
use faults::Faults;
use hosted_ui::HostedUi;
use identity_pool::IdentityPools;
use oidc_provider::OidcProviders;
use s3::{Buckets, S3StartError};
use seed::{PreSignUp, Seed};
use server::{RequestLog, RequestRecord, Server, Services};
use site::{Site, StartError};
use state_dir::StateDir;
use sts::{AdministratorKeys, Sts};
use template::TemplateError;
use user_pool::{OutboxMessage, UserPools};

/// How long requests under way may go on once the cloud stops.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a local cloud is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Lets it listen beyond loopback, where everybody on the network is its administrator. Off.
    pub allow_non_loopback: bool,
    /// Where it keeps its state from start to start; without it, a directory that goes with it.
    pub data_dir: Option<PathBuf>,
    /// What it is made from.
    pub template: TemplateSource,
    /// Values for the template's parameters.
    pub parameters: BTreeMap<String, String>,
    /// The time that tokens, credentials and signatures count by.
    pub clock: Clock,
    /// The administrator's keys.
    pub administrator: AdministratorKeys,
    /// What runs before a user of Google, Apple or another provider is made.
    pub pre_sign_up: PreSignUp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4566),
            allow_non_loopback: false,
            data_dir: None,
            template: TemplateSource::BuiltIn,
            parameters: BTreeMap::new(),
            clock: Clock::system(),
            administrator: AdministratorKeys {
                access_key_id: "AKIATIDEGATELOCAL000".to_owned(),
                secret_access_key: SecretString::from("tidegate-local-cloud-administrator-key00"),
            },
            pre_sign_up: PreSignUp::Link,
        }
    }
}

/// Where the template comes from.
#[derive(Debug, Clone)]
pub enum TemplateSource {
    /// The template of the demo, which is the one in `deploy/aws`.
    BuiltIn,
    /// This text, YAML or JSON.
    Text(String),
    /// This file.
    File(PathBuf),
    /// Already read.
    Seed(Box<Seed>),
}

/// Why a local cloud could not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalCloudError {
    /// The address is not loopback.
    #[error(
        "the local cloud does not listen on {0}: everybody on that network would be its administrator; listen on \
         127.0.0.1, or allow other addresses explicitly"
    )]
    NotLoopback(SocketAddr),
    /// The address is taken or not this machine's.
    #[error("the local cloud cannot listen on {address}: {source}; choose another address or port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The template's file cannot be read.
    #[error("the template {} cannot be read: {source}", path.display())]
    TemplateFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The template cannot be rehearsed.
    #[error("the template cannot be rehearsed: {0}")]
    Template(#[from] TemplateError),
    /// No temporary directory.
    #[error("no temporary directory can be made in {}: {source}; name one with --data-dir", path.display())]
    TemporaryDirectory {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A service cannot start.
    #[error(transparent)]
    Service(#[from] StartError),
    /// S3 cannot start.
    #[error(transparent)]
    S3(#[from] S3StartError),
}

/// A running local cloud. Dropping it stops it at once; [`LocalCloud::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct LocalCloud {
    server: Server,
    address: SocketAddr,
    site: Site,
    sts: Sts,
    user_pools: UserPools,
    buckets: Buckets,
    faults: Faults,
    requests: RequestLog,
    seed: Seed,
    data_dir: PathBuf,
    _temporary: Option<TemporaryDirectory>,
}

impl LocalCloud {
    /// Reads the template, opens the state and serves.
    ///
    /// # Errors
    /// [`LocalCloudError`].
    pub async fn start(options: Options) -> Result<Self, LocalCloudError> {
        if !options.listen.ip().is_loopback() && !options.allow_non_loopback {
            return Err(LocalCloudError::NotLoopback(options.listen));
        }
        let refused = |source| LocalCloudError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        // Making keys and opening files takes its time.
        let built = tokio::task::spawn_blocking(move || Built::new(options, address)).await;
        let Built { services, buckets, seed, data_dir, temporary } = built.expect("starting does not panic")?;
        Ok(Self {
            address,
            site: services.site.clone(),
            sts: services.sts.clone(),
            user_pools: services.user_pools.clone(),
            faults: services.faults.clone(),
            requests: services.requests.clone(),
            server: Server::start(listener, services),
            buckets,
            seed,
            data_dir,
            _temporary: temporary,
        })
    }

    /// The one URL of everything, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.site.base_url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the template said.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// The template's outputs.
    pub fn outputs(&self) -> &BTreeMap<String, String> {
        &self.seed.outputs
    }

    /// Where its state is.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The messages that a real pool would have mailed, oldest first.
    pub fn outbox(&self) -> Vec<OutboxMessage> {
        self.user_pools.outbox()
    }

    /// Calls by operation, for example `cognito-identity:GetCredentialsForIdentity`.
    pub fn counters(&self) -> &Counters {
        &self.site.counters
    }

    /// The last requests behind this sequence number (zero for all): who signed what, and how it was answered.
    pub fn requests(&self, after: u64) -> Vec<RequestRecord> {
        self.requests.after(after)
    }

    /// What goes wrong on demand.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Credentials: to end sessions early, and to make some for a role without signing in.
    pub fn sts(&self) -> &Sts {
        &self.sts
    }

    /// The administrator's keys, to which nothing is denied.
    pub fn administrator(&self) -> &AdministratorKeys {
        self.sts.administrator()
    }

    /// The names of the buckets.
    pub fn buckets(&self) -> Vec<String> {
        self.buckets.names()
    }

    /// Takes no new request, lets those under way finish for [`STOP_GRACE`], and ends.
    pub async fn shutdown(self) {
        self.server.stop(STOP_GRACE).await;
    }
}

/// Everything of a local cloud but its server.
struct Built {
    services: Services,
    buckets: Buckets,
    seed: Seed,
    data_dir: PathBuf,
    temporary: Option<TemporaryDirectory>,
}

impl Built {
    fn new(options: Options, address: SocketAddr) -> Result<Self, LocalCloudError> {
        let mut seed = read_seed(options.template, options.parameters)?;
        seed.user_pools.iter_mut().for_each(|pool| pool.pre_sign_up = options.pre_sign_up);
        let temporary = if options.data_dir.is_none() { Some(TemporaryDirectory::new()?) } else { None };
        let data_dir = match (&temporary, options.data_dir) {
            (Some(temporary), _) => temporary.0.clone(),
            (None, given) => given.unwrap_or_default(),
        };
        let site = Site {
            account_id: seed.account_id.clone(),
            region: seed.region.clone(),
            base_url: format!("http://{}", reachable(address)),
            state: StateDir::at(&data_dir).map_err(StartError::from)?,
            clock: options.clock,
            counters: Counters::default(),
        };
        let sts = Sts::start(&site, &seed.roles, options.administrator)?;
        let user_pools = UserPools::start(&site, &seed.user_pools, &sts)?;
        let identity_pools = IdentityPools::start(&site, &seed.identity_pools)?;
        let buckets = Buckets::start(&site, &sts, &data_dir.join("s3"), &seed.buckets)?;
        let services = Services {
            faults: Faults::new(&site.clock),
            oidc_providers: OidcProviders::new(&site),
            hosted_ui: HostedUi::new(&site, &user_pools),
            s3: buckets.service(),
            outputs: seed.outputs.clone(),
            requests: RequestLog::default(),
            site,
            sts,
            user_pools,
            identity_pools,
        };
        Ok(Self { services, buckets, seed, data_dir, temporary })
    }
}

/// What the built-in template is rehearsed with where nobody says otherwise: in AWS these need a name, two accounts, and
/// the decision to let guests in.
const REHEARSED: [(&str, &str); 4] = [
    ("HostedDomainPrefix", "rehearsal"),
    ("GoogleClientId", "rehearsal"),
    ("AppleServicesId", "rehearsal"),
    ("AllowGuests", "true"),
];

fn read_seed(source: TemplateSource, mut parameters: BTreeMap<String, String>) -> Result<Seed, LocalCloudError> {
    let text = match source {
        TemplateSource::Seed(seed) => return Ok(*seed),
        TemplateSource::BuiltIn => {
            for (name, value) in REHEARSED {
                parameters.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
            template::built_in().to_owned()
        }
        TemplateSource::Text(text) => text,
        TemplateSource::File(path) => {
            std::fs::read_to_string(&path).map_err(|source| LocalCloudError::TemplateFile { path, source })?
        }
    };
    let options = template::Options { parameters, ..template::Options::default() };
    Ok(template::load(&text, &options)?)
}

/// The address under which a client on this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

/// A directory that goes with its owner.
#[derive(Debug)]
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> Result<Self, LocalCloudError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("tidegate-local-cloud-{}", ulid::Ulid::generate()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| LocalCloudError::TemporaryDirectory { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
