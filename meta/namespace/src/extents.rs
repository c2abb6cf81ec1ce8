//! Extents: what clients send checked, cut into pieces of bounded size, and put together again for readers (R37).
//!
//! A [`Piece`] is a run of at most [`PIECE_CHUNKS_MAX`] chunks with its roots; it is a row of the volume's piece table, keyed by list and file
//! offset. An overwrite ends the pieces it touches and makes new ones of what is left of them, so each piece has a lifetime like an inode's state.

use std::sync::Arc;

use wire::limits::{CHUNK_BYTES_MAX, FILE_EXTENTS_MAX, MESSAGE_ROOTS_MAX};
use wire::meta::{Extents, Run};
use wire::{ChunkId, CommitIndex, SessionId, Status};

use crate::codec::{Decode, DecodeError, Encode, Input, decode_roots, encode_roots};

/// Chunks of one piece, at most: bounds what a cut copies (2 KiB of roots).
pub(crate) const PIECE_CHUNKS_MAX: u32 = 256;
/// A file ends below this offset.
pub const FILE_BYTES_MAX: u64 = i64::MAX.cast_unsigned();

/// A row of the piece table: `length` bytes of a file, from the row's offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The entry that made the piece; its lifetime begins here.
    pub(crate) from: CommitIndex,
    pub(crate) length: u64,
    pub(crate) first: ChunkId,
    pub(crate) count: u32,
    pub(crate) chunk_bytes: u32,
    pub(crate) last_chunk_bytes: u32,
    pub(crate) skip: u32,
    pub(crate) roots: Roots,
}

/// A piece's roots; the row's clones share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    One(u64),
    Many(Arc<[u64]>),
}

/// A range of chunk ids with their lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkRange {
    pub(crate) first: ChunkId,
    pub(crate) count: u32,
    pub(crate) chunk_bytes: u32,
    pub(crate) last_chunk_bytes: u32,
}

/// What a list of extents amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) chunks: u64,
    pub(crate) stored: u64,
    /// First byte that an extent covers.
    pub(crate) start: u64,
    /// End of the last one.
    pub(crate) end: u64,
    /// Stretches, at most: neighbouring runs may be one.
    pub(crate) runs: u64,
    /// Bytes of the longest chunk, at most.
    pub(crate) chunk_bytes_max: u32,
}

impl Summary {
    /// Both lists as one: `next` lies behind.
    pub(crate) fn then(&self, next: &Self) -> Self {
        Self {
            chunks: self.chunks + next.chunks,
            stored: self.stored + next.stored,
            start: if self.chunks == 0 { next.start } else { self.start },
            end: next.end,
            runs: self.runs + next.runs,
            chunk_bytes_max: self.chunk_bytes_max.max(next.chunk_bytes_max),
        }
    }
}

impl Roots {
    fn new(roots: &[u64]) -> Self {
        match roots {
            [root] => Self::One(*root),
            _ => Self::Many(roots.into()),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u64] {
        match self {
            Self::One(root) => std::slice::from_ref(root),
            Self::Many(roots) => roots,
        }
    }
}

impl ChunkRange {
    /// Bytes of the chunks together.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.count - 1) * u64::from(self.chunk_bytes) + u64::from(self.last_chunk_bytes)
    }

    /// Chunks `skip..skip + count` of the range.
    pub(crate) fn part(&self, skip: u32, count: u32) -> Self {
        assert!(count > 0 && skip + count <= self.count);
        Self {
            first: ChunkId { session: self.first.session, ordinal: self.first.ordinal + u64::from(skip) },
            count,
            chunk_bytes: self.chunk_bytes,
            last_chunk_bytes: if skip + count == self.count {
                self.last_chunk_bytes
            } else {
                self.chunk_bytes
            },
        }
    }

    /// The ordinal after the last one.
    pub(crate) fn end(&self) -> u64 {
        self.first.ordinal + u64::from(self.count)
    }
}

impl Piece {
    pub(crate) fn chunks(&self) -> ChunkRange {
        ChunkRange {
            first: self.first,
            count: self.count,
            chunk_bytes: self.chunk_bytes,
            last_chunk_bytes: self.last_chunk_bytes,
        }
    }

    /// Bytes `start..end` of the piece as a piece of its own, with only the chunks it needs.
    pub(crate) fn cut(&self, start: u64, end: u64, from: CommitIndex) -> Self {
        assert!(start < end && end <= self.length);
        let chunk_of = |byte: u64| -> u32 {
            let chunk = (u64::from(self.skip) + byte) / u64::from(self.chunk_bytes);
            u32::try_from(chunk.min(u64::from(self.count - 1))).expect("below the count")
        };
        let (low, high) = (chunk_of(start), chunk_of(end - 1) + 1);
        let chunks = self.chunks().part(low, high - low);
        let skip = u64::from(self.skip) + start - u64::from(low) * u64::from(self.chunk_bytes);
        let index = |chunk: u32| usize::try_from(chunk).expect("32 bits");
        Self {
            from,
            length: end - start,
            first: chunks.first,
            count: chunks.count,
            chunk_bytes: chunks.chunk_bytes,
            last_chunk_bytes: chunks.last_chunk_bytes,
            skip: u32::try_from(skip).expect("within the first chunk"),
            roots: Roots::new(&self.roots.as_slice()[index(low)..index(high)]),
        }
    }

    /// Whether `next`, which begins where this piece ends in the file, goes on in the same run.
    fn continues_in(&self, next: &Run) -> bool {
        let end =
            ChunkId { session: self.first.session, ordinal: self.first.ordinal + u64::from(self.count) };
        let whole = self.last_chunk_bytes == self.chunk_bytes
            && u64::from(self.skip) + self.length == self.chunks().bytes();
        let fits = next.chunk_bytes == self.chunk_bytes
            || next.count == 1 && next.last_chunk_bytes <= self.chunk_bytes;
        end == next.first && next.skip == 0 && whole && fits
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.roots {
            Roots::One(_) => 0,
            Roots::Many(roots) => roots.len() * 8 + 32,
        }
    }

    fn run(&self, file_offset: u64) -> Run {
        Run {
            file_offset,
            length: self.length,
            first: self.first,
            count: self.count,
            chunk_bytes: self.chunk_bytes,
            last_chunk_bytes: self.last_chunk_bytes,
            skip: self.skip,
        }
    }
}

/// Appends a piece to what a reader gets; a piece that goes on in the run before lengthens it.
pub(crate) fn append_to(extents: &mut Extents, file_offset: u64, piece: &Piece) {
    let next = piece.run(file_offset);
    extents.roots.extend_from_slice(piece.roots.as_slice());
    if let Some(run) = extents.runs.last_mut() {
        let before = Piece {
            from: CommitIndex(0),
            length: run.length,
            first: run.first,
            count: run.count,
            chunk_bytes: run.chunk_bytes,
            last_chunk_bytes: run.last_chunk_bytes,
            skip: run.skip,
            roots: Roots::One(0),
        };
        if run.file_offset + run.length == file_offset && before.continues_in(&next) {
            run.length += next.length;
            run.count += next.count;
            run.last_chunk_bytes = next.last_chunk_bytes;
            return;
        }
    }
    extents.runs.push(next);
}

/// The extents, shifted by `shift`, as pieces of at most [`PIECE_CHUNKS_MAX`] chunks with their file offsets.
pub(crate) fn pieces_of(extents: &Extents, shift: u64, from: CommitIndex) -> Vec<(u64, Piece)> {
    let mut pieces = Vec::with_capacity(extents.runs.len());
    let mut roots = extents.roots.as_slice();
    for run in &extents.runs {
        let (own, rest) = roots.split_at(usize::try_from(run.count).expect("32 bits"));
        roots = rest;
        let mut file_offset = run.file_offset + shift;
        let mut left = run.length;
        let mut skip = run.skip;
        let chunks = ChunkRange {
            first: run.first,
            count: run.count,
            chunk_bytes: run.chunk_bytes,
            last_chunk_bytes: run.last_chunk_bytes,
        };
        for (part, low) in own.chunks(PIECE_ROOTS_MAX).zip((0..).step_by(PIECE_ROOTS_MAX)) {
            let count = u32::try_from(part.len()).expect("at most 256");
            let range = chunks.part(low, count);
            let length = (range.bytes() - u64::from(skip)).min(left);
            let piece = Piece {
                from,
                length,
                first: range.first,
                count,
                chunk_bytes: range.chunk_bytes,
                last_chunk_bytes: range.last_chunk_bytes,
                skip,
                roots: Roots::new(part),
            };
            pieces.push((file_offset, piece));
            file_offset += length;
            left -= length;
            skip = 0;
        }
    }
    pieces
}

const PIECE_ROOTS_MAX: usize = PIECE_CHUNKS_MAX as usize;

/// Checks what a client sent: shape, order, sizes, and that every id is of `session` (R23). Ids twice in one list are found by the caller
/// when it marks them used.
pub(crate) fn check_extents(
    extents: &Extents,
    session: SessionId,
    chunk_bytes_max: u32,
) -> Result<Summary, Status> {
    if extents.roots.len() > MESSAGE_ROOTS_MAX {
        return Err(Status::TooLarge);
    }
    let mut summary = Summary::default();
    for run in &extents.runs {
        let sizes_hold = run.count > 0
            && run.length > 0
            && (1..=CHUNK_BYTES_MAX).contains(&run.chunk_bytes)
            && (1..=run.chunk_bytes).contains(&run.last_chunk_bytes);
        let ids_hold = run.first.session == session // R23
            && run.first.ordinal.checked_add(u64::from(run.count)).is_some();
        if !sizes_hold || !ids_hold || run.file_offset < summary.end {
            return Err(Status::BadRequest);
        }
        let longest = if run.count == 1 { run.last_chunk_bytes } else { run.chunk_bytes };
        if longest > chunk_bytes_max {
            return Err(Status::BadRequest);
        }
        let before_last = u64::from(run.count - 1) * u64::from(run.chunk_bytes);
        let end_in_run = u64::from(run.skip).checked_add(run.length).ok_or(Status::BadRequest)?;
        let covers = run.skip < longest
            && end_in_run > before_last
            && end_in_run <= before_last + u64::from(run.last_chunk_bytes);
        if !covers {
            return Err(Status::BadRequest);
        }
        if summary.chunks == 0 {
            summary.start = run.file_offset;
        }
        summary.end = run.file_offset.checked_add(run.length).ok_or(Status::TooLarge)?;
        summary.chunks += u64::from(run.count);
        summary.stored += run.length;
        summary.runs += 1;
        summary.chunk_bytes_max = summary.chunk_bytes_max.max(longest);
    }
    if u64::try_from(extents.roots.len()) != Ok(summary.chunks) {
        return Err(Status::BadRequest);
    }
    if summary.end > FILE_BYTES_MAX || summary.chunks > FILE_EXTENTS_MAX {
        return Err(Status::TooLarge);
    }
    Ok(summary)
}

/// The ranges of ids of the extents.
pub(crate) fn chunk_ranges(extents: &Extents) -> impl Iterator<Item = ChunkRange> + '_ {
    extents.runs.iter().map(|run| ChunkRange {
        first: run.first,
        count: run.count,
        chunk_bytes: run.chunk_bytes,
        last_chunk_bytes: run.last_chunk_bytes,
    })
}

/// What a decoded list must hold so that applying it can't fail on arithmetic; the head checked far more.
pub(crate) fn is_sound(extents: &Extents) -> bool {
    let mut end = 0;
    let mut chunks = 0_u64;
    let mut holds = true;
    for run in &extents.runs {
        let before_last = u64::from(run.count.saturating_sub(1)) * u64::from(run.chunk_bytes);
        let in_run = u64::from(run.skip).saturating_add(run.length);
        holds &= run.count > 0
            && run.chunk_bytes > 0
            && (1..=run.chunk_bytes).contains(&run.last_chunk_bytes)
            && run.length > 0
            && run.skip < run.chunk_bytes
            && run.file_offset >= end
            && run.file_offset.checked_add(run.length).is_some_and(|end| end <= FILE_BYTES_MAX)
            && run.first.ordinal.checked_add(u64::from(run.count)).is_some()
            && in_run > before_last
            && in_run <= before_last + u64::from(run.last_chunk_bytes);
        end = run.file_offset.saturating_add(run.length);
        chunks = chunks.saturating_add(u64::from(run.count));
    }
    holds && chunks <= FILE_EXTENTS_MAX && u64::try_from(extents.roots.len()) == Ok(chunks)
}

impl Encode for Piece {
    fn encode(&self, out: &mut Vec<u8>) {
        self.from.encode(out);
        self.run(0).encode(out);
        self.roots.encode(out);
    }
}

impl Decode for Piece {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let from = CommitIndex::decode(input)?;
        let extents = Extents { runs: vec![Run::decode(input)?], roots: decode_roots(input)? };
        let run = extents.runs[0];
        if !is_sound(&extents) || run.count > PIECE_CHUNKS_MAX || run.file_offset != 0 {
            return Err(DecodeError::Invalid);
        }
        Ok(Self {
            from,
            length: run.length,
            first: run.first,
            count: run.count,
            chunk_bytes: run.chunk_bytes,
            last_chunk_bytes: run.last_chunk_bytes,
            skip: run.skip,
            roots: Roots::new(&extents.roots),
        })
    }
}

impl Encode for Roots {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_roots(self.as_slice(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(7);

    fn run(file_offset: u64, length: u64, ordinal: u64, count: u32, last: u32, skip: u32) -> Run {
        Run {
            file_offset,
            length,
            first: ChunkId { session: SESSION, ordinal },
            count,
            chunk_bytes: 100,
            last_chunk_bytes: last,
            skip,
        }
    }

    fn extents(runs: &[Run]) -> Extents {
        let roots = runs.iter().flat_map(|run| (0..u64::from(run.count)).map(|i| run.first.ordinal + i));
        Extents { runs: runs.to_vec(), roots: roots.collect() }
    }

    #[test]
    fn clients_extents_are_checked() {
        let check = |runs: &[Run], expected: Result<u64, Status>| {
            let checked = check_extents(&extents(runs), SESSION, 100).map(|summary| summary.chunks);
            assert_eq!(checked, expected, "{runs:?}");
            assert!(checked.is_err() || is_sound(&extents(runs)));
        };
        check(&[], Ok(0));
        check(&[run(0, 250, 1, 3, 50, 0)], Ok(3));
        check(&[run(0, 250, 1, 3, 50, 0), run(300, 10, 9, 1, 10, 0)], Ok(4));
        check(&[run(0, 240, 1, 3, 50, 10)], Ok(3));
        check(&[run(0, 251, 1, 3, 50, 0)], Err(Status::BadRequest)); // beyond the chunks
        check(&[run(0, 200, 1, 3, 50, 0)], Err(Status::BadRequest)); // leaves out the last chunk
        check(&[run(0, 50, 1, 1, 50, 100)], Err(Status::BadRequest)); // begins behind chunk 0
        check(&[run(0, 250, 1, 3, 0, 0)], Err(Status::BadRequest));
        check(&[run(0, 1, 1, 0, 1, 0)], Err(Status::BadRequest));
        check(&[run(0, 100, 1, 1, 100, 0), run(50, 10, 9, 1, 10, 0)], Err(Status::BadRequest)); // overlap
        check(&[run(0, 10, u64::MAX, 1, 10, 0)], Err(Status::BadRequest)); // ids end
        check(&[run(u64::MAX, 10, 1, 1, 10, 0)], Err(Status::TooLarge));
        check(&[run(FILE_BYTES_MAX - 5, 10, 1, 1, 10, 0)], Err(Status::TooLarge));
        let foreign = extents(&[run(0, 10, 1, 1, 10, 0)]);
        assert_eq!(check_extents(&foreign, SessionId(8), 100), Err(Status::BadRequest)); // R23
        assert_eq!(check_extents(&foreign, SESSION, 9), Err(Status::BadRequest)); // over the volume's chunk size
        let short = Extents { runs: foreign.runs, roots: Vec::new() };
        assert_eq!(check_extents(&short, SESSION, 100), Err(Status::BadRequest));
        assert!(!is_sound(&short));
    }

    #[test]
    fn pieces_split_and_join() {
        let whole = extents(&[run(40, 99_990, 5, 1000, 90, 0), run(200_000, 80, 9000, 1, 90, 5)]);
        let pieces = pieces_of(&whole, 0, CommitIndex(3));
        assert_eq!(pieces.iter().map(|(_, piece)| piece.count).collect::<Vec<_>>(), [256, 256, 256, 232, 1]);
        let mut joined = Extents::default();
        for (offset, piece) in &pieces {
            append_to(&mut joined, *offset, piece);
        }
        assert_eq!(joined, whole);
    }

    #[test]
    fn a_cut_keeps_only_the_chunks_it_needs() {
        let pieces = pieces_of(&extents(&[run(0, 240, 1, 3, 50, 10)]), 0, CommitIndex(1));
        let (_, piece) = &pieces[0];
        let check = |start, end, first, count, skip, last| {
            let cut = piece.cut(start, end, CommitIndex(2));
            assert_eq!(
                (cut.first.ordinal, cut.count, cut.skip, cut.last_chunk_bytes, cut.roots.as_slice().len()),
                (first, count, skip, last, usize::try_from(count).unwrap()),
                "{start}..{end}"
            );
            assert_eq!((cut.length, cut.from), (end - start, CommitIndex(2)));
            assert_eq!(cut.roots.as_slice()[0], first);
        };
        check(0, 240, 1, 3, 10, 50);
        check(0, 90, 1, 1, 10, 100);
        check(0, 91, 1, 2, 10, 100);
        check(90, 240, 2, 2, 0, 50);
        check(95, 240, 2, 2, 5, 50);
        check(239, 240, 3, 1, 49, 50);
    }
}
