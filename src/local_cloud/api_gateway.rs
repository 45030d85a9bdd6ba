//! API Gateway's JWT authoriser, as it stands before a team's REST API: the second thing that one sign-in is good for. Owns
//! the issuer's keys; promises that no claim is looked at before the signature holds, that only RS256 is taken whatever a
//! token says, and API Gateway's answers; must never let a token pass that was made for another client or another pool.
//!
//! The steps are those of <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-jwt-authorizer.html>:
//! signature by the issuer's key set, `iss`, `aud` (for tokens without it `client_id`: Cognito's access tokens), `exp`,
//! `nbf`, `iat`, then one of the route's scopes. Groups are no affair of API Gateway's: the service behind it looks at
//! `cognito:groups`, here by [`Route::groups`]. The template's `deploy/aws` has no API; `examples/authoriser.rs` puts
//! this before a small one.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::clock::{BootInstant, Clock, unix_ms};

/// Keys are kept for so long, as by API Gateway.
const KEYS_LAST: Duration = Duration::from_secs(2 * 3_600);
/// An unknown key makes it ask again, at most this often.
const KEYS_AGAIN: Duration = Duration::from_secs(10);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const TOKEN_MAX_BYTES: usize = 16 * 1024;

/// What one route asks for.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// The token must have one of these (`authorizationScopes`); none asked where empty. Only access tokens have scopes.
    pub scopes: Vec<String>,
    /// The user must be in one of these groups; none asked where empty.
    pub groups: Vec<String>,
}

/// Why a request does not get through, as API Gateway says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token, or none that is good here.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// A good token without the scope or the group that the route asks for.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The issuer's keys cannot be had.
    #[error("the issuer's keys: {0}")]
    KeysUnavailable(String),
}

impl Denied {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::KeysUnavailable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The value of `www-authenticate`.
    pub fn challenge(&self) -> String {
        let error = match self {
            Self::Forbidden(_) => "insufficient_scope",
            Self::Unauthorized(_) | Self::KeysUnavailable(_) => "invalid_token",
        };
        format!("Bearer scope=\"\" error=\"{error}\" error_description=\"{self}\"")
    }

    /// The body of the answer.
    pub fn body(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => r#"{"message":"Unauthorized"}"#,
            Self::Forbidden(_) => r#"{"message":"Forbidden"}"#,
            Self::KeysUnavailable(_) => r#"{"message":"Internal Server Error"}"#,
        }
    }
}

/// The authoriser of one API.
#[derive(Debug)]
pub struct Authoriser {
    issuer: String,
    audience: Vec<String>,
    clock: Clock,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    by_kid: HashMap<String, DecodingKey>,
    fetched: Option<BootInstant>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.by_kid.keys()).finish()
    }
}

impl Authoriser {
    /// For tokens of `issuer` (a user pool: `https://cognito-idp.REGION.amazonaws.com/POOL`) that were made for one of the
    /// clients in `audience`. Fetches nothing yet.
    pub fn new(issuer: impl Into<String>, audience: Vec<String>, clock: Clock) -> Self {
        let issuer = issuer.into().trim_end_matches('/').to_owned();
        Self { issuer, audience, clock, keys: Mutex::default() }
    }

    /// The token's claims, where the value of the header `Authorization` gets through to this route.
    ///
    /// # Errors
    /// [`Denied`]; the first that applies.
    pub async fn authorise(&self, authorization: Option<&str>, route: &Route) -> Result<Map<String, Value>, Denied> {
        let token = authorization.unwrap_or_default();
        let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
        if token.is_empty() || token.len() > TOKEN_MAX_BYTES {
            return Err(Denied::Unauthorized("there is no token"));
        }
        let claims = self.signed(token).await?;
        self.check(&claims)?;
        let words = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default().split(' ');
        let has_scope =
            || words("scope").chain(words("scp")).any(|scope| route.scopes.iter().any(|ours| ours == scope));
        if !route.scopes.is_empty() && !has_scope() {
            return Err(Denied::Forbidden("the token does not have a scope of the route"));
        }
        let groups = claims.get("cognito:groups").and_then(Value::as_array);
        let mut groups = groups.into_iter().flatten().filter_map(Value::as_str);
        if !route.groups.is_empty() && !groups.any(|group| route.groups.iter().any(|ours| ours == group)) {
            return Err(Denied::Forbidden("the user is in none of the route's groups"));
        }
        Ok(claims)
    }

    /// The claims, once the signature holds.
    async fn signed(&self, token: &str) -> Result<Map<String, Value>, Denied> {
        let header = decode_header(token).map_err(|_| Denied::Unauthorized("the token is not a signed JWT"))?;
        if header.alg != Algorithm::RS256 {
            return Err(Denied::Unauthorized("the token is not signed by RS256"));
        }
        let kid = header.kid.ok_or(Denied::Unauthorized("the token names no key"))?;
        let key = self.key(&kid).await?;
        let mut validation = Validation::new(Algorithm::RS256);
        // The claims are looked at below, each with an error of its own.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let decoded = decode::<Map<String, Value>>(token, &key, &validation);
        decoded.map(|data| data.claims).map_err(|_| Denied::Unauthorized("the signature is not the issuer's"))
    }

    fn check(&self, claims: &Map<String, Value>) -> Result<(), Denied> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(&self.issuer) {
            return Err(Denied::Unauthorized("the token is of another issuer"));
        }
        let is_ours = |client: &str| self.audience.iter().any(|ours| ours == client);
        let audience = match claims.get("aud") {
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).any(is_ours),
            Some(one) => one.as_str().is_some_and(is_ours),
            None => text("client_id").is_some_and(is_ours),
        };
        if !audience {
            return Err(Denied::Unauthorized("the token does not have a valid audience"));
        }
        let now_s = unix_ms(self.clock.wall()) / 1_000;
        let time = |name: &str| claims.get(name).map(Value::as_i64);
        match time("exp") {
            Some(Some(end)) if now_s < end => {}
            Some(Some(_)) => return Err(Denied::Unauthorized("the token has expired")),
            _ => return Err(Denied::Unauthorized("the token has no end")),
        }
        for name in ["nbf", "iat"] {
            if time(name).is_some_and(|start| start.is_none_or(|start| start > now_s)) {
                return Err(Denied::Unauthorized("the token is not valid yet"));
            }
        }
        Ok(())
    }

    /// The issuer's key of that name.
    async fn key(&self, kid: &str) -> Result<DecodingKey, Denied> {
        let mut keys = self.keys.lock().await;
        let now = self.clock.boot();
        let age = keys.fetched.map(|fetched| now.saturating_since(fetched));
        let known = keys.by_kid.contains_key(kid);
        if age.is_none_or(|age| age >= KEYS_LAST || (!known && age >= KEYS_AGAIN)) {
            match fetch(&format!("{}/.well-known/jwks.json", self.issuer)).await {
                Ok(by_kid) => *keys = Keys { by_kid, fetched: Some(now) },
                Err(why) if !known => return Err(Denied::KeysUnavailable(why)),
                Err(_) => {}
            }
        }
        keys.by_kid.get(kid).cloned().ok_or(Denied::Unauthorized("the token is signed by none of the issuer's keys"))
    }
}

async fn fetch(url: &str) -> Result<HashMap<String, DecodingKey>, String> {
    let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).no_proxy().build();
    let get = async { client?.get(url).send().await?.error_for_status()?.json::<Value>().await };
    let set = get.await.map_err(|error| error.without_url().to_string())?;
    let keys = set["keys"].as_array().into_iter().flatten();
    let read = keys.filter(|key| key["kty"] == "RSA").filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
        Some((jwk.common.key_id.clone()?, DecodingKey::from_jwk(&jwk).ok()?))
    });
    Ok(read.collect())
}
