//! How chains stand, by the map alone: for lists, and where nobody leads the control group. Pure.

use clap::ValueEnum;
use wire::control::{ChainId, ChainTally};
use wire::map::{Chain, Map, Phase, ReplicaState};

use super::names::chains;

/// How a chain stands. Each is in exactly one of the first four; the others come on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Standing {
    /// Every copy serves
    Full,
    /// Copies are missing; it can be read and written
    Degraded,
    /// It can be read and not written
    ReadOnly,
    /// No copy serves
    Down,
    /// Its members are being changed
    Changing,
    /// A copy is being brought up to date
    Syncing,
    /// No copy serves, and it waits for an operator
    Stuck,
}

impl Standing {
    /// The word for it, as it is typed and in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Degraded => "degraded",
            Self::ReadOnly => "read-only",
            Self::Down => "down",
            Self::Changing => "changing",
            Self::Syncing => "syncing",
            Self::Stuck => "stuck",
        }
    }
}

/// Which of the first four a chain is.
pub(crate) fn standing(map: &Map, id: ChainId, chain: &Chain) -> Standing {
    let serving = chain.serving().count();
    let length = match id {
        ChainId::Slice(_) => usize::from(map.settings.chain_length),
        ChainId::Group(_) => chain.members.len(),
    };
    if serving == 0 {
        Standing::Down
    } else if !chain.can_ack() {
        Standing::ReadOnly
    } else if serving == length && chain.members.len() == length {
        Standing::Full
    } else {
        Standing::Degraded
    }
}

/// Whether its members are being changed.
pub(crate) fn is_changing(chain: &Chain) -> bool {
    chain.phase == Phase::Prepared
}

/// Whether a copy is being brought up to date.
pub(crate) fn is_syncing(chain: &Chain) -> bool {
    chain.members.iter().any(|member| member.state == ReplicaState::Syncing)
}

/// Whether there is anything to say about it.
pub(crate) fn is_well(map: &Map, id: ChainId, chain: &Chain) -> bool {
    standing(map, id, chain) == Standing::Full && !is_changing(chain)
}

/// Slices and groups in numbers. Which of them wait for an operator the map doesn't say.
pub(crate) fn tallies(map: &Map) -> (ChainTally, ChainTally) {
    let (mut slices, mut groups) = (ChainTally::default(), ChainTally::default());
    for (id, chain) in chains(map) {
        let tally = if matches!(id, ChainId::Slice(_)) { &mut slices } else { &mut groups };
        let serving = u8::try_from(chain.serving().count()).unwrap_or(u8::MAX);
        tally.redundancy_min = if tally.chains == 0 { serving } else { tally.redundancy_min.min(serving) };
        tally.chains += 1;
        let count = match standing(map, id, chain) {
            Standing::Down => &mut tally.down,
            Standing::ReadOnly => &mut tally.read_only,
            Standing::Full => &mut tally.full,
            _ => &mut tally.degraded,
        };
        *count += 1;
        tally.changing += u32::from(is_changing(chain));
        tally.syncing += u32::from(is_syncing(chain));
    }
    (slices, groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;

    #[test]
    fn every_chain_is_counted_once() {
        let (slices, groups) = tallies(&sample::map());
        assert_eq!(
            slices,
            ChainTally {
                chains: 4,
                full: 1,
                degraded: 1,
                read_only: 1,
                down: 1,
                changing: 1,
                syncing: 1,
                stuck: 0,
                redundancy_min: 0
            }
        );
        assert_eq!((groups.chains, groups.full, groups.redundancy_min), (1, 1, 3));
    }

    #[test]
    fn words_are_those_that_are_typed() {
        for standing in Standing::value_variants() {
            let typed = standing.to_possible_value().expect("none is hidden");
            assert_eq!(typed.get_name(), standing.word());
        }
    }

    #[test]
    fn what_changes_isnt_well() {
        let map = sample::map();
        let well: Vec<bool> = chains(&map).map(|(id, chain)| is_well(&map, id, chain)).collect();
        assert_eq!(well, [true, false, false, false, true]);
    }
}
