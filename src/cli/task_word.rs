//! Names of tasks and instances as they are typed: found in a run, or told what is wrong with them and what there is.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use crate::cli::words;
use crate::domain::dag::{Dag, Task};
use crate::domain::diagnostic::{closest, listed};
use crate::domain::ids::{TaskId, TaskIndex};
use crate::domain::mapping::{TaskName, TaskNameError};
use crate::store::{Run, Store};

/// What was typed for `TASK` or `TASK[N]`. Whether it is a name is told with what there is: that the run knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskWord(String);

impl FromStr for TaskWord {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TaskWord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TaskWord {
    /// The name that it is.
    pub(crate) fn name(&self) -> Result<TaskName, TaskNameError> {
        self.0.parse()
    }
}

/// The task run that is meant, of a task or of an instance of a mapped one; an error that says what there is.
pub(crate) async fn find_task_run(
    store: &Store,
    run: &Run,
    dag: &Dag,
    word: &TaskWord,
) -> anyhow::Result<(TaskIndex, TaskName)> {
    let name = match word.name() {
        Ok(name) => name,
        Err(error) => match error.task().map(|task| find_task(dag, task)) {
            Some(Ok(task)) => anyhow::bail!("{error}; {}", instances(store, run, task).await?),
            Some(Err(unknown)) => return Err(unknown),
            None => anyhow::bail!("{error}; {}", tasks_of(dag)),
        },
    };
    let task = find_task(dag, &name.task)?;
    let Some(map_index) = name.map_index else { return Ok((task.index, name)) };
    if let Some(found) = store.instance(run.key, task.index, map_index).await? {
        return Ok((found, name));
    }
    anyhow::bail!("there is no `{name}` in run `{}`: {}", run.run_id, instances(store, run, task).await?)
}

/// The task of that id; an error that says which one may have been meant.
fn find_task<'a>(dag: &'a Dag, id: &TaskId) -> anyhow::Result<&'a Task> {
    dag.task_named(id).ok_or_else(|| {
        let near = closest(id.as_str(), dag.tasks().iter().map(|task| task.id.as_str()));
        let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        anyhow::anyhow!("DAG `{}` has no task `{id}`; {near}{}", dag.id(), tasks_of(dag))
    })
}

fn tasks_of(dag: &Dag) -> String {
    format!("it has {}", listed(dag.tasks().iter().map(|task| task.id.as_str())))
}

/// What there is of the instances of a task.
async fn instances(store: &Store, run: &Run, task: &Task) -> anyhow::Result<String> {
    let id = &task.id;
    if task.mapping.is_none() {
        return Ok(format!("task `{id}` is not mapped, and is named `{id}`"));
    }
    let known = store.instance_states(run.key, &[task.index]).await?;
    if let Some(last) = known.iter().map(|instance| instance.map_index).max() {
        let count = words::counted(known.len() as u64, "instance", "instances");
        return Ok(match last {
            0 => format!("task `{id}` has one instance, `{id}[0]`"),
            _ => format!("task `{id}` has {count}, `{id}[0]` to `{id}[{last}]`"),
        });
    }
    let state = store.task_row(run.key, &TaskName { task: id.clone(), map_index: None }).await?;
    Ok(match state.map(|row| row.state) {
        Some(state) if state.is_final() => format!("task `{id}` has no instances: it is {state}"),
        Some(state) => format!("task `{id}` has no instances yet: it is {state}, and is expanded when it runs"),
        None => format!("task `{id}` has no instances yet: its run has not begun"),
    })
}
