//! What watchers see, whatever comes in which order.

use std::time::{Duration, SystemTime};

use super::fixture::{Device, Running, photo, spec};
use crate::clock::Clock;
use crate::store::StoreErrorKind as Kind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{Ulid, UploadState, UploadView, WaitReason};

const PART: usize = 64 << 10;

/// An upload that has failed once and is not tried again by itself.
async fn one_that_waits(device: &mut Device) -> (Running, Ulid) {
    device.clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    device.config.part_attempts = 1;
    device.config.backoff_initial_ms = 60_000;
    device.config.backoff_max_ms = 60_000;
    device.store.always(Operation::UploadPart, Some(Fault::Before(Kind::Server)));
    let (daemon, id) = (device.start().await, Ulid::generate());
    daemon.stream(id, spec("clip.mp4"), &photo(2 * PART)).await.unwrap();
    daemon.state(id, UploadState::Waiting(WaitReason::Retry)).await;
    (daemon, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_a_change_is_never_shown_after_it() {
    let mut device = Device::new();
    let (daemon, id) = one_that_waits(&mut device).await;
    let core = daemon.core();
    let watched = core.watch(id).await.unwrap();
    let row = core.journal.find(id).await.unwrap().unwrap();
    let old = core.view(&row).await.unwrap();
    core.amend(id, |note| note.attempts = 7);
    core.refresh(id);
    core.show(old.clone(), None).unwrap();
    assert_eq!(watched.borrow().attempt_count, 7, "what passes is read when it is shown");
    let mut changed = row.clone();
    changed.received_bytes += 1;
    core.publish(&changed).await;
    let newer = core.show(old.clone(), Some(0)).unwrap_err();
    assert_eq!(watched.borrow().received_bytes, changed.received_bytes, "a newer durable change was shown meanwhile");
    core.show(UploadView { state: UploadState::Cancelled, ..old }, Some(newer)).unwrap();
    assert!(watched.has_changed().is_err(), "the end is the last change");
}
