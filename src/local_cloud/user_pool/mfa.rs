//! Second factors as users and administrators set them up.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::{MfaMode, MfaSeed};
use crate::local_cloud::user_pool::challenge::{Gone, Pending, Question};
use crate::local_cloud::user_pool::directory::User;
use crate::local_cloud::user_pool::factors::{Factor, Factors, Preference};
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{Request, invalid_parameter};
use crate::local_cloud::user_pool::totp::Secret;

const LONGEST_NAME_CHARS: usize = 256;

impl Request {
    pub(super) fn associate_software_token(&self) -> Result<Value, AwsError> {
        if let Some(session) = self.text("Session") {
            let (pool, pending) = self.set_up(session)?;
            let secret = Secret::generate();
            let shown = secret.base32();
            let session = self.go_on(pool, pending, Question::MfaSetup(Some(secret)));
            return Ok(json!({ "SecretCode": shown, "Session": session }));
        }
        let (pool, user, _) = self.signed_in_user()?;
        offers_apps(pool)?;
        let shown = pool.directory.update(&user.sub, |user| user.factors.associate())?;
        Ok(json!({ "SecretCode": shown }))
    }

    pub(super) fn verify_software_token(&self) -> Result<Value, AwsError> {
        let code = self.required("UserCode", "userCode")?;
        let name =
            self.text("FriendlyDeviceName").map(|name| name.chars().take(LONGEST_NAME_CHARS).collect::<String>());
        let now_s = self.now_ms() / 1_000;
        let Some(session) = self.text("Session") else {
            let (pool, user, _) = self.signed_in_user()?;
            offers_apps(pool)?;
            pool.directory.update(&user.sub, |user| user.factors.verify(code, now_s, name.as_deref()))??;
            return Ok(json!({ "Status": "SUCCESS" }));
        };
        let (pool, pending) = self.set_up(session)?;
        let Question::MfaSetup(Some(secret)) = &pending.question else {
            pool.challenges.put_back(session, pending, self.now_ms());
            return Err(invalid_parameter("The session has no software token to verify; associate one first."));
        };
        let user = self.user_of(pool, &pending.attempt)?;
        let verified = pool.directory.update(&user.sub, |user| {
            user.factors.adopt(secret.clone(), code, now_s, name.as_deref())?;
            user.factors.enable_token();
            Ok(())
        })?;
        match verified {
            Ok(()) => {
                let session = self.go_on(pool, pending, Question::MfaIsSetUp);
                Ok(json!({ "Status": "SUCCESS", "Session": session }))
            }
            Err(refusal) => {
                pool.challenges.answered_wrong(session, pending, self.now_ms());
                Err(refusal)
            }
        }
    }

    pub(super) fn set_user_mfa_preference(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        self.prefer(pool, &user)
    }

    pub(super) fn admin_set_user_mfa_preference(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminSetUserMFAPreference")?;
        self.prefer(pool, &self.named_user(pool)?)
    }

    pub(super) fn get_user_auth_factors(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        let mut answer = json!({
            "Username": user.username, "ConfiguredUserAuthFactors": pool.first_factors_of(&user),
        });
        show_factors(&user.factors, &mut answer);
        Ok(answer)
    }

    pub(super) fn get_user_pool_mfa_config(&self) -> Result<Value, AwsError> {
        let pool = self.administer("GetUserPoolMfaConfig")?;
        Ok(config(pool.mfa()))
    }

    /// Until the cloud is started again: then the template counts.
    pub(super) fn set_user_pool_mfa_config(&self) -> Result<Value, AwsError> {
        let pool = self.administer("SetUserPoolMfaConfig")?;
        let mut mfa = pool.mfa();
        if let Some(mode) = self.text("MfaConfiguration") {
            mfa.mode = match mode {
                "OFF" => MfaMode::Off,
                "OPTIONAL" => MfaMode::Optional,
                "ON" => MfaMode::On,
                _ => {
                    return Err(invalid_parameter(
                        "1 validation error detected: Value at 'mfaConfiguration' failed to satisfy constraint: \
                         Member must satisfy enum value set: [OFF, ON, OPTIONAL]",
                    ));
                }
            };
        }
        let token = self.field("SoftwareTokenMfaConfiguration");
        if token.is_object() {
            mfa.software_token = token["Enabled"].as_bool().unwrap_or(false);
        }
        mfa.sms |= self.field("SmsMfaConfiguration").is_object();
        mfa.email |= self.field("EmailMfaConfiguration").is_object();
        if mfa.mode != MfaMode::Off && !(mfa.software_token || mfa.sms || mfa.email) {
            return Err(invalid_parameter("Invalid MFA configuration given, can't turn on MFA without an MFA factor."));
        }
        pool.set_mfa(mfa);
        Ok(config(mfa))
    }

    fn prefer(&self, pool: &Pool, user: &User) -> Result<Value, AwsError> {
        let settings = [
            ("SMSMfaSettings", Factor::Sms),
            ("SoftwareTokenMfaSettings", Factor::SoftwareToken),
            ("EmailMfaSettings", Factor::Email),
        ];
        let wanted: Vec<Preference> = settings
            .into_iter()
            .filter(|(field, _)| self.field(field).is_object())
            .map(|(field, factor)| {
                let flag = |name: &str| self.field(field)[name].as_bool().unwrap_or(false);
                Preference { factor, is_enabled: flag("Enabled"), is_preferred: flag("PreferredMfa") }
            })
            .collect();
        pool.directory.update_if(&user.sub, |user| user.prefer(pool.mfa(), &wanted))?;
        Ok(json!({}))
    }

    /// The set-up that a session stands for, and its pool: nothing else in such a request names it.
    fn set_up(&self, session: &str) -> Result<(&Pool, Pending), AwsError> {
        let is_set_up = |pending: &Pending| matches!(pending.question, Question::MfaSetup(_));
        let mut why = Gone::Never;
        for pool in self.inner.pools.values() {
            match pool.challenges.take(session, self.now_ms(), is_set_up) {
                Ok(pending) => return Ok((pool, pending)),
                Err(Gone::Never) => {}
                Err(gone) => why = gone,
            }
        }
        Err(why.refusal())
    }

    /// The session for what comes after a step of the set-up.
    fn go_on(&self, pool: &Pool, pending: Pending, question: Question) -> Value {
        let client = pool.client(&pending.attempt.client_id).cloned().unwrap_or_default();
        self.ask(pool, &client, pending.attempt, "MFA_SETUP", question, &Value::Null)["Session"].take()
    }
}

/// `UserMFASettingList` and `PreferredMfaSetting`, where there is something to show.
pub fn show_factors(factors: &Factors, answer: &mut Value) {
    let enabled = factors.enabled();
    if !enabled.is_empty() {
        answer["UserMFASettingList"] = json!(enabled);
    }
    if let Some(preferred) = factors.preferred() {
        answer["PreferredMfaSetting"] = json!(preferred);
    }
}

fn offers_apps(pool: &Pool) -> Result<(), AwsError> {
    if pool.mfa().software_token {
        return Ok(());
    }
    let message = "Software Token MFA has not been enabled by the userPool";
    Err(AwsError::new("SoftwareTokenMFANotFoundException", message))
}

fn config(mfa: MfaSeed) -> Value {
    let mut config = json!({ "MfaConfiguration": mode_name(mfa.mode) });
    if mfa.software_token {
        config["SoftwareTokenMfaConfiguration"] = json!({ "Enabled": true });
    }
    if mfa.sms {
        config["SmsMfaConfiguration"] = json!({ "SmsAuthenticationMessage": "Your authentication code is {####}." });
    }
    if mfa.email {
        config["EmailMfaConfiguration"] = json!({});
    }
    config
}

/// AWS's word for it.
pub fn mode_name(mode: MfaMode) -> &'static str {
    match mode {
        MfaMode::Off => "OFF",
        MfaMode::Optional => "OPTIONAL",
        MfaMode::On => "ON",
    }
}
