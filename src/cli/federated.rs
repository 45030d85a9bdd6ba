//! `tidegate sign-in --provider`: by the hosted page, in a browser of this device or of a phone. Promises that what leads
//! the person goes to stderr and what came of it to stdout; with `--json` one line says where to go, one what came of it.

use std::io::{IsTerminal as _, Write as _};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tonic::{Code, Request};

use super::client::{Client, answer, unary};
use super::exit::{CliError, Exit};
use super::output::Output;
use super::secret::stdin_line;
use super::text::time;
use super::{browser, json, qr, sessions};
use crate::api::v1::{
    BeginFederatedSignInRequest, BeginFederatedSignInResponse, CompleteFederatedSignInRequest, Session,
};

/// How to go to the page.
#[derive(Debug, Clone, clap::Args)]
pub struct PageArgs {
    /// Sign in by the hosted page, with this provider of the user pool ("Google", "SignInWithApple", …); without a name
    /// the page asks.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "",
          conflicts_with_all = ["username", "password_stdin"])]
    pub provider: Option<String>,
    /// Where the page sends the browser: one of the configured redirect URIs; left out: the first.
    #[arg(long, value_name = "URI", requires = "provider", default_value = "", hide_default_value = true)]
    redirect_uri: String,
    /// Open no browser: print the address and a QR code.
    #[arg(long, requires = "provider")]
    no_browser: bool,
    /// Let the page take whoever signed in with the browser before, without asking.
    #[arg(long, requires = "provider")]
    reuse_browser_session: bool,
}

pub async fn run(args: PageArgs, identity: String, client: &Client, output: &Output) -> Result<(), CliError> {
    let request = BeginFederatedSignInRequest {
        identity,
        provider: args.provider.unwrap_or_default(),
        redirect_uri: args.redirect_uri,
        reuse_browser_session: args.reuse_browser_session,
    };
    let begun = answer("begin the sign-in", client.sessions().begin_federated_sign_in(unary(request)).await)?;
    if output.is_json() {
        output.show(|| shown(&begun), String::new);
    }
    lead(&begun, args.no_browser, output.is_json()).await;
    let session = signed_in(&begun, args.no_browser, client, output).await?;
    output.show(|| json::session(&session), || sessions::signed_in(&session));
    Ok(())
}

fn shown(begun: &BeginFederatedSignInResponse) -> Value {
    json!({
        "authorize_url": begun.authorize_url,
        "state": begun.state,
        "expire_time": time(begun.expire_time.as_ref()),
        "redirect_uri": begun.redirect_uri,
        "daemon_listens": begun.daemon_listens,
        "sign_out_url": if begun.sign_out_url.is_empty() { Value::Null } else { json!(begun.sign_out_url) },
    })
}

/// Brings the person to the page.
async fn lead(begun: &BeginFederatedSignInResponse, no_browser: bool, is_json: bool) {
    if !no_browser && browser::open(&begun.authorize_url).await {
        say(&format!("The sign-in page is open in your browser. If you do not see it, open:\n{}", begun.authorize_url));
    } else if !is_json {
        let code = qr::for_stderr(&begun.authorize_url);
        let scan = if code.is_some() { "Scan this, or open the address below it:\n\n" } else { "Open:\n" };
        say(&format!("{scan}{}\n{}", code.unwrap_or_default(), begun.authorize_url));
    }
    if is_json {
        return;
    }
    if !begun.daemon_listens {
        say(&format!("\nAfter signing in the browser ends at {}…: paste that whole address here.", begun.redirect_uri));
    } else if std::io::stdin().is_terminal() {
        say("\nWaiting for the browser. If it ends at an address that does not open (on a phone, say), paste it here.");
    }
}

/// Waits for the browser's return at the daemon, or for its address here, whichever comes first.
async fn signed_in(
    begun: &BeginFederatedSignInResponse,
    no_browser: bool,
    client: &Client,
    output: &Output,
) -> Result<Session, CliError> {
    let takes_paste = !begun.daemon_listens || std::io::stdin().is_terminal();
    let landed = async {
        if !begun.daemon_listens {
            return std::future::pending().await;
        }
        complete(landing(&begun.state), client).await
    };
    tokio::pin!(landed);
    loop {
        let pasted = async {
            let line = if takes_paste { stdin_line().await? } else { None };
            match line {
                Some(line) => Ok(line),
                None if begun.daemon_listens => std::future::pending().await,
                None => Err(CliError::usage("stdin has no address: pass the one that the browser ended at")),
            }
        };
        let pasted = tokio::select! {
            landed = &mut landed => return landed.map_err(|(_, error)| error),
            pasted = pasted => pasted?,
        };
        let request =
            CompleteFederatedSignInRequest { redirect_url: pasted.expose_secret().to_owned(), ..Default::default() };
        match complete(unary(request), client).await {
            Ok(session) => return Ok(session),
            // The pool linked the provider's account just now: the page once more.
            Err((Code::Aborted, error)) if std::io::stdin().is_terminal() => {
                say(&error.to_text());
                lead(begun, no_browser, output.is_json()).await;
            }
            // A slip of the hand costs nothing.
            Err((_, error)) if error.exit() == Exit::Usage && std::io::stdin().is_terminal() => say(&error.to_text()),
            Err((_, error)) => return Err(error),
        }
    }
}

/// Asks for the browser's return at the daemon. Without a deadline: the daemon ends the wait with the attempt, by a clock
/// that is right, while this device's may be wrong by years.
fn landing(state: &str) -> Request<CompleteFederatedSignInRequest> {
    Request::new(CompleteFederatedSignInRequest { state: state.to_owned(), ..Default::default() })
}

async fn complete(
    request: Request<CompleteFederatedSignInRequest>,
    client: &Client,
) -> Result<Session, (Code, CliError)> {
    let done = client.sessions().complete_federated_sign_in(request).await;
    let code = done.as_ref().err().map_or(Code::Ok, tonic::Status::code);
    let done = answer("sign in", done).map_err(|error| (code, error))?;
    done.session.ok_or_else(|| {
        (code, CliError::failed("cannot sign in: the daemon's answer is empty; are both of the same version?"))
    })
}

/// To the person; with nobody at stderr there is nobody to lead.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_here_does_not_end_the_wait_for_the_browser() {
        assert!(landing("s").metadata().get("grpc-timeout").is_none());
    }

    #[test]
    fn a_program_is_told_all_that_the_daemon_said() {
        let begun = BeginFederatedSignInResponse { sign_out_url: "https://x/logout".into(), ..Default::default() };
        assert_eq!(shown(&begun)["sign_out_url"], "https://x/logout");
        assert_eq!(shown(&BeginFederatedSignInResponse::default())["sign_out_url"], Value::Null);
    }
}
