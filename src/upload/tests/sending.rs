use super::fixture::{ALICE, Device, photo, spec};
use crate::store::StoreErrorKind as Kind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{KeyPolicy, OnDenied, Ulid, UploadFailure, UploadSpec, UploadState, WaitReason, failure};

const SMALL: usize = 10_000;
const LARGE: usize = 300_000;

fn exact(key: &str) -> UploadSpec {
    UploadSpec { key_policy: KeyPolicy::Exact, ..spec(key) }
}

fn reason(failure: Option<UploadFailure>) -> &'static str {
    failure.unwrap().reason
}

/// Every operation may be refused before it happened, or lose its reply after it did, once or several times in a row:
/// one object, whole, and SUCCEEDED.
#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_make_no_second_object() {
    let device = Device::impatient();
    let daemon = device.start().await;
    let mut uploads = 0;
    let steps = [
        (SMALL, Operation::Put),
        (LARGE, Operation::CreateMultipart),
        (LARGE, Operation::UploadPart),
        (LARGE, Operation::Complete),
    ];
    for (len, operation) in steps {
        for fault in [
            Fault::After(Kind::Interrupted),
            Fault::After(Kind::Server),
            Fault::Before(Kind::Server),
            Fault::Before(Kind::Throttled),
            Fault::Before(Kind::ClockSkew),
            Fault::Before(Kind::CredentialsExpired),
            Fault::Before(Kind::Conflict),
            Fault::Before(Kind::Offline),
            Fault::Before(Kind::AccessDenied),
            Fault::Before(Kind::BadDigest),
            Fault::Stall,
        ] {
            for (times, spec) in
                [(1, spec("cat.jpg")), (2, exact(&format!("{operation:?}-{fault:?}.jpg"))), (5, spec("x"))]
            {
                // Denied again with fresh credentials is another test; being given expired ones again takes seconds.
                let once = [Fault::Before(Kind::AccessDenied), Fault::Before(Kind::CredentialsExpired), Fault::Stall];
                if times > 1 && once.contains(&fault) {
                    continue;
                }
                for _ in 0..times {
                    device.store.next(operation, fault);
                }
                let id = Ulid::generate();
                let content = photo(len);
                daemon.stream(id, spec, &content).await.unwrap();
                let done = daemon.end(id).await;
                let case = format!("{operation:?} {fault:?} × {times}");
                assert_eq!(done.state, UploadState::Succeeded, "{case}: {:?}", done.failure);
                assert_eq!(device.object(&done.key), content, "{case}");
                uploads += 1;
                assert_eq!(device.objects().len(), uploads, "{case}");
                device.store.clear();
            }
        }
    }
    assert_eq!(device.spool_files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_without_the_right_to_look() {
    let device = Device::new();
    let daemon = device.start().await;
    for operation in [Operation::Head, Operation::Abort, Operation::ListParts] {
        device.store.always(operation, Some(Fault::Before(Kind::AccessDenied)));
    }
    for (len, operation) in [(SMALL, Operation::Put), (LARGE, Operation::Complete)] {
        device.store.next(operation, Fault::After(Kind::Interrupted));
        let id = Ulid::generate();
        let content = photo(len);
        daemon.stream(id, spec("cat.jpg"), &content).await.unwrap();
        let done = daemon.end(id).await;
        assert_eq!(done.state, UploadState::Succeeded, "the id in the key makes it ours: {:?}", done.failure);
        assert_eq!(device.object(&done.key), content);

        device.store.next(operation, Fault::After(Kind::Interrupted));
        let id = Ulid::generate();
        daemon.stream(id, exact(&format!("{len}.jpg")), &content).await.unwrap();
        let unknown = daemon.end(id).await;
        assert_eq!(unknown.state, UploadState::Failed);
        assert_eq!(reason(unknown.failure), failure::OUTCOME_UNKNOWN);
    }
    assert_eq!(device.objects().len(), 4);
    assert_eq!(device.spool_files(), 2, "bytes of unknown outcome are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_object_is_never_claimed_or_replaced() {
    let device = Device::new();
    let daemon = device.start().await;
    for len in [SMALL, LARGE] {
        let key = format!("{len}.jpg");
        let first = Ulid::generate();
        daemon.stream(first, exact(&key), &photo(100)).await.unwrap();
        daemon.end(first).await;
        // The second upload loses its first reply as well: still not ours.
        for fault in [None, Some(Fault::Before(Kind::Interrupted))] {
            if let Some(fault) = fault {
                let operation = if len == SMALL { Operation::Put } else { Operation::Complete };
                device.store.next(operation, fault);
            }
            let second = Ulid::generate();
            daemon.stream(second, exact(&key), &photo(len)).await.unwrap();
            let refused = daemon.end(second).await;
            assert_eq!((refused.state, reason(refused.failure)), (UploadState::Failed, failure::OBJECT_EXISTS));
            assert_eq!(device.object(&refused.key), photo(100));
        }
        let third = Ulid::generate();
        let over = UploadSpec { overwrite: true, ..exact(&key) };
        daemon.stream(third, over, &photo(len)).await.unwrap();
        let replaced = daemon.end(third).await;
        assert_eq!((replaced.state, device.object(&replaced.key)), (UploadState::Succeeded, photo(len)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_final_after_one_refresh_unless_asked_to_wait() {
    let device = Device::new();
    let daemon = device.start().await;
    for (len, operation) in [(SMALL, Operation::Put), (LARGE, Operation::CreateMultipart)] {
        device.store.always(operation, Some(Fault::Before(Kind::AccessDenied)));
        let before = device.people.refreshes();
        let id = Ulid::generate();
        daemon.stream(id, spec("premium/cat.jpg"), &photo(len)).await.unwrap();
        let denied = daemon.end(id).await;
        assert_eq!((denied.state, reason(denied.failure)), (UploadState::Failed, failure::ACCESS_DENIED));
        // Parts of the large one may have been denied once while it arrived.
        let most = if len == SMALL { 1 } else { 2 };
        assert!((1..=most).contains(&(device.people.refreshes() - before)));
        assert_eq!(device.spool_files(), 1, "its bytes are kept");

        let patient = Ulid::generate();
        let waits = UploadSpec { on_denied: OnDenied::Wait, ..spec("premium/dog.jpg") };
        daemon.stream(patient, waits, &photo(len)).await.unwrap();
        daemon.state(patient, UploadState::Waiting(WaitReason::Denied)).await;

        device.store.always(operation, None);
        device.people.groups_changed();
        assert_eq!(daemon.end(patient).await.state, UploadState::Succeeded);
        daemon.retry(&ALICE, id).await.unwrap();
        assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
        assert_eq!(device.spool_files(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_cannot_be_refreshed_yet_is_not_final_yet() {
    let mut device = Device::new();
    device.clock = crate::clock::Clock::manual(std::time::SystemTime::now());
    let daemon = device.start().await;
    device.people.refuse_refreshes(true);
    device.store.always(Operation::Put, Some(Fault::Before(Kind::AccessDenied)));
    let id = Ulid::generate();
    daemon.stream(id, spec("premium/cat.jpg"), &photo(SMALL)).await.unwrap();
    daemon.state(id, UploadState::Waiting(WaitReason::Denied)).await;
    device.people.refuse_refreshes(false);
    device.store.always(Operation::Put, None);
    device.people.groups_changed();
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);

    device.people.refuse_refreshes(true);
    device.store.always(Operation::Put, Some(Fault::Before(Kind::AccessDenied)));
    let id = Ulid::generate();
    daemon.stream(id, spec("premium/cat.jpg"), &photo(SMALL)).await.unwrap();
    daemon.state(id, UploadState::Waiting(WaitReason::Denied)).await;
    device.clock.advance(std::time::Duration::from_secs(60));
    device.people.groups_changed();
    assert_eq!(daemon.end(id).await.state, UploadState::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_uses_up_no_attempt() {
    let device = Device::new();
    let daemon = device.start().await;
    device.store.always(Operation::Put, Some(Fault::Before(Kind::Offline)));
    let ids: Vec<Ulid> = (0..8).map(|_| Ulid::generate()).collect();
    for id in &ids {
        daemon.stream(*id, spec("cat.jpg"), &photo(SMALL)).await.unwrap();
    }
    for id in &ids {
        daemon.state(*id, UploadState::Waiting(WaitReason::Offline)).await;
    }
    device.store.always(Operation::Put, None);
    daemon.link_returned();
    for id in &ids {
        let done = daemon.end(*id).await;
        assert_eq!((done.state, done.attempt_count), (UploadState::Succeeded, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_multipart_upload_is_begun_anew() {
    let device = Device::new();
    let daemon = device.start().await;
    for (operation, kind) in [
        (Operation::UploadPart, Kind::NoSuchUpload),
        (Operation::Complete, Kind::NoSuchUpload),
        (Operation::Complete, Kind::Conflict),
        (Operation::Complete, Kind::InvalidParts),
    ] {
        device.store.next(operation, Fault::Before(kind));
        let before = device.store.calls(Operation::CreateMultipart);
        let id = Ulid::generate();
        daemon.stream(id, spec("clip.mp4"), &photo(LARGE)).await.unwrap();
        let done = daemon.end(id).await;
        assert_eq!(done.state, UploadState::Succeeded, "{operation:?} {kind:?}: {:?}", done.failure);
        assert_eq!(device.store.calls(Operation::CreateMultipart), before + 2);
        assert_eq!(device.object(&done.key), photo(LARGE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refuses_for_good_fails_with_its_bytes_kept() {
    let device = Device::new();
    let daemon = device.start().await;
    device.store.next(Operation::Put, Fault::Before(Kind::Refused));
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(SMALL)).await.unwrap();
    let refused = daemon.end(id).await;
    assert_eq!((refused.state, reason(refused.failure)), (UploadState::Failed, failure::STORE_REFUSED));
    daemon.retry(&ALICE, id).await.unwrap();
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    let ended = daemon.retry(&ALICE, id).await.unwrap_err();
    assert!(matches!(ended, crate::upload::UploadError::WrongState(_, "SUCCEEDED")), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_before_or_while_it_is_sent_makes_no_object() {
    let device = Device::new();
    let daemon = device.start().await;
    for len in [SMALL, LARGE] {
        daemon.set_paused(true);
        let (changed, removed) = (device.file("changed.jpg", &photo(len)), device.file("removed.jpg", &photo(len)));
        let first = daemon.create_from_file(&ALICE, None, spec("a.jpg"), &changed).await.unwrap().id;
        let second = daemon.create_from_file(&ALICE, None, spec("b.jpg"), &removed).await.unwrap().id;
        daemon.state(first, UploadState::Waiting(WaitReason::Paused)).await;
        std::fs::write(&changed, photo(len)).unwrap();
        std::fs::remove_file(&removed).unwrap();
        daemon.set_paused(false);
        assert_eq!(reason(daemon.end(first).await.failure), failure::SOURCE_CHANGED);
        assert_eq!(reason(daemon.end(second).await.failure), failure::SOURCE_MISSING);
    }
    // In the middle of a multipart upload: parts are there, the object never is.
    let (open, gate) = tokio::sync::watch::channel(false);
    device.store.gate_parts(&gate);
    let path = device.file("clip.mp4", &photo(LARGE));
    let id = daemon.create_from_file(&ALICE, None, spec("clip.mp4"), &path).await.unwrap().id;
    daemon.state(id, UploadState::Running).await;
    device.store.reached(Operation::CreateMultipart, 1).await;
    let mut bytes = photo(LARGE);
    bytes[LARGE - 1] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    open.send_replace(true);
    assert_eq!(reason(daemon.end(id).await.failure), failure::SOURCE_CHANGED);
    assert!(device.objects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_the_spool_is_caught() {
    use std::os::unix::fs::FileExt as _;
    let device = Device::new();
    let daemon = device.start().await;
    for len in [SMALL, LARGE] {
        daemon.set_paused(true);
        let id = Ulid::generate();
        daemon.stream(id, spec("cat.jpg"), &photo(len)).await.unwrap();
        let spooled = device.state_dir().join("spool").join(id.to_string());
        let file = std::fs::OpenOptions::new().write(true).open(spooled).unwrap();
        file.write_all_at(&[photo(len)[len / 2] ^ 4], len as u64 / 2).unwrap();
        daemon.set_paused(false);
        assert_eq!(reason(daemon.end(id).await.failure), failure::SPOOL_CORRUPT);
    }
    assert!(device.objects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_a_transfer_and_aborts_its_parts() {
    let device = Device::new();
    let daemon = device.start().await;
    let (_open, gate) = tokio::sync::watch::channel(false);
    device.store.gate_parts(&gate);
    let id = Ulid::generate();
    daemon.stream(id, spec("clip.mp4"), &photo(LARGE)).await.unwrap();
    device.store.reached(Operation::CreateMultipart, 1).await;
    assert_eq!(daemon.cancel(&ALICE, id).await.unwrap().state, UploadState::Cancelled);
    device.store.reached(Operation::Abort, 1).await;
    assert_eq!((device.objects().len(), device.spool_files()), (0, 0));
    assert_eq!(daemon.stats(None).await.unwrap().spool_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multipart_upload_that_nobody_waits_for_any_more_is_aborted() {
    // The store has created it, its answer is on its way, and the upload is cancelled.
    let mut device = Device::impatient();
    device.config.complete_timeout_ms = 60_000;
    let daemon = device.start().await;
    let (open, gate) = tokio::sync::watch::channel(false);
    device.store.gate(Operation::CreateMultipart, gate.clone());
    let id = Ulid::generate();
    daemon.stream(id, spec("clip.mp4"), &photo(LARGE)).await.unwrap();
    device.store.reached(Operation::CreateMultipart, 1).await;
    assert_eq!(daemon.cancel(&ALICE, id).await.unwrap().state, UploadState::Cancelled);
    assert_eq!(device.store.calls(Operation::Abort), 0);
    open.send_replace(true);
    device.store.reached(Operation::Abort, 1).await;
    // The answer comes when another attempt has begun: the late one is aborted, the other becomes the object.
    open.send_replace(false);
    let id = Ulid::generate();
    daemon.stream(id, spec("clip.mp4"), &photo(LARGE)).await.unwrap();
    device.store.reached(Operation::CreateMultipart, 3).await;
    open.send_replace(true);
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    device.store.reached(Operation::Abort, 2).await;
    assert_eq!(device.objects().len(), 1);
}
