//! Tokens: ID and access tokens that anybody can check, and the opaque refresh tokens behind them. A sign-in lasts as
//! long as its refresh token; ending it ends the access tokens for the pool's own actions, too.

use std::collections::VecDeque;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::site::new_uuid;
use crate::local_cloud::user_pool::Inner;
use crate::local_cloud::user_pool::device::NewDevice;
use crate::local_cloud::user_pool::directory::{User, no_user};
use crate::local_cloud::user_pool::groups::GroupClaims;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, not_authorized};
use crate::local_cloud::user_pool::scopes::{self, Scopes};

/// One sign-in of a user at a client. Its tokens share `origin_jti`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignIn {
    pub origin_jti: String,
    pub client_id: String,
    /// In seconds since 1970.
    pub auth_time_s: u64,
    /// When the refresh token ends, in seconds since 1970.
    pub expire_s: u64,
    /// Of the refresh token, which itself is not kept.
    pub refresh_hash: String,
    /// Refresh tokens that rotation has replaced, latest last.
    pub retired: VecDeque<Retired>,
    pub revoked: bool,
    /// What the hosted page was asked for; empty for a sign-in by the pool's own actions.
    #[serde(default)]
    pub scopes: Scopes,
    /// The device that its refresh token is bound to, where the pool remembers devices.
    #[serde(default)]
    pub device_key: Option<String>,
    /// The same device's keys until its user confirms it.
    #[serde(default)]
    pub new_device: Option<NewDevice>,
    /// Goes into the first ID token only, and is not kept.
    #[serde(skip)]
    pub nonce: Option<String>,
}

/// A replaced refresh token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Retired {
    pub refresh_hash: String,
    /// The end of its grace, in milliseconds since 1970.
    pub usable_until_ms: u64,
}

const MOST_SIGN_INS: usize = 100;
const MOST_RETIRED: usize = 50;
const REFRESH_SECRET_BYTES: usize = 64;
const SUB_TEXT_BYTES: usize = 36;
const DEFAULT_TOKEN_S: u64 = 3_600;
const DEFAULT_REFRESH_S: u64 = 30 * 86_400;

impl SignIn {
    /// A new one with its refresh token, taken into the user's list; the oldest one makes room.
    pub fn begin(
        user: &mut User,
        client: &UserPoolClientSeed,
        now_s: u64,
        device_key: Option<String>,
        new_device: Option<NewDevice>,
    ) -> (Self, String) {
        let refresh_token = new_refresh_token(&user.sub);
        let sign_in = Self {
            origin_jti: new_uuid(),
            client_id: client.id.clone(),
            auth_time_s: now_s,
            expire_s: now_s + or_default(client.refresh_token_validity_s, DEFAULT_REFRESH_S),
            refresh_hash: hash(&refresh_token),
            retired: VecDeque::new(),
            revoked: false,
            scopes: Scopes::default(),
            device_key,
            new_device,
            nonce: None,
        };
        user.sign_ins.retain(|known| known.expire_s > now_s);
        if user.sign_ins.len() >= MOST_SIGN_INS {
            user.sign_ins.remove(0);
        }
        user.sign_ins.push(sign_in.clone());
        (sign_in, refresh_token)
    }

    /// Replaces the refresh token; the old one stays usable for the grace.
    pub fn rotate(&mut self, sub: &str, now_ms: u64, grace_s: u64) -> String {
        let refresh_token = new_refresh_token(sub);
        let old = std::mem::replace(&mut self.refresh_hash, hash(&refresh_token));
        if self.retired.len() >= MOST_RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(Retired { refresh_hash: old, usable_until_ms: now_ms + grace_s * 1_000 });
        refresh_token
    }
}

impl Request {
    /// `AuthenticationResult` of a sign-in; `refresh_token` where it is new.
    pub(super) fn authentication_result(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        user: &User,
        sign_in: &SignIn,
        refresh_token: Option<String>,
    ) -> Value {
        let now_s = self.inner.site.now_s();
        let event_id = new_uuid();
        let groups = GroupClaims::of(&pool.seed.groups, &user.groups);
        let common = |token_use: &str, lifetime_s: u64| {
            let claims = json!({
                "sub": user.sub, "iss": pool.issuer, "token_use": token_use, "origin_jti": sign_in.origin_jti,
                "event_id": event_id, "jti": new_uuid(), "auth_time": sign_in.auth_time_s, "iat": now_s,
                "exp": now_s + lifetime_s,
            });
            match claims {
                Value::Object(claims) => claims,
                _ => Map::new(),
            }
        };

        let access_lifetime_s = or_default(client.access_token_validity_s, DEFAULT_TOKEN_S);
        let mut access = common("access", access_lifetime_s);
        access.insert("client_id".into(), json!(client.id));
        access.insert("username".into(), json!(user.username));
        access.insert("scope".into(), json!(sign_in.scopes.claim()));
        if let Some(device_key) = &sign_in.device_key {
            access.insert("device_key".into(), json!(device_key));
        }
        groups.write_access(&mut access);
        let access = pool.key.sign(&Value::Object(access));

        let mut id = common("id", or_default(client.id_token_validity_s, DEFAULT_TOKEN_S));
        for (name, value) in user.attributes.iter().filter(|(name, _)| sign_in.scopes.show(name)) {
            let is_flag = name.ends_with("_verified");
            id.insert(name.clone(), if is_flag { json!(value == "true") } else { json!(value) });
        }
        id.insert("cognito:username".into(), json!(user.username));
        id.extend(user.shown_identities().map(|identities| ("identities".to_owned(), identities)));
        id.insert("aud".into(), json!(client.id));
        groups.write_id(&mut id);
        if !sign_in.scopes.is_api() {
            id.insert("at_hash".into(), json!(half_hash(&access)));
        }
        if let Some(nonce) = &sign_in.nonce {
            id.insert("nonce".into(), json!(nonce));
        }

        let mut result = json!({ "AccessToken": access, "TokenType": "Bearer", "ExpiresIn": access_lifetime_s });
        if sign_in.scopes.give_id_token() {
            result["IdToken"] = json!(pool.key.sign(&Value::Object(id)));
        }
        if let Some(refresh_token) = refresh_token {
            result["RefreshToken"] = json!(refresh_token);
        }
        result
    }

    /// The pool and the user of the request's access token, and the `origin_jti` of its sign-in.
    pub(super) fn signed_in_user(&self) -> Result<(&Pool, User, String), AwsError> {
        let Bearer { pool, user, scopes, origin_jti } =
            self.inner.bearer(self.required("AccessToken", "accessToken")?)?;
        if !scopes.has(scopes::USER_ADMIN) {
            return Err(not_authorized("Access Token does not have required scopes"));
        }
        Ok((pool, user, origin_jti))
    }
}

/// Whom an access token speaks for.
pub struct Bearer<'p> {
    pub pool: &'p Pool,
    pub user: User,
    /// What the token is good for.
    pub scopes: Scopes,
    /// Its sign-in.
    pub origin_jti: String,
}

impl Inner {
    /// Whom an access token speaks for.
    pub(super) fn bearer(&self, token: &str) -> Result<Bearer<'_>, AwsError> {
        let verified = self.pools.values().find_map(|pool| Some((pool, pool.key.verify(token).ok()?)));
        let invalid = || not_authorized("Invalid Access Token");
        let (pool, claims) = verified.ok_or_else(invalid)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("token_use") != "access" || text("iss") != pool.issuer {
            return Err(invalid());
        }
        if self.site.now_s() >= claims.get("exp").and_then(Value::as_u64).unwrap_or(0) {
            return Err(not_authorized("Access Token has expired"));
        }
        let user = pool.directory.get(text("sub")).ok_or_else(no_user)?;
        if !user.enabled {
            return Err(not_authorized("User is disabled."));
        }
        let origin = text("origin_jti");
        if !user.sign_ins.iter().any(|sign_in| sign_in.origin_jti == origin && !sign_in.revoked) {
            return Err(not_authorized("Access Token has been revoked"));
        }
        Ok(Bearer { pool, user, scopes: Scopes::of(text("scope")), origin_jti: origin.to_owned() })
    }
}

/// The user whom a refresh token names; it proves nothing yet. None for what is no refresh token of ours.
pub fn sub_of(refresh_token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(refresh_token).ok()?;
    if bytes.len() != SUB_TEXT_BYTES + REFRESH_SECRET_BYTES {
        return None;
    }
    String::from_utf8(bytes[..SUB_TEXT_BYTES].to_vec()).ok()
}

/// What is kept of a refresh token.
pub fn hash(refresh_token: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, refresh_token.as_bytes()))
}

/// `at_hash`: the first half of the hash of the token's text.
fn half_hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA256, token.as_bytes()).as_ref()[..16])
}

fn new_refresh_token(sub: &str) -> String {
    let mut bytes = sub.as_bytes().to_vec();
    bytes.extend_from_slice(&rand::rng().random::<[u8; REFRESH_SECRET_BYTES]>());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn or_default(configured_s: u64, default_s: u64) -> u64 {
    if configured_s == 0 { default_s } else { configured_s }
}
