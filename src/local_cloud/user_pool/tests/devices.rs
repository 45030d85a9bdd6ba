//! Remembered devices as a client meets them.

use super::second_factors::{all_factors, answer, begin, set_up_app};
use super::*;
use crate::local_cloud::seed::{DevicesSeed, MfaMode};
use crate::local_cloud::user_pool::totp_code;

const ANN: &str = "ann@example.com";
const DEVICE_PASSWORD: &str = "made by the device itself";
const TIMESTAMP: &str = "Tue Nov 3 09:05:01 UTC 2026";

fn seeds(replace_second_factor: bool, ask_user: bool) -> Seeds {
    let mut seeds = Seeds::default();
    seeds.user_pool.mfa = all_factors(MfaMode::Optional);
    seeds.user_pool.devices = Some(DevicesSeed { replace_second_factor, ask_user });
    seeds
}

/// A device as its client keeps it.
#[derive(Debug, Clone)]
struct Kept {
    key: String,
    group_key: String,
}

impl Kept {
    fn of(answer: &Value) -> Self {
        let new = &answer["AuthenticationResult"]["NewDeviceMetadata"];
        let text = |name: &str| new[name].as_str().unwrap().to_owned();
        Self { key: text("DeviceKey"), group_key: text("DeviceGroupKey") }
    }

    async fn confirm(&self, stage: &Stage, access_token: &Value) -> Result<Value, AwsError> {
        let (salt, verifier) = srp::client::device_secret(&self.group_key, &self.key, DEVICE_PASSWORD);
        let config = json!({ "Salt": STANDARD.encode(salt), "PasswordVerifier": STANDARD.encode(verifier) });
        let body = json!({ "AccessToken": access_token, "DeviceKey": self.key, "DeviceName": "kiosk",
            "DeviceSecretVerifierConfig": config });
        stage.call("ConfirmDevice", body).await
    }

    /// Proves the device after `DEVICE_SRP_AUTH`.
    async fn prove(&self, stage: &Stage, asked: &Value, password: &str) -> Result<Value, AwsError> {
        let client = srp::client::Client::new();
        let begun = answer(stage, asked, json!({ "DEVICE_KEY": self.key, "SRP_A": client.srp_a() })).await?;
        assert_eq!(begun["ChallengeName"], "DEVICE_PASSWORD_VERIFIER");
        let text = |name: &str| begun["ChallengeParameters"][name].as_str().unwrap();
        let block = STANDARD.decode(text("SECRET_BLOCK")).unwrap();
        let who = (self.group_key.as_str(), self.key.as_str(), password);
        let signature = client.signature(who, (text("SALT"), text("SRP_B")), &block, TIMESTAMP);
        let responses = json!({ "DEVICE_KEY": self.key, "PASSWORD_CLAIM_SECRET_BLOCK": text("SECRET_BLOCK"),
            "TIMESTAMP": TIMESTAMP, "PASSWORD_CLAIM_SIGNATURE": STANDARD.encode(signature) });
        answer(stage, &begun, responses).await
    }
}

fn tokens(answer: &Value) -> &Value {
    &answer["AuthenticationResult"]
}

async fn refresh(stage: &Stage, tokens: &Value, device_key: Option<&str>) -> [Result<Value, AwsError>; 2] {
    let mut parameters = json!({ "REFRESH_TOKEN": tokens["RefreshToken"] });
    let mut body = json!({ "ClientId": CLIENT, "RefreshToken": tokens["RefreshToken"] });
    if let Some(key) = device_key {
        parameters["DEVICE_KEY"] = json!(key);
        body["DeviceKey"] = json!(key);
    }
    let flow = json!({ "ClientId": CLIENT, "AuthFlow": "REFRESH_TOKEN_AUTH", "AuthParameters": parameters });
    [stage.call("GetTokensFromRefreshToken", body).await, stage.call("InitiateAuth", flow).await]
}

#[tokio::test]
async fn a_remembered_device_stands_in_for_the_second_factor() {
    let stage = Stage::with(&seeds(true, false), None);
    let sub = stage.free_user(ANN).await;
    let secret = set_up_app(&stage).await;
    let code = || json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, stage.site.now_s()).unwrap() });
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    let first = answer(&stage, &asked, code()).await.unwrap();
    let device = Kept::of(&first);
    assert!(device.key.starts_with("us-east-1_") && device.group_key.starts_with('-'), "{device:?}");
    assert_eq!(stage.claims(&tokens(&first)["AccessToken"])["device_key"], device.key.as_str());

    for answer in refresh(&stage, tokens(&first), Some(&device.key)).await {
        assert_eq!(refused(answer), ("NotAuthorizedException", "Invalid Refresh Token".into()), "not confirmed yet");
    }
    let confirmed = device.confirm(&stage, &tokens(&first)["AccessToken"]).await.unwrap();
    assert_eq!(confirmed, json!({ "UserConfirmationNecessary": false }));
    let again = refused(device.confirm(&stage, &tokens(&first)["AccessToken"]).await);
    assert_eq!(again, ("InvalidParameterException", "Invalid device key given.".into()));
    for answer in refresh(&stage, tokens(&first), Some(&device.key)).await {
        let refreshed = answer.unwrap();
        assert_eq!(stage.claims(&tokens(&refreshed)["AccessToken"])["device_key"], device.key.as_str());
        assert!(tokens(&refreshed)["NewDeviceMetadata"].is_null());
    }
    for wrong in [None, Some("us-east-1_other")] {
        for answer in refresh(&stage, tokens(&first), wrong).await {
            assert_eq!(refused(answer).1, "Invalid Refresh Token");
        }
    }

    let asked = begin(&stage, ANN, json!({ "DEVICE_KEY": device.key })).await.unwrap();
    assert_eq!(asked["ChallengeName"], "DEVICE_SRP_AUTH");
    let second = device.prove(&stage, &asked, DEVICE_PASSWORD).await.unwrap();
    assert_eq!(stage.claims(&tokens(&second)["IdToken"])["sub"], sub.as_str());
    assert!(tokens(&second)["NewDeviceMetadata"].is_null());
    assert!(refresh(&stage, tokens(&second), Some(&device.key)).await.iter().all(Result::is_ok));
    let used = refused(device.prove(&stage, &asked, DEVICE_PASSWORD).await);
    assert_eq!(used.1, "Invalid session for the user, session can only be used once.");
    // Whoever knows the key but not the secret is not the device.
    let asked = begin(&stage, ANN, json!({ "DEVICE_KEY": device.key })).await.unwrap();
    let wrong = refused(device.prove(&stage, &asked, "another password").await);
    assert_eq!(wrong, ("NotAuthorizedException", "Incorrect username or password.".into()));
    let other = Kept { key: "us-east-1_other".into(), ..device.clone() };
    let asked = begin(&stage, ANN, json!({ "DEVICE_KEY": device.key })).await.unwrap();
    assert_eq!(refused(other.prove(&stage, &asked, DEVICE_PASSWORD).await).1, "Invalid session for the user.");
    // And on another device the code is asked for as ever.
    let asked = begin(&stage, ANN, json!({})).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SOFTWARE_TOKEN_MFA");
}

#[tokio::test]
async fn only_a_remembered_device_stands_in_and_only_where_the_pool_says_so() {
    let stage = Stage::with(&seeds(true, true), None);
    stage.free_user(ANN).await;
    let first = begin(&stage, ANN, json!({})).await.unwrap();
    let device = Kept::of(&first);
    let token = tokens(&first)["AccessToken"].clone();
    assert_eq!(device.confirm(&stage, &token).await.unwrap(), json!({ "UserConfirmationNecessary": true }));
    // An app is set up on a sign-in of its own, which is a device of its own.
    let secret = set_up_app(&stage).await;
    let code = || json!({ "SOFTWARE_TOKEN_MFA_CODE": totp_code(&secret, stage.site.now_s()).unwrap() });
    let here = json!({ "DEVICE_KEY": device.key });
    let asked = begin(&stage, ANN, here.clone()).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SOFTWARE_TOKEN_MFA");
    let asked = answer(&stage, &asked, code()).await.unwrap();
    assert_eq!(asked["ChallengeName"], "DEVICE_SRP_AUTH");
    let signed_in = device.prove(&stage, &asked, DEVICE_PASSWORD).await.unwrap();
    let token = tokens(&signed_in)["AccessToken"].clone();

    let status = |status: &str| {
        let body = json!({ "AccessToken": token, "DeviceKey": device.key, "DeviceRememberedStatus": status });
        stage.call("UpdateDeviceStatus", body)
    };
    assert_eq!(refused(status("trusted").await).0, "InvalidParameterException");
    status("remembered").await.unwrap();
    assert_eq!(begin(&stage, ANN, here.clone()).await.unwrap()["ChallengeName"], "DEVICE_SRP_AUTH");
    status("not_remembered").await.unwrap();
    assert_eq!(begin(&stage, ANN, here.clone()).await.unwrap()["ChallengeName"], "SOFTWARE_TOKEN_MFA");

    let known_only = Stage::with(&seeds(false, false), None);
    known_only.free_user(ANN).await;
    let first = begin(&known_only, ANN, json!({})).await.unwrap();
    let device = Kept::of(&first);
    device.confirm(&known_only, &tokens(&first)["AccessToken"]).await.unwrap();
    set_up_app(&known_only).await;
    let asked = begin(&known_only, ANN, json!({ "DEVICE_KEY": device.key })).await.unwrap();
    assert_eq!(asked["ChallengeName"], "SOFTWARE_TOKEN_MFA");
}

#[tokio::test]
async fn devices_are_listed_and_forgotten() {
    let stage = Stage::with(&seeds(true, false), None);
    let sub = stage.free_user(ANN).await;
    let mut devices = Vec::new();
    for _ in 0..3 {
        let signed_in = begin(&stage, ANN, json!({})).await.unwrap();
        let device = Kept::of(&signed_in);
        device.confirm(&stage, &tokens(&signed_in)["AccessToken"]).await.unwrap();
        devices.push((device, signed_in));
    }
    let (lost, theirs) = devices.pop().unwrap();
    let token = tokens(&devices[0].1)["AccessToken"].clone();
    let page = stage.call("ListDevices", json!({ "AccessToken": token, "Limit": 2 })).await.unwrap();
    assert_eq!(page["Devices"].as_array().unwrap().len(), 2);
    let rest = json!({ "AccessToken": token, "PaginationToken": page["PaginationToken"] });
    assert_eq!(stage.call("ListDevices", rest).await.unwrap()["Devices"].as_array().unwrap().len(), 1);
    let named = json!({ "AccessToken": token, "DeviceKey": lost.key });
    let shown = stage.call("GetDevice", named.clone()).await.unwrap()["Device"].take();
    let attributes: BTreeMap<&str, &str> = shown["DeviceAttributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attribute| (attribute["Name"].as_str().unwrap(), attribute["Value"].as_str().unwrap()))
        .collect();
    assert_eq!((attributes["device_name"], attributes["dev:device_remembered_status"]), ("kiosk", "remembered"));
    let arn = format!("arn:aws:cognito-idp:us-east-1:000000000000:owner/{sub}.{POOL}/device/{}", lost.key);
    assert_eq!(attributes["dev:device_arn"], arn);

    stage.call("ForgetDevice", named.clone()).await.unwrap();
    let gone = ("ResourceNotFoundException", "Device does not exist.".to_owned());
    for action in ["GetDevice", "ForgetDevice"] {
        assert_eq!(refused(stage.call(action, named.clone()).await), gone);
    }
    for answer in refresh(&stage, tokens(&theirs), Some(&lost.key)).await {
        assert_eq!(refused(answer).1, "Invalid Refresh Token");
    }
    // Its client is told so after the password, and goes on without the device: the same answer, null for the key.
    assert_eq!(refused(begin(&stage, ANN, json!({ "DEVICE_KEY": lost.key })).await), gone);
    let client = srp::client::Client::new();
    let body = json!({ "ClientId": CLIENT, "AuthFlow": "USER_SRP_AUTH",
        "AuthParameters": { "USERNAME": ANN, "SRP_A": client.srp_a(), "DEVICE_KEY": lost.key } });
    let asked = stage.call("InitiateAuth", body).await.unwrap();
    let text = |name: &str| asked["ChallengeParameters"][name].as_str().unwrap();
    let block = STANDARD.decode(text("SECRET_BLOCK")).unwrap();
    let respond = async |password: &str, device_key: Value| {
        let who = ("TideTest1", text("USER_ID_FOR_SRP"), password);
        let signature = client.signature(who, (text("SALT"), text("SRP_B")), &block, TIMESTAMP);
        let responses = json!({ "DEVICE_KEY": device_key, "PASSWORD_CLAIM_SECRET_BLOCK": text("SECRET_BLOCK"),
            "TIMESTAMP": TIMESTAMP, "PASSWORD_CLAIM_SIGNATURE": STANDARD.encode(signature) });
        answer(&stage, &asked, responses).await
    };
    assert_eq!(refused(respond(PASSWORD, json!(lost.key)).await), gone);
    assert!(tokens(&respond(PASSWORD, Value::Null).await.unwrap())["NewDeviceMetadata"].is_object());
    // Who does not know the password learns nothing of devices.
    let stranger = json!({ "DEVICE_KEY": lost.key, "PASSWORD": "wrong" });
    assert_eq!(refused(begin(&stage, ANN, stranger).await).1, "Incorrect username or password.");
    let nobody = json!({ "Username": ANN, "DeviceKey": lost.key });
    assert_eq!(refused(stage.admin("AdminGetDevice", nobody).await), gone);
    let listed = stage.admin("AdminListDevices", json!({ "Username": ANN })).await.unwrap();
    assert_eq!(listed["Devices"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_device_is_confirmed_by_the_sign_in_that_made_it() {
    let stage = Stage::with(&seeds(true, false), None);
    stage.free_user(ANN).await;
    let (first, second) = (begin(&stage, ANN, json!({})).await.unwrap(), begin(&stage, ANN, json!({})).await.unwrap());
    let invalid = ("InvalidParameterException", "Invalid device key given.".to_owned());
    assert_eq!(refused(Kept::of(&first).confirm(&stage, &tokens(&second)["AccessToken"]).await), invalid);
    let body = json!({ "AccessToken": tokens(&first)["AccessToken"], "DeviceKey": Kept::of(&first).key });
    assert_eq!(refused(stage.call("ConfirmDevice", body).await).0, "InvalidParameterException");

    // Without tracking nothing is bound to a device, and none can be confirmed.
    let plain = Stage::new();
    plain.free_user(ANN).await;
    let signed_in = begin(&plain, ANN, json!({ "DEVICE_KEY": "us-east-1_any" })).await.unwrap();
    assert!(tokens(&signed_in)["NewDeviceMetadata"].is_null());
    assert!(refresh(&plain, tokens(&signed_in), None).await.iter().all(Result::is_ok));
    let device = Kept::of(&first);
    assert_eq!(refused(device.confirm(&plain, &tokens(&signed_in)["AccessToken"]).await), invalid);
}

#[tokio::test]
async fn a_restart_keeps_devices_and_no_file_holds_their_secret() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::with(&seeds(true, false), Some(dir.path()));
    stage.free_user(ANN).await;
    let signed_in = begin(&stage, ANN, json!({})).await.unwrap();
    let device = Kept::of(&signed_in);
    device.confirm(&stage, &tokens(&signed_in)["AccessToken"]).await.unwrap();
    drop(stage);
    let again = Stage::with(&seeds(true, false), Some(dir.path()));
    assert!(refresh(&again, tokens(&signed_in), Some(&device.key)).await.iter().all(Result::is_ok));
    assert_eq!(
        refused(refresh(&again, tokens(&signed_in), None).await.into_iter().next().unwrap()).1,
        "Invalid Refresh Token"
    );
    let asked = begin(&again, ANN, json!({ "DEVICE_KEY": device.key })).await.unwrap();
    device.prove(&again, &asked, DEVICE_PASSWORD).await.unwrap();
    drop(again);
    // Where the pool remembers devices no more, refresh tokens count alone.
    let plain = Stage::with(&Seeds::default(), Some(dir.path()));
    assert!(refresh(&plain, tokens(&signed_in), None).await.iter().all(Result::is_ok));
    let users = dir.path().join("user_pools").join(POOL).join("users");
    for entry in std::fs::read_dir(users).unwrap() {
        assert!(!std::fs::read_to_string(entry.unwrap().path()).unwrap().contains(DEVICE_PASSWORD));
    }
}

#[tokio::test]
async fn devices_of_one_user_are_bounded_and_the_one_used_longest_ago_goes() {
    let stage = Stage::with(&seeds(true, false), None);
    stage.free_user(ANN).await;
    let mut kept = Vec::new();
    for _ in 0..=100 {
        stage.pass(1);
        let signed_in = begin(&stage, ANN, json!({})).await.unwrap();
        let device = Kept::of(&signed_in);
        device.confirm(&stage, &tokens(&signed_in)["AccessToken"]).await.unwrap();
        kept.push(device.key);
    }
    let known =
        async |key: &str| stage.admin("AdminGetDevice", json!({ "Username": ANN, "DeviceKey": key })).await.is_ok();
    assert!(!known(&kept[0]).await && known(&kept[1]).await && known(&kept[100]).await);
}
