//! `tidegate local-cloud`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::exit::CliError;
use super::output::Output;
use super::sign_up::pair;
use crate::local_cloud::seed::PreSignUp;
use crate::local_cloud::{LocalCloud, LocalCloudError, Options, TemplateSource, welcome};
use crate::telemetry;

/// Run the rehearsal AWS at one URL, made from a CloudFormation template: point AWS_ENDPOINT_URL at it. It prints its
/// URL, ids and administrator's keys, and runs until Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// Listen beyond loopback: everybody on that network is then its administrator.
    #[arg(long)]
    allow_non_loopback: bool,
    /// Where it keeps its state from start to start; without it, all is forgotten at the end.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Another CloudFormation template than the built-in one (deploy/aws/template.yaml), YAML or JSON.
    #[arg(long, value_name = "TEMPLATE")]
    seed: Option<PathBuf>,
    /// A value for a parameter of the template; may be repeated.
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// Let credentials last this long at most instead of an hour, so that rotations are seen within seconds; at least 5.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..=43_200))]
    longest_credentials_s: Option<u64>,
    /// The pre-sign-up trigger: who comes by Google or Apple for the first time, with a verified address, is linked to
    /// the native user that has proven it, or to a new one. AWS needs a function of yours for that.
    #[arg(long, value_enum, default_value_t = Trigger::Link)]
    pre_sign_up: Trigger,
    /// Which log lines are written to stderr, for example info or tidegate=debug.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_filter: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Trigger {
    /// No trigger: a provider's user is always a user of their own.
    None,
    /// One person, one `sub`.
    Link,
    /// The same, but the sign-in that made the link fails with AWS's "Already found an entry for username"; the next
    /// one goes through. AWS has been seen to do both.
    LinkAndFailOnce,
}

impl From<Trigger> for PreSignUp {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::None => Self::None,
            Trigger::Link => Self::Link,
            Trigger::LinkAndFailOnce => Self::LinkAndFailOnce,
        }
    }
}

pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let logs = telemetry::Config { log_filter: args.log_filter, ..telemetry::Config::default() };
    let logs = telemetry::init(&logs).map_err(|error| CliError::usage(error.to_string()))?;
    let options = Options {
        listen: args.listen,
        allow_non_loopback: args.allow_non_loopback,
        data_dir: args.data_dir,
        template: args.seed.map_or(TemplateSource::BuiltIn, TemplateSource::File),
        parameters: args.parameters.into_iter().collect(),
        pre_sign_up: args.pre_sign_up.into(),
        ..Options::default()
    };
    // From here on a signal ends it in order, also while it starts.
    let stop = super::stop_signal();
    let cloud = LocalCloud::start(options).await.map_err(|error| refused(&error))?;
    cloud.sts().limit_lifetimes(args.longest_credentials_s.map(Duration::from_secs));
    output.show(|| describe(&cloud), || welcome::message(&cloud).trim_end().to_owned());
    stop.await;
    cloud.shutdown().await;
    logs.shutdown().await;
    Ok(())
}

fn refused(error: &LocalCloudError) -> CliError {
    match error {
        LocalCloudError::NotLoopback(_) | LocalCloudError::Template(_) => CliError::usage(error.to_string()),
        LocalCloudError::TemplateFile { .. } => CliError::not_found(error.to_string()),
        _ => CliError::failed(error.to_string()),
    }
}

fn describe(cloud: &LocalCloud) -> serde_json::Value {
    let (access_key_id, secret_access_key) = cloud.administrator().expose();
    let outputs: &BTreeMap<String, String> = cloud.outputs();
    json!({
        "url": cloud.url(),
        "region": cloud.seed().region,
        "account_id": cloud.seed().account_id,
        "access_key_id": access_key_id,
        "secret_access_key": secret_access_key,
        "outputs": outputs,
        "unknown_resources": cloud.seed().unknown_resources,
        "data_dir": cloud.data_dir().display().to_string(),
    })
}
