//! Inodes, each row one state with a lifetime `[from, to)`: the live state in one table, ended ones in another, keyed by `to`.
//!
//! A file of one whole chunk that begins at offset 0 (most files) has its extent in the inode itself; every other file names a list of
//! [`Piece`](crate::extents::Piece)s. A directory's times, parent and entry count are those of now; they have no history.

use std::sync::Arc;

use wire::limits::XATTR_BYTES_MAX;
use wire::meta::{AttributeChange, Attributes, InodeKind, Xattr};
use wire::{ChunkId, CommitIndex, InodeId, Layout, Timestamp, Version};

use crate::codec::{Decode, DecodeError, Encode, Input, decode_list, encode_bytes, encode_list, structure};

/// One state of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    /// The entry that made this state; the row's lifetime begins here.
    pub(crate) from: CommitIndex,
    pub(crate) size: u64,
    /// The entry that made the content; 0 for what has none.
    pub(crate) version: Version,
    pub(crate) modified: Timestamp,
    pub(crate) changed: Timestamp,
    pub(crate) created: Timestamp,
    pub(crate) content: Content,
    pub(crate) xattrs: Option<Arc<Vec<Xattr>>>,
    pub(crate) layout: Layout,
    pub(crate) owner: Owner,
}

/// Permission bits and owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Permission bits, ≤ `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group of the owner.
    pub gid: u32,
}

/// What an inode holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A file without extents.
    Empty,
    /// A file of one whole chunk at offset 0.
    One(OneChunk),
    /// A file whose extents are the rows of `list` in the volume's piece table.
    Many(List),
    Directory {
        parent: InodeId,
        entries: u64,
    },
    Symlink(Arc<[u8]>),
}

/// The extent of a one-chunk file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OneChunk {
    pub(crate) chunk: ChunkId,
    pub(crate) root: u64,
    /// The chunk's length, all of which the file has.
    pub(crate) bytes: u32,
    /// As the client gave it.
    pub(crate) chunk_bytes: u32,
}

/// A file's list of pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List {
    /// The entry that began the list; no other list of the volume has it.
    pub(crate) id: CommitIndex,
    /// Sum of the pieces' lengths.
    pub(crate) stored: u64,
    /// Sum of the pieces' chunks.
    pub(crate) chunks: u32,
}

/// Memory per file is a figure that is gated (≤ 300 B together with entry and reference).
const _: () = assert!(size_of::<Inode>() <= 120);

impl Inode {
    pub(crate) fn kind(&self) -> InodeKind {
        match self.content {
            Content::Empty | Content::One(_) | Content::Many(_) => InodeKind::File,
            Content::Directory { .. } => InodeKind::Directory,
            Content::Symlink(_) => InodeKind::Symlink,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == InodeKind::Directory
    }

    /// Bytes of the extents.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match &self.content {
            Content::One(one) => u64::from(one.bytes),
            Content::Many(list) => list.stored,
            _ => 0,
        }
    }

    /// Chunks of the extents.
    pub(crate) fn chunks(&self) -> u64 {
        match &self.content {
            Content::One(_) => 1,
            Content::Many(list) => u64::from(list.chunks),
            _ => 0,
        }
    }

    pub(crate) fn xattrs(&self) -> &[Xattr] {
        self.xattrs.as_ref().map_or(&[], |xattrs| xattrs)
    }

    pub(crate) fn target(&self) -> &[u8] {
        match &self.content {
            Content::Symlink(target) => target,
            _ => &[],
        }
    }

    pub(crate) fn attributes(&self, inode: InodeId) -> Attributes {
        Attributes {
            inode,
            kind: self.kind(),
            mode: u32::from(self.owner.mode),
            uid: self.owner.uid,
            gid: self.owner.gid,
            size: match &self.content {
                Content::Directory { entries, .. } => *entries,
                Content::Symlink(target) => u64::try_from(target.len()).expect("at most 4,095"),
                _ => self.size,
            },
            stored_bytes: self.stored_bytes(),
            modified: self.modified,
            changed: self.changed,
            created: self.created,
            version: self.version,
            layout: self.layout,
            xattr_count: u32::try_from(self.xattrs().len()).expect("at most 64 KiB of them"),
        }
    }

    /// Whether the numbers are ones that this program writes.
    pub(crate) fn is_sound(&self) -> bool {
        let content = match &self.content {
            Content::One(one) => (1..=one.chunk_bytes).contains(&one.bytes) && one.chunk.ordinal < u64::MAX,
            _ => true,
        };
        content && self.size <= crate::extents::FILE_BYTES_MAX && self.xattrs().len() <= XATTR_BYTES_MAX
    }

    /// Bytes on the heap, shared ones counted in full.
    pub(crate) fn heap_bytes(&self) -> usize {
        let xattrs: usize = self.xattrs().iter().map(|xattr| xattr.name.len() + xattr.value.len() + 80).sum();
        let shared = self.xattrs.as_ref().map_or(0, |_| 64);
        let target = if self.target().is_empty() { 0 } else { self.target().len() + 32 };
        xattrs + shared + target
    }
}

impl Owner {
    /// The owner after `change`.
    #[must_use]
    pub(crate) fn with(self, change: &AttributeChange) -> Self {
        Self {
            mode: change.mode.map_or(self.mode, mode_bits),
            uid: change.uid.unwrap_or(self.uid),
            gid: change.gid.unwrap_or(self.gid),
        }
    }
}

/// The permission bits of `mode`; whatever else is set is dropped.
pub(crate) fn mode_bits(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("12 bits")
}

structure!(Owner { mode, uid, gid });
structure!(List { id, stored, chunks });
structure!(Inode { from, size, version, modified, changed, created, content, xattrs, layout, owner });

impl Encode for OneChunk {
    fn encode(&self, out: &mut Vec<u8>) {
        self.chunk.encode(out);
        out.extend_from_slice(&self.root.to_le_bytes());
        self.bytes.encode(out);
        self.chunk_bytes.encode(out);
    }
}

impl Decode for OneChunk {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            chunk: ChunkId::decode(input)?,
            root: u64::from_le_bytes(input.take(8)?.try_into().expect("8 bytes")),
            bytes: u32::decode(input)?,
            chunk_bytes: u32::decode(input)?,
        })
    }
}

impl Encode for Content {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Empty => out.push(0),
            Self::One(one) => {
                out.push(1);
                one.encode(out);
            }
            Self::Many(list) => {
                out.push(2);
                list.encode(out);
            }
            Self::Directory { parent, entries } => {
                out.push(3);
                parent.encode(out);
                entries.encode(out);
            }
            Self::Symlink(target) => {
                out.push(4);
                encode_bytes(target, out);
            }
        }
    }
}

impl Decode for Content {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(match input.byte()? {
            0 => Self::Empty,
            1 => Self::One(OneChunk::decode(input)?),
            2 => Self::Many(List::decode(input)?),
            3 => Self::Directory { parent: InodeId::decode(input)?, entries: u64::decode(input)? },
            4 => Self::Symlink(input.bytes()?.into()),
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}

impl Encode for Option<Arc<Vec<Xattr>>> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(self.as_ref().map_or(&[], |xattrs| xattrs.as_slice()), out);
    }
}

impl Decode for Option<Arc<Vec<Xattr>>> {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let xattrs = decode_list(input)?;
        Ok(if xattrs.is_empty() { None } else { Some(Arc::new(xattrs)) })
    }
}
