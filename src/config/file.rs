//! Reads `pinsched.toml` into text values with their lines. Unknown keys are problems, all of them told at once.

use std::path::Path;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::keys::{KEYS, TABLES};
use super::values::Origin;
use crate::domain::diagnostic::closest;

/// A value as it was typed, under its dotted name.
#[derive(Debug)]
pub(super) struct Typed {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// All values of the file, or everything that is wrong with it.
pub(super) fn parse(path: &Path, content: &str) -> Result<Vec<Typed>, Vec<Problem>> {
    let mut reader = Reader { path, content, found: Vec::new(), problems: Vec::new() };
    match DeTable::parse(content) {
        Ok(table) => reader.table("", table.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reader.problem(at, error.message().to_owned(), None);
        }
    }
    // The parser keeps tables in the order of their names; people read files from above.
    reader.problems.sort_by_key(|problem| match problem.origin {
        Origin::File { line, .. } => line,
        _ => 0,
    });
    if reader.problems.is_empty() { Ok(reader.found) } else { Err(reader.problems) }
}

struct Reader<'a> {
    path: &'a Path,
    content: &'a str,
    found: Vec<Typed>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name =
                if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            self.entry(&name, key.span().start, value);
        }
    }

    fn entry(&mut self, name: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let section = |of: &str| of.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        if let Some(open) = TABLES.iter().find(|table| table.name == name) {
            self.open_table(open.name, at, value);
        } else if KEYS.iter().any(|key| key.name == name) {
            self.scalar(name.to_owned(), at, value);
        } else if KEYS.iter().any(|key| section(key.name)) || TABLES.iter().any(|table| section(table.name)) {
            match value.get_ref().as_table() {
                Some(table) => self.table(name, table),
                None => self.problem(at, format!("`{name}` is a section, not a value"), Some(format!("[{name}]"))),
            }
        } else {
            let near = closest(name, KEYS.iter().map(|key| key.name));
            let help = near.map(|near| format!("did you mean `{near}`?"));
            self.problem(at, format!("unknown setting `{name}`"), help);
        }
    }

    /// A table whose keys are the user's; dotted keys, which TOML nests, are one name again.
    fn open_table(&mut self, name: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let Some(table) = value.get_ref().as_table() else {
            return self.problem(at, format!("`{name}` is a section, not a value"), Some(format!("[{name}]")));
        };
        for (key, value) in table {
            let name = format!("{name}.{}", key.get_ref());
            if name.starts_with("connections.") && is_connection(value.get_ref()) {
                let text = json(value.get_ref()).to_string();
                let origin = self.origin(key.span().start);
                self.found.push(Typed { name, text, origin });
            } else if value.get_ref().is_table() {
                self.open_table(&name, key.span().start, value);
            } else {
                self.scalar(name, key.span().start, value);
            }
        }
    }

    fn scalar(&mut self, name: String, at: usize, value: &Spanned<DeValue<'_>>) {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            other => {
                let message = format!("`{name}` takes a single value, and this is of type {}", other.type_str());
                return self.problem(at, message, None);
            }
        };
        let origin = self.origin(at);
        self.found.push(Typed { name, text, origin });
    }

    fn problem(&mut self, at: usize, message: String, help: Option<String>) {
        let origin = self.origin(at);
        self.problems.push(Problem { origin, message, help });
    }

    fn origin(&self, at: usize) -> Origin {
        let line = self.content.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        Origin::File { path: self.path.to_owned(), line }
    }
}

/// Whether a table is one connection, rather than several whose names have a dot.
fn is_connection(value: &DeValue<'_>) -> bool {
    value.as_table().is_some_and(|table| table.iter().any(|(key, _)| key.get_ref() == "conn_type"))
}

/// The same in JSON, which is Airflow's form of a connection.
fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(truth) => Value::from(*truth),
        DeValue::Integer(number) => number.as_str().parse::<i64>().map_or(Value::Null, Value::from),
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let fields = table.iter().map(|(key, field)| (key.get_ref().to_string(), json(field.get_ref())));
            Value::Object(fields.collect())
        }
    }
}
