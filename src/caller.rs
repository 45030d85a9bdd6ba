//! The local process at the other end of the socket, as the kernel names it.

/// The kernel's uid for "a uid that has no number in this user namespace". It may stand for anybody, so it is nobody.
pub const OVERFLOW_UID: u32 = 65_534;

/// Who is calling, by `SO_PEERCRED` at the time of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The effective uid.
    pub uid: u32,
    /// The effective gid.
    pub gid: u32,
    /// root, or in `admin_uids`.
    pub is_admin: bool,
}
