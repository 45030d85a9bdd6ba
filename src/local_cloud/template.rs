//! CloudFormation templates, read as far as the local cloud can rehearse them.
//!
//! Owns the way from a template's text to a [`Seed`]: syntax (YAML with short tags, or JSON), parameters, conditions,
//! intrinsic functions, and the resource types of Cognito, IAM and S3. Promises that the same template, stack name and
//! parameters always give the same ids, that every mistake is told with its place, and that every resource which is not
//! rehearsed is named in [`Seed::unknown_resources`]. Must never guess what a reference means, nor panic on any input.
//!
//! Not judged here, because deploying does it: `AllowedPattern` of parameters, and properties that nothing in the local
//! cloud acts on.

mod assembly;
mod cognito;
mod document;
mod node;
mod parameters;
mod physical;
mod providers;
mod roles;
mod sign_in;
mod stack;
mod storage;

use std::collections::BTreeMap;

use super::iam::PolicyError;
use super::seed::Seed;

/// What CloudFormation would know from the account and the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `AWS::Region`.
    pub region: String,
    /// `AWS::AccountId`: 12 digits.
    pub account_id: String,
    /// `AWS::StackName`. Ids are derived from it: another name gives another cloud.
    pub stack_name: String,
    /// Values for the template's parameters; the others keep their defaults.
    pub parameters: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            account_id: "123456789012".to_owned(),
            stack_name: "tidegate".to_owned(),
            parameters: BTreeMap::new(),
        }
    }
}

/// The template that a team deploys, and the demo starts from.
pub fn built_in() -> &'static str {
    include_str!("../../deploy/aws/template.yaml")
}

/// Reads a template.
///
/// # Errors
/// The first mistake, with its place, for example `Resources.Role.Properties.Policies[0].PolicyDocument`.
pub fn load(text: &str, options: &Options) -> Result<Seed, TemplateError> {
    let document = document::Document::parse(text)?;
    let stack = stack::Stack::new(&document, options)?;
    assembly::assemble(stack)
}

/// Why a template cannot be rehearsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is neither YAML nor JSON.
    #[error("the template is neither YAML nor JSON: {reason}")]
    Syntax {
        /// The parser's words, with line and column.
        reason: String,
    },
    /// It has more of something than CloudFormation takes.
    #[error("{place}: too large: at most {limit} {unit}")]
    TooLarge {
        /// Where.
        place: String,
        /// How many.
        limit: usize,
        /// Of what.
        unit: &'static str,
    },
    /// A part has another shape than it has to have.
    #[error("{place}: expected {expected}, found {found}")]
    WrongShape {
        /// Where.
        place: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Something that has to be there.
    #[error("{place}: {name} is missing")]
    Missing {
        /// Where.
        place: String,
        /// Its name.
        name: String,
    },
    /// A section or a resource attribute that CloudFormation does not have.
    #[error("{place}: `{name}` does not exist there; known are {known}")]
    UnknownElement {
        /// Where.
        place: String,
        /// Its name.
        name: String,
        /// The names that exist.
        known: &'static str,
    },
    /// A reference to nothing.
    #[error("{place}: `{name}` cannot be resolved: {reason}")]
    Unresolved {
        /// Where.
        place: String,
        /// What it refers to.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Things that wait for one another.
    #[error("a circle of references: {path}")]
    Circular {
        /// For example `A → B → A`.
        path: String,
    },
    /// An intrinsic function that the local cloud does not have.
    #[error("{place}: the local cloud does not have {function}")]
    UnsupportedFunction {
        /// Where.
        place: String,
        /// Its long name.
        function: String,
    },
    /// A parameter without a value, or with one that its definition forbids.
    #[error("Parameters.{name}: {reason}")]
    BadParameter {
        /// The parameter.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A value that AWS would refuse.
    #[error("{place}: `{value}` is not usable: {reason}")]
    BadValue {
        /// Where.
        place: String,
        /// The value.
        value: String,
        /// Why.
        reason: String,
    },
    /// A policy document that IAM would refuse.
    #[error("{place}: {source}")]
    BadPolicy {
        /// Where.
        place: String,
        /// What IAM says.
        source: PolicyError,
    },
}

#[cfg(test)]
mod tests;
