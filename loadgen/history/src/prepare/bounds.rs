//! Between which commit indices an operation has to lie, by the order in time alone.

use std::collections::BTreeMap;

use super::Found;
use crate::record::{Outcome, Record};

/// Bounds of an operation's index. A mutation lies above `low`, a read at `low` or above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl Bounds {
    /// Whether `index` may be the operation's.
    pub(crate) fn admit(self, index: u64, is_mutation: bool) -> bool {
        index >= self.low.saturating_add(u64::from(is_mutation)) && index <= self.high
    }
}

/// Of each record.
pub(crate) fn bounds(records: &[&Record], attributed: &BTreeMap<usize, Found>) -> Vec<Bounds> {
    let mut ends: Vec<(u64, u64)> = Vec::new();
    let mut begins: Vec<(u64, u64)> = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let index = match &record.outcome {
            Outcome::Ok(answer) => answer.index,
            _ => attributed.get(&place).and_then(|found| found.version),
        };
        let Some(index) = index else { continue };
        if let (Outcome::Ok(_), Some(ended)) = (&record.outcome, record.ended) {
            ends.push((ended, index));
        }
        begins.push((record.began, index.saturating_sub(u64::from(record.action.is_mutation()))));
    }
    ends.sort_unstable();
    let mut highest = 0;
    for (_, index) in &mut ends {
        highest = highest.max(*index);
        *index = highest;
    }
    begins.sort_unstable();
    let mut lowest = u64::MAX;
    for (_, index) in begins.iter_mut().rev() {
        lowest = lowest.min(*index);
        *index = lowest;
    }
    let of = |record: &&Record| {
        let before = ends.partition_point(|(ended, _)| *ended < record.began);
        let low = before.checked_sub(1).map_or(0, |last| ends[last].1);
        let open = record.outcome == Outcome::Unknown;
        let after =
            record.ended.filter(|_| !open).map(|ended| begins.partition_point(|(began, _)| *began <= ended));
        let high = after.and_then(|first| begins.get(first)).map_or(u64::MAX, |(_, index)| *index);
        Bounds { low, high }
    };
    records.iter().map(of).collect()
}
