//! What a sign-in page sent the browser back with. Pure: reads a URL, compares it with the one that the page was given.

use reqwest::Url;
use secrecy::SecretString;

use super::federation::FederationError;

/// No redirect of a sign-in is longer: a code and a state.
const URL_MAX_BYTES: usize = 8 * 1024;
/// As much of a provider's words as is passed on.
const DESCRIPTION_MAX_CHARS: usize = 200;
/// How AWS ends the sign-in in which a trigger has linked the provider's user:
/// <https://github.com/aws-amplify/amplify-flutter/issues/1716>. The next one goes through.
const LINKED_NOW: &str = "already found an entry for username";

/// A browser's return.
#[derive(Debug, Clone)]
pub struct Returned {
    /// Names the attempt.
    pub state: String,
    /// What the page says.
    pub verdict: Verdict,
    /// Without its query, which has the code.
    place: Url,
    others: Vec<(String, String)>,
}

/// What the page says.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Good for tokens, once.
    Code(SecretString),
    /// Why there are none.
    Error(Said),
}

/// OAuth's `error` and `error_description`, fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    error: String,
    description: String,
}

impl Returned {
    /// Reads the URL that the browser was sent to.
    ///
    /// # Errors
    /// `MalformedRedirect`.
    pub fn read(url: &str) -> Result<Self, FederationError> {
        let malformed = |why| Err(FederationError::MalformedRedirect(why));
        if url.len() > URL_MAX_BYTES {
            return malformed("is longer than any sign-in page's answer");
        }
        let Ok(mut place) = Url::parse(url.trim()) else {
            return malformed("is no URL: pass all of it, from the scheme on");
        };
        let (mut code, mut state, mut error, mut description) = (None, None, None, None);
        let mut others = Vec::new();
        for (name, value) in place.query_pairs() {
            let field = match &*name {
                "code" => &mut code,
                "state" => &mut state,
                "error" => &mut error,
                "error_description" => &mut description,
                _ => {
                    others.push((name.into_owned(), value.into_owned()));
                    continue;
                }
            };
            if field.replace(value.into_owned()).is_some() {
                return malformed("says something twice: it was tampered with");
            }
        }
        place.set_query(None);
        place.set_fragment(None);
        let Some(state) = state.filter(|state| !state.is_empty()) else { return malformed("has no state") };
        let verdict = match (code.filter(|code| !code.is_empty()), error.filter(|error| !error.is_empty())) {
            (Some(code), None) => Verdict::Code(SecretString::from(code)),
            (None, Some(error)) => {
                Verdict::Error(Said { error: shown(&error), description: shown(&description.unwrap_or_default()) })
            }
            (Some(_), Some(_)) => return malformed("has both a code and an error"),
            (None, None) => return malformed("has neither a code nor an error"),
        };
        Ok(Self { state, verdict, place, others })
    }

    /// Whether the browser is where the page was told to send it: scheme, host, port, path and query.
    pub fn is_at(&self, redirect_uri: &str) -> bool {
        let Ok(mut expected) = Url::parse(redirect_uri) else { return false };
        let own: Vec<(String, String)> = expected.query_pairs().into_owned().collect();
        expected.set_query(None);
        self.place == expected && own.iter().all(|pair| self.others.contains(pair))
    }
}

impl Verdict {
    /// Whether the sign-in ended because the pool linked the provider's user in it.
    pub fn is_linked_now(&self) -> bool {
        matches!(self, Self::Error(said) if said.description.to_ascii_lowercase().starts_with(LINKED_NOW))
    }
}

impl Said {
    /// By what to do about it.
    pub fn into_error(self) -> FederationError {
        let Self { error, description } = self;
        let words = if description.is_empty() { String::new() } else { format!(": {description}") };
        match error.as_str() {
            "access_denied" => FederationError::Cancelled(words),
            "server_error" | "temporarily_unavailable" => FederationError::PageTrouble(format!("{error}{words}")),
            _ => FederationError::Refused { error, description: words },
        }
    }
}

/// Somebody else's words: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(DESCRIPTION_MAX_CHARS).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    const CALLBACK: &str = "http://127.0.0.1:8484/callback";

    fn why(url: &str) -> String {
        Returned::read(url).unwrap_err().to_string()
    }

    #[test]
    fn a_return_has_a_state_and_a_code_or_an_error() {
        let returned = Returned::read(&format!("{CALLBACK}?code=c%26d&state=s&iss=x#_=_")).unwrap();
        let Verdict::Code(code) = &returned.verdict else { panic!("{returned:?}") };
        assert_eq!((code.expose_secret(), returned.state.as_str()), ("c&d", "s"));
        assert!(returned.is_at(CALLBACK) && !format!("{returned:?}").contains("c&d"));
        assert!(!format!("{returned:?}").contains("c%26d"));
        for (query, words) in [
            ("code=c", "no state"),
            ("code=c&state=", "no state"),
            ("state=s", "neither"),
            ("state=s&code=", "neither"),
            ("state=s&code=c&error=e", "both"),
            ("state=s&code=c&code=d", "twice"),
            ("state=s&state=t&code=c", "twice"),
        ] {
            assert!(why(&format!("{CALLBACK}?{query}")).contains(words), "{query}");
        }
        assert!(why("callback?code=c&state=s").contains("no URL"));
        assert!(why(&format!("{CALLBACK}?state=s&code={}", "c".repeat(URL_MAX_BYTES))).contains("longer"));
    }

    #[test]
    fn only_the_very_place_counts() {
        let at = |place: &str, redirect: &str| {
            let separator = if place.contains('?') { '&' } else { '?' };
            Returned::read(&format!("{place}{separator}code=c&state=s")).unwrap().is_at(redirect)
        };
        assert!(at(CALLBACK, CALLBACK) && at("https://app.example/cb", "https://app.example:443/cb"));
        assert!(at("photos://signed-in?from=page", "photos://signed-in?from=page"));
        for other in [
            "http://localhost:8484/callback",
            "http://127.0.0.1:8485/callback",
            "https://127.0.0.1:8484/callback",
            "http://127.0.0.1:8484/callback/",
            "http://127.0.0.1:8484/Callback",
            "http://user@127.0.0.1:8484/callback",
            "http://127.0.0.1.evil.example:8484/callback",
            "http://evil.example/callback",
        ] {
            assert!(!at(other, CALLBACK), "{other}");
        }
        assert!(!at("photos://signed-in", "photos://signed-in?from=page"));
    }

    #[test]
    fn what_the_page_says_is_told_apart_and_made_fit_to_show() {
        let said = |query: &str| match Returned::read(&format!("{CALLBACK}?state=s&{query}")).unwrap().verdict {
            Verdict::Error(said) => said.into_error(),
            Verdict::Code(_) => panic!("no error"),
        };
        assert_eq!(said("error=access_denied"), FederationError::Cancelled(String::new()));
        assert!(matches!(said("error=server_error&error_description=x"), FederationError::PageTrouble(_)));
        let long = format!("error=invalid_request&error_description=%1b[31m{}", "x".repeat(999));
        let FederationError::Refused { description, .. } = said(&long) else { panic!("not refused") };
        assert!(!description.contains('\u{1b}') && description.chars().count() == DESCRIPTION_MAX_CHARS + 2);
        let linked = format!(
            "{CALLBACK}?state=s&error=invalid_request&error_description=Already+found+an+entry+for+username+google_1"
        );
        assert!(Returned::read(&linked).unwrap().verdict.is_linked_now());
    }
}
