//! Guests: who they are, what they may not, and how they make way for a user.
#![allow(clippy::unwrap_used)]

use secrecy::ExposeSecret;

use super::*;
use crate::session::mailbox::Command;

async fn guest(device: &Device, caller: &Caller) -> SessionView {
    device.sessions.sign_in(caller, None, SignInMethod::Guest).await.unwrap().session().unwrap()
}

async fn signer(device: &Device, identity_id: &str) -> Result<ServedCredentials, SessionError> {
    device.sessions.credentials_for_upload(ADA.uid, "app", identity_id).await
}

/// What the upload room does when sessions have changed, and nothing is left to send.
async fn uploads_end(device: &Device) {
    for session in device.sessions.signing_out() {
        device.sessions.uploads_done(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_has_credentials_but_no_tokens_and_is_the_same_again() {
    let mut device = Device::new().await;
    let first = guest(&device, &ADA).await;
    assert_eq!((first.kind, first.state, first.subject.as_str()), (SessionKind::Guest, SessionState::Active, ""));
    let identity_id = first.identity_id.clone().unwrap();
    let served = device.sessions.credentials(&ADA, None).await.unwrap();
    assert_eq!(served.identity_id, identity_id);
    assert!(matches!(device.sessions.tokens(&ADA, None).await, Err(SessionError::GuestHasNoTokens)));
    device.sessions.refresh(&ADA, None).await.unwrap();

    let again = guest(&device, &ADA).await;
    assert_eq!((&again.id, &again.identity_id), (&first.id, &first.identity_id));
    let other = guest(&device, &BOB).await;
    assert_ne!(other.identity_id, first.identity_id, "every uid has its own guest");
    device.restart("key").await;
    let after = guest(&device, &ADA).await;
    assert_eq!((&after.id, &after.identity_id), (&first.id, &first.identity_id));
    assert_eq!(device.cloud.count("identity_id"), 2);
    assert_eq!((device.cloud.count("refresh"), device.cloud.count("sign_in")), (0, 0));
    signer(&device, &identity_id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn where_guests_are_not_wanted_they_are_told_why() {
    let device = Device::new().await;
    device.cloud.pools().takes_guests = false;
    let error = device.sessions.sign_in(&ADA, None, SignInMethod::Guest).await.unwrap_err();
    assert!(matches!(&error, SessionError::GuestsRefused(why) if why.contains("identity pool")), "{error}");
    assert_eq!(device.sessions.count(None), 0);

    let closed = Identity { guests: false, ..device.cloud.identity("app") };
    let dir = tempfile::tempdir().unwrap();
    let config = Config { seal_key_file: dir.path().join("key"), ..Config::default() };
    let sessions = Sessions::start(config, vec![closed], dir.path(), device.clock.clone(), CancellationToken::new())
        .await
        .unwrap();
    let error = sessions.sign_in(&ADA, None, SignInMethod::Guest).await.unwrap_err();
    assert!(matches!(&error, SessionError::GuestsRefused(why) if why.contains("guests = true")), "{error}");
    assert_eq!(device.cloud.count("identity_id"), 1, "the pool was not asked");
}

#[tokio::test(start_paused = true)]
async fn a_guest_who_has_signed_out_is_never_continued() {
    let device = Device::new().await;
    let first = guest(&device, &ADA).await;
    device.sessions.sign_out(&ADA, None, SignOutUploads::Drain, false).await.unwrap();
    let second = guest(&device, &ADA).await;
    assert_ne!((&second.id, &second.identity_id), (&first.id, &first.identity_id));
    signer(&device, &first.identity_id.unwrap()).await.expect("what the first one left is still sent");
    device.sessions.sign_out(&ADA, Some(&second.id), SignOutUploads::Park, false).await.unwrap();
    let second_id = second.identity_id.unwrap();
    assert!(!device.sessions.takes_uploads(&second.id));
    device.pass(Duration::from_secs(30 * 86_400)).await;
    signer(&device, &second_id).await.expect("nobody could come back for it: it is sent, however long that takes");
    assert!(device.sessions.guest_may_sign(ADA.uid, "app", &second_id));
    uploads_end(&device).await;
    assert!(!device.sessions.guest_may_sign(ADA.uid, "app", &second_id));
    assert!(device.sessions.guest_may_sign(ADA.uid, "gone", &second_id), "the configuration may get it back");
    assert!(!device.file(&second.id).exists());
    assert!(device.cloud.pools().revoked.is_empty(), "there is nothing to revoke");
}

#[tokio::test(start_paused = true)]
async fn the_guests_identity_id_becomes_the_users_where_nothing_is_left_to_send() {
    let mut device = Device::new().await;
    let guest = guest(&device, &ADA).await;
    let guest_id = guest.identity_id.clone().unwrap();
    let ((), user) = tokio::join!(ends_at_once(&device), device.sign_in(&ADA, "ada"));
    let user = user.unwrap();
    assert_eq!((user.identity_id.as_ref(), user.merged_from.as_ref()), (Some(&guest_id), None));
    assert_ne!(user.id, guest.id);
    assert!(matches!(device.sessions.get(&ADA, Some(&guest.id)), Err(SessionError::NotFound(_))));
    assert!(!device.file(&guest.id).exists());
    let served = device.sessions.credentials(&ADA, None).await.unwrap();
    assert_eq!(served.identity_id, guest_id);
    device.restart("key").await;
    let restored = device.sessions.get(&ADA, None).unwrap();
    assert_eq!((restored.identity_id, restored.merged_from), (Some(guest_id), None));
}

#[tokio::test(start_paused = true)]
async fn uploads_that_take_longer_stay_the_guests_and_the_user_learns_where_they_are() {
    let mut device = Device::new().await;
    let guest = guest(&device, &ADA).await;
    let guest_id = guest.identity_id.clone().unwrap();
    let before = tokio::time::Instant::now();
    let user = device.sign_in(&ADA, "ada").await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(5), "guest_hand_over_wait_ms");
    assert_eq!(user.identity_id.as_deref(), Some("us-east-1:ada"));
    assert_eq!(user.merged_from.as_ref(), Some(&guest_id));
    assert_eq!(device.cloud.count("link"), 0, "the pool must not link what still uploads");
    assert!(matches!(
        device.sessions.credentials(&ADA, Some(&guest.id)).await,
        Err(SessionError::NeedsSignIn(why)) if why.contains("signed out")
    ));
    assert_eq!(device.sessions.get(&ADA, None).unwrap().id, user.id, "the guest is not meant any more");

    let draining = signer(&device, &guest_id).await.unwrap();
    assert_eq!(draining.identity_id, guest_id);
    assert_eq!(draining.credentials.session_token.as_ref().map(ExposeSecret::expose_secret), Some(guest_id.as_str()));
    assert_eq!(signer(&device, "us-east-1:ada").await.unwrap().identity_id, "us-east-1:ada");
    device.restart("key").await;
    assert_eq!(signer(&device, &guest_id).await.unwrap().identity_id, guest_id);
    assert_eq!(device.sessions.get(&ADA, None).unwrap().merged_from.as_ref(), Some(&guest_id));
    uploads_end(&device).await;
    assert!(matches!(signer(&device, &guest_id).await, Err(SessionError::NeedsSignIn(_))));
    assert_eq!(device.sessions.list(&ADA).len(), 1);
    device.sign_in(&ADA, "ada").await.unwrap();
    assert_eq!(device.sessions.get(&ADA, None).unwrap().merged_from, Some(guest_id), "still, after the next sign-in");
}

#[tokio::test(start_paused = true)]
async fn an_offer_whose_answer_was_lost_is_made_again_and_one_that_is_refused_is_not() {
    let device = Device::new().await;
    let first = guest(&device, &ADA).await.identity_id;
    device.cloud.pools().link_errors.push_back(CredentialErrorKind::Transient);
    let ((), user) = tokio::join!(ends_at_once(&device), device.sign_in(&ADA, "ada"));
    assert_eq!(user.unwrap().identity_id, None);
    device.pass(Duration::from_secs(121)).await;
    let served = device.sessions.credentials(&ADA, None).await.unwrap();
    assert_eq!((Some(served.identity_id), device.cloud.count("link")), (first, 2));
    assert_eq!(device.sessions.get(&ADA, None).unwrap().merged_from, None);

    let second = guest(&device, &ADA).await.identity_id.unwrap();
    let ((), again) = tokio::join!(ends_at_once(&device), device.sign_in(&ADA, "ada"));
    let again = again.unwrap();
    assert_eq!(again.merged_from, Some(second), "the user has an identity id already");
    assert_ne!(again.identity_id, again.merged_from);
}

/// The upload room while a guest makes way: it looks as often as sessions change.
async fn ends_at_once(device: &Device) {
    let mut changes = device.sessions.changed();
    let mut seen = false;
    loop {
        seen |= !device.sessions.signing_out().is_empty();
        uploads_end(device).await;
        if seen && device.sessions.signing_out().is_empty() {
            return;
        }
        changes.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_makes_room_for_the_user_on_a_full_device() {
    let device = Device::new().await;
    for user in ["a", "b"] {
        device.sign_in(&BOB, user).await.unwrap();
    }
    guest(&device, &ADA).await;
    assert!(matches!(
        device.sessions.sign_in(&BOB, None, SignInMethod::Guest).await,
        Err(SessionError::LimitReached(3))
    ));
    let ((), user) = tokio::join!(ends_at_once(&device), device.sign_in(&ADA, "ada"));
    user.unwrap();
}

#[tokio::test(start_paused = true)]
async fn guests_of_before_are_drained_where_they_are_not_allowed_any_more() {
    let device = Device::new().await;
    let first = guest(&device, &ADA).await.identity_id.unwrap();
    device.sessions.shutdown().await;
    let closed = Identity { guests: false, ..device.cloud.identity("app") };
    let config = Config { seal_key_file: device.dir.path().join("key"), ..Config::default() };
    let stop = CancellationToken::new();
    let sessions = Sessions::start(config, vec![closed], device.dir.path(), device.clock.clone(), stop).await.unwrap();
    assert!(matches!(sessions.credentials(&ADA, None).await, Err(SessionError::NoSession)));
    sessions.credentials_for_upload(ADA.uid, "app", &first).await.expect("what was accepted is sent");
    for session in sessions.signing_out() {
        sessions.uploads_done(&session).await;
    }
    assert_eq!(sessions.count(None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_guest_behind_a_lost_key_is_nobody() {
    let mut device = Device::new().await;
    let before = guest(&device, &ADA).await;
    device.restart("another-key").await;
    assert_eq!(device.sessions.get(&ADA, None).unwrap().state, SessionState::NeedsSignIn);
    assert!(matches!(device.sessions.credentials(&ADA, None).await, Err(SessionError::NeedsSignIn(_))));
    let after = guest(&device, &ADA).await;
    assert_ne!((&after.id, &after.identity_id), (&before.id, &before.identity_id));
    assert_eq!(device.sessions.list(&ADA).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_who_signs_out_meanwhile_does_not_come_back() {
    let device = Device::new().await;
    let first = guest(&device, &ADA).await;
    // Found before the sign-out and told after it, as two threads may.
    let found = device.sessions.shared().guest_of(ADA.uid, "app").unwrap();
    device.sessions.sign_out(&ADA, None, SignOutUploads::Drain, false).await.unwrap();
    let told = found.tell(Command::GuestSignedIn).await;
    assert!(matches!(told, Err(SessionError::Unavailable { .. })), "another guest comes instead: {told:?}");
    let refused = device.sessions.credentials(&ADA, Some(&first.id)).await;
    assert!(matches!(refused, Err(SessionError::NeedsSignIn(_))), "{refused:?}");
    uploads_end(&device).await;
    assert_eq!(device.sessions.count(None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_guest_who_ends_while_the_user_signs_in_stands_in_nobodys_way() {
    let device = Device::new().await;
    device.sign_in(&ADA, "ada").await.unwrap();
    device.cloud.pools().wrong_subject = Some("eve".into());
    device.sessions.refresh(&ADA, None).await.unwrap_err();
    let guest = guest(&device, &ADA).await;
    let identity = device.cloud.identity("app");
    let tokens = identity.tokens.verify("id.ada.0".into(), None, None).await.unwrap();
    // The user's parked session is ended first, and the guest ends while that is waited for.
    let adopted = Arc::clone(device.sessions.shared()).adopt(ADA.uid, identity, tokens, "ada".into(), false);
    let out = device.sessions.sign_out(&ADA, Some(&guest.id), SignOutUploads::Cancel, false);
    let (adopted, out) = tokio::join!(adopted, out);
    out.unwrap();
    assert_eq!(adopted.unwrap().place.subject, "ada");
}
