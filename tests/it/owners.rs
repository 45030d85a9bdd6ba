//! Two people, one device, one uid: whose keys sign what, as the other side sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tidegate::api::v1::upload_request::Message;
use tidegate::api::v1::{self, SignOutUploads, UploadState, WaitReason};
use tidegate::local_cloud::TemplateSource;
use tidegate::upload::Ulid;
use tokio_stream::StreamExt as _;

use crate::fixture::{Stage, begin, finish, send, spec};

const PATIENCE: Duration = Duration::from_secs(60);
/// Two parts; anything up to 8 MiB is one PutObject.
const LARGE: usize = 9 << 20;

/// A small and a large photo of a session, accepted.
async fn two_photos(stage: &Stage, session: &v1::Session) -> Vec<String> {
    let mut names = Vec::new();
    for len in [1_000, LARGE] {
        let spec = v1::UploadSpec { session: session.name.clone(), ..spec("free/photo.jpg") };
        let mut messages = vec![begin(Ulid::generate(), spec)];
        let content = vec![7; len];
        messages.extend(content.chunks(1 << 18).map(|chunk| Message::Chunk(Bytes::copy_from_slice(chunk))));
        messages.push(finish(i64::try_from(len).unwrap()));
        names.push(send(&mut stage.uploads().await, messages).await.unwrap().name);
    }
    names
}

async fn until(stage: &Stage, name: &str, is_so: impl Fn(&v1::Upload) -> bool) {
    let request = v1::WatchUploadRequest { name: name.to_owned() };
    let mut states = stage.uploads().await.watch_upload(request).await.unwrap().into_inner();
    let found = async {
        while let Some(next) = states.next().await {
            let upload = next.unwrap().upload.unwrap();
            if is_so(&upload) {
                return;
            }
            assert_ne!(upload.state(), UploadState::Failed, "{upload:?}");
        }
        panic!("{name} ended otherwise");
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{name} waits for ever"));
}

async fn all_stored(stage: &Stage, names: &[String]) {
    for name in names {
        until(stage, name, |upload| upload.state() == UploadState::Succeeded).await;
    }
}

async fn sign_out(stage: &Stage, session: &v1::Session, uploads: SignOutUploads) -> i64 {
    let request = v1::SignOutRequest { name: session.name.clone(), uploads: uploads.into(), ..Default::default() };
    stage.sessions().await.sign_out(request).await.unwrap().into_inner().unfinished_upload_count
}

async fn pause(stage: &Stage) {
    stage.gateway().await.pause(v1::PauseRequest {}).await.unwrap();
}

async fn resume(stage: &Stage) {
    stage.gateway().await.resume(v1::ResumeRequest {}).await.unwrap();
}

/// Every request about an object was signed with keys of the identity id in its key, and went well.
fn each_signed_their_own(stage: &Stage, people: &[&v1::Session]) {
    let administrator = &stage.cloud.administrator().access_key_id;
    let mut signers = BTreeSet::new();
    for request in stage.cloud.requests(0) {
        let key_id = request.access_key_id.clone().unwrap_or_default();
        if !request.operation.starts_with("s3:") || key_id == *administrator {
            continue;
        }
        let owner = request.key.strip_prefix("users/").and_then(|rest| rest.split('/').next());
        assert_eq!(request.identity_id.as_deref(), owner, "{request:?}");
        assert_eq!(request.status, Some(200), "{request:?}");
        signers.insert(request.identity_id.unwrap_or_default());
    }
    assert_eq!(signers, people.iter().map(|session| session.identity_id.clone()).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_wait_while_another_signs_in_are_signed_by_their_own_user() {
    for uploads in [SignOutUploads::Drain, SignOutUploads::Park] {
        // Nobody may ask for parts or objects with these roles: what is asked all the same would be a 403.
        let mut stage = Stage::start_with(TemplateSource::BuiltIn, |text| text).await;
        let (ada, bea) = (stage.sign_up().await, stage.sign_up().await);
        let ada_session = stage.sign_in(&ada).await;
        pause(&stage).await;
        let adas = two_photos(&stage, &ada_session).await;
        for name in &adas {
            until(&stage, name, |upload| upload.wait_reason() == WaitReason::Paused).await;
        }
        assert_eq!(sign_out(&stage, &ada_session, uploads).await, 2);
        let bea_session = stage.sign_in(&bea).await;
        assert_ne!(ada_session.identity_id, bea_session.identity_id);
        let beas = two_photos(&stage, &bea_session).await;
        // Also over a restart, after which nothing is paused.
        stage.stop_daemon().await;
        stage.start_daemon().await.unwrap();
        resume(&stage).await;
        all_stored(&stage, &beas).await;
        if uploads == SignOutUploads::Park {
            for name in &adas {
                until(&stage, name, |upload| upload.wait_reason() == WaitReason::SignIn).await;
            }
            each_signed_their_own(&stage, &[&bea_session]);
            stage.sign_in(&ada).await;
        }
        all_stored(&stage, &adas).await;
        each_signed_their_own(&stage, &[&ada_session, &bea_session]);
        assert_eq!(stage.stored_keys().await.len(), 4);
    }
}
