//! Workers that die, lose their leases or their database: each task still succeeds exactly once.

use pinsched::clock;
use pinsched::domain::run_state::RunState;
use pinsched::domain::task_state::{AttemptOutcome, TaskEvent, TaskState};
use pinsched::engine::shutdown::Shutdown;
use pinsched::engine::{Driven, EngineError};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::drive;
use crate::dags::{House, Play};

/// Begins to drive the run and vanishes, as by `kill -9`, once `task` runs under `fence`.
async fn vanish_during(house: &House, play: &Play, task: &str, fence: i64) {
    let engine = house.engine().await;
    let run = house.running(play).await;
    let shutdown = Shutdown::default();
    tokio::select! {
        driven = engine.drive(run, &shutdown) => panic!("it ended: {driven:?}"),
        () = play.stage.wait_for(task, |scene| scene.is_running(task, fence)) => {}
    }
}

/// Each task was completed once, and no two attempts of it ran at the same time.
async fn assert_exactly_once(house: &House, play: &Play) {
    for (task, successes) in house.happened(play, "succeeded").await {
        assert_eq!(successes, 1, "of task {}", task.0);
    }
    for attempt in play.stage.attempts() {
        assert!(!attempt.overlapped, "{attempt:?} ran beside another");
    }
}

#[tokio::test]
async fn what_a_vanished_worker_left_is_taken_over_at_once_and_costs_no_try() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    early: {operator: script, say: from before}
    slow: {operator: script, dependencies: [early], acts: [hang, succeed]}
    next: {operator: script, dependencies: [slow], say: \"{{ outputs.early.said }}\"}",
        )
        .await;
    vanish_during(&house, &play, "slow", 1).await;
    let left = house.picture(&play).await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    insta::assert_snapshot!(format!("{left}\n\n{}", house.picture(&play).await));
    assert_exactly_once(&house, &play).await;
    let next = house.store.task_runs(play.run.key).await.unwrap().pop().unwrap();
    assert_eq!(next.output.unwrap()["said"], "from before", "the new worker knows what the old one's tasks left");
}

#[tokio::test]
async fn a_task_that_kills_its_worker_five_times_fails() {
    let house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    deadly: {operator: script, acts: [hang], retries: 9}
    next: {operator: script, dependencies: [deadly]}",
        )
        .await;
    for fence in 1..=5 {
        vanish_during(&house, &play, "deadly", fence).await;
    }
    assert_eq!(drive(&house, &play).await, RunState::Failed);
    insta::assert_snapshot!(house.picture(&play).await);
}

/// Gives the task to a worker that shows no sign of life, as a host would see it that hung and came back.
async fn claim_behind_its_back(house: &mut House, play: &Play, task: &str) {
    let (run, task) = (play.run.key.0, play.task(task).0);
    let statements = [
        "INSERT INTO worker (hostname, pid, started_at) VALUES ('elsewhere', 1, clock_timestamp())".to_owned(),
        format!(
            "UPDATE task_run SET fence = fence + 1, worker_id = (SELECT max(id) FROM worker) \
             WHERE run_key = {run} AND task_index = {task} AND state = 'running'"
        ),
        format!(
            "INSERT INTO attempt (run_key, task_index, fence, try_number, worker_id, started_at) \
             SELECT run_key, task_index, fence, try_number, worker_id, clock_timestamp() FROM task_run \
             WHERE run_key = {run} AND task_index = {task}"
        ),
    ];
    for statement in statements {
        assert_eq!(house.execute(&statement).await, 1, "{statement}");
    }
}

#[tokio::test]
async fn the_end_of_an_attempt_that_lost_its_lease_is_refused() {
    let mut house = House::open().await;
    let play = house
        .play("orders: {tasks: {slow: {operator: script, acts: [gate, succeed]}, next: {operator: script, dependencies: [slow]}}}")
        .await;
    let engine = house.engine().await;
    let running = house.running(&play).await;
    let shutdown = Shutdown::default();
    let driven = engine.drive(running, &shutdown);
    let thief = async {
        play.stage.wait_for("`slow`", |scene| scene.is_running("slow", 1)).await;
        claim_behind_its_back(&mut house, &play, "slow").await;
        play.stage.open("slow");
    };
    let (driven, ()) = tokio::join!(driven, thief);
    assert_eq!(driven.unwrap(), Driven::Concluded(RunState::Success));
    let attempts = house.store.attempts(play.run.key, play.task("slow")).await.unwrap();
    let kept: Vec<_> = attempts.iter().map(|at| (at.fence, at.outcome.map(AttemptOutcome::as_str))).collect();
    assert_eq!(kept, [(1, None), (2, Some("lost")), (3, Some("success"))]);
    assert_exactly_once(&house, &play).await;
}

#[tokio::test]
async fn an_attempt_that_lost_its_lease_is_stopped_and_writes_nothing() {
    let mut house = House::open().await;
    let play = house.play("orders: {tasks: {slow: {operator: script, acts: [hang, gate, gate]}}}").await;
    let engine = house.engine().await;
    let running = house.running(&play).await;
    let shutdown = Shutdown::default();
    let driven = engine.drive(running, &shutdown);
    let thief = async {
        play.stage.wait_for("`slow`", |scene| scene.is_running("slow", 1)).await;
        claim_behind_its_back(&mut house, &play, "slow").await;
        play.stage.wait_for("its stop", |scene| scene.is_over("slow", 1)).await;
        play.stage.open("slow");
    };
    let (driven, ()) = tokio::join!(driven, thief);
    assert_eq!(driven.unwrap(), Driven::Concluded(RunState::Success));
    let history = house.store.transitions(play.run.key).await.unwrap();
    let under_first: Vec<TaskEvent> = history.iter().filter(|t| t.fence == 1).map(|t| t.event).collect();
    assert_eq!(under_first, [TaskEvent::Claimed], "nothing was written under the fence that was lost");
    assert_exactly_once(&house, &play).await;
}

/// Ends every connection to the test's database but the test's own.
async fn cut_connections(house: &mut House) {
    house
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_its_connections_and_each_task_succeeds_once() {
    let mut house = House::open().await;
    let play = house
        .play(
            "orders:
  tasks:
    first: {operator: script, acts: [gate]}
    second: {operator: script, dependencies: [first], acts: [gate], say: \"try {{ outputs.first.attempt }}\"}
    third: {operator: script, dependencies: [second], acts: [gate]}
    beside: {operator: script, acts: [gate]}",
        )
        .await;
    let engine = house.engine().await;
    let running = house.running(&play).await;
    let shutdown = Shutdown::default();
    let driven = engine.drive(running, &shutdown);
    let cutter = async {
        for task in ["first", "second", "third"] {
            play.stage.wait_for(task, |scene| scene.runs(task)).await;
            cut_connections(&mut house).await;
            play.stage.open(task);
        }
        play.stage.open("beside");
    };
    let (driven, ()) = tokio::join!(driven, cutter);
    assert_eq!(driven.unwrap(), Driven::Concluded(RunState::Success));
    assert_exactly_once(&house, &play).await;
    for task in house.store.task_runs(play.run.key).await.unwrap() {
        assert_eq!((task.try_number, task.lost), (1, 0), "a lost connection costs no try, and no worker died");
    }
}

/// As of one that read from the server that went away, and noticed it first.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_failed_as_the_database_went_away_costs_no_try() {
    let mut house = House::open().await;
    let play = house.play("orders: {tasks: {slow: {operator: script, acts: [fail_at_gate, succeed]}}}").await;
    let engine = house.engine().await;
    let (running, shutdown) = (house.running(&play).await, Shutdown::default());
    let cutter = async {
        play.stage.wait_for("`slow`", |scene| scene.is_running("slow", 1)).await;
        cut_connections(&mut house).await;
        play.stage.open("slow");
    };
    let (driven, ()) = tokio::join!(engine.drive(running, &shutdown), cutter);
    assert_eq!(driven.unwrap(), Driven::Concluded(RunState::Success));
    let outcomes: Vec<_> = house.store.attempts(play.run.key, play.task("slow")).await.unwrap();
    let outcomes: Vec<_> = outcomes.iter().map(|at| (at.try_number, at.outcome.map(AttemptOutcome::as_str))).collect();
    assert_eq!(outcomes, [(1, Some("lost")), (1, Some("success"))]);
}

/// The first steps that end a task are refused for a reason that passes, as a deadlock is; for longer than leases go
/// without a renewal.
#[tokio::test]
async fn a_step_that_the_database_refuses_is_done_again_and_its_attempts_are_not() {
    let mut house = House::open().await;
    let play = house
        .play("orders: {tasks: {extract: {operator: script}, load: {operator: script, dependencies: [extract]}}}")
        .await;
    for statement in [
        "CREATE SEQUENCE refused",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
            IF nextval('refused') <= 20 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '40P01'; END IF;
            RETURN NEW;
         END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON task_run FOR EACH ROW WHEN (NEW.state = 'success')
         EXECUTE FUNCTION refuse()",
    ] {
        house.execute(statement).await;
    }
    assert_eq!(drive(&house, &play).await, RunState::Success);
    let claimed = house.happened(&play, "claimed").await;
    assert!(claimed.iter().all(|(_, claims)| *claims == 1), "{claimed:?}");
    assert_exactly_once(&house, &play).await;
}

/// Waits until the engine ends with an error while its task runs.
async fn fails_while_running(house: &House, play: &Play, disturb: impl Future<Output = ()>) -> EngineError {
    let engine = house.engine().await;
    let (running, shutdown) = (house.running(play).await, Shutdown::default());
    let disturber = async {
        play.stage.wait_for("`slow`", |scene| scene.is_running("slow", 1)).await;
        disturb.await;
    };
    let (driven, ()) = tokio::join!(engine.drive(running, &shutdown), disturber);
    driven.unwrap_err()
}

#[tokio::test]
async fn a_driver_that_was_taken_for_dead_stops_its_attempts_and_names_who_drives_now() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {slow: {operator: script, acts: [hang]}}}").await;
    let heir = house.store.register_worker("elsewhere", 77, clock::now()).await.unwrap();
    let take = format!("UPDATE run SET owner_id = {} WHERE id = {}", heir.worker.0, play.run.key.0);
    let mut sql = PgConnection::connect(house.url.expose_secret()).await.unwrap();
    let error = fails_while_running(&house, &play, async {
        sql.execute(AssertSqlSafe(take)).await.unwrap();
    })
    .await;
    assert!(matches!(&error, EngineError::Driven { hostname, pid: 77 } if hostname == "elsewhere"), "{error}");
    assert!(play.stage.attempts().iter().all(|attempt| attempt.ended), "it goes on with what is another's");
    let task = house.store.task_runs(play.run.key).await.unwrap().remove(0);
    assert_eq!(task.state, TaskState::Running, "nothing is written by who does not drive");
}

#[tokio::test]
async fn a_run_that_is_deleted_while_it_runs_ends_its_driver() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {slow: {operator: script, acts: [hang]}}}").await;
    let delete = format!("DELETE FROM run WHERE id = {}", play.run.key.0);
    let mut sql = PgConnection::connect(house.url.expose_secret()).await.unwrap();
    let error = fails_while_running(&house, &play, async {
        sql.execute(AssertSqlSafe(delete)).await.unwrap();
    })
    .await;
    assert!(matches!(error, EngineError::RunGone), "{error}");
    assert!(play.stage.attempts().iter().all(|attempt| attempt.ended));
}

/// The connections are cut while steps are being written: their outcome is unknown to the engine.
#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_in_the_middle_of_steps_lose_and_double_nothing() {
    let mut house = House::open().await;
    let mut text = "orders:\n  tasks:\n    t0: {operator: script}".to_owned();
    for n in 1..300 {
        text.push_str(&format!("\n    t{n}: {{operator: script, dependencies: [t{}]}}", n - 1));
    }
    let play = house.play(&text).await;
    let engine = house.engine().await;
    let running = house.running(&play).await;
    let shutdown = Shutdown::default();
    let driven = engine.drive(running, &shutdown);
    let cutter = async {
        for count in [20, 60, 150] {
            play.stage.wait_for("more attempts", |scene| scene.attempts.len() >= count).await;
            cut_connections(&mut house).await;
        }
    };
    let (driven, ()) = tokio::join!(driven, cutter);
    assert_eq!(driven.unwrap(), Driven::Concluded(RunState::Success));
    assert_exactly_once(&house, &play).await;
}

#[tokio::test]
async fn a_run_has_one_driver_at_a_time() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {slow: {operator: script, acts: [gate]}}}").await;
    let engine = house.engine().await;
    let (running, shutdown) = (house.running(&play).await, Shutdown::default());
    let first = engine.drive(running, &shutdown);
    let second = async {
        play.stage.wait_for("`slow`", |scene| scene.is_running("slow", 1)).await;
        let refused = house.engine().await.drive(house.running(&play).await, &Shutdown::default()).await;
        play.stage.open("slow");
        refused
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.unwrap(), Driven::Concluded(RunState::Success));
    let refused = second.unwrap_err();
    assert!(matches!(&refused, EngineError::Driven { pid, .. } if *pid == std::process::id()), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_drivers_that_begin_at_once_one_drives() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {slow: {operator: script, acts: [gate]}}}").await;
    let run = house.running(&play).await;
    let mut drivers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (engine, run) = (house.engine().await, run.clone());
        drivers.spawn(async move { engine.drive(run, &Shutdown::default()).await });
    }
    for _ in 0..3 {
        let refused = drivers.join_next().await.unwrap().unwrap();
        assert!(matches!(refused, Err(EngineError::Driven { .. })), "{refused:?}");
    }
    play.stage.open("slow");
    assert_eq!(drivers.join_next().await.unwrap().unwrap().unwrap(), Driven::Concluded(RunState::Success));
    assert_exactly_once(&house, &play).await;
}
