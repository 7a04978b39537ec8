//! What an attempt says of a configuration that does not fit its operator: by task, instance, key and value.

use serde_json::Value;

use crate::domain::check::rendered_problems;
use crate::domain::mapping::TaskName;
use crate::domain::masking::Masks;
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};

/// The longest value that is told whole, in characters.
const LONGEST: usize = 100;

/// So many problems are told.
const TOLD: usize = 5;

/// Why `task` cannot run with `config`; nothing where nothing is wrong with what `is_asked` of its problems.
pub(super) fn refusal(
    task: &TaskName,
    kind: &OperatorKind,
    config: &Value,
    masks: &Masks,
    is_asked: impl Fn(&ConfigProblem) -> bool,
) -> Option<String> {
    let told: Vec<String> = rendered_problems(kind, config)
        .into_iter()
        .filter(is_asked)
        .take(TOLD)
        .map(|problem| match problem.path.split_first() {
            Some((key, _)) => format!("{}; it was given {}", of_key(key, &problem.message), given(config, key, masks)),
            None => problem.message,
        })
        .collect();
    (!told.is_empty()).then(|| format!("`{task}` cannot run with its values: {}", told.join("; ")))
}

/// A problem with its key, which some name by themselves.
fn of_key(key: &str, message: &str) -> String {
    let key = format!("`{key}`");
    if message.contains(&key) { message.to_owned() } else { format!("{key}: {message}") }
}

/// The value of a key, masked before it is cut.
fn given(config: &Value, key: &str, masks: &Masks) -> String {
    let text = config.get(key).map(Value::to_string).unwrap_or_default();
    let masked = masks.mask(&text);
    match masked.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &masked[..end]),
        None => masked.into_owned(),
    }
}
