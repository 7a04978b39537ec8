//! The DAGs of runs, as their files were when the runs began: checked once, shared by all runs of a version.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::check;
use crate::domain::dag::Dag;
use crate::domain::ids::DagId;
use crate::domain::operator_kind::OperatorKind;
use crate::domain::source::SourceFile;
use crate::engine::operator::Registration;
use crate::store::{DagVersionId, Run, RunSource, Store, StoreError};

/// How many versions are kept in memory; what is forgotten is read again.
const KEPT: usize = 4096;

/// A stored version that this build cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the run's DAG file, as it was then, is not valid for this version of pinsched: {0}")]
pub struct UnusableVersion(String);

/// Versions that were read or registered.
pub struct Versions {
    operators: Vec<&'static OperatorKind>,
    known: Mutex<HashMap<DagVersionId, Arc<Dag>>>,
}

impl Versions {
    /// None yet; files are checked against these operators.
    #[must_use]
    pub fn new(registrations: &[Registration]) -> Self {
        let operators = registrations.iter().map(|registration| registration.kind).collect();
        Self { operators, known: Mutex::default() }
    }

    /// Keeps a version that was checked just now.
    pub fn keep(&self, version: DagVersionId, dag: Arc<Dag>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear(); // once in thousands of changes of files: what is used is read again
        }
        known.insert(version, dag);
    }

    /// The DAG of a run.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of_run(&self, store: &Store, run: &Run) -> Result<Result<Arc<Dag>, UnusableVersion>, StoreError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&run.version).cloned();
        if let Some(dag) = known {
            return Ok(Ok(dag));
        }
        let source = store.run_source(run.key).await?;
        Ok(match reread(source, &run.dag_id, &self.operators) {
            Ok(dag) => {
                let dag = Arc::new(dag);
                self.keep(run.version, Arc::clone(&dag));
                Ok(dag)
            }
            Err(error) => Err(error),
        })
    }
}

/// The DAG of a run, from the text that the run kept.
///
/// # Errors
/// When this build does not take the text any more, or does not find the DAG in it.
pub fn reread(source: RunSource, id: &DagId, operators: &[&'static OperatorKind]) -> Result<Dag, UnusableVersion> {
    let file = SourceFile::new(&source.file, source.source);
    let checked = check::check(&file, operators);
    let found = checked.dags.into_iter().find(|dag| dag.id() == id);
    found.ok_or_else(|| {
        let messages: Vec<&str> = checked.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        UnusableVersion(if messages.is_empty() { format!("it has no DAG `{id}`") } else { messages.join("; ") })
    })
}
