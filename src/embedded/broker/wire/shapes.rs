//! The shape of every request that is spoken, field by field with the versions that have it. Only layout; a test encodes
//! full requests with the codec and checks that both agree.

use super::shape::{Field, Shape};

const LAST: i16 = i16::MAX;

const fn field(shape: Shape, since: i16, until: i16) -> Field {
    Field { shape, since, until }
}

const fn fixed(size: usize) -> Field {
    field(Shape::Fixed(size), 0, LAST)
}

const fn list(fields: &'static [Field]) -> Field {
    field(Shape::List(fields), 0, LAST)
}

/// In all versions.
const TEXT: Field = field(Shape::Text, 0, LAST);
const BLOB: Field = field(Shape::Blob, 0, LAST);
const BYTE: Field = fixed(1);
const SHORT: Field = fixed(2);
const INT: Field = fixed(4);
const LONG: Field = fixed(8);
const INTS: Field = field(Shape::Numbers(4), 0, LAST);
const TEXTS: Field = field(Shape::Texts, 0, LAST);

const fn since(version: i16, inner: Field) -> Field {
    field(inner.shape, version, inner.until)
}

const fn until(version: i16, inner: Field) -> Field {
    field(inner.shape, inner.since, version)
}

pub(crate) const PRODUCE: &[Field] =
    &[since(3, TEXT), SHORT, INT, list(&[until(12, TEXT), since(13, fixed(16)), list(&[INT, BLOB])])];

const FETCH_PARTITION: &[Field] = &[INT, since(9, INT), LONG, since(12, INT), since(5, LONG), INT];

pub(crate) const FETCH: &[Field] = &[
    until(14, INT),
    INT,
    INT,
    INT,
    BYTE,
    since(7, INT),
    since(7, INT),
    list(&[until(12, TEXT), since(13, fixed(16)), list(FETCH_PARTITION)]),
    since(7, list(&[until(12, TEXT), since(13, fixed(16)), INTS])),
    since(11, TEXT),
];

pub(crate) const LIST_OFFSETS: &[Field] =
    &[INT, since(2, BYTE), list(&[TEXT, list(&[INT, since(4, INT), LONG])]), since(10, INT)];

pub(crate) const METADATA: &[Field] =
    &[list(&[since(10, fixed(16)), TEXT]), since(4, BYTE), field(Shape::Fixed(1), 8, 10), since(8, BYTE)];

pub(crate) const OFFSET_COMMIT: &[Field] = &[
    TEXT,
    INT,
    TEXT,
    since(7, TEXT),
    field(Shape::Fixed(8), 2, 4),
    list(&[TEXT, list(&[INT, LONG, since(6, INT), TEXT])]),
];

pub(crate) const OFFSET_FETCH: &[Field] = &[
    until(7, TEXT),
    until(7, list(&[TEXT, INTS])),
    since(8, list(&[TEXT, since(9, TEXT), since(9, INT), list(&[TEXT, INTS])])),
    since(7, BYTE),
];

pub(crate) const FIND_COORDINATOR: &[Field] = &[until(3, TEXT), since(1, BYTE), since(4, TEXTS)];

pub(crate) const JOIN_GROUP: &[Field] =
    &[TEXT, INT, since(1, INT), TEXT, since(5, TEXT), TEXT, list(&[TEXT, BLOB]), since(8, TEXT)];

pub(crate) const HEARTBEAT: &[Field] = &[TEXT, INT, TEXT, since(3, TEXT)];

pub(crate) const LEAVE_GROUP: &[Field] = &[TEXT, until(2, TEXT), since(3, list(&[TEXT, TEXT, since(5, TEXT)]))];

pub(crate) const SYNC_GROUP: &[Field] =
    &[TEXT, INT, TEXT, since(3, TEXT), since(5, TEXT), since(5, TEXT), list(&[TEXT, BLOB])];

pub(crate) const DESCRIBE_GROUPS: &[Field] = &[TEXTS, since(3, BYTE)];

pub(crate) const LIST_GROUPS: &[Field] = &[since(4, TEXTS), since(5, TEXTS)];

pub(crate) const API_VERSIONS: &[Field] = &[since(3, TEXT), since(3, TEXT)];

pub(crate) const CREATE_TOPICS: &[Field] =
    &[list(&[TEXT, INT, SHORT, list(&[INT, INTS]), list(&[TEXT, TEXT])]), INT, BYTE];

pub(crate) const DELETE_TOPICS: &[Field] = &[since(6, list(&[TEXT, fixed(16)])), until(5, TEXTS), INT];

pub(crate) const INIT_PRODUCER_ID: &[Field] = &[TEXT, INT, since(3, LONG), since(3, SHORT)];

pub(crate) const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[since(3, INT), list(&[TEXT, list(&[INT, INT, INT])])];

pub(crate) const ADD_PARTITIONS_TO_TXN: &[Field] = &[TEXT, LONG, SHORT, list(&[TEXT, INTS])];

pub(crate) const ADD_OFFSETS_TO_TXN: &[Field] = &[TEXT, LONG, SHORT, TEXT];

pub(crate) const END_TXN: &[Field] = &[TEXT, LONG, SHORT, BYTE];

pub(crate) const TXN_OFFSET_COMMIT: &[Field] = &[
    TEXT,
    TEXT,
    LONG,
    SHORT,
    since(3, INT),
    since(3, TEXT),
    since(3, TEXT),
    list(&[TEXT, list(&[INT, LONG, since(2, INT), TEXT])]),
];

pub(crate) const DESCRIBE_CONFIGS: &[Field] = &[list(&[BYTE, TEXT, TEXTS]), BYTE, since(3, BYTE)];

pub(crate) const CREATE_PARTITIONS: &[Field] = &[list(&[TEXT, INT, list(&[INTS])]), INT, BYTE];

pub(crate) const DELETE_GROUPS: &[Field] = &[TEXTS];

pub(crate) const SASL_HANDSHAKE: &[Field] = &[TEXT];

pub(crate) const SASL_AUTHENTICATE: &[Field] = &[BLOB];

pub(crate) const DESCRIBE_CLUSTER: &[Field] = &[BYTE, since(1, BYTE)];

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes, BytesMut};
    use kafka_protocol::messages::RequestKind;

    use super::super::shape::{Shape, check};
    use super::super::versions::APIS;
    use super::Field;

    struct Writer {
        out: BytesMut,
        version: i16,
        flexible: bool,
    }

    impl Writer {
        fn count(&mut self, count: u8) {
            if self.flexible { self.out.put_u8(count + 1) } else { self.out.put_i32(i32::from(count)) }
        }

        fn text(&mut self) {
            if self.flexible {
                self.out.put_u8(3)
            } else {
                self.out.put_i16(2)
            }
            self.out.put_slice(b"ab");
        }

        fn structure(&mut self, fields: &[Field]) {
            let version = self.version;
            for field in fields.iter().filter(|f| (f.since..=f.until).contains(&version)) {
                match field.shape {
                    Shape::Fixed(size) => self.out.put_bytes(1, size),
                    Shape::Text => self.text(),
                    Shape::Blob => {
                        self.count(5);
                        self.out.put_bytes(7, 5);
                    }
                    Shape::List(inner) => {
                        self.count(2);
                        self.structure(inner);
                        self.structure(inner);
                    }
                    Shape::Numbers(size) => {
                        self.count(3);
                        self.out.put_bytes(1, 3 * size);
                    }
                    Shape::Texts => {
                        self.count(2);
                        self.text();
                        self.text();
                    }
                }
            }
            if self.flexible {
                self.out.put_slice(&[1, 99, 1, 0]); // one tagged field nobody knows
            }
        }
    }

    fn full(fields: &[Field], version: i16, flexible: bool) -> Bytes {
        let mut writer = Writer { out: BytesMut::new(), version, flexible };
        writer.structure(fields);
        writer.out.freeze()
    }

    #[test]
    fn the_decoder_reads_exactly_what_each_shape_writes() {
        for api in APIS {
            for version in api.min..=api.max {
                let mut body = full(api.fields, version, api.is_flexible(version));
                let decoded = RequestKind::decode(api.key, &mut body, version);
                assert!(decoded.is_ok(), "{:?} {version}: {decoded:?}", api.key);
                assert!(body.is_empty(), "{:?} {version}: {} bytes left", api.key, body.len());
            }
        }
    }

    #[test]
    fn every_truncation_and_every_swollen_byte_is_survived() {
        for api in APIS {
            for version in api.min..=api.max {
                let flexible = api.is_flexible(version);
                let body = full(api.fields, version, flexible);
                assert_eq!(check(&body, api.fields, version, flexible), Ok(()));
                for length in 0..body.len() {
                    assert!(check(&body.slice(..length), api.fields, version, flexible).is_err());
                }
                for at in 0..body.len() {
                    let mut swollen = body.to_vec();
                    swollen[at] = 0x7f;
                    let mut swollen = Bytes::from(swollen);
                    if check(&swollen, api.fields, version, flexible).is_ok() {
                        // What passes the walk must not make the decoder reserve more than the walk saw.
                        let _ = RequestKind::decode(api.key, &mut swollen, version);
                    }
                }
            }
        }
    }
    /// Metadata version 1 of so many topics without a name.
    fn metadata_of(topics: i32) -> Bytes {
        let mut body = BytesMut::new();
        body.put_i32(topics);
        body.put_bytes(0, topics as usize * 2);
        body.freeze()
    }

    #[test]
    fn all_partitions_there_can_be_fit_into_a_request_and_a_million_do_not() {
        let mut fetch = BytesMut::new();
        fetch.put_bytes(0, 17);
        fetch.put_i32(10_000);
        for _ in 0..10_000 {
            fetch.put_i16(0); // no name
            fetch.put_i32(1);
            fetch.put_bytes(0, 16);
        }
        assert_eq!(check(&fetch.freeze(), super::FETCH, 4, false), Ok(()));
        assert_eq!(check(&metadata_of(10_000), super::METADATA, 1, false), Ok(()));
        assert!(check(&metadata_of(1_000_000), super::METADATA, 1, false).is_err());
    }
}
