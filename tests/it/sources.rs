//! Every token source and every credential source against its suite, and the ones without Cognito over the real API.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tidegate::api::v1;
use tidegate::clock::Clock;
use tidegate::credential::basic::BasicFlow;
use tidegate::credential::cognito::EnhancedFlow;
use tidegate::credential::sdk_chain::SdkChain;
use tidegate::credential::static_keys::StaticKeys;
use tidegate::credential::web_identity::WebIdentity;
use tidegate::credential::{Login, SecretPlace, SourceConfig, conformance as credentials_suite};
use tidegate::local_cloud::{Options, TemplateSource};
use tidegate::session::cognito_tokens::CognitoTokens;
use tidegate::session::oidc_tokens::OidcTokens;
use tidegate::session::{SignInStep, TokenSource as _, TokensConfig, TokensKind, conformance as tokens_suite};

use crate::fixture::{PASSWORD, Stage, User, by_id_token, by_password, reason, session_of};
use crate::issuer::{CLIENT, Issuer, now_s, sts_for};

const TIMEOUT: Duration = Duration::from_secs(5);
const TEMPLATE: &str = include_str!("../../deploy/aws/template.yaml");
/// Set in the process that the suite of AWS's default chain runs in.
const CHAIN: &str = "TIDEGATE_TEST_SDK_CHAIN";

fn cognito(stage: &Stage) -> CognitoTokens {
    let output = |name: &str| stage.cloud.outputs()[name].clone();
    let config = TokensConfig {
        region: output("Region"),
        user_pool_id: output("UserPoolId"),
        client_id: output("UserPoolClientId"),
        endpoint_url: Some(stage.cloud.url().to_owned()),
        ..TokensConfig::default()
    };
    CognitoTokens::new(&config, TIMEOUT, TIMEOUT, Clock::system()).unwrap()
}

async fn login(stage: &Stage, user: &User) -> Login {
    let tokens = cognito(stage);
    let SignInStep::Tokens(set) = tokens.sign_in(&user.username, &PASSWORD.into(), None).await.unwrap() else {
        panic!("nothing is asked here");
    };
    Login { provider: tokens.provider().to_owned(), subject: set.claims.subject, id_token: set.id_token }
}

fn source_config(stage: &Stage) -> SourceConfig {
    SourceConfig {
        region: stage.cloud.outputs()["Region"].clone(),
        identity_pool_id: Some(stage.cloud.outputs()["IdentityPoolId"].clone()),
        endpoint_url: Some(stage.cloud.url().to_owned()),
        ..SourceConfig::default()
    }
}

fn secret_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, &path).unwrap();
    path
}

fn forged(token: &SecretString) -> SecretString {
    let (body, signature) = token.expose_secret().rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    format!("{body}.{other}{}", &signature[1..]).into()
}

#[tokio::test]
async fn the_user_pool_passes_the_suite_of_token_sources() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    let good = login(&stage, &user).await.id_token;
    let elsewhere = Issuer::start().await;
    let subject = tokens_suite::Subject {
        source: Arc::new(cognito(&stage)),
        password: Some((user.username, PASSWORD.into())),
        id_token: Some(good.clone()),
        forged: vec![forged(&good), "rubbish".into(), elsewhere.token(&elsewhere.claims("x")).into()],
        foreign: vec![],
        expired: vec![],
    };
    tokens_suite::run(&subject).await;
}

#[tokio::test]
async fn any_issuer_passes_the_suite_of_token_sources_by_hand_file_and_command() {
    let issuer = Issuer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let good = issuer.token(&issuer.claims("ada"));
    let changed = |key: &str, value: serde_json::Value| {
        let mut claims = issuer.claims("ada");
        claims[key] = value;
        SecretString::from(issuer.token(&claims))
    };
    let config = TokensConfig {
        kind: TokensKind::Oidc,
        client_id: CLIENT.to_owned(),
        issuer: Some(issuer.url.clone()),
        ..TokensConfig::default()
    };
    let source = |config: &TokensConfig| Arc::new(OidcTokens::new(config, TIMEOUT, TIMEOUT, Clock::system()).unwrap());
    let by_hand = tokens_suite::Subject {
        source: source(&config),
        password: None,
        id_token: Some(good.clone().into()),
        forged: vec![
            issuer.forged(&issuer.claims("ada")).into(),
            forged(&good.clone().into()),
            changed("token_use", json!("access")),
            changed("sub", json!("")),
            "rubbish".into(),
        ],
        foreign: vec![
            changed("iss", json!("https://elsewhere.example")),
            changed("aud", json!("another-client")),
            changed("aud", json!([CLIENT, "another-client"])),
        ],
        expired: vec![changed("exp", json!(now_s() - 31))],
    };
    tokens_suite::run(&by_hand).await;
    let mut several = issuer.claims("ada");
    (several["aud"], several["azp"]) = (json!([CLIENT, "another-client"]), json!(CLIENT));
    let set = by_hand.source.verify(issuer.token(&several).into(), None, None).await.unwrap();
    assert_eq!((set.claims.username.as_str(), set.claims.groups), ("ada", vec!["devices".to_owned()]));
    assert_eq!(by_hand.source.provider(), issuer.url.strip_prefix("http://").unwrap());

    let file = secret_file(folder.path(), "token", &format!("{good}\n"));
    let program = secret_file(folder.path(), "print-token", &format!("#!/bin/sh\necho {good}\n"));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let own = [
        TokensConfig { token_file: Some(file), ..config.clone() },
        TokensConfig { token_command: vec![program.display().to_string()], ..config.clone() },
    ];
    for config in own {
        let subject = tokens_suite::Subject {
            source: source(&config),
            password: None,
            id_token: None,
            forged: vec![],
            foreign: vec![],
            expired: vec![],
        };
        tokens_suite::run(&subject).await;
    }
    let missing = TokensConfig { token_file: Some(folder.path().join("none")), ..config.clone() };
    let error = source(&missing).refresh(&Default::default()).await.unwrap_err();
    assert!(matches!(error, tidegate::session::TokenError::Transient(_)), "{error:?}");
    assert!(error.to_string().contains("token_file"), "{error}");
    let impostor = TokensConfig { issuer: Some(format!("{}/other", issuer.url)), ..config };
    let error = source(&impostor).verify(good.into(), None, None).await.unwrap_err();
    assert!(error.to_string().contains("openid-configuration"), "{error}");
}

#[tokio::test]
async fn both_flows_of_the_identity_pool_pass_the_suite_of_credential_sources() {
    let template = TEMPLATE.replace("AllowClassicFlow: false", "AllowClassicFlow: true");
    let parameters = [("AllowGuests".to_owned(), "true".to_owned())].into();
    let options = Options { template: TemplateSource::Text(template), parameters, ..Options::default() };
    let stage = Stage::start_on(options, |text| text).await;
    let user = stage.sign_up().await;
    let login = login(&stage, &user).await;
    let (config, clock) = (source_config(&stage), Clock::system());
    let role_arn = Some(stage.cloud.outputs()["FreeTierRoleArn"].clone());
    let named = SourceConfig { role_arn, ..config.clone() };
    let enhanced = credentials_suite::Subject {
        source: Arc::new(EnhancedFlow::new(&config, TIMEOUT, TIMEOUT, clock.clone()).unwrap()),
        clock: clock.clone(),
        login: login.clone(),
        takes_guests: true,
        looks_at_tokens: true,
    };
    credentials_suite::run(&enhanced).await;
    // The role that it names does not trust guests.
    let source = Arc::new(BasicFlow::new(&named, TIMEOUT, TIMEOUT, clock.clone()).unwrap());
    credentials_suite::run(&credentials_suite::Subject { source, takes_guests: false, ..enhanced }).await;
}

#[tokio::test]
async fn direct_web_identity_and_static_keys_pass_the_suite_of_credential_sources() {
    let issuer = Issuer::start().await;
    let token = issuer.token(&issuer.claims("ada"));
    let clock = Clock::system();
    let login = Login { provider: "issuer".into(), subject: "ada".into(), id_token: token.clone().into() };
    let config = SourceConfig {
        region: "us-east-1".into(),
        endpoint_url: Some(sts_for(&token).await),
        role_arn: Some("arn:aws:iam::123456789012:role/devices".into()),
        ..SourceConfig::default()
    };
    let direct = credentials_suite::Subject {
        source: Arc::new(WebIdentity::new(&config, TIMEOUT, TIMEOUT, clock.clone()).unwrap()),
        clock: clock.clone(),
        login,
        takes_guests: false,
        looks_at_tokens: true,
    };
    credentials_suite::run(&direct).await;

    let folder = tempfile::tempdir().unwrap();
    let keys = "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = canary-secret\n";
    let place = SecretPlace::File(secret_file(folder.path(), "keys", keys));
    let config = SourceConfig { identity_id: Some("kiosk-7".into()), keys: Some(place), ..SourceConfig::default() };
    let source = Arc::new(StaticKeys::new(&config, clock.clone()).unwrap());
    credentials_suite::run(&credentials_suite::Subject { source: source.clone(), looks_at_tokens: false, ..direct })
        .await;
}

/// The environment is a process's: the suite runs in one of its own.
#[tokio::test]
async fn the_default_chain_passes_the_suite_of_credential_sources() {
    if std::env::var_os(CHAIN).is_none() {
        let name = "sources::the_default_chain_passes_the_suite_of_credential_sources";
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]).env(CHAIN, "1").kill_on_drop(true);
        child.env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "canary-secret");
        child.env_remove("AWS_SESSION_TOKEN").env("AWS_EC2_METADATA_DISABLED", "true");
        let output = child.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let clock = Clock::system();
    let config =
        SourceConfig { region: "us-east-1".into(), identity_id: Some("kiosk-7".into()), ..SourceConfig::default() };
    let login = Login { provider: "issuer".into(), subject: "ada".into(), id_token: "a.b.c".into() };
    let subject = credentials_suite::Subject {
        source: Arc::new(SdkChain::new(&config, clock.clone()).unwrap()),
        clock,
        login,
        takes_guests: false,
        looks_at_tokens: false,
    };
    credentials_suite::run(&subject).await;
}

/// An identity without Cognito: an issuer's tokens, the administrator's keys.
fn without_cognito(text: &str, issuer: &Issuer, tokens: &str, keys: &Path) -> String {
    let (before, rest) = text.split_once("[[identity]]").unwrap();
    let destination = &rest[rest.find("[[destination]]").unwrap()..];
    format!(
        "{}[[identity]]\nname = \"device\"\ntiered = false\n\n[identity.tokens]\nkind = \"oidc\"\nissuer = \"{}\"\n\
         client_id = \"{CLIENT}\"\n{tokens}\n[identity.credentials]\nkind = \"static\"\nidentity_id = \"kiosk-7\"\n\
         keys_file = \"{}\"\n\n{destination}",
        before.replace("[session]", "[session]\nboot_spread_ms = 0"),
        issuer.url,
        keys.display()
    )
}

fn administrators_keys(stage: &Stage, folder: &Path) -> PathBuf {
    let keys = stage.cloud.administrator();
    let secret = keys.secret_access_key.expose_secret();
    let text = format!("aws_access_key_id = {}\naws_secret_access_key = {secret}\n", keys.access_key_id);
    secret_file(folder, "keys", &text)
}

#[tokio::test]
async fn a_device_with_a_token_file_and_static_keys_uploads_by_itself() {
    let mut stage = Stage::start().await;
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::start().await;
    let keys = administrators_keys(&stage, folder.path());
    let file = secret_file(folder.path(), "token", &issuer.token(&issuer.claims("device-7")));
    let own = rustix::process::getuid().as_raw();
    let service = format!("\n[[service_session]]\nname = \"kiosk\"\nallowed_uids = [{own}]\n");
    let tokens = format!("token_file = \"{}\"\n", file.display());
    stage.restart_with(|text| without_cognito(text, &issuer, &tokens, &keys) + &service).await;

    let stored = stage.upload_and_wait("a.jpg", b"of the device").await.unwrap();
    assert!(stored.object.unwrap().key.starts_with("users/kiosk-7/a-"));
    let session = stage.sessions().await.get_session(v1::GetSessionRequest::default()).await.unwrap();
    let session = session.into_inner().session.unwrap();
    assert_eq!((session.kind(), session.subject.as_str()), (v1::SessionKind::Service, "device-7"));
    assert_eq!(session.groups, ["devices"]);

    // The file is read again for the next refresh; another user's token in it parks the session.
    let mut claims = issuer.claims("device-7");
    claims["groups"] = json!(["devices", "tested"]);
    secret_file(folder.path(), "token", &issuer.token(&claims));
    let request = v1::RefreshSessionRequest::default();
    let refreshed = stage.sessions().await.refresh_session(request.clone()).await.unwrap().into_inner();
    assert_eq!(refreshed.session.unwrap().groups, ["devices", "tested"]);
    let given = stage.credentials().await.get_tokens(v1::GetTokensRequest::default()).await.unwrap().into_inner();
    assert_eq!(given.id_token, std::fs::read_to_string(&file).unwrap());

    let mut sessions = stage.sessions().await;
    let error = sessions.sign_in(by_password("somebody", "canary-7")).await.unwrap_err();
    assert_eq!(reason(&error), "SIGN_IN_METHOD_UNSUPPORTED");
    let error = sessions.sign_in(by_id_token(&given.id_token)).await.unwrap_err();
    assert_eq!(reason(&error), "SIGN_IN_METHOD_UNSUPPORTED");
    assert!(error.message().contains("[[service_session]]"), "{}", error.message());

    secret_file(folder.path(), "token", &issuer.token(&issuer.claims("another-device")));
    let error = sessions.refresh_session(request).await.unwrap_err();
    assert_eq!(reason(&error), "IDENTITY_CHANGED");
}

#[tokio::test]
async fn an_app_hands_in_the_tokens_of_another_issuer() {
    let mut stage = Stage::start().await;
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::start().await;
    let keys = administrators_keys(&stage, folder.path());
    stage.restart_with(|text| without_cognito(text, &issuer, "", &keys)).await;
    let mut sessions = stage.sessions().await;
    let token = issuer.token(&issuer.claims("ada"));
    let session = session_of(sessions.sign_in(by_id_token(&token)).await.unwrap().into_inner());
    assert_eq!((session.kind(), session.subject.as_str()), (v1::SessionKind::User, "ada"));
    assert_eq!(session.identity_id, "kiosk-7");
    stage.upload_and_wait("a.jpg", b"of ada").await.unwrap();
    let again = session_of(sessions.sign_in(by_id_token(&token)).await.unwrap().into_inner());
    assert_eq!(again.name, session.name);

    let mut foreign = issuer.claims("ada");
    foreign["aud"] = json!("another-client");
    for (token, expected) in
        [(issuer.forged(&issuer.claims("ada")), "TOKEN_INVALID"), (issuer.token(&foreign), "TOKEN_WRONG_AUDIENCE")]
    {
        assert_eq!(reason(&sessions.sign_in(by_id_token(&token)).await.unwrap_err()), expected);
    }
    let mut accounts = stage.accounts().await;
    let request = v1::ForgotPasswordRequest { username: "ada".to_owned(), ..Default::default() };
    assert_eq!(reason(&accounts.forgot_password(request).await.unwrap_err()), "IDENTITY_HAS_NO_DIRECTORY");
}
