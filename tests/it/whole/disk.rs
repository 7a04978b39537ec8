//! A disk that fills while a run is at work: the attempt says what it could not write, and the run goes on once there is
//! room.

use std::io::Write;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::stack::disk::Mount;
use crate::stack::scratch::{Scratch, not_run};
use crate::whole::account::{TABLES, consumed, drawn, sunk};
use crate::whole::product::Product;

/// More attempts than it takes to notice that there is room again.
const FILLING: &str = r#"
filling:
  default_args: {retries: 100, retry_delay: 1s}
  tasks:
    emulate: {operator: emulate, rows: 11000}
    produce: {operator: produce, dependencies: [emulate], topics: "user.{{ table }}"}
    sink: {operator: sink, dependencies: [produce], topics: "user.*", bucket: user-user-bucket}
"#;

/// Less than the drawn rows take.
const ROOM_BYTES: u64 = 3 << 20;

#[tokio::test]
async fn a_disk_that_fills_during_a_run_is_told_and_no_row_is_lost() {
    let scratch = Scratch::new();
    let home = scratch.path().join("home");
    let Some(_mount) = Mount::new(&home, "300m") else {
        not_run("only root, where it may mount, can make a disk that fills");
        return;
    };
    let product = Product::embedded_in(scratch).await;
    let file = product.write("filling.yaml", FILLING);
    let mut filler = std::fs::File::create(home.join("filler")).unwrap();
    while filler.write_all(&[0; 1 << 20]).is_ok() {}
    filler.set_len(filler.metadata().unwrap().len() - ROOM_BYTES).unwrap();

    let mut run = product.start(&["run", &file, "--output", "json"]);
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines();
    let mut told = String::new();
    while !told.contains("up_for_retry") {
        told = said.next_line().await.unwrap().expect("an attempt finds no room");
    }
    assert!(told.contains("could not put s3://pinsched-staging/"), "{told}");
    let where_to = format!("No space left on device (os error 28) (in {})", home.join("s3").display());
    assert!(told.contains(&where_to), "{told}");
    filler.set_len(0).unwrap();
    let rest = async { while said.next_line().await.unwrap().is_some() {} };
    let (output, ()) = tokio::join!(run.wait_with_output(), rest);
    let report: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(report["state"], "success", "{report}");
    let drawn = drawn(&product, &report).await;
    assert!(TABLES.iter().all(|table| drawn[table].values().sum::<usize>() == 11000));
    assert!(sunk(&product, "user").await == drawn, "S3 holds other rows than were drawn");
    assert!(consumed(&product, "user").await == drawn, "Kafka holds other rows than were drawn");
}
