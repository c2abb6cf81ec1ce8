//! Lists of plain values that a message is full of, read in place: words (leaves, proofs) and chunk ids.
//!
//! A view is either over values of this process (to be encoded) or over a verified message's bytes (just decoded); both look the
//! same to whoever reads it, and none of them allocates.

use std::fmt;

use crate::{ChunkId, SessionId};

const WORD_BYTES: usize = 8;
const CHUNK_ID_BYTES: usize = 16;

/// 64-bit words in place: a chunk's leaves, or the proof of a range.
#[derive(Clone, Copy)]
pub struct Words<'a>(Source<'a, u64>);

/// A chunk's leaves, in the order of its blocks.
pub type Leaves<'a> = Words<'a>;

/// Chunk ids in place.
#[derive(Clone, Copy)]
pub struct ChunkIds<'a>(Source<'a, ChunkId>);

#[derive(Clone, Copy)]
enum Source<'a, T> {
    Values(&'a [T]),
    /// Little-endian, a whole number of elements.
    Bytes(&'a [u8]),
}

impl<'a> Words<'a> {
    /// Over values of this process.
    pub fn new(values: &'a [u64]) -> Self {
        Self(Source::Values(values))
    }

    /// Over little-endian words in a message.
    pub(super) fn from_bytes(bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.len() % WORD_BYTES, 0, "the verifier checked the vector");
        Self(Source::Bytes(bytes))
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self.0 {
            Source::Values(values) => values.len(),
            Source::Bytes(bytes) => bytes.len() / WORD_BYTES,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The words, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u64> + DoubleEndedIterator + Clone + use<'a> {
        let source = self.0;
        (0..self.len()).map(move |i| match source {
            Source::Values(values) => values[i],
            Source::Bytes(bytes) => word(bytes, i * WORD_BYTES),
        })
    }

    /// Writes all words to the front of `out`, which has room for them.
    pub fn copy_to(&self, out: &mut [u64]) {
        assert!(out.len() >= self.len(), "room for every word");
        for (to, from) in out.iter_mut().zip(self.iter()) {
            *to = from;
        }
    }

    /// The values, where they belong to this process.
    pub(super) fn values(&self) -> Option<&'a [u64]> {
        match self.0 {
            Source::Values(values) => Some(values),
            Source::Bytes(_) => None,
        }
    }
}

impl<'a> ChunkIds<'a> {
    /// Over values of this process.
    pub fn new(values: &'a [ChunkId]) -> Self {
        Self(Source::Values(values))
    }

    /// Over ids in a message: session, ordinal, little-endian.
    pub(super) fn from_bytes(bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.len() % CHUNK_ID_BYTES, 0, "the verifier checked the vector");
        Self(Source::Bytes(bytes))
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self.0 {
            Source::Values(values) => values.len(),
            Source::Bytes(bytes) => bytes.len() / CHUNK_ID_BYTES,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ChunkId> + DoubleEndedIterator + Clone + use<'a> {
        let source = self.0;
        (0..self.len()).map(move |i| match source {
            Source::Values(values) => values[i],
            Source::Bytes(bytes) => ChunkId {
                session: SessionId(word(bytes, i * CHUNK_ID_BYTES)),
                ordinal: word(bytes, i * CHUNK_ID_BYTES + WORD_BYTES),
            },
        })
    }
}

impl PartialEq for Words<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Words<'_> {}

impl PartialEq for ChunkIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ChunkIds<'_> {}

impl fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words", self.len())
    }
}

impl fmt::Debug for ChunkIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Default for Words<'_> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Default for ChunkIds<'_> {
    fn default() -> Self {
        Self::new(&[])
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + WORD_BYTES].try_into().expect("8 bytes"))
}
