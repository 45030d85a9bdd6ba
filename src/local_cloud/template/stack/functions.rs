//! The intrinsic functions, one by one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::super::TemplateError;
use super::super::document::wrong_shape;
use super::super::node::scalar_text;
use super::{Stack, unresolved};

impl Stack<'_> {
    /// A value with everything in it resolved; `None` where it is `AWS::NoValue`.
    pub(super) fn resolve(&mut self, value: &Value, place: &str) -> Result<Option<Value>, TemplateError> {
        match value {
            Value::Null => Err(wrong_shape(place, "a value", value)),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(Some(value.clone())),
            Value::Array(items) => {
                let mut resolved = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    resolved.extend(self.resolve(item, &format!("{place}[{index}]"))?);
                }
                Ok(Some(Value::Array(resolved)))
            }
            Value::Object(entries) => match function_of(entries, place)? {
                Some((name, argument)) => self.call(name, argument, &format!("{place}.{name}")),
                None => {
                    let mut resolved = Map::new();
                    for (key, entry) in entries {
                        if let Some(entry) = self.resolve(entry, &format!("{place}.{key}"))? {
                            resolved.insert(key.clone(), entry);
                        }
                    }
                    Ok(Some(Value::Object(resolved)))
                }
            },
        }
    }

    /// A value that has to come out as text.
    pub(super) fn text(&mut self, value: &Value, place: &str) -> Result<String, TemplateError> {
        self.optional_text(value, place)?.ok_or_else(|| wrong_shape(place, "a text", &Value::Null))
    }

    /// A value that has to come out as text or not at all.
    pub(super) fn optional_text(&mut self, value: &Value, place: &str) -> Result<Option<String>, TemplateError> {
        let Some(resolved) = self.resolve(value, place)? else { return Ok(None) };
        scalar_text(&resolved).map(Some).ok_or_else(|| wrong_shape(place, "a text", &resolved))
    }

    /// A condition's expression.
    pub(super) fn judge(&mut self, expression: &Value, place: &str) -> Result<bool, TemplateError> {
        const EXPECTED: &str = "Fn::Equals, Fn::And, Fn::Or, Fn::Not or Condition";
        let wrong = || wrong_shape(place, EXPECTED, expression);
        let entries = expression.as_object().ok_or_else(wrong)?;
        let mut pairs = entries.iter();
        let (Some((name, argument)), None) = (pairs.next(), pairs.next()) else { return Err(wrong()) };
        let place = format!("{place}.{name}");
        match name.as_str() {
            "Condition" => {
                let name = argument.as_str().ok_or_else(|| wrong_shape(&place, "a condition's name", argument))?;
                self.condition(name, &place)
            }
            "Fn::Equals" => {
                let [left, right] = arguments(argument, &place, "a list of two values")?;
                let (left, right) =
                    (self.resolve(left, &format!("{place}[0]"))?, self.resolve(right, &format!("{place}[1]"))?);
                // CloudFormation compares texts: the number 1 equals the text "1".
                let texts = (left.as_ref().and_then(scalar_text), right.as_ref().and_then(scalar_text));
                Ok(match texts {
                    (Some(left), Some(right)) => left == right,
                    _ => left == right,
                })
            }
            "Fn::Not" => {
                let [inner] = arguments(argument, &place, "a list of one condition")?;
                Ok(!self.judge(inner, &format!("{place}[0]"))?)
            }
            "Fn::And" | "Fn::Or" => {
                let items = argument.as_array().filter(|items| (2..=10).contains(&items.len()));
                let items = items.ok_or_else(|| wrong_shape(&place, "a list of two to ten conditions", argument))?;
                let mut holding = 0;
                for (index, item) in items.iter().enumerate() {
                    holding += usize::from(self.judge(item, &format!("{place}[{index}]"))?);
                }
                Ok(if name == "Fn::And" { holding == items.len() } else { holding > 0 })
            }
            _ => Err(wrong()),
        }
    }

    /// Looks at references only, for resources that are not rehearsed.
    pub(super) fn walk_references(&mut self, value: &Value, place: &str) -> Result<(), TemplateError> {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.walk_references(item, &format!("{place}[{index}]"))?;
                }
                Ok(())
            }
            Value::Object(entries) => {
                for (key, entry) in entries {
                    let place = format!("{place}.{key}");
                    match key.as_str() {
                        "Ref" | "Fn::GetAtt" | "Fn::Sub" if entries.len() == 1 => {
                            self.call(key, entry, &place)?;
                        }
                        "Fn::If" if entries.len() == 1 => {
                            let [condition, yes, no] = arguments(entry, &place, "a condition's name and two values")?;
                            let condition = condition
                                .as_str()
                                .ok_or_else(|| wrong_shape(&place, "a condition's name", condition))?;
                            let chosen = if self.condition(condition, &place)? { yes } else { no };
                            self.walk_references(chosen, &place)?;
                        }
                        _ => self.walk_references(entry, &place)?,
                    }
                }
                Ok(())
            }
        }
    }

    fn call(&mut self, name: &str, argument: &Value, place: &str) -> Result<Option<Value>, TemplateError> {
        let text = match name {
            "Ref" => {
                let name = argument.as_str().ok_or_else(|| wrong_shape(place, "a name", argument))?;
                return self.reference(name, place);
            }
            "Fn::If" => {
                let [condition, yes, no] = arguments(argument, place, "a condition's name and two values")?;
                let condition =
                    condition.as_str().ok_or_else(|| wrong_shape(place, "a condition's name", condition))?;
                let (chosen, index) = if self.condition(condition, place)? { (yes, 1) } else { (no, 2) };
                return self.resolve(chosen, &format!("{place}[{index}]"));
            }
            "Fn::Select" => return self.select(argument, place).map(Some),
            "Fn::FindInMap" => return self.find_in_map(argument, place).map(Some),
            "Fn::Split" => {
                let [delimiter, text] = arguments(argument, place, "a delimiter and a text")?;
                let delimiter = self.text(delimiter, &format!("{place}[0]"))?;
                let text = self.text(text, &format!("{place}[1]"))?;
                if delimiter.is_empty() {
                    return Err(wrong_shape(&format!("{place}[0]"), "a delimiter that is not empty", &Value::Null));
                }
                let parts = text.split(delimiter.as_str()).map(|part| Value::String(part.to_owned()));
                return Ok(Some(Value::Array(parts.collect())));
            }
            "Fn::GetAtt" => self.get_att(argument, place)?,
            "Fn::Sub" => self.sub(argument, place)?,
            "Fn::Join" => {
                let [delimiter, list] = arguments(argument, place, "a delimiter and a list")?;
                let delimiter = self.text(delimiter, &format!("{place}[0]"))?;
                let place = format!("{place}[1]");
                let items = self.list(list, &place)?;
                let texts =
                    items.iter().map(|item| scalar_text(item).ok_or_else(|| wrong_shape(&place, "texts", item)));
                texts.collect::<Result<Vec<_>, _>>()?.join(&delimiter)
            }
            "Fn::Base64" => STANDARD.encode(self.text(argument, place)?),
            "Fn::Equals" | "Fn::And" | "Fn::Or" | "Fn::Not" => {
                let function = format!("{name} outside of Conditions (name a condition there, and use Fn::If)");
                return Err(TemplateError::UnsupportedFunction { place: place.to_owned(), function });
            }
            other => {
                let function = other.to_owned();
                return Err(TemplateError::UnsupportedFunction { place: place.to_owned(), function });
            }
        };
        Ok(Some(Value::String(text)))
    }

    fn get_att(&mut self, argument: &Value, place: &str) -> Result<String, TemplateError> {
        const EXPECTED: &str = "`LogicalId.Attribute` or a list of the two";
        let (logical, attribute) = match argument {
            Value::String(text) => {
                let (logical, attribute) =
                    text.split_once('.').ok_or_else(|| wrong_shape(place, EXPECTED, argument))?;
                (logical.to_owned(), attribute.to_owned())
            }
            Value::Array(_) => {
                let [logical, attribute] = arguments(argument, place, EXPECTED)?;
                let logical = logical.as_str().ok_or_else(|| wrong_shape(place, EXPECTED, logical))?;
                (logical.to_owned(), self.text(attribute, &format!("{place}[1]"))?)
            }
            other => return Err(wrong_shape(place, EXPECTED, other)),
        };
        self.attribute(&logical, &attribute, place)
    }

    fn sub(&mut self, argument: &Value, place: &str) -> Result<String, TemplateError> {
        let (text, own) = match argument {
            Value::String(text) => (text.as_str(), None),
            Value::Array(_) => {
                let [text, own] = arguments(argument, place, "a text and an object of its own variables")?;
                let text = text.as_str().ok_or_else(|| wrong_shape(&format!("{place}[0]"), "a text", text))?;
                let own = own.as_object().ok_or_else(|| wrong_shape(&format!("{place}[1]"), "an object", own))?;
                (text, Some(own))
            }
            other => return Err(wrong_shape(place, "a text or a list", other)),
        };
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            result.push_str(&rest[..start]);
            let after = &rest[start + 2..];
            let end = after.find('}').ok_or_else(|| TemplateError::BadValue {
                place: place.to_owned(),
                value: text.to_owned(),
                reason: "`${` without `}`".to_owned(),
            })?;
            let name = &after[..end];
            rest = &after[end + 1..];
            if let Some(literal) = name.strip_prefix('!') {
                result.push_str(&format!("${{{literal}}}"));
                continue;
            }
            let name = name.trim();
            let value = match own.and_then(|own| own.get(name)) {
                Some(value) => self.text(value, &format!("{place}[1].{name}"))?,
                None => match name.split_once('.') {
                    Some((logical, attribute)) if !logical.contains(':') && !attribute.contains(':') => {
                        self.attribute(logical, attribute, place)?
                    }
                    _ => {
                        let value = self.reference(name, place)?.unwrap_or_default();
                        scalar_text(&value).ok_or_else(|| unresolved(place, name, "it is not one text"))?
                    }
                },
            };
            result.push_str(&value);
        }
        result.push_str(rest);
        Ok(result)
    }

    fn select(&mut self, argument: &Value, place: &str) -> Result<Value, TemplateError> {
        let [index, list] = arguments(argument, place, "an index and a list")?;
        let index = self.text(index, &format!("{place}[0]"))?;
        let items = self.list(list, &format!("{place}[1]"))?;
        let chosen = index.parse::<usize>().ok().and_then(|index| items.get(index).cloned());
        chosen.ok_or_else(|| TemplateError::BadValue {
            place: format!("{place}[0]"),
            value: index,
            reason: format!("it has to be an index into a list of {}", items.len()),
        })
    }

    fn find_in_map(&mut self, argument: &Value, place: &str) -> Result<Value, TemplateError> {
        let [map, first, second] = arguments(argument, place, "a map's name and two keys")?;
        let map = self.text(map, &format!("{place}[0]"))?;
        let first = self.text(first, &format!("{place}[1]"))?;
        let second = self.text(second, &format!("{place}[2]"))?;
        let found =
            self.document.mappings.get(&map).and_then(|map| map.get(&first)).and_then(|entry| entry.get(&second));
        match found {
            None | Some(Value::Object(_) | Value::Null) => {
                Err(unresolved(place, &format!("{map}.{first}.{second}"), "Mappings has no such entry"))
            }
            Some(value) => Ok(value.clone()),
        }
    }

    fn list(&mut self, value: &Value, place: &str) -> Result<Vec<Value>, TemplateError> {
        match self.resolve(value, place)? {
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(wrong_shape(place, "a list", &other)),
            None => Err(wrong_shape(place, "a list", &Value::Null)),
        }
    }
}

/// The intrinsic function that an object is, if it is one.
fn function_of<'v>(
    entries: &'v Map<String, Value>,
    place: &str,
) -> Result<Option<(&'v str, &'v Value)>, TemplateError> {
    let mut functions = entries.iter().filter(|(key, _)| *key == "Ref" || key.starts_with("Fn::"));
    match functions.next() {
        None => Ok(None),
        Some((name, argument)) if entries.len() == 1 => Ok(Some((name, argument))),
        Some((name, _)) => Err(TemplateError::BadValue {
            place: place.to_owned(),
            value: name.clone(),
            reason: "a function has to be the only key of its object".to_owned(),
        }),
    }
}

fn arguments<'v, const N: usize>(
    argument: &'v Value,
    place: &str,
    expected: &'static str,
) -> Result<[&'v Value; N], TemplateError> {
    let items: Option<Vec<&Value>> = argument.as_array().map(|items| items.iter().collect());
    items.and_then(|items| items.try_into().ok()).ok_or_else(|| wrong_shape(place, expected, argument))
}
