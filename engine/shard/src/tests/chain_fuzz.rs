//! Chains that cross each other, under random orders, lost connections and changes of epoch: what is acked is everywhere, everything ends, and nothing is
//! kept.

use std::collections::BTreeMap;

use journal::fake_disk::Random;
use wire::{Nanos, Status};

use super::bench::Chunk;
use super::world::{World, chain_map, serving};

const MIB: usize = 1 << 20;
/// Of one world; `CATENA_CHAIN_SEEDS` runs more of them.
const SEEDS: u64 = 60;

/// Every slice another order, so that chains wait for each other in a circle (R38).
const CHAINS: [[usize; 3]; 4] = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]];

fn epoch_map(number: u64) -> placement::ClusterMap {
    let chains: Vec<Vec<_>> = CHAINS.iter().map(|chain| serving(chain)).collect();
    let chains: Vec<&[_]> = chains.iter().map(Vec::as_slice).collect();
    chain_map(number, 3, &chains)
}

/// One client that sends a chunk again until it is acked, as clients do (R4).
struct Client {
    chunk: Chunk,
    correlation: u64,
    /// The epoch that it knew at its last attempt.
    epoch: u64,
    tries: u32,
    acked: bool,
}

fn head_of(chunk: &Chunk) -> usize {
    CHAINS[usize::from(wire::slice_of(chunk.id, 2).0)][0]
}

pub(super) struct Run {
    world: World,
    random: Random,
    clients: Vec<Client>,
    epoch: u64,
    correlations: u64,
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // From plenty to room for a few chunks only.
        let memory = [0, 64 * MIB, 24 * MIB][usize::try_from(random.below(3)).unwrap()];
        let mut world = World::new(3, memory);
        world.set_map(&epoch_map(1));
        let clients = (1..=12)
            .map(|number| {
                let length = [1, 5000, 300_000, MIB, MIB + 1][usize::try_from(random.below(5)).unwrap()];
                let chunk = Chunk::new(number, length);
                Client { chunk, correlation: 0, epoch: 0, tries: 0, acked: false }
            })
            .collect();
        Self { world, random, clients, epoch: 1, correlations: 0 }
    }

    /// Clients without an attempt under way begin one.
    fn ask(&mut self) {
        // Whoever asked over a connection that has ended asks again.
        let ended = std::mem::take(&mut self.world.ended);
        for client in &mut self.clients {
            if ended.contains(&head_of(&client.chunk)) {
                client.epoch = 0;
            }
            let answer = self.world.answers.get(&client.correlation);
            client.acked |= answer == Some(&Status::Ok);
            let waits = client.correlation != 0 && answer.is_none() && client.epoch == self.epoch;
            let has_credit = self.world.has_credit(head_of(&client.chunk), client.chunk.bytes.len());
            if client.acked || waits || !has_credit {
                continue;
            }
            self.correlations += 1;
            (client.correlation, client.epoch) = (self.correlations, self.epoch);
            client.tries += 1;
            self.world.put(head_of(&client.chunk), self.correlations, &client.chunk, self.epoch);
        }
    }

    fn disturb(&mut self) {
        match self.random.below(6) {
            0 => {
                let (a, b) = (self.random.below(3), self.random.below(3));
                self.world.disconnect(usize::try_from(a).unwrap(), usize::try_from(b).unwrap());
            }
            1 => {
                let site = usize::try_from(self.random.below(3)).unwrap();
                self.world.hang_up(site);
            }
            2 => {
                self.epoch += 1;
                let map = epoch_map(self.epoch);
                let first = usize::try_from(self.random.below(3)).unwrap();
                for site in 0..3 {
                    self.world.set_map_of((first + site) % 3, &map);
                    for _ in 0..self.random.below(8) {
                        self.world.step(&mut self.random);
                    }
                }
            }
            3 => {
                let site = usize::try_from(self.random.below(3)).unwrap();
                self.world.sites[site].is_stuck ^= true;
            }
            _ => self.world.pass(self.random.below(2 * Nanos::SECOND)),
        }
    }

    fn check(&self) {
        for client in self.clients.iter().filter(|client| client.acked) {
            let holders = self.world.holders(client.chunk.id);
            assert_eq!(holders.len(), 3, "I2: chunk {} was acked", client.chunk.id);
        }
    }

    pub(super) fn run(mut self, seed: u64) -> BTreeMap<&'static str, u64> {
        for _ in 0..400 {
            self.ask();
            for _ in 0..self.random.below(20) {
                self.world.step(&mut self.random);
            }
            if self.random.chance(15) {
                self.disturb();
            }
            self.check();
        }
        // Nothing disturbs any more: everything ends well.
        for site in &mut self.world.sites {
            site.is_stuck = false;
        }
        for _ in 0..200 {
            self.ask();
            while self.world.step(&mut self.random) {}
            self.world.pass(200 * Nanos::MILLISECOND);
        }
        self.ask();
        self.check();
        for client in &self.clients {
            let answer = self.world.answers.get(&client.correlation);
            assert!(
                client.acked,
                "chunk {} isn't served in the end, seed {seed}: {answer:?}",
                client.chunk.id
            );
        }
        while self.world.step(&mut self.random) {}
        self.world.assert_idle();
        let tries: u32 = self.clients.iter().map(|client| client.tries).sum();
        BTreeMap::from([("tries", u64::from(tries)), ("epochs", self.epoch)])
    }
}

#[test]
fn what_is_acked_is_everywhere_and_everything_ends() {
    let seeds = std::env::var("CATENA_CHAIN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..seeds {
        for (name, count) in Run::new(seed).run(seed) {
            *totals.entry(name).or_default() += count;
        }
    }
    assert!(totals["tries"] > 14 * seeds, "attempts failed and were repeated: {totals:?}");
    assert!(totals["epochs"] > 2 * seeds, "epochs passed: {totals:?}");
}
