//! The RSA keys that the local cloud signs tokens with, and the check of such tokens. The private half stays here.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::local_cloud::site::StartError;
use crate::local_cloud::state_dir::StateDir;

/// A 2048-bit RSA key with its id.
pub struct SigningKey {
    pair: KeyPair,
    verifier: DecodingKey,
    key_id: String,
    jwk: Value,
}

/// A token that this key did not sign, or that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Not three base64url parts of JSON with RS256.
    #[error("not an RS256 token")]
    Malformed,
    /// It names another key.
    #[error("signed by another key")]
    OtherKey,
    /// The signature is wrong.
    #[error("wrong signature")]
    BadSignature,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    pkcs8: String,
}

impl SigningKey {
    /// The key kept under `name`; a new one, which is then kept, where there is none.
    pub fn load_or_generate(state: &StateDir, name: &str) -> Result<Self, StartError> {
        let file = format!("{name}.json");
        let unusable =
            |reason: &dyn std::fmt::Display| StartError::Key { name: name.into(), reason: reason.to_string() };
        if let Some(stored) = state.read::<Stored>(&file)? {
            let der = STANDARD.decode(&stored.pkcs8).map_err(|error| unusable(&error))?;
            return KeyPair::from_pkcs8(&der).map(Self::new).map_err(|error| unusable(&error));
        }
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|error| unusable(&error))?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|error| unusable(&error))?;
        state.write(&file, &Stored { pkcs8: STANDARD.encode(der.as_ref()) })?;
        Ok(Self::new(pair))
    }

    fn new(pair: KeyPair) -> Self {
        let modulus = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
        let exponent = pair.public_key().exponent().big_endian_without_leading_zero().to_vec();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &modulus);
        let key_id = STANDARD.encode(digest.as_ref());
        let jwk = json!({
            "alg": "RS256", "kty": "RSA", "use": "sig", "kid": key_id,
            "n": URL_SAFE_NO_PAD.encode(&modulus), "e": URL_SAFE_NO_PAD.encode(&exponent),
        });
        let verifier = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
        Self { pair, verifier, key_id, jwk }
    }

    /// The JSON Web Key Set with the public half.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk] })
    }

    /// The signed token of `claims`.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "kid": self.key_id, "alg": "RS256" });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("the buffer has the length of the modulus");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// 32 bytes that only the holder of the key can know: the same for a label in every start.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        // PKCS #1 v1.5 signatures are deterministic, and nobody is ever shown the signature of such a text.
        let signature = self.sign(&json!({ "derived": label }));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, signature.as_bytes());
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The claims of a token that this key signed. Issuer, audience, use and time are the caller's to check.
    pub fn verify(&self, token: &str) -> Result<Map<String, Value>, TokenFault> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenFault::Malformed)?;
        if header.alg != Algorithm::RS256 {
            return Err(TokenFault::Malformed);
        }
        if header.kid.as_ref() != Some(&self.key_id) {
            return Err(TokenFault::OtherKey);
        }
        let mut only_the_signature = Validation::new(Algorithm::RS256);
        only_the_signature.required_spec_claims.clear();
        only_the_signature.validate_exp = false;
        only_the_signature.validate_aud = false;
        jsonwebtoken::decode::<Map<String, Value>>(token, &self.verifier, &only_the_signature)
            .map(|token| token.claims)
            .map_err(|_| TokenFault::BadSignature)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_checked_by_its_own_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path()).unwrap();
        let key = SigningKey::load_or_generate(&state, "a").unwrap();
        let other = SigningKey::load_or_generate(&state, "b").unwrap();
        let token = key.sign(&json!({ "sub": "x" }));
        assert_eq!(key.verify(&token).unwrap()["sub"], "x");
        assert_eq!(other.verify(&token), Err(TokenFault::OtherKey));
        assert_eq!(key.verify("a.b.c"), Err(TokenFault::Malformed));

        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(r#"{"sub":"y"}"#);
        assert_eq!(key.verify(&parts.join(".")), Err(TokenFault::BadSignature));
        parts[0] = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"none","kid":"{}"}}"#, key.key_id));
        assert_eq!(key.verify(&format!("{}.{}.", parts[0], parts[1])), Err(TokenFault::Malformed));

        let again = SigningKey::load_or_generate(&state, "a").unwrap();
        assert_eq!(again.verify(&token).unwrap()["sub"], "x");
        assert_eq!(again.jwks(), key.jwks());
    }

    #[test]
    fn the_published_key_verifies_with_a_stock_library() {
        let key = SigningKey::load_or_generate(&StateDir::in_memory(), "a").unwrap();
        let token = key.sign(&json!({ "sub": "x", "exp": 4_000_000_000_u64, "aud": "me" }));
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(key.jwks()).unwrap();
        let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        let published = DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&["me"]);
        jsonwebtoken::decode::<Value>(&token, &published, &validation).unwrap();
    }
}
