//! What an attempt sinks: topics, their columns, the range of each partition. Pure but for the questions to Kafka.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{Records, SinkConfig};
use super::failure::SinkError;
use super::topics::{TopicPattern, select};
use crate::domain::ids::TaskId;
use crate::domain::outputs::{self, OffsetSpan, ProduceOutput, ProducedTopic};
use crate::domain::sinking::{SinkRange, TopicPartition};
use crate::engine::operator::UpstreamOutput;

/// What the `produce` tasks say of a topic, together.
#[derive(Debug, Clone)]
struct Filled {
    /// `None` where they do not agree.
    columns: Option<Vec<String>>,
    produced: u64,
    partitions: BTreeMap<i32, OffsetSpan>,
}

/// What this run's `produce` tasks left for the sink.
#[derive(Debug, Clone, Default)]
pub(super) struct Upstream {
    topics: BTreeMap<String, Filled>,
}

impl Upstream {
    /// Gathers the outputs of all `produce` tasks upstream; `None` where there is none.
    pub(super) fn gather(outputs: &BTreeMap<TaskId, UpstreamOutput>) -> Result<Option<Self>, SinkError> {
        let mut upstream: Option<Self> = None;
        for (task, output) in outputs.iter().filter(|(_, output)| output.operator == "produce") {
            let parsed: ProduceOutput = outputs::read(&output.output)
                .map_err(|error| SinkError::Upstream { task: task.to_string(), reason: error.to_string() })?;
            let topics = &mut upstream.get_or_insert_default().topics;
            for (name, topic) in parsed.topics {
                let topic = Filled::from(topic);
                match topics.get_mut(&name) {
                    None => {
                        topics.insert(name, topic);
                    }
                    Some(known) => known.merge(topic),
                }
            }
        }
        Ok(upstream)
    }

    /// Keeps the topics that a pattern matches. The others may be another sink's: the run's account tells.
    pub(super) fn keep(&mut self, patterns: &[TopicPattern]) -> Result<(), SinkError> {
        let names: Vec<&str> = self.topics.keys().map(String::as_str).collect();
        let selected = select(patterns, &names)?;
        self.topics.retain(|name, _| selected.contains(name));
        Ok(())
    }

    /// What `produce` filled.
    pub(super) fn ranges(&self) -> Vec<SinkRange> {
        let ranges = self.topics.iter().flat_map(|(topic, produced)| {
            produced.partitions.iter().map(|(&partition, range)| SinkRange {
                of: TopicPartition { topic: topic.clone(), partition },
                start: range.start,
                end: range.end.max(range.start),
            })
        });
        ranges.collect()
    }

    /// Moves the ends to behind what `produce` had acknowledged: a stranger's open transaction may hide the last of it.
    pub(super) fn include(&self, heads: &mut [SinkRange]) {
        for head in heads {
            let produced = self.topics.get(&head.of.topic).and_then(|topic| topic.partitions.get(&head.of.partition));
            head.end = produced.map_or(head.end, |produced| head.end.max(produced.end));
        }
    }

    /// How many records there are to sink.
    pub(super) fn produced(&self) -> u64 {
        self.topics.values().map(|topic| topic.produced).sum()
    }
}

impl From<ProducedTopic> for Filled {
    fn from(topic: ProducedTopic) -> Self {
        Self { columns: Some(topic.columns), produced: topic.produced, partitions: topic.partitions }
    }
}

impl Filled {
    /// Adds what another task produced to the same topic.
    fn merge(&mut self, other: Self) {
        self.produced += other.produced;
        if self.columns != other.columns {
            self.columns = None;
        }
        for (partition, range) in other.partitions {
            let known = self.partitions.entry(partition).or_insert(range);
            *known = OffsetSpan { start: known.start.min(range.start), end: known.end.max(range.end) };
        }
    }
}

/// Whose records are sunk, where the configuration leaves it open.
pub(super) fn records(config: &SinkConfig, upstream: Option<&Upstream>) -> Records {
    config.records.unwrap_or(if upstream.is_some() { Records::Run } else { Records::All })
}

/// The columns that a topic's records must have: the configuration's, else those that `produce` named.
pub(super) fn columns(config: &SinkConfig, upstream: Option<&Upstream>, topic: &str) -> Option<BTreeSet<String>> {
    let alias = topic.rsplit('.').next().unwrap_or(topic);
    let configured = config.columns.get(topic).or_else(|| config.columns.get(alias));
    let produced = upstream.and_then(|upstream| upstream.topics.get(topic)).and_then(|topic| topic.columns.as_ref());
    configured.or(produced).filter(|columns| !columns.is_empty()).map(|columns| columns.iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outputs(tasks: &[(&str, &str, serde_json::Value)]) -> BTreeMap<TaskId, UpstreamOutput> {
        let output = |operator: &str, value: &serde_json::Value| UpstreamOutput {
            operator: operator.to_owned(),
            output: value.as_object().unwrap().clone().into(),
        };
        tasks.iter().map(|(task, operator, value)| (task.parse().unwrap(), output(operator, value))).collect()
    }

    fn topic(produced: u64, start: i64, end: i64) -> serde_json::Value {
        json!({"table": "pin", "columns": ["ind"], "drawn": produced, "produced": produced, "dead_lettered": 0,
               "partitions": {"0": {"start": start, "end": end}}})
    }

    #[test]
    fn tasks_that_fill_one_topic_add_up_to_one_range() {
        let upstream = Upstream::gather(&outputs(&[
            ("a", "produce", json!({"topics": {"u.pin": topic(3, 10, 14), "u.geo": topic(1, 0, 1)}})),
            ("b", "produce", json!({"topics": {"u.pin": topic(4, 12, 20)}})),
            ("c", "emulate", json!({"rows": 7})),
        ]));
        let upstream = upstream.unwrap().unwrap();
        let shown = |upstream: &Upstream| -> Vec<String> {
            let ranges = upstream.ranges();
            ranges.iter().map(|range| format!("{} {}..{}", range.of.topic, range.start, range.end)).collect()
        };
        assert_eq!(
            (upstream.produced(), shown(&upstream)),
            (8, vec!["u.geo 0..1".to_owned(), "u.pin 10..20".to_owned()])
        );
        let mut of_one_sink = upstream.clone();
        of_one_sink.keep(&[TopicPattern::parse("u.pin").unwrap()]).unwrap();
        assert_eq!((of_one_sink.produced(), shown(&of_one_sink)), (7, vec!["u.pin 10..20".to_owned()]));
        assert!(of_one_sink.keep(&[TopicPattern::parse("u.geo").unwrap()]).is_err());
        let head = |end| SinkRange { of: TopicPartition { topic: "u.pin".to_owned(), partition: 0 }, start: 5, end };
        let mut heads = [head(12), head(30)];
        upstream.include(&mut heads);
        assert_eq!(heads, [head(20), head(30)], "what is produced is waited for, what is behind it is taken too");
    }

    #[test]
    fn without_produce_there_is_no_upstream_and_a_broken_one_is_named() {
        assert!(Upstream::gather(&outputs(&[("c", "emulate", json!({"rows": 7}))])).unwrap().is_none());
        let error = Upstream::gather(&outputs(&[("p", "produce", json!({"rows": 7}))])).unwrap_err();
        assert_eq!(error.to_string(), "the output of produce task `p` is not one: missing field `topics`");
    }
}
