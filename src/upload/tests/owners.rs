use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::fixture::{ALICE, BOB, Device, Running, photo, session_of, spec};
use crate::session::{SessionError, SignOutUploads};
use crate::store::StoreErrorKind as Kind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{ListFilter, Ulid, UploadError, UploadState, WaitReason, failure};

#[tokio::test(flavor = "multi_thread")]
async fn another_uids_uploads_do_not_exist() {
    let device = Device::new();
    let daemon = device.start().await;
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(100)).await.unwrap();
    daemon.end(id).await;
    assert!(matches!(daemon.get(&BOB, id).await, Err(UploadError::NotFound(_))));
    assert!(matches!(daemon.cancel(&BOB, id).await, Err(UploadError::NotFound(_))));
    assert!(matches!(daemon.retry(&BOB, id).await, Err(UploadError::NotFound(_))));
    assert!(matches!(daemon.watch(&BOB, id).await, Err(UploadError::NotFound(_))));
    assert!(matches!(daemon.resume(&BOB, id, 0).await, Err(UploadError::NotFound(_))));
    assert!(daemon.list(&BOB, &ListFilter::default(), 10, None).await.unwrap().0.is_empty());
    assert!(daemon.stats(Some(BOB.uid)).await.unwrap().counts.is_empty());
    assert_eq!(daemon.stats(Some(ALICE.uid)).await.unwrap().counts["SUCCEEDED"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_everything_once_newest_first() {
    let device = Device::new();
    let daemon = device.start().await;
    daemon.set_paused(true);
    let mut ids: Vec<Ulid> = (0..7).map(|number| Ulid::from_parts(1_700_000_000_000 + number, 1)).collect();
    for id in &ids {
        daemon.stream(*id, spec("cat.jpg"), b"x").await.unwrap();
    }
    daemon.cancel(&ALICE, ids[3]).await.unwrap();
    ids.reverse();
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let (page, next) = daemon.list(&ALICE, &ListFilter::default(), 2, before).await.unwrap();
        found.extend(page.iter().map(|view| view.id));
        before = next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(found, ids);
    let waiting = ListFilter { states: vec![UploadState::Waiting(WaitReason::Retry)], ..ListFilter::default() };
    let (page, next) = daemon.list(&ALICE, &waiting, 6, None).await.unwrap();
    assert_eq!((page.len(), next), (6, None));
    assert!(page.iter().all(|view| view.state == UploadState::Waiting(WaitReason::Paused)));
    let queued = ListFilter { states: vec![UploadState::Queued], ..ListFilter::default() };
    assert!(daemon.list(&ALICE, &queued, 6, None).await.unwrap().0.is_empty());
    let counts = daemon.stats(None).await.unwrap().counts;
    assert_eq!((counts["WAITING"], counts["CANCELLED"], counts.get("QUEUED")), (6, 1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_upload_waits_for_its_own_user() {
    let device = Device::new();
    let daemon = device.start().await;
    let (id, bobs) = (Ulid::generate(), Ulid::generate());
    daemon.set_paused(true);
    daemon.stream(id, spec("cat.jpg"), &photo(300_000)).await.unwrap();
    device.people.sign_out(ALICE.uid);
    assert_eq!(daemon.session_ended(&session_of(ALICE.uid), SignOutUploads::Park).await.unwrap(), 1);
    daemon.set_paused(false);
    daemon.state(id, UploadState::Waiting(WaitReason::SignIn)).await;
    let mut ingest = daemon.begin(&BOB, bobs, spec("dog.jpg")).await.unwrap();
    ingest.write(Bytes::from(photo(300_000))).await.unwrap();
    ingest.finish(300_000, None).await.unwrap();
    assert_eq!(daemon.end(bobs).await.state, UploadState::Succeeded);
    assert_eq!(daemon.get(&ALICE, id).await.unwrap().state, UploadState::Waiting(WaitReason::SignIn));
    daemon.crash().await;
    let daemon = device.start().await;
    daemon.state(id, UploadState::Waiting(WaitReason::SignIn)).await;
    assert!(device.store.signers().iter().all(|key| key.starts_with("us-east-1:1002")), "only Bob has signed");
    device.people.sign_in(ALICE.uid);
    let done = daemon.end(id).await;
    assert_eq!((done.state, done.key.starts_with("users/us-east-1:1001/")), (UploadState::Succeeded, true));
}

/// Two uploads of a daemon that is paused.
async fn two_that_wait(daemon: &Running) -> [Ulid; 2] {
    daemon.set_paused(true);
    let ids = [Ulid::generate(), Ulid::generate()];
    for id in ids {
        daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_drains_or_cancels() {
    let device = Device::new();
    let daemon = device.start().await;
    let ids = two_that_wait(&daemon).await;
    device.people.begin_sign_out(ALICE.uid);
    assert_eq!(daemon.session_ended(&session_of(ALICE.uid), SignOutUploads::Drain).await.unwrap(), 2);
    let late = daemon.begin(&ALICE, Ulid::generate(), spec("late.jpg")).await.unwrap_err();
    assert!(matches!(late, UploadError::Session(_)), "{late}");
    daemon.set_paused(false);
    for id in ids {
        assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    }
    daemon.stop().await;
    let done = device.people.done();
    assert!(!done.is_empty() && done.iter().all(|session| *session == session_of(ALICE.uid)), "{done:?}");

    device.people.sign_in(ALICE.uid);
    let daemon = device.start().await;
    let ids = two_that_wait(&daemon).await;
    assert_eq!(daemon.session_ended(&session_of(ALICE.uid), SignOutUploads::Cancel).await.unwrap(), 2);
    for id in ids {
        assert_eq!(daemon.get(&ALICE, id).await.unwrap().state, UploadState::Cancelled);
    }
    assert_eq!((device.objects().len(), device.spool_files()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_cancels_every_upload_also_where_whoever_asked_for_it_is_gone() {
    let device = Device::new();
    let daemon = device.start().await;
    let ids = two_that_wait(&daemon).await;
    let session = session_of(ALICE.uid);
    let gone = tokio::time::timeout(Duration::ZERO, daemon.session_ended(&session, SignOutUploads::Cancel)).await;
    assert!(gone.is_err(), "nobody waited for it");
    for id in ids {
        assert_eq!(daemon.end(id).await.state, UploadState::Cancelled);
    }
    daemon.stop().await;
    assert_eq!((device.objects().len(), device.spool_files()), (0, 0));
}

/// The sign-out has counted the session's uploads, and then the row of one more is written.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_comes_in_the_moment_of_a_sign_out_is_refused_and_leaves_nothing() {
    let device = Device::new();
    let daemon = device.start().await;
    let (streamed, named) = (Ulid::generate(), Ulid::generate());
    let path = device.file("cat.jpg", &photo(1_000));
    device.people.sign_out_after(1);
    let refused = daemon.begin(&ALICE, streamed, spec("cat.jpg")).await.unwrap_err();
    assert!(matches!(refused, UploadError::Session(SessionError::NotFound(_))), "{refused}");
    device.people.sign_in(ALICE.uid);
    device.people.sign_out_after(1);
    let refused = daemon.create_from_file(&ALICE, Some(named), spec("cat.jpg"), &path).await.unwrap_err();
    assert!(matches!(refused, UploadError::Session(SessionError::NotFound(_))), "{refused}");
    for id in [streamed, named] {
        assert!(matches!(daemon.get(&ALICE, id).await, Err(UploadError::NotFound(_))));
    }
    assert!(daemon.stats(None).await.unwrap().counts.is_empty());
    assert_eq!((device.spool_files(), device.store.calls(Operation::Put)), (0, 0));
    // The same calls after the next sign-in are not held to what became of the first ones.
    device.people.sign_out_after(u32::MAX);
    device.people.sign_in(ALICE.uid);
    daemon.stream(streamed, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    daemon.create_from_file(&ALICE, Some(named), spec("cat.jpg"), &path).await.unwrap();
    for id in [streamed, named] {
        assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_left_that_is_gone_fails_with_its_bytes_kept() {
    let device = Device::new();
    device.people.make_guest(ALICE.uid);
    let daemon = device.start().await;
    daemon.set_paused(true);
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    device.people.sign_out(ALICE.uid);
    daemon.set_paused(false);
    let gone = daemon.end(id).await;
    assert_eq!((gone.state, gone.failure.unwrap().reason), (UploadState::Failed, failure::GUEST_GONE));
    assert_eq!((device.spool_files(), device.store.signers()), (1, vec![]));
    // The pool gave the guest's identity id to a user of the same uid, who is signed in now.
    device.people.sign_in(ALICE.uid);
    daemon.retry(&ALICE, id).await.unwrap();
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    assert_eq!(device.spool_files(), 0);
}

/// What happens on a device that two people share under one uid.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Uploads { large: bool },
    SignsIn(&'static str),
    SignsOut,
    Pauses(bool),
    Fails(Operation, Kind),
    Crashes,
}

fn turn() -> impl Strategy<Value = Turn> {
    let operation = prop_oneof![Just(Operation::Put), Just(Operation::UploadPart), Just(Operation::Complete)];
    let kind =
        prop_oneof![Just(Kind::CredentialsExpired), Just(Kind::AccessDenied), Just(Kind::Server), Just(Kind::Offline)];
    prop_oneof![
        4 => any::<bool>().prop_map(|large| Turn::Uploads { large }),
        2 => prop_oneof![Just("ada"), Just("bea")].prop_map(Turn::SignsIn),
        1 => Just(Turn::SignsOut),
        2 => any::<bool>().prop_map(Turn::Pauses),
        2 => (operation, kind).prop_map(|(operation, kind)| Turn::Fails(operation, kind)),
        1 => Just(Turn::Crashes),
    ]
}

async fn share_a_device(turns: &[Turn]) {
    let device = Device::new();
    let mut daemon = device.start().await;
    device.people.sign_in_as(ALICE.uid, "ada");
    let mut ids = Vec::new();
    for turn in turns {
        match *turn {
            Turn::Uploads { large } => {
                let id = Ulid::generate();
                let accepted = daemon.stream(id, spec("cat.jpg"), &photo(if large { 200_000 } else { 2_000 })).await;
                ids.extend(accepted.ok().map(|_| id));
            }
            Turn::SignsIn(user) => device.people.sign_in_as(ALICE.uid, user),
            Turn::SignsOut => {
                device.people.sign_out(ALICE.uid);
                daemon.session_ended(&session_of(ALICE.uid), SignOutUploads::Park).await.unwrap();
            }
            Turn::Pauses(paused) => daemon.set_paused(paused),
            Turn::Fails(operation, kind) => device.store.next(operation, Fault::Before(kind)),
            Turn::Crashes => {
                daemon.crash().await;
                daemon = device.start().await;
            }
        }
    }
    device.store.clear();
    daemon.set_paused(false);
    for user in ["ada", "bea"] {
        device.people.sign_in_as(ALICE.uid, user);
        for id in &ids {
            let theirs = daemon.get(&ALICE, *id).await.unwrap().key.contains(user);
            if theirs {
                let mut ended = daemon.end(*id).await;
                // Denied twice is denied.
                if ended.failure.as_ref().is_some_and(|failure| failure.reason == failure::ACCESS_DENIED) {
                    daemon.retry(&ALICE, *id).await.unwrap();
                    ended = daemon.end(*id).await;
                }
                assert_eq!(ended.state, UploadState::Succeeded, "{:?}", ended.failure);
            }
        }
    }
    for (access_key_id, key) in device.store.signed() {
        let identity_id = access_key_id.split('#').next().unwrap();
        assert!(key.starts_with(&format!("users/{identity_id}/")), "{key} was signed with keys of {identity_id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whoever signs in, out and in again, whatever fails: every call about an object is signed by its own user.
    #[test]
    fn nobody_signs_anothers_upload(turns in proptest::collection::vec(turn(), 4..24)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(share_a_device(&turns));
    }
}
