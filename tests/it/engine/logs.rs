//! The logs of attempts: whole, in order, and there to be followed while the attempt runs.

use std::time::Duration;

use pinsched::domain::run_state::RunState;
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::drive;
use crate::dags::{House, Play};

async fn log(house: &House, play: &Play, fence: i64) -> String {
    let chunks = house.store.read_log(play.run.key, play.task("talk"), fence, 0).await.unwrap();
    let numbers: Vec<i32> = chunks.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (0..i32::try_from(chunks.len()).unwrap()).collect::<Vec<_>>());
    chunks.into_iter().map(|(_, body)| body).collect()
}

#[tokio::test]
async fn each_attempt_has_its_own_log() {
    let house = House::open().await;
    let play = house
        .play("orders: {tasks: {talk: {operator: script, acts: [fail, succeed], retries: 1, retry_delay: 0.01}}}")
        .await;
    assert_eq!(drive(&house, &play).await, RunState::Success);
    assert_eq!(log(&house, &play, 1).await, "attempt 1 begins\nexit status 1\n", "the reason is its last line");
    assert_eq!(log(&house, &play, 2).await, "attempt 2 begins\ndone\n");
    assert_eq!(log(&house, &play, 3).await, "");
}

/// The end is where the error stands: it is written however much was said before, and however fast.
#[tokio::test]
async fn a_log_that_comes_all_at_once_is_written_to_its_end() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {talk: {operator: script, acts: [flood]}}}").await;
    // The database takes nothing until the attempt has been over for longer than what is left behind may still talk.
    let mut holder = PgConnection::connect(house.url.expose_secret()).await.unwrap();
    holder.execute("BEGIN; LOCK TABLE attempt_log IN EXCLUSIVE MODE").await.unwrap();
    let release = async {
        play.stage.wait_for("its end", |scene| scene.is_over("talk", 1)).await;
        holder.execute("SELECT pg_sleep(2.5)").await.unwrap();
        holder.execute("COMMIT").await.unwrap();
    };
    let (state, ()) = tokio::join!(drive(&house, &play), release);
    assert_eq!(state, RunState::Success);
    let (mut next, mut lines, mut last) = (0, 0, String::new());
    loop {
        let chunks = house.store.read_log(play.run.key, play.task("talk"), 1, next).await.unwrap();
        let Some((seq, body)) = chunks.last() else { break };
        next = seq + 1;
        last = body.lines().last().unwrap_or_default().to_owned();
        lines += chunks.iter().map(|(_, body)| body.lines().count()).sum::<usize>();
    }
    assert_eq!((lines, last.as_str()), (800_002, "done"));
}

/// A task that never stops talking must not be silent until it has said 64 KiB.
#[tokio::test]
async fn a_log_can_be_followed_while_the_task_talks_without_a_pause() {
    let house = House::open().await;
    let play = house.play("orders: {tasks: {talk: {operator: script, acts: [chat]}}}").await;
    let reader = async {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while !log(&house, &play, 1).await.contains("word 20\n") {
            look.tick().await;
        }
        assert!(play.stage.attempts().iter().any(|attempt| !attempt.ended), "it was read while the task talked");
        play.stage.open("talk");
    };
    let reader = async { tokio::time::timeout(Duration::from_secs(60), reader).await.expect("words within 60 s") };
    let (state, ()) = tokio::join!(drive(&house, &play), reader);
    assert_eq!(state, RunState::Success);
    let text = log(&house, &play, 1).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[lines.len() - 1]), ("attempt 1 begins", "done"));
    for (number, line) in lines[1..lines.len() - 1].iter().enumerate() {
        assert_eq!(*line, format!("word {}", number + 1));
    }
}

/// The logs of tasks that talk at once are written together. One that the database refuses is in nobody's way.
#[tokio::test]
async fn a_log_that_is_refused_is_the_only_one_that_is_lost() {
    let house = House::open().await;
    let names: Vec<String> = (0..12).map(|place| format!("t{place}")).collect();
    let tasks: String = names.iter().map(|name| format!("\n    {name}: {{operator: script}}")).collect();
    let play = house.play(&format!("orders:\n  tasks:{tasks}")).await;
    let refused = play.task("t5");
    let mut holder = PgConnection::connect(house.url.expose_secret()).await.unwrap();
    let constraint = format!("ALTER TABLE attempt_log ADD CONSTRAINT refused CHECK (task_index <> {})", refused.0);
    holder.execute(AssertSqlSafe(constraint)).await.unwrap();
    // Until all have ended nothing is written: then it comes together.
    holder.execute("BEGIN; LOCK TABLE attempt_log IN EXCLUSIVE MODE").await.unwrap();
    let release = async {
        play.stage.wait_for("all ends", |scene| names.iter().all(|name| scene.is_over(name, 1))).await;
        holder.execute("COMMIT").await.unwrap();
    };
    let (state, ()) = tokio::join!(drive(&house, &play), release);
    assert_eq!(state, RunState::Success, "a task does not fail because of its log");
    for name in &names {
        let chunks = house.store.read_log(play.run.key, play.task(name), 1, 0).await.unwrap();
        let text: String = chunks.into_iter().map(|(_, body)| body).collect();
        assert_eq!(text, if name == "t5" { "" } else { "attempt 1 begins\ndone\n" }, "of {name}");
    }
}
