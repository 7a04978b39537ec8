//! The operators: each a checked configuration and an idempotent attempt. One file or folder each.

mod bash;
mod branch;
mod config;
mod empty;
mod emulate;
pub(crate) mod file_pattern;
mod http;
mod http_job;
mod leftovers;
pub mod probe;
mod process;
mod produce;
mod python;
mod sensor;
mod short_circuit;
mod sink;
mod staged;
mod transform;
mod trigger_dag_run;

pub use leftovers::{Leftovers, LeftoversError, delete_leftovers, find_leftovers};

use crate::domain::operator_kind::OperatorKind;
use crate::engine::operator::Registration;

/// Every operator, in the order in which help and documentation list them.
static REGISTRY: &[Registration] = &[
    emulate::REGISTRATION,
    produce::REGISTRATION,
    sink::REGISTRATION,
    transform::REGISTRATION,
    bash::REGISTRATION,
    python::REGISTRATION,
    http::REGISTRATION,
    empty::REGISTRATION,
    branch::REGISTRATION,
    short_circuit::REGISTRATION,
    sensor::FILE,
    sensor::TIME,
    sensor::TIME_DELTA,
    sensor::SQL,
    sensor::HTTP,
    sensor::S3_KEY,
    sensor::KAFKA_OFFSET,
    sensor::EXTERNAL_TASK,
    trigger_dag_run::REGISTRATION,
    http_job::REGISTRATION,
    python::BRANCH,
    python::SHORT_CIRCUIT,
];

/// Every operator that a DAG file may name.
#[must_use]
pub fn registry() -> &'static [Registration] {
    REGISTRY
}

/// The pure descriptions of all operators: what the DAG file's checks need.
#[must_use]
pub fn catalog() -> Vec<&'static OperatorKind> {
    REGISTRY.iter().map(|registration| registration.kind).collect()
}

/// The operator of that short name or Airflow class path.
#[must_use]
pub fn registration(name: &str) -> Option<&'static Registration> {
    REGISTRY.iter().find(|registration| registration.kind.name == name || registration.kind.class_paths.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_class_path_means_one_operator() {
        let mut names: Vec<&str> = Vec::new();
        for kind in catalog() {
            names.push(kind.name);
            names.extend(kind.class_paths);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name is registered twice: {names:?}");
        for name in names {
            assert!(registration(name).is_some());
        }
        assert!(registration("no.such.Operator").is_none());
    }

    #[test]
    fn every_schema_refuses_unknown_keys() {
        for kind in catalog() {
            let schema = (kind.schema)();
            assert_eq!(
                schema.get("additionalProperties"),
                Some(&serde_json::Value::Bool(false)),
                "the schema of `{}` takes any key",
                kind.name
            );
        }
    }
}
