//! Bytes that prove themselves: each 4 KiB block says which operation wrote it where, so that whoever reads it knows whether it belongs there.
//!
//! ```text
//! 0     8        12       16       20      24             32             40            48
//! ├magic┼process─┼client──┼number──┼path───┼offset in the ┼length of the─┼checksum of──┼ bytes from a pool ─ … ─┤ 4096
//! │     │        │        │        │       │write         │write         │the block    │                        │ or the
//! └ little-endian ──────────────────────────────────────────────────────────────────────────────────────────────┘ write's end
//! ```
//!
//! Blocks begin at multiples of 4 KiB in the file; only the last one of a file is shorter. The checksum is xxh3-64 of everything else in the block.

use history::{Piece, Stamp};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::random::{Random, mix};

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Bytes of a block's header: the least that a block can have.
pub(crate) const HEADER_BYTES: usize = CHECKSUM_OFFSET + 8;

const MAGIC: u64 = u64::from_le_bytes(*b"catenabk");
const PROCESS_OFFSET: usize = 8;
const CLIENT_OFFSET: usize = PROCESS_OFFSET + 4;
const NUMBER_OFFSET: usize = CLIENT_OFFSET + 4;
const PATH_OFFSET: usize = NUMBER_OFFSET + 4;
const AT_OFFSET: usize = PATH_OFFSET + 4;
const LENGTH_OFFSET: usize = AT_OFFSET + 8;
const CHECKSUM_OFFSET: usize = LENGTH_OFFSET + 8;
const _: () = assert!(HEADER_BYTES == 48);

/// Bytes that blocks are filled from. Two blocks rarely have the same.
const POOL_BYTES: usize = 1 << 20;

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) stamp: Stamp,
    /// The path's number.
    pub(crate) path: u32,
    pub(crate) length: u64,
}

/// Makes blocks.
#[derive(Clone, Debug)]
pub(crate) struct Pool(Vec<u8>);

impl Pool {
    pub(crate) fn new() -> Self {
        let mut random = Random::stream(MAGIC, 0);
        Self((0..POOL_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect())
    }

    /// Fills `out` with the write's bytes from `at` on, which is a block's beginning.
    pub(crate) fn fill(&self, write: &Write, at: u64, out: &mut [u8]) {
        assert!(at.is_multiple_of(BLOCK_BYTES as u64), "a write is filled block by block");
        for (offset, block) in (at..).step_by(BLOCK_BYTES).zip(out.chunks_mut(BLOCK_BYTES)) {
            let Write { stamp: Stamp { process, client, number }, path, length } = *write;
            block[..PROCESS_OFFSET].copy_from_slice(&MAGIC.to_le_bytes());
            for (place, word) in [
                (PROCESS_OFFSET, process),
                (CLIENT_OFFSET, client),
                (NUMBER_OFFSET, number),
                (PATH_OFFSET, path),
            ] {
                block[place..place + 4].copy_from_slice(&word.to_le_bytes());
            }
            block[AT_OFFSET..LENGTH_OFFSET].copy_from_slice(&offset.to_le_bytes());
            block[LENGTH_OFFSET..CHECKSUM_OFFSET].copy_from_slice(&length.to_le_bytes());
            let body = &mut block[HEADER_BYTES..];
            let places = (POOL_BYTES - BLOCK_BYTES) as u64;
            let place =
                mix(offset ^ u64::from(number) << 40 ^ u64::from(client) << 20 ^ u64::from(process)) % places;
            let place = usize::try_from(place).expect("below a usize");
            body.copy_from_slice(&self.0[place..place + body.len()]);
            let checksum = checksum(block);
            block[CHECKSUM_OFFSET..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}

fn checksum(block: &[u8]) -> u64 {
    xxh3_64_with_seed(&block[HEADER_BYTES..], xxh3_64_with_seed(&block[..CHECKSUM_OFFSET], MAGIC))
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"))
}

fn long(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"))
}

/// What is wrong with bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Bytes that nobody wrote, or not here.
    Corrupt,
    /// Bytes of several writes where those of one should be.
    Torn,
}

/// Reads a file's bytes in order, however they are cut, and says whose they are.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// A block that isn't whole yet.
    carry: Vec<u8>,
    bytes: u64,
    pieces: Vec<Piece>,
    /// Lengths of the pieces' writes.
    lengths: Vec<u64>,
    is_corrupt: bool,
}

impl Reader {
    /// Begins anew, with the same memory.
    pub(crate) fn begin(&mut self) {
        self.carry.clear();
        self.bytes = 0;
        self.pieces.clear();
        self.lengths.clear();
        self.is_corrupt = false;
    }

    /// Gives a list of pieces back, to be used again.
    pub(crate) fn recycle(&mut self, pieces: Vec<Piece>) {
        self.pieces = pieces;
    }

    /// Takes the next bytes. `is_home` says whether bytes that were written to a path may be here.
    pub(crate) fn push(&mut self, mut bytes: &[u8], is_home: &impl Fn(u32) -> bool) {
        self.bytes += bytes.len() as u64;
        if !self.carry.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.carry.len()));
            self.carry.extend_from_slice(head);
            bytes = rest;
            if self.carry.len() < BLOCK_BYTES {
                return;
            }
            let block = std::mem::take(&mut self.carry);
            self.block(&block, is_home);
            self.carry = block;
            self.carry.clear();
        }
        let mut blocks = bytes.chunks_exact(BLOCK_BYTES);
        for block in blocks.by_ref() {
            self.block(block, is_home);
        }
        self.carry.extend_from_slice(blocks.remainder());
    }

    fn block(&mut self, block: &[u8], is_home: &impl Fn(u32) -> bool) {
        if block.len() < HEADER_BYTES
            || long(block, 0) != MAGIC
            || long(block, CHECKSUM_OFFSET) != checksum(block)
            || !is_home(word(block, PATH_OFFSET))
        {
            self.is_corrupt = true;
            return;
        }
        let stamp = Stamp {
            process: word(block, PROCESS_OFFSET),
            client: word(block, CLIENT_OFFSET),
            number: word(block, NUMBER_OFFSET),
        };
        let (from, length) = (long(block, AT_OFFSET), block.len() as u64);
        match self.pieces.last_mut() {
            Some(last) if last.stamp == stamp && last.from + last.length == from => last.length += length,
            _ => {
                self.pieces.push(Piece { stamp, from, length });
                self.lengths.push(long(block, LENGTH_OFFSET));
            }
        }
    }

    /// Ends: whose the bytes `start..end` of a file of `size` bytes are.
    pub(crate) fn end(
        &mut self,
        (start, end, size): (u64, u64, u64),
        is_home: &impl Fn(u32) -> bool,
    ) -> Result<&mut Vec<Piece>, Flaw> {
        if !self.carry.is_empty() {
            let block = std::mem::take(&mut self.carry);
            self.block(&block, is_home);
            self.carry = block;
        }
        if self.is_corrupt || self.bytes != end - start {
            return Err(Flaw::Corrupt);
        }
        let last = self.pieces.len().saturating_sub(1);
        for (place, (piece, length)) in self.pieces.iter().zip(&self.lengths).enumerate() {
            // Where the range begins or ends in the middle of the file, so may a write.
            let begins = piece.from == 0 || (place == 0 && start > 0);
            let ends = piece.from + piece.length == *length || (place == last && end < size);
            if !begins || !ends {
                return Err(Flaw::Torn);
            }
        }
        Ok(&mut self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u32, length: u64) -> Write {
        Write { stamp: Stamp { process: 1, client: 2, number }, path: 5, length }
    }

    fn bytes(pool: &Pool, write: &Write) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(write.length).expect("small")];
        pool.fill(write, 0, &mut out);
        out
    }

    fn read(bytes: &[u8], range: (u64, u64, u64), cut: usize) -> Result<Vec<Piece>, Flaw> {
        let mut reader = Reader::default();
        reader.begin();
        bytes.chunks(cut).for_each(|piece| reader.push(piece, &|path| path == 5));
        reader.end(range, &|path| path == 5).map(|pieces| pieces.clone())
    }

    #[test]
    fn what_was_written_is_known() {
        let pool = Pool::new();
        let (first, second) = (write(1, 3 * 4096), write(2, 2 * 4096 + 100));
        let whole = [bytes(&pool, &first), bytes(&pool, &second)].concat();
        let size = whole.len() as u64;
        let piece = |write: &Write, from, length| Piece { stamp: write.stamp, from, length };
        for cut in [1, 48, 1000, 4096, 5000, 1 << 20] {
            let both = vec![piece(&first, 0, first.length), piece(&second, 0, second.length)];
            assert_eq!(read(&whole, (0, size, size), cut), Ok(both));
            let part = vec![piece(&first, 4096, 8192), piece(&second, 0, 4096)];
            assert_eq!(read(&whole[4096..4 * 4096], (4096, 4 * 4096, size), cut), Ok(part));
        }
        assert_eq!(read(&[], (0, 0, 0), 1), Ok(Vec::new()));
        // Filled in parts it is the same.
        let mut parts = vec![0; whole.len() - 3 * 4096];
        let (head, tail) = parts.split_at_mut(4096);
        pool.fill(&second, 0, head);
        pool.fill(&second, 4096, tail);
        assert_eq!(parts, whole[3 * 4096..]);
    }

    #[test]
    fn what_is_wrong_is_known() {
        let pool = Pool::new();
        let (first, second) = (bytes(&pool, &write(1, 3 * 4096)), bytes(&pool, &write(2, 3 * 4096)));
        let size = first.len() as u64;
        let check =
            |bytes: &[u8], expected: Flaw| assert_eq!(read(bytes, (0, size, size), 4096), Err(expected));
        for at in [0, 9, 20, 30, 44, 100, 4095, 8192 + 17] {
            let mut wrong = first.clone();
            wrong[at] ^= 1;
            check(&wrong, Flaw::Corrupt);
        }
        check(&first[..first.len() - 1], Flaw::Corrupt);
        check(&vec![0; first.len()], Flaw::Corrupt);
        check(&[&first[..4096], &second[4096..]].concat(), Flaw::Torn);
        check(&[&first[..4096], &first[..8192]].concat(), Flaw::Torn);
        check(&[&first[4096..8192], &first[4096..]].concat(), Flaw::Torn);
        // Another path's.
        let other = Write { path: 6, ..write(1, 3 * 4096) };
        check(&bytes(&pool, &other), Flaw::Corrupt);
    }
}
