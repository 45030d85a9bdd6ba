//! `tidegate reload`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use crate::api::v1::ReloadConfigRequest;

pub async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    let done = answer("reload the configuration", client.gateway().reload_config(unary(ReloadConfigRequest {})).await)?;
    output.show(
        || json!({ "applied_keys": done.applied_keys, "restart_keys": done.restart_keys }),
        || {
            let mut lines = Vec::new();
            if !done.applied_keys.is_empty() {
                lines.push(format!("in force now: {}", done.applied_keys.join(", ")));
            }
            if !done.restart_keys.is_empty() {
                lines.push(format!("after a restart: {}", done.restart_keys.join(", ")));
            }
            if lines.is_empty() { "nothing has changed".to_owned() } else { lines.join("\n") }
        },
    );
    Ok(())
}
