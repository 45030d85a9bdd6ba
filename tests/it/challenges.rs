//! Sign-ins of several steps against the local cloud: proofs instead of passwords on the wire, second factors, new
//! passwords, the choice among ways to sign in, remembered devices; and answers that come twice, too late, out of order
//! or from somebody else.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_sdk_cognitoidentityprovider::types::{
    AttributeType, EmailMfaConfigType, EmailMfaSettingsType, SmsMfaConfigType, SmsMfaSettingsType, UserPoolMfaType,
};
use tidegate::api::v1::respond_to_challenge_response::Result as Progress;
use tidegate::api::v1::session_service_client::SessionServiceClient;
use tidegate::api::v1::{self, sign_in_response};
use tidegate::local_cloud::{Options, TemplateSource};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::fixture::{PASSWORD, Stage, User, by_password, reason, session_of};

const TEMPLATE: &str = include_str!("../../deploy/aws/template.yaml");

/// A cloud from the template with these parameters.
async fn stage(parameters: &[(&str, &str)], adjust: impl FnOnce(String) -> String) -> Stage {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Stage::start_on(Options { parameters, ..Options::default() }, adjust).await
}

/// A line more in `[identity.tokens]`.
fn tokens_line(text: &str, line: &str) -> String {
    text.replace("[identity.tokens]", &format!("[identity.tokens]\n{line}"))
}

async fn begin(stage: &Stage, username: &str, password: &str) -> Result<sign_in_response::Result, Status> {
    let answer = stage.sessions().await.sign_in(by_password(username, password)).await?;
    Ok(answer.into_inner().result.unwrap())
}

async fn challenged(stage: &Stage, user: &User) -> v1::Challenge {
    match begin(stage, &user.username, PASSWORD).await.unwrap() {
        sign_in_response::Result::Challenge(challenge) => challenge,
        sign_in_response::Result::Session(_) => panic!("nothing was asked"),
    }
}

fn request(challenge: &v1::Challenge, answers: &[(&str, &str)]) -> v1::RespondToChallengeRequest {
    let responses = answers.iter().map(|(name, answer)| ((*name).to_owned(), (*answer).to_owned())).collect();
    v1::RespondToChallengeRequest { challenge_id: challenge.challenge_id.clone(), responses }
}

async fn respond(stage: &Stage, challenge: &v1::Challenge, answers: &[(&str, &str)]) -> Result<Progress, Status> {
    let answer = stage.sessions().await.respond_to_challenge(request(challenge, answers)).await?;
    Ok(answer.into_inner().result.unwrap())
}

/// An answer that ends the sign-in.
async fn sign_in_by(stage: &Stage, challenge: &v1::Challenge, answers: &[(&str, &str)]) -> v1::Session {
    match respond(stage, challenge, answers).await.unwrap() {
        Progress::Session(session) => session,
        Progress::Challenge(next) => panic!("{} is asked next", next.name),
    }
}

/// An answer that leads to another question.
async fn next_of(stage: &Stage, challenge: &v1::Challenge, answers: &[(&str, &str)]) -> v1::Challenge {
    match respond(stage, challenge, answers).await.unwrap() {
        Progress::Challenge(next) => next,
        Progress::Session(_) => panic!("nothing is asked next"),
    }
}

async fn refusal(stage: &Stage, challenge: &v1::Challenge, answers: &[(&str, &str)]) -> String {
    reason(&respond(stage, challenge, answers).await.unwrap_err())
}

/// The newest code that was sent.
fn sent_code(stage: &Stage) -> String {
    stage.cloud.outbox().pop().unwrap().code
}

/// The code of an authenticator app, so many steps from now: RFC 6238 over the base32 secret.
pub fn totp(secret: &str, steps_ahead: u64) -> String {
    let mut bits = 0_u64;
    let mut count = 0;
    let mut key = Vec::new();
    for letter in secret.bytes() {
        let digit = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|known| *known == letter).unwrap();
        bits = (bits << 5) | digit as u64;
        count += 5;
        if count >= 8 {
            count -= 8;
            key.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let tag = aws_lc_rs::hmac::sign(&key, &(now_s / 30 + steps_ahead).to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[tag.len() - 1] & 0xf);
    let word = u32::from_be_bytes([tag[at] & 0x7f, tag[at + 1], tag[at + 2], tag[at + 3]]);
    format!("{:06}", word % 1_000_000)
}

/// Stands before the cloud and keeps every byte that is sent to it.
struct Wire {
    url: String,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    fn before(stage: &Stage) -> Self {
        let cloud = stage.cloud.url().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        // The threads end with their connections, the first one with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&cloud).unwrap();
                let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || carry(client, server, Some(&kept)));
                std::thread::spawn(move || carry(back_from, back_to, None));
            }
        });
        Self { url, seen }
    }

    /// The configuration with the user pool behind the wire.
    fn between(&self, text: &str, stage_url: &str, pool: &str) -> String {
        let direct = format!("endpoint_url = \"{stage_url}\"\njwks_url");
        assert!(text.contains(&direct), "{text}");
        let issuer = format!("{stage_url}/{pool}");
        text.replace(&direct, &format!("endpoint_url = \"{}\"\nissuer = \"{issuer}\"\njwks_url", self.url))
    }

    fn saw(&self, text: &str) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, kept: Option<&Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if let Some(kept) = kept {
            kept.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_never_leaves_the_device_and_no_answer_changes_that() {
    let srp_only = TEMPLATE.replace("        - ALLOW_USER_PASSWORD_AUTH\n", "");
    assert_ne!(srp_only, TEMPLATE);
    let mut stage = Stage::start_with(TemplateSource::Text(srp_only), |text| text).await;
    let user = stage.sign_up().await;
    let wire = Wire::before(&stage);
    let (url, pool) = (stage.cloud.url().to_owned(), stage.cloud.outputs()["UserPoolId"].clone());
    stage.restart_with(|text| wire.between(text, &url, &pool)).await;
    let wrong = begin(&stage, &user.username, "Wrong-horse-7-battery").await.unwrap_err();
    assert_eq!((wrong.code(), reason(&wrong).as_str()), (Code::Unauthenticated, "BAD_CREDENTIALS"), "{wrong}");
    let nobody = begin(&stage, "nobody@example.com", PASSWORD).await.unwrap_err();
    assert_eq!(reason(&nobody), "BAD_CREDENTIALS", "{nobody}");
    let session = stage.sign_in(&user).await;
    assert_eq!(session.state(), v1::SessionState::Active, "{}", session.last_error);
    assert!(wire.saw("USER_SRP_AUTH") && wire.saw("PASSWORD_CLAIM_SIGNATURE") && wire.saw(&user.username));
    assert!(!wire.saw(PASSWORD) && !wire.saw("Wrong-horse-7-battery"), "a password was sent");

    // The client allows no password: who configures it is told so, and nothing is tried instead.
    stage.restart_with(|text| tokens_line(text, "sign_in_flow = \"password\"")).await;
    let refused = begin(&stage, &user.username, PASSWORD).await.unwrap_err();
    assert_eq!(reason(&refused), "UPSTREAM_MISCONFIGURED");
    assert!(refused.message().contains("ALLOW_USER_PASSWORD_AUTH"), "{refused}");
    assert!(wire.saw(PASSWORD), "this is what the configuration asked for, and shows that the wire sees passwords");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_allows_only_passwords_gets_none_without_the_configuration() {
    let password_only = TEMPLATE.replace("        - ALLOW_USER_SRP_AUTH\n", "");
    assert_ne!(password_only, TEMPLATE);
    let mut stage = Stage::start_with(TemplateSource::Text(password_only), |text| text).await;
    let user = stage.sign_up().await;
    let wire = Wire::before(&stage);
    let (url, pool) = (stage.cloud.url().to_owned(), stage.cloud.outputs()["UserPoolId"].clone());
    stage.restart_with(|text| wire.between(text, &url, &pool)).await;
    let refused = begin(&stage, &user.username, PASSWORD).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "UPSTREAM_MISCONFIGURED"));
    assert!(
        refused.message().contains("sign_in_flow") && refused.message().contains("ALLOW_USER_SRP_AUTH"),
        "{refused}"
    );
    assert!(!wire.saw(PASSWORD), "no silent downgrade");
    stage.restart_with(|text| tokens_line(text, "sign_in_flow = \"password\"")).await;
    stage.sign_in(&user).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_app_is_set_up_and_asked() {
    let stage = stage(&[("SecondFactor", "ON")], |text| text).await;
    let user = stage.sign_up().await;
    let setup = challenged(&stage, &user).await;
    assert_eq!(
        (setup.name.as_str(), setup.required_responses.as_slice()),
        ("MFA_SETUP", &["SOFTWARE_TOKEN_MFA_CODE".to_owned()][..])
    );
    assert!(!setup.parameters.contains_key("USER_ID_FOR_SRP"), "{:?}", setup.parameters.keys());
    let left = SystemTime::try_from(setup.expire_time.unwrap()).unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(170) && left > Duration::from_secs(100), "{left:?}");
    let secret = setup.parameters["SECRET_CODE"].clone();
    let code = |ahead| totp(&secret, ahead);
    assert_eq!(refusal(&stage, &setup, &[("SOFTWARE_TOKEN_MFA_CODE", "000000")]).await, "CODE_MISMATCH");
    let session = sign_in_by(&stage, &setup, &[("SOFTWARE_TOKEN_MFA_CODE", &code(0))]).await;
    assert_eq!(session.state(), v1::SessionState::Active);

    let asked = challenged(&stage, &user).await;
    assert_eq!((asked.name.as_str(), asked.parameters.contains_key("SECRET_CODE")), ("SOFTWARE_TOKEN_MFA", false));
    if let Some(channel) = stage.channel_of_other_uid().await {
        let answer = request(&asked, &[("SOFTWARE_TOKEN_MFA_CODE", &code(1))]);
        let other = SessionServiceClient::new(channel).respond_to_challenge(answer).await.unwrap_err();
        assert_eq!((other.code(), reason(&other).as_str()), (Code::NotFound, "CHALLENGE_NOT_FOUND"));
    }
    let out_of_order = refusal(&stage, &setup, &[("SOFTWARE_TOKEN_MFA_CODE", &code(1))]).await;
    assert_eq!(out_of_order, "CHALLENGE_ANSWERED", "the set-up is done");
    assert_eq!(refusal(&stage, &asked, &[("SMS_MFA_CODE", "123456")]).await, "INVALID_FIELD");
    assert_eq!(refusal(&stage, &asked, &[("SOFTWARE_TOKEN_MFA_CODE", "000000")]).await, "CODE_MISMATCH");
    let next_code = code(1);
    let again = sign_in_by(&stage, &asked, &[("SOFTWARE_TOKEN_MFA_CODE", &next_code)]).await;
    assert_eq!(again.name, session.name);
    assert_eq!(refusal(&stage, &asked, &[("SOFTWARE_TOKEN_MFA_CODE", &next_code)]).await, "CHALLENGE_ANSWERED");
    let replayed = challenged(&stage, &user).await;
    let used = refusal(&stage, &replayed, &[("SOFTWARE_TOKEN_MFA_CODE", &next_code)]).await;
    assert_eq!(used, "CODE_EXPIRED", "a code is good for once");
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_sent_by_text_message_and_mail_and_the_user_chooses() {
    let stage = stage(&[], |text| text).await;
    let (user, users, pool) = (stage.sign_up().await, stage.users(), stage.cloud.outputs()["UserPoolId"].clone());
    let mfa = users.set_user_pool_mfa_config().user_pool_id(&pool).mfa_configuration(UserPoolMfaType::Optional);
    let mfa = mfa.sms_mfa_configuration(SmsMfaConfigType::builder().build());
    mfa.email_mfa_configuration(EmailMfaConfigType::builder().build()).send().await.unwrap();
    let phone = AttributeType::builder().name("phone_number").value("+15550100").build().unwrap();
    let change = users.admin_update_user_attributes().user_pool_id(&pool).username(&user.username);
    change.user_attributes(phone).send().await.unwrap();
    let prefer = async |sms: bool, email: bool, preferred: bool| {
        let sms = SmsMfaSettingsType::builder().enabled(sms).preferred_mfa(sms && preferred).build();
        let email = EmailMfaSettingsType::builder().enabled(email).preferred_mfa(email && preferred).build();
        let call = users.admin_set_user_mfa_preference().user_pool_id(&pool).username(&user.username);
        call.sms_mfa_settings(sms).email_mfa_settings(email).send().await.unwrap();
    };

    prefer(true, false, true).await;
    let sms = challenged(&stage, &user).await;
    assert_eq!((sms.name.as_str(), sms.required_responses[0].as_str()), ("SMS_MFA", "SMS_MFA_CODE"));
    assert_eq!(sms.parameters["CODE_DELIVERY_DELIVERY_MEDIUM"], "SMS");
    assert!(!sms.parameters["CODE_DELIVERY_DESTINATION"].contains("555"), "{:?}", sms.parameters);
    let session = sign_in_by(&stage, &sms, &[("SMS_MFA_CODE", &sent_code(&stage))]).await;

    prefer(false, true, true).await;
    let mail = challenged(&stage, &user).await;
    assert_eq!(mail.name, "EMAIL_OTP");
    assert_eq!(sign_in_by(&stage, &mail, &[("EMAIL_OTP_CODE", &sent_code(&stage))]).await.name, session.name);

    prefer(true, true, false).await;
    let which = challenged(&stage, &user).await;
    assert_eq!((which.name.as_str(), which.required_responses[0].as_str()), ("SELECT_MFA_TYPE", "ANSWER"));
    let choices: Vec<String> = serde_json::from_str(&which.parameters["MFAS_CAN_CHOOSE"]).unwrap();
    assert!(choices.contains(&"SMS_MFA".to_owned()) && choices.contains(&"EMAIL_OTP".to_owned()), "{choices:?}");
    assert_eq!(refusal(&stage, &which, &[("ANSWER", "FAX")]).await, "INVALID_PARAMETER");
    let mail = next_of(&stage, &which, &[("ANSWER", "EMAIL_OTP")]).await;
    assert_eq!(mail.name, "EMAIL_OTP");
    assert_eq!(refusal(&stage, &which, &[("ANSWER", "SMS_MFA")]).await, "CHALLENGE_ANSWERED", "out of order");
    assert_eq!(sign_in_by(&stage, &mail, &[("EMAIL_OTP_CODE", &sent_code(&stage))]).await.name, session.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_password_is_replaced() {
    let stage = stage(&[], |text| text).await;
    let (users, pool) = (stage.users(), stage.cloud.outputs()["UserPoolId"].clone());
    let user = User { username: "invited@example.com".to_owned() };
    let email = AttributeType::builder().name("email").value(&user.username).build().unwrap();
    let create = users.admin_create_user().user_pool_id(&pool).username(&user.username).user_attributes(email);
    create.temporary_password(PASSWORD).send().await.unwrap();
    let asked = challenged(&stage, &user).await;
    assert_eq!((asked.name.as_str(), asked.required_responses[0].as_str()), ("NEW_PASSWORD_REQUIRED", "NEW_PASSWORD"));
    let wrong = respond(&stage, &asked, &[("PASSWORD", "x"), ("ANSWER", "y")]).await.unwrap_err();
    let violations = wrong.get_error_details().bad_request().unwrap().field_violations.clone();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["responses.NEW_PASSWORD", "responses.ANSWER", "responses.PASSWORD"]);
    let weak = respond(&stage, &asked, &[("NEW_PASSWORD", "short")]).await.unwrap_err();
    assert_eq!((weak.code(), reason(&weak).as_str()), (Code::InvalidArgument, "INVALID_PASSWORD"));
    assert!(weak.message().contains("policy") && weak.message().contains("long"), "{weak}");
    let new_password = "Another-horse-8-battery";
    sign_in_by(&stage, &asked, &[("NEW_PASSWORD", new_password)]).await;
    let session = stage.sessions().await.sign_in(by_password(&user.username, new_password)).await.unwrap();
    session_of(session.into_inner());
    assert_eq!(reason(&begin(&stage, &user.username, PASSWORD).await.unwrap_err()), "BAD_CREDENTIALS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_chooses_how_to_sign_in() {
    let choice = |text: String| tokens_line(&text, "sign_in_flow = \"choice\"");
    let mut stage = stage(&[("SignInByMailedCode", "true")], choice).await;
    let user = stage.sign_up().await;
    let wire = Wire::before(&stage);
    let (url, pool) = (stage.cloud.url().to_owned(), stage.cloud.outputs()["UserPoolId"].clone());
    stage.restart_with(|text| wire.between(text, &url, &pool)).await;
    let select = async || match begin(&stage, &user.username, "").await.unwrap() {
        sign_in_response::Result::Challenge(challenge) => challenge,
        sign_in_response::Result::Session(_) => panic!("nobody has proved anything"),
    };
    let asked = select().await;
    assert_eq!((asked.name.as_str(), asked.required_responses[0].as_str()), ("SELECT_CHALLENGE", "ANSWER"));
    let offered: Vec<String> = serde_json::from_str(&asked.parameters["AVAILABLE_CHALLENGES"]).unwrap();
    assert_eq!(offered, ["PASSWORD_SRP", "EMAIL_OTP"], "what sends the password is not offered");
    assert_eq!(refusal(&stage, &asked, &[("ANSWER", "PASSWORD"), ("PASSWORD", PASSWORD)]).await, "INVALID_FIELD");
    let mail = next_of(&stage, &asked, &[("ANSWER", "EMAIL_OTP")]).await;
    let session = sign_in_by(&stage, &mail, &[("EMAIL_OTP_CODE", &sent_code(&stage))]).await;

    let asked = select().await;
    assert_eq!(refusal(&stage, &asked, &[("ANSWER", "PASSWORD_SRP")]).await, "INVALID_FIELD");
    let wrong = [("ANSWER", "PASSWORD_SRP"), ("PASSWORD", "Wrong-horse-7-battery")];
    assert_eq!(refusal(&stage, &asked, &wrong).await, "BAD_CREDENTIALS");
    assert_eq!(refusal(&stage, &asked, &wrong).await, "CHALLENGE_EXPIRED", "the pool has ended it");
    let right = [("ANSWER", "PASSWORD_SRP"), ("PASSWORD", PASSWORD)];
    assert_eq!(sign_in_by(&stage, &select().await, &right).await.name, session.name);
    assert_eq!(stage.sign_in(&user).await.name, session.name, "a password at once needs no choice");
    assert!(!wire.saw(PASSWORD) && !wire.saw("Wrong-horse-7-battery"), "a password was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_device_stands_in_for_the_second_factor() {
    let mut stage = stage(&[("SecondFactor", "ON"), ("RememberDevices", "always")], |text| text).await;
    let user = stage.sign_up().await;
    let setup = challenged(&stage, &user).await;
    let secret = setup.parameters["SECRET_CODE"].clone();
    let session = sign_in_by(&stage, &setup, &[("SOFTWARE_TOKEN_MFA_CODE", &totp(&secret, 0))]).await;
    let refresh = v1::RefreshSessionRequest { name: session.name.clone() };
    stage.sessions().await.refresh_session(refresh).await.expect("the device's key goes along");
    stage.sign_in(&user).await;
    stage.sessions().await.sign_out(v1::SignOutRequest::default()).await.unwrap();
    stage.stop_daemon().await;
    stage.start_daemon().await.unwrap();
    stage.sign_in(&user).await;
    stage.sessions().await.refresh_session(v1::RefreshSessionRequest::default()).await.unwrap();

    let (users, pool) = (stage.users(), stage.cloud.outputs()["UserPoolId"].clone());
    let devices = async || {
        let listed = users.admin_list_devices().user_pool_id(&pool).username(&user.username).send().await.unwrap();
        let keys = listed.devices().iter().filter_map(|device| device.device_key().map(str::to_owned));
        keys.collect::<Vec<_>>()
    };
    let known = devices().await;
    assert_eq!(known.len(), 1, "one device, however often it signed in");
    if let Some(channel) = stage.channel_of_other_uid().await {
        let answer = SessionServiceClient::new(channel).sign_in(by_password(&user.username, PASSWORD)).await.unwrap();
        let asked = matches!(answer.into_inner().result, Some(sign_in_response::Result::Challenge(_)));
        assert!(asked, "a device is remembered for one uid");
    }

    let forget = users.admin_forget_device().user_pool_id(&pool).username(&user.username);
    forget.device_key(&known[0]).send().await.unwrap();
    let asked = challenged(&stage, &user).await;
    assert_eq!(asked.name, "SOFTWARE_TOKEN_MFA");
    sign_in_by(&stage, &asked, &[("SOFTWARE_TOKEN_MFA_CODE", &totp(&secret, 1))]).await;
    stage.sign_in(&user).await;
    let now = devices().await;
    assert!(now.len() == 1 && now != known, "{now:?}");

    // Without an access token in memory, signing out everywhere needs a refresh, which the pool grants only the device.
    stage.stop_daemon().await;
    stage.start_daemon().await.unwrap();
    let everywhere = v1::SignOutRequest { everywhere: true, ..Default::default() };
    stage.sessions().await.sign_out(everywhere).await.unwrap();
    let ended = async {
        while stage.cloud.counters().of("cognito-idp:GlobalSignOut") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("signed out at the pool");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_pool_asks_the_configuration_says_whether_a_device_is_remembered() {
    let mut stage = stage(&[("SecondFactor", "ON"), ("RememberDevices", "ask")], |text| text).await;
    for (setting, is_remembered) in [("pool", false), ("always", true), ("never", false)] {
        stage
            .restart_with(|text| {
                let text =
                    text.lines().filter(|line| !line.starts_with("remember_device")).collect::<Vec<_>>().join("\n");
                tokens_line(&text, &format!("remember_device = \"{setting}\""))
            })
            .await;
        let user = stage.sign_up().await;
        let setup = challenged(&stage, &user).await;
        let code = totp(&setup.parameters["SECRET_CODE"], 0);
        let session = sign_in_by(&stage, &setup, &[("SOFTWARE_TOKEN_MFA_CODE", &code)]).await;
        let refresh = v1::RefreshSessionRequest { name: session.name };
        stage.sessions().await.refresh_session(refresh).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
        let again = begin(&stage, &user.username, PASSWORD).await.unwrap();
        assert_eq!(matches!(again, sign_in_response::Result::Session(_)), is_remembered, "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_after_its_time_or_after_a_restart_is_refused() {
    let short = |text: String| text.replace("[session]", "[session]\nchallenge_lifetime_ms = 1000");
    let mut stage = stage(&[("SecondFactor", "ON")], short).await;
    let user = stage.sign_up().await;
    let late = challenged(&stage, &user).await;
    // The time itself is what is waited for.
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    let answer = [("SOFTWARE_TOKEN_MFA_CODE", "000000")];
    let status = respond(&stage, &late, &answer).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "CHALLENGE_EXPIRED"));
    let lost = challenged(&stage, &user).await;
    stage.stop_daemon().await;
    stage.start_daemon().await.unwrap();
    assert_eq!(refusal(&stage, &lost, &answer).await, "CHALLENGE_NOT_FOUND");
    assert_eq!(stage.cloud.counters().of("cognito-idp:VerifySoftwareToken"), 0, "nothing late is asked upstream");
}

/// Every case of the pool's becomes one of the API's, for every call that can meet it.
#[tokio::test(flavor = "multi_thread")]
async fn account_calls_have_the_pools_own_error_cases() {
    use tidegate::local_cloud::faults::{Effect, Rule};
    let stage = stage(&[], |text| text).await;
    let user = stage.sign_up().await;
    let mut accounts = stage.accounts().await;
    let username = || user.username.clone();
    let mut said = BTreeMap::new();
    let mut note = |what: &str, answer: Result<(), Status>| {
        let status = answer.expect_err(what);
        said.insert(what.to_owned(), (reason(&status), status.message().to_owned()));
    };
    // By the pool itself.
    let sign_up = |username: &str, password: &str| v1::SignUpRequest {
        username: username.to_owned(),
        password: password.to_owned(),
        attributes: [("email".to_owned(), username.to_owned())].into(),
        ..Default::default()
    };
    note("a taken name", accounts.sign_up(sign_up(&user.username, PASSWORD)).await.map(drop));
    note("a weak password", accounts.sign_up(sign_up("eve@example.com", "short")).await.map(drop));
    note("no address", accounts.sign_up(sign_up("not an address", PASSWORD)).await.map(drop));
    let waiting = stage.sign_up_unconfirmed().await;
    let confirm = |username: String, code: &str| v1::ConfirmSignUpRequest {
        username,
        confirmation_code: code.to_owned(),
        ..Default::default()
    };
    note("a wrong code", accounts.confirm_sign_up(confirm(waiting.username.clone(), "nope")).await.map(drop));
    note("confirmed already", accounts.confirm_sign_up(confirm(username(), "123456")).await.map(drop));
    let reset = |code: &str, new_password: &str| v1::ConfirmForgotPasswordRequest {
        username: username(),
        confirmation_code: code.to_owned(),
        new_password: new_password.to_owned(),
        ..Default::default()
    };
    note("a code that was not asked for", accounts.confirm_forgot_password(reset("123456", PASSWORD)).await.map(drop));
    accounts.forgot_password(v1::ForgotPasswordRequest { username: username(), ..Default::default() }).await.unwrap();
    note("a weak new password", accounts.confirm_forgot_password(reset(&sent_code(&stage), "short")).await.map(drop));
    for attempt in 0..5 {
        note(&format!("wrong {attempt}"), accounts.confirm_forgot_password(reset("nope", PASSWORD)).await.map(drop));
    }
    note("too many wrong codes", accounts.confirm_forgot_password(reset("nope", PASSWORD)).await.map(drop));
    // By faults, in the pool's own shape.
    let faults = [
        ("AliasExistsException", 400, "ALIAS_EXISTS"),
        ("ExpiredCodeException", 400, "CODE_EXPIRED"),
        ("CodeMismatchException", 400, "CODE_MISMATCH"),
        ("LimitExceededException", 400, "LIMIT_EXCEEDED"),
        ("TooManyFailedAttemptsException", 400, "LIMIT_EXCEEDED"),
        ("UserNotFoundException", 400, "USER_NOT_FOUND"),
        ("UserNotConfirmedException", 400, "USER_NOT_CONFIRMED"),
        ("UserLambdaValidationException", 400, "REFUSED_BY_POOL"),
        ("CodeDeliveryFailureException", 400, "CODE_DELIVERY_FAILED"),
        ("InvalidPasswordException", 400, "INVALID_PASSWORD"),
        ("PasswordHistoryPolicyViolationException", 400, "INVALID_PASSWORD"),
        ("InvalidParameterException", 400, "INVALID_PARAMETER"),
        ("NotAuthorizedException", 400, "ACCOUNT_STATE_CONFLICT"),
        ("TooManyRequestsException", 400, "UPSTREAM_THROTTLED"),
        ("InternalErrorException", 500, "UPSTREAM_UNAVAILABLE"),
        ("ResourceNotFoundException", 400, "UPSTREAM_MISCONFIGURED"),
        ("InvalidLambdaResponseException", 400, "UPSTREAM_MISCONFIGURED"),
    ];
    for (code, status, expected) in faults {
        stage.cloud.faults().clear();
        let message = Some(format!("the pool's own words about {code}"));
        let effect = Effect::Error { status, code: code.to_owned(), message };
        stage.cloud.faults().add(Rule::new("cognito-idp:*", effect)).unwrap();
        let resend = v1::ResendConfirmationCodeRequest { username: username(), ..Default::default() };
        let forgot = v1::ForgotPasswordRequest { username: username(), ..Default::default() };
        let answers = [
            accounts.sign_up(sign_up("eve@example.com", PASSWORD)).await.map(drop),
            accounts.confirm_sign_up(confirm(username(), "1")).await.map(drop),
            accounts.resend_confirmation_code(resend).await.map(drop),
            accounts.forgot_password(forgot).await.map(drop),
            accounts.confirm_forgot_password(reset("1", PASSWORD)).await.map(drop),
        ];
        for (call, answer) in answers.into_iter().enumerate() {
            let status = answer.unwrap_err();
            assert_eq!(reason(&status), expected, "call {call}, {code}: {status}");
            assert!(status.message().contains("own words"), "{status}");
        }
    }
    let reasons: BTreeMap<_, _> = said.iter().map(|(what, (reason, _))| (what.as_str(), reason.as_str())).collect();
    let expected = BTreeMap::from([
        ("a taken name", "USER_EXISTS"),
        ("a weak password", "INVALID_PASSWORD"),
        ("no address", "INVALID_PARAMETER"),
        ("a wrong code", "CODE_MISMATCH"),
        ("confirmed already", "ACCOUNT_STATE_CONFLICT"),
        ("a code that was not asked for", "CODE_EXPIRED"),
        ("a weak new password", "INVALID_PASSWORD"),
        ("wrong 0", "CODE_MISMATCH"),
        ("wrong 1", "CODE_MISMATCH"),
        ("wrong 2", "CODE_MISMATCH"),
        ("wrong 3", "CODE_MISMATCH"),
        ("wrong 4", "CODE_MISMATCH"),
        ("too many wrong codes", "LIMIT_EXCEEDED"),
    ]);
    assert_eq!(reasons, expected);
    let policy = &said["a weak password"].1;
    assert!(policy.contains("policy") && policy.contains("long enough"), "{policy}");
}
