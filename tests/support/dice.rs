//! Random choices that a seed repeats.

/// SplitMix64: small, and good enough to find what nobody thought of.
pub struct Dice(u64, u64);

impl Dice {
    /// The same seed gives the same choices.
    pub fn new(seed: u64) -> Self {
        Self(seed, seed)
    }

    /// `LAKEWARD_SEED`, or the clock.
    pub fn seed() -> u64 {
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
            now.as_secs() * 1000 + u64::from(now.subsec_millis())
        };
        std::env::var("LAKEWARD_SEED").map_or_else(|_| clock(), |seed| seed.parse().expect("LAKEWARD_SEED is a number"))
    }

    /// What it began with.
    pub fn seeded(&self) -> u64 {
        self.1
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end`, without `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// A number between two, both included.
    pub fn between(&mut self, low: i128, high: i128) -> i128 {
        low + (u128::from(self.bits()) % (high - low + 1) as u128) as i128
    }

    /// A number between two: an end, a neighbour of zero or of an end, or one of any length.
    pub fn integer(&mut self, low: i128, high: i128) -> i128 {
        if self.one_in(4) {
            let edges = [low, high, low + 1, high - 1, 0, 1, -1, 9, 10, 9999, 10000, -10000];
            return (*self.pick(&edges)).clamp(low, high);
        }
        let short = i128::from(self.bits() as i64 >> self.below(64));
        if (low..=high).contains(&short) { short } else { self.between(low, high) }
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// An edge once in four times, else what is usual.
    pub fn edge(&mut self, edges: &[&str], usual: impl FnOnce(&mut Self) -> String) -> String {
        if self.one_in(4) { (*self.pick(edges)).to_owned() } else { usual(self) }
    }

    /// Up to `most` pieces, joined.
    pub fn join(&mut self, least: usize, most: usize, separator: &str, mut piece: impl FnMut(&mut Self) -> String) -> String {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| piece(self)).collect::<Vec<_>>().join(separator)
    }
}
