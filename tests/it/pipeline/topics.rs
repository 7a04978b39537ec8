//! Topics that are made, found, or cannot be, and rows that are not there to be sent.

use pinsched::connect::KafkaEndpoint;
use pinsched::connect::kafka::Cluster;
use pinsched::engine::operator::{Failure, Output};
use serde_json::json;

use super::{Bench, posts};

fn fatal(result: Result<Output, Failure>) -> String {
    match result {
        Err(Failure::Fatal(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_topics_are_made_as_wanted_and_others_left_as_they_are() {
    let mut bench = Bench::with_source(&posts(20, 1)).await;
    bench.emulate(json!({})).await;
    let cluster = Cluster::new(&bench.run.endpoints.kafka).unwrap();
    assert_eq!(cluster.partitions(&bench.topic("pin")).await.unwrap(), None);
    for (task, partitions) in [("first", 4), ("second", 7)] {
        let config =
            json!({"topics": bench.topics(), "partitions": partitions, "replication": 1, "compression": "zstd"});
        bench.run.run(task, "produce", config).await.unwrap();
        assert_eq!(cluster.partitions(&bench.topic("pin")).await.unwrap(), Some(4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_topic_is_said() {
    let mut bench = Bench::with_source(&posts(20, 1)).await;
    let nothing = fatal(bench.run.run("a", "produce", json!({"topics": "x.{{ table }}"})).await);
    assert_eq!(nothing, "no task upstream stages rows: let produce depend on an emulate task");
    bench.emulate(json!({})).await;
    let same = fatal(bench.run.run("b", "produce", json!({"topics": "all"})).await);
    assert_eq!(same, "tables `pin` and `geo` both go to topic `all`: write {{ table }} into `topics`");
    let name = fatal(bench.run.run("c", "produce", json!({"topics": "a topic.{{ table }}"})).await);
    assert!(name.starts_with("`a topic.pin`, the topic of table `pin`, is no topic name"), "{name}");
    let replicas = json!({"topics": bench.topics(), "replication": 99});
    let replicas = fatal(bench.run.run("d", "produce", replicas).await);
    assert!(replicas.starts_with(&format!("could not create topic `{}`: ", bench.topic("pin"))), "{replicas}");
    let from = fatal(bench.run.run("e", "produce", json!({"topics": bench.topics(), "from": "draw"})).await);
    assert_eq!(from, "task `draw`, which `from` names, is not upstream or stages no rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_tried_again_later() {
    let mut bench = Bench::with_source(&posts(20, 1)).await;
    bench.emulate(json!({})).await;
    let topics = bench.topics();
    let kafka = &mut bench.run.endpoints.kafka;
    *kafka = KafkaEndpoint { bootstrap_servers: "127.0.0.1:9".to_owned(), properties: kafka.properties.clone() };
    let result = bench.run.run("produce", "produce", json!({"topics": topics})).await;
    let Err(Failure::Retry(message)) = result else { panic!("{result:?}") };
    assert!(message.contains("at Kafka 127.0.0.1:9"), "{message}");
}

#[test]
fn acks_that_tell_nothing_are_refused_before_the_run() {
    let check = |acks: serde_json::Value| {
        let config = json!({"topics": "{{ table }}", "acks": acks});
        (pinsched::operators::registration("produce").unwrap().kind.check)(&config)
    };
    assert!(check(json!("all")).is_empty() && check(json!(1)).is_empty());
    let refused = check(json!(0)).remove(0);
    assert_eq!(refused.path, ["acks"]);
    assert!(refused.message.contains("all and 1 do"), "{}", refused.message);
}
