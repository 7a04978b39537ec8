//! Callbacks and deadlines: their forms, and the keys that each channel has.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::domain::callbacks::{Callback, Channel, Deadline, DeadlineStart};
use crate::domain::diagnostic::{Code, Diagnostic, listed};
use crate::domain::spec::Problems;
use crate::domain::spec::value::policy::unknown_subkey;
use crate::domain::spec::value::{FromNode, Seconds, choice, described, wrong_type};
use crate::domain::yaml::{Entry, Node, NodeKind};

/// One callback, or several.
#[derive(Debug, Clone)]
pub(in crate::domain) struct CallbackList(pub(in crate::domain) Vec<TypedCallback>);

/// A callback as typed.
#[derive(Debug, Clone)]
pub(in crate::domain) struct TypedCallback {
    pub(in crate::domain) channel: Channel,
    /// The channel's keys.
    pub(in crate::domain) config: Node,
}

impl CallbackList {
    /// The callbacks, without their places.
    pub(in crate::domain) fn assembled(&self) -> Vec<Callback> {
        let callback = |typed: &TypedCallback| Callback { channel: typed.channel, config: typed.config.to_json() };
        self.0.iter().map(callback).collect()
    }
}

impl FromNode for CallbackList {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let errors_before = problems.errors();
        let items = match &node.kind {
            NodeKind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut typed = Vec::new();
        for item in items {
            match item.as_mapping() {
                Some(entries) if !entries.is_empty() => {
                    typed.extend(entries.iter().filter_map(|entry| read_channel(key, entry, problems)));
                }
                _ => wrong_type(item, key, "a mapping as `{webhook: {url: …}}`, or a list of those", problems),
            }
        }
        (problems.errors() == errors_before).then_some(Self(typed))
    }
}

fn read_channel(of: &str, entry: &Entry, problems: &mut Problems<'_>) -> Option<TypedCallback> {
    let name = entry.key.text.as_str();
    let Some(channel) = Channel::ALL.into_iter().find(|channel| channel.as_str() == name) else {
        unknown_subkey(of, name, entry.key.span, &Channel::ALL.map(Channel::as_str), problems);
        return None;
    };
    let Some(entries) = entry.value.as_mapping() else {
        wrong_type(&entry.value, name, "a mapping", problems);
        return None;
    };
    for Entry { key, value } in entries {
        match key.text.as_str() {
            other if !channel.keys().contains(&other) => {
                unknown_subkey(name, other, key.span, channel.keys(), problems);
            }
            "headers" => match value.as_mapping() {
                Some(headers) => headers.iter().for_each(|header| expect_text(&header.value, "headers", problems)),
                None => wrong_type(value, "headers", "a mapping from names to values", problems),
            },
            "to" if matches!(value.kind, NodeKind::List(_)) => {
                if let NodeKind::List(items) = &value.kind {
                    items.iter().for_each(|item| expect_text(item, "to", problems));
                }
            }
            text => expect_text(value, text, problems),
        }
    }
    let has = |key: &str| entries.iter().any(|entry| entry.key.text == key);
    let (needed, is_there) = match channel {
        Channel::Webhook => ("its `url`", has("url")),
        Channel::Slack => ("either `webhook_url` or `conn_id`", has("webhook_url") != has("conn_id")),
        Channel::Email => ("whom it is `to`", has("to")),
    };
    if !is_there {
        let problem = Diagnostic::error(Code::MissingConfigKey, entry.key.span, format!("`{name}` needs {needed}"));
        problems.add(problem.help(format!("it has {}", listed(channel.keys().iter().copied()))));
    }
    Some(TypedCallback { channel, config: entry.value.clone() })
}

fn expect_text(node: &Node, key: &str, problems: &mut Problems<'_>) {
    if node.as_text().is_none() {
        wrong_type(node, key, "text", problems);
    }
}

impl JsonSchema for CallbackList {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Callbacks".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": false,
            "properties": {
                "webhook": {
                    "type": "object",
                    "properties": {
                        "url": { "type": "string" },
                        "headers": { "type": "object", "additionalProperties": { "type": "string" } },
                        "secret": { "type": "string" }
                    },
                    "required": ["url"],
                    "additionalProperties": false
                },
                "slack": {
                    "type": "object",
                    "properties": {
                        "webhook_url": { "type": "string" },
                        "conn_id": { "type": "string" },
                        "text": { "type": "string" },
                        "channel": { "type": "string" }
                    },
                    "additionalProperties": false
                },
                "email": {
                    "type": "object",
                    "properties": {
                        "to": { "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] },
                        "subject": { "type": "string" },
                        "body": { "type": "string" },
                        "conn_id": { "type": "string" }
                    },
                    "required": ["to"],
                    "additionalProperties": false
                }
            }
        });
        json_schema!({
            "description": "A callback, or a list of them.",
            "anyOf": [one.clone(), { "type": "array", "items": one }]
        })
    }
}

impl FromNode for Deadline {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(entries) = node.as_mapping() else {
            let within = Seconds::from_node(node, key, problems)?.0;
            return Some(Self { after: DeadlineStart::default(), within });
        };
        let (mut after, mut within): (_, Option<Duration>) = (DeadlineStart::default(), None);
        let errors_before = problems.errors();
        for Entry { key, value } in entries {
            match key.text.as_str() {
                "after" => {
                    let choices = [
                        ("run_start", DeadlineStart::RunStart),
                        ("logical_date", DeadlineStart::LogicalDate),
                        ("queued", DeadlineStart::Queued),
                    ];
                    after = choice(value, "after", &choices, problems).unwrap_or_default();
                }
                "within" => within = Seconds::from_node(value, "within", problems).map(|within| within.0),
                other => unknown_subkey("deadline", other, key.span, &["after", "within"], problems),
            }
        }
        if within.is_none() && problems.errors() == errors_before {
            let message = "`deadline` as a mapping needs its `within`";
            let problem = Diagnostic::error(Code::BadDuration, node.span, message);
            problems.add(problem.help("as `{after: logical_date, within: 30m}`"));
        }
        within.map(|within| Self { after, within })
    }
}
described!(Deadline, "Deadline", {
    "description": "A duration from when the run begins, or `{after: run_start, within: 30m}`.",
    "anyOf": [
        { "type": "number", "minimum": 0 },
        { "type": "string", "pattern": "^[0-9]" },
        {
            "type": "object",
            "properties": {
                "after": { "enum": ["run_start", "logical_date", "queued"] },
                "within": { "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string" }] }
            },
            "required": ["within"],
            "additionalProperties": false
        }
    ]
});
