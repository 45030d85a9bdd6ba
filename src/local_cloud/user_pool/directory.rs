//! The users of one pool: found by name, changed one at a time, each kept in a file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::local_cloud::error::AwsError;
use crate::local_cloud::state_dir::{StateDir, StateError};
use crate::local_cloud::user_pool::codes::Codes;
use crate::local_cloud::user_pool::device::Device;
use crate::local_cloud::user_pool::factors::Factors;
use crate::local_cloud::user_pool::federated::Identity;
use crate::local_cloud::user_pool::request::internal_error;
use crate::local_cloud::user_pool::srp::Verifier;
use crate::local_cloud::user_pool::tokens::SignIn;

/// Anybody may sign up, so the number of users needs a bound.
const MOST_USERS: usize = 100_000;

/// Where a user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UserStatus {
    /// Signed up; the code is not in yet.
    Unconfirmed,
    /// May sign in.
    Confirmed,
    /// Has a temporary password.
    ForceChangePassword,
    /// Has to choose another password by a code that was sent.
    ResetRequired,
    /// Comes in by another provider and has no password.
    ExternalProvider,
}

impl UserStatus {
    /// AWS's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unconfirmed => "UNCONFIRMED",
            Self::Confirmed => "CONFIRMED",
            Self::ForceChangePassword => "FORCE_CHANGE_PASSWORD",
            Self::ResetRequired => "RESET_REQUIRED",
            Self::ExternalProvider => "EXTERNAL_PROVIDER",
        }
    }
}

/// A user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// Never changes.
    pub sub: String,
    /// The name as tokens show it: the `sub` where people sign in with their address.
    pub username: String,
    /// Attributes without `sub`.
    pub attributes: BTreeMap<String, String>,
    pub status: UserStatus,
    pub enabled: bool,
    /// In milliseconds since 1970.
    pub create_ms: u64,
    /// In milliseconds since 1970.
    pub modify_ms: u64,
    /// What is kept of the password.
    pub verifier: Option<Verifier>,
    pub groups: BTreeSet<String>,
    pub codes: Codes,
    pub attempts: Attempts,
    /// Oldest first, bounded by `tokens`.
    pub sign_ins: Vec<SignIn>,
    /// As other providers know them.
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// Second factors.
    #[serde(default)]
    pub factors: Factors,
    /// Confirmed ones, bounded by `device`.
    #[serde(default)]
    pub devices: Vec<Device>,
}

impl User {
    /// Somebody new, unconfirmed and without a password.
    pub fn new(sub: String, username: String, attributes: BTreeMap<String, String>, now_ms: u64) -> Self {
        Self {
            sub,
            username,
            attributes,
            status: UserStatus::Unconfirmed,
            enabled: true,
            create_ms: now_ms,
            modify_ms: now_ms,
            verifier: None,
            groups: BTreeSet::new(),
            codes: Codes::default(),
            attempts: Attempts::default(),
            sign_ins: Vec::new(),
            identities: Vec::new(),
            factors: Factors::default(),
            devices: Vec::new(),
        }
    }

    /// `identities` as tokens show it; none where no other provider knows the user.
    pub fn shown_identities(&self) -> Option<Value> {
        let is_primary = self.status == UserStatus::ExternalProvider;
        let shown: Vec<_> = self.identities.iter().map(|identity| identity.shown(is_primary)).collect();
        (!shown.is_empty()).then_some(Value::Array(shown))
    }

    /// Where codes go, if anywhere.
    pub fn email(&self) -> Option<&str> {
        self.attributes.get("email").map(String::as_str)
    }

    /// Where text messages go, if anywhere.
    pub fn phone(&self) -> Option<&str> {
        self.attributes.get("phone_number").map(String::as_str)
    }

    /// Whether the number is proven.
    pub fn phone_is_verified(&self) -> bool {
        self.attributes.get("phone_number_verified").is_some_and(|verified| verified == "true")
    }

    /// Whether the address is proven.
    pub fn email_is_verified(&self) -> bool {
        self.attributes.get("email_verified").is_some_and(|verified| verified == "true")
    }
}

/// Wrong passwords in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    failed: u32,
    locked_until_ms: u64,
    latest_ms: u64,
}

const FREE_ATTEMPTS: u32 = 5;
const FIRST_LOCK_MS: u64 = 1_000;
const LONGEST_LOCK_MS: u64 = 15 * 60_000;

impl Attempts {
    /// Whether passwords are not even looked at now.
    pub fn is_locked(&self, now_ms: u64) -> bool {
        now_ms < self.locked_until_ms
    }

    /// After five wrong passwords each further one locks for twice as long, from a second to a quarter of an hour; a
    /// quarter of an hour without one forgets them.
    pub fn record_failure(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.latest_ms) >= LONGEST_LOCK_MS {
            self.failed = 0;
        }
        self.latest_ms = now_ms;
        self.failed = self.failed.saturating_add(1);
        if self.failed >= FREE_ATTEMPTS {
            let doublings = (self.failed - FREE_ATTEMPTS).min(20);
            self.locked_until_ms = now_ms + (FIRST_LOCK_MS << doublings).min(LONGEST_LOCK_MS);
        }
    }
}

/// What an address is good for when somebody signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressUse {
    /// Nothing.
    None,
    /// It is the user's name.
    Username,
    /// It is another name of the user, once it is proven.
    Alias,
}

/// The users of one pool.
#[derive(Debug)]
pub struct Directory {
    state: StateDir,
    folder: String,
    addresses: AddressUse,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    by_sub: BTreeMap<String, User>,
    /// Every name that somebody may sign in with, folded.
    by_name: BTreeMap<String, String>,
}

impl Directory {
    /// Reads the users of `folder`.
    pub fn load(state: &StateDir, folder: &str, addresses: AddressUse) -> Result<Self, StateError> {
        let mut users = Users::default();
        for user in state.read_all::<User>(folder)? {
            users.put(user, addresses);
        }
        Ok(Self { state: state.clone(), folder: folder.to_owned(), addresses, users: Mutex::new(users) })
    }

    /// The user with this `sub`.
    pub fn get(&self, sub: &str) -> Option<User> {
        self.lock().by_sub.get(sub).cloned()
    }

    /// The user of a name: user name, `sub`, or address where people sign in with it.
    pub fn find(&self, name: &str) -> Option<User> {
        let users = self.lock();
        users.by_name.get(&fold(name)).and_then(|sub| users.by_sub.get(sub)).cloned()
    }

    /// Takes a new user in; `taken` where one of its names is somebody's.
    pub fn insert(&self, user: User, taken: AwsError) -> Result<(), AwsError> {
        let mut users = self.lock();
        if names(&user, self.addresses).any(|name| users.by_name.contains_key(&name)) {
            return Err(taken);
        }
        if users.by_sub.len() >= MOST_USERS {
            return Err(AwsError::new("LimitExceededException", "The user pool is full."));
        }
        self.keep(&user)?;
        users.put(user, self.addresses);
        Ok(())
    }

    /// Changes a user: in the file first, so that what was answered survives. The change is kept whatever it returns.
    pub fn update<T>(&self, sub: &str, change: impl FnOnce(&mut User) -> T) -> Result<T, AwsError> {
        let mut users = self.lock();
        let mut user = users.by_sub.get(sub).cloned().ok_or_else(no_user)?;
        let result = change(&mut user);
        let collides = |name| users.by_name.get(&name).is_some_and(|owner| owner != sub);
        if names(&user, self.addresses).any(collides) {
            return Err(address_is_taken());
        }
        self.keep(&user)?;
        users.forget_names(sub);
        users.put(user, self.addresses);
        Ok(result)
    }

    /// Changes a user unless `change` refuses to.
    pub fn update_if(&self, sub: &str, change: impl FnOnce(&mut User) -> Result<(), AwsError>) -> Result<(), AwsError> {
        let mut refusal = Ok(());
        self.update(sub, |user| {
            let mut changed = user.clone();
            refusal = change(&mut changed);
            if refusal.is_ok() {
                *user = changed;
            }
        })?;
        refusal
    }

    /// Removes a user.
    pub fn remove(&self, sub: &str) -> Result<(), AwsError> {
        let mut users = self.lock();
        self.state.remove(&self.file(sub)).map_err(internal_error)?;
        users.forget_names(sub);
        users.by_sub.remove(sub);
        Ok(())
    }

    /// Up to `limit` users with `sub` greater than `after` that `wanted` lets through.
    pub fn page(&self, after: &str, limit: usize, wanted: impl Fn(&User) -> bool) -> Vec<User> {
        let users = self.lock();
        let later = users.by_sub.range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        later.map(|(_, user)| user).filter(|user| wanted(user)).take(limit).cloned().collect()
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.lock().by_sub.len()
    }

    fn keep(&self, user: &User) -> Result<(), AwsError> {
        self.state.write(&self.file(&user.sub), user).map_err(internal_error)
    }

    fn file(&self, sub: &str) -> String {
        format!("{}/{sub}.json", self.folder)
    }

    fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    fn put(&mut self, user: User, addresses: AddressUse) {
        for name in names(&user, addresses) {
            self.by_name.insert(name, user.sub.clone());
        }
        self.by_sub.insert(user.sub.clone(), user);
    }

    fn forget_names(&mut self, sub: &str) {
        if let Some(user) = self.by_sub.get(sub) {
            for name in names(user, AddressUse::Username) {
                if self.by_name.get(&name).is_some_and(|owner| owner == sub) {
                    self.by_name.remove(&name);
                }
            }
        }
    }
}

fn names(user: &User, addresses: AddressUse) -> impl Iterator<Item = String> {
    // A provider's user has the address on that provider's word only: nobody signs in with it.
    let is_native = user.status != UserStatus::ExternalProvider;
    let counts = match addresses {
        AddressUse::None => false,
        AddressUse::Username => is_native,
        AddressUse::Alias => is_native && user.email_is_verified(),
    };
    let email = user.email().filter(|_| counts);
    [Some(user.sub.as_str()), Some(user.username.as_str()), email].into_iter().flatten().map(fold)
}

/// Names are compared without case, as Cognito advises for new pools.
fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Somebody else signs in with the address.
pub fn address_is_taken() -> AwsError {
    AwsError::new("AliasExistsException", "An account with the given email already exists.")
}

/// The user is not there (any more).
pub fn no_user() -> AwsError {
    AwsError::new("UserNotFoundException", "User does not exist.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_passwords_lock_for_longer_and_longer_and_are_forgotten() {
        let mut attempts = Attempts::default();
        let now_ms = 10_000_000;
        for _ in 0..4 {
            attempts.record_failure(now_ms);
            assert!(!attempts.is_locked(now_ms));
        }
        attempts.record_failure(now_ms);
        assert!(attempts.is_locked(now_ms + 999) && !attempts.is_locked(now_ms + 1_000));
        attempts.record_failure(now_ms + 1_000);
        assert!(attempts.is_locked(now_ms + 2_999) && !attempts.is_locked(now_ms + 3_000));
        for _ in 0..40 {
            attempts.record_failure(now_ms + 3_000);
        }
        assert!(!attempts.is_locked(now_ms + 3_000 + LONGEST_LOCK_MS));
        attempts.record_failure(now_ms + 3_000 + LONGEST_LOCK_MS);
        assert!(!attempts.is_locked(now_ms + 3_000 + LONGEST_LOCK_MS));
    }
}
