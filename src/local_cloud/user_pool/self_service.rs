//! What a signed-in user may do with their access token.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::user_pool::mfa::show_factors;
use crate::local_cloud::user_pool::password;
use crate::local_cloud::user_pool::request::{Request, attributes, not_authorized};
use crate::local_cloud::user_pool::sign_in::wrong_password;
use crate::local_cloud::user_pool::srp::Verifier;

impl Request {
    pub(super) fn get_user(&self) -> Result<Value, AwsError> {
        let (_, user, _) = self.signed_in_user()?;
        let mut answer = json!({ "Username": user.username, "UserAttributes": attributes(&user) });
        show_factors(&user.factors, &mut answer);
        Ok(answer)
    }

    pub(super) fn change_password(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        let old = self.password("PreviousPassword", "previousPassword")?;
        let new = self.password("ProposedPassword", "proposedPassword")?;
        let now_ms = self.now_ms();
        if user.attempts.is_locked(now_ms) {
            return Err(not_authorized("Password attempts exceeded"));
        }
        let is_right =
            user.verifier.as_ref().is_some_and(|verifier| verifier.matches(pool.srp_name(), &user.username, old));
        if !is_right {
            pool.directory.update(&user.sub, |user| user.attempts.record_failure(now_ms))?;
            return Err(wrong_password());
        }
        password::check(&pool.seed.password_policy, new)?;
        let verifier = Verifier::of(pool.srp_name(), &user.username, new);
        pool.directory.update(&user.sub, |user| {
            user.verifier = Some(verifier);
            user.modify_ms = now_ms;
        })?;
        Ok(json!({}))
    }

    pub(super) fn global_sign_out(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        pool.directory.update(&user.sub, |user| user.sign_ins.iter_mut().for_each(|s| s.revoked = true))?;
        Ok(json!({}))
    }

    pub(super) fn delete_user(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        pool.directory.remove(&user.sub)?;
        Ok(json!({}))
    }
}
