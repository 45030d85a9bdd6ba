//! `tidegate check-config`.

use std::path::PathBuf;

use serde_json::json;

use super::exit::CliError;
use super::output::Output;
use crate::config::{Config, ConfigError};

/// Check a configuration file and name every mistake in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.toml", conflicts_with = "file")]
    config: PathBuf,
    /// The same, without `--config`.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let file = args.file.as_ref().unwrap_or(&args.config);
    match Config::load(file) {
        Ok(_) => {
            let file = file.display().to_string();
            output.show(|| json!({ "file": file, "valid": true }), || format!("{file}: valid"));
            Ok(())
        }
        Err(error @ ConfigError::Unreadable { .. }) => Err(CliError::not_found(error.to_string())),
        Err(error @ ConfigError::Invalid { .. }) => Err(CliError::usage(error.to_string())),
    }
}
