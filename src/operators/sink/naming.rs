//! The names of objects: Confluent's, so that whatever reads those reads ours.

/// Offsets are padded to so many digits (`filename.offset.zero.pad.width`); longer ones are written out.
const OFFSET_DIGITS: usize = 10;

/// The folder of null values whose keys are kept, in place of the partitioner's.
pub(super) const TOMBSTONES: &str = "tombstone";

/// What an object's name is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct ObjectName<'a> {
    /// The first folder; empty for none.
    pub(super) topics_dir: &'a str,
    pub(super) topic: &'a str,
    /// What the partitioner made of the record, as `partition=0`.
    pub(super) folder: &'a str,
    pub(super) partition: i32,
    /// The offset of the object's first record.
    pub(super) start: i64,
    /// As `.json.gz`.
    pub(super) extension: &'a str,
}

impl ObjectName<'_> {
    /// `topics/<topic>/<folder>/<topic>+<partition>+<start offset><extension>`.
    pub(super) fn key(&self) -> String {
        let Self { topics_dir, topic, folder, partition, start, extension } = self;
        let delimiter = if topics_dir.is_empty() { "" } else { "/" };
        format!("{topics_dir}{delimiter}{topic}/{folder}/{topic}+{partition}+{start:0OFFSET_DIGITS$}{extension}")
    }
}

/// The key of one record's dead letter.
pub(super) fn dead_letter_key(topic: &str, partition: i32, offset: i64) -> String {
    format!("dead-letter/{topic}/partition={partition}/{topic}+{partition}+{offset:0OFFSET_DIGITS$}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_confluents() {
        let name = ObjectName {
            topics_dir: "topics",
            topic: "0e35b2767ae1.pin",
            folder: "partition=2",
            partition: 2,
            start: 40_000,
            extension: ".json",
        };
        assert_eq!(name.key(), "topics/0e35b2767ae1.pin/partition=2/0e35b2767ae1.pin+2+0000040000.json");
        let bare = ObjectName { topics_dir: "", start: 12_345_678_901, extension: ".json.gz", ..name };
        assert_eq!(bare.key(), "0e35b2767ae1.pin/partition=2/0e35b2767ae1.pin+2+12345678901.json.gz");
        assert_eq!(dead_letter_key("t", 0, 7), "dead-letter/t/partition=0/t+0+0000000007.json");
    }
}
