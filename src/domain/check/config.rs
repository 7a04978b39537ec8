//! Checks a value as typed against a JSON Schema, and points at what does not fit. It knows as much of JSON Schema as
//! our types' schemas use.

use serde_json::Value;

use crate::domain::diagnostic::{Code, Diagnostic, closest, listed};
use crate::domain::source::Span;
use crate::domain::template::is_template;
use crate::domain::yaml::{Node, NodeKind};

/// Follows a `$ref` to where the schema stands.
pub(in crate::domain) fn resolved<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
        .unwrap_or(schema)
}

/// What in `node` does not fit `schema`. `name` is what the messages call it, `head` where a missing key is reported.
pub(in crate::domain) fn mismatches(schema: &Value, node: &Node, name: &str, head: Span) -> Vec<Diagnostic> {
    let mut walk = Walk { root: schema, found: Vec::new() };
    walk.value(schema, node, name, head);
    walk.found
}

/// What in the value of one key of an object does not fit that object's schema.
pub(in crate::domain) fn mismatches_of_key(schema: &Value, key: &str, node: &Node) -> Vec<Diagnostic> {
    let mut walk = Walk { root: schema, found: Vec::new() };
    let properties = resolved(schema, schema).get("properties");
    if let Some(property) = properties.and_then(|properties| properties.get(key)) {
        walk.value(property, node, key, node.span);
    }
    walk.found
}

struct Walk<'s> {
    root: &'s Value,
    found: Vec<Diagnostic>,
}

impl<'s> Walk<'s> {
    fn value(&mut self, schema: &'s Value, node: &Node, name: &str, head: Span) {
        let schema = resolved(schema, self.root);
        if node.as_text().is_some_and(is_template) {
            return; // It has a type when it is rendered; the operator checks it then.
        }
        for all in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.value(all, node, name, head);
        }
        for any in ["anyOf", "oneOf"] {
            if let Some(branches) = schema.get(any).and_then(Value::as_array) {
                self.one_of(branches, node, name, head);
            }
        }
        if self.has_type(schema, node, name) && self.has_choice(schema, node, name) {
            self.number(schema, node, name);
            self.list(schema, node, name);
            self.object(schema, node, name, head);
        }
    }

    fn trial(&self, schema: &'s Value, node: &Node, name: &str, head: Span) -> Vec<Diagnostic> {
        let mut walk = Walk { root: self.root, found: Vec::new() };
        walk.value(schema, node, name, head);
        walk.found
    }

    /// Reports what is wrong with the branch that comes nearest; the branches' names when none does.
    fn one_of(&mut self, branches: &'s [Value], node: &Node, name: &str, head: Span) {
        let mut trials = Vec::new();
        for branch in branches {
            let found = self.trial(branch, node, name, head);
            if found.is_empty() {
                return;
            }
            trials.push((branch, found));
        }
        // A branch of the right type (found wrong further inside) is what was meant.
        let of_type: Vec<_> = trials
            .iter()
            .filter(|(branch, _)| {
                types(resolved(branch, self.root)).is_none_or(|types| types.iter().any(|name| is_of_type(node, name)))
                    && has_tag(resolved(branch, self.root), node)
            })
            .collect();
        if let [(_, only)] = of_type.as_slice() {
            self.found.extend(only.iter().cloned());
            return;
        }
        if let Some(entries) = node.as_mapping()
            && let Some((tag, choices)) = self.tags(branches)
        {
            self.found.push(match entries.iter().find(|entry| entry.key.text == tag) {
                Some(entry) => {
                    let typed = entry.value.as_text().unwrap_or_else(|| entry.value.describe());
                    bad_choice(tag, typed, entry.value.span, &choices)
                }
                None => {
                    let help = format!("`{tag}` is one of {}", listed(choices));
                    Diagnostic::error(Code::MissingConfigKey, head, format!("`{name}` needs the key `{tag}`"))
                        .help(help)
                }
            });
            return;
        }
        let choices: Vec<&str> = branches.iter().flat_map(|branch| words(resolved(branch, self.root))).collect();
        if !choices.is_empty()
            && let Some(text) = node.as_text()
        {
            self.found.push(bad_choice(name, text, node.span, &choices));
            return;
        }
        let mut expected: Vec<&str> = Vec::new();
        for branch in branches {
            for name in types(resolved(branch, self.root)).unwrap_or_default() {
                let word = type_word(name);
                if name != "null" && !expected.contains(&word) {
                    expected.push(word);
                }
            }
        }
        if expected.is_empty() || of_type.len() > 1 {
            let nearest = trials.into_iter().map(|(_, found)| found).min_by_key(Vec::len);
            self.found.extend(nearest.unwrap_or_default());
            return;
        }
        self.found.push(wrong_type(name, &expected.join(" or "), node));
    }

    /// The field by whose constant value variants are told apart, and those values.
    fn tags(&self, branches: &'s [Value]) -> Option<(&'s str, Vec<&'s str>)> {
        let tag_of = |branch: &'s Value| {
            let properties = resolved(branch, self.root).get("properties")?.as_object()?;
            properties.iter().find_map(|(name, property)| Some((name.as_str(), property.get("const")?.as_str()?)))
        };
        let tags: Vec<(&str, &str)> = branches.iter().filter_map(tag_of).collect();
        let (name, _) = *tags.first()?;
        Some((name, tags.into_iter().filter(|(other, _)| *other == name).map(|(_, value)| value).collect()))
    }

    fn has_type(&mut self, schema: &Value, node: &Node, name: &str) -> bool {
        let Some(types) = types(schema) else { return true };
        if types.iter().any(|name| is_of_type(node, name)) {
            return true;
        }
        let expected: Vec<&str> = types.iter().filter(|name| **name != "null").map(|name| type_word(name)).collect();
        self.found.push(wrong_type(name, &expected.join(" or "), node));
        false
    }

    fn has_choice(&mut self, schema: &'s Value, node: &Node, name: &str) -> bool {
        let is_one = |choice: &Value| *choice == node.to_json();
        let choices: Vec<&Value> = match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
            (Some(only), _) => vec![only],
            (None, Some(choices)) => choices.iter().collect(),
            (None, None) => return true,
        };
        if choices.iter().any(|choice| is_one(choice)) {
            return true;
        }
        let typed = node.as_text().map_or_else(|| node.to_json().to_string(), ToOwned::to_owned);
        let words: Vec<&str> = choices.iter().filter_map(|choice| choice.as_str()).collect();
        self.found.push(bad_choice(name, &typed, node.span, &words));
        false
    }

    fn number(&mut self, schema: &Value, node: &Node, name: &str) {
        let NodeKind::Number(number) = &node.kind else { return };
        let Some(value) = number.as_f64() else { return };
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let wrong = match () {
            () if bound("minimum").is_some_and(|least| value < least) => {
                bound("minimum").map(|least| format!("at least {least}"))
            }
            () if bound("maximum").is_some_and(|most| value > most) => {
                bound("maximum").map(|most| format!("at most {most}"))
            }
            () if bound("exclusiveMinimum").is_some_and(|least| value <= least) => {
                bound("exclusiveMinimum").map(|least| format!("more than {least}"))
            }
            () => None,
        };
        if let Some(bound) = wrong {
            let message = format!("`{name}` is {number}; it has to be {bound}");
            self.found.push(Diagnostic::error(Code::OutOfRange, node.span, message));
        }
    }

    fn list(&mut self, schema: &'s Value, node: &Node, name: &str) {
        let NodeKind::List(items) = &node.kind else { return };
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        if (items.len() as u64) < least {
            let message = format!("`{name}` has {} items; it needs at least {least}", items.len());
            self.found.push(Diagnostic::error(Code::OutOfRange, node.span, message));
        }
        if let Some(schema) = schema.get("items") {
            items.iter().for_each(|item| self.value(schema, item, name, item.span));
        }
    }

    fn object(&mut self, schema: &'s Value, node: &Node, name: &str, head: Span) {
        let NodeKind::Mapping(entries) = &node.kind else { return };
        let properties = schema.get("properties").and_then(Value::as_object);
        let property_of = |key: &str| properties.and_then(|properties| properties.get(key));
        for entry in entries {
            let key = entry.key.text.as_str();
            match (property_of(key), schema.get("additionalProperties")) {
                (Some(property), _) => self.value(property, &entry.value, key, entry.key.span),
                (None, Some(Value::Bool(false))) => {
                    let names = || properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
                    let message = format!("`{name}` has no key `{key}`");
                    self.found.push(Diagnostic::error(Code::UnknownConfigKey, entry.key.span, message).did_you_mean(
                        key,
                        names(),
                        || Some(format!("it has {}", listed(names()))),
                    ));
                }
                (None, Some(other @ Value::Object(_))) => self.value(other, &entry.value, key, entry.key.span),
                (None, _) => {}
            }
        }
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if !entries.iter().any(|entry| entry.key.text == required) {
                let message = format!("`{name}` needs the key `{required}`");
                let problem = Diagnostic::error(Code::MissingConfigKey, head, message);
                let property = property_of(required);
                let about = property
                    .and_then(|property| property.get("description"))
                    .or_else(|| resolved(property?, self.root).get("description"))
                    .and_then(Value::as_str)
                    .and_then(|text| text.lines().next());
                self.found.push(match about {
                    Some(about) => problem.help(format!("`{required}`: {about}")),
                    None => problem,
                });
            }
        }
    }
}

fn types(schema: &Value) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(one) => Some(vec![one]),
        Value::Array(several) => Some(several.iter().filter_map(Value::as_str).collect()),
        _ => None,
    }
}

/// The words that a schema allows, when it is a choice of words.
fn words(schema: &Value) -> Vec<&str> {
    let choices = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    choices.chain(schema.get("const")).filter_map(Value::as_str).collect()
}

/// Whether a mapping has the constant fields (a `type: …` that tells variants apart) of a schema's.
fn has_tag(schema: &Value, node: &Node) -> bool {
    let (Some(properties), Some(entries)) = (schema.get("properties").and_then(Value::as_object), node.as_mapping())
    else {
        return true;
    };
    properties.iter().all(|(name, property)| {
        let Some(tag) = property.get("const") else { return true };
        entries.iter().any(|entry| entry.key.text == *name && entry.value.to_json() == *tag)
    })
}

fn is_of_type(node: &Node, name: &str) -> bool {
    match (&node.kind, name) {
        (NodeKind::Null, "null")
        | (NodeKind::Bool(_), "boolean")
        | (NodeKind::Text(_), "string")
        | (NodeKind::List(_), "array")
        | (NodeKind::Mapping(_), "object")
        | (NodeKind::Number(_), "number") => true,
        (NodeKind::Number(number), "integer") => {
            !number.is_f64() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
        }
        _ => false,
    }
}

fn type_word(name: &str) -> &str {
    match name {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

fn wrong_type(name: &str, expected: &str, node: &Node) -> Diagnostic {
    if let Some((message, help)) = node.not_whole(name).filter(|_| expected == "a whole number") {
        return Diagnostic::error(Code::WrongConfigType, node.span, message).help(help);
    }
    let message = format!("`{name}` is {expected}, but this is {}", node.describe());
    let problem = Diagnostic::error(Code::WrongConfigType, node.span, message).label(format!("expected {expected}"));
    match &node.kind {
        NodeKind::Text(text) if expected.contains("number") && text.parse::<f64>().is_ok() => {
            problem.help("remove the quotes")
        }
        NodeKind::Number(number) if expected == "text" => problem.help(format!("put it in quotes: \"{number}\"")),
        NodeKind::Bool(value) if expected == "text" => problem.help(format!("put it in quotes: \"{value}\"")),
        _ => problem,
    }
}

fn bad_choice(name: &str, typed: &str, span: Span, choices: &[&str]) -> Diagnostic {
    let problem = Diagnostic::error(Code::BadChoice, span, format!("`{name}` cannot be `{typed}`"));
    match closest(typed, choices.iter().copied()) {
        Some(close) => problem.help(format!("did you mean `{close}`?")),
        None => problem.help(format!("it is one of {}", listed(choices.iter().copied()))),
    }
}
