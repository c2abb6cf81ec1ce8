//! Numbers from a seed, and the distributions that a profile names.

/// splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream `number` of `seed`.
    pub(crate) fn stream(seed: u64, number: u64) -> Self {
        Self(mix(seed) ^ mix(number.wrapping_add(GAMMA)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number below `bound`, which isn't 0. The bias is below 2⁻³² for every bound of a profile.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number from 0 up to 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Each bit of the result depends on each bit of the word.
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Which of some things comes next: each with the probability that its weight has of all.
#[derive(Clone, Debug)]
pub(crate) struct Weighted {
    /// Sums of the weights up to each thing, the last one 1.
    sums: Vec<f64>,
}

impl Weighted {
    /// Of these weights, one of which at least isn't 0.
    pub(crate) fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = weights
            .into_iter()
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        assert!(sum > 0.0, "a profile is checked before it is used");
        for part in &mut sums {
            *part /= sum;
        }
        Self { sums }
    }

    /// Zipf's law: the thing of rank r has the weight 1 / r^exponent.
    #[expect(clippy::cast_precision_loss, reason = "ranks are far below 2⁵³")]
    pub(crate) fn zipf(count: usize, exponent: f64) -> Self {
        Self::new((1..=count).map(|rank| (rank as f64).powf(-exponent)))
    }

    pub(crate) fn pick(&self, random: &mut Random) -> usize {
        let at = random.unit();
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len() - 1)
    }
}

/// A number from `from` to `to`, each power of two as probable as the next.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of a profile are far below 2⁵³, and what is rounded is put back between the bounds"
)]
pub(crate) fn between(random: &mut Random, from: u64, to: u64) -> u64 {
    let (low, high) = ((from.max(1) as f64).ln(), (to.max(1) as f64).ln());
    let size = (low + (high - low) * random.unit()).exp().round() as u64;
    size.clamp(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept() {
        let mut random = Random::stream(1, 2);
        let weighted = Weighted::new([1.0, 0.0, 3.0]);
        let mut counts = [0; 3];
        (0..40_000).for_each(|_| counts[weighted.pick(&mut random)] += 1);
        assert!((9_500..10_500).contains(&counts[0]) && counts[1] == 0, "{counts:?}");
    }

    #[test]
    fn the_first_of_zipf_is_popular() {
        let mut random = Random::stream(1, 2);
        let zipf = Weighted::zipf(1000, 1.0);
        let first = (0..10_000).filter(|_| zipf.pick(&mut random) == 0).count();
        // 1 / (ln 1000 + 0.577) = 13.4 %.
        assert!((1200..1480).contains(&first), "{first}");
    }

    #[test]
    fn sizes_lie_between_their_bounds() {
        let mut random = Random::stream(3, 4);
        let sizes: Vec<u64> = (0..10_000).map(|_| between(&mut random, 1024, 1 << 20)).collect();
        assert!(sizes.iter().all(|size| (1024..=1 << 20).contains(size)));
        let small = sizes.iter().filter(|size| **size < 32 << 10).count();
        assert!((4_700..5_300).contains(&small), "half of ten powers of two: {small}");
        assert_eq!(between(&mut random, 5, 5), 5);
    }

    #[test]
    fn streams_differ() {
        assert_ne!(Random::stream(1, 1).next(), Random::stream(1, 2).next());
        assert_ne!(Random::stream(1, 1).next(), Random::stream(2, 1).next());
        assert_eq!(Random::stream(1, 1).next(), Random::stream(1, 1).next());
    }
}
