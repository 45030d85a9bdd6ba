//! User pools with clients and groups, identity pools with their roles.

use super::TemplateError;
use super::assembly::Resource;
use super::node::Node;
use super::sign_in;
use crate::local_cloud::seed::{
    GroupSeed, IdentityPoolSeed, PasswordPolicySeed, PreSignUp, RoleMappingKind, RoleMappingSeed, RoleRuleSeed, Seed,
    UserPoolClientSeed, UserPoolSeed,
};

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

pub(super) fn add_user_pool(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    for unrehearsed in ["LambdaConfig", "LambdaTriggers"] {
        if properties.get(unrehearsed)?.is_some() {
            resource.not_rehearsed(seed, &format!("AWS::Cognito::UserPool {unrehearsed}"));
        }
    }
    let first_factors = sign_in::first_factors(resource, seed)?;
    let allow_admin_only = match properties.get("AdminCreateUserConfig")? {
        Some(config) => config.flag("AllowAdminCreateUserOnly", false)?,
        None => false,
    };
    let contains_email = |name: &str| -> Result<bool, TemplateError> {
        Ok(properties.texts(name)?.iter().any(|attribute| attribute == "email"))
    };
    seed.user_pools.push(UserPoolSeed {
        id: resource.physical.reference.clone(),
        name: properties.optional_text("UserPoolName")?.unwrap_or_else(|| resource.physical.name.clone()),
        email_as_username: contains_email("UsernameAttributes")?,
        email_as_alias: contains_email("AliasAttributes")?,
        auto_verify_email: contains_email("AutoVerifiedAttributes")?,
        allow_sign_up: !allow_admin_only,
        password_policy: password_policy(properties)?,
        clients: Vec::new(),
        groups: Vec::new(),
        identity_providers: Vec::new(),
        mfa: sign_in::mfa(properties)?,
        devices: sign_in::devices(properties)?,
        first_factors,
        required_attributes: sign_in::required_attributes(properties)?,
        pre_sign_up: PreSignUp::default(),
    });
    Ok(())
}

pub(super) fn add_client(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    if properties.flag("GenerateSecret", false)? {
        resource.not_rehearsed(seed, "AWS::Cognito::UserPoolClient GenerateSecret");
    }
    let rotation = rotation_grace_s(properties)?;
    let flows = auth_flows(properties)?;
    if rotation.is_some() && flows.iter().any(|flow| flow == "ALLOW_REFRESH_TOKEN_AUTH") {
        let node = properties.required("RefreshTokenRotation")?.required("Feature")?;
        return Err(node.bad("with rotation, ExplicitAuthFlows must not have ALLOW_REFRESH_TOKEN_AUTH"));
    }
    let existence_errors = properties.get("PreventUserExistenceErrors")?;
    let prevent_user_existence_errors = match &existence_errors {
        None => false,
        Some(node) => one_of(node, &["ENABLED", "LEGACY"])? == "ENABLED",
    };
    let client = UserPoolClientSeed {
        id: resource.physical.reference.clone(),
        name: properties.optional_text("ClientName")?.unwrap_or_else(|| resource.physical.name.clone()),
        explicit_auth_flows: flows,
        id_token_validity_s: validity_s(properties, "IdToken", HOUR_S, HOUR_S)?,
        access_token_validity_s: validity_s(properties, "AccessToken", HOUR_S, HOUR_S)?,
        refresh_token_validity_s: validity_s(properties, "RefreshToken", DAY_S, 30 * DAY_S)?,
        auth_session_validity_s: properties
            .number("AuthSessionValidity", 3, 15)?
            .map_or(0, |minutes: u64| minutes * MINUTE_S),
        prevent_user_existence_errors,
        enable_token_revocation: properties.flag("EnableTokenRevocation", true)?,
        refresh_token_rotation_grace_s: rotation,
        callback_urls: properties.texts("CallbackURLs")?,
        logout_urls: properties.texts("LogoutURLs")?,
        allowed_oauth_scopes: properties.texts("AllowedOAuthScopes")?,
        supported_identity_providers: properties.texts("SupportedIdentityProviders")?,
    };
    user_pool(properties, seed)?.clients.push(client);
    Ok(())
}

pub(super) fn add_group(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    let group = GroupSeed {
        name: resource.physical.name.clone(),
        precedence: properties.number("Precedence", 0, i32::MAX.unsigned_abs())?,
        role_arn: properties.get("RoleArn")?.map(|node| role_arn(&node)).transpose()?,
    };
    let pool = user_pool(properties, seed)?;
    if pool.groups.iter().any(|other| other.name == group.name) {
        return Err(properties.required("GroupName")?.bad("another group of the pool has the same name"));
    }
    pool.groups.push(group);
    Ok(())
}

pub(super) fn add_identity_pool(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    for unrehearsed in ["SupportedLoginProviders", "OpenIdConnectProviderARNs", "SamlProviderARNs"] {
        if properties.get(unrehearsed)?.is_some() {
            resource.not_rehearsed(seed, &format!("AWS::Cognito::IdentityPool {unrehearsed}"));
        }
    }
    properties.required("AllowUnauthenticatedIdentities")?;
    let mut providers = Vec::new();
    for provider in properties.list("CognitoIdentityProviders")? {
        let name = provider.required("ProviderName")?;
        if !name.text()?.starts_with("cognito-idp.") {
            return Err(
                name.bad("it has to look like cognito-idp.REGION.amazonaws.com/POOL (see UserPool.ProviderName)")
            );
        }
        providers.push((name.text()?, provider.required("ClientId")?.text()?));
    }
    seed.identity_pools.push(IdentityPoolSeed {
        id: resource.physical.reference.clone(),
        name: properties.optional_text("IdentityPoolName")?.unwrap_or_else(|| resource.physical.name.clone()),
        allow_unauthenticated: properties.flag("AllowUnauthenticatedIdentities", false)?,
        allow_classic_flow: properties.flag("AllowClassicFlow", false)?,
        cognito_providers: providers,
        ..IdentityPoolSeed::default()
    });
    Ok(())
}

pub(super) fn attach_roles(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    let pool_id = properties.required("IdentityPoolId")?;
    let id = pool_id.text()?;
    let pool = seed.identity_pools.iter_mut().find(|pool| pool.id == id);
    let pool = pool.ok_or_else(|| pool_id.bad("no identity pool of the template has this id"))?;
    let attached = pool.authenticated_role_arn.is_some()
        || pool.unauthenticated_role_arn.is_some()
        || !pool.role_mappings.is_empty();
    if attached {
        return Err(pool_id.bad("another attachment has set the pool's roles already"));
    }
    if let Some(roles) = properties.get("Roles")? {
        for (name, role) in roles.entries()? {
            match name {
                "authenticated" => pool.authenticated_role_arn = Some(role_arn(&role)?),
                "unauthenticated" => pool.unauthenticated_role_arn = Some(role_arn(&role)?),
                _ => return Err(role.bad("a role is either `authenticated` or `unauthenticated`")),
            }
        }
    }
    if let Some(mappings) = properties.get("RoleMappings")? {
        for (key, mapping) in mappings.entries()? {
            // The key is the provider, unless a property says it: keys cannot hold references.
            let provider = mapping.optional_text("IdentityProvider")?.unwrap_or_else(|| key.to_owned());
            if pool.role_mappings.insert(provider, role_mapping(&mapping)?).is_some() {
                return Err(mapping.bad("another mapping is for the same provider"));
            }
        }
    }
    Ok(())
}

fn password_policy(properties: &Node<'_>) -> Result<PasswordPolicySeed, TemplateError> {
    let default = PasswordPolicySeed::default();
    let Some(policies) = properties.get("Policies")? else { return Ok(default) };
    let Some(policy) = policies.get("PasswordPolicy")? else { return Ok(default) };
    // Cognito's defaults go when a policy is given: what it does not require is not required.
    Ok(PasswordPolicySeed {
        minimum_length: policy.number("MinimumLength", 6, 99)?.unwrap_or(default.minimum_length),
        require_lowercase: policy.flag("RequireLowercase", false)?,
        require_uppercase: policy.flag("RequireUppercase", false)?,
        require_numbers: policy.flag("RequireNumbers", false)?,
        require_symbols: policy.flag("RequireSymbols", false)?,
    })
}

fn auth_flows(properties: &Node<'_>) -> Result<Vec<String>, TemplateError> {
    const KNOWN: [&str; 10] = [
        "ALLOW_ADMIN_USER_PASSWORD_AUTH",
        "ALLOW_CUSTOM_AUTH",
        "ALLOW_REFRESH_TOKEN_AUTH",
        "ALLOW_USER_AUTH",
        "ALLOW_USER_PASSWORD_AUTH",
        "ALLOW_USER_SRP_AUTH",
        "ADMIN_NO_SRP_AUTH",
        "CUSTOM_AUTH_FLOW_ONLY",
        "USER_PASSWORD_AUTH",
        "USER_SRP_AUTH",
    ];
    let flows = properties.list("ExplicitAuthFlows")?;
    if flows.is_empty() {
        let default = ["ALLOW_REFRESH_TOKEN_AUTH", "ALLOW_USER_SRP_AUTH", "ALLOW_CUSTOM_AUTH"];
        return Ok(default.map(str::to_owned).to_vec());
    }
    flows.iter().map(|flow| one_of(flow, &KNOWN)).collect()
}

fn rotation_grace_s(properties: &Node<'_>) -> Result<Option<u64>, TemplateError> {
    let Some(rotation) = properties.get("RefreshTokenRotation")? else { return Ok(None) };
    if one_of(&rotation.required("Feature")?, &["ENABLED", "DISABLED"])? == "DISABLED" {
        return Ok(None);
    }
    Ok(Some(rotation.number("RetryGracePeriodSeconds", 0, 60)?.unwrap_or(0)))
}

/// `IdTokenValidity` and its kin, in the unit that `TokenValidityUnits` says.
fn validity_s(properties: &Node<'_>, token: &str, usual_unit_s: u64, default_s: u64) -> Result<u64, TemplateError> {
    let unit_s = match properties.get("TokenValidityUnits")?.map(|units| units.get(token)).transpose()?.flatten() {
        None => usual_unit_s,
        Some(unit) => match one_of(&unit, &["seconds", "minutes", "hours", "days"])?.as_str() {
            "seconds" => 1,
            "minutes" => MINUTE_S,
            "hours" => HOUR_S,
            _ => DAY_S,
        },
    };
    let name = format!("{token}Validity");
    let validity_s = match properties.number::<u64>(&name, 0, 315_360_000)? {
        // Cognito takes 0 for "as if it were not there".
        None | Some(0) => default_s,
        Some(count) => count * unit_s,
    };
    let (least_s, most_s) = if token == "RefreshToken" { (HOUR_S, 3650 * DAY_S) } else { (5 * MINUTE_S, DAY_S) };
    if !(least_s..=most_s).contains(&validity_s) {
        let reason = format!("{validity_s} s is not from {least_s} s to {most_s} s");
        return Err(properties.required(&name)?.bad(reason));
    }
    Ok(validity_s)
}

fn role_mapping(mapping: &Node<'_>) -> Result<RoleMappingSeed, TemplateError> {
    let ambiguous = mapping.required("AmbiguousRoleResolution")?;
    let ambiguous_gives_authenticated_role = one_of(&ambiguous, &["AuthenticatedRole", "Deny"])? == "AuthenticatedRole";
    let kind = if one_of(&mapping.required("Type")?, &["Token", "Rules"])? == "Token" {
        RoleMappingKind::Token
    } else {
        let configuration = mapping.required("RulesConfiguration")?;
        configuration.required("Rules")?;
        let rules = configuration.list("Rules")?.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() || rules.len() > 25 {
            return Err(configuration.required("Rules")?.bad("it has to hold 1 to 25 rules"));
        }
        RoleMappingKind::Rules(rules)
    };
    Ok(RoleMappingSeed { kind, ambiguous_gives_authenticated_role })
}

fn rule(rule: &Node<'_>) -> Result<RoleRuleSeed, TemplateError> {
    Ok(RoleRuleSeed {
        claim: rule.required("Claim")?.text()?,
        match_type: one_of(&rule.required("MatchType")?, &["Equals", "Contains", "StartsWith", "NotEqual"])?,
        value: rule.required("Value")?.text()?,
        role_arn: role_arn(&rule.required("RoleARN")?)?,
    })
}

pub(super) fn user_pool<'s>(properties: &Node<'_>, seed: &'s mut Seed) -> Result<&'s mut UserPoolSeed, TemplateError> {
    let node = properties.required("UserPoolId")?;
    let id = node.text()?;
    let pool = seed.user_pools.iter_mut().find(|pool| pool.id == id);
    pool.ok_or_else(|| node.bad("no user pool of the template has this id"))
}

fn role_arn(node: &Node<'_>) -> Result<String, TemplateError> {
    let arn = node.text()?;
    if arn.starts_with("arn:") && arn.contains(":role/") {
        Ok(arn)
    } else {
        Err(node.bad("it has to be the ARN of a role (Fn::GetAtt Role.Arn, not Ref)"))
    }
}

pub(super) fn one_of(node: &Node<'_>, allowed: &[&str]) -> Result<String, TemplateError> {
    let text = node.text()?;
    if allowed.contains(&text.as_str()) {
        Ok(text)
    } else {
        Err(node.bad(format!("it has to be one of {}", allowed.join(", "))))
    }
}
