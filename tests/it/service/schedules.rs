//! Ticks become runs: each once, whoever is first, in their turn, and by their catchup.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use pinsched::clock;
use pinsched::domain::run_state::RunState;
use pinsched::domain::run_type::RunType;
use pinsched::store::Pause;

use super::Served;

/// PEERS: missed schedules pile up or are lost; a tick is a run, once.
#[tokio::test]
async fn each_tick_becomes_one_run_whichever_of_three_services_is_first() {
    let mut served = Served::nothing().await;
    served.write(
        "orders.yaml",
        "orders: {schedule: '* * * * * *', tasks: {one: {operator: script}, two: {operator: script, dependencies: [one]}}}",
    );
    for _ in 0..3 {
        served.start().await;
    }
    let done = async |house: &crate::dags::House| {
        let runs = house.store.list_runs(None, 1000).await.unwrap();
        (runs.iter().filter(|run| run.state == RunState::Success).count() >= 4).then_some(())
    };
    served.until("four runs", done).await;
    let runs = served.runs("orders").await;
    let dates: Vec<_> = runs.iter().map(|run| run.logical_date).collect();
    assert!(dates.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::seconds(1)), "no second is missing: {dates:?}");
    assert!(runs.iter().all(|run| run.run_type == RunType::Scheduled && run.rerun == 0));
    for run in runs.iter().filter(|run| run.state == RunState::Success) {
        let history = served.house.store.transitions(run.key).await.unwrap();
        let claims = history.iter().filter(|step| step.event.as_str() == "claimed").count();
        assert_eq!(claims, 2, "each attempt is executed by one worker");
    }
    served.stop().await;
}

/// PEERS: catchup off still runs something on unpause.
#[tokio::test]
async fn without_catchup_nothing_runs_before_the_next_tick_and_with_it_everything_does() {
    let start = (clock::now() - TimeDelta::days(3)).format("%Y-%m-%dT00:00:00Z");
    let dag = |name: &str, catchup: &str| {
        format!(
            "{name}: {{schedule: '@daily', start_date: '{start}', catchup: {catchup}, max_active_runs: 16, tasks: {{one: {{operator: script}}}}}}\n"
        )
    };
    let text = [("none", "none"), ("latest", "latest"), ("every", "all"), ("window", "{window: 2d, max: 1}")]
        .map(|(name, catchup)| dag(name, catchup))
        .concat();
    let served = Served::by_one(&[("orders.yaml", &text)]).await;
    let caught_up = async |house: &crate::dags::House| {
        let count = async |id: &str| house.store.list_runs(Some(&id.parse().unwrap()), 100).await.unwrap().len();
        (count("latest").await == 1 && count("every").await == 4 && count("window").await == 1).then_some(())
    };
    served.until("what was missed", caught_up).await;
    served.dag("none", |state| state.next_tick.is_some_and(|tick| tick > clock::now())).await;
    assert!(served.runs("none").await.is_empty());
    served.stop().await;
}

#[tokio::test]
async fn a_paused_dag_begins_nothing_and_goes_on_where_it_is_let() {
    let text = "orders: {schedule: '* * * * * *', is_paused_upon_creation: true, tasks: {one: {operator: script}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    served.dag("orders", |state| state.is_paused).await;
    let manual = served.trigger(text, "while_paused").await;
    assert_eq!(manual.state, RunState::Queued, "it waits for its DAG");
    let id = "orders".parse().unwrap();
    let let_go = clock::now();
    let begins = Some(let_go);
    assert_eq!(served.house.store.pause_dag(&id, Pause::GoOn { begins }).await.unwrap(), Some(true));
    assert_eq!(served.ended(&manual).await, RunState::Success);
    let scheduled = async |house: &crate::dags::House| {
        let runs = house.store.list_runs(Some(&"orders".parse().unwrap()), 100).await.unwrap();
        runs.into_iter().find(|run| run.run_type == RunType::Scheduled)
    };
    let first = served.until("a tick", scheduled).await;
    assert!(first.logical_date > let_go, "nothing of the pause runs");
    served.stop().await;
}

#[tokio::test]
async fn runs_wait_for_their_turn_oldest_first() {
    let text = "orders: {schedule: none, max_active_runs: 1, tasks: {one: {operator: script, acts: [gate]}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    served.dag("orders", |state| state.version.is_some()).await;
    let (first, second, third) =
        (served.trigger(text, "1").await, served.trigger(text, "2").await, served.trigger(text, "3").await);
    assert_eq!([first.state, second.state, third.state], [RunState::Running, RunState::Queued, RunState::Queued]);
    for run in [&first, &second, &third] {
        crate::script::Stage::of(run.uuid).open("one");
    }
    for run in [&first, &second, &third] {
        assert_eq!(served.ended(run).await, RunState::Success);
    }
    let mut begun = Vec::new();
    for run in [&first, &second, &third] {
        let run = served.house.store.run(run.key).await.unwrap().unwrap();
        begun.push((run.started_at.unwrap(), run.finished_at.unwrap()));
    }
    assert!(begun.windows(2).all(|pair| pair[0].1 <= pair[1].0), "one at a time, in order: {begun:?}");
    served.stop().await;
}

#[tokio::test]
async fn an_overlapping_tick_is_skipped_or_cancels_what_runs() {
    let text = "skips: {schedule: '* * * * * *', overlap: skip, tasks: {one: {operator: script, acts: [hang]}}}
cancels: {schedule: '* * * * * *', overlap: cancel_running, tasks: {one: {operator: script, acts: [hang]}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    let cancelled = async |house: &crate::dags::House| {
        let runs = house.store.list_runs(Some(&"cancels".parse().unwrap()), 100).await.unwrap();
        (runs.iter().filter(|run| run.state == RunState::Failed).count() >= 2).then_some(())
    };
    served.until("two runs that were cancelled by the next", cancelled).await;
    assert_eq!(served.runs("skips").await.len(), 1, "its first run goes on");
    served.stop().await;
}

/// PEERS: a run stays running after its worker died.
#[tokio::test]
async fn what_a_killed_service_left_another_goes_on_with() {
    let text = "orders: {schedule: none, tasks: {one: {operator: script, acts: [hang, succeed]}, two: {operator: script, dependencies: [one]}}}";
    let mut served = Served::nothing().await;
    served.write("orders.yaml", text);
    let victim = served.start().await;
    served.dag("orders", |state| state.version.is_some()).await;
    let run = served.trigger(text, "1").await;
    let stage = crate::script::Stage::of(run.uuid);
    stage.wait_for("`one`", |scene| scene.is_running("one", 1)).await;
    victim.abort();
    served.start().await;
    assert_eq!(served.ended(&run).await, RunState::Success);
    insta::assert_snapshot!(crate::dags::picture(&served.house.store, run.key).await.split_once('\n').unwrap().1, @r"
      one  success          attempt 1  lost 1
      two  success          attempt 1
    ");
    served.stop().await;
}

/// What a `pinsched run` left whose process is gone, a service takes up.
#[tokio::test]
async fn a_run_whose_process_is_gone_is_adopted() {
    let text = "orders: {schedule: none, tasks: {one: {operator: script}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    let sign = served.house.store.register_worker("here", 1, clock::now()).await.unwrap();
    let dag = crate::dags::dag(text);
    let begin = pinsched::store::Begin::DrivenBy(sign.worker);
    let new = pinsched::store::NewRun { begin, ..crate::dags::new_run(&dag, text) };
    let run = served.house.store.create_run(&new, clock::now()).await.unwrap();
    sign.end(clock::now()).await.unwrap();
    assert_eq!(served.ended(&run).await, RunState::Success);
    served.stop().await;
}

#[tokio::test]
async fn dates_have_each_its_place_in_a_backfill() {
    let text =
        "orders: {schedule: '@daily', start_date: 2026-01-01, max_active_runs: 1, tasks: {one: {operator: script}}}";
    let served = Served::by_one(&[("orders.yaml", text)]).await;
    let state = served.dag("orders", |state| state.version.is_some()).await;
    let dag = crate::dags::dag(text);
    let days: BTreeSet<_> = (1..=5).map(|day| format!("2026-01-0{day}T00:00:00Z").parse().unwrap()).collect();
    let runs = days
        .iter()
        .rev()
        .map(|day| pinsched::store::NewRun {
            run_id: RunType::Backfill.run_id(*day, 0),
            run_type: RunType::Backfill,
            logical_date: *day,
            ..crate::dags::new_run(&dag, text)
        })
        .collect();
    let new = pinsched::store::NewBackfill {
        dag: state.key,
        from: *days.first().unwrap(),
        to: *days.last().unwrap(),
        max_active_runs: 2,
        runs,
    };
    served.house.store.create_backfill(&new, clock::now()).await.unwrap();
    let done = async |house: &crate::dags::House| {
        let backfills = house.store.backfills().await.unwrap();
        (backfills[0].runs["success"] == 5).then_some(())
    };
    served.until("the backfill", done).await;
    let runs = served.runs("orders").await;
    let begun: Vec<_> = runs.iter().map(|run| (run.started_at.unwrap(), run.logical_date)).collect();
    let latest_first = begun.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 > pair[1].1);
    assert!(latest_first, "in the order in which they were given: {begun:?}");
    served.stop().await;
}
