//! Logs, traces and metrics of the process. Owns the one subscriber, the exporters and every metric name
//! (`telemetry/metrics.rs`); promises that telemetry is bounded and never holds the daemon up; must never show a
//! secret, a user id, a key or a bucket.
//!
//! Other crates' debug output is cut off whatever the filter says: the AWS SDK and the HTTP stacks print headers with
//! session tokens there.

pub mod metrics;
mod page;

use std::fmt;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

pub use metrics::metrics;

/// How long one push to the collector may take.
const OTLP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stop waits for the last push; longer than one push.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(6);

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For reading.
    Human,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is none of \"auto\", \"human\", \"json\"")),
        }
    }
}

/// What the `[telemetry]` table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The shape of log lines.
    pub log_format: LogFormat,
    /// Which lines are written, as `tracing_subscriber::EnvFilter` reads it: `info`, `info,tidegate::upload=debug`.
    pub log_filter: String,
    /// Where traces and metrics are pushed to by OTLP over gRPC, for example `http://127.0.0.1:4317`; nowhere if absent.
    pub otlp_endpoint: Option<String>,
    /// How often metrics are pushed, in milliseconds; at least 1,000.
    pub otlp_interval_ms: u64,
    /// Where the Prometheus page listens: a loopback address; port 0 takes a free one. No page if absent.
    pub prometheus_listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Auto,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
            otlp_interval_ms: 30_000,
            prometheus_listen: None,
        }
    }
}

impl Config {
    /// Every mistake in it, as (key, what is wrong), without touching the machine.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if let Err(error) = EnvFilter::try_new(&self.log_filter) {
            mistakes.push(("log_filter", format!("{:?} is not a filter: {error}", self.log_filter)));
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            let parsed = endpoint.parse::<http::Uri>();
            if !parsed.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some()) {
                let why = "is not http://HOST:PORT; push to a collector on this device, which may go on over TLS";
                mistakes.push(("otlp_endpoint", format!("{endpoint:?} {why}")));
            }
        }
        if self.otlp_interval_ms < 1_000 {
            mistakes.push(("otlp_interval_ms", format!("{} is less than 1000", self.otlp_interval_ms)));
        }
        if let Some(address) = self.prometheus_listen.filter(|address| !address.ip().is_loopback()) {
            let why = "is not a loopback address: the page has no access control";
            mistakes.push(("prometheus_listen", format!("{address} {why}")));
        }
        mistakes
    }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A value that cannot be used.
    #[error("telemetry.{key}: {why}")]
    InvalidConfig {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The page's address cannot be listened on.
    #[error("telemetry.prometheus_listen: cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An exporter could not be built.
    #[error("telemetry: cannot build the {what} exporter: {why}")]
    Exporter {
        /// Which one.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// The process has a subscriber already.
    #[error("telemetry is already set up in this process")]
    AlreadyInitialised,
}

/// Changes which lines are written while the process runs; clones share it.
#[derive(Clone)]
pub struct FilterHandle(Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl fmt::Debug for FilterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FilterHandle")
    }
}

impl FilterHandle {
    /// Takes another filter; a wrong one changes nothing.
    ///
    /// # Errors
    /// `InvalidConfig` where `filter` cannot be read.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let parsed = parse_filter(filter)?;
        (self.0)(parsed).map_err(|error| TelemetryError::InvalidConfig { key: "log_filter", why: error.to_string() })
    }
}

/// Keeps telemetry going; [`Guard::shutdown`] sends what is left.
#[derive(Debug)]
pub struct Guard {
    filter: FilterHandle,
    meter_provider: Option<SdkMeterProvider>,
    tracer_provider: Option<SdkTracerProvider>,
    page: Option<page::Page>,
}

impl Guard {
    /// Changes which lines are written.
    pub fn filter(&self) -> FilterHandle {
        self.filter.clone()
    }

    /// Where the Prometheus page listens.
    pub fn prometheus_address(&self) -> Option<SocketAddr> {
        self.page.as_ref().map(page::Page::address)
    }

    /// Sends what is left to the collector, for at most 6 seconds, and closes the page.
    pub async fn shutdown(mut self) {
        drop(self.page.take());
        let (meters, tracers) = (self.meter_provider.take(), self.tracer_provider.take());
        let flush = tokio::task::spawn_blocking(move || {
            // The traces first: they cannot be had again, while the next process counts on.
            if let Some(tracers) = tracers {
                let _ = tracers.shutdown_with_timeout(OTLP_TIMEOUT);
            }
            if let Some(meters) = meters {
                let _ = meters.shutdown_with_timeout(OTLP_TIMEOUT);
            }
        });
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, flush).await;
    }
}

/// Sets logs, traces and metrics up for the whole process. With `otlp_endpoint` or `prometheus_listen` it must be called
/// inside a tokio runtime.
///
/// # Errors
/// See [`TelemetryError`]; nothing is left behind.
pub fn init(config: &Config) -> Result<Guard, TelemetryError> {
    if let Some((key, why)) = config.mistakes().into_iter().next() {
        return Err(TelemetryError::InvalidConfig { key, why });
    }
    let (filter, handle) = reload::Layer::new(parse_filter(&config.log_filter)?);
    let tracer_provider = config.otlp_endpoint.as_deref().map(build_tracer_provider).transpose()?;
    let traces = tracer_provider.as_ref().map(|provider| {
        let tracer = provider.tracer("tidegate");
        tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false)
    });
    let (meter_provider, page) = build_meters(config)?;

    // Traces show the whole way of a photo, however quiet the log is.
    let subscriber = Registry::default().with(traces.map(|layer| layer.with_filter(filter_fn(is_traced))));
    let json = match config.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        lines.with_ansi(colour).boxed()
    };
    let quiet = filter_fn(|metadata| is_shown(metadata.target(), *metadata.level()));
    let subscriber = subscriber.with(lines.with_filter(quiet).with_filter(filter));
    subscriber.try_init().map_err(|_| TelemetryError::AlreadyInitialised)?;
    if let Some(provider) = &meter_provider {
        metrics::install(&provider.meter("tidegate"));
    }
    if let Some(page) = &page {
        tracing::info!(address = %page.address(), "the Prometheus page is at /metrics");
    }
    Ok(Guard {
        filter: FilterHandle(Arc::new(move |filter| handle.reload(filter))),
        meter_provider,
        tracer_provider,
        page,
    })
}

/// All of our own spans; of the events those that a log shows by default. Nothing of other crates.
fn is_traced(metadata: &tracing::Metadata<'_>) -> bool {
    let is_ours = metadata.target() == "tidegate" || metadata.target().starts_with("tidegate::");
    is_ours && (metadata.is_span() || *metadata.level() <= LevelFilter::INFO)
}

/// Nothing more verbose than INFO from crates that are not ours, and only warnings from the SDK and telemetry crates.
fn is_shown(target: &str, level: tracing::Level) -> bool {
    let most = if target == "tidegate" || target.starts_with("tidegate::") {
        LevelFilter::TRACE
    } else if target.starts_with("opentelemetry") || target.starts_with("aws_") {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    };
    level <= most
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::InvalidConfig { key: "log_filter", why: format!("{filter:?}: {error}") })
}

fn resource() -> Resource {
    Resource::builder_empty()
        .with_service_name("tidegate")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

fn build_tracer_provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(OTLP_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Exporter { what: "trace", why: error.to_string() })?;
    Ok(SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build())
}

fn build_meters(config: &Config) -> Result<(Option<SdkMeterProvider>, Option<page::Page>), TelemetryError> {
    if config.otlp_endpoint.is_none() && config.prometheus_listen.is_none() {
        return Ok((None, None));
    }
    let mut builder = SdkMeterProvider::builder().with_resource(resource());
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = opentelemetry_otlp::MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(OTLP_TIMEOUT)
            .build()
            .map_err(|error| TelemetryError::Exporter { what: "metrics", why: error.to_string() })?;
        let interval = Duration::from_millis(config.otlp_interval_ms);
        builder = builder.with_reader(PeriodicReader::builder(exporter).with_interval(interval).build());
    }
    let mut page = None;
    if let Some(address) = config.prometheus_listen {
        let registry = prometheus::Registry::new();
        builder = builder.with_reader(page::exporter(&registry)?);
        page = Some(page::Page::open(address, registry)?);
    }
    Ok((Some(builder.build()), page))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_mistake_is_named_at_once() {
        let config = Config {
            log_filter: "tidegate=loud".to_owned(),
            otlp_endpoint: Some("https://collector.example".to_owned()),
            otlp_interval_ms: 10,
            prometheus_listen: Some("0.0.0.0:9464".parse().unwrap()),
            ..Config::default()
        };
        let keys: Vec<_> = config.mistakes().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["log_filter", "otlp_endpoint", "otlp_interval_ms", "prometheus_listen"]);
        assert!(Config::default().mistakes().is_empty());
    }

    #[test]
    fn dependencies_never_print_headers() {
        assert!(is_shown("tidegate::upload", tracing::Level::TRACE));
        assert!(is_shown("tidegate", tracing::Level::DEBUG));
        assert!(!is_shown("aws_smithy_runtime::client", tracing::Level::DEBUG));
        assert!(!is_shown("aws_sigv4::http_request", tracing::Level::INFO));
        assert!(is_shown("aws_smithy_runtime", tracing::Level::WARN));
        assert!(!is_shown("h2::codec", tracing::Level::DEBUG));
        assert!(!is_shown("tidegate_other", tracing::Level::DEBUG));
    }

    #[test]
    fn log_formats_are_read() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("JSON".parse::<LogFormat>().is_err());
    }
}
