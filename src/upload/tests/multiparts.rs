//! A multipart upload that an earlier attempt has begun: what of it the store has, and for how long it is gone on with.

use std::time::Duration;

use super::fixture::{ALICE, Device, photo, spec};
use crate::store::StoreErrorKind as Kind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{Ulid, UploadState, WaitReason};

const PART: usize = 64 << 10;
const PARTS: usize = 10;

/// A device that crashed with parts at the store of which nobody knows, and how many those are.
async fn with_lost_replies(device: &Device, id: Ulid, content: &[u8]) -> usize {
    let daemon = device.start().await;
    device.store.always(Operation::UploadPart, Some(Fault::After(Kind::Offline)));
    let (open, gate) = tokio::sync::watch::channel(false);
    device.store.gate(Operation::UploadPart, gate);
    let path = device.file("clip.mp4", content);
    daemon.create_from_file(&ALICE, Some(id), spec("clip.mp4"), &path).await.unwrap();
    device.store.at_gate(Operation::UploadPart, 3).await;
    // There is no second attempt, which would find them.
    daemon.set_paused(true);
    open.send_replace(true);
    daemon.state(id, UploadState::Waiting(WaitReason::Paused)).await;
    daemon.crash().await;
    device.store.clear();
    let multipart = std::fs::read_dir(device.root.path().join("bucket/multipart")).unwrap().next().unwrap().unwrap();
    std::fs::read_dir(multipart.path()).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_whose_answers_were_lost_are_not_sent_again() {
    let device = Device::new();
    let (id, content) = (Ulid::generate(), photo(PARTS * PART));
    let there = with_lost_replies(&device, id, &content).await;
    assert!((1..PARTS).contains(&there), "{there}");
    let sent = device.store.calls(Operation::UploadPart);
    let daemon = device.start().await;
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content));
    assert_eq!(device.store.calls(Operation::UploadPart) - sent, PARTS - there);
    assert_eq!((device.store.calls(Operation::ListParts), device.store.calls(Operation::CreateMultipart)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_ask_sends_them_again() {
    for fault in [Kind::AccessDenied, Kind::Unsupported, Kind::Server] {
        let device = Device::new();
        let (id, content) = (Ulid::generate(), photo(PARTS * PART));
        with_lost_replies(&device, id, &content).await;
        device.store.always(Operation::ListParts, Some(Fault::Before(fault)));
        let sent = device.store.calls(Operation::UploadPart);
        let daemon = device.start().await;
        let done = daemon.end(id).await;
        assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content), "{fault:?}");
        assert_eq!(device.store.calls(Operation::UploadPart) - sent, PARTS, "{fault:?}");
        assert_eq!(device.people.refreshes(), 0, "{fault:?}: not being allowed to look is no denial");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_the_store_holds_with_other_bytes_are_replaced() {
    let device = Device::new();
    let (id, content) = (Ulid::generate(), photo(PARTS * PART));
    with_lost_replies(&device, id, &content).await;
    let multipart = std::fs::read_dir(device.root.path().join("bucket/multipart")).unwrap().next().unwrap().unwrap();
    let part = std::fs::read_dir(multipart.path()).unwrap().next().unwrap().unwrap();
    let number = part.file_name().to_str().unwrap().split_once('-').unwrap().0.to_owned();
    std::fs::rename(part.path(), multipart.path().join(format!("{number}-{:016x}", 7))).unwrap();
    let daemon = device.start().await;
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_the_store_has_lost_are_sent_again() {
    let device = Device::new();
    let (id, content) = (Ulid::generate(), photo(PARTS * PART));
    let daemon = device.start().await;
    device.store.always(Operation::Complete, Some(Fault::Before(Kind::Offline)));
    daemon.stream(id, spec("clip.mp4"), &content).await.unwrap();
    daemon.state(id, UploadState::Waiting(WaitReason::Offline)).await;
    daemon.crash().await;
    device.store.clear();
    let multipart = std::fs::read_dir(device.root.path().join("bucket/multipart")).unwrap().next().unwrap().unwrap();
    for part in std::fs::read_dir(multipart.path()).unwrap().take(2) {
        std::fs::remove_file(part.unwrap().path()).unwrap();
    }
    let sent = device.store.calls(Operation::UploadPart);
    let daemon = device.start().await;
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content));
    assert_eq!(device.store.calls(Operation::UploadPart) - sent, 2);
    assert_eq!(device.store.calls(Operation::CreateMultipart), 1, "it goes on with the same one");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_or_soon_will_be_is_begun_anew() {
    for gone in [false, true] {
        let mut device = Device::new();
        device.clock = crate::clock::Clock::manual(std::time::SystemTime::now());
        let (id, content) = (Ulid::generate(), photo(PARTS * PART));
        let daemon = device.start().await;
        device.store.always(Operation::Complete, Some(Fault::Before(Kind::Offline)));
        daemon.stream(id, spec("clip.mp4"), &content).await.unwrap();
        daemon.state(id, UploadState::Waiting(WaitReason::Offline)).await;
        if gone {
            let multipart = std::fs::read_dir(device.root.path().join("bucket/multipart")).unwrap().next().unwrap();
            std::fs::remove_dir_all(multipart.unwrap().path()).unwrap();
        } else {
            device.clock.advance(Duration::from_secs(device.config.multipart_max_age_s));
        }
        device.store.clear();
        daemon.link_returned();
        let done = daemon.end(id).await;
        assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content), "gone: {gone}");
        assert_eq!(device.store.calls(Operation::CreateMultipart), 2, "gone: {gone}");
        if !gone {
            device.store.reached(Operation::Abort, 1).await;
        }
        daemon.stop().await;
        assert_eq!(std::fs::read_dir(device.root.path().join("bucket/multipart")).unwrap().count(), 0);
    }
}
