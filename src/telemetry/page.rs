//! The Prometheus page. Owns a loopback listener; promises at most [`MAX_CONNECTIONS`] readers, each for at most
//! [`READER_TIMEOUT`]; must never listen on an address that other machines reach.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use prometheus::{Encoder as _, TextEncoder};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::TelemetryError;
use crate::loopback::{self, Limits};

const MAX_CONNECTIONS: usize = 8;
const READER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// An open page; it closes when this is dropped.
#[derive(Debug)]
pub(super) struct Page {
    address: SocketAddr,
    _stop: DropGuard,
}

/// The reader that fills `registry` with the names of `metrics.rs` exactly as they stand there.
pub(super) fn exporter(
    registry: &prometheus::Registry,
) -> Result<opentelemetry_prometheus::PrometheusExporter, TelemetryError> {
    opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_units()
        .without_counter_suffixes()
        .without_target_info()
        .scope_info_enabled(false)
        .build()
        .map_err(|error| TelemetryError::Exporter { what: "Prometheus", why: error.to_string() })
}

impl Page {
    /// Listens at once and serves until dropped. Must be called inside a tokio runtime.
    pub(super) fn open(address: SocketAddr, registry: prometheus::Registry) -> Result<Self, TelemetryError> {
        let failed = |source| TelemetryError::Listen { address, source };
        let listener = loopback::listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let limits = Limits {
            max_connections: MAX_CONNECTIONS,
            connection_timeout: READER_TIMEOUT,
            max_header_bytes: MAX_HEADER_BYTES,
        };
        let shown = move |request| std::future::ready(answer(&request, &registry));
        tokio::spawn(loopback::serve(listener, limits, stop.clone(), shown));
        Ok(Self { address, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn answer(request: &Request<Incoming>, registry: &prometheus::Registry) -> Response<String> {
    let (status, kind, body) = if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "the page is /metrics\n".to_owned())
    } else if request.method() != Method::GET && request.method() != Method::HEAD {
        (StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "only GET\n".to_owned())
    } else {
        match render(registry) {
            Ok(page) => (StatusCode::OK, prometheus::TEXT_FORMAT, page),
            Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", format!("{why}\n")),
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// The page's text.
pub(super) fn render(registry: &prometheus::Registry) -> Result<String, String> {
    let mut page = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut page).map_err(|error| error.to_string())?;
    String::from_utf8(page).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry::metrics::MeterProvider as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::telemetry::metrics::{ALL, Metrics};

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_shows_every_metric_under_its_own_name() {
        let registry = prometheus::Registry::new();
        let provider =
            opentelemetry_sdk::metrics::SdkMeterProvider::builder().with_reader(exporter(&registry).unwrap()).build();
        let metrics = Metrics::new(&provider.meter("tidegate"));
        metrics.record_one_of_each();
        let page = Page::open("127.0.0.1:0".parse().unwrap(), registry).unwrap();
        let shown = get(page.address(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(shown.starts_with("HTTP/1.1 200"), "{shown}");
        for metric in ALL {
            let head = format!("# TYPE {} ", metric.name);
            assert!(shown.contains(&head), "{} is missing on the page:\n{shown}", metric.name);
            for label in metric.labels {
                assert!(shown.contains(&format!("{label}=\"")), "{}: no label {label}", metric.name);
            }
        }
        let other = get(page.address(), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(other.starts_with("HTTP/1.1 404"), "{other}");
        let put = get(page.address(), "PUT /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
        assert!(put.starts_with("HTTP/1.1 405"), "{put}");
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Page::open(address, prometheus::Registry::new()).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
