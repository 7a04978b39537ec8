//! What the outbox has of a run that is over, sent by itself.

use std::sync::Arc;

use pinsched::domain::masking::Masks;
use pinsched::domain::run_state::RunState;
use pinsched::engine::exports::{Exporter, LineageReceiver, Receivers, TraceReceiver};
use pinsched::engine::versions::Versions;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{events, spans_of, trace};
use crate::dags::{House, Play};
use crate::engine::drive;
use crate::receivers::Receiver;
use crate::{attempts, script};

const MAPPED: &str = "orders:
  tasks:
    first: {operator: script}
    each: {operator: script, dependencies: [first], expand: {say: [one, two]}}
";

/// A run that was driven by somebody who had nobody to tell, and receivers that are told of it from now on.
struct Outbox {
    house: House,
    play: Play,
    exporter: Exporter,
    traces: Receiver,
    lineage: Receiver,
    _servers: JoinSet<()>,
}

impl Outbox {
    async fn of(text: &str) -> Self {
        let house = House::open().await;
        let play = house.play(text).await;
        assert_eq!(drive(&house, &play).await, RunState::Success);
        let (mut servers, traces, lineage) = (JoinSet::new(), Receiver::default(), Receiver::default());
        let (traces_url, lineage_url) = (traces.serve(&mut servers).await, lineage.serve(&mut servers).await);
        let receivers = Receivers {
            traces: Some(TraceReceiver {
                url: format!("{traces_url}/v1/traces").into(),
                headers: Vec::new(),
                resource: Vec::new(),
            }),
            lineage: Some(LineageReceiver {
                url: format!("{lineage_url}/api/v1/lineage").into(),
                api_key: None,
                namespace: "shop".to_owned(),
            }),
        };
        let versions = Arc::new(Versions::new(script::REGISTRATIONS));
        let endpoints = Arc::new(attempts::nowhere());
        let exporter = Exporter::new(house.store.clone(), versions, endpoints, Masks::default(), Arc::new(receivers));
        Self { house, play, exporter, traces, lineage, _servers: servers }
    }

    /// Puts the end of each attempt into the outbox; how many they are.
    async fn put_ends(&mut self) -> u64 {
        let ends = "INSERT INTO export (run_key, kind, task_index, fence, is_end, happened_at, due_at)
                    SELECT run_key, 'lineage', task_index, fence, true, finished_at, finished_at FROM attempt";
        self.house.execute(ends).await
    }

    /// Puts the run's trace into the outbox.
    async fn put_trace(&mut self) {
        let trace = "INSERT INTO export (run_key, kind, is_end, happened_at, due_at)
                     SELECT id, 'trace', true, finished_at, finished_at FROM run";
        assert_eq!(self.house.execute(trace).await, 1);
    }
}

#[tokio::test]
async fn instances_of_mapped_tasks_are_told_of_by_their_tasks_name_and_operator() {
    let mut outbox = Outbox::of(MAPPED).await;
    assert_eq!(outbox.put_ends().await, 4, "the expansion is an attempt of its own");
    outbox.put_trace().await;
    assert_eq!(outbox.exporter.send_due(None).await.unwrap(), 5);
    let bodies = outbox.lineage.bodies();
    assert_eq!(
        events(&bodies),
        ["COMPLETE orders.each", "COMPLETE orders.each", "COMPLETE orders.each", "COMPLETE orders.first"]
    );
    let mut runs: Vec<&Value> = bodies.iter().map(|body| &body["run"]["runId"]).collect();
    runs.sort_by_key(|run| run.to_string());
    runs.dedup();
    assert_eq!(runs.len(), 4, "each is a run of its own");
    let trace = trace(&outbox.traces).await;
    let spans = spans_of(&trace, "orders.each");
    assert!(spans.iter().all(|span| span["attributes"]["operator"] == "script"), "{trace}");
    let indexes: Vec<&Value> = spans.iter().map(|span| &span["attributes"]["map_index"]).collect();
    assert_eq!(indexes, [&Value::Null, &json!(0), &json!(1)], "{trace}");
    assert!(!outbox.exporter.has_more(outbox.play.run.key).await.unwrap());
}

/// It could be a hundred megabytes for each of them.
#[tokio::test]
async fn an_end_is_told_without_a_look_at_outputs_that_say_nothing_of_data() {
    let mut outbox = Outbox::of(MAPPED).await;
    let ends = outbox.put_ends().await;
    // Whoever reads one of these fails.
    assert!(outbox.house.execute("UPDATE task_output SET output = NULL, spilled = '{}'").await > 0);
    assert!(outbox.house.store.task_runs(outbox.play.run.key).await.is_err());
    assert_eq!(outbox.exporter.send_due(None).await.unwrap() as u64, ends);
    assert_eq!(outbox.lineage.bodies().len() as u64, ends);
}
