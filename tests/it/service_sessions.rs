//! Service sessions over the real API: device accounts that sign themselves in at the local cloud.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tidegate::api::v1;
use tidegate::api::v1::session_service_client::SessionServiceClient;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::fixture::{OTHER_UID, PASSWORD, Stage, User, reason};

const PATIENCE: Duration = Duration::from_secs(30);

/// Puts the device account into the configuration, with its password in a file.
async fn hire(stage: &mut Stage, account: &User, password: &str, more_uids: &str) {
    let file = stage.photos_dir().join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let own = rustix::process::getuid().as_raw();
    let table = format!(
        "\n[[service_session]]\nname = \"kiosk\"\nallowed_uids = [{own}{more_uids}]\nusername = \"{}\"\n\
         password_file = \"{}\"\n",
        account.username,
        file.display()
    );
    let adjust = |text: &str| text.replace("[session]", "[session]\nboot_spread_ms = 0") + &table;
    stage.restart_with(adjust).await;
}

/// Waits until the only session is as it should be.
async fn until(stage: &Stage, is_so: impl Fn(&v1::Session) -> bool) -> v1::Session {
    let mut states =
        stage.sessions().await.watch_session(v1::WatchSessionRequest::default()).await.unwrap().into_inner();
    let found = async {
        loop {
            let session = states.next().await.expect("it does not end").unwrap().session.unwrap();
            if is_so(&session) {
                return session;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("it comes to be so")
}

async fn refresh(stage: &Stage) -> Result<v1::Session, tonic::Status> {
    let refreshed = stage.sessions().await.refresh_session(v1::RefreshSessionRequest::default()).await?;
    Ok(refreshed.into_inner().session.unwrap())
}

#[tokio::test]
async fn a_device_account_signs_itself_in_uploads_and_stays() {
    let mut stage = Stage::start().await;
    let account = stage.sign_up().await;
    hire(&mut stage, &account, PASSWORD, &format!(", {OTHER_UID}")).await;
    let session = until(&stage, |session| session.credentials_expire_time.is_some()).await;
    assert_eq!((session.kind(), session.state()), (v1::SessionKind::Service, v1::SessionState::Active));
    assert_eq!(session.username, account.username);
    assert!(!session.subject.is_empty() && session.last_error.is_empty());
    let stored = stage.upload_and_wait("free/device.jpg", b"of the device").await.unwrap();
    assert!(stored.object.unwrap().key.starts_with(&format!("users/{}/free/device-", session.identity_id)));

    let out = v1::SignOutRequest { name: session.name.clone(), ..Default::default() };
    let error = stage.sessions().await.sign_out(out).await.unwrap_err();
    assert_eq!(reason(&error), "SERVICE_SESSION_STAYS");
    if let Some(channel) = stage.channel_of_other_uid().await {
        let mut other: SessionServiceClient<Channel> = SessionServiceClient::new(channel);
        let seen = other.get_session(v1::GetSessionRequest::default()).await.unwrap().into_inner().session.unwrap();
        assert_eq!(seen.name, session.name, "its uids share it");
    }

    stage.restart_with(|text| text.replace(&format!(", {OTHER_UID}]"), "]")).await;
    let after = until(&stage, |session| session.credentials_expire_time.is_some()).await;
    assert_eq!((&after.name, &after.identity_id), (&session.name, &session.identity_id));
    assert_eq!(stage.cloud.counters().of("cognito-idp:InitiateAuth"), 1, "the refresh token was kept");
    if let Some(channel) = stage.channel_of_other_uid().await {
        let mut other: SessionServiceClient<Channel> = SessionServiceClient::new(channel);
        let request = v1::GetSessionRequest { name: session.name.clone() };
        assert_eq!(reason(&other.get_session(request).await.unwrap_err()), "SESSION_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_revoked_device_signs_itself_in_again() {
    let mut stage = Stage::start().await;
    let account = stage.sign_up().await;
    hire(&mut stage, &account, PASSWORD, "").await;
    let session = until(&stage, |session| session.credentials_expire_time.is_some()).await;
    let sign_ins = stage.cloud.counters().of("cognito-idp:InitiateAuth");
    let pool = stage.cloud.outputs()["UserPoolId"].clone();
    let revoke = stage.users().admin_user_global_sign_out().user_pool_id(pool).username(&account.username);
    revoke.send().await.unwrap();
    let again = refresh(&stage).await.unwrap();
    assert_eq!((again.state(), again.name), (v1::SessionState::Active, session.name));
    assert_eq!(stage.cloud.counters().of("cognito-idp:InitiateAuth"), sign_ins + 1);
}

#[tokio::test]
async fn a_wrong_password_is_shown_and_a_corrected_one_counts() {
    let mut stage = Stage::start().await;
    let account = stage.sign_up().await;
    hire(&mut stage, &account, "Wrong-horse-7-battery", "").await;
    let session = until(&stage, |session| !session.last_error.is_empty()).await;
    assert_eq!(session.state(), v1::SessionState::NeedsSignIn);
    assert!(session.last_error.contains("Incorrect username or password"), "{}", session.last_error);
    assert!(!session.last_error.contains("Wrong-horse"));
    std::fs::write(stage.photos_dir().join("password"), PASSWORD).unwrap();
    let signed_in = loop {
        match refresh(&stage).await {
            Ok(session) => break session,
            // A refresh by hand waits a little after a failure.
            Err(status) => {
                let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
                assert_eq!(reason(&status), "CREDENTIALS_UNAVAILABLE");
                tokio::time::sleep(delay.unwrap()).await;
            }
        }
    };
    assert_eq!((signed_in.state(), signed_in.last_error.as_str()), (v1::SessionState::Active, ""));
    assert_eq!(stage.upload_and_wait("free/a.jpg", b"x").await.unwrap().state(), v1::UploadState::Succeeded);
}

#[tokio::test]
async fn a_device_that_starts_offline_signs_in_when_the_link_is_there() {
    let mut stage = Stage::start().await;
    let account = stage.sign_up().await;
    stage.cloud.faults().set_offline(true);
    hire(&mut stage, &account, PASSWORD, "").await;
    let session = until(&stage, |session| !session.last_error.is_empty()).await;
    assert_eq!(session.state(), v1::SessionState::Stale);
    stage.cloud.faults().set_offline(false);
    let session = until(&stage, |session| session.state() == v1::SessionState::Active).await;
    assert_eq!(session.kind(), v1::SessionKind::Service);
}
