//! What every service of the local cloud starts from: account, region, address, clock and the place of its state.

use rand::RngExt as _;

use crate::clock::Clock;
use crate::local_cloud::counters::Counters;
use crate::local_cloud::state_dir::StateDir;

/// Where and as what the local cloud runs; clones share clock and counters.
#[derive(Debug, Clone)]
pub struct Site {
    /// The account's id, 12 digits.
    pub account_id: String,
    /// The region that ARNs and ids name.
    pub region: String,
    /// The URL under which everything is reached, without a slash at its end: the root of token issuers.
    pub base_url: String,
    /// Where state is kept from start to start.
    pub state: StateDir,
    /// The time that tokens and credentials count by.
    pub clock: Clock,
    /// Calls by operation.
    pub counters: Counters,
}

impl Site {
    /// Now, in whole seconds since 1970.
    pub fn now_s(&self) -> u64 {
        self.now_ms() / 1_000
    }

    /// Now, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(crate::clock::unix_ms(self.clock.wall())).unwrap_or(0)
    }
}

/// Why a service of the local cloud could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A state file could not be read or written.
    #[error(transparent)]
    State(#[from] crate::local_cloud::state_dir::StateError),
    /// A role's policy is none.
    #[error("a policy of the role {role} cannot be read: {reason}; mend it in the template")]
    Policy {
        /// The role's ARN.
        role: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A key could not be made, or a stored one is not usable.
    #[error("the local cloud cannot use its signing key {name}: {reason}; delete its state directory to start afresh")]
    Key {
        /// Which key.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A random UUID (version 4).
pub fn new_uuid() -> String {
    uuid_of(rand::rng().random())
}

/// The UUID (version 4 by its marks) of these bytes.
pub fn uuid_of(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
