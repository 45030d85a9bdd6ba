//! Continue with Google, Continue with Apple: the whole way over real HTTP, and the ways that must not lead in.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate::local_cloud::hosted_ui::TRIP_VALIDITY;
use tidegate::local_cloud::seed::{IdentityProviderSeed, Seed};

use crate::browser::{Browser, Shown};
use crate::hosted_page::{CALLBACK, Page, claims, seed};

const ANA: &str = "ana@example.com";

/// The page's seed with Google, Apple, and a provider that nobody runs.
pub fn with_providers() -> Seed {
    let mut seed = seed();
    let pool = &mut seed.user_pools[0];
    let mapping = [("email", "email"), ("email_verified", "email_verified"), ("username", "sub")];
    let issuer = [("client_id", "us"), ("oidc_issuer", "http://127.0.0.1:9/nobody")];
    let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    pool.identity_providers = [("Google", "Google"), ("SignInWithApple", "SignInWithApple"), ("Corp", "OIDC")]
        .map(|(name, kind)| IdentityProviderSeed {
            name: name.into(),
            kind: kind.into(),
            details: texts(if kind == "OIDC" { &issuer } else { &[] }),
            attribute_mapping: texts(&mapping),
        })
        .to_vec();
    pool.clients[0].supported_identity_providers =
        ["COGNITO", "Google", "SignInWithApple", "Corp"].map(str::to_owned).to_vec();
    seed
}

/// Apple's answer is a form that sends itself.
pub async fn carry(browser: &mut Browser, shown: Shown) -> Shown {
    if shown.title() == "Almost there" { browser.submit(&shown, &[]).await } else { shown }
}

async fn id_claims(page: &Page, done: &Shown) -> Value {
    assert!(done.address.starts_with(&format!("{CALLBACK}?code=")), "{done:?}");
    assert_eq!(done.query("state").as_deref(), Some("st&te=1"));
    let (status, tokens) = page.exchange(&done.query("code").unwrap(), &[]).await;
    assert_eq!(status, 200, "{tokens}");
    claims(&tokens["id_token"])
}

#[tokio::test]
async fn google_signs_in_by_its_button_and_by_the_hint() {
    let page = Page::with(with_providers()).await;
    let mut browser = page.browser();
    let login = browser.open(&page.authorize(&[])).await;
    let google = browser.follow(&login, "Continue with Google").await;
    assert_eq!(google.title(), "Sign in with Google");
    let bad = browser.submit(&google, &[("email", "nobody")]).await;
    assert_eq!(bad.alert(), Some("That is no e-mail address. Please try again."));
    let done = browser.submit(&bad, &[("email", ANA)]).await;
    let first = id_claims(&page, &done).await;
    assert_eq!(
        (&first["email"], &first["email_verified"], &first["nonce"]),
        (&json!(ANA), &json!(true), &json!("n0nce"))
    );
    // Linked to a native user, who can get a password later.
    assert_eq!(
        (&first["cognito:username"], first["identities"][0]["primary"].as_str()),
        (&first["sub"], Some("false"))
    );
    assert_eq!(first["identities"][0]["providerName"], "Google");

    // The browser is known now; another one comes straight to Google and is the same person.
    assert!(browser.open(&page.authorize(&[])).await.query("code").is_some());
    let mut other = page.browser();
    let google = other.open(&page.authorize(&[("identity_provider", "Google"), ("login_hint", ANA)])).await;
    assert!(google.body.contains(ANA));
    let done = other.submit(&google, &[]).await;
    assert_eq!(id_claims(&page, &done).await["sub"], first["sub"]);
}

#[tokio::test]
async fn apple_answers_by_a_form_and_can_hide_the_address() {
    let page = Page::with(with_providers()).await;
    let mut subs = Vec::new();
    for (fields, ends) in [
        (vec![("email", ANA), ("hide", "yes")], "@privaterelay.appleid.com"),
        (vec![("email", ANA)], ANA),
        (vec![("email", "ben@example.com"), ("hide", "yes")], "@privaterelay.appleid.com"),
    ] {
        let mut browser = page.browser();
        let apple = browser.open(&page.authorize(&[("identity_provider", "SignInWithApple")])).await;
        assert_eq!(apple.title(), "Sign in with Apple");
        let back = browser.submit(&apple, &fields).await;
        assert!(back.body.contains("<script>document.forms[0].submit()</script>"));
        let done = carry(&mut browser, back).await;
        let id = id_claims(&page, &done).await;
        assert!(id["email"].as_str().unwrap().ends_with(ends) && id["email_verified"] == true, "{id}");
        subs.push(id["sub"].clone());
    }
    assert!(subs[0] == subs[1] && subs[1] != subs[2]);
}

#[tokio::test]
async fn only_the_browser_that_left_comes_back_in_and_once() {
    let page = Page::with(with_providers()).await;
    let (mut ana, mut thief) = (page.browser(), page.browser());
    let hint = page.authorize(&[("identity_provider", "SignInWithApple")]);
    let apple = ana.open(&hint).await;
    // The form that carries the code is the one thing that can be stolen here.
    let stolen = ana.submit(&apple, &[("email", ANA)]).await;
    let refused = carry(&mut thief, stolen.clone()).await;
    assert_eq!((refused.status, refused.title()), (400, "This sign-in cannot go on"));
    thief.open(&hint).await;
    assert_eq!(carry(&mut thief, stolen.clone()).await.status, 400);
    let cookie = ana.cookies["cognito-fl"].clone();
    let done = carry(&mut ana, stolen.clone()).await;
    assert!(done.query("code").is_some() && !ana.cookies.contains_key("cognito-fl"), "{done:?}");
    ana.cookies.insert("cognito-fl".into(), cookie);
    assert_eq!(carry(&mut ana, stolen).await.status, 400);

    // Back too late.
    let mut late = page.browser();
    let apple = late.open(&hint).await;
    let back = late.submit(&apple, &[("email", ANA)]).await;
    page.clock.advance(TRIP_VALIDITY);
    assert_eq!(carry(&mut late, back).await.status, 400);
    for query in ["", "?state=x&code=y", "?code=y", "?state=&code=y"] {
        assert_eq!(page.browser().open(&format!("/oauth2/idpresponse{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn what_goes_wrong_at_the_provider_reaches_the_app() {
    let page = Page::with(with_providers()).await;
    let error = |shown: &Shown| {
        assert!(shown.address.starts_with(CALLBACK) && shown.query("state").as_deref() == Some("st&te=1"), "{shown:?}");
        shown.query("error").unwrap()
    };
    for provider in ["Google", "SignInWithApple"] {
        let mut browser = page.browser();
        let shown = browser.open(&page.authorize(&[("identity_provider", provider)])).await;
        let back = browser.submit(&shown, &[("answer", "cancel")]).await;
        assert_eq!(error(&carry(&mut browser, back).await), "access_denied", "{provider}");
        let shown = browser.open(&page.authorize(&[("identity_provider", provider)])).await;
        let made_up = shown.address.clone();
        let state = Shown { address: made_up, ..shown }.query("state").unwrap();
        let back = browser.open(&format!("/oauth2/idpresponse?state={state}&code=made-up")).await;
        assert_eq!(error(&back), "server_error", "{provider}");
    }
    let mut browser = page.browser();
    assert_eq!(error(&browser.open(&page.authorize(&[("identity_provider", "Facebook")])).await), "invalid_request");
    assert_eq!(error(&browser.open(&page.authorize(&[("identity_provider", "Corp")])).await), "server_error");

    // The stand-ins send nobody anywhere else.
    for (name, value) in [("redirect_uri", "https://evil.example/"), ("response_type", "token"), ("client_id", "")] {
        let mut query = vec![
            ("client_id", "us"),
            ("response_type", "code"),
            ("redirect_uri", "http://127.0.0.1:1/oauth2/idpresponse"),
        ];
        query.retain(|(known, _)| *known != name);
        query.push((name, value));
        let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let shown = browser.open(&format!("/_tidegate/providers/google/authorize?{}", query.join("&"))).await;
        assert_eq!((shown.status, shown.title()), (400, "This sign-in cannot begin"), "{name}={value}");
    }
}

#[tokio::test]
async fn an_unverified_address_stays_unverified_and_joins_nobody() {
    let page = Page::with(with_providers()).await;
    page.rehearsal.sign_up(ANA).await;
    let native = claims(&json!(page.rehearsal.id_token(ANA).await));
    let mut browser = page.browser();
    let google = browser.open(&page.authorize(&[("identity_provider", "Google")])).await;
    let done = browser.submit(&google, &[("email", ANA), ("verified", "no")]).await;
    let id = id_claims(&page, &done).await;
    assert_eq!(id["email_verified"], false);
    assert_ne!(id["sub"], native["sub"]);
}
