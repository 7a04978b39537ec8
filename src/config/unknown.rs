//! Variables that look like settings and are none: a misspelt one would leave a run to the embedded stack in silence.

use std::collections::BTreeMap;

use super::environment::Environment;
use super::error::Problem;
use super::keys::{KEYS, TABLES, Table};
use super::values::Origin;
use crate::domain::diagnostic::closest;

const PREFIX: &str = "PINSCHED_";

/// What else may stand in the environment: where the settings are, what the tests use, and what Kubernetes sets in each
/// container beside a service that is called `pinsched`.
const NOT_SETTINGS: &[&str] =
    &["PINSCHED_CONFIG", "PINSCHED_TEST_", "PINSCHED_SERVICE_HOST", "PINSCHED_SERVICE_PORT", "PINSCHED_PORT"];

/// Every variable with pinsched's prefix that no setting has.
pub(super) fn unknown_variables(environment: &Environment) -> Vec<Problem> {
    let is_known = |variable: &str| {
        KEYS.iter().any(|key| key.variables.contains(&variable))
            || TABLES.iter().any(|table| variable.starts_with(table.prefix))
            || NOT_SETTINGS.iter().any(|other| variable.starts_with(other))
    };
    let unknown = environment.starting_with(PREFIX).map(|(variable, _)| variable).filter(|name| !is_known(name));
    unknown
        .map(|variable| Problem {
            origin: Origin::Environment(variable.to_owned()),
            message: "there is no such setting".to_owned(),
            help: did_you_mean(variable).map(|near| format!("did you mean {near}?")),
        })
        .collect()
}

/// Every variable that a setting, a connection or a variable is read from, and whose value is not UTF-8: it would be as if
/// nobody had set it.
pub(super) fn unreadable_variables(environment: &Environment) -> Vec<Problem> {
    let is_read = |variable: &&str| {
        KEYS.iter().any(|key| key.variables.contains(variable))
            || TABLES.iter().any(|table| variable.starts_with(table.prefix))
            || [PREFIX, "AIRFLOW_CONN_", "AIRFLOW_VAR_"].iter().any(|prefix| variable.starts_with(prefix))
    };
    let unreadable = environment.unreadable().filter(is_read).map(|variable| Problem {
        origin: Origin::Environment(variable.to_owned()),
        message: "its value is not UTF-8".to_owned(),
        help: None,
    });
    unreadable.collect()
}

/// The variable that was most likely meant: it is spelt almost so, or its key in `pinsched.toml` is, or it is one of a
/// table's that begins almost so.
fn did_you_mean(variable: &str) -> Option<String> {
    let typed = without_prefix(variable);
    let mut spellings: BTreeMap<String, &str> = BTreeMap::new();
    for (key, known) in KEYS.iter().filter_map(|key| Some((key, *key.variables.first()?))) {
        spellings.insert(without_prefix(known).to_owned(), known);
        spellings.insert(key.name.to_uppercase().replace('.', "_"), known);
    }
    if let Some(near) = closest(typed, spellings.keys().map(String::as_str)) {
        return spellings.get(near).map(|known| (*known).to_owned());
    }
    let begins_so = |table: &&Table| {
        let family = without_prefix(table.prefix);
        let start: String = typed.chars().take(family.chars().count()).collect();
        closest(&start, [family]).is_some()
    };
    TABLES.iter().find(begins_so).map(|table| format!("{}<NAME>", table.prefix))
}

fn without_prefix(variable: &str) -> &str {
    variable.strip_prefix(PREFIX).unwrap_or(variable)
}
