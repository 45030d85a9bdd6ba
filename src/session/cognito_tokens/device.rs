//! The device that a user pool tracks: taken up after a sign-in, with a password that it makes for itself. A pool that
//! tracks devices refreshes only for a confirmed one. No failure here fails a sign-in.

use std::time::Instant;

use aws_sdk_cognitoidentityprovider::types::{
    AuthenticationResultType, DeviceRememberedStatusType, DeviceSecretVerifierConfigType, NewDeviceMetadataType,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::CognitoTokens;
use super::srp::computed;
use crate::credential::aws::{self, Refused};
use crate::session::codes::{PoolCall, token_error};
use crate::session::{RememberDevice, RememberedDevice, TokenError, TokenSet};
use crate::srp::{DeviceSecret, Prover};
use crate::telemetry::metrics::UpstreamOperation;

/// How the device is called in the user's list.
const DEVICE_NAME: &str = "tidegate";
/// A confirmation that got no answer is tried once more: without it the session could not be refreshed.
const CONFIRM_TRIES: u32 = 2;

impl CognitoTokens {
    /// The tokens at the end of a sign-in, and the device from now on: a new one, or the one that was signed in with.
    pub(super) async fn signed_in(
        &self,
        given: Option<AuthenticationResultType>,
        device: Option<&RememberedDevice>,
    ) -> Result<TokenSet, TokenError> {
        let new_device = given.as_ref().and_then(|given| given.new_device_metadata.clone());
        let mut set = self.tokens(given).await?;
        set.device = match (new_device, &set.access_token) {
            (Some(NewDeviceMetadataType { device_key: Some(key), device_group_key, .. }), Some(access_token)) => {
                Some(self.take_up(key, device_group_key.unwrap_or_default(), access_token).await)
            }
            _ => device.cloned(),
        };
        Ok(set)
    }

    async fn take_up(&self, key: String, group_key: String, access_token: &SecretString) -> RememberedDevice {
        let password = match self.confirm(&key, &group_key, access_token).await {
            Ok(password) => Some(password),
            Err(error) => {
                tracing::warn!(%error, "the device could not be confirmed: this sign-in may not outlive its first tokens");
                None
            }
        };
        let password = password.filter(|_| self.remember != RememberDevice::Never);
        RememberedDevice { key, group_key, password }
    }

    async fn confirm(
        &self,
        key: &str,
        group_key: &str,
        access_token: &SecretString,
    ) -> Result<SecretString, TokenError> {
        let (realm, name) = (group_key.to_owned(), key.to_owned());
        let secret = computed(move || DeviceSecret::make(Prover { realm: &realm, name: &name })).await?;
        let mut tries = 0;
        let reply = loop {
            tries += 1;
            let config = DeviceSecretVerifierConfigType::builder().password_verifier(&secret.verifier);
            let request = self.client.confirm_device().access_token(access_token.expose_secret()).device_key(key);
            let request = request.device_name(DEVICE_NAME);
            let request = request.device_secret_verifier_config(config.salt(&secret.salt).build());
            let reply = call!(self, Device, "ConfirmDevice", request);
            match reply.map_err(|refused| token_error(PoolCall::Device, refused)) {
                Ok(reply) => break reply,
                Err(TokenError::Transient(_)) if tries < CONFIRM_TRIES => {}
                Err(error) => return Err(error),
            }
        };
        let status = match self.remember {
            RememberDevice::Always if reply.user_confirmation_necessary => DeviceRememberedStatusType::Remembered,
            RememberDevice::Never if !reply.user_confirmation_necessary => DeviceRememberedStatusType::NotRemembered,
            _ => return Ok(secret.password),
        };
        let request = self.client.update_device_status().access_token(access_token.expose_secret()).device_key(key);
        let reply = call!(self, Device, "UpdateDeviceStatus", request.device_remembered_status(status));
        if let Err(refused) = reply {
            tracing::warn!(why = %refused.message, "the device's status could not be set");
        }
        Ok(secret.password)
    }
}
