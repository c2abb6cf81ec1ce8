//! Mutations on the wire.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use wire_generated::message_generated as message;
use wire_generated::meta_generated as schema;

use super::attributes::{
    bytes_of, decode_new_attributes, decode_place, decode_precondition, encode_new_attributes, encode_place,
    encode_precondition, optional_bytes,
};
use super::{DecodeError, check, extents};
use crate::limits::MESSAGE_ROOTS_MAX;
use crate::meta::{
    AttributeChange, Change, Commit, Compact, CopyRange, Mutation, Operation, Place, RemoveKind, RenameMode,
    VolumePolicy, Xattr, XattrMode,
};
use crate::{Layout, MapNumber, Sequence, SessionId, Timestamp, Version, VolumeId};

type Builder = FlatBufferBuilder<'static>;
type Body = (schema::Operation, WIPOffset<UnionWIPOffset>);

const CHANGE_REPLACE: u8 = 0;
const CHANGE_WRITE: u8 = 1;
const CHANGE_APPEND: u8 = 2;

const REMOVE_KINDS: [RemoveKind; 2] = [RemoveKind::File, RemoveKind::Directory];
const RENAME_MODES: [RenameMode; 3] = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
const XATTR_MODES: [XattrMode; 3] = [XattrMode::Any, XattrMode::Create, XattrMode::Replace];

impl Mutation {
    /// Whether every field is within its limits and means something: what a client asks before it sends the mutation (encoding
    /// asserts it), and what the decoder asks of whatever it received. What only the namespace can know isn't asked.
    pub fn check(&self) -> Result<(), DecodeError> {
        check::that(self.acked_upto < self.sequence, "sequence")?;
        check_operation(&self.operation)
    }
}

fn check_operation(operation: &Operation) -> Result<(), DecodeError> {
    let place = |place: &Place| check::path(&place.path);
    match operation {
        Operation::CreateVolume { name, policy } => {
            check::volume_name(name.as_bytes())?;
            check::volume_policy(policy)
        }
        Operation::RemoveVolume { .. } => Ok(()),
        Operation::MakeDirectory { place: at, attributes, .. } => {
            place(at)?;
            check::new_attributes(attributes)
        }
        Operation::MakeSymlink { place: at, target, attributes, .. } => {
            place(at)?;
            check::that(!target.is_empty(), "link target")?;
            check::target(target)?;
            check::new_attributes(attributes)
        }
        Operation::Commit(commit) => check_commit(commit),
        Operation::Truncate { place: at, size, .. } => {
            place(at)?;
            check::file_bytes("size", *size).map(drop)
        }
        Operation::Remove { place: at, .. } => place(at),
        Operation::Rename { source, target, .. } => {
            place(source)?;
            place(target)
        }
        Operation::SetAttributes { place: at, change, .. } => {
            place(at)?;
            change.mode.map_or(Ok(()), |mode| check::mode(mode).map(drop))
        }
        Operation::SetXattr { place: at, xattr, .. } => {
            place(at)?;
            check::xattr_name(&xattr.name)?;
            check::xattr_bytes(xattr.name.len() + xattr.value.len())
        }
        Operation::RemoveXattr { place: at, name, .. } => {
            place(at)?;
            check::xattr_name(name)
        }
        Operation::CopyRange(copy) => {
            place(&copy.source)?;
            place(&copy.target)?;
            check::file_bytes("offset", copy.source_offset)?;
            check::file_bytes("offset", copy.target_offset).map(drop)
        }
        Operation::Compact(compact) => {
            place(&compact.place)?;
            check_message_extents(&compact.extents)
        }
        Operation::Stage { upload, extents } => {
            check::that(*upload != 0, "upload")?;
            check_message_extents(extents)
        }
    }
}

fn check_commit(commit: &Commit) -> Result<(), DecodeError> {
    check::path(&commit.place.path)?;
    if let Some(attributes) = &commit.attributes {
        check::new_attributes(attributes)?;
    }
    check_message_extents(&commit.extents)?;
    let Change::Replace { size } = commit.change else { return Ok(()) };
    check::file_bytes("size", size)?;
    let end = commit.extents.runs.last().map_or(0, |run| run.file_offset + run.length);
    check::that(end <= size, "size")
}

/// R37: larger files are staged.
fn check_message_extents(extents: &crate::meta::Extents) -> Result<(), DecodeError> {
    check::length("extents", extents.roots.len(), MESSAGE_ROOTS_MAX)?;
    extents::check_extents(extents)
}

pub(super) fn encode(
    builder: &mut Builder,
    scratch: &mut Vec<u8>,
    mutation: &Mutation,
) -> WIPOffset<message::MutateRequest<'static>> {
    assert_eq!(mutation.check(), Ok(()), "a client checks what it sends");
    let (operation_type, operation) = encode_operation(builder, scratch, &mutation.operation);
    message::MutateRequest::create(
        builder,
        &message::MutateRequestArgs {
            session: mutation.session.0,
            sequence: mutation.sequence.0,
            acked_upto: mutation.acked_upto.0,
            operation_type,
            operation: Some(operation),
        },
    )
}

fn encode_operation(builder: &mut Builder, scratch: &mut Vec<u8>, operation: &Operation) -> Body {
    match operation {
        Operation::CreateVolume { .. } | Operation::RemoveVolume { .. } => encode_volume(builder, operation),
        Operation::MakeDirectory { place, attributes, parents } => {
            let place = Some(encode_place(builder, place));
            let attributes = Some(encode_new_attributes(builder, scratch, attributes));
            let args = schema::MakeDirectoryArgs { place, attributes, parents: *parents };
            let body = schema::MakeDirectory::create(builder, &args);
            (schema::Operation::MakeDirectory, body.as_union_value())
        }
        Operation::MakeSymlink { place, target, attributes, replace } => {
            let place = Some(encode_place(builder, place));
            let target = Some(builder.create_vector(target.as_slice()));
            let attributes = Some(encode_new_attributes(builder, scratch, attributes));
            let args = schema::MakeSymlinkArgs { place, target, attributes, replace: *replace };
            let body = schema::MakeSymlink::create(builder, &args);
            (schema::Operation::MakeSymlink, body.as_union_value())
        }
        Operation::Commit(commit) => encode_commit(builder, scratch, commit),
        Operation::CopyRange(copy) => encode_copy(builder, copy),
        Operation::Compact(compact) => encode_compact(builder, compact),
        Operation::Stage { upload, extents } => {
            let extents = Some(extents::encode(builder, extents));
            let body = schema::Stage::create(builder, &schema::StageArgs { upload: *upload, extents });
            (schema::Operation::Stage, body.as_union_value())
        }
        Operation::Truncate { .. } | Operation::Remove { .. } | Operation::Rename { .. } => {
            encode_name_operation(builder, operation)
        }
        Operation::SetAttributes { .. } | Operation::SetXattr { .. } | Operation::RemoveXattr { .. } => {
            encode_attribute_operation(builder, operation)
        }
    }
}

fn encode_volume(builder: &mut Builder, operation: &Operation) -> Body {
    match operation {
        Operation::CreateVolume { name, policy } => {
            let name = Some(builder.create_string(name));
            let VolumePolicy { chunk_bytes, retention_seconds } = *policy;
            let args = schema::CreateVolumeArgs { name, chunk_bytes, retention_seconds };
            let body = schema::CreateVolume::create(builder, &args);
            (schema::Operation::CreateVolume, body.as_union_value())
        }
        Operation::RemoveVolume { volume, recursive } => {
            let args = schema::RemoveVolumeArgs { volume: volume.0, recursive: *recursive };
            let body = schema::RemoveVolume::create(builder, &args);
            (schema::Operation::RemoveVolume, body.as_union_value())
        }
        _ => unreachable!("the caller chose"),
    }
}

fn encode_name_operation(builder: &mut Builder, operation: &Operation) -> Body {
    match operation {
        Operation::Truncate { place, size, precondition } => {
            let place = Some(encode_place(builder, place));
            let precondition = encode_precondition(*precondition);
            let args = schema::TruncateArgs { place, size: *size, precondition: Some(&precondition) };
            let body = schema::Truncate::create(builder, &args);
            (schema::Operation::Truncate, body.as_union_value())
        }
        Operation::Remove { place, kind, precondition } => {
            let place = Some(encode_place(builder, place));
            let precondition = encode_precondition(*precondition);
            let kind = code_of(&REMOVE_KINDS, kind);
            let args = schema::RemoveArgs { place, kind, precondition: Some(&precondition) };
            let body = schema::Remove::create(builder, &args);
            (schema::Operation::Remove, body.as_union_value())
        }
        Operation::Rename { source, target, mode } => {
            let source = Some(encode_place(builder, source));
            let target = Some(encode_place(builder, target));
            let args = schema::RenameArgs { source, target, mode: code_of(&RENAME_MODES, mode) };
            let body = schema::Rename::create(builder, &args);
            (schema::Operation::Rename, body.as_union_value())
        }
        _ => unreachable!("the caller chose"),
    }
}

fn encode_attribute_operation(builder: &mut Builder, operation: &Operation) -> Body {
    match operation {
        Operation::SetAttributes { place, follow, change } => {
            let args = schema::SetAttributesArgs {
                place: Some(encode_place(builder, place)),
                follow_links: *follow,
                mode: change.mode,
                uid: change.uid,
                gid: change.gid,
                modified: change.modified.map(|time| time.0),
            };
            let body = schema::SetAttributes::create(builder, &args);
            (schema::Operation::SetAttributes, body.as_union_value())
        }
        Operation::SetXattr { place, follow, xattr, mode } => {
            let place = Some(encode_place(builder, place));
            let name = Some(builder.create_vector(xattr.name.as_slice()));
            let value = optional_bytes(builder, &xattr.value);
            let mode = code_of(&XATTR_MODES, mode);
            let args = schema::SetXattrArgs { place, follow_links: *follow, name, value, mode };
            let body = schema::SetXattr::create(builder, &args);
            (schema::Operation::SetXattr, body.as_union_value())
        }
        Operation::RemoveXattr { place, follow, name } => {
            let place = Some(encode_place(builder, place));
            let name = Some(builder.create_vector(name.as_slice()));
            let args = schema::RemoveXattrArgs { place, follow_links: *follow, name };
            let body = schema::RemoveXattr::create(builder, &args);
            (schema::Operation::RemoveXattr, body.as_union_value())
        }
        _ => unreachable!("the caller chose"),
    }
}

fn encode_commit(builder: &mut Builder, scratch: &mut Vec<u8>, commit: &Commit) -> Body {
    let (change, size) = match commit.change {
        Change::Replace { size } => (CHANGE_REPLACE, size),
        Change::Write => (CHANGE_WRITE, 0),
        Change::Append => (CHANGE_APPEND, 0),
    };
    let place = Some(encode_place(builder, &commit.place));
    let extents = (!commit.extents.runs.is_empty()).then(|| extents::encode(builder, &commit.extents));
    let attributes =
        commit.attributes.as_ref().map(|attributes| encode_new_attributes(builder, scratch, attributes));
    let precondition = encode_precondition(commit.precondition);
    let args = schema::CommitArgs {
        place,
        change,
        size,
        extents,
        upload: commit.upload,
        attributes,
        precondition: Some(&precondition),
        map: commit.map.0,
    };
    let body = schema::Commit::create(builder, &args);
    (schema::Operation::Commit, body.as_union_value())
}

fn encode_copy(builder: &mut Builder, copy: &CopyRange) -> Body {
    let source = Some(encode_place(builder, &copy.source));
    let target = Some(encode_place(builder, &copy.target));
    let precondition = encode_precondition(copy.precondition);
    let args = schema::CopyRangeArgs {
        source,
        source_version: copy.source_version.0,
        source_offset: copy.source_offset,
        length: copy.length,
        target,
        target_offset: copy.target_offset,
        whole: copy.whole,
        precondition: Some(&precondition),
    };
    let body = schema::CopyRange::create(builder, &args);
    (schema::Operation::CopyRange, body.as_union_value())
}

fn encode_compact(builder: &mut Builder, compact: &Compact) -> Body {
    let place = Some(encode_place(builder, &compact.place));
    let extents = Some(extents::encode(builder, &compact.extents));
    let (version, layout, map) = (compact.version.0, compact.layout.0, compact.map.0);
    let args = schema::CompactArgs { place, version, layout, extents, map };
    let body = schema::Compact::create(builder, &args);
    (schema::Operation::Compact, body.as_union_value())
}

fn decode_compact(body: schema::Compact<'_>) -> Result<Operation, DecodeError> {
    Ok(Operation::Compact(Compact {
        place: decode_place(body.place()),
        version: Version(body.version()),
        layout: Layout(body.layout()),
        extents: extents::decode(Some(body.extents()))?,
        map: MapNumber(body.map()),
    }))
}

pub(super) fn decode(table: message::MutateRequest<'_>) -> Result<Mutation, DecodeError> {
    let mutation = Mutation {
        session: SessionId(table.session()),
        sequence: Sequence(table.sequence()),
        acked_upto: Sequence(table.acked_upto()),
        operation: decode_operation(table)?,
    };
    mutation.check()?;
    Ok(mutation)
}

fn decode_operation(table: message::MutateRequest<'_>) -> Result<Operation, DecodeError> {
    const MISSING: DecodeError = DecodeError::Missing("operation");
    Ok(match table.operation_type() {
        schema::Operation::CreateVolume => {
            let body = table.operation_as_create_volume().ok_or(MISSING)?;
            let policy =
                VolumePolicy { chunk_bytes: body.chunk_bytes(), retention_seconds: body.retention_seconds() };
            Operation::CreateVolume { name: body.name().to_owned(), policy }
        }
        schema::Operation::RemoveVolume => {
            let body = table.operation_as_remove_volume().ok_or(MISSING)?;
            Operation::RemoveVolume { volume: VolumeId(body.volume()), recursive: body.recursive() }
        }
        schema::Operation::MakeDirectory => {
            let body = table.operation_as_make_directory().ok_or(MISSING)?;
            Operation::MakeDirectory {
                place: decode_place(body.place()),
                attributes: decode_new_attributes(body.attributes())?,
                parents: body.parents(),
            }
        }
        schema::Operation::MakeSymlink => {
            let body = table.operation_as_make_symlink().ok_or(MISSING)?;
            Operation::MakeSymlink {
                place: decode_place(body.place()),
                target: body.target().bytes().to_vec(),
                attributes: decode_new_attributes(body.attributes())?,
                replace: body.replace(),
            }
        }
        schema::Operation::Commit => decode_commit(table.operation_as_commit().ok_or(MISSING)?)?,
        schema::Operation::CopyRange => decode_copy(table.operation_as_copy_range().ok_or(MISSING)?)?,
        schema::Operation::Compact => decode_compact(table.operation_as_compact().ok_or(MISSING)?)?,
        schema::Operation::Stage => {
            let body = table.operation_as_stage().ok_or(MISSING)?;
            Operation::Stage { upload: body.upload(), extents: extents::decode(Some(body.extents()))? }
        }
        _ => return decode_small_operation(table),
    })
}

fn decode_small_operation(table: message::MutateRequest<'_>) -> Result<Operation, DecodeError> {
    const MISSING: DecodeError = DecodeError::Missing("operation");
    Ok(match table.operation_type() {
        schema::Operation::Truncate => {
            let body = table.operation_as_truncate().ok_or(MISSING)?;
            Operation::Truncate {
                place: decode_place(body.place()),
                size: body.size(),
                precondition: decode_precondition(body.precondition())?,
            }
        }
        schema::Operation::Remove => {
            let body = table.operation_as_remove().ok_or(MISSING)?;
            Operation::Remove {
                place: decode_place(body.place()),
                kind: of_code(&REMOVE_KINDS, body.kind(), "removal")?,
                precondition: decode_precondition(body.precondition())?,
            }
        }
        schema::Operation::Rename => {
            let body = table.operation_as_rename().ok_or(MISSING)?;
            Operation::Rename {
                source: decode_place(body.source()),
                target: decode_place(body.target()),
                mode: of_code(&RENAME_MODES, body.mode(), "rename")?,
            }
        }
        schema::Operation::SetAttributes => {
            let body = table.operation_as_set_attributes().ok_or(MISSING)?;
            let modified = body.modified().map(Timestamp);
            let change = AttributeChange { mode: body.mode(), uid: body.uid(), gid: body.gid(), modified };
            Operation::SetAttributes {
                place: decode_place(body.place()),
                follow: body.follow_links(),
                change,
            }
        }
        schema::Operation::SetXattr => {
            let body = table.operation_as_set_xattr().ok_or(MISSING)?;
            let xattr = Xattr { name: body.name().bytes().to_vec(), value: bytes_of(body.value()).to_vec() };
            let mode = of_code(&XATTR_MODES, body.mode(), "attribute mode")?;
            Operation::SetXattr {
                place: decode_place(body.place()),
                follow: body.follow_links(),
                xattr,
                mode,
            }
        }
        schema::Operation::RemoveXattr => {
            let body = table.operation_as_remove_xattr().ok_or(MISSING)?;
            let name = body.name().bytes().to_vec();
            Operation::RemoveXattr { place: decode_place(body.place()), follow: body.follow_links(), name }
        }
        _ => return Err(DecodeError::Unknown("operation")),
    })
}

fn decode_commit(body: schema::Commit<'_>) -> Result<Operation, DecodeError> {
    let change = match body.change() {
        CHANGE_REPLACE => Change::Replace { size: body.size() },
        CHANGE_WRITE => Change::Write,
        CHANGE_APPEND => Change::Append,
        _ => return Err(DecodeError::Unknown("change")),
    };
    Ok(Operation::Commit(Commit {
        place: decode_place(body.place()),
        change,
        extents: extents::decode(body.extents())?,
        upload: body.upload(),
        attributes: body.attributes().map(decode_new_attributes).transpose()?,
        precondition: decode_precondition(body.precondition())?,
        map: MapNumber(body.map()),
    }))
}

fn decode_copy(body: schema::CopyRange<'_>) -> Result<Operation, DecodeError> {
    Ok(Operation::CopyRange(CopyRange {
        source: decode_place(body.source()),
        source_version: Version(body.source_version()),
        source_offset: body.source_offset(),
        length: body.length(),
        target: decode_place(body.target()),
        target_offset: body.target_offset(),
        whole: body.whole(),
        precondition: decode_precondition(body.precondition())?,
    }))
}

/// A value's position in the list of its kind: its code.
fn code_of<T: PartialEq>(values: &[T], value: &T) -> u8 {
    let position = values.iter().position(|candidate| candidate == value);
    u8::try_from(position.expect("the list is complete")).expect("a short list")
}

fn of_code<T: Copy>(values: &[T], code: u8, what: &'static str) -> Result<T, DecodeError> {
    values.get(usize::from(code)).copied().ok_or(DecodeError::Unknown(what))
}
