//! One suite that every token source passes: for tests. What a source cannot do it must refuse, not ignore.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::{ExposeSecret as _, SecretString};

use super::{Challenge, IdClaims, RefreshGrant, SignInStep, TokenError, TokenSet, TokenSource};

/// A source and what its stage has ready for it.
pub struct Subject {
    pub source: Arc<dyn TokenSource>,
    /// A name and its password, where the source signs in by password.
    pub password: Option<(String, SecretString)>,
    /// A good ID token, where the source takes any from callers.
    pub id_token: Option<SecretString>,
    /// Tokens with another signature, or none.
    pub forged: Vec<SecretString>,
    /// Tokens of another issuer, and for another client.
    pub foreign: Vec<SecretString>,
    /// Tokens that have ended.
    pub expired: Vec<SecretString>,
}

/// Runs the whole suite.
pub async fn run(subject: &Subject) {
    let source = subject.source.as_ref();
    let provider = source.provider();
    assert!(!provider.is_empty() && !provider.contains("://") && !provider.ends_with('/'), "a login key: {provider}");
    by_password(source, subject.password.as_ref()).await;
    handed_in(source, subject).await;
    nobodys_challenge(source).await;
    renewed(source, subject.password.as_ref()).await;
}

async fn by_password(source: &dyn TokenSource, account: Option<&(String, SecretString)>) {
    let Some((username, password)) = account else {
        let refused = source.sign_in("somebody", &"canary-password".into(), None).await.expect_err("no passwords here");
        assert!(matches!(refused, TokenError::MethodUnsupported(_)), "{refused:?}");
        return says_nothing(&refused, "canary-password");
    };
    let signed_in = sign_in(source, username, password).await;
    is_whole(&signed_in, &signed_in.claims);
    assert!(signed_in.refresh_token.is_some(), "who signs in by password stays signed in");
    let wrong = source.sign_in(username, &"Canary-password-9".into(), None).await.expect_err("the wrong password");
    assert!(matches!(wrong, TokenError::BadCredentials(_)), "{wrong:?}");
    says_nothing(&wrong, "Canary-password-9");
    for (username, password) in [("", password.clone()), (username.as_str(), "".into())] {
        let empty = source.sign_in(username, &password, None).await.expect_err("nothing");
        assert!(matches!(empty, TokenError::BadCredentials(_) | TokenError::PasswordMissing), "{empty:?}");
    }
}

async fn handed_in(source: &dyn TokenSource, subject: &Subject) {
    let Some(token) = &subject.id_token else {
        let refused = source.verify("canary.token.x".into(), None, None).await.expect_err("no tokens from callers");
        assert!(matches!(refused, TokenError::MethodUnsupported(_)), "{refused:?}");
        return says_nothing(&refused, "canary.token.x");
    };
    let set = source.verify(token.clone(), None, None).await.expect("a good token");
    is_whole(&set, &set.claims);
    assert_eq!(set.id_token.expose_secret(), token.expose_secret());
    for (tokens, is_right) in [
        (&subject.forged, (|error| matches!(error, TokenError::TokenInvalid(_))) as fn(&TokenError) -> bool),
        (&subject.foreign, |error| matches!(error, TokenError::TokenWrongAudience(_))),
        (&subject.expired, |error| matches!(error, TokenError::TokenExpired(_))),
    ] {
        for token in tokens {
            let error = source.verify(token.clone(), None, None).await.expect_err("a wrong token");
            assert!(is_right(&error), "{error:?}");
            says_nothing(&error, token.expose_secret());
        }
    }
}

/// Answers to what the source never asked.
async fn nobodys_challenge(source: &dyn TokenSource) {
    let challenge = Challenge {
        name: "SMS_MFA".to_owned(),
        parameters: BTreeMap::new(),
        answers: vec!["SMS_MFA_CODE".to_owned()],
        username: "somebody".to_owned(),
        handle: "canary-handle".into(),
    };
    let answers = BTreeMap::from([("SMS_MFA_CODE".to_owned(), SecretString::from("canary-123456"))]);
    let error = source.answer(&challenge, &answers, None).await.expect_err("it asked nothing");
    says_nothing(&error, "canary-");
}

async fn renewed(source: &dyn TokenSource, account: Option<&(String, SecretString)>) {
    let without = source.refresh(&RefreshGrant::default()).await;
    if source.needs_no_user() {
        let first = without.expect("a token of its own");
        let second = source.refresh(&RefreshGrant::default()).await.expect("again");
        is_whole(&first, &second.claims);
        assert!(first.refresh_token.is_none(), "there is nothing to keep");
    } else {
        let error = without.expect_err("there is nothing to refresh with");
        assert!(matches!(error, TokenError::NotAuthorized(_) | TokenError::Terminal(_)), "{error:?}");
    }
    let rubbish = RefreshGrant { refresh_token: Some("canary-refresh-token".into()), device: None };
    let Some((username, password)) = account else {
        source.revoke(&rubbish, None, false).await.expect("there is nothing to revoke");
        return;
    };
    let error = source.refresh(&rubbish).await.expect_err("rubbish");
    assert!(matches!(error, TokenError::NotAuthorized(_) | TokenError::Terminal(_)), "{error:?}");
    says_nothing(&error, "canary-refresh-token");

    let first = sign_in(source, username, password).await;
    let grant = |set: &TokenSet| RefreshGrant { refresh_token: set.refresh_token.clone(), device: None };
    let second = source.refresh(&grant(&first)).await.expect("a refresh");
    is_whole(&second, &first.claims);
    // With rotation the new one is the good one.
    let newest = if second.refresh_token.is_some() { &second } else { &first };
    let token = newest.refresh_token.as_ref().expect("there is one");
    source.revoke(&grant(newest), second.access_token.as_ref(), false).await.expect("a revocation");
    let over = source.refresh(&grant(newest)).await.expect_err("revoked");
    assert!(matches!(over, TokenError::NotAuthorized(_) | TokenError::Terminal(_)), "{over:?}");
    says_nothing(&over, token.expose_secret());

    let third = sign_in(source, username, password).await;
    let fourth = sign_in(source, username, password).await;
    source.revoke(&grant(&third), third.access_token.as_ref(), true).await.expect("a revocation everywhere");
    source.refresh(&grant(&fourth)).await.expect_err("everywhere is everywhere");
}

async fn sign_in(source: &dyn TokenSource, username: &str, password: &SecretString) -> TokenSet {
    match source.sign_in(username, password, None).await.expect("the right password") {
        SignInStep::Tokens(tokens) => *tokens,
        SignInStep::Challenge(challenge) => panic!("the suite's account must have no second factor: {challenge:?}"),
    }
}

/// A set of somebody, with an end, that shows nothing.
fn is_whole(set: &TokenSet, same: &IdClaims) {
    let IdClaims { issuer, subject, audience, username, expire_time, .. } = &set.claims;
    assert!(!username.is_empty() && !subject.is_empty());
    assert_eq!((issuer, subject, audience), (&same.issuer, &same.subject, &same.audience));
    assert!(*expire_time > SystemTime::UNIX_EPOCH);
    let shown = format!("{set:?}");
    for secret in [Some(&set.id_token), set.access_token.as_ref(), set.refresh_token.as_ref()].into_iter().flatten() {
        assert!(!shown.contains(secret.expose_secret()), "Debug shows a token");
    }
}

fn says_nothing(error: &TokenError, secret: &str) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(secret), "an error shows a secret: {text}");
}
