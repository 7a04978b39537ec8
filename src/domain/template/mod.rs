//! Jinja templates with Airflow's names. Strict: an unknown name is an error, never an empty string. Bounded: a template
//! that does not end is stopped.

mod environment;
mod facts;
mod named;
pub(in crate::domain) mod names;
mod reads;
mod values;

pub use facts::RunFacts;
pub(in crate::domain) use named::CONNECTION_FIELDS;
pub use named::{Named, Wanted};
pub use reads::ReadOutputs;

use std::collections::BTreeMap;

use bytes::BufMut;
use minijinja::value::Serde;
use serde_json::{Map, Value};

use crate::domain::dag::Task;
use crate::domain::ids::TaskId;
use crate::domain::mapping::Instance;
use crate::domain::operator_kind::LateField;
use crate::domain::task_output::TaskOutput;
use environment::{ENVIRONMENT, LONGEST};

/// What the tasks upstream of a task left, by task.
pub type Outputs = BTreeMap<TaskId, TaskOutput>;

/// The values that a task's templates see.
#[derive(Debug, Clone)]
pub struct TemplateScope {
    values: minijinja::Value,
    named: Named,
}

/// A template that could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", where_in_config(.path))]
pub struct TemplateError {
    /// Where in a task's configuration, from its own mapping downwards; empty for a lone template.
    pub path: Vec<String>,
    /// What is wrong, with the name or line.
    pub message: String,
    /// Whether it may be rendered at another time: it names what other tasks leave, variables or connections, which may
    /// be there by then.
    pub may_pass: bool,
}

fn where_in_config(path: &[String]) -> String {
    if path.is_empty() { String::new() } else { format!("could not render `{}`: ", path.join(".")) }
}

impl TemplateScope {
    /// A scope with these variables; an object.
    #[must_use]
    pub fn new(values: Value) -> Self {
        Self { values: minijinja::Value::from(Serde(values)), named: Named::default() }
    }

    /// What a task of a run sees in that try; `outputs` are those of the tasks upstream of it that have ended.
    #[must_use]
    pub fn for_task(facts: &RunFacts, task: &Task, try_number: i32, outputs: Outputs) -> Self {
        let values = values::of_task(facts, &task.id, task.operator, try_number, outputs);
        Self { values, named: Named::default() }.with_named(Named::default())
    }

    /// The same for an instance of a mapped task: with `map_item`, what it has instead of the expanded keys, and
    /// `ti.map_index`.
    #[must_use]
    pub fn for_instance(facts: &RunFacts, task: &Task, try_number: i32, outputs: Outputs, instance: &Instance) -> Self {
        let values = values::of_instance(facts, &task.id, task.operator, try_number, outputs, instance);
        Self { values, named: Named::default() }.with_named(Named::default())
    }

    /// What a callback sees of a run, or of a task of it; `extra` are names beside those of the run, an object.
    #[must_use]
    pub fn for_callback(facts: &RunFacts, task: Option<&Task>, extra: Value) -> Self {
        let of_run = match task {
            Some(task) => {
                let try_number =
                    extra.get("try_number").and_then(Value::as_i64).and_then(|number| number.try_into().ok());
                values::of_task(facts, &task.id, task.operator, try_number.unwrap_or(1), Outputs::new())
            }
            None => values::of_run(facts),
        };
        let values = minijinja::value::merge_maps([of_run, minijinja::Value::from(Serde(extra))]);
        Self { values, named: Named::default() }.with_named(Named::default())
    }

    /// The same with these variables and connections, which were looked up for the templates that are rendered next.
    #[must_use]
    pub fn with_named(&self, named: Named) -> Self {
        // Of two with the same name the last one counts.
        let values = minijinja::value::merge_maps([self.values.clone(), named.clone().values()]);
        Self { values, named }
    }

    /// The same for a task that is known by its id and operator only.
    pub(in crate::domain) fn for_sample(facts: &RunFacts, task: &TaskId, operator: &str) -> Self {
        Self { values: values::of_task(facts, task, operator, 1, Outputs::new()), named: Named::default() }
    }

    /// Renders a template; `extra` are variables beside the scope's own.
    ///
    /// # Errors
    /// [`TemplateError`] says what is wrong with it; an unknown name is an error, never an empty string.
    pub fn render(&self, template: &str, extra: &[(&str, Value)]) -> Result<String, TemplateError> {
        let context = self.with(extra);
        // A loop over long text would otherwise fill the memory within few steps.
        let mut text = Vec::new().limit(LONGEST).writer();
        let rendered = ENVIRONMENT
            .template_from_str(template)
            .and_then(|template| template.render_captured_to(&context, &mut text).map(drop));
        let text = text.into_inner();
        let failed = |message, may_pass| TemplateError { path: Vec::new(), message, may_pass };
        match rendered {
            Ok(()) => String::from_utf8(text.into_inner()).map_err(|error| failed(error.to_string(), false)),
            Err(_) if text.remaining_mut() == 0 => Err(failed(format!("it comes to more than {LONGEST} bytes"), false)),
            Err(error) => {
                let may_pass = error.kind() != minijinja::ErrorKind::OutOfFuel && names_what_may_appear(template);
                Err(failed(self.explain(&error, template), may_pass))
            }
        }
    }

    /// Renders every string of a value, wherever it is from: a lone expression keeps its type.
    ///
    /// # Errors
    /// [`TemplateError`] has the path of the string; `key` is its beginning.
    pub fn render_at(&self, key: &str, value: &Value) -> Result<Value, TemplateError> {
        self.render_value(value, &mut key.split('.').map(ToOwned::to_owned).collect())
    }

    /// Renders every string of a task's configuration.
    ///
    /// A string that is exactly one `{{ expression }}` becomes the expression's value with its type: a number stays a
    /// number. The fields named by `late_fields` are left as they are: the operator renders those itself.
    ///
    /// # Errors
    /// [`TemplateError`] has the path of the string.
    pub fn render_config(&self, config: &Value, late_fields: &[LateField]) -> Result<Value, TemplateError> {
        let Value::Object(fields) = config else { return self.render_value(config, &mut Vec::new()) };
        let rendered = fields.iter().map(|(key, value)| {
            let is_late = late_fields.iter().any(|field| field.key == key);
            let value = if is_late { value.clone() } else { self.render_value(value, &mut vec![key.clone()])? };
            Ok((key.clone(), value))
        });
        rendered.collect::<Result<Map<_, _>, _>>().map(Value::Object)
    }

    fn render_value(&self, value: &Value, path: &mut Vec<String>) -> Result<Value, TemplateError> {
        match value {
            Value::String(text) if is_template(text) => {
                self.render_typed(text).map_err(|error| TemplateError { path: path.clone(), ..error })
            }
            Value::Array(items) => {
                let mut rendered = Vec::with_capacity(items.len());
                for (position, item) in items.iter().enumerate() {
                    path.push(position.to_string());
                    rendered.push(self.render_value(item, path)?);
                    path.pop();
                }
                Ok(Value::Array(rendered))
            }
            Value::Object(fields) => {
                let mut rendered = Map::new();
                for (key, field) in fields {
                    path.push(key.clone());
                    rendered.insert(key.clone(), self.render_value(field, path)?);
                    path.pop();
                }
                Ok(Value::Object(rendered))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(value.clone()),
        }
    }

    /// Renders one string, keeping the type of a lone expression.
    fn render_typed(&self, text: &str) -> Result<Value, TemplateError> {
        let Some(expression) = names::lone_expression(text) else {
            return self.render(text, &[]).map(Value::String);
        };
        let failed = |error: Option<&minijinja::Error>| TemplateError {
            path: Vec::new(),
            message: self.explain_expression(error, expression),
            may_pass: error.is_none_or(|error| error.kind() != minijinja::ErrorKind::OutOfFuel)
                && names_what_may_appear(text),
        };
        let evaluated = ENVIRONMENT.compile_expression(expression).and_then(|compiled| compiled.eval(&self.values));
        let value = evaluated.map_err(|error| failed(Some(&error)))?;
        if value.is_undefined() {
            return Err(failed(None));
        }
        // Dates and other things that JSON has not become the text that they show.
        if value.as_object().is_some_and(|object| object.is::<values::Instant>()) {
            return Ok(Value::String(value.to_string()));
        }
        serde_json::to_value(&value).map_err(|error| TemplateError {
            path: Vec::new(),
            message: error.to_string(),
            may_pass: false,
        })
    }

    /// An error in our words; where a variable or connection is not there, where it was looked for.
    fn explain(&self, error: &minijinja::Error, template: &str) -> String {
        let place = error.range().filter(|_| error.kind() == minijinja::ErrorKind::UndefinedError);
        let absence = place.and_then(|place| self.named.absence(template, &place));
        absence.map_or_else(|| explain(error, template), ToOwned::to_owned)
    }

    /// The same for an expression that is a template's all.
    fn explain_expression(&self, error: Option<&minijinja::Error>, expression: &str) -> String {
        let place = match error {
            Some(error) => error.range().filter(|_| error.kind() == minijinja::ErrorKind::UndefinedError),
            None => Some(0..expression.len()),
        };
        let within = |place: std::ops::Range<usize>| place.start + 2..place.end + 2;
        let absence = place.and_then(|place| self.named.absence(&format!("{{{{{expression}}}}}"), &within(place)));
        match (absence, error) {
            (Some(absence), _) => absence.to_owned(),
            (None, Some(error)) => explain(error, expression),
            (None, None) => format!("`{}` is not defined", expression.trim()),
        }
    }

    fn with(&self, extra: &[(&str, Value)]) -> minijinja::Value {
        if extra.is_empty() {
            return self.values.clone();
        }
        let extra: BTreeMap<String, minijinja::Value> =
            extra.iter().map(|(name, value)| ((*name).to_owned(), minijinja::Value::from(Serde(value)))).collect();
        minijinja::value::merge_maps([minijinja::Value::from(Serde(extra)), self.values.clone()])
    }
}

/// Whether a template names something that may be another at another time.
fn names_what_may_appear(template: &str) -> bool {
    let may_appear = |root: &str| matches!(root, "outputs" | "ti" | "task_instance" | "var" | "conn");
    let found = names::uses(template).map(|found| found.references).unwrap_or_default();
    found.iter().any(|reference| reference.path.first().is_some_and(|root| may_appear(root)))
}

/// Whether a string has anything to render.
pub(in crate::domain) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

/// An error of the template engine in our words: the name that is missing, rather than "undefined value".
fn explain(error: &minijinja::Error, template: &str) -> String {
    let place = error.range().and_then(|range| template.get(range));
    match (error.kind(), place) {
        (minijinja::ErrorKind::UndefinedError, Some(name)) if !name.trim().is_empty() => {
            format!("`{}` is not defined", name.trim_matches(|c: char| c.is_whitespace() || matches!(c, '{' | '}')))
        }
        (minijinja::ErrorKind::OutOfFuel, _) => "the template does too much work".to_owned(),
        (kind, _) => {
            let what = error.detail().map_or_else(|| kind.to_string(), ToOwned::to_owned);
            match error.line() {
                Some(line) if template.contains('\n') => format!("{what} (line {line} of the template)"),
                _ => what,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::task_output::InstanceOutput;

    fn scope() -> TemplateScope {
        let mut facts = RunFacts::sample("orders".parse().unwrap());
        facts.params = json!({"rows": 500, "user": "abc", "tags": ["a", "b"]}).as_object().unwrap().clone();
        let outputs = json!({"rows": 7, "return_value": "r", "topics": {"t.pin": {"produced": 3}}});
        let outputs = BTreeMap::from([("emulate".parse().unwrap(), outputs.as_object().unwrap().clone().into())]);
        TemplateScope {
            values: values::of_task(&facts, &"sink".parse().unwrap(), "sink", 2, outputs),
            named: Named::default(),
        }
    }

    #[test]
    fn airflows_names_are_there() {
        let text = "{{ ds }} {{ ds_nodash }} {{ ts }} {{ ts_nodash }} {{ logical_date }} {{ run_id }} {{ dag.dag_id }} \
                    {{ task.task_id }} {{ dag_run.run_id }} {{ params.user }} {{ data_interval_end | ds }} \
                    {{ macros.ds_add(ds, 2) }} {{ logical_date.strftime('%d/%m') }} {{ (logical_date | ts) }}";
        assert_eq!(
            scope().render(text, &[]).unwrap(),
            "2026-01-01 20260101 2026-01-01T00:00:00+00:00 20260101T000000 2026-01-01T00:00:00+00:00 \
             scheduled__2026-01-01T00:00:00+00:00 orders sink scheduled__2026-01-01T00:00:00+00:00 abc 2026-01-02 \
             2026-01-03 01/01 2026-01-01T00:00:00+00:00"
        );
    }

    #[test]
    fn outputs_are_reached_by_either_name() {
        let text = "{{ outputs.emulate.rows }} {{ ti.xcom_pull(task_ids='emulate', key='rows') }} \
                    {{ ti.xcom_pull('emulate') }} {{ outputs.emulate.topics['t.pin'].produced }} \
                    {{ ti.xcom_pull(task_ids=['emulate'], key='rows') | tojson }}";
        assert_eq!(scope().render(text, &[]).unwrap(), "7 7 r 3 [7]");
    }

    #[test]
    fn the_outputs_of_instances_are_pulled_by_their_indexes() {
        let left =
            [(0, json!({"return_value": "a", "rows": 1})), (2, json!({"return_value": "c"})), (3, json!({"rows": 4}))];
        let left = left.map(|(map_index, output)| InstanceOutput { map_index, output: TaskOutput::here(output) });
        let alone = json!({"return_value": "x"});
        let outputs = BTreeMap::from([
            ("each".parse().unwrap(), TaskOutput::each(left.to_vec())),
            ("alone".parse().unwrap(), TaskOutput::here(alone)),
        ]);
        let facts = RunFacts::sample("orders".parse().unwrap());
        let values = values::of_task(&facts, &"sink".parse().unwrap(), "sink", 1, outputs);
        let scope = TemplateScope { values, named: Named::default() };
        let pulled = |arguments: &str| {
            let config = json!({"all": format!("{{{{ ti.xcom_pull({arguments}) }}}}")});
            scope.render_config(&config, &[]).map(|config| config["all"].clone()).map_err(|error| error.to_string())
        };
        for (arguments, expected) in [
            ("task_ids='each', map_indexes=2", json!("c")),
            ("'each', map_indexes=[2, 0]", json!(["c", "a"])),
            ("'each', map_indexes=[0, 1, 9]", json!(["a", null, null])),
            ("'each', map_indexes=1", json!(null)),
            ("'each', map_indexes=-1", json!(null)),
            ("'each', map_indexes=3", json!({"rows": 4})),
            ("'each', key='rows', map_indexes=range(4)", json!([1, null, null, 4])),
            ("'each', map_indexes=none", json!(["a", "c", {"rows": 4}])),
            ("'each', map_indexes=ti.map_index + 1", json!("a")),
            ("['each', 'alone'], map_indexes=[0, -1]", json!(["a", null, null, "x"])),
            ("['each'], map_indexes=0", json!(["a"])),
            ("'alone', map_indexes=-1", json!("x")),
        ] {
            assert_eq!(pulled(arguments), Ok(expected), "{arguments}");
        }
        for wrong in ["'each', map_indexes='0'", "'each', map_indexes=true", "'each', map_indexes=[0.5]"] {
            let refused = pulled(wrong).unwrap_err();
            assert!(refused.ends_with("`map_indexes` is a whole number, or a list of them"), "{refused}");
        }
        assert!(pulled("'nobody', map_indexes=0").unwrap_err().contains("left no output"));
    }

    #[test]
    fn a_lone_expression_keeps_its_type() {
        let config = json!({"rows": "{{ params.rows }}", "both": "{{ params.rows }} rows", "list": ["{{ params.tags }}"],
            "late": "{{ table }}", "at": "{{ logical_date }}", "n": 3, "sum": "{{ params.rows + 1 }}"});
        let late = [LateField { key: "late", variables: &["table"] }];
        assert_eq!(
            scope().render_config(&config, &late).unwrap(),
            json!({"rows": 500, "both": "500 rows", "list": [["a", "b"]], "late": "{{ table }}",
                "at": "2026-01-01T00:00:00+00:00", "n": 3, "sum": 501})
        );
    }

    #[test]
    fn what_is_undefined_is_named_with_its_key() {
        let error = scope().render_config(&json!({"a": {"b": ["x", "{{ params.rwos }}"]}}), &[]).unwrap_err();
        assert_eq!(error.to_string(), "could not render `a.b.1`: `params.rwos` is not defined");
        let error = scope().render("x {{ nothing }} y", &[]).unwrap_err();
        assert_eq!(error.to_string(), "`nothing` is not defined");
        assert_eq!(scope().render("{{ table }}", &[("table", json!("pin"))]).unwrap(), "pin");
    }

    #[test]
    fn nothing_is_escaped_and_endless_work_is_stopped() {
        assert_eq!(scope().render("{{ '<&>' }}", &[]).unwrap(), "<&>");
        assert_eq!(scope().render("${{ '{#' }}name}", &[]).unwrap(), "${#name}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        assert_eq!(scope().render(endless, &[]).unwrap_err().to_string(), "the template does too much work");
    }

    #[test]
    fn text_that_grows_without_end_is_stopped() {
        let doubled = |step: &str| format!("{{% set a = 'x' * 64 %}}{}{{{{ a }}}}", step.repeat(40));
        for template in [
            doubled("{% set a = a.replace('x', 'xx') %}"),
            doubled("{% set a = a.join([a, a]) %}"),
            "{% set a = 'x' * 1000000 %}{% for i in range(9999) %}{{ a }}{% endfor %}".to_owned(),
        ] {
            let message = scope().render(&template, &[]).unwrap_err().to_string();
            assert!(message.contains("10485760 bytes"), "{message}");
        }
    }

    #[test]
    fn dates_that_cannot_be_written_are_errors() {
        for (expression, words) in [
            ("macros.ds_format(ds, '%Y-%m-%d', '%Y%m%dT%H%M%S')", "what a date does not have"),
            ("macros.ds_format(ds, '%Y-%m-%d', '%Q')", "is not a date format"),
            ("logical_date.strftime('%Q')", "is not a date format"),
            ("logical_date.add(days=90000000)", "too far from now"),
            ("macros.ds_add('+262142-12-31', 1)", "is not a date"),
        ] {
            let message = scope().render(&format!("{{{{ {expression} }}}}"), &[]).unwrap_err().to_string();
            assert!(message.contains(words), "{expression}: {message}");
        }
    }
}
