//! Buckets and their policies.

use super::TemplateError;
use super::assembly::Resource;
use super::node::Node;
use super::roles::policy_document;
use crate::local_cloud::iam::Policy;
use crate::local_cloud::seed::{BucketSeed, Seed};

pub(super) fn add_bucket(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    let given = properties.get("BucketName")?;
    let name = resource.physical.name.clone();
    if let Some(given) = &given {
        if !is_bucket_name(&name) {
            return Err(given.bad("a bucket's name has 3 to 63 lower-case letters, digits, hyphens and dots"));
        }
        if seed.buckets.iter().any(|bucket| bucket.name == name) {
            return Err(given.bad("another bucket has the same name"));
        }
    }
    let versioning = match properties.get("VersioningConfiguration")? {
        None => false,
        Some(configuration) => match configuration.required("Status")?.text()?.as_str() {
            "Enabled" => true,
            "Suspended" => false,
            _ => return Err(configuration.required("Status")?.bad("it has to be Enabled or Suspended")),
        },
    };
    seed.buckets.push(BucketSeed {
        name,
        versioning,
        abort_multipart_after_days: abort_multipart_after_days(properties)?,
        policy: None,
    });
    Ok(())
}

pub(super) fn attach_policy(resource: &Resource<'_>, seed: &mut Seed) -> Result<(), TemplateError> {
    let properties = &resource.properties;
    let bucket_node = properties.required("Bucket")?;
    let name = bucket_node.text()?;
    let document = policy_document(&properties.required("PolicyDocument")?, Policy::parse_resource)?;
    let bucket = seed.buckets.iter_mut().find(|bucket| bucket.name == name);
    let bucket = bucket.ok_or_else(|| bucket_node.bad("no bucket of the template has this name"))?;
    if bucket.policy.is_some() {
        return Err(bucket_node.bad("the bucket has a policy already, and takes only one"));
    }
    bucket.policy = Some(document);
    Ok(())
}

/// The shortest term of the enabled rules that hold for the whole bucket.
fn abort_multipart_after_days(properties: &Node<'_>) -> Result<Option<u32>, TemplateError> {
    let Some(lifecycle) = properties.get("LifecycleConfiguration")? else { return Ok(None) };
    let mut shortest = None;
    for rule in lifecycle.list("Rules")? {
        let status = rule.required("Status")?;
        let enabled = match status.text()?.as_str() {
            "Enabled" => true,
            "Disabled" => false,
            _ => return Err(status.bad("it has to be Enabled or Disabled")),
        };
        let whole_bucket = rule.optional_text("Prefix")?.unwrap_or_default().is_empty();
        let Some(abort) = rule.get("AbortIncompleteMultipartUpload")? else { continue };
        abort.required("DaysAfterInitiation")?;
        let days = abort.number::<u32>("DaysAfterInitiation", 1, u32::MAX)?;
        if enabled && whole_bucket {
            shortest = shortest.min(days).or(days);
        }
    }
    Ok(shortest)
}

fn is_bucket_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| inner(byte) || matches!(byte, b'-' | b'.'))
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
        && !name.contains("..")
}
