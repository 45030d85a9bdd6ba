//! The `Condition` element.
//!
//! Owns every operator with its prefixes and suffix. Promises AWS's logic: operators and keys are joined by AND, a key's
//! values by OR (by NOR for negated operators), and a missing key makes an operator false unless it is negated, carries
//! `IfExists`, is `Null`, or stands under `ForAllValues`. Must never accept an operator or a value that it cannot judge.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::pattern::{Pattern, Wildcards};
use super::policy::{PolicyError, one_or_many, scalar};
use super::value::{self, IpRange};
use super::{Context, lookup};

/// One operator on one key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    key: String,
    set: SetOperator,
    if_exists: bool,
    negated: bool,
    operand: Operand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetOperator {
    None,
    ForAnyValue,
    ForAllValues,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Text { patterns: Vec<Pattern>, ignore_case: bool },
    Number { limits: Vec<f64>, comparison: Comparison },
    Date { limits: Vec<i128>, comparison: Comparison },
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Ip(Vec<IpRange>),
    Null(Vec<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equals,
    LessThan,
    LessThanEquals,
    GreaterThan,
    GreaterThanEquals,
}

impl Condition {
    /// Reads the whole element.
    pub(super) fn parse_all(element: &Value, place: &str, variables: bool) -> Result<Vec<Self>, PolicyError> {
        let mut conditions = Vec::new();
        for (operator, keys) in object(element, place)? {
            let place = format!("{place}.{operator}");
            for (key, values) in object(keys, &place)? {
                let place = format!("{place}.{key}");
                if key.is_empty() {
                    return Err(PolicyError::BadValue { place, value: key.clone(), reason: "it names no key".into() });
                }
                conditions.push(Self::parse(operator, key, values, &place, variables)?);
            }
        }
        Ok(conditions)
    }

    fn parse(operator: &str, key: &str, values: &Value, place: &str, variables: bool) -> Result<Self, PolicyError> {
        let unknown = || PolicyError::UnknownOperator { place: place.to_owned(), operator: operator.to_owned() };
        let (set, plain) = match operator.split_once(':') {
            None => (SetOperator::None, operator),
            Some(("ForAnyValue", plain)) => (SetOperator::ForAnyValue, plain),
            Some(("ForAllValues", plain)) => (SetOperator::ForAllValues, plain),
            Some(_) => return Err(unknown()),
        };
        let (plain, if_exists) = match plain.strip_suffix("IfExists") {
            Some(plain) => (plain, true),
            None => (plain, false),
        };
        if plain == "Null" && (if_exists || set != SetOperator::None) {
            return Err(unknown());
        }
        let texts = one_or_many(values, place)?
            .into_iter()
            .map(|value| scalar(value, place))
            .collect::<Result<Vec<String>, PolicyError>>()?;
        let (negated, operand) = Operand::parse(plain, &texts, place, variables)?.ok_or_else(unknown)?;
        Ok(Self { key: key.to_owned(), set, if_exists, negated, operand })
    }

    /// True where the request satisfies the condition.
    pub(super) fn holds(&self, context: &Context) -> bool {
        let values = lookup(context, &self.key);
        if let Operand::Null(expected) = &self.operand {
            return expected.contains(&values.is_none());
        }
        let Some(values) = values else {
            return match self.set {
                SetOperator::ForAllValues => true,
                SetOperator::ForAnyValue => self.if_exists,
                SetOperator::None => self.if_exists || self.negated,
            };
        };
        // AWS calls a key whose value is an empty string a null data set under the set operators.
        let null_set = values.iter().all(String::is_empty);
        let one = |value: &String| self.operand.matches(value, context) != self.negated;
        match self.set {
            SetOperator::ForAllValues => null_set || values.iter().all(one),
            SetOperator::ForAnyValue => !null_set && values.iter().any(one),
            // Several values without a set operator: any of them may match, and none of them for a negated one.
            SetOperator::None if self.negated => values.iter().all(one),
            SetOperator::None => values.iter().any(one),
        }
    }
}

impl Operand {
    /// The operand and whether the operator is negated; `None` for an operator that does not exist.
    fn parse(
        operator: &str,
        texts: &[String],
        place: &str,
        variables: bool,
    ) -> Result<Option<(bool, Self)>, PolicyError> {
        let text = |wildcards, ignore_case| -> Result<Self, PolicyError> {
            let patterns = typed(texts, place, |text| Pattern::parse(text, wildcards, variables))?;
            Ok(Self::Text { patterns, ignore_case })
        };
        let (negated, operand) = match operator {
            "StringEquals" => (false, text(Wildcards::None, false)?),
            "StringNotEquals" => (true, text(Wildcards::None, false)?),
            "StringEqualsIgnoreCase" => (false, text(Wildcards::None, true)?),
            "StringNotEqualsIgnoreCase" => (true, text(Wildcards::None, true)?),
            "StringLike" => (false, text(Wildcards::Anywhere, false)?),
            "StringNotLike" => (true, text(Wildcards::Anywhere, false)?),
            // AWS: the two behave identically.
            "ArnEquals" | "ArnLike" => (false, text(Wildcards::Arn, false)?),
            "ArnNotEquals" | "ArnNotLike" => (true, text(Wildcards::Arn, false)?),
            "Bool" => (false, Self::Bool(booleans(texts, place)?)),
            "Null" => (false, Self::Null(booleans(texts, place)?)),
            "BinaryEquals" => {
                let bytes =
                    typed(texts, place, |text| STANDARD.decode(text).map_err(|_| "it is not Base64".to_owned()))?;
                (false, Self::Binary(bytes))
            }
            "IpAddress" | "NotIpAddress" => {
                let ranges = typed(texts, place, |text| {
                    IpRange::parse(text).ok_or_else(|| "it is neither an address nor a CIDR range".to_owned())
                })?;
                (operator == "NotIpAddress", Self::Ip(ranges))
            }
            other => {
                let (family, name) = match (other.strip_prefix("Numeric"), other.strip_prefix("Date")) {
                    (Some(name), _) => ("Numeric", name),
                    (None, Some(name)) => ("Date", name),
                    (None, None) => return Ok(None),
                };
                let (negated, comparison) = match name {
                    "Equals" => (false, Comparison::Equals),
                    "NotEquals" => (true, Comparison::Equals),
                    "LessThan" => (false, Comparison::LessThan),
                    "LessThanEquals" => (false, Comparison::LessThanEquals),
                    "GreaterThan" => (false, Comparison::GreaterThan),
                    "GreaterThanEquals" => (false, Comparison::GreaterThanEquals),
                    _ => return Ok(None),
                };
                let operand = if family == "Numeric" {
                    let limits =
                        typed(texts, place, |text| value::number(text).ok_or_else(|| "it is not a number".to_owned()))?;
                    Self::Number { limits, comparison }
                } else {
                    let limits = typed(texts, place, |text| {
                        value::date(text).ok_or_else(|| "it is neither an ISO 8601 date nor epoch seconds".to_owned())
                    })?;
                    Self::Date { limits, comparison }
                };
                (negated, operand)
            }
        };
        Ok(Some((negated, operand)))
    }

    /// True where one of the policy's values matches the request's value, before negation. A value of the request that is
    /// not of the operator's type matches nothing.
    fn matches(&self, value: &str, context: &Context) -> bool {
        match self {
            Self::Text { patterns, ignore_case: false } => patterns.iter().any(|p| p.matches(value, context)),
            Self::Text { patterns, ignore_case: true } => {
                patterns.iter().any(|p| p.matches_ignoring_case(value, context))
            }
            Self::Number { limits, comparison } => {
                value::number(value).is_some_and(|given| limits.iter().any(|limit| comparison.holds(&given, limit)))
            }
            Self::Date { limits, comparison } => {
                value::date(value).is_some_and(|given| limits.iter().any(|limit| comparison.holds(&given, limit)))
            }
            Self::Bool(expected) => value::boolean(value).is_some_and(|given| expected.contains(&given)),
            Self::Binary(expected) => STANDARD.decode(value).is_ok_and(|given| expected.contains(&given)),
            Self::Ip(ranges) => {
                value.parse::<IpAddr>().is_ok_and(|address| ranges.iter().any(|range| range.contains(address)))
            }
            Self::Null(_) => false,
        }
    }
}

impl Comparison {
    fn holds<T: PartialOrd>(self, given: &T, limit: &T) -> bool {
        match self {
            Self::Equals => given == limit,
            Self::LessThan => given < limit,
            Self::LessThanEquals => given <= limit,
            Self::GreaterThan => given > limit,
            Self::GreaterThanEquals => given >= limit,
        }
    }
}

fn object<'v>(value: &'v Value, place: &str) -> Result<&'v serde_json::Map<String, Value>, PolicyError> {
    value.as_object().ok_or_else(|| PolicyError::WrongShape { place: place.to_owned(), expected: "an object" })
}

fn booleans(texts: &[String], place: &str) -> Result<Vec<bool>, PolicyError> {
    typed(texts, place, |text| value::boolean(text).ok_or_else(|| "it is neither true nor false".to_owned()))
}

fn typed<T>(texts: &[String], place: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, PolicyError> {
    let bad = |text: &String, reason| PolicyError::BadValue { place: place.to_owned(), value: text.clone(), reason };
    texts.iter().map(|text| parse(text).map_err(|reason| bad(text, reason))).collect()
}
