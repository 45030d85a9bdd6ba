//! The secret by which a local program gets a session's credentials over HTTP. Promises 256 random bits, and a comparison
//! whose time tells nothing about them; must never be shown.

use std::sync::{PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::SessionError;

/// As many as nobody guesses.
const RANDOM_BYTES: usize = 32;

/// The token: a secret of 43 letters, digits, `-` and `_`, fit for an `Authorization` header as it is.
#[derive(Debug, Clone)]
pub struct EndpointToken(SecretString);

impl EndpointToken {
    /// A new one.
    ///
    /// # Errors
    /// `Storage` where the system gives no random bytes.
    pub fn generate() -> Result<Self, SessionError> {
        let mut bytes = Zeroizing::new([0_u8; RANDOM_BYTES]);
        aws_lc_rs::rand::fill(&mut bytes[..])
            .map_err(|_| SessionError::Storage("the system gives no random bytes".to_owned()))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(&bytes[..]).into()))
    }

    /// One that was kept.
    pub fn kept(token: String) -> Self {
        Self(token.into())
    }

    /// The secret.
    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

/// Which token a session's endpoint takes now. Holds its hash only.
#[derive(Debug, Default)]
pub struct Lock(RwLock<Option<Hash>>);

type Hash = [u8; SHA256_OUTPUT_LEN];

impl Lock {
    /// From now on only `token` is taken; none without one.
    pub fn replace(&self, token: Option<&EndpointToken>) {
        let hash = token.map(|token| hash(token.0.expose_secret().as_bytes()));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hash;
    }

    /// Whether `presented` is the token. A session without a token, or no session at all, takes as long as a wrong one.
    pub fn opens(lock: Option<&Self>, presented: &[u8]) -> bool {
        let taken = lock.and_then(|lock| *lock.0.read().unwrap_or_else(PoisonError::into_inner));
        // Hashes have one length, and where two differ tells nothing about the token.
        let same = verify_slices_are_equal(&hash(presented), &taken.unwrap_or_default()).is_ok();
        same & taken.is_some()
    }
}

fn hash(token: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(token: &EndpointToken) -> &[u8] {
        token.0.expose_secret().as_bytes()
    }

    #[test]
    fn only_the_token_of_now_opens() {
        let (one, two) = (EndpointToken::generate().unwrap(), EndpointToken::generate().unwrap());
        assert_eq!(text(&one).len(), 43);
        assert!(text(&one).iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
        let lock = Lock::default();
        assert!(!Lock::opens(Some(&lock), text(&one)) && !Lock::opens(Some(&lock), b""), "no token yet");
        lock.replace(Some(&one));
        assert!(Lock::opens(Some(&lock), text(&one)));
        for wrong in
            [text(&two), b"", &text(&one)[..42], &[text(&one), b"\n"].concat(), &text(&one).to_ascii_uppercase()]
        {
            assert!(!Lock::opens(Some(&lock), wrong));
        }
        lock.replace(Some(&two));
        assert!(!Lock::opens(Some(&lock), text(&one)) && Lock::opens(Some(&lock), text(&two)));
        lock.replace(None);
        assert!(!Lock::opens(Some(&lock), text(&two)) && !Lock::opens(None, text(&two)));
    }

    #[test]
    fn nothing_shows_a_token() {
        let token = EndpointToken::generate().unwrap();
        let lock = Lock::default();
        lock.replace(Some(&token));
        let shown = format!("{token:?} {lock:?}");
        assert!(!shown.contains(token.0.expose_secret()), "{shown}");
    }
}
