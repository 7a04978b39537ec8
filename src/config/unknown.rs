//! Variables that look like settings and are none: a misspelt one would leave a run to the embedded stack in silence.

use super::environment::Environment;
use super::error::Problem;
use super::keys::{KEYS, TABLES};
use super::values::Origin;

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

/// The variable that looks most like the one set: by its own name, or by that of its key in `pinsched.toml`.
fn did_you_mean(variable: &str) -> Option<String> {
    /// Below this, names share little but letters.
    const ALIKE: f64 = 0.85;
    let typed = without_prefix(variable);
    let keys = KEYS.iter().filter_map(|key| {
        let known = *key.variables.first()?;
        let dotted = key.name.to_uppercase().replace('.', "_");
        let likeness = strsim::jaro_winkler(typed, without_prefix(known)).max(strsim::jaro_winkler(typed, &dotted));
        Some((likeness, known.to_owned()))
    });
    let tables = TABLES.iter().map(|table| {
        let family = without_prefix(table.prefix);
        let start: String = typed.chars().take(family.chars().count()).collect();
        (strsim::jaro_winkler(&start, family), format!("{}<NAME>", table.prefix))
    });
    let near = keys.chain(tables).filter(|(likeness, _)| *likeness >= ALIKE);
    near.max_by(|left, right| left.0.total_cmp(&right.0)).map(|(_, known)| known)
}

fn without_prefix(variable: &str) -> &str {
    variable.strip_prefix(PREFIX).unwrap_or(variable)
}
