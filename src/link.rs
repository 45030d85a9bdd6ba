//! The ways out of this device: which interfaces have a default route, now and whenever that changes. Promises to tell of
//! every change soon (netlink says that something happened, the kernel's tables say what is true), and to fall back to
//! looking now and then; must never decide what anybody sends.

mod routes;

use std::io;
use std::path::Path;
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
/// When is looked again where looking failed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Where the kernel says how this process gets anywhere.
const TABLES: &str = "/proc/self/net";

/// The ways out, followed until `cancel`. Reads them once before it returns.
pub async fn follow(cancel: CancellationToken) -> watch::Receiver<Ways> {
    let events = open().inspect_err(|why| {
        tracing::warn!(%why, "the kernel does not tell when the link changes: looked at every {} s", LOOK_INTERVAL.as_secs());
    });
    // Events are kept from here on: no change is missed between the look and the wait.
    let (sender, mut receiver) = watch::channel(Ways::default());
    let is_known = look(&sender).await;
    receiver.mark_unchanged();
    tokio::spawn(async move {
        let work = tell(events.ok(), &sender, is_known);
        tokio::select! {
            () = work => {}
            () = cancel.cancelled() => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn tell(events: Option<UnixDatagram>, sender: &watch::Sender<Ways>, mut is_known: bool) {
    loop {
        let change = async {
            match &events {
                Some(events) => changed(events).await,
                None => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        };
        if is_known {
            change.await;
        } else {
            // Nobody tells of a change that has happened already.
            let _ = tokio::time::timeout(LOOK_AGAIN, change).await;
        }
        is_known = look(sender).await;
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

/// Tells what the kernel's tables say. False where they cannot be read: what was told last stands.
async fn look(sender: &watch::Sender<Ways>) -> bool {
    let read = tokio::task::spawn_blocking(|| read(Path::new(TABLES))).await;
    match read.unwrap_or_else(|why| Err(io::Error::other(why))) {
        Ok(now) => {
            sender.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
            true
        }
        Err(why) => {
            tracing::warn!(%why, "the routes in {TABLES} cannot be read: looked at again in {} s", LOOK_AGAIN.as_secs());
            false
        }
    }
}

/// What the tables say. One that is not there (a kernel without IPv6) is empty; one that cannot be read says nothing.
fn read(tables: &Path) -> io::Result<Ways> {
    let table = |name: &str| match std::fs::read_to_string(tables.join(name)) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    };
    // Some network managers leave the routes of a cable that was pulled out.
    let has_carrier = |interface: &str| {
        let carrier = std::fs::read_to_string(format!("/sys/class/net/{interface}/carrier"));
        carrier.map_or(true, |carrier| carrier.trim() != "0")
    };
    Ok(Ways::read(&table("route")?, &table("ipv6_route")?, has_carrier))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_table_that_is_not_there_is_empty_and_one_that_cannot_be_read_says_nothing() {
        let tables = tempfile::tempdir().unwrap();
        let route = "way0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0\n";
        std::fs::write(tables.path().join("route"), route).unwrap();
        assert_eq!(read(tables.path()).unwrap().interfaces(), ["way0"]);
        std::fs::create_dir(tables.path().join("ipv6_route")).unwrap();
        assert!(read(tables.path()).is_err());
    }
}
