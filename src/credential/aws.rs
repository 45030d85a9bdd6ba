//! How AWS's identity services are called, for the plug-ins here, in `session` and in `account`: one HTTP client, our
//! timeouts, no retry (the callers retry), the reply's `Date`. Promises that nothing comes from the environment, profiles
//! or instance metadata; must never put a secret into an error.

use std::error::Error;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use aws_smithy_http_client::tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;

use super::{CredentialError, CredentialErrorKind, Credentials, SetupError, SourceConfig, codes};
use crate::clock::{BootInstant, Clock};
use crate::telemetry::metrics;
use crate::telemetry::metrics::{Outcome, UpstreamOperation};

/// Where and how a client calls.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// The region.
    pub region: String,
    /// Another endpoint than AWS's.
    pub endpoint_url: Option<String>,
    /// The time limits.
    pub timeouts: TimeoutConfig,
    /// For the deadlines, and told the servers' dates.
    pub clock: Clock,
}

impl Route {
    /// Checks what the configuration says.
    pub fn new(
        region: &str,
        endpoint_url: Option<&str>,
        connect: Duration,
        call: Duration,
        clock: Clock,
    ) -> Result<Self, SetupError> {
        if region.is_empty() {
            return Err(SetupError { field: "region", why: "is empty: write one like \"eu-central-1\"".to_owned() });
        }
        if let Some(url) = endpoint_url {
            check_url("endpoint_url", url)?;
        }
        let timeouts = TimeoutConfig::builder().connect_timeout(connect).operation_timeout(call).build();
        Ok(Self { region: region.to_owned(), endpoint_url: endpoint_url.map(str::to_owned), timeouts, clock })
    }

    /// The route of `[identity.credentials]`.
    pub fn of(config: &SourceConfig, connect: Duration, call: Duration, clock: Clock) -> Result<Self, SetupError> {
        Self::new(&config.region, config.endpoint_url.as_deref(), connect, call, clock)
    }

    /// A probe for one call that is sent now.
    pub fn probe(&self) -> DateProbe {
        DateProbe { sent: self.clock.boot(), clock: self.clock.clone(), seen: Arc::default() }
    }
}

/// HTTPS everywhere, HTTP on loopback.
///
/// # Errors
/// The field, and what is wrong with it.
pub(crate) fn check_url(field: &'static str, url: &str) -> Result<(), SetupError> {
    let refuse = |why: &str| Err(SetupError { field, why: format!("{url:?} {why}") });
    let Ok(uri) = url.parse::<http::Uri>() else { return refuse("is not a URL: write one like \"https://host\"") };
    let Some(host) = uri.host() else { return refuse("names no host: write one like \"https://host\"") };
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_loopback(host) => Ok(()),
        Some("http") => refuse("is plain HTTP beyond this device: use https (http is for loopback)"),
        _ => refuse("is neither https nor http"),
    }
}

/// A name or an address of this device.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The one HTTP client of all identity services: TLS roots are loaded once.
pub(crate) fn http_client() -> SharedHttpClient {
    static CLIENT: OnceLock<SharedHttpClient> = OnceLock::new();
    let build =
        || aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc)).build_https();
    CLIENT.get_or_init(build).clone()
}

/// Builds the `Config` of one service's SDK from a [`Route`].
macro_rules! sdk_config {
    ($sdk:ident, $route:expr) => {{
        let route: &$crate::credential::aws::Route = $route;
        let mut builder = $sdk::Config::builder()
            .behavior_version($sdk::config::BehaviorVersion::latest())
            .region($sdk::config::Region::new(route.region.clone()))
            .http_client($crate::credential::aws::http_client())
            .retry_config(aws_smithy_types::retry::RetryConfig::disabled())
            .timeout_config(route.timeouts.clone())
            .allow_no_auth();
        builder.set_endpoint_url(route.endpoint_url.clone());
        builder.build()
    }};
}
pub(crate) use sdk_config;

/// A reply that took longer tells no time: the device slept meanwhile, and nobody knows for how long after the `Date`.
const DATE_BELIEVED_WITHIN: Duration = Duration::from_secs(30);

/// Reads the `Date` of one call's reply, also of an error. Every route is HTTPS or loopback, so it may be believed.
#[derive(Debug, Clone)]
pub(crate) struct DateProbe {
    sent: BootInstant,
    clock: Clock,
    seen: Arc<Mutex<Option<SystemTime>>>,
}

impl DateProbe {
    /// What `expiration` means on the boot clock: from when to when the credentials count. The lifetime begins with the
    /// call, not with its reply: a device that slept in between must not add its sleep to it.
    pub fn lifetime(&self, expiration: SystemTime) -> (BootInstant, BootInstant) {
        let dated = self.seen.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(|| self.clock.wall());
        (self.sent, self.sent + expiration.duration_since(dated).unwrap_or_default())
    }
}

impl Intercept for DateProbe {
    fn name(&self) -> &'static str {
        "DateProbe"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date").and_then(http_date) {
            if self.clock.boot().saturating_since(self.sent) <= DATE_BELIEVED_WITHIN {
                self.clock.observe_server_date(date);
            }
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(date);
        }
        Ok(())
    }
}

/// The time in a `Date` header.
pub(crate) fn http_date(text: &str) -> Option<SystemTime> {
    DateTime::from_str(text, Format::HttpDate).ok().and_then(|date| SystemTime::try_from(date).ok())
}

/// A failed call: the service's code, where it answered with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// For example `NotAuthorizedException`; none where no answer came, or none that has a code.
    pub code: Option<String>,
    /// The HTTP status; none where no answer came.
    pub status: Option<u16>,
    /// What failed and why; holds nothing of the request.
    pub message: String,
    /// There was no connection to send it on.
    pub unsent: bool,
}

impl Refused {
    /// Reads an SDK's error. `what` says what failed.
    pub fn of<E: ProvideErrorMetadata>(what: &str, error: &SdkError<E, HttpResponse>) -> Self {
        let status = error.raw_response().map(|response| response.status().as_u16());
        match error {
            SdkError::ServiceError(service) => {
                let meta = service.err().meta();
                // "Type" or "namespace#Type": JSON protocols allow both.
                let code = meta.code().map(|code| code.rsplit('#').next().unwrap_or(code).to_owned());
                let shown = code.clone().unwrap_or_else(|| format!("HTTP {}", status.unwrap_or_default()));
                let message = match meta.message() {
                    Some(text) => format!("{what}: {shown}: {text}"),
                    None => format!("{what}: {shown}"),
                };
                Self { code, status, message, unsent: false }
            }
            SdkError::TimeoutError(_) => Self::unanswered(format!("{what}: no answer in time")),
            SdkError::DispatchFailure(failure) => {
                let error = failure.as_connector_error();
                let cause = error.map_or_else(|| "no connection".to_owned(), |it| root_cause(it));
                // The only time limit of the connector is that on connecting.
                let unsent = error.is_some_and(|it| it.is_timeout() || is_about_connecting(it));
                Self { unsent, ..Self::unanswered(format!("{what}: cannot reach the service: {cause}")) }
            }
            // The answer itself may hold secrets: it is not shown.
            _ => Self { code: None, status, message: format!("{what}: the answer could not be read"), unsent: false },
        }
    }

    /// As an error of a credential source.
    pub fn into_credential_error(self) -> CredentialError {
        CredentialError { kind: codes::credential_kind(self.code.as_deref(), self.status), message: self.message }
    }

    fn unanswered(message: String) -> Self {
        Self { code: None, status: None, message, unsent: false }
    }
}

/// True where the HTTP client never got a connection.
fn is_about_connecting(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        cause = error.source();
    }
    false
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

pub(crate) use codes::{is_throttling, is_transient};

/// Records a call's time and what came of it.
pub(crate) fn record<T>(operation: UpstreamOperation, began: std::time::Instant, result: &Result<T, Refused>) {
    let outcome = match result {
        Ok(_) => Outcome::Ok,
        Err(refused) => match codes::credential_kind(refused.code.as_deref(), refused.status) {
            CredentialErrorKind::Transient => Outcome::Transient,
            CredentialErrorKind::Throttled => Outcome::Throttled,
            CredentialErrorKind::NotAuthorized => Outcome::Denied,
            CredentialErrorKind::Configuration => Outcome::Configuration,
            CredentialErrorKind::IdentityMoved => Outcome::Other,
        },
    };
    metrics().upstream_call(operation, outcome, began.elapsed());
}

/// Credentials from the parts of a reply.
pub(crate) fn credentials(
    probe: &DateProbe,
    access_key_id: &str,
    secret_access_key: &str,
    session_token: &str,
    expiration: DateTime,
) -> Result<Credentials, CredentialError> {
    let expire_time = SystemTime::try_from(expiration).map_err(|_| unreadable("the credentials' expiration"))?;
    let (received, deadline) = probe.lifetime(expire_time);
    Ok(Credentials {
        access_key_id: access_key_id.to_owned(),
        secret_access_key: secret_access_key.into(),
        session_token: Some(session_token.into()),
        expire_time,
        deadline,
        received,
    })
}

/// A reply without something that it must have.
pub(crate) fn unreadable(what: &str) -> CredentialError {
    CredentialError { kind: CredentialErrorKind::Transient, message: format!("the reply lacks {what}") }
}

/// A field that this plug-in needs.
pub(crate) fn required<'a>(field: &'static str, value: Option<&'a String>) -> Result<&'a str, SetupError> {
    match value.map(String::as_str) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(SetupError { field, why: "is needed by this kind".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::from_unix_ms;

    #[test]
    fn plain_http_is_for_loopback() {
        for good in [
            "https://example.com",
            "http://127.0.0.1:4566",
            "http://[::1]:1/",
            "http://localhost:80",
            "http://127.9.9.9",
        ] {
            check_url("endpoint_url", good).unwrap();
        }
        for bad in ["http://example.com", "ftp://127.0.0.1", "127.0.0.1", "", "http://localhost.evil.com", "/path"] {
            let error = check_url("endpoint_url", bad).unwrap_err();
            assert_eq!(error.field, "endpoint_url", "{bad}");
        }
    }

    #[test]
    fn a_lifetime_is_counted_from_the_replys_own_date() {
        let clock = Clock::manual(from_unix_ms(1_000_000_000_000));
        let route =
            Route::new("eu-central-1", None, Duration::from_secs(1), Duration::from_secs(1), clock.clone()).unwrap();
        let probe = route.probe();
        // The server lives ten years later than the device believes.
        let date = http_date("Tue, 15 Nov 2011 08:12:31 GMT").unwrap();
        *probe.seen.lock().unwrap() = Some(date);
        let sent = clock.boot();
        // The device sleeps before it reads the reply: that is not added to the lifetime.
        clock.advance(Duration::from_secs(1_800));
        let (received, deadline) = probe.lifetime(date + Duration::from_secs(3_600));
        assert_eq!(received, sent);
        assert_eq!(deadline.saturating_since(received), Duration::from_secs(3_600));
        let (received, deadline) = probe.lifetime(date - Duration::from_secs(5));
        assert_eq!(received, deadline, "over already");
    }
}
