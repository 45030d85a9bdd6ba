//! Roles and the policies attached to them.
//!
//! Promises that every policy in a seed is one that IAM takes, and that nothing which would narrow a role is left out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::TemplateError;
use super::assembly::Resource;
use super::node::Node;
use crate::local_cloud::iam::{Policy, PolicyError};
use crate::local_cloud::seed::{RoleSeed, Seed};

/// The documents of the template's managed policies, by ARN.
pub(super) type ManagedPolicies = BTreeMap<String, Value>;

/// Reads a managed policy's document; [`attach_managed_policy`] gives it to the roles that it names itself.
pub(super) fn managed_policy(resource: &Resource<'_>) -> Result<(String, Value), TemplateError> {
    let document = policy_document(&resource.properties.required("PolicyDocument")?, Policy::parse)?;
    Ok((resource.physical.reference.clone(), document))
}

pub(super) fn add_role(
    resource: &Resource<'_>,
    managed: &ManagedPolicies,
    seed: &mut Seed,
) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    let name = resource.physical.name.clone();
    if seed.roles.iter().any(|role| role.name == name) {
        return Err(properties.required("RoleName")?.bad("another role has the same name"));
    }
    if let Some(given) = properties.get("RoleName")?
        && !is_role_name(&name)
    {
        return Err(given.bad("a role's name has 1 to 64 letters, digits and any of +=,.@-_"));
    }
    if let Some(path) = properties.get("Path")?
        && !(path.text()?.starts_with('/') && path.text()?.ends_with('/'))
    {
        return Err(path.bad("a path begins and ends with a slash"));
    }
    if let Some(boundary) = properties.get("PermissionsBoundary")? {
        // Left out silently, it would rehearse a role that may do more than the deployed one.
        return Err(boundary.bad("the local cloud does not have permissions boundaries"));
    }
    let trust_policy = policy_document(&properties.required("AssumeRolePolicyDocument")?, Policy::parse_trust)?;
    let mut policies = Vec::new();
    for policy in properties.list("Policies")? {
        policy.required("PolicyName")?;
        policies.push(policy_document(&policy.required("PolicyDocument")?, Policy::parse)?);
    }
    for arn in properties.list("ManagedPolicyArns")? {
        let text = arn.text()?;
        match managed.get(&text) {
            Some(document) => policies.push(document.clone()),
            None if text.starts_with("arn:") => resource.not_rehearsed(seed, &format!("managed policy {text}")),
            None => return Err(arn.bad("it has to be the ARN of a managed policy")),
        }
    }
    seed.roles.push(RoleSeed {
        arn: resource.physical.attribute("Arn", resource.logical, properties.place())?,
        name,
        trust_policy,
        policies,
        max_session_duration_s: properties.number("MaxSessionDuration", 3600, 43_200)?.unwrap_or(3600),
    });
    Ok(())
}

/// `AWS::IAM::Policy`: roles that it names.
pub(super) fn attach_inline_policy(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    properties.required("PolicyName")?;
    let document = policy_document(&properties.required("PolicyDocument")?, Policy::parse)?;
    let roles = properties.list("Roles")?;
    let mut attached_somewhere = !roles.is_empty();
    for unrehearsed in ["Users", "Groups"] {
        if properties.get(unrehearsed)?.is_some() {
            attached_somewhere = true;
            resource.not_rehearsed(seed, &format!("AWS::IAM::Policy {unrehearsed}"));
        }
    }
    if !attached_somewhere {
        let (place, name) = (properties.place().to_owned(), "Roles, Users or Groups".to_owned());
        return Err(TemplateError::Missing { place, name });
    }
    attach(&roles, &document, seed)
}

/// `AWS::IAM::RolePolicy`: one role.
pub(super) fn attach_role_policy(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    properties.required("PolicyName")?;
    let role = properties.required("RoleName")?;
    let document = policy_document(&properties.required("PolicyDocument")?, Policy::parse)?;
    attach(&[role], &document, seed)
}

/// `AWS::IAM::ManagedPolicy`: the roles that it names itself.
pub(super) fn attach_managed_policy(
    resource: &Resource<'_>,
    managed: &ManagedPolicies,
    seed: &mut Seed,
) -> Result<(), TemplateError> {
    match managed.get(&resource.physical.reference) {
        Some(document) => attach(&resource.properties.list("Roles")?, document, seed),
        None => Ok(()),
    }
}

/// A policy document, checked by IAM's own grammar.
pub(super) fn policy_document(
    node: &Node<'_>,
    parse: impl Fn(&Value) -> Result<Policy, PolicyError>,
) -> Result<Value, TemplateError> {
    let document = node.value();
    parse(document).map_err(|source| TemplateError::BadPolicy { place: node.place().to_owned(), source })?;
    Ok(document.clone())
}

fn attach(roles: &[Node<'_>], document: &Value, seed: &mut Seed) -> Result<(), TemplateError> {
    for node in roles {
        let name = node.text()?;
        let role = seed.roles.iter_mut().find(|role| role.name == name);
        let role =
            role.ok_or_else(|| node.bad("no role of the template has this name (Ref gives it, not Fn::GetAtt)"))?;
        // A role that names the policy, and is named by it, holds it once.
        if !role.policies.contains(document) {
            role.policies.push(document.clone());
        }
    }
    Ok(())
}

fn is_role_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@-_".contains(&byte))
}
