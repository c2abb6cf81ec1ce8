//! Answers to queries on the wire. A page of a listing takes a handful of tables, whatever its length.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use wire_generated::message_generated as message;
use wire_generated::meta_generated as schema;

use super::attributes::{
    bytes_of, decode_attributes, decode_xattrs, encode_attributes, encode_xattrs, optional_bytes, take,
};
use super::{DecodeError, check, extents, slice};
use crate::limits::{LIST_ENTRIES_MAX, MESSAGE_BYTES_MAX};
use crate::meta::{
    Answer, Attributes, Entry, ExtentPage, GroupState, InodeKind, ListEntry, VolumeInfo, VolumePolicy,
    VolumeUsage,
};
use crate::{CommitIndex, GroupId, Timestamp, VolumeId};

type Builder = FlatBufferBuilder<'static>;
type Body = (schema::Answer, WIPOffset<UnionWIPOffset>);

/// What a listing's message may take beside its records and names.
const LIST_FRAMING_BYTES: usize = 1024;
const LIST_RECORD_BYTES: usize = size_of::<schema::ListRecord>();

pub(super) fn encode(
    builder: &mut Builder,
    scratch: &mut Vec<u8>,
    answer: &Answer,
) -> WIPOffset<message::QueryReply<'static>> {
    let (answer_type, answer) = encode_body(builder, scratch, answer);
    message::QueryReply::create(builder, &message::QueryReplyArgs { answer_type, answer: Some(answer) })
}

fn encode_body(builder: &mut Builder, scratch: &mut Vec<u8>, answer: &Answer) -> Body {
    match answer {
        Answer::Volume(volume) => {
            let name = Some(builder.create_vector(volume.name.as_bytes()));
            let record = encode_volume(volume);
            let args = schema::VolumeAnswerArgs { record: Some(&record), name };
            let body = schema::VolumeAnswer::create(builder, &args);
            (schema::Answer::VolumeAnswer, body.as_union_value())
        }
        Answer::Volumes(volumes, end) => encode_volumes(builder, scratch, volumes, *end),
        Answer::Entry(entry) => encode_entry(builder, scratch, entry),
        Answer::Extents(page) => {
            let extents = encode_page(builder, page);
            let args = schema::ExtentsAnswerArgs { extents, end: page.end };
            let body = schema::ExtentsAnswer::create(builder, &args);
            (schema::Answer::ExtentsAnswer, body.as_union_value())
        }
        Answer::List { directory, entries, end, index } => {
            encode_list(builder, scratch, directory, (entries, *end), *index)
        }
        Answer::Usage(usage) => encode_usage(builder, usage),
        Answer::GroupStatus(state) => encode_group_state(builder, state),
        Answer::ChunkStates(states) => slice::encode_states(builder, states),
    }
}

fn encode_volume(volume: &VolumeInfo) -> schema::VolumeRecord {
    schema::VolumeRecord::new(
        volume.volume.0,
        volume.policy.retention_seconds,
        volume.created.0,
        volume.policy.chunk_bytes,
        name_bytes(volume.name.as_bytes()),
        volume.group.0,
    )
}

fn encode_volumes(builder: &mut Builder, scratch: &mut Vec<u8>, volumes: &[VolumeInfo], end: bool) -> Body {
    assert!(volumes.len() <= LIST_ENTRIES_MAX as usize, "a page keeps its limit");
    scratch.clear();
    for volume in volumes {
        scratch.extend_from_slice(volume.name.as_bytes());
    }
    let names = Some(builder.create_vector(scratch.as_slice()));
    let records = Some(builder.create_vector_from_iter(volumes.iter().map(encode_volume)));
    let body = schema::VolumesAnswer::create(builder, &schema::VolumesAnswerArgs { records, names, end });
    (schema::Answer::VolumesAnswer, body.as_union_value())
}

fn encode_entry(builder: &mut Builder, scratch: &mut Vec<u8>, entry: &Entry) -> Body {
    let attributes = encode_attributes(&entry.attributes);
    let target = optional_bytes(builder, &entry.target);
    let xattrs = encode_xattrs(builder, scratch, &entry.xattrs);
    let extents = encode_page(builder, &entry.page);
    let args = schema::EntryAnswerArgs {
        attributes: Some(&attributes),
        target,
        xattrs,
        extents,
        end: entry.page.end,
        index: entry.index.0,
    };
    let body = schema::EntryAnswer::create(builder, &args);
    (schema::Answer::EntryAnswer, body.as_union_value())
}

fn encode_page(builder: &mut Builder, page: &ExtentPage) -> Option<WIPOffset<schema::Extents<'static>>> {
    (!page.extents.runs.is_empty()).then(|| extents::encode(builder, &page.extents))
}

/// Encodes as many entries as fit into a message: where some had to be left out, `end` is false and the reader goes on after the
/// last one that it got.
fn encode_list(
    builder: &mut Builder,
    scratch: &mut Vec<u8>,
    directory: &Attributes,
    (entries, end): (&[ListEntry], bool),
    index: CommitIndex,
) -> Body {
    assert!(entries.len() <= LIST_ENTRIES_MAX as usize, "a page keeps its limit");
    scratch.clear();
    let mut count = 0;
    for entry in entries {
        let after = scratch.len() + entry.name.len() + entry.target.len();
        if (count + 1) * LIST_RECORD_BYTES + after + LIST_FRAMING_BYTES > MESSAGE_BYTES_MAX {
            break;
        }
        scratch.extend_from_slice(&entry.name);
        scratch.extend_from_slice(&entry.target);
        count += 1;
    }
    let bytes = Some(builder.create_vector(scratch.as_slice()));
    let records = builder.create_vector_from_iter(entries[..count].iter().map(|entry| {
        schema::ListRecord::new(
            &encode_attributes(&entry.attributes),
            name_bytes(&entry.name),
            name_bytes(&entry.target),
        )
    }));
    let directory = encode_attributes(directory);
    let args = schema::ListAnswerArgs {
        directory: Some(&directory),
        records: Some(records),
        bytes,
        end: end && count == entries.len(),
        index: index.0,
    };
    let body = schema::ListAnswer::create(builder, &args);
    (schema::Answer::ListAnswer, body.as_union_value())
}

fn encode_usage(builder: &mut Builder, usage: &VolumeUsage) -> Body {
    let args = schema::UsageAnswerArgs {
        files: usage.files,
        directories: usage.directories,
        symlinks: usage.symlinks,
        logical_bytes: usage.logical_bytes,
        stored_bytes: usage.stored_bytes,
        chunks: usage.chunks,
        reclaimable_bytes: usage.reclaimable_bytes,
        reclaimable_from: usage.reclaimable_from.0,
    };
    let body = schema::UsageAnswer::create(builder, &args);
    (schema::Answer::UsageAnswer, body.as_union_value())
}

fn encode_group_state(builder: &mut Builder, state: &GroupState) -> Body {
    let args = schema::GroupStatusAnswerArgs {
        committed: state.committed.0,
        checkpoint: state.checkpoint.0,
        sessions: state.sessions,
        inodes: state.inodes,
        memory_bytes: state.memory_bytes,
        memory_budget_bytes: state.memory_budget_bytes,
        log_bytes: state.log_bytes,
        deleting_chunks: state.deleting_chunks,
        unopened_chunks: state.unopened_chunks,
        log_full: state.log_full,
        memory_full: state.memory_full,
    };
    let body = schema::GroupStatusAnswer::create(builder, &args);
    (schema::Answer::GroupStatusAnswer, body.as_union_value())
}

fn name_bytes(name: &[u8]) -> u16 {
    u16::try_from(name.len()).expect("names and targets are shorter than 4,096 bytes")
}

pub(super) fn decode(table: message::QueryReply<'_>) -> Result<Answer, DecodeError> {
    const MISSING: DecodeError = DecodeError::Missing("answer");
    Ok(match table.answer_type() {
        schema::Answer::VolumeAnswer => {
            let body = table.answer_as_volume_answer().ok_or(MISSING)?;
            Answer::Volume(decode_volume(body.record(), body.name().bytes())?)
        }
        schema::Answer::VolumesAnswer => decode_volumes(table.answer_as_volumes_answer().ok_or(MISSING)?)?,
        schema::Answer::EntryAnswer => decode_entry(table.answer_as_entry_answer().ok_or(MISSING)?)?,
        schema::Answer::ExtentsAnswer => {
            let body = table.answer_as_extents_answer().ok_or(MISSING)?;
            Answer::Extents(ExtentPage { extents: extents::decode(body.extents())?, end: body.end() })
        }
        schema::Answer::ListAnswer => decode_list(table.answer_as_list_answer().ok_or(MISSING)?)?,
        schema::Answer::UsageAnswer => {
            let body = table.answer_as_usage_answer().ok_or(MISSING)?;
            Answer::Usage(decode_usage(body))
        }
        schema::Answer::GroupStatusAnswer => {
            let body = table.answer_as_group_status_answer().ok_or(MISSING)?;
            Answer::GroupStatus(decode_group_state(body))
        }
        schema::Answer::ChunkStatesAnswer => {
            slice::decode_states(table.answer_as_chunk_states_answer().ok_or(MISSING)?)?
        }
        _ => return Err(DecodeError::Unknown("answer")),
    })
}

fn decode_volume(record: &schema::VolumeRecord, name: &[u8]) -> Result<VolumeInfo, DecodeError> {
    check::volume_name(name)?;
    let policy =
        VolumePolicy { chunk_bytes: record.chunk_bytes(), retention_seconds: record.retention_seconds() };
    check::volume_policy(&policy)?;
    Ok(VolumeInfo {
        volume: VolumeId(record.volume()),
        group: GroupId(record.group()),
        name: String::from_utf8_lossy(name).into_owned(),
        policy,
        created: Timestamp(record.created()),
    })
}

fn decode_volumes(body: schema::VolumesAnswer<'_>) -> Result<Answer, DecodeError> {
    check::length("volumes", body.records().len(), LIST_ENTRIES_MAX as usize)?;
    let mut rest = body.names().bytes();
    let mut volumes: Vec<VolumeInfo> = Vec::with_capacity(body.records().len());
    for record in body.records() {
        let volume = decode_volume(record, take(&mut rest, record.name_bytes())?)?;
        let rises = volumes.last().is_none_or(|last| last.name < volume.name);
        check::that(rises, "order of volumes")?;
        volumes.push(volume);
    }
    check::that(rest.is_empty(), "volumes")?;
    Ok(Answer::Volumes(volumes, body.end()))
}

fn decode_entry(body: schema::EntryAnswer<'_>) -> Result<Answer, DecodeError> {
    let attributes = decode_attributes(body.attributes())?;
    let target = bytes_of(body.target());
    check_target(&attributes, target)?;
    Ok(Answer::Entry(Box::new(Entry {
        attributes,
        target: target.to_vec(),
        xattrs: decode_xattrs(body.xattrs())?,
        page: ExtentPage { extents: extents::decode(body.extents())?, end: body.end() },
        index: CommitIndex(body.index()),
    })))
}

fn decode_list(body: schema::ListAnswer<'_>) -> Result<Answer, DecodeError> {
    check::length("entries", body.records().len(), LIST_ENTRIES_MAX as usize)?;
    let mut rest = body.bytes().bytes();
    let mut entries: Vec<ListEntry> = Vec::with_capacity(body.records().len());
    for record in body.records() {
        let name = take(&mut rest, record.name_bytes())?;
        let target = take(&mut rest, record.target_bytes())?;
        check::entry_name(name)?;
        let attributes = decode_attributes(record.attributes())?;
        check_target(&attributes, target)?;
        // A reader goes on after the last name: rising names mean that it gets to the end.
        let rises = entries.last().is_none_or(|last| last.name.as_slice() < name);
        check::that(rises, "order of entries")?;
        entries.push(ListEntry { name: name.to_vec(), attributes, target: target.to_vec() });
    }
    check::that(rest.is_empty(), "entries")?;
    Ok(Answer::List {
        directory: decode_attributes(body.directory())?,
        entries,
        end: body.end(),
        index: CommitIndex(body.index()),
    })
}

/// Only a link has a target.
fn check_target(attributes: &Attributes, target: &[u8]) -> Result<(), DecodeError> {
    check::target(target)?;
    check::that(target.is_empty() || attributes.kind == InodeKind::Symlink, "link target")
}

fn decode_usage(body: schema::UsageAnswer<'_>) -> VolumeUsage {
    VolumeUsage {
        files: body.files(),
        directories: body.directories(),
        symlinks: body.symlinks(),
        logical_bytes: body.logical_bytes(),
        stored_bytes: body.stored_bytes(),
        chunks: body.chunks(),
        reclaimable_bytes: body.reclaimable_bytes(),
        reclaimable_from: Timestamp(body.reclaimable_from()),
    }
}

fn decode_group_state(body: schema::GroupStatusAnswer<'_>) -> GroupState {
    GroupState {
        committed: CommitIndex(body.committed()),
        checkpoint: CommitIndex(body.checkpoint()),
        sessions: body.sessions(),
        inodes: body.inodes(),
        memory_bytes: body.memory_bytes(),
        memory_budget_bytes: body.memory_budget_bytes(),
        log_bytes: body.log_bytes(),
        deleting_chunks: body.deleting_chunks(),
        unopened_chunks: body.unopened_chunks(),
        log_full: body.log_full(),
        memory_full: body.memory_full(),
    }
}
