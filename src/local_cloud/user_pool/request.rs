//! One request: its fields, whom it names and whether its signer may ask; the refusals that many actions share.

use std::fmt::Display;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::sts::Auth;
use crate::local_cloud::user_pool::Inner;
use crate::local_cloud::user_pool::codes::{CodePurpose, OutboxMessage};
use crate::local_cloud::user_pool::directory::{User, no_user};
use crate::local_cloud::user_pool::pool::{Pool, arn};

/// A request under way.
pub struct Request {
    pub inner: Arc<Inner>,
    body: Value,
    pub auth: Auth,
    /// Asked by the hosted page: a sign-in ends with the user's name, and tokens come for a code later.
    pub is_hosted: bool,
}

const LONGEST_FIELD_BYTES: usize = 131_072;

impl Request {
    pub(super) fn new(inner: Arc<Inner>, body: Value, auth: Auth) -> Self {
        Self { inner, body, auth, is_hosted: false }
    }

    /// The same from the hosted page.
    pub(super) fn hosted(inner: Arc<Inner>, body: Value) -> Self {
        Self { is_hosted: true, ..Self::new(inner, body, Auth::Anonymous) }
    }

    /// A field as it came.
    pub fn field(&self, name: &str) -> &Value {
        &self.body[name]
    }

    /// A text field.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.body[name].as_str()
    }

    /// A text field that must be there; `member` is its name in AWS's refusals.
    pub fn required(&self, name: &str, member: &str) -> Result<&str, AwsError> {
        let Some(value) = self.text(name) else {
            return Err(invalid_parameter(format!(
                "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not \
                 be null"
            )));
        };
        let constraint = match value.len() {
            0 => "Member must have length greater than or equal to 1",
            length if length > LONGEST_FIELD_BYTES => "Member must have length less than or equal to 131072",
            _ => return Ok(value),
        };
        Err(invalid_parameter(format!(
            "1 validation error detected: Value at '{member}' failed to satisfy constraint: {constraint}"
        )))
    }

    /// A field that is a map of texts (`AuthParameters`, `ChallengeResponses`).
    pub fn parameter(&self, map: &str, name: &str) -> Result<&str, AwsError> {
        let value = self.body[map][name].as_str().filter(|value| value.len() <= LONGEST_FIELD_BYTES);
        value.ok_or_else(|| invalid_parameter(format!("Missing required parameter {name}")))
    }

    /// A password: its text never shows in a refusal.
    pub fn password(&self, name: &str, member: &str) -> Result<&str, AwsError> {
        let password = self.required(name, member)?;
        if password.len() > 1_024 {
            return Err(invalid_parameter(format!(
                "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must have \
                 length less than or equal to 256"
            )));
        }
        Ok(password)
    }

    /// The app client that the request names, and its pool.
    pub fn client(&self) -> Result<(&Pool, &UserPoolClientSeed), AwsError> {
        let id = self.required("ClientId", "clientId")?;
        let found = self.inner.pools.values().find_map(|pool| pool.client(id).map(|client| (pool, client)));
        found.ok_or_else(|| no_client(id))
    }

    /// The pool that an administrator's request names, if its signer may do `action` there.
    pub fn administer(&self, action: &str) -> Result<&Pool, AwsError> {
        let id = self.required("UserPoolId", "userPoolId")?;
        let resource = arn(&self.inner.site, id);
        self.inner.sts.authorize(&self.auth, &format!("cognito-idp:{action}"), &resource)?;
        let missing = || AwsError::new("ResourceNotFoundException", format!("User pool {id} does not exist."));
        self.inner.pools.get(id).ok_or_else(missing)
    }

    /// The user that an administrator's request names.
    pub fn named_user(&self, pool: &Pool) -> Result<User, AwsError> {
        pool.directory.find(self.required("Username", "username")?).ok_or_else(no_user)
    }

    /// Now, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.inner.site.now_ms()
    }

    /// Sends a code to the user's address.
    pub fn deliver(&self, pool: &Pool, user: &User, purpose: CodePurpose, code: String) {
        self.deliver_to(pool, user, user.email().unwrap_or_default(), purpose, code);
    }

    /// Sends a code to the user at an address or a phone number.
    pub fn deliver_to(&self, pool: &Pool, user: &User, to: &str, purpose: CodePurpose, code: String) {
        self.inner.outbox.deliver(OutboxMessage {
            to: to.to_owned(),
            username: user.username.clone(),
            pool_id: pool.seed.id.clone(),
            purpose,
            code,
            time: self.inner.site.clock.wall(),
        });
    }
}

/// Where a listing goes on and how far.
pub struct PageQuery {
    after: String,
    pub limit: usize,
    token_name: &'static str,
}

const LONGEST_PAGE: usize = 60;

impl PageQuery {
    /// Reads `Limit` (or `MaxResults`) and the token.
    pub fn read(request: &Request, token_name: &'static str) -> Result<Self, AwsError> {
        let asked = [request.field("Limit"), request.field("MaxResults")].into_iter().find(|value| !value.is_null());
        let limit = match asked.map(Value::as_u64) {
            None | Some(Some(0)) => LONGEST_PAGE,
            Some(Some(limit)) if limit <= LONGEST_PAGE as u64 => usize::try_from(limit).unwrap_or(LONGEST_PAGE),
            Some(_) => {
                return Err(invalid_parameter(
                    "1 validation error detected: Value at 'limit' failed to satisfy constraint: Member must have \
                     value less than or equal to 60",
                ));
            }
        };
        let decode = |token: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok();
        let after = match request.text(token_name) {
            None => String::new(),
            Some(token) => decode(token).ok_or_else(|| invalid_parameter("Invalid pagination token provided."))?,
        };
        Ok(Self { after, limit, token_name })
    }

    /// The last entry of the page before.
    pub fn after(&self) -> &str {
        &self.after
    }

    /// The page; `found` has one entry more than the limit where there is a next one.
    pub fn answer<T>(
        &self,
        list_name: &str,
        mut found: Vec<T>,
        key: impl Fn(&T) -> String,
        entry: impl Fn(&T) -> Value,
    ) -> Value {
        let goes_on = found.len() > self.limit;
        found.truncate(self.limit);
        let mut answer = Map::new();
        if let Some(last) = found.last().filter(|_| goes_on) {
            answer.insert(self.token_name.into(), json!(URL_SAFE_NO_PAD.encode(key(last))));
        }
        answer.insert(list_name.into(), found.iter().map(entry).collect());
        Value::Object(answer)
    }
}

/// A user as listings show it; `attributes_name` differs between actions.
pub fn user_entry(user: &User, attributes_name: &str) -> Value {
    json!({
        "Username": user.username,
        attributes_name: attributes(user),
        "UserCreateDate": seconds(user.create_ms),
        "UserLastModifiedDate": seconds(user.modify_ms),
        "Enabled": user.enabled,
        "UserStatus": user.status.name(),
    })
}

/// A user's attributes with `sub`.
pub fn attributes(user: &User) -> Value {
    let sub = ("sub", user.sub.as_str());
    let identities = user.shown_identities().map(|identities| identities.to_string());
    let others = user.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    std::iter::once(sub)
        .chain(identities.as_deref().map(|shown| ("identities", shown)))
        .chain(others)
        .map(|(name, value)| json!({ "Name": name, "Value": value }))
        .collect()
}

/// Milliseconds as AWS's JSON shows times.
pub fn seconds(unix_ms: u64) -> f64 {
    std::time::Duration::from_millis(unix_ms).as_secs_f64()
}

/// The client is not there.
pub fn no_client(id: &str) -> AwsError {
    AwsError::new("ResourceNotFoundException", format!("User pool client {id} does not exist."))
}

/// A 400 `InvalidParameterException`.
pub fn invalid_parameter(message: impl Into<String>) -> AwsError {
    AwsError::new("InvalidParameterException", message)
}

/// A 400 `NotAuthorizedException`.
pub fn not_authorized(message: impl Into<String>) -> AwsError {
    AwsError::new("NotAuthorizedException", message)
}

/// A 500 for what is our fault.
pub fn internal_error(cause: impl Display) -> AwsError {
    AwsError { status: 500, code: "InternalErrorException", message: cause.to_string() }
}
