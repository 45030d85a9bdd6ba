//! An S3 endpoint that accepts uploads and forgets the bytes, so that what is measured is the client.
//!
//! `s3-sink [--tls DIR] [--latency-ms N] PORT`: plain HTTP, or HTTPS with a self-signed certificate
//! written to DIR/ca.pem. Every request, its size and the totals can be read at `GET /__stats`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

#[derive(Default)]
struct Sink {
    bytes: AtomicU64,
    requests: AtomicU64,
    parts: AtomicU64,
    objects: Mutex<HashMap<String, u64>>,
    open: Mutex<HashMap<String, u64>>,
    latency: Duration,
}

fn reply(status: StatusCode, body: impl Into<Bytes>) -> hyper::http::response::Builder {
    let _ = body.into();
    Response::builder().status(status).header("x-amz-request-id", "sink").header("content-type", "application/xml")
}

fn full(b: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(b.into())
}

async fn serve(sink: Arc<Sink>, req: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    sink.requests.fetch_add(1, Relaxed);
    let (parts, mut body) = req.into_parts();
    let query = parts.uri.query().unwrap_or("").to_owned();
    let path = parts.uri.path().to_owned();
    let chunked =
        parts.headers.get("content-encoding").is_some_and(|v| v.to_str().is_ok_and(|s| s.contains("aws-chunked")));
    let declared = parts.headers.get("x-amz-decoded-content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let mut n = 0u64;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(f) => n += f.data_ref().map_or(0, |d| d.len() as u64),
            Err(_) => return Ok(reply(StatusCode::BAD_REQUEST, "").body(full("")).unwrap()),
        }
    }
    if chunked {
        n = declared.unwrap_or(n);
    }
    if !sink.latency.is_zero() {
        tokio::time::sleep(sink.latency).await;
    }
    let upload_id = query.split('&').find_map(|q| q.strip_prefix("uploadId=")).map(str::to_owned);
    let mut ok = reply(StatusCode::OK, "");
    for h in ["x-amz-checksum-crc64nvme", "x-amz-checksum-crc32", "x-amz-checksum-crc32c", "x-amz-checksum-sha256"] {
        if let Some(v) = parts.headers.get(h) {
            ok = ok.header(h, v);
        }
    }
    Ok(match (&parts.method, path.as_str()) {
        (&Method::GET, "/__stats") => {
            let objects = sink.objects.lock().unwrap();
            let total: u64 = objects.values().sum();
            let text = format!(
                "{{\"bytes_received\":{},\"requests\":{},\"parts\":{},\"objects\":{},\"object_bytes\":{},\"open_multipart\":{}}}\n",
                sink.bytes.load(Relaxed), sink.requests.load(Relaxed), sink.parts.load(Relaxed),
                objects.len(), total, sink.open.lock().unwrap().len()
            );
            ok.body(full(text)).unwrap()
        }
        (&Method::PUT, _) => {
            sink.bytes.fetch_add(n, Relaxed);
            match upload_id {
                Some(id) => {
                    sink.parts.fetch_add(1, Relaxed);
                    *sink.open.lock().unwrap().entry(id).or_default() += n;
                }
                None => {
                    sink.objects.lock().unwrap().insert(path, n);
                }
            }
            ok.header("etag", "\"00000000000000000000000000000000\"").body(full("")).unwrap()
        }
        (&Method::POST, _) if query.starts_with("uploads") => {
            let id = format!("u{}", sink.requests.load(Relaxed));
            sink.open.lock().unwrap().insert(id.clone(), 0);
            let xml = format!("<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
            ok.body(full(xml)).unwrap()
        }
        (&Method::POST, _) if upload_id.is_some() => {
            let size = sink.open.lock().unwrap().remove(&upload_id.unwrap()).unwrap_or(0);
            sink.objects.lock().unwrap().insert(path, size);
            ok.body(full("<CompleteMultipartUploadResult><Location>l</Location><Bucket>b</Bucket><Key>k</Key><ETag>\"0-1\"</ETag></CompleteMultipartUploadResult>")).unwrap()
        }
        (&Method::DELETE, _) => {
            if let Some(id) = upload_id {
                sink.open.lock().unwrap().remove(&id);
            }
            reply(StatusCode::NO_CONTENT, "").body(full("")).unwrap()
        }
        (&Method::HEAD, p) => match sink.objects.lock().unwrap().get(p) {
            Some(n) => ok.header("content-length", *n).header("etag", "\"00000000000000000000000000000000\"").header("last-modified", "Sun, 22 Nov 2026 00:00:00 GMT").body(full("")).unwrap(),
            None if p.matches('/').count() < 2 => ok.body(full("")).unwrap(),
            None => reply(StatusCode::NOT_FOUND, "").body(full("")).unwrap(),
        },
        (&Method::GET, _) if query.contains("location") => ok.body(full("<LocationConstraint>us-east-1</LocationConstraint>")).unwrap(),
        (&Method::GET, _) => ok.body(full("<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>")).unwrap(),
        _ => reply(StatusCode::METHOD_NOT_ALLOWED, "").body(full("")).unwrap(),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (mut tls_dir, mut latency, mut port) = (None, 0u64, 0u16);
    while let Some(a) = args.next() {
        match a.as_str() {
            "--tls" => tls_dir = args.next(),
            "--latency-ms" => latency = args.next().unwrap().parse().unwrap(),
            p => port = p.parse().expect("port"),
        }
    }
    let sink = Arc::new(Sink { latency: Duration::from_millis(latency), ..Sink::default() });
    let acceptor = tls_dir.map(|dir| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let cert = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(format!("{dir}/ca.pem"), cert.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(cert.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.cert.der().clone()], key)
            .unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let _ = tcp.set_nodelay(true);
        let (sink, acceptor) = (sink.clone(), acceptor.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |r| serve(sink.clone(), r));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.max_buf_size(256 * 1024);
            match acceptor {
                Some(a) => {
                    if let Ok(s) = a.accept(tcp).await {
                        let _ = http.serve_connection(TokioIo::new(s), service).await;
                    }
                }
                None => {
                    let _ = http.serve_connection(TokioIo::new(tcp), service).await;
                }
            }
        });
    }
}
