//! How attempts end, whatever becomes of them.

use std::time::Duration;

use super::fixture::{ALICE, Device, photo, spec};
use crate::store::StoreErrorKind as Kind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::core::lane_of;
use crate::upload::{Ulid, UploadState};

const PART: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_until_the_attempt_that_failed_has_left_the_queue() {
    let device = Device::new();
    let daemon = device.start().await;
    device.store.next(Operation::Put, Fault::Before(Kind::Refused));
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    assert_eq!(daemon.end(id).await.state, UploadState::Failed);
    let core = daemon.core();
    let row = core.journal.find(id).await.unwrap().unwrap();
    // As between the journal's commit and what the attempt does after it.
    let (_, failing) = loop {
        core.queue().push_early(id, &lane_of(&row), 1);
        match core.begin_next(4) {
            Some(begun) => break begun,
            None => tokio::task::yield_now().await,
        }
    };
    let uploads = daemon.uploads.clone();
    let mut retried = tokio::spawn(async move { uploads.retry(&ALICE, id).await });
    let early = tokio::time::timeout(Duration::from_millis(100), &mut retried).await;
    assert!(early.is_err(), "its place would go with the attempt that failed");
    assert!(core.queue().state(id, core.clock.boot()).is_some());
    core.queue().remove(id);
    core.end_running(id, &failing);
    retried.await.unwrap().unwrap();
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_panics_gives_its_place_back() {
    let mut device = Device::new();
    device.config.max_uploads_in_flight = 1;
    let daemon = device.start().await;
    // The one that panics is the one that finds out for others whether the destination answers again.
    device.store.next(Operation::Put, Fault::Before(Kind::Offline));
    device.store.next(Operation::Put, Fault::Panic);
    for _ in 0..2 {
        let id = Ulid::generate();
        daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
        assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_stall_together_are_one_stall_and_one_that_gets_through_ends_it() {
    let mut device = Device::impatient();
    device.config.max_parts_in_flight = 5;
    // The completion stays on its way: what is known of the upload is forgotten with its end.
    device.config.complete_timeout_ms = 60_000;
    device.store.always(Operation::Complete, Some(Fault::Stall));
    let daemon = device.start().await;
    let (open, gate) = tokio::sync::watch::channel(false);
    device.store.gate_parts(&gate);
    let path = device.file("clip.mp4", &photo(20 * PART));
    let id = daemon.create_from_file(&ALICE, None, spec("clip.mp4"), &path).await.unwrap().id;
    // The link's places are fewer after a stall: a fifth part on the wire is one that follows at least three stalled ones.
    device.store.at_gate(Operation::UploadPart, 5).await;
    let stalls = daemon.core().note(id).stalls;
    assert!((1..=2).contains(&stalls), "{stalls} doublings for one silence");
    open.send_replace(true);
    device.store.reached(Operation::Complete, 1).await;
    assert_eq!(daemon.core().note(id).stalls, 0, "one part at least was through in no time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_gets_on_waits_as_after_its_first_failure() {
    let mut device = Device::new();
    device.config.part_attempts = 1;
    device.store.always(Operation::UploadPart, Some(Fault::Before(Kind::Server)));
    device.store.always(Operation::Complete, Some(Fault::Stall));
    let daemon = device.start().await;
    let path = device.file("clip.mp4", &photo(5 * PART));
    let id = daemon.create_from_file(&ALICE, None, spec("clip.mp4"), &path).await.unwrap().id;
    daemon.until(id, |view| view.attempt_count >= 3).await;
    device.store.always(Operation::UploadPart, None);
    device.store.reached(Operation::Complete, 1).await;
    assert_eq!(daemon.core().queue().failures(id), 0);
}
