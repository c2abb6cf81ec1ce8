//! One operation of a client, as the library's users do it: chunks first, then one commit; one lookup, then the chunks.
//!
//! ```text
//! write:  Opening ─→ Putting ─→ (Staging) ─→ Changing ─→ done
//! other:                                     Changing ─→ done
//! read:   Looking ─→ (Paging) ─→ Fetching ─→ done
//!                                   └─ missing or damaged ─→ Again ─→ done
//! list:   Listing ─→ done
//! ```
//! Cutting and walking extents is all that stands here; sessions, routing, retries and verification are the shipped core's.

use std::collections::BTreeMap;

use client::core::{Call, Done, Failure, GetCall, Ticket, UploadId};
use wire::limits::LIST_ENTRIES_MAX;
use wire::meta::{
    Answer, Change, Commit, CopyRange, Entry, Extents, InodeKind, NewAttributes, Operation, Place,
    Precondition, Query, RemoveKind, Run,
};
use wire::{ChunkId, GroupId, InodeId, MapNumber, Memory, Status, Version, VolumeId};

use crate::content::fill;
use crate::history::{Action, Condition, Ending, Record, Seen};

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
    },
    Listing,
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
struct Reading {
    entry: Box<Entry>,
    from: u64,
    bytes: Vec<u8>,
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
    stage: Stage,
}

impl Task {
    /// Begins an operation.
    pub(crate) fn begin(setting: Setting, record: Record, stages: bool, wishes: &mut Vec<Wish>) -> Self {
        let stage = match &record.action {
            Action::Replace { .. } | Action::Write { .. } | Action::Append { .. } => {
                wishes.push(Wish::Call(0, Call::OpenUpload { group: GROUP }));
                Stage::Opening
            }
            Action::Read { path, .. } => {
                wishes.push(look_up(setting, path));
                Stage::Looking
            }
            Action::List { path } => {
                let query = Query::List {
                    place: place(setting.volume, path),
                    after: Vec::new(),
                    limit: LIST_ENTRIES_MAX,
                };
                wishes.push(Wish::Call(0, Call::Query { group: GROUP, query: Box::new(query) }));
                Stage::Listing
            }
            _ => {
                let operation = Box::new(plain_operation(setting.volume, &record.action));
                wishes.push(Wish::Call(0, Call::Mutate { group: GROUP, upload: None, operation }));
                Stage::Changing { upload: None }
            }
        };
        Self { record, stages, stage }
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
            _ => Ending::Nothing,
        }
    }

    /// Takes a call's result.
    pub(crate) fn on_done(
        &mut self,
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
            Stage::Staging { upload, commit } => match result {
                Ok(Done::Outcome(outcome)) if outcome.status == Status::Ok => {
                    self.change(upload, *commit, wishes);
                    Step::On
                }
                // A stage alone is seen by nobody.
                _ => {
                    wishes.push(Wish::CloseUpload(upload));
                    Step::Over(Ending::NotExecuted)
                }
            },
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
            Stage::Again { reading } => Step::Over(ending_of_second_look(&reading, result)),
            Stage::Listing => Step::Over(ending_of_list(result)),
        }
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
            Action::Replace { path, length, condition } => {
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
            attributes: None,
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
            let seen = Seen { kind: entry.attributes.kind, size: 0, version: 0, bytes: None };
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
            return self.fetch(entry, &extents, wishes);
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

    fn fetch(&mut self, entry: Box<Entry>, extents: &Extents, wishes: &mut Vec<Wish>) -> Step {
        let Action::Read { from, to, .. } = self.record.action else { unreachable!("only reads look up") };
        let (to, from) = (to.min(entry.attributes.size), from.min(entry.attributes.size));
        let length = usize::try_from(to.saturating_sub(from)).expect("small files");
        let mut reading = Reading { entry, from, bytes: vec![0; length], places: Vec::new() };
        for get in gets_of(extents, from, from.max(to)) {
            wishes.push(Wish::Call(reading.places.len(), Call::GetChunk(get.call)));
            reading.places.push(usize::try_from(get.file_offset - from).expect("inside the range"));
        }
        let left = reading.places.len();
        if left == 0 {
            return Step::Over(found(&reading, true));
        }
        self.stage = Stage::Fetching { reading, left, trouble: Trouble::None };
        Step::On
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
        match trouble {
            Trouble::None => Step::Over(found(&reading, true)),
            Trouble::Silent => Step::Over(Ending::Nothing),
            Trouble::Lost => {
                // R25: before a chunk is called lost, the version is looked up again.
                let Action::Read { path, .. } = &self.record.action else { unreachable!("only reads fetch") };
                wishes.push(look_up(setting, path));
                self.stage = Stage::Again { reading };
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

const GROUP: GroupId = GroupId(0);

fn found(reading: &Reading, whole: bool) -> Ending {
    let attributes = &reading.entry.attributes;
    let seen = Seen {
        kind: attributes.kind,
        size: attributes.size,
        version: attributes.version.0,
        bytes: whole.then(|| (reading.from, reading.bytes.clone())),
    };
    Ending::Found { index: reading.entry.index.0, seen }
}

fn look_up(setting: Setting, path: &str) -> Wish {
    let query = Query::Lookup {
        place: place(setting.volume, path),
        follow: false,
        xattrs: false,
        roots: setting.roots,
    };
    Wish::Call(0, Call::Query { group: GROUP, query: Box::new(query) })
}

fn place(volume: VolumeId, path: &str) -> Place {
    Place { volume, directory: InodeId::ROOT, path: path.as_bytes().to_vec() }
}

fn precondition(condition: Condition) -> Precondition {
    match condition {
        Condition::Any => Precondition::Any,
        Condition::Absent => Precondition::Absent,
        Condition::Present => Precondition::Present,
        Condition::Version(version) => Precondition::Version(Version(version)),
    }
}

fn plain_operation(volume: VolumeId, action: &Action) -> Operation {
    let attributes = NewAttributes { mode: 0o755, ..NewAttributes::default() };
    match action {
        Action::Truncate { path, size } => {
            Operation::Truncate { place: place(volume, path), size: *size, precondition: Precondition::Any }
        }
        Action::MakeDirectory { path } => {
            Operation::MakeDirectory { place: place(volume, path), attributes, parents: false }
        }
        Action::RemoveFile { path, condition } => Operation::Remove {
            place: place(volume, path),
            kind: RemoveKind::File,
            precondition: precondition(*condition),
        },
        Action::RemoveDirectory { path } => Operation::Remove {
            place: place(volume, path),
            kind: RemoveKind::Directory,
            precondition: Precondition::Any,
        },
        Action::Rename { from, to, mode } => {
            Operation::Rename { source: place(volume, from), target: place(volume, to), mode: *mode }
        }
        Action::Copy { from, to } => Operation::CopyRange(CopyRange {
            source: place(volume, from),
            source_version: Version(0),
            source_offset: 0,
            length: u64::MAX,
            target: place(volume, to),
            target_offset: 0,
            whole: true,
            precondition: Precondition::Any,
        }),
        Action::Replace { .. } | Action::Write { .. } | Action::Append { .. } => {
            unreachable!("writes are commits")
        }
        Action::Read { .. } | Action::List { .. } => unreachable!("reads are queries"),
    }
}

/// Runs of chunks with consecutive ids.
fn extents_of(chunk_bytes: u64, start: u64, length: u64, chunks: &[Stored]) -> Extents {
    let mut extents = Extents::default();
    let mut at = 0;
    for chunk in chunks {
        let bytes = chunk_bytes.min(length - at);
        let bytes_u32 = u32::try_from(bytes).expect("a chunk");
        extents.roots.push(chunk.root);
        match extents.runs.last_mut() {
            Some(run)
                if run.first.session == chunk.id.session
                    && run.first.ordinal + u64::from(run.count) == chunk.id.ordinal =>
            {
                run.length += bytes;
                run.count += 1;
                run.last_chunk_bytes = bytes_u32;
            }
            _ => extents.runs.push(Run {
                file_offset: start + at,
                length: bytes,
                first: chunk.id,
                count: 1,
                chunk_bytes: u32::try_from(chunk_bytes).expect("a chunk"),
                last_chunk_bytes: bytes_u32,
                skip: 0,
            }),
        }
        at += bytes;
    }
    extents
}

struct PlannedGet {
    file_offset: u64,
    call: GetCall,
}

/// The chunks that hold the file's bytes `from..to`.
fn gets_of(extents: &Extents, from: u64, to: u64) -> Vec<PlannedGet> {
    let mut gets = Vec::new();
    let mut roots = extents.roots.iter();
    for run in &extents.runs {
        // Bytes of the run's chunks, counted from the first chunk's beginning.
        let origin = run.file_offset.wrapping_sub(u64::from(run.skip));
        for number in 0..u64::from(run.count) {
            let root = *roots.next().expect("a root for each chunk");
            let is_last = number + 1 == u64::from(run.count);
            let length = if is_last { run.last_chunk_bytes } else { run.chunk_bytes };
            let begins = origin.wrapping_add(number * u64::from(run.chunk_bytes));
            let low = from.max(run.file_offset).max(if number == 0 { run.file_offset } else { begins });
            let high = to.min(run.file_offset + run.length).min(begins.wrapping_add(u64::from(length)));
            if low >= high {
                continue;
            }
            let inside = |at: u64| u32::try_from(at.wrapping_sub(begins)).expect("inside a chunk");
            let id = ChunkId { session: run.first.session, ordinal: run.first.ordinal + number };
            let call = GetCall { id, length, root, range: inside(low)..inside(high), replica: None };
            gets.push(PlannedGet { file_offset: low, call });
        }
    }
    gets
}

fn ending_of_change(result: Result<Done, Failure>) -> Ending {
    match result {
        Ok(Done::Outcome(outcome)) => Ending::Executed {
            index: outcome.index.0,
            status: outcome.status,
            version: outcome.version.0,
            offset: outcome.offset,
            size: outcome.size,
        },
        Ok(other) => panic!("a mutation was answered with {other:?}"),
        Err(Failure::Unknown) => Ending::Unknown,
        Err(_) => Ending::NotExecuted,
    }
}

fn ending_of_refusal(result: &Result<Done, Failure>) -> Ending {
    match result {
        Err(Failure::Refused { status, .. }) => Ending::Refused(*status),
        _ => Ending::Nothing,
    }
}

fn ending_of_list(result: Result<Done, Failure>) -> Ending {
    match result {
        Ok(Done::Answer(answer)) => match *answer {
            Answer::List { entries, end, index, .. } => {
                assert!(end, "a page holds a simulated directory");
                let name = |bytes: Vec<u8>| String::from_utf8(bytes).expect("our own names");
                let names = entries.into_iter().map(|entry| (name(entry.name), entry.attributes.kind));
                Ending::Listed { index: index.0, names: names.collect() }
            }
            other => panic!("a list was answered with {other:?}"),
        },
        other => ending_of_refusal(&other),
    }
}

/// A chunk was missing or damaged: if the version is still there, its bytes are lost; else the reader was too slow.
fn ending_of_second_look(reading: &Reading, result: Result<Done, Failure>) -> Ending {
    let Ok(Done::Answer(answer)) = result else { return Ending::Nothing };
    let Answer::Entry(entry) = *answer else { panic!("a lookup was answered with {answer:?}") };
    let (old, new) = (&reading.entry.attributes, &entry.attributes);
    let same = (old.inode, old.version, old.layout) == (new.inode, new.version, new.layout);
    if same { found(reading, false) } else { Ending::Nothing }
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
