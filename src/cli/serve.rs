//! `tidegate serve`.

use std::path::PathBuf;

use super::exit::CliError;

/// Run the daemon until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml")]
    config: PathBuf,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    // The daemon is one large future: it lives on the heap.
    Box::pin(crate::daemon::run(&args.config)).await.map_err(|error| CliError::failed(error.to_string()))
}
