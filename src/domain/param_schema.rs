//! The JSON Schemas of params: those keywords of the 2020-12 draft that judge one value by itself. A schema with another
//! keyword is refused rather than half understood; references are among them.

use chrono::{DateTime, NaiveDate, NaiveTime};
use regex::Regex;
use serde_json::{Map, Value};

/// Keywords that describe, and judge nothing; Airflow's own for its form among them.
const DESCRIBING: [&str; 14] = [
    "title",
    "description",
    "description_md",
    "examples",
    "section",
    "values_display",
    "suggestions",
    "custom_html_form",
    "$comment",
    "$schema",
    "deprecated",
    "readOnly",
    "writeOnly",
    "source",
];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

const FORMATS: [&str; 6] = ["date", "date-time", "time", "uuid", "email", "multiline"];

/// Schemas in schemas deeper than this are a slip.
const DEEPEST: usize = 32;

/// What is wrong with a schema, as far as anything is.
pub(in crate::domain) fn mistake(schema: &Value) -> Option<String> {
    schema_mistake(schema, 0)
}

fn schema_mistake(schema: &Value, depth: usize) -> Option<String> {
    let fields = match schema {
        Value::Bool(_) => return None,
        Value::Object(fields) => fields,
        other => return Some(format!("{other} is no schema")),
    };
    if depth > DEEPEST {
        return Some(format!("it is more than {DEEPEST} levels deep"));
    }
    let inner = |inner: &Value| schema_mistake(inner, depth + 1);
    fields.iter().find_map(|(keyword, value)| {
        let is_count = || value.as_u64().is_some();
        let wants = |right: bool, what: &str| (!right).then(|| format!("`{keyword}` is {what}, not {value}"));
        match keyword.as_str() {
            "type" => {
                let is_type = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                let right = value.as_array().map_or_else(|| is_type(value), |names| names.iter().all(is_type));
                wants(right, &format!("one or several of {}", TYPES.join(", ")))
            }
            "enum" => wants(value.is_array(), "a list of values"),
            "const" => None,
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => wants(value.is_number(), "a number"),
            "multipleOf" => wants(value.as_f64().is_some_and(|number| number > 0.0), "a number above 0"),
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                wants(is_count(), "a whole number from 0")
            }
            "uniqueItems" => wants(value.is_boolean(), "true or false"),
            "pattern" => match value.as_str().map(Regex::new) {
                Some(Ok(_)) => None,
                _ => wants(false, "a regular expression"),
            },
            "format" => wants(
                value.as_str().is_some_and(|format| FORMATS.contains(&format)),
                &format!("one of {}", FORMATS.join(", ")),
            ),
            "required" => {
                let right = value.as_array().is_some_and(|names| names.iter().all(Value::is_string));
                wants(right, "a list of names")
            }
            "properties" => match value {
                Value::Object(properties) => properties.values().find_map(inner),
                _ => wants(false, "a mapping from names to schemas"),
            },
            "items" | "additionalProperties" | "not" => inner(value),
            "anyOf" | "oneOf" | "allOf" => match value.as_array() {
                Some(branches) if !branches.is_empty() => branches.iter().find_map(inner),
                _ => wants(false, "a list of schemas"),
            },
            keyword if DESCRIBING.contains(&keyword) => None,
            keyword => Some(format!("the keyword `{keyword}` is not known here")),
        }
    })
}

/// What a value gets wrong of a schema that has no mistake of its own.
pub(in crate::domain) fn mistakes(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    judge(schema, value, "", &mut found);
    found
}

fn judge(schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    let fields = match schema {
        Value::Object(fields) => fields,
        Value::Bool(false) => {
            found.push(format!("{}nothing is allowed", at(place)));
            return;
        }
        _ => return,
    };
    for (keyword, rule) in fields {
        if let Some(words) = breach(keyword, rule, value) {
            found.push(format!("{}{words}", at(place)));
        }
    }
    within(fields, value, place, found);
    let fits = |branch: &&Value| mistakes(branch, value).is_empty();
    let branches = |keyword: &str| fields.get(keyword).and_then(Value::as_array);
    for branch in branches("allOf").into_iter().flatten() {
        judge(branch, value, place, found);
    }
    if branches("anyOf").is_some_and(|branches| !branches.iter().any(|branch| fits(&branch))) {
        found.push(format!("{}it fits none of `anyOf`", at(place)));
    }
    if let Some(branches) = branches("oneOf") {
        let fitting = branches.iter().filter(fits).count();
        if fitting != 1 {
            found.push(format!("{}it fits {fitting} of `oneOf`, and has to fit one", at(place)));
        }
    }
    if fields.get("not").is_some_and(|not| fits(&not)) {
        found.push(format!("{}it fits `not`", at(place)));
    }
}

fn at(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("at `{place}`: ") }
}

/// How a value breaks one rule about the value as a whole.
fn breach(keyword: &str, rule: &Value, value: &Value) -> Option<String> {
    let broken = |is_kept: bool, words: String| (!is_kept).then_some(words);
    let bound = |is_kept: fn(f64, f64) -> bool, words: &str| {
        let (number, limit) = (value.as_f64()?, rule.as_f64()?);
        broken(is_kept(number, limit), format!("it has to be {words} {rule}"))
    };
    let count = |counted: Option<usize>, is_kept: fn(u64, u64) -> bool, words: &str| {
        let (counted, limit) = (u64::try_from(counted?).ok()?, rule.as_u64()?);
        broken(is_kept(counted, limit), format!("it has to have {words} {limit}, and has {counted}"))
    };
    let characters = || value.as_str().map(|text| text.chars().count());
    let items = || value.as_array().map(Vec::len);
    let properties = || value.as_object().map(Map::len);
    match keyword {
        "type" => {
            let names: Vec<&str> = match rule {
                Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                one => one.as_str().into_iter().collect(),
            };
            broken(
                names.iter().any(|name| is_of_type(value, name)),
                format!("it has to be of type {}", names.join(" or ")),
            )
        }
        "enum" => {
            let choices = rule.as_array()?;
            let words: Vec<String> = choices.iter().map(ToString::to_string).collect();
            broken(
                choices.iter().any(|choice| is_same(choice, value)),
                format!("it has to be one of {}", words.join(", ")),
            )
        }
        "const" => broken(is_same(rule, value), format!("it has to be {rule}")),
        "minimum" => bound(|number, limit| number >= limit, "at least"),
        "maximum" => bound(|number, limit| number <= limit, "at most"),
        "exclusiveMinimum" => bound(|number, limit| number > limit, "above"),
        "exclusiveMaximum" => bound(|number, limit| number < limit, "below"),
        "multipleOf" => bound(
            |number, step| {
                let times = number / step;
                (times - times.round()).abs() <= f64::EPSILON * times.abs().max(1.0)
            },
            "a multiple of",
        ),
        "minLength" => count(characters(), |counted, limit| counted >= limit, "a length of at least"),
        "maxLength" => count(characters(), |counted, limit| counted <= limit, "a length of at most"),
        "minItems" => count(items(), |counted, limit| counted >= limit, "a number of items of at least"),
        "maxItems" => count(items(), |counted, limit| counted <= limit, "a number of items of at most"),
        "minProperties" => count(properties(), |counted, limit| counted >= limit, "a number of keys of at least"),
        "maxProperties" => count(properties(), |counted, limit| counted <= limit, "a number of keys of at most"),
        "uniqueItems" if rule == &Value::Bool(true) => {
            let mut texts: Vec<String> = value.as_array()?.iter().map(ToString::to_string).collect();
            let all = texts.len();
            texts.sort_unstable();
            texts.dedup();
            broken(texts.len() == all, "it has an item twice".to_owned())
        }
        "pattern" => {
            let (text, pattern) = (value.as_str()?, rule.as_str()?);
            let fits = Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
            broken(fits, format!("it has to match `{pattern}`"))
        }
        "format" => {
            let (text, format) = (value.as_str()?, rule.as_str()?);
            broken(has_format(text, format), format!("it has to be a {format}"))
        }
        "required" => {
            let fields = value.as_object()?;
            let missing = rule.as_array()?.iter().filter_map(Value::as_str).find(|name| !fields.contains_key(*name))?;
            Some(format!("it has no `{missing}`"))
        }
        _ => None,
    }
}

/// Judges what is in a list or a mapping.
fn within(fields: &Map<String, Value>, value: &Value, place: &str, found: &mut Vec<String>) {
    let below = |step: &str| if place.is_empty() { step.to_owned() } else { format!("{place}.{step}") };
    match value {
        Value::Array(items) => {
            for (position, item) in items.iter().enumerate() {
                if let Some(schema) = fields.get("items") {
                    judge(schema, item, &below(&position.to_string()), found);
                }
            }
        }
        Value::Object(entries) => {
            let properties = fields.get("properties").and_then(Value::as_object);
            for (name, entry) in entries {
                let own = properties.and_then(|properties| properties.get(name));
                if let Some(schema) = own.or(fields.get("additionalProperties")) {
                    judge(schema, entry, &below(name), found);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Number(number) => {
            name == "number"
                || name == "integer"
                    && (!number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0))
        }
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
    }
}

/// 3 and 3.0 are one number.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (one, other) => one == other,
    }
}

fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date" => NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok(),
        "date-time" => DateTime::parse_from_rfc3339(text).is_ok(),
        "time" => ["%H:%M", "%H:%M:%S%.f"].iter().any(|format| NaiveTime::parse_from_str(text, format).is_ok()),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "email" => text.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace) && !host.contains('@')
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_keyword_judges() {
        let cases = [
            (json!({"type": "integer"}), vec![json!(3), json!(3.0)], vec![json!(3.5), json!("3"), json!(null)]),
            (json!({"type": ["null", "string"]}), vec![json!(null), json!("")], vec![json!(1), json!([])]),
            (json!({"enum": [1, "a", null]}), vec![json!(1.0), json!("a"), json!(null)], vec![json!(2), json!("A")]),
            (json!({"const": {"a": 1}}), vec![json!({"a": 1})], vec![json!({"a": 2})]),
            (json!({"minimum": 1, "maximum": 2}), vec![json!(1), json!(2), json!("x")], vec![json!(0.9), json!(3)]),
            (json!({"exclusiveMinimum": 1, "exclusiveMaximum": 2}), vec![json!(1.5)], vec![json!(1), json!(2)]),
            (json!({"multipleOf": 0.1}), vec![json!(0.3), json!(7)], vec![json!(0.35)]),
            (json!({"minLength": 2, "maxLength": 3}), vec![json!("éé"), json!(1)], vec![json!("é"), json!("abcd")]),
            (json!({"pattern": "^a+$"}), vec![json!("aa")], vec![json!("ab")]),
            (
                json!({"minItems": 1, "maxItems": 2, "uniqueItems": true}),
                vec![json!([1, 2])],
                vec![json!([]), json!([1, 1])],
            ),
            (json!({"items": {"type": "string"}}), vec![json!(["a"])], vec![json!(["a", 1])]),
            (
                json!({"properties": {"a": {"type": "null"}}, "required": ["a"], "additionalProperties": false}),
                vec![json!({"a": null})],
                vec![json!({}), json!({"a": 1}), json!({"a": null, "b": 1})],
            ),
            (json!({"minProperties": 1, "maxProperties": 1}), vec![json!({"a": 1})], vec![json!({})]),
            (json!({"anyOf": [{"type": "null"}, {"minimum": 3}]}), vec![json!(null), json!(3)], vec![json!(2)]),
            (
                json!({"oneOf": [{"type": "integer"}, {"minimum": 3}]}),
                vec![json!(2), json!(3.5)],
                vec![json!(4), json!(2.5)],
            ),
            (json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}), vec![json!(1)], vec![json!(3)]),
            (json!({"not": {"type": "string"}}), vec![json!(1)], vec![json!("a")]),
            (json!({"format": "date"}), vec![json!("2026-02-28"), json!(3)], vec![json!("2026-02-30")]),
            (json!({"format": "date-time"}), vec![json!("2026-02-28T02:00:00Z")], vec![json!("2026-02-28")]),
            (json!({"format": "time"}), vec![json!("02:30")], vec![json!("25:00")]),
            (json!({"format": "uuid"}), vec![json!("67e55044-10b1-426f-9247-bb680e5fe0c8")], vec![json!("67")]),
            (json!({"format": "email"}), vec![json!("a@b.c")], vec![json!("a"), json!("a@b@c")]),
        ];
        for (schema, right, wrong) in cases {
            assert_eq!(mistake(&schema), None, "{schema}");
            for value in right {
                assert_eq!(mistakes(&schema, &value), Vec::<String>::new(), "{value} by {schema}");
            }
            for value in wrong {
                assert!(!mistakes(&schema, &value).is_empty(), "{value} by {schema}");
            }
        }
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!({"type": "whole"}),
            json!({"minimum": "1"}),
            json!({"pattern": "("}),
            json!({"$ref": "#"}),
            json!({"anyOf": []}),
            json!({"items": {"typ": "x"}}),
            json!({"multipleOf": 0}),
            json!({"format": "colour"}),
            json!({"properties": {"a": 3}}),
            json!({"maxLength": -1}),
            json!({"required": "a"}),
        ] {
            assert!(mistake(&schema).is_some(), "{schema}");
        }
        let deep = (0..100).fold(json!({}), |inner, _| json!({"not": inner}));
        assert!(mistake(&deep).unwrap().contains("levels deep"));
    }
}
