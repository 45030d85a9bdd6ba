//! `USER_AUTH`: the ways to sign in that a user has.

use super::second_factors::{all_factors, answer, answer_as, set_up_app, stage};
use super::*;
use crate::local_cloud::seed::{MfaMode, UserPoolSeed};

const ANN: &str = "ann@example.com";
const TIMESTAMP: &str = "Tue Nov 3 09:05:01 UTC 2026";

fn with_choices(pool: &mut UserPoolSeed) {
    pool.first_factors = ["PASSWORD", "EMAIL_OTP", "SMS_OTP"].map(str::to_owned).to_vec();
    pool.clients.iter_mut().for_each(|client| client.explicit_auth_flows.push("ALLOW_USER_AUTH".into()));
}

async fn user_auth(stage: &Stage, name: &str, more: Value) -> Result<Value, AwsError> {
    let mut parameters = json!({ "USERNAME": name });
    parameters.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let body = json!({ "ClientId": CLIENT, "AuthFlow": "USER_AUTH", "AuthParameters": parameters });
    stage.call("InitiateAuth", body).await
}

#[tokio::test]
async fn a_user_is_shown_their_choices_and_signs_in_by_each_of_them() {
    let stage = stage(with_choices);
    let sub = stage.free_user(ANN).await;
    let phone = [("phone_number", "+12065551234"), ("phone_number_verified", "true")];
    let phone = phone.map(|(name, value)| json!({ "Name": name, "Value": value }));
    stage.admin("AdminUpdateUserAttributes", json!({ "Username": ANN, "UserAttributes": phone })).await.unwrap();
    let is_ann = |answer: &Value| stage.claims(&answer["AuthenticationResult"]["IdToken"])["sub"] == sub.as_str();
    let choose = async |more: Value| {
        let asked = user_auth(&stage, ANN, json!({})).await.unwrap();
        assert_eq!(asked["ChallengeName"], "SELECT_CHALLENGE");
        assert_eq!(asked["AvailableChallenges"], json!(["PASSWORD", "PASSWORD_SRP", "EMAIL_OTP", "SMS_OTP"]));
        answer(&stage, &asked, more).await
    };
    assert!(is_ann(&choose(json!({ "ANSWER": "PASSWORD", "PASSWORD": PASSWORD })).await.unwrap()));
    let wrong = refused(choose(json!({ "ANSWER": "PASSWORD", "PASSWORD": "wrong" })).await);
    assert_eq!(wrong, ("NotAuthorizedException", "Incorrect username or password.".into()));
    for answer in
        [json!({ "ANSWER": "WEB_AUTHN" }), json!({ "ANSWER": "PASSWORD" }), json!({ "ANSWER": "PASSWORD_SRP" })]
    {
        assert_eq!(refused(choose(answer).await).0, "InvalidParameterException");
    }

    let client = srp::client::Client::new();
    let asked = choose(json!({ "ANSWER": "PASSWORD_SRP", "SRP_A": client.srp_a() })).await.unwrap();
    assert_eq!(asked["ChallengeName"], "PASSWORD_VERIFIER");
    let text = |name: &str| asked["ChallengeParameters"][name].as_str().unwrap();
    let block = STANDARD.decode(text("SECRET_BLOCK")).unwrap();
    let who = ("TideTest1", text("USER_ID_FOR_SRP"), PASSWORD);
    let signature = client.signature(who, (text("SALT"), text("SRP_B")), &block, TIMESTAMP);
    let proof = json!({ "PASSWORD_CLAIM_SECRET_BLOCK": text("SECRET_BLOCK"), "TIMESTAMP": TIMESTAMP,
        "PASSWORD_CLAIM_SIGNATURE": STANDARD.encode(signature) });
    assert!(is_ann(&answer(&stage, &asked, proof).await.unwrap()));

    for (choice, to, medium) in [("EMAIL_OTP", ANN, "EMAIL"), ("SMS_OTP", "+12065551234", "SMS")] {
        let asked = choose(json!({ "ANSWER": choice })).await.unwrap();
        assert_eq!(asked["ChallengeName"], choice);
        assert_eq!(asked["ChallengeParameters"]["CODE_DELIVERY_DELIVERY_MEDIUM"], medium);
        let code = stage.code(to, CodePurpose::SignIn);
        assert_eq!(code.len(), 8);
        let field = format!("{choice}_CODE");
        let wrong = refused(answer(&stage, &asked, json!({ field.clone(): "none" })).await);
        assert_eq!(wrong.0, "CodeMismatchException");
        assert!(is_ann(&answer(&stage, &asked, json!({ field: code })).await.unwrap()));
    }
    let token = stage.sign_in(ANN).await["AccessToken"].take();
    let factors = stage.call("GetUserAuthFactors", json!({ "AccessToken": token })).await.unwrap();
    assert_eq!(factors["ConfiguredUserAuthFactors"], json!(["PASSWORD", "EMAIL_OTP", "SMS_OTP"]));
}

#[tokio::test]
async fn a_preferred_challenge_comes_at_once_where_the_user_has_it() {
    let stage = stage(with_choices);
    stage.free_user(ANN).await;
    let prefer = async |wanted: &str, more: Value| {
        let mut parameters = json!({ "PREFERRED_CHALLENGE": wanted });
        parameters.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        user_auth(&stage, ANN, parameters).await.unwrap()
    };
    let signed_in = prefer("PASSWORD", json!({ "PASSWORD": PASSWORD })).await;
    assert!(signed_in["AuthenticationResult"]["IdToken"].is_string());
    let srp = prefer("PASSWORD_SRP", json!({ "SRP_A": srp::client::Client::new().srp_a() })).await;
    assert_eq!(srp["ChallengeName"], "PASSWORD_VERIFIER");
    assert_eq!(prefer("EMAIL_OTP", json!({})).await["ChallengeName"], "EMAIL_OTP");
    for wanted in ["SMS_OTP", "WEB_AUTHN", "PASSWORD", "PASSWORD_SRP"] {
        assert_eq!(prefer(wanted, json!({})).await["ChallengeName"], "SELECT_CHALLENGE", "{wanted}");
    }
    let closed = super::second_factors::stage(|_| {});
    assert_eq!(refused(user_auth(&closed, ANN, json!({})).await).1, "USER_AUTH is not enabled for the client.");
}

#[tokio::test]
async fn a_code_alone_is_not_for_who_has_or_needs_a_second_factor() {
    for mode in [MfaMode::Optional, MfaMode::On] {
        let stage = stage(|pool| {
            with_choices(pool);
            pool.mfa = all_factors(MfaMode::Optional);
        });
        stage.free_user(ANN).await;
        set_up_app(&stage).await;
        if mode == MfaMode::On {
            stage.admin("SetUserPoolMfaConfig", json!({ "MfaConfiguration": "ON" })).await.unwrap();
            stage.sign_up("ben@example.com").await.unwrap();
        }
        let asked = user_auth(&stage, ANN, json!({ "PREFERRED_CHALLENGE": "EMAIL_OTP" })).await.unwrap();
        assert_eq!(asked["AvailableChallenges"], json!(["PASSWORD", "PASSWORD_SRP"]));
        let asked = answer(&stage, &asked, json!({ "ANSWER": "PASSWORD", "PASSWORD": PASSWORD })).await.unwrap();
        assert_ne!(asked["ChallengeName"], Value::Null, "the second factor is asked for");
        assert!(asked["AuthenticationResult"].is_null());
    }
}

#[tokio::test]
async fn choices_do_not_tell_whether_there_is_such_a_user() {
    let stage = stage(with_choices);
    stage.free_user(ANN).await;
    let nobody = "no@example.com";
    let asked = |name: &'static str| user_auth(&stage, name, json!({}));
    let (ann, no) = (asked(ANN).await.unwrap(), asked(nobody).await.unwrap());
    assert_eq!(ann["AvailableChallenges"], no["AvailableChallenges"]);
    let length = |asked: &Value| asked["ChallengeParameters"]["USERNAME"].as_str().unwrap().len();
    assert_eq!(length(&ann), length(&no));
    let as_nobody = (CLIENT, nobody);
    let password = json!({ "ANSWER": "PASSWORD", "PASSWORD": PASSWORD });
    let refusal = refused(answer_as(&stage, as_nobody, &no, password).await);
    assert_eq!(refusal, ("NotAuthorizedException", "Incorrect username or password.".into()));
    let before = stage.user_pools.outbox().len();
    let code = user_auth(&stage, nobody, json!({ "PREFERRED_CHALLENGE": "EMAIL_OTP" })).await.unwrap();
    assert_eq!(code["ChallengeParameters"]["CODE_DELIVERY_DESTINATION"], "n***@e***");
    assert_eq!(stage.user_pools.outbox().len(), before, "nothing is sent to nobody");
    let wrong = refused(answer_as(&stage, as_nobody, &code, json!({ "EMAIL_OTP_CODE": "12345678" })).await);
    assert_eq!(wrong.0, "CodeMismatchException");

    let body = json!({ "ClientId": LEGACY_CLIENT, "AuthFlow": "USER_AUTH", "AuthParameters": { "USERNAME": nobody } });
    assert_eq!(refused(stage.call("InitiateAuth", body).await).0, "UserNotFoundException");
}
