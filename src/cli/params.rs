//! The values that a command gives a run's params.

use serde_json::{Map, Value};

use crate::domain::dag::Dag;
use crate::domain::params::{self, Undeclared};

/// The DAG's params with `conf` and then `overrides` (`key=value`) in their place. As in Airflow a conf may hold more than the
/// DAG declares; a param that is named by itself is declared, or a slip.
pub(crate) fn merge(dag: &Dag, overrides: &[String], conf: &Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let (mut values, more): (Map<String, Value>, Map<String, Value>) =
        conf.clone().into_iter().partition(|(name, _)| dag.settings.params.contains_key(name));
    let mut mistakes = Vec::new();
    for text in overrides {
        let Some((key, value)) = text.split_once('=') else {
            mistakes.push(format!("`{text}` is no param: write --param key=value"));
            continue;
        };
        match params::typed(&dag.settings, key, value) {
            Ok(value) => drop(values.insert(key.to_owned(), value)),
            Err(problem) => mistakes.push(problem.message),
        }
    }
    match params::resolve(&dag.settings, values, Undeclared::Refused) {
        Ok(mut params) if mistakes.is_empty() => {
            params.extend(more);
            Ok(params)
        }
        Ok(_) => Err(anyhow::anyhow!(mistakes.join("\n"))),
        Err(problems) => {
            mistakes.extend(problems.into_iter().map(|problem| problem.message));
            Err(anyhow::anyhow!(mistakes.join("\n")))
        }
    }
}
