//! Records that do not fit: kept whole, with a reason, and counted; never in the way of the others.

use pinsched::engine::operator::Failure;
use serde_json::{Value, json};

use super::{Bench, Record, row, send};

fn poison(run: uuid::Uuid) -> Vec<Record> {
    let values: [&[u8]; 6] =
        [b"not json", b"{\"ind\": 1", b"[1, 2]", b"", b"{\"ind\":3,\"category\":\"art\"}", b"\xff\xfe"];
    let mut records: Vec<Record> = vec![Record::row(run, 0)];
    for (value, sequence) in values.into_iter().zip(1_u64..) {
        records.push(Record { stamp: Some((run, sequence)), ..Record::of(value) });
    }
    let oversized = format!("{{\"ind\":7,\"country\":\"{}\"}}", "x".repeat(2000));
    records.push(Record { stamp: Some((run, 7)), ..Record::of(oversized) });
    records.push(Record::row(run, 8));
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_becomes_a_dead_letter_with_its_reason() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("geo", 1).await;
    send(&topic, &poison(bench.run.uuid));
    bench.produced(&[(&topic, 9)]);
    let config = bench.config(json!({"columns": {"geo": ["ind", "country"]}, "max_record_bytes": 1000}));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["records"], 2);
    assert_eq!(output["topics"][&topic]["dead_lettered"], 7);
    assert_eq!(bench.lines("topics/").await, [row(0), row(8)]);

    let letters = bench.objects("dead-letter/").await;
    let reasons: Vec<String> = letters
        .iter()
        .map(|(key, body)| {
            let letter: Value = serde_json::from_slice(body).unwrap();
            let key = key.replace(&topic, "T");
            format!("{key} {}: {}", letter["offset"], letter["reason"].as_str().unwrap())
        })
        .collect();
    insta::assert_snapshot!(reasons.join("\n"), @r"
    dead-letter/T/partition=0/T+0+0000000001.json 1: it is not JSON: expected ident at line 1 column 2
    dead-letter/T/partition=0/T+0+0000000002.json 2: it is not JSON: EOF while parsing an object at line 1 column 9
    dead-letter/T/partition=0/T+0+0000000003.json 3: it is JSON but no object
    dead-letter/T/partition=0/T+0+0000000004.json 4: it is empty
    dead-letter/T/partition=0/T+0+0000000005.json 5: its columns are not the topic's: without `country`, with unexpected `category`
    dead-letter/T/partition=0/T+0+0000000006.json 6: it is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
    dead-letter/T/partition=0/T+0+0000000007.json 7: it has 2022 bytes, more than max_record_bytes (1000)
    ");
    let first = letters.values().next().unwrap();
    let expected = json!({"topic": topic, "partition": 0, "offset": 1, "timestamp": 1_772_330_400_000_i64,
        "reason": "it is not JSON: expected ident at line 1 column 2", "key": "aw==", "value": "bm90IGpzb24="});
    assert_eq!(serde_json::from_slice::<Value>(first).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_from_produce_where_none_are_configured() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    send(&topic, &[Record::row(run, 0), Record { stamp: Some((run, 1)), ..Record::of("{\"ind\":1}") }]);
    let topics = json!({&topic: {"table": "pin", "columns": ["country", "ind"], "drawn": 2, "produced": 2,
                                 "dead_lettered": 0, "partitions": {"0": {"start": 0, "end": 2}}}});
    bench.run.finished("produce", "produce", json!({"topics": topics}));
    let config = bench.config(json!({}));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["dead_lettered"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_parquet_cannot_hold_is_in_nobodys_way() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    let deep = format!("{{\"ind\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    let values = ["{\"ind\":1e999}".to_owned(), deep, "{}".to_owned()];
    let mut records = vec![Record::row(run, 0)];
    records.extend(values.into_iter().zip(1..).map(|(value, n)| Record { stamp: Some((run, n)), ..Record::of(value) }));
    records.push(Record::row(run, 4));
    send(&topic, &records);
    bench.produced(&[(&topic, 5)]);
    let config = bench.config(json!({"format": "parquet"}));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(
        (&output["topics"][&topic]["records"], &output["topics"][&topic]["dead_lettered"]),
        (&json!(2), &json!(3))
    );
    // As JSON, which sets no bounds, all of them fit.
    let config = bench.config(json!({"topics_dir": "lines"}));
    let output = bench.run.run("lines", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["records"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_are_skipped_refused_or_written_as_keys() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    let tombstone = Record { value: None, key: Some(b"pin \"7\"".to_vec()), ..Record::row(run, 1) };
    let keyless = Record { value: None, key: None, ..Record::row(run, 2) };
    send(&topic, &[Record::row(run, 0), tombstone, keyless, Record::row(run, 3)]);
    bench.produced(&[(&topic, 4)]);

    let config = bench.config(json!({"topics_dir": "skipped"}));
    let output = bench.run.run("skip", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["tombstones"], 2);
    assert_eq!(bench.lines("skipped/").await, [row(0), row(3)]);

    let config = bench.config(json!({"tombstones": "fail", "topics_dir": "failed"}));
    let failure = bench.run.run("fail", "sink", config).await.unwrap_err();
    let text = format!("the record at {topic}/0 offset 1 has no value (`tombstones: fail`; `skip` and `write` go on)");
    assert_eq!(failure, Failure::Fatal(text));

    let config = bench.config(json!({"tombstones": "write", "topics_dir": "", "compression": "none"}));
    let output = bench.run.run("write", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["records"], 3);
    assert_eq!(output["topics"][&topic]["dead_lettered"], 1, "the one without a key");
    let keys = bench.objects(&format!("{topic}/tombstone/")).await;
    let key = format!("{topic}/tombstone/{topic}+0+0000000001.keys.json");
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), [(key, "\"pin \\\"7\\\"\"\n".into())]);
}
