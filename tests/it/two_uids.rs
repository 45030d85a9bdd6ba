//! Two uids on one device: what belongs to one does not exist for the other. Runs where the test may become another
//! uid, that is as root; elsewhere it says so and ends.

use bytes::Bytes;
use tidegate::api::v1;
use tidegate::api::v1::credential_service_client::CredentialServiceClient;
use tidegate::api::v1::gateway_service_client::GatewayServiceClient;
use tidegate::api::v1::session_service_client::SessionServiceClient;
use tidegate::api::v1::upload_request::Message;
use tidegate::api::v1::upload_service_client::UploadServiceClient;
use tidegate::upload::Ulid;
use tonic::{Code, Status};

use crate::fixture::{PASSWORD, Stage, begin, by_password, finish, reason, send, session_of, spec};

/// The code, the reason, and the text without the name that was asked for.
fn shape(status: &Status, name: &str) -> (Code, String, String) {
    let id = name.split('/').next_back().unwrap();
    (status.code(), reason(status), status.message().replace(id, "ID"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_does_not_exist() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    let session = stage.sign_in(&user).await.name;
    let stored = stage.upload_and_wait("free/mine.jpg", b"mine").await.unwrap().name;
    let half = Ulid::generate();
    let bytes = Message::Chunk(Bytes::from_static(b"half"));
    assert!(send(&mut stage.uploads().await, [begin(half, spec("free/half.jpg")), bytes]).await.is_err());
    let half = format!("uploads/{half}");

    let Some(channel) = stage.channel_of_other_uid().await else {
        println!("not root: another uid cannot be tried");
        return;
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    let mut credentials = CredentialServiceClient::new(channel.clone());
    let mut uploads = UploadServiceClient::new(channel.clone());
    let mut gateway = GatewayServiceClient::new(channel);

    // A session: another's and one that never was get the same answer from every call.
    let nothing = format!("sessions/{}", Ulid::generate());
    let mut answers = Vec::new();
    for name in [&session, &nothing] {
        let get = sessions.get_session(v1::GetSessionRequest { name: name.clone() }).await.unwrap_err();
        let watch = sessions.watch_session(v1::WatchSessionRequest { name: name.clone() }).await.unwrap_err();
        let refresh = sessions.refresh_session(v1::RefreshSessionRequest { name: name.clone() }).await.unwrap_err();
        let request = v1::SignOutRequest { name: name.clone(), everywhere: true, ..Default::default() };
        let sign_out = sessions.sign_out(request).await.unwrap_err();
        let request = v1::GetAwsCredentialsRequest { session: name.clone() };
        let vended = credentials.get_aws_credentials(request).await.unwrap_err();
        let request = v1::WatchAwsCredentialsRequest { session: name.clone() };
        let watched = credentials.watch_aws_credentials(request).await.unwrap_err();
        let request = v1::GetTokensRequest { session: name.clone(), include_access_token: true };
        let tokens = credentials.get_tokens(request).await.unwrap_err();
        let foreign = v1::UploadSpec { session: name.clone(), ..spec("free/theirs.jpg") };
        let upload = send(&mut uploads, [begin(Ulid::generate(), foreign), finish(0)]).await.unwrap_err();
        let all = [get, watch, refresh, sign_out, vended, watched, tokens, upload];
        answers.push(all.map(|status| shape(&status, name)));
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].iter().all(|(code, reason, _)| *code == Code::NotFound && reason == "SESSION_NOT_FOUND"));

    // An upload likewise, whether it is stored or still arrives.
    let nothing = format!("uploads/{}", Ulid::generate());
    let mut answers = Vec::new();
    for name in [&stored, &half, &nothing] {
        let get = uploads.get_upload(v1::GetUploadRequest { name: name.clone() }).await.unwrap_err();
        let watch = uploads.watch_upload(v1::WatchUploadRequest { name: name.clone() }).await.unwrap_err();
        let cancel = uploads.cancel_upload(v1::CancelUploadRequest { name: name.clone() }).await.unwrap_err();
        let retry = uploads.retry_upload(v1::RetryUploadRequest { name: name.clone() }).await.unwrap_err();
        let resume = Message::Resume(v1::UploadResume { name: name.clone(), offset: 0 });
        let resume = send(&mut uploads, [resume, finish(0)]).await.unwrap_err();
        answers.push([get, watch, cancel, retry, resume].map(|status| shape(&status, name)));
    }
    assert_eq!(answers[0], answers[2]);
    assert_eq!(answers[1], answers[2]);
    assert!(answers[0].iter().all(|(code, reason, _)| *code == Code::NotFound && reason == "UPLOAD_NOT_FOUND"));

    // Lists and counts are empty.
    let listed = sessions.list_sessions(v1::ListSessionsRequest::default()).await.unwrap().into_inner();
    assert!(listed.sessions.is_empty());
    let listed = uploads.list_uploads(v1::ListUploadsRequest::default()).await.unwrap().into_inner();
    assert!(listed.uploads.is_empty());
    let status = gateway.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.all_uids);
    assert_eq!((status.session_count, status.upload_counts.values().sum::<i64>()), (0, 0));

    // The same user under the other uid is another session, with the same prefix in the bucket.
    let theirs = sessions.sign_in(by_password(&user.username, PASSWORD)).await.unwrap().into_inner();
    let theirs = session_of(theirs);
    assert_ne!(theirs.name, session);
    let mine = stage.sessions().await.get_session(v1::GetSessionRequest { name: session.clone() }).await.unwrap();
    assert_eq!(mine.into_inner().session.unwrap().identity_id, theirs.identity_id);
    sessions.sign_out(v1::SignOutRequest { name: theirs.name, ..Default::default() }).await.unwrap();
    // And its end is not the end of ours.
    let ours = v1::GetAwsCredentialsRequest { session };
    stage.credentials().await.get_aws_credentials(ours).await.unwrap();
}
