//! The compact binary form of log entries and checkpoint rows.
//!
//! Unsigned integers are little-endian base-128 (7 bits a byte, high bit = more follow, ≤ 10 bytes); signed ones zigzag first; byte strings are a
//! length and the bytes; lists a count and the items; options and enums one byte. No field is aligned and none is skipped: the
//! version that opens an entry or a page says which fields there are. Decoders are total: any bytes give a value or an error, and a length
//! that lies costs no memory, since nothing is reserved beyond what the input can hold.

use thiserror::Error;
use wire::meta::{Extents, Outcome, Run, VolumePolicy, Xattr};
use wire::{
    ChunkId, CommitIndex, GroupId, InodeId, Layout, Sequence, SessionId, Status, Timestamp, Version, VolumeId,
};

/// Why bytes are no entry or row. Whoever reads the log or checkpoint refuses it (R29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ends inside a value.
    #[error("the input ends inside a value")]
    Truncated,
    /// Bytes follow the last value.
    #[error("{0} bytes follow the last value")]
    Trailing(usize),
    /// A number is larger than its type.
    #[error("a number is out of range")]
    OutOfRange,
    /// A tag that this version doesn't know.
    #[error("unknown tag {0}")]
    UnknownTag(u8),
    /// Written by a newer version.
    #[error("format version {0} is newer than this program")]
    NewerVersion(u8),
    /// Bytes that break a rule of their type (a name with `/`, text that isn't UTF-8).
    #[error("a value breaks its type's rules")]
    Invalid,
}

/// Something with a binary form.
pub trait Encode {
    /// Appends the form to `out`.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Something that can be read back.
pub trait Decode: Sized {
    /// Takes the form off the front of `input`.
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError>;
}

/// Bytes that are being decoded.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Decodes from the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(byte)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A byte string.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = usize::decode(self)?;
        self.take(count)
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.0.len())) }
    }
}

/// Appends a byte string.
pub fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    bytes.len().encode(out);
    out.extend_from_slice(bytes);
}

impl Encode for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut rest = *self;
        loop {
            let low = rest.to_le_bytes()[0] & 0x7f;
            rest >>= 7;
            if rest == 0 {
                return out.push(low);
            }
            out.push(low | 0x80);
        }
    }
}

impl Decode for u64 {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = input.byte()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(DecodeError::OutOfRange);
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::OutOfRange)
    }
}

impl Encode for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        ((self << 1) ^ (self >> 63)).cast_unsigned().encode(out);
    }
}

impl Decode for i64 {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let zigzag = u64::decode(input)?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }
}

macro_rules! narrow {
    ($($type:ty),*) => {$(
        impl Encode for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                u64::try_from(*self).expect("at most 64 bits").encode(out);
            }
        }

        impl Decode for $type {
            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Self::try_from(u64::decode(input)?).map_err(|_| DecodeError::OutOfRange)
            }
        }
    )*};
}
narrow!(u16, u32, usize);

macro_rules! newtype {
    ($($type:ident),*) => {$(
        impl Encode for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
        }

        impl Decode for $type {
            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Decode::decode(input).map(Self)
            }
        }
    )*};
}
newtype!(CommitIndex, GroupId, InodeId, Layout, Sequence, SessionId, Timestamp, Version, VolumeId);

macro_rules! structure {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Encode for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                $($crate::codec::Encode::encode(&self.$field, out);)*
            }
        }

        impl $crate::codec::Decode for $type {
            fn decode(
                input: &mut $crate::codec::Input<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: $crate::codec::Decode::decode(input)?),* })
            }
        }
    };
}
pub(crate) use structure;
structure!(ChunkId { session, ordinal });
structure!(VolumePolicy { chunk_bytes, retention_seconds });
structure!(Xattr { name, value });
structure!(Run { file_offset, length, first, count, chunk_bytes, last_chunk_bytes, skip });

structure!(Outcome { status, depth, index, inode, version, volume, offset, size });

impl Encode for Status {
    fn encode(&self, out: &mut Vec<u8>) {
        self.code().encode(out);
    }
}

impl Decode for Status {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Self::from_code(u16::decode(input)?).ok_or(DecodeError::OutOfRange)
    }
}

impl Encode for () {
    fn encode(&self, _out: &mut Vec<u8>) {}
}

impl Decode for () {
    fn decode(_input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

macro_rules! tuple {
    ($($name:ident)*) => {
        impl<$($name: Encode),*> Encode for ($($name,)*) {
            fn encode(&self, out: &mut Vec<u8>) {
                #[expect(non_snake_case, reason = "the type's letter names its value")]
                let ($($name,)*) = self;
                $($name.encode(out);)*
            }
        }

        impl<$($name: Decode),*> Decode for ($($name,)*) {
            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Ok(($($name::decode(input)?,)*))
            }
        }
    };
}
tuple!(A B);
tuple!(A B C);

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Decode for bool {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        match input.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::UnknownTag(tag)),
        }
    }
}

impl Encode for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self, out);
    }
}

impl Decode for Vec<u8> {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        input.bytes().map(<[u8]>::to_vec)
    }
}

impl Encode for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }
}

impl Decode for String {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let bytes = input.bytes()?.to_vec();
        Self::from_utf8(bytes).map_err(|_| DecodeError::Invalid)
    }
}

/// Appends a list: its count, then its items.
pub fn encode_list<T: Encode>(items: &[T], out: &mut Vec<u8>) {
    items.len().encode(out);
    for item in items {
        item.encode(out);
    }
}

/// A list of items of at least one byte each.
pub fn decode_list<T: Decode>(input: &mut Input<'_>) -> Result<Vec<T>, DecodeError> {
    let count = usize::decode(input)?;
    if count > input.len() {
        return Err(DecodeError::Truncated);
    }
    // A count within the input can still be `size_of::<T>()` times the input's memory: grow as items come.
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(T::decode(input)?);
    }
    items.shrink_to_fit();
    Ok(items)
}

/// Roots are hashes: eight bytes each, as they are.
pub(crate) fn encode_roots(roots: &[u64], out: &mut Vec<u8>) {
    roots.len().encode(out);
    for root in roots {
        out.extend_from_slice(&root.to_le_bytes());
    }
}

pub(crate) fn decode_roots(input: &mut Input<'_>) -> Result<Vec<u64>, DecodeError> {
    let count = usize::decode(input)?;
    let bytes = input.take(count.checked_mul(8).ok_or(DecodeError::OutOfRange)?)?;
    let root = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes"));
    Ok(bytes.chunks_exact(8).map(root).collect())
}

impl Encode for Extents {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(&self.runs, out);
        encode_roots(&self.roots, out);
    }
}

impl Decode for Extents {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(Self { runs: decode_list(input)?, roots: decode_roots(input)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_return_as_they_were() {
        for value in [0, 1, 127, 128, 300, 1 << 32, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            value.encode(&mut bytes);
            value.cast_signed().encode(&mut bytes);
            let mut input = Input::new(&bytes);
            assert_eq!(u64::decode(&mut input), Ok(value));
            assert_eq!(i64::decode(&mut input), Ok(value.cast_signed()));
            assert_eq!(input.finish(), Ok(()));
        }
    }

    #[test]
    fn malformed_bytes_are_errors() {
        let check = |bytes: &[u8], expected| assert_eq!(u64::decode(&mut Input::new(bytes)), Err(expected));
        check(&[], DecodeError::Truncated);
        check(&[0x80], DecodeError::Truncated);
        check(&[0xff; 10], DecodeError::OutOfRange);
        assert_eq!(u16::decode(&mut Input::new(&[0x80, 0x80, 4])), Err(DecodeError::OutOfRange));
        // A list that claims more items than there are bytes.
        assert_eq!(decode_list::<u64>(&mut Input::new(&[0x7f, 1, 1])), Err(DecodeError::Truncated));
        assert_eq!(bool::decode(&mut Input::new(&[2])), Err(DecodeError::UnknownTag(2)));
    }
}
