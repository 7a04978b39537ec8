//! What the outbox has of a run that is over, sent by itself.

use std::sync::Arc;

use pinsched::clock;
use pinsched::domain::control::{Action, Reach};
use pinsched::domain::ids::TaskIndex;
use pinsched::domain::masking::Masks;
use pinsched::domain::run_state::RunState;
use pinsched::engine::exports::{Exporter, LineageReceiver, Receivers, TraceReceiver};
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::versions::Versions;
use pinsched::engine::{Driven, Engine};
use pinsched::store::{Exports, Mode, Request, Store};
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
        Self::beside(house, play).await
    }

    /// Of a run that is not driven yet; who works on it by the house's store or that engine writes the outbox.
    async fn told_of(text: &str) -> (Self, Engine) {
        let mut house = House::open().await;
        let wanted = Exports { traces: true, lineage: true };
        house.store = Store::connect_telling(&house.url, 6, wanted).await.unwrap();
        let play = house.play(text).await;
        let engine = Engine { store: house.store.clone(), ..house.engine().await };
        (Self::beside(house, play).await, engine)
    }

    async fn beside(house: House, play: Play) -> Self {
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

    /// Does something to tasks of the run.
    async fn clear(&self, tasks: &[TaskIndex]) {
        let request = Request { action: Action::Clear, tasks, reach: Reach::default(), words: "cleared" };
        self.house
            .store
            .change_tasks(self.play.run.key, &self.play.dag, request, Mode::Do, clock::now())
            .await
            .unwrap();
    }

    /// All that the outbox has, sent.
    async fn sent(&self) -> Vec<String> {
        while self.exporter.send_due(None).await.unwrap() > 0 {}
        events(&self.lineage.bodies())
    }

    /// Puts the end of each attempt into the outbox; how many they are.
    async fn put_ends(&mut self) -> u64 {
        let ends = "INSERT INTO export (run_key, kind, task_index, fence, map_of, is_end, happened_at, due_at)
                    SELECT a.run_key, 'lineage', a.task_index, a.fence, t.map_of, true, a.finished_at, a.finished_at
                    FROM attempt AS a
                    JOIN task_run AS t ON t.run_key = a.run_key AND t.task_index = a.task_index";
        self.house.execute(ends).await
    }

    /// Puts the run's trace into the outbox.
    async fn put_trace(&mut self) {
        let trace = "INSERT INTO export (run_key, kind, is_end, run_end, happened_at, due_at)
                     SELECT id, 'trace', true, state, finished_at, finished_at FROM run";
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

#[tokio::test]
async fn the_attempts_of_instances_that_are_cleared_away_end_by_that() {
    let text = "orders: {tasks: {each: {operator: script, acts: [gate], expand: {say: [a, b]}}}}";
    let (outbox, engine) = Outbox::told_of(text).await;
    let (run, shutdown) = (outbox.house.running(&outbox.play).await, Shutdown::default());
    let cleared = async {
        let stage = &outbox.play.stage;
        stage.wait_for("both instances", |scene| scene.runs("each[0]") && scene.runs("each[1]")).await;
        outbox.clear(&[outbox.play.task("each")]).await;
        ["each[0]", "each[1]"].iter().for_each(|instance| stage.open(instance));
    };
    let (driven, ()) = tokio::join!(engine.drive(run, &shutdown), cleared);
    assert_eq!(driven.unwrap(), Driven::Concluded(RunState::Success));
    let told = outbox.sent().await;
    let count = |event: &str| told.iter().filter(|told| *told == event).count();
    assert_eq!(count("ABORT orders.each"), 2, "{told:?}");
    // Two expansions, and the instances of both.
    assert_eq!((count("START orders.each"), count("COMPLETE orders.each")), (6, 4), "{told:?}");
}

#[tokio::test]
async fn a_run_that_is_cleared_before_its_end_was_told_is_told_as_it_ended() {
    let text = "orders: {tasks: {one: {operator: script}, two: {operator: script, acts: [refuse, succeed]}}}";
    let (outbox, engine) = Outbox::told_of(text).await;
    let drive = async || {
        let run = outbox.house.running(&outbox.play).await;
        engine.drive(run, &Shutdown::default()).await.unwrap()
    };
    assert_eq!(drive().await, Driven::Concluded(RunState::Failed));
    outbox.clear(&[outbox.play.task("two")]).await;
    assert_eq!(drive().await, Driven::Concluded(RunState::Success));
    outbox.clear(&[outbox.play.task("one")]).await;
    let told = outbox.sent().await;
    let of_run: Vec<&String> = told.iter().filter(|told| told.ends_with(" orders")).collect();
    assert_eq!(
        of_run,
        ["COMPLETE orders", "FAIL orders", "START orders", "START orders", "START orders"],
        "it began once, and was cleared twice"
    );
    assert!(outbox.traces.bodies().is_empty(), "it goes on: its trace is told once it has ended");
}
