//! One user pool: what the template says of it, its key, its users and the sign-ins under way.

use std::sync::{Mutex, PoisonError};

use crate::local_cloud::seed::{MfaSeed, UserPoolClientSeed, UserPoolSeed};
use crate::local_cloud::signing_key::SigningKey;
use crate::local_cloud::site::{Site, StartError};
use crate::local_cloud::user_pool::challenge::Challenges;
use crate::local_cloud::user_pool::directory::{AddressUse, Directory};

/// A user pool.
#[derive(Debug)]
pub struct Pool {
    pub seed: UserPoolSeed,
    /// The issuer of its tokens.
    pub issuer: String,
    /// `cognito-idp.REGION.amazonaws.com/POOL`: the key of a login at an identity pool.
    pub provider: String,
    pub arn: String,
    pub key: SigningKey,
    pub directory: Directory,
    pub challenges: Challenges,
    /// As the template says, until an administrator changes it.
    mfa: Mutex<MfaSeed>,
    /// Held while somebody comes from another provider for the first time: two at once would both be new.
    pub first_sign_ins: Mutex<()>,
}

impl Pool {
    /// Reads its users and its key.
    pub fn start(site: &Site, seed: &UserPoolSeed) -> Result<Self, StartError> {
        let id = &seed.id;
        let folder = format!("user_pools/{id}");
        let addresses = match (seed.email_as_username, seed.email_as_alias) {
            (true, _) => AddressUse::Username,
            (false, true) => AddressUse::Alias,
            (false, false) => AddressUse::None,
        };
        Ok(Self {
            seed: seed.clone(),
            issuer: format!("{}/{id}", site.base_url),
            provider: format!("cognito-idp.{}.amazonaws.com/{id}", site.region),
            arn: arn(site, id),
            key: SigningKey::load_or_generate(&site.state, &format!("{folder}/key"))?,
            directory: Directory::load(&site.state, &format!("{folder}/users"), addresses)?,
            challenges: Challenges::default(),
            mfa: Mutex::new(seed.mfa),
            first_sign_ins: Mutex::default(),
        })
    }

    /// The part of the id that SRP mixes into passwords.
    pub fn srp_name(&self) -> &str {
        self.seed.id.split_once('_').map_or(&self.seed.id, |(_, name)| name)
    }

    /// The second factors that it offers now.
    pub fn mfa(&self) -> MfaSeed {
        *self.mfa.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers these second factors from now on.
    pub fn set_mfa(&self, mfa: MfaSeed) {
        *self.mfa.lock().unwrap_or_else(PoisonError::into_inner) = mfa;
    }

    /// The app client with this id.
    pub fn client(&self, id: &str) -> Option<&UserPoolClientSeed> {
        self.seed.clients.iter().find(|client| client.id == id)
    }
}

/// The ARN of a pool, which need not exist.
pub fn arn(site: &Site, pool_id: &str) -> String {
    format!("arn:aws:cognito-idp:{}:{}:userpool/{pool_id}", site.region, site.account_id)
}
