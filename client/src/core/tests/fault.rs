//! Random calls under random faults against the model: exactly once, verified bytes, a true outcome, nothing left behind.

use std::collections::BTreeMap;

use wire::{ChunkId, Nanos, Status};

use super::mutation::{lookup, mkdir};
use super::transfer::{bytes_of, get, open_upload, sample, start_put};
use super::world::{Faults, World};
use crate::core::fake::{FakeCluster, META, SHARDS};
use crate::core::random::Random;
use crate::core::{Call, Done, Event, Failure, Ticket, UploadId};

enum Expected {
    Directory(String),
    Chunk(Vec<u8>),
    Bytes(Vec<u8>),
    Answer,
}

struct Trial {
    world: World,
    random: Random,
    expected: BTreeMap<Ticket, Expected>,
    stored: Vec<(ChunkId, u64, Vec<u8>)>,
    upload: UploadId,
    outcomes: [u32; 4],
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut cluster = FakeCluster::new();
        cluster.is_strict = false;
        cluster.put_credit = [64 << 10, 256 << 10, 1 << 20][usize::try_from(random.below(3)).expect("small")];
        let mut world = World::with(seed, cluster, 1 << 20);
        let upload = open_upload(&mut world);
        let mut rate = || random.below(4) * random.below(15);
        world.faults = Faults { drop: rate(), duplicate: rate(), delay: rate(), cut: rate(), flip: rate() };
        Self { world, random, expected: BTreeMap::new(), stored: Vec::new(), upload, outcomes: [0; 4] }
    }

    fn step(&mut self, number: u64) {
        let Self { world, random, .. } = self;
        let patience = Nanos::SECOND + random.below(40 * Nanos::SECOND);
        let (ticket, expected) = match random.below(10) {
            0..4 => {
                let path = format!("d{number}");
                (world.call_for(mkdir(&path), patience), Expected::Directory(path))
            }
            4..6 => {
                let length = 1 + usize::try_from(random.below(300_000)).expect("small");
                let bytes = sample(length, number);
                (start_put(world, self.upload, &bytes), Expected::Chunk(bytes))
            }
            6..9 if !self.stored.is_empty() => {
                let index = usize::try_from(random.below(self.stored.len() as u64)).expect("small");
                let (id, root, bytes) = &self.stored[index];
                let start = usize::try_from(random.below(bytes.len() as u64)).expect("small");
                let length = 1 + usize::try_from(random.below((bytes.len() - start) as u64)).expect("small");
                let range = start..start + length;
                let call = get(*id, *root, bytes.len(), range.clone());
                (world.call_for(call, patience), Expected::Bytes(bytes[range].to_vec()))
            }
            _ => (world.call_for(lookup("nothing"), patience), Expected::Answer),
        };
        self.expected.insert(ticket, expected);
        match self.random.below(60) {
            0 => self.world.crash(META),
            1 => self.world.crash(SHARDS[usize::try_from(self.random.below(2)).expect("small")]),
            2 => self.world.cluster.change_map(),
            3 => {
                // Whoever uploads in it has to begin again.
                self.world.cluster.sessions.clear();
                self.world.finish_call(lookup("nothing")).ok();
            }
            4 => {
                self.expected.remove(&ticket);
                self.world.event(Event::Cancel { ticket });
            }
            _ => {}
        }
        self.world.run_for(self.random.below(200 * Nanos::MILLISECOND));
        self.settle();
    }

    fn settle(&mut self) {
        let done: Vec<Ticket> =
            self.expected.keys().filter(|ticket| self.world.finished.contains_key(ticket)).copied().collect();
        for ticket in done {
            let expected = self.expected.remove(&ticket).expect("listed");
            let (_, result) = self.world.finished.remove(&ticket).expect("listed");
            self.check(&expected, result);
        }
    }

    fn check(&mut self, expected: &Expected, result: Result<Done, Failure>) {
        match expected {
            Expected::Directory(path) => {
                let executions = self.world.cluster.executions.get(path.as_bytes()).copied().unwrap_or(0);
                assert!(executions <= 1, "I7: {path} was made {executions} times");
                match result {
                    Ok(Done::Outcome(outcome)) => {
                        assert_eq!((outcome.status, executions), (Status::Ok, 1), "{path}");
                        self.outcomes[0] += 1;
                    }
                    Err(Failure::Unknown) => self.outcomes[1] += 1,
                    Err(_) => {
                        assert_eq!(executions, 0, "R14: {path} was reported as failed, and was made");
                        self.outcomes[2] += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            Expected::Chunk(bytes) => match result {
                Ok(Done::Chunk { id, root, .. }) => {
                    assert_eq!(self.world.cluster.chunks[&id].0, *bytes, "I2: acked, so stored");
                    self.stored.push((id, root, bytes.clone()));
                }
                Err(Failure::SessionExpired) => {
                    self.world.event(Event::CloseUpload(self.upload));
                    if let Ok(Done::Upload { upload, .. }) =
                        self.world.finish_call(Call::OpenUpload { group: wire::GroupId(0) })
                    {
                        self.upload = upload;
                    }
                }
                Err(_) => self.outcomes[3] += 1,
                other => panic!("{other:?}"),
            },
            Expected::Bytes(bytes) => match bytes_of(&mut self.world, result) {
                Ok(found) => assert_eq!(found, *bytes, "I11"),
                Err(Failure::Missing { .. }) => panic!("an acked chunk is missing"),
                Err(_) => self.outcomes[3] += 1,
            },
            Expected::Answer => {}
        }
    }
}

fn run(seed: u64, steps: u64) -> (u64, [u32; 4]) {
    let mut trial = Trial::new(seed);
    for number in 0..steps {
        trial.step(number);
    }
    trial.world.faults = Faults::default();
    trial.world.run_for(120 * Nanos::SECOND);
    trial.settle();
    assert!(trial.expected.is_empty(), "every call ends: seed {seed}");
    let executions = &trial.world.cluster.executions;
    assert!(executions.values().all(|count| *count <= 1), "I7");
    // Results that came after the last look still hold slots.
    let late: Vec<Ticket> = trial.world.finished.keys().copied().collect();
    for ticket in late {
        let (_, result) = trial.world.finished.remove(&ticket).expect("listed");
        if matches!(result, Ok(Done::Bytes { .. })) {
            bytes_of(&mut trial.world, result).expect("bytes");
        }
    }
    assert_eq!(trial.world.memory.used_bytes, 0, "every slot came back");
    assert_eq!(trial.world.core.counts().requests, 0);
    (trial.world.trace, trial.outcomes)
}

#[test]
fn exactly_once_and_verified_under_faults() {
    let mut outcomes = [0; 4];
    for seed in 0..60 {
        let (_, counts) = run(seed, 150);
        for (sum, count) in outcomes.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    // The faults must be strong enough that every outcome occurs, and weak enough that most calls succeed.
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
    assert!(outcomes[0] > 20 * outcomes[1], "{outcomes:?}");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    assert_eq!(run(7, 60).0, run(7, 60).0);
    assert_ne!(run(7, 60).0, run(8, 60).0);
}
