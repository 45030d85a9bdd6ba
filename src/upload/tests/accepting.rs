use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::fixture::{ALICE, BOB, Device, crc, photo, session_of, spec};
use crate::upload::{
    Config, ExpectedChecksum, KeyPolicy, Priority, Ulid, UploadError, UploadSpec, UploadState, failure, housekeeping,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_becomes_an_object_and_leaves_no_bytes_behind() {
    let device = Device::new();
    let daemon = device.start().await;
    for (name, len) in [("empty.jpg", 0), ("small.jpg", 1_000), ("large.jpg", 1_000_000)] {
        let content = photo(len);
        let id = Ulid::generate();
        let accepted = daemon.stream(id, spec(name), &content).await.unwrap();
        assert_eq!((accepted.received_bytes, accepted.total_bytes), (len as u64, Some(len as u64)));
        let done = daemon.end(id).await;
        assert_eq!(done.state, UploadState::Succeeded, "{name}: {:?}", done.failure);
        assert_eq!((done.stored_bytes, done.etag.is_some()), (len as u64, true));
        assert_eq!(done.key, format!("users/us-east-1:1001/{}-{id}.jpg", name.trim_end_matches(".jpg")));
        assert_eq!(device.object(&done.key), content);
    }
    assert_eq!((device.objects().len(), device.spool_files()), (3, 0));
    assert_eq!(daemon.stats(None).await.unwrap().spool_bytes, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_call_again_gives_the_same_upload_also_after_a_restart() {
    let device = Device::new();
    let content = photo(5_000);
    let id = Ulid::generate();
    let mut daemon = device.start().await;
    for round in 0..3 {
        let view = daemon.stream(id, spec("cat.jpg"), &content).await.unwrap();
        assert_eq!(view.id, id);
        daemon.end(id).await;
        let other = daemon.stream(id, spec("dog.jpg"), &content).await.unwrap_err();
        assert!(matches!(other, UploadError::IdReused(_)), "{other}");
        let stranger = daemon.begin(&BOB, id, spec("cat.jpg")).await.unwrap_err();
        assert!(matches!(stranger, UploadError::IdReused(_)), "{stranger}");
        let shorter = daemon.stream(id, spec("cat.jpg"), &content[1..]).await.unwrap_err();
        assert!(matches!(shorter, UploadError::SizeMismatch { .. }), "{shorter}");
        if round == 1 {
            daemon.crash().await;
            daemon = device.start().await;
        }
    }
    assert_eq!(device.objects().len(), 1);
    let path = device.file("file.jpg", b"photo");
    let id = Ulid::generate();
    for _ in 0..2 {
        daemon.create_from_file(&ALICE, Some(id), spec("file.jpg"), &path).await.unwrap();
        daemon.end(id).await;
    }
    let stream = daemon.begin(&ALICE, id, spec("file.jpg")).await.unwrap_err();
    assert!(matches!(stream, UploadError::IdReused(_)), "{stream}");
    assert_eq!(device.objects().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_where_it_was() {
    let device = Device::new();
    let daemon = device.start().await;
    let content = photo(500_000);
    let id = Ulid::generate();
    let mut ingest = daemon.begin(&ALICE, id, spec("cat.jpg")).await.unwrap();
    ingest.write(Bytes::copy_from_slice(&content[..123_456])).await.unwrap();
    let busy = daemon.resume(&ALICE, id, 0).await.unwrap_err();
    assert!(matches!(busy, UploadError::Busy(_)), "{busy}");
    drop(ingest);
    let wrong = daemon.resume(&ALICE, id, 7).await.unwrap_err();
    let UploadError::OffsetMismatch { received_bytes, offset: 7 } = wrong else { panic!("{wrong}") };
    assert_eq!(received_bytes, 123_456, "what was there when the stream broke was synced then");
    let mut ingest = daemon.resume(&ALICE, id, received_bytes).await.unwrap();
    ingest.write(Bytes::copy_from_slice(&content[123_456..])).await.unwrap();
    ingest.finish(content.len() as u64, Some(crc(&content))).await.unwrap();
    let done = daemon.end(id).await;
    assert_eq!(device.object(&done.key), content);
    let late = daemon.resume(&ALICE, id, content.len() as u64).await.unwrap_err();
    assert!(matches!(late, UploadError::WrongState(_, "SUCCEEDED")), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_and_the_right_ones_may_follow() {
    let device = Device::new();
    let daemon = device.start().await;
    let (content, other) = (photo(200_000), photo(200_001));
    let sha256 = ExpectedChecksum::Sha256(Sha256::digest(&content).into());
    for (sent, total, proof) in [
        (&other, 200_001, Some(crc(&content))),
        (&other, 200_001, Some(sha256)),
        (&content, 200_001, None),
        (&content, 199_999, None),
    ] {
        let id = Ulid::generate();
        let mut ingest = daemon.begin(&ALICE, id, spec("cat.jpg")).await.unwrap();
        ingest.write(Bytes::copy_from_slice(sent)).await.unwrap();
        let refused = ingest.finish(total, proof).await.unwrap_err();
        match proof {
            Some(_) => assert!(matches!(refused, UploadError::ChecksumMismatch { .. }), "{refused}"),
            None => assert!(matches!(refused, UploadError::SizeMismatch { .. }), "{refused}"),
        }
        assert_eq!(daemon.get(&ALICE, id).await.unwrap().state, UploadState::Receiving);
        let mut again = daemon.begin(&ALICE, id, spec("cat.jpg")).await.unwrap();
        again.write(Bytes::copy_from_slice(&content)).await.unwrap();
        again.finish(content.len() as u64, Some(sha256)).await.unwrap();
        let done = daemon.end(id).await;
        assert_eq!(device.object(&done.key), content);
    }
    assert_eq!(device.objects().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_and_floor_are_refused_before_acceptance() {
    let mut device = Device::new();
    device.config = Config { spool_max_bytes: 150_000, spool_max_bytes_per_uid: 100_000, ..device.config };
    let daemon = device.start().await;
    daemon.set_paused(true);
    daemon.stream(Ulid::generate(), spec("a.jpg"), &photo(90_000)).await.unwrap();
    let id = Ulid::generate();
    let full = daemon.stream(id, spec("b.jpg"), &photo(90_000)).await.unwrap_err();
    assert!(matches!(full, UploadError::SpoolQuota { scope: " for this uid", .. }), "{full}");
    let mut bob = daemon.begin(&BOB, Ulid::generate(), spec("c.jpg")).await.unwrap();
    let full = bob.write(Bytes::from(photo(70_000))).await.unwrap_err();
    assert!(matches!(full, UploadError::SpoolQuota { scope: "", .. }), "{full}");
    daemon.cancel(&ALICE, id).await.unwrap();
    daemon.set_paused(false);
    let first = daemon.list(&ALICE, &crate::upload::ListFilter::default(), 10, None).await.unwrap().0;
    daemon.end(first.last().unwrap().id).await;
    daemon.stream(Ulid::generate(), spec("d.jpg"), &photo(90_000)).await.unwrap();
    drop(bob);
    daemon.stop().await;

    device.config.disk_free_floor_bytes = u64::MAX;
    let daemon = device.start().await;
    let full = daemon.stream(Ulid::generate(), spec("e.jpg"), b"x").await.unwrap_err();
    assert!(matches!(full, UploadError::DiskFloor { .. }), "{full}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_specs_leave_nothing_behind() {
    let device = Device::new();
    let daemon = device.start().await;
    let elsewhere = UploadSpec { destination: Some("elsewhere".into()), ..spec("a.jpg") };
    let other_session = UploadSpec { session: Some(session_of(BOB.uid)), ..spec("a.jpg") };
    let overwriting = UploadSpec { overwrite: true, ..spec("a.jpg") };
    for (bad, reason) in [
        (spec("free/../premium/x"), "InvalidKey"),
        (spec(""), "InvalidKey"),
        (elsewhere, "DestinationNotFound"),
        (other_session, "Session"),
        (overwriting, "InvalidField"),
    ] {
        let id = Ulid::generate();
        let error = daemon.begin(&ALICE, id, bad.clone()).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(reason), "{error:?}");
        let path = device.file("x.jpg", b"x");
        let error = daemon.create_from_file(&ALICE, Some(id), bad, &path).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(reason), "{error:?}");
        assert!(matches!(daemon.get(&ALICE, id).await, Err(UploadError::NotFound(_))));
    }
    let missing = daemon.create_from_file(&ALICE, None, spec("a.jpg"), &device.root.path().join("photos/no.jpg")).await;
    assert!(matches!(missing, Err(UploadError::FileNotFound(_))));
    let outside = daemon.create_from_file(&ALICE, None, spec("a.jpg"), std::path::Path::new("/etc/passwd")).await;
    assert!(matches!(outside, Err(UploadError::PathOutsideRoots { .. })));
    assert_eq!((device.objects().len(), device.spool_files()), (0, 0));
    assert!(daemon.stats(None).await.unwrap().counts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_stream_stops_and_its_bytes_go() {
    let device = Device::new();
    let daemon = device.start().await;
    let id = Ulid::generate();
    let mut ingest = daemon.begin(&ALICE, id, spec("cat.jpg")).await.unwrap();
    ingest.write(Bytes::from(photo(100_000))).await.unwrap();
    let told = ingest.cancellation();
    let client = async {
        told.cancelled().await;
        let stopped = ingest.write(Bytes::from_static(b"more")).await.unwrap_err();
        assert!(matches!(stopped, UploadError::WrongState(_, "CANCELLED")), "{stopped}");
        drop(ingest);
    };
    let (cancelled, ()) = tokio::join!(daemon.cancel(&ALICE, id), client);
    assert_eq!(cancelled.unwrap().state, UploadState::Cancelled);
    assert_eq!(device.spool_files(), 0, "the bytes are gone when the cancellation returns");
    assert_eq!(daemon.cancel(&ALICE, id).await.unwrap().state, UploadState::Cancelled, "again is no error");
    daemon.stop().await;
    assert_eq!((device.objects().len(), device.spool_files()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_streams_and_old_receipts_go() {
    let mut device = Device::new();
    device.clock = crate::clock::Clock::manual(std::time::SystemTime::now());
    let daemon = device.start().await;
    let (idle, done) = (Ulid::generate(), Ulid::generate());
    let mut ingest = daemon.begin(&ALICE, idle, spec("idle.jpg")).await.unwrap();
    ingest.write(Bytes::from_static(b"half a pho")).await.unwrap();
    drop(ingest);
    daemon.stream(done, spec("done.jpg"), b"photo").await.unwrap();
    daemon.end(done).await;
    daemon.until(idle, |view| view.received_bytes == 10).await;
    device.clock.advance(std::time::Duration::from_secs(device.config.receiving_idle_max_s + 1));
    housekeeping::sweep(daemon.core()).await;
    let dropped = daemon.get(&ALICE, idle).await.unwrap();
    assert_eq!((dropped.state, dropped.failure.unwrap().reason), (UploadState::Cancelled, failure::STREAM_ABANDONED));
    assert_eq!(device.spool_files(), 0);
    device.clock.advance(std::time::Duration::from_secs(device.config.receipt_retention_s + 1));
    housekeeping::sweep(daemon.core()).await;
    for id in [idle, done] {
        assert!(matches!(daemon.get(&ALICE, id).await, Err(UploadError::NotFound(_))), "{id}");
    }
    assert_eq!(device.objects().len(), 1, "the object stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_chose_reaches_the_object() {
    let device = Device::new();
    let daemon = device.start().await;
    let chosen = UploadSpec {
        key_policy: KeyPolicy::Exact,
        content_type: Some("image/jpeg".into()),
        metadata: [("camera".to_owned(), "m6".to_owned())].into(),
        priority: Priority::Interactive,
        ..spec("free/exact.jpg")
    };
    let path = device.file("cat.jpg", b"photo");
    let view = daemon.create_from_file(&ALICE, None, chosen, &path).await.unwrap();
    let done = daemon.end(view.id).await;
    assert_eq!((done.state, done.key.as_str()), (UploadState::Succeeded, "users/us-east-1:1001/free/exact.jpg"));
    assert_eq!(device.object(&done.key), b"photo");
    assert!(path.exists(), "the file stays where it is");
    assert_eq!(done.crc64nvme, Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"photo")));
}
