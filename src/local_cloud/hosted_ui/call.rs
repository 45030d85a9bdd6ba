//! One request to the hosted page as it came: fields of query and form, cookies, where it came from. Fields that come
//! twice count as not given: whoever repeats one means to show different readers different things.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method};

/// Fields of a query or a form.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    values: BTreeMap<String, String>,
    repeated: Vec<String>,
}

impl Fields {
    /// Reads `application/x-www-form-urlencoded`.
    pub fn read(text: &[u8]) -> Self {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(text) {
            if fields.values.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                fields.repeated.push(name.into_owned());
            }
        }
        fields.values.retain(|name, _| !fields.repeated.contains(name));
        fields
    }

    /// A field that came once and is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same, empty where it is missing.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All of them, as a query.
    pub fn encoded(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.values).finish()
    }

    /// The first of these that came more than once.
    pub fn repeated_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().find(|name| self.repeated.iter().any(|repeated| repeated == *name)).copied()
    }
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// `GET`, `HEAD` or `POST`; others are refused before.
    pub method: Method,
    /// The query.
    pub query: Fields,
    /// The form of a `POST`.
    pub form: Fields,
    headers: HeaderMap,
}

impl Call {
    /// Reads a request whose body came as a whole.
    pub fn read(parts: &Parts, body: &Bytes) -> Self {
        Self {
            method: parts.method.clone(),
            query: Fields::read(parts.uri.query().unwrap_or_default().as_bytes()),
            form: Fields::read(body),
            headers: parts.headers.clone(),
        }
    }

    /// Whether it is a `POST`.
    pub fn is_post(&self) -> bool {
        self.method == Method::POST
    }

    /// A cookie's value.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let lines = self.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The token of `Authorization: Bearer`.
    pub fn bearer(&self) -> Option<&str> {
        self.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
    }

    /// Whether it brings a client's secret.
    pub fn has_basic_authorization(&self) -> bool {
        let text = self.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        text.is_some_and(|text| text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("Basic ")))
    }

    /// The name and port that the client calls us by.
    pub fn host(&self) -> &str {
        self.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether a browser says that a page of another origin sent it. Other clients say nothing.
    pub fn is_foreign(&self) -> bool {
        let Some(origin) = self.headers.get(ORIGIN).and_then(|value| value.to_str().ok()) else { return false };
        !["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(self.host()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_field_is_none() {
        let fields = Fields::read(b"a=1&b=2&a=3&c=&d=%3Cx%3E+y");
        assert_eq!((fields.get("a"), fields.get("b"), fields.get("c")), (None, Some("2"), None));
        assert_eq!(fields.text("d"), "<x> y");
        assert_eq!(fields.repeated_of(&["b", "a"]), Some("a"));
    }
}
