//! One suite that every credential source passes: for tests.

#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::{CredentialErrorKind, CredentialSource, Credentials, Login};
use crate::clock::Clock;

/// Nothing that AWS gives out lasts longer.
const LONGEST: Duration = Duration::from_secs(12 * 3_600);

/// A source and what its stage has ready for it.
pub struct Subject {
    pub source: Arc<dyn CredentialSource>,
    /// The clock of the source.
    pub clock: Clock,
    /// Somebody who is signed in.
    pub login: Login,
    /// The source gives credentials to nobody, too.
    pub takes_guests: bool,
    /// The source looks at the token.
    pub looks_at_tokens: bool,
}

/// Runs the whole suite.
pub async fn run(subject: &Subject) {
    let Subject { source, clock, login, .. } = subject;
    let identity_id = source.identity_id(Some(login)).await.expect("an identity id");
    is_a_segment(&identity_id);
    assert_eq!(source.identity_id(Some(login)).await.expect("again"), identity_id, "it never changes");
    let first = source.credentials(&identity_id, Some(login)).await.expect("credentials");
    are_whole(&first, clock);
    let second = source.credentials(&identity_id, Some(login)).await.expect("again");
    are_whole(&second, clock);

    let others = "us-east-1:00000000-0000-4000-8000-00000000feed";
    let error = source.credentials(others, Some(login)).await.expect_err("somebody else's identity id");
    assert!(!matches!(error.kind, CredentialErrorKind::Transient), "trying again would not help: {error:?}");
    says_nothing(&error.message, login);

    // Who has an identity keeps it, whatever a guest leaves.
    assert_eq!(source.link(others, login).await.expect("an offer is no demand"), identity_id);
    if subject.looks_at_tokens {
        a_forged_login(source.as_ref(), login).await;
    }
    guests(subject).await;
}

async fn a_forged_login(source: &dyn CredentialSource, login: &Login) {
    let (body, signature) = login.id_token.expose_secret().rsplit_once('.').expect("a JWT");
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let forged = Login { id_token: format!("{body}.{other}{}", &signature[1..]).into(), ..login.clone() };
    let refused = match source.identity_id(Some(&forged)).await {
        Ok(identity_id) => source.credentials(&identity_id, Some(&forged)).await.map(|_| ()),
        Err(error) => Err(error),
    };
    let error = refused.expect_err("a forged token");
    assert_eq!(error.kind, CredentialErrorKind::NotAuthorized, "{error}");
    says_nothing(&error.message, &forged);
}

async fn guests(subject: &Subject) {
    let source = &subject.source;
    let given = match source.identity_id(None).await {
        Ok(identity_id) => source.credentials(&identity_id, None).await.map(|credentials| (identity_id, credentials)),
        Err(error) => Err(error),
    };
    if !subject.takes_guests {
        let error = given.expect_err("no guests here");
        let kinds = [CredentialErrorKind::NotAuthorized, CredentialErrorKind::Configuration];
        assert!(kinds.contains(&error.kind), "{error:?}");
        return;
    }
    let (guest, credentials) = given.expect("a guest's credentials");
    is_a_segment(&guest);
    are_whole(&credentials, &subject.clock);
    assert_ne!(source.identity_id(None).await.expect("another guest"), guest, "every guest is another one");
}

fn is_a_segment(identity_id: &str) {
    let plain = !identity_id.is_empty() && !identity_id.contains('/') && !identity_id.contains(char::is_control);
    assert!(plain && identity_id != "." && identity_id != "..", "no part of a key: {identity_id:?}");
}

fn are_whole(credentials: &Credentials, clock: &Clock) {
    let Credentials { access_key_id, secret_access_key, session_token, expire_time, deadline, received } = credentials;
    assert!(!access_key_id.is_empty() && !secret_access_key.expose_secret().is_empty());
    assert!(*received <= clock.boot() && *deadline > clock.boot() && *expire_time > clock.wall(), "{credentials:?}");
    assert!(deadline.saturating_since(*received) <= LONGEST, "{credentials:?}");
    let shown = format!("{credentials:?}");
    for secret in [Some(secret_access_key), session_token.as_ref()].into_iter().flatten() {
        assert!(!shown.contains(secret.expose_secret()), "Debug shows a secret");
    }
}

fn says_nothing(text: &str, login: &Login) {
    assert!(!text.contains(login.id_token.expose_secret()), "an error shows a token: {text}");
}
