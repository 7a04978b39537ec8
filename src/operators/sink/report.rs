//! What a sink leaves behind: its output, and whether all that was drawn is in it.

use serde_json::{Map, Value, json};

use super::config::{Records, SinkConfig};
use super::failure::SinkError;
use crate::domain::outputs::{self, ProduceOutput, SinkOutput};
use crate::domain::reconcile::{self, Balance};
use crate::domain::sinking::{SinkCounts, SinkProgress};
use crate::engine::operator::{Output, TaskContext};

/// The task's output: the counts of all attempts together.
pub(super) fn output(config: &SinkConfig, done: &[SinkProgress]) -> Output {
    let mut total = SinkCounts::default();
    let mut topics: Vec<(&str, SinkCounts, Map<String, Value>)> = Vec::new();
    for progress in done {
        total += progress.counts;
        let name = progress.range.of.topic.as_str();
        if topics.last().is_none_or(|(topic, ..)| *topic != name) {
            topics.push((name, SinkCounts::default(), Map::new()));
        }
        let Some((_, counts, partitions)) = topics.last_mut() else { continue };
        *counts += progress.counts;
        let range = json!({"start": progress.range.start, "end": progress.range.end});
        partitions.insert(progress.range.of.partition.to_string(), range);
    }
    let topics: Map<String, Value> = topics
        .into_iter()
        .map(|(topic, counts, partitions)| {
            let value = json!({
                "records": counts.records,
                "dead_lettered": counts.dead_lettered,
                "duplicates": counts.duplicates,
                "foreign": counts.foreign,
                "tombstones": counts.tombstones,
                "objects": counts.objects,
                "bytes": counts.bytes,
                "partitions": partitions,
            });
            (topic.to_owned(), value)
        })
        .collect();
    let mut output = Output::new();
    output.insert("bucket".to_owned(), json!(config.bucket));
    output.insert("topics_dir".to_owned(), json!(config.topics_dir));
    output.insert("objects".to_owned(), json!(total.objects));
    output.insert("bytes".to_owned(), json!(total.bytes));
    output.insert("topics".to_owned(), Value::Object(topics));
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
