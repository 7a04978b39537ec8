//! The templates in tasks' configuration: their syntax, their names, and what the operator says of what they render to.

use serde_json::Value;

use crate::domain::check::graph::Order;
use crate::domain::check::mapping;
use crate::domain::check::tasks::{CheckedTask, CheckedTasks};
use crate::domain::diagnostic::{Code, Diagnostic, closest, listed};
use crate::domain::ids::TaskId;
use crate::domain::masking::is_secret_name;
use crate::domain::source::Span;
use crate::domain::spec::{DagSpec, Problems, output_of};
use crate::domain::template::names::{Reference, uses};
use crate::domain::template::{CONNECTION_FIELDS, RunFacts, TemplateScope, is_template};
use crate::domain::yaml::{Entry, Node, NodeKind};

/// The names of templates, with the attributes of those that have a fixed set.
pub(super) const NAMES: [(&str, Option<&[&str]>); 22] = [
    ("ds", None),
    ("ds_nodash", None),
    ("ts", None),
    ("ts_nodash", None),
    ("ts_nodash_with_tz", None),
    ("logical_date", None),
    ("data_interval_start", None),
    ("data_interval_end", None),
    ("run_id", None),
    ("run_uuid", None),
    ("dag", Some(&["dag_id"])),
    ("task", Some(&["task_id", "operator"])),
    ("dag_run", Some(&["dag_id", "run_id", "logical_date", "data_interval_start", "data_interval_end", "conf"])),
    ("ti", Some(&["task_id", "dag_id", "run_id", "map_index", "try_number", "xcom_pull"])),
    ("task_instance", Some(&["task_id", "dag_id", "run_id", "map_index", "try_number", "xcom_pull"])),
    ("map_item", None),
    ("params", None),
    ("outputs", None),
    ("var", Some(&["value", "json"])),
    ("conn", None),
    ("macros", Some(&["ds_add", "ds_format"])),
    ("loop", None),
];

/// Functions that the template engine brings.
pub(super) const FUNCTIONS: [&str; 6] = ["range", "dict", "debug", "namespace", "self", "super"];

/// Names whose values are there only when a run is: a key that uses them cannot be tried out.
const KNOWN_AT_RUN_TIME: [&str; 6] = ["outputs", "ti", "task_instance", "map_item", "var", "conn"];

pub(super) fn check(spec: &DagSpec, tasks: &CheckedTasks<'_>, order: &Order, problems: &mut Problems<'_>) {
    let Ok(dag_id) = spec.id.text.parse() else { return };
    let mut facts = RunFacts::sample(dag_id);
    if let Some(params) = &spec.keys.params {
        facts.params.clone_from(&params.value.defaults);
    }
    let mut checker = Checker { params: &facts.params, tasks, place: Place::Task, outputs: Vec::new() };
    for (position, task) in tasks.checked.iter().enumerate() {
        let errors_before = problems.errors();
        let mut at_run_time = Vec::new();
        checker.check_mapping(position, task, problems);
        for entry in task.config.as_mapping().into_iter().flatten() {
            let late = late_variables(task, &entry.key.text);
            if checker.value(position, &entry.value, late, problems) {
                at_run_time.push(entry.key.text.as_str());
            }
        }
        if task.fits && problems.errors() == errors_before {
            try_out(task, &facts, &at_run_time, problems);
        }
    }
    checker.report_outputs(order, problems);
}

struct Checker<'c, 's> {
    params: &'c serde_json::Map<String, Value>,
    tasks: &'c CheckedTasks<'s>,
    /// What is checked now.
    place: Place,
    /// Which task uses which other's output, and where it says so.
    outputs: Vec<(usize, usize, Span)>,
}

/// Where a template stands, as far as mapped tasks are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In a task that is not mapped.
    Task,
    /// In what a mapped task is expanded over: there are no instances yet.
    Expansion,
    /// In a key of all instances; with the keys that each has for itself, where they are known.
    Instance(Option<Vec<String>>),
}

impl Checker<'_, '_> {
    /// Checks the templates that make the instances of a mapped task, and goes on within these.
    fn check_mapping(&mut self, position: usize, task: &CheckedTask<'_>, problems: &mut Problems<'_>) {
        self.place = Place::Task;
        if !mapping::is_mapped(task.spec) {
            return;
        }
        self.place = Place::Expansion;
        for node in mapping::nodes(task.spec) {
            match node.as_text().and_then(output_of) {
                Some(other) => match self.tasks.position(other) {
                    Some(other) => self.outputs.push((position, other, node.span)),
                    None => {
                        let problem = self.unknown_output(other, node.span, problems);
                        problems.add(problem);
                    }
                },
                None => {
                    self.value(position, node, &[], problems);
                }
            }
        }
        let keys = mapping::expanded_keys(task.spec);
        self.place =
            Place::Instance(mapping::keys_are_known(task.spec).then(|| keys.iter().map(ToString::to_string).collect()));
        if let Some(label) = &task.spec.keys.map_index_template {
            let node = Node { span: label.span, kind: NodeKind::Text(label.value.clone()) };
            self.value(position, &node, &keys, problems);
        }
    }

    /// What mapped tasks alone have, or do not have.
    fn of_mapped(&self, path: &[&str], span: Span) -> Option<Diagnostic> {
        let refuse = |message: String| Some(Diagnostic::error(Code::UnknownTemplateName, span, message));
        match (path, &self.place) {
            (["map_item", ..], Place::Task) => Some(
                refuse("`map_item` is there in mapped tasks only".to_owned())?
                    .help("a task is mapped by `expand` or `expand_kwargs`"),
            ),
            (["map_item", ..] | ["ti" | "task_instance", "map_index"], Place::Expansion) => {
                refuse("there are no instances yet when this is rendered: it is what they are made of".to_owned())
            }
            (["conn", ..], Place::Expansion) => Some(
                refuse("a connection cannot be expanded over: the values are kept in the database".to_owned())?
                    .help("name the connection in another key; `map_item` says there which instance it is"),
            ),
            (["var", _, name, ..], Place::Expansion) if is_secret_name(name) => Some(
                refuse(format!(
                    "`{name}` is a secret's name, and cannot be expanded over: the values are kept in the database"
                ))?
                .help("name the variable in another key; `map_item` says there which instance it is"),
            ),
            (["map_item", key, ..], Place::Instance(Some(keys))) if !keys.iter().any(|known| known == key) => {
                Some(refuse(format!("the instances have no `{key}` of their own"))?.did_you_mean(
                    key,
                    keys.iter().map(String::as_str),
                    || Some(format!("`map_item` has {}", listed(keys.iter().map(String::as_str)))),
                ))
            }
            _ => None,
        }
    }

    /// Checks the templates in a value; whether one of them needs what only a run has.
    fn value(&mut self, task: usize, node: &Node, late: &[&str], problems: &mut Problems<'_>) -> bool {
        match &node.kind {
            NodeKind::Text(text) if is_template(text) => self.template(task, node, text, late, problems),
            NodeKind::List(items) => {
                items.iter().fold(false, |found, item| self.value(task, item, late, problems) | found)
            }
            NodeKind::Mapping(entries) => {
                entries.iter().fold(false, |found, entry| self.value(task, &entry.value, late, problems) | found)
            }
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => false,
        }
    }

    fn template(&mut self, task: usize, node: &Node, text: &str, late: &[&str], problems: &mut Problems<'_>) -> bool {
        let Some(references) = references(node, text, problems) else { return false };
        let mut at_run_time = false;
        for reference in &references {
            let root = reference.path[0].as_str();
            at_run_time |= KNOWN_AT_RUN_TIME.contains(&root);
            at_run_time |= root == "dag_run" && reference.path.get(1).is_none_or(|name| name == "conf");
            // A param without a default gets its value when somebody triggers the run.
            at_run_time |= root == "params"
                && if reference.is_called {
                    self.params.values().any(Value::is_null)
                } else {
                    reference.path.get(1).is_some_and(|name| self.params.get(name).is_some_and(Value::is_null))
                };
            let span = problems.span_within(node, reference.range.clone());
            if let Some(problem) = self.reference(task, reference, span, late, problems) {
                problems.add(problem);
            }
        }
        at_run_time
    }

    fn reference(
        &mut self,
        task: usize,
        reference: &Reference,
        span: Span,
        late: &[&str],
        problems: &mut Problems<'_>,
    ) -> Option<Diagnostic> {
        let mut path: Vec<&str> = reference.path.iter().map(String::as_str).collect();
        // `params.get('rows')` calls a method of the mapping: it names no param `get`.
        let is_method =
            matches!(path.as_slice(), ["params" | "outputs" | "var" | "conn", _, ..] | ["dag_run", "conf", _, ..]);
        if reference.is_called && is_method {
            path.pop();
        }
        if let Some(problem) = self.of_mapped(&path, span) {
            return Some(problem);
        }
        match path.as_slice() {
            [name, ..] if late.contains(name) || FUNCTIONS.contains(name) => None,
            ["params", name, ..] if !self.params.contains_key(*name) && !reference.is_guarded => {
                let names = || self.params.keys().map(String::as_str);
                Some(
                    Diagnostic::error(Code::UnknownParam, span, format!("the DAG has no param `{name}`")).did_you_mean(
                        name,
                        names(),
                        || Some(format!("declare it with a default under the DAG's `params`: {name}: …")),
                    ),
                )
            }
            // `outputs.group.task` is a task of that group, where no task has the group's id.
            ["outputs", names @ ..] if !names.is_empty() => {
                match (1..=names.len()).find_map(|length| self.tasks.position(&names[..length].join("."))) {
                    Some(position) => {
                        self.outputs.push((task, position, span));
                        None
                    }
                    None => Some(self.unknown_output(names[0], span, problems)),
                }
            }
            ["dag_run", "conf", ..] => None, // what a trigger gives, nobody knows before
            ["var", "value" | "json", _, ..] | ["conn", _] => None,
            ["var"] | ["var", "value" | "json"] => Some(not_written_out("variable", span)),
            ["conn"] => Some(not_written_out("connection", span)),
            ["conn", id, field, ..] if !reference.is_guarded && !CONNECTION_FIELDS.contains(field) => Some(
                Diagnostic::error(Code::UnknownTemplateName, span, format!("connections have no `{field}`"))
                    .did_you_mean(field, CONNECTION_FIELDS, || {
                        Some(format!("as `conn.{id}.host`; what `extra` holds is `conn.{id}.extra_dejson.{field}`"))
                    }),
            ),
            ["conn", _, ..] => None,
            [name, rest @ ..] => match NAMES.iter().find(|(known, _)| known == name) {
                None if reference.is_guarded => None,
                None => Some(unknown_name(name, span, late)),
                Some((_, Some(attributes))) => {
                    let first = rest.first().filter(|first| !attributes.contains(first))?;
                    Some(
                        Diagnostic::error(Code::UnknownTemplateName, span, format!("`{name}` has no `{first}`"))
                            .did_you_mean(first, attributes.iter().copied(), || {
                                Some(format!("it has {}", listed(attributes.iter().copied())))
                            }),
                    )
                }
                Some((_, None)) => None,
            },
            [] => None,
        }
    }

    fn unknown_output(&self, other: &str, span: Span, problems: &mut Problems<'_>) -> Diagnostic {
        let message = format!("there is no task `{other}` whose output this could be");
        let compared = problems.comparable(self.tasks.checked.len());
        let of_group =
            || self.tasks.checked.iter().filter(|task| task.spec.label == other).map(|task| &task.spec.id.text);
        if let (Some(id), None) = (of_group().next(), of_group().nth(1)) {
            let help = format!("a task in a group has the group's name before its own: `outputs.{id}`");
            return Diagnostic::error(Code::OutputOfUnknownTask, span, message).help(help);
        }
        Diagnostic::error(Code::OutputOfUnknownTask, span, message).did_you_mean(
            other,
            self.tasks.ids().take(compared),
            || None,
        )
    }

    /// Another task's output is there when that task ended before this one begins: this one has to wait for it.
    fn report_outputs(&self, order: &Order, problems: &mut Problems<'_>) {
        let asked: Vec<(usize, usize)> = self.outputs.iter().map(|(task, other, _)| (*task, *other)).collect();
        let waits = order.waits(self.tasks, &asked);
        for ((task, other, span), waits) in self.outputs.iter().zip(waits) {
            if waits {
                continue;
            }
            let id = |position: usize| &self.tasks.checked[position].spec.id.text;
            let (me, other_id) = (id(*task), id(*other));
            let message = format!("`{me}` uses the output of `{other_id}`, but does not wait for it");
            let help = if task == other {
                "a task's output is there when it has ended; other tasks can use it".to_owned()
            } else {
                format!("add `{other_id}` to the `dependencies` of `{me}`, or of a task that it waits for")
            };
            problems.add(Diagnostic::error(Code::OutputNotUpstream, *span, message).help(help));
        }
    }
}

/// The names that a template uses. What is wrong with the template itself is reported; nothing for one that cannot be read.
pub(super) fn references(node: &Node, text: &str, problems: &mut Problems<'_>) -> Option<Vec<Reference>> {
    let found = match uses(text) {
        Ok(found) => found,
        Err(problem) => {
            let span = problems.span_within(node, problem.range);
            let message = format!("this template cannot be read: {}", problem.message);
            let mut diagnostic = Diagnostic::error(Code::TemplateSyntax, span, message);
            diagnostic.help = problem.help.map(ToOwned::to_owned);
            problems.add(diagnostic);
            return None;
        }
    };
    for mistake in found.mistakes {
        let span = problems.span_within(node, mistake.range);
        let mut diagnostic = Diagnostic::error(mistake.code, span, mistake.message);
        diagnostic.help = mistake.help;
        problems.add(diagnostic);
    }
    Some(found.references)
}

/// Variables and connections are looked up before a template is rendered: it has to say which.
pub(super) fn not_written_out(what: &str, span: Span) -> Diagnostic {
    let message = format!("the {what}'s name is not written out: it has to be known before the template is rendered");
    let help = match what {
        "variable" => "as `{{ var.value.bucket }}` or `{{ var.value.get('bucket', 'a default') }}`",
        _ => "as `{{ conn.lake.host }}` or `{{ conn.get('lake') }}`",
    };
    Diagnostic::error(Code::UnknownTemplateName, span, message).help(help)
}

pub(super) fn unknown_name(name: &str, span: Span, late: &[&str]) -> Diagnostic {
    let problem = Diagnostic::error(Code::UnknownTemplateName, span, format!("templates have no name `{name}`"));
    let instead = match name {
        "execution_date" | "next_execution_date" => Some("Airflow 3 calls it `logical_date`"),
        "next_ds" | "tomorrow_ds" => Some("`data_interval_end | ds` is the day after"),
        "prev_ds" | "yesterday_ds" => Some("`macros.ds_add(ds, -1)` is the day before"),
        _ => None,
    };
    if let Some(instead) = instead {
        return problem.help(instead);
    }
    let names = || NAMES.iter().map(|(known, _)| *known).filter(|known| *known != "loop").chain(late.iter().copied());
    match closest(name, names()) {
        Some(close) => problem.help(format!("did you mean `{close}`?")),
        None => problem.help(format!("there are {}", listed(names()))),
    }
}

/// The variables that an operator fills in itself, for one of its keys.
fn late_variables(task: &CheckedTask<'_>, key: &str) -> &'static [&'static str] {
    let fields = task.operator.as_ref().map_or(&[][..], |operator| operator.kind.late_fields);
    fields.iter().find(|field| field.key == key).map_or(&[], |field| field.variables)
}

/// Renders a task's configuration with the DAG's defaults and lets the operator look at it; the keys `at_run_time` are
/// left as they are, and the operator's own check waits for them.
fn try_out(task: &CheckedTask<'_>, facts: &RunFacts, at_run_time: &[&str], problems: &mut Problems<'_>) {
    let (Some(operator), Ok(id)) = (&task.operator, task.spec.id.text.parse::<TaskId>()) else { return };
    let mut config = task.config.to_json();
    if let Value::Object(fields) = &mut config {
        fields.retain(|key, _| !at_run_time.contains(&key.as_str()));
    }
    let scope = TemplateScope::for_sample(facts, &id, operator.kind.name);
    let rendered = match scope.render_config(&config, operator.kind.late_fields) {
        Ok(rendered) => rendered,
        Err(error) => {
            let span = task.config.span_at(&error.path);
            let message = format!("this template cannot be rendered: {}", error.message);
            problems.add(Diagnostic::error(Code::TemplateFails, span, message));
            return;
        }
    };
    let as_rendered = as_rendered(&task.config, &rendered);
    let found = mapping::mismatches_of_rest(task.spec, operator, &as_rendered, operator.kind.name, task.spec.id.span);
    if !found.is_empty() {
        for problem in found {
            let became = "that is what the template comes to with the DAG's own params";
            problems.add(if problem.help.is_none() { problem.help(became) } else { problem });
        }
        return;
    }
    // What an operator says of one key may follow from another.
    if !at_run_time.is_empty() {
        return;
    }
    if mapping::is_mapped(task.spec) {
        mapping::try_values(task.spec, operator, &rendered, problems);
        return;
    }
    for problem in (operator.kind.check)(&rendered) {
        let span = task.config.span_at(&problem.path);
        let mut diagnostic = Diagnostic::error(Code::BadConfig, span, problem.message);
        diagnostic.help = problem.help;
        problems.add(diagnostic);
    }
}

/// A configuration with the values that its templates came to, each in its template's place.
fn as_rendered(node: &Node, rendered: &Value) -> Node {
    let kind = match (&node.kind, rendered) {
        (NodeKind::Mapping(entries), Value::Object(fields)) => {
            let field = |entry: &Entry| Entry {
                key: entry.key.clone(),
                value: fields
                    .get(&entry.key.text)
                    .map_or_else(|| entry.value.clone(), |value| as_rendered(&entry.value, value)),
            };
            NodeKind::Mapping(entries.iter().map(field).collect())
        }
        (NodeKind::List(items), Value::Array(values)) => {
            NodeKind::List(items.iter().zip(values).map(|(item, value)| as_rendered(item, value)).collect())
        }
        (NodeKind::Text(text), value) if is_template(text) => return Node::from_json(value, node.span),
        (kind, _) => kind.clone(),
    };
    Node { span: node.span, kind }
}
