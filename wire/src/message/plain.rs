//! The plain codec of the control port's messages: fields one after the other, little-endian, without names or padding.
//!
//! ```text
//! integers   as many bytes as they have     bool  1 byte, 0 or 1        text   length u8, UTF-8
//! options    0 | 1 and the value            lists length u32, values    enums  a code u8, then the variant's fields
//! ```
//! Both ends are of one cluster, whose nodes differ by a release at most; the table around it carries the codec's version. Decoding is total on any bytes, and
//! allocates in proportion to them: a list is grown as its values are read, up to its limit.

mod types;

use crate::limits::{CONTROL_LIST_MAX, MAP_NAME_BYTES_MAX};
use crate::message::DecodeError;

/// The version that this build writes and reads.
pub(crate) const PLAIN_VERSION: u8 = 1;

/// A value in this codec.
pub(crate) trait Plain: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes it from the front.
    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError>;
}

/// Bytes that haven't been read yet.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

const CUT_OFF: DecodeError = DecodeError::Invalid("length of a control message");

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The value's bytes.
pub(crate) fn encode<T: Plain>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut out);
    out
}

/// The value in these bytes, all of them.
pub(crate) fn decode<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut input = Input { rest: bytes };
    let value = T::take(&mut input)?;
    if input.rest.is_empty() { Ok(value) } else { Err(CUT_OFF) }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Plain for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                let bytes = input.bytes(size_of::<Self>())?;
                Ok(Self::from_le_bytes(bytes.try_into().expect("as many as it has")))
            }
        }
    )*};
}

integers! { u8 u16 u32 u64 }

impl Plain for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("flag of a control message")),
        }
    }
}

impl Plain for [u8; 16] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(input.bytes(16)?.try_into().expect("as many as it has"))
    }
}

impl Plain for String {
    fn put(&self, out: &mut Vec<u8>) {
        assert!(self.len() <= MAP_NAME_BYTES_MAX, "names and addresses keep their limit");
        out.push(u8::try_from(self.len()).expect("at most 255"));
        out.extend_from_slice(self.as_bytes());
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let length = usize::from(u8::take(input)?);
        let text = std::str::from_utf8(input.bytes(length)?);
        text.map(str::to_owned).map_err(|_| DecodeError::Invalid("text of a control message"))
    }
}

impl<T: Plain> Plain for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        if bool::take(input)? { T::take(input).map(Some) } else { Ok(None) }
    }
}

impl<T: Plain> Plain for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        assert!(self.len() <= CONTROL_LIST_MAX, "lists keep their limits");
        u32::try_from(self.len()).expect("few").put(out);
        for value in self {
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let count = u32::take(input)? as usize;
        if count > CONTROL_LIST_MAX {
            return Err(DecodeError::TooLarge("list of a control message"));
        }
        let mut values = Self::new();
        for _ in 0..count {
            values.push(T::take(input)?);
        }
        Ok(values)
    }
}

impl<A: Plain, B: Plain> Plain for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_nothing_else_does() {
        let value = (vec![Some(7_u32), None], "caf\u{e9}".to_owned());
        let bytes = encode(&value);
        assert_eq!(decode::<(Vec<Option<u32>>, String)>(&bytes), Ok(value));
        for cut in 0..bytes.len() {
            assert!(decode::<(Vec<Option<u32>>, String)>(&bytes[..cut]).is_err(), "{cut} bytes");
        }
        assert!(decode::<(Vec<Option<u32>>, String)>(&[&bytes[..], &[0]].concat()).is_err(), "one too many");
        assert_eq!(decode::<bool>(&[2]), Err(DecodeError::Invalid("flag of a control message")));
        assert_eq!(decode::<String>(&[1, 0xff]), Err(DecodeError::Invalid("text of a control message")));
        let endless = u32::MAX.to_le_bytes();
        assert_eq!(decode::<Vec<u64>>(&endless), Err(DecodeError::TooLarge("list of a control message")));
    }
}
