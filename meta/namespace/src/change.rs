//! What a log entry does to the namespace: resolved, deterministic steps. The head plans them, and every replica, the head included, applies
//! them unconditionally (R15). Values are final ones, never differences, except where a difference keeps the entry small (extents).

use wire::meta::{Extents, VolumePolicy, Xattr};
use wire::{ChunkId, CommitIndex, GroupId, InodeId, SessionId, Timestamp, VolumeId};

use crate::codec::{Decode, DecodeError, Encode, Input, structure};
use crate::extents::is_sound;
use crate::inode::Owner;
use crate::name::Name;

/// A file or other inode inside its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The volume.
    pub volume: VolumeId,
    /// The inode.
    pub inode: InodeId,
}
structure!(Target { volume, inode });

/// A directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The volume.
    pub volume: VolumeId,
    /// The directory.
    pub directory: InodeId,
    /// The name in it.
    pub name: Name,
}
structure!(Slot { volume, directory, name });

/// What a new inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// An empty file.
    File,
    /// A directory in this one.
    Directory(InodeId),
    /// A link with this target.
    Symlink(Vec<u8>),
}

/// Where a file's new chunks come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The session; the extents staged under `upload` come first.
    pub session: SessionId,
    /// 0: none.
    pub upload: u64,
    /// The extents of the request itself.
    pub extents: Extents,
}
structure!(Source { session, upload, extents });

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new volume with its root directory.
    CreateVolume {
        /// Its id, the next one.
        volume: VolumeId,
        /// Where it lies (R27).
        group: GroupId,
        /// Its name, free until now.
        name: String,
        /// Its policy.
        policy: VolumePolicy,
        /// Of its root.
        owner: Owner,
    },
    /// The volume can't be found any more; its content is dropped by `Drain`s.
    RemoveVolume {
        /// Which.
        volume: VolumeId,
    },
    /// Drops up to `limit` rows of a removed volume, and the volume itself when none is left.
    Drain {
        /// Which.
        volume: VolumeId,
        /// Rows.
        limit: u32,
    },
    /// A new inode.
    MakeInode {
        /// The next one of the volume.
        target: Target,
        /// What it is.
        made: Made,
        /// Its attributes.
        owner: Owner,
        /// Its time.
        modified: Timestamp,
    },
    /// An inode's lifetime ends.
    EndInode {
        /// Which.
        target: Target,
    },
    /// A directory gets an entry under a free name.
    Link {
        /// Where.
        slot: Slot,
        /// What it names.
        inode: InodeId,
    },
    /// An entry's lifetime ends.
    Unlink {
        /// Where.
        slot: Slot,
    },
    /// A directory has moved.
    Reparent {
        /// The directory.
        target: Target,
        /// Its parent now.
        parent: InodeId,
    },
    /// Attributes.
    SetAttributes {
        /// Of what.
        target: Target,
        /// All of them.
        owner: Owner,
        /// The time too.
        modified: Timestamp,
    },
    /// All extended attributes.
    SetXattrs {
        /// Of what.
        target: Target,
        /// These and no others.
        xattrs: Vec<Xattr>,
    },
    /// One extended attribute, set or (`None`) removed.
    SetXattr {
        /// Of what.
        target: Target,
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
    /// A file's content becomes the extents.
    Replace {
        /// The file.
        target: Target,
        /// Its size.
        size: u64,
        /// Its time.
        modified: Timestamp,
        /// Its extents.
        source: Source,
    },
    /// Extents are laid over a file's content.
    Write {
        /// The file.
        target: Target,
        /// Added to the extents' offsets.
        shift: u64,
        /// Its size then.
        size: u64,
        /// Its time.
        modified: Timestamp,
        /// The extents.
        source: Source,
    },
    /// A file is cut or extended.
    Truncate {
        /// The file.
        target: Target,
        /// Its size then.
        size: u64,
        /// Its time.
        modified: Timestamp,
    },
    /// A file's content becomes another one's.
    CopyWhole {
        /// The source.
        source: Target,
        /// The target, of the same volume.
        target: InodeId,
    },
    /// Extents take the place of those that hold the same bytes: the version stays, its layout is the next one (R26).
    Compact {
        /// The file.
        target: Target,
        /// The extents; nothing is staged.
        source: Source,
    },
    /// A range of a file's content becomes a range of another one's, holes included.
    CopyRange {
        /// The source.
        source: Target,
        /// First byte of the source.
        start: u64,
        /// Bytes.
        length: u64,
        /// The target, of the same volume.
        target: InodeId,
        /// First byte in the target.
        offset: u64,
        /// The target's size then.
        size: u64,
        /// Its time.
        modified: Timestamp,
    },
    /// Extents wait for the commit that names their upload (R37).
    Stage {
        /// Session, upload and extents.
        source: Source,
    },
    /// A session has ended: what it staged and which ids it used is forgotten.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// Up to `limit` old rows that ended at `upto` or before are dropped (R16).
    Horizon {
        /// Where.
        volume: VolumeId,
        /// The new horizon.
        upto: CommitIndex,
        /// Rows.
        limit: u32,
    },
    /// Up to `limit` chunks whose last reference ended at `upto` or before are reclaimed (R25).
    Reclaim {
        /// Where.
        volume: VolumeId,
        /// Their time.
        upto: Timestamp,
        /// Chunks.
        limit: u32,
    },
    /// The stores have deleted these chunks (R24).
    Deleted {
        /// The first.
        first: ChunkId,
        /// How many.
        count: u32,
    },
}

impl Encode for Made {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::File => out.push(1),
            Self::Directory(parent) => {
                out.push(2);
                parent.encode(out);
            }
            Self::Symlink(target) => {
                out.push(3);
                target.encode(out);
            }
        }
    }
}

impl Decode for Made {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(match input.byte()? {
            1 => Self::File,
            2 => Self::Directory(Decode::decode(input)?),
            3 => Self::Symlink(Decode::decode(input)?),
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}

impl Encode for Option<Vec<u8>> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(bytes) = self {
            bytes.encode(out);
        }
    }
}

impl Decode for Option<Vec<u8>> {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(if bool::decode(input)? { Some(Decode::decode(input)?) } else { None })
    }
}

impl Encode for Vec<Xattr> {
    fn encode(&self, out: &mut Vec<u8>) {
        crate::codec::encode_list(self, out);
    }
}

impl Decode for Vec<Xattr> {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        crate::codec::decode_list(input)
    }
}

/// Tag and fields of each change, in the order of the log's format; new changes get new tags, old ones never change.
macro_rules! changes {
    ($($tag:literal = $name:ident { $($field:ident),* };)*) => {
        impl Encode for Change {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name { $($field),* } => {
                        out.push($tag);
                        $($field.encode(out);)*
                    })*
                }
            }
        }

        impl Decode for Change {
            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                let change = match input.byte()? {
                    $($tag => Self::$name { $($field: Decode::decode(input)?),* },)*
                    tag => return Err(DecodeError::UnknownTag(tag)),
                };
                change.check()
            }
        }
    };
}
changes! {
    1 = CreateVolume { volume, group, name, policy, owner };
    2 = RemoveVolume { volume };
    3 = Drain { volume, limit };
    4 = MakeInode { target, made, owner, modified };
    5 = EndInode { target };
    6 = Link { slot, inode };
    7 = Unlink { slot };
    8 = Reparent { target, parent };
    9 = SetAttributes { target, owner, modified };
    10 = SetXattrs { target, xattrs };
    11 = SetXattr { target, name, value };
    12 = Replace { target, size, modified, source };
    13 = Write { target, shift, size, modified, source };
    14 = Truncate { target, size, modified };
    15 = CopyWhole { source, target };
    16 = CopyRange { source, start, length, target, offset, size, modified };
    17 = Stage { source };
    18 = EndSession { session };
    19 = Horizon { volume, upto, limit };
    20 = Reclaim { volume, upto, limit };
    21 = Deleted { first, count };
    22 = Compact { target, source };
}

impl Change {
    /// Decoded extents obey what the arithmetic of applying them relies on.
    fn check(self) -> Result<Self, DecodeError> {
        let sound = match &self {
            Self::Replace { source, .. }
            | Self::Write { source, .. }
            | Self::Compact { source, .. }
            | Self::Stage { source } => is_sound(&source.extents),
            Self::Deleted { first, count } => {
                *count > 0 && first.ordinal.checked_add(u64::from(*count)).is_some()
            }
            _ => true,
        };
        if sound { Ok(self) } else { Err(DecodeError::Invalid) }
    }
}
