//! What a session keeps through lost replies, full disks, killed processes and wrong clocks.

use super::*;
use crate::session::files::Files;

const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;

impl Device {
    fn sessions_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("sessions")
    }

    fn disk_full(&self, full: bool) {
        let (here, away) = (self.sessions_dir(), self.dir.path().join("away"));
        if full { std::fs::rename(here, away).unwrap() } else { std::fs::rename(away, here).unwrap() }
    }

    async fn kept_refresh_token(&self) -> String {
        use secrecy::ExposeSecret as _;
        let (_, found) = Files::open(self.sessions_dir(), None, self.dir.path().join("key")).await.unwrap();
        let token = found[0].contents.as_ref().unwrap().refresh_token.clone();
        token.unwrap().expose_secret().to_owned()
    }

    fn good_refresh_token(&self) -> String {
        self.cloud.pools().refresh_tokens["ada"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn what_had_ended_when_it_arrived_replaces_nothing() {
    let device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    let before = device.sessions.credentials(&ADA, None).await.unwrap().credentials.access_key_id.clone();
    for lifetime in [0, 40] {
        device.cloud.pools().lifetime = Some(Duration::from_secs(lifetime));
        let refused = device.sessions.refresh(&ADA, None).await;
        if lifetime == 0 {
            assert!(matches!(refused, Err(SessionError::Unavailable { .. })));
            let served = device.sessions.credentials(&ADA, None).await.unwrap();
            assert_eq!(served.credentials.access_key_id, before);
            assert!(served.last_error.unwrap().contains("had ended when it arrived"));
            device.sessions.tokens(&ADA, None).await.expect("the old ID token is as good as before");
            device.pass(Duration::from_secs(121)).await;
        } else {
            refused.expect("a short life is a life");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotated_token_that_cannot_be_written_is_neither_used_nor_lost() {
    let device = Device::new().await;
    device.cloud.pools().rotate = true;
    device.sign_in(&ADA, "ada").await.unwrap();
    device.sessions.refresh(&ADA, None).await.unwrap();
    assert_eq!(device.kept_refresh_token().await, device.good_refresh_token());
    let before = device.sessions.credentials(&ADA, None).await.unwrap().credentials.access_key_id.clone();

    // The disk fills up while the reply is on its way.
    device.cloud.set_open(false);
    let sessions = device.sessions.clone();
    let refresh = tokio::spawn(async move { sessions.refresh(&ADA, None).await });
    while device.cloud.pools().in_flight.0 == 0 {
        tokio::task::yield_now().await;
    }
    device.disk_full(true);
    device.cloud.set_open(true);
    assert!(matches!(refresh.await.unwrap(), Err(SessionError::Unavailable { .. })));
    let served = device.sessions.credentials(&ADA, None).await.unwrap();
    assert_eq!(served.credentials.access_key_id, before, "nothing that came along is used");
    assert!(served.last_error.unwrap().contains("could not be kept"));

    // While it is full nothing more is rotated away.
    let calls = device.cloud.count("refresh");
    for _ in 0..20 {
        device.pass(Duration::from_secs(30)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(device.cloud.count("refresh"), calls);
    device.disk_full(false);
    device.pass(Duration::from_secs(130)).await;
    device.sessions.refresh(&ADA, None).await.unwrap();
    assert_eq!(device.kept_refresh_token().await, device.good_refresh_token());
}

#[tokio::test(start_paused = true)]
async fn a_rotated_token_survives_an_answer_that_cannot_be_verified() {
    let device = Device::new().await;
    device.cloud.pools().rotate = true;
    device.sign_in(&ADA, "ada").await.unwrap();
    let why = Box::new(TokenError::Transient("the issuer's keys: no route".into()));
    device.cloud.pools().unverified = Some(why);
    assert!(matches!(device.sessions.refresh(&ADA, None).await, Err(SessionError::Unavailable { .. })));
    assert_eq!(device.kept_refresh_token().await, device.good_refresh_token());
    device.pass(Duration::from_secs(3)).await;
    device.sessions.refresh(&ADA, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_was_killed_in_a_rotation_asks_again_at_once() {
    let device = Device::new().await;
    device.cloud.pools().rotate = true;
    device.sign_in(&ADA, "ada").await.unwrap();
    device.cloud.set_open(false);
    let sessions = device.sessions.clone();
    tokio::spawn(async move { sessions.refresh(&ADA, None).await });
    while device.cloud.pools().in_flight.0 == 0 {
        tokio::task::yield_now().await;
    }
    // What a process that is killed now leaves behind.
    let left = tempfile::tempdir().unwrap();
    std::fs::create_dir(left.path().join("sessions")).unwrap();
    std::fs::copy(device.dir.path().join("key"), left.path().join("key")).unwrap();
    for entry in std::fs::read_dir(device.sessions_dir()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), left.path().join("sessions").join(entry.file_name())).unwrap();
    }
    let cloud = FakeCloud::new(&device.clock);
    cloud.pools().refresh_tokens = device.cloud.pools().refresh_tokens.clone();
    let sessions = start(&cloud, &device.clock, left.path(), "key").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((cloud.count("refresh"), cloud.count("credentials")), (1, 1), "without the spread after a boot");
    sessions.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_years_off_after_a_boot_wipes_nothing_and_keeps_nothing_for_ever() {
    for step_ms in [TEN_YEARS_MS, -TEN_YEARS_MS] {
        let mut device = Device::new().await;
        device.sign_in(&ADA, "ada").await.unwrap();
        device.cloud.pools().token_errors.push_back(TokenError::NotAuthorized("Invalid Refresh Token".into()));
        device.sessions.refresh(&ADA, None).await.unwrap_err();
        device.clock.step_wall(step_ms);
        device.restart("key").await;
        assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::NeedsSignIn);
        device.sessions.refresh(&ADA, None).await.expect("the token was kept");

        let session = device.sessions.get(&ADA, None).unwrap();
        device.sessions.sign_out(&ADA, None, SignOutUploads::Drain, false).await.unwrap();
        device.clock.step_wall(-step_ms);
        device.restart("key").await;
        device.uploads(&ADA, "ada").await.expect("still drains");
        for _ in 0..25 {
            device.pass(Duration::from_secs(3_600)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(matches!(device.sessions.get(&ADA, Some(&session.id)), Err(SessionError::NotFound(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn everywhere_is_everywhere_also_without_a_refresh_token() {
    let device = Device::new().await;
    let method = SignInMethod::Tokens { id_token: "id.ada.0".into(), access_token: None, refresh_token: None };
    for everywhere in [false, true] {
        device.sessions.sign_in(&ADA, None, method.clone()).await.unwrap();
        device.sessions.sign_out(&ADA, None, SignOutUploads::Park, everywhere).await.unwrap();
    }
    let ended = async {
        while device.cloud.pools().revoked.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the access token can still end the others");
    assert_eq!(device.cloud.pools().revoked, [(String::new(), true)]);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_read_again_after_a_restart_is_not_taken() {
    let device = Device::new().await;
    let method = |bytes: usize| SignInMethod::Tokens {
        id_token: "id.ada.0".into(),
        access_token: None,
        refresh_token: Some("x".repeat(bytes).into()),
    };
    let error = device.sessions.sign_in(&ADA, None, method(300_000)).await.unwrap_err();
    assert!(matches!(&error, SessionError::Token(TokenError::TokenInvalid(why)) if why.contains("16384")), "{error}");
    assert_eq!(device.sessions.count(None), 0);
    device.sessions.sign_in(&ADA, None, method(16_384)).await.unwrap();
}
