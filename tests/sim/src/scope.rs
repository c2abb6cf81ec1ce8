//! One run: its seed, and which of the seed's operations and faults happen in it. All of them, unless a failing seed is being shrunk.

use std::collections::BTreeSet;
use std::fmt;

/// Numbers, as ranges on the command line: `1-4,9`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(pub BTreeSet<u64>);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// Only these operations, numbered from 1; `None`: all.
    pub operations: Option<Numbers>,
    /// Only these faults, numbered from 1; `None`: all.
    pub faults: Option<Numbers>,
    /// The trace goes to standard error.
    pub printed: bool,
}

impl Case {
    /// All of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Whether operation `number` happens.
    pub(crate) fn has_operation(&self, number: u64) -> bool {
        self.operations.as_ref().is_none_or(|only| only.0.contains(&number))
    }

    /// Whether fault `number` happens.
    pub(crate) fn has_fault(&self, number: u64) -> bool {
        self.faults.as_ref().is_none_or(|only| only.0.contains(&number))
    }

    /// The arguments that replay it.
    pub fn arguments(&self, level: &str) -> String {
        let mut text = format!("--level {level} --seed {}", self.seed);
        for (name, only) in [("operations", &self.operations), ("faults", &self.faults)] {
            if let Some(only) = only {
                text.extend([" --", name, " ", &only.to_string()]);
            }
        }
        text
    }
}

impl Numbers {
    /// The numbers that a command line means; `none` is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut numbers = BTreeSet::new();
        for part in text.split(',').filter(|part| *part != "none") {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
            let (low, high) = (number(low)?, number(high)?);
            if high.saturating_sub(low) > NUMBERS_MAX {
                return Err(format!("{part} is too many"));
            }
            numbers.extend(low..=high);
        }
        Ok(Self(numbers))
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &number in &self.0 {
            match ranges.last_mut() {
                Some((_, high)) if *high + 1 == number => *high = number,
                _ => ranges.push((number, number)),
            }
        }
        for (i, (low, high)) in ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{low}")?;
            if low < high {
                write!(f, "-{high}")?;
            }
        }
        Ok(())
    }
}

/// More numbers than any run has.
const NUMBERS_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for text in ["none", "7", "1-4,9", "1-2,4-6"] {
            assert_eq!(Numbers::parse(text).expect("a list").to_string(), text);
        }
        for text in ["", "x", "3-", "1-99999999999"] {
            Numbers::parse(text).expect_err("not a list");
        }
    }
}
