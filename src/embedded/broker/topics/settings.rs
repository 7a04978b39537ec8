//! What a topic may be called and which settings it may have. A setting that would change what clients observe, and which
//! this broker does not implement, is refused rather than ignored.

use std::collections::BTreeMap;

/// Kafka's own limit, so that names stay valid when the topic moves to a real cluster.
const MAX_NAME_BYTES: usize = 249;

/// Whether a topic may have this name: letters, digits, `.`, `_` and `-`, neither empty nor a directory's alias.
pub(crate) fn is_valid_name(name: &str) -> bool {
    let sized = (1..=MAX_NAME_BYTES).contains(&name.len());
    let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    sized && legal && name != "." && name != ".."
}

/// One topic setting: its value when nobody set it, and what else it may be.
struct Setting {
    name: &'static str,
    default: &'static str,
    accepts: fn(&str) -> bool,
    /// As the protocol numbers them: 1 boolean, 2 string, 3 int, 5 long, 6 double, 7 list.
    kind: i8,
}

fn is_long(value: &str) -> bool {
    value.parse::<i64>().is_ok()
}

fn is_size(value: &str) -> bool {
    value.parse::<i32>().is_ok_and(|size| size >= 0)
}

/// Records are never expired here, which retention permits (it promises no more than "at least"), so any is accepted.
const SETTINGS: &[Setting] = &[
    Setting { name: "cleanup.policy", default: "delete", accepts: |v| v == "delete", kind: 7 },
    Setting { name: "compression.type", default: "producer", accepts: |v| v == "producer", kind: 2 },
    Setting { name: MAX_MESSAGE_BYTES, default: "1048588", accepts: is_size, kind: 3 },
    Setting { name: "message.timestamp.type", default: "CreateTime", accepts: |v| v == "CreateTime", kind: 2 },
    Setting { name: "min.insync.replicas", default: "1", accepts: |v| v == "1", kind: 3 },
    Setting { name: "retention.bytes", default: "-1", accepts: is_long, kind: 5 },
    Setting { name: "retention.ms", default: "-1", accepts: is_long, kind: 5 },
];

/// The one setting that is enforced per topic.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// Checks one setting of a topic to be created. The error is for the person who sent it.
pub(crate) fn check(name: &str, value: Option<&str>) -> Result<(), String> {
    let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
        return Err(format!("the embedded broker has no topic setting `{name}`"));
    };
    match value {
        Some(value) if (setting.accepts)(value) => Ok(()),
        _ => Err(format!("the embedded broker cannot set `{name}` to `{}`", value.unwrap_or("null"))),
    }
}

/// A setting as it applies to a topic.
pub(crate) struct Applied {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) is_default: bool,
    pub(crate) kind: i8,
}

/// All settings of a topic with these changes, and the broker's own batch limit where the topic has none.
pub(crate) fn applied(changed: &BTreeMap<String, String>, max_batch_bytes: usize) -> Vec<Applied> {
    let of = |setting: &Setting| {
        let given = changed.get(setting.name);
        let default = match setting.name {
            MAX_MESSAGE_BYTES => max_batch_bytes.to_string(),
            _ => setting.default.to_owned(),
        };
        let value = given.cloned().unwrap_or(default);
        Applied { name: setting.name, value, is_default: given.is_none(), kind: setting.kind }
    };
    SETTINGS.iter().map(of).collect()
}

/// The largest batch a topic with these changes takes.
pub(crate) fn max_batch_bytes(changed: &BTreeMap<String, String>, broker: usize) -> usize {
    changed.get(MAX_MESSAGE_BYTES).and_then(|value| value.parse().ok()).unwrap_or(broker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "orders.v1", "A_b-9", &"x".repeat(249), "..."] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "é", "a\0", &"x".repeat(250)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_setting_that_would_be_ignored_is_refused() {
        assert!(check("cleanup.policy", Some("delete")).is_ok());
        assert!(check("cleanup.policy", Some("compact")).is_err());
        assert!(check("message.timestamp.type", Some("LogAppendTime")).is_err());
        assert!(check("retention.ms", Some("86400000")).is_ok());
        assert!(check("retention.ms", None).is_err());
        assert!(check("no.such", Some("1")).is_err());
    }
}
