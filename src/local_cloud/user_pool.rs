//! The user pools: directory, passwords, codes, groups and the tokens that speak for a user. Owns everything behind
//! `AWSCognitoIdentityProviderService`; promises AWS's codes and words, RS256 tokens that any library can check, and
//! that no password is kept; must never take a group or a role from what a client says.

mod admin;
mod challenge;
mod choice;
mod codes;
mod describe;
mod device;
mod device_sign_in;
mod directory;
mod factors;
mod federated;
mod groups;
mod hosted;
mod linking;
mod mfa;
mod password;
mod pool;
mod refresh;
mod request;
mod scopes;
mod second_factor;
mod self_service;
mod sign_in;
mod sign_up;
mod srp;
mod steps;
mod tokens;
mod totp;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolSeed;
use crate::local_cloud::signing_key::TokenFault;
use crate::local_cloud::site::{Site, StartError};
use crate::local_cloud::sts::{Auth, Sts};
use pool::Pool;
use request::Request;

pub use codes::{CodePurpose, OutboxMessage};
pub use federated::FederationRefusal;
pub use hosted::{PageAnswer, TokenGrant};
pub use scopes::Scopes;
pub use totp::totp_code;

/// All user pools; clones share them.
#[derive(Debug, Clone)]
pub struct UserPools(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    site: Site,
    pools: BTreeMap<String, Pool>,
    outbox: codes::Outbox,
    sts: Sts,
}

/// What a checked ID token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// The user.
    pub fn sub(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    /// A claim that is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The strings of a claim that is a list.
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.0.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The claim's value or values as text, whatever its type.
    pub fn values(&self, name: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match self.0.get(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(values)) => values.iter().map(text).collect(),
            Some(value) => vec![text(value)],
        }
    }
}

impl UserPools {
    /// Reads the users kept in the site's state, and reads or makes a signing key for each pool (about a tenth of a
    /// second each): blocking work, so not for a thread that serves.
    pub fn start(site: &Site, seeds: &[UserPoolSeed], sts: &Sts) -> Result<Self, StartError> {
        let mut pools = BTreeMap::new();
        for seed in seeds {
            pools.insert(seed.id.clone(), Pool::start(site, seed)?);
        }
        let inner = Inner { site: site.clone(), pools, outbox: codes::Outbox::default(), sts: sts.clone() };
        Ok(Self(Arc::new(inner)))
    }

    /// Answers `X-Amz-Target: AWSCognitoIdentityProviderService.{action}`. Blocking work runs on its own thread.
    pub async fn call(&self, action: &str, body: Value, auth: &Auth) -> Result<Value, AwsError> {
        let Some(operation) = OPERATIONS.iter().find(|operation| operation.name == action) else {
            return Err(AwsError::new("UnknownOperationException", ""));
        };
        self.0.site.counters.count(operation.counted_as);
        let request = Request::new(Arc::clone(&self.0), body, auth.clone());
        let answered = tokio::task::spawn_blocking(move || (operation.answer)(&request)).await;
        answered.unwrap_or_else(|_| Err(request::internal_error("the request's thread panicked")))
    }

    /// `{base_url}/{pool_id}/.well-known/jwks.json`; none for an unknown pool.
    pub fn jwks(&self, pool_id: &str) -> Option<Value> {
        self.0.pools.get(pool_id).map(|pool| pool.key.jwks())
    }

    /// `{base_url}/{pool_id}/.well-known/openid-configuration`; none for an unknown pool.
    pub fn openid_configuration(&self, pool_id: &str) -> Option<Value> {
        let issuer = &self.0.pools.get(pool_id)?.issuer;
        let base_url = &self.0.site.base_url;
        Some(json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
            "authorization_endpoint": format!("{base_url}/oauth2/authorize"),
            "token_endpoint": format!("{base_url}/oauth2/token"),
            "userinfo_endpoint": format!("{base_url}/oauth2/userInfo"),
            "revocation_endpoint": format!("{base_url}/oauth2/revoke"),
            "end_session_endpoint": format!("{base_url}/logout"),
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "scopes_supported": ["openid", "email", "phone", "profile"],
            "subject_types_supported": ["public"],
            "token_endpoint_auth_methods_supported": ["none"],
        }))
    }

    /// The latest messages with codes, oldest first.
    pub fn outbox(&self) -> Vec<OutboxMessage> {
        self.0.outbox.messages()
    }

    /// Checks an ID token as an identity pool does: signature, issuer, use and time. The audience is the caller's to
    /// check. A sign-out does not end an ID token here, as with the real service's `ServerSideTokenCheck` off.
    pub fn verify_id_token(&self, provider: &str, token: &str) -> Result<Claims, AwsError> {
        let refusal = |what: &str| AwsError::new("NotAuthorizedException", format!("Invalid login token. {what}"));
        let Some(pool) = self.0.pools.values().find(|pool| pool.provider == provider) else {
            return Err(AwsError::new("ResourceNotFoundException", format!("Provider '{provider}' not found.")));
        };
        let claimed: Option<Map<String, Value>> = jsonwebtoken::dangerous::insecure_decode_claims(token).ok();
        let is_of_pool = |claims: &Map<String, Value>| claims.get("iss").and_then(Value::as_str) == Some(&pool.issuer);
        if claimed.is_some_and(|claims| !is_of_pool(&claims)) {
            return Err(refusal("Issuer doesn't match providerName"));
        }
        let claims = pool.key.verify(token).map_err(|fault| match fault {
            TokenFault::Malformed => refusal("Not a valid OpenId Connect identity token."),
            TokenFault::OtherKey => refusal("Couldn't verify signed token."),
            TokenFault::BadSignature => refusal("Token signature invalid."),
        })?;
        if claims.get("token_use").and_then(Value::as_str) != Some("id") {
            return Err(refusal("Not a valid OpenId Connect identity token."));
        }
        let expire_s = claims.get("exp").and_then(Value::as_u64).unwrap_or(0);
        let now_s = self.0.site.now_s();
        if now_s >= expire_s {
            return Err(refusal(&format!("Token expired: {expire_s} >= {now_s}")));
        }
        Ok(Claims(claims))
    }
}

struct Operation {
    name: &'static str,
    counted_as: &'static str,
    answer: fn(&Request) -> Result<Value, AwsError>,
}

macro_rules! operations {
    ($($name:literal => $answer:ident,)*) => {
        &[$(Operation { name: $name, counted_as: concat!("cognito-idp:", $name), answer: Request::$answer },)*]
    };
}

const OPERATIONS: &[Operation] = operations! {
    "AdminAddUserToGroup" => admin_add_user_to_group,
    "AdminConfirmSignUp" => admin_confirm_sign_up,
    "AdminCreateUser" => admin_create_user,
    "AdminDeleteUser" => admin_delete_user,
    "AdminDisableProviderForUser" => admin_disable_provider_for_user,
    "AdminDisableUser" => admin_disable_user,
    "AdminEnableUser" => admin_enable_user,
    "AdminForgetDevice" => admin_forget_device,
    "AdminGetDevice" => admin_get_device,
    "AdminGetUser" => admin_get_user,
    "AdminInitiateAuth" => admin_initiate_auth,
    "AdminLinkProviderForUser" => admin_link_provider_for_user,
    "AdminListDevices" => admin_list_devices,
    "AdminListGroupsForUser" => admin_list_groups_for_user,
    "AdminRemoveUserFromGroup" => admin_remove_user_from_group,
    "AdminResetUserPassword" => admin_reset_user_password,
    "AdminRespondToAuthChallenge" => admin_respond_to_auth_challenge,
    "AdminSetUserMFAPreference" => admin_set_user_mfa_preference,
    "AdminSetUserPassword" => admin_set_user_password,
    "AdminUpdateDeviceStatus" => admin_update_device_status,
    "AdminUpdateUserAttributes" => admin_update_user_attributes,
    "AdminUserGlobalSignOut" => admin_user_global_sign_out,
    "AssociateSoftwareToken" => associate_software_token,
    "ChangePassword" => change_password,
    "ConfirmDevice" => confirm_device,
    "ConfirmForgotPassword" => confirm_forgot_password,
    "ConfirmSignUp" => confirm_sign_up,
    "DeleteUser" => delete_user,
    "DescribeUserPool" => describe_user_pool,
    "DescribeUserPoolClient" => describe_user_pool_client,
    "ForgetDevice" => forget_device,
    "ForgotPassword" => forgot_password,
    "GetDevice" => get_device,
    "GetGroup" => get_group,
    "GetTokensFromRefreshToken" => get_tokens_from_refresh_token,
    "GetUser" => get_user,
    "GetUserAuthFactors" => get_user_auth_factors,
    "GetUserPoolMfaConfig" => get_user_pool_mfa_config,
    "GlobalSignOut" => global_sign_out,
    "InitiateAuth" => initiate_auth,
    "ListDevices" => list_devices,
    "ListGroups" => list_groups,
    "ListUserPoolClients" => list_user_pool_clients,
    "ListUserPools" => list_user_pools,
    "ListUsers" => list_users,
    "ListUsersInGroup" => list_users_in_group,
    "ResendConfirmationCode" => resend_confirmation_code,
    "RespondToAuthChallenge" => respond_to_auth_challenge,
    "RevokeToken" => revoke_token,
    "SetUserMFAPreference" => set_user_mfa_preference,
    "SetUserPoolMfaConfig" => set_user_pool_mfa_config,
    "SignUp" => sign_up,
    "UpdateDeviceStatus" => update_device_status,
    "VerifySoftwareToken" => verify_software_token,
};

#[cfg(test)]
pub(crate) mod tests;
