//! What the store may answer: an object that is there, a bucket that is not, bodies larger than a part.

use bytes::Bytes;
use pinsched::clock;
use pinsched::connect::s3::PutOptions;
use pinsched::engine::operator::Failure;
use serde_json::json;

use super::{BUCKET, Bench, DEADLINE, Record, s3_endpoint, send};
use crate::attempts;

async fn two_rows() -> (Bench, String) {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    send(&topic, &[Record::row(run, 0), Record::row(run, 1)]);
    bench.produced(&[(&topic, 2)]);
    (bench, topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_create_ones_own_object_is_success_and_another_is_not() {
    let (mut bench, topic) = two_rows().await;
    let config = bench.config(json!({"put": "create"}));
    bench.run.run("first", "sink", config.clone()).await.unwrap();
    // The same range by a task that knows nothing of the first: as after a put whose answer was lost.
    bench.run.run("second", "sink", config.clone()).await.unwrap();

    let key = format!("topics/{topic}/partition=0/{topic}+0+0000000000.json");
    bench.s3.put(BUCKET, &key, Bytes::from_static(b"theirs"), PutOptions::default()).await.unwrap();
    let failure = bench.run.run("third", "sink", config).await.unwrap_err();
    let text = format!(
        "s3://{BUCKET}/{key} exists and is another object: it has 6 bytes, ours 56 (`put: create` replaces nothing)"
    );
    assert_eq!(failure, Failure::Fatal(text));

    let config = bench.config(json!({"put": "overwrite"}));
    bench.run.run("fourth", "sink", config).await.unwrap();
    assert_eq!(bench.lines("topics/").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_and_wrong_keys_say_what_to_do() {
    let (mut bench, _) = two_rows().await;
    let url = bench.server.endpoint_url();
    let config = bench.config(json!({"bucket": "no-such-bucket"}));
    let failure = bench.run.run("sink", "sink", config).await.unwrap_err();
    let text = format!(
        "could not find bucket s3://no-such-bucket: there is no bucket `no-such-bucket` at {url}/; create it (`aws s3 mb \
         s3://no-such-bucket`), or correct the task's `bucket` or the S3 endpoint, now {url}/"
    );
    assert_eq!(failure, Failure::Fatal(text));

    bench.run.endpoints.s3 = s3_endpoint(&bench.server, "wrong");
    let config = bench.config(json!({}));
    let failure = bench.run.run("sink", "sink", config).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("denies it")), "{failure:?}");
    assert!(!failure.to_string().contains("wrong"), "no secret in {failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_a_part_arrives_whole() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    let large = |sequence: u64| {
        let filler = char::from(b'a' + u8::try_from(sequence).unwrap()).to_string().repeat(900_000);
        Record { stamp: Some((run, sequence)), ..Record::of(json!({"ind": sequence, "text": filler}).to_string()) }
    };
    let records: Vec<Record> = (0..20).map(large).collect();
    send(&topic, &records);
    bench.produced(&[(&topic, 20)]);
    let config = bench.config(json!({}));
    let output = bench.run.run("sink", "sink", config).await.unwrap();
    assert_eq!(output["objects"], 1);
    let mut expected = Vec::new();
    for record in &records {
        expected.extend_from_slice(record.value.as_ref().unwrap());
        expected.push(b'\n');
    }
    let objects = bench.objects("").await;
    let (key, body) = objects.into_iter().next().unwrap();
    assert!(body == expected, "{} bytes are not the {} expected", body.len(), expected.len());
    let head = bench.s3.head(BUCKET, &key).await.unwrap().unwrap();
    assert_eq!(head.metadata["record-count"], "20");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_stopped_in_the_middle_of_an_object_leaves_no_parts_of_it() {
    let mut bench = Bench::start().await;
    let topic = bench.topic("pin", 1).await;
    let run = bench.run.uuid;
    let filler = "x".repeat(900_000);
    let record = |n: u64| Record { stamp: Some((run, n)), ..Record::of(json!({"ind": n, "text": filler}).to_string()) };
    // Some eight parts.
    send(&topic, &(0..70).map(record).collect::<Vec<_>>());
    bench.produced(&[(&topic, 70)]);
    let config = bench.config(json!({}));
    let attempt = bench.run.claim("sink").await;
    let folder = bench.folder.path().to_owned();
    let parts = move || {
        let entries = std::fs::read_dir(&folder).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("upload")).count()
    };
    // On a thread of its own, which does not wait for its turn while the upload goes on.
    let looking = parts.clone();
    let begins = tokio::task::spawn_blocking(move || {
        let begun = clock::monotonic();
        while looking() == 0 && begun.elapsed() < DEADLINE {
            std::thread::yield_now();
        }
        begun.elapsed() < DEADLINE
    });
    let (result, begins) = tokio::join!(attempts::run(&attempt.context, "sink", config), async {
        let begins = begins.await.unwrap();
        attempt.context.cancel.cancel();
        begins
    });
    assert!(begins, "an upload begins in time");
    assert_eq!(result, Err(Failure::Interrupted));
    assert_eq!(parts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_produces_topics_may_be_split_over_sinks() {
    let (mut bench, pin) = two_rows().await;
    let geo = bench.topic("geo", 1).await;
    send(&geo, &[Record::row(bench.run.uuid, 0), Record::row(bench.run.uuid, 1)]);
    bench.run.finished("emulate", "emulate", json!({"rows": 2}));
    bench.produced(&[(&pin, 2), (&geo, 2)]);
    let config = bench.config(json!({"topics": pin, "topics_dir": "pins"}));
    let output = bench.run.run("sink_pin", "sink", config).await.unwrap();
    assert_eq!(output["topics"].as_object().unwrap().keys().collect::<Vec<_>>(), [&pin]);
    bench.run.finished("sink_pin", "sink", output.into());
    // One after the other, and one topic twice: neither is the other's account.
    let config = bench.config(json!({"topics": [pin, geo], "topics_dir": "all"}));
    let output = bench.run.run("sink_geo", "sink", config).await.unwrap();
    assert_eq!(output["topics"].as_object().unwrap().len(), 2);
    assert_eq!((bench.lines("pins/").await.len(), bench.lines("all/").await.len()), (2, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_patterns_that_do_not_fit_are_named() {
    let (mut bench, topic) = two_rows().await;
    let config = bench.config(json!({"topics": [topic, "other.*"]}));
    let failure = bench.run.run("sink", "sink", config).await.unwrap_err();
    assert!(matches!(&failure, Failure::Fatal(text) if text.contains("`topics: other.*` matches none")), "{failure}");
}
