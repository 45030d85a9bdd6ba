//! SRP-6a as Cognito speaks it: 3072-bit group, SHA-256, the shared key drawn by HKDF, numbers hashed as positive
//! two's-complement bytes. Pure arithmetic: no user, no clock.

use aws_lc_rs::{digest, hkdf, hmac};
use num_bigint::BigUint;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// RFC 3526, group 15.
const PRIME_HEX: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
    020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
    98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
    9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
    3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
    A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
    D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
    08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF";
const GENERATOR: u32 = 2;
const SALT_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
/// A client's public value is below the prime; a longer one is not worth the arithmetic.
const LONGEST_PUBLIC_HEX: usize = 800;
const KEY_BYTES: usize = 16;
const KEY_INFO: &[u8] = b"Caldera Derived Key";

static PRIME: LazyLock<BigUint> = LazyLock::new(|| number(PRIME_HEX).expect("the prime is hexadecimal"));
static MULTIPLIER: LazyLock<BigUint> = LazyLock::new(|| hashed(&[&padded(&PRIME), &padded(&GENERATOR.into())]));

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
        let is_number = |bytes: &[u8]| (1..=LONGEST_PUBLIC_HEX / 2).contains(&bytes.len());
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
        if client_public.len() > LONGEST_PUBLIC_HEX {
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
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed, proof).is_ok()
    }
}

fn session_key(shared: &BigUint, scramble: &BigUint) -> [u8; KEY_BYTES] {
    struct KeyLength;
    impl hkdf::KeyType for KeyLength {
        fn len(&self) -> usize {
            KEY_BYTES
        }
    }
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &padded(scramble)).extract(&padded(shared));
    let mut key = [0; KEY_BYTES];
    extracted
        .expand(&[KEY_INFO], KeyLength)
        .and_then(|expanded| expanded.fill(&mut key))
        .expect("16 bytes are within HKDF's reach");
    key
}

/// Bytes of a number as the protocol hashes it: never with the top bit set.
fn padded(number: &BigUint) -> Vec<u8> {
    let mut bytes = number.to_bytes_be();
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    bytes
}

fn hashed(parts: &[&[u8]]) -> BigUint {
    BigUint::from_bytes_be(&sha256(parts))
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

fn number(hex: &str) -> Option<BigUint> {
    if hex.is_empty() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    BigUint::parse_bytes(hex.as_bytes(), 16)
}

fn hex(number: &BigUint) -> String {
    let text = number.to_str_radix(16);
    if text.len() % 2 == 1 { format!("0{text}") } else { text }
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
            let key = hmac::Key::new(hmac::HMAC_SHA256, &session_key(&shared, &u));
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
        for public in ["", "0", "00", "xyz", "-1", PRIME_HEX, &twice, &"f".repeat(801)] {
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
