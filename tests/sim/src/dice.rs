//! Everything that is left to chance in a life, drawn from its seed.

use std::ops::RangeInclusive;
use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): small, fast, the same
/// everywhere. Nothing here is a secret.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// From 0 up to 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, of: f64) -> bool {
        of > 0.0 && self.share() < of
    }

    /// Below `end`, which is at least 1. The bias of the remainder is below 2^-32 for the sizes of a fleet.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// Some of so many things.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or_default()
    }

    pub(crate) fn one_of<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.index(among.len())]
    }

    pub(crate) fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    pub(crate) fn seconds(&mut self, range: RangeInclusive<u64>) -> Duration {
        self.millis(range.start() * 1000..=range.end() * 1000)
    }

    /// A wait of an event that happens once in `mean` on the average, whatever happened before; at most 20 times that long.
    pub(crate) fn until_next(&mut self, mean: Duration) -> Duration {
        mean.mul_f64((-(1.0 - self.share()).ln()).min(20.0))
    }
}

/// The finaliser of SplitMix64.
pub(crate) const fn mixed(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 32 bytes that stand for the digest of other bytes: as good as a digest where nobody forges collisions.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut lanes = [
        0x243f_6a88_85a3_08d3_u64,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    ];
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56;
        for (index, lane) in (1u64..).zip(&mut lanes) {
            *lane = mixed((*lane ^ word).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
    }
    let mut digest = [0; 32];
    for (lane, place) in lanes.iter().zip(digest.chunks_exact_mut(8)) {
        place.copy_from_slice(&lane.to_le_bytes());
    }
    digest
}
