//! The template engine as it is set up here: strict, bounded, without escaping, with Airflow's filters.

use std::sync::LazyLock;

use chrono::{DateTime, NaiveDate};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use crate::domain::template::values::Instant;

/// Steps that one template may take: the longest real ones take some thousand.
const FUEL: u64 = 2_000_000;

/// The longest text that a template may come to, in bytes: as large as a DAG file. Steps alone do not bound it, for text
/// can double with each.
pub(super) const LONGEST: usize = 10 * 1024 * 1024;

/// How deep macros may call each other; the engine's own limit overflows small stacks.
const DEEPEST: usize = 64;

pub(super) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST);
    environment.set_debug(true);
    environment.set_syntax(syntax());
    environment.set_unknown_method_callback(minijinja_python_methods);
    environment.add_filter("ds", |value: &Value| dated(value, "%Y-%m-%d"));
    environment.add_filter("ds_nodash", |value: &Value| dated(value, "%Y%m%d"));
    environment.add_filter("ts", |value: &Value| dated(value, "%Y-%m-%dT%H:%M:%S%:z"));
    environment.add_filter("ts_nodash", |value: &Value| dated(value, "%Y%m%dT%H%M%S"));
    environment.add_filter("ts_nodash_with_tz", |value: &Value| dated(value, "%Y%m%dT%H%M%S%z"));
    environment
});

/// Whether the engine has a filter of that name.
pub(super) fn has_filter(name: &str) -> bool {
    let found = ENVIRONMENT.empty_state().apply_filter(name, &[]);
    !found.is_err_and(|error| error.kind() == ErrorKind::UnknownFilter)
}

/// Whether the engine has a test of that name, as behind `is`.
pub(super) fn has_test(name: &str) -> bool {
    let found = ENVIRONMENT.empty_state().perform_test(name, &[]);
    !found.is_err_and(|error| error.kind() == ErrorKind::UnknownTest)
}

/// A block scalar keeps its last line break, as the file has it.
pub(super) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().keep_trailing_newline(true).build().expect("the delimiters are Jinja's own")
}

fn dated(value: &Value, format: &str) -> Result<String, Error> {
    instant(value).map(|at| at.format(format).to_string())
}

/// A date of a template, or text that is one.
fn instant(value: &Value) -> Result<DateTime<chrono::FixedOffset>, Error> {
    if let Some(instant) = value.downcast_object_ref::<Instant>() {
        return Ok(instant.0);
    }
    let text = value.as_str().unwrap_or_default();
    DateTime::parse_from_rfc3339(text)
        .ok()
        .or_else(|| {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            Some(date.and_time(chrono::NaiveTime::MIN).and_utc().fixed_offset())
        })
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("`{value}` is not a date")))
}

/// Refuses text that would be longer than [`LONGEST`].
fn bounded(length: usize) -> Result<(), Error> {
    if length <= LONGEST {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidOperation, format!("the text would be longer than {LONGEST} bytes")))
}

/// The methods of Python's `str`, `dict` and `list` that Airflow's templates use most.
fn minijinja_python_methods(
    _: &mut minijinja::State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let text_argument = |position: usize| {
        arguments
            .get(position)
            .and_then(Value::as_str)
            .ok_or_else(|| Error::new(ErrorKind::MissingArgument, format!("`{method}` takes text")))
    };
    if let Some(text) = value.as_str() {
        return match method {
            "upper" => Ok(text.to_uppercase().into()),
            "lower" => Ok(text.to_lowercase().into()),
            "strip" => Ok(text.trim().into()),
            "replace" => {
                let (from, to) = (text_argument(0)?, text_argument(1)?);
                bounded(text.len().saturating_add(text.matches(from).count().saturating_mul(to.len())))?;
                Ok(text.replace(from, to).into())
            }
            "startswith" => Ok(text.starts_with(text_argument(0)?).into()),
            "endswith" => Ok(text.ends_with(text_argument(0)?).into()),
            "split" if arguments.is_empty() => Ok(text.split_whitespace().map(Value::from).collect::<Vec<_>>().into()),
            "split" => Ok(text.split(text_argument(0)?).map(Value::from).collect::<Vec<_>>().into()),
            "join" => {
                let mut parts = Vec::new();
                let mut length = 0_usize;
                for part in arguments.first().unwrap_or(&Value::UNDEFINED).try_iter()? {
                    let part = part.to_string();
                    length = length.saturating_add(part.len() + text.len());
                    bounded(length)?;
                    parts.push(part);
                }
                Ok(parts.join(text).into())
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        };
    }
    match (value.kind(), method) {
        (minijinja::value::ValueKind::Map, "get") => {
            let found = value.get_item(arguments.first().unwrap_or(&Value::UNDEFINED))?;
            let default = arguments.get(1).cloned().unwrap_or(Value::from(()));
            Ok(if found.is_undefined() { default } else { found })
        }
        (minijinja::value::ValueKind::Map, "keys") => Ok(value.try_iter()?.collect::<Vec<_>>().into()),
        (minijinja::value::ValueKind::Map, "values") => {
            value.try_iter()?.map(|key| value.get_item(&key)).collect::<Result<Vec<_>, _>>().map(Value::from)
        }
        (minijinja::value::ValueKind::Map, "items") => value
            .try_iter()?
            .map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?])))
            .collect::<Result<Vec<_>, Error>>()
            .map(Value::from),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
