//! Changes of files' contents: replace, write, truncate, copy, stage. References move with the pieces as `volume.rs` says.

use wire::meta::Extents;
use wire::{CommitIndex, InodeId, Layout, Timestamp, Version, VolumeId};

use crate::apply::{ApplyError, Moment, end_state};
use crate::change::{Change, Source, Target};
use crate::extents::{ChunkRange, FILE_BYTES_MAX, Piece, Roots, pieces_of};
use crate::gc::release;
use crate::inode::{Content, Inode, List, OneChunk};
use crate::namespace::Namespace;
use crate::references::{References, WrongReference};
use crate::volume::{Expired, NOW, Sign, Volume};

/// Bytes `start..end` of a file get new pieces; the file is `size` long then.
pub(crate) struct Splice {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) size: u64,
    pub(crate) modified: Timestamp,
    pub(crate) pieces: Vec<(u64, Piece)>,
    /// The pieces' chunks are new; else they are another file's.
    pub(crate) fresh: bool,
}

impl From<WrongReference> for ApplyError {
    fn from(wrong: WrongReference) -> Self {
        Self::Chunk(wrong.0)
    }
}

impl Namespace {
    pub(crate) fn apply_content(&mut self, moment: Moment, change: Change) -> Result<(), ApplyError> {
        match change {
            Change::Replace { target, size, modified, source } => {
                let extents = self.take_extents(source)?;
                let pieces = pieces_of(&extents, 0, moment.index);
                self.replace(moment, target, size, modified, pieces, true)
            }
            Change::Write { target, shift, size, modified, source } => {
                let mut extents = self.take_extents(source)?;
                shift_extents(&mut extents, shift).ok_or(ApplyError::Size(target.volume))?;
                let pieces = pieces_of(&extents, 0, moment.index);
                // Holes between the extents leave what is below alone: each stretch is a splice of its own.
                self.with_volume(target.volume, |volume, references| {
                    write(volume, references, moment, target, Written { pieces, size, modified })
                })
            }
            Change::Truncate { target, size, modified } => self.truncate(moment, target, size, modified),
            Change::Compact { target, source } => self.compact(moment, target, source),
            Change::CopyWhole { source, target } => self.copy_whole(moment, source, target),
            Change::CopyRange { source, start, length, target, offset, size, modified } => {
                let end = offset.checked_add(length).ok_or(ApplyError::Size(source.volume))?;
                let pieces = self.copied_pieces(moment.index, source, start, length, offset)?;
                let target = Target { volume: source.volume, inode: target };
                self.with_volume(source.volume, |volume, references| {
                    end_state(volume, moment, target, false)?;
                    let splice_in = Splice { start: offset, end, size, modified, pieces, fresh: false };
                    splice(volume, references, moment, target, &splice_in)
                })
            }
            Change::Stage { source } => self.uploads.stage(source.session, source.upload, source.extents),
            _ => unreachable!("the caller passes changes of content only"),
        }
    }

    /// The staged extents, if any, with the message's own behind them; all ids are used from now on (R23).
    fn take_extents(&mut self, source: Source) -> Result<Extents, ApplyError> {
        self.uploads.mark_used(source.session, &source.extents)?;
        if source.upload == 0 {
            return Ok(source.extents);
        }
        let missing = ApplyError::Upload(source.session, source.upload);
        let mut whole = self.uploads.take(source.session, source.upload).ok_or(missing)?;
        whole.runs.extend(source.extents.runs);
        whole.roots.extend(source.extents.roots);
        if !crate::extents::is_sound(&whole) {
            return Err(missing);
        }
        Ok(whole)
    }

    /// Where fewer pieces stay than go, the file gets a new list of those that stay, and its past keeps the whole one, as if it had been replaced: what goes
    /// is dropped in bounded steps later. So this takes as long as the smaller side.
    fn truncate(
        &mut self,
        moment: Moment,
        target: Target,
        size: u64,
        modified: Timestamp,
    ) -> Result<(), ApplyError> {
        let volume = self.volumes.get(&target.volume).ok_or(ApplyError::Volume(target.volume))?;
        let keeps_less = match &file(volume, target)?.content {
            Content::Many(list) => volume.has_fewer_before(list.id, size),
            _ => size == 0,
        };
        if keeps_less {
            let pieces = self.copied_pieces(moment.index, target, 0, size, 0)?;
            return self.replace(moment, target, size, modified, pieces, false);
        }
        self.with_volume(target.volume, |volume, references| {
            end_state(volume, moment, target, false)?;
            let pieces = Vec::new();
            let cut = Splice { start: size, end: u64::MAX, size, modified, pieces, fresh: true };
            splice(volume, references, moment, target, &cut)
        })
    }

    /// The bytes stay what they are, and with them version and times; the pieces that hold them end, and their chunks go the way of all others (R25, R26).
    fn compact(&mut self, moment: Moment, target: Target, source: Source) -> Result<(), ApplyError> {
        let extents = self.take_extents(source)?;
        let pieces = pieces_of(&extents, 0, moment.index);
        let volume = self.volumes.get(&target.volume).ok_or(ApplyError::Volume(target.volume))?;
        let before = file(volume, target)?.clone();
        let (size, modified) = (before.size, before.modified);
        let layout = before.layout.0.checked_add(1).ok_or(ApplyError::Size(target.volume))?;
        if pieces.iter().map(|(_, piece)| piece.length).sum::<u64>() == before.stored_bytes() {
            // All of it: the past keeps the list, and drops it in bounded steps.
            self.replace(moment, target, size, modified, pieces, true)?;
        } else {
            self.with_volume(target.volume, |volume, references| {
                write(volume, references, moment, target, Written { pieces, size, modified })
            })?;
        }
        self.with_volume(target.volume, |volume, _| {
            let missing = ApplyError::Inode(target.volume, target.inode);
            let inode = volume.inodes.get_mut(&target.inode).ok_or(missing)?;
            inode.version = before.version;
            inode.layout = Layout(layout);
            inode.changed = before.changed;
            Ok(())
        })
    }

    fn replace(
        &mut self,
        moment: Moment,
        target: Target,
        size: u64,
        modified: Timestamp,
        pieces: Vec<(u64, Piece)>,
        fresh: bool,
    ) -> Result<(), ApplyError> {
        self.with_volume(target.volume, |volume, references| {
            let live = file(volume, target)?;
            let owns = live.chunks() > 0;
            end_state(volume, moment, target, owns)?;
            let missing = ApplyError::Inode(target.volume, target.inode);
            let inode = volume.inodes.get_mut(&target.inode).ok_or(missing)?;
            let before = inode.clone();
            inode.content = Content::Empty;
            inode.size = 0;
            let emptied = inode.clone();
            volume.count(&before, Sign::Minus);
            volume.count(&emptied, Sign::Plus);
            let whole = Splice { start: 0, end: 0, size, modified, pieces, fresh };
            splice(volume, references, moment, target, &whole)
        })
    }

    fn copy_whole(&mut self, moment: Moment, source: Target, target: InodeId) -> Result<(), ApplyError> {
        let volume = self.volumes.get(&source.volume).ok_or(ApplyError::Volume(source.volume))?;
        let from = file(volume, source)?.clone();
        let pieces = self.copied_pieces(moment.index, source, 0, FILE_BYTES_MAX, 0)?;
        let target = Target { volume: source.volume, inode: target };
        self.replace(moment, target, from.size, from.modified, pieces, false)?;
        self.change_inode(moment, target, |inode| {
            inode.owner = from.owner;
            inode.xattrs = from.xattrs;
        })
    }

    /// The source's bytes `start..start + length` as pieces that begin at `offset`.
    fn copied_pieces(
        &self,
        index: CommitIndex,
        source: Target,
        start: u64,
        length: u64,
        offset: u64,
    ) -> Result<Vec<(u64, Piece)>, ApplyError> {
        let volume = self.volumes.get(&source.volume).ok_or(ApplyError::Volume(source.volume))?;
        let end = start.checked_add(length).ok_or(ApplyError::Size(source.volume))?;
        let cut = |at: u64, piece: &Piece| {
            let low = start.saturating_sub(at);
            let high = piece.length.min(end - at);
            (at.max(start) - start + offset, piece.cut(low, high, index))
        };
        match &file(volume, source)?.content {
            Content::One(one) if start < u64::from(one.bytes) && end > 0 => {
                Ok(vec![cut(0, &one.piece(index))])
            }
            Content::Many(list) => Ok(volume
                .pieces_at(list.id, start, NOW)
                .take_while(|(at, _)| *at < end)
                .map(|(at, piece)| cut(at, piece))
                .collect()),
            _ => Ok(Vec::new()),
        }
    }
}

impl Volume {
    /// Whether the live list has fewer pieces before `size` than from there on, and more than a few there. Looks at no more than twice the smaller side.
    fn has_fewer_before(&self, list: CommitIndex, size: u64) -> bool {
        let mut before = self.pieces_at(list, 0, NOW).take_while(|(offset, _)| *offset < size);
        let mut behind = self.pieces_at(list, size, NOW).skip(CUT_PIECES_MIN);
        loop {
            match (before.next(), behind.next()) {
                (None, Some(_)) => return true,
                (_, None) => return false,
                _ => {}
            }
        }
    }
}

/// So few pieces are cut off where they are.
const CUT_PIECES_MIN: usize = if cfg!(test) { 1 } else { 64 };

impl OneChunk {
    /// The extent as a piece.
    pub(crate) fn piece(&self, from: CommitIndex) -> Piece {
        Piece {
            from,
            length: u64::from(self.bytes),
            first: self.chunk,
            count: 1,
            chunk_bytes: self.chunk_bytes,
            last_chunk_bytes: self.bytes,
            skip: 0,
            roots: Roots::One(self.root),
        }
    }

    /// The piece, where it is all of a file and all of a chunk.
    fn of(pieces: &[(u64, Piece)]) -> Option<Self> {
        let [(0, piece)] = pieces else { return None };
        let whole = piece.count == 1 && piece.length == u64::from(piece.last_chunk_bytes);
        whole.then(|| Self {
            chunk: piece.first,
            root: piece.roots.as_slice()[0],
            bytes: piece.last_chunk_bytes,
            chunk_bytes: piece.chunk_bytes,
        })
    }

    pub(crate) fn range(&self) -> ChunkRange {
        ChunkRange {
            first: self.chunk,
            count: 1,
            chunk_bytes: self.chunk_bytes,
            last_chunk_bytes: self.bytes,
        }
    }
}

struct Written {
    pieces: Vec<(u64, Piece)>,
    size: u64,
    modified: Timestamp,
}

/// Pieces without a hole between them.
struct Stretch {
    start: u64,
    end: u64,
    pieces: Vec<(u64, Piece)>,
}

fn write(
    volume: &mut Volume,
    references: &mut References,
    moment: Moment,
    target: Target,
    written: Written,
) -> Result<(), ApplyError> {
    end_state(volume, moment, target, false)?;
    let Written { pieces, size, modified } = written;
    let mut stretches: Vec<Stretch> = Vec::new();
    for (offset, piece) in pieces {
        let end = offset + piece.length;
        match stretches.last_mut() {
            Some(stretch) if stretch.end == offset => {
                stretch.end = end;
                stretch.pieces.push((offset, piece));
            }
            _ => stretches.push(Stretch { start: offset, end, pieces: vec![(offset, piece)] }),
        }
    }
    if stretches.is_empty() {
        stretches.push(Stretch { start: 0, end: 0, pieces: Vec::new() });
    }
    for Stretch { start, end, pieces } in stretches {
        let stretch = Splice { start, end, size, modified, pieces, fresh: true };
        splice(volume, references, moment, target, &stretch)?;
    }
    Ok(())
}

/// The live inode, if it is a file.
pub(crate) fn file(volume: &Volume, target: Target) -> Result<&Inode, ApplyError> {
    let inode = volume.inodes.get(&target.inode);
    inode
        .filter(|inode| inode.kind() == wire::meta::InodeKind::File)
        .ok_or(ApplyError::Inode(target.volume, target.inode))
}

fn splice(
    volume: &mut Volume,
    references: &mut References,
    moment: Moment,
    target: Target,
    splice: &Splice,
) -> Result<(), ApplyError> {
    let before = file(volume, target)?.clone();
    for (_, piece) in &splice.pieces {
        if splice.fresh {
            references.adopt(target.volume, piece.chunks())?;
            volume.summary.usage.chunks += u64::from(piece.count);
        } else {
            references.retain(piece.chunks())?; // R23: resolved in log order, so the chunk is live
        }
    }
    let content = match (before.content.clone(), OneChunk::of(&splice.pieces)) {
        (Content::Empty, Some(one)) => Content::One(one),
        (Content::Empty, None) if splice.pieces.is_empty() => Content::Empty,
        (Content::One(one), _) if splice.pieces.is_empty() && splice.start >= u64::from(one.bytes) => {
            Content::One(one)
        }
        _ => {
            let list = to_list(volume, moment.index, &before);
            let list = splice_list(volume, references, moment, target.volume, list, splice)?;
            if list.chunks == 0 { Content::Empty } else { Content::Many(list) }
        }
    };
    let missing = ApplyError::Inode(target.volume, target.inode);
    let inode = volume.inodes.get_mut(&target.inode).ok_or(missing)?;
    inode.content = content;
    inode.size = splice.size;
    inode.version = Version(moment.index.0);
    inode.layout = Layout(0);
    inode.modified = splice.modified;
    inode.changed = moment.time;
    inode.from = moment.index;
    let after = inode.clone();
    volume.count(&before, Sign::Minus);
    volume.count(&after, Sign::Plus);
    Ok(())
}

/// The content as a list, into which it may be turned here. The piece is as old as the version whose reference it takes over.
fn to_list(volume: &mut Volume, index: CommitIndex, before: &Inode) -> List {
    match before.content {
        Content::Many(list) => list,
        Content::One(one) => {
            volume.pieces.insert((index, 0), one.piece(CommitIndex(before.version.0)));
            List { id: index, stored: u64::from(one.bytes), chunks: 1 }
        }
        _ => List { id: index, stored: 0, chunks: 0 },
    }
}

/// Ends the pieces in the splice's range, keeps what is left of them at its borders, and puts the new ones in.
fn splice_list(
    volume: &mut Volume,
    references: &mut References,
    moment: Moment,
    id: VolumeId,
    mut list: List,
    splice: &Splice,
) -> Result<List, ApplyError> {
    let index = moment.index;
    for (offset, piece) in volume.overlapping(list, splice.start, splice.end) {
        volume.pieces.remove(&(list.id, offset));
        list.stored -= piece.length;
        list.chunks -= piece.count;
        let mut rest = Vec::new();
        if offset < splice.start {
            rest.push((offset, piece.cut(0, splice.start - offset, index)));
        }
        if offset + piece.length > splice.end {
            rest.push((splice.end, piece.cut(splice.end - offset, piece.length, index)));
        }
        for (offset, piece) in rest {
            references.retain(piece.chunks())?;
            insert_piece(volume, &mut list, offset, piece, id)?;
        }
        if piece.from == index {
            // Made by this very entry (what another of its splices left over): nobody can have seen it.
            volume.drop_heap(piece.heap_bytes());
            release(volume, references, moment.time, piece.chunks())?;
            continue;
        }
        // The ended piece takes its reference with it into the past, until the horizon passes.
        volume.ended_bytes += piece.length;
        volume.old_pieces.insert((list.id, offset, index), piece);
        volume.expire(index, moment.time, Expired::Piece(list.id, offset));
    }
    for (offset, piece) in &splice.pieces {
        insert_piece(volume, &mut list, *offset, piece.clone(), id)?;
    }
    Ok(list)
}

fn insert_piece(
    volume: &mut Volume,
    list: &mut List,
    offset: u64,
    piece: Piece,
    id: VolumeId,
) -> Result<(), ApplyError> {
    list.stored += piece.length;
    list.chunks = list.chunks.checked_add(piece.count).ok_or(ApplyError::Size(id))?;
    volume.add_heap(piece.heap_bytes());
    match volume.pieces.insert((list.id, offset), piece) {
        None => Ok(()),
        Some(_) => Err(ApplyError::Size(id)),
    }
}

fn shift_extents(extents: &mut Extents, shift: u64) -> Option<()> {
    for run in &mut extents.runs {
        run.file_offset = run.file_offset.checked_add(shift)?;
        run.file_offset.checked_add(run.length).filter(|end| *end <= FILE_BYTES_MAX)?;
    }
    Some(())
}
