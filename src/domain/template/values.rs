//! The values behind Airflow's names.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, FixedOffset, NaiveDate, TimeDelta};
use minijinja::value::{Enumerator, Kwargs, Object, Serde, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value, context};

use crate::domain::Timestamp;
use crate::domain::ids::TaskId;
use crate::domain::mapping::Instance;
use crate::domain::template::Outputs;
use crate::domain::template::facts::RunFacts;

/// All names that the templates of a run as a whole see, but for variables and connections.
pub(super) fn of_run(facts: &RunFacts) -> Value {
    let instant = |at: Timestamp| Value::from_object(Instant(at.fixed_offset()));
    let logical_date = facts.logical_date;
    context! {
        ds => logical_date.format("%Y-%m-%d").to_string(),
        ds_nodash => logical_date.format("%Y%m%d").to_string(),
        ts => isoformat(&logical_date.fixed_offset()),
        ts_nodash => logical_date.format("%Y%m%dT%H%M%S").to_string(),
        ts_nodash_with_tz => logical_date.format("%Y%m%dT%H%M%S%z").to_string(),
        logical_date => instant(logical_date),
        data_interval_start => instant(facts.data_interval_start),
        data_interval_end => instant(facts.data_interval_end),
        run_id => facts.run_id.as_str(),
        run_uuid => facts.run_uuid.to_string(),
        dag => context! { dag_id => facts.dag_id.as_str() },
        dag_run => context! {
            dag_id => facts.dag_id.as_str(),
            run_id => facts.run_id.as_str(),
            logical_date => instant(logical_date),
            data_interval_start => instant(facts.data_interval_start),
            data_interval_end => instant(facts.data_interval_end),
            conf => Value::from(Serde(&facts.conf)),
        },
        params => Value::from(Serde(&facts.params)),
        macros => Value::from_object(Macros),
    }
}

/// All names that a task's templates see, but for variables and connections, which are looked up.
pub(super) fn of_task(facts: &RunFacts, task: &TaskId, operator: &str, try_number: i32, outputs: Outputs) -> Value {
    of_attempt(facts, task, operator, try_number, outputs, -1)
}

/// The same for an instance of a mapped task.
pub(super) fn of_instance(
    facts: &RunFacts,
    task: &TaskId,
    operator: &str,
    try_number: i32,
    outputs: Outputs,
    instance: &Instance,
) -> Value {
    context! {
        map_item => Value::from(Serde(&instance.item)),
        ..of_attempt(facts, task, operator, try_number, outputs, i64::from(instance.map_index))
    }
}

/// The names of one attempt; Airflow's `map_index` is -1 where the task is not mapped.
fn of_attempt(
    facts: &RunFacts,
    task: &TaskId,
    operator: &str,
    try_number: i32,
    outputs: Outputs,
    map_index: i64,
) -> Value {
    let outputs = Value::from_object(UpstreamOutputs(outputs));
    let instance = Value::from_object(TaskInstance {
        fields: context! {
            task_id => task.as_str(),
            dag_id => facts.dag_id.as_str(),
            run_id => facts.run_id.as_str(),
            try_number => try_number,
            map_index => map_index,
        },
        outputs: outputs.clone(),
    });
    context! {
        task => context! { task_id => task.as_str(), operator => operator },
        outputs => outputs,
        task_instance => instance.clone(),
        ti => instance,
        ..of_run(facts)
    }
}

/// The outputs of upstream tasks; each becomes a template's value when it is asked for.
#[derive(Debug)]
struct UpstreamOutputs(Outputs);

impl Object for UpstreamOutputs {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        of_path(&self.0, key.as_str()?)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|task| task.as_str().into()).collect())
    }
}

/// The output of a task, or, where no task has that id, those of the tasks of the group that has it: `outputs.group.task` is
/// `outputs['group.task']`.
fn of_path(outputs: &Outputs, id: &str) -> Option<Value> {
    if let Some((_, output)) = outputs.iter().find(|(task, _)| task.as_str() == id) {
        let value = output.in_templates();
        return Some(if value.is_undefined() { not_fetched(id) } else { value });
    }
    let prefix = format!("{id}.");
    let is_there = outputs.keys().any(|task| task.as_str().starts_with(&prefix));
    is_there.then(|| Value::from_object(GroupOutputs { prefix, outputs: outputs.clone() }))
}

/// In the place of an output that was not fetched: whatever is read of it says so.
fn not_fetched(task: &str) -> Value {
    let message = format!(
        "the output of `{task}` was not read before the template was rendered: name the task in the template, as \
         `outputs['{task}']`"
    );
    Value::from(refused(message))
}

/// The outputs of the tasks of a group.
#[derive(Debug)]
struct GroupOutputs {
    /// The group's id and a dot.
    prefix: String,
    outputs: Outputs,
}

impl Object for GroupOutputs {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        of_path(&self.outputs, &format!("{}{}", self.prefix, key.as_str()?))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let names = self.outputs.keys().filter_map(|task| task.as_str().strip_prefix(&self.prefix));
        Enumerator::Values(names.map(Value::from).collect())
    }
}

/// As Python's `datetime.isoformat` writes it: microseconds only where there are some.
fn isoformat(at: &DateTime<FixedOffset>) -> String {
    let format = if at.timestamp_subsec_micros() == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S%.6f%:z" };
    at.format(format).to_string()
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// A date as text. An unknown letter, or a part that the date does not have, is reported only while it is written, and
/// `to_string` would panic.
fn written(date: &impl fmt::Display, format: &str) -> Result<Value, Error> {
    let mut text = String::new();
    fmt::Write::write_fmt(&mut text, format_args!("{date}"))
        .map_err(|_| refused(format!("`{format}` is not a date format, or asks for what a date does not have")))?;
    Ok(text.into())
}

/// Years that dates may have: as in Python, and as RFC 3339 writes them.
fn has_common_year(date: &impl chrono::Datelike) -> bool {
    (1..=9999).contains(&date.year())
}

/// An instant with the parts and methods of Airflow's dates that templates use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instant(pub(super) DateTime<FixedOffset>);

impl Object for Instant {
    fn repr(self: &Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        use chrono::{Datelike, Timelike};
        Some(match key.as_str()? {
            "year" => self.0.year().into(),
            "month" => self.0.month().into(),
            "day" => self.0.day().into(),
            "hour" => self.0.hour().into(),
            "minute" => self.0.minute().into(),
            "second" => self.0.second().into(),
            "day_of_week" => self.0.weekday().num_days_from_monday().into(),
            "day_of_year" => self.0.ordinal().into(),
            _ => return None,
        })
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, arguments: &[Value]) -> Result<Value, Error> {
        match method {
            "strftime" | "format" => {
                let (format,): (String,) = from_args(arguments)?;
                written(&self.0.format(&format), &format)
            }
            "isoformat" => Ok(isoformat(&self.0).into()),
            "to_date_string" | "date" => Ok(self.0.format("%Y-%m-%d").to_string().into()),
            "timestamp" => Ok(self.0.timestamp().into()),
            "weekday" => Ok(chrono::Datelike::weekday(&self.0).num_days_from_monday().into()),
            "add" => self.moved(arguments, 1),
            "subtract" => self.moved(arguments, -1),
            "in_timezone" | "in_tz" => {
                let (name,): (String,) = from_args(arguments)?;
                let zone: chrono_tz::Tz =
                    name.parse().map_err(|_| refused(format!("there is no timezone `{name}`")))?;
                Ok(Value::from_object(Self(self.0.with_timezone(&zone).fixed_offset())))
            }
            _ => Err(Error::new(ErrorKind::UnknownMethod, format!("dates have no method `{method}`"))),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&isoformat(&self.0))
    }
}

impl Instant {
    fn moved(&self, arguments: &[Value], sign: i64) -> Result<Value, Error> {
        let (units,): (Kwargs,) = from_args(arguments)?;
        let mut by = TimeDelta::zero();
        for (name, seconds) in [("weeks", 604_800), ("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1)]
        {
            let amount = units.get::<Option<i64>>(name)?.unwrap_or(0);
            let step = amount.checked_mul(seconds * sign).and_then(TimeDelta::try_seconds);
            by = step.and_then(|step| by.checked_add(&step)).ok_or_else(|| refused("too far from now"))?;
        }
        units.assert_all_used()?;
        let moved = self.0.checked_add_signed(by).filter(has_common_year).ok_or_else(|| refused("too far from now"))?;
        Ok(Value::from_object(Self(moved)))
    }
}

/// Airflow's `ti`.
#[derive(Debug)]
struct TaskInstance {
    fields: Value,
    outputs: Value,
}

impl Object for TaskInstance {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.fields.get_item(key).ok().filter(|value| !value.is_undefined())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, arguments: &[Value]) -> Result<Value, Error> {
        if method != "xcom_pull" {
            return Err(Error::new(ErrorKind::UnknownMethod, format!("`ti` has no method `{method}`")));
        }
        let (position, named): (Option<Value>, Kwargs) = from_args(arguments)?;
        let tasks = position
            .or(named.get::<Option<Value>>("task_ids")?)
            .ok_or_else(|| Error::new(ErrorKind::MissingArgument, "`xcom_pull` needs `task_ids`"))?;
        let key = named.get::<Option<String>>("key")?;
        let map_indexes = named.get::<Option<Value>>("map_indexes")?.map(MapIndexes::try_from).transpose()?;
        named.assert_all_used()?;
        let key = key.as_deref();
        let one = |task: &str| match &map_indexes {
            None => Ok(vec![self.pull(task, key)?]),
            Some(MapIndexes::One(index)) => Ok(vec![self.pull_of(task, *index, key)?]),
            Some(MapIndexes::Several(indexes)) => indexes.iter().map(|index| self.pull_of(task, *index, key)).collect(),
        };
        let is_list = tasks.as_str().is_none() || matches!(map_indexes, Some(MapIndexes::Several(_)));
        let found: Vec<Value> = match tasks.as_str() {
            Some(task) => one(task)?,
            None => {
                let all = tasks.try_iter()?.map(|task| one(&task.to_string()));
                all.collect::<Result<Vec<_>, Error>>()?.concat()
            }
        };
        Ok(match is_list {
            true => Value::from(found),
            false => found.into_iter().next().unwrap_or_default(),
        })
    }
}

/// Airflow's `map_indexes`: whose outputs are pulled.
enum MapIndexes {
    One(i64),
    Several(Vec<i64>),
}

impl TryFrom<Value> for MapIndexes {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self, Error> {
        let wrong = || refused("`map_indexes` is a whole number, or a list of them");
        let whole = |value: &Value| match value.kind() {
            ValueKind::Number => i64::try_from(value.clone()).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
        match value.kind() {
            ValueKind::Number => whole(&value).map(Self::One),
            ValueKind::Seq | ValueKind::Iterable => {
                value.try_iter()?.map(|index| whole(&index)).collect::<Result<_, _>>().map(Self::Several)
            }
            _ => Err(wrong()),
        }
    }
}

impl TaskInstance {
    /// One key of a task's output; without a key its `return_value`, or else all of it.
    fn pull(&self, task: &str, key: Option<&str>) -> Result<Value, Error> {
        let output = self.output(task)?;
        if output.kind() == ValueKind::Seq {
            return of_instances(task, &output, key);
        }
        let found = output.get_attr(key.unwrap_or("return_value"))?;
        match (found.is_undefined(), key) {
            (false, _) => Ok(found),
            (true, None) => Ok(output),
            (true, Some(key)) => Err(refused(format!("the output of `{task}` has no key `{key}`"))),
        }
    }

    /// The same of one instance; none, as in Airflow, where it left nothing. A task that is not mapped is -1.
    fn pull_of(&self, task: &str, map_index: i64, key: Option<&str>) -> Result<Value, Error> {
        let none = || Ok(Value::from(()));
        let output = self.output(task)?;
        let known = self.outputs.downcast_object_ref::<UpstreamOutputs>();
        let known = known.and_then(|known| known.0.iter().find(|(id, _)| id.as_str() == task));
        let Some(indexes) = known.and_then(|(_, output)| output.map_indexes()) else {
            return if map_index == -1 { self.pull(task, key) } else { none() };
        };
        let place = u32::try_from(map_index).ok().and_then(|index| indexes.binary_search(&index).ok());
        let Some(place) = place else { return none() };
        let of_instance = output.get_item_by_index(place)?;
        let found = of_instance.get_attr(key.unwrap_or("return_value"))?;
        match (found.is_undefined(), key) {
            (false, _) => Ok(found),
            (true, None) => Ok(of_instance),
            (true, Some(_)) => none(),
        }
    }

    fn output(&self, task: &str) -> Result<Value, Error> {
        let output = self.outputs.get_attr(task)?;
        match output.is_undefined() {
            true => Err(refused(format!("the task `{task}` left no output"))),
            false => Ok(output),
        }
    }
}

/// The same of a mapped task: a list, as in Airflow, of what each instance has by that key.
fn of_instances(task: &str, outputs: &Value, key: Option<&str>) -> Result<Value, Error> {
    let mut found = Vec::new();
    for output in outputs.try_iter()? {
        match (output.get_attr(key.unwrap_or("return_value"))?, key) {
            (value, _) if !value.is_undefined() => found.push(value),
            (_, None) => found.push(output),
            (_, Some(_)) => {}
        }
    }
    match key {
        Some(key) if found.is_empty() && outputs.len() > Some(0) => {
            Err(refused(format!("the outputs of the instances of `{task}` have no key `{key}`")))
        }
        _ => Ok(Value::from(found)),
    }
}

/// Airflow's `macros`: those that are pure.
#[derive(Debug)]
struct Macros;

impl Object for Macros {
    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, arguments: &[Value]) -> Result<Value, Error> {
        let date = |text: &str, format: &str| {
            let parsed = NaiveDate::parse_from_str(text, format).ok().filter(has_common_year);
            parsed.ok_or_else(|| refused(format!("`{text}` is not a date")))
        };
        match method {
            "ds_add" => {
                let (ds, days): (String, i64) = from_args(arguments)?;
                let moved = TimeDelta::try_days(days)
                    .and_then(|days| date(&ds, "%Y-%m-%d").ok()?.checked_add_signed(days))
                    .filter(has_common_year);
                let moved =
                    moved.ok_or_else(|| refused(format!("`{ds}` is not a date, or {days} days lead too far")))?;
                Ok(moved.format("%Y-%m-%d").to_string().into())
            }
            "ds_format" => {
                let (ds, input, output): (String, String, String) = from_args(arguments)?;
                written(&date(&ds, &input)?.format(&output), &output)
            }
            _ => Err(Error::new(ErrorKind::UnknownMethod, format!("`macros` has no `{method}` here"))),
        }
    }
}
