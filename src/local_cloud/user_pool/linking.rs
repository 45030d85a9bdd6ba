//! Links between a pool's own users and other providers' users, and the pre-sign-up trigger that makes them. Promises
//! AWS's rules: a provider's user that the pool has already is never merged, and a user has five links at most.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::PreSignUp;
use crate::local_cloud::site::new_uuid;
use crate::local_cloud::user_pool::directory::{User, UserStatus, no_user};
use crate::local_cloud::user_pool::federated::{FederationRefusal, Identity};
use crate::local_cloud::user_pool::password;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter};
use crate::local_cloud::user_pool::srp::Verifier;
use crate::pre_sign_up::{self, Directory, ExternalSignUp, NativeStatus, NativeUser, Outcome, Policy, PreSignUpError};

const MOST_LINKS: usize = 5;
/// What a pool calls itself among providers.
const OWN: &str = "Cognito";

impl Request {
    pub(super) fn admin_link_provider_for_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminLinkProviderForUser")?;
        let (provider, username) = self.provider_user("DestinationUser", "destinationUser")?;
        let destination = match provider {
            OWN => pool.directory.find(username),
            other => pool.user_of(other, username),
        };
        let destination = destination.ok_or_else(no_user)?;
        let (provider, user_id) = self.provider_user("SourceUser", "sourceUser")?;
        if self.field("SourceUser")["ProviderAttributeName"] != "Cognito_Subject" {
            return Err(invalid_parameter("The local cloud links by the ProviderAttributeName Cognito_Subject only"));
        }
        pool.link(&destination, provider, user_id, self.now_ms())?;
        Ok(json!({}))
    }

    pub(super) fn admin_disable_provider_for_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminDisableProviderForUser")?;
        let (provider, id) = self.provider_user("User", "user")?;
        let now_ms = self.now_ms();
        if provider == OWN {
            let user = pool.directory.find(id).ok_or_else(no_user)?;
            pool.directory.update(&user.sub, |user| {
                user.verifier = None;
                user.modify_ms = now_ms;
            })?;
            return Ok(json!({}));
        }
        let user = pool.user_of(provider, id).ok_or_else(no_user)?;
        pool.directory.update(&user.sub, |user| {
            if user.status == UserStatus::ExternalProvider {
                // It has no other way in.
                user.enabled = false;
            } else {
                user.identities.retain(|identity| !identity.is(provider, id));
            }
            user.sign_ins.iter_mut().for_each(|sign_in| sign_in.revoked = true);
            user.modify_ms = now_ms;
        })?;
        Ok(json!({}))
    }

    /// `ProviderName` and `ProviderAttributeValue` of a `ProviderUserIdentifierType`.
    fn provider_user(&self, name: &str, member: &str) -> Result<(&str, &str), AwsError> {
        let part = |part: &str| self.field(name)[part].as_str().filter(|text| !text.is_empty());
        match (part("ProviderName"), part("ProviderAttributeValue")) {
            (Some(provider), Some(value)) => Ok((provider, value)),
            _ => Err(invalid_parameter(format!(
                "1 validation error detected: Value at '{member}' failed to satisfy constraint: it needs a \
                 ProviderName and a ProviderAttributeValue"
            ))),
        }
    }
}

impl Pool {
    /// The user whom a provider knows by this id: one that it brought, or one that it is linked to.
    pub(super) fn user_of(&self, provider: &str, user_id: &str) -> Option<User> {
        let is_wanted = |user: &User| user.identities.iter().any(|identity| identity.is(provider, user_id));
        self.directory.page("", 1, is_wanted).pop()
    }

    /// From now on that provider's user is `destination`.
    fn link(&self, destination: &User, provider: &str, user_id: &str, now_ms: u64) -> Result<(), AwsError> {
        let known = self.seed.identity_providers.iter().find(|known| known.name == provider);
        let Some(known) = known else {
            return Err(AwsError::new(
                "ResourceNotFoundException",
                format!("Identity provider {provider} does not exist."),
            ));
        };
        match self.user_of(provider, user_id) {
            Some(user) if user.status == UserStatus::ExternalProvider => {
                return Err(invalid_parameter(
                    "Merging is not currently supported, provide a SourceUser that has not been signed up in order to \
                     link",
                ));
            }
            Some(_) => return Err(invalid_parameter(ALREADY_LINKED)),
            None => {}
        }
        if destination.identities.len() >= MOST_LINKS {
            let message = "Maximum number of external identities linked to a user has been reached";
            return Err(AwsError::new("LimitExceededException", message));
        }
        let identity = Identity {
            provider_name: known.name.clone(),
            provider_type: known.kind.clone(),
            user_id: user_id.to_owned(),
            create_ms: now_ms,
        };
        self.directory.update(&destination.sub, |user| {
            user.identities.push(identity);
            user.modify_ms = now_ms;
        })
    }

    /// Runs the trigger for somebody who comes from a provider for the first time; blocking work. Answers whether
    /// somebody was linked.
    ///
    /// # Errors
    /// The trigger failed, and the sign-in with it.
    pub(super) fn before_sign_up(&self, user: &User, now_ms: u64) -> Result<bool, FederationRefusal> {
        if self.seed.pre_sign_up == PreSignUp::None {
            return Ok(false);
        }
        let attribute = |name: &str| user.attributes.get(name).map(String::as_str);
        let providers = self.seed.identity_providers.iter().map(|provider| provider.name.as_str());
        let Some(sign_up) = ExternalSignUp::of_event(&user.username, attribute, providers) else { return Ok(false) };
        let directory = PoolDirectory { pool: self, now_ms };
        let policy = Policy::default();
        let step = pre_sign_up::run(&directory, &policy, &sign_up);
        // Nothing in it waits: the directory is this process's memory and disk.
        match tokio::runtime::Handle::current().block_on(step) {
            Ok(Outcome::Separate(why)) => {
                tracing::info!(provider = sign_up.provider, %why, "pre-sign-up: a user of their own");
                Ok(false)
            }
            Ok(Outcome::Linked(username)) => {
                tracing::info!(provider = sign_up.provider, username, "pre-sign-up: linked");
                if self.seed.pre_sign_up == PreSignUp::LinkAndFailOnce {
                    return Err(FederationRefusal::LinkedNow(user.username.clone()));
                }
                Ok(true)
            }
            Err(PreSignUpError::Directory(error)) => Err(FederationRefusal::Trigger(error.message)),
            Err(error @ PreSignUpError::Disabled) => Err(FederationRefusal::Trigger(error.to_string())),
        }
    }
}

const ALREADY_LINKED: &str = "SourceUser is already linked to DestinationUser";

/// The pool as the trigger's code sees it: the administrator's calls, without their way over HTTP.
struct PoolDirectory<'p> {
    pool: &'p Pool,
    now_ms: u64,
}

#[async_trait::async_trait]
impl Directory for PoolDirectory<'_> {
    type Error = AwsError;

    async fn natives_with(&self, email: &str) -> Result<Vec<NativeUser>, AwsError> {
        let has_it = |user: &User| {
            user.status != UserStatus::ExternalProvider
                && user.email().is_some_and(|known| known.eq_ignore_ascii_case(email))
        };
        let found = self.pool.directory.page("", usize::MAX, has_it);
        let native = |user: User| NativeUser {
            is_verified: user.email_is_verified(),
            status: if user.status == UserStatus::Unconfirmed {
                NativeStatus::Unconfirmed
            } else {
                NativeStatus::InUse
            },
            is_enabled: user.enabled,
            username: user.username,
        };
        Ok(found.into_iter().map(native).collect())
    }

    async fn create(&self, email: &str) -> Result<String, AwsError> {
        let sub = new_uuid();
        // Where the address is the name or an alias, no name has the form of one.
        let seed = &self.pool.seed;
        let username = if seed.email_as_username || seed.email_as_alias { sub.clone() } else { email.to_owned() };
        let attributes = [("email", email), ("email_verified", "true")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut user = User::new(sub, username.clone(), attributes, self.now_ms);
        user.status = UserStatus::Confirmed;
        let nobodys = password::temporary(&self.pool.seed.password_policy);
        user.verifier = Some(Verifier::of(self.pool.srp_name(), &user.username, &nobodys));
        let taken = AwsError::new("UsernameExistsException", "User account already exists");
        self.pool.directory.insert(user, taken)?;
        Ok(username)
    }

    async fn delete_unconfirmed(&self, username: &str) -> Result<(), AwsError> {
        let user = self.pool.directory.find(username).ok_or_else(no_user)?;
        if user.status != UserStatus::Unconfirmed {
            return Err(invalid_parameter("The account was confirmed meanwhile."));
        }
        self.pool.directory.remove(&user.sub)
    }

    async fn link(&self, username: &str, provider: &str, user_id: &str) -> Result<(), AwsError> {
        let user = self.pool.directory.find(username).ok_or_else(no_user)?;
        match self.pool.link(&user, provider, user_id, self.now_ms) {
            Err(error) if error.message == ALREADY_LINKED => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::local_cloud::seed::{IdentityProviderSeed, UserPoolSeed};
    use crate::local_cloud::test_stage::{CLIENT, PASSWORD, Seeds, Stage, refused};
    use crate::local_cloud::user_pool::CodePurpose;

    const ANN: &str = "ann@example.com";
    const NEW_PASSWORD: &str = "Tide-gate-2027";

    fn stage(pre_sign_up: PreSignUp) -> Stage {
        stage_of(pre_sign_up, |_| ())
    }

    fn stage_of(pre_sign_up: PreSignUp, change: impl FnOnce(&mut UserPoolSeed)) -> Stage {
        let mut seeds = Seeds::default();
        change(&mut seeds.user_pool);
        let mapping = [("email", "email"), ("email_verified", "email_verified"), ("username", "sub")];
        let provider = |name: &str| IdentityProviderSeed {
            name: name.into(),
            kind: name.into(),
            details: BTreeMap::new(),
            attribute_mapping: mapping.map(|(name, claim)| (name.to_owned(), claim.to_owned())).into(),
        };
        seeds.user_pool.identity_providers = ["Google", "SignInWithApple", "Corp"].map(provider).to_vec();
        seeds.user_pool.pre_sign_up = pre_sign_up;
        seeds.user_pool.clients[0].supported_identity_providers =
            ["COGNITO", "Google", "SignInWithApple", "Corp"].map(str::to_owned).to_vec();
        Stage::with(&seeds, None)
    }

    async fn come(stage: &Stage, provider: &str, id: &str, email: &str) -> Result<String, FederationRefusal> {
        let Value::Object(claims) = json!({ "sub": id, "email": email, "email_verified": true }) else { panic!() };
        stage.user_pools.federated_sign_in(CLIENT, provider, claims).await
    }

    async fn sub_by_password(stage: &Stage, password: &str) -> Value {
        let tokens = stage.sign_in_at(CLIENT, ANN, password).await.unwrap();
        stage.claims(&tokens["IdToken"])["sub"].clone()
    }

    #[tokio::test]
    async fn both_orders_give_one_user_and_a_password_can_come_later() {
        let stage = stage(PreSignUp::Link);
        let native = stage.free_user(ANN).await;
        assert_eq!(come(&stage, "Google", "1", "Ann@Example.com").await.unwrap(), native);
        assert_eq!(come(&stage, "SignInWithApple", "a", ANN).await.unwrap(), native);
        assert_eq!(sub_by_password(&stage, PASSWORD).await, native);

        let stage = self::stage(PreSignUp::Link);
        let first = come(&stage, "Google", "1", ANN).await.unwrap();
        assert_eq!(come(&stage, "Google", "1", ANN).await.unwrap(), first);
        assert_eq!(refused(stage.sign_up(ANN).await).0, "UsernameExistsException");
        stage.call("ForgotPassword", json!({ "ClientId": CLIENT, "Username": ANN })).await.unwrap();
        let code = stage.code(ANN, CodePurpose::ResetPassword);
        let body = json!({ "ClientId": CLIENT, "Username": ANN, "ConfirmationCode": code, "Password": NEW_PASSWORD });
        stage.call("ConfirmForgotPassword", body).await.unwrap();
        assert_eq!(sub_by_password(&stage, NEW_PASSWORD).await, first);
        let user = stage.admin("AdminGetUser", json!({ "Username": ANN })).await.unwrap();
        assert_eq!(user["UserStatus"], "CONFIRMED");
    }

    #[tokio::test]
    async fn who_takes_anothers_address_first_gains_nothing_by_it() {
        let stage = stage(PreSignUp::Link);
        let thief = stage.sign_up(ANN).await.unwrap()["UserSub"].clone();
        let owner = come(&stage, "Google", "1", ANN).await.unwrap();
        assert_ne!(thief, owner);
        assert_eq!(refused(stage.sign_in_at(CLIENT, ANN, PASSWORD).await).0, "NotAuthorizedException");
        assert_eq!(refused(stage.admin("AdminGetUser", json!({ "Username": thief })).await).0, "UserNotFoundException");
    }

    /// "mike" with a Kelvin sign: another mailbox, whose owner may well have an account.
    #[tokio::test]
    async fn an_address_that_only_looks_the_same_is_somebody_elses() {
        let stage = stage(PreSignUp::Link);
        let look_alike = stage.free_user("mi\u{212a}e@example.com").await;
        assert_ne!(come(&stage, "Google", "1", "mike@example.com").await.unwrap(), look_alike);
        let plus = come(&stage, "Google", "2", "mike+photos@example.com").await.unwrap();
        assert_ne!(plus, come(&stage, "SignInWithApple", "a", "Mike@Example.com").await.unwrap());
    }

    /// Where addresses are aliases, anybody may take one as long as nobody has proven it.
    #[tokio::test]
    async fn however_many_have_the_address_the_one_who_has_proven_it_is_found() {
        let stage = stage_of(PreSignUp::Link, |pool| (pool.email_as_username, pool.email_as_alias) = (false, true));
        let sign_up = async |name: String| {
            let attributes = json!([{ "Name": "email", "Value": ANN }]);
            let body =
                json!({ "ClientId": CLIENT, "Username": name, "Password": PASSWORD, "UserAttributes": attributes });
            stage.call("SignUp", body).await.unwrap()["UserSub"].clone()
        };
        for thief in 0..30 {
            sign_up(format!("thief-{thief}")).await;
        }
        let ann = sign_up("ann".into()).await;
        stage.confirm("ann", &stage.code(ANN, CodePurpose::ConfirmSignUp)).await.unwrap();
        assert_eq!(come(&stage, "Google", "1", ANN).await.unwrap(), ann);
        // A new native user gets a name that is no address, which AWS would refuse there.
        let ben = come(&stage, "Google", "2", "ben@example.com").await.unwrap();
        let user = stage.admin("AdminGetUser", json!({ "Username": "ben@example.com" })).await.unwrap();
        assert_eq!(user["Username"], ben);
    }

    #[tokio::test]
    async fn others_stay_users_of_their_own_and_a_closed_account_stays_closed() {
        let stage = stage(PreSignUp::Link);
        let native = stage.free_user(ANN).await;
        let corp = come(&stage, "Corp", "7", ANN).await.unwrap();
        let relay = come(&stage, "SignInWithApple", "a", "x1@privaterelay.appleid.com").await.unwrap();
        assert!(corp != native && relay != native && relay != corp);
        stage.admin("AdminDisableUser", json!({ "Username": ANN })).await.unwrap();
        let refusal = come(&stage, "Google", "1", ANN).await.unwrap_err();
        let said = refusal.description().into_owned();
        assert_eq!(said, "PreSignUp failed with error the account with this address is disabled.");
    }

    #[tokio::test]
    async fn a_link_may_cost_the_sign_in_that_made_it() {
        let stage = stage(PreSignUp::LinkAndFailOnce);
        let native = stage.free_user(ANN).await;
        let refusal = come(&stage, "Google", "1", ANN).await.unwrap_err();
        assert_eq!(refusal.description(), "Already found an entry for username Google_1");
        assert_eq!(come(&stage, "Google", "1", ANN).await.unwrap(), native);
    }

    fn link(username: &str, provider: &str, id: &str) -> Value {
        let destination = json!({ "ProviderName": "Cognito", "ProviderAttributeValue": username });
        let subject = "Cognito_Subject";
        let source =
            json!({ "ProviderName": provider, "ProviderAttributeName": subject, "ProviderAttributeValue": id });
        json!({ "DestinationUser": destination, "SourceUser": source })
    }

    #[tokio::test]
    async fn an_administrator_links_who_has_not_come_yet_and_takes_the_link_away() {
        let stage = stage(PreSignUp::None);
        let native = stage.free_user(ANN).await;
        let call = async |body: Value| stage.admin("AdminLinkProviderForUser", body).await;
        call(link(ANN, "Google", "1")).await.unwrap();
        assert_eq!(come(&stage, "Google", "1", "other@example.com").await.unwrap(), native);
        come(&stage, "Google", "2", "ben@example.com").await.unwrap();
        for (body, code, words) in [
            (link(ANN, "Google", "1"), "InvalidParameterException", "SourceUser is already linked"),
            (link(ANN, "Google", "2"), "InvalidParameterException", "Merging is not currently supported"),
            (link(ANN, "Facebook", "1"), "ResourceNotFoundException", "Facebook"),
            (link("nobody", "Google", "3"), "UserNotFoundException", "does not exist"),
            (json!({ "DestinationUser": {}, "SourceUser": {} }), "InvalidParameterException", "destinationUser"),
        ] {
            let refusal = refused(call(body).await);
            assert!(refusal.0 == code && refusal.1.contains(words), "{refusal:?}");
        }
        for id in ["3", "4", "5", "6"] {
            call(link(ANN, "Google", id)).await.unwrap();
        }
        assert_eq!(refused(call(link(ANN, "Google", "7")).await).0, "LimitExceededException");
        let anonymous = stage.call("AdminLinkProviderForUser", json!({ "UserPoolId": "us-east-1_TideTest1" })).await;
        assert!(anonymous.is_err());

        let user = json!({ "ProviderName": "Google", "ProviderAttributeName": "Cognito_Subject",
            "ProviderAttributeValue": "1" });
        stage.admin("AdminDisableProviderForUser", json!({ "User": user })).await.unwrap();
        assert_eq!(
            refused(stage.admin("AdminDisableProviderForUser", json!({ "User": user })).await).0,
            "UserNotFoundException"
        );
        assert_ne!(come(&stage, "Google", "1", "other@example.com").await.unwrap(), native);
        let own = json!({ "ProviderName": "Google", "ProviderAttributeValue": "2" });
        stage.admin("AdminDisableProviderForUser", json!({ "User": own })).await.unwrap();
        let closed = come(&stage, "Google", "2", "ben@example.com").await;
        assert!(matches!(closed, Err(FederationRefusal::Disabled)));
        let password = json!({ "ProviderName": "Cognito", "ProviderAttributeValue": ANN });
        stage.admin("AdminDisableProviderForUser", json!({ "User": password })).await.unwrap();
        assert!(stage.sign_in_at(CLIENT, ANN, PASSWORD).await.is_err());
    }
}
