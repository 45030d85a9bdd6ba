//! Other providers whose users a pool takes in.

use super::TemplateError;
use super::assembly::Resource;
use super::cognito::{one_of, user_pool};
use super::node::Node;
use crate::local_cloud::seed::{IdentityProviderSeed, Seed};

pub(super) fn add_provider(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    const KINDS: [&str; 6] = ["Google", "SignInWithApple", "OIDC", "SAML", "Facebook", "LoginWithAmazon"];
    let properties = &resource.properties;
    let provider = IdentityProviderSeed {
        name: properties.required("ProviderName")?.text()?,
        kind: one_of(&properties.required("ProviderType")?, &KINDS)?,
        details: texts(properties, "ProviderDetails")?,
        attribute_mapping: texts(properties, "AttributeMapping")?,
    };
    if ["SAML", "Facebook", "LoginWithAmazon"].contains(&provider.kind.as_str()) {
        resource.not_rehearsed(seed, &format!("AWS::Cognito::UserPoolIdentityProvider of type {}", provider.kind));
        return Ok(());
    }
    if ["Google", "SignInWithApple"].contains(&provider.kind.as_str()) && provider.name != provider.kind {
        let reason = format!("a provider of type {} has to be called so", provider.kind);
        return Err(properties.required("ProviderName")?.bad(reason));
    }
    if provider.kind == "OIDC" {
        for name in ["client_id", "oidc_issuer"] {
            properties.required("ProviderDetails")?.required(name)?;
        }
    }
    let pool = user_pool(properties, seed)?;
    if pool.identity_providers.iter().any(|other| other.name == provider.name) {
        return Err(properties.required("ProviderName")?.bad("another provider of the pool has the same name"));
    }
    pool.identity_providers.push(provider);
    Ok(())
}

fn texts(properties: &Node<'_>, name: &str) -> Result<std::collections::BTreeMap<String, String>, TemplateError> {
    let Some(node) = properties.get(name)? else { return Ok(std::collections::BTreeMap::new()) };
    node.entries()?.into_iter().map(|(name, value)| Ok((name.to_owned(), value.text()?))).collect()
}
