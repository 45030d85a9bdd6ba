//! Cognito's hosted sign-in page ("managed login", or the classic hosted UI) as a [`Federation`]: its addresses, and its
//! token endpoint. Promises that no code, verifier or token shows in an error; must never follow a redirect.
//!
//! Endpoints: <https://docs.aws.amazon.com/cognito/latest/developerguide/federation-endpoints.html>.
//!
//! `prompt=login` makes managed login ask even where the browser's cookie is good, and is passed on to the provider. The
//! classic pages do not know it: there `/logout` ends the cookie, and the age of the token's `auth_time` shows where
//! nobody did (`NOT_FRESH`).

use std::time::{Duration, Instant};

use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::TokenError;
use super::federation::{Asked, CodeTokens, ExchangeError, Federation, FederationError};
use crate::clock::Clock;
use crate::credential::SetupError;
use crate::credential::aws::{check_url, http_date, is_loopback};
use crate::telemetry::metrics;
use crate::telemetry::metrics::{Outcome, UpstreamOperation};

/// Three tokens and some words around them.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// `[identity.hosted_ui]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The page's domain, for example `https://photos.auth.us-east-1.amazoncognito.com`.
    pub domain_url: String,
    /// The client's callback URLs that may be used here; the first one is meant where none is named.
    pub redirect_uris: Vec<String>,
    /// The daemon itself waits for the browser at those redirect URIs that are loopback ones.
    pub listen_on_loopback: bool,
    /// What tokens shall be good for; `openid` is among them.
    pub scopes: Vec<String>,
    /// The providers that may be named; empty: any.
    pub providers: Vec<String>,
    /// One of the client's sign-out URLs; without it the page's cookie cannot be ended.
    pub sign_out_uri: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain_url: String::new(),
            redirect_uris: Vec::new(),
            listen_on_loopback: true,
            // The last one is what signing out everywhere asks for.
            scopes: ["openid", "email", "aws.cognito.signin.user.admin"].map(str::to_owned).to_vec(),
            providers: Vec::new(),
            sign_out_uri: None,
        }
    }
}

impl Config {
    /// What cannot be used: key and reason.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if !self.domain_url.is_empty()
            && let Err(error) = check_url("domain_url", &self.domain_url)
        {
            found.push(("domain_url", error.why));
        }
        if self.redirect_uris.is_empty() {
            found.push(("redirect_uris", "must name at least one of the client's callback URLs".to_owned()));
        }
        let uris = self.redirect_uris.iter().map(|uri| ("redirect_uris", uri));
        for (key, uri) in uris.chain(self.sign_out_uri.iter().map(|uri| ("sign_out_uri", uri))) {
            found.extend(uri_mistake(uri).map(|why| (key, format!("{uri:?} {why}"))));
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            found.push(("scopes", "must have \"openid\": without it there is no ID token".to_owned()));
        }
        found
    }
}

/// As Cognito takes them: https, http on loopback, or a scheme of the app's own; no fragment.
fn uri_mistake(uri: &str) -> Option<&'static str> {
    let Ok(url) = Url::parse(uri) else { return Some("is no URL") };
    if url.fragment().is_some() {
        return Some("has a fragment");
    }
    match url.scheme() {
        "http" if !url.host_str().is_some_and(is_loopback) => Some("is plain HTTP beyond this device"),
        "javascript" | "data" | "file" => Some("has a scheme that no app has"),
        _ => None,
    }
}

/// See the module.
#[derive(Debug)]
pub struct HostedUi {
    config: Config,
    client_id: String,
    domain: Url,
    http: reqwest::Client,
    clock: Clock,
}

#[derive(Deserialize)]
struct Granted {
    id_token: String,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
}

impl HostedUi {
    /// Builds the client; makes no call.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(
        config: &Config,
        client_id: &str,
        connect: Duration,
        call: Duration,
        clock: Clock,
    ) -> Result<Self, SetupError> {
        if let Some((field, why)) = config.mistakes().into_iter().next() {
            return Err(SetupError { field, why });
        }
        let unusable = |why: String| SetupError { field: "domain_url", why };
        let domain = Url::parse(&config.domain_url).map_err(|error| unusable(error.to_string()))?;
        let http = reqwest::Client::builder()
            .connect_timeout(connect)
            .timeout(call)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self { config: config.clone(), client_id: client_id.to_owned(), domain, http, clock })
    }

    fn page(&self, path: &str, fields: &[(&str, &str)]) -> Url {
        let mut url = self.domain.clone();
        url.set_path(path);
        url.query_pairs_mut().clear().extend_pairs(fields);
        url
    }

    async fn answer(&self, form: String) -> Result<CodeTokens, ExchangeError> {
        let mut url = self.domain.clone();
        url.set_path("/oauth2/token");
        let request = self.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form);
        let failed = |error: reqwest::Error| {
            let text = format!("the sign-in page's token endpoint cannot be reached: {}", cause(&error));
            let error_of: fn(TokenError) -> ExchangeError =
                if error.is_connect() { ExchangeError::NotSent } else { ExchangeError::Failed };
            error_of(TokenError::Transient(text))
        };
        let mut reply = request.send().await.map_err(failed)?;
        // The domain is reached by verified TLS, or on loopback.
        if let Some(date) = reply.headers().get("date").and_then(|date| http_date(date.to_str().ok()?)) {
            self.clock.observe_server_date(date);
        }
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = reply.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_MAX_BYTES {
                let text = format!("the token endpoint's answer has more than {ANSWER_MAX_BYTES} bytes");
                return Err(ExchangeError::Failed(TokenError::Configuration(text)));
            }
            body.extend_from_slice(&chunk);
        }
        if !reply.status().is_success() {
            return Err(refusal(reply.status(), &body));
        }
        // serde's message would quote the answer.
        let granted: Granted = serde_json::from_slice(&body).map_err(|_| {
            let text = "the token endpoint's answer lacks an ID token: is \"openid\" among the client's scopes?";
            ExchangeError::Failed(TokenError::Configuration(text.to_owned()))
        })?;
        let Granted { id_token, access_token, refresh_token } = granted;
        Ok(CodeTokens {
            id_token: id_token.into(),
            access_token: access_token.map(Into::into),
            refresh_token: refresh_token.map(Into::into),
        })
    }
}

#[async_trait::async_trait]
impl Federation for HostedUi {
    fn redirect_uri(&self, wanted: Option<&str>) -> Result<String, FederationError> {
        let known = &self.config.redirect_uris;
        let found = match wanted {
            None => known.first(),
            Some(wanted) => known.iter().find(|uri| *uri == wanted),
        };
        found
            .cloned()
            .ok_or_else(|| FederationError::RedirectNotAllowed(wanted.unwrap_or_default().to_owned(), known.join(", ")))
    }

    fn listens_at(&self, redirect_uri: &str) -> bool {
        let url = Url::parse(redirect_uri).ok().filter(|url| url.scheme() == "http");
        self.config.listen_on_loopback && url.is_some_and(|url| url.host_str().is_some_and(is_loopback))
    }

    fn authorize_url(&self, asked: &Asked<'_>) -> Result<String, FederationError> {
        if let Some(provider) = asked.provider
            && !self.config.providers.is_empty()
            && !self.config.providers.iter().any(|known| known == provider)
        {
            return Err(FederationError::ProviderNotFound(provider.to_owned(), self.config.providers.join(", ")));
        }
        let scopes = self.config.scopes.join(" ");
        let mut fields = vec![
            ("client_id", self.client_id.as_str()),
            ("redirect_uri", asked.redirect_uri),
            ("response_type", "code"),
            ("scope", &scopes),
            ("state", asked.state),
            ("nonce", asked.nonce),
            ("code_challenge", asked.code_challenge),
            ("code_challenge_method", "S256"),
        ];
        fields.extend(asked.provider.map(|provider| ("identity_provider", provider)));
        if asked.is_fresh {
            fields.push(("prompt", "login"));
        }
        Ok(self.page("/oauth2/authorize", &fields).into())
    }

    fn sign_out_url(&self) -> Option<String> {
        let uri = self.config.sign_out_uri.as_deref()?;
        Some(self.page("/logout", &[("client_id", &self.client_id), ("logout_uri", uri)]).into())
    }

    async fn exchange(
        &self,
        code: &SecretString,
        verifier: &SecretString,
        redirect_uri: &str,
    ) -> Result<CodeTokens, ExchangeError> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", self.client_id.as_str()),
            ("redirect_uri", redirect_uri),
            ("code", code.expose_secret()),
            ("code_verifier", verifier.expose_secret()),
        ];
        let form = self.page("/", &fields).query().unwrap_or_default().to_owned();
        let began = Instant::now();
        let answer = self.answer(form).await;
        let outcome = match &answer {
            Ok(_) => Outcome::Ok,
            Err(ExchangeError::CodeRefused) => Outcome::Denied,
            Err(ExchangeError::NotSent(error) | ExchangeError::Failed(error)) => match error {
                TokenError::Throttled(_) => Outcome::Throttled,
                TokenError::Transient(_) => Outcome::Transient,
                TokenError::Configuration(_) => Outcome::Configuration,
                _ => Outcome::Other,
            },
        };
        metrics().upstream_call(UpstreamOperation::CodeExchange, outcome, began.elapsed());
        answer
    }
}

/// By RFC 6749's codes: <https://docs.aws.amazon.com/cognito/latest/developerguide/token-endpoint.html>.
fn refusal(status: StatusCode, body: &[u8]) -> ExchangeError {
    let code = serde_json::from_slice::<Denied>(body).map(|denied| denied.error).unwrap_or_default();
    let code: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
    let text = format!("the token endpoint answered {} {code}", status.as_u16());
    match (status, code.as_str()) {
        (StatusCode::TOO_MANY_REQUESTS, _) => ExchangeError::NotSent(TokenError::Throttled(text)),
        (StatusCode::SERVICE_UNAVAILABLE, _) => ExchangeError::NotSent(TokenError::Transient(text)),
        (_, "invalid_grant") => ExchangeError::CodeRefused,
        (status, _) if status.is_client_error() => {
            let text =
                format!("{text}: the app client, its secret or its callback URLs do not fit [identity.hosted_ui]");
            ExchangeError::Failed(TokenError::Configuration(text))
        }
        _ => ExchangeError::Failed(TokenError::Transient(text)),
    }
}

/// The innermost cause; the outer ones name the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            domain_url: "https://photos.auth.us-east-1.amazoncognito.com".into(),
            redirect_uris: vec!["http://127.0.0.1:8484/callback".into(), "photos://signed-in".into()],
            sign_out_uri: Some("http://127.0.0.1:8484/signed-out".into()),
            ..Config::default()
        }
    }

    fn page(config: &Config) -> HostedUi {
        let second = Duration::from_secs(1);
        HostedUi::new(config, "kiosk", second, second, Clock::system()).unwrap()
    }

    #[test]
    fn the_address_has_what_the_page_needs() {
        let page = page(&config());
        let asked = Asked {
            redirect_uri: "photos://signed-in",
            provider: Some("Google"),
            state: "s",
            nonce: "n",
            code_challenge: "c",
            is_fresh: true,
        };
        assert_eq!(
            page.authorize_url(&asked).unwrap(),
            "https://photos.auth.us-east-1.amazoncognito.com/oauth2/authorize?client_id=kiosk\
             &redirect_uri=photos%3A%2F%2Fsigned-in&response_type=code&scope=openid+email+aws.cognito.signin.user.admin\
             &state=s&nonce=n&code_challenge=c&code_challenge_method=S256&identity_provider=Google&prompt=login"
        );
        let bare = page.authorize_url(&Asked { provider: None, is_fresh: false, ..asked }).unwrap();
        assert!(bare.ends_with("code_challenge_method=S256"), "{bare}");
        assert_eq!(
            page.sign_out_url().unwrap(),
            "https://photos.auth.us-east-1.amazoncognito.com/logout?client_id=kiosk\
             &logout_uri=http%3A%2F%2F127.0.0.1%3A8484%2Fsigned-out"
        );
    }

    #[test]
    fn only_configured_redirects_and_providers_are_used() {
        let page = page(&Config { providers: vec!["Google".into()], ..config() });
        assert_eq!(page.redirect_uri(None).unwrap(), "http://127.0.0.1:8484/callback");
        assert_eq!(page.redirect_uri(Some("photos://signed-in")).unwrap(), "photos://signed-in");
        assert!(page.listens_at("http://127.0.0.1:8484/callback") && !page.listens_at("photos://signed-in"));
        let refused = page.redirect_uri(Some("https://evil.example/")).unwrap_err();
        assert!(matches!(refused, FederationError::RedirectNotAllowed(..)));
        let asked = Asked {
            redirect_uri: "",
            provider: Some("Corp"),
            state: "",
            nonce: "",
            code_challenge: "",
            is_fresh: true,
        };
        assert!(matches!(page.authorize_url(&asked), Err(FederationError::ProviderNotFound(..))));
    }

    #[test]
    fn mistakes_are_named_by_their_key() {
        assert_eq!(config().mistakes(), []);
        let of = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config.mistakes().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(of(|config| config.domain_url = "http://photos.example".into()), ["domain_url"]);
        assert_eq!(of(|config| config.redirect_uris.clear()), ["redirect_uris"]);
        assert_eq!(of(|config| config.redirect_uris.push("http://kiosk.example/cb".into())), ["redirect_uris"]);
        assert_eq!(of(|config| config.redirect_uris.push("https://kiosk.example/cb#x".into())), ["redirect_uris"]);
        assert_eq!(of(|config| config.sign_out_uri = Some("signed-out".into())), ["sign_out_uri"]);
        assert_eq!(of(|config| config.scopes = vec!["email".into()]), ["scopes"]);
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |status: u16, body: &str| refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert!(matches!(of(400, r#"{"error":"invalid_grant"}"#), ExchangeError::CodeRefused));
        assert!(matches!(of(429, ""), ExchangeError::NotSent(TokenError::Throttled(_))));
        assert!(matches!(of(503, "<html>"), ExchangeError::NotSent(TokenError::Transient(_))));
        assert!(matches!(of(500, ""), ExchangeError::Failed(TokenError::Transient(_))));
        let client = of(400, r#"{"error":"invalid_client"}"#);
        assert!(
            matches!(&client, ExchangeError::Failed(TokenError::Configuration(why)) if why.contains("invalid_client"))
        );
    }
}
