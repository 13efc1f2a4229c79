//! Chance from a seed.

/// A SplitMix64 generator (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same numbers.
    pub fn new(seed: u64, name: &str, input: u64) -> Self {
        // FNV-1a, so that targets see unlike sequences.
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut dice = Self(seed ^ name);
        dice.0 = dice.draw() ^ input;
        dice
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % (bound as u64).max(1)) as usize
    }

    /// One of several. They must not be none.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A number at which programs go wrong: at the ends of the types, around powers of two, or small.
    pub fn edge(&mut self) -> u64 {
        match self.below(4) {
            0 => self.draw() % 17,
            1 => 1_u64
                .checked_shl(self.draw() as u32 % 64)
                .unwrap_or(0)
                .wrapping_add(self.draw() % 3)
                .wrapping_sub(1),
            2 => u64::MAX - self.draw() % 3,
            _ => self.draw() >> (self.draw() % 64),
        }
    }
}
