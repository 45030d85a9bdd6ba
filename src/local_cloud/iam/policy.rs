//! A policy document: its parts, its errors, and what its statements decide.
//!
//! Owns the document's grammar. Promises to refuse what AWS would refuse or what it could not judge, with the place.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::condition::Condition;
use super::pattern::{Pattern, Wildcards};
use super::principal::Principals;
use super::{Context, Decision, Request};

/// A policy that was read and can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    statements: Vec<Statement>,
}

/// Why a document is no policy. `place` leads to the element, for example `Statement[1].Condition.Bool.aws:x`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A part has another type than the grammar says.
    #[error("{place}: expected {expected}")]
    WrongShape {
        /// Where.
        place: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// An element that does not exist there.
    #[error("{place}: unknown element `{element}`; known are {known}")]
    UnknownElement {
        /// Where.
        place: String,
        /// Its name.
        element: String,
        /// The names that exist.
        known: &'static str,
    },
    /// An element that has to be there.
    #[error("{place}: {element} is missing")]
    MissingElement {
        /// Where.
        place: String,
        /// Its name, or the names to choose from.
        element: &'static str,
    },
    /// Two elements that exclude each other.
    #[error("{place}: {one} and {other} cannot stand together")]
    Conflict {
        /// Where.
        place: String,
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// An element that this kind of policy does not take.
    #[error("{place}: {element} does not belong into a {kind} policy")]
    Misplaced {
        /// Where.
        place: String,
        /// Its name.
        element: &'static str,
        /// `permission`, `trust` or `resource`.
        kind: &'static str,
    },
    /// A version that does not exist.
    #[error(
        "Version: `{version}` does not exist; it has to be 2012-10-17 (or 2008-10-17, which has no policy variables)"
    )]
    BadVersion {
        /// What it says.
        version: String,
    },
    /// A condition operator that does not exist.
    #[error("{place}: the condition operator `{operator}` does not exist")]
    UnknownOperator {
        /// Where.
        place: String,
        /// What it says.
        operator: String,
    },
    /// A value that cannot be right.
    #[error("{place}: `{value}` is not usable: {reason}")]
    BadValue {
        /// Where.
        place: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
struct Statement {
    denies: bool,
    /// The principals, and whether they stand under `NotPrincipal`.
    principals: Option<(Principals, bool)>,
    actions: Vec<Pattern>,
    not_action: bool,
    /// `None` in trust policies: the role itself.
    resources: Option<Vec<Pattern>>,
    not_resource: bool,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Permission,
    Trust,
    Resource,
}

impl Policy {
    /// Reads a permission policy: one that belongs to a role or a user.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(document: &Value) -> Result<Self, PolicyError> {
        Self::parse_kind(document, Kind::Permission)
    }

    /// Reads a role's trust policy (`AssumeRolePolicyDocument`): principals and no resources.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse_trust(document: &Value) -> Result<Self, PolicyError> {
        Self::parse_kind(document, Kind::Trust)
    }

    /// Reads a resource's policy, for example a bucket's: principals and resources.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse_resource(document: &Value) -> Result<Self, PolicyError> {
        Self::parse_kind(document, Kind::Resource)
    }

    fn parse_kind(document: &Value, kind: Kind) -> Result<Self, PolicyError> {
        let document = object(document, "the policy")?;
        known_elements(document, "the policy", &["Version", "Id", "Statement"], "Version, Id, Statement")?;
        let variables = match document.get("Version") {
            None => false,
            Some(Value::String(version)) if version == "2012-10-17" => true,
            Some(Value::String(version)) if version == "2008-10-17" => false,
            Some(other) => {
                let version = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                return Err(PolicyError::BadVersion { version });
            }
        };
        let statements = document
            .get("Statement")
            .ok_or_else(|| PolicyError::MissingElement { place: "the policy".into(), element: "Statement" })?;
        let statements = match statements {
            Value::Array(list) if list.is_empty() => {
                return Err(PolicyError::WrongShape { place: "Statement".into(), expected: "at least one statement" });
            }
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        let mut sids = BTreeSet::new();
        let statements = statements
            .into_iter()
            .enumerate()
            .map(|(index, statement)| {
                Statement::parse(statement, &format!("Statement[{index}]"), kind, variables, &mut sids)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { statements })
    }

    /// What this policy alone says.
    pub(super) fn decide(&self, request: &Request<'_>) -> Decision {
        let mut decision = Decision::ImplicitDeny;
        for statement in self.statements.iter().filter(|statement| statement.applies(request)) {
            if statement.denies {
                return Decision::ExplicitDeny;
            }
            decision = Decision::Allow;
        }
        decision
    }
}

const STATEMENT_ELEMENTS: [&str; 9] =
    ["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];

impl Statement {
    fn parse(
        statement: &Value,
        place: &str,
        kind: Kind,
        variables: bool,
        sids: &mut BTreeSet<String>,
    ) -> Result<Self, PolicyError> {
        let element = object(statement, place)?;
        known_elements(
            element,
            place,
            &STATEMENT_ELEMENTS,
            "Sid, Effect, Principal, NotPrincipal, Action, NotAction, Resource, NotResource, Condition",
        )?;
        check_sid(element.get("Sid"), place, kind, sids)?;
        let denies = effect(element, place)?;
        let principals = principals(element, place, kind, denies)?;
        let (actions, not_action) = actions(element, place)?;
        let (resources, not_resource) = resources(element, place, kind, variables)?;
        let conditions = match element.get("Condition") {
            None => Vec::new(),
            Some(condition) => Condition::parse_all(condition, &format!("{place}.Condition"), variables)?,
        };
        Ok(Self { denies, principals, actions, not_action, resources, not_resource, conditions })
    }

    fn applies(&self, request: &Request<'_>) -> bool {
        let none = Context::new();
        let principal = match &self.principals {
            None => true,
            Some((principals, true)) => !principals.exempt(request.principal),
            Some((principals, false)) => principals.name(request.principal, self.denies),
        };
        let action = || self.actions.iter().any(|a| a.matches_ignoring_case(request.action, &none)) != self.not_action;
        let resource = || match &self.resources {
            None => true,
            Some(list) => list.iter().any(|r| r.matches(request.resource, request.context)) != self.not_resource,
        };
        principal && action() && resource() && self.conditions.iter().all(|c| c.holds(request.context))
    }
}

fn check_sid(sid: Option<&Value>, place: &str, kind: Kind, sids: &mut BTreeSet<String>) -> Result<(), PolicyError> {
    let Some(sid) = sid else { return Ok(()) };
    let place = format!("{place}.Sid");
    let Value::String(sid) = sid else { return Err(PolicyError::WrongShape { place, expected: "a string" }) };
    let bad = |reason: &str| PolicyError::BadValue { place, value: sid.clone(), reason: reason.to_owned() };
    if kind != Kind::Resource && !sid.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(bad("a Sid holds only letters and digits"));
    }
    if !sid.is_empty() && !sids.insert(sid.clone()) {
        return Err(bad("another statement has the same Sid"));
    }
    Ok(())
}

fn effect(element: &Map<String, Value>, place: &str) -> Result<bool, PolicyError> {
    match element.get("Effect") {
        None => Err(PolicyError::MissingElement { place: place.to_owned(), element: "Effect" }),
        Some(Value::String(effect)) if effect == "Allow" => Ok(false),
        Some(Value::String(effect)) if effect == "Deny" => Ok(true),
        Some(other) => Err(PolicyError::BadValue {
            place: format!("{place}.Effect"),
            value: other.as_str().map_or_else(|| other.to_string(), str::to_owned),
            reason: "it has to be exactly Allow or Deny".into(),
        }),
    }
}

fn principals(
    element: &Map<String, Value>,
    place: &str,
    kind: Kind,
    denies: bool,
) -> Result<Option<(Principals, bool)>, PolicyError> {
    let misplaced = |element, kind| PolicyError::Misplaced { place: place.to_owned(), element, kind };
    match (kind, either(element, place, "Principal", "NotPrincipal")?) {
        (Kind::Permission, None) => Ok(None),
        (Kind::Permission, Some((_, false))) => Err(misplaced("Principal", "permission")),
        (Kind::Permission, Some((_, true))) => Err(misplaced("NotPrincipal", "permission")),
        (Kind::Trust, Some((_, true))) => Err(misplaced("NotPrincipal", "trust")),
        (Kind::Trust | Kind::Resource, None) => {
            Err(PolicyError::MissingElement { place: place.to_owned(), element: "Principal" })
        }
        (Kind::Resource, Some((_, true))) if !denies => {
            Err(PolicyError::Conflict { place: place.to_owned(), one: "NotPrincipal", other: "Effect Allow" })
        }
        (Kind::Trust | Kind::Resource, Some((listed, not))) => {
            let name = if not { "NotPrincipal" } else { "Principal" };
            Ok(Some((Principals::parse(listed, &format!("{place}.{name}"))?, not)))
        }
    }
}

fn actions(element: &Map<String, Value>, place: &str) -> Result<(Vec<Pattern>, bool), PolicyError> {
    let Some((listed, not)) = either(element, place, "Action", "NotAction")? else {
        return Err(PolicyError::MissingElement { place: place.to_owned(), element: "Action or NotAction" });
    };
    let place = format!("{place}.{}", if not { "NotAction" } else { "Action" });
    let mut patterns = Vec::new();
    for text in strings(listed, &place)? {
        let well_formed = text == "*"
            || text.split_once(':').is_some_and(|(service, name)| {
                let service_ok = !service.is_empty() && service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                service_ok && !name.is_empty() && !name.contains(|c: char| c == ':' || c.is_whitespace())
            });
        if !well_formed {
            let reason = "an action is `*` or `service:Name`, for example s3:PutObject".into();
            return Err(PolicyError::BadValue { place, value: text.to_owned(), reason });
        }
        // There are no policy variables in actions.
        let pattern = Pattern::parse(text, Wildcards::Anywhere, false);
        patterns.push(pattern.map_err(|reason| bad_value(&place, text, reason))?);
    }
    Ok((patterns, not))
}

fn resources(
    element: &Map<String, Value>,
    place: &str,
    kind: Kind,
    variables: bool,
) -> Result<(Option<Vec<Pattern>>, bool), PolicyError> {
    let Some((listed, not)) = either(element, place, "Resource", "NotResource")? else {
        return match kind {
            Kind::Trust => Ok((None, false)),
            Kind::Permission | Kind::Resource => {
                Err(PolicyError::MissingElement { place: place.to_owned(), element: "Resource or NotResource" })
            }
        };
    };
    let name = if not { "NotResource" } else { "Resource" };
    if kind == Kind::Trust {
        return Err(PolicyError::Misplaced { place: place.to_owned(), element: name, kind: "trust" });
    }
    let place = format!("{place}.{name}");
    let mut patterns = Vec::new();
    for text in strings(listed, &place)? {
        if text != "*" && !text.starts_with("arn:") {
            return Err(bad_value(&place, text, "a resource is `*` or an ARN"));
        }
        let pattern = Pattern::parse(text, Wildcards::Resource, variables);
        patterns.push(pattern.map_err(|reason| bad_value(&place, text, reason))?);
    }
    Ok((Some(patterns), not))
}

fn bad_value(place: &str, value: &str, reason: impl Into<String>) -> PolicyError {
    PolicyError::BadValue { place: place.to_owned(), value: value.to_owned(), reason: reason.into() }
}

/// The one of two elements that is there, and whether it is the second.
fn either<'v>(
    element: &'v Map<String, Value>,
    place: &str,
    one: &'static str,
    other: &'static str,
) -> Result<Option<(&'v Value, bool)>, PolicyError> {
    match (element.get(one), element.get(other)) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some((value, false))),
        (None, Some(value)) => Ok(Some((value, true))),
        (Some(_), Some(_)) => Err(PolicyError::Conflict { place: place.to_owned(), one, other }),
    }
}

fn object<'v>(value: &'v Value, place: &str) -> Result<&'v Map<String, Value>, PolicyError> {
    value.as_object().ok_or_else(|| PolicyError::WrongShape { place: place.to_owned(), expected: "an object" })
}

fn known_elements(
    object: &Map<String, Value>,
    place: &str,
    known: &[&str],
    names: &'static str,
) -> Result<(), PolicyError> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(element) => {
            Err(PolicyError::UnknownElement { place: place.to_owned(), element: element.clone(), known: names })
        }
    }
}

fn strings<'v>(value: &'v Value, place: &str) -> Result<Vec<&'v str>, PolicyError> {
    let wrong = || PolicyError::WrongShape { place: place.to_owned(), expected: "a string or a list of strings" };
    let texts = one_or_many(value, place)?
        .into_iter()
        .map(|value| value.as_str().ok_or_else(wrong))
        .collect::<Result<Vec<_>, _>>()?;
    if texts.is_empty() { Err(wrong()) } else { Ok(texts) }
}

/// A value that may stand alone or in a list.
pub(super) fn one_or_many<'v>(value: &'v Value, place: &str) -> Result<Vec<&'v Value>, PolicyError> {
    match value {
        Value::Array(list) => Ok(list.iter().collect()),
        Value::Object(_) | Value::Null => {
            Err(PolicyError::WrongShape { place: place.to_owned(), expected: "a value or a list of values" })
        }
        one => Ok(vec![one]),
    }
}

/// The text of a string, a number or a boolean.
pub(super) fn scalar(value: &Value, place: &str) -> Result<String, PolicyError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(boolean) => Ok(boolean.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(PolicyError::WrongShape { place: place.to_owned(), expected: "a string, a number or a boolean" })
        }
    }
}
