//! `--range`, as in HTTP: `A-B` inclusive, `A-` to the end, `-N` the last N bytes. Pure.

use std::ops::Range;
use std::str::FromStr;

/// A range of bytes of a file whose size isn't known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// `A-B`: both ends included.
    Between {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
    /// `A-`.
    From(u64),
    /// `-N`.
    Last(u64),
}

impl ByteRange {
    /// The bytes of a file of `size`: cut at its end; `None` where the range begins behind the file's last byte.
    pub(crate) fn of(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Between { first, last } => first..last.saturating_add(1).min(size),
            Self::From(first) => first..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

impl FromStr for ByteRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expectation = || format!("`{text}` is no range; write A-B (both included), A- or -N");
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten().ok_or_else(expectation)
        };
        let (first, last) = text.split_once('-').ok_or_else(expectation)?;
        match (first, last) {
            ("", count) => match number(count)? {
                0 => Err("`-0` asks for no byte".into()),
                count => Ok(Self::Last(count)),
            },
            (first, "") => Ok(Self::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return Err(format!("`{text}` ends before it begins"));
                }
                Ok(Self::Between { first, last })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_in_http() {
        for (text, size, expected) in [
            ("0-0", 10, Some(0..1)),
            ("2-5", 10, Some(2..6)),
            ("2-99", 10, Some(2..10)),
            ("9-", 10, Some(9..10)),
            ("10-", 10, None),
            ("10-12", 10, None),
            ("-3", 10, Some(7..10)),
            ("-30", 10, Some(0..10)),
            ("-1", 0, None),
            ("0-18446744073709551615", 10, Some(0..10)),
        ] {
            assert_eq!(text.parse::<ByteRange>().expect(text).of(size), expected, "{text} of {size}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "-", "5", "5-2", "a-b", "1-2-3", "-0", "+1-2", "1 - 2", "18446744073709551616-"] {
            assert!(text.parse::<ByteRange>().is_err(), "{text}");
        }
    }
}
