//! How a pool's users may sign in: by what first, by what second, on which devices, and what they have to tell.

use super::TemplateError;
use super::assembly::Resource;
use super::cognito::one_of;
use super::node::Node;
use crate::local_cloud::seed::{DevicesSeed, MfaMode, MfaSeed, Seed};

/// `MfaConfiguration` and `EnabledMfas`.
pub(super) fn mfa(properties: &Node<'_>) -> Result<MfaSeed, TemplateError> {
    let Some(mode) = properties.get("MfaConfiguration")? else { return Ok(MfaSeed::default()) };
    let factors: Vec<String> = properties
        .list("EnabledMfas")?
        .iter()
        .map(|factor| one_of(factor, &["SMS_MFA", "SOFTWARE_TOKEN_MFA", "EMAIL_OTP"]))
        .collect::<Result<_, _>>()?;
    let has = |name: &str| factors.iter().any(|factor| factor == name);
    let mut seed = MfaSeed {
        mode: MfaMode::Off,
        software_token: has("SOFTWARE_TOKEN_MFA"),
        sms: has("SMS_MFA"),
        email: has("EMAIL_OTP"),
    };
    seed.mode = match one_of(&mode, &["OFF", "OPTIONAL", "ON"])?.as_str() {
        "OPTIONAL" => MfaMode::Optional,
        "ON" => MfaMode::On,
        _ => return Ok(seed),
    };
    if factors.is_empty() {
        // Text messages are what Cognito takes where no factor is named, if it can send them.
        if properties.get("SmsConfiguration")?.is_none() {
            return Err(mode.bad("EnabledMfas has to name a factor beside it, for example SOFTWARE_TOKEN_MFA"));
        }
        seed.sms = true;
    }
    Ok(seed)
}

/// `DeviceConfiguration`: to name any of it turns it on.
pub(super) fn devices(properties: &Node<'_>) -> Result<Option<DevicesSeed>, TemplateError> {
    let Some(devices) = properties.get("DeviceConfiguration")? else { return Ok(None) };
    if devices.entries()?.is_empty() {
        return Ok(None);
    }
    Ok(Some(DevicesSeed {
        replace_second_factor: devices.flag("ChallengeRequiredOnNewDevice", false)?,
        ask_user: devices.flag("DeviceOnlyRememberedOnUserPrompt", false)?,
    }))
}

/// `Policies.SignInPolicy.AllowedFirstAuthFactors`.
pub(super) fn first_factors(resource: &Resource<'_>, seed: &mut Seed) -> Result<Vec<String>, TemplateError> {
    let Some(policies) = resource.properties.get("Policies")? else { return Ok(Vec::new()) };
    let Some(policy) = policies.get("SignInPolicy")? else { return Ok(Vec::new()) };
    let mut factors = Vec::new();
    for factor in policy.list("AllowedFirstAuthFactors")? {
        let name = one_of(&factor, &["PASSWORD", "EMAIL_OTP", "SMS_OTP", "WEB_AUTHN"])?;
        if name == "WEB_AUTHN" {
            resource.not_rehearsed(seed, "AWS::Cognito::UserPool AllowedFirstAuthFactors WEB_AUTHN");
        } else {
            factors.push(name);
        }
    }
    if !factors.is_empty() && !factors.iter().any(|factor| factor == "PASSWORD") {
        return Err(policy.required("AllowedFirstAuthFactors")?.bad("PASSWORD has to be among them"));
    }
    Ok(factors)
}

/// The names of `Schema` with `Required`.
pub(super) fn required_attributes(properties: &Node<'_>) -> Result<Vec<String>, TemplateError> {
    let mut required = Vec::new();
    for attribute in properties.list("Schema")? {
        if attribute.flag("Required", false)? {
            required.push(attribute.required("Name")?.text()?);
        }
    }
    Ok(required)
}
