//! Socket activation, with the real binary and a socket that the test makes in systemd's place.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate::api::v1::GetStatusRequest;
use tidegate::api::v1::gateway_service_client::GatewayServiceClient;

use crate::fixture::{Stage, channel};

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_from_systemd_is_served_and_stays() {
    let mut stage = Stage::start().await;
    // Only for its configuration: the daemon under test is a process of its own.
    stage.stop_daemon().await;
    let path = stage.photos_dir().join("activated.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // What systemd does: the socket is descriptor 3, and the environment says so to this one process.
    let script = r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$TIDEGATE" serve --config "$CONFIG""#;
    let mut daemon = Command::new("sh")
        .args(["-c", script])
        .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"))
        .env("CONFIG", stage.config_file())
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .spawn()
        .unwrap();

    let mut gateway = GatewayServiceClient::new(channel(&path).await);
    let status = gateway.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.destinations, ["photos"]);
    assert!(!stage.socket_path().exists(), "it made a socket of its own as well");

    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || daemon.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it stops").unwrap();
    assert!(ended.success(), "{ended}");
    assert!(path.exists(), "systemd's socket is not the daemon's to remove");
}
