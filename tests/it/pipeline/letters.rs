//! Records that a topic does not take.

use pinsched::embedded::source::Post;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::{Value, json};

use super::{Bench, posts};
use crate::attempts;

fn admin(bench: &Bench) -> AdminClient<DefaultClientContext> {
    bench.client().create().unwrap()
}

/// Posts of which the one at `large` has a description that no small topic takes.
fn with_large(count: u32, large: usize) -> Vec<Post> {
    let mut posts = posts(count, 1);
    // Random enough that compression does not make it fit.
    posts[large].description =
        (0..400).map(|n| uuid::Uuid::from_u128(n * 0x9e37_79b9_7f4a_7c15_f39c).to_string()).collect();
    posts
}

async fn assert_one_letter(bench: &Bench, output: &Value, rows: usize, large: usize) {
    let topic = bench.topic("pin");
    assert_eq!(output["topics"][&topic]["dead_lettered"], 1, "{output}");
    assert_eq!(output["topics"][&topic]["produced"], rows - 1);
    assert_eq!(output["topics"][bench.topic("geo")]["dead_lettered"], 0);
    let mut sent: Vec<u64> = bench.records("pin").iter().map(|record| record.sequence).collect();
    sent.sort_unstable();
    let wanted: Vec<u64> = (0..rows as u64).filter(|&row| row != large as u64).collect();
    assert_eq!(sent, wanted);
    assert_eq!(bench.records("geo").len(), rows);
    let key = format!("dead-letter/{topic}/run={}/produce-{large}.json", bench.run.uuid);
    let letter: Value = serde_json::from_slice(&bench.s3.get("staging", &key).await.unwrap()).unwrap();
    assert_eq!((&letter["row"], &letter["key"]), (&json!(large), &json!(large.to_string())));
    assert_eq!(letter["value"]["index"], large);
    assert!(!letter["reason"].as_str().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_above_the_topics_limit_becomes_a_dead_letter() {
    let mut bench = Bench::with_source(&with_large(90, 41)).await;
    let topic = bench.topic("pin");
    let small = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "4000");
    admin(&bench).create_topics([&small], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    bench.emulate(json!({})).await;
    let config = json!({"topics": bench.topics(), "transaction_rows": 30});
    let output = Value::Object(bench.run.run("produce", "produce", config.clone()).await.unwrap());
    assert_one_letter(&bench, &output, 90, 41).await;
    // The count is part of the progress: a later attempt knows of letters that it did not write.
    assert_eq!(Value::Object(bench.run.run("produce", "produce", config).await.unwrap()), output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_only_the_broker_finds_too_large_is_found_out() {
    for transactions in ["required", "off"] {
        let mut bench = Bench::with_source(&with_large(400, 390)).await;
        bench.emulate(json!({})).await;
        let config = json!({"topics": bench.topics(), "transaction_rows": 8, "transactions": transactions});
        let mut attempt = bench.run.claim("produce").await;
        let topic = bench.topic("pin");
        let (sending, lines) = (attempts::run(&attempt.context, "produce", config), &mut attempt.log);
        let shrinking = async {
            // By now the limit was asked for; from now on it is another one, and even a few records together exceed it.
            while !lines.next_line().await.contains(".user`") {}
            let limit = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "4000");
            admin(&bench).alter_configs([&limit], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        };
        let (output, ()) = tokio::join!(sending, shrinking);
        let output = Value::Object(output.unwrap());
        assert_one_letter_once(&bench, &output, transactions).await;
    }
}

async fn assert_one_letter_once(bench: &Bench, output: &Value, transactions: &str) {
    if transactions == "required" {
        return assert_one_letter(bench, output, 400, 390).await;
    }
    // Without transactions what a refused batch stood beside is sent again; the sequences tell.
    let (mut kept, mut mark) = (Vec::new(), None);
    for record in bench.records("pin") {
        if mark.is_none_or(|mark| record.sequence > mark) {
            mark = Some(record.sequence);
            kept.push(record.sequence);
        }
    }
    assert_eq!(kept, (0..400).filter(|&row| row != 390).collect::<Vec<u64>>());
    assert_eq!(output["topics"][bench.topic("pin")]["dead_lettered"], 1);
}
