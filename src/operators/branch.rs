//! `branch`: chooses which of the tasks right after it run; the others are skipped.
//!
//! What is chosen is named by `follow`, which is a template as a rule. As in Airflow the choice is about the tasks right
//! after this one, and what comes after a chosen task as well is not skipped: a join of two branches that is also right
//! after the branch itself runs.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::choice;
use crate::domain::operator_kind::OperatorKind;
use crate::domain::plan::Skips;
use crate::engine::operator::{Failure, Operator, Output, Registration, TaskContext};
use crate::operators::config;

pub(crate) const REGISTRATION: Registration = Registration { kind: &KIND, build };

static KIND: OperatorKind = OperatorKind {
    name: "branch",
    class_paths: &[],
    about: "Chooses which of the tasks right after it run",
    schema: || schemars::schema_for!(Branch),
    check: |value| config::check::<Branch>(value, |_| Vec::new()),
    late_fields: &[],
    file_keys: &[],
};

/// The keys of a `branch` task.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-not-mapped" = "what it skips comes after the task as a whole"))]
struct Branch {
    /// The id of the task or task group to follow, or a list of them; none at all skips everything right after.
    #[schemars(extend("x-names-downstream" = true))]
    follow: Names,
}

/// One id or several.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
enum Names {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
    /// None.
    Nothing(()),
}

fn build(config: Value) -> Result<Box<dyn Operator>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<Branch>(config)?))
}

/// Lets those tasks run of all right after this one, and says so.
pub(super) fn follow(context: &TaskContext, names: &[String]) -> Result<(), Failure> {
    let me = context.attempt.task_run.task;
    let chosen = choice::chosen(&context.dag, me, names).map_err(|error| Failure::fatal(&error))?;
    context.log.line(match names {
        [] => "nothing is followed: all tasks right after this one are skipped".to_owned(),
        names => format!("following {}", names.join(", ")),
    });
    context.choice.skip(Skips::AllBut(chosen));
    Ok(())
}

#[async_trait]
impl Operator for Branch {
    async fn run(&self, context: &TaskContext) -> Result<Output, Failure> {
        let names = match &self.follow {
            Names::Nothing(()) => Vec::new(),
            // What a template with text around its `{{ }}` makes of nothing.
            Names::One(name) if matches!(name.trim(), "" | "none" | "None") => Vec::new(),
            Names::One(name) => vec![name.trim().to_owned()],
            Names::Several(names) => names.iter().map(|name| name.trim().to_owned()).collect(),
        };
        follow(context, &names)?;
        let mut output = Output::new();
        output.insert("return_value".to_owned(), Value::from(names));
        Ok(output)
    }
}
