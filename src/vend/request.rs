//! What a request must look like before anybody's token is compared. Pure. An SDK's request passes; what came through a
//! proxy, or was sent by a web page that had another name resolved to loopback, does not.

use std::net::SocketAddr;

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method};

use super::PATH;
use crate::session::SessionId;

/// Whoever adds one of these passes on what somebody else asked.
const PROXY_HEADERS: [HeaderName; 3] =
    [header::FORWARDED, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip")];
/// A session's id: a ULID.
const ID_BYTES: usize = 26;

/// Why a request is turned away unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// It came through a proxy.
    Forwarded,
    /// It is for another host.
    WrongHost,
    /// It is no GET, or has a body.
    Method,
    /// There is nothing at that path.
    Path,
    /// It has no token, or several.
    NoToken,
}

/// What is asked for, and by which token. Not `Debug`: the token is a secret.
pub(super) struct Asked<'r> {
    /// The session.
    pub(super) session: SessionId,
    /// What was presented.
    pub(super) token: &'r [u8],
}

/// The check of one listener's requests.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    hosts: [String; 2],
}

impl Gate {
    /// For the listener at `address`.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { hosts: [address.to_string(), format!("localhost:{}", address.port())] }
    }

    /// What is asked for.
    ///
    /// # Errors
    /// [`Turned`]; the first that applies.
    pub(super) fn pass<'r>(&self, request: &'r Parts) -> Result<Asked<'r>, Turned> {
        let headers = &request.headers;
        if PROXY_HEADERS.iter().any(|name| headers.contains_key(name)) {
            return Err(Turned::Forwarded);
        }
        // A request line may name a host of its own.
        let named = request.uri.authority().map(http::uri::Authority::as_str);
        let host = only(headers, &header::HOST).and_then(|host| std::str::from_utf8(host).ok());
        let is_ours = |host: &str| self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host));
        if !host.is_some_and(is_ours) || !named.is_none_or(is_ours) {
            return Err(Turned::WrongHost);
        }
        let has_body = only(headers, &header::CONTENT_LENGTH).is_some_and(|length| length != b"0");
        if request.method != Method::GET || has_body || headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(Turned::Method);
        }
        let id = request.uri.path().strip_prefix(PATH).filter(|_| request.uri.query().is_none());
        let id = id.filter(|id| id.len() == ID_BYTES && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let session = SessionId(id.ok_or(Turned::Path)?.to_owned());
        let token = only(headers, &header::AUTHORIZATION).ok_or(Turned::NoToken)?;
        Ok(Asked { session, token })
    }
}

/// The header's value where there is exactly one.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    const ID: &str = "01JD8Q4Z6M3N5P7R9T1V3X5Z7B";

    fn passes(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<(String, String), Turned> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let asked = Gate::new("127.0.0.1:4040".parse().unwrap()).pass(&parts)?;
        Ok((asked.session.0, String::from_utf8(asked.token.to_vec()).unwrap()))
    }

    fn get(target: &str, headers: &[(&str, &str)]) -> Result<(String, String), Turned> {
        passes("GET", target, headers)
    }

    #[test]
    fn an_sdks_request_passes() {
        let path = format!("{PATH}{ID}");
        let wanted = Ok((ID.to_owned(), "t".to_owned()));
        let token = ("Authorization", "t");
        assert_eq!(get(&path, &[("Host", "127.0.0.1:4040"), token, ("User-Agent", "Boto3")]), wanted);
        assert_eq!(get(&path, &[("Host", "LocalHost:4040"), token, ("Content-Length", "0")]), wanted);
        let absolute = format!("http://127.0.0.1:4040{path}");
        assert_eq!(get(&absolute, &[("Host", "127.0.0.1:4040"), token]), wanted);
    }

    #[test]
    fn other_hosts_names_are_turned_away() {
        let path = format!("{PATH}{ID}");
        let token = ("Authorization", "t");
        for host in ["evil.example:4040", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:4040", "[::1]:4040", ""]
        {
            assert_eq!(get(&path, &[("Host", host), token]), Err(Turned::WrongHost), "{host}");
        }
        assert_eq!(get(&path, &[token]), Err(Turned::WrongHost), "no host");
        let twice = [("Host", "127.0.0.1:4040"), ("Host", "127.0.0.1:4040"), token];
        assert_eq!(get(&path, &twice), Err(Turned::WrongHost), "two hosts");
        let rebound = format!("http://evil.example:4040{path}");
        assert_eq!(get(&rebound, &[("Host", "127.0.0.1:4040"), token]), Err(Turned::WrongHost));
    }

    #[test]
    fn what_came_through_a_proxy_is_turned_away_before_all_else() {
        for name in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
            assert_eq!(passes("POST", "/", &[(name, "10.0.0.1")]), Err(Turned::Forwarded), "{name}");
        }
    }

    #[test]
    fn only_a_get_of_a_sessions_path_with_one_token_passes() {
        let host = ("Host", "127.0.0.1:4040");
        let token = ("Authorization", "t");
        let path = format!("{PATH}{ID}");
        for method in ["POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT"] {
            assert_eq!(passes(method, &path, &[host, token]), Err(Turned::Method), "{method}");
        }
        assert_eq!(get(&path, &[host, token, ("Content-Length", "3")]), Err(Turned::Method));
        assert_eq!(get(&path, &[host, token, ("Transfer-Encoding", "chunked")]), Err(Turned::Method));
        let paths = [
            "/".to_owned(),
            PATH.to_owned(),
            format!("{path}/"),
            format!("{path}?a=b"),
            format!("/v1/../{ID}"),
            format!("{PATH}.."),
        ];
        for other in paths {
            assert_eq!(get(&other, &[host, token]), Err(Turned::Path), "{other}");
        }
        assert_eq!(get(&path, &[host]), Err(Turned::NoToken));
        assert_eq!(get(&path, &[host, token, token]), Err(Turned::NoToken), "two tokens");
    }
}
