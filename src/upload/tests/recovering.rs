use bytes::Bytes;

use super::fixture::{ALICE, Device, photo, spec};
use crate::store::StoreErrorKind as Kind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{KeyPolicy, Ulid, UploadSpec, UploadState, failure};

const PART: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_sends_again_only_what_was_in_flight() {
    let device = Device::new();
    let content = photo(20 * PART);
    let id = Ulid::generate();
    let daemon = device.start().await;
    let (open, gate) = tokio::sync::watch::channel(true);
    device.store.gate_parts(&gate);
    daemon.stream(id, spec("clip.mp4"), &content).await.unwrap();
    daemon.until(id, |view| view.stored_bytes >= 5 * PART as u64).await;
    open.send_replace(false);
    daemon.crash().await;
    open.send_replace(true);

    let daemon = device.start().await;
    let kept = daemon.get(&ALICE, id).await.unwrap().stored_bytes;
    let done = daemon.end(id).await;
    assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, content.clone()));
    assert_eq!(device.store.calls(Operation::CreateMultipart), 1, "the same multipart upload goes on");
    // A part that the store had when the daemon died, and that ListParts found, was never counted.
    let twice = device.store.part_bytes().saturating_sub(content.len() as u64);
    let in_flight = (device.config.max_parts_in_flight * PART) as u64;
    assert!(twice <= in_flight, "{twice} bytes sent twice, {kept} were kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_accepted_is_sent_after_a_crash() {
    let device = Device::new();
    let daemon = device.start().await;
    daemon.set_paused(true);
    let mut ids = Vec::new();
    for number in 0..20 {
        let id = Ulid::generate();
        daemon.stream(id, spec(&format!("{number}.jpg")), &photo(1_000 * number)).await.unwrap();
        ids.push((id, 1_000 * number));
    }
    let path = device.file("file.jpg", &photo(12_345));
    ids.push((daemon.create_from_file(&ALICE, None, spec("file.jpg"), &path).await.unwrap().id, 12_345));
    daemon.crash().await;
    std::fs::write(device.state_dir().join("spool").join(Ulid::generate().to_string()), "orphan").unwrap();
    let daemon = device.start().await;
    for (id, len) in ids {
        let done = daemon.end(id).await;
        assert_eq!((done.state, device.object(&done.key)), (UploadState::Succeeded, photo(len)));
    }
    assert_eq!((device.objects().len(), device.spool_files()), (21, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_a_crash_cut_off_goes_on_from_what_was_synced() {
    let device = Device::new();
    let content = photo(70 * PART);
    let id = Ulid::generate();
    let daemon = device.start().await;
    let mut ingest = daemon.begin(&ALICE, id, spec("clip.mp4")).await.unwrap();
    for chunk in content[..60 * PART].chunks(PART / 3) {
        ingest.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    let synced = daemon.until(id, |view| view.received_bytes >= PART as u64).await.received_bytes;
    // The process ends with the stream still there: nothing is put in order.
    std::mem::forget(ingest);
    let path = device.state_dir().join("spool").join(id.to_string());
    daemon.crash().await;
    // What was written and never synced is garbage after a power cut.
    let crashed = Device::new();
    copy(&device.state_dir(), &crashed.state_dir());
    let spooled = crashed.state_dir().join("spool").join(path.file_name().unwrap());
    let mut bytes = std::fs::read(&spooled).unwrap();
    bytes.resize(69 * PART, 0);
    std::fs::write(&spooled, bytes).unwrap();

    let daemon = crashed.start().await;
    let received = daemon.get(&ALICE, id).await.unwrap().received_bytes;
    assert!(received >= synced, "{received} < {synced}");
    let mut ingest = daemon.resume(&ALICE, id, received).await.unwrap();
    ingest.write(Bytes::copy_from_slice(&content[usize::try_from(received).unwrap()..])).await.unwrap();
    ingest.finish(content.len() as u64, None).await.unwrap();
    let done = daemon.end(id).await;
    assert_eq!(crashed.object(&done.key), content);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_store_and_the_journal_makes_no_second_object() {
    for policy in [KeyPolicy::Unique, KeyPolicy::Exact] {
        for (len, operation) in [(PART / 2, Operation::Put), (4 * PART, Operation::Complete)] {
            let device = Device::new();
            let daemon = device.start().await;
            let id = Ulid::generate();
            // The store has it; the reply is lost, and before the next attempt the daemon dies.
            device.store.next(operation, Fault::After(Kind::Offline));
            let spec = UploadSpec { key_policy: policy, ..spec("cat.jpg") };
            device.store.always(Operation::Head, Some(Fault::Stall));
            daemon.stream(id, spec, &photo(len)).await.unwrap();
            device.store.reached(operation, 1).await;
            daemon.crash().await;
            device.store.always(Operation::Head, None);
            let daemon = device.start().await;
            let done = daemon.end(id).await;
            assert_eq!(done.state, UploadState::Succeeded, "{policy:?} {operation:?}: {:?}", done.failure);
            assert_eq!(device.objects(), std::slice::from_ref(&done.key));
            assert_eq!(device.object(&done.key), photo(len));
            assert_eq!(device.spool_files(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_spool_files_are_named_and_streams_start_again() {
    let device = Device::new();
    let daemon = device.start().await;
    daemon.set_paused(true);
    let (pending, receiving) = (Ulid::generate(), Ulid::generate());
    daemon.stream(pending, spec("a.jpg"), &photo(1_000)).await.unwrap();
    let mut ingest = daemon.begin(&ALICE, receiving, spec("b.jpg")).await.unwrap();
    ingest.write(Bytes::from(photo(1_000))).await.unwrap();
    drop(ingest);
    daemon.until(receiving, |view| view.received_bytes == 1_000).await;
    daemon.stop().await;
    for id in [pending, receiving] {
        std::fs::remove_file(device.state_dir().join("spool").join(id.to_string())).unwrap();
    }
    let daemon = device.start().await;
    let lost = daemon.get(&ALICE, pending).await.unwrap();
    assert_eq!((lost.state, lost.failure.unwrap().reason), (UploadState::Failed, failure::SPOOL_CORRUPT));
    let mut ingest = daemon.resume(&ALICE, receiving, 0).await.unwrap();
    ingest.write(Bytes::from(photo(1_000))).await.unwrap();
    ingest.finish(1_000, None).await.unwrap();
    assert_eq!(daemon.end(receiving).await.state, UploadState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_sweeps_whatever_no_upload_needs() {
    let mut device = Device::new();
    device.clock = crate::clock::Clock::manual(std::time::SystemTime::now());
    let daemon = device.start().await;
    daemon.set_paused(true);
    let [pending, idle, cancelled, done] = std::array::from_fn(|_| Ulid::generate());
    daemon.stream(pending, spec("pending.jpg"), &photo(1_000)).await.unwrap();
    daemon.stream(cancelled, spec("cancelled.jpg"), &photo(1_000)).await.unwrap();
    daemon.cancel(&ALICE, cancelled).await.unwrap();
    let mut ingest = daemon.begin(&ALICE, idle, spec("idle.jpg")).await.unwrap();
    ingest.write(Bytes::from(photo(1_000))).await.unwrap();
    drop(ingest);
    daemon.until(idle, |view| view.received_bytes == 1_000).await;
    daemon.stop().await;
    // As if the device had died at the worst moments: bytes of ended uploads and of none, a tail that was never synced,
    // and receipts of parts that nobody completes.
    let spool = device.state_dir().join("spool");
    for name in [cancelled.to_string(), done.to_string(), "not-an-upload".to_owned()] {
        std::fs::write(spool.join(name), "left behind").unwrap();
    }
    std::fs::write(spool.join(pending.to_string()), [photo(1_000), photo(10)].concat()).unwrap();
    let journal = rusqlite::Connection::open(device.state_dir().join("journal.db")).unwrap();
    journal.pragma_update(None, "foreign_keys", "OFF").unwrap();
    for upload in [cancelled, done] {
        journal.execute("INSERT INTO parts VALUES (?, 1, '', 1, 1)", [upload.to_bytes()]).unwrap();
        journal.execute("INSERT INTO arrived VALUES (?, 1, 1, 1)", [upload.to_bytes()]).unwrap();
    }

    device.clock.advance(std::time::Duration::from_secs(device.config.receiving_idle_max_s + 1));
    let daemon = device.start().await;
    assert_eq!(daemon.end(idle).await.failure.unwrap().reason, failure::STREAM_ABANDONED);
    let stored = daemon.end(pending).await;
    assert_eq!((stored.state, device.object(&stored.key)), (UploadState::Succeeded, photo(1_000)));
    daemon.stop().await;
    assert_eq!(device.spool_files(), 0);
    for table in ["parts", "arrived", "aborts"] {
        let left: u32 = journal.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_parts_end_and_takes_nothing_more() {
    let device = Device::new();
    let daemon = device.start().await;
    let id = Ulid::generate();
    daemon.stream(id, spec("clip.mp4"), &photo(20 * PART)).await.unwrap();
    daemon.until(id, |view| view.stored_bytes >= PART as u64).await;
    let uploads = daemon.uploads.clone();
    daemon.stop().await;
    let refused = uploads.begin(&ALICE, Ulid::generate(), spec("late.jpg")).await.unwrap_err();
    assert!(matches!(refused, crate::upload::UploadError::Stopping), "{refused}");
    drop(uploads);
    let sent = device.store.part_bytes();
    let daemon = device.start().await;
    let done = daemon.end(id).await;
    assert_eq!(done.state, UploadState::Succeeded);
    assert_eq!(device.store.part_bytes(), 20 * PART as u64, "no part was broken off ({sent} before the stop)");
}
