//! What a resource is called once it exists: the values of `Ref` and `Fn::GetAtt`.
//!
//! Owns the made-up ids. Promises that they depend on nothing but region, stack name and logical id, and look like AWS's.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Options, TemplateError};

/// A resource type of the local cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    UserPool,
    UserPoolDomain,
    UserPoolIdentityProvider,
    UserPoolClient,
    UserPoolGroup,
    IdentityPool,
    IdentityPoolRoleAttachment,
    Role,
    Policy,
    RolePolicy,
    ManagedPolicy,
    Bucket,
    BucketPolicy,
}

impl Kind {
    /// The kind of a type's name, if the local cloud knows it.
    pub(super) fn of(type_name: &str) -> Option<Self> {
        Some(match type_name {
            "AWS::Cognito::UserPool" => Self::UserPool,
            "AWS::Cognito::UserPoolDomain" => Self::UserPoolDomain,
            "AWS::Cognito::UserPoolIdentityProvider" => Self::UserPoolIdentityProvider,
            "AWS::Cognito::UserPoolClient" => Self::UserPoolClient,
            "AWS::Cognito::UserPoolGroup" => Self::UserPoolGroup,
            "AWS::Cognito::IdentityPool" => Self::IdentityPool,
            "AWS::Cognito::IdentityPoolRoleAttachment" => Self::IdentityPoolRoleAttachment,
            "AWS::IAM::Role" => Self::Role,
            "AWS::IAM::Policy" => Self::Policy,
            "AWS::IAM::RolePolicy" => Self::RolePolicy,
            "AWS::IAM::ManagedPolicy" => Self::ManagedPolicy,
            "AWS::S3::Bucket" => Self::Bucket,
            "AWS::S3::BucketPolicy" => Self::BucketPolicy,
            _ => return None,
        })
    }

    /// The property that names such a resource, where there is one that its `Ref` or ARN depends on.
    pub(super) fn name_property(self) -> Option<&'static str> {
        match self {
            Self::UserPoolGroup => Some("GroupName"),
            Self::UserPoolDomain => Some("Domain"),
            Self::UserPoolIdentityProvider => Some("ProviderName"),
            Self::Role => Some("RoleName"),
            Self::Policy | Self::RolePolicy => Some("PolicyName"),
            Self::ManagedPolicy => Some("ManagedPolicyName"),
            Self::Bucket => Some("BucketName"),
            Self::BucketPolicy => Some("Bucket"),
            Self::UserPool | Self::UserPoolClient | Self::IdentityPool | Self::IdentityPoolRoleAttachment => None,
        }
    }

    /// True where an ARN has the `Path` property in it.
    pub(super) fn has_path(self) -> bool {
        matches!(self, Self::Role | Self::ManagedPolicy)
    }
}

/// A resource that exists.
#[derive(Debug, Clone)]
pub(super) struct Physical {
    /// The value of `Ref`.
    pub(super) reference: String,
    /// The name that it was given or got.
    pub(super) name: String,
    type_name: String,
    attributes: BTreeMap<&'static str, String>,
    /// For types that the local cloud does not have: the ARN that stands in.
    stand_in_arn: Option<String>,
}

impl Physical {
    /// A resource of a known kind.
    pub(super) fn new(
        kind: Kind,
        type_name: &str,
        logical: &str,
        given_name: Option<String>,
        path: &str,
        options: &Options,
    ) -> Self {
        let Options { region, account_id, .. } = options;
        let partition = partition(region);
        let suffix = url_suffix(region);
        let digest = digest(options, logical);
        let name = given_name.unwrap_or_else(|| {
            let short = |text: &str| text.chars().take(24).collect::<String>();
            let end = pick(&digest, UPPER_AND_DIGITS, 12);
            let generated = format!("{}-{}-{end}", short(&options.stack_name), short(logical));
            // A bucket has no capitals; nor does the name that CloudFormation makes for it.
            if kind == Kind::Bucket { generated.to_ascii_lowercase() } else { generated }
        });
        let mut attributes = BTreeMap::new();
        let reference = match kind {
            Kind::UserPool => {
                let id = format!("{region}_{}", pick(&digest, ALPHANUMERIC, 9));
                let provider = format!("cognito-idp.{region}.{suffix}/{id}");
                attributes.insert("Arn", format!("arn:{partition}:cognito-idp:{region}:{account_id}:userpool/{id}"));
                attributes.insert("ProviderURL", format!("https://{provider}"));
                attributes.insert("ProviderName", provider);
                attributes.insert("UserPoolId", id.clone());
                id
            }
            Kind::UserPoolClient => {
                let id = pick(&digest, LOWER_AND_DIGITS, 26);
                attributes.insert("ClientId", id.clone());
                attributes.insert("Name", name.clone());
                id
            }
            Kind::IdentityPool => {
                let id = format!("{region}:{}", uuid(&digest));
                attributes.insert("Id", id.clone());
                attributes.insert("Name", name.clone());
                id
            }
            Kind::IdentityPoolRoleAttachment => {
                attributes.insert("Id", name.clone());
                name.clone()
            }
            Kind::Role => {
                attributes.insert("Arn", format!("arn:{partition}:iam::{account_id}:role{path}{name}"));
                attributes.insert("RoleId", format!("AROA{}", pick(&digest, UPPER_AND_DIGITS, 17)));
                name.clone()
            }
            Kind::Policy | Kind::RolePolicy => {
                attributes.insert("Id", name.clone());
                name.clone()
            }
            Kind::ManagedPolicy => {
                let arn = format!("arn:{partition}:iam::{account_id}:policy{path}{name}");
                attributes.insert("PolicyArn", arn.clone());
                arn
            }
            Kind::Bucket => {
                attributes.insert("Arn", format!("arn:{partition}:s3:::{name}"));
                attributes.insert("DomainName", format!("{name}.s3.{suffix}"));
                attributes.insert("RegionalDomainName", format!("{name}.s3.{region}.{suffix}"));
                attributes.insert("DualStackDomainName", format!("{name}.s3.dualstack.{region}.{suffix}"));
                attributes.insert("WebsiteURL", format!("http://{name}.s3-website-{region}.{suffix}"));
                name.clone()
            }
            Kind::UserPoolDomain | Kind::UserPoolGroup | Kind::UserPoolIdentityProvider | Kind::BucketPolicy => {
                name.clone()
            }
        };
        Self { reference, name, type_name: type_name.to_owned(), attributes, stand_in_arn: None }
    }

    /// A resource that the local cloud does not have. References to it stay readable, and mean nothing that exists here.
    pub(super) fn stand_in(type_name: &str, logical: &str, options: &Options) -> Self {
        let service = type_name.split("::").nth(1).unwrap_or("unknown").to_ascii_lowercase();
        let name = format!("{}-{logical}", options.stack_name);
        let partition = partition(&options.region);
        let arn = format!("arn:{partition}:{service}:{}:{}:{name}", options.region, options.account_id);
        Self {
            reference: name.clone(),
            name,
            type_name: type_name.to_owned(),
            attributes: BTreeMap::new(),
            stand_in_arn: Some(arn),
        }
    }

    /// The value of `Fn::GetAtt`.
    pub(super) fn attribute(&self, attribute: &str, logical: &str, place: &str) -> Result<String, TemplateError> {
        if let Some(arn) = &self.stand_in_arn {
            return Ok(if attribute.ends_with("Arn") { arn.clone() } else { format!("{}-{attribute}", self.name) });
        }
        self.attributes.get(attribute).cloned().ok_or_else(|| {
            let known = self.attributes.keys().copied().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            TemplateError::Unresolved {
                place: place.to_owned(),
                name: format!("{logical}.{attribute}"),
                reason: format!("{} has the attributes {known}", self.type_name),
            }
        })
    }
}

/// `AWS::Partition`.
pub(super) fn partition(region: &str) -> &'static str {
    match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// `AWS::URLSuffix`.
pub(super) fn url_suffix(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// `AWS::StackId`.
pub(super) fn stack_id(options: &Options) -> String {
    let Options { region, account_id, stack_name, .. } = options;
    let id = uuid(&digest(options, "AWS::StackId"));
    format!("arn:{}:cloudformation:{region}:{account_id}:stack/{stack_name}/{id}", partition(region))
}

const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LOWER_AND_DIGITS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const UPPER_AND_DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

fn digest(options: &Options, logical: &str) -> [u8; 32] {
    Sha256::digest(format!("{}/{}/{logical}", options.region, options.stack_name)).into()
}

fn pick(digest: &[u8; 32], alphabet: &[u8], count: usize) -> String {
    digest.iter().take(count).map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect()
}

/// The digest's first half in the form of a random UUID.
fn uuid(digest: &[u8; 32]) -> String {
    let mut hex = String::with_capacity(36);
    for (index, byte) in digest.iter().take(16).enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            hex.push('-');
        }
        let byte = match index {
            6 => (byte & 0x0f) | 0x40,
            8 => (byte & 0x3f) | 0x80,
            _ => *byte,
        };
        hex.push_str(&format!("{byte:02x}"));
    }
    hex
}
