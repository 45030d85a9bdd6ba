//! SRP-6a as Cognito speaks it: 3072-bit group, SHA-256, the shared key drawn by HKDF, numbers hashed as positive
//! two's-complement bytes. Owns the numbers and the client's half; the local cloud has the server's half. Pure
//! arithmetic: no user, no clock, no call. A round costs some milliseconds optimised, ten times that unoptimised: it
//! belongs on the blocking pool.
//!
//! Passwords, derived keys and hashes are zeroised. The big numbers that are made of them are not: the arithmetic's
//! crate cannot; the process is undumpable.

use std::sync::LazyLock;

use aws_lc_rs::{digest, hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use num_bigint::BigUint;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::{Zeroize as _, Zeroizing};

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
/// The group's generator.
pub const GENERATOR: u32 = 2;
/// The longest public value or salt, in hexadecimal digits: a number below the prime has 768, a longer one is not worth
/// the arithmetic.
pub const LONGEST_HEX: usize = 800;
const KEY_BYTES: usize = 16;
const KEY_INFO: &[u8] = b"Caldera Derived Key";
/// As long as RFC 5054 asks, and more.
const CLIENT_SECRET_BYTES: usize = 128;
const DEVICE_SALT_BYTES: usize = 16;
const DEVICE_PASSWORD_BYTES: usize = 40;

/// The group's prime.
pub static PRIME: LazyLock<BigUint> = LazyLock::new(|| number(PRIME_HEX).expect("the prime is hexadecimal"));
/// `k` of SRP-6a.
pub static MULTIPLIER: LazyLock<BigUint> = LazyLock::new(|| hashed(&[&padded(&PRIME), &padded(&GENERATOR.into())]));

/// Why a proof could not be made. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrpError {
    /// The server's number is none, or one that would fix the key: whoever sends it does not know the verifier.
    #[error("the server's {0} is not a number that SRP allows")]
    BadNumber(&'static str),
    /// The secret block is not base64.
    #[error("the server's SECRET_BLOCK is not base64")]
    BadBlock,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// Whose proof: the realm (a pool's id after the underscore, or a device group's key) and the name in it (a user's, or a
/// device's key).
#[derive(Debug, Clone, Copy)]
pub struct Prover<'a> {
    /// The realm.
    pub realm: &'a str,
    /// The name.
    pub name: &'a str,
}

/// What the server asks: Cognito's `SALT`, `SRP_B` and `SECRET_BLOCK`.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Hexadecimal.
    pub salt: &'a str,
    /// Hexadecimal.
    pub server_public: &'a str,
    /// Base64.
    pub secret_block: &'a str,
}

/// The client's half of one exchange: made anew for each.
pub struct Exchange {
    secret: BigUint,
    public: BigUint,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

impl Exchange {
    /// With a secret of its own.
    ///
    /// # Errors
    /// `NoRandomness`.
    pub fn begin() -> Result<Self, SrpError> {
        let mut secret = Zeroizing::new([0_u8; CLIENT_SECRET_BYTES]);
        random(&mut secret[..])?;
        Ok(Self::with_secret(&secret[..]))
    }

    fn with_secret(secret: &[u8]) -> Self {
        let secret = BigUint::from_bytes_be(secret);
        let public = BigUint::from(GENERATOR).modpow(&secret, &PRIME);
        Self { secret, public }
    }

    /// `SRP_A`, hexadecimal.
    pub fn public(&self) -> String {
        hex(&self.public)
    }

    /// The proof of the password: `PASSWORD_CLAIM_SIGNATURE`, base64. `timestamp` is sent along with it.
    ///
    /// # Errors
    /// What the server sent is not what an honest one sends.
    pub fn prove(
        &self,
        prover: Prover<'_>,
        password: &SecretString,
        question: Question<'_>,
        timestamp: &str,
    ) -> Result<String, SrpError> {
        let server_public = bounded("SRP_B", question.server_public)?;
        if &server_public % &*PRIME == BigUint::ZERO {
            return Err(SrpError::BadNumber("SRP_B"));
        }
        let salt = bounded("SALT", question.salt)?;
        let block = STANDARD.decode(question.secret_block).map_err(|_| SrpError::BadBlock)?;
        let scramble = hashed(&[&padded(&self.public), &padded(&server_public)]);
        if scramble == BigUint::ZERO {
            return Err(SrpError::BadNumber("SRP_B"));
        }
        let exponent = password_exponent(&salt, prover, password);
        let masked = &*MULTIPLIER * BigUint::from(GENERATOR).modpow(&exponent, &PRIME) % &*PRIME;
        // Below the prime first: the subtraction must not go below zero.
        let base = (server_public % &*PRIME + &*PRIME - masked) % &*PRIME;
        let shared = base.modpow(&(&self.secret + &scramble * &exponent), &PRIME);
        let key = session_key(&shared, &scramble);
        let signed = [prover.realm.as_bytes(), prover.name.as_bytes(), &block, timestamp.as_bytes()].concat();
        Ok(STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key[..]), &signed)))
    }
}

/// A password that a device makes for itself, and what the server keeps of it.
#[derive(Debug)]
pub struct DeviceSecret {
    /// Stays here.
    pub password: SecretString,
    /// Base64, as `DeviceSecretVerifierConfig` has it.
    pub salt: String,
    /// Base64, as `DeviceSecretVerifierConfig` has it.
    pub verifier: String,
}

impl DeviceSecret {
    /// For a new device.
    ///
    /// # Errors
    /// `NoRandomness`.
    pub fn make(device: Prover<'_>) -> Result<Self, SrpError> {
        let mut bytes = Zeroizing::new([0_u8; DEVICE_PASSWORD_BYTES]);
        random(&mut bytes[..])?;
        let password = SecretString::from(STANDARD.encode(&bytes[..]));
        let mut salt = [0_u8; DEVICE_SALT_BYTES];
        random(&mut salt)?;
        Ok(Self::with_salt(device, password, &salt))
    }

    fn with_salt(device: Prover<'_>, password: SecretString, salt: &[u8]) -> Self {
        let salt = BigUint::from_bytes_be(salt);
        let exponent = password_exponent(&salt, device, &password);
        let verifier = BigUint::from(GENERATOR).modpow(&exponent, &PRIME);
        Self { password, salt: STANDARD.encode(padded(&salt)), verifier: STANDARD.encode(padded(&verifier)) }
    }
}

fn password_exponent(salt: &BigUint, prover: Prover<'_>, password: &SecretString) -> BigUint {
    let password = password.expose_secret().as_bytes();
    let mut inner = sha256(&[prover.realm.as_bytes(), prover.name.as_bytes(), b":", password]);
    let exponent = hashed(&[&padded(salt), &inner]);
    inner.zeroize();
    exponent
}

fn bounded(what: &'static str, text: &str) -> Result<BigUint, SrpError> {
    if text.len() > LONGEST_HEX {
        return Err(SrpError::BadNumber(what));
    }
    number(text).ok_or(SrpError::BadNumber(what))
}

fn random(bytes: &mut [u8]) -> Result<(), SrpError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| SrpError::NoRandomness)
}

/// The key of the proof, from the number that both sides share.
pub fn session_key(shared: &BigUint, scramble: &BigUint) -> Zeroizing<[u8; KEY_BYTES]> {
    struct KeyLength;
    impl hkdf::KeyType for KeyLength {
        fn len(&self) -> usize {
            KEY_BYTES
        }
    }
    let secret = Zeroizing::new(padded(shared));
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &padded(scramble)).extract(&secret);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    extracted
        .expand(&[KEY_INFO], KeyLength)
        .and_then(|expanded| expanded.fill(&mut key[..]))
        .expect("16 bytes are within HKDF's reach");
    key
}

/// Bytes of a number as the protocol hashes it: never with the top bit set.
pub fn padded(number: &BigUint) -> Vec<u8> {
    let mut bytes = number.to_bytes_be();
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    bytes
}

/// SHA-256 of the parts, as a number.
pub fn hashed(parts: &[&[u8]]) -> BigUint {
    BigUint::from_bytes_be(&sha256(parts))
}

/// SHA-256 of the parts.
pub fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

/// A hexadecimal number; none where it is no such thing.
pub fn number(hex: &str) -> Option<BigUint> {
    if hex.is_empty() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    BigUint::parse_bytes(hex.as_bytes(), 16)
}

/// Hexadecimal, with an even number of digits.
pub fn hex(number: &BigUint) -> String {
    let text = number.to_str_radix(16);
    if text.len() % 2 == 1 { format!("0{text}") } else { text }
}

#[cfg(test)]
mod tests;
