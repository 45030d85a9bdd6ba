//! Waits for the browser at loopback redirect URIs (RFC 8252, 7.3), so that neither a kiosk nor the command line has to.
//! Owns which origins are listened at: each only while an attempt expects the browser there; promises that nothing but a
//! GET of an expected path under the expected name (`Host`) is looked at; must never show or log a query.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode};
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::federation::{Arrival, FederationError, Progress};
use super::redirect::Returned;
use super::registry::Shared;
use crate::loopback::{self, Limits};

/// A browser opens a few connections at once, and a redirect has a code and a browser's other headers.
const LIMITS: Limits =
    Limits { max_connections: 16, connection_timeout: Duration::from_secs(30), max_header_bytes: 16 * 1024 };
/// How long a page waits to tell the person how it ended; shorter than a connection may last.
const PAGE_WAIT: Duration = Duration::from_secs(15);

/// The origins that are listened at.
#[derive(Debug, Default)]
pub struct Landings(Mutex<HashSet<String>>);

impl Landings {
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens where `redirect_uri` points to, for as long as an attempt expects the browser there. The attempt must have
/// begun already.
///
/// # Errors
/// `ListenerBusy`.
pub fn listen(shared: &Arc<Shared>, redirect_uri: &str) -> Result<(), FederationError> {
    let busy = |why: String| FederationError::ListenerBusy { address: redirect_uri.to_owned(), why };
    let url = Url::parse(redirect_uri).map_err(|error| busy(error.to_string()))?;
    let mut bound = shared.landings.lock();
    let origin = origin(&url);
    if bound.contains(&origin) {
        return Ok(());
    }
    let sockets = bind(&url).map_err(|error| busy(error.to_string()))?;
    bound.insert(origin.clone());
    shared.tasks.spawn(serve(Arc::clone(shared), origin, sockets));
    Ok(())
}

/// `http://127.0.0.1:8484`.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn bind(url: &Url) -> std::io::Result<Vec<TcpListener>> {
    let port = url.port_or_known_default().unwrap_or(80);
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let host = url.host_str().unwrap_or_default();
    match host.parse::<Ipv4Addr>() {
        Ok(address) => Ok(vec![loopback::listen(SocketAddr::from((address, port)))?]),
        Err(_) if host.starts_with('[') => Ok(vec![loopback::listen(v6)?]),
        // `localhost`: a browser may try either.
        Err(_) => {
            let mut sockets = vec![loopback::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?];
            match loopback::listen(v6) {
                Ok(socket) => sockets.push(socket),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => return Err(error),
                // Without IPv6 on this device there is nothing to listen at.
                Err(_) => {}
            }
            Ok(sockets)
        }
    }
}

async fn serve(shared: Arc<Shared>, origin: String, sockets: Vec<TcpListener>) {
    let mut ends = shared.attempts.ends();
    let is_here = |redirect_uri: &str| Url::parse(redirect_uri).is_ok_and(|url| self::origin(&url) == origin);
    let served = sockets.into_iter().map(|socket| {
        let (shared, origin) = (Arc::clone(&shared), origin.clone());
        let stop = shared.stop.clone();
        Box::pin(loopback::serve(socket, LIMITS, stop, move |request| {
            let (shared, origin) = (Arc::clone(&shared), origin.clone());
            async move { answer(&shared, &origin, &request).await }
        }))
    });
    let mut served: Vec<_> = served.collect();
    loop {
        ends.mark_unchanged();
        let left = {
            let mut bound = shared.landings.lock();
            match shared.attempts.expected_until(is_here, shared.clock.boot()) {
                Some(left) => left,
                None => {
                    // The sockets close before the next attempt can want them; open connections go on.
                    drop(served);
                    bound.remove(&origin);
                    return;
                }
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(left) => {}
            _ = ends.changed() => {}
            () = all(&mut served) => return,
        }
    }
}

/// Ends only with the daemon.
async fn all<F: Future<Output = ()> + Unpin>(served: &mut [F]) {
    match served {
        [one, other] => {
            tokio::join!(one, other);
        }
        [one, ..] => one.await,
        [] => {}
    }
}

async fn answer<B>(shared: &Arc<Shared>, origin: &str, request: &Request<B>) -> Response<String> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let expected = origin.strip_prefix("http://").unwrap_or(origin);
    if !host.eq_ignore_ascii_case(expected) || request.headers().get_all(HOST).iter().count() != 1 {
        // Another name that leads here is somebody's trick with DNS.
        return page(StatusCode::MISDIRECTED_REQUEST, "Nothing is here", "This address is not for that.");
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let Ok(url) = Url::parse(&format!("{origin}{path}")) else { return nobody(StatusCode::BAD_REQUEST) };
    let is_this = |redirect_uri: &str| {
        Url::parse(redirect_uri)
            .is_ok_and(|expected| self::origin(&expected) == origin && expected.path() == url.path())
    };
    if shared.attempts.expected_until(is_this, shared.clock.boot()).is_none() {
        return nobody(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET {
        let mut answer = page(StatusCode::METHOD_NOT_ALLOWED, "That did not work", "Go back to the app and try again.");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    let Ok(returned) = Returned::read(url.as_str()) else { return nobody(StatusCode::BAD_REQUEST) };
    match shared.attempts.arrive(&returned, shared.clock.boot()) {
        Arrival::Nobody => nobody(StatusCode::BAD_REQUEST),
        Arrival::Again(authorize_url) => {
            tracing::info!("the user pool linked a provider's account: the browser is sent to the page once more");
            let mut answer = page(StatusCode::SEE_OTHER, "One moment", "The sign-in goes on.");
            if let Ok(location) = HeaderValue::from_str(&authorize_url) {
                answer.headers_mut().insert(LOCATION, location);
            }
            answer
        }
        Arrival::Taken(progress) => ended(progress).await,
    }
}

/// Tells the person how it ended, once that is known.
async fn ended(mut progress: watch::Receiver<Progress>) -> Response<String> {
    let over = progress.wait_for(|progress| matches!(progress, Progress::SignedIn | Progress::Failed));
    let progress = match tokio::time::timeout(PAGE_WAIT, over).await {
        Ok(Ok(progress)) => *progress,
        _ => Progress::Back,
    };
    match progress {
        Progress::SignedIn => {
            page(StatusCode::OK, "You are signed in", "You can close this page and go back to the app.")
        }
        Progress::Failed => {
            page(StatusCode::OK, "You are not signed in", "Go back to the app: it says why, and lets you try again.")
        }
        Progress::Away | Progress::Back => {
            page(StatusCode::OK, "Almost done", "Go back to the app to finish signing in.")
        }
    }
}

fn nobody(status: StatusCode) -> Response<String> {
    let text = "This sign-in was finished already, took too long, or did not begin on this device. Go back to the app and \
                begin again.";
    page(status, "Nobody waits for this", text)
}

const STYLE: &str = "body{font:1.25rem/1.5 system-ui,sans-serif;max-width:32rem;margin:20vh auto;padding:0 1rem;\
                     color-scheme:light dark}";

/// A small page without scripts, that nothing else may be loaded by, kept by nobody.
fn page(status: StatusCode, title: &'static str, text: &'static str) -> Response<String> {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let style = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!("default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'");
        HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
    });
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{text}</p></html>"
    );
    let mut answer = Response::new(html);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}
