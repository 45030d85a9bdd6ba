//! The command line. Owns the subcommands, what they print and how they end; promises `--json` and the exit codes of
//! [`exit`] everywhere; must never take a password from the arguments or the environment. A thin client of the same gRPC
//! API that every other program uses.

mod browser;
mod cancel;
mod challenge;
mod check_config;
mod client;
mod completions;
mod confirm;
mod credentials;
#[cfg(feature = "local-cloud")]
mod demo;
pub mod exit;
#[cfg(feature = "failpoints")]
mod failpoints;
mod federated;
mod forgot_password;
mod json;
#[cfg(feature = "local-cloud")]
mod local_cloud;
mod output;
mod pause;
mod private_file;
mod qr;
mod refresh;
mod reload;
mod resend_code;
mod reset_password;
mod respond;
mod resume;
mod retry;
mod secret;
mod serve;
mod sessions;
mod sign_in;
mod sign_out;
mod sign_up;
mod status;
mod text;
mod tokens;
mod upload;
mod uploads;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use client::Client;
use exit::{CliError, Exit};
use output::Output;

/// A one-way gate for photos on their way to S3.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, max_term_width = 110, after_long_help = exit::help_table())]
struct Cli {
    /// The daemon's socket.
    #[arg(long, global = true, env = "TIDEGATE_SOCKET", default_value = "/run/tidegate/tidegate.sock")]
    socket: PathBuf,
    /// Print JSON: one document, or one line per event where there are several.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(serve::Args),
    /// Check a configuration file and name every mistake in it.
    CheckConfig(check_config::Args),
    /// Run the rehearsal AWS: user pool, identity pool, STS, IAM and S3 at one URL.
    #[cfg(feature = "local-cloud")]
    LocalCloud(local_cloud::Args),
    /// Start everything in a temporary directory and walk through the scenario.
    #[cfg(feature = "local-cloud")]
    Demo(demo::Args),
    /// Play an app with AWS's SDK; for the demo and the tests.
    #[cfg(feature = "local-cloud")]
    #[command(hide = true)]
    DemoApp(demo::sdk_app::Args),

    /// Name the points at which a test may have the daemon crash.
    #[cfg(feature = "failpoints")]
    #[command(hide = true)]
    Failpoints,

    /// Create an account.
    SignUp(sign_up::Args),
    /// Confirm an account with the code that was sent.
    Confirm(confirm::Args),
    /// Have a new confirmation code sent.
    ResendCode(resend_code::Args),
    /// Have a code for a new password sent.
    ForgotPassword(forgot_password::Args),
    /// Set a new password with the code that was sent.
    ResetPassword(reset_password::Args),

    /// Sign in on this device.
    SignIn(sign_in::Args),
    /// Answer what a sign-in asks (a code, a new password, …).
    Respond(respond::Args),
    /// Sign out on this device.
    SignOut(sign_out::Args),
    /// List your sessions.
    Sessions,
    /// Fetch new tokens and credentials now, for example after a change of tier.
    Refresh(refresh::Args),
    /// Print the session's JWTs for your own API.
    Tokens(tokens::Args),
    /// Print the session's AWS credentials: for credential_process, a shell, or as an endpoint for any SDK.
    Credentials(credentials::Args),

    /// Upload files.
    Upload(upload::Args),
    /// List your uploads, newest first.
    Uploads(uploads::Args),
    /// Follow an upload, a session, or all your uploads as they end, and run a program for each.
    Watch(watch::Args),
    /// Stop an upload and remove its bytes from the device.
    Cancel(cancel::Args),
    /// Queue a FAILED upload again.
    Retry(retry::Args),

    /// Show the daemon's counts and limits.
    Status,
    /// Stop sending; photos are still accepted (root and admin_uids).
    Pause,
    /// Send again (root and admin_uids).
    Resume,
    /// Have the configuration file read again (root and admin_uids).
    Reload,

    /// Print the completions for a shell.
    Completions(completions::Args),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as "errors" too, with exit code 0; a reader that has gone away is no failure.
            let _ = error.print();
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return ExitCode::from(code.code());
        }
    };
    let output = Output::new(cli.json);
    let json = cli.json;
    let ended = match runtime(&cli.command) {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli, output.clone()));
            // A prompt or a read that nobody waits for any more must not hold the process.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(CliError::failed(format!("cannot start the async runtime: {error}"))),
    };
    match ended.and_then(|()| output.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::show_error(&error, json);
            ExitCode::from(error.exit().code())
        }
    }
}

/// Threads for what blocks (the disk, mostly): a burst of short waits would start hundreds, and each keeps memory of its own.
const BLOCKING_THREADS: usize = 16;

fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    if command.is_server() {
        tokio::runtime::Builder::new_multi_thread().max_blocking_threads(BLOCKING_THREADS).enable_all().build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    }
}

impl Command {
    /// Servers end by their own signals and use all processors.
    fn is_server(&self) -> bool {
        match self {
            Self::Serve(_) => true,
            #[cfg(feature = "local-cloud")]
            Self::LocalCloud(_) | Self::Demo(_) => true,
            _ => false,
        }
    }
}

async fn run(cli: Cli, output: Output) -> Result<(), CliError> {
    let Cli { socket, command, .. } = cli;
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::CheckConfig(args) => check_config::run(&args, &output),
        Command::Completions(args) => completions::run(&args, &mut Cli::command(), &output),
        #[cfg(feature = "local-cloud")]
        Command::LocalCloud(args) => local_cloud::run(args, &output).await,
        #[cfg(feature = "local-cloud")]
        Command::Demo(args) => demo::run(args, &output).await,
        #[cfg(feature = "local-cloud")]
        Command::DemoApp(args) => Box::pin(demo::sdk_app::run(args, &output)).await,
        #[cfg(feature = "failpoints")]
        Command::Failpoints => {
            failpoints::run();
            Ok(())
        }
        Command::Upload(args) => upload::run(args, &socket, &output).await,
        command => {
            let call = Box::pin(call(command, &socket, &output));
            tokio::select! {
                ended = call => ended,
                _ = tokio::signal::ctrl_c() => Err(CliError::interrupted()),
            }
        }
    }
}

/// The commands that are one call: an interruption leaves nothing to tidy up.
async fn call(command: Command, socket: &std::path::Path, output: &Output) -> Result<(), CliError> {
    let connect = || Client::connect(socket);
    match command {
        Command::SignUp(args) => sign_up::run(args, connect, output).await,
        Command::Confirm(args) => confirm::run(args, &connect().await?, output).await,
        Command::ResendCode(args) => resend_code::run(args, &connect().await?, output).await,
        Command::ForgotPassword(args) => forgot_password::run(args, &connect().await?, output).await,
        Command::ResetPassword(args) => reset_password::run(args, connect, output).await,
        Command::SignIn(args) => sign_in::run(args, connect, output).await,
        Command::Respond(args) => respond::run(args, connect, output).await,
        Command::SignOut(args) => sign_out::run(args, &connect().await?, output).await,
        Command::Sessions => sessions::run(&connect().await?, output).await,
        Command::Refresh(args) => refresh::run(args, &connect().await?, output).await,
        Command::Tokens(args) => tokens::run(args, &connect().await?, output).await,
        Command::Credentials(args) => credentials::run(args, &connect().await?, output).await,
        Command::Uploads(args) => uploads::run(args, &connect().await?, output).await,
        Command::Watch(args) => watch::run(args, &connect().await?, socket, output).await,
        Command::Cancel(args) => cancel::run(args, &connect().await?, output).await,
        Command::Retry(args) => retry::run(args, &connect().await?, output).await,
        Command::Status => status::run(&connect().await?, output).await,
        Command::Pause => pause::run(&connect().await?, output).await,
        Command::Resume => resume::run(&connect().await?, output).await,
        Command::Reload => reload::run(&connect().await?, output).await,
        other => unreachable!("run() has taken {other:?}"),
    }
}

/// Resolves at Ctrl-C or SIGTERM; the signals are caught from the call on, not only from the first poll.
#[cfg(feature = "local-cloud")]
fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        match signals {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            // Without a handler the signals end the process at once.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_argument_and_no_variable_takes_a_password() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                if name.contains("password") {
                    let takes_value = argument.get_action().takes_values();
                    assert!(!takes_value && argument.get_env().is_none(), "{}: {name}", command.get_name());
                }
            }
        }
    }

    #[test]
    fn every_subcommand_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
