//! Whose outputs templates read, found without rendering them: what is in object storage is fetched before.

use serde_json::Value;

use crate::domain::ids::TaskId;
use crate::domain::template::is_template;
use crate::domain::template::names::uses;

/// The outputs that templates read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOutputs {
    /// Some name is known only when they are rendered: it may be any.
    any: bool,
    /// What stands behind `outputs`, with dots between: a task, a group, or one of them with what is read of it.
    paths: Vec<String>,
}

impl ReadOutputs {
    /// Those of all templates in a value.
    #[must_use]
    pub fn in_config(config: &Value) -> Self {
        let mut read = Self::default();
        read.add(config);
        read
    }

    /// Whether they may read what that task left.
    #[must_use]
    pub fn has(&self, task: &TaskId) -> bool {
        self.any || self.paths.iter().any(|path| begins(path, task.as_str()) || begins(task.as_str(), path))
    }

    fn add(&mut self, config: &Value) {
        match config {
            Value::String(text) => self.add_text(text),
            Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            Value::Object(fields) => fields.values().for_each(|field| self.add(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn add_text(&mut self, text: &str) {
        // Most templates name neither, and parsing costs more than this look.
        if !is_template(text) || !["outputs", "ti", "task_instance"].iter().any(|root| text.contains(root)) {
            return;
        }
        let Ok(found) = uses(text) else { return }; // rendering it says what is wrong with it
        for reference in found.references {
            match reference.path.split_first() {
                // A method takes names that only the rendering knows, and so does `outputs[name]`.
                Some((root, names)) if root == "outputs" => match names.is_empty() || reference.is_called {
                    true => self.any = true,
                    false => self.paths.push(names.join(".")),
                },
                // By another name it may pull whatever it likes; what stands with the pull itself is found there.
                Some((root, [])) if matches!(root.as_str(), "ti" | "task_instance") => {
                    self.any |= text.get(reference.range) == Some(root.as_str());
                }
                _ => {}
            }
        }
    }
}

/// Whether a path begins with another, by whole names.
fn begins(path: &str, with: &str) -> bool {
    path.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_is_read_however_it_is_named_and_others_are_not() {
        let reads = |template: &str, task: &str| ReadOutputs::in_config(&json!([template])).has(&task.parse().unwrap());
        for template in [
            "{{ outputs['group.task'].x }}",
            "{{ outputs.group.task.x }}",
            "{{ outputs.group['task'].x }}",
            "{{ outputs['group'].task }}",
            "{{ outputs.group[params.name] }}",
            "{{ outputs[params.source].x }}",
            "{% for id in outputs %}{{ outputs[id].x }}{% endfor %}",
            "{% set all = outputs %}{{ all.group }}",
            "{{ outputs.get(params.source) }}",
            "{{ ti.xcom_pull('group.task') }}",
            "{{ ti.xcom_pull(task_ids=['other', 'group.task'], key='x') }}",
            "{{ ti.xcom_pull(params.source) }}",
            "{{ ti.xcom_pull(task_ids=['a' ~ 'b']) }}",
            "{{ task_instance.xcom_pull(**params.which) }}",
            "{% set me = ti %}{{ me.xcom_pull('group.task') }}",
        ] {
            assert!(reads(template, "group.task"), "{template}");
        }
        for template in [
            "outputs.group.task",
            "{{ outputs.group.task_2 }}",
            "{{ outputs.other.group.task }}",
            "{{ ti.xcom_pull('other', key='group.task') }}",
            "{{ ti.xcom_pull(task_ids=['other']) }} {{ ti.task_id }} {{ params.outputs }} group.task",
        ] {
            assert!(!reads(template, "group.task"), "{template}");
        }
    }
}
