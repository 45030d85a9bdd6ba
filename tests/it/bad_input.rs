//! The catalogue of bad input: what is sent, and the code, the reason and a word of the message that come back. After
//! every chapter nothing is left behind, and the daemon still works.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use tidegate::api::v1::upload_request::Message;
use tidegate::api::v1::{self, upload_finish};
use tidegate::config::{Config, ConfigError};
use tidegate::daemon::{Daemon, DaemonError};
use tidegate::local_cloud::{LocalCloud, TemplateSource, template};
use tidegate::upload::Ulid;
use tonic::{Code, Status};

use crate::fixture::{
    PASSWORD, Stage, begin, by_id_token, by_password, finish, reason, send, session_of, spec, variables,
};

/// Collects what does not come back as it should, so that one run shows all of it.
struct Catalogue {
    rows: usize,
    wrong: Vec<String>,
}

impl Catalogue {
    fn new() -> Self {
        Self { rows: 0, wrong: Vec::new() }
    }

    /// One row.
    fn row<T>(&mut self, sent: &str, answer: Result<T, Status>, code: Code, expected: &str, word: &str) {
        self.rows += 1;
        let Err(status) = answer else {
            self.wrong.push(format!("{sent}: was taken"));
            return;
        };
        let found = reason(&status);
        if (status.code(), found.as_str()) != (code, expected) || !status.message().contains(word) {
            let message = status.message();
            self.wrong.push(format!(
                "{sent}: {:?} {found}: {message}\n    expected {code:?} {expected} with {word:?}",
                status.code()
            ));
        }
    }

    fn finish(self, chapter: &str) {
        assert!(self.wrong.is_empty(), "{chapter}:\n  {}", self.wrong.join("\n  "));
        println!("{chapter}: {} rows", self.rows);
    }
}

/// Nothing is in the spool, nothing is in the bucket but what was meant to be, and a good photo goes through.
async fn assert_nothing_left(stage: &Stage, stored_before: &[String]) {
    assert_eq!(stage.stored_keys().await, stored_before, "something reached the bucket");
    assert_eq!(stage.spool_files(), Vec::<PathBuf>::new(), "the spool is not empty");
    let status = stage.gateway().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.spool_bytes, 0);
    assert!(status.accepting);
    let good = stage.upload_and_wait("free/good.jpg", b"a good photo").await.unwrap();
    assert_eq!(good.state(), v1::UploadState::Succeeded, "{:?}", good.failure);
}

/// A request of a version to come.
#[derive(Clone, PartialEq, prost::Message)]
struct FromTheFuture {
    #[prost(string, tag = "400")]
    wish: String,
}

async fn cancel(stage: &Stage, id: Ulid) {
    let request = v1::CancelUploadRequest { name: format!("uploads/{id}") };
    stage.uploads().await.cancel_upload(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let mut table = Catalogue::new();
    let (mut accounts, mut sessions) = (stage.accounts().await, stage.sessions().await);
    let (mut uploads, mut credentials) = (stage.uploads().await, stage.credentials().await);
    let invalid = Code::InvalidArgument;

    table.row(
        "an empty SignUp",
        accounts.sign_up(v1::SignUpRequest::default()).await,
        invalid,
        "MISSING_FIELD",
        "username",
    );
    let request = v1::ConfirmSignUpRequest { username: user.username.clone(), ..Default::default() };
    table.row("no code", accounts.confirm_sign_up(request).await, invalid, "MISSING_FIELD", "confirmation_code");
    let request = v1::SignInRequest::default();
    table.row("no method", sessions.sign_in(request).await, invalid, "MISSING_FIELD", "method");
    table.row("no password", sessions.sign_in(by_password("a", "")).await, invalid, "MISSING_FIELD", "password");
    table.row("no ID token", sessions.sign_in(by_id_token("")).await, invalid, "MISSING_FIELD", "id_token");
    let request = v1::SignInRequest { identity: "nowhere".to_owned(), ..by_password("a", "b") };
    table.row("another identity", sessions.sign_in(request).await, Code::NotFound, "IDENTITY_NOT_FOUND", "app");
    let guest = v1::sign_in_request::Method::Guest(v1::GuestSignIn {});
    let request = v1::SignInRequest { method: Some(guest), ..Default::default() };
    let refused = "GUESTS_NOT_ALLOWED";
    table.row("a guest", sessions.sign_in(request).await, Code::FailedPrecondition, refused, "guests = true");
    let answer = sessions.respond_to_challenge(v1::RespondToChallengeRequest::default()).await;
    table.row("no challenge", answer, invalid, "MISSING_FIELD", "challenge_id");
    let responses = [("SMS_MFA_CODE".to_owned(), "123456".to_owned())].into();
    let request = v1::RespondToChallengeRequest { challenge_id: "x".repeat(10_000), responses };
    let answer = sessions.respond_to_challenge(request).await;
    table.row("an unknown challenge", answer, Code::NotFound, "CHALLENGE_NOT_FOUND", "sign in again");
    let answer = sessions.begin_federated_sign_in(v1::BeginFederatedSignInRequest::default()).await;
    table.row("no page", answer, Code::FailedPrecondition, "FEDERATION_NOT_CONFIGURED", "[identity.hosted_ui]");
    let answer = sessions.complete_federated_sign_in(v1::CompleteFederatedSignInRequest::default()).await;
    table.row("no redirect", answer, invalid, "MISSING_FIELD", "redirect_url");
    for name in
        ["x", "sessions/", "sessions/x", "uploads/01JD8Q4Z6M3N5P7R9T1V3X5Z7B", "sessions/01jd8q4z6m3n5p7r9t1v3x5z7b"]
    {
        let request = v1::GetSessionRequest { name: name.to_owned() };
        table.row(name, sessions.get_session(request).await, invalid, "INVALID_NAME", "sessions/{id}");
        let request = v1::GetAwsCredentialsRequest { session: name.to_owned() };
        table.row(name, credentials.get_aws_credentials(request).await, invalid, "INVALID_NAME", "sessions/{id}");
    }
    for name in ["x", "uploads/", "uploads/x", "sessions/01JD8Q4Z6M3N5P7R9T1V3X5Z7B"] {
        let request = v1::GetUploadRequest { name: name.to_owned() };
        table.row(name, uploads.get_upload(request).await, invalid, "INVALID_NAME", "uploads/{id}");
    }
    let answer = uploads.get_upload(v1::GetUploadRequest::default()).await;
    table.row("no name", answer, invalid, "MISSING_FIELD", "name");
    let request = v1::SignOutRequest { uploads: 9, ..Default::default() };
    table.row("an unknown enum", sessions.sign_out(request).await, invalid, "UNKNOWN_ENUM_VALUE", "uploads");
    let request = v1::ListUploadsRequest { page_size: -1, ..Default::default() };
    table.row("a negative page", uploads.list_uploads(request).await, invalid, "INVALID_PAGE_SIZE", "negative");
    let request = v1::ListUploadsRequest { page_token: "garbled".to_owned(), ..Default::default() };
    table.row("a garbled token", uploads.list_uploads(request).await, invalid, "INVALID_PAGE_TOKEN", "start again");
    let request = v1::ListSessionsRequest { page_token: "AAAA".to_owned(), ..Default::default() };
    table.row("a garbled token", sessions.list_sessions(request).await, invalid, "INVALID_PAGE_TOKEN", "start again");
    let request = v1::ListUploadsRequest { states: vec![0], ..Default::default() };
    table.row("no state", uploads.list_uploads(request).await, invalid, "UNKNOWN_ENUM_VALUE", "states[0]");
    let request = v1::SignUpRequest { username: "u".repeat(1_200_000), ..Default::default() };
    table.row(
        "an oversize message",
        accounts.sign_up(request).await,
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
        "smaller",
    );
    let path = http::uri::PathAndQuery::from_static("/tidegate.v1.GatewayService/GetStatus");
    let codec = tonic_prost::ProstCodec::<FromTheFuture, v1::GetStatusResponse>::default();
    let mut newer = tonic::client::Grpc::new(stage.channel().await);
    newer.ready().await.unwrap();
    let wish = tonic::Request::new(FromTheFuture { wish: "more".to_owned() });
    table.row("an unknown field", newer.unary(wish, path, codec).await, invalid, "UNKNOWN_FIELD", "#400");
    let unknown = Ulid::generate();
    for (sent, answer) in [
        ("get", uploads.get_upload(v1::GetUploadRequest { name: format!("uploads/{unknown}") }).await.err()),
        ("cancel", uploads.cancel_upload(v1::CancelUploadRequest { name: format!("uploads/{unknown}") }).await.err()),
        ("watch", uploads.watch_upload(v1::WatchUploadRequest { name: format!("uploads/{unknown}") }).await.err()),
    ] {
        table.row(sent, answer.map_or(Ok(()), Err), Code::NotFound, "UPLOAD_NOT_FOUND", "ListUploads");
    }
    table.finish("requests");
    assert_nothing_left(&stage, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_files() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let mut table = Catalogue::new();
    let mut uploads = stage.uploads().await;
    let photo = stage.photos_dir().join("cat.jpg");
    std::fs::write(&photo, b"a cat").unwrap();
    let create = |path: &str, spec: v1::UploadSpec| v1::CreateUploadRequest {
        path: path.to_owned(),
        spec: Some(spec),
        ..Default::default()
    };
    let photo_path = photo.to_str().unwrap();

    let long = format!("free/{}", "k".repeat(1_024));
    for key in ["/a", "a//b", "a/", ".", "..", "a/./b", "a/../b", "free/../premium/x", "a\nb", "a\u{7f}", &long] {
        let answer = uploads.create_upload(create(photo_path, spec(key))).await;
        table.row(&format!("key {key:.30?}"), answer, Code::InvalidArgument, "INVALID_KEY", "key");
        let answer = send(&mut uploads, [begin(Ulid::generate(), spec(key)), finish(0)]).await;
        table.row(&format!("key {key:.30?}"), answer, Code::InvalidArgument, "INVALID_KEY", "key");
    }
    let answer = uploads.create_upload(create(photo_path, spec(""))).await;
    table.row("no key", answer, Code::InvalidArgument, "MISSING_FIELD", "spec.key");
    let answer = uploads.create_upload(v1::CreateUploadRequest::default()).await;
    table.row("nothing", answer, Code::InvalidArgument, "MISSING_FIELD", "path, spec");
    let request = v1::CreateUploadRequest { upload_id: "not a ULID".to_owned(), ..create(photo_path, spec("free/a")) };
    table.row("an id", uploads.create_upload(request).await, Code::InvalidArgument, "INVALID_FIELD", "upload_id");
    let other = v1::UploadSpec { destination: "nowhere".to_owned(), ..spec("free/a") };
    let answer = uploads.create_upload(create(photo_path, other)).await;
    table.row("a destination", answer, Code::NotFound, "DESTINATION_NOT_FOUND", "photos");
    let large = v1::UploadSpec { metadata: [("note".to_owned(), "n".repeat(2_049))].into(), ..spec("free/a") };
    let answer = uploads.create_upload(create(photo_path, large)).await;
    table.row("metadata", answer, Code::InvalidArgument, "INVALID_FIELD", "metadata");
    let policy = v1::UploadSpec { key_policy: 7, ..spec("free/a") };
    let answer = uploads.create_upload(create(photo_path, policy)).await;
    table.row("a policy", answer, Code::InvalidArgument, "UNKNOWN_ENUM_VALUE", "key_policy");

    let below = |name: &str| stage.photos_dir().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(below("folder")).unwrap();
    std::os::unix::fs::symlink(&photo, below("link.jpg")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, below("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let kinds = [("folder", "a directory"), ("link.jpg", "a symbolic link"), ("pipe", "a FIFO")];
    for (name, kind) in kinds {
        let answer = uploads.create_upload(create(&below(name), spec("free/a"))).await;
        table.row(kind, answer, Code::InvalidArgument, "NOT_A_REGULAR_FILE", kind);
    }
    let answer = uploads.create_upload(create(&below("missing.jpg"), spec("free/a"))).await;
    table.row("a missing file", answer, Code::NotFound, "FILE_NOT_FOUND", "missing.jpg");
    for path in ["/etc/hostname".to_owned(), below("../tidegate.toml"), "relative.jpg".to_owned()] {
        let answer = uploads.create_upload(create(&path, spec("free/a"))).await;
        table.row(&path, answer, Code::PermissionDenied, "PATH_OUTSIDE_ROOTS", "file_roots");
    }
    if let Some(channel) = stage.channel_of_other_uid().await {
        // Signed in under the other uid, so that only the file is wrong.
        let mut sessions = v1::session_service_client::SessionServiceClient::new(channel.clone());
        sessions.sign_in(by_password(&user.username, PASSWORD)).await.unwrap();
        std::fs::set_permissions(&photo, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut uploads = v1::upload_service_client::UploadServiceClient::new(channel);
        let answer = uploads.create_upload(create(photo_path, spec("free/a"))).await;
        table.row("root's own file", answer, Code::PermissionDenied, "FILE_NOT_READABLE_BY_CALLER", "could not read");
    }
    table.finish("keys and files");
    assert_eq!(listed(&stage).await, 0, "a refused upload has a row");
    assert_nothing_left(&stage, &[]).await;
}

/// How many uploads the caller has.
async fn listed(stage: &Stage) -> usize {
    let listed = stage.uploads().await.list_uploads(v1::ListUploadsRequest::default()).await.unwrap();
    listed.into_inner().uploads.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let mut table = Catalogue::new();
    let mut uploads = stage.uploads().await;
    let invalid = Code::InvalidArgument;
    let chunk = |bytes: &'static [u8]| Message::Chunk(Bytes::from_static(bytes));

    table.row("nothing", send(&mut uploads, []).await, invalid, "STREAM_ORDER", "without a message");
    table.row("a chunk first", send(&mut uploads, [chunk(b"x")]).await, invalid, "STREAM_ORDER", "`chunk`");
    table.row("finish first", send(&mut uploads, [finish(0)]).await, invalid, "STREAM_ORDER", "`finish`");
    let empty = tokio_stream::iter([v1::UploadRequest { message: None }]);
    table.row("an empty message", uploads.upload(empty).await, invalid, "STREAM_ORDER", "empty");
    let without_id = Message::Begin(v1::UploadBegin { upload_id: String::new(), spec: Some(spec("free/a")) });
    table.row("no upload_id", send(&mut uploads, [without_id]).await, invalid, "MISSING_FIELD", "begin.upload_id");
    let without_spec = Message::Begin(v1::UploadBegin { upload_id: Ulid::generate().to_string(), spec: None });
    table.row("no spec", send(&mut uploads, [without_spec]).await, invalid, "MISSING_FIELD", "begin.spec");
    let unknown = Message::Resume(v1::UploadResume { name: format!("uploads/{}", Ulid::generate()), offset: 0 });
    table.row(
        "an unknown resume",
        send(&mut uploads, [unknown]).await,
        Code::NotFound,
        "UPLOAD_NOT_FOUND",
        "no upload",
    );
    assert_eq!(listed(&stage).await, 0, "a refused upload has a row");

    // From here on an upload has begun: it stays RECEIVING, so that nothing is lost, and can be cancelled.
    let large = Message::Chunk(Bytes::from(vec![0; 1_048_577]));
    let oversize = Message::Chunk(Bytes::from(vec![0; 1_200_000]));
    let faults: Vec<(&str, Vec<Message>, Code, &str, &str)> = vec![
        ("a second begin", vec![begin(Ulid::generate(), spec("free/b"))], invalid, "STREAM_ORDER", "`begin`"),
        ("after finish", vec![chunk(b"x"), finish(1), chunk(b"y")], invalid, "STREAM_ORDER", "after `finish`"),
        ("a second finish", vec![finish(0), finish(0)], invalid, "STREAM_ORDER", "after `finish`"),
        ("a large chunk", vec![large], invalid, "CHUNK_TOO_LARGE", "1048577"),
        ("an oversize message", vec![oversize], Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "smaller"),
        ("no finish", vec![chunk(b"half a photo")], invalid, "STREAM_UNFINISHED", "resume"),
        ("a negative size", vec![finish(-1)], invalid, "INVALID_FIELD", "finish.total_bytes"),
        ("too few bytes", vec![chunk(b"abc"), finish(5)], invalid, "SIZE_MISMATCH", "3 bytes"),
        ("too many bytes", vec![chunk(b"abc"), finish(2)], invalid, "SIZE_MISMATCH", "3 bytes"),
        ("a wrong CRC", vec![chunk(b"abc"), with_crc(3, "AAAAAAAAAAA=")], invalid, "CHECKSUM_MISMATCH", "CRC64NVME"),
        ("no CRC", vec![chunk(b"abc"), with_crc(3, "???")], invalid, "INVALID_FIELD", "finish.crc64nvme"),
    ];
    for (sent, rest, code, expected, word) in faults {
        let id = Ulid::generate();
        let mut messages = vec![begin(id, spec("free/a"))];
        messages.extend(rest);
        let answer = send(&mut uploads, messages).await;
        if let Err(status) = &answer
            && expected.starts_with("STREAM")
        {
            assert_eq!(variables(status).get("upload"), Some(&format!("uploads/{id}")), "{sent}");
            assert!(variables(status).contains_key("received_bytes"), "{sent}");
        }
        table.row(sent, answer, code, expected, word);
        cancel(&stage, id).await;
    }

    // An id has one spec, an offset one place, an end one side.
    let id = Ulid::generate();
    let done = send(&mut uploads, [begin(id, spec("free/done.jpg")), chunk(b"photo"), finish(5)]).await.unwrap();
    let again = send(&mut uploads, [begin(id, spec("free/done.jpg")), chunk(b"photo"), finish(5)]).await.unwrap();
    assert_eq!(done.name, again.name, "the same again is the same upload");
    let answer = send(&mut uploads, [begin(id, spec("free/other.jpg")), finish(0)]).await;
    table.row("another spec", answer, Code::AlreadyExists, "UPLOAD_ID_REUSED", "new ULID");
    let half = Ulid::generate();
    let answer = send(&mut uploads, [begin(half, spec("free/half.jpg")), chunk(b"photo")]).await;
    table.row("half", answer, invalid, "STREAM_UNFINISHED", "received_bytes");
    let wrong = Message::Resume(v1::UploadResume { name: format!("uploads/{half}"), offset: 99 });
    let answer = send(&mut uploads, [wrong, finish(99)]).await;
    table.row("a wrong offset", answer, Code::FailedPrecondition, "OFFSET_MISMATCH", "99");
    let negative = Message::Resume(v1::UploadResume { name: format!("uploads/{half}"), offset: -1 });
    table.row("a negative offset", send(&mut uploads, [negative]).await, invalid, "INVALID_FIELD", "resume.offset");
    cancel(&stage, half).await;
    cancel(&stage, half).await; // Again: nothing to complain about.
    let answer = uploads.retry_upload(v1::RetryUploadRequest { name: format!("uploads/{half}") }).await;
    table.row("retry a cancelled one", answer, Code::FailedPrecondition, "UPLOAD_NOT_FAILED", "CANCELLED");
    wait_until_stored(&stage, id).await;
    let answer = uploads.cancel_upload(v1::CancelUploadRequest { name: format!("uploads/{id}") }).await;
    table.row("cancel a stored one", answer, Code::FailedPrecondition, "UPLOAD_ENDED", "SUCCEEDED");
    let answer = uploads.retry_upload(v1::RetryUploadRequest { name: format!("uploads/{id}") }).await;
    table.row("retry a stored one", answer, Code::FailedPrecondition, "UPLOAD_NOT_FAILED", "SUCCEEDED");
    table.finish("streams");
    let stored = stage.stored_keys().await;
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert_nothing_left(&stage, &stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_that_is_refused_at_its_start() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    // All on one connection: what a refused stream had under way must not be held against the next.
    let mut uploads = stage.uploads().await;
    let chunk = Bytes::from(vec![7; 256 * 1024]);
    for _ in 0..60 {
        let mut messages = vec![begin(Ulid::generate(), spec("../premium/x"))];
        messages.extend((0..16).map(|_| Message::Chunk(chunk.clone())));
        messages.push(finish(4 << 20));
        let status = send(&mut uploads, messages).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_KEY"), "{status}");
    }
    let mut messages = vec![begin(Ulid::generate(), spec("free/good.jpg"))];
    messages.extend((0..16).map(|_| Message::Chunk(chunk.clone())));
    messages.push(finish(4 << 20));
    assert_eq!(send(&mut uploads, messages).await.unwrap().received_bytes, 4 << 20);
    assert_eq!(listed(&stage).await, 1, "a refused upload has a row");
}

fn with_crc(total_bytes: i64, crc: &str) -> Message {
    let checksum = Some(upload_finish::Checksum::Crc64nvme(crc.to_owned()));
    Message::Finish(v1::UploadFinish { total_bytes, checksum })
}

async fn wait_until_stored(stage: &Stage, id: Ulid) {
    let request = v1::WatchUploadRequest { name: format!("uploads/{id}") };
    let mut watched = stage.uploads().await.watch_upload(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(answer) = watched.message().await.unwrap() {
        last = answer.upload;
    }
    assert_eq!(last.unwrap().state(), v1::UploadState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_tokens() {
    // A second app of the same pool: its tokens are real, and not for us.
    let second = "\n  SecondClient:\n    Type: AWS::Cognito::UserPoolClient\n    Properties:\n      \
                  UserPoolId: !Ref UserPool\n      ClientName: second\n      \
                  ExplicitAuthFlows: [ALLOW_USER_PASSWORD_AUTH, ALLOW_REFRESH_TOKEN_AUTH]\n\nOutputs:\n  \
                  SecondClientId:\n    Value: !Ref SecondClient\n";
    let text = template::built_in().replace("\nOutputs:\n", second);
    let stage = Stage::start_with(TemplateSource::Text(text), |text| text).await;
    let mut table = Catalogue::new();
    let (mut sessions, mut credentials) = (stage.sessions().await, stage.credentials().await);
    let mut uploads = stage.uploads().await;

    let answer = sessions.get_session(v1::GetSessionRequest::default()).await;
    table.row("no session", answer, Code::NotFound, "NO_SESSION", "sign in");
    let answer = send(&mut uploads, [begin(Ulid::generate(), spec("free/a")), finish(0)]).await;
    table.row("an upload of nobody", answer, Code::NotFound, "NO_SESSION", "sign in");
    let stranger = by_password("nobody@example.com", PASSWORD);
    table.row("a stranger", sessions.sign_in(stranger).await, Code::Unauthenticated, "BAD_CREDENTIALS", "");
    let unconfirmed = stage.sign_up_unconfirmed().await;
    let answer = sessions.sign_in(by_password(&unconfirmed.username, PASSWORD)).await;
    table.row("unconfirmed", answer, Code::FailedPrecondition, "USER_NOT_CONFIRMED", "confirm");
    let user = stage.sign_up().await;
    let wrong = by_password(&user.username, "Wrong-password-1");
    table.row("a wrong password", sessions.sign_in(wrong).await, Code::Unauthenticated, "BAD_CREDENTIALS", "");
    let request = v1::ConfirmSignUpRequest {
        username: unconfirmed.username.clone(),
        confirmation_code: "000000x".to_owned(),
        ..Default::default()
    };
    let answer = stage.accounts().await.confirm_sign_up(request).await;
    table.row("a wrong code", answer, Code::InvalidArgument, "CODE_MISMATCH", "");
    let weak =
        v1::SignUpRequest { username: "w@example.com".to_owned(), password: "weak".to_owned(), ..Default::default() };
    let answer = stage.accounts().await.sign_up(weak).await;
    table.row("a weak password", answer, Code::InvalidArgument, "INVALID_PASSWORD", "");
    let taken =
        v1::SignUpRequest { username: user.username.clone(), password: PASSWORD.to_owned(), ..Default::default() };
    let answer = stage.accounts().await.sign_up(taken).await;
    table.row("a taken name", answer, Code::AlreadyExists, "USER_EXISTS", "");
    let listed_sessions = sessions.list_sessions(v1::ListSessionsRequest::default()).await.unwrap().into_inner();
    assert!(listed_sessions.sessions.is_empty(), "a refused sign-in left a session");

    let session = stage.sign_in(&user).await;
    let request = v1::GetTokensRequest { include_access_token: true, ..Default::default() };
    let tokens = credentials.get_tokens(request).await.unwrap().into_inner();
    let request = v1::SignOutRequest { name: session.name.clone(), ..Default::default() };
    let kept = tokens.id_token.clone();
    for (sent, token, expected) in [
        ("no token at all", "garbage".to_owned(), "TOKEN_INVALID"),
        ("a forged signature", with_other_signature(&kept), "TOKEN_INVALID"),
        ("a forged claim", with_other_claims(&kept), "TOKEN_INVALID"),
        ("without signature", without_signature(&kept), "TOKEN_INVALID"),
        ("an access token", tokens.access_token.clone(), "TOKEN_INVALID"),
        ("another app's", token_of_second_client(&stage.cloud, &user.username).await, "TOKEN_WRONG_AUDIENCE"),
    ] {
        table.row(sent, sessions.sign_in(by_id_token(&token)).await, Code::Unauthenticated, expected, "token");
    }

    let unknown = format!("sessions/{}", Ulid::generate());
    let not_found = Code::NotFound;
    let answer = sessions.get_session(v1::GetSessionRequest { name: unknown.clone() }).await;
    table.row("an unknown session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
    let answer = credentials.get_aws_credentials(v1::GetAwsCredentialsRequest { session: unknown.clone() }).await;
    table.row("an unknown session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
    let foreign = v1::UploadSpec { session: unknown, ..spec("free/a") };
    let answer = send(&mut uploads, [begin(Ulid::generate(), foreign), finish(0)]).await;
    table.row("an unknown session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
    if let Some(channel) = stage.channel_of_other_uid().await {
        let mut theirs = v1::session_service_client::SessionServiceClient::new(channel.clone());
        let mut vended = v1::credential_service_client::CredentialServiceClient::new(channel.clone());
        let mut steering = v1::gateway_service_client::GatewayServiceClient::new(channel);
        let name = session.name.clone();
        let answer = theirs.get_session(v1::GetSessionRequest { name: name.clone() }).await;
        table.row("another uid's session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
        let answer = theirs.watch_session(v1::WatchSessionRequest { name: name.clone() }).await;
        table.row("another uid's session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
        let answer = theirs.refresh_session(v1::RefreshSessionRequest { name: name.clone() }).await;
        table.row("another uid's session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
        let answer = theirs.sign_out(v1::SignOutRequest { name: name.clone(), ..Default::default() }).await;
        table.row("another uid's session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
        let answer = vended.get_aws_credentials(v1::GetAwsCredentialsRequest { session: name.clone() }).await;
        table.row("another uid's session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
        let answer = vended.get_tokens(v1::GetTokensRequest { session: name, ..Default::default() }).await;
        table.row("another uid's session", answer, not_found, "SESSION_NOT_FOUND", "ListSessions");
        let denied = Code::PermissionDenied;
        table.row("Pause", steering.pause(v1::PauseRequest {}).await, denied, "NOT_ADMIN", "root");
        table.row("Resume", steering.resume(v1::ResumeRequest {}).await, denied, "NOT_ADMIN", "root");
        let answer = steering.reload_config(v1::ReloadConfigRequest {}).await;
        table.row("ReloadConfig", answer, denied, "NOT_ADMIN", "root");
    }
    assert_nothing_left(&stage, &[]).await;

    // Two hours later by the cloud's clock, which the daemon follows.
    let second_user = stage.sign_up().await;
    sessions.sign_out(request).await.unwrap();
    set_skew(&stage.cloud, 2 * 3_600_000);
    session_of(sessions.sign_in(by_password(&second_user.username, PASSWORD)).await.unwrap().into_inner());
    let answer = sessions.sign_in(by_id_token(&kept)).await;
    table.row("an expired token", answer, Code::Unauthenticated, "TOKEN_EXPIRED", "expired");
    table.finish("sessions and tokens");
}

fn set_skew(cloud: &LocalCloud, clock_skew_ms: i64) {
    let plan = tidegate::local_cloud::faults::Plan { clock_skew_ms, ..Default::default() };
    cloud.faults().replace(plan).unwrap();
}

fn parts(token: &str) -> (String, String, String) {
    let mut parts = token.split('.').map(str::to_owned);
    (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
}

fn with_other_signature(token: &str) -> String {
    let (header, claims, signature) = parts(token);
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    format!("{header}.{claims}.{flipped}{}", &signature[1..])
}

fn with_other_claims(token: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let (header, claims, signature) = parts(token);
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let claims = URL_SAFE_NO_PAD.encode(claims.replacen("\"sub\":\"", "\"sub\":\"f", 1));
    format!("{header}.{claims}.{signature}")
}

fn without_signature(token: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let (_, claims, _) = parts(token);
    format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#))
}

async fn token_of_second_client(cloud: &LocalCloud, username: &str) -> String {
    use aws_sdk_cognitoidentityprovider as cognito;
    let config = cognito::Config::builder()
        .behavior_version(cognito::config::BehaviorVersion::latest())
        .region(cognito::config::Region::new(cloud.outputs()["Region"].clone()))
        .endpoint_url(cloud.url())
        .build();
    let signed_in = cognito::Client::from_conf(config)
        .initiate_auth()
        .client_id(&cloud.outputs()["SecondClientId"])
        .auth_flow(cognito::types::AuthFlowType::UserPasswordAuth)
        .auth_parameters("USERNAME", username)
        .auth_parameters("PASSWORD", PASSWORD)
        .send()
        .await
        .unwrap();
    signed_in.authentication_result().unwrap().id_token().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn starting() {
    let stage = Stage::start().await;
    // A configuration with three mistakes: all three, each with its place.
    let broken = stage
        .config_text()
        .replace("socket_mode = \"0666\"", "socket_mode = \"rw\"")
        .replace("upstream_burst = 100", "upstream_burst = \"many\"")
        .replace("tiered = true", "tierd = true");
    let file = stage.config_file().with_extension("broken");
    std::fs::write(&file, &broken).unwrap();
    let error = Config::load(&file).unwrap_err();
    let ConfigError::Invalid { problems, .. } = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 3, "{error}");
    let line_of = |text: &str| broken.lines().position(|line| line.starts_with(text)).unwrap() + 1;
    for key in ["socket_mode", "upstream_burst", "tierd"] {
        let shown = error.to_string();
        let place = format!(":{}:", line_of(key));
        let named = shown.lines().any(|line| line.contains(key) && line.contains(&place));
        assert!(named, "{key} at {place} is not in:\n{shown}");
    }
    // The same by RPC: refused, and the running configuration stays.
    std::fs::write(stage.config_file(), &broken).unwrap();
    let status = stage.gateway().await.reload_config(v1::ReloadConfigRequest {}).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "INVALID_CONFIG"));
    for key in ["socket_mode", "upstream_burst", "tierd"] {
        assert!(status.message().contains(key), "{}", status.message());
    }
    std::fs::write(stage.config_file(), stage.config_text()).unwrap();

    // A socket that is taken.
    let elsewhere = stage.config_text().replace("/state\"", "/state2\"");
    let config = Config::parse(&elsewhere).unwrap();
    let error = Daemon::start(config, None, None).await.unwrap_err();
    assert!(matches!(error, DaemonError::Listen(tidegate::api::ListenError::Taken { .. })), "{error}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");

    // A state directory that cannot be written: beneath a file.
    let beneath_file = stage.config_text().replace("/state\"", "/tidegate.toml/state\"");
    let beneath_file = beneath_file.replace("/tidegate.sock\"", "/other.sock\"");
    let config = Config::parse(&beneath_file).unwrap();
    let error = Daemon::start(config, None, None).await.unwrap_err();
    assert!(error.to_string().contains("tidegate.toml/state"), "{error}");
    assert!(!stage.socket_path().with_file_name("other.sock").exists(), "a failed start left its socket");

    // A state directory that is taken.
    let same_state = stage.config_text().replace("/tidegate.sock\"", "/other.sock\"");
    let config = Config::parse(&same_state).unwrap();
    let error = Daemon::start(config, None, None).await.unwrap_err();
    assert!(error.to_string().contains("in use by another daemon"), "{error}");
    assert!(!stage.socket_path().with_file_name("other.sock").exists(), "a failed start left its socket");

    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    assert_nothing_left(&stage, &[]).await;
}
