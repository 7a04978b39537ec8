//! Mapped tasks (Airflow's dynamic task mapping): what a task is expanded over, and into which instances.
//!
//! The values are known when the task's upstreams have ended. The expansion is the mapped task's own attempt: what is
//! rendered there are values, which are kept for each instance and never rendered again.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::domain::ids::{IdError, TaskId};
use crate::domain::task_output::json_size;
use crate::domain::template::Wanted;

/// What a task is expanded over, templates not rendered yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Where the instances' values come from.
    pub over: Over,
    /// A template that names an instance for people (Airflow's `map_index_template`).
    pub label: Option<String>,
    /// What all of its templates name: each instance looks it up, so that it is found once and not by each.
    pub wanted: Wanted,
}

impl Mapping {
    /// A mapping with what its templates name.
    #[must_use]
    pub fn new(over: Over, label: Option<String>) -> Self {
        let mut mapping = Self { over, label, wanted: Wanted::default() };
        mapping.wanted = Wanted::in_config(&mapping.templates());
        mapping
    }

    /// All of its templates.
    #[must_use]
    pub fn templates(&self) -> Value {
        let over = match &self.over {
            Over::Product(values) => Value::Object(values.clone()),
            Over::Kwargs(items) => items.clone(),
        };
        json!([over, self.label])
    }
}

/// Where the values of the instances come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Over {
    /// `expand`: each key with each of its values, in every combination; the last key varies fastest.
    Product(Map<String, Value>),
    /// `expand_kwargs`: a list of objects, an instance each.
    Kwargs(Value),
}

/// The values of the instances of a mapped task, by `map_index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expansion {
    /// What each instance has instead of the expanded keys.
    pub items: Vec<Map<String, Value>>,
    /// What each instance is called, where there is a template for that.
    pub labels: Vec<Option<String>>,
}

/// An instance, as its attempts see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Which it is of the mapped task, from 0.
    pub map_index: u32,
    /// What it has instead of the expanded keys.
    pub item: Map<String, Value>,
}

/// Values that make no instances.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A value that is no list and no object.
    #[error(
        "`expand.{key}` came to {found}; it has to be a list, or an object whose entries are taken as {{key, value}}"
    )]
    NoList {
        /// The key.
        key: String,
        /// What it came to.
        found: &'static str,
    },
    /// `expand_kwargs` that is no list.
    #[error("`expand_kwargs` came to {found}; it has to be a list of objects")]
    NoListOfObjects {
        /// What it came to.
        found: &'static str,
    },
    /// An item of `expand_kwargs` that is no object.
    #[error("item {position} of `expand_kwargs` is {found}; each item is an object with the instance's keys")]
    NoObject {
        /// Its place, from 0.
        position: usize,
        /// What it is.
        found: &'static str,
    },
    /// More instances than there may be.
    #[error(
        "it would have {count} mapped instances, and `max_map_length` allows {limit}; raise the setting \
         `engine.max_map_length` (PINSCHED_MAX_MAP_LENGTH), or let fewer, larger pieces of work be mapped"
    )]
    TooMany {
        /// How many there would be.
        count: usize,
        /// How many there may be.
        limit: u32,
    },
    /// Instances whose values together are larger than what they are made from may be.
    #[error(
        "the values of its mapped instances would be {bytes} bytes of JSON together, and `outputs.limit` \
         (PINSCHED_OUTPUTS_LIMIT) allows {limit}: write the data to object storage, and let its URLs be mapped"
    )]
    TooLarge {
        /// Their size.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
}

/// How many instances a task may have, and how large their values may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapLimits {
    /// So many instances.
    pub count: u32,
    /// So many bytes of JSON are the values of all of them.
    pub bytes: u64,
}

impl Over {
    /// The instances' values, of values that were rendered; what is over the limits is not made at all.
    ///
    /// # Errors
    /// [`MappingError`] says what the values came to instead.
    pub fn items(self, limits: MapLimits) -> Result<Vec<Map<String, Value>>, MappingError> {
        match self {
            Self::Product(values) => product(values, limits),
            Self::Kwargs(Value::Array(items)) => {
                within(items.len(), items.iter().map(json_size).sum(), limits)?;
                items.into_iter().enumerate().map(|(position, item)| kwargs_of(position, item)).collect()
            }
            Self::Kwargs(other) => Err(MappingError::NoListOfObjects { found: describe(&other) }),
        }
    }
}

fn within(count: usize, bytes: u64, limits: MapLimits) -> Result<(), MappingError> {
    match limits {
        MapLimits { count: limit, .. } if count > limit as usize => Err(MappingError::TooMany { count, limit }),
        MapLimits { bytes: limit, .. } if bytes > limit => Err(MappingError::TooLarge { bytes, limit }),
        MapLimits { .. } => Ok(()),
    }
}

fn kwargs_of(position: usize, item: Value) -> Result<Map<String, Value>, MappingError> {
    match item {
        Value::Object(item) => Ok(item),
        other => Err(MappingError::NoObject { position, found: describe(&other) }),
    }
}

/// Every combination of one value for each key.
fn product(values: Map<String, Value>, limits: MapLimits) -> Result<Vec<Map<String, Value>>, MappingError> {
    let lists = values.into_iter().map(|(key, value)| Ok((listed(&key, value)?, key)));
    let lists = lists.collect::<Result<Vec<(Vec<Value>, String)>, MappingError>>()?;
    let count = lists.iter().fold(1_usize, |count, (list, _)| count.saturating_mul(list.len()));
    // Each value of a key comes once for each combination of the other keys' values.
    let bytes = lists.iter().filter(|(list, _)| !list.is_empty()).map(|(list, key)| {
        let own = list.iter().map(|value| json_size(value) + key.len() as u64).fold(0, u64::saturating_add);
        own.saturating_mul((count / list.len()) as u64)
    });
    within(count, bytes.fold(0, u64::saturating_add), limits)?;
    let item = |mut number: usize| {
        // The last key's values follow each other at once.
        let mut chosen: Vec<(String, Value)> = Vec::with_capacity(lists.len());
        for (list, key) in lists.iter().rev() {
            chosen.push((key.clone(), list[number % list.len()].clone()));
            number /= list.len();
        }
        chosen.into_iter().rev().collect()
    };
    Ok((0..count).map(item).collect())
}

/// The values of one key: a list's items, or an object's entries.
fn listed(key: &str, value: Value) -> Result<Vec<Value>, MappingError> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Object(fields) => {
            Ok(fields.into_iter().map(|(key, value)| serde_json::json!({"key": key, "value": value})).collect())
        }
        other => Err(MappingError::NoList { key: key.to_owned(), found: describe(&other) }),
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Expansion {
    /// How many instances there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(u32::MAX)
    }
}

/// What a mapped task says of instances that failed: how many, and the first of them by `map_index`.
#[must_use]
pub fn failures(failed: u32, all: u32, first: &[u32]) -> String {
    let names: Vec<String> = first.iter().map(|index| format!("[{index}]")).collect();
    let more = if (failed as usize) > first.len() { ", …" } else { "" };
    format!("{failed} of {all} mapped instances failed: {}{more}", names.join(", "))
}

/// A task, or one instance of a mapped one, as people name it: `each`, `each[3]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskName {
    /// The task.
    pub task: TaskId,
    /// Which instance, where one is meant.
    pub map_index: Option<u32>,
}

/// What names neither a task nor an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskNameError {
    /// The task's part is no task id.
    #[error(transparent)]
    Task(#[from] IdError),
    /// The part in brackets is no number, or the brackets are none.
    #[error("`{text}` {wrong}; an instance of a mapped task is named by its number, from 0, as `{task}[0]`")]
    Instance {
        /// The whole of it.
        text: String,
        /// What is wrong with it.
        wrong: String,
        /// The task's part.
        task: TaskId,
    },
}

impl TaskNameError {
    /// The task that is named, where it is an instance that is not.
    #[must_use]
    pub fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Task(_) => None,
            Self::Instance { task, .. } => Some(task),
        }
    }
}

impl FromStr for TaskName {
    type Err = TaskNameError;

    fn from_str(text: &str) -> Result<Self, TaskNameError> {
        let Some(bracket) = text.find(['[', ']']) else { return Ok(Self { task: text.parse()?, map_index: None }) };
        let (task, rest) = text.split_at(bracket);
        let task: TaskId = task.parse()?;
        let wrong = match rest.strip_prefix('[').map(|rest| rest.strip_suffix(']').ok_or(rest)) {
            None => "has a `]` without a `[` before it".to_owned(),
            Some(Err(rest)) if rest.contains(']') => "goes on behind its `]`".to_owned(),
            Some(Err(_)) => "lacks the `]` at its end".to_owned(),
            Some(Ok("")) => "has no number in its brackets".to_owned(),
            Some(Ok(index)) => match index.parse() {
                Ok(map_index) if index.bytes().all(|letter| letter.is_ascii_digit()) => {
                    return Ok(Self { task, map_index: Some(map_index) });
                }
                Err(_) if index.bytes().all(|letter| letter.is_ascii_digit()) => {
                    format!("has {index} in its brackets, which is more than there can be")
                }
                _ => format!("has `{index}` in its brackets, which is no number from 0 on"),
            },
        };
        Err(TaskNameError::Instance { text: text.to_owned(), wrong, task })
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.map_index {
            Some(index) => write!(f, "{}[{index}]", self.task),
            None => write!(f, "{}", self.task),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn items(over: Over) -> Result<Vec<Value>, MappingError> {
        Ok(over.items(MapLimits { count: 5, bytes: 100 })?.into_iter().map(Value::Object).collect())
    }

    #[test]
    fn several_keys_make_every_combination_and_the_last_one_varies_fastest() {
        let over = Over::Product(object(json!({"y": ["a", "b"], "x": [1, 2]})));
        assert_eq!(
            items(over).unwrap(),
            [
                json!({"y": "a", "x": 1}),
                json!({"y": "a", "x": 2}),
                json!({"y": "b", "x": 1}),
                json!({"y": "b", "x": 2})
            ]
        );
        let of_object = Over::Product(object(json!({"x": {"k": 1}})));
        assert_eq!(items(of_object).unwrap(), [json!({"x": {"key": "k", "value": 1}})]);
        assert_eq!(items(Over::Product(object(json!({"x": [], "y": [1]})))).unwrap(), Vec::<Value>::new());
    }

    #[test]
    fn what_is_no_list_is_named_and_too_many_say_the_setting() {
        let refused = |over| items(over).unwrap_err().to_string();
        assert_eq!(
            refused(Over::Product(object(json!({"x": "abc"})))),
            "`expand.x` came to text; it has to be a list, or an object whose entries are taken as {key, value}"
        );
        assert_eq!(refused(Over::Kwargs(json!(3))), "`expand_kwargs` came to a number; it has to be a list of objects");
        assert!(refused(Over::Kwargs(json!([{}, 3]))).starts_with("item 1 of `expand_kwargs` is a number"));
        let many = refused(Over::Product(object(json!({"x": [1, 2, 3], "y": [1, 2]}))));
        assert!(many.starts_with("it would have 6 mapped instances, and `max_map_length` allows 5; raise"), "{many}");
    }

    #[test]
    fn values_that_are_too_large_together_are_refused_before_they_are_multiplied() {
        let long = "x".repeat(30);
        // 32 bytes and the key's one, for each of three values of the other key, and those.
        let product = Over::Product(object(json!({"a": [long], "b": [1, 2, 3]})));
        assert_eq!(items(product), Err(MappingError::TooLarge { bytes: 3 * 33 + 3 * 2, limit: 100 }));
        assert_eq!(items(Over::Product(object(json!({"a": [long], "b": [1, 2]})))).unwrap().len(), 2);
        let refused = items(Over::Kwargs(json!([{"a": long}, {"a": long}, {"a": long}]))).unwrap_err().to_string();
        assert!(
            refused.contains("114 bytes") && refused.contains("`outputs.limit` (PINSCHED_OUTPUTS_LIMIT) allows 100")
        );
    }

    #[test]
    fn an_instance_is_named_by_its_task_and_map_index() {
        let name: TaskName = "group.each[3]".parse().unwrap();
        assert_eq!(
            (name.task.as_str(), name.map_index, name.to_string().as_str()),
            ("group.each", Some(3), "group.each[3]")
        );
        assert_eq!("each".parse::<TaskName>().unwrap().map_index, None);
    }

    #[test]
    fn what_is_no_instance_is_told_what_is_wrong_with_it() {
        let wrong = |text: &str| match text.parse::<TaskName>() {
            Err(TaskNameError::Instance { wrong, task, .. }) if task.as_str() == "each" => wrong,
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong("each[x]"), "has `x` in its brackets, which is no number from 0 on");
        assert_eq!(wrong("each[-1]"), "has `-1` in its brackets, which is no number from 0 on");
        assert_eq!(wrong("each[+1]"), "has `+1` in its brackets, which is no number from 0 on");
        assert_eq!(wrong("each[0][1]"), "has `0][1` in its brackets, which is no number from 0 on");
        assert_eq!(wrong("each[99999999999]"), "has 99999999999 in its brackets, which is more than there can be");
        assert_eq!(wrong("each[]"), "has no number in its brackets");
        assert_eq!(wrong("each[1"), "lacks the `]` at its end");
        assert_eq!(wrong("each]"), "has a `]` without a `[` before it");
        assert_eq!(wrong("each[1]x"), "goes on behind its `]`");
        assert_eq!("[1]".parse::<TaskName>().unwrap_err().to_string(), "a task id must not be empty");
        assert_eq!(
            "each[x]".parse::<TaskName>().unwrap_err().to_string(),
            "`each[x]` has `x` in its brackets, which is no number from 0 on; an instance of a mapped task is named by its \
             number, from 0, as `each[0]`"
        );
    }

    #[test]
    fn failures_are_counted_and_the_first_are_named() {
        assert_eq!(failures(3, 10_000, &[7, 12, 99]), "3 of 10000 mapped instances failed: [7], [12], [99]");
        assert_eq!(failures(3, 5, &[0, 1]), "3 of 5 mapped instances failed: [0], [1], …");
    }
}
