//! The record batch (format 2) seen from outside: its 61-byte header, its checksum, and the one-record control batch that
//! ends a transaction. Never looks into compressed records.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 61;
/// Offset and length come before what `length` counts.
const LENGTH_OVERHEAD: usize = 12;
/// The checksum covers everything from the attributes on, so offset and epoch can be stamped without a new one.
const CRC_FROM: usize = 21;
/// The bytes that the broker writes anew: base offset, length, leader epoch.
pub(crate) const STAMP_BYTES: usize = 16;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const APPEND_TIME: i16 = 0x08;
/// There is one leader for ever, so its epoch never moves.
pub(crate) const LEADER_EPOCH: i32 = 0;

/// What is wrong with bytes that should be one record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    /// Fewer bytes than the header or the length says, or more.
    #[error("a record batch of {found} bytes says it has {expected}")]
    Length {
        /// By the header.
        expected: usize,
        /// In hand.
        found: usize,
    },
    /// A message format before record batches, or one that does not exist.
    #[error("message format {0} is not supported")]
    Magic(i8),
    /// The checksum does not match.
    #[error("the checksum is wrong")]
    Checksum,
    /// Counts that contradict each other, or a codec that does not exist.
    #[error("the record batch's header contradicts itself")]
    Inconsistent,
}

/// The header of one batch, in host types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) base_offset: i64,
    /// Of the whole batch, header included.
    pub(crate) size: usize,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Reads a header. Checks what can be checked without the rest: the format, a sane length, counts that agree.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Length { expected: HEADER_BYTES, found: bytes.len() });
        }
        let magic = i8::from_be_bytes(be(bytes, 16));
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = i32::from_be_bytes(be(bytes, 8));
        let size = usize::try_from(length).map_err(|_| BatchError::Inconsistent)? + LENGTH_OVERHEAD;
        let header = Self {
            base_offset: i64::from_be_bytes(be(bytes, 0)),
            size,
            attributes: i16::from_be_bytes(be(bytes, CRC_FROM)),
            last_offset_delta: i32::from_be_bytes(be(bytes, 23)),
            base_timestamp: i64::from_be_bytes(be(bytes, 27)),
            max_timestamp: i64::from_be_bytes(be(bytes, 35)),
            producer_id: i64::from_be_bytes(be(bytes, 43)),
            producer_epoch: i16::from_be_bytes(be(bytes, 51)),
            base_sequence: i32::from_be_bytes(be(bytes, 53)),
            record_count: i32::from_be_bytes(be(bytes, 57)),
        };
        let counted = header.record_count > 0 && header.last_offset_delta == header.record_count - 1;
        if size < HEADER_BYTES || !counted || header.codec() > 4 {
            return Err(BatchError::Inconsistent);
        }
        Ok(header)
    }

    /// Reads a header and verifies that `bytes` are exactly that batch, checksum included.
    pub(crate) fn verify(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = Self::parse(bytes)?;
        if header.size != bytes.len() {
            return Err(BatchError::Length { expected: header.size, found: bytes.len() });
        }
        if crc32c::crc32c(&bytes[CRC_FROM..]) != u32::from_be_bytes(be(bytes, 17)) {
            return Err(BatchError::Checksum);
        }
        Ok(header)
    }

    /// The first 16 bytes as they are stored: our offset and our epoch in front of the sender's bytes.
    pub(crate) fn stamp(&self, base_offset: i64) -> [u8; STAMP_BYTES] {
        let mut out = [0; STAMP_BYTES];
        let length = i32::try_from(self.size - LENGTH_OVERHEAD).unwrap_or(i32::MAX);
        out[..8].copy_from_slice(&base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&length.to_be_bytes());
        out[12..].copy_from_slice(&LEADER_EPOCH.to_be_bytes());
        out
    }

    /// The same header at another offset.
    pub(crate) fn at(mut self, base_offset: i64) -> Self {
        self.base_offset = base_offset;
        self
    }

    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    pub(crate) fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// The sequence number of the last record; they wrap to zero after the largest.
    pub(crate) fn last_sequence(&self) -> i32 {
        let sum = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(i32::MAX)
    }

    /// The compression codec's number; 0 is none, 4 is zstd.
    pub(crate) fn codec(&self) -> i16 {
        self.attributes & 0x07
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether the sender claims the broker's own clock wrote the timestamps, which only a broker may.
    pub(crate) fn is_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    /// Whether the sender numbers its batches.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.producer_id >= 0
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Outcome {
    /// Its records count.
    Commit,
    /// Its records never happened.
    Abort,
}

/// The control batch that ends a producer's transaction in one partition, ready to be appended.
pub(crate) fn marker(producer_id: i64, producer_epoch: i16, outcome: Outcome, now_ms: i64) -> Bytes {
    let kind: i16 = match outcome {
        Outcome::Abort => 0,
        Outcome::Commit => 1,
    };
    let mut record = BytesMut::with_capacity(16);
    record.put_slice(&[0, 0, 0]); // attributes, timestamp delta, offset delta
    record.put_u8(8); // key length 4, zigzag
    record.put_i16(0); // key version
    record.put_i16(kind);
    record.put_u8(12); // value length 6, zigzag
    record.put_i16(0); // value version
    record.put_i32(0); // coordinator epoch: there is one coordinator for ever
    record.put_u8(0); // no headers
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + 1 + record.len());
    batch.put_i64(0);
    batch.put_i32((HEADER_BYTES + 1 + record.len() - LENGTH_OVERHEAD) as i32);
    batch.put_i32(LEADER_EPOCH);
    batch.put_i8(2);
    batch.put_u32(0);
    batch.put_i16(TRANSACTIONAL | CONTROL);
    batch.put_i32(0);
    batch.put_i64(now_ms);
    batch.put_i64(now_ms);
    batch.put_i64(producer_id);
    batch.put_i16(producer_epoch);
    batch.put_i32(-1);
    batch.put_i32(1);
    batch.put_u8((record.len() * 2) as u8);
    batch.put_slice(&record);
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[17..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

/// Which end a control batch of ours marks; nothing for control records of another kind.
pub(crate) fn marker_outcome(batch: &[u8]) -> Option<Outcome> {
    // Length, attributes, two deltas and the key's length take five bytes, the key's version two.
    match batch.get(HEADER_BYTES + 7..HEADER_BYTES + 9)? {
        [0, 0] => Some(Outcome::Abort),
        [0, 1] => Some(Outcome::Commit),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A batch of one record, by nobody or the first one in a producer's transaction.
    pub(crate) fn one_record(producer: Option<(i64, i16)>) -> Bytes {
        let (id, epoch) = producer.unwrap_or((-1, -1));
        let (attributes, sequence) = if producer.is_some() { (TRANSACTIONAL, 0i32) } else { (0, -1) };
        // A marker is a record like any other but for its header.
        let mut bytes = BytesMut::from(&marker(id, epoch, Outcome::Commit, 1_000)[..]);
        bytes[CRC_FROM..23].copy_from_slice(&attributes.to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[17..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        bytes.freeze()
    }

    #[test]
    fn a_marker_verifies_and_tells_its_outcome() {
        for outcome in [Outcome::Commit, Outcome::Abort] {
            let bytes = marker(7, 3, outcome, 1_700_000_000_000);
            let header = BatchHeader::verify(&bytes).unwrap();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch, header.record_count), (7, 3, 1));
            assert_eq!(marker_outcome(&bytes), Some(outcome));
        }
    }

    #[test]
    fn stamping_an_offset_leaves_the_checksum_right() {
        let bytes = marker(7, 3, Outcome::Commit, 0);
        let header = BatchHeader::verify(&bytes).unwrap();
        let mut stored = bytes.to_vec();
        stored[..STAMP_BYTES].copy_from_slice(&header.stamp(1 << 40));
        let again = BatchHeader::verify(&stored).unwrap();
        assert_eq!(again, header.at(1 << 40));
    }

    #[test]
    fn every_flipped_bit_after_the_stamp_is_noticed() {
        let bytes = marker(7, 3, Outcome::Commit, 0);
        for bit in STAMP_BYTES * 8..bytes.len() * 8 {
            let mut broken = bytes.to_vec();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::verify(&broken).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = marker(7, 3, Outcome::Commit, 0);
        for length in 0..bytes.len() {
            assert!(BatchHeader::verify(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut header = BatchHeader::parse(&marker(1, 0, Outcome::Abort, 0)).unwrap();
        header.base_sequence = i32::MAX;
        header.last_offset_delta = 1;
        assert_eq!(header.last_sequence(), 0);
    }
}
