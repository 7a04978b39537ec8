//! Which requests are spoken, in which versions. This table is what `ApiVersions` answers, so it must stay true.

use kafka_protocol::messages::ApiKey;

use super::shape::Field;
use super::shapes;

/// One request that is spoken.
pub(crate) struct Api {
    pub(crate) key: ApiKey,
    /// The first version answered.
    pub(crate) min: i16,
    /// The last version answered.
    pub(crate) max: i16,
    /// The first version advertised, where that differs from `min` for a client's sake.
    pub(crate) advertised_min: i16,
    /// The first version with tagged fields.
    flexible: i16,
    /// The body's shape.
    pub(crate) fields: &'static [Field],
}

const fn api(key: ApiKey, min: i16, max: i16, flexible: i16, fields: &'static [Field]) -> Api {
    Api { key, min, max, advertised_min: min, flexible, fields }
}

/// Upper limits are where a next version would promise what is not here: `Produce` 12 and its companions begin the second
/// transaction protocol, `ListOffsets` 7 the exact record with
/// the latest time, which lies unseen in a compressed batch.
pub(crate) const APIS: &[Api] = &[
    // librdkafka turns compression off unless version 0 is advertised, so, like Apache's broker since 4.0, this one
    // advertises what it then refuses.
    Api { advertised_min: 0, ..api(ApiKey::Produce, 3, 11, 9, shapes::PRODUCE) },
    api(ApiKey::Fetch, 4, 16, 12, shapes::FETCH),
    api(ApiKey::ListOffsets, 1, 6, 6, shapes::LIST_OFFSETS),
    api(ApiKey::Metadata, 0, 12, 9, shapes::METADATA),
    api(ApiKey::OffsetCommit, 2, 9, 8, shapes::OFFSET_COMMIT),
    api(ApiKey::OffsetFetch, 1, 9, 6, shapes::OFFSET_FETCH),
    api(ApiKey::FindCoordinator, 0, 5, 3, shapes::FIND_COORDINATOR),
    api(ApiKey::JoinGroup, 0, 9, 6, shapes::JOIN_GROUP),
    api(ApiKey::Heartbeat, 0, 4, 4, shapes::HEARTBEAT),
    api(ApiKey::LeaveGroup, 0, 5, 4, shapes::LEAVE_GROUP),
    api(ApiKey::SyncGroup, 0, 5, 4, shapes::SYNC_GROUP),
    api(ApiKey::DescribeGroups, 0, 6, 5, shapes::DESCRIBE_GROUPS),
    api(ApiKey::ListGroups, 0, 5, 3, shapes::LIST_GROUPS),
    // Version 0 goes on with tokens outside of any request, and has never had tagged fields.
    api(ApiKey::SaslHandshake, 1, 1, i16::MAX, shapes::SASL_HANDSHAKE),
    api(ApiKey::ApiVersions, 0, 4, 3, shapes::API_VERSIONS),
    api(ApiKey::CreateTopics, 2, 7, 5, shapes::CREATE_TOPICS),
    api(ApiKey::DeleteTopics, 1, 6, 4, shapes::DELETE_TOPICS),
    api(ApiKey::InitProducerId, 0, 4, 2, shapes::INIT_PRODUCER_ID),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4, 4, shapes::OFFSET_FOR_LEADER_EPOCH),
    api(ApiKey::AddPartitionsToTxn, 0, 3, 3, shapes::ADD_PARTITIONS_TO_TXN),
    api(ApiKey::AddOffsetsToTxn, 0, 3, 3, shapes::ADD_OFFSETS_TO_TXN),
    api(ApiKey::EndTxn, 0, 3, 3, shapes::END_TXN),
    api(ApiKey::TxnOffsetCommit, 0, 3, 3, shapes::TXN_OFFSET_COMMIT),
    api(ApiKey::DescribeConfigs, 1, 4, 4, shapes::DESCRIBE_CONFIGS),
    api(ApiKey::CreatePartitions, 0, 3, 2, shapes::CREATE_PARTITIONS),
    api(ApiKey::SaslAuthenticate, 0, 2, 2, shapes::SASL_AUTHENTICATE),
    api(ApiKey::DeleteGroups, 0, 2, 2, shapes::DELETE_GROUPS),
    api(ApiKey::DescribeCluster, 0, 1, 0, shapes::DESCRIBE_CLUSTER),
];

/// The request with this number, if it is spoken at all.
pub(crate) fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key as i16 == key)
}

impl Api {
    /// Whether this version is answered.
    pub(crate) fn speaks(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// Whether this version has tagged fields.
    pub(crate) fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }
}

/// Whether the request's header has tagged fields.
pub(crate) fn has_flexible_header(key: i16, version: i16) -> bool {
    find(key).is_some_and(|api| api.is_flexible(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codec_agrees_on_versions_and_on_tagged_fields() {
        for api in APIS {
            let valid = api.key.valid_versions();
            assert!(valid.min <= api.min && api.max <= valid.max, "{:?}", api.key);
            for version in api.min..=api.max {
                let flexible = api.key.request_header_version(version) >= 2;
                assert_eq!(api.is_flexible(version), flexible, "{:?} {version}", api.key);
            }
        }
    }
}
