use super::fixture::{ALICE, Device, photo, spec};
use crate::store::faulty::Operation;
use crate::upload::{Ulid, UploadState, WaitReason};

const PART: usize = 64 << 10;
const PARTS: usize = 10;
/// As many as there is room for on the wire at first, without the place for small objects.
const IN_FLIGHT: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lets_parts_in_flight_end_and_nothing_is_sent_twice() {
    let device = Device::new();
    let daemon = device.start().await;
    let (open, gate) = tokio::sync::watch::channel(false);
    device.store.gate_parts(&gate);
    let content = photo(PARTS * PART);
    let path = device.file("clip.mp4", &content);
    let id = daemon.create_from_file(&ALICE, None, spec("clip.mp4"), &path).await.unwrap().id;
    device.store.at_gate(Operation::UploadPart, IN_FLIGHT).await;
    daemon.set_paused(true);
    assert_eq!(daemon.get(&ALICE, id).await.unwrap().state, UploadState::Running, "until its parts are through");
    open.send_replace(true);
    let paused = daemon.state(id, UploadState::Waiting(WaitReason::Paused)).await;
    assert_eq!(device.store.calls(Operation::UploadPart), IN_FLIGHT, "none that was not on its way");
    assert_eq!((paused.failure, paused.attempt_count), (None, 0));
    assert_eq!(daemon.get(&ALICE, id).await.unwrap().stored_bytes, (IN_FLIGHT * PART) as u64);
    // Bytes are still taken, and wait as well.
    let late = Ulid::generate();
    daemon.stream(late, spec("late.jpg"), &photo(1_000)).await.unwrap();
    daemon.state(late, UploadState::Waiting(WaitReason::Paused)).await;
    daemon.set_paused(false);
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content));
    assert_eq!(daemon.end(late).await.state, UploadState::Succeeded);
    assert_eq!(device.store.part_bytes(), (PARTS * PART + 1_000) as u64, "every byte once");
    assert_eq!((device.store.calls(Operation::CreateMultipart), device.store.calls(Operation::Complete)), (1, 1));
}
