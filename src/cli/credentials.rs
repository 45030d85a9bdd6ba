//! `tidegate credentials`: for AWS SDKs and the AWS CLI, as `credential_process`, as variables, or as an endpoint.

mod token_file;

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::client::{Client, answer, unary};
use super::exit::CliError;
use super::json;
use super::output::Output;
use super::text::{resource, time};
use crate::api::v1::{
    AwsCredentials, CreateCredentialsEndpointRequest, GetAwsCredentialsRequest, WatchAwsCredentialsRequest,
};

/// Print the session's AWS credentials. They are secrets: do not put them into a log. Without options this is what a
/// profile's `credential_process = tidegate credentials` runs; with --endpoint any SDK gets them by itself, for as long
/// as the user is signed in: `eval "$(tidegate credentials --endpoint)"`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session; left out: your only one.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// How they are printed [default: process; with --watch or --json: json].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Print them now and after every rotation, one line each, until the user signs out or must sign in again.
    #[arg(long)]
    watch: bool,
    /// Print the two variables that lead any AWS SDK to the daemon's credentials endpoint, and write the token's file.
    #[arg(long, conflicts_with_all = ["watch", "format"])]
    endpoint: bool,
    /// Where the endpoint's token is written, for you alone to read [default: in $XDG_RUNTIME_DIR].
    #[arg(long, value_name = "PATH", requires = "endpoint")]
    token_file: Option<PathBuf>,
    /// Have a new token made: the one from before, wherever it is, is refused from now on.
    #[arg(long, requires = "endpoint")]
    renew_token: bool,
}

/// How credentials are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The JSON of `credential_process`
    Process,
    /// Lines for a shell's `eval`
    Env,
    /// The API's message as JSON
    Json,
}

pub async fn run(args: Args, client: &Client, output: &Output) -> Result<(), CliError> {
    let format = args.format.unwrap_or(if args.watch || output.is_json() { Format::Json } else { Format::Process });
    if format == Format::Env && (args.watch || output.is_json()) {
        return Err(CliError::usage("--format env is for a shell: leave --watch and --json out"));
    }
    let session = resource("sessions", &args.session);
    if args.endpoint {
        return endpoint(session, args.token_file, args.renew_token, client, output).await;
    }
    let action = "give credentials";
    if !args.watch {
        let request = GetAwsCredentialsRequest { session };
        let given = answer(action, client.credentials().get_aws_credentials(unary(request)).await)?;
        print(&given.credentials.unwrap_or_default(), format, output);
        return Ok(());
    }
    let request = WatchAwsCredentialsRequest { session };
    let mut rotations = answer(action, client.credentials().watch_aws_credentials(request).await)?;
    while !output.is_closed() {
        let next = rotations.message().await.map_err(|status| CliError::from_status(action, &status))?;
        let Some(next) = next else { break };
        print(&next.credentials.unwrap_or_default(), format, output);
    }
    Ok(())
}

fn print(credentials: &AwsCredentials, format: Format, output: &Output) {
    let value = match format {
        Format::Process => process(credentials),
        Format::Json => json::credentials(credentials),
        Format::Env => return output.show(|| Value::Null, || env(credentials)),
    };
    output.show(|| value.clone(), || value.to_string());
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>. Without a session token or an end
/// the key is left out: an SDK takes `null` for a value.
fn process(credentials: &AwsCredentials) -> Value {
    let mut document = json!({
        "Version": 1,
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
    });
    if !credentials.session_token.is_empty() {
        document["SessionToken"] = json!(credentials.session_token);
    }
    if let Some(end) = time(credentials.expire_time.as_ref()) {
        document["Expiration"] = json!(end);
    }
    document
}

fn env(credentials: &AwsCredentials) -> String {
    let end = time(credentials.expire_time.as_ref()).unwrap_or_default();
    let variables = [
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key),
        ("AWS_SESSION_TOKEN", &credentials.session_token),
        ("AWS_CREDENTIAL_EXPIRATION", &end),
    ];
    exports(&variables)
}

async fn endpoint(
    session: String,
    file: Option<PathBuf>,
    renew_token: bool,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let request = CreateCredentialsEndpointRequest { session, renew_token };
    let given =
        answer("open a credentials endpoint", client.credentials().create_credentials_endpoint(unary(request)).await)?;
    let file = match file {
        Some(file) => file,
        None => token_file::default_path(&given.session)?,
    };
    let file = token_file::write(&file, &given.authorization_token)?;
    let shown = file.display().to_string();
    output.show(
        || json!({ "session": given.session, "url": given.url, "token_file": shown }),
        || {
            exports(&[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", given.url.as_str()),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &shown),
            ])
        },
    );
    Ok(())
}

/// A line of a shell for each variable that has a value.
fn exports(variables: &[(&str, &str)]) -> String {
    let lines = variables.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("export {name}={}", quoted(value))).collect::<Vec<_>>().join("\n")
}

/// As a shell's word, whatever is in it.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=+@%,".contains(c);
    if value.chars().all(is_plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_stays_one_word_of_a_shell() {
        for value in ["a/b+c=", "with space", "it's", "$(rm -rf x)", "`x`", "new\nline", "\"q\"", "ümlaut", "a;b"] {
            let line = exports(&[("VALUE", value), ("NONE", "")]);
            let script = format!("{line}\nprintf %s \"$VALUE\"");
            let done = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(done.stdout).unwrap(), value);
            assert!(!line.contains("NONE"));
        }
    }

    #[test]
    fn long_lived_keys_have_neither_token_nor_end() {
        let keys = AwsCredentials { access_key_id: "AKIA".into(), secret_access_key: "s".into(), ..Default::default() };
        assert_eq!(process(&keys), json!({ "Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "s" }));
    }
}
