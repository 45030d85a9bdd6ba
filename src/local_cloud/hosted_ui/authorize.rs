//! What a client asks of the page: read and checked as a whole, with no I/O. A request whose client or redirect is not
//! known is shown to the person and never redirected; any other fault goes back to the client, with its state.

use std::borrow::Cow;

use crate::local_cloud::hosted_ui::call::Fields;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::user_pool::Scopes;

/// Longest value of a field, in bytes.
const LONGEST_FIELD_BYTES: usize = 2_048;
/// A base64url SHA-256.
const CHALLENGE_CHARS: usize = 43;
/// Everything that a page passes on to the next.
const NAMES: [&str; 12] = [
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "identity_provider",
    "idp_identifier",
    "login_hint",
    "prompt",
];

/// A request that was found good.
#[derive(Debug, Clone)]
pub struct Authorize {
    /// The client.
    pub client_id: String,
    /// One of its callback URLs.
    pub redirect_uri: String,
    /// The client's own word, echoed.
    pub state: Option<String>,
    /// What the tokens shall be good for.
    pub scopes: Scopes,
    /// Goes into the ID token.
    pub nonce: Option<String>,
    /// PKCE, always `S256`.
    pub code_challenge: Option<String>,
    /// The provider to go to at once.
    pub provider: Option<String>,
    /// The name to fill in.
    pub login_hint: Option<String>,
    /// What the person must see.
    pub prompt: Prompt,
}

/// `prompt` of OpenID Connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prompt {
    /// A page only where it needs one.
    #[default]
    Auto,
    /// No page at all.
    None,
    /// Always a page.
    Login,
}

/// Why a request was not found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Shown here; the words are for the person.
    Page(&'static str),
    /// Sent to the client.
    Redirect {
        /// Where to.
        redirect_uri: String,
        /// The client's state.
        state: Option<String>,
        /// OAuth's code.
        error: &'static str,
        /// What is wrong.
        description: Cow<'static, str>,
    },
}

impl Authorize {
    /// Reads a request to the page of this client.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read<'c>(
        fields: &Fields,
        find_client: impl FnOnce(&str) -> Option<&'c UserPoolClientSeed>,
    ) -> Result<Self, Refusal> {
        let client_id = fields.get("client_id").ok_or(Refusal::Page(NO_CLIENT))?;
        let client = find_client(client_id).ok_or(Refusal::Page(NO_CLIENT))?;
        let redirect_uri = fields.get("redirect_uri").ok_or(Refusal::Page(BAD_REDIRECT))?;
        if !client.callback_urls.iter().any(|known| known == redirect_uri) {
            return Err(Refusal::Page(BAD_REDIRECT));
        }
        let too_long = |name: &&&str| fields.text(name).len() > LONGEST_FIELD_BYTES;
        let state = fields.get("state").filter(|state| state.len() <= LONGEST_FIELD_BYTES).map(str::to_owned);
        let refuse = |error, description: &'static str| {
            let (redirect_uri, state) = (redirect_uri.to_owned(), state.clone());
            Err(Refusal::Redirect { redirect_uri, state, error, description: description.into() })
        };
        if fields.repeated_of(&NAMES).is_some() {
            return refuse("invalid_request", "a parameter came twice");
        }
        if NAMES.iter().find(too_long).is_some() {
            return refuse("invalid_request", "a parameter is too long");
        }
        match fields.get("response_type") {
            Some("code") => {}
            None => return refuse("invalid_request", "response_type is missing"),
            Some(_) => return refuse("unsupported_response_type", "only the code flow is served"),
        }
        let code_challenge = match (fields.get("code_challenge"), fields.get("code_challenge_method")) {
            (None, None) => None,
            (Some(challenge), Some("S256")) if is_challenge(challenge) => Some(challenge.to_owned()),
            (Some(_), Some("S256")) => return refuse("invalid_request", "code_challenge is no base64url SHA-256"),
            (Some(_), _) => return refuse("invalid_request", "code_challenge_method must be S256"),
            (None, Some(_)) => return refuse("invalid_request", "code_challenge is missing"),
        };
        let Some(scopes) = Scopes::requested(fields.text("scope"), allowed_scopes(client)) else {
            return refuse("invalid_scope", "a scope is unknown or not for this client");
        };
        let prompt = match fields.get("prompt") {
            None => Prompt::Auto,
            Some("none") => Prompt::None,
            Some("login" | "select_account" | "consent") => Prompt::Login,
            Some(_) => return refuse("invalid_request", "prompt is not known"),
        };
        let provider = fields.get("identity_provider").or(fields.get("idp_identifier"));
        let optional = |name| fields.get(name).map(str::to_owned);
        Ok(Self {
            client_id: client_id.to_owned(),
            redirect_uri: redirect_uri.to_owned(),
            state: state.clone(),
            scopes,
            nonce: optional("nonce"),
            code_challenge,
            provider: provider.map(str::to_owned),
            login_hint: optional("login_hint"),
            prompt,
        })
    }

    /// The request as a query for the next page of the same sign-in. What would skip a page is left out; that the person
    /// must prove who they are stays, or a button for a provider would find whoever was here before.
    pub fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("client_id", &self.client_id).append_pair("redirect_uri", &self.redirect_uri);
        query.append_pair("response_type", "code").append_pair("scope", &self.scopes.claim());
        let optional = [("state", &self.state), ("nonce", &self.nonce), ("login_hint", &self.login_hint)];
        for (name, value) in optional {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if self.prompt == Prompt::Login {
            query.append_pair("prompt", "login");
        }
        if let Some(challenge) = &self.code_challenge {
            query.append_pair("code_challenge", challenge).append_pair("code_challenge_method", "S256");
        }
        query.finish()
    }
}

const NO_CLIENT: &str = "This app is not known here. Go back to the app and try again; if it happens again, tell \
                         whoever looks after it that its client_id is wrong.";
const BAD_REDIRECT: &str = "This app asked to be called back at an address that is not registered for it. Go back to \
                            the app; whoever looks after it has to add its exact redirect_uri to CallbackURLs.";

/// Where the answer to a client goes: its redirect with these fields.
pub fn callback(redirect_uri: &str, fields: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let separator = if redirect_uri.contains('?') { '&' } else { '?' };
    format!("{redirect_uri}{separator}{}", query.finish())
}

fn allowed_scopes(client: &UserPoolClientSeed) -> &[String] {
    &client.allowed_oauth_scopes
}

fn is_challenge(challenge: &str) -> bool {
    challenge.len() == CHALLENGE_CHARS
        && challenge.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CALLBACK: &str = "http://127.0.0.1:8484/callback";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn client() -> UserPoolClientSeed {
        UserPoolClientSeed {
            callback_urls: vec![CALLBACK.into(), "photos://signed-in?from=page".into()],
            allowed_oauth_scopes: ["openid", "email"].map(str::to_owned).to_vec(),
            ..UserPoolClientSeed::default()
        }
    }

    fn read(query: &str) -> Result<Authorize, Refusal> {
        let client = client();
        Authorize::read(&Fields::read(query.as_bytes()), |id| (id == "kiosk").then_some(&client))
    }

    fn good() -> String {
        format!("client_id=kiosk&redirect_uri={CALLBACK}&response_type=code&state=s%26t&scope=openid")
    }

    #[test]
    fn only_an_exact_redirect_of_a_known_client_is_ever_redirected_to() {
        let shown = |query: &str| matches!(read(query), Err(Refusal::Page(_)));
        for redirect in [
            "",
            "&redirect_uri=",
            "&redirect_uri=https://evil.example/",
            "&redirect_uri=http://127.0.0.1:8484/callback/",
            "&redirect_uri=http://127.0.0.1:8484/callback?x=1",
            "&redirect_uri=http://127.0.0.1:8485/callback",
            "&redirect_uri=http://127.0.0.1:8484@evil.example/callback",
            "&redirect_uri=HTTP://127.0.0.1:8484/callback",
            "&redirect_uri=http://127.0.0.1:8484/callback&redirect_uri=https://evil.example/",
            "&redirect_uri=http://127.0.0.1:8484/callback%0d%0aX:y",
        ] {
            assert!(shown(&format!("client_id=kiosk&response_type=token{redirect}")), "{redirect}");
        }
        assert!(shown(&format!("client_id=other&redirect_uri={CALLBACK}&response_type=code")));
        assert!(shown(&format!("{}&client_id=kiosk", good())));
    }

    #[test]
    fn other_faults_go_to_the_client_with_its_state() {
        for (extra, expected) in [
            ("&code_challenge=abc", "invalid_request"),
            (&format!("&code_challenge={CHALLENGE}"), "invalid_request"),
            (&format!("&code_challenge={CHALLENGE}&code_challenge_method=plain"), "invalid_request"),
            ("&code_challenge=short&code_challenge_method=S256", "invalid_request"),
            ("&code_challenge_method=S256", "invalid_request"),
            ("&prompt=dance", "invalid_request"),
            ("&nonce=a&nonce=b", "invalid_request"),
            (&format!("&nonce={}", "n".repeat(LONGEST_FIELD_BYTES + 1)), "invalid_request"),
        ] {
            let Err(Refusal::Redirect { error, state, redirect_uri, .. }) = read(&(good() + extra)) else {
                panic!("{extra} passed")
            };
            assert_eq!((error, state.as_deref(), redirect_uri.as_str()), (expected, Some("s&t"), CALLBACK), "{extra}");
        }
        let with = |old: &str, new: &str| match read(&good().replace(old, new)) {
            Err(Refusal::Redirect { error, .. }) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(with("response_type=code", "response_type=token"), "unsupported_response_type");
        assert_eq!(with("response_type=code", ""), "invalid_request");
        assert_eq!(with("scope=openid", "scope=openid+phone"), "invalid_scope");
    }

    #[test]
    fn a_good_request_passes_on_what_the_next_page_needs() {
        let query = format!("{}&code_challenge={CHALLENGE}&code_challenge_method=S256&prompt=login", good());
        let authorize = read(&query).unwrap();
        assert_eq!((authorize.prompt, authorize.state.as_deref()), (Prompt::Login, Some("s&t")));
        let again = read(&authorize.query()).unwrap();
        assert_eq!((again.code_challenge.as_deref(), again.prompt), (Some(CHALLENGE), Prompt::Login));
        assert_eq!(again.scopes, authorize.scopes);
        let location = callback("photos://signed-in?from=page", &[("code", Some("a b&c")), ("state", None)]);
        assert_eq!(location, "photos://signed-in?from=page&code=a+b%26c");
    }
}
