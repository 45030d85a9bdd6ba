//! The S3 store against the local cloud's S3: the same suite as every other store, and what only a network can do.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, checksum};
use tidegate::clock::Clock;
use tidegate::local_cloud::faults::{Effect, Rule};
use tidegate::store::s3::{Checksum, Config, open};
use tidegate::store::{Outcome, PartBody, Progress, Signer, StoreErrorKind as Kind, Target, conformance};

use crate::rehearsal::{Rehearsal, bytes};

fn config(rehearsal: &Rehearsal) -> Config {
    Config {
        bucket: rehearsal.bucket.clone(),
        region: "us-east-1".into(),
        endpoint_url: Some(rehearsal.cloud.url().to_owned()),
        path_style: true,
        expected_bucket_owner: Some(rehearsal.account.clone()),
        ..Config::default()
    }
}

fn administrator(rehearsal: &Rehearsal) -> Signer {
    let (key, secret) = rehearsal.cloud.administrator().expose();
    Signer { access_key_id: key.into(), secret_access_key: secret.to_owned().into(), session_token: None }
}

fn file(content: &[u8]) -> Arc<std::fs::File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

fn target(key: &str, content: &[u8]) -> Target {
    Target {
        key: key.to_owned(),
        content_type: "image/jpeg".into(),
        metadata: BTreeMap::new(),
        if_none_match: true,
        total_bytes: content.len() as u64,
        crc64nvme: Some(checksum(CrcAlgorithm::Crc64Nvme, content)),
    }
}

fn body(content: &[u8]) -> PartBody {
    PartBody {
        file: file(content),
        offset: 0,
        len: content.len() as u64,
        crc64nvme: checksum(CrcAlgorithm::Crc64Nvme, content),
        progress: Progress::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_passes_the_suite() {
    let rehearsal = Rehearsal::start().await;
    let store = open(config(&rehearsal), Clock::system()).unwrap();
    conformance::run(store, &administrator(&rehearsal), "suite/").await;
    // The profile for S3-likes that know neither CRC64NVME nor conditions.
    let plain = Config { checksum: Checksum::None, conditional_writes: false, ..config(&rehearsal) };
    conformance::run(open(plain, Clock::system()).unwrap(), &administrator(&rehearsal), "plain/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_whether_the_write_may_have_happened() {
    let rehearsal = Rehearsal::start().await;
    let store = open(config(&rehearsal), Clock::system()).unwrap();
    let signer = administrator(&rehearsal);
    let content = bytes(100_000);
    let error = |status, code: &str| Effect::Error { status, code: code.into(), message: None };
    let table = [
        (error(500, "InternalError"), Kind::Server, Outcome::Unknown, false),
        (error(503, "SlowDown"), Kind::Throttled, Outcome::Unknown, false),
        (error(403, "AccessDenied"), Kind::AccessDenied, Outcome::NotDone, false),
        (error(409, "ConditionalRequestConflict"), Kind::Conflict, Outcome::NotDone, false),
        (Effect::ExpiredCredentials, Kind::CredentialsExpired, Outcome::NotDone, false),
        (Effect::DropBefore, Kind::Interrupted, Outcome::Unknown, false),
        (Effect::DropAfter, Kind::Interrupted, Outcome::Unknown, true),
    ];
    for (number, (effect, kind, outcome, there)) in table.into_iter().enumerate() {
        rehearsal.cloud.faults().add(Rule::new("s3:PutObject", effect.clone()).next(1)).unwrap();
        let target = target(&format!("{number}.jpg"), &content);
        let failed = store.put(&signer, &target, &body(&content)).await.unwrap_err();
        assert_eq!((failed.kind, failed.outcome), (kind, outcome), "{effect:?}: {failed}");
        assert!(!failed.to_string().contains("tidegate-local-cloud-administrator"), "no secret: {failed}");
        rehearsal.cloud.faults().clear();
        let head = store.head(&signer, &target).await.unwrap();
        assert_eq!(head.is_some(), there, "{effect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_corrected_by_the_answer() {
    let rehearsal = Rehearsal::start().await;
    let clock = Clock::system();
    // As if the device's clock were a day slow: believed until an answer says otherwise.
    clock.observe_server_date(std::time::SystemTime::now() - Duration::from_secs(86_400));
    let store = open(config(&rehearsal), clock.clone()).unwrap();
    let (signer, content) = (administrator(&rehearsal), bytes(1_000));
    let target = target("clock.jpg", &content);
    let skewed = store.put(&signer, &target, &body(&content)).await.unwrap_err();
    assert_eq!((skewed.kind, skewed.outcome), (Kind::ClockSkew, Outcome::NotDone), "{skewed}");
    store.put(&signer, &target, &body(&content)).await.unwrap();
    assert_eq!(clock.offset_ms(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_offline_and_a_denied_key_is_denied() {
    let rehearsal = Rehearsal::start().await;
    let session = rehearsal.new_session("ana@example.com").await;
    let signer = Signer {
        access_key_id: session.credentials.access_key_id().into(),
        secret_access_key: session.credentials.secret_access_key().to_owned().into(),
        session_token: session.credentials.session_token().map(|token| token.to_owned().into()),
    };
    let store = open(config(&rehearsal), Clock::system()).unwrap();
    let content = bytes(1_000);
    let free = target(&format!("users/{}/free/a.jpg", session.identity_id), &content);
    store.put(&signer, &free, &body(&content)).await.unwrap();
    let premium = target(&format!("users/{}/premium/a.jpg", session.identity_id), &content);
    let denied = store.put(&signer, &premium, &body(&content)).await.unwrap_err();
    assert_eq!((denied.kind, denied.outcome), (Kind::AccessDenied, Outcome::NotDone), "{denied}");
    let unseen = store.head(&signer, &free).await.unwrap_err();
    assert_eq!(unseen.kind, Kind::AccessDenied, "the role may write and nothing else");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let nowhere = open(Config { endpoint_url: Some(gone), ..config(&rehearsal) }, Clock::system()).unwrap();
    let offline = nowhere.put(&signer, &free, &body(&content)).await.unwrap_err();
    assert_eq!((offline.kind, offline.outcome), (Kind::Offline, Outcome::NotDone), "{offline}");
}
