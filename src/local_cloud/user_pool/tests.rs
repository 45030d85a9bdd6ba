//! The user pool as its callers see it.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::sts::Principal;
use crate::local_cloud::test_stage::{
    BILLING, CLIENT, FREE, LEGACY_CLIENT, PAID, PASSWORD, POOL, REFRESH_S, ROTATING_CLIENT, Seeds, Stage, refused,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

mod accounts;
mod choices;
mod devices;
mod second_factors;
mod sessions;

#[tokio::test]
async fn a_user_signs_up_confirms_and_gets_tokens_that_anybody_can_check() {
    let stage = Stage::new();
    let answer = stage.sign_up("Ann@example.com").await.unwrap();
    assert_eq!(answer["UserConfirmed"], false);
    assert_eq!(answer["CodeDeliveryDetails"]["Destination"], "A***@e***");
    let sub = answer["UserSub"].as_str().unwrap();
    let unconfirmed = stage.sign_in_at(CLIENT, "ann@example.com", PASSWORD).await;
    assert_eq!(refused(unconfirmed), ("UserNotConfirmedException", "User is not confirmed.".into()));
    stage.confirm("ann@example.com", &stage.code("Ann@example.com", CodePurpose::ConfirmSignUp)).await.unwrap();
    stage.add_to("ann@example.com", "free-tier").await;
    stage.add_to(sub, "paid-tier").await;

    let tokens = stage.sign_in("ANN@example.com").await;
    assert_eq!((&tokens["TokenType"], &tokens["ExpiresIn"]), (&json!("Bearer"), &json!(1_800)));
    let id = stage.claims(&tokens["IdToken"]);
    let now_s = stage.site.now_s();
    assert_eq!(id["sub"], sub);
    assert_eq!(id["cognito:username"], sub);
    assert_eq!((&id["aud"], &id["token_use"]), (&json!(CLIENT), &json!("id")));
    assert_eq!((&id["email"], &id["email_verified"]), (&json!("Ann@example.com"), &json!(true)));
    assert_eq!(id["cognito:groups"], json!(["paid-tier", "free-tier"]));
    assert_eq!(id["cognito:roles"], json!([PAID, FREE]));
    assert_eq!(id["cognito:preferred_role"], PAID);
    assert_eq!((&id["auth_time"], &id["iat"], &id["exp"]), (&json!(now_s), &json!(now_s), &json!(now_s + 3_600)));
    let access = stage.claims(&tokens["AccessToken"]);
    assert_eq!((&access["client_id"], &access["token_use"]), (&json!(CLIENT), &json!("access")));
    assert_eq!(access["scope"], "aws.cognito.signin.user.admin");
    assert_eq!((&access["username"], &access["exp"]), (&json!(sub), &json!(now_s + 1_800)));
    assert_eq!(access["cognito:groups"], json!(["paid-tier", "free-tier"]));
    assert!(access.get("cognito:roles").is_none() && access.get("aud").is_none());
    assert_eq!(id["origin_jti"], access["origin_jti"]);
    assert_eq!(id["event_id"], access["event_id"]);
    assert_ne!(id["jti"], access["jti"]);

    let user = stage.call("GetUser", json!({ "AccessToken": tokens["AccessToken"] })).await.unwrap();
    assert_eq!(user["Username"], sub);
    let configuration = stage.user_pools.openid_configuration(POOL).unwrap();
    assert_eq!(configuration["issuer"], id["iss"]);
    assert!(stage.user_pools.jwks("us-east-1_Other").is_none());
}

#[tokio::test]
async fn wrong_calls_get_awss_codes_and_words() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    stage.sign_up("ben@example.com").await.unwrap();
    let sign_up = |name: &str, password: &str| json!({ "ClientId": CLIENT, "Username": name, "Password": password });
    let sign_in = |client: &str, name: &str, password: &str| {
        json!({ "ClientId": client, "AuthFlow": "USER_PASSWORD_AUTH",
            "AuthParameters": { "USERNAME": name, "PASSWORD": password } })
    };
    let code = |client: &str, name: &str, code: &str| json!({ "ClientId": client, "Username": name, "ConfirmationCode": code, "Password": PASSWORD });
    let with_attribute = |name: &str, value: &str| {
        let attributes = json!([{ "Name": name, "Value": value }]);
        json!({ "ClientId": CLIENT, "Username": "cat@example.com", "Password": PASSWORD, "UserAttributes": attributes })
    };
    let named = |client: &str, name: &str| json!({ "ClientId": client, "Username": name });
    let wrong_password = "Incorrect username or password.";
    let no_combination = "Username/client id combination not found.";
    let mismatch = "Invalid verification code provided, please try again.";
    let expired = "Invalid code provided, please request a code again.";
    let cases = [
        (
            "SignUp",
            sign_up("ann@example.com", PASSWORD),
            "UsernameExistsException",
            "An account with the given email already exists.",
        ),
        ("SignUp", sign_up("ANN@EXAMPLE.COM", PASSWORD), "UsernameExistsException", "already exists"),
        ("SignUp", sign_up("cat", PASSWORD), "InvalidParameterException", "Username should be an email."),
        ("SignUp", sign_up("c@d", PASSWORD), "InvalidParameterException", "Username should be an email."),
        (
            "SignUp",
            sign_up("cat@example.com", "Ab1!"),
            "InvalidPasswordException",
            "Password did not conform with policy: Password not long enough",
        ),
        (
            "SignUp",
            json!({ "ClientId": CLIENT, "Password": PASSWORD }),
            "InvalidParameterException",
            "Value null at 'username'",
        ),
        (
            "SignUp",
            json!({ "ClientId": "nope", "Username": "a", "Password": "b" }),
            "ResourceNotFoundException",
            "User pool client nope does not exist.",
        ),
        ("SignUp", with_attribute("email_verified", "true"), "NotAuthorizedException", "unauthorized attribute"),
        ("SignUp", with_attribute("tier", "paid"), "InvalidParameterException", "could not be determined"),
        ("ConfirmSignUp", code(CLIENT, "ben@example.com", "000"), "CodeMismatchException", mismatch),
        (
            "ConfirmSignUp",
            code(CLIENT, "ann@example.com", "000"),
            "NotAuthorizedException",
            "User cannot be confirmed. Current status is CONFIRMED",
        ),
        ("ConfirmSignUp", code(CLIENT, "no@example.com", "000"), "ExpiredCodeException", expired),
        ("ConfirmSignUp", code(LEGACY_CLIENT, "no@example.com", "000"), "UserNotFoundException", no_combination),
        (
            "ResendConfirmationCode",
            named(CLIENT, "ann@example.com"),
            "InvalidParameterException",
            "User is already confirmed.",
        ),
        ("ResendConfirmationCode", named(LEGACY_CLIENT, "no@example.com"), "UserNotFoundException", no_combination),
        ("ForgotPassword", named(LEGACY_CLIENT, "no@example.com"), "UserNotFoundException", no_combination),
        (
            "ForgotPassword",
            named(CLIENT, "ben@example.com"),
            "InvalidParameterException",
            "no registered/verified email",
        ),
        ("ConfirmForgotPassword", code(CLIENT, "ann@example.com", "1"), "ExpiredCodeException", expired),
        ("ConfirmForgotPassword", code(CLIENT, "no@example.com", "1"), "CodeMismatchException", mismatch),
        ("InitiateAuth", sign_in(CLIENT, "ann@example.com", "wrong"), "NotAuthorizedException", wrong_password),
        ("InitiateAuth", sign_in(CLIENT, "ben@example.com", "wrong"), "NotAuthorizedException", wrong_password),
        ("InitiateAuth", sign_in(CLIENT, "no@example.com", PASSWORD), "NotAuthorizedException", wrong_password),
        (
            "InitiateAuth",
            sign_in(LEGACY_CLIENT, "no@example.com", PASSWORD),
            "UserNotFoundException",
            "User does not exist.",
        ),
        (
            "InitiateAuth",
            json!({ "ClientId": CLIENT, "AuthFlow": "USER_PASSWORD_AUTH", "AuthParameters": { "USERNAME": "a" } }),
            "InvalidParameterException",
            "Missing required parameter PASSWORD",
        ),
        (
            "InitiateAuth",
            json!({ "ClientId": CLIENT, "AuthFlow": "WISH" }),
            "InvalidParameterException",
            "enum value set",
        ),
        (
            "InitiateAuth",
            json!({ "ClientId": CLIENT, "AuthFlow": "CUSTOM_AUTH" }),
            "InvalidParameterException",
            "not enabled",
        ),
        (
            "InitiateAuth",
            json!({ "ClientId": CLIENT, "AuthFlow": "REFRESH_TOKEN_AUTH", "AuthParameters": { "REFRESH_TOKEN": "x" } }),
            "NotAuthorizedException",
            "Invalid Refresh Token",
        ),
        (
            "RespondToAuthChallenge",
            json!({ "ClientId": CLIENT, "ChallengeName": "CUSTOM_CHALLENGE" }),
            "InvalidParameterException",
            "was not asked",
        ),
        (
            "RespondToAuthChallenge",
            json!({ "ClientId": CLIENT, "ChallengeName": "SMS_MFA", "ChallengeResponses": { "USERNAME": "a" } }),
            "InvalidParameterException",
            "Missing required parameter SMS_MFA_CODE",
        ),
        (
            "RespondToAuthChallenge",
            json!({ "ClientId": CLIENT, "ChallengeName": "SMS_MFA",
                "ChallengeResponses": { "USERNAME": "a", "SMS_MFA_CODE": "1" } }),
            "InvalidParameterException",
            "Missing required parameter Session",
        ),
        ("GetUser", json!({ "AccessToken": "a.b.c" }), "NotAuthorizedException", "Invalid Access Token"),
        ("GetUser", json!({}), "InvalidParameterException", "Value null at 'accessToken'"),
        ("MakeCoffee", json!({}), "UnknownOperationException", ""),
    ];
    for (action, body, code, words) in cases {
        let (got, message) = refused(stage.call(action, body.clone()).await);
        assert_eq!(got, code, "{action} {body}: {message}");
        assert!(message.contains(words), "{action} {body}: {message}");
        assert!(!message.contains(PASSWORD), "{action}: a password in a refusal");
    }
    // Where existence must not show, a code is "sent" to nobody.
    let before = stage.user_pools.outbox().len();
    let answer = stage.call("ForgotPassword", named(CLIENT, "no@example.com")).await.unwrap();
    assert_eq!(answer["CodeDeliveryDetails"]["Destination"], "n***@e***");
    assert_eq!(stage.user_pools.outbox().len(), before);
    assert_eq!(stage.site.counters.of("cognito-idp:ForgotPassword"), 3);
}

#[tokio::test]
async fn codes_expire_are_resent_and_lock_after_five_wrong_ones() {
    let stage = Stage::new();
    stage.sign_up("ann@example.com").await.unwrap();
    let old = stage.code("ann@example.com", CodePurpose::ConfirmSignUp);
    stage.pass(24 * 3_600);
    assert_eq!(refused(stage.confirm("ann@example.com", &old).await).0, "ExpiredCodeException");
    let named = json!({ "ClientId": CLIENT, "Username": "ann@example.com" });
    stage.call("ResendConfirmationCode", named.clone()).await.unwrap();
    for _ in 0..5 {
        assert_eq!(refused(stage.confirm("ann@example.com", "none").await).0, "CodeMismatchException");
    }
    let code = stage.code("ann@example.com", CodePurpose::ConfirmSignUp);
    assert_eq!(refused(stage.confirm("ann@example.com", &code).await).0, "LimitExceededException");
    stage.pass(15 * 60);
    stage.confirm("ann@example.com", &code).await.unwrap();
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_by_a_code() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    stage.call("ForgotPassword", json!({ "ClientId": CLIENT, "Username": "ann@example.com" })).await.unwrap();
    let code = stage.code("ann@example.com", CodePurpose::ResetPassword);
    let confirm = |password: &str| {
        let body = json!({ "ClientId": CLIENT, "Username": "ann@example.com", "ConfirmationCode": code,
            "Password": password });
        stage.call("ConfirmForgotPassword", body)
    };
    assert_eq!(refused(confirm("short").await).0, "InvalidPasswordException");
    confirm("Another-2026").await.unwrap();
    assert_eq!(refused(confirm("Another-2027").await).0, "ExpiredCodeException");
    assert_eq!(refused(stage.sign_in_at(CLIENT, "ann@example.com", PASSWORD).await).0, "NotAuthorizedException");
    stage.sign_in_at(CLIENT, "ann@example.com", "Another-2026").await.unwrap();
}

#[tokio::test]
async fn wrong_passwords_in_a_row_lock_for_a_while() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    for _ in 0..5 {
        let (_, message) = refused(stage.sign_in_at(CLIENT, "ann@example.com", "wrong").await);
        assert_eq!(message, "Incorrect username or password.");
    }
    let locked = refused(stage.sign_in_at(CLIENT, "ann@example.com", PASSWORD).await);
    assert_eq!(locked, ("NotAuthorizedException", "Password attempts exceeded".into()));
    stage.pass(1);
    stage.sign_in("ann@example.com").await;
}

#[tokio::test]
async fn srp_signs_in_without_showing_the_password() {
    let stage = Stage::new();
    let sub = stage.free_user("ann@example.com").await;
    let timestamp = "Tue Nov 3 09:05:01 UTC 2026";
    let attempt = async |name: &str, password: &str, timestamp: &str| {
        let client = srp::client::Client::new();
        let body = json!({ "ClientId": CLIENT, "AuthFlow": "USER_SRP_AUTH",
            "AuthParameters": { "USERNAME": name, "SRP_A": client.srp_a() } });
        let challenge = stage.call("InitiateAuth", body).await.unwrap();
        assert_eq!(challenge["ChallengeName"], "PASSWORD_VERIFIER");
        let asked = |name: &str| challenge["ChallengeParameters"][name].as_str().unwrap().to_owned();
        let signature = client.signature(
            ("TideTest1", &asked("USER_ID_FOR_SRP"), password),
            (&asked("SALT"), &asked("SRP_B")),
            &STANDARD.decode(asked("SECRET_BLOCK")).unwrap(),
            timestamp,
        );
        json!({ "ClientId": CLIENT, "ChallengeName": "PASSWORD_VERIFIER", "ChallengeResponses": {
            "USERNAME": asked("USERNAME"), "PASSWORD_CLAIM_SECRET_BLOCK": asked("SECRET_BLOCK"),
            "TIMESTAMP": timestamp, "PASSWORD_CLAIM_SIGNATURE": STANDARD.encode(signature),
        } })
    };
    let respond = |body: Value| stage.call("RespondToAuthChallenge", body);

    let answer = attempt("ann@example.com", PASSWORD, timestamp).await;
    let tokens = respond(answer.clone()).await.unwrap();
    assert_eq!(stage.claims(&tokens["AuthenticationResult"]["IdToken"])["sub"], sub.as_str());
    let replayed = refused(respond(answer).await);
    let once = "Invalid session for the user, session can only be used once.";
    assert_eq!(replayed, ("NotAuthorizedException", once.into()));

    let wrong = refused(respond(attempt("ann@example.com", "Tide-gate-2027", timestamp).await).await);
    assert_eq!(wrong, ("NotAuthorizedException", "Incorrect username or password.".into()));
    let nobody = refused(respond(attempt("no@example.com", PASSWORD, timestamp).await).await);
    assert_eq!(nobody, wrong);
    let format = refused(respond(attempt("ann@example.com", PASSWORD, "2026-11-03").await).await);
    assert_eq!(format.0, "InvalidParameterException");
    let late = attempt("ann@example.com", PASSWORD, timestamp).await;
    stage.pass(180);
    assert_eq!(refused(respond(late).await).1, "Invalid session for the user, session is expired.");

    // A challenge does not tell whether there is such a user.
    let challenge = async |name: &str| {
        let parameters = json!({ "USERNAME": name, "SRP_A": srp::client::Client::new().srp_a() });
        let body = json!({ "ClientId": CLIENT, "AuthFlow": "USER_SRP_AUTH", "AuthParameters": parameters });
        let mut challenge = stage.call("InitiateAuth", body).await.unwrap()["ChallengeParameters"].take();
        let mut text = |name: &str| challenge[name].take().as_str().unwrap().to_owned();
        (text("USER_ID_FOR_SRP"), text("SALT"))
    };
    let (user, nobody) = (challenge("ann@example.com").await, challenge("no@example.com").await);
    assert_eq!((user.0.len(), user.1.len()), (nobody.0.len(), nobody.1.len()));
    assert_eq!(nobody, challenge("No@example.com").await);
    assert_ne!(nobody, challenge("none@example.com").await);

    let bad = json!({ "ClientId": CLIENT, "AuthFlow": "USER_SRP_AUTH",
        "AuthParameters": { "USERNAME": "ann@example.com", "SRP_A": "0" } });
    assert_eq!(refused(stage.call("InitiateAuth", bad).await).0, "InvalidParameterException");
}

#[tokio::test]
async fn flows_that_the_client_does_not_name_are_closed() {
    let mut seeds = Seeds::default();
    seeds.user_pool.clients = vec![
        UserPoolClientSeed { id: CLIENT.into(), ..UserPoolClientSeed::default() },
        UserPoolClientSeed {
            id: LEGACY_CLIENT.into(),
            explicit_auth_flows: vec!["ALLOW_ADMIN_USER_PASSWORD_AUTH".into()],
            ..UserPoolClientSeed::default()
        },
    ];
    seeds.user_pool.allow_sign_up = false;
    let stage = Stage::with(&seeds, None);
    assert_eq!(refused(stage.sign_up("ann@example.com").await).1, "SignUp is not permitted for this user pool");
    let closed = refused(stage.sign_in_at(CLIENT, "ann@example.com", PASSWORD).await);
    assert_eq!(closed.1, "USER_PASSWORD_AUTH flow not enabled for this client");
    let srp = json!({ "ClientId": LEGACY_CLIENT, "AuthFlow": "USER_SRP_AUTH" });
    assert_eq!(refused(stage.call("InitiateAuth", srp).await).1, "USER_SRP_AUTH is not enabled for the client.");

    stage.admin("AdminCreateUser", json!({ "Username": "ann@example.com" })).await.unwrap();
    let password = json!({ "Username": "ann@example.com", "Password": PASSWORD, "Permanent": true });
    stage.admin("AdminSetUserPassword", password).await.unwrap();
    let parameters = json!({ "USERNAME": "ann@example.com", "PASSWORD": PASSWORD });
    let sign_in = |client: &str| {
        stage.admin(
            "AdminInitiateAuth",
            json!({ "ClientId": client, "AuthFlow": "ADMIN_USER_PASSWORD_AUTH", "AuthParameters": parameters }),
        )
    };
    assert_eq!(refused(sign_in(CLIENT).await).0, "InvalidParameterException");
    let tokens = sign_in(LEGACY_CLIENT).await.unwrap();
    assert_eq!(tokens["AuthenticationResult"]["ExpiresIn"], 3_600);
}

#[tokio::test]
async fn a_temporary_password_has_to_be_replaced() {
    let stage = Stage::new();
    let verified = json!([{ "Name": "email_verified", "Value": "true" }]);
    let body = json!({ "Username": "ann@example.com", "UserAttributes": verified });
    let user = stage.admin("AdminCreateUser", body).await.unwrap();
    assert_eq!(user["User"]["UserStatus"], "FORCE_CHANGE_PASSWORD");
    let temporary = stage.code("ann@example.com", CodePurpose::Invitation);
    let parameters = json!({ "USERNAME": "ann@example.com", "PASSWORD": temporary });
    let body = json!({ "ClientId": CLIENT, "AuthFlow": "USER_PASSWORD_AUTH", "AuthParameters": parameters });
    let challenge = stage.call("InitiateAuth", body).await.unwrap();
    assert_eq!(challenge["ChallengeName"], "NEW_PASSWORD_REQUIRED");
    let respond = |password: &str| {
        let responses = json!({ "USERNAME": "ann@example.com", "NEW_PASSWORD": password });
        let body = json!({ "ClientId": CLIENT, "ChallengeName": "NEW_PASSWORD_REQUIRED",
            "Session": challenge["Session"], "ChallengeResponses": responses });
        stage.call("RespondToAuthChallenge", body)
    };
    assert_eq!(refused(respond("short").await).0, "InvalidPasswordException");
    assert!(respond(PASSWORD).await.unwrap()["AuthenticationResult"]["IdToken"].is_string());
    let once = "Invalid session for the user, session can only be used once.";
    assert_eq!(refused(respond(PASSWORD).await).1, once);
    stage.sign_in("ann@example.com").await;
}

#[tokio::test]
async fn administrators_calls_need_the_administrator_or_a_role_that_may() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let role = |arn: &str| {
        Auth::Role(Principal {
            arn: format!("arn:aws:sts::000000000000:assumed-role/{}/s", arn.rsplit('/').next().unwrap()),
            role_arn: Some(arn.into()),
            context: BTreeMap::new(),
        })
    };
    let upgrade = json!({ "UserPoolId": POOL, "Username": "ann@example.com", "GroupName": "paid-tier" });
    let call = async |action: &str, auth: &Auth| stage.user_pools.call(action, upgrade.clone(), auth).await;
    let anonymous = refused(call("AdminAddUserToGroup", &Auth::Anonymous).await);
    assert_eq!(anonymous.0, "MissingAuthenticationTokenException");
    let (code, message) = refused(call("AdminAddUserToGroup", &role(FREE)).await);
    assert_eq!(code, "AccessDeniedException");
    assert!(message.contains("cognito-idp:AdminAddUserToGroup") && message.contains(POOL), "{message}");
    assert_eq!(refused(call("AdminDeleteUser", &role(BILLING)).await).0, "AccessDeniedException");
    call("AdminAddUserToGroup", &role(BILLING)).await.unwrap();
    let groups = stage.admin("AdminListGroupsForUser", json!({ "Username": "ann@example.com" })).await.unwrap();
    assert_eq!(groups["Groups"][0]["GroupName"], "paid-tier");

    for action in OPERATIONS.iter().map(|operation| operation.name) {
        let is_administrators = ["Admin", "List", "Describe", "GetGroup"].iter().any(|word| action.starts_with(word))
            && action != "ListDevices"
            || action.ends_with("UserPoolMfaConfig");
        let (code, _) = refused(call(action, &Auth::Anonymous).await);
        assert_eq!(code == "MissingAuthenticationTokenException", is_administrators, "{action}");
    }
    let elsewhere = json!({ "UserPoolId": "us-east-1_Other", "Username": "a" });
    let elsewhere = refused(stage.user_pools.call("AdminGetUser", elsewhere, &Auth::Administrator).await);
    assert_eq!(elsewhere, ("ResourceNotFoundException", "User pool us-east-1_Other does not exist.".into()));
    let unknown = [
        ("AdminGetUser", json!({ "Username": "x" }), "UserNotFoundException", "User does not exist."),
        (
            "AdminAddUserToGroup",
            json!({ "Username": "ann@example.com", "GroupName": "x" }),
            "ResourceNotFoundException",
            "Group not found.",
        ),
    ];
    for (action, body, code, message) in unknown {
        assert_eq!(refused(stage.admin(action, body).await), (code, message.into()));
    }
}

#[tokio::test]
async fn listings_have_pages_and_filters() {
    let stage = Stage::new();
    for number in 0..5 {
        stage.free_user(&format!("user{number}@example.com")).await;
    }
    let mut found = Vec::new();
    let mut body = json!({ "Limit": 2 });
    loop {
        let page = stage.admin("ListUsers", body.clone()).await.unwrap();
        let users = page["Users"].as_array().unwrap();
        assert!(users.len() <= 2);
        found.extend(users.iter().map(|user| user["Username"].as_str().unwrap().to_owned()));
        if page["PaginationToken"].is_null() {
            break;
        }
        body["PaginationToken"] = page["PaginationToken"].clone();
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 5);
    let filtered = stage.admin("ListUsers", json!({ "Filter": "email = \"user3@example.com\"" })).await.unwrap();
    assert_eq!(filtered["Users"].as_array().unwrap().len(), 1);
    assert_eq!(filtered["Users"][0]["UserStatus"], "CONFIRMED");
    let members = stage.admin("ListUsersInGroup", json!({ "GroupName": "free-tier" })).await.unwrap();
    assert_eq!(members["Users"].as_array().unwrap().len(), 5);
    let groups = stage.admin("ListGroups", json!({ "Limit": 1 })).await.unwrap();
    let more = stage.admin("ListGroups", json!({ "Limit": 1, "NextToken": groups["NextToken"] })).await.unwrap();
    assert_eq!((&groups["Groups"][0]["RoleArn"], &more["Groups"][0]["RoleArn"]), (&json!(FREE), &json!(PAID)));
    assert!(more["NextToken"].is_null());
    for (action, body) in [
        ("ListUsers", json!({ "Filter": "email" })),
        ("ListUsers", json!({ "Limit": 61 })),
        ("ListGroups", json!({ "NextToken": "%" })),
    ] {
        assert_eq!(refused(stage.admin(action, body).await).0, "InvalidParameterException");
    }
    let pool = stage.admin("DescribeUserPool", json!({})).await.unwrap();
    assert_eq!(pool["UserPool"]["EstimatedNumberOfUsers"], 5);
    let client = stage.admin("DescribeUserPoolClient", json!({ "ClientId": ROTATING_CLIENT })).await.unwrap();
    assert_eq!(client["UserPoolClient"]["RefreshTokenRotation"]["RetryGracePeriodSeconds"], 30);
    assert_eq!(client["UserPoolClient"]["AuthSessionValidity"], 3);
    let clients = stage.admin("ListUserPoolClients", json!({})).await.unwrap();
    assert_eq!(clients["UserPoolClients"].as_array().unwrap().len(), 3);
    let pools = stage.admin("ListUserPools", json!({ "MaxResults": 10 })).await.unwrap();
    assert_eq!(pools["UserPools"][0]["Id"], POOL);
}

#[tokio::test]
async fn an_address_belongs_to_one_user() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    stage.free_user("ben@example.com").await;
    let change = |address: &str| {
        let attributes = json!([{ "Name": "email", "Value": address }]);
        stage.admin("AdminUpdateUserAttributes", json!({ "Username": "ben@example.com", "UserAttributes": attributes }))
    };
    assert_eq!(refused(change("Ann@example.com").await).0, "AliasExistsException");
    change("benjamin@example.com").await.unwrap();
    let tokens = stage.sign_in("benjamin@example.com").await;
    assert_eq!(stage.claims(&tokens["IdToken"])["email_verified"], false);
    assert_eq!(refused(stage.sign_in_at(CLIENT, "ben@example.com", PASSWORD).await).0, "NotAuthorizedException");
    stage.sign_up("ben@example.com").await.unwrap();
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_no_file_shows_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let first = Stage::with(&Seeds::default(), Some(dir.path()));
    let sub = first.free_user("ann@example.com").await;
    first.sign_up("ben@example.com").await.unwrap();
    let code = first.code("ben@example.com", CodePurpose::ConfirmSignUp);
    let tokens = first.sign_in("ann@example.com").await;
    drop(first);

    let mut kept = String::new();
    let users = dir.path().join("user_pools").join(POOL).join("users");
    for entry in std::fs::read_dir(users).unwrap() {
        kept += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    assert!(kept.contains("ann@example.com"));
    assert!(!kept.contains(PASSWORD) && !kept.contains(tokens["RefreshToken"].as_str().unwrap()));

    let again = Stage::with(&Seeds::default(), Some(dir.path()));
    again.confirm("ben@example.com", &code).await.unwrap();
    let body = json!({ "ClientId": CLIENT, "RefreshToken": tokens["RefreshToken"] });
    let refreshed = again.call("GetTokensFromRefreshToken", body).await.unwrap();
    let claims = again.claims(&refreshed["AuthenticationResult"]["IdToken"]);
    assert_eq!((&claims["sub"], &claims["cognito:groups"]), (&json!(sub), &json!(["free-tier"])));
    assert_eq!(again.claims(&tokens["IdToken"])["sub"], sub.as_str());
    again.admin("AdminDeleteUser", json!({ "Username": "ann@example.com" })).await.unwrap();
    drop(again);
    let last = Stage::with(&Seeds::default(), Some(dir.path()));
    assert_eq!(refused(last.sign_in_at(CLIENT, "ann@example.com", PASSWORD).await).0, "NotAuthorizedException");
}
