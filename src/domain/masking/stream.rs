//! Masks text that comes piece by piece: a secret may be cut anywhere, and parted by line breaks.

use super::{Masks, Seen, TELLING, push_mask};

/// What may wait at the most for a secret's rest: blank lines without end would otherwise fill the memory.
const WAITING: usize = 1024 * 1024;

/// A text in the making. What may be the beginning of a secret is held back until it is known to be none.
pub struct MaskedStream {
    masks: Masks,
    /// What was let go last, on the same side of the last mask: too little to be told for a secret's beginning.
    context: String,
    held: String,
}

impl MaskedStream {
    pub(super) fn new(masks: Masks) -> Self {
        Self { masks, context: String::new(), held: String::new() }
    }

    /// Takes the next piece; returns what can be shown by now.
    #[must_use]
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        self.release(self.held.len() > WAITING)
    }

    /// Returns the rest. Nothing comes behind it.
    #[must_use]
    pub fn finish(&mut self) -> String {
        self.release(true)
    }

    fn release(&mut self, everything: bool) -> String {
        let masker = self.masks.current();
        if masker.is_empty() {
            return std::mem::take(&mut self.held);
        }
        let shown_before = self.context.len();
        let whole = std::mem::take(&mut self.context) + &std::mem::take(&mut self.held);
        let seen = Seen::new(&whole);
        let found = masker.found(&seen.text);
        let open = if everything { None } else { masker.open_from(&seen.text) };
        let mut hold = open.unwrap_or(seen.text.len());
        let mut released = String::with_capacity(whole.len());
        let (mut from, mut last_mask) = (shown_before, 0);
        for (start, end) in found {
            if start >= hold {
                break;
            }
            let (raw_start, raw_end) = (seen.place(start).max(shown_before), seen.end(end));
            if raw_end <= shown_before {
                continue;
            }
            released.push_str(&whole[from..raw_start]);
            push_mask(&mut released, &whole[raw_start..raw_end]);
            (from, last_mask) = (raw_end, end);
            hold = hold.max(end);
        }
        let until = match open {
            None => whole.len(),
            // Line breaks before what is held go with what is let go.
            Some(_) => seen.place(hold).min(whole.len()).max(from),
        };
        released.push_str(&whole[from..until]);
        self.held = whole[until..].to_owned();
        self.context = ending(&seen.text[last_mask..hold.max(shown_before)]).to_owned();
        released
    }
}

/// The last characters that are too few to be held back.
fn ending(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TELLING - 1);
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    &text[start..]
}
