//! Stops and starts, as callers see them.

use std::time::Duration;

use bytes::Bytes;
use tidegate::api::v1;
use tidegate::api::v1::upload_request::Message;
use tidegate::upload::Ulid;
use tonic::Code;

use crate::fixture::{Stage, begin, finish, reason, send, spec, variables};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_sessions_and_half_a_photo() {
    let mut stage = Stage::start().await;
    let user = stage.sign_up().await;
    let session = stage.sign_in(&user).await;
    let id = Ulid::generate();
    let photo: Vec<u8> = (0..700_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let half = Message::Chunk(Bytes::copy_from_slice(&photo[..400_000]));
    let status = send(&mut stage.uploads().await, [begin(id, spec("free/half.jpg")), half]).await.unwrap_err();
    assert_eq!(reason(&status), "STREAM_UNFINISHED");
    assert_eq!(variables(&status)["received_bytes"], "400000");

    stage.stop_daemon().await;
    assert!(!stage.socket_path().exists());
    stage.start_daemon().await.unwrap();

    let sessions = stage.sessions().await.list_sessions(v1::ListSessionsRequest::default()).await.unwrap();
    assert_eq!(sessions.into_inner().sessions[0].name, session.name);
    let name = format!("uploads/{id}");
    let request = v1::GetUploadRequest { name: name.clone() };
    let upload = stage.uploads().await.get_upload(request).await.unwrap().into_inner().upload.unwrap();
    assert_eq!(upload.state(), v1::UploadState::Receiving);
    assert_eq!(upload.received_bytes, 400_000, "what was promised is there");
    let rest = Message::Chunk(Bytes::copy_from_slice(&photo[400_000..]));
    let resume = Message::Resume(v1::UploadResume { name: name.clone(), offset: upload.received_bytes });
    send(&mut stage.uploads().await, [resume, rest, finish(700_000)]).await.unwrap();

    let mut watched = stage.uploads().await.watch_upload(v1::WatchUploadRequest { name }).await.unwrap().into_inner();
    let mut last = None;
    while let Some(answer) = watched.message().await.unwrap() {
        last = answer.upload;
    }
    let stored = last.unwrap();
    assert_eq!(stored.state(), v1::UploadState::Succeeded, "{:?}", stored.failure);
    let object = stored.object.unwrap();
    let got = stage.s3().get_object().bucket(object.bucket).key(object.key).send().await.unwrap();
    assert!(got.body.collect().await.unwrap().into_bytes() == photo, "the stored photo is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_everybody_who_waits() {
    let mut stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    stage.gateway().await.pause(v1::PauseRequest {}).await.unwrap();
    // A photo that will not be stored while the gateway is paused, and a client that waits for it.
    let id = Ulid::generate();
    let waits = v1::UploadSpec { wait_for: v1::WaitFor::Stored.into(), ..spec("free/later.jpg") };
    let mut uploads = stage.uploads().await;
    let photo = Message::Chunk(Bytes::from_static(b"later"));
    let waiting = tokio::spawn(async move { send(&mut uploads, [begin(id, waits), photo, finish(5)]).await });
    let request = v1::WatchSessionRequest::default();
    let mut session = stage.sessions().await.watch_session(request).await.unwrap().into_inner();
    session.message().await.unwrap().unwrap();
    let request = v1::WatchAwsCredentialsRequest::default();
    let mut credentials = stage.credentials().await.watch_aws_credentials(request).await.unwrap().into_inner();
    credentials.message().await.unwrap().unwrap();
    let name = format!("uploads/{id}");
    let mut watched = loop {
        let request = v1::WatchUploadRequest { name: name.clone() };
        match stage.uploads().await.watch_upload(request).await {
            Ok(watched) => break watched.into_inner(),
            // The other task has not come this far.
            Err(status) => assert_eq!(reason(&status), "UPLOAD_NOT_FOUND"),
        }
        tokio::task::yield_now().await;
    };
    while watched.message().await.unwrap().unwrap().upload.unwrap().state() == v1::UploadState::Receiving {}

    stage.stop_daemon().await;
    let told = waiting.await.unwrap().unwrap_err();
    assert_eq!((told.code(), reason(&told).as_str()), (Code::Unavailable, "STOPPING"));
    let told = [last_error(&mut session).await, last_error(&mut credentials).await, last_error(&mut watched).await];
    for status in told {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STOPPING"));
    }

    stage.start_daemon().await.unwrap();
    stage.gateway().await.resume(v1::ResumeRequest {}).await.unwrap();
    let mut watched = stage.uploads().await.watch_upload(v1::WatchUploadRequest { name }).await.unwrap().into_inner();
    let mut state = v1::UploadState::Unspecified;
    while let Some(answer) = watched.message().await.unwrap() {
        state = answer.upload.unwrap().state();
    }
    assert_eq!(state, v1::UploadState::Succeeded);
}

async fn last_error<T>(stream: &mut tonic::Streaming<T>) -> tonic::Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_outlasts_the_drain_is_told_where_to_go_on() {
    let mut stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let id = Ulid::generate();
    let (messages, stream) = tokio::sync::mpsc::channel(4);
    let mut uploads = stage.uploads().await;
    let call = tokio::spawn(async move { uploads.upload(tokio_stream::wrappers::ReceiverStream::new(stream)).await });
    let message = |message| v1::UploadRequest { message: Some(message) };
    messages.send(message(begin(id, spec("free/slow.jpg")))).await.unwrap();
    messages.send(message(Message::Chunk(Bytes::from_static(b"slow")))).await.unwrap();
    let name = format!("uploads/{id}");
    let request = || v1::GetUploadRequest { name: name.clone() };
    while stage.uploads().await.get_upload(request()).await.is_err() {
        tokio::task::yield_now().await;
    }
    stage.stop_daemon().await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STOPPING"), "{status}");
    stage.start_daemon().await.unwrap();
    let upload = stage.uploads().await.get_upload(request()).await.unwrap().into_inner().upload.unwrap();
    assert_eq!(upload.state(), v1::UploadState::Receiving);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_of_a_cold_session_cost_one_call() {
    const CALLERS: usize = 1_000;
    let mut stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    stage.stop_daemon().await;
    stage.start_daemon().await.unwrap();
    let calls = |stage: &Stage| stage.cloud.counters().of("cognito-identity:GetCredentialsForIdentity");
    let before = calls(&stage);
    // Slow enough that all callers wait for the same answer.
    let slow = tidegate::local_cloud::faults::Rule::new(
        "GetCredentialsForIdentity",
        tidegate::local_cloud::faults::Effect::Delay,
    );
    stage.cloud.faults().add(slow.latency(Duration::from_millis(500))).unwrap();
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(stage.credentials().await);
    }
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let mut client = clients[number % clients.len()].clone();
        callers.spawn(async move { client.get_aws_credentials(v1::GetAwsCredentialsRequest::default()).await });
    }
    let mut keys = std::collections::BTreeSet::new();
    while let Some(answer) = callers.join_next().await {
        keys.insert(answer.unwrap().unwrap().into_inner().credentials.unwrap().access_key_id);
    }
    assert_eq!((keys.len(), calls(&stage) - before), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_upload_once() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let mut expected = Vec::new();
    for number in 0..5 {
        let upload = stage.upload_and_wait(&format!("free/{number}.jpg"), b"photo").await.unwrap();
        expected.insert(0, upload.name);
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListUploadsRequest { page_size: 2, page_token, ..Default::default() };
        let page = stage.uploads().await.list_uploads(request).await.unwrap().into_inner();
        assert!(page.uploads.len() <= 2);
        seen.extend(page.uploads.into_iter().map(|upload| upload.name));
        if page.next_page_token.is_empty() {
            break;
        }
        // The token of this listing is no other listing's.
        let states = vec![v1::UploadState::Failed.into()];
        let other = v1::ListUploadsRequest { page_token: page.next_page_token.clone(), states, ..Default::default() };
        let status = stage.uploads().await.list_uploads(other).await.unwrap_err();
        assert_eq!(reason(&status), "INVALID_PAGE_TOKEN");
        assert!(variables(&status).is_empty());
        page_token = page.next_page_token;
    }
    assert_eq!(seen, expected, "newest first");
}
