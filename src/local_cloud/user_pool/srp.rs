//! The server's half of SRP as Cognito speaks it; the numbers are `crate::srp`'s. Pure arithmetic: no user, no clock.

use aws_lc_rs::hmac;
use num_bigint::BigUint;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::srp::{GENERATOR, LONGEST_HEX, MULTIPLIER, PRIME, hashed, hex, number, padded, session_key, sha256};

const SALT_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;

/// What is kept of a password: a salt, and the generator to the power of the salted hash.
#[derive(Clone, Serialize, Deserialize)]
pub struct Verifier {
    salt: String,
    verifier: String,
}

/// The server's half of one sign-in.
#[derive(Debug)]
pub struct Handshake {
    client_public: BigUint,
    secret: BigUint,
    public: BigUint,
    verifier: Verifier,
}

impl Verifier {
    /// Of a password. `pool_name` is the pool's id after the underscore.
    pub fn of(pool_name: &str, username: &str, password: &str) -> Self {
        let mut salt: [u8; SALT_BYTES] = rand::rng().random();
        // Some clients drop leading zeros and some do not.
        salt[0] |= 1;
        Self::with_salt(&BigUint::from_bytes_be(&salt), pool_name, username, password)
    }

    /// One that no password opens. With the same salt each time for a name, nobody can tell that there is no such user.
    pub fn decoy(mut salt: [u8; SALT_BYTES]) -> Self {
        salt[0] |= 1;
        let unknown: [u8; 32] = rand::rng().random();
        let verifier = BigUint::from(GENERATOR).modpow(&BigUint::from_bytes_be(&unknown), &PRIME);
        Self { salt: hex(&BigUint::from_bytes_be(&salt)), verifier: hex(&verifier) }
    }

    /// Of a device, which made both numbers itself. None for what is none, or would let anybody in.
    pub fn of_device(salt: &[u8], verifier: &[u8]) -> Option<Self> {
        let is_number = |bytes: &[u8]| (1..=LONGEST_HEX / 2).contains(&bytes.len());
        if !is_number(salt) || !is_number(verifier) {
            return None;
        }
        let verifier = BigUint::from_bytes_be(verifier);
        if &verifier % &*PRIME == BigUint::ZERO {
            return None;
        }
        Some(Self { salt: hex(&BigUint::from_bytes_be(salt)), verifier: hex(&verifier) })
    }

    /// Whether this is the password.
    pub fn matches(&self, pool_name: &str, username: &str, password: &str) -> bool {
        let salt = number(&self.salt).unwrap_or_default();
        let again = Self::with_salt(&salt, pool_name, username, password);
        aws_lc_rs::constant_time::verify_slices_are_equal(again.verifier.as_bytes(), self.verifier.as_bytes()).is_ok()
    }

    /// The salt, as the challenge shows it.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    fn with_salt(salt: &BigUint, pool_name: &str, username: &str, password: &str) -> Self {
        let inner = sha256(&[format!("{pool_name}{username}:{password}").as_bytes()]);
        let exponent = hashed(&[&padded(salt), &inner]);
        let verifier = BigUint::from(GENERATOR).modpow(&exponent, &PRIME);
        Self { salt: hex(salt), verifier: hex(&verifier) }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(…)")
    }
}

impl Handshake {
    /// Answers the client's public value (hexadecimal). None where it is no number or would fix the key.
    pub fn begin(client_public: &str, verifier: Verifier) -> Option<Self> {
        if client_public.len() > LONGEST_HEX {
            return None;
        }
        let client_public = number(client_public)?;
        if &client_public % &*PRIME == BigUint::ZERO {
            return None;
        }
        let secret = BigUint::from_bytes_be(&rand::rng().random::<[u8; SECRET_BYTES]>());
        let v = number(&verifier.verifier)?;
        let public = (&*MULTIPLIER * v + BigUint::from(GENERATOR).modpow(&secret, &PRIME)) % &*PRIME;
        Some(Self { client_public, secret, public, verifier })
    }

    /// `SRP_B`, hexadecimal.
    pub fn public(&self) -> String {
        hex(&self.public)
    }

    /// `SALT`, hexadecimal.
    pub fn salt(&self) -> &str {
        self.verifier.salt()
    }

    /// Whether the client's signature proves the password.
    pub fn proves(&self, pool_name: &str, username: &str, secret_block: &[u8], timestamp: &str, proof: &[u8]) -> bool {
        let scramble = hashed(&[&padded(&self.client_public), &padded(&self.public)]);
        if scramble == BigUint::ZERO {
            return false;
        }
        let v = number(&self.verifier.verifier).unwrap_or_default();
        let shared = (&self.client_public * v.modpow(&scramble, &PRIME)).modpow(&self.secret, &PRIME);
        let key = session_key(&shared, &scramble);
        let signed = [pool_name.as_bytes(), username.as_bytes(), secret_block, timestamp.as_bytes()].concat();
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key[..]), &signed, proof).is_ok()
    }
}

/// The client's half, written from the protocol's description only: the tests sign in with it.
#[cfg(test)]
pub mod client {
    use super::*;

    /// What a device sends to be remembered: its salt and its verifier.
    pub fn device_secret(group_key: &str, key: &str, password: &str) -> (Vec<u8>, Vec<u8>) {
        let verifier = Verifier::of(group_key, key, password);
        let bytes = |text: &str| number(text).expect("hexadecimal").to_bytes_be();
        (bytes(&verifier.salt), bytes(&verifier.verifier))
    }

    /// A sign-in seen from the client.
    pub struct Client {
        secret: BigUint,
        public: BigUint,
    }

    impl Client {
        pub fn new() -> Self {
            let secret = BigUint::from_bytes_be(&rand::rng().random::<[u8; 128]>());
            let public = BigUint::from(2_u32).modpow(&secret, &PRIME);
            Self { secret, public }
        }

        pub fn srp_a(&self) -> String {
            self.public.to_str_radix(16)
        }

        pub fn signature(
            &self,
            (pool_name, username, password): (&str, &str, &str),
            (salt, srp_b): (&str, &str),
            secret_block: &[u8],
            timestamp: &str,
        ) -> Vec<u8> {
            let b = number(srp_b).expect("SRP_B is hexadecimal");
            let salt = number(salt).expect("SALT is hexadecimal");
            let u = hashed(&[&padded(&self.public), &padded(&b)]);
            let inner = sha256(&[pool_name.as_bytes(), username.as_bytes(), b":", password.as_bytes()]);
            let x = hashed(&[&padded(&salt), &inner]);
            let masked = &*MULTIPLIER * BigUint::from(2_u32).modpow(&x, &PRIME) % &*PRIME;
            let shared = (b + &*PRIME - masked).modpow(&(&self.secret + &u * &x), &PRIME);
            let key = hmac::Key::new(hmac::HMAC_SHA256, &session_key(&shared, &u)[..]);
            let message = [pool_name.as_bytes(), username.as_bytes(), secret_block, timestamp.as_bytes()].concat();
            hmac::sign(&key, &message).as_ref().to_vec()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_proves_itself() {
        for _ in 0..4 {
            let verifier = Verifier::of("pool", "ann", "Secret1!");
            let client = client::Client::new();
            let handshake = Handshake::begin(&client.srp_a(), verifier).unwrap();
            let sign = |password| {
                client.signature(("pool", "ann", password), (handshake.salt(), &handshake.public()), b"block", "now")
            };
            assert!(handshake.proves("pool", "ann", b"block", "now", &sign("Secret1!")));
            assert!(!handshake.proves("pool", "ann", b"block", "now", &sign("secret1!")));
            assert!(!handshake.proves("pool", "ann", b"other", "now", &sign("Secret1!")));
            assert!(!handshake.proves("pool", "ben", b"block", "now", &sign("Secret1!")));
            assert!(!handshake.proves("pool", "ann", b"block", "then", &sign("Secret1!")));
        }
    }

    #[test]
    fn values_that_would_fix_the_key_are_refused() {
        let verifier = Verifier::of("pool", "ann", "Secret1!");
        let twice = hex(&(&*PRIME * 2_u32));
        for public in ["", "0", "00", "xyz", "-1", &hex(&PRIME), &twice, &"f".repeat(801)] {
            assert!(Handshake::begin(public, verifier.clone()).is_none(), "{public}");
        }
    }

    #[test]
    fn a_verifier_knows_its_password_and_says_nothing() {
        let verifier = Verifier::of("pool", "ann", "Secret1!");
        assert!(verifier.matches("pool", "ann", "Secret1!"));
        assert!(!verifier.matches("pool", "ann", "Secret1"));
        assert!(!verifier.matches("pool", "ben", "Secret1!"));
        assert!(!format!("{verifier:?}").contains(&verifier.salt));
        assert!(!serde_json::to_string(&verifier).unwrap().contains("Secret1!"));
        for (salt, verifier) in [(vec![], vec![1]), (vec![1], vec![]), (vec![1], vec![0, 0]), (vec![1], vec![1; 401])] {
            assert!(Verifier::of_device(&salt, &verifier).is_none());
        }
        assert!(Verifier::of_device(&[1], &PRIME.to_bytes_be()).is_none());
        let decoy = Verifier::decoy([7; SALT_BYTES]);
        assert_eq!(decoy.salt, Verifier::decoy([7; SALT_BYTES]).salt);
        assert_eq!(decoy.salt.len(), verifier.salt.len());
    }
}
