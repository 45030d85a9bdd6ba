//! A template's text as one tree in JSON's terms, short tags turned into long forms.
//!
//! Owns the syntax and the sections. Promises bounded depth and size, so nothing behind it has to fear either.

use serde_json::{Map, Number, Value, json};

use super::TemplateError;

/// A template, read but not resolved.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) parameters: Map<String, Value>,
    pub(super) mappings: Map<String, Value>,
    pub(super) conditions: Map<String, Value>,
    pub(super) resources: Map<String, Value>,
    pub(super) outputs: Map<String, Value>,
}

/// CloudFormation's own limits.
const MAX_TEMPLATE_BYTES: usize = 1_000_000;
const MAX_RESOURCES: usize = 500;
const MAX_PARAMETERS: usize = 200;
const MAX_MAPPINGS: usize = 200;
const MAX_OUTPUTS: usize = 200;
/// Not CloudFormation's, but nobody has more.
const MAX_CONDITIONS: usize = 500;

impl Document {
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            let place = "the template".to_owned();
            return Err(TemplateError::TooLarge { place, limit: MAX_TEMPLATE_BYTES, unit: "bytes" });
        }
        let mut sections = match parse_text(text)? {
            Value::Object(sections) => sections,
            other => return Err(wrong_shape("the template", "an object", &other)),
        };
        let mut section = |name: &'static str, limit: usize| match sections.remove(name) {
            None => Ok(Map::new()),
            Some(Value::Object(entries)) if entries.len() > limit => {
                Err(TemplateError::TooLarge { place: name.to_owned(), limit, unit: "entries" })
            }
            Some(Value::Object(entries)) => Ok(entries),
            Some(other) => Err(wrong_shape(name, "an object", &other)),
        };
        let document = Self {
            parameters: section("Parameters", MAX_PARAMETERS)?,
            mappings: section("Mappings", MAX_MAPPINGS)?,
            conditions: section("Conditions", MAX_CONDITIONS)?,
            resources: section("Resources", MAX_RESOURCES)?,
            outputs: section("Outputs", MAX_OUTPUTS)?,
        };
        for name in sections.keys() {
            match name.as_str() {
                "AWSTemplateFormatVersion" | "Description" | "Metadata" | "Rules" | "Hooks" => {}
                "Transform" => {
                    let function = "Transform (give it the template as it is after the transformation)".to_owned();
                    return Err(TemplateError::UnsupportedFunction { place: "Transform".to_owned(), function });
                }
                other => {
                    return Err(TemplateError::UnknownElement {
                        place: "the template".to_owned(),
                        name: other.to_owned(),
                        known: "AWSTemplateFormatVersion, Description, Metadata, Parameters, Rules, Mappings, \
                                Conditions, Resources, Outputs",
                    });
                }
            }
        }
        if document.resources.is_empty() {
            return Err(TemplateError::Missing { place: "the template".to_owned(), name: "Resources".to_owned() });
        }
        Ok(document)
    }
}

/// The error for a part of another shape.
pub(super) fn wrong_shape(place: &str, expected: &'static str, found: &Value) -> TemplateError {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("`{value}`"),
        Value::String(value) => format!("`{}`", value.chars().take(80).collect::<String>()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(entries) => match entries.keys().next() {
            Some(key) if entries.len() == 1 => format!("an object with the key `{key}`"),
            _ => format!("an object with {} keys", entries.len()),
        },
    };
    TemplateError::WrongShape { place: place.to_owned(), expected, found }
}

fn parse_text(text: &str) -> Result<Value, TemplateError> {
    let json_error = if text.trim_start().starts_with('{') {
        match serde_json::from_str(text) {
            Ok(value) => return Ok(value),
            Err(error) => Some(error.to_string()),
        }
    } else {
        None
    };
    match serde_norway::from_str::<serde_norway::Value>(text) {
        Ok(yaml) => from_yaml(yaml, "the template"),
        // What opens like JSON is more likely broken JSON than broken YAML.
        Err(error) => Err(TemplateError::Syntax { reason: json_error.unwrap_or_else(|| error.to_string()) }),
    }
}

fn from_yaml(yaml: serde_norway::Value, place: &str) -> Result<Value, TemplateError> {
    use serde_norway::Value as Yaml;
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => Value::Number(from_yaml_number(&number, place)?),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(list) => Value::Array(
            list.into_iter()
                .enumerate()
                .map(|(index, value)| from_yaml(value, &format!("{place}[{index}]")))
                .collect::<Result<_, _>>()?,
        ),
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                let key = key_text(&key, place)?;
                let value = from_yaml(value, &format!("{place}.{key}"))?;
                if object.insert(key.clone(), value).is_some() {
                    let reason = "the key is there twice".to_owned();
                    return Err(TemplateError::BadValue { place: place.to_owned(), value: key, reason });
                }
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let name = tag.trim_start_matches('!');
            let value = from_yaml(tagged.value, &format!("{place}.!{name}"))?;
            long_form(name, value)
        }
    })
}

fn from_yaml_number(number: &serde_norway::Number, place: &str) -> Result<Number, TemplateError> {
    let converted = if let Some(whole) = number.as_u64() {
        Some(Number::from(whole))
    } else if let Some(whole) = number.as_i64() {
        Some(Number::from(whole))
    } else {
        number.as_f64().and_then(Number::from_f64)
    };
    converted.ok_or_else(|| TemplateError::BadValue {
        place: place.to_owned(),
        value: number.to_string(),
        reason: "it is not a finite number".to_owned(),
    })
}

fn key_text(key: &serde_norway::Value, place: &str) -> Result<String, TemplateError> {
    match key {
        serde_norway::Value::String(text) => Ok(text.clone()),
        serde_norway::Value::Number(number) => Ok(number.to_string()),
        serde_norway::Value::Bool(value) => Ok(value.to_string()),
        _ => Err(TemplateError::WrongShape {
            place: place.to_owned(),
            expected: "a text as key",
            found: "a list, an object or nothing".to_owned(),
        }),
    }
}

/// `!Ref X` is `{"Ref": X}`, `!GetAtt A.B` is `{"Fn::GetAtt": ["A", "B"]}`, and so on.
fn long_form(tag: &str, value: Value) -> Value {
    match (tag, value) {
        ("Ref", value) => json!({ "Ref": value }),
        ("Condition", value) => json!({ "Condition": value }),
        (tag, value) => Value::Object(Map::from_iter([(format!("Fn::{tag}"), value)])),
    }
}
