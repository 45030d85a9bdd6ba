//! IAM's decision: may this principal do this action on this resource?
//!
//! Owns the reading of policy documents (permission, trust and resource policies), and their evaluation as AWS
//! documents it. Promises that an explicit deny goes before everything, that what nothing allows is denied, that a
//! policy variable without a value matches nothing, and that a substituted value is literal text (a `*` inside it is no
//! wildcard). Must never skip an element that it does not understand: such a document does not parse.
//!
//! A resource is compared as text. `users/me/free/../premium/x` is a literal S3 key, and `users/me/free/*` matches it:
//! that is what AWS does, and what the rehearsal has to show.

mod condition;
mod pattern;
mod policy;
mod principal;
mod value;

use std::collections::BTreeMap;

pub use policy::{Policy, PolicyError};

/// Condition keys with their values. Keys are compared without regard to case; a key without a value is a missing key.
pub type Context = BTreeMap<String, Vec<String>>;

/// Who makes a request, as far as `Principal` elements of trust and resource policies look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPrincipal<'a> {
    /// Nobody: the request is not signed.
    Anonymous,
    /// A user, the account's root, or a role's session.
    Aws {
        /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`, `arn:aws:iam::ACCOUNT:user/NAME`, `arn:aws:iam::ACCOUNT:root`.
        arn: &'a str,
        /// The role of a session.
        role_arn: Option<&'a str>,
    },
    /// Somebody with a token of an identity provider, for example `cognito-identity.amazonaws.com`.
    Federated(&'a str),
    /// An AWS service, for example `lambda.amazonaws.com`.
    Service(&'a str),
}

/// One question to IAM.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks. Permission policies do not look at it: they belong to their holder.
    pub principal: RequestPrincipal<'a>,
    /// For example `s3:PutObject`; compared without regard to case.
    pub action: &'a str,
    /// The resource's ARN; compared as it is, byte for byte. Trust policies do not look at it.
    pub resource: &'a str,
    /// The condition keys of the request and of the session.
    pub context: &'a Context,
}

/// IAM's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Something allows it and nothing denies it.
    Allow,
    /// A statement denies it, whatever else allows it.
    ExplicitDeny,
    /// Nothing allows it.
    ImplicitDeny,
}

impl Decision {
    /// True for [`Decision::Allow`].
    pub fn is_allowed(self) -> bool {
        self == Self::Allow
    }

    /// The union of two sets of policies, for example a role's own policies and a bucket's policy in the same account:
    /// one allow is enough, one explicit deny is too much.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::ExplicitDeny, _) | (_, Self::ExplicitDeny) => Self::ExplicitDeny,
            (Self::Allow, _) | (_, Self::Allow) => Self::Allow,
            (Self::ImplicitDeny, Self::ImplicitDeny) => Self::ImplicitDeny,
        }
    }

    /// The intersection of two sets of policies, for example a role's policies and a session policy: both have to allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::ExplicitDeny, _) | (_, Self::ExplicitDeny) => Self::ExplicitDeny,
            (Self::ImplicitDeny, _) | (_, Self::ImplicitDeny) => Self::ImplicitDeny,
            (Self::Allow, Self::Allow) => Self::Allow,
        }
    }
}

/// Answers one question from these policies together. Works for all three kinds: statements without a principal speak
/// about whoever holds them, statements without a resource (trust policies) about the role that they belong to.
///
/// For a request that a bucket's policy also has a say in, use [`Decision::or`] on the two answers, or pass all the
/// policies at once; both give the same.
pub fn evaluate<'p>(policies: impl IntoIterator<Item = &'p Policy>, request: &Request<'_>) -> Decision {
    let mut decision = Decision::ImplicitDeny;
    for policy in policies {
        decision = decision.or(policy.decide(request));
        if decision == Decision::ExplicitDeny {
            break;
        }
    }
    decision
}

/// The value of a condition key, in the one way that every part of the evaluator uses.
fn lookup<'c>(context: &'c Context, key: &str) -> Option<&'c [String]> {
    let values = match context.get(key) {
        Some(values) => values,
        None => context.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, values)| values)?,
    };
    (!values.is_empty()).then_some(values.as_slice())
}
