//! The accounts of runs with several tasks of a kind: each sink answers for what it took itself.

use pinsched::engine::operator::Failure;
use serde_json::{Value, json};

use super::{Bench, posts};

const SUNK: &str = "sunk";

impl Bench {
    /// Runs a task and hands its output to those that follow; what its log says of topics.
    async fn finish(&mut self, task: &str, operator: &str, config: Value) -> Vec<String> {
        let mut attempt = self.run.claim(task).await;
        let output = crate::attempts::run(&attempt.context, operator, config).await.unwrap();
        self.run.finished(task, operator, Value::Object(output));
        let lines = attempt.log.lines().into_iter();
        lines.filter(|line| line.starts_with("topic `")).map(|line| line.replace(&self.user, "u")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_draws_of_different_sizes_balance_at_one_sink() {
    let mut bench = Bench::with_source(&posts(40, 1)).await;
    let pin = json!({"pin": {"table": "pinterest_data", "key": "index"}});
    let geo = json!({"geo": {"table": "geolocation_data", "key": "ind"}});
    for (suffix, rows, tables) in [("a", 10, &pin), ("b", 20, &geo), ("c", 5, &pin)] {
        let (draw, send) = (format!("draw_{suffix}"), format!("send_{suffix}"));
        bench.finish(&draw, "emulate", json!({"rows": rows, "tables": tables})).await;
        bench.finish(&send, "produce", json!({"topics": bench.topics(), "from": draw})).await;
    }
    let config = json!({"topics": format!("{}.*", bench.user), "bucket": SUNK});
    assert_eq!(
        bench.finish("sink", "sink", config).await,
        [
            "topic `u.geo`: 20 drawn, 20 produced, 20 sunk, 0 dead-lettered",
            "topic `u.pin`: 15 drawn, 15 produced, 15 sunk, 0 dead-lettered",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_behind_another_one_balances_by_itself() {
    let mut bench = Bench::with_source(&posts(30, 1)).await;
    bench.finish("draw", "emulate", json!({})).await;
    bench.finish("send", "produce", json!({"topics": bench.topics()})).await;
    let config = |format: &str| json!({"topics": format!("{}.*", bench.user), "bucket": SUNK, "topics_dir": format, "format": format});
    let (lines, columns) = (config("json"), config("parquet"));
    let sunk = ["geo", "pin", "user"]
        .map(|table| format!("topic `u.{table}`: 30 drawn, 30 produced, 30 sunk, 0 dead-lettered"));
    assert_eq!(bench.finish("lines", "sink", lines).await, sunk);
    assert_eq!(bench.finish("columns", "sink", columns.clone()).await, sunk);

    // A row that its produce counts and that is not in Kafka is missed by the sink, whoever else sank all there is.
    let send = "send".parse().unwrap();
    let topic = bench.topic("geo");
    let upstream = bench.run.upstream.get_mut(&send).unwrap();
    let mut produced = (*upstream.output).clone();
    produced["topics"][&topic]["produced"] = json!(31);
    produced["topics"][&topic]["drawn"] = json!(31);
    upstream.output = produced.into();
    let failure = bench.run.run("again", "sink", columns).await.unwrap_err();
    let missed = format!("not every row arrived: topic `{topic}`: 31 drawn, 31 produced, 30 sunk, 0 dead-lettered");
    assert_eq!(failure, Failure::Fatal(missed));
}
