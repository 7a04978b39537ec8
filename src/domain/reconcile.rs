//! Whether all that was drawn arrived: drawn = produced + dead letters of produce, produced = sunk + dead letters of sink.
//!
//! Each sink is balanced by itself, topic by topic, against the `produce` tasks upstream of it: two sinks may take the
//! same topic, or each some of them. What was drawn is what the produces say that they were given.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::domain::outputs::{self, ProduceOutput, SinkOutput, SunkRecords, SunkTopic};

/// Whether the sides of an account are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// They are.
    Equal,
    /// Rows are missing, or too many.
    Unequal,
    /// What was produced is all of what was drawn, and no sink of the run took it.
    NotSunk,
    /// One side is unknown: no `produce` says what there should be, or strangers' records were sunk as well.
    NotComparable,
}

impl Balance {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Unequal => "UNEQUAL",
            Self::NotSunk => "not sunk",
            Self::NotComparable => "not comparable",
        }
    }
}

/// `true`, `false`, or `null` where there are not two sides to compare.
impl Serialize for Balance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Equal => serializer.serialize_bool(true),
            Self::Unequal => serializer.serialize_bool(false),
            Self::NotSunk | Self::NotComparable => serializer.serialize_none(),
        }
    }
}

/// The account of one topic at one sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicBalance {
    /// The topic.
    pub topic: String,
    /// The sink, where the run has several.
    pub sink: Option<String>,
    /// Rows that were drawn for the topic; nothing where no produce says so.
    pub drawn: Option<u64>,
    /// Records that produce had acknowledged; nothing where no produce ran.
    pub produced: Option<u64>,
    /// Records in S3 objects; nothing where no sink took the topic.
    pub sunk: Option<u64>,
    /// Dead letters of produce and sink together.
    pub dead_lettered: u64,
    /// Null values that the sink was told to skip.
    pub tombstones: u64,
    /// Replayed records that the sink dropped; on neither side of the equation.
    pub duplicates: u64,
    /// Whether both equations hold.
    pub balanced: Balance,
}

impl fmt::Display for TopicBalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        write!(
            f,
            "topic `{}`: {} drawn, {} produced, {} sunk, {} dead-lettered",
            self.topic,
            number(self.drawn),
            number(self.produced),
            number(self.sunk),
            self.dead_lettered
        )?;
        match self.tombstones {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} tombstones skipped"),
        }
    }
}

/// A task of a run, as far as the account asks.
#[derive(Debug, Clone)]
pub struct AccountTask<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its operator, by short name.
    pub operator: &'a str,
    /// What it left, once it did.
    pub output: Option<&'a Map<String, Value>>,
    /// The ids of all tasks upstream of it, direct and indirect.
    pub upstream: Vec<&'a str>,
}

/// Balances the topics that a sink took, in order of their names, against the outputs of the produces upstream of it.
#[must_use]
pub fn of_sink(sink: &SinkOutput, upstream: &[ProduceOutput]) -> Vec<TopicBalance> {
    let expected = match sink.records {
        SunkRecords::Run => sent(upstream),
        SunkRecords::All => BTreeMap::new(),
    };
    sink.topics.iter().map(|(topic, sunk)| balance(topic, expected.get(topic.as_str()), Some(sunk))).collect()
}

/// Balances a run: each topic at each sink that took it, and each topic that none did, in order of the topics' names.
///
/// An output that is not what its operator leaves is nobody's count: what needs it is not comparable.
#[must_use]
pub fn of_run(tasks: &[AccountTask<'_>]) -> Vec<TopicBalance> {
    let produces = |of: &dyn Fn(&str) -> bool| -> Option<Vec<ProduceOutput>> {
        let chosen = tasks.iter().filter(|task| task.operator == "produce" && of(task.id));
        chosen.filter_map(|task| task.output).map(|output| outputs::read(output).ok()).collect()
    };
    let sinks: Vec<&AccountTask<'_>> = tasks.iter().filter(|task| task.operator == "sink").collect();
    let mut balances = Vec::new();
    for sink in &sinks {
        let Some(Ok(output)) = sink.output.map(outputs::read::<SinkOutput>) else { continue };
        let upstream = produces(&|id| sink.upstream.contains(&id)).unwrap_or_default();
        let name = (sinks.len() > 1).then(|| sink.id.to_owned());
        balances.extend(of_sink(&output, &upstream).into_iter().map(|row| TopicBalance { sink: name.clone(), ..row }));
    }
    let all = produces(&|_| true).unwrap_or_default();
    for (topic, sent) in sent(&all) {
        if !balances.iter().any(|row| row.topic == topic) {
            let row = balance(topic, Some(&sent), None);
            let balanced =
                if row.balanced == Balance::NotSunk && sinks.is_empty() { Balance::Equal } else { row.balanced };
            balances.push(TopicBalance { balanced, ..row });
        }
    }
    balances.sort_by(|a, b| a.topic.cmp(&b.topic));
    balances
}

/// What all produces together say of a topic.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    drawn: u64,
    produced: u64,
    dead_lettered: u64,
}

fn sent(produces: &[ProduceOutput]) -> BTreeMap<&str, Sent> {
    let mut topics: BTreeMap<&str, Sent> = BTreeMap::new();
    for (name, topic) in produces.iter().flat_map(|produce| &produce.topics) {
        let sent = topics.entry(name).or_default();
        sent.drawn += topic.drawn;
        sent.produced += topic.produced;
        sent.dead_lettered += topic.dead_lettered;
    }
    topics
}

fn balance(topic: &str, sent: Option<&Sent>, sunk: Option<&SunkTopic>) -> TopicBalance {
    let counts = sunk.map(|sunk| sunk.counts).unwrap_or_default();
    let count = |count: i64| count.max(0).cast_unsigned();
    let (records, dead_lettered) = (count(counts.records), count(counts.dead_lettered));
    let tombstones = count(counts.tombstones);
    let balanced = match (sent, sunk) {
        (None, _) => Balance::NotComparable,
        (Some(sent), _) if sent.drawn != sent.produced + sent.dead_lettered => Balance::Unequal,
        (Some(_), None) => Balance::NotSunk,
        (Some(sent), Some(_)) if sent.produced == records + dead_lettered + tombstones => Balance::Equal,
        (Some(_), Some(_)) => Balance::Unequal,
    };
    TopicBalance {
        topic: topic.to_owned(),
        sink: None,
        drawn: sent.map(|sent| sent.drawn),
        produced: sent.map(|sent| sent.produced),
        sunk: sunk.map(|_| records),
        dead_lettered: sent.map_or(0, |sent| sent.dead_lettered) + dead_lettered,
        tombstones,
        duplicates: count(counts.duplicates),
        balanced,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A produce that was given `drawn` rows for each topic: of each, how many were produced and dead-lettered.
    fn produce(drawn: u64, topics: &[(&str, u64, u64)]) -> Value {
        let topics: Map<String, Value> = topics
            .iter()
            .map(|(topic, produced, dead)| {
                let topic_output = json!({"table": "t", "columns": [], "drawn": drawn, "produced": produced,
                                          "dead_lettered": dead, "partitions": {}});
                ((*topic).to_owned(), topic_output)
            })
            .collect();
        json!({"topics": topics})
    }

    /// A sink: of each topic, how many records were sunk, dead-lettered and dropped as replays.
    fn sink(topics: &[(&str, i64, i64, i64)]) -> Value {
        let topics: Map<String, Value> = topics
            .iter()
            .map(|(topic, records, dead, duplicates)| {
                let topic_output = json!({"records": records, "dead_lettered": dead, "duplicates": duplicates,
                    "foreign": 0, "tombstones": 0, "objects": 1, "bytes": 1, "partitions": {}});
                ((*topic).to_owned(), topic_output)
            })
            .collect();
        json!({"bucket": "b", "topics": topics})
    }

    /// Tasks by id, operator, the ids upstream, and output; what comes out as lines.
    fn account(tasks: &[(&str, &str, &str, Value)]) -> Vec<String> {
        let tasks: Vec<AccountTask<'_>> = tasks
            .iter()
            .map(|(id, operator, upstream, output)| AccountTask {
                id,
                operator,
                output: output.as_object(),
                upstream: upstream.split_whitespace().collect(),
            })
            .collect();
        let line = |row: &TopicBalance| {
            let sink = row.sink.as_ref().map(|sink| format!("{sink}: ")).unwrap_or_default();
            format!("{sink}{row}: {}", row.balanced.as_str())
        };
        of_run(&tasks).iter().map(line).collect()
    }

    #[test]
    fn a_row_lost_between_produce_and_sink_unbalances_its_topic_alone() {
        let shown = account(&[
            ("e", "emulate", "", json!({"rows": 10})),
            ("p", "produce", "e", produce(10, &[("u.pin", 9, 1), ("u.geo", 10, 0)])),
            ("s", "sink", "e p", sink(&[("u.pin", 8, 1, 4), ("u.geo", 9, 0, 0)])),
        ]);
        assert_eq!(
            shown,
            [
                "topic `u.geo`: 10 drawn, 10 produced, 9 sunk, 0 dead-lettered: UNEQUAL",
                "topic `u.pin`: 10 drawn, 9 produced, 8 sunk, 2 dead-lettered: equal",
            ]
        );
    }

    #[test]
    fn each_produce_owes_what_it_was_given() {
        let mut tasks = vec![
            ("ea", "emulate", "", json!({"rows": 10})),
            ("eb", "emulate", "", json!({"rows": 20})),
            ("pa", "produce", "ea", produce(10, &[("u.pin", 10, 0), ("u.all", 10, 0)])),
            ("pb", "produce", "eb", produce(20, &[("u.geo", 19, 1), ("u.all", 20, 0)])),
            ("s", "sink", "ea eb pa pb", sink(&[("u.pin", 10, 0, 0), ("u.geo", 19, 0, 0), ("u.all", 30, 0, 0)])),
        ];
        assert_eq!(
            account(&tasks),
            [
                "topic `u.all`: 30 drawn, 30 produced, 30 sunk, 0 dead-lettered: equal",
                "topic `u.geo`: 20 drawn, 19 produced, 19 sunk, 1 dead-lettered: equal",
                "topic `u.pin`: 10 drawn, 10 produced, 10 sunk, 0 dead-lettered: equal",
            ]
        );
        tasks[3].3 = produce(20, &[("u.geo", 19, 0), ("u.all", 20, 0)]);
        assert!(account(&tasks)[1].ends_with("UNEQUAL"), "a row that produce lost");
    }

    #[test]
    fn each_sink_answers_for_what_it_took_itself() {
        let p = || ("p", "produce", "", produce(10, &[("u.pin", 10, 0), ("u.geo", 10, 0)]));
        // One behind the other, or side by side.
        for upstream in ["p json", "p"] {
            let shown = account(&[
                p(),
                ("json", "sink", "p", sink(&[("u.pin", 10, 0, 0), ("u.geo", 10, 0, 0)])),
                ("parquet", "sink", upstream, sink(&[("u.pin", 10, 0, 0)])),
            ]);
            assert_eq!(
                shown,
                [
                    "json: topic `u.geo`: 10 drawn, 10 produced, 10 sunk, 0 dead-lettered: equal",
                    "json: topic `u.pin`: 10 drawn, 10 produced, 10 sunk, 0 dead-lettered: equal",
                    "parquet: topic `u.pin`: 10 drawn, 10 produced, 10 sunk, 0 dead-lettered: equal",
                ]
            );
        }
        // The topics divided between them.
        let shown = account(&[
            p(),
            ("a", "sink", "p", sink(&[("u.pin", 10, 0, 0)])),
            ("b", "sink", "p", sink(&[("u.geo", 9, 0, 0)])),
        ]);
        assert!(shown[0].starts_with("b: topic `u.geo`") && shown[0].ends_with("UNEQUAL"), "{shown:?}");
        assert!(shown[1].starts_with("a: topic `u.pin`") && shown[1].ends_with(": equal"), "{shown:?}");
    }

    #[test]
    fn a_topic_that_no_sink_takes_is_said_to_be_so() {
        let p = || ("p", "produce", "", produce(10, &[("u.pin", 10, 0), ("u.geo", 10, 0)]));
        let shown = account(&[p(), ("s", "sink", "p", sink(&[("u.pin", 10, 0, 0)]))]);
        assert_eq!(shown[0], "topic `u.geo`: 10 drawn, 10 produced, unknown sunk, 0 dead-lettered: not sunk");
        // A sink that has not come to its end took nothing yet.
        let shown = account(&[p(), ("s", "sink", "p", Value::Null)]);
        assert!(shown.len() == 2 && shown.iter().all(|row| row.ends_with("not sunk")), "{shown:?}");
        // Where there is no sink nothing is missing.
        let shown = account(&[p()]);
        assert!(shown.len() == 2 && shown.iter().all(|row| row.ends_with(": equal")), "{shown:?}");
        let shown = account(&[("p", "produce", "", produce(10, &[("u.pin", 9, 0)]))]);
        assert_eq!(shown, ["topic `u.pin`: 10 drawn, 9 produced, unknown sunk, 0 dead-lettered: UNEQUAL"]);
    }

    #[test]
    fn what_cannot_be_compared_is_never_equal() {
        let unknown = ["topic `u.pin`: unknown drawn, unknown produced, 3 sunk, 0 dead-lettered: not comparable"];
        let sunk = || sink(&[("u.pin", 3, 0, 0)]);
        assert_eq!(account(&[("s", "sink", "", sunk())]), unknown);
        // A produce's output without a count, and a sink that takes strangers' records as well.
        let mut broken = produce(3, &[("u.pin", 3, 0)]);
        broken["topics"]["u.pin"].as_object_mut().unwrap().remove("drawn");
        assert_eq!(account(&[("p", "produce", "", broken), ("s", "sink", "p", sunk())]), unknown);
        let mut all = sunk();
        all["records"] = json!("all");
        assert_eq!(account(&[("p", "produce", "", produce(3, &[("u.pin", 3, 0)])), ("s", "sink", "p", all)]), unknown);
        assert_eq!(json!([Balance::Equal, Balance::Unequal, Balance::NotComparable]), json!([true, false, null]));
    }
}
