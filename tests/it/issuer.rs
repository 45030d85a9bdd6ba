//! An OpenID Connect issuer of a test: discovery, keys, and whatever tokens the test wants signed. Also a tiny STS that
//! takes one of its tokens: the local cloud's takes none of other issuers.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The client that its tokens are for.
pub const CLIENT: &str = "photo-devices";

/// It answers as long as the test runs.
pub struct Issuer {
    pub url: String,
    key: EncodingKey,
}

impl Issuer {
    pub async fn start() -> Self {
        let key = new_key();
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap()).unwrap();
        jwk["kid"] = "k1".into();
        jwk["use"] = "sig".into();
        let url = serve(move |url, request| {
            if request.starts_with("GET /.well-known/openid-configuration ") {
                return (200, json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string());
            }
            (200, json!({ "keys": [jwk] }).to_string())
        })
        .await;
        Self { url, key }
    }

    /// Good claims of somebody, for an hour.
    pub fn claims(&self, subject: &str) -> Value {
        json!({ "iss": self.url, "aud": CLIENT, "sub": subject, "exp": now_s() + 3_600, "groups": ["devices"] })
    }

    /// A token that says so.
    pub fn token(&self, claims: &Value) -> String {
        sign(&self.key, claims)
    }

    /// The same, signed by somebody else.
    pub fn forged(&self, claims: &Value) -> String {
        sign(&new_key(), claims)
    }
}

/// `AssumeRoleWithWebIdentity` for exactly this token; its URL.
pub async fn sts_for(token: &str) -> String {
    let good = format!("WebIdentityToken={token}");
    serve(move |_, request| {
        if !request.contains(&good) {
            let error = "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code>\
                         <Message>Couldn't retrieve verification key</Message></Error></ErrorResponse>";
            return (400, error.to_owned());
        }
        let end = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(3_600));
        let answer = format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>canary-secret</SecretAccessKey>\
             <SessionToken>canary-session</SessionToken><Expiration>{end}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        );
        (200, answer)
    })
    .await
}

/// Answers every connection once, by its whole request; the URL.
async fn serve(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (answer, shown) = (Arc::new(answer), url.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, url) = (Arc::clone(&answer), shown.clone());
            tokio::spawn(async move {
                let request = read_request(&mut stream).await;
                let (status, body) = answer(&url, &request);
                let length = body.len();
                let reply =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                let _ = stream.write_all(reply.as_bytes()).await;
            });
        }
    });
    url
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 8_192];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        text += &String::from_utf8_lossy(&buffer[..count]);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    text
}

fn sign(key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::RS256) };
    encode(&header, claims, key).unwrap()
}

fn new_key() -> EncodingKey {
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    // jsonwebtoken takes PKCS#1, which PKCS#8 wraps in 26 bytes for an RSA key of this size.
    EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..])
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
