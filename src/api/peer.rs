//! Who is at the other end of a connection, by `SO_PEERCRED`. Whoever the kernel does not name is refused; so is the
//! overflow uid, which stands for every uid that has no number in this user namespace.

use std::collections::BTreeSet;

use tokio::net::UnixStream;

use crate::caller::{Caller, OVERFLOW_UID};

const OVERFLOW_UID_FILE: &str = "/proc/sys/kernel/overflowuid";
/// `(uid_t)-1`: the kernel's "no credentials".
const NO_UID: u32 = u32::MAX;

/// Tells callers apart.
#[derive(Debug, Clone)]
pub struct Peers {
    overflow_uid: u32,
    admin_uids: BTreeSet<u32>,
}

impl Peers {
    /// root and `admin_uids` may steer the daemon.
    pub fn new(admin_uids: &[u32]) -> Self {
        // A hardened service may not see /proc/sys: then it is the number that every kernel starts with.
        let file = std::fs::read_to_string(OVERFLOW_UID_FILE).ok();
        let overflow_uid = file.and_then(|text| text.trim().parse().ok()).unwrap_or(OVERFLOW_UID);
        Self { overflow_uid, admin_uids: admin_uids.iter().copied().collect() }
    }

    /// The caller at the other end of `stream`; `None` where it is nobody in particular.
    pub fn caller(&self, stream: &UnixStream) -> Option<Caller> {
        let peer = stream.peer_cred().ok()?;
        self.identify(peer.uid(), peer.gid())
    }

    fn identify(&self, uid: u32, gid: u32) -> Option<Caller> {
        if uid == NO_UID || uid == self.overflow_uid {
            return None;
        }
        Some(Caller { uid, gid, is_admin: uid == 0 || self.admin_uids.contains(&uid) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn the_kernel_names_the_caller() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Peers::new(&[]).caller(&ours);
        let uid = rustix::process::geteuid().as_raw();
        if uid != OVERFLOW_UID {
            assert_eq!(caller.unwrap().uid, uid);
        }
    }

    #[test]
    fn nobody_in_particular_is_refused() {
        let peers = Peers::new(&[OVERFLOW_UID]);
        assert_eq!(peers.identify(peers.overflow_uid, 5), None);
        assert_eq!(peers.identify(NO_UID, 5), None);
    }

    #[test]
    fn root_and_admins_are_admins() {
        let peers = Peers::new(&[1_000]);
        let is_admin = |uid| peers.identify(uid, uid).unwrap().is_admin;
        assert_eq!((is_admin(0), is_admin(1_000), is_admin(1_001)), (true, true, false));
    }
}
