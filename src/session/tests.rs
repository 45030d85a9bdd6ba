//! Sessions over the fake pools: who sees what, single flight, failures, sign-out, restarts.
#![allow(clippy::unwrap_used)]

mod guests;
mod keeping;
mod services;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fake::{FakeCloud, FakeCredentials, LIFETIME};
use super::*;
use crate::caller::Caller;
use crate::clock::{Clock, from_unix_ms};
use crate::credential::CredentialErrorKind;

mod challenges;

const ADA: Caller = Caller { uid: 1_000, gid: 1_000, is_admin: false };
const BOB: Caller = Caller { uid: 1_001, gid: 1_001, is_admin: false };
const ROOT: Caller = Caller { uid: 0, gid: 0, is_admin: true };

struct Device {
    dir: tempfile::TempDir,
    clock: Clock,
    cloud: Arc<FakeCloud>,
    sessions: Sessions,
}

impl Device {
    async fn new() -> Self {
        let clock = Clock::manual(from_unix_ms(1_800_000_000_000));
        let cloud = FakeCloud::new(&clock);
        let dir = tempfile::tempdir().unwrap();
        let sessions = start(&cloud, &clock, dir.path(), "key").await.unwrap();
        Self { dir, clock, cloud, sessions }
    }

    async fn restart(&mut self, key: &str) {
        self.sessions.shutdown().await;
        self.sessions = start(&self.cloud, &self.clock, self.dir.path(), key).await.unwrap();
    }

    async fn sign_in(&self, caller: &Caller, user: &str) -> Result<SessionView, SessionError> {
        let method = SignInMethod::Password { username: user.to_owned(), password: "right".into() };
        Ok(self.sessions.sign_in(caller, None, method).await?.session().unwrap())
    }

    /// Time passes for the clock and for the timers.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::advance(time).await;
    }

    fn file(&self, id: &SessionId) -> std::path::PathBuf {
        self.dir.path().join(format!("sessions/{}.session", id.0))
    }

    async fn uploads(&self, caller: &Caller, user: &str) -> Result<ServedCredentials, SessionError> {
        self.sessions.credentials_for_upload(caller.uid, "app", &format!("us-east-1:{user}")).await
    }
}

async fn start(cloud: &Arc<FakeCloud>, clock: &Clock, dir: &Path, key: &str) -> Result<Sessions, SessionError> {
    let config = Config { seal_key_file: dir.join(key), max_sessions: 3, upstream_burst: 1_000, ..Config::default() };
    Sessions::start(config, vec![cloud.identity("app")], dir, clock.clone(), CancellationToken::new()).await
}

#[tokio::test(start_paused = true)]
async fn the_same_user_is_the_same_session_and_another_uid_sees_nothing() {
    let device = Device::new().await;
    let first = device.sign_in(&ADA, "ada").await.unwrap();
    assert_eq!((first.state, first.identity_id.as_deref()), (SessionState::Active, Some("us-east-1:ada")));
    let again = device.sign_in(&ADA, "ada").await.unwrap();
    assert_eq!(first.id, again.id);
    assert_eq!(device.sessions.list(&ADA).len(), 1);

    let sessions = &device.sessions;
    for other in [BOB, ROOT] {
        let id = Some(&first.id);
        assert!(sessions.list(&other).is_empty());
        assert!(matches!(sessions.get(&other, None), Err(SessionError::NoSession)));
        assert!(matches!(sessions.get(&other, id), Err(SessionError::NotFound(_))));
        assert!(matches!(sessions.watch(&other, id), Err(SessionError::NotFound(_))));
        assert!(matches!(sessions.credentials(&other, id).await, Err(SessionError::NotFound(_))));
        assert!(matches!(sessions.tokens(&other, id).await, Err(SessionError::NotFound(_))));
        assert!(matches!(sessions.refresh(&other, id).await, Err(SessionError::NotFound(_))));
        let out = sessions.sign_out(&other, id, SignOutUploads::Park, false).await;
        assert!(matches!(out, Err(SessionError::NotFound(_))));
        assert!(matches!(device.uploads(&other, "ada").await, Err(SessionError::NeedsSignIn(_))));
    }
    let same_user_other_uid = device.sign_in(&BOB, "ada").await.unwrap();
    assert_ne!(first.id, same_user_other_uid.id);
    assert_eq!((sessions.count(None), sessions.count(Some(ADA.uid))), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn wrong_passwords_and_full_devices_leave_nothing_behind() {
    let device = Device::new().await;
    let method = SignInMethod::Password { username: "ada".into(), password: "wrong".into() };
    let error = device.sessions.sign_in(&ADA, None, method.clone()).await.unwrap_err();
    assert!(matches!(error, SessionError::Token(TokenError::BadCredentials(_))));
    let error = device.sessions.sign_in(&ADA, Some("nope"), method).await.unwrap_err();
    assert!(matches!(&error, SessionError::IdentityNotFound(_, has) if has == "app"));
    for user in ["a", "b", "c"] {
        device.sign_in(&ADA, user).await.unwrap();
    }
    assert!(matches!(device.sessions.get(&ADA, None), Err(SessionError::Ambiguous(3))));
    assert!(matches!(device.sign_in(&ADA, "d").await, Err(SessionError::LimitReached(3))));
    assert_eq!(std::fs::read_dir(device.dir.path().join("sessions")).unwrap().count(), 3);
    device.sign_in(&ADA, "b").await.expect("who has a session may sign in again");
}

#[tokio::test(start_paused = true)]
async fn a_uid_that_floods_sign_ins_is_held_back_alone() {
    let device = Device::new().await;
    device.cloud.set_open(false);
    let mut under_way: Vec<_> = (0..50).map(|_| Box::pin(device.sign_in(&ADA, "ada"))).collect();
    let mut refused = 0;
    for sign_in in &mut under_way {
        let now = tokio::time::timeout(Duration::from_millis(1), sign_in).await;
        refused += u32::from(matches!(now, Ok(Err(SessionError::Unavailable { .. }))));
    }
    assert_eq!(refused, 46);
    drop(under_way);
    device.cloud.set_open(true);
    device.sign_in(&BOB, "bob").await.unwrap();
    device.sign_in(&ADA, "ada").await.expect("those who went away gave their places back");
}

#[tokio::test]
async fn ten_thousand_callers_make_one_call_and_those_who_leave_cancel_nothing() {
    let mut device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    device.restart("key").await;
    device.cloud.pools().calls.clear();
    device.cloud.set_open(false);
    let ask = || {
        let sessions = device.sessions.clone();
        tokio::spawn(async move { sessions.credentials(&ADA, None).await })
    };
    let first = ask();
    let mut others: Vec<_> = (0..10_000).map(|_| ask()).collect();
    while device.cloud.count("refresh") == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    for leaving in others.drain(..5_000) {
        leaving.abort();
    }
    device.cloud.set_open(true);
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().identity_id, "us-east-1:ada");
    }
    let pools = device.cloud.pools();
    assert_eq!(pools.calls, [("credentials", 1), ("refresh", 1)].into());
    assert_eq!(pools.in_flight.1, 1, "one call at a time");
    println!("10,001 callers, 5,001 of them left: calls {:?}", pools.calls);
}

#[tokio::test(start_paused = true)]
async fn a_failing_upstream_leaves_what_is_valid_until_a_minute_before_its_end() {
    let device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    let served = device.sessions.credentials(&ADA, None).await.unwrap();
    assert!(!served.stale);
    device.cloud.pools().token_errors.extend(vec![TokenError::Transient("the link is down".into()); 1_000]);
    assert!(matches!(device.sessions.refresh(&ADA, None).await, Err(SessionError::Unavailable { .. })));
    let stale = device.sessions.credentials(&ADA, None).await.unwrap();
    assert!(stale.stale && stale.last_error.unwrap().contains("the link is down"));
    assert_eq!(stale.credentials.access_key_id, served.credentials.access_key_id);
    assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::Stale);

    device.cloud.pools().credential_errors.extend(vec![CredentialErrorKind::Transient; 1_000]);
    device.clock.advance(LIFETIME - Duration::from_secs(61));
    assert!(device.sessions.credentials(&ADA, None).await.unwrap().stale);
    device.clock.advance(Duration::from_secs(1));
    let gone = device.sessions.credentials(&ADA, None).await.unwrap_err();
    assert!(matches!(gone, SessionError::Unavailable { .. }), "{gone}");

    device.cloud.pools().token_errors.clear();
    device.cloud.pools().credential_errors.clear();
    device.pass(Duration::from_secs(121)).await;
    let fresh = device.sessions.credentials(&ADA, None).await.unwrap();
    assert!(!fresh.stale);
    assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::Active);
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_wall_clock_moves_no_deadline() {
    let device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    let before = device.cloud.count("credentials");
    for years in [-10_i64, 10] {
        let there = from_unix_ms(1_800_000_000_000 + years * 365 * 86_400_000);
        device.clock.observe_server_date(there);
        device.sessions.credentials(&ADA, None).await.unwrap();
    }
    assert_eq!(device.cloud.count("credentials"), before);
}

#[tokio::test(start_paused = true)]
async fn refreshes_ahead_by_itself() {
    let device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    let mut view = device.sessions.watch(&ADA, None).unwrap();
    let first = view.borrow_and_update().credentials_expire_time;
    for _ in 0..45 {
        device.pass(Duration::from_secs(60)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(view.borrow_and_update().credentials_expire_time > first);
    assert_eq!(device.cloud.count("credentials"), 2);
}

#[tokio::test(start_paused = true)]
async fn another_users_answer_parks_the_session() {
    let device = Device::new().await;
    let session = device.sign_in(&ADA, "ada").await.unwrap();
    device.cloud.pools().wrong_subject = Some("eve".into());
    assert!(matches!(device.sessions.refresh(&ADA, None).await, Err(SessionError::IdentityChanged(_))));
    assert!(matches!(device.sessions.credentials(&ADA, None).await, Err(SessionError::IdentityChanged(_))));
    assert!(matches!(device.sessions.tokens(&ADA, None).await, Err(SessionError::IdentityChanged(_))));
    assert!(matches!(device.uploads(&ADA, "ada").await, Err(SessionError::IdentityChanged(_))));
    assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::NeedsSignIn);
    let anew = device.sign_in(&ADA, "ada").await.unwrap();
    assert_ne!(anew.id, session.id);
    assert_eq!(device.sessions.list(&ADA).len(), 1);
    device.uploads(&ADA, "ada").await.expect("the same identity id goes on");
}

#[tokio::test(start_paused = true)]
async fn another_identity_id_parks_the_session() {
    let device = Device::new().await;
    let session = device.sign_in(&ADA, "ada").await.unwrap();
    device.cloud.pools().identity_ids.insert("ada".into(), "us-east-1:other".into());
    device.cloud.pools().credential_errors.push_back(CredentialErrorKind::IdentityMoved);
    assert!(matches!(device.sessions.refresh(&ADA, None).await, Err(SessionError::IdentityChanged(_))));
    let anew = device.sign_in(&ADA, "ada").await.unwrap();
    assert_eq!(anew.identity_id.as_deref(), Some("us-east-1:other"));
    assert_ne!(anew.id, session.id, "a session's identity id never changes");
    assert!(matches!(device.uploads(&ADA, "ada").await, Err(SessionError::NeedsSignIn(_))), "the queue stays parked");
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_without_a_sign_in() {
    let mut device = Device::new().await;
    device.cloud.pools().groups.insert("ada".into(), vec!["paid-tier".into()]);
    let before = device.sign_in(&ADA, "ada").await.unwrap();
    device.restart("key").await;
    let after = device.sessions.get(&ADA, None).unwrap();
    assert_eq!((&after.id, &after.identity_id, &after.groups), (&before.id, &before.identity_id, &before.groups));
    assert_eq!(
        (after.username.as_str(), after.state, after.create_time),
        ("ada", SessionState::Active, before.create_time)
    );
    device.uploads(&ADA, "ada").await.unwrap();
    assert_eq!(device.cloud.count("identity_id"), 1, "the identity id was kept");
    assert_eq!(device.cloud.count("sign_in"), 1);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_nobody_asks_for_come_back_within_the_boot_spread() {
    let mut device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    device.restart("key").await;
    assert_eq!(device.cloud.count("refresh"), 0);
    for _ in 0..19 {
        device.pass(Duration::from_secs(10)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((device.cloud.count("refresh"), device.cloud.count("credentials")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_asks_for_a_sign_in_and_the_session_comes_back_as_itself() {
    let mut device = Device::new().await;
    let before = device.sign_in(&ADA, "ada").await.unwrap();
    device.restart("another-key").await;
    let view = device.sessions.get(&ADA, None).unwrap();
    assert_eq!((view.state, view.identity_id), (SessionState::NeedsSignIn, None));
    let error = device.sessions.credentials(&ADA, None).await.unwrap_err();
    assert!(matches!(&error, SessionError::NeedsSignIn(why) if why.contains("seal key")), "{error}");
    assert!(matches!(device.uploads(&ADA, "ada").await, Err(SessionError::NeedsSignIn(_))));
    let after = device.sign_in(&ADA, "ada").await.unwrap();
    assert_eq!((after.id, after.identity_id), (before.id, before.identity_id));
    device.uploads(&ADA, "ada").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rotated_refresh_tokens_survive_a_restart() {
    let mut device = Device::new().await;
    device.cloud.pools().rotate = true;
    device.sign_in(&ADA, "ada").await.unwrap();
    for _ in 0..3 {
        device.sessions.refresh(&ADA, None).await.unwrap();
        device.restart("key").await;
        device.sessions.credentials(&ADA, None).await.expect("the newest token was kept");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_needs_a_sign_in_but_is_kept_and_a_finished_one_is_wiped() {
    let mut device = Device::new().await;
    let session = device.sign_in(&ADA, "ada").await.unwrap();
    device.cloud.pools().token_errors.push_back(TokenError::NotAuthorized("Refresh Token has been revoked".into()));
    assert!(matches!(device.sessions.refresh(&ADA, None).await, Err(SessionError::NeedsSignIn(_))));
    assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::NeedsSignIn);
    device.sessions.credentials(&ADA, None).await.expect("served to its end");
    device.restart("key").await;
    assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::NeedsSignIn, "also after a restart");
    device.sessions.refresh(&ADA, None).await.expect("the token was kept, and works again");
    assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::Active);

    let sealed = std::fs::read(device.file(&session.id)).unwrap();
    device.cloud.pools().token_errors.push_back(TokenError::Terminal("no such user".into()));
    device.sessions.refresh(&ADA, None).await.unwrap_err();
    assert!(matches!(device.sessions.credentials(&ADA, None).await, Err(SessionError::NeedsSignIn(_))));
    assert_ne!(std::fs::read(device.file(&session.id)).unwrap(), sealed);
    device.restart("key").await;
    assert!(matches!(device.sessions.credentials(&ADA, None).await, Err(SessionError::NeedsSignIn(_))), "wiped");
}

#[tokio::test(start_paused = true)]
async fn signing_out_ends_vending_at_once_and_revokes() {
    let mut device = Device::new().await;
    let session = device.sign_in(&ADA, "ada").await.unwrap();
    let mut view = device.sessions.watch(&ADA, None).unwrap();
    device.sessions.sign_out(&ADA, None, SignOutUploads::Park, true).await.unwrap();
    assert!(matches!(device.sessions.credentials(&ADA, None).await, Err(SessionError::NoSession)));
    assert!(matches!(device.sessions.credentials(&ADA, Some(&session.id)).await, Err(SessionError::NotFound(_))));
    assert!(matches!(device.uploads(&ADA, "ada").await, Err(SessionError::NeedsSignIn(_))));
    assert!(!device.file(&session.id).exists());
    while view.changed().await.is_ok() {}
    while device.cloud.count("revoke") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(device.cloud.pools().revoked, [("refresh.ada.1".to_owned(), true)]);
    device.restart("key").await;
    assert_eq!(device.sessions.count(None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drained_session_is_the_uploads_alone_also_over_a_restart() {
    let mut device = Device::new().await;
    let session = device.sign_in(&ADA, "ada").await.unwrap();
    let id = Some(&session.id);
    device.sessions.sign_out(&ADA, id, SignOutUploads::Drain, false).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(device.sessions.credentials(&ADA, id).await, Err(SessionError::NeedsSignIn(_))));
        assert!(matches!(device.sessions.tokens(&ADA, id).await, Err(SessionError::NeedsSignIn(_))));
        assert!(matches!(device.sessions.refresh(&ADA, id).await, Err(SessionError::NeedsSignIn(_))));
        assert_eq!(device.sessions.get(&ADA, id).unwrap().state, SessionState::SigningOut);
        assert!(matches!(device.sessions.get(&ADA, None), Err(SessionError::NoSession)));
        device.uploads(&ADA, "ada").await.unwrap();
        assert_eq!(device.sessions.signing_out(), std::slice::from_ref(&session.id));
        device.restart("key").await;
    }
    assert_eq!(device.cloud.count("revoke"), 0);
    device.sessions.uploads_done(&session.id).await;
    assert!(matches!(device.uploads(&ADA, "ada").await, Err(SessionError::NeedsSignIn(_))));
    assert!(!device.file(&session.id).exists());

    let session = device.sign_in(&ADA, "ada").await.unwrap();
    device.sessions.sign_out(&ADA, None, SignOutUploads::Drain, false).await.unwrap();
    let back = device.sign_in(&ADA, "ada").await.unwrap();
    assert_eq!((back.id, back.state), (session.id.clone(), SessionState::Active), "signing in again takes it back");
    device.sessions.uploads_done(&session.id).await;
    device.sessions.credentials(&ADA, None).await.unwrap();

    device.sessions.sign_out(&ADA, None, SignOutUploads::Drain, false).await.unwrap();
    for _ in 0..25 {
        device.pass(Duration::from_secs(3_600)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(device.sessions.count(None), 0, "after a day it ends by itself");
}

#[tokio::test(start_paused = true)]
async fn a_denial_refreshes_once_for_all_workers_and_brings_the_new_group() {
    let device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    let key = device.uploads(&ADA, "ada").await.unwrap().credentials.access_key_id.clone();
    device.cloud.pools().calls.clear();
    device.cloud.pools().groups.insert("ada".into(), vec!["paid-tier".into()]);
    let denied = || device.sessions.refresh_after_denied(ADA.uid, "app", "us-east-1:ada", &key);
    let (a, b, c) = tokio::join!(denied(), denied(), denied());
    assert!(a.unwrap() && b.unwrap() && c.unwrap());
    assert!(denied().await.unwrap(), "the credentials are other ones already");
    assert_eq!(device.cloud.pools().calls, [("credentials", 1), ("refresh", 1)].into());
    let now = device.uploads(&ADA, "ada").await.unwrap().credentials.access_key_id.clone();
    assert_ne!(now, key);
    assert_eq!(device.sessions.get(&ADA, None).unwrap().groups, ["paid-tier"]);
    let again = || device.sessions.refresh_after_denied(ADA.uid, "app", "us-east-1:ada", &now);
    assert!(again().await.unwrap(), "a new group starts the interval over");
    let last = device.uploads(&ADA, "ada").await.unwrap().credentials.access_key_id.clone();
    let early = device.sessions.refresh_after_denied(ADA.uid, "app", "us-east-1:ada", &last).await;
    assert!(!early.unwrap());
}

#[tokio::test(start_paused = true)]
async fn waiting_uploads_hear_of_sign_ins_rotations_and_ends() {
    let device = Device::new().await;
    let mut changed = device.sessions.changed();
    device.sign_in(&ADA, "ada").await.unwrap();
    assert!(changed.has_changed().unwrap());
    changed.borrow_and_update();
    device.sessions.refresh(&ADA, None).await.unwrap();
    assert!(changed.has_changed().unwrap());
    changed.borrow_and_update();
    device.sessions.sign_out(&ADA, None, SignOutUploads::Park, false).await.unwrap();
    assert!(changed.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn tokens_are_refreshed_when_little_is_left() {
    let device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    device.sessions.tokens(&ADA, None).await.unwrap();
    assert_eq!(device.cloud.count("refresh"), 0);
    device.clock.advance(LIFETIME - Duration::from_secs(299));
    let tokens = device.sessions.tokens(&ADA, None).await.unwrap();
    assert_eq!(device.cloud.count("refresh"), 1);
    assert!(tokens.id_token_expire_time > device.clock.wall() + Duration::from_secs(3_000));
    assert!(tokens.access_token.is_some());
}

#[tokio::test(start_paused = true)]
async fn handed_in_tokens_without_a_refresh_token_end_with_the_id_token() {
    let mut device = Device::new().await;
    let method = || SignInMethod::Tokens { id_token: "ada".into(), access_token: None, refresh_token: None };
    let session = device.sessions.sign_in(&ADA, None, method()).await.unwrap().session().unwrap();
    assert_eq!(session.state, SessionState::Active);
    device.restart("key").await;
    let view = device.sessions.get(&ADA, None).unwrap();
    assert_eq!((view.state, view.identity_id), (SessionState::NeedsSignIn, Some("us-east-1:ada".to_owned())));
    let again = device.sessions.sign_in(&ADA, None, method()).await.unwrap().session().unwrap();
    assert_eq!((again.id, again.state), (session.id, SessionState::Active));
}

#[tokio::test(start_paused = true)]
async fn a_tiered_identity_refuses_a_source_where_the_client_names_the_role() {
    let clock = Clock::manual(from_unix_ms(1_800_000_000_000));
    let cloud = FakeCloud::new(&clock);
    let dir = tempfile::tempdir().unwrap();
    let start = async |tiered, allow| {
        let mut identity = cloud.identity("app");
        identity.tiered = tiered;
        identity.allow_client_role_choice = allow;
        identity.credentials = Arc::new(FakeCredentials { cloud: Arc::clone(&cloud), names_role: true });
        let config = Config { seal_key_file: dir.path().join("key"), ..Config::default() };
        Sessions::start(config, vec![identity], dir.path(), clock.clone(), CancellationToken::new()).await
    };
    assert!(matches!(start(true, false).await, Err(SessionError::Configuration(why)) if why.contains("tiered")));
    start(false, false).await.unwrap();
    start(true, true).await.unwrap();
}
