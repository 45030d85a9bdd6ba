//! Users of other providers: who comes in by one, is a user of the pool with the name `PROVIDER_THEIR-ID`, no password,
//! and the attributes that the mapping takes from the provider's claims; or the native user that it is linked to.
//! Promises that two providers' users are never taken for one because of an address: joining them is an explicit act, an
//! administrator's or the pre-sign-up trigger's (see `linking`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::IdentityProviderSeed;
use crate::local_cloud::site::new_uuid;
use crate::local_cloud::user_pool::UserPools;
use crate::local_cloud::user_pool::directory::{User, UserStatus};
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::internal_error;

/// Longest value that a claim may give an attribute, in bytes, as Cognito's.
const LONGEST_ATTRIBUTE_BYTES: usize = 2_048;

/// A user as another provider knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The provider's name in the pool.
    pub provider_name: String,
    /// Its type, for example `Google`.
    pub provider_type: String,
    /// The user's id there.
    pub user_id: String,
    /// Since when, in milliseconds since 1970.
    pub create_ms: u64,
}

impl Identity {
    /// The name that such a user has in the pool.
    pub fn username(&self) -> String {
        format!("{}_{}", self.provider_name, self.user_id)
    }

    /// Whether it is this user of that provider.
    pub fn is(&self, provider: &str, user_id: &str) -> bool {
        self.provider_name == provider && self.user_id == user_id
    }

    /// As tokens and listings show it; AWS shows all of it as text.
    pub fn shown(&self, is_primary: bool) -> Value {
        json!({
            "userId": self.user_id, "providerName": self.provider_name, "providerType": self.provider_type,
            "issuer": null, "primary": is_primary.to_string(), "dateCreated": self.create_ms.to_string(),
        })
    }
}

/// Why a provider's user may not come in.
#[derive(Debug, thiserror::Error)]
pub enum FederationRefusal {
    /// The client does not take this provider's users.
    #[error("the provider is not one of the client's")]
    UnknownProvider,
    /// The provider did not say who it is.
    #[error("the provider's user has no id")]
    NoUser,
    /// The pool's administrator closed the account.
    #[error("the user is disabled")]
    Disabled,
    /// The trigger has just linked the user, and the sign-in ends there; the name is the one that is not made.
    #[error("{0} was linked just now")]
    LinkedNow(String),
    /// The pre-sign-up trigger failed.
    #[error("the pre-sign-up trigger failed: {0}")]
    Trigger(String),
    /// The pool could not take the user in.
    #[error(transparent)]
    Pool(#[from] AwsError),
}

impl FederationRefusal {
    /// For the client, as `error_description`.
    pub fn description(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::UnknownProvider => "the identity provider is not one of this client's",
            Self::NoUser => "the identity provider did not say who signed in",
            Self::Disabled => "User is disabled.",
            // AWS's words, with the name as it goes to the trigger: apps look for them.
            Self::LinkedNow(name) => return format!("Already found an entry for username {name}").into(),
            Self::Trigger(why) => return format!("PreSignUp failed with error {why}.").into(),
            Self::Pool(_) => "the user pool could not take the user in",
        })
    }
}

impl UserPools {
    /// Signs in who comes from another provider with these checked claims; gives the user's `sub`.
    ///
    /// # Errors
    /// [`FederationRefusal`].
    pub async fn federated_sign_in(
        &self,
        client_id: &str,
        provider_name: &str,
        claims: Map<String, Value>,
    ) -> Result<String, FederationRefusal> {
        self.0.site.counters.count("cognito-idp:FederatedSignIn");
        let inner = Arc::clone(&self.0);
        let (client_id, provider_name) = (client_id.to_owned(), provider_name.to_owned());
        let done = tokio::task::spawn_blocking(move || {
            let found = inner.pools.values().find_map(|pool| Some((pool, pool.client(&client_id)?)));
            let (pool, client) = found.ok_or(FederationRefusal::UnknownProvider)?;
            let provider = pool.seed.identity_providers.iter().find(|provider| provider.name == provider_name);
            let provider = provider.filter(|provider| client.supported_identity_providers.contains(&provider.name));
            pool.sign_in_identity(provider.ok_or(FederationRefusal::UnknownProvider)?, &claims, inner.site.now_ms())
        });
        done.await.unwrap_or_else(|_| Err(internal_error("the sign-in's thread panicked").into()))
    }
}

impl Pool {
    fn sign_in_identity(
        &self,
        provider: &IdentityProviderSeed,
        claims: &Map<String, Value>,
        now_ms: u64,
    ) -> Result<String, FederationRefusal> {
        let user_id = claims.get("sub").and_then(Value::as_str).filter(|id| !id.is_empty());
        let identity = Identity {
            provider_name: provider.name.clone(),
            provider_type: provider.kind.clone(),
            user_id: user_id.ok_or(FederationRefusal::NoUser)?.to_owned(),
            create_ms: now_ms,
        };
        let attributes = mapped(&provider.attribute_mapping, claims);
        let known = self.user_of(&identity.provider_name, &identity.user_id);
        let Some(user) = known else { return self.first_sign_in(identity, attributes, now_ms) };
        if !user.enabled {
            return Err(FederationRefusal::Disabled);
        }
        self.directory.update(&user.sub, |user| {
            // The account's own address stays its owner's: a provider only describes users that it brought.
            if user.status == UserStatus::ExternalProvider {
                user.attributes.extend(attributes);
                user.modify_ms = now_ms;
            }
        })?;
        Ok(user.sub)
    }

    /// The trigger first; whom it links is that user from then on, everybody else a new one.
    fn first_sign_in(
        &self,
        identity: Identity,
        attributes: BTreeMap<String, String>,
        now_ms: u64,
    ) -> Result<String, FederationRefusal> {
        let _one_by_one = self.first_sign_ins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut user = User::new(new_uuid(), identity.username(), attributes, now_ms);
        user.status = UserStatus::ExternalProvider;
        let linked = |pool: &Self| pool.user_of(&identity.provider_name, &identity.user_id).map(|user| user.sub);
        // Somebody was faster, or the trigger has linked them.
        if let Some(sub) = linked(self) {
            return Ok(sub);
        }
        if self.before_sign_up(&user, now_ms)? {
            return linked(self).ok_or(FederationRefusal::NoUser);
        }
        user.identities = vec![identity];
        let sub = user.sub.clone();
        let taken = AwsError::new("UsernameExistsException", "User account already exists");
        self.directory.insert(user, taken)?;
        Ok(sub)
    }
}

/// The attributes that the mapping takes from claims. Addresses count as unverified unless the provider says otherwise.
fn mapped(mapping: &BTreeMap<String, String>, claims: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let mut attributes = BTreeMap::new();
    for (attribute, claim) in mapping.iter().filter(|(attribute, _)| *attribute != "username") {
        let value = claims.get(claim).and_then(text).filter(|value| value.len() <= LONGEST_ATTRIBUTE_BYTES);
        attributes.extend(value.map(|value| (attribute.clone(), value)));
    }
    if attributes.contains_key("email") {
        attributes.entry("email_verified".into()).or_insert_with(|| "false".into());
    }
    attributes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::local_cloud::test_stage::{CLIENT, PASSWORD, Seeds, Stage, refused};

    fn stage() -> Stage {
        let mut seeds = Seeds::default();
        let mapping = [("email", "email"), ("email_verified", "email_verified"), ("username", "sub")];
        seeds.user_pool.identity_providers = ["Google", "SignInWithApple", "Closed"]
            .map(|name| IdentityProviderSeed {
                name: name.into(),
                kind: name.into(),
                details: BTreeMap::new(),
                attribute_mapping: mapping.map(|(name, claim)| (name.to_owned(), claim.to_owned())).into(),
            })
            .to_vec();
        seeds.user_pool.clients[0].supported_identity_providers =
            ["COGNITO", "Google", "SignInWithApple"].map(str::to_owned).to_vec();
        Stage::with(&seeds, None)
    }

    async fn come(stage: &Stage, provider: &str, claims: Value) -> Result<String, FederationRefusal> {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        stage.user_pools.federated_sign_in(CLIENT, provider, claims).await
    }

    #[tokio::test]
    async fn the_same_person_of_a_provider_is_the_same_user_and_an_address_joins_nobody() {
        let stage = stage();
        let native = stage.free_user("ann@example.com").await;
        let ann = json!({ "sub": "1", "email": "ann@example.com", "email_verified": true, "name": "Ann" });
        let first = come(&stage, "Google", ann.clone()).await.unwrap();
        assert_eq!(come(&stage, "Google", ann.clone()).await.unwrap(), first);
        let apple = come(&stage, "SignInWithApple", ann.clone()).await.unwrap();
        assert!(first != native && first != apple && apple != native);

        let user = stage.admin("AdminGetUser", json!({ "Username": "Google_1" })).await.unwrap();
        assert_eq!((&user["UserStatus"], &user["Enabled"]), (&json!("EXTERNAL_PROVIDER"), &json!(true)));
        let attribute = |name: &str| {
            let list = user["UserAttributes"].as_array().unwrap().clone();
            list.into_iter().find(|attribute| attribute["Name"] == name).map(|attribute| attribute["Value"].clone())
        };
        assert_eq!((attribute("email_verified"), attribute("name")), (Some(json!("true")), None));
        let identities = attribute("identities").unwrap();
        assert!(identities.as_str().unwrap().contains(r#""userId":"1""#), "{identities}");
        // The address still signs the native user in.
        assert_eq!(stage.claims(&stage.sign_in("ann@example.com").await["IdToken"])["sub"], native);
        let nobody = stage.sign_in_at(CLIENT, "Google_1", PASSWORD).await;
        assert_eq!(refused(nobody).0, "NotAuthorizedException");
        let forgot = stage.call("ForgotPassword", json!({ "ClientId": CLIENT, "Username": "Google_1" })).await;
        assert_eq!(refused(forgot).0, "NotAuthorizedException");
    }

    #[tokio::test]
    async fn providers_that_are_not_the_clients_and_users_that_are_closed_stay_out() {
        let stage = stage();
        let claims = json!({ "sub": "1", "email": "ann@example.com" });
        for provider in ["Closed", "Unheard", "COGNITO"] {
            let refusal = come(&stage, provider, claims.clone()).await.unwrap_err();
            assert!(matches!(refusal, FederationRefusal::UnknownProvider), "{provider}");
        }
        assert!(matches!(come(&stage, "Google", json!({})).await, Err(FederationRefusal::NoUser)));
        come(&stage, "Google", claims.clone()).await.unwrap();
        stage.admin("AdminDisableUser", json!({ "Username": "google_1" })).await.unwrap();
        assert!(matches!(come(&stage, "Google", claims).await, Err(FederationRefusal::Disabled)));
    }

    #[test]
    fn an_address_is_unverified_unless_the_provider_says_so() {
        let mapping = BTreeMap::from([("email".to_owned(), "mail".to_owned())]);
        let claims = json!({ "mail": "a@example.com", "email_verified": true });
        assert_eq!(mapped(&mapping, claims.as_object().unwrap())["email_verified"], "false");
    }
}
