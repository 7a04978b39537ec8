//! Whether all that was drawn arrived: drawn = produced + dead letters of produce, produced = sunk + dead letters of sink.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// The account of one topic over a whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicBalance {
    /// The topic.
    pub topic: String,
    /// Rows that emulate drew; nothing where no emulate ran.
    pub drawn: Option<u64>,
    /// Records that produce had acknowledged; nothing where no produce ran.
    pub produced: Option<u64>,
    /// Records in S3 objects; nothing where no sink ran.
    pub sunk: Option<u64>,
    /// Dead letters of produce and sink together.
    pub dead_lettered: u64,
    /// Null values that the sink was told to skip.
    pub tombstones: u64,
    /// Replayed records that the sink dropped; on neither side of the equation.
    pub duplicates: u64,
    /// Whether both equations hold, as far as their sides are known.
    pub balanced: bool,
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

#[derive(Default)]
struct Account {
    produced: Option<u64>,
    produce_dead: u64,
    sunk: Option<u64>,
    sink_dead: u64,
    tombstones: u64,
    duplicates: u64,
}

/// Balances a run's topics from its tasks' outputs, each with its operator's short name. Outputs of other operators are
/// passed over; topics come in order of their names.
///
/// Several tasks of one operator add up (each row that any emulate drew is owed to each topic of the run).
#[must_use]
pub fn reconcile(outputs: &[(&str, &Map<String, Value>)]) -> Vec<TopicBalance> {
    let mut drawn = None;
    let mut accounts: BTreeMap<&str, Account> = BTreeMap::new();
    for (operator, output) in outputs {
        if *operator == "emulate" {
            add(&mut drawn, output.get("rows"));
        }
        let Some(topics) = output.get("topics").and_then(Value::as_object) else { continue };
        for (topic, counts) in topics {
            let dead = count(counts.get("dead_lettered"));
            match *operator {
                "produce" => {
                    let account = accounts.entry(topic).or_default();
                    add(&mut account.produced, counts.get("produced"));
                    account.produce_dead += dead;
                }
                "sink" => {
                    let account = accounts.entry(topic).or_default();
                    add(&mut account.sunk, counts.get("records"));
                    account.sink_dead += dead;
                    account.tombstones += count(counts.get("tombstones"));
                    account.duplicates += count(counts.get("duplicates"));
                }
                _ => {}
            }
        }
    }
    accounts.into_iter().map(|(topic, account)| balance(topic, drawn, &account)).collect()
}

fn balance(topic: &str, drawn: Option<u64>, account: &Account) -> TopicBalance {
    let produced_all = match (drawn, account.produced) {
        (Some(drawn), Some(produced)) => drawn == produced + account.produce_dead,
        _ => true,
    };
    let sunk_all = match (account.produced, account.sunk) {
        (Some(produced), Some(sunk)) => produced == sunk + account.sink_dead + account.tombstones,
        _ => true,
    };
    TopicBalance {
        topic: topic.to_owned(),
        drawn: account.produced.and(drawn),
        produced: account.produced,
        sunk: account.sunk,
        dead_lettered: account.produce_dead + account.sink_dead,
        tombstones: account.tombstones,
        duplicates: account.duplicates,
        balanced: produced_all && sunk_all,
    }
}

fn count(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_u64).unwrap_or(0)
}

fn add(sum: &mut Option<u64>, value: Option<&Value>) {
    if let Some(number) = value.and_then(Value::as_u64) {
        *sum = Some(sum.unwrap_or(0) + number);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn balances(outputs: &[(&str, Value)]) -> Vec<TopicBalance> {
        let outputs: Vec<_> = outputs.iter().filter_map(|(name, value)| Some((*name, value.as_object()?))).collect();
        reconcile(&outputs)
    }

    #[test]
    fn a_row_lost_between_produce_and_sink_unbalances_its_topic_alone() {
        let rows = balances(&[
            ("emulate", json!({"rows": 10})),
            (
                "produce",
                json!({"topics": {"u.pin": {"produced": 9, "dead_lettered": 1},
                                          "u.geo": {"produced": 10, "dead_lettered": 0}}}),
            ),
            (
                "sink",
                json!({"topics": {"u.pin": {"records": 8, "dead_lettered": 1, "duplicates": 4},
                                       "u.geo": {"records": 9, "dead_lettered": 0}}}),
            ),
            ("transform", json!({"topics": {"u.geo": {"records": 1}}})),
        ]);
        let shown: Vec<String> = rows.iter().map(|row| format!("{row}: {}", row.balanced)).collect();
        assert_eq!(
            shown,
            [
                "topic `u.geo`: 10 drawn, 10 produced, 9 sunk, 0 dead-lettered: false",
                "topic `u.pin`: 10 drawn, 9 produced, 8 sunk, 2 dead-lettered: true",
            ]
        );
        assert_eq!(rows[1].duplicates, 4);
    }

    #[test]
    fn a_draw_that_was_not_produced_whole_is_unbalanced() {
        let rows = balances(&[
            ("emulate", json!({"rows": 10})),
            ("produce", json!({"topics": {"u.pin": {"produced": 9, "dead_lettered": 0}}})),
        ]);
        assert!(!rows[0].balanced);
    }

    #[test]
    fn unknown_sides_do_not_unbalance() {
        let rows = balances(&[("sink", json!({"topics": {"u.pin": {"records": 3, "tombstones": 2}}}))]);
        assert!(rows[0].balanced);
        assert_eq!(
            rows[0].to_string(),
            "topic `u.pin`: unknown drawn, unknown produced, 3 sunk, 0 dead-lettered, 2 tombstones skipped"
        );
    }
}
