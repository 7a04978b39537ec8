//! Choices: catching up, overlapping, changes of the clocks, trigger rules.

use serde_json::Value;

use crate::domain::dag::{Catchup, DataIntervals, DstGap, DstOverlap, DstPolicy, Overlap, WeightRule};
use crate::domain::diagnostic::{Code, Diagnostic, listed};
use crate::domain::source::Span;
use crate::domain::spec::Problems;
use crate::domain::spec::value::{FromNode, Positive, Seconds, choice, described, wrong_type};
use crate::domain::trigger_rule::TriggerRule;
use crate::domain::yaml::{Entry, Node, NodeKind};

impl FromNode for Catchup {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.kind {
            NodeKind::Bool(true) => Some(Self::All),
            NodeKind::Bool(false) => Some(Self::None),
            NodeKind::Mapping(entries) => catchup_window(node, entries, problems),
            NodeKind::Null | NodeKind::Number(_) | NodeKind::Text(_) | NodeKind::List(_) => {
                choice(node, key, &[("none", Self::None), ("latest", Self::Latest), ("all", Self::All)], problems)
            }
        }
    }
}

fn catchup_window(node: &Node, entries: &[Entry], problems: &mut Problems<'_>) -> Option<Catchup> {
    let (mut window, mut max, before) = (None, None, problems.errors());
    for Entry { key, value } in entries {
        match key.text.as_str() {
            "window" => window = Seconds::from_node(value, "window", problems),
            "max" => max = Positive::from_node(value, "max", problems),
            other => unknown_subkey("catchup", other, key.span, &["window", "max"], problems),
        }
    }
    if window.is_none() && problems.errors() == before {
        let message = "`catchup` as a mapping needs its `window`";
        problems.add(Diagnostic::error(Code::BadChoice, node.span, message).help("as `{window: 3d, max: 10}`"));
    }
    window.map(|window| Catchup::Window { window: window.0, max: max.map(|max| max.0) })
}

pub(super) fn unknown_subkey(of: &str, typed: &str, span: Span, known: &[&str], problems: &mut Problems<'_>) {
    problems.add(Diagnostic::error(Code::UnknownDagKey, span, format!("`{of}` has no key `{typed}`")).did_you_mean(
        typed,
        known.iter().copied(),
        || Some(format!("it has {}", listed(known.iter().copied()))),
    ));
}
described!(Catchup, "Catchup", {
    "anyOf": [
        { "type": "boolean" },
        { "enum": ["none", "latest", "all"] },
        {
            "type": "object",
            "properties": {
                "window": { "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string" }] },
                "max": { "type": "integer", "minimum": 1 }
            },
            "required": ["window"],
            "additionalProperties": false
        }
    ]
});

impl FromNode for WeightRule {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        choice(node, key, &WEIGHT_RULES, problems)
    }
}
described!(WeightRule, "WeightRule", { "enum": ["downstream", "upstream", "absolute"] });

const WEIGHT_RULES: [(&str, WeightRule); 3] =
    [("downstream", WeightRule::Downstream), ("upstream", WeightRule::Upstream), ("absolute", WeightRule::Absolute)];

impl FromNode for Overlap {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let choices = [("queue", Self::Queue), ("skip", Self::Skip), ("cancel_running", Self::CancelRunning)];
        choice(node, key, &choices, problems)
    }
}
described!(Overlap, "Overlap", { "enum": ["queue", "skip", "cancel_running"] });

impl FromNode for DataIntervals {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        choice(node, key, &[("trigger", Self::Trigger), ("cron", Self::Cron)], problems)
    }
}
described!(DataIntervals, "DataIntervals", { "enum": ["trigger", "cron"] });

impl FromNode for DstPolicy {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(entries) = node.as_mapping() else {
            wrong_type(node, key, "a mapping as `{gap: shift, overlap: second}`", problems);
            return None;
        };
        let mut policy = Self::default();
        for Entry { key, value } in entries {
            match key.text.as_str() {
                "gap" => {
                    let gaps = [("shift", DstGap::Shift), ("run_at_end", DstGap::RunAtEnd), ("skip", DstGap::Skip)];
                    policy.gap = choice(value, "gap", &gaps, problems).unwrap_or_default();
                }
                "overlap" => {
                    let overlaps =
                        [("second", DstOverlap::Second), ("first", DstOverlap::First), ("both", DstOverlap::Both)];
                    policy.overlap = choice(value, "overlap", &overlaps, problems).unwrap_or_default();
                }
                other => unknown_subkey("dst", other, key.span, &["gap", "overlap"], problems),
            }
        }
        Some(policy)
    }
}
described!(DstPolicy, "DstPolicy", {
    "type": "object",
    "properties": {
        "gap": { "enum": ["shift", "run_at_end", "skip"] },
        "overlap": { "enum": ["second", "first", "both"] }
    },
    "additionalProperties": false
});

impl FromNode for TriggerRule {
    fn from_node(node: &Node, key: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Some(text) = node.as_text() else {
            wrong_type(node, key, "one word", problems);
            return None;
        };
        // Airflow 2 called it so.
        let text = if text == "none_failed_or_skipped" { "none_failed_min_one_success" } else { text };
        let rule = serde_json::from_value(Value::String(text.to_owned())).ok();
        if rule.is_none() {
            let names = || TriggerRule::ALL.map(TriggerRule::as_str);
            problems.add(
                Diagnostic::error(Code::BadChoice, node.span, format!("there is no trigger rule `{text}`"))
                    .did_you_mean(text, names(), || Some(format!("it is one of {}", listed(names())))),
            );
        }
        rule
    }
}
