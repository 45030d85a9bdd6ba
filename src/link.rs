//! The ways out of this device: which interfaces have a default route, now and whenever that changes. Promises to tell of
//! every change soon (netlink says that something happened, the kernel's tables say what is true), and to fall back to
//! looking now and then; must never decide what anybody sends.

mod routes;

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::routes::Ways;

/// Links, addresses and routes, of both families; as in `linux/rtnetlink.h`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// A burst of events within this time is one change: an interface that comes up makes a dozen.
const SETTLE: Duration = Duration::from_millis(200);
/// A burst that does not end is looked at all the same.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// How often is looked where the kernel does not tell.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The ways out, followed until `cancel`. Reads them once before it returns.
pub async fn follow(cancel: CancellationToken) -> watch::Receiver<Ways> {
    let events = open().inspect_err(|why| {
        tracing::warn!(%why, "the kernel does not tell when the link changes: looked at every {} s", LOOK_INTERVAL.as_secs());
    });
    // Events are kept from here on: no change is missed between the look and the wait.
    let (sender, receiver) = watch::channel(look().await);
    tokio::spawn(async move {
        let work = tell(events.ok(), &sender);
        tokio::select! {
            () = work => {}
            () = cancel.cancelled() => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn tell(events: Option<UnixDatagram>, sender: &watch::Sender<Ways>) {
    loop {
        match &events {
            Some(events) => changed(events).await,
            None => tokio::time::sleep(LOOK_INTERVAL).await,
        }
        let now = look().await;
        sender.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
    }
}

fn open() -> io::Result<UnixDatagram> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol means NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    // Nothing but receiving is done with it, which is the same for every kind of socket.
    UnixDatagram::from_std(socket.into())
}

/// Waits until something happens, and then until nothing has for a moment.
async fn changed(events: &UnixDatagram) {
    next(events).await;
    let more = async { while tokio::time::timeout(SETTLE, next(events)).await.is_ok() {} };
    let _ = tokio::time::timeout(SETTLE_MAX, more).await;
}

/// Waits for an event and drops it: what it says is read from the tables.
async fn next(events: &UnixDatagram) {
    match events.recv(&mut [0; 8_192]).await {
        Ok(_) => {}
        // More events than the kernel keeps are events, too.
        Err(why) if why.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {}
        Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
    }
}

/// What the kernel's tables say. A table that cannot be read (a kernel without IPv6) is empty.
async fn look() -> Ways {
    let read = tokio::task::spawn_blocking(|| {
        let table = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
        // Some network managers leave the routes of a cable that was pulled out.
        let has_carrier = |interface: &str| {
            let carrier = std::fs::read_to_string(format!("/sys/class/net/{interface}/carrier"));
            carrier.map_or(true, |carrier| carrier.trim() != "0")
        };
        Ways::read(&table("route"), &table("ipv6_route"), has_carrier)
    });
    read.await.unwrap_or_default()
}
