//! The values that a command gives a run's params.

use anyhow::Context;
use serde_json::{Map, Value};

use crate::domain::dag::Dag;
use crate::domain::params::{self, Undeclared};

/// The DAG's params with `conf` and then `overrides` (`key=value`) in their place. As in Airflow a conf may hold more than the
/// DAG declares; a param that is named by itself is declared, or a slip.
pub(crate) fn merge(dag: &Dag, overrides: &[String], conf: &Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let (mut values, more): (Map<String, Value>, Map<String, Value>) =
        conf.clone().into_iter().partition(|(name, _)| dag.settings.params.contains_key(name));
    for text in overrides {
        let (key, value) =
            text.split_once('=').with_context(|| format!("`{text}` is no param: write --param key=value"))?;
        values.insert(key.to_owned(), params::typed(&dag.settings, key, value)?);
    }
    let mut params = params::resolve(&dag.settings, values, Undeclared::Refused).map_err(|problems| {
        let words: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
        anyhow::anyhow!(words.join("\n"))
    })?;
    params.extend(more);
    Ok(params)
}
