//! Formats, compressions and partitioners, read back by others than their writers.

use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use super::{Bench, Record, row, send};

/// A bench with rows 0..6, half an hour apart from 2026-03-01T02:00Z.
async fn six_rows() -> (Bench, String) {
    let mut bench = Bench::start().await;
    let topic = bench.topic("geo", 1).await;
    let run = bench.run.uuid;
    let half_hours = |number: i64| 1_772_330_400_000 + number * 1_800_000;
    let records: Vec<Record> = (0..6)
        .map(|number| Record { timestamp: half_hours(number), ..Record::row(run, number.cast_unsigned()) })
        .collect();
    send(&topic, &records);
    bench.produced(&[(&topic, 6)]);
    (bench, topic)
}

async fn keys(config: Value) -> Vec<String> {
    let (mut bench, topic) = six_rows().await;
    let config = bench.config(config);
    bench.run.run("sink", "sink", config).await.unwrap();
    bench.objects("").await.into_keys().map(|key| key.replace(&topic, "T")).collect()
}

fn decompressed(mut reader: impl std::io::Read) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_lines_are_the_same_lines() {
    let (mut bench, topic) = six_rows().await;
    let lines: String = (0..6).map(|sequence| format!("{}\n", row(sequence))).collect();
    for (compression, extension) in [("gzip", ".json.gz"), ("zstd", ".json.zst")] {
        let config = bench.config(json!({"compression": compression, "topics_dir": compression}));
        bench.run.run(compression, "sink", config).await.unwrap();
        let key = format!("{compression}/{topic}/partition=0/{topic}+0+0000000000{extension}");
        let body = bench.objects(&format!("{compression}/")).await.remove(&key).unwrap();
        let text = match compression {
            "gzip" => decompressed(flate2::read::GzDecoder::new(&body[..])),
            _ => decompressed(zstd::Decoder::new(&body[..]).unwrap()),
        };
        assert_eq!(text, lines);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_is_readable() {
    let (mut bench, topic) = six_rows().await;
    let config = bench.config(json!({"format": "parquet", "flush_size": 4}));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["topics"][&topic]["objects"], 2);
    let objects = bench.objects("").await;
    let (key, body) = objects.into_iter().next().unwrap();
    assert_eq!(key, format!("topics/{topic}/partition=0/{topic}+0+0000000000.snappy.parquet"));
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().unwrap();
    insta::assert_snapshot!(pretty_format_batches(&batches).unwrap().to_string(), @r"
    +-----+---------+
    | ind | country |
    +-----+---------+
    | 0   | Chad    |
    | 1   | Åland   |
    | 2   | Chad    |
    | 3   | Åland   |
    +-----+---------+
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_in_a_zone_make_folders() {
    let config = json!({"partitioner": {"type": "hourly", "timezone": "Asia/Kolkata"}});
    insta::assert_snapshot!(keys(config).await.join("\n"), @r"
    topics/T/year=2026/month=03/day=01/hour=07/T+0+0000000000.json
    topics/T/year=2026/month=03/day=01/hour=08/T+0+0000000001.json
    topics/T/year=2026/month=03/day=01/hour=09/T+0+0000000003.json
    topics/T/year=2026/month=03/day=01/hour=10/T+0+0000000005.json
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_path_format_and_a_rotation_by_record_time() {
    let partitioner = json!({"type": "time", "path_format": "YYYY/'d'DD", "partition_duration": "1d"});
    let config = json!({"partitioner": partitioner, "rotate_interval": "1h"});
    insta::assert_snapshot!(keys(config).await.join("\n"), @r"
    topics/T/2026/d60/T+0+0000000000.json
    topics/T/2026/d60/T+0+0000000002.json
    topics/T/2026/d60/T+0+0000000004.json
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_folders_are_filled_at_once_unless_there_is_a_limit() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("geo", 1).await;
    let run = bench.run.uuid;
    let record = |n: u64| Record { stamp: Some((run, n)), ..Record::of(json!({"country": n % 100}).to_string()) };
    send(&topic, &(0..200).map(record).collect::<Vec<_>>());
    bench.produced(&[(&topic, 200)]);
    let field = json!({"type": "field", "field": "country"});
    for (limit, objects) in [(None, 100), (Some(99), 200)] {
        let mut config = bench.config(json!({"partitioner": field, "topics_dir": format!("at_{objects}")}));
        if let Some(limit) = limit {
            config["max_open_files"] = json!(limit);
        }
        let output = bench.run.run(&format!("sink_{objects}"), "sink", config).await.unwrap();
        assert_eq!(output["objects"], objects);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fields_values_make_folders_that_are_cut_together() {
    let config = json!({"partitioner": {"type": "field", "field": "country"}, "flush_size": 4});
    insta::assert_snapshot!(keys(config).await.join("\n"), @r"
    topics/T/country=Chad/T+0+0000000000.json
    topics/T/country=Chad/T+0+0000000004.json
    topics/T/country=Åland/T+0+0000000001.json
    topics/T/country=Åland/T+0+0000000005.json
    ");
}
