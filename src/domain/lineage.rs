//! Events of OpenLineage: that a run of a DAG, or an attempt of a task, began or ended, and what data it read and wrote.
//!
//! A DAG is a job of its id, a task one of `dag.task`; each attempt is a run of the task's, whose id follows from the
//! DAG's run, its task and its fence: an event that is sent twice is the same. <https://openlineage.io/spec/2-0-2/>

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::ids::{DagId, TaskId, TaskIndex};
use crate::domain::outputs::{EmulateOutput, ProduceOutput, SinkOutput, read};

/// Who says so.
const PRODUCER: &str = concat!("https://github.com/pinsched/pinsched/tree/v", env!("CARGO_PKG_VERSION"));

/// Which form an event has.
const SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It began.
    Start,
    /// It ended well.
    Complete,
    /// It was stopped, by a person or since its process was gone.
    Abort,
    /// It failed.
    Fail,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::Complete => "COMPLETE",
            Self::Abort => "ABORT",
            Self::Fail => "FAIL",
        }
    }
}

/// Data that a task reads or writes, by OpenLineage's names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dataset {
    /// Where it is, as `s3://bucket`.
    pub namespace: String,
    /// What it is there, as a key or the folder of keys.
    pub name: String,
}

/// An event.
#[derive(Debug, Clone)]
pub struct LineageEvent<'a> {
    /// The namespace of jobs.
    pub namespace: &'a str,
    /// What happened.
    pub event: EventType,
    /// When.
    pub at: Timestamp,
    /// The DAG.
    pub dag_id: &'a DagId,
    /// Its run.
    pub run: Uuid,
    /// The run's logical date and, if it has one, the end of its data interval.
    pub nominal: (Timestamp, Timestamp),
    /// The attempt, by its task, the task's id and operator, and the fence; none where it is about the run.
    pub attempt: Option<(TaskIndex, &'a TaskId, &'a str, i64)>,
    /// Why it failed.
    pub error: Option<&'a str>,
    /// What it read.
    pub inputs: BTreeSet<Dataset>,
    /// What it wrote.
    pub outputs: BTreeSet<Dataset>,
}

impl LineageEvent<'_> {
    /// As it is sent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut facets = json!({
            "nominalTime": facet("1-0-1", "NominalTimeRunFacet", json!({
                "nominalStartTime": instant(self.nominal.0),
                "nominalEndTime": instant(self.nominal.1),
            })),
            "processing_engine": facet("1-1-1", "ProcessingEngineRunFacet", json!({
                "name": "pinsched",
                "version": env!("CARGO_PKG_VERSION"),
                "openlineageAdapterVersion": env!("CARGO_PKG_VERSION"),
            })),
        });
        let dag = json!({"namespace": self.namespace, "name": self.dag_id.as_str()});
        if self.attempt.is_some() {
            let parent = json!({"run": {"runId": self.run}, "job": dag});
            facets["parent"] = facet("1-1-0", "ParentRunFacet", parent);
        }
        if let Some(error) = self.error {
            let message = json!({"message": error, "programmingLanguage": "YAML"});
            facets["errorMessage"] = facet("1-0-1", "ErrorMessageRunFacet", message);
        }
        let (run, job, kind) = match self.attempt {
            None => (self.run, self.dag_id.to_string(), "DAG"),
            Some((task, id, _, fence)) => (attempt_id(self.run, task, fence), format!("{}.{id}", self.dag_id), "TASK"),
        };
        let job_type = json!({"processingType": "BATCH", "integration": "PINSCHED", "jobType": kind});
        let mut job_facets = json!({"jobType": facet("2-0-3", "JobTypeJobFacet", job_type)});
        if let Some((_, _, operator, _)) = self.attempt {
            let description = json!({"description": format!("operator {operator}")});
            job_facets["documentation"] = facet("1-0-1", "DocumentationJobFacet", description);
        }
        json!({
            "eventType": self.event.as_str(),
            "eventTime": instant(self.at),
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
            "run": {"runId": run, "facets": facets},
            "job": {"namespace": self.namespace, "name": job, "facets": job_facets},
            "inputs": datasets(&self.inputs),
            "outputs": datasets(&self.outputs),
        })
    }
}

/// The run id of an attempt.
fn attempt_id(run: Uuid, task: TaskIndex, fence: i64) -> Uuid {
    Uuid::new_v5(&run, format!("{}/{fence}", task.0).as_bytes())
}

fn facet(version: &str, name: &str, mut facet: Value) -> Value {
    facet["_producer"] = PRODUCER.into();
    facet["_schemaURL"] = format!("https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}").into();
    facet
}

fn instant(at: Timestamp) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

fn datasets(datasets: &BTreeSet<Dataset>) -> Value {
    datasets.iter().map(|dataset| json!({"namespace": dataset.namespace, "name": dataset.name})).collect()
}

/// Whether the outputs of tasks of that operator say what they read or wrote.
#[must_use]
pub fn names_data(operator: &str) -> bool {
    matches!(operator, "emulate" | "produce" | "sink" | "transform")
}

/// The operator whose tasks' outputs say what a task of that operator read, where its own does not.
#[must_use]
pub fn reads_after(operator: &str) -> Option<&'static str> {
    match operator {
        "produce" => Some("emulate"),
        "transform" => Some("sink"),
        _ => None,
    }
}

/// What a task of that operator wrote, by what it left; nothing where its output does not say.
#[must_use]
pub fn written_by(operator: &str, output: &Map<String, Value>, kafka: &str) -> BTreeSet<Dataset> {
    match operator {
        "emulate" => read::<EmulateOutput>(output).map(|output| staged(&output)).into_iter().collect(),
        "produce" => {
            let produced = read::<ProduceOutput>(output).map(|output| output.topics.into_keys().collect());
            topics(produced.unwrap_or_default(), kafka)
        }
        "sink" => {
            let (Ok(sunk), Some(bucket)) = (read::<SinkOutput>(output), text(output, "bucket")) else {
                return BTreeSet::new();
            };
            let folder = text(output, "topics_dir").unwrap_or_default();
            let folders = sunk.topics.keys().map(|topic| Dataset {
                namespace: format!("s3://{bucket}"),
                name: format!("{folder}/{topic}").trim_start_matches('/').to_owned(),
            });
            folders.collect()
        }
        "transform" => {
            let results = output.get("results").and_then(Value::as_object);
            let objects = results.into_iter().flatten().filter_map(|(_, result)| result.get("objects")?.as_array());
            objects.flatten().filter_map(|address| object(address.as_str()?)).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// What a task of that operator read, by its own output and those of the tasks before it, each with its operator.
#[must_use]
pub fn read_by(
    operator: &str,
    output: Option<&Map<String, Value>>,
    before: &[(&str, &Map<String, Value>)],
    kafka: &str,
) -> BTreeSet<Dataset> {
    if operator == "sink" {
        let sunk = output.and_then(|output| read::<SinkOutput>(output).ok());
        return topics(sunk.map(|output| output.topics.into_keys().collect()).unwrap_or_default(), kafka);
    }
    let Some(from) = reads_after(operator) else { return BTreeSet::new() };
    let outputs = before.iter().filter(|(operator, _)| *operator == from);
    outputs.flat_map(|(operator, output)| written_by(operator, output, kafka)).collect()
}

fn staged(output: &EmulateOutput) -> Dataset {
    let folder = output.staged.manifest.rsplit_once('/').map_or("", |(folder, _)| folder);
    Dataset { namespace: format!("s3://{}", output.staged.bucket), name: folder.to_owned() }
}

fn topics(names: Vec<String>, kafka: &str) -> BTreeSet<Dataset> {
    // A cluster goes by its first server.
    let server = kafka.split(',').next().unwrap_or_default().trim();
    names.into_iter().map(|name| Dataset { namespace: format!("kafka://{server}"), name }).collect()
}

fn object(address: &str) -> Option<Dataset> {
    let (bucket, key) = address.strip_prefix("s3://")?.split_once('/')?;
    Some(Dataset { namespace: format!("s3://{bucket}"), name: key.to_owned() })
}

fn text<'a>(output: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    output.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(datasets: &BTreeSet<Dataset>) -> Vec<String> {
        datasets.iter().map(|dataset| format!("{} {}", dataset.namespace, dataset.name)).collect()
    }

    #[test]
    fn data_has_the_names_that_others_give_it() {
        let produced = json!({"topics": {"u.pin": {"table": "pin", "columns": [], "drawn": 1, "produced": 1,
            "dead_lettered": 0, "partitions": {}}}});
        let sunk = json!({"bucket": "b", "topics_dir": "topics", "topics": {"u.pin": {"records": 1, "dead_lettered": 0,
            "duplicates": 0, "foreign": 0, "tombstones": 0, "objects": 1, "bytes": 1, "partitions": {}}}});
        let transformed = json!({"results": {"top": {"objects": ["s3://r/results/top.json"]}}});
        let object = |value: &Value| value.as_object().unwrap().clone();
        let kafka = "a:9092,b:9092";
        assert_eq!(named(&written_by("produce", &object(&produced), kafka)), ["kafka://a:9092 u.pin"]);
        assert_eq!(named(&written_by("sink", &object(&sunk), kafka)), ["s3://b topics/u.pin"]);
        assert_eq!(named(&read_by("sink", Some(&object(&sunk)), &[], kafka)), ["kafka://a:9092 u.pin"]);
        let sunk = object(&sunk);
        assert_eq!(named(&read_by("transform", None, &[("sink", &sunk)], kafka)), ["s3://b topics/u.pin"]);
        assert_eq!(named(&written_by("transform", &object(&transformed), kafka)), ["s3://r results/top.json"]);
        assert!(["produce", "sink", "transform"].into_iter().all(names_data) && !names_data("bash"));
        assert!(written_by("bash", &sunk, kafka).is_empty() && written_by("sink", &Map::new(), kafka).is_empty());
    }

    #[test]
    fn an_attempt_has_an_id_of_its_own_and_the_dags_run_as_its_parent() {
        let (dag, task) = ("orders".parse().unwrap(), "load".parse().unwrap());
        let event = |attempt| LineageEvent {
            namespace: "shop",
            event: EventType::Fail,
            at: Timestamp::from_timestamp(5, 0).unwrap(),
            dag_id: &dag,
            run: Uuid::from_u128(7),
            nominal: (Timestamp::from_timestamp(0, 0).unwrap(), Timestamp::from_timestamp(1, 0).unwrap()),
            attempt,
            error: Some("no"),
            inputs: BTreeSet::new(),
            outputs: BTreeSet::new(),
        };
        let of = |fence| event(Some((TaskIndex(0), &task, "bash", fence))).to_json();
        let (first, second, whole) = (of(1), of(2), event(None).to_json());
        assert_ne!(first["run"]["runId"], second["run"]["runId"]);
        assert_eq!(first["run"]["facets"]["parent"]["run"]["runId"], whole["run"]["runId"]);
        assert_eq!((&first["job"]["name"], &whole["job"]["name"]), (&json!("orders.load"), &json!("orders")));
        assert_eq!(first["eventTime"], "1970-01-01T00:00:05.000000Z");
    }
}
