//! The keys behind temporary credentials. A secret is derived from its access key id and a session token carries its
//! session sealed, so credentials need no table: their number has no bound and a restart keeps them.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::local_cloud::site::StartError;
use crate::local_cloud::state_dir::StateDir;

/// What a session token says of its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSession {
    pub access_key_id: String,
    pub role_arn: String,
    pub session_name: String,
    pub context: BTreeMap<String, Vec<String>>,
    pub issue_ms: u64,
    pub expire_ms: u64,
}

/// Derives secrets and seals session tokens.
pub struct Seals {
    derive: hmac::Key,
    seal: RandomizedNonceKey,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
}

const KEY_BYTES: usize = 32;
const STATE_FILE: &str = "sts-key.json";
const TEMPORARY_PREFIX: &str = "ASIA";
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Characters after the prefix: the first are random, the rest prove that the id was given out here.
const ID_RANDOM_CHARS: usize = 11;
const ID_PROOF_CHARS: usize = 5;

impl Seals {
    /// The kept key, or a new one that is then kept.
    pub fn load_or_generate(state: &StateDir) -> Result<Self, StartError> {
        let unusable = |reason: String| StartError::Key { name: STATE_FILE.into(), reason };
        let key = match state.read::<Stored>(STATE_FILE)? {
            Some(stored) => STANDARD.decode(stored.key).map_err(|error| unusable(error.to_string()))?,
            None => {
                let key = rand::rng().random::<[u8; KEY_BYTES]>().to_vec();
                state.write(STATE_FILE, &Stored { key: STANDARD.encode(&key) })?;
                key
            }
        };
        if key.len() != KEY_BYTES {
            return Err(unusable(format!("it has {} bytes instead of {KEY_BYTES}", key.len())));
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let seal = RandomizedNonceKey::new(&AES_256_GCM, hmac::sign(&root, b"session tokens").as_ref());
        Ok(Self {
            derive: hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, b"secret keys").as_ref()),
            seal: seal.expect("the key has 32 bytes"),
        })
    }

    /// A fresh `ASIA…` id.
    pub fn new_access_key_id(&self) -> String {
        let mut rng = rand::rng();
        let random: String =
            (0..ID_RANDOM_CHARS).map(|_| char::from(BASE32[rng.random_range(0..BASE32.len())])).collect();
        let id = format!("{TEMPORARY_PREFIX}{random}");
        let proof = self.proof_of(&id);
        id + &proof
    }

    /// The secret of an id that these seals made; none for any other.
    pub fn secret_of(&self, access_key_id: &str) -> Option<String> {
        let start_chars = TEMPORARY_PREFIX.len() + ID_RANDOM_CHARS;
        if !access_key_id.is_ascii() || access_key_id.len() != start_chars + ID_PROOF_CHARS {
            return None;
        }
        let (start, proof) = access_key_id.split_at(start_chars);
        if !start.starts_with(TEMPORARY_PREFIX) || self.proof_of(start) != proof {
            return None;
        }
        let tag = hmac::sign(&self.derive, format!("secret of {access_key_id}").as_bytes());
        Some(STANDARD.encode(&tag.as_ref()[..30]))
    }

    /// The session token of a session.
    pub fn seal(&self, session: &SealedSession) -> String {
        let mut text = serde_json::to_vec(session).expect("a session is plain JSON");
        let nonce = self.seal.seal_in_place_append_tag(Aad::empty(), &mut text).expect("sessions are small");
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&text);
        STANDARD.encode(sealed)
    }

    /// The session of a token that these seals made; none for any other.
    pub fn open(&self, token: &str) -> Option<SealedSession> {
        let mut sealed = STANDARD.decode(token).ok()?;
        if sealed.len() < NONCE_LEN {
            return None;
        }
        let mut text = sealed.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&sealed).ok()?;
        let text = self.seal.open_in_place(nonce, Aad::empty(), &mut text).ok()?;
        serde_json::from_slice(text).ok()
    }

    fn proof_of(&self, start: &str) -> String {
        let tag = hmac::sign(&self.derive, format!("proof of {start}").as_bytes());
        tag.as_ref()[..ID_PROOF_CHARS].iter().map(|byte| char::from(BASE32[usize::from(byte % 32)])).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn session(access_key_id: &str) -> SealedSession {
        SealedSession {
            access_key_id: access_key_id.into(),
            role_arn: "arn:aws:iam::000000000000:role/R".into(),
            session_name: "s".into(),
            context: BTreeMap::from([("k".into(), vec!["v".into()])]),
            issue_ms: 1,
            expire_ms: 2,
        }
    }

    #[test]
    fn a_restart_knows_its_ids_and_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path()).unwrap();
        let first = Seals::load_or_generate(&state).unwrap();
        let id = first.new_access_key_id();
        assert_eq!(id.len(), 20);
        let token = first.seal(&session(&id));
        let again = Seals::load_or_generate(&state).unwrap();
        assert_eq!(again.secret_of(&id), first.secret_of(&id));
        assert_eq!(again.open(&token), Some(session(&id)));
    }

    #[test]
    fn others_ids_and_tokens_are_nothing() {
        let ours = Seals::load_or_generate(&StateDir::in_memory()).unwrap();
        let theirs = Seals::load_or_generate(&StateDir::in_memory()).unwrap();
        let id = theirs.new_access_key_id();
        assert_eq!(ours.secret_of(&id), None);
        assert_eq!(ours.open(&theirs.seal(&session(&id))), None);
        for id in ["", "ASIA", "AKIAIOSFODNN7EXAMPLE", "ASIAéééééééé"] {
            assert_eq!(ours.secret_of(id), None, "{id}");
        }
        let mut token = ours.seal(&session("x")).into_bytes();
        token[20] = if token[20] == b'A' { b'B' } else { b'A' };
        for token in [String::from_utf8(token).unwrap(), String::new(), "AAAA".into(), "€".into()] {
            assert_eq!(ours.open(&token), None);
        }
    }
}
