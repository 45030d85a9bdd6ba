//! S3-likes that know less than S3: the profile that fits sends them nothing that they refuse, and keeps every promise
//! that can be kept; the one that does not fit fails before it is believed, and says what to set.

use tidegate::store::s3::Checksum;
use tidegate::upload::{Ulid, UploadState, UploadView};

use crate::fault_proxy::{Fault, Rule};
use crate::fault_stage::{Daemon, Role, Stage, spec};
use crate::rehearsal::bytes;

const CONDITIONS: &str = "if-none-match";
const CHECKSUMS: [&str; 2] = ["x-amz-checksum-", "x-amz-sdk-checksum-"];
const SMALL: usize = 100_000;
const LARGE: usize = (5 << 20) + 70_000;

async fn upload(daemon: &Daemon, role: Role, key: &str, exact: bool, content: &[u8]) -> UploadView {
    let id = Ulid::generate();
    daemon.stream(role, id, spec(key, exact), content).await.unwrap();
    daemon.end(role, id).await
}

fn failed(view: &UploadView, reason: &str, says: &str) {
    let failure = view.failure.as_ref().unwrap_or_else(|| panic!("no failure: {view:?}"));
    assert_eq!((view.state, failure.reason), (UploadState::Failed, reason), "{failure:?}");
    assert!(failure.message.contains(says), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_conditions_and_checksums_works_with_its_profile() {
    let mut stage = Stage::on_local_cloud().await;
    stage.proxy.refuse_headers(&[CONDITIONS, CHECKSUMS[0], CHECKSUMS[1]]);
    let daemon = stage.start().await;
    for len in [SMALL, LARGE] {
        let refused = upload(&daemon, Role::PutOnly, &format!("free/{len}.jpg"), false, &bytes(len)).await;
        failed(&refused, "STORE_REFUSED", "conditional_writes");
        assert!(stage.spooled(refused.id).exists(), "its bytes are kept");
    }
    daemon.crash().await;

    stage.store.checksum = Checksum::Md5;
    stage.store.conditional_writes = false;
    let daemon = stage.start().await;
    for len in [SMALL, LARGE] {
        let content = bytes(len);
        for role in Role::BOTH {
            let stored = upload(&daemon, role, &format!("free/{len}.jpg"), false, &content).await;
            assert_eq!(stored.state, UploadState::Succeeded, "{role:?} {len}: {:?}", stored.failure);
            assert!(stage.content(&stored.key).await == content);
        }
        // Whoever may look looks first, and leaves alone what is there. Whoever may not is told that nobody guards it.
        let key = format!("free/exact-{len}.jpg");
        let stored = upload(&daemon, Role::Reader, &key, true, &content).await;
        assert_eq!(stored.state, UploadState::Succeeded, "{:?}", stored.failure);
        failed(&upload(&daemon, Role::Reader, &key, true, &content[1..]).await, "OBJECT_EXISTS", "another object");
        assert!(stage.content(&stored.key).await == content);
        failed(&upload(&daemon, Role::PutOnly, &key, true, &content).await, "OVERWRITE_UNGUARDED", "UNIQUE");
    }
    // MD5 catches what flips on the wire.
    let flip = |operation, share| Rule {
        operation,
        key_part: "flipped".into(),
        skip: 0,
        times: 2,
        fault: Fault::FlipRequest(share),
    };
    stage.proxy.add(flip("s3:PutObject", 0.9));
    stage.proxy.add(flip("s3:UploadPart", 0.5));
    for len in [SMALL, LARGE] {
        let content = bytes(len);
        let stored = upload(&daemon, Role::PutOnly, &format!("free/flipped-{len}.jpg"), false, &content).await;
        assert_eq!(stored.state, UploadState::Succeeded, "{len}: {:?}", stored.failure);
        assert!(stage.content(&stored.key).await == content);
    }
    assert_eq!(stage.proxy.struck("flipped"), 4);
    daemon.crash().await;

    // The oldest ones know neither: TLS and our own reading are all there is.
    stage.store.checksum = Checksum::None;
    stage.proxy.refuse_headers(&[CONDITIONS, CHECKSUMS[0], CHECKSUMS[1], "content-md5"]);
    let daemon = stage.start().await;
    for len in [SMALL, LARGE] {
        let stored = upload(&daemon, Role::PutOnly, &format!("free/bare-{len}.jpg"), false, &bytes(len)).await;
        assert_eq!(stored.state, UploadState::Succeeded, "{len}: {:?}", stored.failure);
        assert!(stage.content(&stored.key).await == bytes(len));
    }
    daemon.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_the_checksum_is_not_believed() {
    let mut stage = Stage::on_local_cloud().await;
    stage.proxy.hide_headers(&CHECKSUMS);
    let daemon = stage.start().await;
    let mut kept = Vec::new();
    for (len, objects) in [(SMALL, 1), (LARGE, 0)] {
        let doubted = upload(&daemon, Role::PutOnly, &format!("free/{len}.jpg"), false, &bytes(len)).await;
        failed(&doubted, "STORE_REFUSED", "checksum = \"md5\"");
        assert_eq!(stage.keys_below(&doubted.key).await.len(), objects, "parts that nobody proves become no object");
        kept.push((doubted.id, len));
    }
    daemon.crash().await;
    stage.store.checksum = Checksum::Md5;
    let daemon = stage.start().await;
    for (id, len) in kept {
        daemon.uploads.retry(&Role::PutOnly.caller(), id).await.unwrap();
        let stored = daemon.end(Role::PutOnly, id).await;
        assert_eq!(stored.state, UploadState::Succeeded, "{len}: {:?}", stored.failure);
        assert!(stage.content(&stored.key).await == bytes(len));
    }
    daemon.crash().await;
}
