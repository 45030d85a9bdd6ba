//! What the daemon tells about itself: the Prometheus page, the pushed metrics and traces, the log. A whole way of a
//! photo is watched, and nothing that was learnt on it is a secret or names a person.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::sync::watch;

use crate::rig::Rig;

/// An OTLP collector that keeps what it is sent, undecoded.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<(String, Bytes)>>>,
    count: watch::Receiver<usize>,
    runtime: tokio::runtime::Runtime,
}

impl Collector {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let received: Arc<Mutex<Vec<(String, Bytes)>>> = Arc::default();
        let (counted, count) = watch::channel(0);
        let counted = Arc::new(counted);
        let kept = Arc::clone(&received);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, counted) = (Arc::clone(&kept), Arc::clone(&counted));
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (kept, counted) = (Arc::clone(&kept), Arc::clone(&counted));
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        kept.lock().unwrap().push((path, body));
                        counted.send_modify(|count| *count += 1);
                        // An empty message in a gRPC frame, and the status in the trailers.
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                        let body = http_body_util::Full::new(Bytes::from_static(&[0; 5]));
                        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
                        let response = http::Response::builder().header("content-type", "application/grpc").body(body);
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                tokio::spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, received, count, runtime }
    }

    /// Everything that was pushed to a service of this name.
    fn pushed(&self, service: &str) -> Vec<u8> {
        let received = self.received.lock().unwrap();
        let bodies = received.iter().filter(|(path, _)| path.contains(service)).map(|(_, body)| body.as_ref());
        bodies.collect::<Vec<&[u8]>>().concat()
    }

    /// Waits for the next push.
    fn wait(&mut self) {
        let mut count = self.count.clone();
        let next = async move { tokio::time::timeout(Duration::from_secs(20), count.changed()).await };
        self.runtime.block_on(next).expect("a push comes").unwrap();
        self.count.mark_unchanged();
    }
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn get(url: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() })
}

#[test]
fn a_photos_way_is_told_and_nobody_is_named() {
    let mut collector = Collector::start();
    let telemetry = format!(
        "[telemetry]\nlog_format = \"json\"\nlog_filter = \"trace\"\notlp_endpoint = \"http://{}\"\n\
         otlp_interval_ms = 1000\nprometheus_listen = \"127.0.0.1:0\"\n",
        collector.address
    );
    let mut rig = Rig::start_with(&telemetry);
    rig.sign_in("ada@example.com");
    let photo = rig.photos().join("holiday-in-rome.jpg");
    std::fs::write(&photo, vec![1_u8; 9 << 20]).unwrap();
    let stored = rig.json(&["upload", "--wait", photo.to_str().unwrap()]);
    assert_eq!(stored["upload"]["state"], "SUCCEEDED");
    let tokens = rig.json(&["tokens", "--access-token"]);
    let session = rig.json(&["sessions"])["sessions"][0].clone();

    // The page.
    let log = rig.log("daemon.log");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
    let address = lines.iter().find_map(|line| {
        line["address"].as_str().filter(|_| line["message"].as_str().is_some_and(|text| text.contains("Prometheus")))
    });
    let page = get(&format!("http://{}/metrics", address.expect("the log says where the page is")));
    for metric in ["tidegate_rpc_duration_seconds", "tidegate_upload_stored_bytes_total", "tidegate_sessions"] {
        assert!(page.contains(metric), "{metric} is missing on:\n{page}");
    }
    let received = page.lines().find(|line| line.starts_with("tidegate_upload_received_bytes_total")).unwrap();
    assert!(received.ends_with(&(9 << 20).to_string()), "{received}");

    // What was pushed, the last of it by the stop.
    collector.wait();
    rig.stop_daemon();
    let metrics = collector.pushed("MetricsService");
    let traces = collector.pushed("TraceService");
    assert!(contains(&metrics, "tidegate_upload_stored_bytes_total"));
    for span in ["rpc", "upload", "store"] {
        assert!(contains(&traces, span), "no span {span}");
    }
    let name = stored["upload"]["name"].as_str().unwrap().trim_start_matches("uploads/");
    assert!(contains(&traces, name), "the spans carry the upload's id");

    // Secrets nowhere; names of people and photos not in the numbers.
    let jwt = |name: &str| tokens[name].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let secrets = ["Correct-horse-7".to_owned(), jwt("id_token"), jwt("access_token")];
    let log = rig.log("daemon.log");
    for secret in &secrets {
        for (place, told) in
            [("log", log.as_bytes()), ("page", page.as_bytes()), ("metrics", &metrics), ("traces", &traces)]
        {
            assert!(!contains(told, secret), "a secret is in the {place}");
        }
    }
    for word in ["SecretAccessKey", "x-amz-security-token", "Authorization"] {
        assert!(!log.to_lowercase().contains(&word.to_lowercase()), "{word} is in the log");
    }
    let key = stored["upload"]["object"]["key"].as_str().unwrap();
    let personal = [
        "ada@example.com",
        "holiday",
        key,
        session["subject"].as_str().unwrap(),
        session["identity_id"].as_str().unwrap(),
    ];
    for word in personal {
        for (place, told) in [("page", page.as_bytes()), ("metrics", &metrics), ("traces", &traces)] {
            assert!(!contains(told, word), "{word:?} is in the {place}");
        }
    }
}

#[test]
fn a_collector_that_is_away_holds_nothing_up() {
    // A port that refuses: taken and given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut rig =
        Rig::start_with(&format!("[telemetry]\notlp_endpoint = \"http://{free}\"\notlp_interval_ms = 1000\n"));
    rig.sign_in("ada@example.com");
    let photo = rig.photos().join("one.jpg");
    std::fs::write(&photo, b"one photo").unwrap();
    assert_eq!(rig.json(&["upload", "--wait", photo.to_str().unwrap()])["upload"]["state"], "SUCCEEDED");
    let begun = std::time::Instant::now();
    rig.stop_daemon();
    assert!(begun.elapsed() < Duration::from_secs(15), "the stop took {:?}", begun.elapsed());
}

#[test]
fn the_filter_changes_while_the_daemon_runs() {
    let rig = Rig::start_with("[telemetry]\nlog_format = \"json\"\nlog_filter = \"error\"\n");
    let before = rig.log("daemon.log");
    assert!(!before.contains("\"level\":\"INFO\""), "{before}");
    let file = rig.state_file("tidegate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Written beside and moved over, as editors do.
    let beside = rig.state_file("tidegate.toml.new");
    std::fs::write(&beside, text.replace("\"error\"", "\"debug\"")).unwrap();
    std::fs::rename(&beside, &file).unwrap();
    rig.json(&["reload"]);
    rig.json(&["status"]);
    let after = rig.log("daemon.log");
    assert!(after.contains("\"level\":\"DEBUG\"") || after.contains("\"level\":\"INFO\""), "{after}");
}

#[test]
fn a_page_for_everybody_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    let minimal = include_str!("../../config/minimal.toml");
    std::fs::write(&file, format!("{minimal}\n[telemetry]\nprometheus_listen = \"0.0.0.0:0\"\n")).unwrap();
    let mut command = crate::rig::tidegate();
    let output = command.arg("check-config").arg(&file).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("telemetry.prometheus_listen") && said.contains("loopback"), "{said}");
    let places: BTreeSet<&str> = said.lines().filter(|line| line.contains("tidegate.toml:")).collect();
    assert_eq!(places.len(), 1, "{said}");
}
