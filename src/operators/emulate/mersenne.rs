//! Python's `random`, as far as the original emulator used it: the Mersenne Twister MT19937 seeded by an integer.

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// What `random.seed(seed)` leaves behind.
pub(super) struct Mersenne {
    state: Box<[u32; WORDS]>,
    next: usize,
}

impl Mersenne {
    /// Python seeds by the integer's 32-bit words, the lowest first.
    pub(super) fn new(seed: u64) -> Self {
        let key: &[u32] = &[seed as u32, (seed >> 32) as u32];
        let key = if key[1] == 0 { &key[..1] } else { key };
        let mut state = Box::new([0_u32; WORDS]);
        state[0] = 19_650_218;
        for i in 1..WORDS {
            state[i] = 1_812_433_253_u32.wrapping_mul(state[i - 1] ^ (state[i - 1] >> 30)).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..WORDS.max(key.len()) {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(key[j]).wrapping_add(j as u32);
            (i, j) = (following(i, &mut state), (j + 1) % key.len());
        }
        for _ in 0..WORDS - 1 {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(i as u32);
            i = following(i, &mut state);
        }
        state[0] = 0x8000_0000;
        Self { state, next: WORDS }
    }

    /// `random.randrange(0, limit)`: as many bits as the limit has, drawn again while they are too large.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        let bits = u32::BITS - limit.leading_zeros();
        loop {
            let drawn = self.word() >> (u32::BITS - bits);
            if drawn < limit {
                return drawn;
            }
        }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
                let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + SHIFT) % WORDS] ^ (joined >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }
}

/// The next place to mix; at the end the last word becomes the first.
fn following(i: usize, state: &mut [u32; WORDS]) -> usize {
    if i + 1 < WORDS {
        return i + 1;
    }
    state[0] = state[WORDS - 1];
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_draws_what_python_draws() {
        // random.seed(100); [(random.randrange(0, 2), random.randint(0, 11000)) for _ in range(6)]
        let mut random = Mersenne::new(100);
        let drawn: Vec<(u32, u32)> = (0..6).map(|_| (random.below(2), random.below(11_001))).collect();
        assert_eq!(drawn, [(0, 7528), (1, 2863), (1, 5730), (1, 8304), (0, 8731), (0, 1313)]);
        // random.seed(2**40 + 7); [random.randrange(0, 1000) for _ in range(1000)][-3:]
        let mut random = Mersenne::new((1 << 40) + 7);
        let drawn: Vec<u32> = (0..1000).map(|_| random.below(1000)).collect();
        assert_eq!(drawn[997..], [264, 763, 507]);
    }
}
