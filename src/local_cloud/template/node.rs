//! Reading resolved properties by type, with the place of whatever does not fit.

use std::str::FromStr;

use serde_json::Value;

use super::TemplateError;
use super::document::wrong_shape;

/// A resolved value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node<'v> {
    value: &'v Value,
    place: String,
}

impl<'v> Node<'v> {
    pub(super) fn new(value: &'v Value, place: impl Into<String>) -> Self {
        Self { value, place: place.into() }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn value(&self) -> &'v Value {
        self.value
    }

    /// A property, if it is there.
    pub(super) fn get(&self, name: &str) -> Result<Option<Node<'v>>, TemplateError> {
        let Value::Object(entries) = self.value else { return Err(self.wrong("an object")) };
        Ok(entries.get(name).map(|value| Node::new(value, format!("{}.{name}", self.place))))
    }

    /// A property that has to be there.
    pub(super) fn required(&self, name: &str) -> Result<Node<'v>, TemplateError> {
        self.get(name)?.ok_or_else(|| TemplateError::Missing { place: self.place.clone(), name: name.to_owned() })
    }

    pub(super) fn text(&self) -> Result<String, TemplateError> {
        scalar_text(self.value).ok_or_else(|| self.wrong("a text"))
    }

    /// The text of an optional property.
    pub(super) fn optional_text(&self, name: &str) -> Result<Option<String>, TemplateError> {
        self.get(name)?.map(|node| node.text()).transpose()
    }

    /// True or false, also as text, as CloudFormation takes it.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, TemplateError> {
        let Some(node) = self.get(name)? else { return Ok(default) };
        match node.text()?.as_str() {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            _ => Err(node.wrong("true or false")),
        }
    }

    /// A whole number within bounds, also as text.
    pub(super) fn number<N>(&self, name: &str, least: N, most: N) -> Result<Option<N>, TemplateError>
    where
        N: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(node) = self.get(name)? else { return Ok(None) };
        let number = node.text()?.parse::<N>().map_err(|_| node.wrong("a whole number"))?;
        if number < least || number > most {
            return Err(node.bad(format!("it has to be from {least} to {most}")));
        }
        Ok(Some(number))
    }

    /// The list of an optional property; empty where it is not there.
    pub(super) fn list(&self, name: &str) -> Result<Vec<Node<'v>>, TemplateError> {
        let Some(node) = self.get(name)? else { return Ok(Vec::new()) };
        let Value::Array(items) = node.value else { return Err(node.wrong("a list")) };
        Ok(items.iter().enumerate().map(|(i, value)| Node::new(value, format!("{}[{i}]", node.place))).collect())
    }

    /// The texts of an optional list.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, TemplateError> {
        self.list(name)?.iter().map(Node::text).collect()
    }

    /// The entries of an object.
    pub(super) fn entries(&self) -> Result<Vec<(&'v str, Node<'v>)>, TemplateError> {
        let Value::Object(entries) = self.value else { return Err(self.wrong("an object")) };
        let node = |(name, value): (&'v String, &'v Value)| {
            (name.as_str(), Node::new(value, format!("{}.{name}", self.place)))
        };
        Ok(entries.iter().map(node).collect())
    }

    pub(super) fn wrong(&self, expected: &'static str) -> TemplateError {
        wrong_shape(&self.place, expected, self.value)
    }

    pub(super) fn bad(&self, reason: impl Into<String>) -> TemplateError {
        let value = scalar_text(self.value).unwrap_or_else(|| self.value.to_string());
        TemplateError::BadValue { place: self.place.clone(), value, reason: reason.into() }
    }
}

/// The text of a scalar.
pub(super) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
