//! Recent entries in memory, as they travel: what followers and joiners are sent, and what a follower has received and not applied.
//!
//! ```text
//! packed entry   epoch u64, length u32, bytes            little-endian
//! ```
//! Entries lie packed one behind the other in blocks, so that many of them leave with a few copies and none costs an allocation. The entries after the commit index
//! are always here; of those up to it the newest, as far as a limit of bytes allows.

use std::collections::VecDeque;

use wire::{CommitIndex, Epoch};

use crate::terms::Terms;

/// A block of entries; a larger entry has one of its own.
const BLOCK_BYTES: usize = 256 << 10;
/// Before each packed entry: its epoch and its length.
pub(crate) const PACKED_HEADER_BYTES: usize = 12;

/// The end of a log, in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) terms: Terms,
    /// The entry before the first one that is kept.
    floor: CommitIndex,
    rows: VecDeque<Row>,
    blocks: VecDeque<Vec<u8>>,
    /// Number of the first block.
    first_block: u64,
    /// A block that is free again.
    spare: Vec<u8>,
}

/// Where a packed entry lies.
#[derive(Clone, Copy, Debug)]
struct Row {
    block: u64,
    start: u32,
    end: u32,
    /// Packed bytes of all entries up to and including this one, since the replica's start.
    total: u64,
}

/// How far an entry was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The last entry that was sent whole.
    pub(crate) after: CommitIndex,
    /// Bytes that were sent of the next one.
    pub(crate) part: usize,
}

impl History {
    /// Of a log whose entries up to `last` aren't in memory.
    pub(crate) fn after(last: CommitIndex, terms: Terms) -> Self {
        Self { floor: last, terms, ..Self::default() }
    }

    /// The last entry received.
    pub(crate) fn last(&self) -> CommitIndex {
        CommitIndex(self.floor.0 + count(self.rows.len()))
    }

    /// The entry before the first one that is kept.
    pub(crate) fn floor(&self) -> CommitIndex {
        self.floor
    }

    /// Takes in the next entry.
    pub(crate) fn push(&mut self, epoch: Epoch, entry: &[u8]) {
        let needed = PACKED_HEADER_BYTES + entry.len();
        let full = self.blocks.back().is_none_or(|last| last.len() + needed > last.capacity());
        if full {
            let mut block = std::mem::take(&mut self.spare);
            if block.capacity() < needed {
                block = Vec::with_capacity(needed.max(BLOCK_BYTES));
            }
            self.blocks.push_back(block);
        }
        let total = self.total(self.last());
        self.terms.note(epoch, CommitIndex(self.last().0 + 1));
        let number = self.first_block + count(self.blocks.len()) - 1;
        let block = self.blocks.back_mut().expect("one has room");
        let start = small(block.len());
        block.extend_from_slice(&epoch.0.to_le_bytes());
        block.extend_from_slice(&small(entry.len()).to_le_bytes());
        block.extend_from_slice(entry);
        self.rows.push_back(Row {
            block: number,
            start,
            end: small(block.len()),
            total: total + count(needed),
        });
    }

    fn row(&self, index: CommitIndex) -> Option<&Row> {
        let at = index.0.checked_sub(self.floor.0 + 1)?;
        self.rows.get(usize::try_from(at).ok()?)
    }

    fn packed(&self, row: &Row) -> &[u8] {
        let block = usize::try_from(row.block - self.first_block).expect("it is kept");
        &self.blocks[block][row.start as usize..row.end as usize]
    }

    /// The bytes of an entry that is kept.
    pub(crate) fn entry(&self, index: CommitIndex) -> Option<&[u8]> {
        self.row(index).map(|row| &self.packed(row)[PACKED_HEADER_BYTES..])
    }

    /// Packed bytes of all entries up to this one since the start; entries that aren't kept count as the one before the first.
    fn total(&self, index: CommitIndex) -> u64 {
        match self.row(index) {
            Some(row) => row.total,
            None => self.rows.front().map_or(0, |first| first.total - u64::from(first.end - first.start)),
        }
    }

    /// Packed bytes of the entries after `after`, up to `upto`.
    pub(crate) fn bytes_between(&self, after: CommitIndex, upto: CommitIndex) -> u64 {
        if upto <= after { 0 } else { self.total(upto) - self.total(after) }
    }

    /// The log ends at `after` now.
    pub(crate) fn cut(&mut self, after: CommitIndex) {
        assert!(after >= self.floor && after <= self.last(), "what was applied isn't cut");
        self.rows.truncate(usize::try_from(after.0 - self.floor.0).expect("it is in memory"));
        self.terms.cut(after);
        let (kept, end) = self.rows.back().map_or((self.first_block, 0), |row| (row.block, row.end));
        let kept = usize::try_from(kept - self.first_block).expect("in memory");
        self.blocks.truncate(kept + 1);
        if let Some(last) = self.blocks.back_mut() {
            last.truncate(end as usize);
        }
    }

    /// Forgets the oldest entries, as long as more than `bytes` are kept, and none after `upto`.
    pub(crate) fn trim(&mut self, upto: CommitIndex, bytes: u64) {
        while self.floor < upto
            && let Some(first) = self.rows.front()
            && self.rows.back().expect("not empty").total - first.total >= bytes
        {
            self.rows.pop_front();
            self.floor.0 += 1;
            let used = self.rows.front().map_or(self.first_block, |row| row.block);
            while self.first_block < used {
                let mut block = self.blocks.pop_front().expect("rows lie behind it");
                block.clear();
                self.spare = block;
                self.first_block += 1;
            }
        }
    }

    /// Appends packed entries behind the cursor up to `upto`, the last one perhaps in part, at most `bytes` of them; moves the cursor.
    pub(crate) fn pack(&self, cursor: &mut Cursor, upto: CommitIndex, bytes: usize, out: &mut Vec<u8>) {
        let end = out.len() + bytes.max(PACKED_HEADER_BYTES + 1);
        while cursor.after < upto {
            let Some(row) = self.row(CommitIndex(cursor.after.0 + 1)) else { return };
            let packed = self.packed(row);
            let room = end - out.len();
            if cursor.part == 0 && packed.len() <= room {
                out.extend_from_slice(packed);
                cursor.after.0 += 1;
                continue;
            }
            let (header, entry) = packed.split_at(PACKED_HEADER_BYTES);
            let rest = &entry[cursor.part..];
            // Entries are split only where one doesn't fit into a message of its own.
            let splits = cursor.part > 0 || packed.len() > bytes;
            if !splits || room <= header.len() {
                return;
            }
            out.extend_from_slice(header);
            let taken = rest.len().min(room - header.len());
            out.extend_from_slice(&rest[..taken]);
            cursor.part += taken;
            if cursor.part < entry.len() {
                return;
            }
            *cursor = Cursor { after: CommitIndex(cursor.after.0 + 1), part: 0 };
        }
    }
}

/// One packed entry off the front of a message, of which `skip` bytes came before: its epoch, its whole length, and what there is of it. `None`: not packed so.
pub(crate) fn unpack<'a>(input: &mut &'a [u8], skip: usize) -> Option<(Epoch, usize, &'a [u8])> {
    let (epoch, rest) = input.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let there = length.checked_sub(skip)?.min(rest.len());
    let (part, rest) = rest.split_at(there);
    *input = rest;
    Some((Epoch(u64::from_le_bytes(*epoch)), length, part))
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("64 bits")
}

fn small(len: usize) -> u32 {
    u32::try_from(len).expect("blocks and entries are small")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of all sizes, pushed, cut, trimmed and sent in messages of a few bytes, arrive as they were.
    #[test]
    fn what_is_packed_arrives() {
        let mut history = History::after(CommitIndex(10), Terms::default());
        let mut model: VecDeque<(Epoch, Vec<u8>)> = VecDeque::new();
        let mut floor = 10;
        let mut state = 7_u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let (mut epoch, mut trimmed) = (1, 0);
        for _ in 0..3000 {
            match next(12) {
                0 => {
                    let keep = next(count(model.len()) + 1);
                    history.cut(CommitIndex(floor + keep));
                    model.truncate(usize::try_from(keep).unwrap());
                    epoch += 1;
                }
                1 => {
                    history.trim(CommitIndex(floor + next(count(model.len()) + 1)), next(2_000_000));
                    let gone = history.floor().0 - floor;
                    model.drain(..usize::try_from(gone).unwrap());
                    floor += gone;
                    trimmed += gone;
                }
                2 => {
                    let bytes = usize::try_from(next(3000)).unwrap();
                    let from = next(count(model.len()) + 1);
                    let mut cursor = Cursor { after: CommitIndex(floor + from), part: 0 };
                    let mut partial = Vec::new();
                    for (epoch, entry) in model.iter().skip(usize::try_from(from).unwrap()) {
                        loop {
                            // Each round is a message with what fits.
                            let mut message = Vec::new();
                            let upto = CommitIndex(cursor.after.0 + 1);
                            let skip = cursor.part;
                            history.pack(&mut cursor, upto, bytes, &mut message);
                            let mut input = message.as_slice();
                            let (found, length, part) = unpack(&mut input, skip).unwrap();
                            assert!(input.is_empty() && found == *epoch && length == entry.len());
                            assert!(message.len() <= bytes.max(PACKED_HEADER_BYTES + 1));
                            partial.extend_from_slice(part);
                            if cursor.part == 0 {
                                break;
                            }
                        }
                        assert_eq!(&std::mem::take(&mut partial), entry);
                    }
                }
                kind => {
                    let bytes = if kind == 3 { next(300_000) } else { next(200) };
                    let entry: Vec<u8> = (0..bytes).map(|at| at.to_le_bytes()[0]).collect();
                    history.push(Epoch(epoch), &entry);
                    model.push_back((Epoch(epoch), entry));
                }
            }
            assert_eq!(history.last().0, floor + count(model.len()));
            let total: usize = model.iter().map(|(_, entry)| entry.len() + PACKED_HEADER_BYTES).sum();
            assert_eq!(history.bytes_between(CommitIndex(floor), history.last()), count(total));
        }
        assert!(trimmed > 100 && history.blocks.len() < 200);
        assert_eq!(history.entry(history.last()), model.back().map(|(_, entry)| entry.as_slice()));
    }
}
