//! The first exchange of every connection: who speaks which version, with which features, to which cluster.

use crate::{ClusterId, GroupId, MapNumber, NodeId, ShardIndex};

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
}

/// What answers behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A shard: chunk requests.
    Shard(ShardIndex),
    /// A metadata replica: sessions, mutations, queries.
    Metadata(GroupId),
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
    /// Payload bytes of puts that the client may send before more credit comes (class [`HopClass::Client`], R38); 0 on a metadata port.
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
