//! Each staged row is in its topic once, whatever stops the sending and whoever else sends.

use std::collections::BTreeMap;

use pinsched::engine::operator::Failure;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use super::{Bench, DEADLINE, Kafka, assert_exactly_once, comes_to, posts};
use crate::attempts;

const TABLES: [&str; 3] = ["pin", "geo", "user"];

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_once_with_key_headers_and_ranges() {
    for kafka in [Kafka::Apache, Kafka::Embedded] {
        send_twice(kafka).await;
    }
}

async fn send_twice(kafka: Kafka) {
    let mut bench = Bench::with_source_on(kafka, &posts(700, 1)).await;
    let staged = bench.emulate(json!({"rows": 600})).await;
    let staged = bench.staged(&staged).await;
    let config = json!({"topics": bench.topics(), "partitions": 3, "transaction_rows": 250});
    let output = bench.run.run("produce", "produce", config.clone()).await.unwrap();
    assert_eq!(
        (&output["rows"], &output["transactional"], &output["transactions"]),
        (&json!(600), &json!(true), &json!(3))
    );
    for table in TABLES {
        assert_exactly_once(&bench, &output, &staged, table);
        let topic = &output["topics"][bench.topic(table)];
        assert_eq!((&topic["table"], &topic["dead_lettered"]), (&json!(table), &json!(0)));
        assert_eq!(topic["partitions"].as_object().unwrap().len(), 3);
    }
    // The same task again sends nothing and says the same.
    assert_eq!(bench.run.run("produce", "produce", config).await.unwrap(), output);
    assert_exactly_once(&bench, &output, &staged, "pin");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_stopped_anywhere_is_gone_on_with() {
    for kafka in [Kafka::Apache, Kafka::Embedded] {
        stop_and_go_on(kafka).await;
    }
}

async fn stop_and_go_on(kafka: Kafka) {
    let mut bench = Bench::with_source_on(kafka, &posts(600, 1)).await;
    let staged = bench.emulate(json!({})).await;
    let staged = bench.staged(&staged).await;
    let config = json!({"topics": bench.topics(), "partitions": 2, "transaction_rows": 40});
    let mut stopped = 0;
    let output = loop {
        let mut attempt = bench.run.claim("produce").await;
        let sending = attempts::run(&attempt.context, "produce", config.clone());
        let before = stopped * 400;
        let stopping = async {
            comes_to(&attempt.context, before + 121).await;
            // Told to stop, or gone without a word, by turns.
            if stopped % 2 == 0 {
                attempt.context.cancel.cancel();
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = sending => match result {
                Ok(output) => break output,
                Err(failure) => assert_eq!(failure, Failure::Interrupted),
            },
            () = stopping => {}
        }
        if stopped > 0 {
            assert!(attempt.log.lines().iter().any(|line| line.starts_with("going on after ")));
        }
        stopped += 1;
    };
    assert!(stopped >= 3, "{stopped}");
    for table in TABLES {
        assert_exactly_once(&bench, &output, &staged, table);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_still_sends_is_fenced() {
    for kafka in [Kafka::Apache, Kafka::Embedded] {
        send_against_a_zombie(kafka).await;
    }
}

async fn send_against_a_zombie(kafka: Kafka) {
    let mut bench = Bench::with_source_on(kafka, &posts(500, 1)).await;
    let staged = bench.emulate(json!({})).await;
    let staged = bench.staged(&staged).await;
    let config = json!({"topics": bench.topics(), "transaction_rows": 5});
    let zombie = bench.run.claim("produce").await;
    // It sends with the lease it had, and goes on when another holds the task by now.
    let succeeding = async {
        comes_to(&zombie.context, 150).await;
        bench.run.run("produce", "produce", config.clone()).await
    };
    let (zombie, output) = tokio::join!(attempts::run(&zombie.context, "produce", config.clone()), succeeding);
    assert_eq!(zombie, Err(Failure::Interrupted));
    for table in TABLES {
        assert_exactly_once(&bench, output.as_ref().unwrap(), &staged, table);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_left_open_by_a_dead_attempt_is_aborted() {
    for kafka in [Kafka::Apache, Kafka::Embedded] {
        send_after_a_dead_one(kafka).await;
    }
}

async fn send_after_a_dead_one(kafka: Kafka) {
    let mut bench = Bench::with_source_on(kafka, &posts(30, 1)).await;
    let staged = bench.emulate(json!({})).await;
    let staged = bench.staged(&staged).await;
    let mut config = bench.client();
    config.set("transactional.id", format!("pinsched-{}-produce", bench.run.uuid));
    let dead: BaseProducer = config.create().unwrap();
    dead.init_transactions(DEADLINE).unwrap();
    dead.begin_transaction().unwrap();
    dead.send(BaseRecord::<str, str>::to(&bench.topic("pin")).key("1").payload("{}")).unwrap();
    dead.flush(DEADLINE).unwrap();

    let output = bench.run.run("produce", "produce", json!({"topics": bench.topics()})).await.unwrap();
    assert!(dead.commit_transaction(DEADLINE).is_err());
    assert_exactly_once(&bench, &output, &staged, "pin");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_that_is_gone_stops_the_run_rather_than_sending_twice() {
    let mut bench = Bench::with_source(&posts(60, 1)).await;
    bench.emulate(json!({})).await;
    let config = json!({"topics": bench.topics(), "transaction_rows": 20});
    bench.run.run("produce", "produce", config.clone()).await.unwrap();
    let admin: rdkafka::admin::AdminClient<_> = bench.client().create().unwrap();
    let group = format!("pinsched-{}-produce", bench.run.uuid);
    admin.delete_groups(&[&group], &rdkafka::admin::AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let result = bench.run.run("produce", "produce", config).await;
    let Err(Failure::Fatal(message)) = result else { panic!("{result:?}") };
    assert!(message.starts_with(&format!("the progress of group `{group}` is gone from Kafka")), "{message}");
    assert_eq!(bench.records("pin").len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_what_is_sent_again_can_be_told_by_its_sequence() {
    for keys in [json!({"transactions": "off"}), json!({"acks": 1})] {
        send_without_transactions(keys).await;
    }
}

async fn send_without_transactions(keys: Value) {
    let mut bench = Bench::with_source(&posts(400, 1)).await;
    let staged = bench.emulate(json!({})).await;
    let staged = bench.staged(&staged).await;
    let mut config = json!({"topics": bench.topics(), "transaction_rows": 20});
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let attempt = bench.run.claim("produce").await;
    tokio::select! {
        result = attempts::run(&attempt.context, "produce", config.clone()) => panic!("{result:?}"),
        () = comes_to(&attempt.context, 120) => {}
    }
    let mut attempt = bench.run.claim("produce").await;
    let output = attempts::run(&attempt.context, "produce", config).await.unwrap();
    assert_eq!((&output["transactional"], &output["transactions"]), (&json!(false), &json!(0)));
    // What was acknowledged is not sent again, but for the batch whose progress was not kept yet.
    let log = attempt.log.lines();
    let gone_on: Vec<u64> = log
        .iter()
        .filter_map(|line| line.strip_prefix("going on after ")?.strip_suffix(" of 400 rows")?.parse().ok())
        .collect();
    assert!(matches!(gone_on[..], [rows] if rows >= 20 && rows % 20 == 0), "{log:?}");
    for table in TABLES {
        let records = bench.records(table);
        assert!(records.iter().filter(|record| record.sequence == 0).count() == 1, "the first batch came twice");
        // As the sink reads: within a partition a sequence at or below the mark is a repetition.
        let (mut kept, mut mark) = (Vec::new(), None);
        for record in records {
            if mark.is_none_or(|mark| record.sequence > mark) {
                mark = Some(record.sequence);
                kept.push(record.value);
            }
        }
        let wanted: Vec<_> = staged.iter().map(|row| row[table].clone()).collect();
        assert_eq!(kept, wanted);
    }
}

#[tokio::test]
async fn progress_of_what_was_not_started_is_refused() {
    let mut bench = Bench::start().await;
    let attempt = bench.run.claim("produce").await.context.attempt;
    let store = bench.run.store.clone();
    let none = "the database holds a production to move on `none: it was not started`, which is none";
    assert_eq!(store.begin_production(attempt).await.unwrap_err().to_string(), none);
    assert_eq!(store.advance_production(attempt, 5, &BTreeMap::new()).await.unwrap_err().to_string(), none);
    store.start_production_if_first(attempt, true, &BTreeMap::new()).await.unwrap();
    store.begin_production(attempt).await.unwrap();
    // With transactions Kafka alone knows the progress.
    let refused = store.advance_production(attempt, 5, &BTreeMap::new()).await.unwrap_err().to_string();
    assert!(refused.contains("transactional: true, rows done: 0"), "{refused}");
}
