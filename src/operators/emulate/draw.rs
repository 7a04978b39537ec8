//! Which rows are drawn: pure, and the same for the same seed and the same table.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::mersenne::Mersenne;

/// The original drew `randint(0, 11000)`: among the first 11,001 rows.
pub(super) const REPLAY_ROWS: u32 = 11_001;

/// The original's seed.
pub(super) const REPLAY_SEED: u64 = 100;

/// A run's own seed: the same at each attempt. Below 2^53, so that it survives any JSON reader.
pub(super) fn seed_of(run: Uuid) -> u64 {
    let hash = Sha256::digest([b"pinsched emulate ", run.as_bytes().as_slice()].concat());
    let bytes: [u8; 8] = hash[..8].try_into().expect("a SHA-256 has 32 bytes");
    u64::from_be_bytes(bytes) >> 11
}

/// Goes once over all rows in key order and says of each whether it is taken: exactly as many as are wanted, each set
/// of them equally likely (Knuth's algorithm S). Needs no memory, however many rows there are.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    left: u64,
    wanted: u64,
    random: Option<SplitMix>,
}

impl Selection {
    /// `wanted` of `count`, by chance. Wants no more than there are.
    pub(super) fn sample(count: u64, wanted: u64, seed: u64) -> Self {
        Self { left: count, wanted, random: Some(SplitMix(seed)) }
    }

    /// The first `wanted` of `count`.
    pub(super) fn first(count: u64, wanted: u64) -> Self {
        Self { left: count, wanted, random: None }
    }

    /// Whether nothing more will be taken.
    pub(super) fn is_done(&self) -> bool {
        self.wanted == 0
    }

    /// Whether the next row is taken.
    pub(super) fn takes_next(&mut self) -> bool {
        let taken = match &mut self.random {
            _ if self.wanted == 0 || self.left == 0 => false,
            None => true,
            Some(random) => random.below(self.left) < self.wanted,
        };
        self.left = self.left.saturating_sub(1);
        self.wanted -= u64::from(taken);
        taken
    }
}

/// The original's loop, with its own generator: a pause of 0 or 1 s, then a row, with replacement.
pub(super) struct Replay {
    random: Mersenne,
}

impl Replay {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Mersenne::new(seed) }
    }

    /// The pause in seconds and the row's rank in key order.
    pub(super) fn next(&mut self) -> (u32, u32) {
        (self.random.below(2), self.random.below(REPLAY_ROWS))
    }
}

/// The generator SplitMix64: what it draws never changes with a dependency's version.
#[derive(Debug, Clone)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly below `limit`: the high half of a product, drawn again in the few cases that would favour some (Lemire).
    fn below(&mut self, limit: u64) -> u64 {
        loop {
            let product = u128::from(self.next()) * u128::from(limit);
            if (product as u64) >= limit.wrapping_neg() % limit {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(mut selection: Selection, count: u64) -> Vec<u64> {
        (0..count).filter(|_| selection.takes_next()).collect()
    }

    proptest! {
        #[test]
        fn a_sample_has_as_many_rows_as_wanted_each_once(count in 0..2_000_u64, share in 0.0..=1.0_f64, seed: u64) {
            let wanted = (count as f64 * share) as u64;
            let rows = taken(Selection::sample(count, wanted, seed), count);
            prop_assert_eq!(rows.len() as u64, wanted);
            prop_assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(taken(Selection::sample(count, wanted, seed), count), rows);
        }
    }

    #[test]
    fn every_row_is_equally_likely() {
        let mut often = [0_u32; 20];
        for seed in 0..20_000 {
            for row in taken(Selection::sample(20, 5, seed), 20) {
                often[row as usize] += 1;
            }
        }
        // 5,000 expected each; six standard deviations are about 370.
        assert!(often.iter().all(|&count| count.abs_diff(5_000) < 370), "{often:?}");
    }

    #[test]
    fn the_first_rows_are_the_first_rows() {
        assert_eq!(taken(Selection::first(10, 4), 10), [0, 1, 2, 3]);
    }

    #[test]
    fn a_runs_seed_is_its_own_and_fits_a_double() {
        let (a, b) = (seed_of(Uuid::from_u128(1)), seed_of(Uuid::from_u128(2)));
        assert_ne!(a, b);
        assert!(a < 1 << 53 && b < 1 << 53);
        assert_eq!(a, seed_of(Uuid::from_u128(1)));
    }

    #[test]
    fn replay_starts_with_the_originals_first_row() {
        assert_eq!(Replay::new(REPLAY_SEED).next(), (0, 7528));
    }
}
