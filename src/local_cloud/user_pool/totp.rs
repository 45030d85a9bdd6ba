//! One-time passwords of authenticator apps: RFC 6238 with HMAC-SHA-1, six digits and steps of 30 seconds, as Cognito
//! and every app have them. Pure arithmetic: no user, no clock.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

const STEP_S: u64 = 30;
const DIGITS: usize = 6;
/// Codes of the steps next to the present one count as well: phones' clocks drift, and people type slowly.
const DRIFT_STEPS: u64 = 1;
const SECRET_BYTES: usize = 32;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What an authenticator app and the pool share. Shown once, to its user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A new one.
    pub fn generate() -> Self {
        Self(rand::rng().random::<[u8; SECRET_BYTES]>().to_vec())
    }

    /// As apps take it: base32 (RFC 4648) without padding.
    pub fn base32(&self) -> String {
        let mut text = String::new();
        for chunk in self.0.chunks(5) {
            let mut bits = [0_u8; 8];
            bits[3..3 + chunk.len()].copy_from_slice(chunk);
            let bits = u64::from_be_bytes(bits);
            for at in 0..(chunk.len() * 8).div_ceil(5) {
                let index = (bits >> (35 - 5 * at)) & 31;
                text.push(char::from(BASE32[usize::try_from(index).unwrap_or(0)]));
            }
        }
        text
    }

    /// The step that this is the code of, if it is one of about now; the later of two.
    pub fn step_of(&self, code: &str, now_s: u64) -> Option<u64> {
        let now = now_s / STEP_S;
        (now.saturating_sub(DRIFT_STEPS)..=now + DRIFT_STEPS).rev().find(|step| {
            let right = self.code_at(*step);
            constant_time::verify_slices_are_equal(right.as_bytes(), code.as_bytes()).is_ok()
        })
    }

    /// The code of a step.
    fn code_at(&self, step: u64) -> String {
        // The RFC wants SHA-1, which HMAC does not weaken.
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag[tag.len() - 1] & 0xf);
        let word = u32::from_be_bytes([tag[offset] & 0x7f, tag[offset + 1], tag[offset + 2], tag[offset + 3]]);
        format!("{:0DIGITS$}", word % 1_000_000)
    }
}

/// What an authenticator app shows at a time (seconds since 1970) for the secret that it was given; `None` where that is
/// not base32. For tests and demos, which play the app.
pub fn totp_code(base32: &str, unix_s: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u64, 0);
    for letter in base32.bytes() {
        let value = BASE32.iter().position(|known| *known == letter)?;
        held = held << 5 | u64::try_from(value).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    Some(Secret(bytes).code_at(unix_s / STEP_S))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, in six digits.
    #[test]
    fn the_codes_are_those_of_the_rfc() {
        let secret = Secret(b"12345678901234567890".to_vec());
        for (time_s, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(secret.code_at(time_s / STEP_S), code);
            assert_eq!(totp_code(&secret.base32(), time_s).as_deref(), Some(code));
        }
    }

    #[test]
    fn a_code_counts_for_three_steps() {
        let secret = Secret::generate();
        let code = secret.code_at(1_000);
        let at = |step: u64| secret.step_of(&code, step * STEP_S);
        assert_eq!((at(999), at(1_000), at(1_001)), (Some(1_000), Some(1_000), Some(1_000)));
        assert_eq!((at(998), at(1_002)), (None, None));
        for wrong in ["", "12345", "1234567", "abcdef"] {
            assert_eq!(secret.step_of(wrong, 30_000), None);
        }
        assert!(secret.step_of("000000", 0).is_none_or(|step| step <= 1));
    }

    /// RFC 4648, section 10.
    #[test]
    fn secrets_are_shown_in_base32_and_nowhere_else() {
        for (bytes, text) in
            [("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(Secret(bytes.into()).base32(), text);
        }
        assert_eq!(Secret::generate().base32().len(), 52);
        assert_eq!(format!("{:?}", Secret::generate()), "Secret(…)");
    }
}
