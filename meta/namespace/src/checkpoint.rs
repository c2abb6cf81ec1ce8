//! The namespace as a stream of rows, written from a frozen clone in bounded steps, and read back (R15).
//!
//! Each row is a tag and its fields in the form of [`codec`](crate::codec). Rows come table by table in the order of their keys; a `VOLUME` row opens the
//! tables of one volume. A `HEAD` row opens the stream, so a reader knows the index before anything else.

use std::ops::Bound;
use std::sync::Arc;

use wire::meta::Extents;
use wire::{ChunkId, CommitIndex, InodeId, SessionId, Timestamp, VolumeId};

use crate::apply::Moment;
use crate::codec::{Decode, DecodeError, Encode, Input};
use crate::inode::Inode;
use crate::name::{Name, is_volume_name};
use crate::namespace::{Deleting, Namespace};
use crate::references::Span;
use crate::tree::Tree;
use crate::volume::{OldInode, Summary, Volume};

/// Tags below this belong to the namespace; the replica's own begin here.
pub const REPLICA_TAG_MIN: u8 = 64;

const HEAD: u8 = 1;
const VOLUME: u8 = 2;
const INODE: u8 = 3;
const ENTRY: u8 = 4;
const PIECE: u8 = 5;
const OLD_INODE: u8 = 6;
const OLD_ENTRY: u8 = 7;
const OLD_PIECE: u8 = 8;
const EXPIRING: u8 = 9;
const DOOMED: u8 = 10;
const SPAN: u8 = 11;
const USED: u8 = 12;
const STAGED: u8 = 13;
const DELETING: u8 = 14;
/// The stage after the last table.
const DONE: u8 = 15;

/// How far a frozen namespace has been written.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// The tag of the table that is being written; 0: nothing is yet.
    stage: u8,
    /// The volume whose tables are being written.
    volume: Option<VolumeId>,
    inode: Option<InodeId>,
    entry: Option<(InodeId, Name)>,
    piece: Option<(CommitIndex, u64)>,
    old_inode: Option<(InodeId, CommitIndex)>,
    old_entry: Option<(InodeId, Name, CommitIndex)>,
    old_piece: Option<(CommitIndex, u64, CommitIndex)>,
    expiring: Option<(CommitIndex, u32)>,
    doomed: Option<(Timestamp, ChunkId)>,
    span: Option<ChunkId>,
    used: Option<(SessionId, u64)>,
    staged: Option<(SessionId, u64, u32)>,
    deleting: Option<ChunkId>,
}

/// Appends rows of `tree` after `last` until `out` has `end` bytes; whether none are left.
pub fn write_rows<K, V>(
    tree: &Tree<K, V>,
    last: &mut Option<K>,
    tag: u8,
    end: usize,
    out: &mut Vec<u8>,
) -> bool
where
    K: Ord + Clone + Encode,
    V: Clone + Encode,
{
    let start = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut reached: Option<&K> = None;
    for (key, value) in tree.range(start) {
        if out.len() >= end {
            *last = reached.cloned().or(last.take());
            return false;
        }
        out.push(tag);
        key.encode(out);
        value.encode(out);
        reached = Some(key);
    }
    *last = None;
    true
}

impl Namespace {
    /// Appends rows until `out` has at least `end` bytes (the last row may go beyond it by its own length, ≤ 0.5 MiB), or none are left: `true`.
    pub fn write_checkpoint(&self, cursor: &mut Cursor, end: usize, out: &mut Vec<u8>) -> bool {
        loop {
            let done = match cursor.stage {
                0 => {
                    out.push(HEAD);
                    (self.moment.index, self.moment.time, self.next_volume).encode(out);
                    cursor.stage = VOLUME;
                    continue;
                }
                VOLUME => {
                    let start = cursor.volume.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                    let Some((id, volume)) = self.volumes.range(start).next() else {
                        cursor.stage = SPAN;
                        continue;
                    };
                    out.push(VOLUME);
                    id.encode(out);
                    volume.name.encode(out);
                    volume.summary.encode(out);
                    cursor.volume = Some(*id);
                    true
                }
                INODE..=DOOMED => {
                    let id = cursor.volume.expect("a volume was opened");
                    let volume = self.volumes.get(&id).expect("the state is frozen");
                    volume.write_table(cursor, end, out)
                }
                SPAN => write_rows(&self.references.spans, &mut cursor.span, SPAN, end, out),
                USED => write_rows(&self.uploads.used, &mut cursor.used, USED, end, out),
                STAGED => write_rows(&self.uploads.staged, &mut cursor.staged, STAGED, end, out),
                DELETING => write_rows(&self.deleting, &mut cursor.deleting, DELETING, end, out),
                _ => return true,
            };
            if !done {
                return false;
            }
            cursor.stage = if cursor.stage == DOOMED { VOLUME } else { cursor.stage + 1 };
            if cursor.stage != DONE && out.len() >= end {
                return false;
            }
        }
    }
}

impl Volume {
    fn write_table(&self, cursor: &mut Cursor, end: usize, out: &mut Vec<u8>) -> bool {
        match cursor.stage {
            INODE => write_rows(&self.inodes, &mut cursor.inode, INODE, end, out),
            ENTRY => write_rows(&self.entries, &mut cursor.entry, ENTRY, end, out),
            PIECE => write_rows(&self.pieces, &mut cursor.piece, PIECE, end, out),
            OLD_INODE => write_rows(&self.old_inodes, &mut cursor.old_inode, OLD_INODE, end, out),
            OLD_ENTRY => write_rows(&self.old_entries, &mut cursor.old_entry, OLD_ENTRY, end, out),
            OLD_PIECE => write_rows(&self.old_pieces, &mut cursor.old_piece, OLD_PIECE, end, out),
            EXPIRING => write_rows(&self.expiring, &mut cursor.expiring, EXPIRING, end, out),
            _ => write_rows(&self.doomed, &mut cursor.doomed, DOOMED, end, out),
        }
    }
}

/// A namespace that is being read back.
#[derive(Debug, Default)]
pub struct Loader {
    namespace: Namespace,
    /// The volume whose rows are being read.
    volume: Option<(VolumeId, Volume)>,
    opened: bool,
}

impl Loader {
    /// Takes one row, whose tag was read already.
    pub fn row(&mut self, tag: u8, input: &mut Input<'_>) -> Result<(), DecodeError> {
        if self.opened != (tag != HEAD) {
            return Err(DecodeError::Invalid);
        }
        match tag {
            HEAD => {
                let (index, time, next_volume) = Decode::decode(input)?;
                self.namespace.moment = Moment { index, time };
                self.namespace.next_volume = next_volume;
                self.opened = true;
                Ok(())
            }
            VOLUME => {
                self.close_volume()?;
                let (id, name, summary) = <(VolumeId, String, Summary)>::decode(input)?;
                if !is_volume_name(&name) {
                    return Err(DecodeError::Invalid);
                }
                self.volume = Some((id, Volume::with(name, summary)));
                Ok(())
            }
            INODE..=DOOMED => self.volume_row(tag, input),
            SPAN => {
                let (first, span) = <(ChunkId, Span)>::decode(input)?;
                let sizes_hold = (1..=span.chunk_bytes).contains(&span.last_chunk_bytes);
                check(sizes_hold && is_range(first, span.count))?;
                put(&mut self.namespace.references.spans, first, span)
            }
            USED => {
                let (key, end) = <((SessionId, u64), u64)>::decode(input)?;
                check(key.1 < end)?;
                put(&mut self.namespace.uploads.used, key, end)
            }
            STAGED => {
                let (key, extents) = <((SessionId, u64, u32), Arc<Extents>)>::decode(input)?;
                self.namespace.uploads.count_staged(key.0, &extents);
                put(&mut self.namespace.uploads.staged, key, extents)
            }
            DELETING => {
                let (first, row) = <(ChunkId, Deleting)>::decode(input)?;
                check(is_range(first, row.count))?;
                self.namespace.deleting_chunks += u64::from(row.count);
                put(&mut self.namespace.deleting, first, row)
            }
            tag => Err(DecodeError::UnknownTag(tag)),
        }
    }

    fn volume_row(&mut self, tag: u8, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let (_, volume) = self.volume.as_mut().ok_or(DecodeError::Invalid)?;
        match tag {
            INODE => {
                let (id, inode) = <(InodeId, Inode)>::decode(input)?;
                check(inode.is_sound())?;
                put(&mut volume.inodes, id, inode)
            }
            ENTRY => read_row(&mut volume.entries, input),
            PIECE => read_row(&mut volume.pieces, input),
            OLD_INODE => {
                let (key, old) = <((InodeId, CommitIndex), OldInode)>::decode(input)?;
                check(old.inode.is_sound() && key.1 > CommitIndex(0))?;
                put(&mut volume.old_inodes, key, old)
            }
            OLD_ENTRY => read_row(&mut volume.old_entries, input),
            OLD_PIECE => read_row(&mut volume.old_pieces, input),
            EXPIRING => read_row(&mut volume.expiring, input),
            _ => {
                let (key, count) = <((Timestamp, ChunkId), u32)>::decode(input)?;
                check(is_range(key.1, count))?;
                put(&mut volume.doomed, key, count)
            }
        }
    }

    fn close_volume(&mut self) -> Result<(), DecodeError> {
        let Some((id, mut volume)) = self.volume.take() else { return Ok(()) };
        volume.ended_bytes = volume.sum_ended_bytes();
        if !volume.summary.removed {
            put(&mut self.namespace.names, volume.name.clone(), id)?;
        }
        self.namespace.volume_memory += volume.memory_bytes();
        put(&mut self.namespace.volumes, id, volume)
    }

    /// The namespace, after its last row.
    pub fn finish(mut self) -> Result<Namespace, DecodeError> {
        self.close_volume()?;
        if self.opened { Ok(self.namespace) } else { Err(DecodeError::Truncated) }
    }
}

/// What later arithmetic relies on; a checkpoint's checksums are the driver's matter.
fn check(holds: bool) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Invalid) }
}

fn is_range(first: ChunkId, count: u32) -> bool {
    count > 0 && first.ordinal.checked_add(u64::from(count)).is_some()
}

/// Reads a row into `tree`; a key that is there already is an error.
pub fn read_row<K, V>(tree: &mut Tree<K, V>, input: &mut Input<'_>) -> Result<(), DecodeError>
where
    K: Ord + Clone + Decode,
    V: Clone + Decode,
{
    let key = K::decode(input)?;
    put(tree, key, V::decode(input)?)
}

fn put<K: Ord + Clone, V: Clone>(tree: &mut Tree<K, V>, key: K, value: V) -> Result<(), DecodeError> {
    match tree.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(DecodeError::Invalid),
    }
}

impl Encode for Arc<Extents> {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl Decode for Arc<Extents> {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let extents = Extents::decode(input)?;
        if crate::extents::is_sound(&extents) { Ok(Self::new(extents)) } else { Err(DecodeError::Invalid) }
    }
}
