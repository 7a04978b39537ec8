//! A run as a worker holds it in memory: its DAG as it was when the run began, and its facts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::template::RunFacts;
use crate::engine::operator::Output;
use crate::store::{Run, WorkerId};

/// A run that a worker works on.
#[derive(Clone)]
pub struct RunningRun {
    /// Its key.
    pub key: RunKey,
    /// The DAG.
    pub dag: Arc<Dag>,
    /// What its templates may know.
    pub facts: Arc<RunFacts>,
    /// The folder of its DAG file.
    pub folder: PathBuf,
    /// Who drove it until now.
    pub owner: Option<WorkerId>,
}

impl RunningRun {
    /// From the stored run and its DAG.
    #[must_use]
    pub fn new(run: &Run, dag: Dag) -> Self {
        let facts = RunFacts {
            dag_id: run.dag_id.clone(),
            run_id: run.run_id.clone(),
            run_uuid: run.uuid,
            logical_date: run.logical_date,
            data_interval_start: run.data_interval_start,
            data_interval_end: run.data_interval_end,
            params: run.params.clone(),
            conf: serde_json::Map::new(),
            variables: BTreeMap::new(),
        };
        let folder = PathBuf::from(&run.file).parent().map(PathBuf::from).unwrap_or_default();
        Self { key: run.key, dag: Arc::new(dag), facts: Arc::new(facts), folder, owner: run.owner }
    }

    /// Everything that `task` waits for, directly or not.
    #[must_use]
    pub fn ancestors(&self, task: TaskIndex) -> BTreeSet<TaskIndex> {
        let mut found = BTreeSet::new();
        let mut ahead = self.dag.upstream(task);
        while let Some(index) = ahead.pop() {
            if found.insert(index) {
                ahead.extend(self.dag.upstream(index));
            }
        }
        found
    }
}

/// The outputs of a run that the worker knows: those of its own attempts at once, others' when they are needed.
#[derive(Debug, Default)]
pub struct KnownOutputs {
    outputs: BTreeMap<TaskIndex, Output>,
    ended: BTreeSet<TaskIndex>,
}

impl KnownOutputs {
    /// A task ended here; with its output, if it left one.
    pub fn note(&mut self, task: TaskIndex, output: Option<Output>) {
        self.ended.insert(task);
        if let Some(output) = output {
            self.outputs.insert(task, output);
        }
    }

    /// Whether one of these tasks may have ended elsewhere, so that the store must be asked.
    #[must_use]
    pub fn is_missing(&self, upstream: &[TaskIndex]) -> bool {
        upstream.iter().any(|task| !self.ended.contains(task))
    }

    /// Takes what the store knows.
    pub fn replace(&mut self, outputs: BTreeMap<TaskIndex, Output>) {
        self.outputs = outputs;
    }

    /// What the task left, where it left something.
    #[must_use]
    pub fn of(&self, task: TaskIndex) -> Option<&Output> {
        self.outputs.get(&task)
    }
}
