//! Refresh tokens at work: fresh tokens, rotation with its grace, revocation.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::user_pool::directory::{User, no_user};
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter, not_authorized};
use crate::local_cloud::user_pool::tokens::{SignIn, hash, sub_of};

impl Request {
    pub(super) fn get_tokens_from_refresh_token(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        let refresh_token = self.required("RefreshToken", "refreshToken")?;
        let result = self.refresh(pool, client, refresh_token, self.text("DeviceKey"))?;
        Ok(json!({ "AuthenticationResult": result, "ChallengeParameters": {} }))
    }

    /// `REFRESH_TOKEN_AUTH`, which cannot hand out a rotated token and is therefore closed where tokens rotate.
    pub(super) fn refresh_token_auth(&self, pool: &Pool, client: &UserPoolClientSeed) -> Result<Value, AwsError> {
        if client.refresh_token_rotation_grace_s.is_some() {
            let message = "Refresh token rotation is enabled for this client; use GetTokensFromRefreshToken.";
            return Err(invalid_parameter(message));
        }
        let refresh_token = self.parameter("AuthParameters", "REFRESH_TOKEN")?;
        let device_key = self.parameter("AuthParameters", "DEVICE_KEY").ok();
        let result = self.refresh(pool, client, refresh_token, device_key)?;
        Ok(json!({ "AuthenticationResult": result, "ChallengeParameters": {} }))
    }

    pub(super) fn revoke_token(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        let token = self.required("Token", "token")?;
        if !client.enable_token_revocation {
            let message = "Token revocation is not enabled for this client.";
            return Err(AwsError::new("UnsupportedOperationException", message));
        }
        if pool.key.verify(token).is_ok() {
            return Err(AwsError::new("UnsupportedTokenTypeException", "The token is not a refresh token."));
        }
        // A token that means nothing is as good as revoked (RFC 7009).
        let Some(user) = sub_of(token).and_then(|sub| pool.directory.get(&sub)) else { return Ok(json!({})) };
        let Some(sign_in) = sign_in_of(&user, token) else { return Ok(json!({})) };
        if sign_in.client_id != client.id {
            return Err(AwsError::new("UnauthorizedException", "The token was issued to another client."));
        }
        let origin_jti = sign_in.origin_jti.clone();
        pool.directory.update(&user.sub, |user| {
            user.sign_ins.iter_mut().filter(|s| s.origin_jti == origin_jti).for_each(|s| s.revoked = true);
        })?;
        Ok(json!({}))
    }

    fn refresh(
        &self,
        pool: &Pool,
        client: &UserPoolClientSeed,
        refresh_token: &str,
        device_key: Option<&str>,
    ) -> Result<Value, AwsError> {
        let invalid = || not_authorized("Invalid Refresh Token");
        let sub = sub_of(refresh_token).ok_or_else(invalid)?;
        let user = pool.directory.get(&sub).ok_or_else(no_user)?;
        let Some(grace_s) = client.refresh_token_rotation_grace_s else {
            let sign_in = usable(&user, client, refresh_token, self.now_ms())?;
            check_device(pool, &user, sign_in, device_key)?;
            return Ok(self.authentication_result(pool, client, &user, sign_in, None));
        };
        let now_ms = self.now_ms();
        let rotated = pool.directory.update(&sub, |user| {
            let sign_in = usable(user, client, refresh_token, now_ms)?;
            check_device(pool, user, sign_in, device_key)?;
            let origin_jti = sign_in.origin_jti.clone();
            let sign_in = user.sign_ins.iter_mut().find(|s| s.origin_jti == origin_jti).ok_or_else(invalid)?;
            let new_token = sign_in.rotate(&sub, now_ms, grace_s);
            Ok::<_, AwsError>((sign_in.clone(), new_token))
        })?;
        let (sign_in, new_token) = rotated?;
        Ok(self.authentication_result(pool, client, &user, &sign_in, Some(new_token)))
    }
}

/// The sign-in that the refresh token speaks for, if it still may.
fn usable<'u>(
    user: &'u User,
    client: &UserPoolClientSeed,
    refresh_token: &str,
    now_ms: u64,
) -> Result<&'u SignIn, AwsError> {
    let invalid = || not_authorized("Invalid Refresh Token");
    let sign_in =
        sign_in_of(user, refresh_token).filter(|sign_in| sign_in.client_id == client.id).ok_or_else(invalid)?;
    if !user.enabled {
        return Err(not_authorized("User is disabled."));
    }
    if sign_in.revoked {
        return Err(not_authorized("Refresh Token has been revoked"));
    }
    if now_ms / 1_000 >= sign_in.expire_s {
        return Err(not_authorized("Refresh Token has expired"));
    }
    let token_hash = hash(refresh_token);
    let retired = sign_in.retired.iter().find(|retired| retired.refresh_hash == token_hash);
    if retired.is_some_and(|retired| now_ms >= retired.usable_until_ms) {
        return Err(AwsError::new("RefreshTokenReuseException", "Refresh token has been rotated out and reused."));
    }
    Ok(sign_in)
}

/// A refresh token of a device counts only together with its key, and only once the device is confirmed and as long as
/// it is not forgotten. Where the pool remembers devices no more, it counts alone.
fn check_device(pool: &Pool, user: &User, sign_in: &SignIn, given: Option<&str>) -> Result<(), AwsError> {
    let bound_to = sign_in.device_key.as_deref().filter(|_| pool.seed.devices.is_some());
    match bound_to {
        Some(key) if given != Some(key) || user.device(key).is_none() => Err(not_authorized("Invalid Refresh Token")),
        _ => Ok(()),
    }
}

fn sign_in_of<'u>(user: &'u User, refresh_token: &str) -> Option<&'u SignIn> {
    let token_hash = hash(refresh_token);
    user.sign_ins.iter().find(|sign_in| {
        sign_in.refresh_hash == token_hash || sign_in.retired.iter().any(|retired| retired.refresh_hash == token_hash)
    })
}
