//! How many slices each two parts of the cluster share: what declustering keeps even.
//!
//! Who loses a part reads its slices from their other replicas and writes them anew. If those lie spread over all other parts,
//! every disk helps (declustering: Holland and Gibson 1992); if they lie on few, those few are the time that it takes.

use super::count;

/// Factors in whose order replicas leave: first where two parts share most, in the end anywhere. Without that, whoever held slices together
/// would go on doing so for ever, since plans move only what they must.
pub(super) const CROWDED: [f64; 7] = [4.0, 3.0, 2.0, 1.5, 1.25, 1.0, 0.0];

/// A symmetric table of counts, with the measure by which candidates are compared.
pub(super) struct Pairs {
    width: usize,
    counts: Vec<u32>,
    /// 1 / the replicas that each part shall hold: two parts are expected to share in proportion to both.
    inverse: Vec<f64>,
    /// What parts share per replica of one and of the other, if all is even: a replica has `length − 1` others, which are
    /// spread over all replicas there are.
    mean: f64,
}

impl Pairs {
    /// Nothing shared yet among as many parts as there are quotas.
    pub(super) fn new(quotas: &[u32], chain_length: usize) -> Self {
        let width = quotas.len();
        let inverse = quotas.iter().map(|&quota| 1.0 / f64::from(quota.max(1))).collect();
        let replicas: u32 = quotas.iter().sum();
        let mean = f64::from(count(chain_length - 1)) / f64::from(replicas.max(1));
        Self { width, counts: vec![0; width * width], inverse, mean }
    }

    /// `part` now holds a slice that `others` hold.
    pub(super) fn add(&mut self, part: usize, others: impl Iterator<Item = usize>) {
        for other in others.filter(|&other| other != part) {
            self.counts[part * self.width + other] += 1;
            self.counts[other * self.width + part] += 1;
        }
    }

    /// `part` no longer holds a slice that `others` hold.
    pub(super) fn remove(&mut self, part: usize, others: impl Iterator<Item = usize>) {
        for other in others.filter(|&other| other != part) {
            self.counts[part * self.width + other] -= 1;
            self.counts[other * self.width + part] -= 1;
        }
    }

    /// How much `part` shares with `others` already, against what is expected: an order, and the same on every machine
    /// (IEEE additions and multiplications; the bits of floats that aren't negative are ordered as they are).
    pub(super) fn crowding(&self, part: usize, others: impl Iterator<Item = usize>) -> u64 {
        self.shared(part, others).to_bits()
    }

    /// Whether `part` shares more with `others` than `factor` times what it should; always at a factor of 0.
    pub(super) fn is_crowded(
        &self,
        part: usize,
        others: impl Iterator<Item = usize> + Clone,
        factor: f64,
    ) -> bool {
        let expected = f64::from(count(others.clone().count())) * self.mean;
        self.shared(part, others) >= factor * expected
    }

    fn shared(&self, part: usize, others: impl Iterator<Item = usize>) -> f64 {
        let row = &self.counts[part * self.width..][..self.width];
        let sum: f64 = others.map(|other| f64::from(row[other]) * self.inverse[other]).sum();
        sum * self.inverse[part]
    }
}
