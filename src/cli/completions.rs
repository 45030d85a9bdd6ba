//! `tidegate completions`.

use super::exit::CliError;
use super::output::Output;

/// Print the completions for a shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub fn run(args: &Args, command: &mut clap::Command, output: &Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "tidegate", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let json = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
    output.show(|| json, || script.trim_end().to_owned());
    Ok(())
}
