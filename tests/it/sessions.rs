//! Sessions and accounts over the AWS plug-ins against the local cloud: real tokens, real signatures, counted calls.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_cognitoidentityprovider::config::{BehaviorVersion, Credentials as AdminCredentials, Region};
use aws_sdk_cognitoidentityprovider::types::AuthFlowType;
use secrecy::{ExposeSecret as _, SecretString};
use tidegate::account::cognito::CognitoDirectory;
use tidegate::account::{AccountError, UserDirectory as _};
use tidegate::caller::Caller;
use tidegate::clock::Clock;
use tidegate::credential::basic::BasicFlow;
use tidegate::credential::cognito::EnhancedFlow;
use tidegate::credential::web_identity::WebIdentity;
use tidegate::credential::{CredentialErrorKind, CredentialSource as _, Login, SourceConfig};
use tidegate::local_cloud::faults::{Effect, Rule};
use tidegate::local_cloud::{LocalCloud, Options};
use tidegate::session::cognito_tokens::CognitoTokens;
use tidegate::session::{
    Config, Identity, RefreshGrant, SessionError, SessionState, Sessions, SignInMethod, SignOutUploads, TokenError,
    TokenSource as _, TokensConfig,
};
use tokio_util::sync::CancellationToken;

const ADA: Caller = Caller { uid: 1_000, gid: 1_000, is_admin: false };
const BOB: Caller = Caller { uid: 1_001, gid: 1_001, is_admin: false };
const EMAIL: &str = "ada@example.com";
const PASSWORD: &str = "Correct-horse-7";
const TIMEOUT: Duration = Duration::from_secs(5);

struct Stage {
    cloud: LocalCloud,
    admin: aws_sdk_cognitoidentityprovider::Client,
    directory: CognitoDirectory,
    dir: tempfile::TempDir,
    sessions: Sessions,
}

impl Stage {
    async fn new() -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let cloud = LocalCloud::start(Options { listen, ..Options::default() }).await.unwrap();
        let keys = cloud.administrator();
        let secret = keys.secret_access_key.expose_secret();
        let config = aws_sdk_cognitoidentityprovider::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(output(&cloud, "Region")))
            .endpoint_url(cloud.url())
            .credentials_provider(AdminCredentials::new(&keys.access_key_id, secret, None, None, "test"))
            .build();
        let dir = tempfile::tempdir().unwrap();
        let (region, client) = (output(&cloud, "Region"), output(&cloud, "UserPoolClientId"));
        let clock = Clock::system();
        let directory = CognitoDirectory::new(&region, &client, Some(cloud.url()), TIMEOUT, TIMEOUT, clock).unwrap();
        let sessions = start(&cloud, dir.path()).await;
        Self { admin: aws_sdk_cognitoidentityprovider::Client::from_conf(config), cloud, directory, dir, sessions }
    }

    /// A stage with one confirmed free user.
    async fn with_ada() -> Self {
        let stage = Self::new().await;
        stage.directory.sign_up(EMAIL, &PASSWORD.into(), &attributes()).await.unwrap();
        stage.directory.confirm_sign_up(EMAIL, &stage.code()).await.unwrap();
        stage.add_to_group("free-tier").await;
        stage
    }

    async fn restart(&mut self) {
        self.sessions.shutdown().await;
        self.sessions = start(&self.cloud, self.dir.path()).await;
    }

    async fn sign_in(&self, caller: &Caller, password: &str) -> Result<tidegate::session::SessionView, SessionError> {
        let method = SignInMethod::Password { username: EMAIL.to_owned(), password: password.into() };
        Ok(self.sessions.sign_in(caller, None, method).await?.session().unwrap())
    }

    async fn add_to_group(&self, group: &str) {
        let call = self.admin.admin_add_user_to_group().user_pool_id(output(&self.cloud, "UserPoolId"));
        call.username(EMAIL).group_name(group).send().await.unwrap();
    }

    /// The latest code that was mailed.
    fn code(&self) -> SecretString {
        self.cloud.outbox().last().unwrap().code.clone().into()
    }

    fn calls(&self, operation: &str) -> u64 {
        self.cloud.counters().of(operation)
    }

    /// Waits for a call that is made in the background.
    async fn called(&self, operation: &str) {
        let seen = async {
            while self.calls(operation) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap_or_else(|_| panic!("no {operation}"));
    }

    /// Tokens as an app gets them by itself: ID, access, refresh.
    async fn tokens(&self) -> (String, String, String) {
        let call = self.admin.initiate_auth().client_id(output(&self.cloud, "UserPoolClientId"));
        let call = call.auth_flow(AuthFlowType::UserPasswordAuth);
        let call = call.auth_parameters("USERNAME", EMAIL).auth_parameters("PASSWORD", PASSWORD);
        let given = call.send().await.unwrap().authentication_result.unwrap();
        (given.id_token.unwrap(), given.access_token.unwrap(), given.refresh_token.unwrap())
    }
}

fn output(cloud: &LocalCloud, name: &str) -> String {
    cloud.outputs()[name].clone()
}

fn attributes() -> BTreeMap<String, String> {
    [("email".to_owned(), EMAIL.to_owned())].into()
}

fn tokens_config(cloud: &LocalCloud) -> TokensConfig {
    TokensConfig {
        region: output(cloud, "Region"),
        user_pool_id: output(cloud, "UserPoolId"),
        client_id: output(cloud, "UserPoolClientId"),
        endpoint_url: Some(cloud.url().to_owned()),
        ..TokensConfig::default()
    }
}

fn source_config(cloud: &LocalCloud) -> SourceConfig {
    SourceConfig {
        region: output(cloud, "Region"),
        identity_pool_id: Some(output(cloud, "IdentityPoolId")),
        endpoint_url: Some(cloud.url().to_owned()),
        role_arn: Some(output(cloud, "PaidTierRoleArn")),
        ..SourceConfig::default()
    }
}

async fn start(cloud: &LocalCloud, dir: &Path) -> Sessions {
    let clock = Clock::system();
    let identity = Identity {
        name: "app".to_owned(),
        tiered: true,
        tokens: Arc::new(CognitoTokens::new(&tokens_config(cloud), TIMEOUT, TIMEOUT, clock.clone()).unwrap()),
        credentials: Arc::new(EnhancedFlow::new(&source_config(cloud), TIMEOUT, TIMEOUT, clock.clone()).unwrap()),
        federation: None,
        allow_client_role_choice: false,
        guests: false,
    };
    let config = Config {
        seal_key_file: dir.join("seal.key"),
        backoff_initial_ms: 100,
        backoff_max_ms: 100,
        backoff_urgent_max_ms: 100,
        ..Config::default()
    };
    Sessions::start(config, vec![identity], &dir.join("state"), clock, CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn an_account_is_made_confirmed_and_signed_in() {
    let stage = Stage::new().await;
    let directory = &stage.directory;
    let weak = directory.sign_up(EMAIL, &"short".into(), &attributes()).await.unwrap_err();
    assert!(matches!(weak, AccountError::InvalidPassword(_)), "{weak:?}");
    let signed_up = directory.sign_up(EMAIL, &PASSWORD.into(), &attributes()).await.unwrap();
    assert!(!signed_up.confirmed);
    assert_eq!(signed_up.delivery.unwrap().medium, "EMAIL");
    let early = stage.sign_in(&ADA, PASSWORD).await.unwrap_err();
    assert!(matches!(early, SessionError::Token(TokenError::UserNotConfirmed(_))), "{early:?}");
    let wrong = directory.confirm_sign_up(EMAIL, &"000000x".into()).await.unwrap_err();
    assert!(matches!(wrong, AccountError::CodeMismatch(_)), "{wrong:?}");
    assert!(directory.resend_confirmation_code(EMAIL).await.unwrap().is_some());
    directory.confirm_sign_up(EMAIL, &stage.code()).await.unwrap();
    let again = directory.sign_up(EMAIL, &PASSWORD.into(), &attributes()).await.unwrap_err();
    assert!(matches!(again, AccountError::UserExists(_)), "{again:?}");
    stage.add_to_group("free-tier").await;

    let wrong = stage.sign_in(&ADA, "Wrong-horse-7").await.unwrap_err();
    assert!(matches!(wrong, SessionError::Token(TokenError::BadCredentials(_))), "{wrong:?}");
    let session = stage.sign_in(&ADA, PASSWORD).await.unwrap();
    assert_eq!((session.state, session.subject.as_str()), (SessionState::Active, signed_up.subject.as_str()));
    assert_eq!((session.groups.as_slice(), session.username.as_str()), (["free-tier".to_owned()].as_slice(), EMAIL));
    let served = stage.sessions.credentials(&ADA, None).await.unwrap();
    assert_eq!(Some(&served.identity_id), session.identity_id.as_ref());
    assert!(served.credentials.access_key_id.starts_with("ASIA") && !served.stale);

    directory.forgot_password(EMAIL).await.unwrap().unwrap();
    directory.confirm_forgot_password(EMAIL, &stage.code(), &"Another-horse-8".into()).await.unwrap();
    let old = stage.sign_in(&ADA, PASSWORD).await.unwrap_err();
    assert!(matches!(old, SessionError::Token(TokenError::BadCredentials(_))), "{old:?}");
    let again = stage.sign_in(&ADA, "Another-horse-8").await.unwrap();
    assert_eq!((again.id, again.identity_id), (session.id, session.identity_id));
    let other_uid = stage.sign_in(&BOB, "Another-horse-8").await.unwrap();
    assert_eq!(other_uid.identity_id, again_identity(&stage), "the same user has the same prefix on every uid");
}

fn again_identity(stage: &Stage) -> Option<String> {
    stage.sessions.get(&ADA, None).unwrap().identity_id
}

#[tokio::test]
async fn a_thousand_callers_of_a_cold_session_make_one_call() {
    let mut stage = Stage::with_ada().await;
    stage.sign_in(&ADA, PASSWORD).await.unwrap();
    stage.restart().await;
    stage.cloud.counters().reset();
    let callers: Vec<_> = (0..1_000)
        .map(|_| {
            let sessions = stage.sessions.clone();
            tokio::spawn(
                async move { sessions.credentials(&ADA, None).await.unwrap().credentials.access_key_id.clone() },
            )
        })
        .collect();
    let mut keys = std::collections::BTreeSet::new();
    for caller in callers {
        keys.insert(caller.await.unwrap());
    }
    assert_eq!(keys.len(), 1);
    assert_eq!(stage.calls("cognito-identity:GetCredentialsForIdentity"), 1);
    assert_eq!(stage.calls("cognito-identity:GetId"), 0, "the identity id was kept");
    println!("1,000 cold callers, upstream calls: {:?}", stage.cloud.counters().call_counts());
}

#[tokio::test]
async fn a_new_tier_is_there_after_a_refresh_and_after_a_denial() {
    let stage = Stage::with_ada().await;
    let session = stage.sign_in(&ADA, PASSWORD).await.unwrap();
    let identity_id = session.identity_id.unwrap();
    let free = stage.sessions.credentials(&ADA, None).await.unwrap().credentials.access_key_id.clone();
    stage.add_to_group("paid-tier").await;
    assert!(stage.sessions.refresh_after_denied(ADA.uid, "app", &identity_id, &free).await.unwrap());
    let view = stage.sessions.get(&ADA, None).unwrap();
    assert!(view.groups.contains(&"paid-tier".to_owned()), "{:?}", view.groups);
    let paid = stage.sessions.credentials_for_upload(ADA.uid, "app", &identity_id).await.unwrap();
    assert_ne!(paid.credentials.access_key_id, free);
    let again = stage.sessions.refresh(&ADA, None).await.unwrap();
    assert_eq!(again.identity_id, Some(identity_id), "the identity id never changes");
}

#[tokio::test]
async fn signing_out_everywhere_ends_the_tokens_at_the_pool() {
    let stage = Stage::with_ada().await;
    let (_, _, elsewhere) = stage.tokens().await;
    let session = stage.sign_in(&ADA, PASSWORD).await.unwrap();
    stage.sessions.sign_out(&ADA, Some(&session.id), SignOutUploads::Park, true).await.unwrap();
    assert!(matches!(stage.sessions.credentials(&ADA, None).await, Err(SessionError::NoSession)));
    stage.called("cognito-idp:RevokeToken").await;
    assert_eq!(stage.calls("cognito-idp:GlobalSignOut"), 1);
    let tokens = CognitoTokens::new(&tokens_config(&stage.cloud), TIMEOUT, TIMEOUT, Clock::system()).unwrap();
    let grant = RefreshGrant { refresh_token: Some(elsewhere.into()), device: None };
    let error = tokens.refresh(&grant).await.unwrap_err();
    assert!(matches!(error, TokenError::NotAuthorized(_)), "{error:?}");
}

#[tokio::test]
async fn handed_in_tokens_are_verified() {
    let stage = Stage::with_ada().await;
    let (id, access, refresh) = stage.tokens().await;
    let sign_in = |id: &str, access: Option<&str>, refresh: Option<&str>| {
        let method = SignInMethod::Tokens {
            id_token: id.into(),
            access_token: access.map(Into::into),
            refresh_token: refresh.map(Into::into),
        };
        stage.sessions.sign_in(&ADA, None, method)
    };
    let (body, signature) = id.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    for forged in [format!("{body}.{other}{}", &signature[1..]), access.clone(), "rubbish".to_owned()] {
        let error = sign_in(&forged, None, None).await.unwrap_err();
        assert!(matches!(error, SessionError::Token(TokenError::TokenInvalid(_))), "{error:?}");
    }
    assert_eq!(stage.sessions.count(None), 0);
    let session = sign_in(&id, Some(&access), Some(&refresh)).await.unwrap().session().unwrap();
    assert_eq!(session.state, SessionState::Active);
    stage.sessions.refresh(&ADA, None).await.unwrap();
    let tokens = stage.sessions.tokens(&ADA, None).await.unwrap();
    assert_ne!(tokens.id_token.expose_secret(), id);

    let mut config = tokens_config(&stage.cloud);
    config.issuer = Some(config.issuer());
    config.jwks_url = Some(config.jwks_url());
    config.client_id = "anotherclient00000000000000".to_owned();
    let other_client = CognitoTokens::new(&config, TIMEOUT, TIMEOUT, Clock::system()).unwrap();
    let error = other_client.verify(id.into(), None, None).await.unwrap_err();
    assert!(matches!(error, TokenError::TokenWrongAudience(_)), "{error:?}");
}

#[tokio::test]
async fn being_offline_signs_nobody_out() {
    let mut stage = Stage::with_ada().await;
    let before = stage.sign_in(&ADA, PASSWORD).await.unwrap();
    let served = stage.sessions.credentials(&ADA, None).await.unwrap();
    stage.cloud.faults().set_offline(true);
    let error = stage.sessions.refresh(&ADA, None).await.unwrap_err();
    assert!(matches!(error, SessionError::Unavailable { .. }), "{error:?}");
    let stale = stage.sessions.credentials(&ADA, None).await.unwrap();
    assert!(stale.stale && stale.credentials.access_key_id == served.credentials.access_key_id);

    stage.restart().await;
    let view = stage.sessions.get(&ADA, None).unwrap();
    assert_eq!((&view.id, &view.identity_id), (&before.id, &before.identity_id));
    let cold = stage.sessions.credentials(&ADA, None).await.unwrap_err();
    assert!(matches!(cold, SessionError::Unavailable { .. }), "{cold:?}");
    stage.cloud.faults().set_offline(false);
    let back = async {
        while stage.sessions.credentials(&ADA, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("recovers within one back-off");
    assert_eq!(stage.calls("cognito-idp:InitiateAuth"), 1, "one sign-in in all");
}

#[tokio::test]
async fn faults_of_aws_are_told_apart() {
    let stage = Stage::with_ada().await;
    stage.sign_in(&ADA, PASSWORD).await.unwrap();
    let fail = |operation: &str, status, code: &str| {
        let effect = Effect::Error { status, code: code.to_owned(), message: None };
        stage.cloud.faults().add(Rule::new(operation, effect).next(1)).unwrap();
    };
    fail("GetTokensFromRefreshToken", 400, "TooManyRequestsException");
    let error = stage.sessions.refresh(&ADA, None).await.unwrap_err();
    assert!(matches!(error, SessionError::Unavailable { .. }), "{error:?}");
    assert_eq!(stage.sessions.get(&ADA, None).unwrap().state, SessionState::Stale);

    let stage = Stage::with_ada().await;
    stage.sign_in(&ADA, PASSWORD).await.unwrap();
    let fail = |operation: &str, status, code: &str| {
        let effect = Effect::Error { status, code: code.to_owned(), message: None };
        stage.cloud.faults().add(Rule::new(operation, effect).next(1)).unwrap();
    };
    fail("GetTokensFromRefreshToken", 400, "NotAuthorizedException");
    let error = stage.sessions.refresh(&ADA, None).await.unwrap_err();
    assert!(matches!(error, SessionError::NeedsSignIn(_)), "{error:?}");
    stage.sessions.credentials(&ADA, None).await.expect("what is valid is served");

    stage.sign_in(&ADA, PASSWORD).await.unwrap();
    fail("GetCredentialsForIdentity", 400, "InvalidIdentityPoolConfigurationException");
    let error = stage.sessions.refresh(&ADA, None).await.unwrap_err();
    assert!(matches!(error, SessionError::Configuration(_)), "{error:?}");
}

#[tokio::test]
async fn an_endpoint_without_the_newer_call_refreshes_by_the_older_one() {
    let stage = Stage::with_ada().await;
    stage.sign_in(&ADA, PASSWORD).await.unwrap();
    let unknown = Effect::Error { status: 400, code: "UnknownOperationException".to_owned(), message: None };
    stage.cloud.faults().add(Rule::new("GetTokensFromRefreshToken", unknown)).unwrap();
    stage.cloud.counters().reset();
    stage.sessions.refresh(&ADA, None).await.unwrap();
    assert_eq!(stage.calls("cognito-idp:InitiateAuth"), 1);
}

#[tokio::test]
async fn a_tiered_pool_gives_nothing_to_flows_where_the_client_names_the_role() {
    let stage = Stage::with_ada().await;
    let (id, _, _) = stage.tokens().await;
    let provider = tokens_config(&stage.cloud).provider();
    let login = Login { provider, subject: "x".to_owned(), id_token: id.into() };
    let basic = BasicFlow::new(&source_config(&stage.cloud), TIMEOUT, TIMEOUT, Clock::system()).unwrap();
    let identity_id = basic.identity_id(Some(&login)).await.unwrap();
    let error = basic.credentials(&identity_id, Some(&login)).await.unwrap_err();
    assert_eq!(error.kind, CredentialErrorKind::Configuration, "{error}");
    let direct = WebIdentity::new(&source_config(&stage.cloud), TIMEOUT, TIMEOUT, Clock::system()).unwrap();
    let error = direct.credentials("x", Some(&login)).await.unwrap_err();
    assert_eq!(error.kind, CredentialErrorKind::NotAuthorized, "{error}");
    assert!(basic.client_names_role() && direct.client_names_role());
}

#[tokio::test]
async fn where_the_pool_refuses_to_sign_out_everywhere_this_sign_in_ends_all_the_same() {
    let stage = Stage::with_ada().await;
    let session = stage.sign_in(&ADA, PASSWORD).await.unwrap();
    // As for an access token without the scope aws.cognito.signin.user.admin.
    let effect = Effect::Error { status: 400, code: "NotAuthorizedException".to_owned(), message: None };
    stage.cloud.faults().add(Rule::new("GlobalSignOut", effect)).unwrap();
    stage.sessions.sign_out(&ADA, Some(&session.id), SignOutUploads::Park, true).await.unwrap();
    stage.called("cognito-idp:RevokeToken").await;
}
