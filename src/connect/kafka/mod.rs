//! Kafka by librdkafka: how clients are configured, topics made, offsets asked, and what an error means.
//!
//! Every call of librdkafka that blocks runs on tokio's blocking threads, each with a deadline. This file knows nothing
//! of what the records are.

mod error;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as DriverError, RDKafkaErrorCode as Code};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use secrecy::ExposeSecret;

use crate::connect::KafkaEndpoint;

pub use error::{KafkaError, is_transient};

/// How long one request may take before the broker counts as unreachable.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a new topic may take until each partition has a leader.
const TOPIC_READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause between two looks at a topic that is being made.
const TOPIC_READY_PAUSE: Duration = Duration::from_millis(20);

/// Keeps librdkafka's chatter off stderr and its last word on the connection for error messages.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    last_error: Arc<Mutex<Option<String>>>,
}

impl Connection {
    /// The last thing that went wrong with the connection, if anything did.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Connection {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(kafka.facility = facility, "librdkafka: {message}");
    }

    fn error(&self, error: DriverError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

impl ConsumerContext for Connection {}

/// The configuration that every client starts from: servers, then the endpoint's own properties.
#[must_use]
pub fn client_config(endpoint: &KafkaEndpoint) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &endpoint.bootstrap_servers).set("client.id", "pinsched");
    for (key, value) in &endpoint.properties {
        config.set(key, value.expose_secret());
    }
    config
}

/// A topic as it should be when it has to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// How many partitions it gets.
    pub partitions: u32,
    /// How many replicas each partition gets; `None` leaves it to the broker.
    pub replication: Option<u32>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    /// How many partitions it has.
    pub partitions: u32,
    /// Whether this call made it.
    pub created: bool,
    /// The largest batch that the broker takes for it, where it tells.
    pub max_message_bytes: Option<u64>,
}

/// A cluster, and a client for asking it things.
#[derive(Clone)]
pub struct Cluster {
    config: ClientConfig,
    servers: String,
    connection: Connection,
    observer: Arc<Client<BaseConsumer<Connection>>>,
}

impl Cluster {
    /// A client of `endpoint`. Connects lazily: a wrong address shows at the first call.
    ///
    /// # Errors
    /// [`KafkaError::Config`] when a property is none that librdkafka knows.
    pub fn new(endpoint: &KafkaEndpoint) -> Result<Self, KafkaError> {
        let config = client_config(endpoint);
        let connection = Connection::default();
        let mut observing = config.clone();
        // Watermarks are to be the real ones, not those that a stranger's open transaction holds back.
        observing.set("group.id", "pinsched-observer").set("isolation.level", "read_uncommitted");
        let observer = BaseConsumer::from_config_and_context(&observing, connection.clone())
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        Ok(Self {
            config,
            servers: endpoint.bootstrap_servers.clone(),
            connection,
            observer: Arc::new(Client::new(observer)),
        })
    }

    /// The configuration that its clients start from.
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        self.config.clone()
    }

    /// What `error` means, with the server's name and the connection's last word where nobody answered.
    #[must_use]
    pub fn error(&self, action: impl Into<String>, error: DriverError) -> KafkaError {
        self.error_on(&self.connection, action, error)
    }

    /// The same for another client's connection.
    #[must_use]
    pub fn error_on(&self, connection: &Connection, action: impl Into<String>, error: DriverError) -> KafkaError {
        let action = action.into();
        match error.rdkafka_error_code() {
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::TimedOutQueue
                | Code::MessageTimedOut
                | Code::Resolve,
            ) => KafkaError::Unreachable {
                action,
                servers: self.servers.clone(),
                detail: connection.last_error().unwrap_or_else(|| "no answer in time".to_owned()),
            },
            Some(code) => KafkaError::Refused { action: format!("{action} at Kafka {}", self.servers), code },
            None => KafkaError::Client { action: format!("{action} at Kafka {}", self.servers), source: error },
        }
    }

    /// Makes those of `plans` that do not exist, and waits until every partition of every topic has a leader.
    /// Safe to call at once from several processes; topics that exist are left as they are.
    ///
    /// # Errors
    /// [`KafkaError`] names the topic.
    pub async fn ensure_topics(&self, plans: &[TopicPlan]) -> Result<BTreeMap<String, TopicFacts>, KafkaError> {
        let admin = self.admin()?;
        let mut missing = Vec::new();
        for plan in plans {
            if self.partitions(&plan.name).await?.is_none() {
                missing.push(plan);
            }
        }
        self.create_topics(&admin, &missing).await?;
        let mut facts = BTreeMap::new();
        for plan in plans {
            let partitions = self.wait_until_writable(&plan.name).await?;
            let created = missing.contains(&plan);
            facts.insert(plan.name.clone(), TopicFacts { partitions, created, max_message_bytes: None });
        }
        let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
        for (topic, limit) in max_message_bytes(&admin, &names).await {
            if let Some(facts) = facts.get_mut(&topic) {
                facts.max_message_bytes = Some(limit);
            }
        }
        Ok(facts)
    }

    /// The number of partitions of a topic that is ready; `None` where there is no such topic.
    ///
    /// # Errors
    /// [`KafkaError`], also while the topic has a partition without a leader.
    pub async fn partitions(&self, topic: &str) -> Result<Option<u32>, KafkaError> {
        let (observer, name) = (Arc::clone(&self.observer), topic.to_owned());
        let action = format!("look up topic `{topic}`");
        let metadata = blocking(move || observer.fetch_metadata(Some(&name), REQUEST_TIMEOUT)).await;
        let metadata = metadata.map_err(|error| self.error(&action, error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        if let Some(error) = found.error() {
            return match Code::from(error) {
                Code::UnknownTopicOrPartition | Code::UnknownTopic => Ok(None),
                code => Err(KafkaError::Refused { action, code }),
            };
        }
        let mut partitions = found.partitions().iter();
        if let Some(code) = partitions.find_map(|partition| partition.error().map(Code::from)) {
            return Err(KafkaError::Refused { action, code });
        }
        Ok(u32::try_from(found.partitions().len()).ok().filter(|&count| count > 0))
    }

    /// How many brokers the cluster has.
    ///
    /// # Errors
    /// [`KafkaError`], where none answers within `patience`.
    pub async fn count_brokers(&self, patience: Duration) -> Result<usize, KafkaError> {
        let observer = Arc::clone(&self.observer);
        let metadata = blocking(move || observer.fetch_metadata(None, patience)).await;
        metadata.map(|found| found.brokers().len()).map_err(|error| self.error("ask for the brokers", error))
    }

    /// The offset that the next record of each partition will get.
    ///
    /// # Errors
    /// [`KafkaError`] names the topic.
    pub async fn high_watermarks(&self, topic: &str, partitions: u32) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let (observer, name) = (Arc::clone(&self.observer), topic.to_owned());
        let asked = blocking(move || {
            (0..partitions.cast_signed())
                .map(|partition| {
                    let (_, high) = observer.fetch_watermarks(&name, partition, REQUEST_TIMEOUT)?;
                    Ok((partition, high))
                })
                .collect::<Result<BTreeMap<i32, i64>, DriverError>>()
        });
        asked.await.map_err(|error| self.error(format!("ask for the end of topic `{topic}`"), error))
    }

    /// The offset of each partition's first record that is not older than `since`, in milliseconds; partitions without one
    /// are left out.
    ///
    /// # Errors
    /// [`KafkaError`] names the topic.
    pub async fn offsets_at(&self, topic: &str, partitions: u32, since: i64) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let (observer, name) = (Arc::clone(&self.observer), topic.to_owned());
        let asked = blocking(move || {
            let mut wanted = TopicPartitionList::new();
            for partition in 0..partitions.cast_signed() {
                wanted.add_partition_offset(&name, partition, Offset::Offset(since))?;
            }
            let found = observer.offsets_for_times(wanted, REQUEST_TIMEOUT)?;
            let offsets = found.elements().into_iter().filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            });
            Ok::<_, DriverError>(offsets.collect())
        });
        asked.await.map_err(|error| self.error(format!("ask topic `{topic}` for a time's offsets"), error))
    }

    /// What `group` committed for one partition, with its metadata; waits while a transaction that may change it is open.
    ///
    /// # Errors
    /// [`KafkaError`] names the group.
    pub async fn committed(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> Result<Option<(i64, String)>, KafkaError> {
        let action = format!("read what group `{group}` committed");
        let mut config = self.config.clone();
        config.set("group.id", group).set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        let (connection, topic) = (self.connection.clone(), topic.to_owned());
        let read = blocking(move || {
            let consumer: BaseConsumer<Connection> = BaseConsumer::from_config_and_context(&config, connection)?;
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition(&topic, partition);
            let committed = consumer.committed_offsets(wanted, REQUEST_TIMEOUT)?;
            let element = committed.find_partition(&topic, partition);
            Ok(element.and_then(|element| match element.offset() {
                Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
                _ => None,
            }))
        });
        read.await.map_err(|error| self.error(action, error))
    }

    async fn create_topics(&self, admin: &AdminClient<Connection>, plans: &[&TopicPlan]) -> Result<(), KafkaError> {
        if plans.is_empty() {
            return Ok(());
        }
        let action = |topic: &str| format!("create topic `{topic}`");
        let topics: Vec<NewTopic<'_>> = plans
            .iter()
            .map(|plan| {
                let replication = TopicReplication::Fixed(plan.replication.map_or(-1, u32::cast_signed));
                NewTopic::new(&plan.name, plan.partitions.cast_signed(), replication)
            })
            .collect();
        let results = admin.create_topics(&topics, &admin_options()).await;
        for result in results.map_err(|error| self.error(action(&plans[0].name), error))? {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(KafkaError::Refused { action: action(&topic), code }),
            }
        }
        Ok(())
    }

    async fn wait_until_writable(&self, topic: &str) -> Result<u32, KafkaError> {
        let deadline = tokio::time::Instant::now() + TOPIC_READY_TIMEOUT;
        loop {
            let waiting = match self.partitions(topic).await {
                Ok(Some(partitions)) => return Ok(partitions),
                Ok(None) => KafkaError::Refused {
                    action: format!("wait for topic `{topic}`"),
                    code: Code::UnknownTopicOrPartition,
                },
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(waiting);
            }
            tokio::time::sleep(TOPIC_READY_PAUSE).await;
        }
    }

    fn admin(&self) -> Result<AdminClient<Connection>, KafkaError> {
        AdminClient::from_config_and_context(&self.config, self.connection.clone())
            .map_err(|error| KafkaError::Config(error.to_string()))
    }
}

/// Asks for each topic's `max.message.bytes`. Who may write need not be allowed to ask: no answer is no error.
async fn max_message_bytes(admin: &AdminClient<Connection>, topics: &[&str]) -> Vec<(String, u64)> {
    let asked: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let answers = admin.describe_configs(&asked, &admin_options()).await.unwrap_or_default();
    answers
        .into_iter()
        .flatten()
        .filter_map(|resource| {
            let limit = resource.get("max.message.bytes")?.value.as_ref()?.parse().ok()?;
            match resource.specifier {
                OwnedResourceSpecifier::Topic(topic) => Some((topic, limit)),
                _ => None,
            }
        })
        .collect()
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

/// A client of librdkafka: to drop one waits for its threads, so that it is left to a blocking thread.
pub(crate) struct Client<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Client<T> {
    /// Takes care of `client`'s end.
    pub(crate) fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> std::ops::Deref for Client<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken only when it is dropped")
    }
}

impl<T: Send + 'static> Drop for Client<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

/// Runs a call that blocks where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_says_is_told_apart() {
        assert!(is_transient(Code::NotLeaderForPartition));
        assert!(is_transient(Code::BrokerTransportFailure));
        assert!(!is_transient(Code::TopicAuthorizationFailed));
        assert!(!is_transient(Code::InvalidReplicationFactor));
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_transient_and_names_it() {
        let endpoint = KafkaEndpoint {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            properties: BTreeMap::from([("no.such.property".to_owned(), "1".into())]),
        };
        assert!(matches!(Cluster::new(&endpoint).map(|_| ()), Err(KafkaError::Config(_))));
        let endpoint = KafkaEndpoint { properties: BTreeMap::new(), ..endpoint };
        let cluster = Cluster::new(&endpoint).unwrap();
        let error = cluster.error("list topics", DriverError::MetadataFetch(Code::BrokerTransportFailure));
        assert!(error.is_transient());
        assert!(error.to_string().starts_with("could not list topics at Kafka 127.0.0.1:1: "), "{error}");
    }
}
