//! The chunk store alone: one store on one disk, every request answered in random order, cut and reopened again and again.
//!
//! The model is a plain map from chunk to what its caller was told. *Strict* seeds lose nothing but what was in flight: whatever was acknowledged is
//! there, whatever was deleted is gone. *Lossy* seeds damage the medium too: then a chunk may be missing or fail, and only if the store says so by
//! name or by batch; wrong bytes are never returned.

use std::collections::BTreeMap;

use journal::fake_disk::Faults;
use journal::{Expected, Format, Geometry, Identity};
use store::{Effect, Effects, Event, GotChunk, Store, StoreConfig};
use wire::checksum::{BlockHasher, leaf_count, root, verify_range};
use wire::{ChunkId, ClusterId, Memory, Nanos, NodeId, SessionId, Slot, Status, StoreId};

use crate::content::{Stamp, fill, interesting_length};
use crate::disk::SimDisk;
use crate::kept::Kept;
use crate::level::guarded;
use crate::memory::SimMemory;
use crate::random::Random;
use crate::report::{Failed, Tally};
use crate::scope::Case;
use crate::settings;
use crate::trace::Trace;

/// What its caller knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Being put.
    Putting,
    /// The put was cut off: there or not.
    Perhaps,
    /// Acknowledged.
    Stored,
    /// Being deleted, or the deletion was cut off.
    Deleting,
    /// Acknowledged as deleted.
    Deleted,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    length: u32,
    told: Told,
    /// When its caller was told.
    at: Nanos,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Put(ChunkId),
    /// A put of a known id with other bytes (R4).
    Conflict(ChunkId),
    /// And whether it was deleted already when it was asked for.
    Get(ChunkId, bool),
    Delete(ChunkId),
    Inventory,
}

/// How much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// Kills and power cuts.
    Cuts,
    /// And requests that fail.
    Errors,
    /// And bits that flip, writes that are lost or misdirected.
    Lossy,
}

struct StoreRun {
    case: Case,
    last_fault: u64,
    seed: u64,
    random: Random,
    trace: Trace,
    tally: Tally,
    disk: SimDisk,
    memory: SimMemory,
    store: Store,
    effects: Effects,
    now: Nanos,
    armed: Option<Nanos>,
    profile: Profile,
    geometry: Geometry,
    capacity: u64,
    chunks: BTreeMap<ChunkId, Chunk>,
    asked: BTreeMap<u64, Asked>,
    /// References of the caller's own, given back with the answer.
    held: BTreeMap<u64, Slot>,
    last_token: u64,
    last_ordinal: u64,
    is_open: bool,
    is_down: bool,
    /// Damage that the store has told of, in any of its lives.
    reported: std::collections::BTreeSet<ChunkId>,
    batches_reported: bool,
}

const CLUSTER: ClusterId = ClusterId([3; 16]);
const STORE: StoreId = StoreId([4; 16]);
const ARENA_BYTES: usize = 48 << 20;
const STEPS: u64 = 4_000;
/// An idle store makes its last acknowledgement decidable within 100 ms (R29); some of them are lost with their writes.
const DECIDABLE: u64 = 300 * Nanos::MILLISECOND;

/// Runs one case.
pub(crate) fn run(case: &Case) -> Result<(Tally, u64), Box<Failed>> {
    let mut run = StoreRun::new(case);
    let result = guarded(|| run.everything());
    let hash = run.trace.hash();
    run.disk.tally(&mut run.tally);
    match result {
        Ok(()) => Ok((run.tally, hash)),
        Err(why) => {
            let (tail, story, faults) = (run.trace.tail(), run.trace.story(), run.last_fault);
            Err(Box::new(Failed {
                level: "store",
                case: case.clone(),
                why,
                tail,
                story,
                operations: STEPS,
                faults,
            }))
        }
    }
}

impl StoreRun {
    fn new(case: &Case) -> Self {
        let seed = case.seed;
        let mut random = Random::stream(seed, "store");
        let geometry = settings::geometry(&mut random, (17, 19));
        let capacity = settings::device_bytes(geometry, random.between(14, 40));
        let profile = *random.pick(&[Profile::Cuts, Profile::Cuts, Profile::Errors, Profile::Lossy]);
        let disk = SimDisk::new(seed, "store disk");
        let config = config(capacity, 0, geometry, &mut random);
        let identity = Identity { cluster: CLUSTER, store: STORE, node: NodeId(1), unit: 0 };
        let format = Format { identity, geometry, secret: random.next(), index_key: random.next() };
        Self {
            case: case.clone(),
            last_fault: 0,
            seed,
            random,
            trace: Trace::new(case.printed),
            tally: Tally::default(),
            disk,
            memory: SimMemory::new(ARENA_BYTES),
            store: Store::format(config, format),
            effects: Effects::new(),
            now: Nanos(Nanos::SECOND),
            armed: None,
            profile,
            geometry,
            capacity,
            chunks: BTreeMap::new(),
            asked: BTreeMap::new(),
            held: BTreeMap::new(),
            last_token: 0,
            last_ordinal: 0,
            is_open: false,
            is_down: false,
            reported: std::collections::BTreeSet::new(),
            batches_reported: false,
        }
    }

    fn everything(&mut self) -> Result<(), String> {
        self.trace
            .note(self.now, format_args!("store {:?} {:?} {}", self.profile, self.geometry, self.capacity));
        self.handle(Event::Start)?;
        self.until(|run| run.is_open, "the format")?;
        for number in 1..=STEPS {
            // Each step has its own randomness: one that is left out moves no other.
            self.random = Random::stream(self.seed, &format!("step {number}"));
            self.step(number)?;
            self.tally.events += 1;
        }
        self.disk.heal();
        for _ in 0..self.random.between(1, 4) {
            self.crash(true)?;
            // Recovery is cut off as well.
            for _ in 0..self.random.below(40) {
                self.complete()?;
            }
            if !self.is_open && !self.is_down {
                self.tally.count("fault", "crash in recovery");
            }
        }
        self.crash(true)?;
        if !self.until_open()? {
            return Ok(());
        }
        self.read_everything()?;
        self.delete_everything()?;
        self.end_in_order()?;
        self.start_again()
    }

    fn has_fault(&mut self) -> bool {
        self.last_fault += 1;
        self.case.has_fault(self.last_fault)
    }

    fn step(&mut self, number: u64) -> Result<(), String> {
        self.now = self.now.after(self.random.below(60 * Nanos::MICROSECOND));
        if self.armed.is_some_and(|at| at <= self.now) {
            self.armed = None;
            self.handle(Event::Tick)?;
        }
        if self.is_down {
            return self.reopen();
        }
        let choice = self.random.below(1000);
        if (31..=275).contains(&choice) && !self.case.has_operation(number) {
            return self.complete();
        }
        match choice {
            0..=2 if self.has_fault() => return self.crash(self.random.clone().per_mille(700)),
            3..=5 if self.has_fault() => {
                self.inject();
                return Ok(());
            }
            6..=30 => {
                self.now = self.now.after(self.random.below(100 * Nanos::MILLISECOND));
                return self.handle(Event::Tick);
            }
            31..=150 if self.is_open => return self.put(),
            151..=200 if self.is_open => return self.get(),
            201..=245 if self.is_open => return self.delete(),
            246..=255 if self.is_open => return self.inventory(),
            256..=275 if self.is_open => return self.put_again(),
            276..=400 if self.is_open => return self.handle(Event::Submit),
            _ => {}
        }
        self.complete()
    }

    fn handle(&mut self, event: Event<'_>) -> Result<(), String> {
        self.effects.clear();
        self.store.handle(self.now, event, &mut self.memory, &mut self.effects);
        let effects = std::mem::take(&mut self.effects);
        self.disk.submit(self.now, &effects.io, &mut self.memory);
        for effect in &effects.list {
            self.on_effect(effect, &effects)?;
        }
        self.effects = effects;
        Ok(())
    }

    fn on_effect(&mut self, effect: &Effect, effects: &Effects) -> Result<(), String> {
        if !matches!(effect, Effect::Arm(_)) {
            self.trace.tell(self.now, format_args!("store says {effect:?}"));
        }
        match *effect {
            Effect::Arm(at) => self.armed = Some(self.armed.map_or(at, |known| known.min(at))),
            Effect::Opened => {
                self.is_open = true;
                self.tally.count("store", "opened");
                self.batches_reported |= !self.store.damaged_batches().is_empty();
                if self.batches_reported && !self.is_lossy() {
                    return Err(format!("damage that nobody did: {:?}", self.store.damaged_batches()));
                }
            }
            Effect::OpenFailed => {
                self.is_down = true;
                self.tally.count("store", "open failed");
                if self.profile == Profile::Cuts {
                    return Err(format!("the store can't be opened: {:?}", self.store.open_error()));
                }
            }
            Effect::Damaged { id } => {
                self.tally.count("store", "damage reported");
                self.reported.insert(id);
                if self.profile == Profile::Cuts {
                    return Err(format!("damage of {id} that nobody did"));
                }
            }
            Effect::Fenced => {
                self.tally.count("store", "fenced");
                self.is_open = false;
                self.is_down = true;
                self.doubt_the_last();
                if self.profile == Profile::Cuts {
                    return Err("fenced without a failure".to_owned());
                }
            }
            Effect::ShutDown => self.is_down = true,
            Effect::Done { token, status } => self.on_done(token, status)?,
            Effect::Got(got) => self.on_got(&got, effects)?,
            Effect::Listed { token, chunks, .. } => {
                self.asked.remove(&token);
                let list = &effects.chunks[chunks.start as usize..][..chunks.count as usize];
                for listed in list {
                    let known = self.chunks.get(&listed.id);
                    // A tombstone in a damaged batch is lost: the chunk is back, and the loss was reported.
                    if known.is_none_or(|chunk| chunk.told == Told::Deleted) && !self.batches_reported {
                        return Err(format!("{} is listed, and was deleted or never put", listed.id));
                    }
                }
                self.tally.count("inventory", "ok");
            }
        }
        Ok(())
    }

    fn on_done(&mut self, token: u64, status: Status) -> Result<(), String> {
        if let Some(slot) = self.held.remove(&token) {
            self.memory.release(slot);
        }
        let asked = self.asked.remove(&token).ok_or_else(|| format!("token {token} is answered twice"))?;
        match asked {
            Asked::Put(id) => {
                self.tally.count("put", outcome(status));
                let chunk = self.chunks.get_mut(&id).expect("it was put");
                match status {
                    Status::Ok if chunk.told == Told::Putting || chunk.told == Told::Perhaps => {
                        (chunk.told, chunk.at) = (Told::Stored, self.now);
                    }
                    Status::NoSpace | Status::Busy | Status::NotServing if chunk.told == Told::Putting => {
                        chunk.told = Told::Perhaps;
                    }
                    Status::StoreFailed if self.profile != Profile::Cuts => {
                        if chunk.told == Told::Putting {
                            chunk.told = Told::Perhaps;
                        }
                    }
                    Status::Ok | Status::NoSpace | Status::Busy | Status::NotServing => {}
                    other => return Err(format!("a put of {id} was answered {other}")),
                }
            }
            Asked::Conflict(id) => {
                self.tally.count("conflicting put", outcome(status));
                let told = self.chunks[&id].told;
                if status == Status::Ok && told == Told::Stored {
                    return Err(format!("I1: other bytes were taken for {id}"));
                }
            }
            Asked::Get(id, _) => {
                self.tally.count("get", outcome(status));
                self.check_absence(id, status)?;
            }
            Asked::Delete(id) => {
                self.tally.count("delete", outcome(status));
                let (is_lossy, now) = (self.is_lossy(), self.now);
                let chunk = self.chunks.get_mut(&id).expect("it was put");
                match status {
                    Status::Ok => (chunk.told, chunk.at) = (Told::Deleted, now),
                    // Damaged segments are never cleaned, so that damage may use the reserve up.
                    Status::NoSpace if is_lossy => {}
                    Status::NoSpace => {
                        return Err("a delete found no space: the reserve is for it".to_owned());
                    }
                    _ => {}
                }
            }
            Asked::Inventory => self.tally.count("inventory", outcome(status)),
        }
        Ok(())
    }

    /// Whether a chunk may not be had.
    fn check_absence(&mut self, id: ChunkId, status: Status) -> Result<(), String> {
        let told = self.chunks[&id].told;
        let is_excused = match status {
            Status::NotFound => told != Told::Stored || self.is_excused(id),
            Status::ChecksumMismatch | Status::StoreFailed => self.profile != Profile::Cuts,
            Status::NotServing | Status::Busy => true,
            _ => false,
        };
        if is_excused {
            return Ok(());
        }
        Err(format!("{id}, which is {told:?}, is answered {status}"))
    }

    fn is_lossy(&self) -> bool {
        self.profile == Profile::Lossy
    }

    /// Whether the loss of this chunk was reported.
    fn is_excused(&self, id: ChunkId) -> bool {
        self.is_lossy() && (self.batches_reported || self.reported.contains(&id))
    }

    fn on_got(&mut self, got: &GotChunk, effects: &Effects) -> Result<(), String> {
        let Some(Asked::Get(id, was_deleted)) = self.asked.remove(&got.token) else {
            return Err(format!("token {} is answered twice", got.token));
        };
        self.tally.count("get", "ok");
        let chunk = self.chunks.get_mut(&id).expect("it was put");
        if was_deleted && !self.batches_reported {
            return Err(format!("{id} was deleted and is back"));
        }
        if matches!(chunk.told, Told::Perhaps | Told::Putting) {
            chunk.told = Told::Stored;
        }
        let (first, blocks) = (got.first_block as usize, got.blocks as usize);
        let length = (blocks * 4096).min(got.length as usize - first * 4096);
        let found = &self.memory.bytes(got.slot)[got.slot_offset as usize..][..length];
        let mut expected = vec![0; length];
        fill(self.seed, stamp(id), first as u64 * 4096, &mut expected);
        if got.length != chunk.length || found != expected {
            return Err(format!("I11: wrong bytes of {id}"));
        }
        let mut leaves = vec![0; leaf_count(length)];
        BlockHasher::new(CLUSTER, id).leaves(first, found, &mut leaves);
        let proof = &effects.words[got.proof.start as usize..][..got.proof.count as usize];
        if !verify_range(got.length as usize, first..first + blocks, &leaves, proof, got.root) {
            return Err(format!("the proof of {id} doesn't lead to its root"));
        }
        self.memory.release(got.slot);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), String> {
        self.now = self.now.after(self.random.below(200 * Nanos::MICROSECOND));
        if let Some((io, outcome)) = self.disk.complete(&mut self.memory) {
            self.trace.note(self.now, format_args!("{io:?} {outcome:?}"));
            return self.handle(Event::IoDone { io, outcome });
        }
        self.now = self.now.after(Nanos::MILLISECOND);
        self.handle(Event::Submit)
    }

    fn until(&mut self, reached: impl Fn(&Self) -> bool, what: &str) -> Result<(), String> {
        for _ in 0..200_000 {
            if reached(self) {
                return Ok(());
            }
            if self.disk.fake.pending() == 0 {
                let at = self.armed.take().unwrap_or(self.now.after(10 * Nanos::MILLISECOND));
                self.now = self.now.max(at);
                self.handle(Event::Tick)?;
            }
            self.complete()?;
        }
        Err(format!("{what} comes to no end"))
    }

    fn token(&mut self, asked: Asked) -> u64 {
        self.last_token += 1;
        self.trace.tell(self.now, format_args!("{} {asked:?}", self.last_token));
        self.asked.insert(self.last_token, asked);
        self.last_token
    }

    fn put(&mut self) -> Result<(), String> {
        self.last_ordinal += 1;
        let session = SessionId::new(wire::GroupId(0), 0, 1 + self.last_ordinal / 50).expect("small");
        let id = ChunkId { session, ordinal: self.last_ordinal };
        let length = interesting_length(&mut self.random, 16 << 10).clamp(1, 32 << 10);
        let length = u32::try_from(length).expect("32 KiB");
        self.chunks.insert(id, Chunk { length, told: Told::Putting, at: Nanos(0) });
        self.send_put(id, length, Asked::Put(id))
    }

    /// The same chunk again, or another content under its id.
    fn put_again(&mut self) -> Result<(), String> {
        let Some(id) = self.some_chunk() else { return Ok(()) };
        let chunk = self.chunks[&id];
        // A client never puts an id again that was committed and deleted: dead is for ever.
        if !matches!(chunk.told, Told::Stored | Told::Perhaps) {
            return Ok(());
        }
        if chunk.told == Told::Stored && self.profile == Profile::Cuts && self.random.per_mille(500) {
            return self.send_put(id, chunk.length, Asked::Conflict(id));
        }
        self.send_put(id, chunk.length, Asked::Put(id))
    }

    fn send_put(&mut self, id: ChunkId, length: u32, asked: Asked) -> Result<(), String> {
        let bytes = length as usize;
        let Some(slot) = self.memory.allocate(bytes) else { return Ok(()) };
        let to = &mut self.memory.bytes_mut(slot)[..bytes];
        fill(self.seed, stamp(id), 0, to);
        if matches!(asked, Asked::Conflict(_)) {
            to[bytes - 1] ^= 1;
        }
        let mut leaves = vec![0; leaf_count(bytes)];
        BlockHasher::new(CLUSTER, id).leaves(0, &self.memory.bytes(slot)[..bytes], &mut leaves);
        let root = root(&leaves, bytes);
        let token = self.token(asked);
        self.held.insert(token, slot);
        self.handle(Event::Put { token, id, length, root, leaves: &leaves, slot })
    }

    fn some_chunk(&mut self) -> Option<ChunkId> {
        let from = self.random.between(self.last_ordinal.saturating_sub(150), self.last_ordinal);
        let session = SessionId::new(wire::GroupId(0), 0, 1 + from / 50).expect("small");
        let id = ChunkId { session, ordinal: from };
        self.chunks.range(id..).next().map(|(id, _)| *id)
    }

    fn get(&mut self) -> Result<(), String> {
        let Some(id) = self.some_chunk() else { return Ok(()) };
        let whole = self.random.per_mille(500);
        let count = u32::try_from(leaf_count(self.chunks[&id].length as usize)).expect("small");
        let first = u32::try_from(self.random.below(u64::from(count))).expect("small");
        let last = first + 1 + u32::try_from(self.random.below(u64::from(count - first))).expect("small");
        let was_deleted = self.chunks[&id].told == Told::Deleted;
        let token = self.token(Asked::Get(id, was_deleted));
        self.handle(Event::Get { token, id, blocks: first..last, whole })
    }

    fn delete(&mut self) -> Result<(), String> {
        let Some(id) = self.some_chunk() else { return Ok(()) };
        let chunk = self.chunks.get_mut(&id).expect("it was put");
        if chunk.told != Told::Stored {
            return Ok(());
        }
        chunk.told = Told::Deleting;
        let token = self.token(Asked::Delete(id));
        self.handle(Event::Delete { token, ids: &[id] })
    }

    fn inventory(&mut self) -> Result<(), String> {
        let after = if self.random.per_mille(500) { self.some_chunk() } else { None };
        let limit = u32::try_from(self.random.between(1, 200)).expect("small");
        let token = self.token(Asked::Inventory);
        self.handle(Event::Inventory { token, after, limit })
    }

    fn inject(&mut self) {
        if self.profile == Profile::Cuts {
            return;
        }
        let on = self.random.per_mille(400);
        let rate = |random: &mut Random, most| if on { random.below(most) } else { 0 };
        self.disk.fake.faults = Faults {
            read_errors: rate(&mut self.random, 200),
            write_errors: rate(&mut self.random, 100),
            flush_errors: rate(&mut self.random, 100),
            allocate_errors: rate(&mut self.random, 2000),
            lost_writes: if self.is_lossy() { rate(&mut self.random, 600) } else { 0 },
            misdirected_writes: if self.is_lossy() { rate(&mut self.random, 600) } else { 0 },
        };
        if self.is_lossy() && self.disk.fake.length() > 0 {
            let at = self.disk.damage(!self.random.per_mille(800), self.now);
            self.trace.tell(self.now, format_args!("fault {}: damage at {at:?}", self.last_fault));
        }
    }

    fn crash(&mut self, by_power: bool) -> Result<(), String> {
        self.trace.tell(self.now, format_args!("fault {}: crash, by power {by_power}", self.last_fault));
        self.tally.count("fault", if by_power { "power cut" } else { "kill" });
        self.disk.end(by_power, &mut self.memory);
        self.doubt_the_last();
        self.reopen()
    }

    /// The last acknowledgement before a life's end can't be told from a torn tail if its write was lost or damaged (R29): whatever ends it,
    /// nothing is written behind it that would say so. Nor can it be told when all that was written behind it was lost as well.
    fn doubt_the_last(&mut self) {
        let (is_lossy, now) = (self.is_lossy(), self.now);
        let newest = self.disk.newest_batch();
        for chunk in self.chunks.values_mut() {
            let is_alone = newest.is_none_or(|newest| newest <= chunk.at);
            let is_undecidable = is_lossy && (is_alone || now.since(chunk.at) < DECIDABLE);
            chunk.told = match chunk.told {
                Told::Putting => Told::Perhaps,
                Told::Stored if is_undecidable => Told::Perhaps,
                Told::Deleted if is_undecidable => Told::Deleting,
                told => told,
            };
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        // A fenced or failed process is ended; what its disk had in flight may still be done.
        if self.disk.fake.pending() > 0 {
            self.disk.kill(&mut self.memory);
        }
        for chunk in self.chunks.values_mut() {
            if chunk.told == Told::Putting {
                chunk.told = Told::Perhaps;
            }
        }
        self.memory = SimMemory::new(ARENA_BYTES);
        self.asked.clear();
        self.held.clear();
        (self.is_open, self.is_down, self.armed) = (false, false, None);
        let config = config(self.capacity, self.disk.fake.length(), self.geometry, &mut self.random);
        let expected = Expected { cluster: Some(CLUSTER), store: Some(STORE), node: NodeId(1), unit: 0 };
        self.store = Store::open(config, expected);
        self.now = self.now.after(Nanos::SECOND);
        self.handle(Event::Start)
    }

    /// Whether it opens; a lossy seed may have destroyed what an open needs.
    fn until_open(&mut self) -> Result<bool, String> {
        self.until(|run| run.is_open || run.is_down, "opening")?;
        if self.is_open {
            return Ok(true);
        }
        if self.is_lossy() {
            self.tally.count("store", "destroyed and said so");
            return Ok(false);
        }
        Err(format!("without faults it doesn't open: {:?}", self.store.open_error()))
    }

    fn read_everything(&mut self) -> Result<(), String> {
        let ids: Vec<ChunkId> = self.chunks.keys().copied().collect();
        for id in ids {
            let was_deleted = self.chunks[&id].told == Told::Deleted;
            let token = self.token(Asked::Get(id, was_deleted));
            self.handle(Event::Get { token, id, blocks: 0..0, whole: true })?;
            self.until(|run| !run.asked.contains_key(&token) || !run.is_open, "a get")?;
            self.tally.count("store", "verified at the end");
        }
        Ok(())
    }

    /// I12: what is deleted gives its space back, so that as much can be put again.
    fn delete_everything(&mut self) -> Result<(), String> {
        let ids: Vec<ChunkId> = self.chunks.keys().copied().collect();
        for id in ids {
            if !self.is_open {
                return Ok(());
            }
            self.chunks.get_mut(&id).expect("listed").told = Told::Deleting;
            let token = self.token(Asked::Delete(id));
            self.handle(Event::Delete { token, ids: &[id] })?;
            if self.random.per_mille(300) {
                self.until(|run| !run.asked.contains_key(&token) || !run.is_open, "a delete")?;
            }
        }
        self.until(|run| run.asked.is_empty() || !run.is_open, "deletes")?;
        if self.is_lossy() {
            return Ok(());
        }
        let target = (self.capacity - journal::DATA_START) / 5;
        let mut bytes = 0;
        let mut refused = 0;
        while bytes < target {
            self.last_ordinal += 1;
            let session = SessionId::new(wire::GroupId(0), 0, 1 + self.last_ordinal / 50).expect("small");
            let id = ChunkId { session, ordinal: self.last_ordinal };
            self.chunks.insert(id, Chunk { length: 32 << 10, told: Told::Putting, at: Nanos(0) });
            self.send_put(id, 32 << 10, Asked::Put(id))?;
            self.until(|run| run.asked.is_empty(), "a put")?;
            if self.chunks[&id].told == Told::Stored {
                bytes += 32 << 10;
            } else {
                refused += 1;
                if refused > 2_000 {
                    return Err(format!("space doesn't come back: {:?}", self.store.metrics()));
                }
                self.now = self.now.after(50 * Nanos::MILLISECOND);
                self.handle(Event::Tick)?;
                while self.disk.fake.pending() > 0 {
                    self.complete()?;
                }
            }
        }
        self.tally.count("store", "space came back");
        Ok(())
    }

    fn end_in_order(&mut self) -> Result<(), String> {
        if !self.is_open {
            return Ok(());
        }
        self.is_down = false;
        self.handle(Event::Shutdown)?;
        self.until(|run| run.is_down, "the shutdown")?;
        // A read that scrubbing or cleaning had begun ends behind the end.
        while self.disk.fake.pending() > 0 {
            self.complete()?;
        }
        let leaks = self.memory.leaks_beside_devices_own();
        if !leaks.is_empty() {
            return Err(format!("slots leaked: {leaks:?}"));
        }
        self.tally.count("store", "shut down");
        Ok(())
    }

    /// What the store held when it had ended is what its next start finds, though the power may fail in between.
    fn start_again(&mut self) -> Result<(), String> {
        if !self.is_open || self.is_lossy() {
            return Ok(());
        }
        let kept = Kept::of_store(&self.store);
        let by_power = self.random.per_mille(500);
        self.crash(by_power)?;
        self.until(|run| run.is_open || run.is_down, "the start after an orderly end")?;
        if !self.is_open {
            return Err(format!("after an orderly end it doesn't open: {:?}", self.store.open_error()));
        }
        self.tally.count("store", "kept over an orderly end");
        kept.compare(&Kept::of_store(&self.store))
    }
}

fn config(capacity: u64, length: u64, geometry: Geometry, random: &mut Random) -> StoreConfig {
    StoreConfig {
        prezero_bytes: random.below(4) * u64::from(geometry.segment_bytes()),
        leaf_tables: u32::try_from(random.between(1, 64)).expect("small"),
        scrub: random.per_mille(500),
        scrub_pass: random.between(1, 100) * Nanos::SECOND,
        life_random: random.life_bits(),
        takes_over: None,
        ..StoreConfig::new(capacity, length)
    }
}

fn stamp(id: ChunkId) -> Stamp {
    Stamp(id.ordinal)
}

fn outcome(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::NotFound => "not found",
        Status::NoSpace => "no space",
        Status::Busy => "busy",
        Status::NotServing => "not serving",
        Status::ChecksumMismatch => "damaged",
        Status::StoreFailed => "store failed",
        Status::AlreadyExists => "exists already",
        _ => "other",
    }
}
