//! The ways out of the device, in a network of its own. Runs where `unshare` and `ip` may make one; elsewhere it says so
//! and ends.

use std::process::Command;
use std::time::Duration;

use tidegate::link::{self, Ways};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
/// Set where this process has a network of its own.
const OWN_NETWORK: &str = "TIDEGATE_TEST_OWN_NETWORK";

#[test]
fn every_change_of_the_default_routes_is_told() {
    let may = Command::new("unshare").args(["-rn", "ip", "link", "add", "type", "veth"]).output();
    if !may.is_ok_and(|tried| tried.status.success()) {
        println!("no network of its own can be made here: not tried");
        return;
    }
    let mut child = Command::new("unshare");
    child.arg("-rn").arg(std::env::current_exe().unwrap());
    child.args(["--exact", "link::in_a_network_of_its_own", "--ignored", "--nocapture"]).env(OWN_NETWORK, "1");
    let child = child.output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&child.stderr));
}

fn ip(command: &str) {
    let done = Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(done.success(), "ip {command}");
}

async fn told(ways: &mut watch::Receiver<Ways>, interfaces: &[&str]) {
    let wanted = |ways: &Ways| ways.interfaces() == interfaces;
    let told = tokio::time::timeout(PATIENCE, ways.wait_for(wanted)).await;
    assert!(told.is_ok(), "never told of {interfaces:?}");
}

#[tokio::test]
#[ignore = "started by the test above, in a network of its own"]
async fn in_a_network_of_its_own() {
    if std::env::var_os(OWN_NETWORK).is_none() {
        return;
    }
    let mut ways = link::follow(CancellationToken::new()).await;
    assert!(ways.borrow_and_update().interfaces().is_empty());
    for (interface, address) in [("cable0", "10.9.8.2/24"), ("wwan0", "10.9.9.2/24")] {
        ip(&format!("link add {interface} type veth peer name of-{interface}"));
        ip(&format!("link set of-{interface} up"));
        ip(&format!("address add {address} dev {interface}"));
        ip(&format!("link set {interface} up"));
    }
    ip("route add default via 10.9.9.1 dev wwan0 metric 700");
    told(&mut ways, &["wwan0"]).await;
    ip("route add default via 10.9.8.1 dev cable0 metric 100");
    told(&mut ways, &["cable0"]).await;
    ip("link set cable0 down");
    told(&mut ways, &["wwan0"]).await;
    ip("link set wwan0 down");
    told(&mut ways, &[]).await;
}
