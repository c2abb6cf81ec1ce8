//! `catena debug store`: opens a stopped node's store as a start would. One that a start refuses is opened once more as
//! `catena server recover --accept-data-loss` would, to say what that would leave.

use std::path::Path;

use journal::{DamagedBatches, Expected, Kind, OpenError};
use store::{Effect, Effects, Event, ListedChunk, Store, StoreConfig};
use wire::limits::MESSAGE_CHUNKS_MAX;
use wire::{ChunkId, Memory as _, Nanos};

use super::overlay::{Buffers, Overlay};
use super::{Copies, StoreCommand, check_kind, files, refused};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::text::{count, size};

/// A stopped store, opened by the shipped recovery over an overlay.
struct Examination {
    overlay: Overlay,
    memory: Buffers,
    store: Store,
    now: Nanos,
    /// Why a start doesn't open it: what is examined is what accepting the loss would leave.
    refusal: Option<OpenError>,
}

impl Examination {
    fn open(path: &Path, overlay: Overlay, expected: Expected, segment_bytes: u32) -> Result<Self> {
        let mut started = Self::start(overlay, expected, segment_bytes, false);
        if started.store.opened().is_some() {
            return Ok(started);
        }
        let refusal = started.store.open_error();
        if !refusal.is_some_and(|error| error.may_be_accepted(Kind::Chunks)) {
            return Err(refused(path, Kind::Chunks, refusal));
        }
        started.overlay.forget();
        let accepted = Self::start(started.overlay, expected, segment_bytes, true);
        if accepted.store.opened().is_none() {
            return Err(refused(path, Kind::Chunks, accepted.store.open_error()));
        }
        Ok(Self { refusal, ..accepted })
    }

    fn start(overlay: Overlay, expected: Expected, segment_bytes: u32, accept_data_loss: bool) -> Self {
        // Room for the fresh segment that a start opens.
        let capacity = overlay.length().saturating_add(8 * u64::from(segment_bytes));
        let config = StoreConfig {
            prezero_bytes: 0,
            scrub: false,
            leaf_tables: 16,
            accept_data_loss,
            ..StoreConfig::new(capacity, overlay.length())
        };
        let store = Store::open(config, expected);
        let mut examination =
            Self { overlay, memory: Buffers::default(), store, now: Nanos(1), refusal: None };
        examination.handle(Event::Start);
        examination
    }

    /// Handles an event and everything that follows from it.
    fn handle(&mut self, event: Event<'_>) -> Vec<(Effect, Vec<ListedChunk>)> {
        let mut effects = Effects::new();
        let mut seen = Vec::new();
        self.store.handle(self.now, event, &mut self.memory, &mut effects);
        loop {
            let answers = self.overlay.carry_out(&effects.io, &mut self.memory);
            for effect in &effects.list {
                let listed = match effect {
                    Effect::Listed { chunks, .. } => {
                        effects.chunks[chunks.start as usize..(chunks.start + chunks.count) as usize].to_vec()
                    }
                    _ => Vec::new(),
                };
                if let Effect::Got(chunk) = effect {
                    self.memory.release(chunk.slot);
                }
                seen.push((*effect, listed));
            }
            effects.clear();
            if answers.is_empty() {
                return seen;
            }
            for (io, outcome) in answers {
                self.store.handle(self.now, Event::IoDone { io, outcome }, &mut self.memory, &mut effects);
            }
        }
    }

    /// The next chunks in order of their ids.
    fn page(&mut self, after: Option<ChunkId>) -> Vec<ListedChunk> {
        let limit = u32::try_from(MESSAGE_CHUNKS_MAX).expect("a few thousand");
        let seen = self.handle(Event::Inventory { token: 1, after, limit });
        seen.into_iter().flat_map(|(_, chunks)| chunks).collect()
    }

    /// Whether a chunk's bytes are there and match its checksum.
    fn is_whole(&mut self, id: ChunkId) -> bool {
        let seen = self.handle(Event::Get { token: 2, id, blocks: 0..u32::MAX, whole: true });
        seen.iter().any(|(effect, _)| matches!(effect, Effect::Got(_)))
    }
}

/// What was found in a store.
#[derive(Debug)]
struct Findings {
    refusal: Option<OpenError>,
    chunks: u64,
    bytes: u64,
    damaged: u64,
    batches: Vec<DamagedBatches>,
    /// That lay behind the end of the file, and that something still tells of.
    chunks_lost: u64,
    last_batch: u64,
    is_cut: bool,
    are_bytes_read: bool,
}

impl Examination {
    /// Lists every chunk and, where `reads`, verifies it.
    fn examine(
        &mut self,
        reads: bool,
        mut visit: impl FnMut(&Self, &ListedChunk, bool) -> Result<()>,
    ) -> Result<Findings> {
        let opened = self.store.opened().copied();
        let mut findings = Findings {
            refusal: self.refusal,
            chunks: 0,
            bytes: 0,
            damaged: 0,
            batches: self.store.damaged_batches().to_vec(),
            chunks_lost: self.store.chunks_lost(),
            last_batch: opened.map_or(0, |opened| opened.sequence),
            is_cut: opened.is_some_and(|opened| opened.recovered_cut),
            are_bytes_read: reads,
        };
        let mut after = None;
        loop {
            let page = self.page(after);
            let Some(last) = page.last() else { return Ok(findings) };
            after = Some(last.id);
            for chunk in page {
                findings.chunks += 1;
                findings.bytes += u64::from(chunk.length);
                let whole = !reads || self.is_whole(chunk.id);
                findings.damaged += u64::from(!whole);
                visit(self, &chunk, whole)?;
            }
        }
    }
}

impl Findings {
    /// Damaged places of a store that starts.
    fn places(&self) -> u64 {
        self.damaged + self.batches.len() as u64
    }

    fn object(&self, path: &Path) -> Object {
        Object::new()
            .with("file", path.display().to_string())
            .with_some("start_refused", self.refusal.map(|error| error.to_string()))
            .with("chunks", self.chunks)
            .with("bytes", self.bytes)
            .with("last_batch", self.last_batch)
            .with("torn_tail_cut", self.is_cut && self.refusal.is_none())
            .with("damaged_chunks", self.damaged)
            .with(
                "damaged_batches",
                self.batches.iter().map(|batch| vec![batch.first, batch.last]).collect::<Vec<_>>(),
            )
            .with_some("chunks_lost", Some(self.chunks_lost).filter(|chunks| *chunks > 0))
            .with("bytes_read", self.are_bytes_read)
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        if let Some(error) = self.refusal {
            lines.push(format!("  start        refused: {error}"));
            lines.push("  what `catena server recover --accept-data-loss` would leave:".to_owned());
        }
        let tail = match (self.refusal.is_some(), self.is_cut) {
            (true, _) => "",
            (false, true) => ", a torn tail behind it would be cut",
            (false, false) => ", nothing torn behind it",
        };
        lines.push(format!("  log          last batch {}{tail}", self.last_batch));
        lines.extend(self.batches.iter().map(|batch| {
            let DamagedBatches { first, last, .. } = batch;
            let state = if self.refusal.is_some() { "are lost" } else { "can't be read" };
            format!("  damaged      batches {first} to {last} {state}")
        }));
        if self.chunks_lost > 0 {
            let chunks = count(self.chunks_lost, "chunk");
            lines.push(format!("  lost         {chunks} behind the file's end"));
        }
        if self.refusal.is_some() && self.batches.is_empty() && self.chunks_lost == 0 {
            lines.push("  lost         how much isn't known: what named it is gone as well".to_owned());
        }
        let state = match (self.damaged, self.are_bytes_read) {
            (_, false) => "bytes not read".to_owned(),
            (0, true) if self.refusal.is_some() => "these are whole".to_owned(),
            (0, true) => "all whole".to_owned(),
            (number, true) => format!("{number} damaged"),
        };
        let left = if self.refusal.is_some() { " left" } else { "" };
        let (chunks, bytes) = (count(self.chunks, "chunk"), size::human(self.bytes));
        lines.push(format!("  chunks       {chunks}{left}, {bytes}: {state}"));
        lines.join("\n")
    }
}

/// How the command ends, and what is to be done.
fn verdict(path: &Path, findings: &[Findings]) -> Result<()> {
    let refused = findings.iter().filter(|found| found.refusal.is_some()).count() as u64;
    let places: u64 = findings.iter().filter(|found| found.refusal.is_none()).map(Findings::places).sum();
    let damage = format!("{} found", count(places, "damaged place"));
    let refusal = format!("a start refuses {}", count(refused, "store"));
    let (reason, next) = match (refused, places) {
        (0, 0) => return Ok(()),
        (0, _) => (damage, "start the node and run `catena verify`: it names the files that are affected"),
        (_, places) => (
            if places > 0 { format!("{refusal}; in others {damage}") } else { refusal },
            "nothing was changed: mend the disk, or restore the file from a backup; to go on without what is \
             missing: `catena server recover --accept-data-loss --config FILE`, then `catena verify`",
        ),
    };
    Err(Failure::new(Exit::Integrity, path.display().to_string(), reason).next(next))
}

impl StoreCommand {
    pub(super) fn run(self, context: &mut Context) -> Result<()> {
        let fits = |name: &str| {
            name.strip_prefix("shard-").is_some_and(|rest| rest.strip_suffix(".store").is_some())
        };
        let mut findings = Vec::new();
        for path in files(&self.path, fits, "shard-N.store")? {
            findings.push(self.examine(context, &path)?);
        }
        verdict(&self.path, &findings)
    }

    fn examine(&self, context: &mut Context, path: &Path) -> Result<Findings> {
        let overlay = Overlay::open(path)?;
        let copies = Copies::read(&overlay);
        let (expected, block) = copies.expected(path)?;
        check_kind(path, block.kind, Kind::Chunks)?;
        copies.print(context, path, &block)?;
        let mut opened = Examination::open(path, overlay, expected, block.geometry.segment_bytes())?;
        let findings = opened.examine(!self.no_read, |opened, chunk, whole| {
            if self.chunks || !whole { print_chunk(context, opened, chunk, whole) } else { Ok(()) }
        })?;
        context.output.result(|| findings.object(path), |_| findings.text().into_bytes())?;
        Ok(findings)
    }
}

fn print_chunk(context: &mut Context, store: &Examination, chunk: &ListedChunk, whole: bool) -> Result<()> {
    let place = store.store.find(chunk.id).map(|entry| store.store.device().geometry().offset(entry.place));
    let state = if whole { "whole" } else { "damaged" };
    context.output.result(
        || {
            Object::new()
                .with("chunk", chunk.id.to_string())
                .with("length", chunk.length)
                .with("root", format!("{:016x}", chunk.root))
                .with_some("offset", place)
                .with("state", state)
        },
        |_| {
            let at = place.map_or_else(String::new, |offset| format!(" at byte {offset}"));
            format!(
                "  {state:<12} chunk {} of {} bytes{at}, root {:016x}",
                chunk.id, chunk.length, chunk.root
            )
            .into_bytes()
        },
    )
}

#[cfg(test)]
mod tests {
    use journal::{Format, Geometry, Identity, SegmentIndex};
    use wire::checksum::BlockHasher;
    use wire::{ClusterId, NodeId, SessionId, Status, StoreId};

    use super::*;

    const SEGMENT_BYTES: u32 = 256 << 10;
    const LENGTH: u32 = 50_000;
    /// Put by each life: the examination's later ones have little room.
    const CHUNKS: [u64; 3] = [40, 5, 5];

    fn identity() -> Identity {
        Identity { cluster: ClusterId([3; 16]), store: StoreId([4; 16]), node: NodeId(1), unit: 0 }
    }

    fn put(store: &mut Examination, number: u64) {
        let id = ChunkId { session: SessionId(7), ordinal: number };
        let bytes: Vec<u8> = (0..u64::from(LENGTH)).map(|at| (at * (number + 3)).to_le_bytes()[1]).collect();
        let hasher = BlockHasher::new(ClusterId([3; 16]), id);
        let leaves: Vec<u64> =
            bytes.chunks(4096).enumerate().map(|(block, bytes)| hasher.leaf(block, bytes)).collect();
        let slot = store.memory.allocate(bytes.len()).expect("room");
        store.memory.bytes_mut(slot)[..bytes.len()].copy_from_slice(&bytes);
        let root = hasher.root(&bytes);
        let put = Event::Put { token: number, id, length: LENGTH, root, leaves: &leaves, slot };
        let mut seen = store.handle(put);
        store.memory.release(slot);
        seen.extend(store.handle(Event::Submit));
        let done = Effect::Done { token: number, status: Status::Ok };
        assert!(seen.iter().any(|(effect, _)| *effect == done), "{seen:?}");
    }

    fn save(store: &Examination, path: &Path) {
        let device = store.store.device();
        let end = SegmentIndex(device.segments().allocated());
        store.overlay.save(path, device.geometry().segment_offset(end));
    }

    /// A store's file, stopped in order, of so many lives.
    fn make(path: &Path, lives: usize) {
        std::fs::write(path, b"").expect("written");
        let format = Format {
            identity: identity(),
            geometry: Geometry::new(SEGMENT_BYTES).expect("a legal size"),
            secret: 5,
            index_key: 6,
        };
        let config = StoreConfig {
            prezero_bytes: 0,
            scrub: false,
            ..StoreConfig::new((1 << 20) + 64 * u64::from(SEGMENT_BYTES), 0)
        };
        let mut store = Examination {
            overlay: Overlay::open(path).expect("a file"),
            memory: Buffers::default(),
            store: Store::format(config, format),
            now: Nanos(1),
            refusal: None,
        };
        store.handle(Event::Start);
        for life in 0..lives {
            if life > 0 {
                save(&store, path);
                store = open(path);
            }
            let first: u64 = CHUNKS[..life].iter().sum();
            for number in first..first + CHUNKS[life] {
                put(&mut store, number);
            }
            store.handle(Event::Shutdown);
        }
        save(&store, path);
    }

    fn open(path: &Path) -> Examination {
        let Identity { cluster, store, node, unit } = identity();
        let expected = Expected { cluster: Some(cluster), store: Some(store), node, unit };
        let overlay = Overlay::open(path).expect("a file");
        Examination::open(path, overlay, expected, SEGMENT_BYTES).expect("can be examined")
    }

    fn examine(path: &Path) -> Findings {
        open(path).examine(true, |_, _, _| Ok(())).expect("examined")
    }

    /// A file that had lost its end was said to be whole, with exit code 0, and the node then refused it. Or damage was told, with advice
    /// that needs a node which starts.
    #[test]
    fn what_a_start_refuses_is_refused() {
        for lives in [1, 2, 3] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("shard-0.store");
            make(&path, lives);
            let chunks = CHUNKS[..lives].iter().sum();
            let whole = examine(&path);
            assert!(whole.refusal.is_none() && whole.chunks == chunks, "{whole:?}");
            assert!(whole.text().ends_with("all whole"), "{}", whole.text());
            assert!(verdict(&path, &[whole]).is_ok());

            let file = std::fs::File::options().write(true).open(&path).expect("there");
            file.set_len((1 << 20) + 3 * u64::from(SEGMENT_BYTES)).expect("shortened");
            let found = examine(&path);
            assert!(matches!(found.refusal, Some(OpenError::Truncated { .. })), "{found:?}");
            assert!(found.chunks < chunks, "{found:?}");
            let text = found.text();
            assert!(text.starts_with("  start        refused: the file ends at byte 1835008"), "{text}");
            assert!(!text.contains("all whole") && !text.contains("torn"), "{text}");
            assert!(text.contains("lost"), "{text}");
            assert!(found.object(&path).line().contains("start_refused"));
            let failure = verdict(&path, &[found]).expect_err("a start refuses it");
            let next = failure.next.expect("a step");
            assert_eq!(failure.exit, Exit::Integrity);
            assert!(
                next.contains("recover --accept-data-loss") && !next.contains("start the node"),
                "{next}"
            );
        }
    }
}
