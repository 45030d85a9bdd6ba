//! A template being resolved: parameters, conditions, references and intrinsic functions.
//!
//! Owns the meaning of every intrinsic function. Promises that resolving ends: what refers to itself is an error, and
//! chains of references have a bounded length.

mod functions;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::document::{Document, wrong_shape};
use super::physical::{Kind, Physical, partition, stack_id, url_suffix};
use super::{Options, TemplateError, parameters};

/// The longest chain of names or conditions that depend on one another.
const MAX_CHAIN: usize = 32;

/// What is known while a template is resolved.
#[derive(Debug)]
pub(super) struct Stack<'t> {
    document: &'t Document,
    options: &'t Options,
    parameters: BTreeMap<String, Value>,
    conditions: BTreeMap<String, bool>,
    physical: BTreeMap<String, Physical>,
    /// What is being worked out just now, innermost last: finds circles.
    in_progress: Vec<String>,
    /// Whose properties are being resolved: the origin of references.
    current: Option<String>,
    /// Which resource refers to which.
    references: BTreeMap<String, BTreeSet<String>>,
    /// Conditions see parameters only.
    resources_visible: bool,
}

/// A resource's definition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Definition<'t> {
    pub(super) type_name: &'t str,
    pub(super) properties: Option<&'t Value>,
    condition: Option<&'t str>,
    depends_on: Option<&'t Value>,
}

impl<'t> Stack<'t> {
    pub(super) fn new(document: &'t Document, options: &'t Options) -> Result<Self, TemplateError> {
        check_options(options)?;
        let mut stack = Self {
            document,
            options,
            parameters: parameters::values(&document.parameters, &options.parameters)?,
            conditions: BTreeMap::new(),
            physical: BTreeMap::new(),
            in_progress: Vec::new(),
            current: None,
            references: BTreeMap::new(),
            resources_visible: true,
        };
        for name in document.conditions.keys() {
            stack.condition(name, &format!("Conditions.{name}"))?;
        }
        Ok(stack)
    }

    pub(super) fn options(&self) -> &'t Options {
        self.options
    }

    /// The resources that exist (their condition holds), in the order of their logical ids.
    pub(super) fn resources(&mut self) -> Result<Vec<(&'t str, Definition<'t>)>, TemplateError> {
        let document = self.document;
        let mut existing = Vec::new();
        for logical in document.resources.keys() {
            let place = format!("Resources.{logical}");
            if logical.is_empty() || !logical.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                let reason = "a logical id holds letters and digits only".to_owned();
                return Err(TemplateError::BadValue { place, value: logical.clone(), reason });
            }
            let definition = self.definition(logical)?;
            let exists = match definition.condition {
                Some(condition) => self.condition(condition, &format!("{place}.Condition"))?,
                None => true,
            };
            if exists {
                existing.push((logical.as_str(), definition));
            }
        }
        Ok(existing)
    }

    /// A resource's properties, resolved.
    pub(super) fn properties(&mut self, logical: &str, definition: Definition<'t>) -> Result<Value, TemplateError> {
        let place = format!("Resources.{logical}.Properties");
        self.on_behalf_of(logical, |stack| {
            stack.depend(logical, definition)?;
            match definition.properties {
                None => Ok(Value::Object(Map::new())),
                Some(properties @ Value::Object(_)) => {
                    Ok(stack.resolve(properties, &place)?.unwrap_or_else(|| Value::Object(Map::new())))
                }
                Some(other) => Err(wrong_shape(&place, "an object", other)),
            }
        })
    }

    /// Checks the references of a resource that is not rehearsed, without acting on anything else in it.
    pub(super) fn check_references(&mut self, logical: &str, definition: Definition<'t>) -> Result<(), TemplateError> {
        let place = format!("Resources.{logical}.Properties");
        self.on_behalf_of(logical, |stack| {
            stack.depend(logical, definition)?;
            definition.properties.map_or(Ok(()), |properties| stack.walk_references(properties, &place))
        })
    }

    /// What a resource is called.
    pub(super) fn physical(&mut self, logical: &str, place: &str) -> Result<Physical, TemplateError> {
        if let Some(physical) = self.physical.get(logical) {
            return Ok(physical.clone());
        }
        let definition = self.definition(logical)?;
        if let Some(condition) = definition.condition
            && !self.condition(condition, &format!("Resources.{logical}.Condition"))?
        {
            return Err(TemplateError::Unresolved {
                place: place.to_owned(),
                name: logical.to_owned(),
                reason: format!("the resource does not exist, because the condition {condition} is false"),
            });
        }
        let physical = match Kind::of(definition.type_name) {
            None => Physical::stand_in(definition.type_name, logical, self.options),
            Some(kind) => {
                let mut property = |name: &str| -> Result<Option<String>, TemplateError> {
                    let Some(Value::Object(properties)) = definition.properties else { return Ok(None) };
                    let Some(value) = properties.get(name) else { return Ok(None) };
                    let place = format!("Resources.{logical}.Properties.{name}");
                    self.chain(logical.to_owned(), |stack| {
                        stack.on_behalf_of(logical, |stack| stack.optional_text(value, &place))
                    })
                };
                let name = kind.name_property().map(&mut property).transpose()?.flatten();
                let path = if kind.has_path() { property("Path")? } else { None };
                let path = path.unwrap_or_else(|| "/".to_owned());
                Physical::new(kind, definition.type_name, logical, name, &path, self.options)
            }
        };
        self.physical.insert(logical.to_owned(), physical.clone());
        Ok(physical)
    }

    /// The template's outputs.
    pub(super) fn outputs(&mut self) -> Result<BTreeMap<String, String>, TemplateError> {
        let document = self.document;
        let mut outputs = BTreeMap::new();
        for (name, output) in &document.outputs {
            let place = format!("Outputs.{name}");
            let Value::Object(output) = output else { return Err(wrong_shape(&place, "an object", output)) };
            if let Some(condition) = output.get("Condition") {
                let place = format!("{place}.Condition");
                let condition = condition.as_str().ok_or_else(|| wrong_shape(&place, "a text", condition))?;
                if !self.condition(condition, &place)? {
                    continue;
                }
            }
            let value = output
                .get("Value")
                .ok_or_else(|| TemplateError::Missing { place: place.clone(), name: "Value".to_owned() })?;
            outputs.insert(name.clone(), self.text(value, &format!("{place}.Value"))?);
        }
        Ok(outputs)
    }

    /// Fails where resources refer to one another in a circle, which nobody could create.
    pub(super) fn check_circles(&self) -> Result<(), TemplateError> {
        let mut open = self.references.clone();
        loop {
            let done: Vec<String> = open
                .iter()
                .filter(|(_, to)| !to.iter().any(|t| open.contains_key(t)))
                .map(|(n, _)| n.clone())
                .collect();
            if done.is_empty() {
                break;
            }
            for name in done {
                open.remove(&name);
            }
        }
        // Whatever is left leads into a circle: follow it until a name comes back.
        let Some(mut name) = open.keys().next() else { return Ok(()) };
        let mut path: Vec<&str> = Vec::new();
        loop {
            if let Some(start) = path.iter().position(|seen| seen == name) {
                path.drain(..start);
                path.push(name);
                return Err(TemplateError::Circular { path: path.join(" → ") });
            }
            path.push(name);
            match open.get(name).and_then(|to| to.iter().find(|to| open.contains_key(*to))) {
                Some(next) => name = next,
                None => return Ok(()),
            }
        }
    }

    fn definition(&self, logical: &str) -> Result<Definition<'t>, TemplateError> {
        const KNOWN: [&str; 9] = [
            "Type",
            "Properties",
            "Condition",
            "DependsOn",
            "DeletionPolicy",
            "UpdateReplacePolicy",
            "UpdatePolicy",
            "CreationPolicy",
            "Metadata",
        ];
        let place = format!("Resources.{logical}");
        let document = self.document;
        let definition = document.resources.get(logical).unwrap_or(&Value::Null);
        let Value::Object(entries) = definition else { return Err(wrong_shape(&place, "an object", definition)) };
        if let Some(name) = entries.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(TemplateError::UnknownElement {
                place,
                name: name.clone(),
                known: "Type, Properties, Condition, DependsOn, DeletionPolicy, UpdateReplacePolicy, UpdatePolicy, \
                        CreationPolicy, Metadata",
            });
        }
        let text = |name: &str| -> Result<Option<&'t str>, TemplateError> {
            let Some(value) = entries.get(name) else { return Ok(None) };
            let wrong = || wrong_shape(&format!("{place}.{name}"), "a text", value);
            value.as_str().map(Some).ok_or_else(wrong)
        };
        let missing = || TemplateError::Missing { place: place.clone(), name: "Type".to_owned() };
        Ok(Definition {
            type_name: text("Type")?.ok_or_else(missing)?,
            properties: entries.get("Properties"),
            condition: text("Condition")?,
            depends_on: entries.get("DependsOn"),
        })
    }

    fn depend(&mut self, logical: &str, definition: Definition<'t>) -> Result<(), TemplateError> {
        let place = format!("Resources.{logical}.DependsOn");
        let names = match definition.depends_on {
            None => return Ok(()),
            Some(Value::Array(names)) => names.iter().collect(),
            Some(one) => vec![one],
        };
        for name in names {
            let name = name.as_str().ok_or_else(|| wrong_shape(&place, "a logical id or a list of them", name))?;
            if !self.document.resources.contains_key(name) {
                return Err(unresolved(&place, name, "there is no resource of that name"));
            }
            self.refer_to(name);
        }
        Ok(())
    }

    /// Whether a condition holds.
    fn condition(&mut self, name: &str, place: &str) -> Result<bool, TemplateError> {
        if let Some(known) = self.conditions.get(name) {
            return Ok(*known);
        }
        let document = self.document;
        let definition = document
            .conditions
            .get(name)
            .ok_or_else(|| unresolved(place, name, "there is no condition of that name"))?;
        let outer = std::mem::replace(&mut self.resources_visible, false);
        let holds =
            self.chain(format!("condition {name}"), |stack| stack.judge(definition, &format!("Conditions.{name}")));
        self.resources_visible = outer;
        let holds = holds?;
        self.conditions.insert(name.to_owned(), holds);
        Ok(holds)
    }

    /// The value of `Ref`; `None` for `AWS::NoValue`.
    fn reference(&mut self, name: &str, place: &str) -> Result<Option<Value>, TemplateError> {
        let options = self.options;
        let text = match name {
            "AWS::NoValue" => return Ok(None),
            "AWS::NotificationARNs" => return Ok(Some(Value::Array(Vec::new()))),
            "AWS::Region" => options.region.clone(),
            "AWS::AccountId" => options.account_id.clone(),
            "AWS::StackName" => options.stack_name.clone(),
            "AWS::StackId" => stack_id(options),
            "AWS::Partition" => partition(&options.region).to_owned(),
            "AWS::URLSuffix" => url_suffix(&options.region).to_owned(),
            name => match self.parameters.get(name) {
                Some(value) => return Ok(Some(value.clone())),
                None => self.existing(name, place)?.reference,
            },
        };
        Ok(Some(Value::String(text)))
    }

    /// The value of `Fn::GetAtt`.
    fn attribute(&mut self, logical: &str, attribute: &str, place: &str) -> Result<String, TemplateError> {
        self.existing(logical, place)?.attribute(attribute, logical, place)
    }

    /// A resource that something refers to.
    fn existing(&mut self, logical: &str, place: &str) -> Result<Physical, TemplateError> {
        if !self.document.resources.contains_key(logical) {
            let hint = if logical.contains(':') && !logical.contains("::") {
                "; a policy variable that IAM is to fill in is written ${!…} in Fn::Sub"
            } else {
                ""
            };
            let reason = format!("there is no parameter, resource or pseudo parameter of that name{hint}");
            return Err(unresolved(place, logical, reason));
        }
        if !self.resources_visible {
            return Err(unresolved(place, logical, "conditions may refer to parameters only"));
        }
        self.refer_to(logical);
        self.physical(logical, place)
    }

    fn refer_to(&mut self, logical: &str) {
        if let Some(current) = &self.current {
            self.references.entry(current.clone()).or_default().insert(logical.to_owned());
        }
    }

    fn on_behalf_of<T>(&mut self, logical: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.current.replace(logical.to_owned());
        let result = work(self);
        self.current = outer;
        result
    }

    /// Works something out that other things may depend on, and refuses circles and endless chains.
    fn chain<T>(
        &mut self,
        name: String,
        work: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        if let Some(start) = self.in_progress.iter().position(|seen| *seen == name) {
            let mut path = self.in_progress.split_off(start);
            path.push(name);
            return Err(TemplateError::Circular { path: path.join(" → ") });
        }
        if self.in_progress.len() >= MAX_CHAIN {
            return Err(TemplateError::TooLarge { place: name, limit: MAX_CHAIN, unit: "references in a chain" });
        }
        self.in_progress.push(name);
        let result = work(self);
        self.in_progress.pop();
        result
    }
}

fn unresolved(place: &str, name: &str, reason: impl Into<String>) -> TemplateError {
    TemplateError::Unresolved { place: place.to_owned(), name: name.to_owned(), reason: reason.into() }
}

fn check_options(options: &Options) -> Result<(), TemplateError> {
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let checks = [
        ("AWS::Region", &options.region, plain(&options.region), "it has to look like us-east-1"),
        (
            "AWS::AccountId",
            &options.account_id,
            options.account_id.len() == 12 && options.account_id.bytes().all(|b| b.is_ascii_digit()),
            "it has to be 12 digits",
        ),
        ("AWS::StackName", &options.stack_name, plain(&options.stack_name), "it takes letters, digits and hyphens"),
    ];
    for (place, value, good, reason) in checks {
        if !good {
            return Err(TemplateError::BadValue {
                place: place.to_owned(),
                value: value.clone(),
                reason: reason.to_owned(),
            });
        }
    }
    Ok(())
}
