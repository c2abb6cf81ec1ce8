//! Reading a file: one version of it, in order, ahead of the reader, every byte verified.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes};
use wire::meta::{Entry, InodeKind};

use crate::core::extents::{Part, Step, Walk};
use crate::core::{Call, Failure, GetCall};
use crate::executor::Value;
use crate::handle::{CallFuture, Share};
use crate::version::VersionReader;
use crate::{Damage, Error, Subject, Volume};

/// Which bytes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadRange {
    /// All.
    #[default]
    Whole,
    /// From this offset to the end; nothing where that is beyond the end.
    From(u64),
    /// At most `length` bytes from `offset`; fewer, or none, where the file ends before.
    Span {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// The last so many bytes, or all where the file is shorter.
    Last(u64),
}

impl ReadRange {
    /// First byte and end in a file of `size` bytes.
    pub fn bounds(self, size: u64) -> (u64, u64) {
        match self {
            Self::Whole => (0, size),
            Self::From(offset) => (offset.min(size), size),
            Self::Span { offset, length } => (offset.min(size), offset.saturating_add(length).min(size)),
            Self::Last(length) => (size.saturating_sub(length), size),
        }
    }
}

/// A part of a file, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, verified.
    Data {
        /// Where they begin in the file.
        offset: u64,
        /// The bytes: at most a chunk.
        bytes: Bytes,
    },
    /// A hole: zeros that take no space.
    Hole {
        /// Where it begins in the file.
        offset: u64,
        /// How many zeros.
        length: u64,
    },
}

/// A file that is being read: by [`io::Read`], as an iterator over [`Piece`]s, or async by [`next_piece`](Self::next_piece).
///
/// Several chunks are fetched ahead, within [`Config::window_bytes`](crate::Config::window_bytes) of all transfers together. A read that lasts long pins its
/// version at the server, so that the version outlives its replacement (R25).
#[derive(Debug)]
pub struct Download {
    version: VersionReader,
    walk: Walk,
    length: u64,
    /// What was asked for and not yet returned, in order.
    ahead: VecDeque<Ahead>,
    /// A part for which there was no room in the budget.
    held: Option<Part>,
    /// What [`io::Read`] has begun to return.
    current: Option<Piece>,
    failure: Option<Error>,
    /// Holds the version; closed with this.
    read: Option<CallFuture>,
}

#[derive(Debug)]
enum Ahead {
    Part { part: Part, call: CallFuture, _share: Share },
    Hole { offset: u64, length: u64 },
}

impl Download {
    pub(crate) fn open(volume: Volume, what: Subject, entry: Entry, range: ReadRange) -> Result<Self, Error> {
        match entry.attributes.kind {
            InodeKind::File => {}
            InodeKind::Directory => return Err(Error::IsDirectory { what }),
            InodeKind::Symlink => return Err(Error::Unsupported { what }),
        }
        let (start, end) = range.bounds(entry.attributes.size);
        let mut version = VersionReader::new(volume, what, entry);
        let walk = version.walk(start, end);
        let read = (start < end).then(|| version.open_read());
        Ok(Self {
            version,
            walk,
            length: end - start,
            ahead: VecDeque::new(),
            held: None,
            current: None,
            failure: None,
            read,
        })
    }

    /// What is read: attributes, size and version.
    pub fn entry(&self) -> &Entry {
        &self.version.entry
    }

    /// The bytes that come in all, holes included.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next piece, in order and without gaps; `None` at the end. After an [`Error::Integrity`] the next call goes on behind the
    /// bytes that the error names; any other error stays.
    pub async fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.advance().await;
        if let Err(error) = &result
            && !matches!(error, Error::Integrity { .. })
        {
            self.ahead.clear();
            self.failure = Some(error.clone());
        }
        result
    }

    async fn advance(&mut self) -> Result<Option<Piece>, Error> {
        if let Some(read) = &mut self.read {
            read.send_again(); // nobody awaits it: where the mailbox was full, the version wasn't pinned
        }
        loop {
            if let Some(offset) = self.read_ahead() {
                self.version.load_page(&mut self.walk, offset).await?;
                continue;
            }
            // It stays in the queue until its result is there: a caller that drops this future loses nothing.
            let result = match self.ahead.front_mut() {
                Some(Ahead::Part { call, .. }) => Some(call.await),
                Some(Ahead::Hole { .. }) | None => None,
            };
            match (self.ahead.pop_front(), result) {
                (Some(Ahead::Part { part, .. }), Some(result)) => {
                    if let Some(piece) = self.take_part(part, result).await? {
                        return Ok(Some(piece));
                    }
                }
                (Some(Ahead::Hole { offset, length }), _) => return Ok(Some(Piece::Hole { offset, length })),
                _ => return Ok(None),
            }
        }
    }

    /// A part's bytes; `None` where it has to be asked for again.
    async fn take_part(
        &mut self,
        part: Part,
        result: Result<Value, Failure>,
    ) -> Result<Option<Piece>, Error> {
        match result {
            Ok(Value::Bytes(bytes)) => {
                assert_eq!(bytes.len(), part.length as usize, "a get returns what was asked for");
                // The next chunks are on their way while the caller works on this one.
                self.read_ahead();
                Ok(Some(Piece::Data { offset: part.offset, bytes }))
            }
            Ok(_) => Err(self.version.volume.handle().protocol_error(self.version.what.clone())),
            Err(Failure::Missing { .. }) => {
                self.ahead.clear();
                self.held = None;
                self.walk.seek(part.offset);
                // R25: gone with its version, moved by a compaction, or lost?
                if self.version.confirm(part.offset).await? {
                    return Ok(None);
                }
                self.walk.seek(part.offset + u64::from(part.length));
                Err(self.integrity(&part, Damage::Missing))
            }
            Err(Failure::Corrupt { .. }) => Err(self.integrity(&part, Damage::Corrupt)),
            Err(failure) => Err(self.version.volume.handle().error(failure, &self.version.what)),
        }
    }

    /// Asks for chunks as far as the budget reaches, and for one in any case. Returns where a page of extents is needed first.
    fn read_ahead(&mut self) -> Option<u64> {
        while self.ahead.len() < AHEAD_MAX {
            if let Some(part) = self.held.take() {
                let budget = self.version.volume.handle().budget();
                let bytes = part.length as usize;
                let share = match budget.try_take(bytes) {
                    Some(share) => share,
                    None if self.ahead.is_empty() => budget.take(bytes),
                    None => {
                        self.held = Some(part);
                        return None;
                    }
                };
                let call = self.version.volume.handle().call(get(&part));
                self.ahead.push_back(Ahead::Part { part, call, _share: share });
            }
            match self.walk.step() {
                Step::Part(part) => self.held = Some(part),
                Step::Hole { offset, length } => self.ahead.push_back(Ahead::Hole { offset, length }),
                // What was asked for comes first: its results need not wait for the page.
                Step::Page { offset } => return self.ahead.is_empty().then_some(offset),
                Step::End => return None,
            }
        }
        None
    }

    fn integrity(&self, part: &Part, damage: Damage) -> Error {
        Error::Integrity {
            what: self.version.what.clone(),
            offset: part.offset,
            length: u64::from(part.length),
            chunk: part.id,
            damage,
        }
    }
}

/// The call for a part's bytes.
fn get(part: &Part) -> Call {
    Call::GetChunk(GetCall {
        id: part.id,
        length: part.chunk_length,
        root: part.root,
        range: part.skip..part.skip + part.length,
        replica: None,
    })
}

impl Iterator for Download {
    type Item = Result<Piece, Error>;

    /// [`next_piece`](Download::next_piece), waiting on this thread.
    fn next(&mut self) -> Option<Self::Item> {
        crate::pending::block_on(self.next_piece()).transpose()
    }
}

/// Holes read as zeros. An error is the library's [`Error`] inside an [`io::Error`].
impl io::Read for Download {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.current {
                Some(Piece::Data { bytes, .. }) if !bytes.is_empty() => {
                    let count = bytes.len().min(out.len());
                    bytes.copy_to_slice(&mut out[..count]);
                    return Ok(count);
                }
                Some(Piece::Hole { length, .. }) if *length > 0 => {
                    let count = usize::try_from(*length).map_or(out.len(), |length| length.min(out.len()));
                    out[..count].fill(0);
                    *length -= count as u64;
                    return Ok(count);
                }
                _ => match self.next() {
                    Some(piece) => self.current = Some(piece.map_err(io::Error::other)?),
                    None => return Ok(0),
                },
            }
        }
    }
}

/// Pieces that are asked for and not yet returned, whatever their size: small chunks and holes are bounded by number.
const AHEAD_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::ReadRange;

    #[test]
    fn bounds() {
        for (range, size, expected) in [
            (ReadRange::Whole, 10, (0, 10)),
            (ReadRange::From(3), 10, (3, 10)),
            (ReadRange::From(11), 10, (10, 10)),
            (ReadRange::Span { offset: 2, length: 3 }, 10, (2, 5)),
            (ReadRange::Span { offset: 8, length: u64::MAX }, 10, (8, 10)),
            (ReadRange::Span { offset: 20, length: 1 }, 10, (10, 10)),
            (ReadRange::Last(4), 10, (6, 10)),
            (ReadRange::Last(40), 10, (0, 10)),
            (ReadRange::Whole, 0, (0, 0)),
        ] {
            assert_eq!(range.bounds(size), expected, "{range:?} of {size}");
        }
    }
}
