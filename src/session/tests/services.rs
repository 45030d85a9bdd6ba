//! Service sessions: device accounts that sign themselves in.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::credential::SecretPlace;

/// A device whose configuration has an account.
struct Kiosk {
    dir: tempfile::TempDir,
    clock: Clock,
    cloud: Arc<FakeCloud>,
    sessions: Sessions,
}

impl Kiosk {
    async fn new(password: &str) -> Self {
        let clock = Clock::manual(from_unix_ms(1_800_000_000_000));
        let cloud = FakeCloud::new(&clock);
        let dir = tempfile::tempdir().unwrap();
        Self { sessions: begin(&cloud, &clock, dir.path(), "kiosk-7", password).await, dir, clock, cloud }
    }

    /// After a stop, with other uids in the configuration.
    async fn restart_for(&mut self, uids: &[u32]) {
        self.sessions.shutdown().await;
        self.sessions = begin_for(&self.cloud, &self.clock, self.dir.path(), "kiosk-7", "right", uids).await;
    }

    async fn restart(&mut self, username: &str, password: &str) {
        self.sessions.shutdown().await;
        self.sessions = begin(&self.cloud, &self.clock, self.dir.path(), username, password).await;
    }

    /// Time passes until a session is as it should be.
    async fn until(&self, is_so: impl Fn(&SessionView) -> bool) -> SessionView {
        for _ in 0..5_000 {
            let view = self.sessions.get(&ADA, None).unwrap();
            if is_so(&view) {
                return view;
            }
            self.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("it never is: {:?}", self.sessions.get(&ADA, None));
    }
}

async fn begin(cloud: &Arc<FakeCloud>, clock: &Clock, dir: &Path, username: &str, password: &str) -> Sessions {
    begin_for(cloud, clock, dir, username, password, &[ADA.uid, BOB.uid]).await
}

async fn begin_for(
    cloud: &Arc<FakeCloud>,
    clock: &Clock,
    dir: &Path,
    username: &str,
    password: &str,
    uids: &[u32],
) -> Sessions {
    let file = dir.join("password");
    std::fs::write(&file, password).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let login = ServiceLogin::Password { username: username.into(), password: SecretPlace::File(file) };
    let account = ServiceConfig { name: "kiosk".into(), identity: "app".into(), allowed_uids: uids.to_vec(), login };
    let config = Config { seal_key_file: dir.join("key"), services: vec![account], ..Config::default() };
    let identities = vec![cloud.identity("app")];
    Sessions::start(config, identities, dir, clock.clone(), CancellationToken::new()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_signs_itself_in_and_its_uids_share_it() {
    let mut kiosk = Kiosk::new("right").await;
    let early = kiosk.sessions.get(&ADA, None).unwrap();
    assert_eq!((early.kind, early.username.as_str(), early.subject.as_str()), (SessionKind::Service, "kiosk-7", ""));
    let view = kiosk.until(|view| view.credentials_expire_time.is_some()).await;
    assert_eq!((&view.id, view.subject.as_str(), view.state), (&early.id, "kiosk-7", SessionState::Active));
    assert_eq!((kiosk.cloud.count("sign_in"), kiosk.cloud.count("refresh")), (1, 0));
    for caller in [ADA, BOB] {
        let served = kiosk.sessions.credentials(&caller, Some(&view.id)).await.unwrap();
        assert_eq!(served.identity_id, "us-east-1:kiosk-7");
        kiosk.sessions.tokens(&caller, None).await.unwrap();
        kiosk.sessions.credentials_for_upload(caller.uid, "app", "us-east-1:kiosk-7").await.unwrap();
        let out = kiosk.sessions.sign_out(&caller, Some(&view.id), SignOutUploads::Drain, true).await;
        assert!(matches!(out, Err(SessionError::ServiceSession(name)) if name == "kiosk"));
        assert_eq!((kiosk.sessions.list(&caller).len(), kiosk.sessions.count(Some(caller.uid))), (1, 1));
    }
    assert!(matches!(kiosk.sessions.get(&ROOT, Some(&view.id)), Err(SessionError::NotFound(_))));
    assert_eq!(kiosk.sessions.count(None), 1);

    kiosk.restart("kiosk-7", "right").await;
    let restored = kiosk.sessions.get(&BOB, None).unwrap();
    assert_eq!((restored.id, restored.identity_id, restored.subject), (view.id, view.identity_id, view.subject));
    kiosk.sessions.credentials(&BOB, None).await.unwrap();
    assert_eq!((kiosk.cloud.count("sign_in"), kiosk.cloud.count("refresh")), (1, 1), "the refresh token was kept");
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_is_replaced_by_a_sign_in() {
    let kiosk = Kiosk::new("right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    for error in [TokenError::NotAuthorized("revoked".into()), TokenError::Terminal("reuse".into())] {
        kiosk.cloud.pools().token_errors.push_back(error);
        let before = kiosk.cloud.count("sign_in");
        kiosk.sessions.refresh(&ADA, None).await.unwrap();
        assert_eq!(kiosk.cloud.count("sign_in"), before + 1);
        assert_eq!(kiosk.sessions.get(&ADA, None).unwrap().state, SessionState::Active);
    }
    kiosk.cloud.pools().token_errors.push_back(TokenError::Transient("the link is down".into()));
    assert!(matches!(kiosk.sessions.refresh(&ADA, None).await, Err(SessionError::Unavailable { .. })));
    assert_eq!(kiosk.cloud.count("sign_in"), 3, "being offline is no reason to sign in again");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_shown_and_tried_slowly_until_it_is_right() {
    let kiosk = Kiosk::new("wrong").await;
    let view = kiosk.until(|view| view.last_error.is_some()).await;
    assert_eq!(view.state, SessionState::NeedsSignIn);
    assert!(view.last_error.unwrap().contains("Incorrect username or password"));
    let error = kiosk.sessions.credentials(&ADA, None).await.unwrap_err();
    let SessionError::NeedsSignIn(why) = &error else { panic!("{error:?}") };
    assert!(why.contains("service session \"kiosk\"") && why.contains("Incorrect username or password"), "{why}");
    assert!(!why.contains("the user must sign in again"), "no caller can: {why}");
    for _ in 0..100 * 60 {
        kiosk.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let tries = kiosk.cloud.count("sign_in");
    assert!((85..=101).contains(&tries), "hourly for 100 hours, and never given up: {tries}");
    std::fs::write(kiosk.dir.path().join("password"), "right\n").unwrap();
    let view = kiosk.until(|view| view.state == SessionState::Active).await;
    assert_eq!(view.last_error, None, "the corrected file counts without a restart");
}

#[tokio::test(start_paused = true)]
async fn offline_at_the_start_is_fine_and_a_password_that_cannot_be_read_is_said() {
    let kiosk = Kiosk::new("right").await;
    let file = kiosk.dir.path().join("password");
    std::fs::remove_file(&file).unwrap();
    let error = kiosk.sessions.credentials(&ADA, None).await.unwrap_err();
    let SessionError::Configuration(why) = &error else { panic!("{error:?}") };
    assert!(why.contains("service session \"kiosk\"") && why.contains("No such file"), "{why}");

    let kiosk = Kiosk::new("right").await;
    kiosk.cloud.pools().sign_in_errors.extend(vec![TokenError::Transient("the link is down".into()); 3]);
    let view = kiosk.until(|view| view.last_error.is_some()).await;
    assert_eq!(view.state, SessionState::Stale);
    kiosk.until(|view| view.state == SessionState::Active && view.credentials_expire_time.is_some()).await;
    assert_eq!(kiosk.cloud.count("sign_in"), 4);
}

#[tokio::test(start_paused = true)]
async fn another_account_is_another_session_and_one_that_was_taken_out_ends() {
    let mut kiosk = Kiosk::new("right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    let first = kiosk.sessions.get(&ADA, None).unwrap();
    kiosk.restart("kiosk-8", "right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    let second = kiosk.sessions.get(&ADA, None).unwrap();
    assert_ne!((&second.id, &second.identity_id), (&first.id, &first.identity_id));
    assert_eq!(kiosk.sessions.count(None), 1);
    while kiosk.cloud.pools().revoked.is_empty() {
        tokio::task::yield_now().await;
    }
    kiosk.sessions.shutdown().await;
    let config = Config { seal_key_file: kiosk.dir.path().join("key"), ..Config::default() };
    let (dir, clock) = (kiosk.dir.path(), kiosk.clock.clone());
    let identities = vec![kiosk.cloud.identity("app")];
    let sessions = Sessions::start(config, identities, dir, clock, CancellationToken::new()).await.unwrap();
    assert_eq!(sessions.count(None), 0);
    assert_eq!(std::fs::read_dir(dir.join("sessions")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_is_never_another_user_than_before() {
    let kiosk = Kiosk::new("right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    kiosk.cloud.pools().wrong_subject = Some("eve".into());
    let error = kiosk.sessions.refresh(&ADA, None).await.unwrap_err();
    assert!(matches!(&error, SessionError::IdentityChanged(why) if why.contains("another name")), "{error}");
    let upload = kiosk.sessions.credentials_for_upload(ADA.uid, "app", "us-east-1:kiosk-7").await;
    assert!(matches!(upload, Err(SessionError::IdentityChanged(_))));

    let kiosk = Kiosk::new("right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    kiosk.cloud.pools().identity_ids.insert("kiosk-7".into(), "us-east-1:another".into());
    let error = kiosk.sessions.refresh(&ADA, None).await.unwrap_err();
    assert!(matches!(&error, SessionError::IdentityChanged(why) if why.contains("another name")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_person_with_the_same_account_has_a_session_of_their_own() {
    let kiosk = Kiosk::new("right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    let service = kiosk.sessions.get(&ADA, None).unwrap();
    let method = SignInMethod::Password { username: "kiosk-7".into(), password: "right".into() };
    let person = kiosk.sessions.sign_in(&ADA, None, method).await.unwrap().session().unwrap();
    assert_ne!(person.id, service.id);
    assert_eq!(person.kind, SessionKind::User);
    assert!(matches!(kiosk.sessions.get(&ADA, None), Err(SessionError::Ambiguous(2))));
    kiosk.sessions.sign_out(&ADA, Some(&person.id), SignOutUploads::Park, false).await.unwrap();
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_fakes_pass_the_suites() {
    let clock = Clock::manual(from_unix_ms(1_800_000_000_000));
    let cloud = FakeCloud::new(&clock);
    let identity = cloud.identity("app");
    // A fake verifies nothing.
    let subject = super::super::conformance::Subject {
        source: identity.tokens,
        password: Some(("ada".into(), "right".into())),
        id_token: Some("id.ada.0".into()),
        forged: vec![],
        foreign: vec![],
        expired: vec![],
    };
    super::super::conformance::run(&subject).await;
    let login = crate::credential::Login {
        provider: "cognito-idp.us-east-1.amazonaws.com/pool".into(),
        subject: "ada".into(),
        id_token: "id.ada.1".into(),
    };
    let subject = crate::credential::conformance::Subject {
        source: identity.credentials,
        clock,
        login,
        takes_guests: true,
        looks_at_tokens: false,
    };
    crate::credential::conformance::run(&subject).await;
}

#[tokio::test(start_paused = true)]
async fn the_device_that_the_pool_tracks_goes_with_every_refresh() {
    let mut kiosk = Kiosk::new("right").await;
    kiosk.cloud.pools().tracks_devices = true;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    kiosk.sessions.refresh(&ADA, None).await.unwrap();
    kiosk.restart("kiosk-7", "right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    assert_eq!((kiosk.cloud.count("sign_in"), kiosk.cloud.count("refresh")), (1, 2));
    assert_eq!(kiosk.cloud.pools().devices.len(), 1, "not a new device with every refresh");
}

#[tokio::test(start_paused = true)]
async fn a_uid_that_is_taken_out_has_no_use_of_the_endpoint_any_more() {
    let mut kiosk = Kiosk::new("right").await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    let (id, token) = kiosk.sessions.endpoint_token(&BOB, None, false).await.unwrap();
    let token = secrecy::ExposeSecret::expose_secret(&token).as_bytes().to_vec();
    kiosk.restart_for(&[ADA.uid, BOB.uid, 1_002]).await;
    kiosk.sessions.credentials_for_token(&id, &token).await.expect("nobody was taken out");
    for uids in [&[ADA.uid, 1_002][..], &[ADA.uid, BOB.uid, 1_002]] {
        kiosk.restart_for(uids).await;
        let refused = kiosk.sessions.credentials_for_token(&id, &token).await;
        assert!(matches!(refused, Err(EndpointRefusal::NotAdmitted)), "{refused:?}");
    }
    let (same, _) = kiosk.sessions.endpoint_token(&ADA, None, false).await.unwrap();
    assert_eq!(same, id);
}

#[tokio::test(start_paused = true)]
async fn a_uid_that_is_named_twice_has_one_session() {
    let mut kiosk = Kiosk::new("right").await;
    kiosk.restart_for(&[ADA.uid, BOB.uid, ADA.uid]).await;
    kiosk.sessions.credentials(&ADA, None).await.unwrap();
    assert_eq!(kiosk.sessions.list(&ADA).len(), 1);
}
