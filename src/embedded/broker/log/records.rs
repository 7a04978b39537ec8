//! Finds a record by time inside one batch. Compressed batches are not opened: there the first record stands for all, so
//! a reader that starts from the answer may see earlier records but never misses one.

use super::batch::{BatchHeader, HEADER_BYTES};

/// A record's place and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
}

/// The first record of a batch at or after `timestamp`. The batch's latest timestamp must not be before it.
pub(crate) fn first_at_or_after(header: &BatchHeader, batch: &[u8], timestamp: i64) -> Found {
    let first = Found { offset: header.base_offset, timestamp: header.base_timestamp };
    if header.codec() != 0 || header.base_timestamp >= timestamp {
        return first;
    }
    let mut rest = batch.get(HEADER_BYTES..).unwrap_or_default();
    while let Some((found, after)) = record(header, rest) {
        if found.timestamp >= timestamp {
            return found;
        }
        rest = after;
    }
    first
}

/// Whether the plain records of a batch are what its header says: so many, numbered from 0, each of the length it has, and
/// nothing after them. A batch that is not would be acknowledged, and no client could read past it.
pub(crate) fn are_whole(header: &BatchHeader, batch: &[u8]) -> bool {
    let mut rest = batch.get(HEADER_BYTES..).unwrap_or_default();
    for number in 0..i64::from(header.record_count) {
        match whole_record(number, rest) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// What follows a record with this number.
fn whole_record(number: i64, bytes: &[u8]) -> Option<&[u8]> {
    let (length, body) = varint(bytes)?;
    let (body, after) = body.split_at_checked(usize::try_from(length).ok()?)?;
    let (_, body) = varint(body.get(1..)?)?;
    let (offset_delta, body) = varint(body)?;
    // Key and value, either of which may be nothing.
    let (mut headers, mut body) = varint(blob(blob(body)?)?)?;
    while headers > 0 {
        let (name_length, _) = varint(body)?;
        body = blob(blob(body)?)?;
        headers = if name_length < 0 { return None } else { headers - 1 };
    }
    (offset_delta == number && headers == 0 && body.is_empty()).then_some(after)
}

/// What follows counted bytes, of which a count of -1 says that there are none.
fn blob(bytes: &[u8]) -> Option<&[u8]> {
    match varint(bytes)? {
        (-1, after) => Some(after),
        (length, after) => after.get(usize::try_from(length).ok()?..),
    }
}

fn record<'a>(header: &BatchHeader, bytes: &'a [u8]) -> Option<(Found, &'a [u8])> {
    let (length, body) = varint(bytes)?;
    let (body, after) = body.split_at_checked(usize::try_from(length).ok()?)?;
    let (timestamp_delta, body) = varint(body.get(1..)?)?;
    let (offset_delta, _) = varint(body)?;
    let found = Found {
        offset: header.base_offset.checked_add(offset_delta)?,
        timestamp: header.base_timestamp.checked_add(timestamp_delta)?,
    };
    Some((found, after))
}

/// A zigzag number of up to ten bytes, and what follows it.
fn varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut raw: u64 = 0;
    for (n, byte) in bytes.iter().enumerate().take(10) {
        raw |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some(((raw >> 1) as i64 ^ -((raw & 1) as i64), &bytes[n + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Outcome, marker};
    use super::*;

    #[test]
    fn the_first_record_late_enough_is_found_and_nonsense_is_survived() {
        let mut header = BatchHeader::parse(&marker(1, 0, Outcome::Commit, 100)).unwrap().at(40);
        header.max_timestamp = 130;
        let mut batch = vec![0; HEADER_BYTES];
        for n in 0..3u8 {
            // length 3, attributes, timestamp delta 10n, offset delta n
            batch.extend_from_slice(&[6, 0, n * 20, n * 2]);
        }
        assert_eq!(first_at_or_after(&header, &batch, 5), Found { offset: 40, timestamp: 100 });
        assert_eq!(first_at_or_after(&header, &batch, 101), Found { offset: 41, timestamp: 110 });
        assert_eq!(first_at_or_after(&header, &batch, 120), Found { offset: 42, timestamp: 120 });
        assert_eq!(first_at_or_after(&header, &batch[..HEADER_BYTES + 5], 120).offset, 40);
        assert_eq!(first_at_or_after(&header, &[0xff; 90], 120).offset, 40);
    }
    /// A batch of plain records with this body; only what is counted in its header counts.
    fn batch(record_count: i32, records: &[u8]) -> (BatchHeader, Vec<u8>) {
        let mut header = BatchHeader::parse(&marker(1, 0, Outcome::Commit, 0)).unwrap();
        header.record_count = record_count;
        (header, [&[0; HEADER_BYTES], records].concat())
    }

    #[test]
    fn records_that_do_not_add_up_are_noticed() {
        // Length 11, attributes, time, offset delta, key "k", no value, one header "h" of one byte.
        let record = |delta: u8| vec![22, 0, 0, delta * 2, 2, b'k', 1, 2, 2, b'h', 2, 9];
        let two = [record(0), record(1)].concat();
        let is_whole = |count: i32, records: &[u8]| {
            let (header, bytes) = batch(count, records);
            are_whole(&header, &bytes)
        };
        assert!(is_whole(2, &two));
        assert!(!is_whole(1, &two), "something follows");
        assert!(!is_whole(3, &two), "one is missing");
        assert!(!is_whole(2, &[record(0), record(0)].concat()), "numbered wrongly");
        for cut in 1..two.len() {
            assert!(!is_whole(2, &two[..cut]));
        }
        assert!(!is_whole(1, &[0xff; 50]));
        assert!(!is_whole(1, &[]));
        // A header's name must be there.
        assert!(!is_whole(1, &[16, 0, 0, 0, 1, 1, 2, 1, 1]));
    }
}
