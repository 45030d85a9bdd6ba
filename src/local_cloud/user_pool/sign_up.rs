//! Accounts made by their owners: sign-up, its code, and a new password for a forgotten one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::UserPoolClientSeed;
use crate::local_cloud::site::new_uuid;
use crate::local_cloud::user_pool::codes::{self, CodePurpose, delivery_details};
use crate::local_cloud::user_pool::directory::{Attempts, User, UserStatus, address_is_taken};
use crate::local_cloud::user_pool::password;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter, not_authorized};
use crate::local_cloud::user_pool::srp::Verifier;

const LONGEST_NAME_CHARS: usize = 128;
const MOST_ATTRIBUTES: usize = 50;
const LONGEST_ATTRIBUTE_BYTES: usize = 2_048;
const STANDARD_ATTRIBUTES: &[&str] = &[
    "address",
    "birthdate",
    "email",
    "email_verified",
    "family_name",
    "gender",
    "given_name",
    "locale",
    "middle_name",
    "name",
    "nickname",
    "phone_number",
    "phone_number_verified",
    "picture",
    "preferred_username",
    "profile",
    "updated_at",
    "website",
    "zoneinfo",
];

impl Request {
    pub(super) fn sign_up(&self) -> Result<Value, AwsError> {
        let (pool, _) = self.client()?;
        if !pool.seed.allow_sign_up {
            return Err(not_authorized("SignUp is not permitted for this user pool"));
        }
        let name = self.required("Username", "username")?;
        let password = self.password("Password", "password")?;
        let attributes = self.attributes_field("UserAttributes")?;
        if attributes.keys().any(|name| name.ends_with("_verified")) {
            return Err(not_authorized("A client attempted to write unauthorized attribute"));
        }
        password::check(&pool.seed.password_policy, password)?;
        let mut user = self.new_user(pool, name, attributes)?;
        user.verifier = Some(Verifier::of(pool.srp_name(), &user.username, password));
        let code = match user.email() {
            Some(_) if pool.seed.auto_verify_email => {
                Some(user.codes.issue(CodePurpose::ConfirmSignUp, self.now_ms())?)
            }
            _ => None,
        };
        pool.directory.insert(user.clone(), already_exists(pool))?;
        let mut answer = json!({ "UserConfirmed": false, "UserSub": user.sub });
        if let Some(code) = code {
            answer["CodeDeliveryDetails"] = delivery_details(user.email().unwrap_or_default());
            self.deliver(pool, &user, CodePurpose::ConfirmSignUp, code);
        }
        Ok(answer)
    }

    pub(super) fn confirm_sign_up(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        let code = self.required("ConfirmationCode", "confirmationCode")?;
        let Some(user) = pool.directory.find(self.required("Username", "username")?) else {
            return Err(if client.prevent_user_existence_errors { codes::expired() } else { no_combination() });
        };
        let now_ms = self.now_ms();
        let confirm = || {
            pool.directory.update(&user.sub, |user| {
                if user.status != UserStatus::Unconfirmed {
                    let status = user.status.name();
                    return Err(not_authorized(format!("User cannot be confirmed. Current status is {status}")));
                }
                user.codes.check(CodePurpose::ConfirmSignUp, code, now_ms)?;
                user.codes.used(CodePurpose::ConfirmSignUp);
                user.attributes.insert("email_verified".into(), "true".into());
                user.status = UserStatus::Confirmed;
                user.modify_ms = now_ms;
                Ok(())
            })?
        };
        match confirm() {
            // Who proves an address last may take it over, where the client says so.
            Err(taken) if taken == address_is_taken() && self.field("ForceAliasCreation").as_bool() == Some(true) => {
                if let Some(owner) = user.email().and_then(|email| pool.directory.find(email)) {
                    pool.directory.update(&owner.sub, |owner| {
                        owner.attributes.insert("email_verified".into(), "false".into());
                    })?;
                }
                confirm()?;
            }
            confirmed => confirmed?,
        }
        Ok(json!({}))
    }

    pub(super) fn resend_confirmation_code(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        let name = self.required("Username", "username")?;
        let Some(user) = pool.directory.find(name) else { return simulated(client, name) };
        if user.status != UserStatus::Unconfirmed {
            return Err(invalid_parameter("User is already confirmed."));
        }
        let Some(email) = user.email().filter(|_| pool.seed.auto_verify_email) else {
            return Err(invalid_parameter("Auto verification not turned on."));
        };
        self.send_code(pool, &user, CodePurpose::ConfirmSignUp)?;
        Ok(json!({ "CodeDeliveryDetails": delivery_details(email) }))
    }

    pub(super) fn forgot_password(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        let name = self.required("Username", "username")?;
        let Some(user) = pool.directory.find(name) else { return simulated(client, name) };
        if !user.enabled {
            return if client.prevent_user_existence_errors {
                simulated(client, name)
            } else {
                Err(not_authorized("User is disabled."))
            };
        }
        if matches!(user.status, UserStatus::ForceChangePassword | UserStatus::ExternalProvider) {
            return Err(not_authorized("User password cannot be reset in the current state."));
        }
        let Some(email) = user.email().filter(|_| user.email_is_verified()) else {
            return Err(invalid_parameter(
                "Cannot reset password for the user as there is no registered/verified email or phone_number",
            ));
        };
        self.send_code(pool, &user, CodePurpose::ResetPassword)?;
        Ok(json!({ "CodeDeliveryDetails": delivery_details(email) }))
    }

    pub(super) fn confirm_forgot_password(&self) -> Result<Value, AwsError> {
        let (pool, client) = self.client()?;
        let code = self.required("ConfirmationCode", "confirmationCode")?;
        let password = self.password("Password", "password")?;
        let user = pool.directory.find(self.required("Username", "username")?);
        let Some(user) = user.filter(|user| user.enabled) else {
            return Err(if client.prevent_user_existence_errors { codes::mismatch() } else { no_combination() });
        };
        password::check(&pool.seed.password_policy, password)?;
        let verifier = Verifier::of(pool.srp_name(), &user.username, password);
        let now_ms = self.now_ms();
        pool.directory.update(&user.sub, |user| {
            user.codes.check(CodePurpose::ResetPassword, code, now_ms)?;
            user.codes.used(CodePurpose::ResetPassword);
            user.verifier = Some(verifier);
            user.attempts = Attempts::default();
            user.status = UserStatus::Confirmed;
            user.modify_ms = now_ms;
            Ok(())
        })??;
        Ok(json!({}))
    }

    /// A user of this name, without a password yet.
    pub(super) fn new_user(
        &self,
        pool: &Pool,
        name: &str,
        mut attributes: BTreeMap<String, String>,
    ) -> Result<User, AwsError> {
        let sub = new_uuid();
        if name.chars().count() > LONGEST_NAME_CHARS || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(invalid_parameter(format!(
                "1 validation error detected: Value at 'username' failed to satisfy constraint: Member must have at \
                 most {LONGEST_NAME_CHARS} characters and satisfy regular expression pattern: \
                 [\\p{{L}}\\p{{M}}\\p{{S}}\\p{{N}}\\p{{P}}]+"
            )));
        }
        let username = if pool.seed.email_as_username {
            if !is_email(name) {
                return Err(invalid_parameter("Username should be an email."));
            }
            let email = attributes.entry("email".into()).or_insert_with(|| name.to_owned());
            if !email.eq_ignore_ascii_case(name) {
                return Err(invalid_parameter("Attribute value for email must not differ from the username."));
            }
            sub.clone()
        } else if pool.seed.email_as_alias && is_email(name) {
            let message = "Username cannot be of email format, since user pool is configured for email alias.";
            return Err(invalid_parameter(message));
        } else {
            name.to_owned()
        };
        Ok(User::new(sub, username, attributes, self.now_ms()))
    }

    /// A list of `Name` and `Value`, checked.
    pub(super) fn attributes_field(&self, field: &str) -> Result<BTreeMap<String, String>, AwsError> {
        let list = match self.field(field) {
            Value::Null => return Ok(BTreeMap::new()),
            Value::Array(list) if list.len() <= MOST_ATTRIBUTES => list,
            _ => return Err(invalid_parameter(format!("{field} must be a list of at most {MOST_ATTRIBUTES} entries"))),
        };
        list.iter().map(|entry| attribute(entry).map_err(invalid_parameter)).collect()
    }

    /// Makes a code and delivers it.
    pub(super) fn send_code(&self, pool: &Pool, user: &User, purpose: CodePurpose) -> Result<(), AwsError> {
        let now_ms = self.now_ms();
        let code = pool.directory.update(&user.sub, |user| user.codes.issue(purpose, now_ms))??;
        self.deliver(pool, user, purpose, code);
        Ok(())
    }
}

/// The name belongs to somebody.
fn already_exists(pool: &Pool) -> AwsError {
    let message = if pool.seed.email_as_username {
        "An account with the given email already exists."
    } else {
        "User already exists"
    };
    AwsError::new("UsernameExistsException", message)
}

/// What a request for a code answers for a name that nobody has.
fn simulated(client: &UserPoolClientSeed, name: &str) -> Result<Value, AwsError> {
    if client.prevent_user_existence_errors {
        Ok(json!({ "CodeDeliveryDetails": delivery_details(name) }))
    } else {
        Err(no_combination())
    }
}

fn no_combination() -> AwsError {
    AwsError::new("UserNotFoundException", "Username/client id combination not found.")
}

pub fn attribute(entry: &Value) -> Result<(String, String), String> {
    let (Some(name), Some(value)) = (entry["Name"].as_str(), entry["Value"].as_str()) else {
        return Err("Attributes must have a Name and a Value.".into());
    };
    let is_custom = name.strip_prefix("custom:").is_some_and(|rest| (1..=20).contains(&rest.len()));
    if !is_custom && !STANDARD_ATTRIBUTES.contains(&name) {
        return Err(format!(
            "Attributes did not conform to the schema: Type for attribute {{{}}} could not be determined",
            name.chars().take(32).collect::<String>()
        ));
    }
    if value.len() > LONGEST_ATTRIBUTE_BYTES {
        return Err(format!("{name}: String must be less than {LONGEST_ATTRIBUTE_BYTES} bytes"));
    }
    if name == "email" && !is_email(value) {
        return Err("Invalid email address format.".into());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn is_email(text: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '@';
    text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && local.chars().all(is_plain)
            && domain.chars().all(is_plain)
            && domain.split('.').count() >= 2
            && domain.split('.').all(|label| !label.is_empty())
    })
}
