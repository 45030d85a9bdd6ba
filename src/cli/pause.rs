//! `tidegate pause`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use crate::api::v1::PauseRequest;

pub async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    answer("pause sending", client.gateway().pause(unary(PauseRequest {})).await)?;
    output.show(|| json!({ "paused": true }), || "paused: photos are accepted, nothing is sent".to_owned());
    Ok(())
}
