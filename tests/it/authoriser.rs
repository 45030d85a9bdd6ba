//! The same sign-in's other artefact: JWTs from a real daemon at the API of examples/authoriser.rs, which takes them as
//! API Gateway would, and refuses what was tampered with, has expired, or was made for somebody else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_cognitoidentityprovider as provider;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tidegate::api::v1;
use tidegate::clock::{Clock, from_unix_ms};
use tidegate::local_cloud::api_gateway::{Authoriser, Denied, Route};
use tidegate::local_cloud::{TemplateSource, template};

use crate::fixture::{Stage, User};
use crate::rehearsal::Rehearsal;

#[allow(dead_code)]
#[path = "../../examples/authoriser.rs"]
mod example;

/// The example's API, for the stage's pool.
fn api(issuer: String, client_id: String) -> String {
    let listener = tidegate::loopback::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let authoriser = Authoriser::new(issuer, vec![client_id], Clock::system());
    tokio::spawn(example::serve(listener, authoriser));
    url
}

fn issuer(stage: &Stage) -> String {
    format!("{}/{}", stage.cloud.url(), stage.cloud.outputs()["UserPoolId"])
}

fn client_id(stage: &Stage) -> String {
    stage.cloud.outputs()["UserPoolClientId"].clone()
}

/// Status, body and `www-authenticate`.
async fn get(api: &str, path: &str, token: &str) -> (u16, Value, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("{api}{path}")).header("authorization", token).send().await.unwrap();
    let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), answer.json().await.unwrap(), challenge.unwrap_or_default())
}

async fn tokens(stage: &Stage) -> (String, String) {
    let request = v1::GetTokensRequest { include_access_token: true, ..v1::GetTokensRequest::default() };
    let given = stage.credentials().await.get_tokens(request).await.unwrap().into_inner();
    (given.id_token, given.access_token)
}

async fn move_to_group(stage: &Stage, user: &User, group: &str) {
    let (key, secret) = stage.cloud.administrator().expose();
    let config = provider::Config::builder()
        .behavior_version(provider::config::BehaviorVersion::latest())
        .region(provider::config::Region::new("us-east-1"))
        .endpoint_url(stage.cloud.url())
        .credentials_provider(provider::config::Credentials::new(key, secret, None, None, "test"));
    let billing = provider::Client::from_conf(config.build());
    let call = billing.admin_add_user_to_group().user_pool_id(stage.cloud.outputs()["UserPoolId"].clone());
    call.username(&user.username).group_name(group).send().await.unwrap();
}

fn payload(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_takes_a_sessions_tokens_and_its_groups() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    let session = stage.sign_in(&user).await;
    let api = api(issuer(&stage), client_id(&stage));
    let (id, access) = tokens(&stage).await;
    for token in [id.clone(), format!("Bearer {id}"), access.clone()] {
        let (status, body, _) = get(&api, "/me", &token).await;
        assert_eq!((status, body["you_are"].as_str()), (200, Some(session.subject.as_str())), "{body}");
    }
    assert_eq!(payload(&id)["aud"], client_id(&stage).as_str());
    assert_eq!(payload(&access).get("aud"), None, "an access token is for a client by client_id alone");
    assert_eq!(get(&api, "/albums", &access).await.0, 200);
    let (status, body, challenge) = get(&api, "/albums", &id).await;
    assert_eq!((status, body), (403, json!({ "message": "Forbidden" })), "an ID token has no scope");
    assert!(challenge.contains("insufficient_scope"), "{challenge}");

    assert_eq!(get(&api, "/premium", &id).await.0, 403);
    assert_eq!(get(&api, "/premium", &access).await.0, 403);
    move_to_group(&stage, &user, "paid-tier").await;
    assert_eq!(get(&api, "/premium", &id).await.0, 403, "the old token says what was true");
    stage.sessions().await.refresh_session(v1::RefreshSessionRequest::default()).await.unwrap();
    let (id, access) = tokens(&stage).await;
    assert_eq!(get(&api, "/premium", &id).await.0, 200, "the next token carries the group");
    assert_eq!(get(&api, "/premium", &access).await.0, 200);
    assert_eq!(get(&api, "/nothing", &id).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_foreign_and_missing_tokens_are_refused() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let api = api(issuer(&stage), client_id(&stage));
    let (id, access) = tokens(&stage).await;
    let (kid, parts) = {
        let header = jsonwebtoken::decode_header(&id).unwrap();
        (header.kid.unwrap(), id.split('.').map(str::to_owned).collect::<Vec<_>>())
    };
    let mut promoted = payload(&id);
    promoted["cognito:groups"] = json!(["paid-tier"]);
    let promoted = URL_SAFE_NO_PAD.encode(promoted.to_string());
    let flipped = if parts[2].starts_with('A') { "B" } else { "A" };
    let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "kid": kid }).to_string());
    let hs256 = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::HS256) };
    let shared = encode(&hs256, &payload(&id), &EncodingKey::from_secret(b"the public key, as text")).unwrap();
    let stranger = URL_SAFE_NO_PAD.encode(json!({ "alg": "RS256", "kid": "another" }).to_string());
    let refused = [
        ("another payload", format!("{}.{promoted}.{}", parts[0], parts[2])),
        ("another signature", format!("{}.{}.{flipped}{}", parts[0], parts[1], &parts[2][1..])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none", format!("{none}.{}.", parts[1])),
        ("alg HS256", shared),
        ("an unknown key", format!("{stranger}.{}.{}", parts[1], parts[2])),
        ("half a token", access[..access.len() / 2].to_owned()),
        ("no token", String::new()),
        ("no JWT", "Bearer rubbish".to_owned()),
        ("too long", "x".repeat(17 * 1024)),
    ];
    for (what, token) in &refused {
        let (status, body, challenge) = get(&api, "/me", token).await;
        assert_eq!((status, body), (401, json!({ "message": "Unauthorized" })), "{what}");
        assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge}");
    }
    // Good tokens at an API of another client, and at one of another pool.
    let route = Route::default();
    let other = Authoriser::new(issuer(&stage), vec!["anotherclient00000000000000".to_owned()], Clock::system());
    for token in [&id, &access] {
        let denied = other.authorise(Some(token), &route).await.unwrap_err();
        assert_eq!(denied, Denied::Unauthorized("the token does not have a valid audience"));
    }
    let elsewhere = Rehearsal::start().await;
    let pool = format!("{}/{}", elsewhere.cloud.url(), elsewhere.pool_id);
    let denied = Authoriser::new(pool, vec![client_id(&stage)], Clock::system());
    let denied = denied.authorise(Some(&id), &route).await.unwrap_err();
    assert!(matches!(denied, Denied::Unauthorized(_)), "{denied}");
    stage.cloud.faults().set_offline(true);
    let cold = Authoriser::new(issuer(&stage), vec![client_id(&stage)], Clock::system());
    assert!(matches!(cold.authorise(Some(&id), &route).await, Err(Denied::KeysUnavailable(_))));
    assert_eq!(get(&api, "/me", &id).await.0, 200, "keys are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_from_its_beginning_to_its_end() {
    let stage = Stage::start().await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let (id, access) = tokens(&stage).await;
    for token in [id, access] {
        let claims = payload(&token);
        let (start, end) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        let at = |unix_s: i64| Clock::manual(from_unix_ms(unix_s * 1_000));
        for (now, wanted) in [
            (start - 1, Err("the token is not valid yet")),
            (start, Ok(())),
            (end - 1, Ok(())),
            (end, Err("the token has expired")),
            (end + 10 * 365 * 86_400, Err("the token has expired")),
        ] {
            let authoriser = Authoriser::new(issuer(&stage), vec![client_id(&stage)], at(now));
            let got = authoriser.authorise(Some(&token), &Route::default()).await;
            match (got, wanted) {
                (Ok(_), Ok(())) => {}
                (Err(Denied::Unauthorized(why)), Err(wanted)) => assert_eq!(why, wanted),
                (got, wanted) => panic!("at {now}: {got:?}, wanted {wanted:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_tokens_gives_no_token_that_has_little_time_left() {
    // ID tokens of six seconds, of which the last two are not given out where a refresh can be had.
    let mut seed = template::load(template::built_in(), &template::Options::default()).unwrap();
    seed.user_pools[0].clients[0].id_token_validity_s = 6;
    let stage = Stage::start_with(TemplateSource::Seed(Box::new(seed)), |text| text).await;
    let user = stage.sign_up().await;
    stage.sign_in(&user).await;
    let (first, _) = tokens(&stage).await;
    let end_s = payload(&first)["exp"].as_u64().unwrap();
    let renewed = async {
        loop {
            let (token, _) = tokens(&stage).await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            if token != first {
                return (token, now);
            }
            assert!(now < Duration::from_secs(end_s), "a token that has ended was given out");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (token, now) = tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
    assert!(now < Duration::from_secs(end_s), "renewed before its end, not after");
    assert!(payload(&token)["exp"].as_u64().unwrap() > end_s);
}
