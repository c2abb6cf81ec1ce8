//! How long a voter waits for a leader before it stands for election itself: a function of seed, voters and term, so that the same seed gives the
//! same run. Each voter of a configuration waits for another time, and the order changes with the term: who comes first twice in a row and can't win
//! doesn't keep the others from it.

use std::collections::BTreeSet;

/// Ticks, from `shortest` to just short of twice that.
pub(super) fn election_ticks(
    seed: u64,
    voters: &BTreeSet<u64>,
    id: u64,
    term: u64,
    shortest: usize,
) -> usize {
    let count = voters.len().max(1);
    let place = voters.range(..id).count();
    let turn = usize::try_from(mix(seed ^ mix(term)) % count as u64).expect("few voters");
    shortest + (place + turn) % count * shortest / count
}

/// splitmix64's last step: every bit of the input counts in every bit of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_wait_for_different_times_and_take_turns() {
        for count in 1..=5_u64 {
            let voters: BTreeSet<u64> = (0..count).map(|voter| 7 + 3 * voter).collect();
            let mut firsts = BTreeSet::new();
            for term in 0..64 {
                let times: Vec<usize> =
                    voters.iter().map(|voter| election_ticks(9, &voters, *voter, term, 6)).collect();
                assert!(times.iter().all(|ticks| (6..12).contains(ticks)), "{times:?}");
                assert_eq!(times.iter().collect::<BTreeSet<_>>().len(), times.len(), "{times:?}");
                firsts.insert(times.iter().position(|ticks| *ticks == 6));
            }
            assert_eq!(firsts.len() as u64, count, "each comes first in some term");
        }
    }
}
