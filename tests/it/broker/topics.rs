//! Topics come and go, by name and by rule.

use rdkafka::admin::{AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::producer::FutureRecord;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::harness::{
    DEADLINE, TestBroker, admin, blocking, consumer, create_topic, producer, read_all, send, values, watermarks,
};

async fn try_create(broker: &TestBroker, topic: NewTopic<'_>) -> Result<(), Code> {
    let options = AdminOptions::new();
    let results = admin(&broker.client()).create_topics([&topic], &options).await.unwrap();
    results.into_iter().next().unwrap().map(drop).map_err(|(_, code)| code)
}

fn topic(name: &str, partitions: i32) -> NewTopic<'_> {
    NewTopic::new(name, partitions, TopicReplication::Fixed(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_follows_the_rules() {
    let broker = TestBroker::start().await;
    assert_eq!(try_create(&broker, topic("good", 3)).await, Ok(()));
    assert_eq!(try_create(&broker, topic("good", 3)).await, Err(Code::TopicAlreadyExists));
    assert_eq!(try_create(&broker, topic("bad name", 1)).await, Err(Code::InvalidTopic));
    assert_eq!(try_create(&broker, topic("..", 1)).await, Err(Code::InvalidTopic));
    assert_eq!(try_create(&broker, topic("a", 0)).await, Err(Code::InvalidPartitions));
    assert_eq!(
        try_create(&broker, NewTopic::new("a", 1, TopicReplication::Fixed(3))).await,
        Err(Code::InvalidReplicationFactor)
    );
    assert_eq!(try_create(&broker, topic("a", 1).set("cleanup.policy", "compact")).await, Err(Code::InvalidConfig));
    assert_eq!(try_create(&broker, topic("a", 1).set("no.such.thing", "1")).await, Err(Code::InvalidConfig));
    let dry = AdminOptions::new().validate_only(true);
    let results = admin(&broker.client()).create_topics([&topic("dry", 1)], &dry).await.unwrap();
    assert_eq!(results, [Ok("dry".to_owned())]);
    assert_eq!(names(&broker).await, ["good:3"]);
    broker.stop().await;
}

/// All topics as `name:partitions`.
async fn names(broker: &TestBroker) -> Vec<String> {
    let client = broker.client();
    blocking(move || {
        let metadata = consumer(&client, true).fetch_metadata(None, DEADLINE).unwrap();
        let mut names: Vec<String> =
            metadata.topics().iter().map(|t| format!("{}:{}", t.name(), t.partitions().len())).collect();
        names.sort();
        names
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_is_gone_and_a_new_one_of_its_name_is_empty() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    create_topic(&broker.client(), "kept", 2).await;
    send(&producer(&broker.client()), "t", 0, b"old").await;
    let deleted = admin(&broker.client()).delete_topics(&["t", "never"], &AdminOptions::new()).await.unwrap();
    assert_eq!(deleted, [Ok("t".to_owned()), Err(("never".to_owned(), Code::UnknownTopicOrPartition))]);
    assert_eq!(names(&broker).await, ["kept:2"]);
    broker.restart_with(|_| {}).await;
    assert_eq!(names(&broker).await, ["kept:2"]);
    create_topic(&broker.client(), "t", 1).await;
    assert_eq!(watermarks(&broker.client(), "t", true).await, (0, 0));
    send(&producer(&broker.client()), "t", 0, b"new").await;
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), ["new"]);
    let directories = std::fs::read_dir(broker.dir.path().join("topics")).unwrap().count();
    assert_eq!(directories, 2);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_an_end_to_partitions_of_all_topics_together() {
    let broker = TestBroker::start_with(|config| config.max_partitions = 5).await;
    assert_eq!(try_create(&broker, topic("a", 3)).await, Ok(()));
    assert_eq!(try_create(&broker, topic("b", 3)).await, Err(Code::PolicyViolation));
    assert_eq!(try_create(&broker, topic("b", 2)).await, Ok(()));
    let options = AdminOptions::new();
    let grown = admin(&broker.client()).create_partitions([&NewPartitions::new("a", 4)], &options).await.unwrap();
    assert_eq!(grown, [Err(("a".to_owned(), Code::PolicyViolation))]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_added_and_stay() {
    let mut broker = TestBroker::start().await;
    create_topic(&broker.client(), "t", 1).await;
    send(&producer(&broker.client()), "t", 0, b"first").await;
    let options = AdminOptions::new();
    let grown = admin(&broker.client()).create_partitions([&NewPartitions::new("t", 4)], &options).await.unwrap();
    assert_eq!(grown, [Ok("t".to_owned())]);
    let shrunk = admin(&broker.client()).create_partitions([&NewPartitions::new("t", 2)], &options).await.unwrap();
    assert_eq!(shrunk, [Err(("t".to_owned(), Code::InvalidPartitions))]);
    assert_eq!(send(&producer(&broker.client()), "t", 3, b"third").await, (3, 0));
    broker.restart_with(|_| {}).await;
    assert_eq!(names(&broker).await, ["t:4"]);
    assert_eq!(values(&read_all(&broker.client(), "t", true, 0).await), ["first"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_creates_its_topic_only_where_that_is_wanted() {
    let broker = TestBroker::start_with(|config| config.default_partitions = 2).await;
    send(&producer(&broker.client()), "made", 1, b"x").await;
    assert_eq!(names(&broker).await, ["made:2"]);
    broker.stop().await;

    let broker = TestBroker::start_with(|config| config.auto_create_topics = false).await;
    let mut config = broker.client();
    config.set("topic.metadata.propagation.max.ms", "0");
    let refused = producer(&config).send(FutureRecord::<[u8], str>::to("made").payload("x"), DEADLINE).await;
    let (error, _) = refused.unwrap_err();
    assert!(matches!(error.rdkafka_error_code(), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)), "{error}");
    assert_eq!(names(&broker).await, Vec::<String>::new());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_told_as_they_apply() {
    let broker = TestBroker::start().await;
    let topic = NewTopic::new("t", 1, TopicReplication::Fixed(1)).set("max.message.bytes", "2000");
    assert_eq!(try_create(&broker, topic).await, Ok(()));
    let asked = [ResourceSpecifier::Topic("t"), ResourceSpecifier::Broker(1)];
    let told = admin(&broker.client()).describe_configs(&asked, &AdminOptions::new()).await.unwrap();
    let value = |n: usize, name: &str| told[n].as_ref().unwrap().get(name).and_then(|entry| entry.value.clone());
    assert_eq!(value(0, "max.message.bytes").as_deref(), Some("2000"));
    assert_eq!(value(0, "cleanup.policy").as_deref(), Some("delete"));
    assert_eq!(value(1, "num.partitions").as_deref(), Some("1"));
    let record = FutureRecord::<[u8], _>::to("t").payload(&[7u8; 3_000]);
    let (error, _) = producer(&broker.client()).send(record, DEADLINE).await.unwrap_err();
    assert_eq!(error.rdkafka_error_code(), Some(Code::MessageSizeTooLarge));
    broker.stop().await;
}
