//! Sign-in by another provider: the trip there and back. Promises that only the browser that left comes back in, that
//! a provider's answer counts once, and that its ID token is checked as OpenID Connect says: signature, issuer, audience,
//! time, nonce. Whose account it is, the pool decides.

use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::local_cloud::hosted_ui::authorize::{Authorize, Prompt};
use crate::local_cloud::hosted_ui::call::Call;
use crate::local_cloud::hosted_ui::expiring::random_name;
use crate::local_cloud::hosted_ui::token::challenge_of;
use crate::local_cloud::hosted_ui::{
    Answer, ErrorCode, HostedUi, Page, TRIP_COOKIE, TRIP_VALIDITY, pages, same, to_app, with_cookie,
};
use crate::local_cloud::oidc_provider::Brand;
use crate::local_cloud::seed::IdentityProviderSeed;
use crate::local_cloud::site::Site;

/// How long a provider may take for one answer.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer of a provider, in bytes.
const LARGEST_ANSWER_BYTES: usize = 256 * 1024;
/// How far a provider's clock may be off, in seconds.
const LEEWAY_S: u64 = 60;

/// Somebody on the way to another provider.
#[derive(Debug, Clone)]
pub struct Trip {
    authorize: Authorize,
    provider: IdentityProviderSeed,
    nonce: String,
    code_verifier: String,
}

/// A provider as the sign-in page offers it.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    provider: IdentityProviderSeed,
}

impl Offered {
    /// How people call it.
    pub(super) fn label(&self) -> &str {
        brand_of(&self.provider).map_or(self.provider.name.as_str(), |brand| brand.label())
    }

    /// Where its button leads.
    pub(super) fn link(&self, query: &str) -> String {
        let name: String = form_urlencoded::byte_serialize(self.provider.name.as_bytes()).collect();
        format!("{}?{query}&identity_provider={name}", Page::Authorize.path())
    }
}

/// What a provider's discovery document has to say.
#[derive(Debug, Deserialize)]
struct Configuration {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    id_token: String,
}

/// Why a provider's answer does not count. The words are for who runs the cloud.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ProviderError(String);

/// Talks to providers.
#[derive(Debug)]
pub struct ProviderClient {
    http: reqwest::Client,
    base_url: String,
}

impl HostedUi {
    /// The other providers of a client, in its order.
    pub(super) fn providers_of(&self, client_id: &str) -> Vec<Offered> {
        let Some((pool, client)) = self.user_pools().client(client_id) else { return Vec::new() };
        let known = |name: &String| pool.identity_providers.iter().find(|provider| provider.name == *name).cloned();
        let names = client.supported_identity_providers.iter();
        names.filter_map(known).map(|provider| Offered { provider }).collect()
    }

    /// Sends the browser to the provider that the client names.
    pub(super) async fn send_to_provider(&self, authorize: &Authorize) -> Answer {
        let wanted = authorize.provider.as_deref().unwrap_or_default();
        if wanted == "COGNITO" {
            return pages::redirect(&format!("{}?{}", Page::Login.path(), authorize.query()));
        }
        let offered = self.providers_of(&authorize.client_id);
        let Some(Offered { provider }) = offered.into_iter().find(|offered| offered.provider.name == wanted) else {
            return to_app(authorize, "invalid_request", "the identity provider is not one of this client's");
        };
        let configuration = match self.0.providers.configuration(&provider).await {
            Ok(configuration) => configuration,
            Err(error) => return self.provider_failed(authorize, &provider, &error),
        };
        let trip = Trip {
            authorize: authorize.clone(),
            provider: provider.clone(),
            nonce: random_name(),
            code_verifier: random_name(),
        };
        let (nonce, challenge) = (trip.nonce.clone(), challenge_of(&trip.code_verifier));
        let state = self.0.trips.put(trip, self.0.site.now_ms());
        let Ok(mut address) = reqwest::Url::parse(&configuration.authorization_endpoint) else {
            let error = ProviderError("its authorization_endpoint is no address".into());
            return self.provider_failed(authorize, &provider, &error);
        };
        let scopes = provider.details.get("authorize_scopes").map_or("openid email", String::as_str);
        let redirect_uri = self.0.providers.redirect_uri();
        address
            .query_pairs_mut()
            .append_pair("client_id", client_id_of(&provider))
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("response_type", "code")
            // Google wants `openid` named; templates for AWS leave it out.
            .append_pair(
                "scope",
                &if scopes.contains("openid") { scopes.to_owned() } else { format!("openid {scopes}") },
            )
            .append_pair("state", &state)
            .append_pair("nonce", &nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if brand_of(&provider) == Some(Brand::Apple) {
            address.query_pairs_mut().append_pair("response_mode", "form_post");
        }
        if authorize.prompt == Prompt::Login {
            // As AWS does: a provider that knows the word asks its own users again.
            address.query_pairs_mut().append_pair("prompt", "login");
        }
        if let Some(hint) = &authorize.login_hint {
            address.query_pairs_mut().append_pair("login_hint", hint);
        }
        with_cookie(pages::redirect(address.as_str()), TRIP_COOKIE, &state, TRIP_VALIDITY)
    }

    /// The browser is back from a provider.
    pub(super) async fn came_back(&self, call: &Call) -> Answer {
        let fields = if call.is_post() { &call.form } else { &call.query };
        let state = fields.text("state");
        let is_same_browser = call.cookie(TRIP_COOKIE).is_some_and(|cookie| same(cookie, state));
        let trip = is_same_browser.then(|| self.0.trips.take(state, self.0.site.now_ms())).flatten();
        let Some(trip) = trip else {
            let message = "This sign-in was finished already, took too long, or began in another browser. Go back to \
                           the app and try again.";
            return pages::error(400, "invalid_state", "This sign-in cannot go on", message);
        };
        let authorize = &trip.authorize;
        let answer = match (fields.get("code"), fields.get("error")) {
            (Some(code), None) => self.finish(&trip, code).await,
            (None, Some("access_denied" | "user_cancelled_authorize")) => {
                to_app(authorize, "access_denied", "the sign-in was cancelled at the provider")
            }
            _ => to_app(authorize, "invalid_request", "the provider did not sign the user in"),
        };
        with_cookie(answer, TRIP_COOKIE, "", Duration::ZERO)
    }

    async fn finish(&self, trip: &Trip, code: &str) -> Answer {
        let authorize = &trip.authorize;
        let claims = match self.0.providers.claims(trip, code, self.0.site.now_s()).await {
            Ok(claims) => claims,
            Err(error) => return self.provider_failed(authorize, &trip.provider, &error),
        };
        match self.user_pools().federated_sign_in(&authorize.client_id, &trip.provider.name, claims).await {
            Ok(sub) => self.signed_in(authorize, &sub),
            Err(refusal) => {
                tracing::debug!(provider = trip.provider.name, %refusal, "a provider's user was refused");
                to_app(authorize, "invalid_request", refusal.description())
            }
        }
    }

    fn provider_failed(&self, authorize: &Authorize, provider: &IdentityProviderSeed, error: &ProviderError) -> Answer {
        tracing::warn!(provider = provider.name, %error, "an identity provider cannot be used");
        let mut answer = to_app(authorize, "server_error", "the identity provider cannot be used; see the cloud's log");
        answer.extensions_mut().insert(ErrorCode("identity_provider".into()));
        answer
    }
}

impl ProviderClient {
    /// Asks nothing yet.
    pub fn new(site: &Site) -> Self {
        let http = reqwest::Client::builder()
            .timeout(PROVIDER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // A proxy has no way to this machine's loopback.
            .no_proxy()
            .build()
            .expect("the client is built from constants");
        Self { http, base_url: site.base_url.clone() }
    }

    fn redirect_uri(&self) -> String {
        format!("{}{}", self.base_url, Page::IdpResponse.path())
    }

    async fn configuration(&self, provider: &IdentityProviderSeed) -> Result<Configuration, ProviderError> {
        let issuer = match brand_of(provider) {
            Some(brand) => brand.issuer(&self.base_url),
            None => provider.details.get("oidc_issuer").cloned().unwrap_or_default(),
        };
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let configuration: Configuration = self.fetch(self.http.get(checked(&address)?)).await?;
        if configuration.issuer != issuer {
            let said = &configuration.issuer;
            return Err(ProviderError(format!("it calls itself {said}, but the template's oidc_issuer is {issuer}")));
        }
        Ok(configuration)
    }

    /// Exchanges a code and checks the ID token that it is worth.
    async fn claims(&self, trip: &Trip, code: &str, now_s: u64) -> Result<Map<String, Value>, ProviderError> {
        let provider = &trip.provider;
        let configuration = self.configuration(provider).await?;
        let client_id = client_id_of(provider);
        let redirect_uri = self.redirect_uri();
        // The stand-ins take any; Apple's real one is a token that its private key signs.
        let secret = provider.details.get("client_secret").filter(|secret| !secret.is_empty());
        let secret = secret.map_or("rehearsal", String::as_str);
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("client_id", client_id)
            .append_pair("client_secret", secret)
            .append_pair("code_verifier", &trip.code_verifier)
            .finish();
        let request = self.http.post(checked(&configuration.token_endpoint)?);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        let TokenAnswer { id_token } = self.fetch(request).await?;
        let keys: JwkSet = self.fetch(self.http.get(checked(&configuration.jwks_uri)?)).await?;
        let claims = signed_claims(&id_token, &keys)?;
        check(&claims, &configuration.issuer, client_id, &trip.nonce, now_s)?;
        Ok(claims)
    }

    async fn fetch<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ProviderError> {
        let failed = |error: reqwest::Error| ProviderError(format!("it cannot be reached: {}", error.without_url()));
        let mut answer = request.send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(ProviderError(format!("it answered {} at {}", answer.status(), answer.url().path())));
        }
        let mut whole = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if whole.len() + chunk.len() > LARGEST_ANSWER_BYTES {
                return Err(ProviderError(format!("its answer is larger than {LARGEST_ANSWER_BYTES} bytes")));
            }
            whole.extend_from_slice(&chunk);
        }
        // The parser's own words could quote a token.
        serde_json::from_slice(&whole).map_err(|error| {
            ProviderError(format!("its answer is not what OpenID Connect says (line {})", error.line()))
        })
    }
}

/// The claims of a token that one of these keys signed.
fn signed_claims(token: &str, keys: &JwkSet) -> Result<Map<String, Value>, ProviderError> {
    let bad = |what: &str| ProviderError(format!("its ID token is not good: {what}"));
    let header = jsonwebtoken::decode_header(token).map_err(|_| bad("it is no signed token"))?;
    if ![Algorithm::RS256, Algorithm::ES256].contains(&header.alg) {
        return Err(bad("it is signed by neither RS256 nor ES256"));
    }
    let key = match &header.kid {
        Some(kid) => keys.find(kid),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    };
    let key = key.ok_or_else(|| bad("its key is not among the provider's"))?;
    let key = DecodingKey::from_jwk(key).map_err(|_| bad("its key cannot be read"))?;
    let mut only_the_signature = Validation::new(header.alg);
    only_the_signature.required_spec_claims.clear();
    only_the_signature.validate_exp = false;
    only_the_signature.validate_aud = false;
    let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &only_the_signature);
    decoded.map(|token| token.claims).map_err(|_| bad("its signature is wrong"))
}

/// What OpenID Connect asks of an ID token behind its signature.
fn check(
    claims: &Map<String, Value>,
    issuer: &str,
    client_id: &str,
    nonce: &str,
    now_s: u64,
) -> Result<(), ProviderError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_for_us = audiences.contains(&client_id) && (audiences.len() == 1 || text("azp") == client_id);
    let number = |name: &str| claims.get(name).and_then(Value::as_f64).map_or(0, |number| number as u64);
    let fault = if text("iss") != issuer {
        "it is from another issuer"
    } else if !is_for_us {
        "it is for another client"
    } else if number("exp").saturating_add(LEEWAY_S) <= now_s {
        "it has expired"
    } else if number("iat") > now_s.saturating_add(LEEWAY_S) {
        "it is from the future"
    } else if !same(text("nonce"), nonce) {
        "its nonce is not the one that was sent"
    } else if text("sub").is_empty() {
        "it names nobody"
    } else {
        return Ok(());
    };
    Err(ProviderError(format!("its ID token is not good: {fault}")))
}

/// Plain HTTP only to this machine.
fn checked(address: &str) -> Result<reqwest::Url, ProviderError> {
    let url = reqwest::Url::parse(address).map_err(|_| ProviderError(format!("{address:?} is no address")))?;
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let is_loopback = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback => Ok(url),
        _ => Err(ProviderError(format!("{host} has to be reached by https"))),
    }
}

fn brand_of(provider: &IdentityProviderSeed) -> Option<Brand> {
    match provider.kind.as_str() {
        "Google" => Some(Brand::Google),
        "SignInWithApple" => Some(Brand::Apple),
        _ => None,
    }
}

fn client_id_of(provider: &IdentityProviderSeed) -> &str {
    provider.details.get("client_id").map_or("rehearsal", String::as_str)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::local_cloud::signing_key::SigningKey;
    use crate::local_cloud::state_dir::StateDir;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    const NOW_S: u64 = 1_790_000_000;

    fn good() -> Value {
        json!({ "iss": "http://127.0.0.1/p", "aud": "us", "sub": "s", "nonce": "n", "exp": NOW_S + 10, "iat": NOW_S })
    }

    fn fault(claims: &Value) -> Option<String> {
        let claims = claims.as_object().unwrap();
        check(claims, "http://127.0.0.1/p", "us", "n", NOW_S).err().map(|error| error.to_string())
    }

    #[test]
    fn every_claim_that_matters_is_checked() {
        assert_eq!(fault(&good()), None);
        for (name, value, words) in [
            ("iss", json!("http://127.0.0.1/q"), "another issuer"),
            ("aud", json!("them"), "another client"),
            ("aud", json!(["us", "them"]), "another client"),
            ("exp", json!(NOW_S - LEEWAY_S), "expired"),
            ("exp", Value::Null, "expired"),
            ("iat", json!(NOW_S + LEEWAY_S + 1), "future"),
            ("nonce", json!("m"), "nonce"),
            ("nonce", Value::Null, "nonce"),
            ("sub", json!(""), "nobody"),
        ] {
            let mut claims = good();
            claims[name] = value;
            let found = fault(&claims).unwrap_or_default();
            assert!(found.contains(words), "{name}: {found}");
        }
        let mut several = good();
        several["aud"] = json!(["us", "them"]);
        several["azp"] = json!("us");
        assert_eq!(fault(&several), None);
    }

    #[test]
    fn only_the_providers_keys_sign() {
        let key = SigningKey::load_or_generate(&StateDir::in_memory(), "a").unwrap();
        let other = SigningKey::load_or_generate(&StateDir::in_memory(), "b").unwrap();
        let keys: JwkSet = serde_json::from_value(key.jwks()).unwrap();
        let token = key.sign(&good());
        assert_eq!(signed_claims(&token, &keys).unwrap()["sub"], "s");
        assert!(signed_claims(&other.sign(&good()), &keys).is_err());
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), token.split('.').nth(1).unwrap());
        assert!(signed_claims(&none, &keys).is_err());
        let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(r#"{"sub":"t"}"#);
        assert!(signed_claims(&parts.join("."), &keys).unwrap_err().to_string().contains("signature"));
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        for (address, expected) in [
            ("http://127.0.0.1:8080/x", true),
            ("http://localhost/x", true),
            ("https://accounts.example/x", true),
            ("http://accounts.example/x", false),
            ("http://127.0.0.1.evil.example/x", false),
            ("file:///etc/passwd", false),
            ("", false),
        ] {
            assert_eq!(checked(address).is_ok(), expected, "{address}");
        }
    }
}
