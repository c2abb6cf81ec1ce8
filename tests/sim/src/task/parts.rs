//! What goes into a task's requests, and what comes out of their answers.

use client::core::{Call, Done, Failure, GetCall};
use wire::meta::{
    Answer, AttributeChange, CopyRange, Entry, Extents, ListEntry, NewAttributes, Operation, Place,
    Precondition, Query, RemoveKind, Run, Xattr,
};
use wire::{ChunkId, GroupId, InodeId, Timestamp, Version, VolumeId};

use super::{Reading, Setting, Stored, Wish};
use crate::history::{Action, Condition, Ending, Record, Row, Seen, XATTRS, xattr_value};
use crate::model::NAME_MODE;

/// The only group.
pub(super) const GROUP: GroupId = GroupId(0);

pub(super) fn found(reading: &Reading, whole: bool) -> Ending {
    let bytes = whole.then(|| (reading.from, reading.bytes.clone()));
    Ending::Found { index: reading.entry.index.0, seen: seen_of(&reading.entry, bytes) }
}

pub(super) fn seen_of(entry: &Entry, bytes: Option<(u64, Vec<u8>)>) -> Seen {
    let attributes = &entry.attributes;
    Seen {
        kind: attributes.kind,
        size: attributes.size,
        version: attributes.version.0,
        mode: attributes.mode,
        modified: attributes.modified.0,
        xattrs: entry.xattrs.iter().map(|xattr| (xattr.name.clone(), xattr.value.clone())).collect(),
        target: String::from_utf8(entry.target.clone()).expect("our own targets"),
        bytes,
    }
}

pub(super) fn look_up(setting: Setting, path: &str, follow: bool) -> Wish {
    let place = place(setting.volume, path);
    let query = Query::Lookup { place, follow, xattrs: true, roots: setting.roots };
    Wish::Call(0, Call::Query { group: GROUP, query: Box::new(query) })
}

pub(super) fn list(volume: VolumeId, path: &str, after: &str, limit: u32) -> Wish {
    let query = Query::List { place: place(volume, path), after: after.as_bytes().to_vec(), limit };
    Wish::Call(0, Call::Query { group: GROUP, query: Box::new(query) })
}

/// Attributes that a commit brings with the bytes.
pub(super) fn new_attributes(record: &Record) -> Option<NewAttributes> {
    let Action::Replace { dress: Some(dress), .. } = record.action else { return None };
    let xattr = dress.xattr.then(|| xattr(XATTRS[0], record));
    Some(NewAttributes {
        mode: dress.mode,
        modified: dress.modified.map(Timestamp),
        xattrs: xattr.into_iter().collect(),
        ..NewAttributes::default()
    })
}

fn xattr(name: &str, record: &Record) -> Xattr {
    Xattr { name: name.as_bytes().to_vec(), value: xattr_value(record.stamp) }
}

pub(super) fn place(volume: VolumeId, path: &str) -> Place {
    Place { volume, directory: InodeId::ROOT, path: path.as_bytes().to_vec() }
}

pub(super) fn precondition(condition: Condition) -> Precondition {
    match condition {
        Condition::Any => Precondition::Any,
        Condition::Absent => Precondition::Absent,
        Condition::Present => Precondition::Present,
        Condition::Version(version) => Precondition::Version(Version(version)),
    }
}

/// The operation of an action that brings no chunks.
pub(super) fn plain_operation(volume: VolumeId, record: &Record) -> Operation {
    let attributes = NewAttributes { mode: NAME_MODE, ..NewAttributes::default() };
    let at = |path: &str| place(volume, path);
    match &record.action {
        Action::Truncate { path, size, condition } => {
            Operation::Truncate { place: at(path), size: *size, precondition: precondition(*condition) }
        }
        Action::MakeDirectory { path, parents } => {
            Operation::MakeDirectory { place: at(path), attributes, parents: *parents }
        }
        Action::MakeLink { path, target, replace } => Operation::MakeSymlink {
            place: at(path),
            target: target.as_bytes().to_vec(),
            attributes,
            replace: *replace,
        },
        Action::RemoveFile { path, condition } => Operation::Remove {
            place: at(path),
            kind: RemoveKind::File,
            precondition: precondition(*condition),
        },
        Action::RemoveDirectory { path } => Operation::Remove {
            place: at(path),
            kind: RemoveKind::Directory,
            precondition: Precondition::Any,
        },
        Action::Rename { from, to, mode } => {
            Operation::Rename { source: at(from), target: at(to), mode: *mode }
        }
        Action::Copy { from, to, part, version } => Operation::CopyRange(CopyRange {
            source: at(from),
            source_version: Version(version.unwrap_or(0)),
            source_offset: part.map_or(0, |part| part.from),
            length: part.map_or(u64::MAX, |part| part.length),
            target: at(to),
            target_offset: part.map_or(0, |part| part.to),
            whole: part.is_none(),
            precondition: Precondition::Any,
        }),
        Action::SetAttributes { path, follow, mode, modified } => {
            let change = AttributeChange {
                mode: *mode,
                modified: modified.map(Timestamp),
                ..AttributeChange::default()
            };
            Operation::SetAttributes { place: at(path), follow: *follow, change }
        }
        Action::SetXattr { path, follow, name, mode } => {
            Operation::SetXattr { place: at(path), follow: *follow, xattr: xattr(name, record), mode: *mode }
        }
        Action::RemoveXattr { path, follow, name } => {
            Operation::RemoveXattr { place: at(path), follow: *follow, name: name.as_bytes().to_vec() }
        }
        Action::Replace { .. } | Action::Write { .. } | Action::Append { .. } => {
            unreachable!("writes are commits")
        }
        Action::Read { .. } | Action::List { .. } => unreachable!("reads are queries"),
    }
}

/// Runs of chunks with consecutive ids.
pub(super) fn extents_of(chunk_bytes: u64, start: u64, length: u64, chunks: &[Stored]) -> Extents {
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

/// A get, and where its bytes belong.
#[derive(Debug)]
pub(super) struct PlannedGet {
    file_offset: u64,
    pub(super) call: GetCall,
}

impl PlannedGet {
    /// Where its bytes go in a read that begins at `from`.
    pub(super) fn place(&self, from: u64) -> usize {
        usize::try_from(self.file_offset - from).expect("inside the range")
    }
}

/// The chunks that hold the file's bytes `from..to`.
pub(super) fn gets_of(extents: &Extents, from: u64, to: u64) -> Vec<PlannedGet> {
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

pub(super) fn ending_of_change(result: Result<Done, Failure>) -> Ending {
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

pub(super) fn ending_of_refusal(result: &Result<Done, Failure>) -> Ending {
    match result {
        Err(Failure::Refused { status, .. }) => Ending::Refused(*status),
        _ => Ending::Nothing,
    }
}

pub(super) fn ending_of_list(result: Result<Done, Failure>) -> Ending {
    match result {
        Ok(Done::Answer(answer)) => match *answer {
            Answer::List { entries, end, index, .. } => {
                let row = |entry: ListEntry| Row {
                    name: String::from_utf8(entry.name).expect("our own names"),
                    kind: entry.attributes.kind,
                    size: entry.attributes.size,
                };
                Ending::Listed { index: index.0, rows: entries.into_iter().map(row).collect(), end }
            }
            other => panic!("a list was answered with {other:?}"),
        },
        other => ending_of_refusal(&other),
    }
}

/// Looked up again: whether the version is still there, if that was answered, and how the read ends. If a chunk was missing or damaged and the
/// version is still there, its bytes are lost; else the reader was too slow.
pub(super) fn ending_of_second_look(
    reading: &Reading,
    result: Result<Done, Failure>,
    is_whole: bool,
) -> (Option<bool>, Ending) {
    let same = match result {
        Ok(Done::Answer(answer)) => {
            let Answer::Entry(entry) = *answer else { panic!("a lookup was answered with {answer:?}") };
            let (old, new) = (&reading.entry.attributes, &entry.attributes);
            Some((old.inode, old.version, old.layout) == (new.inode, new.version, new.layout))
        }
        Err(Failure::Refused { .. }) => Some(false),
        _ => None,
    };
    let ending = if is_whole || same == Some(true) { found(reading, is_whole) } else { Ending::Nothing };
    (same, ending)
}
