//! STS as its callers see it.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::local_cloud::test_stage::{BILLING, FREE, GUEST, PAID, Stage};

fn request(role_arn: &str, lifetime_s: u64) -> SessionRequest {
    SessionRequest {
        role_arn: role_arn.into(),
        session_name: "kiosk".into(),
        lifetime: Duration::from_secs(lifetime_s),
        context: BTreeMap::from([("cognito-identity.amazonaws.com:sub".into(), vec!["us-east-1:me".into()])]),
    }
}

fn form(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn ask(stage: &Stage, auth: &Auth, fields: &[(&str, &str)]) -> QueryReply {
    stage.sts.query(&form(fields), auth, &stage.identity_pools)
}

#[test]
fn credentials_say_whose_they_are_until_they_end() {
    let stage = Stage::new();
    let issued = stage.sts.issue(&request(FREE, 3_600));
    assert_eq!(unix_s(issued.expire_time), stage.site.now_s() + 3_600);
    assert!(!format!("{issued:?}").contains(&issued.session_token));
    assert!(!format!("{issued:?}").contains(&issued.secret_access_key));
    let session = |id: &str, token: Option<&str>| stage.sts.session(id, token).map(|_| ());
    let Auth::Role(principal) = stage.sts.session(&issued.access_key_id, Some(&issued.session_token)).unwrap() else {
        panic!("a role's session")
    };
    assert_eq!(principal.role_arn.as_deref(), Some(FREE));
    assert_eq!(principal.context["cognito-identity.amazonaws.com:sub"], ["us-east-1:me"]);
    assert_eq!(stage.sts.secret(&issued.access_key_id).unwrap().expose_secret(), issued.secret_access_key);

    let other = stage.sts.issue(&request(PAID, 3_600));
    assert_eq!(session(&issued.access_key_id, None), Err(SessionError::InvalidToken));
    assert_eq!(session(&issued.access_key_id, Some("AAAA")), Err(SessionError::InvalidToken));
    assert_eq!(session(&issued.access_key_id, Some(&other.session_token)), Err(SessionError::InvalidToken));
    assert_eq!(session("ASIAAAAAAAAAAAAAAAAA", Some(&other.session_token)), Err(SessionError::UnknownAccessKey));
    assert_eq!(session("AKIAOTHER", None), Err(SessionError::UnknownAccessKey));
    assert!(stage.sts.secret("AKIAOTHER").is_none());
    assert!(matches!(stage.sts.session("AKIATIDEGATE", None), Ok(Auth::Administrator)));
    stage.pass(3_599);
    session(&issued.access_key_id, Some(&issued.session_token)).unwrap();
    stage.pass(1);
    assert_eq!(session(&issued.access_key_id, Some(&issued.session_token)), Err(SessionError::Expired));
}

#[test]
fn rehearsed_expiry_and_short_lives_touch_what_they_say() {
    let stage = Stage::new();
    let old = stage.sts.issue(&request(FREE, 3_600));
    stage.sts.expire_sessions();
    let session = |issued: &IssuedCredentials| stage.sts.session(&issued.access_key_id, Some(&issued.session_token));
    assert_eq!(session(&old).map(|_| ()), Err(SessionError::Expired));
    stage.pass(1);
    assert!(session(&stage.sts.issue(&request(FREE, 3_600))).is_ok());

    stage.sts.limit_lifetimes(Some(Duration::from_secs(90)));
    assert_eq!(unix_s(stage.sts.issue(&request(FREE, 3_600)).expire_time), stage.site.now_s() + 90);
    stage.sts.limit_lifetimes(None);
    assert_eq!(unix_s(stage.sts.issue(&request(FREE, 3_600)).expire_time), stage.site.now_s() + 3_600);
}

#[test]
fn who_asks_who_they_are_is_told() {
    let stage = Stage::new();
    let fields = [("Action", "GetCallerIdentity"), ("Version", "2011-06-15")];
    let root = ask(&stage, &Auth::Administrator, &fields);
    assert_eq!(root.status, 200);
    assert!(root.body.contains("<Arn>arn:aws:iam::000000000000:root</Arn>"), "{}", root.body);
    assert!(root.body.contains("<Account>000000000000</Account>"));
    let issued = stage.sts.issue(&request(FREE, 3_600));
    let auth = stage.sts.session(&issued.access_key_id, Some(&issued.session_token)).unwrap();
    let role = ask(&stage, &auth, &fields);
    assert!(role.body.contains("<Arn>arn:aws:sts::000000000000:assumed-role/FreeTierRole/kiosk</Arn>"));
    assert!(role.body.contains(":kiosk</UserId>") && role.body.contains("<UserId>AROA"), "{}", role.body);
    let nobody = ask(&stage, &Auth::Anonymous, &fields);
    assert_eq!(nobody.status, 403);
    assert!(nobody.body.contains("<Code>MissingAuthenticationToken</Code>"));
    assert!(nobody.body.starts_with("<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">"));
    assert_eq!(stage.site.counters.of("sts:GetCallerIdentity"), 3);
}

#[test]
fn roles_are_assumed_by_those_they_trust() {
    let stage = Stage::new();
    let assume = |auth: &Auth, role: &str, more: &[(&str, &str)]| {
        let mut fields = vec![("Action", "AssumeRole"), ("RoleArn", role), ("RoleSessionName", "webhook")];
        fields.extend_from_slice(more);
        ask(&stage, auth, &fields)
    };
    let billing = assume(&Auth::Administrator, BILLING, &[("DurationSeconds", "900")]);
    assert_eq!(billing.status, 200, "{}", billing.body);
    let field = |name: &str| {
        let start = billing.body.find(&format!("<{name}>")).unwrap() + name.len() + 2;
        billing.body[start..].split('<').next().unwrap()
    };
    let auth = stage.sts.session(field("AccessKeyId"), Some(field("SessionToken"))).unwrap();
    assert_eq!(stage.sts.secret(field("AccessKeyId")).unwrap().expose_secret(), field("SecretAccessKey"));
    assert!(field("Expiration").ends_with('Z'));
    stage
        .sts
        .authorize(&auth, "cognito-idp:AdminAddUserToGroup", "arn:aws:cognito-idp:us-east-1:000000000000:userpool/x")
        .unwrap();

    assert_eq!(assume(&Auth::Anonymous, BILLING, &[]).status, 403);
    assert!(assume(&Auth::Administrator, FREE, &[]).body.contains("<Code>AccessDenied</Code>"));
    assert!(assume(&auth, BILLING, &[]).body.contains("<Code>AccessDenied</Code>"));
    let long = assume(&Auth::Administrator, BILLING, &[("DurationSeconds", "7200")]);
    assert!(long.body.contains("exceeds the MaxSessionDuration"), "{}", long.body);
}

#[test]
fn wrong_calls_get_stss_codes() {
    let stage = Stage::new();
    let web = |more: &[(&'static str, &'static str)]| {
        let mut fields = form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("RoleArn", FREE),
            ("RoleSessionName", "kiosk"),
            ("WebIdentityToken", "a.b.c"),
        ]);
        fields.extend(form(more));
        fields
    };
    let without = |name: &str| {
        let mut fields = web(&[]);
        fields.remove(name);
        fields
    };
    // A token of nobody whom the account knows: {"alg":"RS256","kid":"k"}.{"iss":"https://example.com"}.
    let foreign = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2V4YW1wbGUuY29tIn0.c2ln";
    let ours = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.\
                eyJpc3MiOiJodHRwczovL2NvZ25pdG8taWRlbnRpdHkuYW1hem9uYXdzLmNvbSJ9.c2ln";
    let cases = [
        (web(&[]), 400, "InvalidIdentityToken", "not a valid JWT"),
        (
            web(&[("WebIdentityToken", foreign)]),
            400,
            "InvalidIdentityToken",
            "No OpenIDConnect provider found in your account for https://example.com",
        ),
        (web(&[("WebIdentityToken", ours)]), 400, "InvalidIdentityToken", "verification key"),
        (without("RoleArn"), 400, "ValidationError", "Value null at 'roleArn'"),
        (without("WebIdentityToken"), 400, "ValidationError", "Value null at 'webIdentityToken'"),
        (web(&[("WebIdentityToken", "abc")]), 400, "ValidationError", "Value '***' at 'webIdentityToken'"),
        (web(&[("RoleArn", "not-an-arn-but-long-enough")]), 400, "ValidationError", "is invalid"),
        (web(&[("RoleSessionName", "a b")]), 400, "ValidationError", "roleSessionName"),
        (web(&[("RoleSessionName", "<&>")]), 400, "ValidationError", "&lt;&amp;&gt;"),
        (web(&[("DurationSeconds", "60")]), 400, "ValidationError", "durationSeconds"),
        (web(&[("Policy", "{}")]), 400, "ValidationError", "Session policies"),
        (form(&[("Action", "Dance")]), 400, "InvalidAction", "Could not find operation Dance for version 2011-06-15"),
        (form(&[]), 400, "InvalidAction", "Could not find operation"),
    ];
    for (fields, status, code, words) in cases {
        let reply = stage.sts.query(&fields, &Auth::Anonymous, &stage.identity_pools);
        assert_eq!(reply.status, status, "{fields:?}");
        assert!(reply.body.contains(&format!("<Code>{code}</Code>")), "{fields:?}: {}", reply.body);
        assert!(reply.body.contains(words), "{fields:?}: {}", reply.body);
    }
}

#[test]
fn a_policy_that_is_none_stops_the_start_and_is_named() {
    let stage = Stage::new();
    let mut role = stage.sts.role(GUEST).unwrap().seed.clone();
    role.policies = vec![serde_json::json!({ "Statement": [{ "Effect": "Perhaps" }] })];
    let error = Sts::start(&stage.site, &[role], stage.sts.administrator().clone()).unwrap_err();
    assert!(error.to_string().contains(GUEST), "{error}");
}
