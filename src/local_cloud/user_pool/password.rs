//! Passwords: what the pool's policy asks of one, and temporary ones that it would take.

use rand::RngExt as _;
use rand::seq::SliceRandom as _;

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::PasswordPolicySeed;

const LONGEST: usize = 256;
const SYMBOLS: &str = "^$*.[]{}()?-\"!@#%&/\\,><':;|_~`+= ";
const TEMPORARY_SYMBOLS: &str = "!@#%*-_+=";

/// Lets a password pass that the policy takes; the refusal names the first thing that is missing.
pub fn check(policy: &PasswordPolicySeed, password: &str) -> Result<(), AwsError> {
    let has = |wanted: fn(char) -> bool| password.chars().any(wanted);
    let missing = if password.chars().count() < policy.minimum_length {
        "Password not long enough"
    } else if password.chars().count() > LONGEST {
        "Password is too long"
    } else if policy.require_uppercase && !has(|c| c.is_ascii_uppercase()) {
        "Password must have uppercase characters"
    } else if policy.require_lowercase && !has(|c| c.is_ascii_lowercase()) {
        "Password must have lowercase characters"
    } else if policy.require_numbers && !has(|c| c.is_ascii_digit()) {
        "Password must have numeric characters"
    } else if policy.require_symbols && !has_symbol(password) {
        "Password must have symbol characters"
    } else {
        return Ok(());
    };
    let message = format!("Password did not conform with policy: {missing}");
    Err(AwsError::new("InvalidPasswordException", message))
}

/// A random password that the policy takes.
pub fn temporary(policy: &PasswordPolicySeed) -> String {
    let mut rng = rand::rng();
    let mut characters = Vec::new();
    for class in ["ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghijkmnopqrstuvwxyz", "23456789", TEMPORARY_SYMBOLS] {
        let class = class.as_bytes();
        for _ in 0..policy.minimum_length.clamp(8, LONGEST).div_ceil(4) {
            characters.push(char::from(class[rng.random_range(0..class.len())]));
        }
    }
    characters.shuffle(&mut rng);
    characters.into_iter().collect()
}

/// A space counts as a symbol unless it is first or last.
fn has_symbol(password: &str) -> bool {
    password.trim_matches(' ').chars().any(|c| SYMBOLS.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_class_is_named() {
        let policy = PasswordPolicySeed::default();
        let cases = [
            ("Ab1!", Some("not long enough")),
            ("abcdefg1!", Some("uppercase")),
            ("ABCDEFG1!", Some("lowercase")),
            ("Abcdefgh!", Some("numeric")),
            ("Abcdefgh1", Some("symbol")),
            (" Abcdefgh1 ", Some("symbol")),
            ("Abcd efgh1", None),
            ("Abcdefgh1!", None),
        ];
        for (password, missing) in cases {
            let result = check(&policy, password);
            match missing {
                None => assert_eq!(result, Ok(()), "{password}"),
                Some(word) => assert!(result.is_err_and(|error| error.message.contains(word)), "{password}"),
            }
        }
        let nothing_required = PasswordPolicySeed {
            minimum_length: 6,
            require_lowercase: false,
            require_uppercase: false,
            require_numbers: false,
            require_symbols: false,
        };
        assert_eq!(check(&nothing_required, "ääääää"), Ok(()));
        assert!(check(&nothing_required, &"a".repeat(257)).is_err());
    }

    #[test]
    fn a_temporary_password_conforms() {
        for minimum_length in [6, 8, 30, 99] {
            let policy = PasswordPolicySeed { minimum_length, ..PasswordPolicySeed::default() };
            assert_eq!(check(&policy, &temporary(&policy)), Ok(()));
        }
    }
}
