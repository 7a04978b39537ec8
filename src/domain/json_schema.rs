//! The JSON Schema of DAG files, made from the types that read them and the operators' own schemas.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::domain::operator_kind::OperatorKind;
use crate::domain::spec::{DagKeys, GroupKeys, TaskKeys, is_dag_key_in_default_args};

/// The schema of a file whose tasks use these operators.
#[must_use]
pub fn file_schema(operators: &[&'static OperatorKind]) -> Value {
    let task_keys = properties_of::<TaskKeys>(TaskKeys::ALIASES);
    let mut definitions = Map::new();
    let mut variants = Vec::new();
    for kind in operators {
        let name = format!("task_{}", kind.name);
        variants.push(json!({ "$ref": format!("#/$defs/{name}") }));
        let task = task_schema(kind, &task_keys, &mut definitions);
        definitions.insert(name, task);
    }
    definitions.insert("task".to_owned(), json!({ "oneOf": variants }));
    let mut dag_keys = properties_of::<DagKeys>(DagKeys::ALIASES);
    dag_keys.insert("default_args".to_owned(), default_args(&task_keys, &dag_keys));
    dag_keys.insert("task_groups".to_owned(), task_groups(default_args(&task_keys, &dag_keys)));
    let mut default_keys = dag_keys.clone();
    default_keys.remove("tasks");
    dag_keys.insert(
        "tasks".to_owned(),
        json!({
            "description": "The tasks: a mapping keyed by task id, or a list of tasks with `task_id`.",
            "anyOf": [
                { "type": "object", "minProperties": 1, "additionalProperties": { "$ref": "#/$defs/task" } },
                {
                    "type": "array",
                    "minItems": 1,
                    "items": { "allOf": [{ "$ref": "#/$defs/task" }, { "required": ["task_id"] }] }
                }
            ]
        }),
    );
    let dag = json!({
        "type": "object",
        "description": "A DAG: when it runs, and its tasks. Its key is its id.",
        "properties": dag_keys,
        "required": ["tasks"],
        "additionalProperties": false
    });
    definitions.insert("dag".to_owned(), dag);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pinsched DAG file",
        "description": "DAGs by their ids, in dag-factory's dialect of YAML.",
        "type": "object",
        "properties": {
            "default": {
                "type": "object",
                "description": "Defaults for every DAG of the file.",
                "properties": default_keys,
                "additionalProperties": false
            }
        },
        "additionalProperties": { "$ref": "#/$defs/dag" },
        "$defs": definitions
    })
}

/// The task groups of a DAG, in either form.
fn task_groups(default_args: Value) -> Value {
    let mut keys = properties_of::<GroupKeys>(GroupKeys::ALIASES);
    keys.insert("default_args".to_owned(), default_args);
    let group = json!({ "type": ["object", "null"], "properties": keys, "additionalProperties": false });
    json!({
        "description": "The task groups: a mapping keyed by name, or a list of groups with `group_name`.",
        "anyOf": [
            { "type": "object", "additionalProperties": group },
            { "type": "array", "items": { "allOf": [group, { "required": ["group_name"] }] } }
        ]
    })
}

/// The properties of a set of keys, other names included.
fn properties_of<T: schemars::JsonSchema>(aliases: &[(&str, &str)]) -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    let mut properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    for (alias, name) in aliases {
        if let Some(property) = properties.get(*name).cloned() {
            properties.insert((*alias).to_owned(), property);
        }
    }
    properties
}

/// A task of one operator: the keys that every task has, and the operator's.
fn task_schema(kind: &OperatorKind, task_keys: &Map<String, Value>, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = (kind.schema)().to_value();
    scope_references(&mut schema, kind.name);
    let own = schema.get_mut("$defs").map(Value::take);
    for (name, mut definition) in own.and_then(|own| own.as_object().cloned()).into_iter().flatten() {
        allow_templates(&mut definition);
        definitions.insert(format!("{}.{name}", kind.name), definition);
    }
    let mut properties = task_keys.clone();
    let names: Vec<&str> = std::iter::once(kind.name).chain(kind.class_paths.iter().copied()).collect();
    properties.insert("operator".to_owned(), json!({ "description": kind.about, "enum": names }));
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        properties.insert(name.clone(), or_template(property.clone()));
    }
    // What all instances of a mapped task share may stand in a mapping of its own.
    let partial = json!({
        "type": "object",
        "description": "Keys of a mapped task that are the same for all of its instances, as if they stood in the task itself.",
        "properties": properties.clone(),
        "additionalProperties": false
    });
    properties.insert("partial".to_owned(), partial);
    // What an operator needs may stand in `default_args`: that is for `pinsched validate` to know.
    json!({
        "type": "object",
        "description": kind.about,
        "properties": properties,
        "required": ["operator"],
        "additionalProperties": false
    })
}

/// `default_args`: keys of tasks, of their operators, and of the DAG.
fn default_args(task_keys: &Map<String, Value>, dag_keys: &Map<String, Value>) -> Value {
    let mut properties = task_keys.clone();
    for name in ["task_id", "operator", "dependencies", "expand", "expand_kwargs", "map_index_template"] {
        properties.remove(name);
    }
    let of_dag = dag_keys.iter().filter(|(name, _)| is_dag_key_in_default_args(name));
    properties.extend(of_dag.map(|(name, property)| (name.clone(), property.clone())));
    json!({
        "type": "object",
        "description": "Keys that every task has unless it sets them itself; operators' keys too.",
        "properties": properties
    })
}

/// Points an operator's references to where its definitions stand in the whole.
fn scope_references(schema: &mut Value, operator: &str) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/$defs/")
            {
                *reference = format!("#/$defs/{operator}.{name}");
            }
            fields.values_mut().for_each(|field| scope_references(field, operator));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| scope_references(item, operator)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A property's schema, with a template allowed in place of any value.
fn or_template(mut schema: Value) -> Value {
    allow_templates(&mut schema);
    let takes_text = match schema.get("type") {
        Some(Value::String(one)) => one == "string",
        Some(Value::Array(several)) => several.iter().any(|name| name == "string"),
        _ => false,
    };
    // The tag of a variant has to be there as it is: without it nobody knows the variant.
    if (takes_text && schema.get("enum").is_none()) || schema.get("const").is_some() {
        return schema;
    }
    let template = json!({ "type": "string", "pattern": "\\{[{%]" });
    let mut wrapped = Map::new();
    for note in ["description", "default"] {
        if let Some(kept) = schema.as_object_mut().and_then(|fields| fields.remove(note)) {
            wrapped.insert(note.to_owned(), kept);
        }
    }
    wrapped.insert("anyOf".to_owned(), json!([schema, template]));
    Value::Object(wrapped)
}

fn allow_templates(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        for property in properties.values_mut() {
            *property = or_template(property.take());
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner @ Value::Object(_)) = fields.get_mut(inner) {
            *inner = or_template(inner.take());
        }
    }
    for combined in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(branches)) = fields.get_mut(combined) {
            branches.iter_mut().for_each(allow_templates);
        }
    }
}

/// What of a file does not fit a schema: what an editor would underline.
#[cfg(test)]
pub(crate) fn violations(
    schema: &Value,
    file: &crate::domain::source::SourceFile,
) -> Vec<crate::domain::diagnostic::Diagnostic> {
    let document = crate::domain::yaml::read(file.text());
    let root = document.root.expect("the file is YAML");
    crate::domain::check::mismatches(schema, &root, "the file", root.span)
}
