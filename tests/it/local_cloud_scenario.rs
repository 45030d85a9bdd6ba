//! The product's scenario with AWS's own SDKs against the local cloud.

use aws_sdk_cognitoidentity::operation::get_credentials_for_identity::GetCredentialsForIdentityError;
use aws_sdk_cognitoidentityprovider::operation::confirm_sign_up::ConfirmSignUpError;
use aws_sdk_cognitoidentityprovider::operation::initiate_auth::InitiateAuthError;
use aws_sdk_cognitoidentityprovider::operation::sign_up::SignUpError;
use aws_sdk_cognitoidentityprovider::types::{AttributeType, AuthFlowType};
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::primitives::ByteStream;

use crate::rehearsal::{PASSWORD, Rehearsal, code, keys};

#[tokio::test]
async fn a_free_user_becomes_a_paid_one() {
    let rehearsal = Rehearsal::start().await;
    let bucket = &rehearsal.bucket;
    let ana = rehearsal.new_session("ana@example.com").await;
    let ben = rehearsal.new_session("ben@example.com").await;
    assert_ne!(ana.identity_id, ben.identity_id);
    let s3 = rehearsal.s3(ana.credentials.clone());
    let put = async |key: String| {
        let body = ByteStream::from_static(b"photo");
        let sent = s3.put_object().bucket(bucket).key(key).body(body).send().await;
        sent.map(drop).map_err(|error| (error.raw_response().unwrap().status().as_u16(), code(&error)))
    };
    let denied = Err((403, "AccessDenied".to_owned()));
    let prefix = format!("users/{}", ana.identity_id);
    assert_eq!(put(format!("{prefix}/free/1.jpg")).await, Ok(()));
    assert_eq!(put(format!("{prefix}/premium/1.jpg")).await, denied);
    assert_eq!(put(format!("users/{}/free/1.jpg", ben.identity_id)).await, denied);
    assert_eq!(put(format!("{prefix}/free")).await, denied);
    // A literal key: `free/*` matches it, and nothing appears at premium/x.
    assert_eq!(put(format!("{prefix}/free/../premium/x")).await, Ok(()));
    let mut expected = vec![format!("{prefix}/free/../premium/x"), format!("{prefix}/free/1.jpg")];
    expected.sort();
    assert_eq!(rehearsal.keys().await, expected);

    let billing = rehearsal.users(Some(rehearsal.administrator()));
    let (paid, free) = (rehearsal.group("paid"), rehearsal.group("free"));
    let user = || "ana@example.com";
    let add = billing.admin_add_user_to_group().user_pool_id(&rehearsal.pool_id).username(user()).group_name(paid);
    add.send().await.unwrap();
    let remove = billing.admin_remove_user_from_group().user_pool_id(&rehearsal.pool_id).username(user());
    remove.group_name(free).send().await.unwrap();
    // The old credentials are the old role's.
    assert_eq!(put(format!("{prefix}/premium/1.jpg")).await, denied);
    let upgraded = rehearsal.session(&rehearsal.id_token("ana@example.com").await).await;
    assert_eq!(upgraded.identity_id, ana.identity_id);
    let s3 = rehearsal.s3(upgraded.credentials);
    let key = format!("{prefix}/premium/1.jpg");
    s3.put_object().bucket(bucket).key(key).body(ByteStream::from_static(b"photo")).send().await.unwrap();
}

#[tokio::test]
async fn the_log_says_who_signed_what() {
    let rehearsal = Rehearsal::start().await;
    let session = rehearsal.new_session("log@example.com").await;
    let key = format!("users/{}/free/a.jpg", session.identity_id);
    let s3 = rehearsal.s3(session.credentials.clone());
    s3.put_object().bucket(&rehearsal.bucket).key(&key).body(ByteStream::from_static(b"a")).send().await.unwrap();
    let records = rehearsal.cloud.requests(0);
    let put = records.iter().find(|record| record.operation == "s3:PutObject").unwrap();
    assert_eq!(put.access_key_id.as_deref(), Some(session.credentials.access_key_id()));
    assert_eq!((put.key.as_str(), put.status), (key.as_str(), Some(200)));
    let counters = rehearsal.cloud.counters();
    assert_eq!(counters.of("s3:PutObject"), 1);
    assert_eq!(counters.of("cognito-identity:GetCredentialsForIdentity"), 1);
    assert_eq!(counters.of("cognito-idp:SignUp"), 1);
}

#[tokio::test]
async fn sdks_type_the_errors() {
    let rehearsal = Rehearsal::start().await;
    let users = rehearsal.users(None);
    let address = AttributeType::builder().name("email").value("eve@example.com").build().unwrap();
    let sign_up = |password: &str| {
        users
            .sign_up()
            .client_id(&rehearsal.client_id)
            .username("eve@example.com")
            .password(password)
            .user_attributes(address.clone())
            .send()
    };
    let error = sign_up("short").await.unwrap_err().into_service_error();
    assert!(matches!(error, SignUpError::InvalidPasswordException(_)), "{error:?}");
    sign_up(PASSWORD).await.unwrap();
    let error = sign_up(PASSWORD).await.unwrap_err().into_service_error();
    assert!(matches!(error, SignUpError::UsernameExistsException(_)), "{error:?}");
    let sign_in = |password: &str| {
        users
            .initiate_auth()
            .client_id(&rehearsal.client_id)
            .auth_flow(AuthFlowType::UserPasswordAuth)
            .auth_parameters("USERNAME", "eve@example.com")
            .auth_parameters("PASSWORD", password)
            .send()
    };
    let error = sign_in(PASSWORD).await.unwrap_err().into_service_error();
    assert!(matches!(error, InitiateAuthError::UserNotConfirmedException(_)), "{error:?}");
    let confirm = |code: &str| {
        let confirm = users.confirm_sign_up().client_id(&rehearsal.client_id).username("eve@example.com");
        confirm.confirmation_code(code).send()
    };
    let right = rehearsal.code_for("eve@example.com");
    let wrong = if right == "000000" { "000001" } else { "000000" };
    let error = confirm(wrong).await.unwrap_err().into_service_error();
    assert!(matches!(error, ConfirmSignUpError::CodeMismatchException(_)), "{error:?}");
    confirm(&right).await.unwrap();
    let error = sign_in("Wrong-Password-1!").await.unwrap_err().into_service_error();
    assert!(matches!(error, InitiateAuthError::NotAuthorizedException(_)), "{error:?}");

    let session = rehearsal.session(&rehearsal.id_token("eve@example.com").await).await;
    let (head, signature) = session.id_token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    let error = rehearsal
        .identities()
        .get_credentials_for_identity()
        .identity_id(&session.identity_id)
        .logins(rehearsal.provider_name(), forged)
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    assert!(matches!(error, GetCredentialsForIdentityError::NotAuthorizedException(_)), "{error:?}");
}

#[tokio::test]
async fn administration_needs_a_right_signature() {
    let rehearsal = Rehearsal::start().await;
    let session = rehearsal.new_session("mallory@example.com").await;
    let upgrade = |credentials: Option<Credentials>| {
        let request = rehearsal.users(credentials).admin_add_user_to_group().user_pool_id(&rehearsal.pool_id);
        request.username("mallory@example.com").group_name(rehearsal.group("paid")).send()
    };
    let error = upgrade(Some(session.credentials.clone())).await.unwrap_err();
    assert_eq!(code(&error), "AccessDeniedException");
    let (key, secret) = rehearsal.cloud.administrator().expose();
    let error = upgrade(Some(keys(key, "wrong", None))).await.unwrap_err();
    assert_eq!(code(&error), "InvalidSignatureException");
    let error = upgrade(Some(keys("AKIAUNKNOWN", secret, None))).await.unwrap_err();
    assert_eq!(code(&error), "UnrecognizedClientException");
    let forged = keys(
        session.credentials.access_key_id(),
        session.credentials.secret_access_key(),
        Some("another token".into()),
    );
    assert_eq!(code(&upgrade(Some(forged)).await.unwrap_err()), "UnrecognizedClientException");
    rehearsal.cloud.sts().expire_sessions();
    assert_eq!(code(&upgrade(Some(session.credentials)).await.unwrap_err()), "ExpiredTokenException");
    let unsigned = reqwest::Client::new()
        .post(rehearsal.cloud.url())
        .header("x-amz-target", "AWSCognitoIdentityProviderService.AdminAddUserToGroup")
        .header("content-type", "application/x-amz-json-1.1")
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(unsigned.status(), 400);
    let kind = unsigned.headers()["x-amzn-errortype"].to_str().unwrap().to_owned();
    assert_eq!(kind, "MissingAuthenticationTokenException:");
    upgrade(Some(rehearsal.administrator())).await.unwrap();
}

#[tokio::test]
async fn sts_says_who_one_is() {
    let rehearsal = Rehearsal::start().await;
    let session = rehearsal.new_session("who@example.com").await;
    let me = rehearsal.sts(session.credentials.clone()).get_caller_identity().send().await.unwrap();
    assert!(me.arn().unwrap().contains(":assumed-role/"), "{:?}", me.arn());
    assert_eq!(me.account(), Some(rehearsal.account.as_str()));
    let wrong = keys(session.credentials.access_key_id(), "wrong", None);
    let error = rehearsal.sts(wrong).get_caller_identity().send().await.unwrap_err();
    assert_eq!(code(&error), "SignatureDoesNotMatch");
    rehearsal.cloud.sts().expire_sessions();
    let error = rehearsal.sts(session.credentials).get_caller_identity().send().await.unwrap_err();
    assert_eq!(code(&error), "ExpiredToken");
}

#[tokio::test]
async fn keys_and_configuration_of_the_pool_can_be_read() {
    let rehearsal = Rehearsal::start().await;
    let base = format!("{}/{}/.well-known", rehearsal.cloud.url(), rehearsal.pool_id);
    let read = async |page: String| -> serde_json::Value {
        let reply = reqwest::get(page).await.unwrap();
        assert_eq!(reply.status(), 200);
        assert!(reply.headers().contains_key("date"));
        serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap()
    };
    let configuration = read(format!("{base}/openid-configuration")).await;
    assert_eq!(configuration["jwks_uri"], format!("{base}/jwks.json"));
    assert_eq!(read(format!("{base}/jwks.json")).await["keys"][0]["kty"], "RSA");
    let missing = reqwest::get(format!("{}/us-east-1_Nope/.well-known/jwks.json", rehearsal.cloud.url())).await;
    assert_eq!(missing.unwrap().status(), 404);
}
