//! Second factors as a client meets them.

use super::*;
use crate::local_cloud::seed::{DevicesSeed, MfaMode, MfaSeed, UserPoolSeed};
use crate::local_cloud::user_pool::totp_code;

const ANN: &str = "ann@example.com";
const PHONE: &str = "+12065551234";

pub(super) fn stage(change: impl FnOnce(&mut UserPoolSeed)) -> Stage {
    let mut seeds = Seeds::default();
    change(&mut seeds.user_pool);
    Stage::with(&seeds, None)
}

pub(super) fn all_factors(mode: MfaMode) -> MfaSeed {
    MfaSeed { mode, software_token: true, sms: true, email: true }
}

/// Signs in by password; `more` goes along.
pub(super) async fn begin(stage: &Stage, name: &str, more: Value) -> Result<Value, AwsError> {
    let mut parameters = json!({ "USERNAME": name, "PASSWORD": PASSWORD });
    parameters.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let body = json!({ "ClientId": CLIENT, "AuthFlow": "USER_PASSWORD_AUTH", "AuthParameters": parameters });
    stage.call("InitiateAuth", body).await
}

/// Answers what was asked, as the user `name` at `client`.
pub(super) async fn answer_as(
    stage: &Stage,
    (client, name): (&str, &str),
    asked: &Value,
    responses: Value,
) -> Result<Value, AwsError> {
    let mut given = json!({ "USERNAME": name });
    given.as_object_mut().unwrap().extend(responses.as_object().cloned().unwrap());
    let body = json!({ "ClientId": client, "ChallengeName": asked["ChallengeName"], "Session": asked["Session"],
        "ChallengeResponses": given });
    stage.call("RespondToAuthChallenge", body).await
}

pub(super) async fn answer(stage: &Stage, asked: &Value, responses: Value) -> Result<Value, AwsError> {
    answer_as(stage, (CLIENT, ANN), asked, responses).await
}

/// Sets up an app for Ann and turns it on; gives its secret.
pub(super) async fn set_up_app(stage: &Stage) -> String {
    let token = stage.sign_in(ANN).await["AccessToken"].take();
    let secret = stage.call("AssociateSoftwareToken", json!({ "AccessToken": token })).await.unwrap();
    let secret = secret["SecretCode"].as_str().unwrap().to_owned();
    let code = totp_code(&secret, stage.site.now_s()).unwrap();
    let verify = json!({ "AccessToken": token, "UserCode": code, "FriendlyDeviceName": "Ann's phone" });
    assert_eq!(stage.call("VerifySoftwareToken", verify).await.unwrap()["Status"], "SUCCESS");
    let prefer = json!({ "AccessToken": token, "SoftwareTokenMfaSettings": { "Enabled": true } });
    stage.call("SetUserMFAPreference", prefer).await.unwrap();
    stage.pass(30);
    secret
}

async fn give_phone(stage: &Stage) {
    let phone = json!([{ "Name": "phone_number", "Value": PHONE }]);
    stage.admin("AdminUpdateUserAttributes", json!({ "Username": ANN, "UserAttributes": phone })).await.unwrap();
}

async fn prefer(stage: &Stage, settings: Value) -> Result<Value, AwsError> {
    let mut body = json!({ "Username": ANN });
    body.as_object_mut().unwrap().extend(settings.as_object().cloned().unwrap());
    stage.admin("AdminSetUserMFAPreference", body).await
}

fn sub_in(stage: &Stage, answer: &Value) -> Value {
    stage.claims(&answer["AuthenticationResult"]["IdToken"])["sub"].clone()
}

#[tokio::test]
async fn an_app_is_set_up_and_its_codes_count_once() {
    let stage = stage(|pool| pool.mfa = all_factors(MfaMode::Optional));
    let sub = stage.free_user(ANN).await;
    let token = stage.sign_in(ANN).await["AccessToken"].take();
    let associate = || stage.call("AssociateSoftwareToken", json!({ "AccessToken": token }));
    let verify =
        async |code: &str| stage.call("VerifySoftwareToken", json!({ "AccessToken": token, "UserCode": code })).await;
    assert_eq!(refused(verify("123456").await).0, "SoftwareTokenMFANotFoundException");
    let secret = associate().await.unwrap()["SecretCode"].as_str().unwrap().to_owned();
    let wrong = refused(verify("12345").await);
    let mismatch = "Code mismatch and fail enable Software Token MFA";
    assert_eq!(wrong, ("EnableSoftwareTokenMFAException", mismatch.into()));
    let too_soon = refused(prefer(&stage, json!({ "SoftwareTokenMfaSettings": { "Enabled": true } })).await);
    let no_config = "User does not have delivery config set to turn on SOFTWARE_TOKEN_MFA";
    assert_eq!(too_soon, ("InvalidParameterException", no_config.into()));
    let now_s = stage.site.now_s();
    verify(&totp_code(&secret, now_s).unwrap()).await.unwrap();
    assert!(begin(&stage, ANN, json!({})).await.unwrap()["AuthenticationResult"].is_object(), "set up is not on");
    let settings = json!({ "Enabled": true, "PreferredMfa": true });
    let body = json!({ "AccessToken": token, "SoftwareTokenMfaSettings": settings });
    stage.call("SetUserMFAPreference", body).await.unwrap();
    let user = stage.call("GetUser", json!({ "AccessToken": token })).await.unwrap();
    assert_eq!(user["UserMFASettingList"], json!(["SOFTWARE_TOKEN_MFA"]));
    assert_eq!(user["PreferredMfaSetting"], "SOFTWARE_TOKEN_MFA");

    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SOFTWARE_TOKEN_MFA");
    assert_eq!(asked["ChallengeParameters"], json!({ "USER_ID_FOR_SRP": sub }));
    let code = |time_s: u64| json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, time_s).unwrap() });
    let wrong = refused(answer(&stage, &asked, json!({ "SOFTWARE_TOKEN_MFA_CODE": "no code" })).await);
    assert_eq!(wrong, ("CodeMismatchException", "Invalid code received for user".into()));
    let used = refused(answer(&stage, &asked, code(now_s)).await);
    assert_eq!(used, ("ExpiredCodeException", "Your software token has already been used once.".into()));
    // A clock half a minute ahead does not matter, and the same question is still open.
    let tokens = answer(&stage, &asked, code(now_s + 30)).await.unwrap();
    assert_eq!(sub_in(&stage, &tokens), sub.as_str());
    let again = refused(answer(&stage, &asked, code(now_s + 30)).await);
    assert_eq!(again.1, "Invalid session for the user, session can only be used once.");
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(refused(answer(&stage, &asked, code(now_s + 30)).await).0, "ExpiredCodeException");

    // Another app replaces the first one only when a code of it was seen.
    let other = associate().await.unwrap()["SecretCode"].as_str().unwrap().to_owned();
    stage.pass(60);
    let now_s = stage.site.now_s();
    answer(&stage, &asked, code(now_s)).await.unwrap();
    verify(&totp_code(&other, now_s).unwrap()).await.unwrap();
    stage.pass(30);
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(refused(answer(&stage, &asked, code(now_s + 30)).await).0, "CodeMismatchException");
    let right = json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&other, now_s + 30).unwrap() });
    answer(&stage, &asked, right).await.unwrap();
}

#[tokio::test]
async fn a_question_is_for_its_client_its_user_its_kind_and_three_minutes() {
    let mut seeds = Seeds::default();
    seeds.user_pool.mfa = all_factors(MfaMode::Optional);
    let stage = Stage::with(&seeds, None);
    stage.free_user(ANN).await;
    stage.free_user("ben@example.com").await;
    let secret = set_up_app(&stage).await;
    let code = || json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, stage.site.now_s()).unwrap() });
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeParameters"]["FRIENDLY_DEVICE_NAME"], "Ann's phone");
    let invalid = ("NotAuthorizedException", "Invalid session for the user.".to_owned());
    for (client, name) in [(LEGACY_CLIENT, ANN), (CLIENT, "ben@example.com"), (CLIENT, "nobody@example.com")] {
        assert_eq!(refused(answer_as(&stage, (client, name), &asked, code()).await), invalid);
    }
    let out_of_order = [
        ("NEW_PASSWORD_REQUIRED", json!({ "NEW_PASSWORD": PASSWORD })),
        ("SMS_MFA", json!({ "SMS_MFA_CODE": "123456" })),
        ("SELECT_MFA_TYPE", json!({ "ANSWER": "SMS_MFA" })),
        ("MFA_SETUP", json!({})),
        ("SELECT_CHALLENGE", json!({ "ANSWER": "PASSWORD" })),
        ("DEVICE_SRP_AUTH", json!({ "SRP_A": "aa", "DEVICE_KEY": "k" })),
    ];
    for (name, responses) in out_of_order {
        let body = json!({ "ChallengeName": name, "Session": asked["Session"] });
        assert_eq!(refused(answer(&stage, &body, responses).await), invalid, "{name}");
    }
    let unknown = json!({ "ChallengeName": "SOFTWARE_TOKEN_MFA", "Session": "none" });
    assert_eq!(refused(answer(&stage, &unknown, code()).await), invalid);
    // None of it has closed the question.
    stage.pass(179);
    answer(&stage, &asked, code()).await.unwrap();
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    stage.pass(180);
    let late = refused(answer(&stage, &asked, code()).await);
    assert_eq!(late.1, "Invalid session for the user, session is expired.");

    seeds.user_pool.clients[0].auth_session_validity_s = 15 * 60;
    let patient = Stage::with(&seeds, None);
    patient.free_user(ANN).await;
    let secret = set_up_app(&patient).await;
    let asked = begin(&patient, ANN, json!({})).await.unwrap();
    patient.pass(15 * 60 - 1);
    let code = totp_code(&secret, patient.site.now_s()).unwrap();
    answer(&patient, &asked, json!({ "SOFTWARE_TOKEN_MFA_CODE": code })).await.unwrap();
}

#[tokio::test]
async fn guessing_codes_is_bounded_for_a_question_and_for_the_user() {
    let stage = stage(|pool| pool.mfa = all_factors(MfaMode::Optional));
    stage.free_user(ANN).await;
    let secret = set_up_app(&stage).await;
    let guess = || json!({ "SOFTWARE_TOKEN_MFA_CODE": "none" });
    let right = || json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, stage.site.now_s()).unwrap() });
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    for _ in 0..5 {
        assert_eq!(refused(answer(&stage, &asked, guess()).await).0, "CodeMismatchException");
    }
    let locked = refused(answer(&stage, &asked, right()).await);
    assert_eq!(locked, ("NotAuthorizedException", "User temporarily locked. Try again soon.".into()));
    // A password that is right does not open the lock: a thief of the password could otherwise go on for ever.
    let again = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(refused(answer(&stage, &again, right()).await), locked);
    for lock_s in [1, 2, 4, 8, 16] {
        stage.pass(lock_s);
        assert_eq!(refused(answer(&stage, &asked, guess()).await).0, "CodeMismatchException");
    }
    stage.pass(32);
    let closed = refused(answer(&stage, &asked, right()).await);
    assert_eq!(closed.1, "Invalid session for the user, session can only be used once.");
    answer(&stage, &again, right()).await.unwrap();
    // Which forgets the wrong ones.
    stage.pass(30);
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(refused(answer(&stage, &asked, guess()).await).0, "CodeMismatchException");
    answer(&stage, &asked, right()).await.unwrap();
}

#[tokio::test]
async fn codes_are_sent_to_the_phone_or_the_mailbox() {
    let stage = stage(|pool| pool.mfa = all_factors(MfaMode::Optional));
    let sub = stage.free_user(ANN).await;
    let no_phone = refused(prefer(&stage, json!({ "SMSMfaSettings": { "Enabled": true } })).await);
    assert_eq!(no_phone.1, "User does not have delivery config set to turn on SMS_MFA");
    give_phone(&stage).await;
    prefer(&stage, json!({ "SMSMfaSettings": { "Enabled": true, "PreferredMfa": true } })).await.unwrap();
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SMS_MFA");
    let sent = json!({ "CODE_DELIVERY_DELIVERY_MEDIUM": "SMS", "CODE_DELIVERY_DESTINATION": "+*******1234",
        "USER_ID_FOR_SRP": sub, "USERNAME": sub });
    assert_eq!(asked["ChallengeParameters"], sent);
    let code = stage.code(PHONE, CodePurpose::SecondFactor);
    let wrong = refused(answer(&stage, &asked, json!({ "SMS_MFA_CODE": "none" })).await);
    assert_eq!(wrong, ("CodeMismatchException", "Invalid code or auth state for the user.".into()));
    let tokens = answer(&stage, &asked, json!({ "SMS_MFA_CODE": code })).await.unwrap();
    assert_eq!(stage.claims(&tokens["AuthenticationResult"]["IdToken"])["phone_number_verified"], true);
    // A code belongs to the sign-in that it was sent for.
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_ne!(stage.code(PHONE, CodePurpose::SecondFactor), code);
    assert_eq!(refused(answer(&stage, &asked, json!({ "SMS_MFA_CODE": code })).await).0, "CodeMismatchException");

    prefer(&stage, json!({ "SMSMfaSettings": { "Enabled": false }, "EmailMfaSettings": { "Enabled": true } }))
        .await
        .unwrap();
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeName"], "EMAIL_OTP");
    assert_eq!(asked["ChallengeParameters"]["CODE_DELIVERY_DESTINATION"], "a***@e***");
    let code = stage.code(ANN, CodePurpose::SecondFactor);
    assert_eq!(sub_in(&stage, &answer(&stage, &asked, json!({ "EMAIL_OTP_CODE": code })).await.unwrap()), sub.as_str());
    for _ in 0..20 {
        let _ = begin(&stage, ANN, json!({})).await;
    }
    assert_eq!(refused(begin(&stage, ANN, json!({})).await).0, "LimitExceededException");
}

#[tokio::test]
async fn who_has_several_factors_and_prefers_none_is_asked_which() {
    let stage = stage(|pool| pool.mfa = all_factors(MfaMode::Optional));
    stage.free_user(ANN).await;
    give_phone(&stage).await;
    let secret = set_up_app(&stage).await;
    prefer(&stage, json!({ "SMSMfaSettings": { "Enabled": true } })).await.unwrap();
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SELECT_MFA_TYPE");
    let choices: Value =
        serde_json::from_str(asked["ChallengeParameters"]["MFAS_CAN_CHOOSE"].as_str().unwrap()).unwrap();
    assert_eq!(choices, json!(["SMS_MFA", "SOFTWARE_TOKEN_MFA"]));
    let email = refused(answer(&stage, &asked, json!({ "ANSWER": "EMAIL_OTP" })).await);
    assert_eq!(email.0, "InvalidParameterException");
    let asked = answer(&stage, &asked, json!({ "ANSWER": "SOFTWARE_TOKEN_MFA" })).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SOFTWARE_TOKEN_MFA");
    let code = json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, stage.site.now_s()).unwrap() });
    answer(&stage, &asked, code).await.unwrap();
    prefer(&stage, json!({ "SMSMfaSettings": { "Enabled": true, "PreferredMfa": true } })).await.unwrap();
    assert_eq!(begin(&stage, ANN, json!({})).await.unwrap()["ChallengeName"], "SMS_MFA");
    for settings in [
        json!({ "SMSMfaSettings": { "Enabled": true, "PreferredMfa": true },
            "SoftwareTokenMfaSettings": { "Enabled": true, "PreferredMfa": true } }),
        json!({ "SMSMfaSettings": { "PreferredMfa": true } }),
    ] {
        assert_eq!(refused(prefer(&stage, settings).await).0, "InvalidParameterException");
    }
    let user = stage.admin("AdminGetUser", json!({ "Username": ANN })).await.unwrap();
    assert_eq!(user["PreferredMfaSetting"], "SMS_MFA", "a refused change changes nothing");
}

#[tokio::test]
async fn where_a_second_factor_is_a_must_it_is_set_up_at_the_first_sign_in() {
    let stage = stage(|pool| {
        pool.mfa = MfaSeed { mode: MfaMode::On, software_token: true, sms: false, email: false };
    });
    let sub = stage.free_user(ANN).await;
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeName"], "MFA_SETUP");
    assert_eq!(asked["ChallengeParameters"]["MFAS_CAN_SETUP"], "[\"SOFTWARE_TOKEN_MFA\"]");
    let early = refused(answer(&stage, &asked, json!({})).await);
    assert_eq!(early, ("InvalidParameterException", "User has not verified software token mfa".into()));
    let verify = async |session: &Value, code: &str| {
        stage.call("VerifySoftwareToken", json!({ "Session": session, "UserCode": code })).await
    };
    assert_eq!(refused(verify(&asked["Session"], "123456").await).0, "InvalidParameterException");
    let associated = stage.call("AssociateSoftwareToken", json!({ "Session": asked["Session"] })).await.unwrap();
    let used = stage.call("AssociateSoftwareToken", json!({ "Session": asked["Session"] })).await;
    assert_eq!(refused(used).1, "Invalid session for the user, session can only be used once.");
    let wrong = refused(verify(&associated["Session"], "none").await);
    assert_eq!(wrong.0, "EnableSoftwareTokenMFAException");
    let secret = associated["SecretCode"].as_str().unwrap();
    let code = totp_code(secret, stage.site.now_s()).unwrap();
    let verified = verify(&associated["Session"], &code).await.unwrap();
    assert_eq!(verified["Status"], "SUCCESS");
    let set_up = json!({ "ChallengeName": "MFA_SETUP", "Session": verified["Session"] });
    let tokens = answer(&stage, &set_up, json!({})).await.unwrap();
    assert_eq!(sub_in(&stage, &tokens), sub.as_str());
    stage.pass(30);
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SOFTWARE_TOKEN_MFA");
}

#[tokio::test]
async fn a_pool_offers_what_its_administrator_says() {
    let stage = Stage::new();
    stage.free_user(ANN).await;
    let token = stage.sign_in(ANN).await["AccessToken"].take();
    let closed = refused(stage.call("AssociateSoftwareToken", json!({ "AccessToken": token })).await);
    let words = "Software Token MFA has not been enabled by the userPool";
    assert_eq!(closed, ("SoftwareTokenMFANotFoundException", words.into()));
    let config = stage.admin("GetUserPoolMfaConfig", json!({})).await.unwrap();
    assert_eq!(config, json!({ "MfaConfiguration": "OFF" }));
    let set = |body: Value| stage.admin("SetUserPoolMfaConfig", body);
    assert_eq!(refused(set(json!({ "MfaConfiguration": "ON" })).await).0, "InvalidParameterException");
    assert_eq!(refused(set(json!({ "MfaConfiguration": "MAYBE" })).await).0, "InvalidParameterException");
    let apps = json!({ "MfaConfiguration": "OPTIONAL", "SoftwareTokenMfaConfiguration": { "Enabled": true } });
    assert_eq!(set(apps.clone()).await.unwrap(), apps);
    let pool = stage.admin("DescribeUserPool", json!({})).await.unwrap();
    assert_eq!(pool["UserPool"]["MfaConfiguration"], "OPTIONAL");
    let secret = set_up_app(&stage).await;
    // Who has an app goes on with it where the pool offers apps no more.
    set(json!({ "SmsMfaConfiguration": {}, "SoftwareTokenMfaConfiguration": { "Enabled": false } })).await.unwrap();
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    let code = json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, stage.site.now_s()).unwrap() });
    answer(&stage, &asked, code).await.unwrap();
    set(json!({ "MfaConfiguration": "OFF" })).await.unwrap();
    assert!(begin(&stage, ANN, json!({})).await.unwrap()["AuthenticationResult"].is_object());
}

#[tokio::test]
async fn a_new_password_comes_with_what_the_pool_has_to_know_and_the_second_factor_follows() {
    let stage = stage(|pool| {
        pool.mfa = all_factors(MfaMode::On);
        pool.required_attributes = vec!["email".into(), "name".into()];
    });
    let verified = json!([{ "Name": "email_verified", "Value": "true" }]);
    stage.admin("AdminCreateUser", json!({ "Username": ANN, "UserAttributes": verified })).await.unwrap();
    let temporary = stage.code(ANN, CodePurpose::Invitation);
    let asked = begin(&stage, ANN, json!({ "PASSWORD": temporary })).await.unwrap();
    assert_eq!(asked["ChallengeParameters"]["requiredAttributes"], "[\"userAttributes.name\"]");
    let known: Value = serde_json::from_str(asked["ChallengeParameters"]["userAttributes"].as_str().unwrap()).unwrap();
    assert_eq!(known, json!({ "email": ANN, "email_verified": "true" }));
    let with = |more: Value| {
        let mut responses = json!({ "NEW_PASSWORD": PASSWORD });
        responses.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        answer(&stage, &asked, responses)
    };
    let missing = refused(with(json!({})).await);
    assert_eq!(missing, ("InvalidParameterException", "Invalid attributes given, name is missing".into()));
    let taken = refused(with(json!({ "userAttributes.email": "ben@example.com" })).await);
    assert_eq!(taken, ("NotAuthorizedException", "Cannot modify an already provided email".into()));
    let unheard = refused(with(json!({ "userAttributes.tier": "paid" })).await);
    assert_eq!(unheard.0, "InvalidParameterException");
    let flag = json!({ "userAttributes.name": "Ann", "userAttributes.phone_number_verified": "true" });
    assert_eq!(refused(with(flag).await).0, "NotAuthorizedException");
    let asked = with(json!({ "userAttributes.name": "Ann" })).await.unwrap();
    assert_eq!(asked["ChallengeName"], "EMAIL_OTP");
    let code = stage.code(ANN, CodePurpose::SecondFactor);
    let tokens = answer(&stage, &asked, json!({ "EMAIL_OTP_CODE": code })).await.unwrap();
    assert_eq!(stage.claims(&tokens["AuthenticationResult"]["IdToken"])["name"], "Ann");
}

#[tokio::test]
async fn the_hosted_page_asks_as_well_and_makes_no_device() {
    let stage = stage(|pool| {
        pool.mfa = all_factors(MfaMode::Optional);
        pool.devices = Some(DevicesSeed { replace_second_factor: true, ask_user: false });
    });
    let sub = stage.free_user(ANN).await;
    let secret = set_up_app(&stage).await;
    let asked = stage.user_pools.page_sign_in(CLIENT, ANN, PASSWORD).await.unwrap();
    let PageAnswer::Challenge { name, session, .. } = asked else { panic!("{asked:?}") };
    let respond = async |code: String| {
        let responses = json!({ "USERNAME": ANN, "SOFTWARE_TOKEN_MFA_CODE": code });
        stage.user_pools.page_answer(CLIENT, &name, &session, &responses).await
    };
    assert_eq!(respond("none".into()).await.unwrap_err().code, "CodeMismatchException");
    let signed_in = respond(totp_code(&secret, stage.site.now_s()).unwrap()).await.unwrap();
    let PageAnswer::SignedIn { sub: who } = signed_in else { panic!("{signed_in:?}") };
    assert_eq!(who, sub);
    let grant = TokenGrant {
        client_id: CLIENT.into(),
        sub,
        scopes: Scopes::of("openid"),
        nonce: None,
        auth_time_s: stage.site.now_s(),
    };
    let (tokens, _) = stage.user_pools.begin_tokens(grant).await.unwrap();
    assert!(tokens["NewDeviceMetadata"].is_null());
    let refresh_token = tokens["RefreshToken"].as_str().unwrap();
    stage.user_pools.refresh_tokens(CLIENT, refresh_token).await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_the_app_and_the_code_that_was_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut seeds = Seeds::default();
    seeds.user_pool.mfa = all_factors(MfaMode::Optional);
    let first = Stage::with(&seeds, Some(dir.path()));
    first.free_user(ANN).await;
    let secret = set_up_app(&first).await;
    let now_s = first.site.now_s();
    drop(first);
    let again = Stage::with(&seeds, Some(dir.path()));
    let asked = begin(&again, ANN, json!({})).await.unwrap();
    let code = |time_s: u64| json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, time_s).unwrap() });
    assert_eq!(refused(answer(&again, &asked, code(now_s - 30)).await).0, "ExpiredCodeException");
    answer(&again, &asked, code(now_s)).await.unwrap();
}
