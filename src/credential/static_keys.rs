//! Long-lived keys from a file or a systemd credential, for S3-likes without Cognito. Promises that the keys are read anew
//! with every refresh; must never be given to people: whoever has them is everybody of the identity.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    CredentialError, CredentialErrorKind, CredentialSource, Credentials, Login, SecretPlace, SetupError, SourceConfig,
    aws,
};
use crate::clock::Clock;

/// Keys without an end count as good for so long; then they are read again.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(3_600);

/// Keys that lie somewhere on the device.
#[derive(Debug)]
pub struct StaticKeys {
    identity_id: String,
    place: SecretPlace,
    clock: Clock,
}

impl StaticKeys {
    /// Reads nothing yet.
    ///
    /// # Errors
    /// A field of the configuration that cannot be used.
    pub fn new(config: &SourceConfig, clock: Clock) -> Result<Self, SetupError> {
        let identity_id = fixed_identity_id(config)?;
        let place = config.keys.clone().ok_or_else(|| SetupError {
            field: "keys_file",
            why: "is missing: the keys lie in a file or in a keys_credential".to_owned(),
        })?;
        Ok(Self { identity_id, place, clock })
    }
}

#[async_trait::async_trait]
impl CredentialSource for StaticKeys {
    async fn identity_id(&self, login: Option<&Login>) -> Result<String, CredentialError> {
        only_users(login)?;
        Ok(self.identity_id.clone())
    }

    async fn credentials(&self, identity_id: &str, login: Option<&Login>) -> Result<Credentials, CredentialError> {
        only_users(login)?;
        only_this(&self.identity_id, identity_id)?;
        let unusable = |why: String| CredentialError { kind: CredentialErrorKind::Configuration, message: why };
        let text = self.place.read().await.map_err(|why| unusable(format!("the static keys: {why}")))?;
        let keys = read_keys(text.expose_secret()).map_err(|why| unusable(format!("the static keys: {why}")))?;
        let received = self.clock.boot();
        Ok(Credentials {
            access_key_id: keys.access_key_id,
            secret_access_key: keys.secret_access_key,
            session_token: keys.session_token,
            expire_time: self.clock.wall() + READ_AGAIN,
            deadline: received + READ_AGAIN,
            received,
        })
    }

    fn client_names_role(&self) -> bool {
        true
    }
}

/// The identity id of everybody who uses a source without a pool.
pub(super) fn fixed_identity_id(config: &SourceConfig) -> Result<String, SetupError> {
    let identity_id = aws::required("identity_id", config.identity_id.as_ref())?;
    let plain = identity_id.chars().all(|c| c.is_ascii_alphanumeric() || "_.:@=+-".contains(c));
    if plain && identity_id.len() <= 128 && !identity_id.starts_with('.') {
        return Ok(identity_id.to_owned());
    }
    let why = format!("must be 1 to 128 letters, digits or _ . : @ = + - (no dot first), is {identity_id:?}");
    Err(SetupError { field: "identity_id", why })
}

/// These keys are nobody's in particular: a guest would be everybody.
pub(super) fn only_users(login: Option<&Login>) -> Result<(), CredentialError> {
    match login {
        Some(_) => Ok(()),
        None => Err(CredentialError {
            kind: CredentialErrorKind::Configuration,
            message: "this identity's keys are not for guests: sign in".to_owned(),
        }),
    }
}

/// What was accepted for another identity id is not signed with these keys.
pub(super) fn only_this(own: &str, asked: &str) -> Result<(), CredentialError> {
    if own == asked {
        return Ok(());
    }
    let message = format!("these keys are for the identity id {own:?} of the configuration, not for {asked:?}");
    Err(CredentialError { kind: CredentialErrorKind::IdentityMoved, message })
}

struct Keys {
    access_key_id: String,
    secret_access_key: SecretString,
    session_token: Option<SecretString>,
}

/// `aws_access_key_id = …` and so on, one in a line, as in AWS's shared credentials file; no error shows a value.
fn read_keys(text: &str) -> Result<Keys, String> {
    let (mut key, mut secret, mut token, mut sections) = (None, None, None, 0);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
            continue;
        }
        if line.starts_with('[') {
            sections += 1;
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| format!("line {} is not name = value", number + 1))?;
        let slot = match name.trim() {
            "aws_access_key_id" => &mut key,
            "aws_secret_access_key" => &mut secret,
            "aws_session_token" => &mut token,
            // A shared credentials file has other settings too.
            _ => continue,
        };
        *slot = Some(value.trim()).filter(|value| !value.is_empty());
    }
    if sections > 1 {
        return Err("there are several profiles: leave one".to_owned());
    }
    Ok(Keys {
        access_key_id: key.ok_or("there is no aws_access_key_id")?.to_owned(),
        secret_access_key: secret.ok_or("there is no aws_secret_access_key")?.into(),
        session_token: token.map(SecretString::from),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_read_as_aws_writes_them() {
        let keys =
            read_keys("# keys\n[default]\naws_access_key_id = AKIA1\naws_secret_access_key=se=cret\nregion = x\n");
        let keys = keys.unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((keys.access_key_id.as_str(), keys.secret_access_key.expose_secret()), ("AKIA1", "se=cret"));
        assert!(keys.session_token.is_none());
        for (text, why) in [
            ("aws_access_key_id = AKIA1\n", "no aws_secret_access_key"),
            ("aws_secret_access_key = canary\n", "no aws_access_key_id"),
            ("canary\n", "line 1 is not name = value"),
            ("[a]\naws_access_key_id = A\naws_secret_access_key = canary\n[b]\n", "several profiles"),
            ("aws_access_key_id = A\naws_secret_access_key = \n", "no aws_secret_access_key"),
        ] {
            let error = read_keys(text).err().unwrap();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn the_identity_id_is_one_segment_of_a_key() {
        let with =
            |id: &str| fixed_identity_id(&SourceConfig { identity_id: Some(id.into()), ..SourceConfig::default() });
        assert_eq!(with("kiosk-7").unwrap(), "kiosk-7");
        for wrong in ["", "..", ".", "a/b", "a b", "{sub}", &"x".repeat(129)] {
            assert_eq!(with(wrong).unwrap_err().field, "identity_id", "{wrong}");
        }
    }
}
