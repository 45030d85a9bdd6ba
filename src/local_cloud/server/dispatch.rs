//! From a request to its service and back: bodies, signatures, faults, counts and the log.

use std::collections::BTreeMap;

use http::Request;
use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use hyper::body::Incoming;
use s3s::service::S3Service;
use s3s::{Body, HttpError};
use serde_json::{Value, json};

use super::answer::{self, Reply, Shape};
use super::body::{self, BodyError, DrainedBody};
use super::request_log::{RequestLog, RequestRecord};
use super::route::{Route, route};
use crate::clock::unix_ms;
use crate::local_cloud::error::AwsError;
use crate::local_cloud::faults::{Effect, Faults};
use crate::local_cloud::hosted_ui::HostedUi;
use crate::local_cloud::identity_pool::IdentityPools;
use crate::local_cloud::oidc_provider::OidcProviders;
use crate::local_cloud::s3::{S3Target, decode};
use crate::local_cloud::sigv4::{self, MAX_SKEW_MS, SignatureError};
use crate::local_cloud::site::Site;
use crate::local_cloud::sts::{Auth, Sts};
use crate::local_cloud::user_pool::UserPools;

/// Everything that answers.
#[derive(Debug)]
pub struct Services {
    /// Account, region, clock, counters.
    pub site: Site,
    /// Credentials.
    pub sts: Sts,
    /// User pools.
    pub user_pools: UserPools,
    /// Identity pools.
    pub identity_pools: IdentityPools,
    /// Stand-ins for Google and Apple.
    pub oidc_providers: OidcProviders,
    /// The hosted sign-in page.
    pub hosted_ui: HostedUi,
    /// S3.
    pub s3: S3Service,
    /// What goes wrong.
    pub faults: Faults,
    /// Who asked for what.
    pub requests: RequestLog,
    /// The template's outputs.
    pub outputs: BTreeMap<String, String>,
}

/// The connection is cut in the place of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was cut on demand")]
pub struct Cut;

/// One call, before it is answered.
struct Call {
    parts: Parts,
    route: Route,
    operation: String,
    target: S3Target,
    shape: Shape,
    form: BTreeMap<String, String>,
    payload: Payload,
}

/// A request's body.
enum Payload {
    Whole(bytes::Bytes),
    Streamed(Incoming),
}

/// Operations of user pools that anybody may call: what signs them is not looked at.
const OPEN_USER_POOL_OPERATIONS: [&str; 26] = [
    "AssociateSoftwareToken",
    "ChangePassword",
    "ConfirmDevice",
    "ConfirmForgotPassword",
    "ConfirmSignUp",
    "DeleteUser",
    "DeleteUserAttributes",
    "ForgetDevice",
    "ForgotPassword",
    "GetDevice",
    "GetTokensFromRefreshToken",
    "GetUser",
    "GetUserAttributeVerificationCode",
    "GlobalSignOut",
    "InitiateAuth",
    "ListDevices",
    "ResendConfirmationCode",
    "RespondToAuthChallenge",
    "RevokeToken",
    "SetUserMFAPreference",
    "SetUserSettings",
    "SignUp",
    "UpdateDeviceStatus",
    "UpdateUserAttributes",
    "VerifySoftwareToken",
    "VerifyUserAttribute",
];

/// The same of identity pools.
const OPEN_IDENTITY_POOL_OPERATIONS: [&str; 4] =
    ["GetCredentialsForIdentity", "GetId", "GetOpenIdToken", "UnlinkIdentity"];

impl Services {
    /// Answers one request.
    ///
    /// # Errors
    /// `Cut` where a fault asks for it.
    pub async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Cut> {
        let (parts, incoming) = request.into_parts();
        let route = route(&parts);
        if !matches!(route, Route::Admin(_)) && self.faults.is_offline() {
            return Err(Cut);
        }
        let shape = match &route {
            Route::S3(..) => Shape::S3,
            Route::Sts => Shape::Query,
            Route::HostedUi(_) | Route::OidcProvider(..) => Shape::OAuth,
            _ => Shape::Json,
        };
        let payload = match &route {
            Route::S3(..) => Payload::Streamed(incoming),
            _ => match body::read(incoming).await {
                Ok(bytes) => Payload::Whole(bytes),
                Err(error @ BodyError::TooLarge) => {
                    let reply = answer::failure(shape, 413, "RequestEntityTooLargeException", &error.to_string());
                    return Ok(answer::seal(reply, shape, &self.site.clock));
                }
                Err(BodyError::Broken(_)) => return Err(Cut),
            },
        };
        if let (Route::Admin(path), Payload::Whole(bytes)) = (&route, &payload) {
            let foreign = parts.headers.contains_key("origin");
            let reply = self.admin(&parts.method, path, parts.uri.query(), foreign, bytes);
            return Ok(answer::seal(reply, shape, &self.site.clock));
        }
        let call = Call::new(parts, route, shape, payload);
        let access_key_id = sigv4::access_key_id(&call.parts.headers, call.parts.uri.query());
        let token = call.parts.headers.get("x-amz-security-token").and_then(|token| token.to_str().ok());
        let mut record = RequestRecord {
            sequence: 0,
            unix_ms: unix_ms(self.site.clock.wall()),
            operation: call.operation.clone(),
            identity_id: access_key_id.as_deref().and_then(|id| self.sts.identity_id(id, token)),
            access_key_id,
            bucket: call.target.bucket.clone(),
            key: call.target.key.clone(),
            status: None,
            code: None,
        };
        let result = self.strike_and_apply(call).await;
        if let Ok(reply) = &result {
            record.status = Some(reply.status().as_u16());
            record.code = answer::code_of(reply);
        }
        tracing::debug!(operation = record.operation, status = record.status, code = record.code, "answered");
        self.requests.add(record);
        result.map(|reply| answer::seal(reply, shape, &self.site.clock))
    }

    async fn strike_and_apply(&self, call: Call) -> Result<Reply, Cut> {
        let Some(outcome) = self.faults.strike(&call.operation, &call.target.key) else {
            return self.apply(call).await;
        };
        tracing::debug!(operation = call.operation, effect = ?outcome.effect, "a fault strikes");
        tokio::time::sleep(outcome.latency).await;
        match outcome.effect {
            Effect::Delay => self.apply(call).await,
            Effect::Error { status, code, message } => {
                Ok(answer::failure(call.discard(), status, &code, message.as_deref().unwrap_or(&code)))
            }
            Effect::DropBefore => Err(Cut),
            Effect::DropAfter => {
                self.apply(call).await?;
                Err(Cut)
            }
            Effect::ExpiredCredentials => Ok(refusal(call.discard(), &SignatureError::Expired)),
        }
    }

    async fn apply(&self, call: Call) -> Result<Reply, Cut> {
        let Call { parts, route, shape, form, payload, .. } = call;
        let bytes = match payload {
            Payload::Streamed(incoming) => return self.apply_s3(parts, incoming, &route).await,
            Payload::Whole(bytes) => bytes,
        };
        let authenticate = |service| sigv4::authenticate(&parts, &bytes, service, &self.site, &self.sts);
        match &route {
            Route::UserPool(action) => {
                let open = OPEN_USER_POOL_OPERATIONS.contains(&action.as_str());
                let auth = match if open { Ok(Auth::Anonymous) } else { authenticate("cognito-idp") } {
                    Ok(Auth::Anonymous) if !open => return Ok(unsigned()),
                    Ok(auth) => auth,
                    Err(error) => return Ok(refusal(shape, &error)),
                };
                let Some(request) = json_body(&bytes) else { return Ok(not_json()) };
                Ok(answer::json_call(self.user_pools.call(action, request, &auth).await))
            }
            Route::IdentityPool(action) => {
                let open = OPEN_IDENTITY_POOL_OPERATIONS.contains(&action.as_str());
                let auth = match if open { Ok(Auth::Anonymous) } else { authenticate("cognito-identity") } {
                    Ok(Auth::Anonymous) if !open => return Ok(unsigned()),
                    Ok(auth) => auth,
                    Err(error) => return Ok(refusal(shape, &error)),
                };
                let Some(request) = json_body(&bytes) else { return Ok(not_json()) };
                let called = self.identity_pools.call(action, request, &auth, &self.user_pools, &self.sts);
                Ok(answer::json_call(called.await))
            }
            Route::Sts => {
                // A web identity brings its own proof; whatever signs such a call is not looked at.
                let open = form.get("Action").is_some_and(|action| action == "AssumeRoleWithWebIdentity");
                let auth = if open { Ok(Auth::Anonymous) } else { authenticate("sts") };
                let auth = match auth {
                    Ok(auth) => auth,
                    Err(error) => return Ok(refusal(shape, &error)),
                };
                let reply = self.sts.query(&form, &auth, &self.identity_pools);
                Ok(answer::with_type(reply.status, "text/xml", reply.body))
            }
            Route::HostedUi(page) => Ok(self.hosted_ui.answer(*page, &parts, &bytes).await.map(Body::from)),
            Route::OidcProvider(brand, document) => {
                Ok(self.oidc_providers.answer(*brand, *document, &parts, &bytes).await.map(Body::from))
            }
            Route::WellKnown { pool, document } => Ok(self.well_known(pool.as_deref(), document)),
            Route::UnknownTarget(target) => {
                let message = format!("The local cloud has no service for the target {target}.");
                Ok(answer::json_call(Err(AwsError::new("UnknownOperationException", message))))
            }
            Route::Admin(_) | Route::S3(..) => Ok(not_json()),
        }
    }

    async fn apply_s3(&self, parts: Parts, incoming: Incoming, route: &Route) -> Result<Reply, Cut> {
        if let Route::S3(operation, _) = route {
            self.site.counters.count(operation);
        }
        let waits_for_leave = expects_continue(&parts);
        let body = DrainedBody::new(incoming, waits_for_leave);
        if let Some(refused) = self.check_skew(&parts) {
            return Ok(refused);
        }
        let request = Request::from_parts(parts, Body::http_body_unsync(body));
        match self.s3.call(request).await {
            Ok(mut reply) => {
                if waits_for_leave && !reply.status().is_success() {
                    // The client keeps its body, so nothing else can come over this connection: say so, or it may send
                    // its next request into a connection that is being closed.
                    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok(reply)
            }
            Err(error) => {
                let error: Box<dyn std::error::Error + Send + Sync> = HttpError::into(error);
                tracing::warn!(%error, "S3 could not answer");
                Ok(answer::failure(Shape::S3, 500, "InternalError", "We encountered an internal error."))
            }
        }
    }

    /// S3's word for a request whose time is too far from the cloud's.
    fn check_skew(&self, parts: &Parts) -> Option<Reply> {
        parts.headers.get("authorization")?;
        let signed = parts.headers.get("x-amz-date").and_then(|value| value.to_str().ok())?;
        let now = self.site.clock.wall();
        if unix_ms(now).abs_diff(sigv4::parse_amz_date(signed)?) <= MAX_SKEW_MS.unsigned_abs() {
            return None;
        }
        let message = "The difference between the request time and the current time is too large.";
        Some(answer::failure(Shape::S3, 403, "RequestTimeTooSkewed", message))
    }

    fn well_known(&self, pool: Option<&str>, document: &str) -> Reply {
        let found = match (pool, document) {
            (Some(pool), "jwks.json") => self.user_pools.jwks(pool),
            (Some(pool), "openid-configuration") => self.user_pools.openid_configuration(pool),
            (None, "jwks_uri" | "jwks.json") => Some(self.identity_pools.jwks()),
            _ => None,
        };
        match found {
            Some(found) => answer::with_type(200, "application/json", found.to_string()),
            None => answer::page(404, &json!({"message": "There is no such user pool or document."})),
        }
    }
}

impl Call {
    fn new(parts: Parts, route: Route, shape: Shape, payload: Payload) -> Self {
        let mut form = BTreeMap::new();
        if let (Route::Sts, Payload::Whole(bytes)) = (&route, &payload) {
            let text = String::from_utf8_lossy(bytes);
            let pairs = parts.uri.query().unwrap_or_default().split('&').chain(text.split('&'));
            for (name, value) in pairs.filter_map(|pair| pair.split_once('=')) {
                form.insert(decode(&name.replace('+', " ")), decode(&value.replace('+', " ")));
            }
        }
        let action = form.get("Action").map_or("", String::as_str);
        let operation = match &route {
            Route::Admin(_) => "tidegate:Admin".to_owned(),
            Route::UserPool(action) => format!("cognito-idp:{action}"),
            Route::IdentityPool(action) => format!("cognito-identity:{action}"),
            Route::UnknownTarget(_) => "unknown:Unknown".to_owned(),
            Route::Sts => format!("sts:{action}"),
            Route::HostedUi(page) => page.operation().to_owned(),
            Route::OidcProvider(brand, document) => format!("oidc-{}:{document:?}", brand.label().to_lowercase()),
            Route::WellKnown { .. } => "cognito-idp:WellKnown".to_owned(),
            Route::S3(operation, _) => (*operation).to_owned(),
        };
        let target = match &route {
            Route::S3(_, target) => target.clone(),
            _ => S3Target::default(),
        };
        Self { parts, route, operation, target, shape, form, payload }
    }

    /// Reads what the client still sends, so that it sees the answer; gives the shape of that answer.
    fn discard(self) -> Shape {
        if let Payload::Streamed(incoming) = self.payload {
            drop(DrainedBody::new(incoming, expects_continue(&self.parts)));
        }
        self.shape
    }
}

/// A signature's fault in the service's own code.
fn refusal(shape: Shape, error: &SignatureError) -> Reply {
    let (status, code) = match (shape, error) {
        (Shape::Json | Shape::OAuth, SignatureError::Incomplete(_)) => (400, "IncompleteSignatureException"),
        (Shape::Json | Shape::OAuth, SignatureError::InvalidToken) => (400, "UnrecognizedClientException"),
        (Shape::Json | Shape::OAuth, SignatureError::Expired) => (400, "ExpiredTokenException"),
        (Shape::Json | Shape::OAuth, _) => (400, "InvalidSignatureException"),
        (Shape::Query, SignatureError::Incomplete(_)) => (400, "IncompleteSignature"),
        (Shape::Query, SignatureError::InvalidToken) => (403, "InvalidClientTokenId"),
        (Shape::Query, SignatureError::Expired) => (403, "ExpiredToken"),
        (Shape::Query, _) => (403, "SignatureDoesNotMatch"),
        (Shape::S3, SignatureError::Expired) => (400, "ExpiredToken"),
        (Shape::S3, _) => (403, "SignatureDoesNotMatch"),
    };
    let message = match (shape, error) {
        (Shape::S3, SignatureError::Expired) => "The provided token has expired.".to_owned(),
        _ => error.to_string(),
    };
    answer::failure(shape, status, code, &message)
}

fn expects_continue(parts: &Parts) -> bool {
    parts.headers.get("expect").is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn json_body(bytes: &[u8]) -> Option<Value> {
    if bytes.is_empty() { Some(json!({})) } else { serde_json::from_slice(bytes).ok().filter(Value::is_object) }
}

fn unsigned() -> Reply {
    answer::json_call(Err(AwsError::new("MissingAuthenticationTokenException", "Missing Authentication Token")))
}

fn not_json() -> Reply {
    answer::json_call(Err(AwsError::new("SerializationException", "The request is not a JSON object.")))
}
