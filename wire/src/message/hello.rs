//! The first exchange of every connection: who speaks which version, with which features, to which cluster.

use flatbuffers::{FlatBufferBuilder, WIPOffset};
use wire_generated::common_generated as common;
use wire_generated::message_generated as schema;

use super::{DecodeError, check};
use crate::limits::HELLO_NAME_BYTES_MAX;
use crate::{
    ClusterId, GroupId, MapNumber, NodeId, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, ShardIndex, Status,
    StoreId,
};

/// Bits of [`Hello::features`] and [`HelloReply::features`]. None is defined yet; unknown bits are ignored.
pub const FEATURES: u64 = 0;

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version that it speaks.
    pub version_min: u16,
    /// Highest protocol version that it speaks.
    pub version_max: u16,
    /// What it can beyond the version's base.
    pub features: u64,
    /// Who it is, for logs: at most [`HELLO_NAME_BYTES_MAX`](crate::limits::HELLO_NAME_BYTES_MAX) bytes.
    pub name: String,
    /// The cluster that it expects; another one answers `WrongCluster`. `None`: any.
    pub cluster: Option<ClusterId>,
    /// The store that relays chunks over this connection; `None`: a client, or a metadata group.
    pub peer: Option<StoreId>,
}

/// What answers behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A shard: chunk requests.
    Shard(ShardIndex),
    /// A metadata replica: sessions, mutations, queries.
    Metadata(GroupId),
    /// A node's control agent: registrations, heartbeats, commands.
    Control,
}

/// What a server answers to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version spoken on this connection.
    pub version: u16,
    /// Features that both sides have.
    pub features: u64,
    /// The server's cluster.
    pub cluster: ClusterId,
    /// The server's node.
    pub node: NodeId,
    /// What answers here.
    pub role: Role,
    /// Number of the newest cluster map that the server has.
    pub map: MapNumber,
    /// Payload bytes of puts of each class that the sender may send before more credit comes: a client those of [`HopClass::Client`], a store those of the
    /// relaying ones (R38); 0 on a metadata port.
    pub put_credit_bytes: u32,
    /// The server's build, for logs: at most [`HELLO_NAME_BYTES_MAX`](crate::limits::HELLO_NAME_BYTES_MAX) bytes.
    pub server: String,
}

/// Whose buffers a credit is for: a hop uses only its own class, so that chains can't deadlock (R38).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HopClass {
    /// Chunks from a client to a head.
    Client = 0,
    /// Chunks relayed to a head (reserved for resync).
    Head = 1,
    /// Chunks relayed to a middle replica.
    Middle = 2,
    /// Chunks relayed to a tail, which waits only for its disk.
    Tail = 3,
}

impl HopClass {
    /// Every class, in the order of the codes.
    pub const ALL: [Self; 4] = [Self::Client, Self::Head, Self::Middle, Self::Tail];

    /// The class with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

pub(super) fn decode_class(code: u8) -> Result<HopClass, DecodeError> {
    HopClass::from_code(code).ok_or(DecodeError::Unknown("hop class"))
}

impl Hello {
    /// The version that both sides speak, the highest of them; `None`: answer `UnsupportedVersion`.
    pub fn common_version(&self) -> Option<u16> {
        let version = self.version_max.min(PROTOCOL_VERSION);
        (version >= self.version_min.max(PROTOCOL_VERSION_MIN)).then_some(version)
    }

    /// What a server answers, or the status that it answers before it closes. It puts its map's number and the credit in, which are none here.
    pub fn accept(&self, cluster: ClusterId, node: NodeId, role: Role) -> Result<HelloReply, Status> {
        let version = self.common_version().ok_or(Status::UnsupportedVersion)?;
        if self.cluster.is_some_and(|expected| expected != cluster) {
            return Err(Status::WrongCluster);
        }
        Ok(HelloReply {
            version,
            features: self.features & FEATURES,
            cluster,
            node,
            role,
            map: MapNumber(0),
            put_credit_bytes: 0,
            server: concat!("catena ", env!("CARGO_PKG_VERSION")).into(),
        })
    }
}

pub(super) fn encode_request(
    builder: &mut FlatBufferBuilder<'static>,
    hello: &Hello,
) -> WIPOffset<schema::HelloRequest<'static>> {
    assert!(hello.name.len() <= HELLO_NAME_BYTES_MAX, "a name keeps its limit");
    let name = Some(builder.create_string(&hello.name));
    let cluster = hello.cluster.map(|cluster| common::Uuid::new(&cluster.0));
    let peer = hello.peer.map(|store| common::Uuid::new(&store.0));
    let args = schema::HelloRequestArgs {
        version_min: hello.version_min,
        version_max: hello.version_max,
        features: hello.features,
        name,
        cluster: cluster.as_ref(),
        peer: peer.as_ref(),
    };
    schema::HelloRequest::create(builder, &args)
}

pub(super) fn decode_request(table: schema::HelloRequest<'_>) -> Result<Hello, DecodeError> {
    check::that(table.version_min() <= table.version_max(), "range of versions")?;
    Ok(Hello {
        version_min: table.version_min(),
        version_max: table.version_max(),
        features: table.features(),
        name: short_name(table.name())?,
        cluster: table.cluster().map(|uuid| ClusterId(uuid.bytes().into())),
        peer: table.peer().map(|uuid| StoreId(uuid.bytes().into())),
    })
}

pub(super) fn encode_reply(
    builder: &mut FlatBufferBuilder<'static>,
    hello: &HelloReply,
) -> WIPOffset<schema::HelloReply<'static>> {
    assert!(hello.server.len() <= HELLO_NAME_BYTES_MAX, "a name keeps its limit");
    let server = Some(builder.create_string(&hello.server));
    let (role, role_index) = match hello.role {
        Role::Shard(shard) => (schema::RoleKind::Shard, shard.0),
        Role::Metadata(group) => (schema::RoleKind::Metadata, group.0),
        Role::Control => (schema::RoleKind::Control, 0),
    };
    let args = schema::HelloReplyArgs {
        version: hello.version,
        features: hello.features,
        cluster: Some(&common::Uuid::new(&hello.cluster.0)),
        node: hello.node.0,
        role,
        role_index,
        map: hello.map.0,
        put_credit_bytes: hello.put_credit_bytes,
        server,
    };
    schema::HelloReply::create(builder, &args)
}

pub(super) fn decode_reply(table: schema::HelloReply<'_>) -> Result<HelloReply, DecodeError> {
    let role = match table.role() {
        schema::RoleKind::Shard => Role::Shard(ShardIndex(table.role_index())),
        schema::RoleKind::Metadata => Role::Metadata(GroupId(table.role_index())),
        schema::RoleKind::Control => Role::Control,
        schema::RoleKind::None => return Err(DecodeError::Missing("role")),
        _ => return Err(DecodeError::Unknown("role")),
    };
    Ok(HelloReply {
        version: table.version(),
        features: table.features(),
        cluster: ClusterId(table.cluster().bytes().into()),
        node: NodeId(table.node()),
        role,
        map: MapNumber(table.map()),
        put_credit_bytes: table.put_credit_bytes(),
        server: short_name(table.server())?,
    })
}

/// A name for logs; absent is empty.
pub(super) fn short_name(name: Option<&str>) -> Result<String, DecodeError> {
    let name = name.unwrap_or_default();
    check::length("name", name.len(), HELLO_NAME_BYTES_MAX)?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: Role = Role::Shard(ShardIndex(4));

    fn hello(version_min: u16, version_max: u16) -> Hello {
        Hello { version_min, version_max, features: 0, name: String::new(), cluster: None, peer: None }
    }

    fn accept(hello: &Hello, cluster: u8) -> Result<HelloReply, Status> {
        hello.accept(ClusterId([cluster; 16]), NodeId(3), ROLE)
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        for (version_min, version_max, expected) in
            [(1, 1, Some(1)), (0, 1, Some(1)), (1, 9, Some(1)), (0, 0, None), (2, 9, None)]
        {
            assert_eq!(hello(version_min, version_max).common_version(), expected);
            let accepted = accept(&hello(version_min, version_max), 1).map(|reply| reply.version);
            assert_eq!(accepted, expected.ok_or(Status::UnsupportedVersion));
        }
    }

    #[test]
    fn a_reply_says_who_answers_and_what_both_can() {
        let elsewhere = Hello { cluster: Some(ClusterId([2; 16])), features: u64::MAX, ..hello(1, 1) };
        assert_eq!(accept(&elsewhere, 1), Err(Status::WrongCluster));
        let reply = accept(&elsewhere, 2).expect("its cluster");
        assert_eq!((reply.cluster, reply.node, reply.role), (ClusterId([2; 16]), NodeId(3), ROLE));
        assert_eq!(reply.features, FEATURES, "no more than is known here");
        assert!(reply.server.len() <= HELLO_NAME_BYTES_MAX);
    }
}
