//! How many rows are read at once: pure.

/// Rows are read in pieces of about this much JSON.
const WANTED_BYTES: usize = 1 << 20;

/// A piece with more than this of one table is not read to its end. So much of each table is in memory at the most, and
/// one row where that is larger.
pub(super) const LARGEST_BYTES: usize = 4 << 20;

/// The first piece, before anything is known of the rows' size.
const FIRST: usize = 100;

/// No piece has more rows than this: its keys are part of a statement's text.
const LARGEST: usize = 5_000;

/// The size of the next piece, from that of the last one: rows change along a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    size: usize,
}

impl Default for Piece {
    fn default() -> Self {
        Self { size: FIRST }
    }
}

impl Piece {
    /// How many rows the next one should have.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A piece of so many rows had so many bytes. The next one is at most twice as large.
    pub(super) fn read(&mut self, rows: usize, bytes: usize) {
        let fitting = WANTED_BYTES.saturating_mul(rows) / bytes.max(1);
        self.size = fitting.clamp(1, LARGEST.min(self.size * 2));
    }

    /// So many rows had too many bytes.
    pub(super) fn shrink(&mut self, rows: usize) {
        self.size = (rows / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_follows_the_rows_but_grows_slowly() {
        let mut piece = Piece::default();
        for (rows, bytes, next) in [
            (100, 20_000, 200),
            (200, 40_000, 400),
            (400, 4_000_000, 104),
            (104, 104, 208),
            (208, 104_000_000, 2),
            (1, 900_000_000, 1),
            (1, 0, 2),
        ] {
            piece.read(rows, bytes);
            assert_eq!(piece.size(), next, "after {rows} rows of {bytes} bytes together");
        }
        for _ in 0..20 {
            piece.read(piece.size(), 1);
        }
        assert_eq!(piece.size(), LARGEST);
        piece.shrink(9);
        assert_eq!(piece.size(), 4);
        piece.shrink(1);
        assert_eq!(piece.size(), 1);
    }
}
