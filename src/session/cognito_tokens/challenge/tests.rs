#![allow(clippy::unwrap_used)]

use super::*;

type Pairs = &'static [(&'static str, &'static str)];
type Names = &'static [&'static str];

fn parameters(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn challenge(name: &str, answers: &[&str]) -> Challenge {
    Challenge {
        name: name.into(),
        parameters: BTreeMap::new(),
        answers: answers.iter().map(|&answer| answer.to_owned()).collect(),
        username: "ada".into(),
        handle: "canary-handle".into(),
    }
}

fn answers(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretString> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

#[test]
fn every_question_names_its_answers_or_says_why_it_has_none() {
    let table: &[(&str, Pairs, Names, Names)] = &[
        ("SMS_MFA", &[], &[], &["SMS_MFA_CODE"]),
        ("SMS_OTP", &[], &[], &["SMS_OTP_CODE"]),
        ("EMAIL_OTP", &[], &[], &["EMAIL_OTP_CODE"]),
        ("SOFTWARE_TOKEN_MFA", &[], &[], &["SOFTWARE_TOKEN_MFA_CODE"]),
        ("SELECT_MFA_TYPE", &[("MFAS_CAN_CHOOSE", "[]")], &[], &["ANSWER"]),
        ("SELECT_CHALLENGE", &[], &["WEB_AUTHN", "EMAIL_OTP"], &["ANSWER"]),
        ("SELECT_CHALLENGE", &[], &["WEB_AUTHN", "PASSWORD"], &[]),
        ("MFA_SETUP", &[("MFAS_CAN_SETUP", r#"["SMS_MFA","SOFTWARE_TOKEN_MFA"]"#)], &[], &["SOFTWARE_TOKEN_MFA_CODE"]),
        ("MFA_SETUP", &[("MFAS_CAN_SETUP", r#"["SMS_MFA"]"#)], &[], &[]),
        ("NEW_PASSWORD_REQUIRED", &[("requiredAttributes", "[]")], &[], &["NEW_PASSWORD"]),
        (
            "NEW_PASSWORD_REQUIRED",
            &[("requiredAttributes", r#"["userAttributes.given_name","name"]"#)],
            &[],
            &["NEW_PASSWORD", "userAttributes.given_name", "userAttributes.name"],
        ),
        ("CUSTOM_CHALLENGE", &[], &[], &[]),
        ("WEB_AUTHN", &[], &[], &[]),
        ("SOMETHING_NEW", &[], &[], &[]),
    ];
    for (name, given, available, expected) in table {
        let available: Vec<_> = available.iter().map(|&offered| ChallengeNameType::from(offered)).collect();
        match answers_of(name, &parameters(given), &available) {
            Ok(answers) => assert_eq!(answers, *expected, "{name}"),
            Err(TokenError::ChallengeRequired { name: named, why }) => {
                assert!(expected.is_empty(), "{name}: {why}");
                assert!(named == *name && why.len() > 40, "{why}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn answers_have_the_challenges_names() {
    let sms = challenge("SMS_MFA", &["SMS_MFA_CODE"]);
    let new = challenge("NEW_PASSWORD_REQUIRED", &["NEW_PASSWORD", "userAttributes.name"]);
    let select = challenge("SELECT_CHALLENGE", &["ANSWER"]);
    let table: &[(&Challenge, Pairs, Names)] = &[
        (&sms, &[("SMS_MFA_CODE", "1")], &[]),
        (&sms, &[], &["SMS_MFA_CODE"]),
        (&sms, &[("SMS_MFA_CODE", "")], &["SMS_MFA_CODE"]),
        (&sms, &[("sms_mfa_code", "1")], &["SMS_MFA_CODE", "sms_mfa_code"]),
        (&sms, &[("SMS_MFA_CODE", "1"), ("USERNAME", "eve")], &["USERNAME"]),
        (&sms, &[("SMS_MFA_CODE", "1"), ("DEVICE_KEY", "x")], &["DEVICE_KEY"]),
        (&new, &[("NEW_PASSWORD", "x"), ("userAttributes.name", "A")], &[]),
        (&new, &[("NEW_PASSWORD", "x"), ("userAttributes.name", "A"), ("userAttributes.zoneinfo", "B")], &[]),
        (&new, &[("NEW_PASSWORD", "x")], &["userAttributes.name"]),
        (&select, &[("ANSWER", "EMAIL_OTP")], &[]),
        (&select, &[("ANSWER", "PASSWORD_SRP"), ("PASSWORD", "x")], &[]),
        (&select, &[("ANSWER", "PASSWORD_SRP")], &["PASSWORD"]),
        (&select, &[("ANSWER", "PASSWORD"), ("PASSWORD", "x")], &["ANSWER"]),
        (&select, &[("ANSWER", "EMAIL_OTP"), ("PASSWORD", "x")], &["PASSWORD"]),
    ];
    for (challenge, given, expected) in table {
        let problems = match check(challenge, &answers(given)) {
            Ok(()) => Vec::new(),
            Err(TokenError::InvalidAnswers(problems)) => problems.into_iter().map(|problem| problem.name).collect(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(problems, *expected, "{given:?}");
    }
}

#[test]
fn a_handle_brings_the_attempt_back_and_shows_nothing() {
    let device = RememberedDevice { key: "key".into(), group_key: "group".into(), password: None };
    let mut attempt = Attempt::new("ada", Some(&device));
    let mut reply = Reply {
        challenge: None,
        parameters: parameters(&[("USER_ID_FOR_SRP", "sub-1")]),
        session: Some("canary-session".into()),
        result: None,
        available: Vec::new(),
    };
    attempt.learn(&mut reply);
    let kept = Challenge { handle: attempt.handle(), ..challenge("SMS_MFA", &["SMS_MFA_CODE"]) };
    assert!(!format!("{kept:?}").contains("canary"));
    let again = Attempt::resume(&kept, Some(&device)).unwrap();
    assert_eq!((again.user.as_str(), again.username.as_str()), ("sub-1", "ada"));
    assert_eq!(again.session.as_deref().map(String::as_str), Some("canary-session"));
    assert!(again.device.is_some());
    let other = RememberedDevice { key: "other".into(), ..device };
    assert!(Attempt::resume(&kept, Some(&other)).unwrap().device.is_none(), "the pool has refused that one");
    assert!(matches!(Attempt::resume(&challenge("SMS_MFA", &[]), None), Err(TokenError::ChallengeOver(_))));
}
