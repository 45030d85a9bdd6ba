//! `tidegate resume`.

use serde_json::json;

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::output::Output;
use crate::api::v1::ResumeRequest;

pub async fn run(client: &Client, output: &Output) -> Result<(), CliError> {
    answer("resume sending", client.gateway().resume(unary(ResumeRequest {})).await)?;
    output.show(|| json!({ "paused": false }), || "sending again".to_owned());
    Ok(())
}
