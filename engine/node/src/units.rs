//! Sizes and spans as people write them in a configuration: `64MiB`, `10m`.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written as a number with one of `B KiB MiB GiB TiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A span of time, written as a whole number with one of `ms s m h d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SPAN_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = largest_divisor(self.0, SIZE_UNITS.iter(), ("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) = largest_divisor(millis, SPAN_UNITS.iter().rev(), ("ms", 1));
        write!(f, "{}{unit}", millis / factor)
    }
}

fn largest_divisor<'a>(
    value: u64,
    mut units: impl Iterator<Item = &'a (&'static str, u64)>,
    smallest: (&'static str, u64),
) -> (&'static str, u64) {
    if value == 0 {
        return smallest;
    }
    units.find(|(_, factor)| value.is_multiple_of(*factor)).copied().unwrap_or(smallest)
}

/// Digits and a unit of `text`, multiplied.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &SIZE_UNITS)
            .map(Self)
            .ok_or_else(|| format!("`{text}` isn't a size such as 64MiB (B, KiB, MiB, GiB, TiB)"))
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let millis = parse(text, &SPAN_UNITS)
            .ok_or_else(|| format!("`{text}` isn't a span such as 10m (ms, s, m, h, d)"))?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

as_text!(ByteSize);
as_text!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_back() {
        for text in ["0B", "1B", "4KiB", "1MiB", "400GiB", "3TiB", "1500MiB"] {
            assert_eq!(text.parse::<ByteSize>().expect(text).to_string(), text);
        }
        for text in ["1ms", "1500ms", "10s", "10m", "24h", "7d"] {
            let again = text.parse::<Span>().expect(text).to_string();
            assert_eq!(again.parse::<Span>(), text.parse::<Span>());
        }
        for text in ["", "12", "MiB", "1.5GiB", "1 GB", "-1B", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
