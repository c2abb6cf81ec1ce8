//! One operation of a client, as the library's users do it: chunks first, then one commit; one lookup, then the chunks.
//!
//! ```text
//! write:  Opening ─→ Putting ─→ (Staging) ─→ Changing ─→ done
//! other:                                     Changing ─→ done
//! read:   Looking ─→ (Paging) ─→ Fetching ─→ done
//!                       │            └─ missing or damaged ─→ Again ─→ done
//!                       ├─→ Compacting ─→ Looking                            a reader that compacts first (R26)
//!                       └─→ Pinning ─→ Pausing ⇄ Taking ─→ Again ─→ done      a reader that takes its time (R25)
//! list:   Listing ─→ done, each page a record of its own
//! ```
//! Sessions, routing, retries and verification are the shipped core's; what goes into requests and comes out of extents is in `task/parts.rs`.

mod compact;
mod parts;

use std::collections::{BTreeMap, VecDeque};

use client::core::{Call, Done, Failure, ReadId, Ticket, UploadId};
use wire::meta::{Answer, Change, Commit, Entry, Extents, InodeKind, Operation, Pin, Query};
use wire::{ChunkId, MapNumber, Memory, Nanos, Status, VolumeId};

use crate::content::fill;
use crate::history::{Action, Condition, Ending, Record};
use compact::Compacting;
use parts::{
    GROUP, PlannedGet, ending_of_change, ending_of_list, ending_of_refusal, ending_of_second_look,
    extents_of, found, gets_of, list, look_up, new_attributes, place, plain_operation, precondition, seen_of,
};

/// Where everything happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Of the self-describing bytes.
    pub seed: u64,
    /// The volume.
    pub volume: VolumeId,
    /// Its chunk size.
    pub chunk_bytes: u64,
    /// Roots asked for at once.
    pub roots: u32,
}

/// What a task wants of the core.
#[derive(Debug)]
pub(crate) enum Wish {
    /// A call; the part is given back with its result.
    Call(Part, Call),
    /// An upload is over.
    CloseUpload(UploadId),
    /// A pinned read is over.
    CloseRead(ReadId),
    /// To be woken after so many nanoseconds.
    Wake(u64),
}

/// Which of a task's calls.
pub(crate) type Part = usize;

/// A task's answer to a call's result.
#[derive(Debug)]
pub(crate) enum Step {
    /// It goes on.
    On,
    /// It has ended.
    Over(Ending),
}

#[derive(Debug)]
enum Stage {
    Opening,
    Putting {
        upload: UploadId,
        number: u64,
        left: usize,
        chunks: Vec<Option<Stored>>,
        failed: Option<Ending>,
    },
    Staging {
        upload: UploadId,
        commit: Box<Commit>,
    },
    Changing {
        upload: Option<UploadId>,
    },
    Looking,
    Paging {
        entry: Box<Entry>,
        extents: Extents,
    },
    Fetching {
        reading: Reading,
        left: usize,
        trouble: Trouble,
    },
    Again {
        reading: Reading,
        /// The bytes are there; only whether the version still is, is asked.
        is_whole: bool,
    },
    Pinning {
        reading: Reading,
        gets: VecDeque<PlannedGet>,
    },
    /// What was read is put into larger chunks; then it is read again.
    Compacting(Compacting),
    /// A pinned read between two chunks.
    Pausing {
        held: Held,
    },
    /// A pinned read waits for a chunk.
    Taking {
        held: Held,
    },
    Listing,
}

/// A read that takes its time.
#[derive(Debug)]
struct Held {
    read: ReadId,
    reading: Reading,
    gets: VecDeque<PlannedGet>,
    trouble: Trouble,
}

/// What went wrong with a read's chunks; the worse is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    /// A chunk is missing or damaged.
    Lost,
    /// A chunk did not come in time: the read says nothing.
    Silent,
}

/// A chunk that was acked.
#[derive(Clone, Copy, Debug)]
struct Stored {
    id: ChunkId,
    root: u64,
    map: MapNumber,
}

/// A read of one version.
#[derive(Debug)]
pub(crate) struct Reading {
    entry: Box<Entry>,
    from: u64,
    bytes: Vec<u8>,
    /// What a compaction puts other chunks in the place of.
    extents: Extents,
    /// For each get: where its bytes go.
    places: Vec<usize>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Task {
    /// What is done; its ending is filled in at the end.
    pub record: Record,
    /// A write's extents are staged before its commit.
    pub stages: bool,
    /// A read of a whole file compacts it first.
    pub compacts: bool,
    /// It did.
    pub has_compacted: bool,
    /// Pages of a listing before the present one.
    pub pages: Vec<Record>,
    stage: Stage,
}

impl Task {
    /// Begins an operation.
    pub(crate) fn begin(
        setting: Setting,
        record: Record,
        (stages, compacts): (bool, bool),
        wishes: &mut Vec<Wish>,
    ) -> Self {
        let compacts =
            compacts && matches!(record.action, Action::Read { from: 0, to: u64::MAX, pace: 0, .. });
        let stage = match &record.action {
            Action::Replace { .. } | Action::Write { .. } | Action::Append { .. } => {
                wishes.push(Wish::Call(0, Call::OpenUpload { group: GROUP }));
                Stage::Opening
            }
            Action::Read { path, follow, .. } => {
                wishes.push(look_up(setting, path, *follow));
                Stage::Looking
            }
            Action::List { path, after, limit } => {
                wishes.push(list(setting.volume, path, after, *limit));
                Stage::Listing
            }
            _ => {
                let operation = Box::new(plain_operation(setting.volume, &record));
                wishes.push(Wish::Call(0, Call::Mutate { group: GROUP, upload: None, operation }));
                Stage::Changing { upload: None }
            }
        };
        Self { record, stages, compacts, has_compacted: false, pages: Vec::new(), stage }
    }

    /// How it ends when nobody waits for it any more.
    pub(crate) fn abandoned(&self, wishes: &mut Vec<Wish>) -> Ending {
        match &self.stage {
            Stage::Putting { upload, .. } | Stage::Staging { upload, .. } => {
                wishes.push(Wish::CloseUpload(*upload));
                Ending::NotExecuted
            }
            Stage::Opening => Ending::NotExecuted,
            Stage::Changing { upload } => {
                wishes.extend(upload.map(Wish::CloseUpload));
                Ending::Unknown
            }
            Stage::Pausing { held } | Stage::Taking { held } => {
                wishes.push(Wish::CloseRead(held.read));
                Ending::Nothing
            }
            Stage::Compacting(compacting) => {
                compacting.close(wishes);
                Ending::Nothing
            }
            _ => Ending::Nothing,
        }
    }

    /// The pause between two chunks is over.
    pub(crate) fn on_wake(&mut self, wishes: &mut Vec<Wish>) {
        match std::mem::replace(&mut self.stage, Stage::Looking) {
            Stage::Pausing { mut held } => {
                let get = held.gets.pop_front().expect("it pauses before a chunk");
                let part = held.reading.places.len();
                held.reading.places.push(get.place(held.reading.from));
                wishes.push(Wish::Call(part, Call::GetChunk(get.call)));
                self.stage = Stage::Taking { held };
            }
            other => unreachable!("nobody asked to be woken: {other:?}"),
        }
    }

    /// Takes a call's result.
    pub(crate) fn on_done(
        &mut self,
        now: Nanos,
        setting: Setting,
        part: Part,
        result: Result<Done, Failure>,
        memory: &mut impl Memory,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        match std::mem::replace(&mut self.stage, Stage::Looking) {
            Stage::Opening => self.on_upload(setting, result, memory, wishes),
            Stage::Putting { upload, number, left, mut chunks, mut failed } => {
                match result {
                    Ok(Done::Chunk { id, root, map }) => chunks[part] = Some(Stored { id, root, map }),
                    Ok(other) => panic!("a put was answered with {other:?}"),
                    Err(_) => failed = Some(Ending::NotExecuted),
                }
                if left > 1 {
                    self.stage = Stage::Putting { upload, number, left: left - 1, chunks, failed };
                    return Step::On;
                }
                if let Some(ending) = failed {
                    wishes.push(Wish::CloseUpload(upload));
                    return Step::Over(ending);
                }
                let chunks: Vec<Stored> = chunks.into_iter().flatten().collect();
                self.commit(setting, upload, number, &chunks, wishes);
                Step::On
            }
            Stage::Staging { upload, commit } => self.on_staged(upload, *commit, &result, wishes),
            Stage::Changing { upload } => {
                wishes.extend(upload.map(Wish::CloseUpload));
                Step::Over(ending_of_change(result))
            }
            Stage::Looking => self.on_entry(setting, result, wishes),
            Stage::Paging { entry, extents } => self.on_page(setting, entry, extents, result, wishes),
            Stage::Fetching { reading, left, trouble } => {
                let (reading, trouble) = take_bytes(reading, trouble, part, result, memory);
                self.on_bytes(setting, reading, left - 1, trouble, wishes)
            }
            Stage::Again { reading, is_whole } => {
                let (same, ending) = ending_of_second_look(&reading, result, is_whole);
                self.record.outlived = is_whole && same == Some(false);
                Step::Over(ending)
            }
            Stage::Pinning { reading, gets } => match result {
                Ok(Done::Read(read)) => {
                    self.go_on_taking(setting, Held { read, reading, gets, trouble: Trouble::None }, wishes)
                }
                _ => Step::Over(Ending::Nothing),
            },
            Stage::Taking { mut held } => {
                let part = held.reading.places.len() - 1;
                (held.reading, held.trouble) = take_bytes(held.reading, held.trouble, part, result, memory);
                self.go_on_taking(setting, held, wishes)
            }
            Stage::Compacting(mut compacting) => {
                let is_over = compacting.on_done(setting, part, result, memory, wishes);
                self.go_on_compacting(setting, compacting, is_over, wishes)
            }
            Stage::Pausing { .. } => unreachable!("nothing was asked for"),
            Stage::Listing => self.on_list(now, setting, result, wishes),
        }
    }

    fn go_on_taking(&mut self, setting: Setting, held: Held, wishes: &mut Vec<Wish>) -> Step {
        let Action::Read { path, follow, pace, .. } = &self.record.action else {
            unreachable!("only reads take")
        };
        if held.trouble == Trouble::None && !held.gets.is_empty() {
            wishes.push(Wish::Wake(*pace));
            self.stage = Stage::Pausing { held };
            return Step::On;
        }
        wishes.push(Wish::CloseRead(held.read));
        if held.trouble == Trouble::Silent {
            return Step::Over(Ending::Nothing);
        }
        wishes.push(look_up(setting, path, *follow));
        let is_whole = held.trouble == Trouble::None;
        self.stage = Stage::Again { reading: held.reading, is_whole };
        Step::On
    }

    /// A page; if others follow, it is a record of its own, and the next one begins.
    fn on_list(
        &mut self,
        now: Nanos,
        setting: Setting,
        result: Result<Done, Failure>,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        let ending = ending_of_list(result);
        let last = match &ending {
            Ending::Listed { rows, end: false, .. } => rows.last().map(|row| row.name.clone()),
            _ => None,
        };
        let (Some(last), Action::List { path, limit, .. }) = (last, &self.record.action) else {
            return Step::Over(ending);
        };
        wishes.push(list(setting.volume, path, &last, *limit));
        let next = Action::List { path: path.clone(), after: last, limit: *limit };
        let record = Record { action: next, began: now, ..self.record.clone() };
        let page = std::mem::replace(&mut self.record, record);
        self.pages.push(Record { ended: now, ending, ..page });
        self.stage = Stage::Listing;
        Step::On
    }

    fn on_upload(
        &mut self,
        setting: Setting,
        result: Result<Done, Failure>,
        memory: &mut impl Memory,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        let (upload, number) = match result {
            Ok(Done::Upload { upload, number }) => (upload, number),
            Ok(other) => panic!("an upload was answered with {other:?}"),
            Err(_) => return Step::Over(Ending::NotExecuted),
        };
        let length = self.record.action.content(self.record.stamp).len();
        let count = usize::try_from(length.div_ceil(setting.chunk_bytes)).expect("small files");
        for part in 0..count {
            let from = part as u64 * setting.chunk_bytes;
            let bytes = usize::try_from(setting.chunk_bytes.min(length - from)).expect("a chunk");
            let slot = memory.allocate(bytes).expect("a client's arena holds what its tasks have in flight");
            fill(setting.seed, self.record.stamp, from, &mut memory.bytes_mut(slot)[..bytes]);
            let length = u32::try_from(bytes).expect("a chunk");
            wishes.push(Wish::Call(part, Call::PutChunk { upload, slot, length }));
        }
        if count == 0 {
            self.commit(setting, upload, number, &[], wishes);
        } else {
            self.stage =
                Stage::Putting { upload, number, left: count, chunks: vec![None; count], failed: None };
        }
        Step::On
    }

    /// All chunks are durable: one commit, its extents staged before where the task says so.
    fn commit(
        &mut self,
        setting: Setting,
        upload: UploadId,
        number: u64,
        chunks: &[Stored],
        wishes: &mut Vec<Wish>,
    ) {
        let (path, change, start, condition) = match &self.record.action {
            Action::Replace { path, length, condition, .. } => {
                (path, Change::Replace { size: *length }, 0, *condition)
            }
            Action::Write { path, offset, condition, .. } => (path, Change::Write, *offset, *condition),
            Action::Append { path, .. } => (path, Change::Append, 0, Condition::Any),
            _ => unreachable!("only writes have chunks"),
        };
        let length = self.record.action.content(self.record.stamp).len();
        let mut commit = Commit {
            place: place(setting.volume, path),
            change,
            extents: extents_of(setting.chunk_bytes, start, length, chunks),
            upload: 0,
            attributes: new_attributes(&self.record),
            precondition: precondition(condition),
            map: chunks.iter().map(|chunk| chunk.map).min().unwrap_or(MapNumber(1)),
        };
        if self.stages && !chunks.is_empty() {
            let extents = std::mem::take(&mut commit.extents);
            commit.upload = number;
            let operation = Box::new(Operation::Stage { upload: number, extents });
            wishes.push(Wish::Call(0, Call::Mutate { group: GROUP, upload: Some(upload), operation }));
            self.stage = Stage::Staging { upload, commit: Box::new(commit) };
        } else {
            self.change(upload, commit, wishes);
        }
    }

    fn change(&mut self, upload: UploadId, commit: Commit, wishes: &mut Vec<Wish>) {
        let operation = Box::new(Operation::Commit(commit));
        wishes.push(Wish::Call(0, Call::Mutate { group: GROUP, upload: Some(upload), operation }));
        self.stage = Stage::Changing { upload: Some(upload) };
    }

    fn on_entry(&mut self, setting: Setting, result: Result<Done, Failure>, wishes: &mut Vec<Wish>) -> Step {
        let mut entry = match result {
            Ok(Done::Answer(answer)) => match *answer {
                Answer::Entry(entry) => entry,
                other => panic!("a lookup was answered with {other:?}"),
            },
            other => return Step::Over(ending_of_refusal(&other)),
        };
        if entry.attributes.kind != InodeKind::File {
            let seen = seen_of(&entry, None);
            return Step::Over(Ending::Found { index: entry.index.0, seen });
        }
        let page = std::mem::take(&mut entry.page);
        self.go_on_paging(setting, entry, page.extents, page.end, wishes)
    }

    fn on_page(
        &mut self,
        setting: Setting,
        entry: Box<Entry>,
        mut extents: Extents,
        result: Result<Done, Failure>,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        let Ok(Done::Answer(answer)) = result else {
            // The version is gone, or nobody answers: the read says nothing.
            return Step::Over(Ending::Nothing);
        };
        let Answer::Extents(page) = *answer else { panic!("a page was answered with {answer:?}") };
        extents.runs.extend(page.extents.runs);
        extents.roots.extend(page.extents.roots);
        self.go_on_paging(setting, entry, extents, page.end, wishes)
    }

    fn go_on_paging(
        &mut self,
        setting: Setting,
        entry: Box<Entry>,
        extents: Extents,
        end: bool,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        if end {
            return self.fetch(setting, entry, &extents, wishes);
        }
        let offset = extents.runs.last().map_or(0, |run| run.file_offset + run.length);
        let query = Query::ReadExtents {
            volume: setting.volume,
            inode: entry.attributes.inode,
            version: entry.attributes.version,
            layout: entry.attributes.layout,
            offset,
            roots: setting.roots,
        };
        wishes.push(Wish::Call(0, Call::Query { group: GROUP, query: Box::new(query) }));
        self.stage = Stage::Paging { entry, extents };
        Step::On
    }

    fn fetch(
        &mut self,
        setting: Setting,
        entry: Box<Entry>,
        extents: &Extents,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        let Action::Read { from, to, pace, .. } = self.record.action else {
            unreachable!("only reads look up")
        };
        let (to, from) = (to.min(entry.attributes.size), from.min(entry.attributes.size));
        let length = usize::try_from(to.saturating_sub(from)).expect("small files");
        let known = if self.compacts { extents.clone() } else { Extents::default() };
        let mut reading = Reading { entry, from, bytes: vec![0; length], extents: known, places: Vec::new() };
        let gets = gets_of(extents, from, from.max(to));
        if pace > 0 && !gets.is_empty() {
            let attributes = &reading.entry.attributes;
            let pin = Pin { volume: setting.volume, inode: attributes.inode, version: attributes.version };
            wishes.push(Wish::Call(0, Call::OpenRead { group: GROUP, pin }));
            self.stage = Stage::Pinning { reading, gets: gets.into() };
            return Step::On;
        }
        for get in gets {
            reading.places.push(get.place(from));
            wishes.push(Wish::Call(reading.places.len() - 1, Call::GetChunk(get.call)));
        }
        let left = reading.places.len();
        if left == 0 {
            return Step::Over(found(&reading, true));
        }
        self.stage = Stage::Fetching { reading, left, trouble: Trouble::None };
        Step::On
    }

    fn on_staged(
        &mut self,
        upload: UploadId,
        commit: Commit,
        result: &Result<Done, Failure>,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        if matches!(result, Ok(Done::Outcome(outcome)) if outcome.status == Status::Ok) {
            self.change(upload, commit, wishes);
            return Step::On;
        }
        // A stage alone is seen by nobody.
        wishes.push(Wish::CloseUpload(upload));
        Step::Over(Ending::NotExecuted)
    }

    fn go_on_compacting(
        &mut self,
        setting: Setting,
        compacting: Compacting,
        is_over: bool,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        if is_over {
            self.has_compacted |= compacting.is_done;
            self.look_again(setting, wishes);
        } else {
            self.stage = Stage::Compacting(compacting);
        }
        Step::On
    }

    fn look_again(&mut self, setting: Setting, wishes: &mut Vec<Wish>) {
        let Action::Read { path, follow, .. } = &self.record.action else {
            unreachable!("only reads compact")
        };
        wishes.push(look_up(setting, path, *follow));
        self.stage = Stage::Looking;
    }

    fn on_bytes(
        &mut self,
        setting: Setting,
        reading: Reading,
        left: usize,
        trouble: Trouble,
        wishes: &mut Vec<Wish>,
    ) -> Step {
        if left > 0 {
            self.stage = Stage::Fetching { reading, left, trouble };
            return Step::On;
        }
        if trouble == Trouble::None
            && std::mem::take(&mut self.compacts)
            && let Some(compacting) = Compacting::begin(setting, &reading, wishes)
        {
            self.stage = Stage::Compacting(compacting);
            return Step::On;
        }
        match trouble {
            Trouble::None => Step::Over(found(&reading, true)),
            Trouble::Silent => Step::Over(Ending::Nothing),
            Trouble::Lost => {
                // R25: before a chunk is called lost, the version is looked up again.
                let Action::Read { path, follow, .. } = &self.record.action else {
                    unreachable!("only reads fetch")
                };
                wishes.push(look_up(setting, path, *follow));
                self.stage = Stage::Again { reading, is_whole: false };
                Step::On
            }
        }
    }
}

fn take_bytes(
    mut reading: Reading,
    trouble: Trouble,
    part: Part,
    result: Result<Done, Failure>,
    memory: &mut impl Memory,
) -> (Reading, Trouble) {
    let trouble = match result {
        Ok(Done::Bytes { slot, offset, length, .. }) => {
            let (at, length) = (reading.places[part], length as usize);
            let bytes = &memory.bytes(slot)[offset as usize..offset as usize + length];
            reading.bytes[at..at + length].copy_from_slice(bytes);
            memory.release(slot);
            trouble
        }
        Ok(other) => panic!("a get was answered with {other:?}"),
        // A sector that can't be read is told as the store's failure.
        Err(
            Failure::Missing { .. }
            | Failure::Corrupt { .. }
            | Failure::Refused { status: Status::StoreFailed | Status::ChecksumMismatch, .. },
        ) => trouble.max(Trouble::Lost),
        Err(_) => Trouble::Silent,
    };
    (reading, trouble)
}

/// Tickets of the tasks' calls.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    last: u64,
    calls: BTreeMap<Ticket, (u64, Part)>,
}

impl Tickets {
    /// A ticket for a task's call.
    pub(crate) fn issue(&mut self, task: u64, part: Part) -> Ticket {
        self.last += 1;
        self.calls.insert(Ticket(self.last), (task, part));
        Ticket(self.last)
    }

    /// Whose call it was; each ticket comes back once.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<(u64, Part)> {
        self.calls.remove(&ticket)
    }

    /// Takes back all tickets of a task.
    pub(crate) fn revoke(&mut self, task: u64) -> Vec<Ticket> {
        let its: Vec<Ticket> =
            self.calls.iter().filter(|(_, (of, _))| *of == task).map(|(ticket, _)| *ticket).collect();
        self.calls.retain(|_, (of, _)| *of != task);
        its
    }
}
