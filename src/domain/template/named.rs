//! Variables and connections in templates: which ones a template asks for, and what it sees of those that were found.
//!
//! They are looked up before a template is rendered, only those that it names: `var.value.bucket`,
//! `var.json.limits.rows`, `conn.lake.host`, `var.value.get('bucket', 'a default')`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr, Serde, from_args};
use minijinja::{Error, ErrorKind, State, Value, context};
use secrecy::{ExposeSecret, SecretString};

use crate::domain::connection::Connection;
use crate::domain::template::is_template;
use crate::domain::template::names::{Reference, uses};

/// What a connection has for templates, as in Airflow.
pub(in crate::domain) const CONNECTION_FIELDS: [&str; 12] = [
    "conn_id",
    "conn_type",
    "description",
    "extra",
    "extra_dejson",
    "get_uri",
    "host",
    "id",
    "login",
    "password",
    "port",
    "schema",
];

/// The names that templates ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Variables.
    pub variables: BTreeSet<String>,
    /// Connections.
    pub connections: BTreeSet<String>,
}

impl Wanted {
    /// Those of all templates in a task's configuration.
    #[must_use]
    pub fn in_config(config: &serde_json::Value) -> Self {
        let mut wanted = Self::default();
        wanted.add_config(config);
        wanted
    }

    /// Those of one template.
    #[must_use]
    pub fn in_text(text: &str) -> Self {
        let mut wanted = Self::default();
        wanted.add_text(text);
        wanted
    }

    /// Those too.
    pub fn extend(&mut self, others: &Self) {
        self.variables.extend(others.variables.iter().cloned());
        self.connections.extend(others.connections.iter().cloned());
    }

    /// Whether nothing has to be looked up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty() && self.connections.is_empty()
    }

    fn add_config(&mut self, config: &serde_json::Value) {
        match config {
            serde_json::Value::String(text) => self.add_text(text),
            serde_json::Value::Array(items) => items.iter().for_each(|item| self.add_config(item)),
            serde_json::Value::Object(fields) => fields.values().for_each(|field| self.add_config(field)),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }

    fn add_text(&mut self, text: &str) {
        // Most templates name neither, and parsing costs more than this look.
        if !is_template(text) || !(text.contains("var") || text.contains("conn")) {
            return;
        }
        let Ok(found) = uses(text) else { return }; // rendering it says what is wrong with it
        for reference in found.references {
            match reference.path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["var", "value" | "json", name, ..] => {
                    self.variables.insert((*name).to_owned());
                }
                ["conn", id, ..] => {
                    self.connections.insert((*id).to_owned());
                }
                _ => {}
            }
        }
    }
}

/// What was found under the names that a template asks for; or the words that say where each was looked for in vain.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// Variables.
    pub variables: BTreeMap<String, Result<SecretString, String>>,
    /// Connections.
    pub connections: BTreeMap<String, Result<Connection, String>>,
}

impl Named {
    /// `var` and `conn`.
    pub(super) fn values(self) -> Value {
        let named = Arc::new(self);
        context! {
            var => context! {
                value => Value::from_object(Variables { named: Arc::clone(&named), parsed: false }),
                json => Value::from_object(Variables { named: Arc::clone(&named), parsed: true }),
            },
            conn => Value::from_object(Connections(named)),
        }
    }

    /// Why a name that stands at that place of a template is not there.
    pub(super) fn absence(&self, template: &str, place: &Range<usize>) -> Option<&str> {
        let found = uses(template).ok()?;
        let is_there = |reference: &&Reference| reference.range.start < place.end && place.start < reference.range.end;
        found.references.iter().filter(is_there).find_map(|reference| match reference.path.as_slice() {
            [var, _, name, ..] if var == "var" => self.variables.get(name)?.as_ref().err().map(String::as_str),
            [conn, id, ..] if conn == "conn" => self.connections.get(id)?.as_ref().err().map(String::as_str),
            _ => None,
        })
    }
}

/// `get(name, default)`: the name and, where it is given, the default.
fn asked(arguments: &[Value], default_name: &str) -> Result<(String, Option<Value>), Error> {
    let (name, default, named): (String, Option<Value>, Kwargs) = from_args(arguments)?;
    let default = match default {
        Some(default) => Some(default),
        None if named.has(default_name) => Some(named.get(default_name)?),
        None => None,
    };
    named.assert_all_used()?;
    Ok((name, default))
}

fn absent(words: Option<&String>) -> Error {
    let words = words.map_or("its name is to be written out, so that it can be looked up", String::as_str);
    Error::new(ErrorKind::InvalidOperation, words.to_owned())
}

/// `var.value` and `var.json`.
#[derive(Debug)]
struct Variables {
    named: Arc<Named>,
    parsed: bool,
}

impl Variables {
    fn value(&self, name: &str, text: &SecretString) -> Value {
        if !self.parsed {
            return text.expose_secret().into();
        }
        match serde_json::from_str::<serde_json::Value>(text.expose_secret()) {
            Ok(value) => Value::from(Serde(value)),
            // Its text may be secret: the place of the mistake has to do.
            Err(error) => Value::from(Error::new(
                ErrorKind::InvalidOperation,
                format!("variable `{name}` is not JSON (line {}, column {})", error.line(), error.column()),
            )),
        }
    }
}

impl Object for Variables {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let text = self.named.variables.get(name)?.as_ref().ok()?;
        Some(self.value(name, text))
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, arguments: &[Value]) -> Result<Value, Error> {
        if method != "get" {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let (name, default) = asked(arguments, "default")?;
        match (self.named.variables.get(&name), default) {
            (Some(Ok(text)), _) => Ok(self.value(&name, text)),
            (_, Some(default)) => Ok(default),
            (found, None) => Err(absent(found.and_then(|found| found.as_ref().err()))),
        }
    }
}

/// `conn`.
#[derive(Debug)]
struct Connections(Arc<Named>);

impl Object for Connections {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let connection = self.0.connections.get(key.as_str()?)?.as_ref().ok()?;
        Some(Value::from_object(Shown(connection.clone())))
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, arguments: &[Value]) -> Result<Value, Error> {
        if method != "get" {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let (id, default) = asked(arguments, "default_conn")?;
        match self.0.connections.get(&id) {
            Some(Ok(connection)) => Ok(Value::from_object(Shown(connection.clone()))),
            Some(Err(_)) => Ok(default.unwrap_or(Value::from(()))),
            None => Err(absent(None)),
        }
    }
}

/// One connection.
#[derive(Debug)]
struct Shown(Connection);

impl Object for Shown {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let connection = &self.0;
        // What a connection does not have is none, as in Airflow, and not an unknown name.
        let text = |text: &Option<String>| Value::from(text.clone());
        let secret = |secret: &Option<SecretString>| {
            Value::from(secret.as_ref().map(|secret| secret.expose_secret().to_owned()))
        };
        Some(match key.as_str()? {
            "id" | "conn_id" => connection.id.as_str().into(),
            "conn_type" => connection.conn_type.as_str().into(),
            "description" => text(&connection.description),
            "host" => text(&connection.host),
            "login" => text(&connection.login),
            "schema" => text(&connection.schema),
            "port" => Value::from(connection.port),
            "password" => secret(&connection.password),
            "extra" => secret(&connection.extra),
            "extra_dejson" => Value::from(Serde(connection.extra_fields())),
            _ => return None,
        })
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, arguments: &[Value]) -> Result<Value, Error> {
        if method != "get_uri" {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let () = from_args(arguments)?;
        Ok(self.0.uri().expose_secret().into())
    }

    fn render(self: &Arc<Self>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.id)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::template::TemplateScope;

    fn scope() -> TemplateScope {
        let uri = "postgres://me:p%40ss@db.example:5432/orders?sslmode=require";
        let variable = |text: &str| Ok(SecretString::from(text));
        let named = Named {
            variables: BTreeMap::from([
                ("bucket".to_owned(), variable("landing")),
                ("limits".to_owned(), variable(r#"{"rows": 500, "deep": {"a": [1]}}"#)),
                ("nothing".to_owned(), Err("no variable is named `nothing`: looked everywhere".to_owned())),
            ]),
            connections: BTreeMap::from([
                ("lake".to_owned(), Ok(Connection::parse("lake", uri).unwrap())),
                ("sea".to_owned(), Err("no connection is named `sea`: looked everywhere".to_owned())),
            ]),
        };
        TemplateScope::new(json!({"ds": "2026-01-01"})).with_named(Named::default()).with_named(named)
    }

    fn rendered(template: &str) -> String {
        scope().render(template, &[]).unwrap_or_else(|error| format!("error: {error}"))
    }

    #[test]
    fn variables_and_connections_are_as_in_airflow() {
        for (template, expected) in [
            ("{{ ds }}: {{ var.value.bucket }}/{{ var.json.limits.rows + 1 }}", "2026-01-01: landing/501"),
            ("{{ var.json.limits['deep'].a[0] }} {{ var.value['bucket'] | upper }}", "1 LANDING"),
            ("{{ var.value.get('bucket', 'x') }} {{ var.value.get('nothing', 'x') }}", "landing x"),
            ("{{ var.json.get('nothing', default={'a': 1}).a }} {{ var.json.get('limits').rows }}", "1 500"),
            ("{{ var.value.nothing | default('x') }} {{ var.value.nothing is defined }}", "x False"),
            ("{{ conn.lake }}: {{ conn.lake.conn_type }} {{ conn.lake.login }}", "lake: postgres me"),
            ("{{ conn.lake.host }}:{{ conn.lake.port }}/{{ conn.lake.schema }}", "db.example:5432/orders"),
            (
                "{{ conn.lake.password }} {{ conn.lake.extra_dejson.sslmode }} {{ conn.lake.description }}",
                "p@ss require None",
            ),
            ("{{ conn.lake.get_uri() }}", "postgres://me:p%40ss@db.example:5432/orders?sslmode=require"),
            ("{{ conn.get('sea', 'x') }} {{ conn.get('lake').port + 1 }} {{ conn.get('sea') }}", "x 5433 None"),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_there_says_where_it_was_looked_for_and_no_error_quotes_a_text() {
        for (template, expected) in [
            ("{{ var.value.nothing }}", "no variable is named `nothing`: looked everywhere"),
            ("{{ var.json.nothing.rows }}", "no variable is named `nothing`: looked everywhere"),
            ("{{ var.value.get('nothing') }}", "no variable is named `nothing`: looked everywhere"),
            ("{{ conn.sea.host }}", "no connection is named `sea`: looked everywhere"),
            ("{{ conn.lake.hots }}", "`conn.lake.hots` is not defined"),
            ("{{ var.json.bucket }}", "variable `bucket` is not JSON (line 1, column 1)"),
            ("{{ var.json.bucket.x }}", "variable `bucket` is not JSON (line 1, column 1)"),
            ("{{ var.value['buc' ~ 'ket2'] }}", "`var.value['buc' ~ 'ket2']` is not defined"),
        ] {
            assert_eq!(rendered(template), format!("error: {expected}"), "{template}");
        }
        assert!(!format!("{:?}", scope()).contains("p@ss"));
        assert!(!rendered("{{ debug() }}").contains("p@ss"), "{}", rendered("{{ debug() }}"));
    }

    #[test]
    fn the_names_that_are_asked_for_are_found_without_rendering() {
        let wanted = Wanted::in_config(&json!({
            "a": "{{ var.value.bucket }} {{ var.json.limits.rows }} {% if x %}{{ conn.lake.host }}{% endif %}",
            "b": ["{{ var.value.get('other', conn.get('sea')) }}", {"c": "{{ var.json['x'] | default(1) }}"}],
            "d": "var.value.no_template {{ params.var }} {{ broken",
        }));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(wanted.variables, names(&["bucket", "limits", "other", "x"]));
        assert_eq!(wanted.connections, names(&["lake", "sea"]));
        assert!(Wanted::in_text("{{ params.x }} {{ ds }}").is_empty());
    }
}
