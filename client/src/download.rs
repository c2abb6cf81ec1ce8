//! Reading a file: one version of it, in order, ahead of the reader, every byte verified.

use std::io;

use bytes::Bytes;
use wire::meta::Entry;

use crate::{Error, Subject, Volume};

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

/// A part of a file, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, verified.
    Data {
        /// Where they begin in the file.
        offset: u64,
        /// The bytes, without a copy where the arena has room.
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
    volume: Volume,
    entry: Entry,
}

impl Download {
    pub(crate) fn open(volume: Volume, what: Subject, entry: Entry, range: ReadRange) -> Result<Self, Error> {
        let _ = (what, range);
        Ok(Self { volume, entry })
    }

    /// What is read: attributes, size and version.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The bytes that will come, holes included, from the first call on.
    pub fn length(&self) -> u64 {
        todo!()
    }

    /// The next piece, in order and without gaps; `None` at the end. After an error the next call goes on behind the bytes that
    /// the error names ([`Error::Integrity`]) or fails again.
    pub async fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        let _ = &self.volume;
        todo!()
    }
}

impl Iterator for Download {
    type Item = Result<Piece, Error>;

    /// [`next_piece`](Download::next_piece), waiting on this thread.
    fn next(&mut self) -> Option<Self::Item> {
        crate::pending::block_on(self.next_piece()).transpose()
    }
}

/// Holes read as zeros.
impl io::Read for Download {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let _ = out;
        todo!()
    }
}
