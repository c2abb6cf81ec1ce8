//! Queries on the wire.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use wire_generated::message_generated as message;
use wire_generated::meta_generated as schema;

use super::attributes::{bytes_of, decode_place, encode_place, optional_bytes};
use super::chunk::{decode_ids, encode_ids};
use super::{ChunkIds, DecodeError, check};
use crate::limits::{MESSAGE_CHUNKS_MAX, NAME_BYTES_MAX, VOLUME_NAME_BYTES_MAX};
use crate::meta::Query;
use crate::{InodeId, Layout, Version, VolumeId};

type Builder = FlatBufferBuilder<'static>;
type Body = (schema::Query, WIPOffset<UnionWIPOffset>);

impl Query {
    /// Whether every field is within its limits and means something: what a client asks before it sends the query (encoding asserts
    /// it), and what the decoder asks of whatever it received.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Volume { name } => check::volume_name(name.as_bytes()),
            Self::ListVolumes { after, limit } => {
                check::length("volume name", after.len(), VOLUME_NAME_BYTES_MAX)?;
                check::list_limit(*limit)
            }
            Self::Lookup { place, roots, .. } => {
                check::path(&place.path)?;
                check::roots_limit(*roots)
            }
            Self::ReadExtents { offset, roots, .. } => {
                check::file_bytes("offset", *offset)?;
                check::that(*roots > 0, "roots")?;
                check::roots_limit(*roots)
            }
            Self::List { place, after, limit } => {
                check::path(&place.path)?;
                check::length("name", after.len(), NAME_BYTES_MAX)?;
                check::list_limit(*limit)
            }
            Self::ChunkStates { ids } => {
                check::that(!ids.is_empty(), "chunk ids")?;
                check::length("chunk ids", ids.len(), MESSAGE_CHUNKS_MAX)
            }
            Self::Usage { .. } | Self::GroupStatus => Ok(()),
        }
    }
}

pub(super) fn encode(builder: &mut Builder, query: &Query) -> WIPOffset<message::QueryRequest<'static>> {
    assert_eq!(query.check(), Ok(()), "a client checks what it sends");
    let (query_type, query) = encode_body(builder, query);
    message::QueryRequest::create(builder, &message::QueryRequestArgs { query_type, query: Some(query) })
}

fn encode_body(builder: &mut Builder, query: &Query) -> Body {
    match query {
        Query::Volume { name } => {
            let name = Some(builder.create_string(name));
            let body = schema::VolumeQuery::create(builder, &schema::VolumeQueryArgs { name });
            (schema::Query::VolumeQuery, body.as_union_value())
        }
        Query::ListVolumes { after, limit } => {
            let after = (!after.is_empty()).then(|| builder.create_string(after));
            let args = schema::ListVolumesQueryArgs { after, limit: *limit };
            let body = schema::ListVolumesQuery::create(builder, &args);
            (schema::Query::ListVolumesQuery, body.as_union_value())
        }
        Query::Lookup { place, follow, xattrs, roots } => {
            let place = Some(encode_place(builder, place));
            let args =
                schema::LookupQueryArgs { place, follow_links: *follow, xattrs: *xattrs, roots: *roots };
            let body = schema::LookupQuery::create(builder, &args);
            (schema::Query::LookupQuery, body.as_union_value())
        }
        Query::ReadExtents { volume, inode, version, layout, offset, roots } => {
            let args = schema::ReadExtentsQueryArgs {
                volume: volume.0,
                inode: inode.0,
                version: version.0,
                layout: layout.0,
                offset: *offset,
                roots: *roots,
            };
            let body = schema::ReadExtentsQuery::create(builder, &args);
            (schema::Query::ReadExtentsQuery, body.as_union_value())
        }
        Query::List { place, after, limit } => {
            let place = Some(encode_place(builder, place));
            let after = optional_bytes(builder, after);
            let body =
                schema::ListQuery::create(builder, &schema::ListQueryArgs { place, after, limit: *limit });
            (schema::Query::ListQuery, body.as_union_value())
        }
        Query::Usage { volume } => {
            let body = schema::UsageQuery::create(builder, &schema::UsageQueryArgs { volume: volume.0 });
            (schema::Query::UsageQuery, body.as_union_value())
        }
        Query::GroupStatus => {
            let body = schema::GroupStatusQuery::create(builder, &schema::GroupStatusQueryArgs {});
            (schema::Query::GroupStatusQuery, body.as_union_value())
        }
        Query::ChunkStates { ids } => {
            let ids = Some(encode_ids(builder, ChunkIds::new(ids)));
            let body = schema::ChunkStatesQuery::create(builder, &schema::ChunkStatesQueryArgs { ids });
            (schema::Query::ChunkStatesQuery, body.as_union_value())
        }
    }
}

pub(super) fn decode(table: message::QueryRequest<'_>) -> Result<Query, DecodeError> {
    let query = decode_body(table)?;
    query.check()?;
    Ok(query)
}

fn decode_body(table: message::QueryRequest<'_>) -> Result<Query, DecodeError> {
    const MISSING: DecodeError = DecodeError::Missing("query");
    Ok(match table.query_type() {
        schema::Query::VolumeQuery => {
            let body = table.query_as_volume_query().ok_or(MISSING)?;
            Query::Volume { name: body.name().to_owned() }
        }
        schema::Query::ListVolumesQuery => {
            let body = table.query_as_list_volumes_query().ok_or(MISSING)?;
            Query::ListVolumes { after: body.after().unwrap_or_default().to_owned(), limit: body.limit() }
        }
        schema::Query::LookupQuery => {
            let body = table.query_as_lookup_query().ok_or(MISSING)?;
            Query::Lookup {
                place: decode_place(body.place()),
                follow: body.follow_links(),
                xattrs: body.xattrs(),
                roots: body.roots(),
            }
        }
        schema::Query::ReadExtentsQuery => {
            let body = table.query_as_read_extents_query().ok_or(MISSING)?;
            Query::ReadExtents {
                volume: VolumeId(body.volume()),
                inode: InodeId(body.inode()),
                version: Version(body.version()),
                layout: Layout(body.layout()),
                offset: body.offset(),
                roots: body.roots(),
            }
        }
        schema::Query::ListQuery => {
            let body = table.query_as_list_query().ok_or(MISSING)?;
            let after = bytes_of(body.after()).to_vec();
            Query::List { place: decode_place(body.place()), after, limit: body.limit() }
        }
        schema::Query::UsageQuery => {
            let body = table.query_as_usage_query().ok_or(MISSING)?;
            Query::Usage { volume: VolumeId(body.volume()) }
        }
        schema::Query::GroupStatusQuery => Query::GroupStatus,
        schema::Query::ChunkStatesQuery => {
            let body = table.query_as_chunk_states_query().ok_or(MISSING)?;
            Query::ChunkStates { ids: decode_ids(body.ids())?.iter().collect() }
        }
        _ => return Err(DecodeError::Unknown("query")),
    })
}
