use std::time::{Duration, SystemTime};

use super::fixture::{ALICE, Device, Running, photo, session_of, spec};
use crate::clock::Clock;
use crate::session::SignOutUploads;
use crate::store::StoreErrorKind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{Ulid, UploadState, UploadView, WaitReason, failure};

const HALF_AN_HOUR: Duration = Duration::from_secs(1_800);
const PART: usize = 64 << 10;

fn device() -> Device {
    let mut device = Device::new();
    device.clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    device.config.max_failing_s = 4 * 3_600;
    device.config.part_attempts = 1;
    // By a clock that stands still.
    device.config.backoff_initial_ms = 60_000;
    device.config.backoff_max_ms = 60_000;
    device
}

/// Lets half an hour pass after each of its failures until it is set aside, `while_off` where two hours and more are
/// behind it and the daemon is down.
async fn until_set_aside(
    device: &Device,
    mut daemon: Running,
    id: Ulid,
    while_off: impl Fn(&Device),
) -> (Running, UploadView) {
    let (mut failures, mut restarted) = (0, false);
    loop {
        let ended = |state| state == UploadState::Failed;
        let view = daemon.until(id, |view| ended(view.state) || view.attempt_count > failures).await;
        if ended(view.state) {
            return (daemon, view);
        }
        failures = view.attempt_count;
        assert!(failures < 12, "still tried");
        device.clock.advance(HALF_AN_HOUR);
        if failures >= 5 && !restarted {
            daemon.stop().await;
            while_off(device);
            daemon = device.start().await;
            (failures, restarted) = (0, true);
        }
        daemon.link_returned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_keeps_failing_is_set_aside_after_its_lifetime_with_its_bytes_kept() {
    let device = device();
    device.store.always(Operation::Put, Some(Fault::Before(StoreErrorKind::Server)));
    let daemon = device.start().await;
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    // What is behind it is not forgotten, whatever the clock on the wall says afterwards.
    let wall_jumps = |device: &Device| device.clock.step_wall(-400 * 86_400_000);
    let (daemon, failed) = until_set_aside(&device, daemon, id, wall_jumps).await;
    let why = failed.failure.unwrap();
    assert_eq!(why.reason, failure::LIFETIME_EXCEEDED);
    assert!(
        why.message.contains("failed for 4h") && why.message.contains(failure::STORE_UNAVAILABLE),
        "{}",
        why.message
    );
    assert_eq!(device.spool_files(), 1);
    device.store.clear();
    daemon.retry(&ALICE, id).await.unwrap();
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_offline_parked_and_paused_is_no_failing() {
    let mut device = device();
    // Less than may count from one failure to the next.
    device.config.max_failing_s = 1_800;
    let daemon = device.start().await;
    let (id, long) = (Ulid::generate(), Duration::from_secs(90 * 86_400));
    device.store.next(Operation::Put, Fault::Before(StoreErrorKind::Server));
    device.store.always(Operation::Put, Some(Fault::Before(StoreErrorKind::Offline)));
    daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    daemon.state(id, UploadState::Waiting(WaitReason::Retry)).await;
    device.clock.advance(long);
    daemon.link_returned();
    daemon.state(id, UploadState::Waiting(WaitReason::Offline)).await;
    device.clock.advance(long);
    device.people.sign_out(ALICE.uid);
    daemon.session_ended(&session_of(ALICE.uid), SignOutUploads::Park).await.unwrap();
    daemon.link_returned();
    daemon.state(id, UploadState::Waiting(WaitReason::SignIn)).await;
    device.clock.advance(long);
    daemon.set_paused(true);
    device.people.sign_in(ALICE.uid);
    device.clock.advance(long);
    device.store.clear();
    device.store.next(Operation::Put, Fault::Before(StoreErrorKind::Server));
    daemon.set_paused(false);
    daemon.state(id, UploadState::Waiting(WaitReason::Retry)).await;
    device.clock.advance(long);
    daemon.link_returned();
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded, "the second failure of its own in a year");
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_the_same_parts_again_is_no_progress() {
    let device = device();
    device.store.always(Operation::Complete, Some(Fault::Before(StoreErrorKind::InvalidParts)));
    let daemon = device.start().await;
    let id = Ulid::generate();
    daemon.stream(id, spec("clip.mp4"), &photo(3 * PART)).await.unwrap();
    let (_daemon, failed) = until_set_aside(&device, daemon, id, |_| ()).await;
    assert_eq!(failed.failure.unwrap().reason, failure::LIFETIME_EXCEEDED);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_attempts_break_off_inside_the_daemon_is_set_aside_as_well() {
    let device = device();
    device.store.always(Operation::Put, Some(Fault::Panic));
    let daemon = device.start().await;
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    let (_daemon, failed) = until_set_aside(&device, daemon, id, |_| ()).await;
    let why = failed.failure.unwrap();
    assert_eq!(why.reason, failure::LIFETIME_EXCEEDED);
    assert!(why.message.contains("which is a bug"), "{}", why.message);
    assert_eq!(device.spool_files(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_gets_through_ends_what_was_counted_before_a_restart() {
    let device = device();
    device.store.always(Operation::UploadPart, Some(Fault::Before(StoreErrorKind::Server)));
    let daemon = device.start().await;
    let id = Ulid::generate();
    daemon.stream(id, spec("clip.mp4"), &photo(3 * PART)).await.unwrap();
    // Three hours and a half; after four it would be set aside.
    for failures in 1..=8 {
        daemon.until(id, |view| view.attempt_count >= failures).await;
        if failures < 8 {
            device.clock.advance(HALF_AN_HOUR);
            daemon.link_returned();
        }
    }
    daemon.stop().await;
    device.store.clear();
    device.store.always(Operation::Complete, Some(Fault::Before(StoreErrorKind::Server)));
    let daemon = device.start().await;
    for failures in 1..=4 {
        let view = daemon.until(id, |view| view.state == UploadState::Failed || view.attempt_count >= failures).await;
        assert_ne!(view.state, UploadState::Failed, "{view:?}");
        device.clock.advance(HALF_AN_HOUR);
        if failures == 4 {
            device.store.clear();
        }
        daemon.link_returned();
    }
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
}
