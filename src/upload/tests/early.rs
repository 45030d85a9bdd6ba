//! Parts are sent while the stream still arrives.

use bytes::Bytes;

use super::fixture::{ALICE, Device, Running, crc, photo, spec};
use crate::store::StoreErrorKind as Kind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{Ingest, Ulid, UploadError, UploadState, housekeeping};

const PART: usize = 64 << 10;

async fn write(ingest: &mut Ingest, content: &[u8]) {
    for chunk in content.chunks(10_000) {
        ingest.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
}

/// A stream that broke off after `content` and goes on: all of it is synced.
async fn goes_on(daemon: &Running, id: Ulid, content: &[u8]) -> Ingest {
    let mut ingest = daemon.begin(&ALICE, id, spec("clip.mp4")).await.unwrap();
    write(&mut ingest, content).await;
    ingest.leave().await;
    daemon.resume(&ALICE, id, content.len() as u64).await.unwrap()
}

/// The same, and the store has its whole parts.
async fn half_sent(daemon: &Running, id: Ulid, content: &[u8]) -> Ingest {
    let ingest = goes_on(daemon, id, content).await;
    let whole = (content.len() / PART * PART) as u64;
    let sent = daemon.until(id, |view| view.stored_bytes == whole).await;
    assert_eq!(sent.state, UploadState::Receiving, "its last byte is not here");
    ingest
}

/// Multipart uploads that the store still has.
fn unfinished(device: &Device) -> usize {
    std::fs::read_dir(device.root.path().join("bucket/multipart")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_sent_before_the_last_byte_is_here() {
    let device = Device::new();
    let daemon = device.start().await;
    // More than may wait for the disk.
    let (content, first) = (photo(70 * PART + 1_234), 60 * PART);
    let id = Ulid::generate();
    let mut ingest = daemon.begin(&ALICE, id, spec("clip.mp4")).await.unwrap();
    write(&mut ingest, &content[..first]).await;
    let sent = daemon.until(id, |view| view.stored_bytes >= 10 * PART as u64).await;
    assert_eq!(sent.state, UploadState::Receiving, "its last byte is not here");
    assert!(device.objects().is_empty(), "nothing is visible yet");
    assert_eq!(device.store.calls(Operation::Complete), 0);
    write(&mut ingest, &content[first..]).await;
    let accepted = ingest.finish(content.len() as u64, Some(crc(&content))).await.unwrap();
    assert_ne!(accepted.state, UploadState::Receiving);
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content.clone()));
    assert_eq!(device.store.part_bytes(), content.len() as u64, "every byte was sent once");
    assert_eq!(device.store.calls(Operation::CreateMultipart), 1);
    assert_eq!((device.spool_files(), unfinished(&device)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_has_its_checksum_from_its_arrival() {
    let device = Device::new();
    let daemon = device.start().await;
    daemon.set_paused(true);
    let content = photo(5 * PART + 1);
    let id = Ulid::generate();
    daemon.stream(id, spec("clip.mp4"), &content).await.unwrap();
    let arrived = daemon.core().journal.arrived(id, false).await.unwrap();
    let sums: Vec<u64> =
        content.chunks(PART).map(|part| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, part)).collect();
    assert_eq!(arrived.iter().map(|part| part.crc64nvme).collect::<Vec<_>>(), sums);
    let small = Ulid::generate();
    daemon.stream(small, spec("cat.jpg"), &photo(PART)).await.unwrap();
    assert!(daemon.core().journal.arrived(small, false).await.unwrap().is_empty(), "one request has no parts");
    daemon.set_paused(false);
    for id in [id, small] {
        assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    }
    assert_eq!((device.store.calls(Operation::Put), device.store.calls(Operation::CreateMultipart)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_appear_although_their_parts_were_sent() {
    let device = Device::new();
    let daemon = device.start().await;
    let (content, wrong) = (photo(6 * PART), photo(6 * PART + 1)[1..].to_vec());
    for total in [content.len(), content.len() - 1] {
        let id = Ulid::generate();
        let ingest = half_sent(&daemon, id, &wrong).await;
        let refused = ingest.finish(total as u64, Some(crc(&content))).await.unwrap_err();
        assert!(
            matches!(refused, UploadError::ChecksumMismatch { .. } | UploadError::SizeMismatch { .. }),
            "{refused}"
        );
        let emptied = daemon.until(id, |view| view.received_bytes == 0 && view.stored_bytes == 0).await;
        assert_eq!(emptied.state, UploadState::Receiving);
        let again = daemon.stream(id, spec("clip.mp4"), &content).await.unwrap();
        assert_eq!(again.received_bytes, content.len() as u64);
        let done = daemon.end(id).await;
        assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content.clone()));
    }
    device.store.reached(Operation::Abort, 2).await;
    assert_eq!(device.objects().len(), 2);
    daemon.stop().await;
    assert_eq!(unfinished(&device), 0, "what was sent of the wrong bytes is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_begins_again_drops_what_was_sent() {
    let device = Device::new();
    let daemon = device.start().await;
    let (first, second) = (photo(5 * PART), photo(5 * PART + 1)[1..].to_vec());
    let id = Ulid::generate();
    let (open, gate) = tokio::sync::watch::channel(true);
    device.store.gate_parts(&gate);
    let mut ingest = half_sent(&daemon, id, &first[..2 * PART]).await;
    // In the middle of a part as well: it is read from the file that the second stream overwrites.
    open.send_replace(false);
    write(&mut ingest, &first[2 * PART..]).await;
    let sent = device.store.calls(Operation::UploadPart);
    ingest.leave().await;
    device.store.reached(Operation::UploadPart, sent).await;
    let mut ingest = daemon.begin(&ALICE, id, spec("clip.mp4")).await.unwrap();
    assert_eq!((ingest.view().received_bytes, ingest.view().stored_bytes), (0, 0));
    open.send_replace(true);
    write(&mut ingest, &second).await;
    ingest.finish(second.len() as u64, Some(crc(&second))).await.unwrap();
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, second));
    assert_eq!(device.objects().len(), 1);
    device.store.reached(Operation::Abort, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_it_arrives_sends_no_part_twice_that_the_journal_knows() {
    let device = Device::new();
    let content = photo(12 * PART + 99);
    let id = Ulid::generate();
    let daemon = device.start().await;
    let ingest = half_sent(&daemon, id, &content[..8 * PART + 7]).await;
    daemon.crash().await;
    drop(ingest);
    let daemon = device.start().await;
    let kept = daemon.get(&ALICE, id).await.unwrap();
    assert_eq!(kept.state, UploadState::Receiving);
    assert!(kept.stored_bytes == 8 * PART as u64 && kept.stored_bytes <= kept.received_bytes, "{kept:?}");
    let mut ingest = daemon.resume(&ALICE, id, kept.received_bytes).await.unwrap();
    write(&mut ingest, &content[usize::try_from(kept.received_bytes).unwrap()..]).await;
    ingest.finish(content.len() as u64, Some(crc(&content))).await.unwrap();
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content.clone()));
    assert_eq!(device.store.calls(Operation::CreateMultipart), 1, "the same multipart upload goes on");
    assert_eq!(device.store.part_bytes(), content.len() as u64, "no part was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_abandoned_streams_leave_nothing_at_the_store() {
    let mut device = Device::new();
    device.clock = crate::clock::Clock::manual(std::time::SystemTime::now());
    let daemon = device.start().await;
    let content = photo(6 * PART);
    let (cancelled, abandoned) = (Ulid::generate(), Ulid::generate());
    let ingest = half_sent(&daemon, cancelled, &content).await;
    let dropping = async {
        ingest.cancellation().cancelled().await;
        drop(ingest);
    };
    let (ended, ()) = tokio::join!(daemon.cancel(&ALICE, cancelled), dropping);
    assert_eq!(ended.unwrap().state, UploadState::Cancelled);
    half_sent(&daemon, abandoned, &content).await.leave().await;
    device.clock.advance(std::time::Duration::from_secs(device.config.receiving_idle_max_s + 1));
    housekeeping::sweep(daemon.core()).await;
    assert_eq!(daemon.get(&ALICE, abandoned).await.unwrap().state, UploadState::Cancelled);
    housekeeping::sweep(daemon.core()).await;
    device.store.reached(Operation::Abort, 2).await;
    daemon.stop().await;
    assert_eq!((device.objects().len(), device.spool_files(), unfinished(&device)), (0, 0, 0));
}

/// Whatever goes wrong before everything is here: the caller's stream does not fail for it, and the end is as always.
#[tokio::test(flavor = "multi_thread")]
async fn failures_before_the_last_byte_do_not_end_the_upload() {
    let device = Device::impatient();
    let daemon = device.start().await;
    let content = photo(6 * PART);
    for fault in [
        Fault::Before(Kind::AccessDenied),
        Fault::Before(Kind::Refused),
        Fault::Before(Kind::NoSuchUpload),
        Fault::Before(Kind::Offline),
        Fault::Before(Kind::Server),
        Fault::After(Kind::Interrupted),
        Fault::Stall,
    ] {
        for operation in [Operation::CreateMultipart, Operation::UploadPart] {
            let case = format!("{operation:?} {fault:?}");
            let id = Ulid::generate();
            let calls = device.store.calls(operation);
            device.store.always(operation, Some(fault));
            let mut ingest = goes_on(&daemon, id, &content[..4 * PART]).await;
            device.store.reached(operation, calls + 1).await;
            device.store.always(operation, None);
            write(&mut ingest, &content[4 * PART..]).await;
            ingest.finish(content.len() as u64, Some(crc(&content))).await.unwrap();
            let done = daemon.end(id).await;
            assert_eq!(done.state, UploadState::Succeeded, "{case}: {:?}", done.failure);
            assert_eq!(device.object(&done.key), content, "{case}");
        }
    }
    assert_eq!(device.spool_files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_found_while_the_caller_still_has_the_photo() {
    let device = Device::new();
    let daemon = device.start().await;
    let content = photo(60 * PART);
    let id = Ulid::generate();
    let (open, gate) = tokio::sync::watch::channel(false);
    device.store.gate_parts(&gate);
    let mut ingest = daemon.begin(&ALICE, id, spec("clip.mp4")).await.unwrap();
    write(&mut ingest, &content[..50 * PART]).await;
    daemon.until(id, |view| view.received_bytes >= 2 * PART as u64).await;
    let path = device.state_dir().join("spool").join(id.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[PART + 7] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    open.send_replace(true);
    let refused = loop {
        match ingest.write(Bytes::from_static(b"x")).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(refused) => break refused,
        }
    };
    assert!(refused.to_string().contains("upload it again"), "{refused}");
    ingest.leave().await;
    assert_eq!(daemon.get(&ALICE, id).await.unwrap().received_bytes, 0);
    daemon.stream(id, spec("clip.mp4"), &content).await.unwrap();
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_for_somebody_who_has_signed_out() {
    let device = Device::new();
    let daemon = device.start().await;
    let content = photo(8 * PART);
    let id = Ulid::generate();
    let mut ingest = half_sent(&daemon, id, &content[..4 * PART]).await;
    device.people.sign_out(ALICE.uid);
    daemon.session_ended(&super::fixture::session_of(ALICE.uid), crate::session::SignOutUploads::Park).await.unwrap();
    let calls = device.store.signers().len();
    write(&mut ingest, &content[4 * PART..]).await;
    ingest.finish(content.len() as u64, None).await.unwrap();
    daemon.state(id, UploadState::Waiting(crate::upload::WaitReason::SignIn)).await;
    assert_eq!(device.store.signers().len(), calls, "no request was signed");
    device.people.sign_in(ALICE.uid);
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content));
    assert!(device.store.signers().iter().all(|signer| signer.starts_with("us-east-1:1001#")));
}
