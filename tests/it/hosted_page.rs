//! The hosted sign-in page over real HTTP: what an app, a person and somebody with bad intentions see of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_cognitoidentityprovider::types::{AttributeType, EmailMfaSettingsType, SmsMfaSettingsType};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::CONTENT_SECURITY_POLICY;
use serde_json::{Value, json};
use tidegate::clock::Clock;
use tidegate::local_cloud::faults::{Effect, Rule};
use tidegate::local_cloud::hosted_ui::{CODE_VALIDITY, PAGE_SESSION_VALIDITY};
use tidegate::local_cloud::seed::{MfaMode, MfaSeed, Seed, UserPoolClientSeed};
use tidegate::local_cloud::{Options, TemplateSource, template};

use crate::browser::{Browser, Shown, encode};
use crate::rehearsal::{PASSWORD, Rehearsal};

pub const CALLBACK: &str = "http://127.0.0.1:8484/callback";
const SIGNED_OUT: &str = "http://127.0.0.1:8484/signed-out";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const ANA: &str = "ana@example.com";
/// An app client of the same pool with a callback of its own.
const OTHER_CLIENT: &str = "otherotherotherotherother1";

/// The cloud, and one app of it.
pub struct Page {
    pub rehearsal: Rehearsal,
    pub clock: Clock,
    http: reqwest::Client,
}

/// The built-in template with a client that has callbacks.
pub fn seed() -> Seed {
    let mut seed = template::load(template::built_in(), &template::Options::default()).unwrap();
    let clients = &mut seed.user_pools[0].clients;
    let client = &mut clients[0];
    client.callback_urls = vec![CALLBACK.into()];
    client.logout_urls = vec![SIGNED_OUT.into()];
    client.allowed_oauth_scopes =
        ["openid", "email", "profile", "aws.cognito.signin.user.admin"].map(str::to_owned).to_vec();
    let other = UserPoolClientSeed { id: OTHER_CLIENT.into(), ..client.clone() };
    clients.push(other);
    seed
}

impl Page {
    pub async fn start() -> Self {
        Self::with(seed()).await
    }

    pub async fn with(seed: Seed) -> Self {
        let clock = Clock::manual(SystemTime::now());
        let rehearsal = Rehearsal::with(Options {
            listen: ([127, 0, 0, 1], 0).into(),
            template: TemplateSource::Seed(Box::new(seed)),
            clock: clock.clone(),
            ..Options::default()
        })
        .await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { rehearsal, clock, http }
    }

    pub fn browser(&self) -> Browser {
        Browser::new(self.rehearsal.cloud.url())
    }

    /// The address of a sign-in, with these fields in the place of the usual ones; an empty one is left out.
    pub fn authorize(&self, changes: &[(&str, &str)]) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
        let mut fields: BTreeMap<String, String> = [
            ("client_id", self.rehearsal.client_id.as_str()),
            ("redirect_uri", CALLBACK),
            ("response_type", "code"),
            ("scope", "openid email"),
            ("state", "st&te=1"),
            ("nonce", "n0nce"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        fields.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        fields.retain(|_, value| !value.is_empty());
        format!("/oauth2/authorize?{}", encode(&fields))
    }

    /// Signs in with e-mail and password; where the browser is sent.
    pub async fn sign_in(&self, browser: &mut Browser, email: &str) -> Shown {
        let page = browser.open(&self.authorize(&[])).await;
        browser.submit(&page, &[("username", email), ("password", PASSWORD)]).await
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let fields: BTreeMap<String, String> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = self.http.post(format!("{}{path}", self.rehearsal.cloud.url()));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(encode(&fields)).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
    }

    /// Exchanges a code, with these fields in the place of the right ones.
    pub async fn exchange(&self, code: &str, changes: &[(&str, &str)]) -> (u16, Value) {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("client_id", self.rehearsal.client_id.as_str()),
            ("redirect_uri", CALLBACK),
            ("code", code),
            ("code_verifier", VERIFIER),
        ];
        for (name, value) in changes {
            fields.retain(|(known, _)| known != name);
            fields.push((name, value));
        }
        fields.retain(|(_, value)| !value.is_empty());
        self.post("/oauth2/token", &fields).await
    }

    async fn user_info(&self, access_token: &Value) -> (u16, Value) {
        let request = self.http.get(format!("{}/oauth2/userInfo", self.rehearsal.cloud.url()));
        let answer = request.bearer_auth(access_token.as_str().unwrap()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub fn client(&self) -> &str {
        &self.rehearsal.client_id
    }
}

pub fn claims(token: &Value) -> Value {
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn refusal(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_person_signs_in_and_the_app_gets_tokens() {
    let page = Page::start().await;
    page.rehearsal.sign_up(ANA).await;
    let mut browser = page.browser();
    let login = browser.open(&page.authorize(&[("login_hint", ANA)])).await;
    assert_eq!((login.status, login.title()), (200, "Sign in"));
    assert!(login.body.contains(ANA) && !login.body.contains("<script"));
    let policy = login.headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && policy.contains("frame-ancestors 'none'"));
    assert_eq!(login.headers["cache-control"], "no-store");

    let wrong = browser.submit(&login, &[("username", ANA), ("password", "Wrong-Photo-7!")]).await;
    assert_eq!(wrong.alert(), Some("The e-mail or the password is not right. Please try again."));
    let unknown = browser.submit(&login, &[("username", "bob@example.com"), ("password", PASSWORD)]).await;
    assert_eq!(unknown.alert(), wrong.alert());
    assert!(!wrong.body.contains("Wrong-Photo-7!") && wrong.body.contains(ANA));

    let done = browser.submit(&wrong, &[("password", PASSWORD)]).await;
    assert!(done.address.starts_with(&format!("{CALLBACK}?code=")), "{done:?}");
    assert_eq!(done.query("state").as_deref(), Some("st&te=1"));
    let (status, tokens) = page.exchange(&done.query("code").unwrap(), &[]).await;
    assert_eq!(status, 200, "{tokens}");
    let id = claims(&tokens["id_token"]);
    assert_eq!((&id["nonce"], &id["email"], &id["aud"]), (&json!("n0nce"), &json!(ANA), &json!(page.client())));
    assert_eq!((&id["token_use"], &id["email_verified"]), (&json!("id"), &json!(true)));
    let access = claims(&tokens["access_token"]);
    assert_eq!((&access["scope"], &access["client_id"]), (&json!("openid email"), &json!(page.client())));
    let hash = digest(&SHA256, tokens["access_token"].as_str().unwrap().as_bytes());
    assert_eq!(id["at_hash"], URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]));

    // The same person by the pool's own API has the same `sub`, and the identity pool takes the token.
    let by_api = claims(&json!(page.rehearsal.id_token(ANA).await));
    assert_eq!(by_api["sub"], id["sub"]);
    page.rehearsal.session(tokens["id_token"].as_str().unwrap()).await;

    let (status, info) = page.user_info(&tokens["access_token"]).await;
    assert_eq!((status, &info["sub"], &info["email_verified"]), (200, &id["sub"], &json!("true")));
    let refresh = [("grant_type", "refresh_token"), ("client_id", page.client())];
    let refresh_token = tokens["refresh_token"].as_str().unwrap().to_owned();
    let with = |token| [refresh[0], refresh[1], ("refresh_token", token)];
    let (status, fresh) = page.post("/oauth2/token", &with(&refresh_token)).await;
    assert_eq!((status, claims(&fresh["id_token"])["sub"].clone()), (200, id["sub"].clone()));
    assert_eq!(claims(&fresh["access_token"])["scope"], "openid email");
    assert!(fresh["refresh_token"].is_null() && claims(&fresh["id_token"])["nonce"].is_null());

    let revoke = [("client_id", page.client()), ("token", refresh_token.as_str())];
    assert_eq!(page.post("/oauth2/revoke", &revoke).await.0, 200);
    assert_eq!(refusal(&page.post("/oauth2/token", &with(&refresh_token)).await), (400, "invalid_grant"));
    assert_eq!(refusal(&page.user_info(&fresh["access_token"]).await), (401, "invalid_token"));
}

#[tokio::test]
async fn nothing_but_a_registered_redirect_is_redirected_to() {
    let page = Page::start().await;
    let mut browser = page.browser();
    for (name, value) in [
        ("redirect_uri", "https://evil.example/"),
        ("redirect_uri", "http://127.0.0.1:8484/callback/../x"),
        ("redirect_uri", "http://127.0.0.1:8484/callback?x"),
        ("redirect_uri", "http://127.0.0.1:8484/callback\r\nX-Evil: 1"),
        ("redirect_uri", "//evil.example/callback"),
        ("redirect_uri", "javascript:alert(1)"),
        ("redirect_uri", ""),
        ("client_id", "nobody"),
        ("client_id", ""),
    ] {
        for path in ["/oauth2/authorize", "/login", "/signup", "/confirm", "/forgotPassword", "/logout"] {
            let address = page.authorize(&[(name, value), ("prompt", "none")]).replace("/oauth2/authorize", path);
            let shown = browser.open(&address).await;
            assert_eq!((shown.status, shown.title()), (400, "This sign-in cannot begin"), "{path} {name}={value}");
            assert!(!shown.headers.contains_key("location") && !shown.body.contains("evil"), "{path} {value}");
        }
    }
    for (name, value, error) in [
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge_method", "", "invalid_request"),
        ("response_type", "token", "unsupported_response_type"),
        ("scope", "openid phone", "invalid_scope"),
        ("prompt", "none", "login_required"),
    ] {
        let shown = browser.open(&page.authorize(&[(name, value)])).await;
        assert!(shown.address.starts_with(&format!("{CALLBACK}?error={error}&")), "{name}={value}: {shown:?}");
        assert_eq!(shown.query("state").as_deref(), Some("st&te=1"), "{name}");
    }
    let stateless = browser.open(&page.authorize(&[("prompt", "none"), ("state", "")])).await;
    assert_eq!(stateless.query("state"), None);
    let injected = browser.open(&page.authorize(&[("prompt", "none"), ("state", "a\r\nSet-Cookie: x=y")])).await;
    assert_eq!(injected.query("state").as_deref(), Some("a\r\nSet-Cookie: x=y"));
    assert!(browser.cookies.is_empty(), "{:?}", browser.cookies);
}

#[tokio::test]
async fn a_code_is_good_once_in_time_and_for_whom_it_was_given() {
    let page = Page::start().await;
    page.rehearsal.sign_up(ANA).await;
    let mut browser = page.browser();
    page.sign_in(&mut browser, ANA).await;
    // The browser is known now, so each further code needs no page.
    let mut code = async || browser.open(&page.authorize(&[])).await.query("code").unwrap();
    for (name, value) in [
        ("code_verifier", "wrongwrongwrongwrongwrongwrongwrongwrongwrong"),
        ("code_verifier", "short"),
        ("code_verifier", ""),
        ("client_id", OTHER_CLIENT),
        ("redirect_uri", SIGNED_OUT),
        ("redirect_uri", ""),
        ("code", "nonsense"),
    ] {
        let code = code().await;
        assert_eq!(refusal(&page.exchange(&code, &[(name, value)]).await), (400, "invalid_grant"), "{name}={value}");
        let is_spent = name != "code";
        let again = page.exchange(&code, &[]).await;
        assert_eq!(again.0, if is_spent { 400 } else { 200 }, "{name}={value}: {again:?}");
    }
    for (changes, error) in [
        (vec![("code", "")], "invalid_request"),
        (vec![("client_id", "")], "invalid_request"),
        (vec![("client_id", "nobody")], "invalid_client"),
        (vec![("client_secret", "x")], "invalid_client"),
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (vec![("grant_type", "client_credentials")], "unauthorized_client"),
        (vec![("grant_type", "")], "invalid_request"),
    ] {
        assert_eq!(refusal(&page.exchange(&code().await, &changes).await), (400, error), "{changes:?}");
    }

    // Twice: the tokens of the first exchange end, too.
    let twice = code().await;
    let (_, tokens) = page.exchange(&twice, &[]).await;
    assert_eq!(page.user_info(&tokens["access_token"]).await.0, 200);
    assert_eq!(refusal(&page.exchange(&twice, &[]).await), (400, "invalid_grant"));
    assert_eq!(refusal(&page.user_info(&tokens["access_token"]).await), (401, "invalid_token"));

    let late = code().await;
    page.clock.advance(CODE_VALIDITY);
    assert_eq!(refusal(&page.exchange(&late, &[]).await), (400, "invalid_grant"));

    // Without PKCE as AWS allows it; a verifier then means a mix-up.
    let plain = [("code_challenge", ""), ("code_challenge_method", "")];
    let bare = browser.open(&page.authorize(&plain)).await.query("code").unwrap();
    assert_eq!(page.exchange(&bare, &[("code_verifier", "")]).await.0, 200);
    let bare = browser.open(&page.authorize(&plain)).await.query("code").unwrap();
    assert_eq!(refusal(&page.exchange(&bare, &[]).await), (400, "invalid_grant"));
}

#[tokio::test]
async fn a_browser_that_says_localhost_is_sent_to_the_name_that_providers_come_back_to() {
    let page = Page::start().await;
    let url = page.rehearsal.cloud.url();
    let (_, port) = url.rsplit_once(':').unwrap();
    let mut browser = Browser::new(&format!("http://localhost:{port}"));
    for path in ["/oauth2/authorize", "/login", "/logout"] {
        let address = page.authorize(&[]).replace("/oauth2/authorize", path);
        let sent = browser.open(&address).await;
        assert_eq!((sent.status, sent.address), (303, format!("{url}{address}")));
    }
    assert!(browser.cookies.is_empty());
}

#[tokio::test]
async fn forms_from_elsewhere_are_not_taken() {
    let page = Page::start().await;
    page.rehearsal.sign_up(ANA).await;
    let right = [("username", ANA), ("password", PASSWORD)];
    let mut browser = page.browser();
    let login = browser.open(&page.authorize(&[])).await;

    let forged =
        browser.submit(&login, &[right[0], right[1], ("_csrf", "forgedforgedforgedforgedforgedforged1234567")]).await;
    assert_eq!((forged.status, browser.cookies.contains_key("cognito")), (403, false));
    let cookie = browser.cookies.remove("XSRF-TOKEN").unwrap();
    assert_eq!(browser.submit(&login, &right).await.status, 403);
    browser.cookies.insert("XSRF-TOKEN".into(), cookie.clone());
    let request = page.http.post(login.address.clone()).header("origin", "https://evil.example");
    let request = request.header("cookie", format!("XSRF-TOKEN={cookie}"));
    let body = format!("_csrf={cookie}&username=ana%40example.com&password={PASSWORD}");
    assert_eq!(request.body(body).send().await.unwrap().status(), 403);
    assert_eq!(browser.submit(&login, &right).await.status, 303);
}

#[tokio::test]
async fn a_browser_stays_signed_in_until_it_signs_out() {
    let page = Page::start().await;
    page.rehearsal.sign_up(ANA).await;
    page.rehearsal.sign_up("ben@example.com").await;
    let mut browser = page.browser();
    page.sign_in(&mut browser, ANA).await;
    let first = browser.cookies["cognito"].clone();
    let straight = browser.open(&page.authorize(&[("prompt", "none")])).await;
    assert!(straight.query("code").is_some());
    let asked = browser.open(&page.authorize(&[("prompt", "login")])).await;
    assert_eq!(asked.title(), "Sign in");

    let out = |uri: &str| format!("/logout?client_id={}&logout_uri={uri}", page.client());
    let refused = browser.open(&out("https://evil.example/")).await;
    assert_eq!((refused.status, refused.title()), (400, "You are still signed in"));
    assert!(browser.cookies.contains_key("cognito"));
    let gone = browser.open(&out(SIGNED_OUT)).await;
    assert_eq!((gone.address.as_str(), browser.cookies.contains_key("cognito")), (SIGNED_OUT, false));
    // Whoever kept the cookie finds it worth nothing.
    browser.cookies.insert("cognito".into(), first.clone());
    assert_eq!(browser.open(&page.authorize(&[])).await.title(), "Sign in");

    let ben = page.sign_in(&mut browser, "ben@example.com").await;
    let (_, tokens) = page.exchange(&ben.query("code").unwrap(), &[]).await;
    assert_eq!(claims(&tokens["id_token"])["email"], "ben@example.com");
    assert_ne!(browser.cookies["cognito"], first);
    let again = browser.open(&page.authorize(&[]).replace("/oauth2/authorize", "/logout")).await;
    assert_eq!((again.title(), browser.cookies.contains_key("cognito")), ("Sign in", false));

    page.sign_in(&mut browser, ANA).await;
    let users = page.rehearsal.users(Some(page.rehearsal.administrator()));
    users.admin_disable_user().user_pool_id(&page.rehearsal.pool_id).username(ANA).send().await.unwrap();
    assert_eq!(browser.open(&page.authorize(&[])).await.title(), "Sign in");
    page.sign_in(&mut browser, "ben@example.com").await;
    assert!(browser.open(&page.authorize(&[])).await.query("code").is_some());
    page.clock.advance(PAGE_SESSION_VALIDITY);
    assert_eq!(browser.open(&page.authorize(&[])).await.title(), "Sign in");
}

#[tokio::test]
async fn people_sign_up_confirm_and_recover_on_the_page() {
    let page = Page::start().await;
    let mut browser = page.browser();
    let login = browser.open(&page.authorize(&[])).await;
    let sign_up = browser.follow(&login, "Create an account").await;
    let weak = browser.submit(&sign_up, &[("username", "cleo@example.com"), ("password", "short")]).await;
    assert!(weak.alert().unwrap().contains("assword"), "{weak:?}");
    let confirm = browser.submit(&weak, &[("password", PASSWORD)]).await;
    assert_eq!(confirm.title(), "Confirm your address");
    let early = browser.submit(&login, &[("username", "cleo@example.com"), ("password", PASSWORD)]).await;
    assert_eq!(early.title(), "Confirm your address");
    let wrong = browser.submit(&confirm, &[("code", "no")]).await;
    assert_eq!(wrong.alert(), Some("That code is not right. Please try again."));
    let code = page.rehearsal.code_for("cleo@example.com");
    let login = browser.submit(&wrong, &[("code", &code)]).await;
    assert_eq!(login.title(), "Sign in");
    assert!(browser.submit(&login, &[("password", PASSWORD)]).await.query("code").is_some());

    let login = browser.open(&page.authorize(&[("prompt", "login")])).await;
    let forgotten = browser.follow(&login, "Forgotten password?").await;
    let reset = browser.submit(&forgotten, &[("username", "cleo@example.com")]).await;
    let code = page.rehearsal.code_for("cleo@example.com");
    let login = browser.submit(&reset, &[("code", &code), ("password", "Another-Photo-8!")]).await;
    let done = browser.submit(&login, &[("password", "Another-Photo-8!")]).await;
    assert!(done.query("code").is_some(), "{done:?}");

    let users = page.rehearsal.users(Some(page.rehearsal.administrator()));
    let invited = users.admin_create_user().user_pool_id(&page.rehearsal.pool_id).username("dora@example.com");
    invited.temporary_password("First-Photo-9!").send().await.unwrap();
    let login = browser.open(&page.authorize(&[("prompt", "login")])).await;
    let asked = browser.submit(&login, &[("username", "dora@example.com"), ("password", "First-Photo-9!")]).await;
    assert_eq!(asked.title(), "Choose a password");
    let done = browser.submit(&asked, &[("answer", PASSWORD)]).await;
    assert!(done.query("code").is_some(), "{done:?}");
}

#[tokio::test]
async fn a_person_with_second_factors_chooses_one_and_types_its_code() {
    let mut seed = seed();
    seed.user_pools[0].mfa = MfaSeed { mode: MfaMode::Optional, software_token: true, sms: true, email: true };
    let page = Page::with(seed).await;
    page.rehearsal.sign_up(ANA).await;
    let users = page.rehearsal.users(Some(page.rehearsal.administrator()));
    let pool_id = &page.rehearsal.pool_id;
    let phone = AttributeType::builder().name("phone_number").value("+12065551234").build().unwrap();
    let change = users.admin_update_user_attributes().user_pool_id(pool_id).username(ANA).user_attributes(phone);
    change.send().await.unwrap();
    let prefer = users.admin_set_user_mfa_preference().user_pool_id(pool_id).username(ANA);
    prefer
        .sms_mfa_settings(SmsMfaSettingsType::builder().enabled(true).build())
        .email_mfa_settings(EmailMfaSettingsType::builder().enabled(true).build())
        .send()
        .await
        .unwrap();

    let mut browser = page.browser();
    let asked = page.sign_in(&mut browser, ANA).await;
    assert!(asked.body.contains("Code by text message") && asked.body.contains("Code by e-mail"), "{asked:?}");
    assert!(!asked.body.contains("authenticator app"), "only what Ana has is offered");
    let asked = browser.submit(&asked, &[("answer", "SMS_MFA")]).await;
    assert!(asked.body.contains("sent to your phone"), "{asked:?}");
    let wrong = browser.submit(&asked, &[("answer", "none")]).await;
    assert_eq!(wrong.alert(), Some("That code is not right. Please try again."));
    let code = page.rehearsal.code_for("+12065551234");
    let done = browser.submit(&wrong, &[("answer", &code)]).await;
    assert!(done.query("code").is_some(), "{done:?}");
    let again = browser.submit(&wrong, &[("answer", &code)]).await;
    assert_eq!(again.alert(), Some("That took too long. Please sign in again."));
}

#[tokio::test]
async fn faults_strike_the_page_and_the_log_keeps_no_secret() {
    let page = Page::start().await;
    page.rehearsal.sign_up(ANA).await;
    let throttled = Effect::Error { status: 429, code: "too_many_requests".into(), message: None };
    page.rehearsal.cloud.faults().add(Rule::new("hosted-ui:Token", throttled).next(1)).unwrap();
    page.rehearsal.cloud.faults().add(Rule::new("hosted-ui:Login", Effect::Delay).latency(Duration::ZERO)).unwrap();
    let mut browser = page.browser();
    let code = page.sign_in(&mut browser, ANA).await.query("code").unwrap();
    assert_eq!(refusal(&page.exchange(&code, &[]).await), (429, "too_many_requests"));
    let (_, tokens) = page.exchange(&code, &[]).await;
    assert_eq!(refusal(&page.exchange(&code, &[]).await), (400, "invalid_grant"));

    let log = serde_json::to_string(&page.rehearsal.cloud.requests(0)).unwrap();
    for operation in ["hosted-ui:Authorize", "hosted-ui:Login", "hosted-ui:Token"] {
        assert!(log.contains(operation), "{operation}");
    }
    assert!(log.contains("\"too_many_requests\"") && log.contains("\"invalid_grant\""));
    for secret in [&code, PASSWORD, VERIFIER, "st&te", tokens["access_token"].as_str().unwrap()] {
        assert!(!log.contains(secret));
    }
    let discovery =
        format!("{}/{}/.well-known/openid-configuration", page.rehearsal.cloud.url(), page.rehearsal.pool_id);
    let discovery: Value = page.http.get(discovery).send().await.unwrap().json().await.unwrap();
    assert_eq!(discovery["token_endpoint"], format!("{}/oauth2/token", page.rehearsal.cloud.url()));
    assert_eq!(page.http.delete(format!("{}/login", page.rehearsal.cloud.url())).send().await.unwrap().status(), 405);
}
