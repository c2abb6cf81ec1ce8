//! A name in a directory: 1 to 255 bytes without NUL and `/`, never `.` or `..`. Up to 22 bytes lie in the value itself.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use wire::Status;
use wire::limits::{NAME_BYTES_MAX, VOLUME_NAME_BYTES_MAX};

use crate::codec::{Decode, DecodeError, Encode, Input, encode_bytes};

/// A valid name. Ordered by its bytes.
#[derive(Clone)]
pub struct Name(Form);

#[derive(Clone)]
enum Form {
    Inline(u8, [u8; INLINE_BYTES]),
    Shared(Arc<[u8]>),
}

const INLINE_BYTES: usize = 22;
const _: () = assert!(size_of::<Name>() == 24);

impl Name {
    /// The name with these bytes; `BadRequest` or `TooLarge` where they are none.
    pub fn new(bytes: &[u8]) -> Result<Self, Status> {
        if bytes.len() > NAME_BYTES_MAX {
            return Err(Status::TooLarge);
        }
        let forbidden =
            matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, 0 | b'/'));
        if forbidden { Err(Status::BadRequest) } else { Ok(Self::stored(bytes)) }
    }

    /// A position in a listing: any bytes, the empty ones included, which come before every name.
    pub(crate) fn position(bytes: &[u8]) -> Self {
        Self::stored(&bytes[..bytes.len().min(NAME_BYTES_MAX + 1)])
    }

    fn stored(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE_BYTES];
        match inline.get_mut(..bytes.len()) {
            Some(to) => {
                to.copy_from_slice(bytes);
                Self(Form::Inline(u8::try_from(bytes.len()).expect("at most 22"), inline))
            }
            None => Self(Form::Shared(bytes.into())),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Form::Shared(bytes) => bytes,
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Inline(..) => 0,
            Form::Shared(bytes) => bytes.len() + 32,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.bytes().escape_ascii().to_string(), f)
    }
}

impl Encode for Name {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.bytes(), out);
    }
}

impl Decode for Name {
    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Self::new(input.bytes()?).map_err(|_| DecodeError::Invalid)
    }
}

/// Whether `name` can name a volume: `[a-z0-9][a-z0-9-]{0,62}`.
pub fn is_volume_name(name: &str) -> bool {
    name.len() <= VOLUME_NAME_BYTES_MAX
        && !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_the_rules() {
        let long = [b'x'; 256];
        let cases: [(&[u8], Option<Status>); 9] = [
            (b"a", None),
            (b"\xff\n ", None),
            (&long[..255], None),
            (&long[..23], None),
            (&long, Some(Status::TooLarge)),
            (b"", Some(Status::BadRequest)),
            (b"..", Some(Status::BadRequest)),
            (b"a/b", Some(Status::BadRequest)),
            (b"a\0", Some(Status::BadRequest)),
        ];
        for (bytes, refused) in cases {
            match Name::new(bytes) {
                Ok(name) => assert!(refused.is_none() && name.bytes() == bytes),
                Err(status) => assert_eq!(Some(status), refused),
            }
        }
    }

    #[test]
    fn volume_names_by_the_rules() {
        let long = "x".repeat(64);
        for (name, valid) in [("a", true), ("0-a", true), (&long[..63], true), (&long, false), ("", false)] {
            assert_eq!(is_volume_name(name), valid, "{name}");
        }
        for name in ["-a", "A", "a.b", "ä"] {
            assert!(!is_volume_name(name), "{name}");
        }
    }
}
