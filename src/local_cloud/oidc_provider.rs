//! Stand-ins for Google and Apple: two OpenID providers beneath `/_tidegate/providers/`, at which the person at the
//! screen says who they are. Owns their keys and codes; promises what the real ones promise a relying party (exact
//! redirect, one use of a code, PKCE, nonce, signed ID tokens, Apple's `form_post` and private relay addresses); must
//! never be reached from anywhere but a rehearsal: they believe whatever is typed.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::Method;
use http::request::Parts;
use maud::html;
use serde_json::{Value, json};

use crate::local_cloud::hosted_ui::Answer;
use crate::local_cloud::hosted_ui::authorize::callback;
use crate::local_cloud::hosted_ui::call::{Call, Fields};
use crate::local_cloud::hosted_ui::expiring::Expiring;
use crate::local_cloud::hosted_ui::pages::{self, Forms, Kind};
use crate::local_cloud::hosted_ui::token::{challenge_of, failure, with_json};
use crate::local_cloud::signing_key::SigningKey;
use crate::local_cloud::site::{Site, StartError};

/// How long a provider's code can be exchanged.
const CODE_VALIDITY: Duration = Duration::from_secs(300);
const ID_TOKEN_VALIDITY_S: u64 = 3_600;
const LONGEST_EMAIL_BYTES: usize = 254;

/// Which provider is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brand {
    /// `Google`.
    Google,
    /// `SignInWithApple`.
    Apple,
}

/// What a path beneath a provider leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// `.well-known/openid-configuration`.
    Configuration,
    /// `jwks`.
    Keys,
    /// `authorize`.
    Authorize,
    /// `token`.
    Token,
}

impl Brand {
    /// The issuer of its tokens: an address that answers.
    pub fn issuer(self, base_url: &str) -> String {
        format!("{base_url}/_tidegate/providers/{}", self.folder())
    }

    /// How people call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Google => "Google",
            Self::Apple => "Apple",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Google => "google",
            Self::Apple => "apple",
        }
    }
}

/// The provider and document at a path behind `/_tidegate/`.
pub fn at(path: &str) -> Option<(Brand, Document)> {
    let (folder, document) = path.strip_prefix("providers/")?.split_once('/')?;
    let brand = [Brand::Google, Brand::Apple].into_iter().find(|brand| brand.folder() == folder)?;
    let document = match document {
        ".well-known/openid-configuration" => Document::Configuration,
        "jwks" => Document::Keys,
        "authorize" => Document::Authorize,
        "token" => Document::Token,
        _ => return None,
    };
    Some((brand, document))
}

/// Both providers; clones share them.
#[derive(Debug, Clone)]
pub struct OidcProviders(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    site: Site,
    /// Made when somebody asks: making keys takes its time, and most rehearsals need none.
    keys: [OnceLock<SigningKey>; 2],
    codes: Expiring<Grant>,
}

/// What a code was given for.
#[derive(Debug, Clone)]
struct Grant {
    brand: Brand,
    client_id: String,
    redirect_uri: String,
    code_challenge: Option<String>,
    nonce: Option<String>,
    person: Person,
}

/// Who somebody says to be.
#[derive(Debug, Clone)]
struct Person {
    sub: String,
    email: String,
    is_verified: bool,
    is_private: bool,
}

/// A relying party's request that was found good.
struct Asked<'f> {
    client_id: &'f str,
    redirect_uri: &'f str,
    fields: &'f Fields,
}

impl OidcProviders {
    /// Nothing is made yet.
    pub fn new(site: &Site) -> Self {
        let valid_ms = u64::try_from(CODE_VALIDITY.as_millis()).unwrap_or(u64::MAX);
        Self(Arc::new(Inner { site: site.clone(), keys: Default::default(), codes: Expiring::new(valid_ms) }))
    }

    /// Answers a request.
    pub async fn answer(&self, brand: Brand, document: Document, parts: &Parts, body: &Bytes) -> Answer {
        self.0.site.counters.count("oidc-provider:Request");
        let call = Call::read(parts, body);
        match (document, &parts.method) {
            (Document::Configuration, &Method::GET) => with_json(200, self.configuration(brand).to_string()),
            (Document::Keys, &Method::GET) => match self.with_key(brand, |key| key.jwks().to_string()).await {
                Ok(keys) => with_json(200, keys),
                Err(_) => failure(500, "server_error", None),
            },
            (Document::Authorize, &Method::GET) => match self.asked(&call.query) {
                Ok(_) => who_are_you(brand, &call.query, None),
                Err(refused) => *refused,
            },
            (Document::Authorize, &Method::POST) => self.said(brand, &call),
            (Document::Token, &Method::POST) => self.token(brand, &call).await,
            _ => failure(405, "invalid_request", None),
        }
    }

    fn configuration(&self, brand: Brand) -> Value {
        let issuer = brand.issuer(&self.0.site.base_url);
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "form_post"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile", "name"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "code_challenge_methods_supported": ["S256"],
        })
    }

    /// The only relying party is this cloud's own page.
    fn asked<'f>(&self, fields: &'f Fields) -> Result<Asked<'f>, Box<Answer>> {
        let refused = |message| {
            let answer = pages::error(400, "redirect_uri_mismatch", "This sign-in cannot begin", message);
            Err(Box::new(answer))
        };
        let (client_id, redirect_uri) = (fields.text("client_id"), fields.text("redirect_uri"));
        if client_id.is_empty() || fields.text("response_type") != "code" {
            return refused("The request lacks its client_id, or is not one for a code.");
        }
        if redirect_uri != format!("{}/oauth2/idpresponse", self.0.site.base_url) {
            return refused("This stand-in only signs people in for the page of its own local cloud.");
        }
        Ok(Asked { client_id, redirect_uri, fields })
    }

    /// The person said who they are, or that they would rather not.
    fn said(&self, brand: Brand, call: &Call) -> Answer {
        let asked = match self.asked(&call.query) {
            Ok(asked) => asked,
            Err(refused) => return *refused,
        };
        if call.is_foreign() {
            return pages::error(403, "access_denied", "That did not work", "The form came from elsewhere.");
        }
        if call.form.text("answer") == "cancel" {
            // Apple's own word differs from the standard's.
            let error = if brand == Brand::Apple { "user_cancelled_authorize" } else { "access_denied" };
            return send_back(&asked, &[("error", error)]);
        }
        let email = call.form.text("email").trim();
        if !is_email(email) {
            return who_are_you(brand, &call.query, Some("That is no e-mail address. Please try again."));
        }
        let grant = Grant {
            brand,
            client_id: asked.client_id.to_owned(),
            redirect_uri: asked.redirect_uri.to_owned(),
            code_challenge: asked.fields.get("code_challenge").map(str::to_owned),
            nonce: asked.fields.get("nonce").map(str::to_owned),
            person: Person::new(brand, email, &call.form),
        };
        let code = self.0.codes.put(grant, self.0.site.now_ms());
        send_back(&asked, &[("code", &code)])
    }

    async fn token(&self, brand: Brand, call: &Call) -> Answer {
        if call.form.text("grant_type") != "authorization_code" {
            return failure(400, "unsupported_grant_type", None);
        }
        if call.form.get("client_secret").is_none() && !call.has_basic_authorization() {
            return failure(401, "invalid_client", None);
        }
        let Some(grant) = self.0.codes.take(call.form.text("code"), self.0.site.now_ms()) else {
            return failure(400, "invalid_grant", None);
        };
        let is_proven = match (&grant.code_challenge, call.form.get("code_verifier")) {
            (Some(challenge), Some(verifier)) => *challenge == challenge_of(verifier),
            (expected, given) => expected.is_none() && given.is_none(),
        };
        let fits = grant.brand == brand
            && grant.client_id == call.form.text("client_id")
            && grant.redirect_uri == call.form.text("redirect_uri");
        if !fits || !is_proven {
            return failure(400, "invalid_grant", None);
        }
        let claims = self.claims(&grant);
        match self.with_key(brand, move |key| key.sign(&claims)).await {
            Ok(id_token) => {
                let answer = json!({
                    "access_token": "not-used", "token_type": "Bearer", "expires_in": ID_TOKEN_VALIDITY_S,
                    "id_token": id_token,
                });
                with_json(200, answer.to_string())
            }
            Err(_) => failure(500, "server_error", None),
        }
    }

    fn claims(&self, grant: &Grant) -> Value {
        let now_s = self.0.site.now_s();
        let person = &grant.person;
        let mut claims = json!({
            "iss": grant.brand.issuer(&self.0.site.base_url), "aud": grant.client_id, "sub": person.sub,
            "iat": now_s, "exp": now_s + ID_TOKEN_VALIDITY_S,
            "email": person.email, "email_verified": person.is_verified,
        });
        if grant.brand == Brand::Apple {
            claims["is_private_email"] = json!(person.is_private);
        }
        if let Some(nonce) = &grant.nonce {
            claims["nonce"] = json!(nonce);
        }
        claims
    }

    /// Works with a provider's key, off the threads that serve.
    async fn with_key<T: Send + 'static>(
        &self,
        brand: Brand,
        work: impl FnOnce(&SigningKey) -> T + Send + 'static,
    ) -> Result<T, StartError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let slot = &inner.keys[brand as usize];
            if slot.get().is_none() {
                let name = format!("oidc_providers/{}", brand.folder());
                let key = SigningKey::load_or_generate(&inner.site.state, &name)?;
                // Somebody else's key that came first is the one.
                let _ = slot.set(key);
            }
            Ok(work(slot.get().expect("it was set before")))
        });
        done.await.expect("working with a key does not panic")
    }
}

impl Person {
    /// The same address is the same person; Apple's also where it is hidden.
    fn new(brand: Brand, email: &str, form: &Fields) -> Self {
        let seed = format!("{} {}", brand.folder(), email.to_lowercase());
        let bytes = digest::digest(&digest::SHA256, seed.as_bytes());
        let hex: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let sub = match brand {
            // As the real ones look: a long number; three parts with a hash in their middle.
            Brand::Google => bytes.as_ref().iter().take(20).map(|byte| char::from(b'0' + byte % 10)).collect(),
            Brand::Apple => format!("000{}.{}.{}", &hex[..3], &hex[..32], "1200"),
        };
        let is_private = brand == Brand::Apple && form.text("hide") == "yes";
        let email = if is_private { format!("{}@privaterelay.appleid.com", &hex[32..42]) } else { email.to_owned() };
        Self { sub, email, is_verified: is_private || form.text("verified") == "yes", is_private }
    }
}

fn who_are_you(brand: Brand, query: &Fields, error: Option<&str>) -> Answer {
    let label = brand.label();
    let title = format!("Sign in with {label}");
    let action = format!("/_tidegate/providers/{}/authorize?{}", brand.folder(), query.encoded());
    let content = html! {
        (pages::heading(&title, "A stand-in for the rehearsal: say who you are, and it is believed.", error, None))
        form method="post" action=(action) {
            (pages::field("email", "E-mail", Kind::Name, query.text("login_hint"), true))
            label.choice { input type="checkbox" name="verified" value="yes" checked; "The address is verified" }
            @if brand == Brand::Apple {
                label.choice { input type="checkbox" name="hide" value="yes"; "Hide my e-mail" }
            }
            button type="submit" name="answer" value="go" { "Continue" }
            button.button type="submit" name="answer" value="cancel" formnovalidate { "Cancel" }
        }
    };
    // The pool's page redirects on, to an app that only it knows.
    pages::page(if error.is_some() { 400 } else { 200 }, &title, &Forms::Anywhere, &content)
}

/// Goes back to the relying party, the way that it asked for.
fn send_back(asked: &Asked<'_>, answer: &[(&str, &str)]) -> Answer {
    let state = asked.fields.get("state");
    let fields: Vec<_> = answer.iter().copied().chain(state.map(|state| ("state", state))).collect();
    if asked.fields.text("response_mode") == "form_post" {
        return pages::form_post(asked.redirect_uri, &fields);
    }
    let fields: Vec<_> = fields.into_iter().map(|(name, value)| (name, Some(value))).collect();
    pages::redirect(&callback(asked.redirect_uri, &fields))
}

fn is_email(text: &str) -> bool {
    let parts = text.split_once('@');
    let is_plain =
        |part: &str| !part.is_empty() && !part.chars().any(|c| c == '@' || c.is_whitespace() || c.is_control());
    text.len() <= LONGEST_EMAIL_BYTES && parts.is_some_and(|(local, domain)| is_plain(local) && is_plain(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_person_and_apple_can_hide_it() {
        let form = |text: &str| Fields::read(text.as_bytes());
        let google = Person::new(Brand::Google, "Ana@example.com", &form("verified=yes"));
        let again = Person::new(Brand::Google, "ana@example.com", &form(""));
        assert_eq!((&google.sub, google.is_verified, again.is_verified), (&again.sub, true, false));
        assert!(google.sub.len() == 20 && google.sub.bytes().all(|byte| byte.is_ascii_digit()));
        let open = Person::new(Brand::Apple, "ana@example.com", &form("verified=yes"));
        let hidden = Person::new(Brand::Apple, "ana@example.com", &form("hide=yes"));
        assert_eq!(open.sub, hidden.sub);
        assert!(hidden.email.ends_with("@privaterelay.appleid.com") && hidden.is_verified && hidden.is_private);
    }

    #[test]
    fn paths_lead_to_their_document() {
        assert_eq!(at("providers/apple/token"), Some((Brand::Apple, Document::Token)));
        assert_eq!(
            at("providers/google/.well-known/openid-configuration"),
            Some((Brand::Google, Document::Configuration))
        );
        assert_eq!((at("providers/x/token"), at("providers/google/"), at("health")), (None, None, None));
    }

    #[test]
    fn addresses_have_two_parts() {
        for (text, expected) in [("a@b", true), ("a@@b", false), ("@b", false), ("a b@c", false), ("a", false)] {
            assert_eq!(is_email(text), expected, "{text}");
        }
    }
}
