//! A run as a worker holds it in memory: its DAG as it was when the run began, and its facts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::domain::dag::Dag;
use crate::domain::ids::{RunKey, TaskIndex};
use crate::domain::task_output::TaskOutput;
use crate::domain::template::RunFacts;
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
    pub fn new(run: &Run, dag: impl Into<Arc<Dag>>) -> Self {
        let facts = RunFacts {
            dag_id: run.dag_id.clone(),
            run_id: run.run_id.clone(),
            run_uuid: run.uuid,
            logical_date: run.logical_date,
            data_interval_start: run.data_interval_start,
            data_interval_end: run.data_interval_end,
            params: run.params.clone(),
            conf: run.conf.clone(),
        };
        let folder = PathBuf::from(&run.file).parent().map(PathBuf::from).unwrap_or_default();
        Self { key: run.key, dag: dag.into(), facts: Arc::new(facts), folder, owner: run.owner }
    }
}

/// The outputs of a run that the worker knows: those of its own attempts at once, others' when they are needed.
#[derive(Debug, Default)]
pub struct KnownOutputs {
    /// By task that has ended: what it left, if it left something.
    ended: BTreeMap<TaskIndex, Option<TaskOutput>>,
}

impl KnownOutputs {
    /// A task ended here; with its output, if it left one.
    pub fn note(&mut self, task: TaskIndex, output: Option<TaskOutput>) {
        self.ended.insert(task, output);
    }

    /// Those of the tasks that are not known to have ended: the store must be asked.
    #[must_use]
    pub fn missing(&self, tasks: &[Vec<TaskIndex>]) -> Vec<TaskIndex> {
        let missing: BTreeSet<_> = tasks.iter().flatten().filter(|task| !self.ended.contains_key(task)).collect();
        missing.into_iter().copied().collect()
    }

    /// Takes what the store knows of tasks that have ended.
    pub fn learn(&mut self, ended: BTreeMap<TaskIndex, Option<TaskOutput>>) {
        self.ended.extend(ended);
    }

    /// What the task left, where it left something.
    #[must_use]
    pub fn of(&self, task: TaskIndex) -> Option<TaskOutput> {
        self.ended.get(&task)?.clone()
    }
}
