//! Places, attributes, extended attributes and preconditions on the wire.

use flatbuffers::{FlatBufferBuilder, WIPOffset};
use wire_generated::meta_generated as schema;

use super::{DecodeError, check};
use crate::meta::{Attributes, InodeKind, NewAttributes, Place, Precondition, Xattr};
use crate::{InodeId, Layout, Timestamp, Version, VolumeId};

type Builder = FlatBufferBuilder<'static>;

const PRECONDITION_ANY: u8 = 0;
const PRECONDITION_ABSENT: u8 = 1;
const PRECONDITION_PRESENT: u8 = 2;
const PRECONDITION_VERSION: u8 = 3;

/// The bytes of an optional vector.
pub(super) fn bytes_of(vector: Option<flatbuffers::Vector<'_, u8>>) -> &[u8] {
    vector.map_or(&[], |vector| vector.bytes())
}

/// A vector of bytes, absent where there are none.
pub(super) fn optional_bytes(
    builder: &mut Builder,
    bytes: &[u8],
) -> Option<WIPOffset<flatbuffers::Vector<'static, u8>>> {
    (!bytes.is_empty()).then(|| builder.create_vector(bytes))
}

pub(super) fn encode_place(builder: &mut Builder, place: &Place) -> WIPOffset<schema::Place<'static>> {
    let path = optional_bytes(builder, &place.path);
    schema::Place::create(
        builder,
        &schema::PlaceArgs { volume: place.volume.0, directory: place.directory.0, path },
    )
}

pub(super) fn decode_place(table: schema::Place<'_>) -> Place {
    Place {
        volume: VolumeId(table.volume()),
        directory: InodeId(table.directory()),
        path: bytes_of(table.path()).to_vec(),
    }
}

pub(super) fn encode_attributes(attributes: &Attributes) -> schema::Attributes {
    schema::Attributes::new(
        attributes.inode.0,
        attributes.size,
        attributes.stored_bytes,
        attributes.modified.0,
        attributes.changed.0,
        attributes.created.0,
        attributes.version.0,
        attributes.mode,
        attributes.uid,
        attributes.gid,
        attributes.layout.0,
        attributes.xattr_count,
        attributes.kind as u8,
    )
}

pub(super) fn decode_attributes(record: &schema::Attributes) -> Result<Attributes, DecodeError> {
    Ok(Attributes {
        inode: InodeId(record.inode()),
        kind: inode_kind(record.kind())?,
        mode: check::mode(record.mode())?,
        uid: record.uid(),
        gid: record.gid(),
        size: check::file_bytes("size", record.size())?,
        stored_bytes: record.stored_bytes(),
        modified: Timestamp(record.modified()),
        changed: Timestamp(record.changed()),
        created: Timestamp(record.created()),
        version: Version(record.version()),
        layout: Layout(record.layout()),
        xattr_count: record.xattr_count(),
    })
}

fn inode_kind(code: u8) -> Result<InodeKind, DecodeError> {
    [InodeKind::File, InodeKind::Directory, InodeKind::Symlink]
        .into_iter()
        .find(|kind| *kind as u8 == code)
        .ok_or(DecodeError::Unknown("inode"))
}

pub(super) fn encode_new_attributes(
    builder: &mut Builder,
    scratch: &mut Vec<u8>,
    attributes: &NewAttributes,
) -> WIPOffset<schema::NewAttributes<'static>> {
    let xattrs = encode_xattrs(builder, scratch, &attributes.xattrs);
    schema::NewAttributes::create(
        builder,
        &schema::NewAttributesArgs {
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            modified: attributes.modified.map(|time| time.0),
            xattrs,
        },
    )
}

pub(super) fn decode_new_attributes(table: schema::NewAttributes<'_>) -> Result<NewAttributes, DecodeError> {
    Ok(NewAttributes {
        mode: table.mode(),
        uid: table.uid(),
        gid: table.gid(),
        modified: table.modified().map(Timestamp),
        xattrs: decode_xattrs(table.xattrs())?,
    })
}

pub(super) fn encode_xattrs(
    builder: &mut Builder,
    scratch: &mut Vec<u8>,
    xattrs: &[Xattr],
) -> Option<WIPOffset<schema::Xattrs<'static>>> {
    if xattrs.is_empty() {
        return None;
    }
    scratch.clear();
    for xattr in xattrs {
        scratch.extend_from_slice(&xattr.name);
        scratch.extend_from_slice(&xattr.value);
    }
    assert_eq!(check::xattr_bytes(scratch.len()), Ok(()), "an inode's attributes keep their limit");
    let bytes = builder.create_vector(scratch.as_slice());
    let spans = builder.create_vector_from_iter(xattrs.iter().map(|xattr| {
        // Names aren't empty, so that a value is at most 65,535 bytes long.
        let name_bytes = u16::try_from(xattr.name.len()).expect("at most 255");
        let value_bytes = u16::try_from(xattr.value.len()).expect("less than 64 Ki with a name");
        schema::XattrSpan::new(name_bytes, value_bytes)
    }));
    Some(schema::Xattrs::create(builder, &schema::XattrsArgs { spans: Some(spans), bytes: Some(bytes) }))
}

pub(super) fn decode_xattrs(table: Option<schema::Xattrs<'_>>) -> Result<Vec<Xattr>, DecodeError> {
    let Some(table) = table else { return Ok(Vec::new()) };
    let mut rest = table.bytes().bytes();
    check::xattr_bytes(rest.len())?;
    // Every name takes a byte, so that there are no more attributes than bytes.
    check::that(table.spans().len() <= rest.len(), "extended attributes")?;
    let mut xattrs = Vec::with_capacity(table.spans().len());
    for span in table.spans() {
        let name = take(&mut rest, span.name_bytes())?;
        let value = take(&mut rest, span.value_bytes())?;
        xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
    }
    check::that(rest.is_empty(), "extended attributes")?;
    check::xattrs(&xattrs)?;
    Ok(xattrs)
}

/// Cuts the next `length` bytes off.
pub(super) fn take<'a>(rest: &mut &'a [u8], length: u16) -> Result<&'a [u8], DecodeError> {
    let (taken, after) =
        rest.split_at_checked(usize::from(length)).ok_or(DecodeError::Invalid("length of a name"))?;
    *rest = after;
    Ok(taken)
}

pub(super) fn encode_precondition(precondition: Precondition) -> schema::Precondition {
    match precondition {
        Precondition::Any => schema::Precondition::new(0, PRECONDITION_ANY),
        Precondition::Absent => schema::Precondition::new(0, PRECONDITION_ABSENT),
        Precondition::Present => schema::Precondition::new(0, PRECONDITION_PRESENT),
        Precondition::Version(version) => schema::Precondition::new(version.0, PRECONDITION_VERSION),
    }
}

pub(super) fn decode_precondition(
    record: Option<&schema::Precondition>,
) -> Result<Precondition, DecodeError> {
    let Some(record) = record else { return Ok(Precondition::Any) };
    match record.kind() {
        PRECONDITION_ANY => Ok(Precondition::Any),
        PRECONDITION_ABSENT => Ok(Precondition::Absent),
        PRECONDITION_PRESENT => Ok(Precondition::Present),
        PRECONDITION_VERSION => Ok(Precondition::Version(Version(record.version()))),
        _ => Err(DecodeError::Unknown("precondition")),
    }
}
