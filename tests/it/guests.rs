//! Guests over the real API: their uploads, and how they become a user, against the local cloud's identity pool.

use std::time::Duration;

use tidegate::api::v1;
use tidegate::api::v1::upload_service_client::UploadServiceClient;
use tidegate::local_cloud::faults::{Effect, Rule};
use tidegate::local_cloud::{Options, TemplateSource};
use tokio_stream::StreamExt as _;
use tonic::Status;

use crate::fixture::{Stage, by_guest, channel, reason, send, spec};

const PATIENCE: Duration = Duration::from_secs(30);

fn with_guests(text: &str) -> String {
    text.replace("tiered = true", "tiered = true\nguests = true")
}

async fn stage() -> Stage {
    Stage::start_with(TemplateSource::BuiltIn, |text| with_guests(&text)).await
}

async fn get(stage: &Stage, session: &v1::Session) -> Result<v1::Session, Status> {
    let request = v1::GetSessionRequest { name: session.name.clone() };
    Ok(stage.sessions().await.get_session(request).await?.into_inner().session.unwrap())
}

fn key_of(upload: &v1::Upload) -> String {
    upload.object.as_ref().unwrap().key.clone()
}

/// Uploads for one session, named.
async fn upload(stage: &Stage, session: &v1::Session, key: &str) -> v1::Upload {
    let spec = v1::UploadSpec { session: session.name.clone(), ..spec(key) };
    let begin = v1::upload_request::Message::Begin(v1::UploadBegin {
        upload_id: tidegate::upload::Ulid::generate().to_string(),
        spec: Some(spec),
    });
    let chunk = v1::upload_request::Message::Chunk(bytes::Bytes::from_static(b"photo"));
    send(&mut stage.uploads().await, [begin, chunk, crate::fixture::finish(5)]).await.unwrap()
}

async fn wait_until_stored(stage: &Stage, upload: &v1::Upload) {
    let request = v1::WatchUploadRequest { name: upload.name.clone() };
    let mut states = stage.uploads().await.watch_upload(request).await.unwrap().into_inner();
    let stored = async {
        while let Some(next) = states.next().await {
            let now = next.unwrap().upload.unwrap();
            if now.state() == v1::UploadState::Succeeded {
                return;
            }
            assert_ne!(now.state(), v1::UploadState::Failed, "{now:?}");
        }
        panic!("the stream ended before the upload did");
    };
    tokio::time::timeout(PATIENCE, stored).await.expect("it is stored");
}

async fn until_gone(stage: &Stage, session: &v1::Session) {
    let request = v1::WatchSessionRequest { name: session.name.clone() };
    let watched = stage.sessions().await.watch_session(request).await;
    let Ok(mut states) = watched.map(tonic::Response::into_inner) else { return };
    let ended = async { while let Some(Ok(_)) = states.next().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the session ends");
}

#[tokio::test]
async fn a_guest_uploads_and_the_new_user_keeps_the_prefix() {
    let mut stage = stage().await;
    let user = stage.sign_up().await;
    let guest = stage.sign_in_as_guest().await.unwrap();
    assert_eq!((guest.kind(), guest.state()), (v1::SessionKind::Guest, v1::SessionState::Active));
    assert!(guest.subject.is_empty() && guest.username.is_empty() && guest.groups.is_empty());
    let first = stage.upload_and_wait("free/guest.jpg", b"of nobody").await.unwrap();
    assert!(key_of(&first).starts_with(&format!("users/{}/free/guest-", guest.identity_id)));
    let tokens = v1::GetTokensRequest { session: guest.name.clone(), ..Default::default() };
    let error = stage.credentials().await.get_tokens(tokens).await.unwrap_err();
    assert_eq!(reason(&error), "GUEST_HAS_NO_TOKENS");

    stage.stop_daemon().await;
    stage.start_daemon().await.unwrap();
    let again = stage.sign_in_as_guest().await.unwrap();
    assert_eq!((&again.name, &again.identity_id), (&guest.name, &guest.identity_id));

    let session = stage.sign_in(&user).await;
    assert_eq!(session.kind(), v1::SessionKind::User);
    assert_eq!(session.identity_id, guest.identity_id, "the prefix is the user's now");
    assert_eq!(session.merged_from, "");
    assert_eq!(reason(&get(&stage, &guest).await.unwrap_err()), "SESSION_NOT_FOUND");
    let second = stage.upload_and_wait("free/user.jpg", b"of the user").await.unwrap();
    assert!(key_of(&second).starts_with(&format!("users/{}/free/user-", guest.identity_id)));
    let mut keys = [key_of(&first), key_of(&second)];
    keys.sort();
    assert_eq!(stage.stored_keys().await, keys, "no object has moved");

    let next = stage.sign_in_as_guest().await.unwrap();
    assert_ne!(next.identity_id, guest.identity_id, "the next guest is somebody else");
}

#[tokio::test]
async fn a_user_with_an_identity_learns_where_the_guests_objects_are() {
    let stage = stage().await;
    let user = stage.sign_up().await;
    let before = stage.sign_in(&user).await;
    let out = v1::SignOutRequest { name: before.name.clone(), ..Default::default() };
    stage.sessions().await.sign_out(out).await.unwrap();
    let guest = stage.sign_in_as_guest().await.unwrap();
    let photo = stage.upload_and_wait("free/guest.jpg", b"of nobody").await.unwrap();
    let session = stage.sign_in(&user).await;
    assert_eq!(session.identity_id, before.identity_id);
    assert_eq!(session.merged_from, guest.identity_id);
    assert_eq!(get(&stage, &session).await.unwrap().merged_from, guest.identity_id);
    assert_eq!(stage.stored_keys().await, [key_of(&photo)]);
}

#[tokio::test]
async fn uploads_of_a_guest_are_sent_as_the_guest_while_the_user_is_signed_in() {
    let adjust = |text: String| with_guests(&text).replace("[session]", "[session]\nguest_hand_over_wait_ms = 200");
    let mut stage = Stage::start_with(TemplateSource::BuiltIn, adjust).await;
    let user = stage.sign_up().await;
    let guest = stage.sign_in_as_guest().await.unwrap();
    let slow_down = Effect::Error { status: 503, code: "SlowDown".to_owned(), message: None };
    stage.cloud.faults().add(Rule::new("s3:PutObject", slow_down)).unwrap();
    let photo = upload(&stage, &guest, "free/guest.jpg").await;
    let session = stage.sign_in(&user).await;
    assert_ne!(session.identity_id, guest.identity_id);
    assert_eq!(session.merged_from, guest.identity_id);
    assert_eq!(get(&stage, &guest).await.unwrap().state(), v1::SessionState::SigningOut);
    let request = v1::GetAwsCredentialsRequest { session: guest.name.clone() };
    let refused = stage.credentials().await.get_aws_credentials(request).await.unwrap_err();
    assert_eq!(reason(&refused), "NEEDS_SIGN_IN");

    // Also over a restart the guest's upload stays the guest's: the bucket lets nobody else write there.
    stage.stop_daemon().await;
    stage.start_daemon().await.unwrap();
    stage.cloud.faults().clear();
    wait_until_stored(&stage, &photo).await;
    assert!(key_of(&photo).starts_with(&format!("users/{}/free/guest-", guest.identity_id)));
    assert_eq!(stage.stored_keys().await, [key_of(&photo)]);
    until_gone(&stage, &guest).await;
    assert_eq!(get(&stage, &session).await.unwrap().merged_from, guest.identity_id);
    let own = stage.upload_and_wait("free/user.jpg", b"of the user").await.unwrap();
    assert!(key_of(&own).starts_with(&format!("users/{}/free/user-", session.identity_id)));
}

/// Photos that are handed over in the very moment in which the guest signs out, or a user signs in: what was accepted is
/// sent, what was not is refused, and nothing waits for somebody who cannot come back.
#[tokio::test]
async fn photos_in_the_moment_in_which_a_guest_goes_are_sent_or_refused() {
    let stage = stage().await;
    let user = stage.sign_up().await;
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for round in 0..12 {
        let guest = stage.sign_in_as_guest().await.unwrap();
        let handing_over: Vec<_> = (0..6)
            .map(|number| {
                let (path, session) = (stage.socket_path(), guest.name.clone());
                async move {
                    let mut uploads = UploadServiceClient::new(channel(&path).await);
                    tokio::time::sleep(Duration::from_micros(400 * number)).await;
                    let spec = v1::UploadSpec { session, ..spec("free/last.jpg") };
                    let begin = v1::upload_request::Message::Begin(v1::UploadBegin {
                        upload_id: tidegate::upload::Ulid::generate().to_string(),
                        spec: Some(spec),
                    });
                    let chunk = v1::upload_request::Message::Chunk(bytes::Bytes::from_static(b"photo"));
                    send(&mut uploads, [begin, chunk, crate::fixture::finish(5)]).await
                }
            })
            .map(tokio::spawn)
            .collect();
        if round % 2 == 0 {
            let out = v1::SignOutRequest { name: guest.name.clone(), ..Default::default() };
            stage.sessions().await.sign_out(out).await.unwrap();
        } else {
            let session = stage.sign_in(&user).await;
            let out = v1::SignOutRequest { name: session.name, ..Default::default() };
            stage.sessions().await.sign_out(out).await.unwrap();
        }
        for handed_over in handing_over {
            match handed_over.await.unwrap() {
                Ok(upload) => {
                    assert!(key_of(&upload).contains(&guest.identity_id), "{upload:?}");
                    accepted.push(upload);
                }
                Err(status) => {
                    assert!(["SESSION_NOT_FOUND", "NEEDS_SIGN_IN"].contains(&reason(&status).as_str()), "{status:?}");
                    refused += 1;
                }
            }
        }
        until_gone(&stage, &guest).await;
    }
    assert_eq!(accepted.len() + refused, 72);
    for upload in &accepted {
        wait_until_stored(&stage, upload).await;
    }
    let listed = stage.uploads().await.list_uploads(v1::ListUploadsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.uploads.len(), accepted.len(), "what was refused is not there");
    assert_eq!(stage.stored_keys().await.len(), accepted.len());
    assert!(stage.spool_files().is_empty());
}

#[tokio::test]
async fn where_no_guests_are_wanted_the_reason_is_said() {
    let closed = Stage::start().await;
    let error = closed.sign_in_as_guest().await.unwrap_err();
    assert_eq!(reason(&error), "GUESTS_NOT_ALLOWED");
    assert!(error.message().contains("guests = true"), "{}", error.message());

    let parameters = [("AllowGuests".to_owned(), "false".to_owned())].into();
    let pool = Stage::start_on(Options { parameters, ..Options::default() }, |text| with_guests(&text)).await;
    let error = pool.sessions().await.sign_in(by_guest()).await.unwrap_err();
    assert_eq!(reason(&error), "GUESTS_NOT_ALLOWED");
    assert!(error.message().contains("Unauthenticated access is not supported"), "{}", error.message());
    let listed = pool.sessions().await.list_sessions(v1::ListSessionsRequest::default()).await.unwrap();
    assert!(listed.into_inner().sessions.is_empty());
}
