//! Rules one by one. Chains are written as `7A2 0S* 1Y 2W`: epoch 7, active (`P`: prepared), `min_in_sync` 2; the member of store 0 serves and is a
//! seed, 1 is syncing, 2 waits (`L`: served last, `O`: offline).

mod growth;
mod leases;
mod operators;
mod registrations;
mod steps;
mod transitions;
mod world;

use wire::Epoch;
use wire::map::{Chain, Member, Members, Phase, ReplicaState};

/// Reads a chain.
fn chain(text: &str) -> Chain {
    let mut words = text.split_whitespace();
    let head = words.next().expect("epoch, phase and min_in_sync");
    let phase_at = head.find(['A', 'P']).expect("a phase");
    let member = |word: &str| {
        let (word, is_seed) = word.strip_suffix('*').map_or((word, false), |word| (word, true));
        let (store, state) = word.split_at(word.len() - 1);
        let state = match state {
            "S" => ReplicaState::Serving,
            "Y" => ReplicaState::Syncing,
            "W" => ReplicaState::Waiting,
            "L" => ReplicaState::LastServing,
            "O" => ReplicaState::Offline,
            other => panic!("no state {other}"),
        };
        Member { store: store.parse().expect("a place"), state, is_seed }
    };
    Chain {
        epoch: Epoch(head[..phase_at].parse().expect("an epoch")),
        phase: if head[phase_at..].starts_with('A') { Phase::Active } else { Phase::Prepared },
        min_in_sync: head[phase_at + 1..].parse().expect("a count"),
        members: words.map(member).collect::<Members>(),
    }
}

/// Writes it.
fn text(chain: &Chain) -> String {
    let phase = if chain.phase == Phase::Active { 'A' } else { 'P' };
    let member = |member: &Member| {
        let state = match member.state {
            ReplicaState::Serving => 'S',
            ReplicaState::Syncing => 'Y',
            ReplicaState::Waiting => 'W',
            ReplicaState::LastServing => 'L',
            ReplicaState::Offline => 'O',
        };
        format!(" {}{state}{}", member.store, if member.is_seed { "*" } else { "" })
    };
    format!(
        "{}{phase}{}{}",
        chain.epoch,
        chain.min_in_sync,
        chain.members.iter().map(member).collect::<String>()
    )
}

#[test]
fn chains_are_read_as_they_are_written() {
    let written = "12P1 10S* 3Y 2W 4L* 5O";
    assert_eq!(text(&chain(written)), written);
}
