//! The identity pools: a trusted sign-in or a guest in, an identity id and a role's credentials out. Owns the
//! identities and the OpenID tokens of the basic flow; promises that a user of a pool has one identity id for ever;
//! must never let a request choose a role that its token does not name.

mod directory;
mod role_choice;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::IdentityPoolSeed;
use crate::local_cloud::signing_key::{SigningKey, TokenFault};
use crate::local_cloud::site::{Site, StartError};
use crate::local_cloud::sts::{Auth, SessionRequest, Sts, unix_s};
use crate::local_cloud::user_pool::{Claims, UserPools};
use directory::{Directory, Identity};

/// The provider of the basic flow's tokens, as trust policies name it; also the prefix of the condition keys.
pub const PROVIDER: &str = "cognito-identity.amazonaws.com";
const ISSUER: &str = "https://cognito-identity.amazonaws.com";
/// What the real service names its sessions.
const SESSION_NAME: &str = "CognitoIdentityCredentials";
const CREDENTIALS_LIFETIME: Duration = Duration::from_secs(3_600);
const OPEN_ID_TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// The real service takes as many logins in one request.
const MOST_LOGINS: usize = 10;

/// All identity pools; clones share them.
#[derive(Debug, Clone)]
pub struct IdentityPools(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    site: Site,
    pools: BTreeMap<String, IdentityPoolSeed>,
    directory: Directory,
    key: SigningKey,
}

/// Whom an OpenID token of the basic flow speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenIdIdentity {
    /// The identity id: the token's subject.
    pub identity_id: String,
    /// The identity pool: the token's audience.
    pub identity_pool_id: String,
    /// The condition keys that the token supplies.
    pub context: BTreeMap<String, Vec<String>>,
}

/// Why an OpenID token does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenIdFault {
    /// No token at all.
    #[error("not an OpenID token")]
    Malformed,
    /// Of an issuer that the account does not know.
    #[error("issued by {0}")]
    OtherIssuer(String),
    /// Not signed by the identity pools.
    #[error("wrong signature")]
    BadSignature,
    /// Over.
    #[error("expired at {expire_s}")]
    Expired {
        /// When, in seconds since 1970.
        expire_s: u64,
    },
}

/// A login that was checked: who it is and what the provider says of them.
struct Login {
    provider: String,
    client_id: String,
    claims: Claims,
}

impl IdentityPools {
    /// Reads the identities kept in the site's state, and reads or makes the key of OpenID tokens: blocking work.
    pub fn start(site: &Site, seeds: &[IdentityPoolSeed]) -> Result<Self, StartError> {
        let pools: BTreeMap<_, _> = seeds.iter().map(|seed| (seed.id.clone(), seed.clone())).collect();
        let directory = Directory::load(&site.state)?;
        let key = SigningKey::load_or_generate(&site.state, "identity-pool-key")?;
        Ok(Self(Arc::new(Inner { site: site.clone(), pools, directory, key })))
    }

    /// Answers `X-Amz-Target: AWSCognitoIdentityService.{action}`. Blocking work runs on its own thread.
    pub async fn call(
        &self,
        action: &str,
        body: Value,
        auth: &Auth,
        user_pools: &UserPools,
        sts: &Sts,
    ) -> Result<Value, AwsError> {
        let Some(operation) = OPERATIONS.iter().find(|operation| operation.name == action) else {
            return Err(AwsError::new("UnknownOperationException", ""));
        };
        self.0.site.counters.count(operation.counted_as);
        let request = Request {
            inner: Arc::clone(&self.0),
            body,
            auth: auth.clone(),
            user_pools: user_pools.clone(),
            sts: sts.clone(),
        };
        let answered = tokio::task::spawn_blocking(move || (operation.answer)(&request)).await;
        answered.unwrap_or_else(|_| Err(internal_error()))
    }

    /// The public keys of the basic flow's tokens.
    pub fn jwks(&self) -> Value {
        self.0.key.jwks()
    }

    /// Checks a token that `GetOpenIdToken` gave out.
    pub fn verify_open_id_token(&self, token: &str) -> Result<OpenIdIdentity, OpenIdFault> {
        let issuer = |claims: &Map<String, Value>| claims.get("iss").and_then(Value::as_str).map(str::to_owned);
        let claims = self.0.key.verify(token).map_err(|fault| {
            let claimed: Option<Map<String, Value>> = jsonwebtoken::dangerous::insecure_decode_claims(token).ok();
            match (fault, claimed.as_ref().and_then(issuer)) {
                (TokenFault::Malformed, _) | (_, None) => OpenIdFault::Malformed,
                (_, Some(other)) if other != ISSUER => OpenIdFault::OtherIssuer(other),
                _ => OpenIdFault::BadSignature,
            }
        })?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(identity_id), Some(pool), Some(expire_s)) =
            (text("sub"), text("aud"), claims.get("exp").and_then(Value::as_u64))
        else {
            return Err(OpenIdFault::Malformed);
        };
        if self.0.site.now_s() >= expire_s {
            return Err(OpenIdFault::Expired { expire_s });
        }
        let amr = claims.get("amr").and_then(Value::as_array).into_iter().flatten();
        let amr = amr.filter_map(Value::as_str).map(str::to_owned).collect();
        let context = context(&pool, &identity_id, amr);
        Ok(OpenIdIdentity { identity_id, identity_pool_id: pool, context })
    }
}

struct Operation {
    name: &'static str,
    counted_as: &'static str,
    answer: fn(&Request) -> Result<Value, AwsError>,
}

const OPERATIONS: &[Operation] = &[
    Operation { name: "GetId", counted_as: "cognito-identity:GetId", answer: Request::get_id },
    Operation {
        name: "GetCredentialsForIdentity",
        counted_as: "cognito-identity:GetCredentialsForIdentity",
        answer: Request::get_credentials_for_identity,
    },
    Operation {
        name: "GetOpenIdToken",
        counted_as: "cognito-identity:GetOpenIdToken",
        answer: Request::get_open_id_token,
    },
    Operation {
        name: "DescribeIdentityPool",
        counted_as: "cognito-identity:DescribeIdentityPool",
        answer: Request::describe_identity_pool,
    },
    Operation {
        name: "GetIdentityPoolRoles",
        counted_as: "cognito-identity:GetIdentityPoolRoles",
        answer: Request::get_identity_pool_roles,
    },
    Operation {
        name: "DescribeIdentity",
        counted_as: "cognito-identity:DescribeIdentity",
        answer: Request::describe_identity,
    },
    Operation {
        name: "ListIdentityPools",
        counted_as: "cognito-identity:ListIdentityPools",
        answer: Request::list_identity_pools,
    },
];

struct Request {
    inner: Arc<Inner>,
    body: Value,
    auth: Auth,
    user_pools: UserPools,
    sts: Sts,
}

impl Request {
    fn get_id(&self) -> Result<Value, AwsError> {
        let pool = self.pool(self.required("IdentityPoolId", "identityPoolId")?)?;
        let logins = self.logins(pool)?;
        let identity = self.inner.directory.identity_of(&pool.id, &login_keys(&logins), self.inner.site.now_ms())?;
        Ok(json!({ "IdentityId": identity.id }))
    }

    fn get_credentials_for_identity(&self) -> Result<Value, AwsError> {
        let (pool, identity, logins) = self.identity_with_logins()?;
        let custom_role_arn = self.body["CustomRoleArn"].as_str();
        let role_arn = match logins.first() {
            None => role_choice::guest_role(pool, custom_role_arn)?,
            Some(login) => role_choice::role(pool, &login.provider, &login.client_id, &login.claims, custom_role_arn)?,
        };
        let context = context(&pool.id, &identity.id, amr(&logins));
        if !self.sts.trusts_web_identity(&role_arn, PROVIDER, &context) {
            return Err(role_choice::invalid_configuration());
        }
        let session_name = SESSION_NAME.to_owned();
        let issued =
            self.sts.issue(&SessionRequest { role_arn, session_name, lifetime: CREDENTIALS_LIFETIME, context });
        Ok(json!({
            "IdentityId": identity.id,
            "Credentials": {
                "AccessKeyId": issued.access_key_id,
                "SecretKey": issued.secret_access_key,
                "SessionToken": issued.session_token,
                "Expiration": unix_s(issued.expire_time),
            },
        }))
    }

    fn get_open_id_token(&self) -> Result<Value, AwsError> {
        let (pool, identity, logins) = self.identity_with_logins()?;
        if !pool.allow_classic_flow {
            let message = "Basic (classic) flow is not enabled, please use enhanced flow.";
            return Err(AwsError::new("InvalidParameterException", message));
        }
        let now_s = self.inner.site.now_s();
        let claims = json!({
            "sub": identity.id, "aud": pool.id, "amr": amr(&logins), "iss": ISSUER,
            "iat": now_s, "exp": now_s + OPEN_ID_TOKEN_LIFETIME.as_secs(),
        });
        Ok(json!({ "IdentityId": identity.id, "Token": self.inner.key.sign(&claims) }))
    }

    fn describe_identity_pool(&self) -> Result<Value, AwsError> {
        let pool = self.pool(self.required("IdentityPoolId", "identityPoolId")?)?;
        self.authorize("DescribeIdentityPool", &pool.id)?;
        let providers = pool.cognito_providers.iter().map(|(provider, client_id)| {
            json!({ "ProviderName": provider, "ClientId": client_id, "ServerSideTokenCheck": false })
        });
        Ok(json!({
            "IdentityPoolId": pool.id,
            "IdentityPoolName": pool.name,
            "AllowUnauthenticatedIdentities": pool.allow_unauthenticated,
            "AllowClassicFlow": pool.allow_classic_flow,
            "CognitoIdentityProviders": providers.collect::<Vec<_>>(),
        }))
    }

    fn get_identity_pool_roles(&self) -> Result<Value, AwsError> {
        let pool = self.pool(self.required("IdentityPoolId", "identityPoolId")?)?;
        self.authorize("GetIdentityPoolRoles", &pool.id)?;
        let mut roles = Map::new();
        for (kind, arn) in
            [("authenticated", &pool.authenticated_role_arn), ("unauthenticated", &pool.unauthenticated_role_arn)]
        {
            if let Some(arn) = arn {
                roles.insert(kind.into(), json!(arn));
            }
        }
        let mappings: Map<_, _> = pool
            .role_mappings
            .iter()
            .map(|(provider, mapping)| (provider.clone(), role_choice::describe(mapping)))
            .collect();
        Ok(json!({ "IdentityPoolId": pool.id, "Roles": roles, "RoleMappings": mappings }))
    }

    fn describe_identity(&self) -> Result<Value, AwsError> {
        let id = self.required("IdentityId", "identityId")?;
        let identity = self.inner.directory.get(id).ok_or_else(|| no_identity(id))?;
        self.authorize("DescribeIdentity", &identity.pool_id)?;
        let created_s = identity.create_ms / 1_000;
        let logins: Vec<_> = identity.providers().collect();
        Ok(json!({ "IdentityId": id, "Logins": logins, "CreationDate": created_s, "LastModifiedDate": created_s }))
    }

    fn list_identity_pools(&self) -> Result<Value, AwsError> {
        self.authorize("ListIdentityPools", "*")?;
        let pools = self.inner.pools.values();
        let pools = pools.map(|pool| json!({ "IdentityPoolId": pool.id, "IdentityPoolName": pool.name }));
        Ok(json!({ "IdentityPools": pools.collect::<Vec<_>>() }))
    }

    /// The identity that the request names, and its logins: checked, and the identity's own.
    fn identity_with_logins(&self) -> Result<(&IdentityPoolSeed, Identity, Vec<Login>), AwsError> {
        let id = self.required("IdentityId", "identityId")?;
        let identity = self.inner.directory.get(id).ok_or_else(|| no_identity(id))?;
        let pool = self.inner.pools.get(&identity.pool_id).ok_or_else(|| no_identity(id))?;
        let logins = self.logins(pool)?;
        let forbidden = || AwsError::new("NotAuthorizedException", format!("Access to Identity '{id}' is forbidden."));
        if logins.is_empty() {
            return if identity.is_guest() { Ok((pool, identity, logins)) } else { Err(forbidden()) };
        }
        let identity = self.inner.directory.link(&identity, &login_keys(&logins))?.ok_or_else(forbidden)?;
        Ok((pool, identity, logins))
    }

    /// The request's logins, each one checked; none for a guest, where the pool takes guests.
    fn logins(&self, pool: &IdentityPoolSeed) -> Result<Vec<Login>, AwsError> {
        let empty = Map::new();
        let given = match &self.body["Logins"] {
            Value::Null => &empty,
            Value::Object(logins) if logins.len() <= MOST_LOGINS => logins,
            _ => return Err(AwsError::new("InvalidParameterException", "Logins must be a map of at most 10 tokens.")),
        };
        if given.is_empty() && !pool.allow_unauthenticated {
            let message = "Unauthenticated access is not supported for this identity pool.";
            return Err(AwsError::new("NotAuthorizedException", message));
        }
        given.iter().map(|(provider, token)| self.login(pool, provider, token)).collect()
    }

    fn login(&self, pool: &IdentityPoolSeed, provider: &str, token: &Value) -> Result<Login, AwsError> {
        if !pool.cognito_providers.iter().any(|(known, _)| known == provider) {
            let message = "Token is not from a supported provider of this identity pool.";
            return Err(AwsError::new("NotAuthorizedException", message));
        }
        let token = token.as_str().unwrap_or_default();
        let claims = self.user_pools.verify_id_token(provider, token)?;
        let client_id = claims.text("aud").unwrap_or_default().to_owned();
        if !pool.cognito_providers.contains(&(provider.to_owned(), client_id.clone())) {
            let message = "Invalid login token. Incorrect token audience.";
            return Err(AwsError::new("NotAuthorizedException", message));
        }
        Ok(Login { provider: provider.to_owned(), client_id, claims })
    }

    fn pool(&self, id: &str) -> Result<&IdentityPoolSeed, AwsError> {
        let missing = || AwsError::new("ResourceNotFoundException", format!("IdentityPool '{id}' not found."));
        self.inner.pools.get(id).ok_or_else(missing)
    }

    fn authorize(&self, action: &str, pool_id: &str) -> Result<(), AwsError> {
        let Site { region, account_id, .. } = &self.inner.site;
        let resource = format!("arn:aws:cognito-identity:{region}:{account_id}:identitypool/{pool_id}");
        self.sts.authorize(&self.auth, &format!("cognito-identity:{action}"), &resource)
    }

    fn required(&self, name: &str, member: &str) -> Result<&str, AwsError> {
        let missing = || {
            let message = format!(
                "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not \
                 be null"
            );
            AwsError::new("ValidationException", message)
        };
        self.body[name].as_str().filter(|value| !value.is_empty()).ok_or_else(missing)
    }
}

/// What the service tells STS and IAM of an identity.
fn context(pool_id: &str, identity_id: &str, amr: Vec<String>) -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([
        (format!("{PROVIDER}:aud"), vec![pool_id.to_owned()]),
        (format!("{PROVIDER}:sub"), vec![identity_id.to_owned()]),
        (format!("{PROVIDER}:amr"), amr),
    ])
}

fn amr(logins: &[Login]) -> Vec<String> {
    if logins.is_empty() {
        return vec!["unauthenticated".into()];
    }
    let mut amr = vec!["authenticated".to_owned()];
    for login in logins {
        amr.push(login.provider.clone());
        amr.push(format!("{}:CognitoSignIn:{}", login.provider, login.claims.sub()));
    }
    amr
}

fn login_keys(logins: &[Login]) -> Vec<(String, String)> {
    logins.iter().map(|login| (login.provider.clone(), login.claims.sub().to_owned())).collect()
}

fn no_identity(id: &str) -> AwsError {
    AwsError::new("ResourceNotFoundException", format!("Identity '{id}' not found."))
}

fn internal_error() -> AwsError {
    AwsError { status: 500, code: "InternalErrorException", message: "Something went wrong".into() }
}

#[cfg(test)]
mod tests;
