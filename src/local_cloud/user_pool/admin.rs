//! Accounts in an administrator's hands.

use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::user_pool::codes::CodePurpose;
use crate::local_cloud::user_pool::directory::{Attempts, User, UserStatus};
use crate::local_cloud::user_pool::mfa::show_factors;
use crate::local_cloud::user_pool::password;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter, not_authorized, user_entry};
use crate::local_cloud::user_pool::srp::Verifier;

impl Request {
    pub(super) fn admin_get_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminGetUser")?;
        let user = self.named_user(pool)?;
        let mut entry = user_entry(&user, "UserAttributes");
        show_factors(&user.factors, &mut entry);
        Ok(entry)
    }

    pub(super) fn admin_create_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminCreateUser")?;
        let action = self.text("MessageAction").unwrap_or_default();
        if action == "RESEND" {
            return Err(invalid_parameter("RESEND is not part of the local cloud; create the user with a password"));
        }
        let name = self.required("Username", "username")?;
        let temporary = match self.text("TemporaryPassword") {
            Some(given) => given.to_owned(),
            None => password::temporary(&pool.seed.password_policy),
        };
        password::check(&pool.seed.password_policy, &temporary)?;
        let mut user = self.new_user(pool, name, self.attributes_field("UserAttributes")?)?;
        user.status = UserStatus::ForceChangePassword;
        user.verifier = Some(Verifier::of(pool.srp_name(), &user.username, &temporary));
        let taken = AwsError::new("UsernameExistsException", "User account already exists");
        pool.directory.insert(user.clone(), taken)?;
        if action != "SUPPRESS" && user.email().is_some() {
            self.deliver(pool, &user, CodePurpose::Invitation, temporary);
        }
        Ok(json!({ "User": user_entry(&user, "Attributes") }))
    }

    pub(super) fn admin_set_user_password(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminSetUserPassword")?;
        let user = self.named_user(pool)?;
        let new = self.password("Password", "password")?;
        password::check(&pool.seed.password_policy, new)?;
        let is_permanent = self.field("Permanent").as_bool().unwrap_or(false);
        let verifier = Verifier::of(pool.srp_name(), &user.username, new);
        self.change(pool, &user, |user| {
            user.verifier = Some(verifier);
            user.attempts = Attempts::default();
            user.status = if is_permanent { UserStatus::Confirmed } else { UserStatus::ForceChangePassword };
        })
    }

    pub(super) fn admin_reset_user_password(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminResetUserPassword")?;
        let user = self.named_user(pool)?;
        if user.status != UserStatus::Confirmed {
            return Err(not_authorized("User password cannot be reset in the current state."));
        }
        if user.email().is_none() || !user.email_is_verified() {
            let message = "Cannot reset password for the user as there is no registered/verified email or phone_number";
            return Err(invalid_parameter(message));
        }
        self.send_code(pool, &user, CodePurpose::ResetPassword)?;
        self.change(pool, &user, |user| user.status = UserStatus::ResetRequired)
    }

    pub(super) fn admin_confirm_sign_up(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminConfirmSignUp")?;
        let user = self.named_user(pool)?;
        if user.status != UserStatus::Unconfirmed {
            let status = user.status.name();
            return Err(not_authorized(format!("User cannot be confirmed. Current status is {status}")));
        }
        self.change(pool, &user, |user| user.status = UserStatus::Confirmed)
    }

    pub(super) fn admin_update_user_attributes(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminUpdateUserAttributes")?;
        let user = self.named_user(pool)?;
        let changed = self.attributes_field("UserAttributes")?;
        self.change(pool, &user, |user| {
            let is_new_address = changed.get("email").is_some_and(|email| user.email() != Some(email));
            if is_new_address {
                user.attributes.insert("email_verified".into(), "false".into());
            }
            user.attributes.extend(changed);
        })
    }

    pub(super) fn admin_enable_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminEnableUser")?;
        let user = self.named_user(pool)?;
        self.change(pool, &user, |user| user.enabled = true)
    }

    pub(super) fn admin_disable_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminDisableUser")?;
        let user = self.named_user(pool)?;
        self.change(pool, &user, |user| {
            user.enabled = false;
            user.sign_ins.iter_mut().for_each(|sign_in| sign_in.revoked = true);
        })
    }

    pub(super) fn admin_delete_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminDeleteUser")?;
        let user = self.named_user(pool)?;
        pool.directory.remove(&user.sub)?;
        Ok(json!({}))
    }

    pub(super) fn admin_user_global_sign_out(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminUserGlobalSignOut")?;
        let user = self.named_user(pool)?;
        pool.directory.update(&user.sub, |user| user.sign_ins.iter_mut().for_each(|s| s.revoked = true))?;
        Ok(json!({}))
    }

    fn change(&self, pool: &super::pool::Pool, user: &User, change: impl FnOnce(&mut User)) -> Result<Value, AwsError> {
        let now_ms = self.now_ms();
        pool.directory.update(&user.sub, |user| {
            change(user);
            user.modify_ms = now_ms;
        })?;
        Ok(Value::Object(Map::new()))
    }
}
