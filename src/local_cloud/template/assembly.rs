//! Resolved resources put together into a seed.
//!
//! Owns the order: what others are attached to comes first. Promises that nothing is dropped silently: what is not
//! rehearsed is named.

use std::collections::BTreeMap;

use serde_json::Value;

use super::node::Node;
use super::physical::{Kind, Physical};
use super::roles::ManagedPolicies;
use super::stack::Stack;
use super::{TemplateError, cognito, providers, roles, storage};
use crate::local_cloud::seed::Seed;

/// A resource of a known kind, ready to be read.
pub(super) struct Resource<'v> {
    pub(super) logical: &'v str,
    pub(super) physical: &'v Physical,
    pub(super) properties: Node<'v>,
}

impl Resource<'_> {
    /// Names a property that the local cloud does not act on, where somebody could rely on it.
    pub(super) fn not_rehearsed(&self, seed: &mut Seed, what: &str) {
        seed.unknown_resources.push(format!("{} ({what})", self.logical));
    }
}

pub(super) fn assemble(mut stack: Stack<'_>) -> Result<Seed, TemplateError> {
    let options = stack.options();
    let mut seed = Seed { account_id: options.account_id.clone(), region: options.region.clone(), ..Seed::default() };
    let mut by_kind: BTreeMap<Kind, Vec<(&str, Physical, Value)>> = BTreeMap::new();
    for (logical, definition) in stack.resources()? {
        let physical = stack.physical(logical, &format!("Resources.{logical}"))?;
        match Kind::of(definition.type_name) {
            None => {
                stack.check_references(logical, definition)?;
                seed.unknown_resources.push(format!("{logical} ({})", definition.type_name));
            }
            Some(kind) => {
                let properties = stack.properties(logical, definition)?;
                by_kind.entry(kind).or_default().push((logical, physical, properties));
            }
        }
    }
    stack.check_circles()?;
    // Roles may name managed policies, and these may name roles: the documents are read before either is attached.
    let mut managed = ManagedPolicies::new();
    for (logical, physical, properties) in by_kind.get(&Kind::ManagedPolicy).into_iter().flatten() {
        let properties = Node::new(properties, format!("Resources.{logical}.Properties"));
        managed.extend([roles::managed_policy(&Resource { logical, physical, properties })?]);
    }
    // The order of `Kind` is the order of creation.
    for (kind, resources) in &by_kind {
        for (logical, physical, properties) in resources {
            let properties = Node::new(properties, format!("Resources.{logical}.Properties"));
            add(*kind, &Resource { logical, physical, properties }, &managed, &mut seed)?;
        }
    }
    seed.outputs = stack.outputs()?;
    Ok(seed)
}

fn add(kind: Kind, resource: &Resource<'_>, managed: &ManagedPolicies, seed: &mut Seed) -> Result<(), TemplateError> {
    match kind {
        Kind::UserPool => cognito::add_user_pool(resource, seed),
        // The page is at the cloud's own address.
        Kind::UserPoolDomain => Ok(()),
        Kind::UserPoolIdentityProvider => providers::add_provider(resource, seed),
        Kind::UserPoolClient => cognito::add_client(resource, seed),
        Kind::UserPoolGroup => cognito::add_group(resource, seed),
        Kind::IdentityPool => cognito::add_identity_pool(resource, seed),
        Kind::IdentityPoolRoleAttachment => cognito::attach_roles(resource, seed),
        Kind::Role => roles::add_role(resource, managed, seed),
        Kind::Policy => roles::attach_inline_policy(resource, seed),
        Kind::RolePolicy => roles::attach_role_policy(resource, seed),
        Kind::ManagedPolicy => roles::attach_managed_policy(resource, managed, seed),
        Kind::Bucket => storage::add_bucket(resource, seed),
        Kind::BucketPolicy => storage::attach_policy(resource, seed),
    }
}
