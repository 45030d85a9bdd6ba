//! Pools, clients and users as an administrator lists them.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::user_pool::challenge::DEFAULT_VALID_S;
use crate::local_cloud::user_pool::directory::User;
use crate::local_cloud::user_pool::mfa::mode_name;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{PageQuery, Request, invalid_parameter, no_client, user_entry};

impl Request {
    pub(super) fn describe_user_pool(&self) -> Result<Value, AwsError> {
        let pool = self.administer("DescribeUserPool")?;
        let seed = &pool.seed;
        let policy = &seed.password_policy;
        let devices = seed.devices.map(|devices| {
            json!({
                "ChallengeRequiredOnNewDevice": devices.replace_second_factor,
                "DeviceOnlyRememberedOnUserPrompt": devices.ask_user,
            })
        });
        let first_factors = if seed.first_factors.is_empty() { json!(["PASSWORD"]) } else { json!(seed.first_factors) };
        let with_email = |on: bool| if on { json!(["email"]) } else { json!([]) };
        Ok(json!({
            "UserPool": {
                "Id": seed.id,
                "Name": seed.name,
                "Arn": pool.arn,
                "UsernameAttributes": with_email(seed.email_as_username),
                "AliasAttributes": with_email(seed.email_as_alias),
                "AutoVerifiedAttributes": with_email(seed.auto_verify_email),
                "AdminCreateUserConfig": { "AllowAdminCreateUserOnly": !seed.allow_sign_up },
                "UsernameConfiguration": { "CaseSensitive": false },
                "MfaConfiguration": mode_name(pool.mfa().mode),
                "DeviceConfiguration": devices,
                "EstimatedNumberOfUsers": pool.directory.len(),
                "Policies": {
                    "SignInPolicy": { "AllowedFirstAuthFactors": first_factors },
                    "PasswordPolicy": {
                        "MinimumLength": policy.minimum_length,
                        "RequireLowercase": policy.require_lowercase,
                        "RequireUppercase": policy.require_uppercase,
                        "RequireNumbers": policy.require_numbers,
                        "RequireSymbols": policy.require_symbols,
                    },
                },
            },
        }))
    }

    pub(super) fn describe_user_pool_client(&self) -> Result<Value, AwsError> {
        let pool = self.administer("DescribeUserPoolClient")?;
        let id = self.required("ClientId", "clientId")?;
        let client = pool.client(id).ok_or_else(|| no_client(id))?;
        Ok(json!({ "UserPoolClient": client_entry(pool, client) }))
    }

    pub(super) fn list_user_pools(&self) -> Result<Value, AwsError> {
        self.inner.sts.authorize(&self.auth, "cognito-idp:ListUserPools", "*")?;
        let query = PageQuery::read(self, "NextToken")?;
        let later = self.inner.pools.values().filter(|pool| pool.seed.id.as_str() > query.after());
        let page: Vec<&Pool> = later.take(query.limit + 1).collect();
        let entry = |pool: &&Pool| json!({ "Id": pool.seed.id, "Name": pool.seed.name });
        Ok(query.answer("UserPools", page, |pool| pool.seed.id.clone(), entry))
    }

    pub(super) fn list_user_pool_clients(&self) -> Result<Value, AwsError> {
        let pool = self.administer("ListUserPoolClients")?;
        let query = PageQuery::read(self, "NextToken")?;
        let mut clients: Vec<_> = pool.seed.clients.iter().filter(|c| c.id.as_str() > query.after()).collect();
        clients.sort_by(|a, b| a.id.cmp(&b.id));
        clients.truncate(query.limit + 1);
        let entry = |client: &&UserPoolClientSeed| json!({ "ClientId": client.id, "ClientName": client.name, "UserPoolId": pool.seed.id });
        Ok(query.answer("UserPoolClients", clients, |client| client.id.clone(), entry))
    }

    pub(super) fn list_users(&self) -> Result<Value, AwsError> {
        let pool = self.administer("ListUsers")?;
        let query = PageQuery::read(self, "PaginationToken")?;
        let filter = match self.text("Filter").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(Filter::parse(text).ok_or_else(|| invalid_parameter("Error while parsing filter."))?),
        };
        let wanted = |user: &User| filter.as_ref().is_none_or(|filter| filter.matches(user));
        let users = pool.directory.page(query.after(), query.limit + 1, wanted);
        Ok(query.answer("Users", users, |user| user.sub.clone(), |user| user_entry(user, "Attributes")))
    }
}

/// `AttributeName = "value"` or `AttributeName ^= "value"`.
struct Filter {
    attribute: String,
    value: String,
    is_prefix: bool,
}

impl Filter {
    fn parse(text: &str) -> Option<Self> {
        let (attribute, rest) = text.split_once('=')?;
        let (attribute, is_prefix) = match attribute.strip_suffix('^') {
            Some(attribute) => (attribute, true),
            None => (attribute, false),
        };
        let attribute = attribute.trim().trim_matches('"').to_owned();
        let quoted = rest.trim().strip_prefix('"')?.strip_suffix('"')?;
        Some(Self { attribute, value: quoted.replace("\\\"", "\""), is_prefix })
    }

    fn matches(&self, user: &User) -> bool {
        let actual = match self.attribute.as_str() {
            "username" => Some(user.username.as_str()),
            "sub" => Some(user.sub.as_str()),
            "cognito:user_status" => Some(user.status.name()),
            "status" => Some(if user.enabled { "Enabled" } else { "Disabled" }),
            name => user.attributes.get(name).map(String::as_str),
        };
        let (actual, wanted) = (actual.map(str::to_lowercase), self.value.to_lowercase());
        actual.is_some_and(|actual| if self.is_prefix { actual.starts_with(&wanted) } else { actual == wanted })
    }
}

fn client_entry(pool: &Pool, client: &UserPoolClientSeed) -> Value {
    let session_validity_s = match client.auth_session_validity_s {
        0 => DEFAULT_VALID_S,
        validity_s => validity_s,
    };
    let mut entry = json!({
        "UserPoolId": pool.seed.id,
        "ClientId": client.id,
        "ClientName": client.name,
        "ExplicitAuthFlows": client.explicit_auth_flows,
        "IdTokenValidity": client.id_token_validity_s,
        "AccessTokenValidity": client.access_token_validity_s,
        "RefreshTokenValidity": client.refresh_token_validity_s,
        "TokenValidityUnits": { "IdToken": "seconds", "AccessToken": "seconds", "RefreshToken": "seconds" },
        "AuthSessionValidity": session_validity_s / 60,
        "EnableTokenRevocation": client.enable_token_revocation,
        "PreventUserExistenceErrors": if client.prevent_user_existence_errors { "ENABLED" } else { "LEGACY" },
        "CallbackURLs": client.callback_urls,
        "LogoutURLs": client.logout_urls,
        "SupportedIdentityProviders": client.supported_identity_providers,
        "AllowedOAuthScopes": client.allowed_oauth_scopes,
    });
    if let Some(grace_s) = client.refresh_token_rotation_grace_s {
        entry["RefreshTokenRotation"] = json!({ "Feature": "ENABLED", "RetryGracePeriodSeconds": grace_s });
    }
    entry
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_cognitos_form() {
        let filter = Filter::parse("email ^= \"ann\\\"\"").unwrap();
        assert_eq!((filter.attribute.as_str(), filter.value.as_str(), filter.is_prefix), ("email", "ann\"", true));
        assert!(!Filter::parse("email=\"ann\"").unwrap().is_prefix);
        for text in ["email", "email = ann", "email ~ \"a\"", "email = \""] {
            assert!(Filter::parse(text).is_none(), "{text}");
        }
    }
}
