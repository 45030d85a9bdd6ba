//! Which role an identity gets: from its token, from the pool's rules, or the pool's default.

use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::{IdentityPoolSeed, RoleMappingKind, RoleMappingSeed, RoleRuleSeed};
use crate::local_cloud::user_pool::Claims;

/// The role of a guest.
pub fn guest_role(pool: &IdentityPoolSeed, custom_role_arn: Option<&str>) -> Result<String, AwsError> {
    default_role(pool.unauthenticated_role_arn.as_deref(), custom_role_arn)
}

/// The role of a signed-in user of `provider`, whose token is for `client_id`.
pub fn role(
    pool: &IdentityPoolSeed,
    provider: &str,
    client_id: &str,
    claims: &Claims,
    custom_role_arn: Option<&str>,
) -> Result<String, AwsError> {
    let default = pool.authenticated_role_arn.as_deref();
    let mapped = format!("{provider}:{client_id}");
    let Some(mapping) = pool.role_mappings.get(&mapped) else {
        return default_role(default, custom_role_arn);
    };
    let (candidates, preferred): (Vec<&str>, Option<&str>) = match &mapping.kind {
        RoleMappingKind::Token => (claims.list("cognito:roles"), claims.text("cognito:preferred_role")),
        RoleMappingKind::Rules(rules) => {
            let matching: Vec<&str> =
                rules.iter().filter(|rule| matches(rule, claims)).map(|rule| rule.role_arn.as_str()).collect();
            let first = matching.first().copied();
            (matching, first)
        }
    };
    if let Some(custom) = custom_role_arn {
        return if candidates.contains(&custom) { Ok(custom.to_owned()) } else { Err(forbidden_role()) };
    }
    if let Some(preferred) = preferred {
        return Ok(preferred.to_owned());
    }
    if mapping.ambiguous_gives_authenticated_role {
        return default_role(default, None);
    }
    let message = format!("The ambiguous role mapping rules for: {mapped} denied this request.");
    Err(AwsError::new("NotAuthorizedException", message))
}

/// No usable role: missing, unknown, or one that does not trust the pool.
pub fn invalid_configuration() -> AwsError {
    let message = "Invalid identity pool configuration. Check assigned IAM roles for this pool.";
    AwsError::new("InvalidIdentityPoolConfigurationException", message)
}

/// A mapping as `GetIdentityPoolRoles` shows it.
pub fn describe(mapping: &RoleMappingSeed) -> Value {
    let ambiguous = if mapping.ambiguous_gives_authenticated_role { "AuthenticatedRole" } else { "Deny" };
    match &mapping.kind {
        RoleMappingKind::Token => json!({ "Type": "Token", "AmbiguousRoleResolution": ambiguous }),
        RoleMappingKind::Rules(rules) => {
            let rules = rules.iter().map(|rule| {
                json!({
                    "Claim": rule.claim, "MatchType": rule.match_type, "Value": rule.value, "RoleARN": rule.role_arn,
                })
            });
            json!({
                "Type": "Rules",
                "AmbiguousRoleResolution": ambiguous,
                "RulesConfiguration": { "Rules": rules.collect::<Vec<_>>() },
            })
        }
    }
}

fn default_role(role_arn: Option<&str>, custom_role_arn: Option<&str>) -> Result<String, AwsError> {
    let role_arn = role_arn.ok_or_else(invalid_configuration)?;
    match custom_role_arn {
        Some(custom) if custom != role_arn => Err(forbidden_role()),
        _ => Ok(role_arn.to_owned()),
    }
}

fn forbidden_role() -> AwsError {
    AwsError::new("NotAuthorizedException", "The requested custom role is not among the roles of this identity.")
}

fn matches(rule: &RoleRuleSeed, claims: &Claims) -> bool {
    let values = claims.values(&rule.claim);
    let any = |holds: fn(&str, &str) -> bool| values.iter().any(|value| holds(value, &rule.value));
    match rule.match_type.as_str() {
        "Equals" => any(|value, wanted| value == wanted),
        "NotEqual" => !values.is_empty() && !any(|value, wanted| value == wanted),
        "StartsWith" => any(|value, wanted| value.starts_with(wanted)),
        "Contains" => any(|value, wanted| value.contains(wanted)),
        _ => false,
    }
}
