//! The query API: forms in, XML out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::local_cloud::error::AwsError;
use crate::local_cloud::identity_pool::{IdentityPools, OpenIdFault};
use crate::local_cloud::site::new_uuid;
use crate::local_cloud::sts::{Auth, IssuedCredentials, Principal, SessionRequest, Sts, unix_s};

/// An answer: `text/xml`, errors included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryReply {
    /// The HTTP status.
    pub status: u16,
    /// The XML.
    pub body: String,
}

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const DEFAULT_DURATION_S: u64 = 3_600;
const SHORTEST_DURATION_S: u64 = 900;
/// A role that was reached from a role lasts an hour at most.
const CHAINED_DURATION_S: u64 = 3_600;
/// The provider of identity pools' OpenID tokens, as trust policies and answers name it.
const IDENTITY_POOL_PROVIDER: &str = "cognito-identity.amazonaws.com";
const LONGEST_TOKEN_BYTES: usize = 20_000;

impl Sts {
    /// Answers `form` (the decoded body or query string) of whoever signed as `auth`.
    pub fn query(&self, form: &BTreeMap<String, String>, auth: &Auth, identity_pools: &IdentityPools) -> QueryReply {
        let counters = &self.0.site.counters;
        let action = form.get("Action").map_or("", String::as_str);
        let result = match action {
            "GetCallerIdentity" => {
                counters.count("sts:GetCallerIdentity");
                self.get_caller_identity(auth)
            }
            "AssumeRoleWithWebIdentity" => {
                counters.count("sts:AssumeRoleWithWebIdentity");
                self.assume_role_with_web_identity(form, identity_pools)
            }
            "AssumeRole" => {
                counters.count("sts:AssumeRole");
                self.assume_role(form, auth)
            }
            _ => {
                let version = form.get("Version").map_or("2011-06-15", String::as_str);
                let message = format!("Could not find operation {action} for version {version}");
                Err(AwsError::new("InvalidAction", message))
            }
        };
        let request_id = new_uuid();
        match result {
            Ok(result) => QueryReply {
                status: 200,
                body: format!(
                    "<{action}Response xmlns=\"{NAMESPACE}\">\n<{action}Result>{result}</{action}Result>\n\
                     <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\n</{action}Response>\n"
                ),
            },
            Err(error) => QueryReply { status: error.status, body: error_xml(&error, &request_id) },
        }
    }

    fn get_caller_identity(&self, auth: &Auth) -> Result<String, AwsError> {
        let account = &self.0.site.account_id;
        let (arn, user_id) = match auth {
            Auth::Anonymous => return Err(missing_token()),
            Auth::Administrator => (format!("arn:aws:iam::{account}:root"), account.clone()),
            Auth::Role(principal) => (principal.arn.clone(), self.user_id(principal)),
        };
        Ok(elements(&[("Arn", &arn), ("UserId", &user_id), ("Account", account)]))
    }

    fn assume_role_with_web_identity(
        &self,
        form: &BTreeMap<String, String>,
        identity_pools: &IdentityPools,
    ) -> Result<String, AwsError> {
        let request = AssumeRequest::read(form)?;
        let token = required(form, "WebIdentityToken", "webIdentityToken", 4, LONGEST_TOKEN_BYTES)?;
        if form.contains_key("ProviderId") {
            return Err(validation("ProviderId is for OAuth 2.0 access tokens, which the local cloud does not take"));
        }
        let identity = identity_pools.verify_open_id_token(token).map_err(|fault| self.token_refusal(&fault))?;
        if !self.trusts_web_identity(&request.role_arn, IDENTITY_POOL_PROVIDER, &identity.context) {
            return Err(not_authorized("sts:AssumeRoleWithWebIdentity"));
        }
        let lifetime = self.lifetime(&request, u64::MAX)?;
        let mut context = identity.context;
        context.insert("aws:FederatedProvider".into(), vec![IDENTITY_POOL_PROVIDER.into()]);
        let (issued, principal) = self.assume(request, lifetime, context);
        let mut xml = elements(&[
            ("SubjectFromWebIdentityToken", &identity.identity_id),
            ("Audience", &identity.identity_pool_id),
            ("Provider", IDENTITY_POOL_PROVIDER),
        ]);
        xml += &self.assumed(&issued, &principal);
        Ok(xml)
    }

    fn assume_role(&self, form: &BTreeMap<String, String>, auth: &Auth) -> Result<String, AwsError> {
        let account = &self.0.site.account_id;
        let (caller, longest_s) = match auth {
            Auth::Anonymous => return Err(missing_token()),
            Auth::Administrator => (format!("arn:aws:iam::{account}:root"), u64::MAX),
            Auth::Role(principal) => (principal.arn.clone(), CHAINED_DURATION_S),
        };
        let request = AssumeRequest::read(form)?;
        let own = self.decide(auth, "sts:AssumeRole", &request.role_arn, &BTreeMap::new());
        if !own.is_allowed() || !self.trusts_signer(&request.role_arn, auth) {
            let message = format!(
                "User: {caller} is not authorized to perform: sts:AssumeRole on resource: {}",
                request.role_arn
            );
            return Err(AwsError { status: 403, code: "AccessDenied", message });
        }
        let lifetime = self.lifetime(&request, longest_s)?;
        let (issued, principal) = self.assume(request, lifetime, BTreeMap::new());
        Ok(self.assumed(&issued, &principal))
    }

    fn lifetime(&self, request: &AssumeRequest, longest_s: u64) -> Result<Duration, AwsError> {
        let role_longest_s = self.role(&request.role_arn).map_or(0, |role| role.seed.max_session_duration_s);
        let role_longest_s = if role_longest_s == 0 { DEFAULT_DURATION_S } else { role_longest_s };
        if request.duration_s > role_longest_s {
            return Err(validation("The requested DurationSeconds exceeds the MaxSessionDuration set for this role."));
        }
        if request.duration_s > longest_s {
            let message = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role \
                           chaining.";
            return Err(validation(message));
        }
        Ok(Duration::from_secs(request.duration_s))
    }

    fn assume(
        &self,
        request: AssumeRequest,
        lifetime: Duration,
        context: BTreeMap<String, Vec<String>>,
    ) -> (IssuedCredentials, Principal) {
        let AssumeRequest { role_arn, session_name, .. } = request;
        let role_name = role_arn.rsplit('/').next().unwrap_or_default();
        let arn = format!("arn:aws:sts::{}:assumed-role/{role_name}/{session_name}", self.0.site.account_id);
        let principal = Principal { arn, role_arn: Some(role_arn.clone()), context: context.clone() };
        (self.issue(&SessionRequest { role_arn, session_name, lifetime, context }), principal)
    }

    fn assumed(&self, issued: &IssuedCredentials, principal: &Principal) -> String {
        let user = elements(&[("AssumedRoleId", &self.user_id(principal)), ("Arn", &principal.arn)]);
        let credentials = elements(&[
            ("AccessKeyId", &issued.access_key_id),
            ("SecretAccessKey", &issued.secret_access_key),
            ("SessionToken", &issued.session_token),
            ("Expiration", &humantime::format_rfc3339_seconds(issued.expire_time).to_string()),
        ]);
        format!("<AssumedRoleUser>{user}</AssumedRoleUser><Credentials>{credentials}</Credentials>")
    }

    /// `AROA…:session`, the same for a role in every start.
    fn user_id(&self, principal: &Principal) -> String {
        let session_name = principal.arn.rsplit('/').next().unwrap_or_default();
        let role_arn = principal.role_arn.as_deref().unwrap_or_default();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, role_arn.as_bytes());
        let id: String = digest.as_ref()[..17].iter().map(|byte| char::from(b'A' + byte % 26)).collect();
        format!("AROA{id}:{session_name}")
    }

    fn token_refusal(&self, fault: &OpenIdFault) -> AwsError {
        match fault {
            OpenIdFault::Malformed => AwsError::new(
                "InvalidIdentityToken",
                "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)",
            ),
            OpenIdFault::OtherIssuer(issuer) => AwsError::new(
                "InvalidIdentityToken",
                format!("No OpenIDConnect provider found in your account for {issuer}"),
            ),
            OpenIdFault::BadSignature => AwsError::new(
                "InvalidIdentityToken",
                "Couldn't retrieve verification key from your identity provider, please reference \
                 AssumeRoleWithWebIdentity documentation for requirements",
            ),
            OpenIdFault::Expired { expire_s } => AwsError::new(
                "ExpiredTokenException",
                format!(
                    "Token expired: current date/time {} must be before the expiration date/time {expire_s}",
                    unix_s(self.0.site.clock.wall())
                ),
            ),
        }
    }
}

struct AssumeRequest {
    role_arn: String,
    session_name: String,
    duration_s: u64,
}

impl AssumeRequest {
    fn read(form: &BTreeMap<String, String>) -> Result<Self, AwsError> {
        let role_arn = required(form, "RoleArn", "roleArn", 20, 2_048)?;
        if !role_arn.starts_with("arn:") {
            return Err(validation(format!("{role_arn} is invalid")));
        }
        let session_name = required(form, "RoleSessionName", "roleSessionName", 2, 64)?;
        if !session_name.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)) {
            return Err(validation(format!(
                "1 validation error detected: Value '{session_name}' at 'roleSessionName' failed to satisfy \
                 constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*"
            )));
        }
        if form.contains_key("Policy") || form.keys().any(|key| key.starts_with("PolicyArns.")) {
            return Err(validation(
                "Session policies are not part of the local cloud; leave Policy and PolicyArns out",
            ));
        }
        let duration_s = match form.get("DurationSeconds") {
            None => DEFAULT_DURATION_S,
            Some(text) => text.parse().ok().filter(|s| (SHORTEST_DURATION_S..=43_200).contains(s)).ok_or_else(|| {
                validation(format!(
                    "1 validation error detected: Value '{text}' at 'durationSeconds' failed to satisfy constraint: \
                     Member must have value between {SHORTEST_DURATION_S} and 43200"
                ))
            })?,
        };
        Ok(Self { role_arn: role_arn.to_owned(), session_name: session_name.to_owned(), duration_s })
    }
}

fn required<'a>(
    form: &'a BTreeMap<String, String>,
    name: &str,
    member: &str,
    shortest: usize,
    longest: usize,
) -> Result<&'a str, AwsError> {
    let Some(value) = form.get(name) else {
        return Err(validation(format!(
            "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be \
             null"
        )));
    };
    let constraint = if value.len() < shortest {
        format!("Member must have length greater than or equal to {shortest}")
    } else if value.len() > longest {
        format!("Member must have length less than or equal to {longest}")
    } else {
        return Ok(value);
    };
    // A token is a secret: it is not repeated.
    let shown = if name == "WebIdentityToken" { "***" } else { value };
    let message = format!(
        "1 validation error detected: Value '{shown}' at '{member}' failed to satisfy constraint: {constraint}"
    );
    Err(validation(message))
}

fn validation(message: impl Into<String>) -> AwsError {
    AwsError::new("ValidationError", message)
}

fn not_authorized(action: &str) -> AwsError {
    AwsError { status: 403, code: "AccessDenied", message: format!("Not authorized to perform {action}") }
}

fn missing_token() -> AwsError {
    let message = "Request is missing Authentication Token".into();
    AwsError { status: 403, code: "MissingAuthenticationToken", message }
}

/// The XML of a refusal, also for the server's own (a wrong signature, an expired session).
pub(crate) fn error_xml(error: &AwsError, request_id: &str) -> String {
    let kind = if error.status >= 500 { "Receiver" } else { "Sender" };
    let fields = elements(&[("Type", kind), ("Code", error.code), ("Message", &error.message)]);
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\">\n<Error>{fields}</Error>\n<RequestId>{request_id}</RequestId>\n\
         </ErrorResponse>\n"
    )
}

impl From<&AwsError> for QueryReply {
    fn from(error: &AwsError) -> Self {
        Self { status: error.status, body: error_xml(error, &new_uuid()) }
    }
}

fn elements(fields: &[(&str, &str)]) -> String {
    let mut xml = String::new();
    for (name, value) in fields {
        let escaped = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        write!(xml, "<{name}>{escaped}</{name}>").expect("a string takes everything");
    }
    xml
}
