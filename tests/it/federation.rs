//! Signing in by the hosted page, end to end: a real daemon, the local cloud's page, a browser driven by HTTP.

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use tidegate::api::v1::{self, SignOutUploads};
use tidegate::clock::Clock;
use tidegate::config::Config;
use tidegate::daemon::Daemon;
use tidegate::local_cloud::faults::{Effect, Rule};
use tidegate::local_cloud::seed::PreSignUp;
use tidegate::local_cloud::{Options, TemplateSource};
use tonic::Status;

use crate::browser::{Browser, Shown};
use crate::fixture::{PASSWORD, Stage, by_password, channel, reason, session_of, variables};
use crate::hosted_providers::{carry, with_providers};

const APP_CALLBACK: &str = "photos://signed-in";
const SIGNED_OUT: &str = "http://127.0.0.1:8484/signed-out";
const ANA: &str = "ana@example.com";
const BEN: &str = "ben@example.com";

/// A cloud with providers, a daemon that may use its page, and where the browser ends.
struct Scene {
    stage: Stage,
    callback: String,
}

/// Below the ports that the kernel hands out, so that no other test gets it between here and the daemon.
pub fn free_port() -> u16 {
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    let mut ports = (0..10_000).map(|step| 20_000 + (start + step * 7) % 10_000);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    loop {
        // Tests of this binary run at the same time: each takes another one.
        static TAKEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());
        let port = ports.find(is_free).unwrap();
        let mut taken = TAKEN.lock().unwrap();
        if !taken.contains(&port) {
            taken.push(port);
            return port;
        }
    }
}

impl Scene {
    async fn start() -> Self {
        Self::with(Options::default(), "").await
    }

    /// With another cloud, and more lines in `[identity.hosted_ui]` (or before it, with a table's head of their own).
    async fn with(options: Options, lines: &str) -> Self {
        let callback = format!("http://127.0.0.1:{}/callback", free_port());
        let mut seed = with_providers();
        let client = &mut seed.user_pools[0].clients[0];
        client.callback_urls = vec![callback.clone(), APP_CALLBACK.into()];
        client.logout_urls = vec![SIGNED_OUT.into()];
        let template = TemplateSource::Seed(Box::new(seed));
        let stage = Stage::start_on(Options { template, ..options }, |text| {
            let endpoint = text.split("endpoint_url = \"").nth(1).unwrap().split('"').next().unwrap();
            let page = format!(
                "[identity.hosted_ui]\ndomain_url = \"{endpoint}\"\nredirect_uris = [\"{callback}\", \"{APP_CALLBACK}\"]\n\
                 sign_out_uri = \"{SIGNED_OUT}\"\n{lines}\n[identity.credentials]\n"
            );
            text.replacen("[identity.credentials]\n", &page, 1)
        })
        .await;
        Self { stage, callback }
    }

    fn browser(&self) -> Browser {
        Browser::new(self.stage.cloud.url())
    }

    async fn begin(
        &self,
        request: v1::BeginFederatedSignInRequest,
    ) -> Result<v1::BeginFederatedSignInResponse, Status> {
        let begun = self.stage.sessions().await.begin_federated_sign_in(request).await?;
        Ok(begun.into_inner())
    }

    /// Begins a sign-in whose redirect the app catches.
    async fn begin_in_app(&self, provider: &str) -> v1::BeginFederatedSignInResponse {
        let redirect_uri = APP_CALLBACK.to_owned();
        let request =
            v1::BeginFederatedSignInRequest { provider: provider.to_owned(), redirect_uri, ..Default::default() };
        self.begin(request).await.unwrap()
    }

    async fn complete(&self, redirect_url: &str) -> Result<v1::Session, Status> {
        let request =
            v1::CompleteFederatedSignInRequest { redirect_url: redirect_url.to_owned(), ..Default::default() };
        let done = self.stage.sessions().await.complete_federated_sign_in(request).await?;
        Ok(done.into_inner().session.unwrap())
    }

    async fn wait(&self, state: &str) -> Result<v1::Session, Status> {
        wait(self.stage.sessions().await, state).await
    }

    /// The whole way with a browser: at the provider the person gives these fields.
    async fn sign_in(&self, browser: &mut Browser, provider: &str, fields: &[(&str, &str)]) -> v1::Session {
        let begun = self.begin_in_app(provider).await;
        let shown = browser.open(&begun.authorize_url).await;
        let back = browser.submit(&shown, fields).await;
        let back = carry(browser, back).await;
        self.complete(&back.address).await.unwrap()
    }
}

async fn wait(
    mut sessions: v1::session_service_client::SessionServiceClient<tonic::transport::Channel>,
    state: &str,
) -> Result<v1::Session, Status> {
    let request = v1::CompleteFederatedSignInRequest { state: state.to_owned(), ..Default::default() };
    Ok(sessions.complete_federated_sign_in(request).await?.into_inner().session.unwrap())
}

fn by(provider: &str) -> v1::BeginFederatedSignInRequest {
    v1::BeginFederatedSignInRequest { provider: provider.to_owned(), ..Default::default() }
}

/// A browser's own request to the daemon's listener.
async fn get(address: &str) -> (StatusCode, String, Option<String>) {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client.get(address).send().await.unwrap();
    let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    (answer.status(), answer.text().await.unwrap(), location)
}

fn changed(url: &str, name: &str, value: &str) -> String {
    let mut url = reqwest::Url::parse(url).unwrap();
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    pairs.retain(|(known, _)| known != name);
    if !value.is_empty() {
        pairs.push((name.to_owned(), value.to_owned()));
    }
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url.into()
}

#[tokio::test]
async fn google_after_a_password_is_the_same_session_and_the_daemon_catches_the_browser() {
    let scene = Scene::start().await;
    let user = scene.stage.sign_up().await;
    let by_password = scene.stage.sign_in(&user).await;
    let begun = scene.begin(by("Google")).await.unwrap();
    assert!(begun.daemon_listens && begun.redirect_uri == scene.callback);
    let mut browser = scene.browser();
    let google = browser.open(&begun.authorize_url).await;
    assert_eq!(google.title(), "Sign in with Google");
    let back = browser.submit(&google, &[("email", &user.username)]).await;
    assert!(back.address.starts_with(&format!("{}?code=", scene.callback)), "{back:?}");
    let (session, page) = tokio::join!(scene.wait(&begun.state), get(&back.address));
    let session = session.unwrap();
    assert!(page.0 == StatusCode::OK && page.1.contains("You are signed in"), "{page:?}");
    assert_eq!(session.subject, by_password.subject);
    assert_eq!((&session.name, &session.identity_id), (&by_password.name, &by_password.identity_id));
    assert_eq!(session.username, user.username);
    // Single use, and nobody listens any more.
    assert_eq!(reason(&scene.wait(&begun.state).await.unwrap_err()), "FEDERATION_STATE_USED");
    let port = reqwest::Url::parse(&scene.callback).unwrap().port().unwrap();
    while TcpListener::bind(("127.0.0.1", port)).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_password_after_google_is_the_same_user_also_on_a_second_device() {
    let scene = Scene::start().await;
    let google = scene.sign_in(&mut scene.browser(), "Google", &[("email", ANA)]).await;
    let apple = scene.sign_in(&mut scene.browser(), "SignInWithApple", &[("email", ANA)]).await;
    assert_eq!(apple.subject, google.subject);

    let mut accounts = scene.stage.accounts().await;
    accounts.forgot_password(v1::ForgotPasswordRequest { username: ANA.into(), ..Default::default() }).await.unwrap();
    let code = scene.stage.cloud.outbox().pop().unwrap().code;
    let reset = v1::ConfirmForgotPasswordRequest {
        username: ANA.into(),
        confirmation_code: code,
        new_password: PASSWORD.into(),
        ..Default::default()
    };
    accounts.confirm_forgot_password(reset).await.unwrap();

    // Another device: another daemon with a state of its own.
    let folder = tempfile::tempdir().unwrap();
    let first = scene.stage.config_file();
    let first = first.parent().unwrap().display().to_string();
    let text = scene.stage.config_text().replace(&first, &folder.path().display().to_string());
    std::fs::create_dir(folder.path().join("photos")).unwrap();
    let second = Daemon::start(Config::parse(&text).unwrap(), None, None).await.unwrap();
    let channel = channel(second.socket_path()).await;
    let mut sessions = v1::session_service_client::SessionServiceClient::new(channel);
    let there = session_of(sessions.sign_in(by_password(ANA, PASSWORD)).await.unwrap().into_inner());
    assert_eq!((&there.subject, &there.identity_id), (&google.subject, &google.identity_id));
    assert!(!there.identity_id.is_empty() && there.name != google.name);
    drop(sessions);
    second.stop().await;
}

#[tokio::test]
async fn addresses_that_prove_nothing_stay_users_of_their_own() {
    let scene = Scene::start().await;
    let user = scene.stage.sign_up().await;
    let mut seen = vec![scene.stage.sign_in(&user).await.subject];
    for (provider, fields) in [
        ("Google", [("email", user.username.as_str()), ("verified", "no")]),
        ("SignInWithApple", [("email", user.username.as_str()), ("hide", "yes")]),
    ] {
        let other = scene.sign_in(&mut scene.browser(), provider, &fields).await;
        assert!(!seen.contains(&other.subject), "{provider} {fields:?}");
        seen.push(other.subject);
    }
}

#[tokio::test]
async fn the_next_person_at_the_same_browser_is_asked_again() {
    let clock = Clock::manual(SystemTime::now());
    let scene = Scene::with(Options { clock: clock.clone(), ..Options::default() }, "").await;
    let mut browser = scene.browser();
    let ana = scene.sign_in(&mut browser, "Google", &[("email", ANA)]).await;
    assert!(browser.cookies.contains_key("cognito"));
    // By the button of the page, and straight to the provider.
    let begun = scene.begin_in_app("").await;
    let login = browser.open(&begun.authorize_url).await;
    assert_eq!(login.title(), "Sign in");
    let google = browser.follow(&login, "Continue with Google").await;
    assert_eq!(google.title(), "Sign in with Google");
    let ben = scene.sign_in(&mut browser, "Google", &[("email", BEN)]).await;
    assert!(ben.subject != ana.subject && ben.username == BEN);

    // Where a person's own browser may be believed, nobody is asked.
    let reuse = v1::BeginFederatedSignInRequest {
        reuse_browser_session: true,
        redirect_uri: APP_CALLBACK.into(),
        ..Default::default()
    };
    let straight = browser.open(&scene.begin(reuse).await.unwrap().authorize_url).await;
    assert_eq!(scene.complete(&straight.address).await.unwrap().subject, ben.subject);

    // A page that does not know `prompt` (Cognito's classic one) takes the cookie: the token's age shows it.
    clock.advance(Duration::from_secs(120));
    let begun = scene.begin_in_app("").await;
    let classic = changed(&begun.authorize_url, "prompt", "");
    let silent = browser.open(&classic).await;
    assert_eq!(reason(&scene.complete(&silent.address).await.unwrap_err()), "FEDERATION_NOT_FRESH");

    // Signing out says how to end the cookie; then that page asks, too.
    let out = v1::SignOutRequest { name: ben.name, uploads: SignOutUploads::Park.into(), everywhere: false };
    let out = scene.stage.sessions().await.sign_out(out).await.unwrap().into_inner();
    assert_eq!(out.hosted_sign_out_url, begun.sign_out_url);
    let gone = browser.open(&out.hosted_sign_out_url).await;
    assert_eq!((gone.address.as_str(), browser.cookies.contains_key("cognito")), (SIGNED_OUT, false));
    assert_eq!(browser.open(&classic).await.title(), "Sign in");
}

#[tokio::test]
async fn what_is_not_ours_is_refused_for_its_own_reason() {
    let scene = Scene::start().await;
    let mut browser = scene.browser();
    let back = async |browser: &mut Browser, authorize_url: &str| -> Shown {
        let google = browser.open(authorize_url).await;
        browser.submit(&google, &[("email", ANA)]).await
    };
    let refusal = async |url: &str| reason(&scene.complete(url).await.unwrap_err());

    let begun = scene.begin_in_app("Google").await;
    let returned = back(&mut browser, &begun.authorize_url).await.address;
    for (url, expected) in [
        (changed(&returned, "state", "made-up"), "FEDERATION_STATE_UNKNOWN"),
        (changed(&returned, "state", ""), "INVALID_FIELD"),
        (changed(&returned, "code", ""), "INVALID_FIELD"),
        (returned.replace("photos://signed-in", "photos://elsewhere"), "REDIRECT_MISMATCH"),
        (returned.replace("photos://signed-in", "https://evil.example/"), "REDIRECT_MISMATCH"),
        ("nonsense".to_owned(), "INVALID_FIELD"),
        (String::new(), "MISSING_FIELD"),
    ] {
        assert_eq!(refusal(&url).await, expected, "{url}");
    }
    let both = v1::CompleteFederatedSignInRequest { redirect_url: returned.clone(), state: begun.state.clone() };
    let both = scene.stage.sessions().await.complete_federated_sign_in(both).await.unwrap_err();
    assert_eq!(reason(&both), "INVALID_FIELD");
    assert_eq!(reason(&scene.wait(&begun.state).await.unwrap_err()), "INVALID_FIELD");
    if let Some(channel) = scene.stage.channel_of_other_uid().await {
        let mut other = v1::session_service_client::SessionServiceClient::new(channel);
        let request = v1::CompleteFederatedSignInRequest { redirect_url: returned.clone(), ..Default::default() };
        let foreign = other.complete_federated_sign_in(request).await.unwrap_err();
        assert_eq!(reason(&foreign), "FEDERATION_STATE_UNKNOWN");
    }
    // None of these has spent the attempt.
    scene.complete(&returned).await.unwrap();
    assert_eq!(refusal(&returned).await, "FEDERATION_STATE_USED");

    // The page was opened with somebody else's nonce, or challenge: what comes of it is not this sign-in's.
    let begun = scene.begin_in_app("Google").await;
    let returned = back(&mut browser, &changed(&begun.authorize_url, "nonce", "another")).await.address;
    assert_eq!(refusal(&returned).await, "FEDERATION_NONCE_MISMATCH");
    let begun = scene.begin_in_app("Google").await;
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let returned = back(&mut browser, &changed(&begun.authorize_url, "code_challenge", challenge)).await.address;
    assert_eq!(refusal(&returned).await, "FEDERATION_CODE_REFUSED");
    // A code that another sign-in has used.
    let (first, second) = (scene.begin_in_app("Google").await, scene.begin_in_app("Google").await);
    let returned = back(&mut browser, &first.authorize_url).await;
    scene.complete(&returned.address).await.unwrap();
    assert_eq!(refusal(&changed(&returned.address, "state", &second.state)).await, "FEDERATION_CODE_REFUSED");
}

#[tokio::test]
async fn what_the_page_says_instead_of_a_code_reaches_the_app() {
    let scene = Scene::start().await;
    let mut browser = scene.browser();
    for provider in ["Google", "SignInWithApple"] {
        let begun = scene.begin_in_app(provider).await;
        let shown = browser.open(&begun.authorize_url).await;
        let back = browser.submit(&shown, &[("answer", "cancel")]).await;
        let back = carry(&mut browser, back).await;
        assert_eq!(reason(&scene.complete(&back.address).await.unwrap_err()), "FEDERATION_CANCELLED", "{provider}");
        assert_eq!(reason(&scene.complete(&back.address).await.unwrap_err()), "FEDERATION_STATE_USED");
    }
    let begun = scene.begin_in_app("Facebook").await;
    let refused = scene.complete(&browser.open(&begun.authorize_url).await.address).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), variables(&refused)["error"].as_str()),
        ("FEDERATION_REFUSED", "invalid_request")
    );
    let begun = scene.begin_in_app("Corp").await;
    let trouble = scene.complete(&browser.open(&begun.authorize_url).await.address).await.unwrap_err();
    assert_eq!(reason(&trouble), "UPSTREAM_UNAVAILABLE");

    let elsewhere =
        v1::BeginFederatedSignInRequest { redirect_uri: "https://evil.example/".into(), ..Default::default() };
    assert_eq!(reason(&scene.begin(elsewhere).await.unwrap_err()), "REDIRECT_URI_NOT_ALLOWED");
    let plain = Stage::start().await;
    let none = plain.sessions().await.begin_federated_sign_in(by("")).await.unwrap_err();
    assert_eq!(reason(&none), "FEDERATION_NOT_CONFIGURED");
}

#[tokio::test]
async fn a_page_in_trouble_costs_a_try_and_not_the_sign_in() {
    let scene = Scene::with(Options::default(), "providers = [\"Google\"]").await;
    assert_eq!(reason(&scene.begin(by("SignInWithApple")).await.unwrap_err()), "PROVIDER_NOT_FOUND");
    let mut browser = scene.browser();
    let begun = scene.begin_in_app("Google").await;
    let google = browser.open(&begun.authorize_url).await;
    let back = browser.submit(&google, &[("email", ANA)]).await;
    let busy = Effect::Error { status: 429, code: "too_many_requests".into(), message: None };
    scene.stage.cloud.faults().add(Rule::new("hosted-ui:Token", busy).next(1)).unwrap();
    assert_eq!(reason(&scene.complete(&back.address).await.unwrap_err()), "UPSTREAM_THROTTLED");
    scene.complete(&back.address).await.unwrap();
}

#[tokio::test]
async fn a_page_that_cannot_be_reached_leaves_the_sign_in_open() {
    let callback = format!("http://127.0.0.1:{}/callback", free_port());
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let stage = Stage::start_with(TemplateSource::BuiltIn, |text| {
        let page = format!(
            "[identity.hosted_ui]\ndomain_url = \"{nobody}\"\nredirect_uris = [\"{callback}\"]\n[identity.credentials]\n"
        );
        text.replacen("[identity.credentials]\n", &page, 1)
    })
    .await;
    let begun = stage.sessions().await.begin_federated_sign_in(by("")).await.unwrap().into_inner();
    assert!(begun.sign_out_url.is_empty());
    for _ in 0..2 {
        let request = v1::CompleteFederatedSignInRequest {
            redirect_url: format!("{callback}?state={}&code=c", begun.state),
            ..Default::default()
        };
        let refused = stage.sessions().await.complete_federated_sign_in(request).await.unwrap_err();
        assert_eq!(reason(&refused), "UPSTREAM_UNAVAILABLE", "{refused:?}");
    }
}

#[tokio::test]
async fn the_listener_takes_the_browsers_return_and_nothing_else() {
    let scene = Scene::start().await;
    let begun = scene.begin(by("Google")).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let good = format!("{}?state={}&code=c", scene.callback, begun.state);
    let rebound = client.get(&good).header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), StatusCode::MISDIRECTED_REQUEST);
    let posted = client.post(&good).send().await.unwrap();
    assert_eq!((posted.status(), posted.headers()["allow"].to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, "GET"));
    for (address, expected) in [
        (good.replace("/callback", "/favicon.ico"), StatusCode::NOT_FOUND),
        (good.replace(&begun.state, "made-up"), StatusCode::BAD_REQUEST),
        (scene.callback.clone(), StatusCode::BAD_REQUEST),
        (format!("{good}&code=d"), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(get(&address).await.0, expected, "{address}");
    }
    // Two people's attempts share the port; each browser finds its own.
    let other = scene.begin(by("Google")).await.unwrap();
    let (mut ana, mut ben) = (scene.browser(), scene.browser());
    for (browser, attempt, email) in [(&mut ben, &other, BEN), (&mut ana, &begun, ANA)] {
        let google = browser.open(&attempt.authorize_url).await;
        let back = browser.submit(&google, &[("email", email)]).await;
        let (session, page) = tokio::join!(scene.wait(&attempt.state), get(&back.address));
        assert_eq!(session.unwrap().username, email);
        assert!(page.1.contains("You are signed in") && !page.1.contains(&attempt.state));
    }

    // A person who cancels sees that, and so does the app.
    let begun = scene.begin(by("Google")).await.unwrap();
    let google = ana.open(&begun.authorize_url).await;
    let back = ana.submit(&google, &[("answer", "cancel")]).await;
    let (session, page) = tokio::join!(scene.wait(&begun.state), get(&back.address));
    assert_eq!(reason(&session.unwrap_err()), "FEDERATION_CANCELLED");
    assert!(page.1.contains("You are not signed in"), "{page:?}");
}

#[tokio::test]
async fn a_port_that_another_program_has_is_named() {
    let scene = Scene::start().await;
    let port = reqwest::Url::parse(&scene.callback).unwrap().port().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let refused = scene.begin(by("Google")).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), variables(&refused)["redirect_uri"].as_str()),
        ("REDIRECT_PORT_BUSY", scene.callback.as_str())
    );
    drop(taken);
    scene.begin(by("Google")).await.unwrap();
}

#[tokio::test]
async fn a_sign_in_that_nobody_finishes_ends_by_itself() {
    let lines = "\n[session]\nfederated_sign_in_lifetime_ms = 1000\n";
    let callback = format!("http://127.0.0.1:{}/callback", free_port());
    let stage = Stage::start_with(TemplateSource::BuiltIn, |text| {
        let page = format!(
            "[identity.hosted_ui]\ndomain_url = \"https://photos.example\"\nredirect_uris = [\"{callback}\"]\n\
             [identity.credentials]\n"
        );
        let text = text.replacen("[identity.credentials]\n", &page, 1);
        if text.contains("[session]\n") { text.replacen("[session]\n", lines.trim_start(), 1) } else { text + lines }
    })
    .await;
    let begun = stage.sessions().await.begin_federated_sign_in(by("")).await.unwrap().into_inner();
    let ended = wait(stage.sessions().await, &begun.state).await.unwrap_err();
    assert_eq!(reason(&ended), "FEDERATION_STATE_EXPIRED");
}

#[tokio::test]
async fn the_sign_in_that_makes_a_link_goes_to_the_page_once_more() {
    let scene = Scene::with(Options { pre_sign_up: PreSignUp::LinkAndFailOnce, ..Options::default() }, "").await;
    let user = scene.stage.sign_up().await;
    let native = scene.stage.sign_in(&user).await;
    let begun = scene.begin(by("Google")).await.unwrap();
    let mut browser = scene.browser();
    let google = browser.open(&begun.authorize_url).await;
    let back = browser.submit(&google, &[("email", &user.username)]).await;
    assert_eq!(back.query("error").as_deref(), Some("invalid_request"), "{back:?}");
    let (status, _, location) = get(&back.address).await;
    assert_eq!((status, location.as_deref()), (StatusCode::SEE_OTHER, Some(begun.authorize_url.as_str())));
    let google = browser.open(&begun.authorize_url).await;
    let back = browser.submit(&google, &[("email", &user.username)]).await;
    let (session, _) = tokio::join!(scene.wait(&begun.state), get(&back.address));
    assert_eq!(session.unwrap().subject, native.subject);

    // An app that catches the browser itself is told to open the page again.
    let begun = scene.begin_in_app("SignInWithApple").await;
    for expected in ["FEDERATION_LINKED_NOW", ""] {
        let apple = browser.open(&begun.authorize_url).await;
        let back = browser.submit(&apple, &[("email", &user.username)]).await;
        let back = carry(&mut browser, back).await;
        let done = scene.complete(&back.address).await;
        assert_eq!(done.as_ref().err().map(reason).unwrap_or_default(), expected);
    }
}
