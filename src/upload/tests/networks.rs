use super::fixture::{ALICE, Device, photo, spec};
use crate::store::StoreErrorKind;
use crate::store::faulty::{Fault, Operation};
use crate::upload::{Config, Priority, Ulid, UploadSpec, UploadState, WaitReason};

const PART: usize = 64 << 10;

fn over(interface: &str) -> Vec<String> {
    vec![interface.to_owned()]
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_metered_link_only_those_go_who_may() {
    let mut device = Device::new();
    device.config.metered_interfaces = over("wwan*");
    let daemon = device.start().await;
    daemon.network_changed(over("wlan0"));
    let (open, gate) = tokio::sync::watch::channel(false);
    device.store.gate_parts(&gate);
    let (long, waits, goes) = (Ulid::generate(), Ulid::generate(), Ulid::generate());
    daemon.stream(long, spec("clip.mp4"), &photo(10 * PART)).await.unwrap();
    device.store.at_gate(Operation::UploadPart, 1).await;
    daemon.network_changed(over("wwan0"));
    open.send_replace(true);
    daemon.state(long, UploadState::Waiting(WaitReason::Metered)).await;
    daemon.stream(waits, spec("later.jpg"), &photo(1_000)).await.unwrap();
    daemon.state(waits, UploadState::Waiting(WaitReason::Metered)).await;
    let urgent = UploadSpec { priority: Priority::Interactive, ..spec("now.jpg") };
    daemon.stream(goes, urgent, &photo(1_000)).await.unwrap();
    assert_eq!(daemon.end(goes).await.state, UploadState::Succeeded);
    let stats = daemon.stats(None).await.unwrap();
    assert_eq!((stats.counts["WAITING"], stats.waiting["METERED"]), (2, 2));
    daemon.network_changed(over("wlan0"));
    for id in [long, waits] {
        assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
    }
    assert_eq!(device.store.part_bytes(), (10 * PART + 2_000) as u64, "every byte once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_way_out_tries_nothing_until_there_is_one() {
    let mut device = Device::new();
    device.config.backoff_initial_ms = 600_000;
    device.config.backoff_max_ms = 600_000;
    let daemon = device.start().await;
    daemon.network_changed(over("eth0"));
    daemon.network_changed(Vec::new());
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    daemon.state(id, UploadState::Waiting(WaitReason::Offline)).await;
    assert_eq!(device.store.calls(Operation::Put), 0);
    daemon.network_changed(over("eth1"));
    assert_eq!(daemon.end(id).await.state, UploadState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_sees_what_a_reload_makes_wait() {
    let mut device = Device::new();
    device.config.part_attempts = 1;
    (device.config.backoff_initial_ms, device.config.backoff_max_ms) = (600_000, 600_000);
    let daemon = device.start().await;
    daemon.network_changed(over("wwan0"));
    device.store.always(Operation::Put, Some(Fault::Before(StoreErrorKind::Offline)));
    let id = Ulid::generate();
    daemon.stream(id, spec("cat.jpg"), &photo(1_000)).await.unwrap();
    daemon.state(id, UploadState::Waiting(WaitReason::Offline)).await;
    let mut watched = daemon.watch(&ALICE, id).await.unwrap();
    let metered = Config { metered_interfaces: over("wwan0"), ..device.config.clone() };
    daemon.reconfigure(metered, vec![device.destination()]).unwrap();
    let view = watched.borrow_and_update().clone();
    assert_eq!(view.state, UploadState::Waiting(WaitReason::Metered));
}
