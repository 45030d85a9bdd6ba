//! An app of the device that knows nothing of Tidegate: AWS's SDK for Rust with its default credential chain, in a process
//! of its own, so that the environment and the profile are all that leads it. Stays for as long as its stdin.

use std::io::BufRead as _;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_sdk_s3 as s3;
use bytes::Bytes;
use serde_json::json;

use super::super::exit::CliError;
use super::super::output::Output;
use super::aws::Refusal;

/// Put an object for every key that stdin has, one per line, with whatever credentials AWS's SDK finds by itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The bucket.
    #[arg(long)]
    bucket: String,
}

pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let found = aws_config::defaults(BehaviorVersion::latest()).load().await;
    // A call that fails must be seen: nothing is tried twice.
    let config = s3::config::Builder::from(&found).force_path_style(true).retry_config(RetryConfig::disabled()).build();
    let client = s3::Client::from_conf(config);
    while let Some(key) = next_line().await? {
        let put = client.put_object().bucket(&args.bucket).key(&key).body(Bytes::from_static(b"by an SDK").into());
        let error = put.send().await.err().map(|error| Refusal::from(error).to_string());
        let text = || match &error {
            Some(error) => format!("{key}: {error}"),
            None => format!("{key}: stored"),
        };
        output.show(|| json!({ "key": key, "error": error }), text);
        if output.is_closed() {
            break;
        }
    }
    Ok(())
}

/// The next line of stdin; `None` at its end.
async fn next_line() -> Result<Option<String>, CliError> {
    let read = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next().transpose()).await;
    match read {
        Ok(Ok(line)) => Ok(line),
        Ok(Err(error)) => Err(CliError::failed(format!("cannot read stdin: {error}"))),
        Err(_) => Err(CliError::failed("reading stdin was aborted")),
    }
}
