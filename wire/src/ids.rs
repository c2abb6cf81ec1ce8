//! Ids as newtypes: no two of them can be swapped by accident. All are little-endian on disk and wire.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

uuid! {
    /// A cluster, minted when it is bootstrapped; part of every checksum's seed, so that no chunk of another cluster
    /// can be mistaken for one of ours.
    ClusterId
}
uuid! {
    /// One shard's durable space. Chain members are stores; (node, shard, port) is only where one is found (R34).
    StoreId
}

id! {
    /// A node's number in its cluster.
    NodeId(u32)
}
id! {
    /// A shard's number in its node.
    ShardIndex(u16)
}
id! {
    /// One of the ring's fixed, equal arcs; counts of slices are `u32`, indices `u16` (R40).
    SliceIndex(u16)
}
id! {
    /// The number of one chain's membership (R11).
    Epoch(u64)
}
id! {
    /// The cluster map's number; it only grows.
    MapNumber(u64)
}
id! {
    /// The number of a store's present life; a start of the store raises it durably (I4).
    Incarnation(u64)
}
id! {
    /// A metadata group, 0 to 4,095. Group 0 holds the volumes' names (R27).
    GroupId(u16)
}
id! {
    /// Position in a metadata group's log; the clock of everything in its volumes. The first entry has index 1.
    CommitIndex(u64)
}
id! {
    /// A volume; never reused (R27).
    VolumeId(u64)
}
id! {
    /// A file, directory or symbolic link inside its volume; never reused. [`InodeId::ROOT`] is the volume's root.
    InodeId(u64)
}
id! {
    /// One committed state of one file's content: the commit index that made it. 0 is no version.
    Version(u64)
}
id! {
    /// How often a version's extent list was compacted; the bytes are the same (R26).
    Layout(u32)
}
id! {
    /// A session's request number; a retry carries the number of the first try.
    Sequence(u64)
}

impl InodeId {
    /// The root directory of every volume.
    pub const ROOT: Self = Self(1);
}

/// A client process's session with one metadata group: prefix of its chunk ids and scope of exactly-once (R21).
///
/// Layout, most significant first: `group 12 | generation 10 | counter 42` (R20). The generation rises when the group
/// lost entries, so that a counter handed out again names another session.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Groups are numbered below this.
    pub const GROUP_COUNT: u16 = 1 << 12;
    /// Generations are numbered below this.
    pub const GENERATION_COUNT: u16 = 1 << 10;
    /// Counters are below this; at 1,000 sessions a second it lasts 139 years.
    pub const COUNTER_COUNT: u64 = 1 << 42;

    /// The session with these parts; `None` where one is out of range.
    pub fn new(group: GroupId, generation: u16, counter: u64) -> Option<Self> {
        let fits = group.0 < Self::GROUP_COUNT
            && generation < Self::GENERATION_COUNT
            && counter < Self::COUNTER_COUNT;
        fits.then(|| Self(u64::from(group.0) << 52 | u64::from(generation) << 42 | counter))
    }

    /// The group that decides about this session and its chunks, for ever (R27).
    pub fn group(self) -> GroupId {
        GroupId(u16::try_from(self.0 >> 52).expect("12 bits"))
    }

    /// The group's generation in which the session was opened.
    pub fn generation(self) -> u16 {
        u16::try_from(self.0 >> 42 & 0x3ff).expect("10 bits")
    }

    /// The session's number in its generation.
    pub fn counter(self) -> u64 {
        self.0 & (Self::COUNTER_COUNT - 1)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.group(), self.generation(), self.counter())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// A chunk: minted once, names one content for ever (I1). Ordered by session, then ordinal.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// The session that minted the id.
    pub session: SessionId,
    /// The chunk's number in its session.
    pub ordinal: u64,
}

impl ChunkId {
    /// The highest id that there is: where the last range of a slice's digest ends.
    pub const MAX: Self = Self { session: SessionId(u64::MAX), ordinal: u64::MAX };

    /// The id's 16 bytes: session, then ordinal, little-endian. What the ring hash and the checksums' seeds read.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.session.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.ordinal.to_le_bytes());
        bytes
    }

    /// The id in these 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (session, ordinal) = bytes.split_at(8);
        Self {
            session: SessionId(u64::from_le_bytes(session.try_into().expect("8 bytes"))),
            ordinal: u64::from_le_bytes(ordinal.try_into().expect("8 bytes")),
        }
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.session, self.ordinal)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}
