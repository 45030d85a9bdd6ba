//! The identities: one for each user of a pool, for ever, and one for each guest.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::site::{StartError, new_uuid};
use crate::local_cloud::state_dir::StateDir;

/// Guests need no account, so their number needs a bound.
const MOST_IDENTITIES: usize = 100_000;
const FOLDER: &str = "identities";

/// An identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `region:uuid`.
    pub id: String,
    /// The identity pool.
    pub pool_id: String,
    /// (provider, user there); none for a guest.
    pub logins: Vec<(String, String)>,
    /// For a guest who turned out to be somebody with an identity: that one. It is a guest no more.
    #[serde(default)]
    pub merged_into: Option<String>,
    /// In milliseconds since 1970.
    pub create_ms: u64,
}

impl Identity {
    /// Whether nobody has signed in as it.
    pub fn is_guest(&self) -> bool {
        self.logins.is_empty() && self.merged_into.is_none()
    }

    /// The providers that it is known at.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.logins.iter().map(|(provider, _)| provider.as_str())
    }
}

/// All identities of all pools.
#[derive(Debug)]
pub struct Directory {
    state: StateDir,
    identities: Mutex<Identities>,
}

#[derive(Debug, Default)]
struct Identities {
    by_id: BTreeMap<String, Identity>,
    /// (pool, provider, user there) → id.
    by_login: BTreeMap<(String, String, String), String>,
}

impl Directory {
    /// Reads what is kept.
    pub fn load(state: &StateDir) -> Result<Self, StartError> {
        let mut identities = Identities::default();
        for identity in state.read_all::<Identity>(FOLDER)? {
            identities.put(identity);
        }
        Ok(Self { state: state.clone(), identities: Mutex::new(identities) })
    }

    /// The identity with this id.
    pub fn get(&self, id: &str) -> Option<Identity> {
        self.lock().by_id.get(id).cloned()
    }

    /// The identity of these logins, made where there is none; always a new one for a guest (no logins).
    pub fn identity_of(&self, pool_id: &str, logins: &[(String, String)], now_ms: u64) -> Result<Identity, AwsError> {
        let mut identities = self.lock();
        let known = identities.known(pool_id, logins)?;
        let identity = match known {
            Some(identity) if logins.iter().all(|login| identity.logins.contains(login)) => return Ok(identity),
            Some(mut identity) => {
                identity.logins.extend(
                    logins.iter().filter(|login| !identity.logins.contains(login)).cloned().collect::<Vec<_>>(),
                );
                identity
            }
            None if identities.by_id.len() >= MOST_IDENTITIES => {
                return Err(AwsError::new("LimitExceededException", "The identity pool is full"));
            }
            None => {
                let region = pool_id.split(':').next().unwrap_or_default();
                let id = format!("{region}:{}", new_uuid());
                Identity {
                    id,
                    pool_id: pool_id.to_owned(),
                    logins: logins.to_vec(),
                    merged_into: None,
                    create_ms: now_ms,
                }
            }
        };
        self.keep(&mut identities, identity)
    }

    /// The identity of these logins, seen from `identity`. A guest becomes the identity of a user who had none; where the
    /// user has one, that one is given and the guest is merged into it. None where it belongs to somebody else.
    pub fn link(&self, identity: &Identity, logins: &[(String, String)]) -> Result<Option<Identity>, AwsError> {
        let mut identities = self.lock();
        let known = identities.known(&identity.pool_id, logins)?;
        match known {
            Some(known) if known.id == identity.id => Ok(Some(known)),
            Some(known) if identity.merged_into.as_ref() == Some(&known.id) => Ok(Some(known)),
            Some(known) if identity.is_guest() => {
                let merged = Identity { merged_into: Some(known.id.clone()), ..identity.clone() };
                self.keep(&mut identities, merged)?;
                Ok(Some(known))
            }
            None if identity.is_guest() => {
                let linked = Identity { logins: logins.to_vec(), ..identity.clone() };
                self.keep(&mut identities, linked).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn keep(&self, identities: &mut Identities, identity: Identity) -> Result<Identity, AwsError> {
        let uuid = identity.id.rsplit(':').next().unwrap_or_default();
        self.state.write(&format!("{FOLDER}/{uuid}.json"), &identity).map_err(|error| AwsError {
            status: 500,
            code: "InternalErrorException",
            message: error.to_string(),
        })?;
        identities.put(identity.clone());
        Ok(identity)
    }

    fn lock(&self) -> MutexGuard<'_, Identities> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identities {
    /// The one identity that any of the logins is known as.
    fn known(&self, pool_id: &str, logins: &[(String, String)]) -> Result<Option<Identity>, AwsError> {
        let mut known: Option<&String> = None;
        for (provider, user) in logins {
            let key = (pool_id.to_owned(), provider.clone(), user.clone());
            if let Some(id) = self.by_login.get(&key) {
                if known.is_some_and(|other| other != id) {
                    return Err(conflict());
                }
                known = Some(id);
            }
        }
        Ok(known.and_then(|id| self.by_id.get(id)).cloned())
    }

    fn put(&mut self, identity: Identity) {
        for (provider, user) in &identity.logins {
            self.by_login.insert((identity.pool_id.clone(), provider.clone(), user.clone()), identity.id.clone());
        }
        self.by_id.insert(identity.id.clone(), identity);
    }
}

fn conflict() -> AwsError {
    AwsError::new("ResourceConflictException", "Logins are already linked to another identity.")
}
