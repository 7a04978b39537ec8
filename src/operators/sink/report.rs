//! What a sink leaves behind: its output, and whether all that was drawn is in it.

use std::collections::BTreeMap;

use serde_json::json;

use super::config::{Records, SinkConfig};
use super::failure::SinkError;
use crate::domain::outputs::{self, OffsetSpan, ProduceOutput, SinkOutput, SunkTopic};
use crate::domain::reconcile::{self, Balance};
use crate::domain::sinking::{SinkCounts, SinkProgress, SinkRange};
use crate::engine::operator::{Output, TaskContext};

/// The task's output: the counts of all attempts together.
pub(super) fn output(config: &SinkConfig, done: &[SinkProgress]) -> Output {
    let mut total = SinkCounts::default();
    let mut topics: BTreeMap<&str, SunkTopic> = BTreeMap::new();
    for progress in done {
        let SinkRange { of, start, end } = &progress.range;
        total += progress.counts;
        let topic = topics.entry(&of.topic).or_default();
        topic.counts += progress.counts;
        topic.partitions.insert(of.partition, OffsetSpan { start: *start, end: *end });
    }
    let mut output = Output::new();
    output.insert("bucket".to_owned(), json!(config.bucket));
    output.insert("topics_dir".to_owned(), json!(config.topics_dir));
    output.insert("objects".to_owned(), json!(total.objects));
    output.insert("bytes".to_owned(), json!(total.bytes));
    output.insert("topics".to_owned(), json!(topics));
    if config.records == Some(Records::All) {
        // Strangers' records are among the counts, so that no account can be made of them.
        output.insert("records".to_owned(), json!("all"));
    }
    output
}

/// Logs the balance of each topic of this sink; one that is unequal fails the task. Other sinks' topics are their own
/// matter, and what they made of the same topic as well.
pub(super) fn balance(context: &TaskContext, output: &Output) -> Result<(), SinkError> {
    let unreadable =
        |task: &str, error: serde_json::Error| SinkError::Upstream { task: task.to_owned(), reason: error.to_string() };
    let own: SinkOutput = outputs::read(output).map_err(|error| unreadable(context.task_id.as_str(), error))?;
    let produces = context.upstream.iter().filter(|(_, upstream)| upstream.operator == "produce");
    let produces: Vec<ProduceOutput> = produces
        .map(|(task, upstream)| outputs::read(&upstream.output).map_err(|error| unreadable(task.as_str(), error)))
        .collect::<Result<_, _>>()?;
    let topics = reconcile::of_sink(&own, &produces);
    for topic in &topics {
        context.log.line(topic.to_string());
    }
    let unequal = topics.iter().filter(|topic| topic.balanced == Balance::Unequal);
    let unequal: Vec<String> = unequal.map(ToString::to_string).collect();
    if unequal.is_empty() { Ok(()) } else { Err(SinkError::Unbalanced(unequal.join("; "))) }
}
