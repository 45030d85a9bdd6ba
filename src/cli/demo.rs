//! `tidegate demo`: the rehearsal cloud and a real daemon in a temporary directory, and the whole scenario against them.
//! Promises that nothing is left behind, whatever way it ends (unless `--keep`), and that every wait is bounded.

mod app;
mod aws;
mod browser;
mod camera;
mod play;
mod program;
pub mod sdk_app;
mod stage;

use serde_json::json;

use super::exit::CliError;
use super::output::Output;
use super::stop_signal;
use play::{Instructions, Play};
use program::Program;
use stage::Stage;

/// Start the rehearsal cloud and a daemon in a temporary directory, and walk through the scenario: accounts, photos, the
/// free and the paid tier, with the denials made by S3 itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave everything running until Ctrl-C, and print how to talk to it.
    #[arg(long)]
    keep: bool,
}

pub async fn run(args: Args, output: &Output) -> Result<(), CliError> {
    let mut stage = Stage::set()?;
    let ended = tokio::select! {
        (ended, instructions) = Box::pin(perform(&mut stage, output)) => {
            if args.keep && let Some(instructions) = instructions {
                let stop = stop_signal();
                output.show(|| json!({ "running": instructions.json }), || instructions.text);
                stop.await;
            }
            ended
        }
        () = stop_signal() => Err(CliError::interrupted()),
    };
    // Whatever happened: the daemon is stopped, then the cloud, then the directory goes.
    stage.clear().await;
    ended
}

/// The scenario up to its first failure, and how to talk to what runs then.
async fn perform(stage: &mut Stage, output: &Output) -> (Result<(), CliError>, Option<Instructions>) {
    let mut program = Program::new(output, play::STEPS.len());
    let mut play = Play::new(stage);
    let mut ended = Ok(());
    for step in play::STEPS {
        ended = program.perform(step.title, (step.run)(&mut play)).await;
        if ended.is_err() {
            break;
        }
    }
    program.curtain();
    (ended, play.is_on_stage().then(|| play.instructions()))
}
