//! Jitter from a seed: splitmix64 (Steele, Lea, Flood 2014). The core never asks anybody for randomness.

#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which isn't 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// `base × 2^step`, at most `limit`, less up to half of it: tries of many clients spread out.
    pub(super) fn backoff(&mut self, base: u64, step: u32, limit: u64) -> u64 {
        let whole = base.saturating_mul(1 << step.min(20)).min(limit).max(1);
        whole - self.below(whole / 2 + 1)
    }
}
