//! Holds the table of versions to its word: of every request there is an answer, without an error and with something in
//! it, that can be written in every version that is advertised.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use regex::Regex;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Caller};
use super::dispatch::dispatch;
use super::sasl::Admission;
use crate::embedded::broker::config::BrokerCredentials;
use crate::embedded::broker::connection::encode;
use crate::embedded::broker::log::batch::Outcome;
use crate::embedded::broker::log::batch::tests::one_record;
use crate::embedded::broker::state::{State, text};
use crate::embedded::broker::wire::header::RequestHeader;
use crate::embedded::broker::wire::versions::APIS;
use crate::embedded::broker::{Broker, BrokerConfig};

const TRANSACTION: &str = "tx";

fn topic() -> TopicName {
    TopicName(text("t"))
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

fn transaction() -> TransactionalId {
    TransactionalId(text(TRANSACTION))
}

async fn ask(state: &Arc<State>, version: i16, request: RequestKind) -> ResponseKind {
    let (client_id, gone) = ("client".to_owned(), CancellationToken::new());
    let admission = Arc::new(Admission::new(state.config.credentials.as_ref()));
    let caller = Caller { version, client_id, host: Ipv4Addr::LOCALHOST.into(), gone, admission };
    match dispatch(Arc::clone(state), caller, request).await.unwrap() {
        Answer::Now(response) => *response,
        Answer::Records(response, _) => (*response).into(),
        Answer::WhenDurable(pending) => pending.finish().await.unwrap().into(),
    }
}

fn produce(records: Bytes, id: Option<TransactionalId>) -> ProduceRequest {
    let data = PartitionProduceData::default().with_records(Some(records));
    let data = TopicProduceData::default().with_name(topic()).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_transactional_id(id).with_topic_data(vec![data])
}

fn join(version: i16) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from("m"));
    // A static member need not come twice.
    JoinGroupRequest::default()
        .with_group_id(group(&format!("members-{version}")))
        .with_session_timeout_ms(60_000)
        .with_rebalance_timeout_ms(60_000)
        .with_group_instance_id(Some(text("instance")))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// The group that the joins of this version make, its only member, and the generation.
async fn member(state: &Arc<State>, version: i16) -> (GroupId, StrBytes, i32) {
    let request = join(version);
    let id = request.group_id.clone();
    let ResponseKind::JoinGroup(joined) = ask(state, 9, request.into()).await else { panic!("a join") };
    (id, joined.member_id, joined.generation_id)
}

/// A producer with an open transaction over the topic and a group.
async fn open(state: &Arc<State>) -> (ProducerId, i16) {
    let identity = state.transactions.initialise(TRANSACTION, 60_000, None).await.unwrap();
    state.transactions.add_partitions(TRANSACTION, identity, &[("t".to_owned(), 0)]).await.unwrap();
    state.transactions.add_group(TRANSACTION, identity, "g").await.unwrap();
    (ProducerId(identity.0), identity.1)
}

/// A request that is answered without an error, whatever came before it.
async fn request(state: &Arc<State>, key: ApiKey, version: i16) -> RequestKind {
    let fresh = format!("fresh-{}-{version}", key as i16);
    match key {
        ApiKey::Produce => produce(one_record(None), None).into(),
        ApiKey::Fetch => {
            let (producer, epoch) = open(state).await;
            ask(state, 9, produce(one_record(Some((producer.0, epoch))), Some(transaction())).into()).await;
            state.transactions.end(TRANSACTION, (producer.0, epoch), Outcome::Abort).await.unwrap();
            let partition = FetchPartition::default().with_partition_max_bytes(1 << 20).with_current_leader_epoch(-1);
            let id = state.topics.topic("t").unwrap().id;
            let asked = FetchTopic::default().with_topic(topic()).with_topic_id(id).with_partitions(vec![partition]);
            FetchRequest::default().with_isolation_level(1).with_max_bytes(1 << 20).with_topics(vec![asked]).into()
        }
        ApiKey::ListOffsets => {
            let partition = ListOffsetsPartition::default().with_timestamp(0).with_current_leader_epoch(-1);
            let asked = ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![partition]);
            ListOffsetsRequest::default().with_topics(vec![asked]).into()
        }
        ApiKey::Metadata => {
            let asked = MetadataRequestTopic::default().with_name(Some(topic()));
            MetadataRequest::default().with_topics(Some(vec![asked])).into()
        }
        ApiKey::OffsetCommit => {
            let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
            let asked = OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default().with_group_id(group("g")).with_topics(vec![asked]);
            request.with_generation_id_or_member_epoch(-1).into()
        }
        ApiKey::OffsetFetch => {
            let old = OffsetFetchRequestTopic::default().with_name(topic()).with_partition_indexes(vec![0]);
            let new = OffsetFetchRequestTopics::default().with_name(topic()).with_partition_indexes(vec![0]);
            let of = OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(Some(vec![new]));
            let request = OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![old]));
            request.with_groups(vec![of]).into()
        }
        ApiKey::FindCoordinator => {
            FindCoordinatorRequest::default().with_key(text("g")).with_coordinator_keys(vec![text("g")]).into()
        }
        ApiKey::JoinGroup => join(version + 100).into(),
        ApiKey::Heartbeat => {
            let (group, member, generation) = member(state, version + 200).await;
            HeartbeatRequest::default()
                .with_group_id(group)
                .with_member_id(member)
                .with_generation_id(generation)
                .into()
        }
        ApiKey::LeaveGroup => {
            let (group, member, _) = member(state, version + 300).await;
            let one = MemberIdentity::default().with_member_id(member.clone());
            LeaveGroupRequest::default().with_group_id(group).with_member_id(member).with_members(vec![one]).into()
        }
        ApiKey::SyncGroup => {
            let (group, member, generation) = member(state, version + 400).await;
            let work = SyncGroupRequestAssignment::default().with_member_id(member.clone());
            let work = work.with_assignment(Bytes::from("work"));
            let request = SyncGroupRequest::default().with_group_id(group).with_member_id(member);
            request.with_generation_id(generation).with_assignments(vec![work]).into()
        }
        ApiKey::DescribeGroups => {
            let (group, _, _) = member(state, version + 500).await;
            DescribeGroupsRequest::default().with_groups(vec![group]).into()
        }
        ApiKey::ListGroups => ListGroupsRequest::default().into(),
        ApiKey::ApiVersions => ApiVersionsRequest::default()
            .with_client_software_name(text("test"))
            .with_client_software_version(text("1"))
            .into(),
        ApiKey::CreateTopics => {
            let one = CreatableTopic::default().with_name(TopicName(text(&fresh)));
            let one = one.with_num_partitions(1).with_replication_factor(1);
            CreateTopicsRequest::default().with_topics(vec![one]).into()
        }
        ApiKey::DeleteTopics => {
            let id = state.topics.create(&fresh, 1, Default::default()).await.unwrap().id;
            match version {
                6.. => DeleteTopicsRequest::default()
                    .with_topics(vec![DeleteTopicState::default().with_name(None).with_topic_id(id)])
                    .into(),
                _ => DeleteTopicsRequest::default().with_topic_names(vec![TopicName(text(&fresh))]).into(),
            }
        }
        ApiKey::InitProducerId => InitProducerIdRequest::default()
            .with_transactional_id(Some(transaction()))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .into(),
        ApiKey::OffsetForLeaderEpoch => {
            let partition = OffsetForLeaderPartition::default().with_current_leader_epoch(-1);
            let asked = OffsetForLeaderTopic::default().with_topic(topic()).with_partitions(vec![partition]);
            OffsetForLeaderEpochRequest::default().with_topics(vec![asked]).into()
        }
        ApiKey::AddPartitionsToTxn => {
            let (producer, epoch) = open(state).await;
            let one = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default();
            AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(transaction())
                .with_v3_and_below_producer_id(producer)
                .with_v3_and_below_producer_epoch(epoch)
                .with_v3_and_below_topics(vec![one.with_name(topic()).with_partitions(vec![0])])
                .into()
        }
        ApiKey::AddOffsetsToTxn => {
            let (producer, epoch) = open(state).await;
            let request = AddOffsetsToTxnRequest::default().with_transactional_id(transaction());
            request.with_producer_id(producer).with_producer_epoch(epoch).with_group_id(group("g")).into()
        }
        ApiKey::EndTxn => {
            let (producer, epoch) = open(state).await;
            let request = EndTxnRequest::default().with_transactional_id(transaction());
            request.with_producer_id(producer).with_producer_epoch(epoch).with_committed(true).into()
        }
        ApiKey::TxnOffsetCommit => {
            let (producer, epoch) = open(state).await;
            let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(1);
            let asked = TxnOffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![partition]);
            let request = TxnOffsetCommitRequest::default().with_transactional_id(transaction());
            let request = request.with_producer_id(producer).with_producer_epoch(epoch).with_generation_id(-1);
            request.with_group_id(group("g")).with_topics(vec![asked]).into()
        }
        ApiKey::DescribeConfigs => {
            let of_topic = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("t"));
            let of_broker = DescribeConfigsResource::default().with_resource_type(4).with_resource_name(text("1"));
            let all = vec![of_topic.with_configuration_keys(None), of_broker.with_configuration_keys(None)];
            DescribeConfigsRequest::default().with_resources(all).into()
        }
        ApiKey::CreatePartitions => {
            state.topics.create(&fresh, 1, Default::default()).await.unwrap();
            let one = CreatePartitionsTopic::default().with_name(TopicName(text(&fresh))).with_count(2);
            CreatePartitionsRequest::default().with_topics(vec![one]).into()
        }
        ApiKey::DeleteGroups => {
            let (group, member, _) = member(state, version + 600).await;
            state.groups.leave(&group, &member, None).unwrap();
            DeleteGroupsRequest::default().with_groups_names(vec![group]).into()
        }
        ApiKey::SaslHandshake => SaslHandshakeRequest::default().with_mechanism(text("PLAIN")).into(),
        ApiKey::SaslAuthenticate => {
            SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(b"\0me\0hush")).into()
        }
        ApiKey::DescribeCluster => DescribeClusterRequest::default().into(),
        other => panic!("{other:?} is in the table of versions and not here"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fits_every_version_that_is_advertised() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = BrokerConfig::new(dir.path().to_owned(), (Ipv4Addr::LOCALHOST, 0).into());
    config.credentials = Some(BrokerCredentials { username: "me".to_owned(), password: "hush".into() });
    let broker = Broker::start(config, CancellationToken::new()).await.unwrap();
    let state = Arc::clone(&broker.state);
    state.topics.create("t", 1, Default::default()).await.unwrap();
    let failed = Regex::new("error_code: -?[1-9]").unwrap();
    for api in APIS {
        // The versions below, if any are advertised, are refused.
        for version in api.min..=api.max {
            let asked = request(&state, api.key, version).await;
            let response = ask(&state, version, asked).await;
            let told = format!("{response:?}");
            assert!(!failed.is_match(&told), "{:?} {version}: {told}", api.key);
            let header = RequestHeader {
                api_key: api.key as i16,
                api_version: version,
                correlation_id: 1,
                client_id: String::new(),
            };
            let written = encode(&header, version, &response);
            assert!(written.is_ok(), "{:?} {version}: {written:?}", api.key);
        }
    }
    drop(state);
    broker.stop().await;
}
