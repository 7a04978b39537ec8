//! Sunk objects for a transform to read: an S3 server in process, and triples written as the sink names them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pinsched::connect::s3::{PutOptions, S3};
use pinsched::connect::{S3Credentials, S3Endpoint};
use pinsched::embedded::s3::{S3Server, S3ServerConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::attempts::TestRun;

pub const USER: &str = "0e35b2767ae1";
pub const BUCKET: &str = "user-0e35b2767ae1-bucket";
pub const STAGING: &str = "staging";

/// A run whose S3 is a server of the test's own.
pub struct Sunk {
    pub run: TestRun,
    pub s3: S3,
    server: S3Server,
    folder: tempfile::TempDir,
}

impl Sunk {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = SecretString::from("secret-of-the-test");
        let config = S3ServerConfig {
            root: folder.path().join("s3"),
            listen: "127.0.0.1:0".parse().unwrap(),
            access_key_id: "test".to_owned(),
            secret_access_key: secret.clone(),
        };
        let server = S3Server::start(config, CancellationToken::new()).await.unwrap();
        let mut run = TestRun::start().await;
        run.dag_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dags");
        run.endpoints.s3 = S3Endpoint {
            endpoint_url: Some(server.endpoint_url().parse().unwrap()),
            region: None,
            credentials: Some(S3Credentials { access_key_id: "test".to_owned(), secret_access_key: secret }),
            path_style: true,
            create_buckets: true,
            staging_bucket: STAGING.to_owned(),
        };
        let s3 = S3::connect(&run.endpoints.s3).await;
        s3.ensure_bucket(BUCKET).await.unwrap();
        Self { run, s3, server, folder }
    }

    /// Where the bucket's objects lie as files.
    pub fn bucket_folder(&self) -> PathBuf {
        self.folder.path().join("s3").join(BUCKET)
    }

    /// Writes records of one table as the object that begins at that offset; `.gz` and `.zst` names are compressed.
    pub async fn put(&self, table: &str, partition: u32, start: u64, extension: &str, records: &[Value]) {
        let topic = format!("{USER}.{table}");
        let key = format!("topics/{topic}/partition={partition}/{topic}+{partition}+{start:010}{extension}");
        let mut text = String::new();
        for record in records {
            writeln!(text, "{record}").unwrap();
        }
        let body = match extension.rsplit('.').next() {
            Some("gz") => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
                encoder.finish().unwrap()
            }
            Some("zst") => zstd::encode_all(text.as_bytes(), 1).unwrap(),
            _ => text.into_bytes(),
        };
        self.s3.put(BUCKET, &key, body.into(), PutOptions::default()).await.unwrap();
    }

    /// Sinks triples over two partitions in objects of `flush_size` records, and leaves the sink's output.
    pub async fn sink(&mut self, triples: &[Value], flush_size: usize) {
        let mut topics = serde_json::Map::new();
        for table in ["pin", "geo", "user"] {
            let mut partitions = BTreeMap::new();
            for partition in 0..2_u32 {
                let of_partition = triples.iter().skip(partition as usize).step_by(2);
                let records: Vec<Value> = of_partition.map(|triple| triple[table].clone()).collect();
                for (number, object) in records.chunks(flush_size).enumerate() {
                    self.put(table, partition, (number * flush_size) as u64, ".json", object).await;
                }
                partitions.insert(partition.to_string(), json!({"start": 0, "end": records.len()}));
            }
            topics.insert(format!("{USER}.{table}"), json!({"records": triples.len(), "partitions": partitions}));
        }
        let output = json!({"bucket": BUCKET, "topics_dir": "topics", "objects": 6, "topics": topics});
        self.run.finished("sink", "sink", output);
    }

    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// The real rows, where they are at hand.
pub fn real_triples() -> Option<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/triples.jsonl");
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Triples with every sentinel, both spellings of instants, ties, ages at all bounds, years outside of what is asked
/// for, several rows of one key, and whole rows twice.
pub fn awkward_triples(count: usize, seed: u64) -> Vec<Value> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut triples: Vec<Value> = Vec::new();
    for _ in 0..count {
        // A key now and then has several different rows: inner joins then give every pair of them.
        let ind = random.random_range(0..count * 4);
        triples.push(awkward_triple(&mut random, ind));
        if random.random_bool(0.1) {
            let again = triples[random.random_range(0..triples.len())].clone();
            triples.push(again);
        }
    }
    triples
}

fn awkward_triple(random: &mut StdRng, ind: usize) -> Value {
    fn pick<'a>(random: &mut StdRng, choices: &[&'a str]) -> &'a str {
        choices[random.random_range(0..choices.len())]
    }
    let poster =
        pick(random, &["Bored Panda", "Ёлка \"quoted\", | piped", "User Info Error", "", "Ida\nNewline", "Zoë 🎨"]);
    let followers = pick(
        random,
        &[
            "0",
            "7",
            "20k",
            "1k",
            "2M",
            "15M",
            "User Info Error",
            "",
            "1.5k",
            "k",
            "3000M",
            "2B",
            " 5",
            "5 ",
            "-3",
            "12K",
        ],
    );
    let separator = pick(random, &["T", " "]);
    let year = random.random_range(2016..=2023);
    let joined_year = random.random_range(2013..=2021);
    let (hour, second) = (random.random_range(0..24), random.random_range(0..60));
    let category = pick(random, &["art", "beauty", "travel", "vehicles", ""]);
    let age = [17, 18, 24, 25, 35, 36, 50, 51][random.random_range(0..8)];
    let title = pick(random, &["No Title Data Available", "A title", "", "Untitled"]);
    let latitude = [json!(-88.8298), json!(12), json!(0.5), json!(-90)][random.random_range(0..4)].clone();
    json!({
        "pin": {
            "index": ind,
            "unique_id": format!("00000000-0000-4000-8000-{ind:012}"),
            "title": title,
            "description": pick(random, &["No description available Story format", "No description available", "Art."]),
            "poster_name": poster,
            "follower_count": followers,
            "tag_list": pick(random, &["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e", "a,b,c"]),
            "is_image_or_video": pick(random, &["image", "video", "multi-video(story page format)"]),
            "image_src": pick(random, &["Image src error.", "https://i.pinimg.com/a.jpg"]),
            "downloaded": random.random_range(0..2),
            "save_location": format!("Local save in /data/{category}"),
            "category": category,
        },
        "geo": {
            "ind": ind,
            "timestamp": format!("{year}-12-31{separator}{hour:02}:59:{second:02}"),
            "latitude": latitude,
            "longitude": -170.188,
            "country": pick(random, &["Albania", "Côte d'Ivoire", "Zambia", "Åland"]),
        },
        "user": {
            "ind": ind,
            "first_name": pick(random, &["Adam", "Amber"]),
            "last_name": pick(random, &["Acosta", "O'Neil"]),
            "age": age,
            "date_joined": format!("{joined_year}-01-01{separator}00:00:{second:02}"),
        },
    })
}
