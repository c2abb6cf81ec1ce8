//! Randomness from a seed: xoshiro256\*\*, seeded by splitmix64 (Blackman and Vigna, 2018).
//!
//! Each part of a simulation draws from a stream of its own ([`Random::stream`]): what one part draws does not move what another gets, so that a
//! changed workload leaves the faults of a seed alike.

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream `name` of `seed`.
    pub(crate) fn stream(seed: u64, name: &str) -> Self {
        let mut mix = seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in name.bytes() {
            mix = split_mix(&mut mix) ^ u64::from(byte);
        }
        Self { state: std::array::from_fn(|_| split_mix(&mut mix)) }
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// Bits for a store's life, as a process draws them when it starts; what is drawn next stays the same.
    pub(crate) fn life_bits(&self) -> u16 {
        u16::try_from(self.clone().below(1 << 16)).expect("below 2^16")
    }

    /// A number below `bound`, which is not 0. The bias of a modulo is far below what a simulation notices.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        self.next() % bound
    }

    /// An index below `bound`.
    pub(crate) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Whether something of this probability, in parts of a thousand, happens.
    pub(crate) fn per_mille(&mut self, probability: u64) -> bool {
        self.below(1000) < probability
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// A duration around `typical` with a long tail: most are shorter, one in a hundred is twenty times longer.
    pub(crate) fn latency(&mut self, typical: u64) -> u64 {
        let base = typical / 2 + self.below(typical + 1);
        if self.per_mille(10) { base + self.below(20 * typical + 1) } else { base }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_seed_and_name() {
        let mut one = Random::stream(1, "a");
        let mut same = Random::stream(1, "a");
        let mut other_name = Random::stream(1, "b");
        let mut other_seed = Random::stream(2, "a");
        let first: Vec<u64> = (0..64).map(|_| one.next()).collect();
        assert_eq!(first, (0..64).map(|_| same.next()).collect::<Vec<_>>());
        assert_ne!(first, (0..64).map(|_| other_name.next()).collect::<Vec<_>>());
        assert_ne!(first, (0..64).map(|_| other_seed.next()).collect::<Vec<_>>());
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::stream(7, "range");
        let drawn: Vec<u64> = (0..1000).map(|_| random.between(3, 6)).collect();
        assert!(drawn.iter().all(|value| (3..=6).contains(value)));
        assert!((3..=6).all(|value| drawn.contains(&value)));
    }
}
