//! One suite that every store passes: for tests. Leaves its objects behind: give it a prefix of its own.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, checksum};

use super::{ObjectStore, PartBody, Progress, Signer, StoreErrorKind, Target, UPLOAD_ID_METADATA};

/// Credentials for stores that look at none.
pub fn nobody() -> Signer {
    Signer { access_key_id: "AKIAEXAMPLE".into(), secret_access_key: "secret".into(), session_token: None }
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ seed).collect()
}

fn body(file: &Arc<std::fs::File>, content: &[u8], offset: usize, len: usize) -> PartBody {
    PartBody {
        file: Arc::clone(file),
        offset: offset as u64,
        len: len as u64,
        crc64nvme: checksum(CrcAlgorithm::Crc64Nvme, &content[offset..offset + len]),
        progress: Progress::new(),
    }
}

fn on_disk(content: &[u8]) -> Arc<std::fs::File> {
    let memory = rustix::fs::memfd_create("conformance", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(memory);
    file.write_all(content).expect("room in memory");
    Arc::new(file)
}

fn target(key: String, content: &[u8]) -> Target {
    Target {
        key,
        content_type: "image/jpeg".into(),
        metadata: BTreeMap::from([(UPLOAD_ID_METADATA.to_owned(), "01J".to_owned())]),
        if_none_match: true,
        total_bytes: content.len() as u64,
        crc64nvme: Some(checksum(CrcAlgorithm::Crc64Nvme, content)),
    }
}

/// Runs the whole suite with objects beneath `prefix`.
pub async fn run(store: Arc<dyn ObjectStore>, signer: &Signer, prefix: &str) {
    single_put(store.as_ref(), signer, prefix).await;
    multipart(store.as_ref(), signer, prefix).await;
    unknown_multipart(store.as_ref(), signer, prefix).await;
}

async fn single_put(store: &dyn ObjectStore, signer: &Signer, prefix: &str) {
    for (name, len) in [("empty", 0), ("one", 1), ("photo", 700_001)] {
        let content = bytes(len, 1);
        let file = on_disk(&content);
        let target = target(format!("{prefix}{name}.jpg"), &content);
        assert_eq!(store.head(signer, &target).await.expect("head"), None, "{name}: nothing there yet");
        let part = body(&file, &content, 0, len);
        let stored = store.put(signer, &target, &part).await.expect("put");
        assert_eq!(part.progress.bytes(), len as u64, "{name}: every byte is counted");
        if store.profile().crc64nvme {
            assert_eq!(stored.crc64nvme, target.crc64nvme, "{name}: the store proves the bytes");
        }
        let head = store.head(signer, &target).await.expect("head").expect("an object");
        assert_eq!(head.size_bytes, len as u64);
        assert_eq!(head.upload_id.as_deref(), Some("01J"));
        assert_eq!(head.stored.etag, stored.etag);
        if store.profile().conditional_writes {
            let again = store.put(signer, &target, &part).await.expect_err("the key is taken");
            assert_eq!(again.kind, StoreErrorKind::PreconditionFailed, "{again}");
            assert_eq!(again.outcome, super::Outcome::NotDone);
        }
        let over = Target { if_none_match: false, ..target.clone() };
        store.put(signer, &over, &part).await.expect("overwriting where it is allowed");
    }
    if store.profile().crc64nvme {
        let content = bytes(4_096, 2);
        let target = target(format!("{prefix}forged.jpg"), &content);
        let mut part = body(&on_disk(&content), &content, 0, content.len());
        part.crc64nvme ^= 1;
        let forged = Target { crc64nvme: Some(part.crc64nvme), ..target.clone() };
        let error = store.put(signer, &forged, &part).await.expect_err("another checksum");
        assert_eq!(error.kind, StoreErrorKind::BadDigest, "{error}");
        assert_eq!(store.head(signer, &target).await.expect("head"), None, "nothing became visible");
    }
    let content = bytes(1_000, 2);
    let target = target(format!("{prefix}short.jpg"), &bytes(2_000, 2));
    let mut part = body(&on_disk(&content), &content, 0, content.len());
    part.len = 2_000;
    let error = store.put(signer, &target, &part).await.expect_err("the file is too short");
    assert_eq!(error.kind, StoreErrorKind::Source, "{error}");
    assert_eq!(store.head(signer, &target).await.expect("head"), None, "nothing became visible");
}

async fn multipart(store: &dyn ObjectStore, signer: &Signer, prefix: &str) {
    let part_len = usize::try_from(store.profile().part_min_bytes).expect("a small part").max(100_000);
    let content = bytes(part_len * 2 + 12_345, 3);
    let file = on_disk(&content);
    let target = target(format!("{prefix}clip.mp4"), &content);
    let id = store.create_multipart(signer, &target).await.expect("create");
    let mut receipts = Vec::new();
    for (number, offset) in [(2, part_len), (1, 0), (3, part_len * 2)] {
        let len = part_len.min(content.len() - offset);
        let part = body(&file, &content, offset, len);
        // Twice: the same number replaces the part.
        store.upload_part(signer, &target, &id, number, &part).await.expect("part");
        receipts.push(store.upload_part(signer, &target, &id, number, &part).await.expect("part again"));
    }
    receipts.sort_by_key(|part| part.number);
    let listed = store.list_parts(signer, &target, &id).await.expect("list");
    assert_eq!(listed.len(), 3);
    for (listed, receipt) in listed.iter().zip(&receipts) {
        assert_eq!(
            (listed.number, &listed.etag, listed.size_bytes),
            (receipt.number, &receipt.etag, receipt.size_bytes)
        );
    }
    let mut wrong = receipts.clone();
    wrong[1].etag = "\"00000000000000000000000000000000\"".into();
    let error = store.complete(signer, &target, &id, &wrong).await.expect_err("a part that is not there");
    assert_eq!(error.kind, StoreErrorKind::InvalidParts, "{error}");
    assert_eq!(store.head(signer, &target).await.expect("head"), None, "nothing is visible before complete");
    let stored = store.complete(signer, &target, &id, &receipts).await.expect("complete");
    if store.profile().crc64nvme {
        assert_eq!(stored.crc64nvme, target.crc64nvme);
    }
    let head = store.head(signer, &target).await.expect("head").expect("an object");
    assert_eq!((head.size_bytes, head.upload_id.as_deref()), (content.len() as u64, Some("01J")));

    if store.profile().conditional_writes {
        let second = store.create_multipart(signer, &target).await.expect("create");
        let part = body(&file, &content, 0, content.len());
        let whole = store.upload_part(signer, &target, &second, 1, &part).await.expect("part");
        let error = store.complete(signer, &target, &second, &[whole]).await.expect_err("the key is taken");
        assert_eq!(error.kind, StoreErrorKind::PreconditionFailed, "{error}");
        store.abort(signer, &target, &second).await.expect("abort");
    }
}

async fn unknown_multipart(store: &dyn ObjectStore, signer: &Signer, prefix: &str) {
    let content = bytes(1_000, 4);
    let target = target(format!("{prefix}gone.mp4"), &content);
    let part = body(&on_disk(&content), &content, 0, content.len());
    let id = store.create_multipart(signer, &target).await.expect("create");
    let receipt = store.upload_part(signer, &target, &id, 1, &part).await.expect("part");
    store.abort(signer, &target, &id).await.expect("abort");
    let errors = [
        store.upload_part(signer, &target, &id, 1, &part).await.expect_err("part"),
        store.complete(signer, &target, &id, &[receipt]).await.expect_err("complete"),
        store.list_parts(signer, &target, &id).await.expect_err("list"),
    ];
    for error in errors {
        assert_eq!(error.kind, StoreErrorKind::NoSuchUpload, "{error}");
    }
}
