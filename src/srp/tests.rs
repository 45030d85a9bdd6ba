#![allow(clippy::unwrap_used)]
//! The vectors were computed by amazon-cognito-identity-js 6.3.21 from secrets that are SHA-256 of a counter.

use serde_json::Value;

use super::*;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

/// The secret of a vector: SHA-256 of seed and counter, as often as needed.
fn secret(seed: &str) -> Vec<u8> {
    (0..4).flat_map(|count| sha256(&[format!("{seed}{count}").as_bytes()])).collect()
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap()
}

#[test]
fn proofs_are_those_of_amazons_own_client() {
    for vector in vectors()["users"].as_array().unwrap() {
        let exchange = Exchange::with_secret(&secret(text(vector, "seed")));
        assert_eq!(number(&exchange.public()), number(text(vector, "A")));
        let prover = Prover { realm: text(vector, "pool"), name: text(vector, "name") };
        let question = Question {
            salt: text(vector, "salt"),
            server_public: text(vector, "B"),
            secret_block: text(vector, "block"),
        };
        let password = text(vector, "pw").into();
        let proof = exchange.prove(prover, &password, question, "Thu Nov 26 14:43:30 UTC 2026").unwrap();
        assert_eq!(proof, text(vector, "mac"), "{}", prover.name);
        let padded = format!("00{}", question.salt);
        let again = exchange.prove(prover, &password, Question { salt: &padded, ..question }, "then").unwrap();
        assert_ne!(again, proof, "the time is signed");
        let now = "Thu Nov 26 14:43:30 UTC 2026";
        let again = exchange.prove(prover, &password, Question { salt: &padded, ..question }, now).unwrap();
        assert_eq!(again, proof, "leading zeros of the salt do not count");
    }
}

#[test]
fn a_devices_verifier_is_that_of_amazons_own_client() {
    let vector = &vectors()["device"];
    let device = Prover { realm: "-gK1", name: "us-east-1_7b1c4a30-1111-4222-8333-944455566677" };
    let salt = number(text(vector, "salt")).unwrap().to_bytes_be();
    let secret = DeviceSecret::with_salt(device, text(vector, "pw").into(), &salt);
    assert_eq!((secret.salt.as_str(), secret.verifier.as_str()), (text(vector, "saltB64"), text(vector, "ver")));
}

#[test]
fn a_device_proves_itself_with_the_password_that_it_made() {
    let device = Prover { realm: "group", name: "device" };
    let made = DeviceSecret::make(device).unwrap();
    let other = DeviceSecret::make(device).unwrap();
    assert_ne!(made.password.expose_secret(), other.password.expose_secret());
    // The server's side, from what it was given.
    let verifier = BigUint::from_bytes_be(&STANDARD.decode(&made.verifier).unwrap());
    let salt = hex(&BigUint::from_bytes_be(&STANDARD.decode(&made.salt).unwrap()));
    let b = BigUint::from(77_777_u32);
    let server_public = (&*MULTIPLIER * &verifier + BigUint::from(GENERATOR).modpow(&b, &PRIME)) % &*PRIME;
    let exchange = Exchange::begin().unwrap();
    let shown = hex(&server_public);
    let question = Question { salt: &salt, server_public: &shown, secret_block: "YmxvY2s=" };
    let proof = exchange.prove(device, &made.password, question, "now").unwrap();
    let scramble = hashed(&[&padded(&exchange.public), &padded(&server_public)]);
    let shared = (&exchange.public * verifier.modpow(&scramble, &PRIME)).modpow(&b, &PRIME);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &session_key(&shared, &scramble)[..]);
    assert_eq!(STANDARD.encode(hmac::sign(&key, b"groupdeviceblocknow")), proof);
    assert_ne!(exchange.prove(device, &other.password, question, "now").unwrap(), proof);
}

#[test]
fn a_server_that_would_fix_the_key_gets_no_proof() {
    let exchange = Exchange::begin().unwrap();
    let prover = Prover { realm: "pool", name: "ann" };
    let twice = hex(&(&*PRIME * 2_u32));
    let prove = |salt: &str, server_public: &str, secret_block: &str| {
        exchange.prove(prover, &"pw".into(), Question { salt, server_public, secret_block }, "now")
    };
    for server_public in ["", "0", "00", "xyz", "-1", PRIME_HEX, &twice, &"f".repeat(LONGEST_HEX + 1)] {
        assert_eq!(prove("ab", server_public, "YQ=="), Err(SrpError::BadNumber("SRP_B")), "{server_public}");
    }
    for salt in ["", "salt", &"f".repeat(LONGEST_HEX + 1)] {
        assert_eq!(prove(salt, "ab", "YQ=="), Err(SrpError::BadNumber("SALT")), "{salt}");
    }
    assert_eq!(prove("ab", "ab", "?"), Err(SrpError::BadBlock));
    prove("ab", "ab", "YQ==").unwrap();
}

#[test]
fn nothing_is_shown() {
    let made = DeviceSecret::make(Prover { realm: "group", name: "device" }).unwrap();
    assert!(!format!("{made:?}").contains(made.password.expose_secret()));
    assert_eq!(format!("{:?}", Exchange::begin().unwrap()), "Exchange");
}
