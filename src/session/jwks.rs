//! Verifies an issuer's tokens. Owns the issuer's keys: fetched when first needed, kept, asked for again when an unknown
//! key appears (not more often than is allowed). Promises that no claim is looked at before the signature holds; must
//! never accept another algorithm than RS256, whatever a token says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::{IdClaims, SignInClaims, TokenError};
use crate::clock::{BootInstant, Clock, from_unix_ms};
use crate::credential::aws::{check_url, http_date};
use crate::telemetry::metrics;
use crate::telemetry::metrics::{Outcome, UpstreamOperation};

/// A token may be this far beyond its end: clocks differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// Keys are asked for at most this often, whatever tokens name.
const FETCH_AGAIN: Duration = Duration::from_secs(30);
/// After a failure sooner, because nobody can be verified meanwhile.
const FETCH_AGAIN_FAILED: Duration = Duration::from_secs(3);
/// Keys are renewed after this long, where that works.
const KEYS_LAST: Duration = Duration::from_secs(24 * 3_600);
/// No token is longer.
const TOKEN_MAX_BYTES: usize = 16 * 1024;
/// No key set is larger.
const KEY_SET_MAX_BYTES: usize = 256 * 1024;
/// No key set has more keys.
const KEYS_MAX: usize = 64;

/// Where the keys are and what tokens must say.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What else its tokens say.
    pub rules: Rules,
    /// The URL of the key set; left out, the issuer's `/.well-known/openid-configuration` says it.
    pub jwks_url: Option<String>,
    /// `iss`.
    pub issuer: String,
    /// `aud` of ID tokens, `client_id` of access tokens.
    pub audience: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long fetching may take in all.
    pub call_timeout: Duration,
}

/// How an issuer writes its ID tokens, beyond what all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// `token_use` is "id", groups and names are Cognito's claims, there is one audience.
    Cognito,
    /// OpenID Connect Core 1.0, section 3.1.3.7: with several audiences, `azp` is the client. Groups, where the issuer
    /// tells any, are the claim `groups`.
    OpenId,
}

/// The verifier of one issuer's tokens.
#[derive(Debug)]
pub struct Jwks {
    expected: Expected,
    clock: Clock,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    client: Option<reqwest::Client>,
    by_kid: HashMap<String, Arc<DecodingKey>>,
    fetched: Option<BootInstant>,
    tried: Option<BootInstant>,
    failure: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("kids", &self.by_kid.keys()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct IdToken {
    #[serde(default)]
    token_use: String,
    iss: String,
    aud: Audience,
    sub: String,
    exp: i64,
    iat: Option<i64>,
    auth_time: Option<i64>,
    nonce: Option<String>,
    #[serde(rename = "cognito:username")]
    username: Option<String>,
    email: Option<String>,
    #[serde(rename = "cognito:groups", default)]
    groups: Vec<String>,
    azp: Option<String>,
    preferred_username: Option<String>,
    /// Whatever another issuer means by it.
    #[serde(rename = "groups")]
    other_groups: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct AccessToken {
    #[serde(default)]
    token_use: String,
    iss: String,
    client_id: String,
    sub: String,
    exp: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Jwks {
    /// A verifier without keys yet.
    pub fn new(expected: Expected, clock: Clock) -> Self {
        Self { expected, clock, keys: Mutex::default() }
    }

    /// Verifies an ID token: signature, `token_use`, issuer, audience, expiry, in this order.
    ///
    /// # Errors
    /// `TokenInvalid`, `TokenWrongAudience`, `TokenExpired`; `Transient` where the keys cannot be had.
    pub async fn verify_id(&self, token: &SecretString) -> Result<IdClaims, TokenError> {
        let said: IdToken = self.signed(token, "ID token").await?;
        let openid = self.expected.rules == Rules::OpenId;
        if said.token_use != "id" && !(openid && said.token_use.is_empty()) {
            return Err(invalid(format!("token_use is {:?}, not \"id\": hand in the ID token", said.token_use)));
        }
        self.check_issuer("ID token", &said.iss)?;
        let audience = match &said.aud {
            Audience::One(only) => only.as_str(),
            Audience::Many(all) => match all.as_slice() {
                [only] => only.as_str(),
                several if openid && several.contains(&self.expected.audience) => {
                    said.azp.as_deref().unwrap_or("several clients")
                }
                _ => "several clients",
            },
        };
        self.check_audience("ID token", audience)?;
        let expire_time = self.check_end("ID token", said.exp)?;
        let (name, groups) = match self.expected.rules {
            Rules::Cognito => (said.username, said.groups),
            Rules::OpenId => {
                let groups = said.other_groups.and_then(|groups| serde_json::from_value(groups).ok());
                (said.preferred_username, groups.unwrap_or_default())
            }
        };
        if said.sub.is_empty() {
            return Err(invalid("the ID token names nobody (sub is empty)".to_owned()));
        }
        Ok(IdClaims {
            issuer: said.iss,
            sign_in: Box::new(SignInClaims {
                issue_time: said.iat.map(at),
                auth_time: said.auth_time.map(at),
                email: said.email.clone(),
                nonce: said.nonce,
            }),
            username: name.or(said.email).unwrap_or_else(|| said.sub.clone()),
            subject: said.sub,
            audience: self.expected.audience.clone(),
            groups,
            expire_time,
        })
    }

    /// Verifies an access token of the same user; answers when it ends.
    ///
    /// # Errors
    /// As [`Jwks::verify_id`].
    pub async fn verify_access(&self, token: &SecretString, subject: &str) -> Result<SystemTime, TokenError> {
        let said: AccessToken = self.signed(token, "access token").await?;
        if said.token_use != "access" {
            let text = format!("token_use is {:?}, not \"access\": hand in the access token", said.token_use);
            return Err(invalid(text));
        }
        self.check_issuer("access token", &said.iss)?;
        self.check_audience("access token", &said.client_id)?;
        if said.sub != subject {
            return Err(invalid("the access token is another user's than the ID token".to_owned()));
        }
        self.check_end("access token", said.exp)
    }

    /// The claims, once the signature holds.
    async fn signed<T: DeserializeOwned>(&self, token: &SecretString, what: &str) -> Result<T, TokenError> {
        let token = token.expose_secret();
        if token.len() > TOKEN_MAX_BYTES {
            return Err(invalid(format!("the {what} has more than {TOKEN_MAX_BYTES} bytes")));
        }
        let header = decode_header(token).map_err(|_| invalid(format!("the {what} is not a signed JWT")))?;
        if header.alg != Algorithm::RS256 {
            return Err(invalid(format!("the {what} is signed by {:?}, only RS256 is accepted", header.alg)));
        }
        let kid = header.kid.ok_or_else(|| invalid(format!("the {what} names no key (kid)")))?;
        let key = self.key(&kid, what).await?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.required_spec_claims.clear();
        // By our own clock, and with an error of its own each.
        validation.validate_exp = false;
        validation.validate_aud = false;
        match decode::<T>(token, &key, &validation) {
            Ok(data) => Ok(data.claims),
            Err(error) => match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => {
                    Err(invalid(format!("the signature of the {what} is not the issuer's")))
                }
                _ => Err(invalid(format!("the {what} lacks claims that it must have, or they have another form"))),
            },
        }
    }

    fn check_issuer(&self, what: &str, issuer: &str) -> Result<(), TokenError> {
        if issuer == self.expected.issuer {
            return Ok(());
        }
        let text = format!("the {what} is of {issuer:?}, this identity's issuer is {:?}", self.expected.issuer);
        Err(TokenError::TokenWrongAudience(text))
    }

    fn check_audience(&self, what: &str, audience: &str) -> Result<(), TokenError> {
        if audience == self.expected.audience {
            return Ok(());
        }
        let text = format!("the {what} is for {audience:?}, this identity's client is {:?}", self.expected.audience);
        Err(TokenError::TokenWrongAudience(text))
    }

    fn check_end(&self, what: &str, exp: i64) -> Result<SystemTime, TokenError> {
        let end = at(exp);
        if end + LEEWAY <= self.clock.wall() {
            return Err(TokenError::TokenExpired(format!("the {what} has expired: get a new one and sign in again")));
        }
        Ok(end)
    }

    /// The key of that name. One fetch at a time: the lock is held meanwhile, and a fetch is bounded.
    async fn key(&self, kid: &str, what: &str) -> Result<Arc<DecodingKey>, TokenError> {
        let mut keys = self.keys.lock().await;
        let now = self.clock.boot();
        let known = keys.by_kid.contains_key(kid);
        let old = keys.fetched.is_none_or(|fetched| now.saturating_since(fetched) >= KEYS_LAST);
        let pause = if keys.failure.is_some() { FETCH_AGAIN_FAILED } else { FETCH_AGAIN };
        let allowed = keys.tried.is_none_or(|tried| now.saturating_since(tried) >= pause);
        if allowed && (!known || old) {
            let began = Instant::now();
            let fetched = self.fetch(&mut keys.client).await;
            // Only now: a fetch that its caller broke off says nothing about the keys, and must not hold back the next.
            keys.tried = Some(now);
            let outcome = if fetched.is_ok() { Outcome::Ok } else { Outcome::Transient };
            metrics().upstream_call(UpstreamOperation::Jwks, outcome, began.elapsed());
            match fetched {
                Ok(by_kid) => {
                    keys.by_kid = by_kid;
                    keys.fetched = Some(now);
                    keys.failure = None;
                }
                Err(why) => {
                    tracing::warn!(issuer = %self.expected.issuer, why, "the issuer's keys could not be fetched");
                    keys.failure = Some(why);
                }
            }
        }
        match (keys.by_kid.get(kid).cloned(), &keys.failure) {
            (Some(key), _) => Ok(key),
            (None, Some(why)) => {
                Err(TokenError::Transient(format!("the keys of the issuer {}: {why}", self.expected.issuer)))
            }
            (None, None) => Err(invalid(format!("the {what} is signed with a key that the issuer does not have"))),
        }
    }

    async fn fetch(&self, client: &mut Option<reqwest::Client>) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
        let client = match client {
            Some(client) => client,
            None => client.insert(self.client()?),
        };
        let url = match &self.expected.jwks_url {
            Some(url) => url.clone(),
            None => self.discover(client).await?,
        };
        read_keys(&self.get(client, &url).await.map_err(|why| format!("{url}: {why}"))?)
    }

    /// Where the issuer says that its keys are: OpenID Connect Discovery 1.0, section 4.
    async fn discover(&self, client: &reqwest::Client) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
            jwks_uri: String,
        }
        let url = format!("{}/.well-known/openid-configuration", self.expected.issuer.trim_end_matches('/'));
        let body = self.get(client, &url).await.map_err(|why| format!("{url}: {why}"))?;
        let said: Configuration =
            serde_json::from_slice(&body).map_err(|_| format!("{url}: names no issuer and jwks_uri"))?;
        if said.issuer != self.expected.issuer {
            return Err(format!("{url}: is of the issuer {:?}", said.issuer));
        }
        check_url("jwks_uri", &said.jwks_uri).map_err(|error| format!("{url}: {error}"))?;
        Ok(said.jwks_uri)
    }

    async fn get(&self, client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
        let mut reply = client.get(url).send().await.map_err(|error| described(&error))?;
        if let Some(date) = reply.headers().get("date").and_then(|date| http_date(date.to_str().ok()?)) {
            self.clock.observe_server_date(date);
        }
        if !reply.status().is_success() {
            return Err(format!("HTTP {}", reply.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(|error| described(&error))? {
            if body.len() + chunk.len() > KEY_SET_MAX_BYTES {
                return Err(format!("more than {KEY_SET_MAX_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn client(&self) -> Result<reqwest::Client, String> {
        reqwest::Client::builder()
            .connect_timeout(self.expected.connect_timeout)
            .timeout(self.expected.call_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| described(&error))
    }
}

/// The RSA keys of a key set; what cannot be read is passed over, so that a new kind of key locks nobody out.
fn read_keys(body: &[u8]) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(body).map_err(|_| "not a key set".to_owned())?;
    let mut by_kid = HashMap::new();
    for value in set.keys.into_iter().take(KEYS_MAX) {
        let for_signing = value.get("use").is_none_or(|purpose| purpose == "sig");
        let is_rsa = value.get("kty").is_some_and(|kind| kind == "RSA");
        let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
        if let (true, true, Some(kid)) = (for_signing, is_rsa, jwk.common.key_id.clone())
            && let Ok(key) = DecodingKey::from_jwk(&jwk)
        {
            by_kid.insert(kid, Arc::new(key));
        }
    }
    if by_kid.is_empty() { Err("no RSA key in it".to_owned()) } else { Ok(by_kid) }
}

/// Seconds since 1970, as tokens count.
fn at(unix_s: i64) -> SystemTime {
    from_unix_ms(unix_s.saturating_mul(1_000))
}

fn invalid(text: String) -> TokenError {
    TokenError::TokenInvalid(text)
}

fn described(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
