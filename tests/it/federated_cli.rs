//! `tidegate sign-in --provider` and what belongs to it, as processes of the real binary; the person is played over HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::browser::{Browser, Shown};
use crate::federation::free_port;
use crate::rig::Rig;

const ANA: &str = "ana@example.com";
const APP: &str = "photos://signed-in";

/// A cloud with the built-in template's page and Google, a daemon that may use it.
fn rig() -> Rig {
    let callback = format!("http://127.0.0.1:{}/callback", free_port());
    let signed_out = "http://127.0.0.1:8484/signed-out";
    let urls = format!("CallbackUrls={callback},{APP}");
    let mut arguments = Vec::new();
    for parameter in ["HostedDomainPrefix=rehearsal", "GoogleClientId=google", &urls] {
        arguments.extend(["--parameter", parameter]);
    }
    Rig::start_on(&arguments, |url| {
        format!(
            "\n[identity.hosted_ui]\ndomain_url = \"{url}\"\nredirect_uris = [\"{callback}\", \"{APP}\"]\n\
             sign_out_uri = \"{signed_out}\"\n"
        )
    })
}

fn sign_in(rig: &Rig, arguments: &[&str]) -> Child {
    let mut command = rig.command(&["sign-in", "--provider", "Google"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What the person does at the page; where the browser ends.
fn at_google(rig: &Rig, browser: &mut Browser, authorize_url: &str, field: (&str, &str)) -> Shown {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(authorize_url.starts_with(rig.url()), "{authorize_url}");
    runtime.block_on(async {
        let google = browser.open(authorize_url).await;
        assert_eq!(google.title(), "Sign in with Google");
        browser.submit(&google, &[field]).await
    })
}

fn land(address: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { reqwest::get(address).await.unwrap().text().await.unwrap() })
}

#[test]
fn a_sign_in_by_google_waits_for_the_browser_and_prints_the_session() {
    let rig = rig();
    let mut child = sign_in(&rig, &["--no-browser", "--json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let begun: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(begun["daemon_listens"], true);
    let authorize_url = begun["authorize_url"].as_str().unwrap();
    let back = at_google(&rig, &mut Browser::new(rig.url()), authorize_url, ("email", ANA));
    assert!(land(&back.address).contains("You are signed in"));
    let session: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!((&session["username"], lines.next()), (&Value::from(ANA), None));
    assert!(child.wait().unwrap().success());

    let out = rig.json(&["sign-out"]);
    assert!(out["hosted_sign_out_url"].as_str().unwrap().starts_with(&format!("{}/logout?client_id=", rig.url())));
}

#[test]
fn without_a_screen_there_is_a_code_to_scan_and_the_address_may_be_pasted() {
    let rig = rig();
    // A "browser" that cannot: as without a screen.
    let mut command = rig.command(&["sign-in", "--provider", "Google", "--redirect-uri", APP]);
    command.env("BROWSER", "/bin/false").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let mut drawn = 0;
    let authorize_url = loop {
        let line = said.next().expect("the address is printed");
        drawn += usize::from(line.contains('▀') || line.contains('█'));
        if line.starts_with("http") {
            break line;
        }
    };
    assert!(drawn > 20, "{drawn} lines of a code");
    let back = at_google(&rig, &mut Browser::new(rig.url()), &authorize_url, ("email", ANA));
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", back.address).unwrap();
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(child.wait().unwrap().success() && printed.contains(ANA), "{printed}");
}

#[test]
fn whoever_cancels_or_pastes_nonsense_gets_an_exit_code_that_says_so() {
    let rig = rig();
    let mut child = sign_in(&rig, &["--no-browser", "--json"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let begun: Value = serde_json::from_str(&line).unwrap();
    let authorize_url = begun["authorize_url"].as_str().unwrap();
    let back = at_google(&rig, &mut Browser::new(rig.url()), authorize_url, ("answer", "cancel"));
    land(&back.address);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(4), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("FEDERATION_CANCELLED"));
    let pasted = |input: &str| {
        let arguments = ["sign-in", "--provider", "--no-browser", "--redirect-uri", APP];
        let ended = rig.with_stdin(&arguments, input);
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    assert_eq!(pasted("").0, Some(2));
    let nonsense = pasted("nonsense\n");
    assert!(nonsense.0 == Some(2) && nonsense.1.contains("is no URL"), "{nonsense:?}");
    let elsewhere = rig.run(&["sign-in", "--provider", "Google", "--redirect-uri", "https://evil.example/"]);
    assert_eq!(elsewhere.status.code(), Some(2));
}
