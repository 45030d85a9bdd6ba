//! What happens to a session over the real API: every change is streamed, and a new tier is there in seconds, whether the
//! role comes from the token or from the pool's rules.

use std::time::{Duration, Instant};

use tidegate::api::v1;
use tidegate::local_cloud::faults::{Effect, Rule};
use tidegate::local_cloud::{Options, TemplateSource};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use crate::fixture::{Stage, User, spec};

const PATIENCE: Duration = Duration::from_secs(30);
const TEMPLATE: &str = include_str!("../../deploy/aws/template.yaml");

/// The next state that is as it should be; every one before it was sent too.
async fn until(states: &mut Streaming<v1::WatchSessionResponse>, is_so: impl Fn(&v1::Session) -> bool) -> v1::Session {
    let found = async {
        loop {
            let session = states.next().await.expect("it does not end").unwrap().session.unwrap();
            if is_so(&session) {
                return session;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("it is streamed")
}

async fn add_to(stage: &Stage, user: &User, group: &str) {
    let pool = stage.cloud.outputs()["UserPoolId"].clone();
    let add = stage.users().admin_add_user_to_group().user_pool_id(pool).username(&user.username);
    add.group_name(group).send().await.unwrap();
}

async fn refresh(stage: &Stage) {
    let _ = stage.sessions().await.refresh_session(v1::RefreshSessionRequest::default()).await;
}

fn fast(text: &str) -> String {
    text.replace(
        "[session]",
        "[session]\ndenied_refresh_initial_ms = 100\nbackoff_initial_ms = 50\nbackoff_max_ms = 50",
    )
}

#[tokio::test]
async fn state_expiry_groups_and_errors_are_streamed_until_the_session_ends() {
    let stage = Stage::start_with(TemplateSource::BuiltIn, |text| fast(&text)).await;
    let user = stage.sign_up().await;
    let session = stage.sign_in(&user).await;
    let request = v1::WatchSessionRequest { name: session.name.clone() };
    let mut states = stage.sessions().await.watch_session(request).await.unwrap().into_inner();
    let now = until(&mut states, |_| true).await;
    assert_eq!((now.state(), &now.identity_id), (v1::SessionState::Active, &session.identity_id));
    assert_eq!(now.credentials_expire_time, session.credentials_expire_time);

    add_to(&stage, &user, "paid-tier").await;
    refresh(&stage).await;
    let tier = until(&mut states, |session| session.groups == ["paid-tier"]).await;
    assert_eq!(tier.identity_id, session.identity_id);

    // An expiry has whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    refresh(&stage).await;
    let later = |session: &v1::Session| {
        session.credentials_expire_time.map(|end| end.seconds) > now.credentials_expire_time.map(|end| end.seconds)
    };
    until(&mut states, later).await;

    let down = Effect::Error { status: 500, code: "InternalErrorException".to_owned(), message: None };
    stage.cloud.faults().add(Rule::new("GetTokensFromRefreshToken", down).next(1)).unwrap();
    refresh(&stage).await;
    let stale = until(&mut states, |session| session.state() == v1::SessionState::Stale).await;
    assert!(stale.last_error.contains("InternalErrorException"), "{}", stale.last_error);
    let well = until(&mut states, |session| session.state() == v1::SessionState::Active).await;
    assert_eq!(well.last_error, "");

    let out = v1::SignOutRequest { name: session.name.clone(), ..Default::default() };
    stage.sessions().await.sign_out(out).await.unwrap();
    let ended = async { while states.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the stream ends with the session");
}

/// A free user writes to premium/, is upgraded, and writes again.
async fn a_new_tier_counts_in_seconds(stage: &Stage) {
    let user = stage.sign_up().await;
    let session = stage.sign_in(&user).await;
    stage.upload_and_wait("free/a.jpg", b"free").await.unwrap();
    let denied = stage.upload_and_wait("premium/a.jpg", b"paid").await.unwrap();
    assert_eq!(denied.state(), v1::UploadState::Failed);
    assert_eq!(denied.failure.unwrap().reason, "ACCESS_DENIED");
    add_to(stage, &user, "paid-tier").await;
    let upgraded = Instant::now();
    let stored = stage.upload_and_wait("premium/b.jpg", b"paid").await.unwrap();
    assert_eq!(stored.state(), v1::UploadState::Succeeded, "{:?}", stored.failure);
    assert!(upgraded.elapsed() < Duration::from_secs(20), "in seconds, not within the hour: {:?}", upgraded.elapsed());
    assert!(stored.object.unwrap().key.starts_with(&format!("users/{}/premium/", session.identity_id)));
    let spec = v1::UploadSpec { session: session.name.clone(), ..spec("free/b.jpg") };
    let begin = crate::fixture::begin(tidegate::upload::Ulid::generate(), spec);
    let chunk = v1::upload_request::Message::Chunk(bytes::Bytes::from_static(b"free"));
    crate::fixture::send(&mut stage.uploads().await, [begin, chunk, crate::fixture::finish(4)]).await.unwrap();
}

#[tokio::test]
async fn a_role_from_the_token_follows_the_group() {
    let stage = Stage::start_with(TemplateSource::BuiltIn, |text| fast(&text)).await;
    a_new_tier_counts_in_seconds(&stage).await;
}

#[tokio::test]
async fn a_role_by_rule_follows_the_claim() {
    let (before, rest) = TEMPLATE.split_once("          Type: Token\n").unwrap();
    let behind = &rest[rest.find("  # ----").unwrap()..];
    let rules = "          Type: Rules\n          AmbiguousRoleResolution: Deny\n          RulesConfiguration:\n            \
                 Rules:\n              - Claim: cognito:groups\n                MatchType: Contains\n                \
                 Value: paid\n                RoleARN: !GetAtt PaidTierRole.Arn\n              - Claim: email\n                \
                 MatchType: Contains\n                Value: \"@example.com\"\n                \
                 RoleARN: !GetAtt FreeTierRole.Arn\n\n";
    let template = TemplateSource::Text(format!("{before}{rules}{behind}"));
    let stage = Stage::start_on(Options { template, ..Options::default() }, |text| fast(&text)).await;
    a_new_tier_counts_in_seconds(&stage).await;
}
