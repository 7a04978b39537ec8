//! `external_task_sensor`: waits for tasks of another DAG, or for its run.

use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::TimeDelta;

use super::patience::sensor_keys;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, met};
use crate::domain::Timestamp;
use crate::domain::duration::parse_duration;
use crate::domain::ids::{DagId, TaskId};
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::domain::run_state::RunState;
use crate::domain::task_state::TaskState;
use crate::engine::operator::{Failure, Registration, TaskContext};
use crate::operators::config::Scalar;
use crate::store::{Run, StoreError};

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<ExternalTask> };

static KIND: OperatorKind = OperatorKind {
    name: "external_task_sensor",
    class_paths: &[
        "airflow.providers.standard.sensors.external_task.ExternalTaskSensor",
        "airflow.sensors.external_task.ExternalTaskSensor",
        "airflow.sensors.external_task_sensor.ExternalTaskSensor",
    ],
    about: "Waits for tasks of another DAG, or for its run",
    schema: || schemars::schema_for!(ExternalTask),
    check: check::<ExternalTask>,
    late_fields: &[],
    file_keys: &[],
};

sensor_keys! {
    /// The keys of an `external_task_sensor` task.
    ExternalTask {
        /// The other DAG.
        external_dag_id: String,
        /// The task that is waited for. Without one, and without `external_task_ids`: the run.
        #[serde(default)]
        external_task_id: Option<String>,
        /// The tasks that are waited for, all of them.
        #[serde(default)]
        external_task_ids: Vec<String>,
        /// How long before this run's logical date the other run's is, as `1h`. Default: it is the same one.
        #[serde(default)]
        execution_delta: Option<Scalar>,
        /// The states that are waited for. Default: `success`.
        #[serde(default)]
        allowed_states: Option<Vec<String>>,
        /// The states with which this task fails for good, or is skipped where `soft_fail` is true. Default: none.
        #[serde(default)]
        failed_states: Vec<String>,
        /// The states with which this task is skipped. Default: none.
        #[serde(default)]
        skipped_states: Vec<String>,
        /// Whether a DAG that is not there fails this task for good, instead of being waited for.
        #[serde(default)]
        check_existence: bool,
    }
}

impl ExternalTask {
    fn dag(&self) -> Result<DagId, ConfigProblem> {
        self.external_dag_id.parse().map_err(|error| ConfigProblem::at("external_dag_id", format!("{error}")))
    }

    fn tasks(&self) -> Result<Vec<TaskId>, ConfigProblem> {
        let read = |key, text: &String| text.parse().map_err(|error| ConfigProblem::at(key, format!("{error}")));
        let one = self.external_task_id.iter().map(|text| read("external_task_id", text));
        one.chain(self.external_task_ids.iter().map(|text| read("external_task_ids", text))).collect()
    }

    fn delta(&self) -> Result<TimeDelta, ConfigProblem> {
        let Some(delta) = &self.execution_delta else { return Ok(TimeDelta::zero()) };
        let problem = |message: String| ConfigProblem::at("execution_delta", message).help("write it as `30m` or `1d`");
        let delta = parse_duration(&delta.clone().into_text()).map_err(|error| problem(error.to_string()))?;
        TimeDelta::from_std(delta).map_err(|error| problem(error.to_string()))
    }

    fn allowed(&self) -> Vec<&str> {
        match &self.allowed_states {
            Some(states) => states.iter().map(String::as_str).collect(),
            None => vec![TaskState::Success.as_str()],
        }
    }

    /// Lists of states with their keys.
    fn states(&self) -> [(&'static str, Vec<&str>); 3] {
        [
            ("allowed_states", self.allowed()),
            ("failed_states", self.failed_states.iter().map(String::as_str).collect()),
            ("skipped_states", self.skipped_states.iter().map(String::as_str).collect()),
        ]
    }

    /// What the states of the run, or of its tasks, mean.
    fn judge(&self, states: &[(String, &'static str)]) -> Result<Seen, Failure> {
        let [(_, allowed), (_, failed), (_, skipped)] = self.states();
        let among = |list: &[&str]| states.iter().find(|(_, state)| list.contains(state));
        if let Some((name, state)) = among(&failed) {
            let words = format!("{name} is {state}");
            return Err(if self.soft_fail { Failure::Skip(words) } else { Failure::Fatal(words) });
        }
        if let Some((name, state)) = among(&skipped) {
            return Err(Failure::Skip(format!("{name} is {state}")));
        }
        Ok(match states.iter().find(|(_, state)| !allowed.contains(state)) {
            Some((name, state)) => Seen::NotYet(format!("{name} is {state}")),
            None => Seen::Met(met(true)),
        })
    }

    async fn is_known(&self, context: &TaskContext, dag: &DagId) -> Result<bool, StoreError> {
        Ok(context.store.dag_state(dag).await?.is_some_and(|state| state.retired_at.is_none()))
    }

    async fn states_in(
        &self,
        context: &TaskContext,
        run: &Run,
        tasks: &[TaskId],
    ) -> Result<Vec<(String, &'static str)>, Failure> {
        let name = format!("run `{}` of `{}`", run.run_id, run.dag_id);
        if tasks.is_empty() {
            return Ok(vec![(name, run.state.as_str())]);
        }
        let found = context.store.states_of_tasks(run.key, tasks).await.map_err(|error| failure(&error))?;
        let state = |task: &TaskId| match found.get(task) {
            Some(state) => Ok((format!("task `{task}` of {name}"), state.as_str())),
            // Its tasks are there once it has its turn.
            None if run.state == RunState::Queued => Ok((name.clone(), run.state.as_str())),
            None => Err(Failure::Fatal(format!("{name} has no task `{task}`"))),
        };
        tasks.iter().map(state).collect()
    }
}

impl Sensor for ExternalTask {
    fn problems(&self) -> Vec<ConfigProblem> {
        let mut problems: Vec<ConfigProblem> = Vec::new();
        problems.extend(self.dag().err());
        problems.extend(self.delta().err());
        let are_tasks = match self.tasks() {
            Ok(tasks) => !tasks.is_empty(),
            Err(problem) => {
                problems.push(problem);
                true
            }
        };
        if self.external_task_id.is_some() && !self.external_task_ids.is_empty() {
            problems.push(ConfigProblem::at("external_task_ids", "give one task, or several, not both"));
        }
        let known: Vec<&str> = if are_tasks {
            TaskState::ALL.iter().map(|state| state.as_str()).collect()
        } else {
            RunState::ALL.iter().map(|state| state.as_str()).collect()
        };
        let mut seen = BTreeSet::new();
        for (key, states) in self.states() {
            for state in states {
                if !known.contains(&state) {
                    let what = if are_tasks { "task" } else { "run" };
                    problems.push(
                        ConfigProblem::at(key, format!("`{state}` is no state of a {what}"))
                            .help(format!("one of {}", known.join(", "))),
                    );
                } else if !seen.insert(state) {
                    problems.push(ConfigProblem::at(key, format!("`{state}` is named twice")));
                }
            }
        }
        problems
    }
}

#[async_trait]
impl Look for ExternalTask {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let fatal = |problem: ConfigProblem| Failure::Fatal(problem.message);
        let (dag, tasks) = (self.dag().map_err(fatal)?, self.tasks().map_err(fatal)?);
        let date: Timestamp = context.logical_date - self.delta().map_err(fatal)?;
        let run = context.store.run_of_logical_date(&dag, date).await.map_err(|error| failure(&error))?;
        if let Some(run) = run {
            return self.judge(&self.states_in(context, &run, &tasks).await?);
        }
        if self.check_existence && !self.is_known(context, &dag).await.map_err(|error| failure(&error))? {
            return Err(Failure::Fatal(format!("there is no DAG `{dag}`")));
        }
        Ok(Seen::NotYet(format!("DAG `{dag}` has no run of {}", date.format("%Y-%m-%dT%H:%M:%S%.fZ"))))
    }
}

/// The store is pinsched's own: what fails about it passes, or all ends.
fn failure(error: &StoreError) -> Failure {
    Failure::retry(error)
}
