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
}
