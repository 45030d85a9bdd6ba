//! Faults on demand: each does what it says, no more, and ends.

use std::time::{Duration, Instant};

use aws_sdk_cognitoidentity::operation::get_credentials_for_identity::GetCredentialsForIdentityError;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use tidegate::local_cloud::faults::{Effect, Plan, Rule};
use tidegate::local_cloud::{LocalCloud, LocalCloudError, Options, TemplateSource};

use crate::rehearsal::{Rehearsal, code};

async fn put(s3: &Client, bucket: &str, key: &str) -> Result<(), SdkError<PutObjectError>> {
    s3.put_object().bucket(bucket).key(key).body(ByteStream::from_static(b"photo")).send().await.map(drop)
}

fn error(status: u16, code: &str) -> Effect {
    Effect::Error { status, code: code.into(), message: None }
}

#[tokio::test]
async fn errors_come_as_often_as_asked_and_change_nothing() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    rehearsal.cloud.faults().add(Rule::new("s3:PutObject", error(503, "SlowDown")).next(2)).unwrap();
    for _ in 0..2 {
        let refused = put(&s3, bucket, "k").await.unwrap_err();
        assert_eq!((refused.raw_response().unwrap().status().as_u16(), code(&refused)), (503, "SlowDown".into()));
    }
    assert!(rehearsal.keys().await.is_empty());
    put(&s3, bucket, "k").await.unwrap();

    let session = rehearsal.new_session("ana@example.com").await;
    let throttled = error(400, "TooManyRequestsException");
    rehearsal.cloud.faults().add(Rule::new("GetCredentialsForIdentity", throttled).next(1)).unwrap();
    let refused = rehearsal
        .identities()
        .get_credentials_for_identity()
        .identity_id(&session.identity_id)
        .logins(rehearsal.provider_name(), &session.id_token)
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    assert!(matches!(refused, GetCredentialsForIdentityError::TooManyRequestsException(_)), "{refused:?}");
    rehearsal.session(&session.id_token).await;
}

#[tokio::test]
async fn a_dropped_request_was_not_applied_and_a_dropped_reply_was() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    rehearsal.cloud.faults().add(Rule::new("s3:PutObject", Effect::DropBefore).next(1)).unwrap();
    let dropped = put(&s3, bucket, "before").await.unwrap_err();
    assert!(matches!(dropped, SdkError::DispatchFailure(_)), "{dropped:?}");
    assert!(rehearsal.keys().await.is_empty());
    rehearsal.cloud.faults().add(Rule::new("s3:PutObject", Effect::DropAfter).next(1)).unwrap();
    let dropped = put(&s3, bucket, "after").await.unwrap_err();
    assert!(matches!(dropped, SdkError::DispatchFailure(_)), "{dropped:?}");
    assert_eq!(rehearsal.keys().await, ["after"]);
    let cut = rehearsal.cloud.requests(0).into_iter().filter(|record| record.status.is_none()).count();
    assert_eq!(cut, 2);
}

#[tokio::test]
async fn offline_cuts_everything_but_the_clouds_own_pages() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    let page = format!("{}/_tidegate/faults", rehearsal.cloud.url());
    let http = reqwest::Client::new();
    let set = async |plan: &Plan| {
        let sent = http.put(&page).body(serde_json::to_vec(plan).unwrap()).send().await.unwrap();
        assert_eq!(sent.status(), 200);
    };
    set(&Plan { offline: true, ..Plan::default() }).await;
    assert!(matches!(put(&s3, bucket, "k").await.unwrap_err(), SdkError::DispatchFailure(_)));
    let users = rehearsal.users(None);
    let refused = users.get_user().access_token("t").send().await.unwrap_err();
    assert!(matches!(refused, SdkError::DispatchFailure(_)), "{refused:?}");
    set(&Plan::default()).await;
    put(&s3, bucket, "k").await.unwrap();
    let wrong = http.put(&page).body("{\"rulez\":[]}").send().await.unwrap();
    assert_eq!(wrong.status(), 400);
    let foreign = http.get(&page).header("origin", "https://example.com").send().await.unwrap();
    assert_eq!(foreign.status(), 403);
}

#[tokio::test]
async fn latency_delays_and_expiry_is_told() {
    let rehearsal = Rehearsal::start().await;
    let session = rehearsal.new_session("ana@example.com").await;
    let (s3, bucket) = (rehearsal.s3(session.credentials.clone()), rehearsal.bucket.as_str());
    let key = format!("users/{}/free/x", session.identity_id);
    let slow = Rule::new("s3:*", Effect::Delay).latency(Duration::from_millis(300)).next(1);
    rehearsal.cloud.faults().add(slow).unwrap();
    let began = Instant::now();
    put(&s3, bucket, &key).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));
    rehearsal.cloud.faults().add(Rule::new("s3:PutObject", Effect::ExpiredCredentials).next(1)).unwrap();
    assert_eq!(code(&put(&s3, bucket, &key).await.unwrap_err()), "ExpiredToken");
    put(&s3, bucket, &key).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_wrong_shows_in_dates_and_refuses_signatures() {
    let rehearsal = Rehearsal::start().await;
    let (s3, bucket) = (rehearsal.admin_s3(), rehearsal.bucket.as_str());
    rehearsal.cloud.faults().set_clock_skew_ms(3_600_000);
    let refused = put(&s3, bucket, "k").await.unwrap_err();
    assert_eq!(
        (refused.raw_response().unwrap().status().as_u16(), code(&refused)),
        (403, "RequestTimeTooSkewed".into())
    );
    // The SDK takes the time from the refusal and signs by it from now on.
    put(&s3, bucket, "k").await.unwrap();
    let health = reqwest::get(format!("{}/_tidegate/health", rehearsal.cloud.url())).await.unwrap();
    let date = health.headers()["date"].to_str().unwrap();
    let date = aws_smithy_types::DateTime::from_str(date, aws_smithy_types::date_time::Format::HttpDate).unwrap();
    let now = aws_smithy_types::DateTime::from(std::time::SystemTime::now());
    assert!((date.secs() - now.secs() - 3_600).abs() <= 5, "{date} {now}");
    rehearsal.cloud.faults().clear();
    put(&rehearsal.admin_s3(), bucket, "k").await.unwrap();
}

#[tokio::test]
async fn the_clouds_pages_tell_what_happened() {
    let rehearsal = Rehearsal::start().await;
    rehearsal.sign_up("ana@example.com").await;
    let read = async |page: &str| -> serde_json::Value {
        let url = format!("{}/_tidegate/{page}", rehearsal.cloud.url());
        let reply = reqwest::get(url).await.unwrap();
        serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap()
    };
    assert_eq!(read("health").await["status"], "ok");
    let messages = read("outbox?to=ana%40example.com").await;
    assert_eq!(messages["messages"][0]["code"], rehearsal.code_for("ana@example.com"));
    assert_eq!(read("outbox?to=ben%40example.com").await["messages"].as_array().unwrap().len(), 0);
    assert_eq!(read("counters").await["cognito-idp:SignUp"], 1);
    assert_eq!(read("requests?operation=cognito-idp:SignUp").await["requests"][0]["status"], 200);
    assert_eq!(read("outputs").await, serde_json::json!(rehearsal.cloud.outputs()));
    let text = tidegate::local_cloud::welcome::message(&rehearsal.cloud);
    for part in [rehearsal.cloud.url(), &rehearsal.pool_id, &rehearsal.client_id, &rehearsal.bucket, "AWS_ENDPOINT_URL"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[tokio::test]
async fn starts_that_cannot_be_say_why() {
    let everywhere = Options { listen: ([0, 0, 0, 0], 0).into(), ..Options::default() };
    assert!(matches!(LocalCloud::start(everywhere).await, Err(LocalCloudError::NotLoopback(_))));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options { listen: taken.local_addr().unwrap(), ..Options::default() };
    let error = LocalCloud::start(options).await.unwrap_err();
    assert!(matches!(error, LocalCloudError::Listen { .. }), "{error}");
    let listen = ([127, 0, 0, 1], 0).into();
    let template = TemplateSource::Text("Resources: [".into());
    let error = LocalCloud::start(Options { listen, template, ..Options::default() }).await.unwrap_err();
    assert!(matches!(error, LocalCloudError::Template(_)), "{error}");
    let template = TemplateSource::File("/no/such/template.yaml".into());
    let error = LocalCloud::start(Options { listen, template, ..Options::default() }).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/template.yaml"), "{error}");
}
