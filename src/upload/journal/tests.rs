#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::session::SessionId;
use crate::store::{PartReceipt, Stored};
use crate::upload::source::Fingerprint;
use crate::upload::spool::Mark;
use crate::upload::state::{Event, Phase};
use crate::upload::{Ulid, UploadError, failure};

impl Journal {
    /// Whether or not anybody is signed in.
    async fn insert(&self, row: Row) -> Result<Option<Row>, JournalError> {
        match self.enter(row, || true).await? {
            Entered::There(there) => Ok(Some(*there)),
            _ => Ok(None),
        }
    }
}

fn open(root: &Path) -> Result<Journal, StartError> {
    Journal::open(Arc::new(StateDir::open(root)?))
}

fn row(id: Ulid) -> Row {
    Row {
        id,
        owner_uid: 1000,
        session: SessionId("s".into()),
        identity: "app".into(),
        identity_id: "us-east-1:1".into(),
        destination: "photos".into(),
        bucket: "app-photos".into(),
        key: "users/us-east-1:1/cat.jpg".into(),
        spec: StoredSpec { content_type: "image/jpeg".into(), unique: true, priority: 1, ..StoredSpec::default() },
        spec_hash: [7; 32],
        source: Source::Spool,
        phase: Phase::Receiving,
        received_bytes: 0,
        received_crc: u64::MAX,
        total_bytes: None,
        crc64nvme: None,
        sha256: None,
        part_bytes: None,
        multipart_id: None,
        multipart_ms: None,
        in_doubt: false,
        attempts: 0,
        failing_s: 0,
        failure: None,
        etag: None,
        version_id: None,
        create_ms: 1,
        update_ms: 1,
    }
}

fn id(number: u128) -> Ulid {
    Ulid::from_parts(1_700_000_000_000, number)
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    assert_eq!(journal.insert(row(id(1))).await.unwrap(), None);
    assert_eq!(journal.insert(row(id(1))).await.unwrap(), Some(row(id(1))), "the first one stays");
    let finished = journal
        .advance(id(1), Event::Finish, 5, |row| {
            row.total_bytes = Some(9);
            row.crc64nvme = Some(u64::MAX - 1);
            row.sha256 = Some([3; 32]);
            row.multipart_id = Some("multi".into());
            row.multipart_ms = Some(4);
            row.part_bytes = Some(5);
            row.failure = Some(failure::failure(failure::OFFLINE, "no link"));
        })
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let part = PartReceipt { number: 2, etag: "\"e\"".into(), size_bytes: 4, crc64nvme: Some(u64::MAX) };
    assert!(journal.part_done(id(1), "multi".into(), part.clone()).await.unwrap());
    let stale = journal.part_done(id(1), "an older one".into(), part.clone()).await.unwrap();
    assert!(!stale, "a receipt of another multipart upload is not kept");
    // Dropped without a word, as a crash would.
    drop(journal);
    let journal = reopened(root.path()).await;
    assert_eq!(journal.find(id(1)).await.unwrap(), Some(finished));
    assert_eq!(journal.parts(id(1)).await.unwrap(), [part]);
    let pending: Vec<_> = journal.unfinished().await.unwrap().pending.into_values().flatten().collect();
    assert_eq!(pending, [(id(1), 1, Some(9))]);
}

/// The lock goes when the writing thread has ended, which happens by itself after the last clone.
async fn reopened(root: &Path) -> Journal {
    loop {
        match open(root) {
            Err(StartError::Locked { .. }) => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

#[tokio::test]
async fn whoever_ends_a_session_finds_every_upload_that_has_entered_it() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    let (looked, look) = oneshot::channel();
    let entering = journal.enter(row(id(1)), move || looked.send(()).is_ok());
    let ending = async {
        look.await.unwrap();
        journal.unfinished_of(SessionId("s".into())).await
    };
    let (entered, found) = tokio::join!(entering, ending);
    assert_eq!((entered.unwrap(), found.unwrap()), (Entered::New, vec![id(1)]));
    assert_eq!(journal.enter(row(id(2)), || false).await.unwrap(), Entered::Refused);
    assert!(journal.find(id(2)).await.unwrap().is_none());
    assert_eq!(journal.enter(row(id(1)), || false).await.unwrap(), Entered::There(Box::new(row(id(1)))), "it is there");
}

#[tokio::test]
async fn an_end_forgets_parts_and_notes_the_abort() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    for number in 1..=2 {
        journal
            .insert(Row { phase: Phase::Pending, multipart_id: Some("multi".into()), ..row(id(number)) })
            .await
            .unwrap();
        let part = PartReceipt { number: 1, etag: String::new(), size_bytes: 4, crc64nvme: None };
        assert!(journal.part_done(id(number), "multi".into(), part).await.unwrap());
    }
    journal.advance(id(1), Event::Cancel, 5, |_| {}).await.unwrap().unwrap().unwrap();
    journal.stored(id(2), Stored::default(), Some(1), true, 6).await.unwrap().unwrap().unwrap();
    let aborts = journal.aborts(10).await.unwrap();
    assert_eq!(aborts.len(), 1, "a completed multipart upload is not aborted");
    assert_eq!((aborts[0].multipart_id.as_str(), aborts[0].identity_id.as_str()), ("multi", "us-east-1:1"));
    assert!(journal.parts(id(1)).await.unwrap().is_empty());
    let late = journal.advance(id(2), Event::Cancel, 7, |_| {}).await.unwrap().unwrap();
    assert_eq!(late.unwrap_err().phase, Phase::Succeeded, "a finished upload is not cancelled");
    journal.abort_done(aborts[0].id).await.unwrap();
    assert!(journal.aborts(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_has_arrived_goes_with_the_stream() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    let arrived = |number| Arrived { number, size_bytes: 4, crc64nvme: u64::MAX - u64::from(number) };
    let mark = |bytes| Mark { bytes, crc64nvme: 1 };
    journal.insert(Row { part_bytes: Some(4), ..row(id(1)) }).await.unwrap();
    journal.received(id(1), mark(8), vec![arrived(1), arrived(2)], 2).await.unwrap().unwrap().unwrap();
    assert!(journal.multipart_begun(id(1), "first".into(), 4, 3).await.unwrap());
    assert!(!journal.multipart_begun(id(1), "second".into(), 4, 3).await.unwrap(), "one at a time");
    let part = PartReceipt { number: 1, etag: String::new(), size_bytes: 4, crc64nvme: Some(9) };
    assert!(journal.part_done(id(1), "first".into(), part.clone()).await.unwrap());
    assert_eq!(journal.arrived(id(1), false).await.unwrap(), [arrived(1), arrived(2)]);
    assert_eq!(journal.arrived(id(1), true).await.unwrap(), [arrived(2)]);

    journal.restart_stream(id(1), 4).await.unwrap().unwrap().unwrap();
    assert!(journal.arrived(id(1), false).await.unwrap().is_empty() && journal.parts(id(1)).await.unwrap().is_empty());
    assert_eq!(journal.aborts(10).await.unwrap()[0].multipart_id, "first");
    assert!(!journal.part_done(id(1), "first".into(), part).await.unwrap(), "it has left that one");

    journal.finished(id(1), mark(6), None, vec![arrived(1)], 5).await.unwrap().unwrap().unwrap();
    let late = journal.received(id(1), mark(9), Vec::new(), 6).await.unwrap().unwrap();
    assert_eq!(late.unwrap_err().total_bytes, Some(6), "a finished stream takes no more");
    assert!(journal.restart_stream(id(1), 7).await.unwrap().unwrap().is_err(), "nor does it start again");
    assert!(journal.multipart_begun(id(1), "third".into(), 3, 8).await.unwrap());
    assert!(journal.arrived(id(1), false).await.unwrap().is_empty(), "those were parts of another size");
    journal.stored(id(1), Stored::default(), None, true, 9).await.unwrap().unwrap().unwrap();
    assert!(!journal.multipart_begun(id(1), "fourth".into(), 3, 10).await.unwrap(), "it has ended");
}

#[tokio::test]
async fn one_bad_write_undoes_only_itself() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    let bad = journal.write(|connection| {
        connection.execute("INSERT INTO aborts VALUES (1, 1, '', '', '', '', '', 1)", [])?;
        connection.execute("INSERT INTO nowhere VALUES (1)", [])
    });
    let (bad, good) = tokio::join!(bad, journal.insert(row(id(1))));
    assert!(bad.unwrap_err().to_string().contains("nowhere"));
    good.unwrap();
    assert!(journal.aborts(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn pages_receipts_and_counts() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    for number in 1..=5 {
        let event = if number % 2 == 0 { Event::Fail } else { Event::Store };
        journal.insert(Row { phase: Phase::Pending, ..row(id(number)) }).await.unwrap();
        journal.advance(id(number), event, number as i64, |_| {}).await.unwrap().unwrap().unwrap();
    }
    journal.insert(Row { owner_uid: 7, ..row(id(9)) }).await.unwrap();
    let all = Phase::ALL.to_vec();
    let first = journal.page(1000, None, all.clone(), None, 2).await.unwrap();
    let ids = |page: &lists::Page| page.rows.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!((ids(&first), first.next), (vec![id(5), id(4)], Some(id(4))));
    let rest = journal.page(1000, None, all.clone(), Some(id(4)), 9).await.unwrap();
    assert_eq!((ids(&rest), rest.next), (vec![id(3), id(2), id(1)], None));
    assert_eq!(ids(&journal.page(1000, None, vec![Phase::Failed], None, 9).await.unwrap()), [id(4), id(2)]);
    assert!(ids(&journal.page(1000, Some(SessionId("other".into())), all, None, 9).await.unwrap()).is_empty());
    assert_eq!(journal.counts(Some(1000)).await.unwrap()["SUCCEEDED"], 3);
    assert_eq!(journal.expire_receipts(4).await.unwrap(), 2, "failed ones with bytes in the spool stay");
    assert_eq!(journal.counts(None).await.unwrap()["FAILED"], 2);
    assert_eq!(journal.idle_streams(2).await.unwrap(), [id(9)]);
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_rows() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    let many = SCAN_MAX as u128 + 200;
    let inserted = journal.write(move |connection| {
        (1..=many).try_for_each(|number| rows::insert(connection, &Row { phase: Phase::Pending, ..row(id(number)) }))
    });
    inserted.await.unwrap();
    journal.advance(id(1), Event::Fail, 5, |_| {}).await.unwrap().unwrap().unwrap();
    let failed = |before| journal.page(1000, None, vec![Phase::Failed], before, 9);
    let first = failed(None).await.unwrap();
    assert_eq!((first.rows.len(), first.scanned, first.next), (0, SCAN_MAX, Some(id(201))));
    let second = failed(first.next).await.unwrap();
    assert_eq!((second.rows.len(), second.scanned, second.next), (1, 200, None));
}

fn file(relative: &str) -> FolderFile {
    FolderFile { folder: "/srv/camera".into(), relative: relative.into() }
}

fn fingerprint(ino: u64, mtime_ns: i128) -> Fingerprint {
    Fingerprint { ino, size_bytes: 9, mtime_ns, ctime_ns: 5 }
}

#[tokio::test]
async fn ends_are_numbered_for_good() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    for number in 1..=3 {
        journal.insert(Row { phase: Phase::Pending, ..row(id(number)) }).await.unwrap();
    }
    journal.insert(Row { phase: Phase::Pending, owner_uid: 7, ..row(id(4)) }).await.unwrap();
    for (number, event) in [(2, Event::Store), (4, Event::Fail), (1, Event::Fail)] {
        journal.advance(id(number), event, 10 * number as i64, |_| {}).await.unwrap().unwrap().unwrap();
    }
    drop(journal);
    let journal = reopened(root.path()).await;
    let numbers = |ends: &[(u64, Row)]| ends.iter().map(|(number, row)| (*number, row.id)).collect::<Vec<_>>();
    assert_eq!(numbers(&journal.ended_after(1000, 0, 9).await.unwrap()), [(1, id(2)), (3, id(1))]);
    assert_eq!(numbers(&journal.ended_after(1000, 1, 9).await.unwrap()), [(3, id(1))]);
    // Tried again: no end, until there is another.
    journal.advance(id(1), Event::Retry, 40, |_| {}).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&journal.ended_after(1000, 1, 9).await.unwrap()), []);
    journal.advance(id(1), Event::Cancel, 50, |_| {}).await.unwrap().unwrap().unwrap();
    journal.advance(id(1), Event::Cancel, 60, |_| {}).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&journal.ended_after(1000, 1, 9).await.unwrap()), [(4, id(1))], "one that stays is no end");
    assert_eq!(journal.last_end_before(1000, 21).await.unwrap(), 3);
    assert_eq!(
        (journal.last_end_before(1000, 0).await.unwrap(), journal.last_end_before(1000, 99).await.unwrap()),
        (0, 4)
    );
    // Without its receipts the counter goes on where it was.
    assert_eq!(journal.expire_receipts(1_000).await.unwrap(), 2);
    journal.advance(id(3), Event::Store, 70, |_| {}).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&journal.ended_after(1000, 4, 9).await.unwrap()), [(5, id(3))]);
}

#[tokio::test]
async fn a_file_is_taken_once_and_a_changed_one_again() {
    let root = tempfile::tempdir().unwrap();
    let journal = open(root.path()).unwrap();
    let folder = Path::new("/srv/camera");
    let pending = |number| Row { phase: Phase::Pending, source: file_source(), ..row(id(number)) };
    assert!(journal.insert_file(pending(1), &file("a"), fingerprint(1, 1)).await.unwrap());
    assert!(!journal.insert_file(pending(2), &file("a"), fingerprint(1, 1)).await.unwrap());
    let known = |now| journal.known_files(folder, vec![("a".to_owned(), now), ("b".to_owned(), now)]);
    assert_eq!(known(fingerprint(1, 1)).await.unwrap(), [Known::Same, Known::New]);
    assert_eq!(known(fingerprint(2, 1)).await.unwrap()[0], Known::New, "nobody knows its bytes yet");

    journal.advance(id(1), Event::Store, 5, |row| row.crc64nvme = Some(u64::MAX)).await.unwrap().unwrap().unwrap();
    let ended = journal.ended_files(folder, "", 9).await.unwrap();
    assert_eq!((ended.len(), &ended[0].outcome, ended[0].fingerprint), (1, &Ok(Some(u64::MAX)), fingerprint(1, 1)));
    assert_eq!(journal.expire_receipts(1_000).await.unwrap(), 0, "something is left to do");
    journal.settle_file(&file("a"), id(1), Settled::Kept, Some(u64::MAX)).await.unwrap();
    assert!(journal.ended_files(folder, "", 9).await.unwrap().is_empty());
    assert_eq!(known(fingerprint(2, 1)).await.unwrap()[0], Known::Touched(u64::MAX));
    assert_eq!(known(fingerprint(1, 2)).await.unwrap()[0], Known::New);
    journal.file_touched(&file("a"), fingerprint(2, 1)).await.unwrap();
    assert_eq!(known(fingerprint(2, 1)).await.unwrap()[0], Known::Same);
    assert_eq!(journal.expire_receipts(1_000).await.unwrap(), 1);
    assert_eq!(known(fingerprint(2, 1)).await.unwrap()[0], Known::Same, "known also without its receipt");

    // A failed one is open again once it is retried, and the newer upload of a path is not settled for the older one.
    assert!(journal.insert_file(pending(3), &file("a"), fingerprint(1, 3)).await.unwrap());
    journal.settle_file(&file("a"), id(1), Settled::Forgotten, None).await.unwrap();
    assert_eq!(known(fingerprint(1, 3)).await.unwrap()[0], Known::Same);
    let fail = |row: &mut Row| row.failure = Some(failure::failure(failure::ACCESS_DENIED, "no"));
    journal.advance(id(3), Event::Fail, 6, fail).await.unwrap().unwrap().unwrap();
    journal.settle_file(&file("a"), id(3), Settled::Failed, None).await.unwrap();
    assert_eq!(journal.folder_counts(folder).await.unwrap(), FolderCounts { open: 0, failed: 1 });
    assert_eq!(journal.expire_receipts(1_000).await.unwrap(), 0, "a retry must find it");
    journal.advance(id(3), Event::Retry, 7, |_| {}).await.unwrap().unwrap().unwrap();
    assert_eq!(journal.folder_counts(folder).await.unwrap(), FolderCounts { open: 1, failed: 0 });
    assert_eq!(journal.forget_files(folder, vec!["a".into()]).await.unwrap(), 0, "one on its way is left to its end");
    journal.advance(id(3), Event::Cancel, 8, |_| {}).await.unwrap().unwrap().unwrap();
    assert_eq!(journal.ended_files(folder, "", 9).await.unwrap()[0].outcome, Err(None));
    journal.settle_file(&file("a"), id(3), Settled::Kept, None).await.unwrap();
    assert_eq!(journal.resting_files(folder, "", 9).await.unwrap(), ["a"]);
    assert_eq!(journal.forget_files(folder, vec!["a".into()]).await.unwrap(), 1);
    assert_eq!(known(fingerprint(1, 3)).await.unwrap()[0], Known::New);
}

fn file_source() -> Source {
    Source::File { root: "/srv/camera".into(), relative: "a".into(), fingerprint: fingerprint(1, 1) }
}

#[test]
fn a_newer_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let file = Connection::open(root.path().join("journal.db")).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let error = open(root.path()).unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn a_damaged_file_is_found_after_an_unclean_stop() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path()).unwrap();
    std::fs::write(root.path().join("running"), "").unwrap();
    std::fs::write(
        root.path().join("journal.db"),
        "this is no database at all, and long enough to be looked at".repeat(99),
    )
    .unwrap();
    let error = open(root.path()).unwrap_err();
    assert!(matches!(error, StartError::Journal { .. }), "{error}");
}

#[tokio::test]
async fn nothing_is_written_once_trust_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let state_dir = Arc::new(StateDir::open(root.path()).unwrap());
    let journal = Journal::open(Arc::clone(&state_dir)).unwrap();
    journal.insert(row(id(1))).await.unwrap();
    state_dir.distrust("fsync failed");
    let error: UploadError = journal.insert(row(id(2))).await.unwrap_err().into();
    assert!(matches!(error, UploadError::Storage(_)), "{error}");
    assert!(journal.find(id(1)).await.unwrap().is_some(), "reading goes on");
    assert!(journal.find(id(2)).await.unwrap().is_none());
}
