//! Bytes and numbers that are a function of a seed, so that a test checks content without keeping it.

/// `SplitMix64`: one multiplication-rich step per number, any seed is good, and word *i* is computed without the words before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// Numbers of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        let number = mix(self.state.wrapping_add(GAMMA));
        self.state = self.state.wrapping_add(GAMMA);
        number
    }

    /// The next number below `bound`, which isn't zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The remainder's bias is below 2⁻³² for every bound that a test uses.
        self.number() % bound
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A file's content: `length` bytes of `seed`. Any part of it can be made and checked alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// What distinguishes it.
    pub seed: u64,
    /// Bytes.
    pub length: u64,
}

impl Content {
    /// The content of `seed` with `length` bytes.
    #[must_use]
    pub fn new(seed: u64, length: u64) -> Self {
        Self { seed, length }
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) {
        for (index, byte) in (offset..).zip(buffer) {
            let word = mix(self.seed.wrapping_add((index / 8 + 1).wrapping_mul(GAMMA)));
            *byte = word.to_le_bytes()[usize::try_from(index % 8).expect("below 8")];
        }
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length).expect("a test's content fits in memory")];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Where `found` differs first: the offset, or the shorter length if one is the beginning of the other.
    #[must_use]
    pub fn difference(&self, found: &[u8]) -> Option<usize> {
        let expected = self.bytes();
        let differs = expected.iter().zip(found).position(|(left, right)| left != right);
        differs.or_else(|| (expected.len() != found.len()).then(|| expected.len().min(found.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_the_whole() {
        let content = Content::new(7, 1000);
        let whole = content.bytes();
        let mut part = [0; 100];
        content.fill(333, &mut part);
        assert_eq!(part, whole[333..433]);
        assert_ne!(whole, Content::new(8, 1000).bytes());
        assert_eq!(content.difference(&whole), None);
        assert_eq!(content.difference(&whole[..999]), Some(999));
        let mut wrong = whole.clone();
        wrong[500] ^= 1;
        assert_eq!(content.difference(&wrong), Some(500));
    }

    #[test]
    fn numbers_are_splitmix64() {
        // The first output for seed 0 of the published generator.
        assert_eq!(Random::new(0).number(), 0xe220_a839_7b1d_cdaf);
        let mut random = Random::new(1);
        assert!((0..1000).all(|_| random.below(10) < 10));
    }
}
