//! The values of a template's parameters: what was given, else the default, checked against the definition.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::TemplateError;
use super::document::wrong_shape;
use super::node::scalar_text;

/// Every parameter's value: a text, or a list of texts.
pub(super) fn values(
    definitions: &Map<String, Value>,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Value>, TemplateError> {
    if let Some(name) = given.keys().find(|name| !definitions.contains_key(*name)) {
        let known = definitions.keys().cloned().collect::<Vec<_>>().join(", ");
        let reason = format!("the template has no such parameter; it has: {known}");
        return Err(TemplateError::BadParameter { name: name.clone(), reason });
    }
    definitions.iter().map(|(name, definition)| Ok((name.clone(), value(name, definition, given.get(name))?))).collect()
}

fn value(name: &str, definition: &Value, given: Option<&String>) -> Result<Value, TemplateError> {
    let place = format!("Parameters.{name}");
    let bad = |reason: String| TemplateError::BadParameter { name: name.to_owned(), reason };
    let Value::Object(definition) = definition else { return Err(wrong_shape(&place, "an object", definition)) };
    let kind = match definition.get("Type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(other) => return Err(wrong_shape(&format!("{place}.Type"), "a text", other)),
        None => return Err(TemplateError::Missing { place, name: "Type".to_owned() }),
    };
    let text = match (given, definition.get("Default")) {
        (Some(text), _) => text.clone(),
        (None, Some(default)) => {
            scalar_text(default).ok_or_else(|| wrong_shape(&format!("{place}.Default"), "a text", default))?
        }
        (None, None) => return Err(bad("it has no default, and no value was given".to_owned())),
    };
    let is_list = kind == "CommaDelimitedList" || kind.starts_with("List<");
    let numeric = matches!(kind, "Number" | "List<Number>");
    if kind.starts_with("AWS::SSM::") {
        return Err(bad("the local cloud has no Parameter Store; make it a plain String".to_owned()));
    }
    if !is_list && !matches!(kind, "String" | "Number") && !kind.starts_with("AWS::") {
        return Err(bad(format!("the type `{kind}` does not exist")));
    }
    let items: Vec<String> =
        if is_list { text.split(',').map(|item| item.trim().to_owned()).collect() } else { vec![text] };
    for item in &items {
        check(item, definition, &place, numeric, &bad)?;
    }
    let mut items = items.into_iter().map(Value::String);
    Ok(if is_list { Value::Array(items.collect()) } else { items.next().unwrap_or_default() })
}

fn check(
    item: &str,
    definition: &Map<String, Value>,
    place: &str,
    numeric: bool,
    bad: &impl Fn(String) -> TemplateError,
) -> Result<(), TemplateError> {
    if let Some(allowed) = definition.get("AllowedValues") {
        let place = format!("{place}.AllowedValues");
        let list = allowed.as_array().ok_or_else(|| wrong_shape(&place, "a list", allowed))?;
        let texts: Vec<String> = list.iter().filter_map(scalar_text).collect();
        if !texts.iter().any(|text| text == item) {
            return Err(bad(format!("`{item}` is none of {}", texts.join(", "))));
        }
    }
    let limit = |name: &str| -> Result<Option<f64>, TemplateError> {
        let Some(limit) = definition.get(name) else { return Ok(None) };
        let number = scalar_text(limit).and_then(|text| text.parse::<f64>().ok());
        number.map(Some).ok_or_else(|| wrong_shape(&format!("{place}.{name}"), "a number", limit))
    };
    let number = item.parse::<f64>().ok().filter(|number| number.is_finite());
    if numeric && number.is_none() {
        return Err(bad(format!("`{item}` is not a number")));
    }
    let length = item.chars().count() as f64;
    let bounds = [("MinValue", "MaxValue", number.filter(|_| numeric)), ("MinLength", "MaxLength", Some(length))];
    for (least, most, measured) in bounds {
        let Some(measured) = measured else { continue };
        if let Some(limit) = limit(least)?.filter(|limit| measured < *limit) {
            return Err(bad(format!("`{item}` is below the {least} of {limit}")));
        }
        if let Some(limit) = limit(most)?.filter(|limit| measured > *limit) {
            return Err(bad(format!("`{item}` is above the {most} of {limit}")));
        }
    }
    Ok(())
}
