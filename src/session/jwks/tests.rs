//! Tokens of every wrong kind against a key set that a test serves.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::encoding::AsDer as _;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// 2027-01-15, and what the served replies say.
const NOW_S: i64 = 1_800_000_000;
const DATE: &str = "Fri, 15 Jan 2027 08:00:00 GMT";

fn new_key() -> EncodingKey {
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    // jsonwebtoken takes PKCS#1, which PKCS#8 wraps in 26 bytes for an RSA key of this size.
    EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..])
}

fn jwk(key: &EncodingKey, kid: &str) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, Algorithm::RS256).unwrap()).unwrap();
    jwk["kid"] = kid.into();
    jwk["use"] = "sig".into();
    jwk
}

fn token(key: &EncodingKey, kid: &str, claims: &Value) -> SecretString {
    let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::RS256) };
    encode(&header, claims, key).unwrap().into()
}

/// Serves a key set that a test may change, and counts how often it is asked for.
struct Pool {
    url: String,
    served: Arc<std::sync::Mutex<(u16, Value)>>,
    fetches: Arc<AtomicU64>,
}

impl Pool {
    async fn start(keys: Vec<Value>) -> Self {
        Self::serve(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), &keys)
    }

    fn serve(listener: tokio::net::TcpListener, keys: &[Value]) -> Self {
        let url = format!("http://{}/pool/.well-known/jwks.json", listener.local_addr().unwrap());
        let served = Arc::new(std::sync::Mutex::new((200, json!({ "keys": keys }))));
        let fetches = Arc::new(AtomicU64::new(0));
        let (shown, counted) = (Arc::clone(&served), Arc::clone(&fetches));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4_096]).await;
                counted.fetch_add(1, Ordering::SeqCst);
                let (status, body) = shown.lock().unwrap().clone();
                let body = body.to_string();
                let reply = format!(
                    "HTTP/1.1 {status} X\r\ndate: {DATE}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        });
        Self { url, served, fetches }
    }

    fn verifier(&self, clock: &Clock) -> Jwks {
        verifier(&self.url, clock)
    }

    fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn verifier(url: &str, clock: &Clock) -> Jwks {
    let expected = Expected {
        rules: Rules::Cognito,
        jwks_url: Some(url.to_owned()),
        issuer: "https://issuer/pool".into(),
        audience: "client-1".into(),
        connect_timeout: Duration::from_secs(3),
        call_timeout: Duration::from_secs(3),
    };
    Jwks::new(expected, clock.clone())
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer/pool", "aud": "client-1", "sub": "s-1", "token_use": "id", "exp": NOW_S + 3_600,
        "cognito:username": "ada", "email": "ada@example.com", "cognito:groups": ["free-tier", "paid-tier"],
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

fn clock() -> Clock {
    Clock::manual(from_unix_ms(NOW_S * 1_000))
}

#[tokio::test]
async fn good_tokens_pass_with_one_fetch_and_say_who() {
    let key = new_key();
    let pool = Pool::start(vec![jwk(&key, "k1")]).await;
    let verifier = pool.verifier(&clock());
    let token = token(&key, "k1", &claims());
    for _ in 0..3 {
        let got = verifier.verify_id(&token).await.unwrap();
        assert_eq!((got.subject.as_str(), got.username.as_str()), ("s-1", "ada"));
        assert_eq!(got.groups, ["free-tier", "paid-tier"]);
        assert_eq!(got.expire_time, from_unix_ms((NOW_S + 3_600) * 1_000));
    }
    assert_eq!(pool.fetches(), 1);
}

#[tokio::test]
async fn a_fetch_that_was_broken_off_holds_nobody_back() {
    let key = new_key();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let verifier = verifier(&format!("http://{}/keys", listener.local_addr().unwrap()), &clock());
    let token = token(&key, "k1", &claims());
    tokio::select! {
        verdict = verifier.verify_id(&token) => panic!("nobody has answered yet: {verdict:?}"),
        asked = listener.accept() => drop(asked.unwrap()),
    }
    let pool = Pool::serve(listener, &[jwk(&key, "k1")]);
    verifier.verify_id(&token).await.unwrap();
    assert_eq!(pool.fetches(), 1);
}

#[tokio::test]
async fn every_wrong_token_gets_its_own_error() {
    let (key, other) = (new_key(), new_key());
    let pool = Pool::start(vec![jwk(&key, "k1")]).await;
    let verifier = pool.verifier(&clock());
    let good = token(&key, "k1", &claims());
    let good = good.expose_secret();
    let (body, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = body.split_once('.').unwrap();
    let b64 = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let none = b64(r#"{"alg":"none","typ":"JWT"}"#);
    let none_kid = b64(r#"{"alg":"none","kid":"k1"}"#);
    let symmetric = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
    // The classic: the public key as an HMAC secret.
    let public = jwk(&key, "k1")["n"].as_str().unwrap().to_owned();
    let hs256 = encode(&symmetric, &claims(), &EncodingKey::from_secret(public.as_bytes())).unwrap();
    let pss = Header { kid: Some("k1".into()), ..Header::new(Algorithm::PS256) };
    let paid = b64(&changed(|it| it["cognito:groups"] = json!(["paid-tier", "admins"])).to_string());

    let sign = |claims: &Value| token(&key, "k1", claims).expose_secret().to_owned();
    let invalid = [
        ("no JWT", "rubbish".to_owned()),
        ("empty", String::new()),
        ("two parts", body.to_owned()),
        ("huge", "x".repeat(TOKEN_MAX_BYTES + 1)),
        ("alg none", format!("{none}.{payload}.")),
        ("alg none with a kid", format!("{none_kid}.{payload}.{signature}")),
        ("HS256 with the public key", hs256),
        ("PS256", encode(&pss, &claims(), &key).unwrap()),
        ("claims changed", format!("{header}.{paid}.{signature}")),
        ("signature cut", good[..good.len() - 4].to_owned()),
        ("forged under a known kid", token(&other, "k1", &claims()).expose_secret().to_owned()),
        ("unknown kid", token(&other, "k2", &claims()).expose_secret().to_owned()),
        ("no kid", encode(&Header::new(Algorithm::RS256), &claims(), &key).unwrap()),
        ("access token", sign(&changed(|it| it["token_use"] = json!("access")))),
        ("no token_use", sign(&changed(|it| drop(it.as_object_mut().unwrap().remove("token_use"))))),
        ("no sub", sign(&changed(|it| drop(it.as_object_mut().unwrap().remove("sub"))))),
        ("exp a word", sign(&changed(|it| it["exp"] = json!("never")))),
    ];
    for (name, token) in invalid {
        let error = verifier.verify_id(&token.into()).await.unwrap_err();
        assert!(matches!(error, TokenError::TokenInvalid(_)), "{name}: {error:?}");
    }
    let wrong_audience = [
        ("another client", changed(|it| it["aud"] = json!("client-2"))),
        ("another issuer", changed(|it| it["iss"] = json!("https://issuer/pool2"))),
        ("several clients", changed(|it| it["aud"] = json!(["client-1", "client-2"]))),
        (
            "another client, expired too",
            changed(|it| {
                it["aud"] = json!("x");
                it["exp"] = json!(1);
            }),
        ),
    ];
    for (name, claims) in wrong_audience {
        let error = verifier.verify_id(&sign(&claims).into()).await.unwrap_err();
        assert!(matches!(error, TokenError::TokenWrongAudience(_)), "{name}: {error:?}");
    }
    for (name, exp) in [("an hour ago", NOW_S - 3_600), ("just beyond the leeway", NOW_S - 30), ("1970", 0)] {
        let error = verifier.verify_id(&sign(&changed(|it| it["exp"] = json!(exp))).into()).await.unwrap_err();
        assert!(matches!(error, TokenError::TokenExpired(_)), "{name}: {error:?}");
    }
    verifier.verify_id(&sign(&changed(|it| it["exp"] = json!(NOW_S - 29))).into()).await.expect("within the leeway");
    verifier.verify_id(&good.to_owned().into()).await.expect("the good one still passes");
}

#[tokio::test]
async fn no_error_shows_a_token() {
    let (key, other) = (new_key(), new_key());
    let pool = Pool::start(vec![jwk(&key, "k1")]).await;
    let verifier = pool.verifier(&clock());
    let forged = token(&other, "k1", &claims());
    let error = format!("{:?}", verifier.verify_id(&forged).await.unwrap_err());
    assert!(forged.expose_secret().split('.').all(|part| !error.contains(part)));
}

#[tokio::test]
async fn access_tokens_are_the_same_users_and_clients() {
    let key = new_key();
    let pool = Pool::start(vec![jwk(&key, "k1")]).await;
    let verifier = pool.verifier(&clock());
    let access = json!({
        "iss": "https://issuer/pool", "client_id": "client-1", "sub": "s-1", "token_use": "access", "exp": NOW_S + 60,
    });
    let end = verifier.verify_access(&token(&key, "k1", &access), "s-1").await.unwrap();
    assert_eq!(end, from_unix_ms((NOW_S + 60) * 1_000));
    let error = verifier.verify_access(&token(&key, "k1", &access), "s-2").await.unwrap_err();
    assert!(matches!(error, TokenError::TokenInvalid(_)), "{error:?}");
    let mut other = access;
    other["client_id"] = "client-2".into();
    let error = verifier.verify_access(&token(&key, "k1", &other), "s-1").await.unwrap_err();
    assert!(matches!(error, TokenError::TokenWrongAudience(_)), "{error:?}");
    assert!(verifier.verify_access(&token(&key, "k1", &claims()), "s-1").await.is_err(), "an ID token is none");
}

#[tokio::test]
async fn a_new_key_is_fetched_but_not_as_often_as_tokens_ask_for_it() {
    let (old, new) = (new_key(), new_key());
    let pool = Pool::start(vec![jwk(&old, "k1")]).await;
    let clock = clock();
    let verifier = pool.verifier(&clock);
    verifier.verify_id(&token(&old, "k1", &claims())).await.unwrap();
    pool.served.lock().unwrap().1 = json!({ "keys": [jwk(&new, "k2"), { "kty": "EC", "kid": "odd" }] });
    for n in 0..100 {
        verifier.verify_id(&token(&new, &format!("flood-{n}"), &claims())).await.unwrap_err();
    }
    assert_eq!(pool.fetches(), 1, "a flood of unknown keys");
    clock.advance(FETCH_AGAIN);
    verifier.verify_id(&token(&new, "k2", &claims())).await.unwrap();
    assert_eq!(pool.fetches(), 2);
    let error = verifier.verify_id(&token(&old, "k1", &claims())).await.unwrap_err();
    assert!(matches!(error, TokenError::TokenInvalid(_)), "a key that was taken back: {error:?}");
}

#[tokio::test]
async fn keys_outlive_an_outage_and_a_cold_outage_is_transient() {
    let key = new_key();
    let pool = Pool::start(vec![jwk(&key, "k1")]).await;
    let clock = clock();
    let verifier = pool.verifier(&clock);
    let token = token(&key, "k1", &changed(|it| it["exp"] = json!(NOW_S + 1_000_000)));
    pool.served.lock().unwrap().0 = 503;
    let error = verifier.verify_id(&token).await.unwrap_err();
    assert!(matches!(&error, TokenError::Transient(why) if why.contains("503")), "{error:?}");
    pool.served.lock().unwrap().0 = 200;
    verifier.verify_id(&token).await.unwrap_err();
    assert_eq!(pool.fetches(), 1, "not at once again");
    clock.advance(FETCH_AGAIN_FAILED);
    verifier.verify_id(&token).await.unwrap();
    pool.served.lock().unwrap().0 = 503;
    clock.advance(KEYS_LAST);
    verifier.verify_id(&token).await.expect("old keys are better than none");
    assert_eq!(pool.fetches(), 3);
}

#[tokio::test]
async fn the_servers_date_mends_a_clock_that_is_years_off() {
    let key = new_key();
    let pool = Pool::start(vec![jwk(&key, "k1")]).await;
    let wrong = Clock::manual(from_unix_ms((NOW_S + 10 * 365 * 86_400) * 1_000));
    let verifier = pool.verifier(&wrong);
    verifier.verify_id(&token(&key, "k1", &claims())).await.unwrap();
    assert!(wrong.offset_ms() < 0);
}

#[tokio::test]
async fn a_key_that_was_taken_back_is_not_taken_once_more() {
    let (old, new) = (new_key(), new_key());
    let pool = Pool::start(vec![jwk(&old, "k1")]).await;
    let clock = clock();
    let verifier = pool.verifier(&clock);
    let token = token(&old, "k1", &changed(|it| it["exp"] = json!(NOW_S + 1_000_000)));
    verifier.verify_id(&token).await.unwrap();
    pool.served.lock().unwrap().1 = json!({ "keys": [jwk(&new, "k2")] });
    clock.advance(KEYS_LAST);
    let error = verifier.verify_id(&token).await.unwrap_err();
    assert!(matches!(error, TokenError::TokenInvalid(_)), "{error:?}");
}
