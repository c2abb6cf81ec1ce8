//! The volatile write cache of one file.
//!
//! Data goes to the backing file at once, and what it replaced is kept here until a flush: reads need no overlay, and a power
//! cut puts old sectors back. Per sector every state between the last flush and now can survive, as on a disk that reorders
//! what it hasn't flushed.
//!
//! ```text
//! flush      write 1     write 2         cut: each write is kept, lost or torn
//!   ├─ old₁ ────┤           │            sector in write 2 only: now, or old₂
//!   └───────────┴─── old₂ ──┤            sector in both: now, old₂ (= after write 1), or old₁
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use harness::Random;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = SECTOR_LENGTH as u64;
const SECTOR_LENGTH: usize = 512;
/// What the cache holds of one file; beyond it the oldest write becomes durable, as a drive writes back what it can't hold.
const HELD_BYTES_MAX: usize = 256 << 20;

type Sector = [u8; SECTOR_LENGTH];

/// Writes since the last flush.
#[derive(Debug, Default)]
pub struct Cache {
    writes: VecDeque<Before>,
    held_bytes: usize,
    /// Length at the last flush, if the file has grown since.
    length_durable: Option<u64>,
}

/// Whole sectors as they were before a write.
#[derive(Debug)]
struct Before {
    first: u64,
    old: Vec<u8>,
}

/// What a power cut did to one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Writes that weren't flushed.
    pub writes: u64,
    /// Sectors put back to an older state.
    pub sectors: u64,
}

impl Cache {
    /// Keeps what a write of `length` bytes at `offset` will replace.
    pub fn before_write(&mut self, file: &File, offset: u64, length: u64) -> io::Result<()> {
        let file_length = file.metadata()?.len();
        self.before_growth(file_length, offset + length);
        let first = offset / SECTOR_BYTES;
        let end = (offset + length).div_ceil(SECTOR_BYTES);
        let mut old = vec![0; usize::try_from((end - first) * SECTOR_BYTES).map_err(io::Error::other)?];
        read_to_end(file, first * SECTOR_BYTES, &mut old)?;
        self.held_bytes += old.len();
        self.writes.push_back(Before { first, old });
        while self.held_bytes > HELD_BYTES_MAX
            && let Some(oldest) = self.writes.pop_front()
        {
            self.held_bytes -= oldest.old.len();
        }
        Ok(())
    }

    /// Keeps the length that a growth to `length` will replace.
    pub fn before_growth(&mut self, file_length: u64, length: u64) {
        if length > file_length {
            self.length_durable.get_or_insert(file_length);
        }
    }

    /// Makes everything durable.
    pub fn flush(&mut self) {
        *self = Self::default();
    }

    /// Whether a flush would have anything of the file system's own to write.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.length_durable.is_some()
    }

    /// Bytes kept of what was replaced: nothing is volatile at 0.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Loses what a power cut loses, chosen by `random`; what is left is durable.
    pub fn cut(&mut self, file: &File, random: &mut Random) -> io::Result<Loss> {
        let mut loss = Loss { writes: self.writes.len() as u64, sectors: 0 };
        for (sector, old) in self.choose(random) {
            write_inside(file, sector * SECTOR_BYTES, &old)?;
            loss.sectors += 1;
        }
        if let Some(length) = self.length_durable
            && random.below(2) == 0
        {
            file.set_len(length)?;
        }
        self.flush();
        Ok(loss)
    }

    /// Sectors to put back with their content.
    fn choose(&self, random: &mut Random) -> BTreeMap<u64, Sector> {
        let mood = Mood::of(random);
        let mut back: BTreeMap<u64, Sector> = BTreeMap::new();
        let mut decided = BTreeSet::new();
        // From the newest write to the oldest: the first one kept decides a sector, those lost before it (later in time) are undone.
        for write in self.writes.iter().rev() {
            let whole = mood.keeps(random);
            for (sector, old) in (write.first..).zip(write.old.as_chunks().0) {
                if decided.contains(&sector) {
                    continue;
                }
                let kept = if matches!(mood, Mood::Torn) { random.below(2) == 0 } else { whole };
                if kept {
                    decided.insert(sector);
                } else {
                    back.insert(sector, *old);
                }
            }
        }
        back
    }
}

/// How a cut treats writes that aren't flushed.
#[derive(Clone, Copy)]
enum Mood {
    /// All of them are lost.
    None,
    /// All of them survive.
    All,
    /// Each survives whole or is lost whole.
    Whole,
    /// Each sector for itself.
    Torn,
}

impl Mood {
    fn of(random: &mut Random) -> Self {
        match random.below(6) {
            0 => Self::None,
            1 => Self::All,
            2 | 3 => Self::Whole,
            _ => Self::Torn,
        }
    }

    fn keeps(self, random: &mut Random) -> bool {
        match self {
            Self::None | Self::Torn => false,
            Self::All => true,
            Self::Whole => random.below(2) == 0,
        }
    }
}

/// Reads what the file has; the rest of `buffer` stays zero.
fn read_to_end(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(())
}

/// Writes what lies inside the file.
fn write_inside(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let room = file.metadata()?.len().saturating_sub(offset);
    let count = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
    file.write_all_at(&bytes[..count], offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of four sectors of 0, with a write of 1 to sectors 0–1, one of 2 to sectors 1–2, and a growth by one sector of 3.
    fn written(flush_after: usize) -> (File, Cache) {
        let scratch = harness::Scratch::new();
        let file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(true)
            .open(scratch.join("f"))
            .expect("a file");
        file.set_len(4 * SECTOR_BYTES).expect("a length");
        let mut cache = Cache::default();
        for (index, (first, byte)) in [(0, 1_u8), (1, 2), (4, 3)].into_iter().enumerate() {
            let count = if byte == 3 { 1 } else { 2 };
            let data = vec![byte; count * SECTOR_LENGTH];
            cache.before_write(&file, first * SECTOR_BYTES, data.len() as u64).expect("kept");
            file.write_all_at(&data, first * SECTOR_BYTES).expect("written");
            if index + 1 == flush_after {
                cache.flush();
            }
        }
        (file, cache)
    }

    /// First byte of each sector; each sector has to be of one piece.
    fn sectors(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().expect("a length").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("readable");
        bytes
            .as_chunks::<SECTOR_LENGTH>()
            .0
            .iter()
            .inspect(|sector| assert!(sector.iter().all(|byte| *byte == sector[0])))
            .map(|sector| sector[0])
            .collect()
    }

    #[test]
    fn every_state_of_a_sector_can_survive_and_no_other() {
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let (file, mut cache) = written(0);
            let loss = cache.cut(&file, &mut Random::new(seed)).expect("cut");
            assert_eq!(loss.writes, 3);
            assert_eq!(cache.held_bytes(), 0);
            seen.insert(sectors(&file));
        }
        let of = |sector: usize| {
            seen.iter().filter_map(|state| state.get(sector).copied()).collect::<BTreeSet<u8>>()
        };
        assert_eq!(of(0), BTreeSet::from([0, 1]));
        assert_eq!(of(1), BTreeSet::from([0, 1, 2]), "durable, after the first write, after the second");
        assert_eq!(of(2), BTreeSet::from([0, 2]));
        assert_eq!(of(3), BTreeSet::from([0]), "never written");
        assert_eq!(of(4), BTreeSet::from([0, 3]));
        assert!(seen.iter().any(|state| state.len() == 4), "the growth is lost sometimes");
        assert!(seen.contains(&vec![0, 2, 0, 0]), "a torn write");
        assert!(seen.contains(&vec![0, 0, 0, 0]), "all lost");
        assert!(seen.contains(&vec![1, 2, 2, 0, 3]), "all kept");
    }

    #[test]
    fn what_was_flushed_survives() {
        for seed in 0..50 {
            let (file, mut cache) = written(2);
            cache.cut(&file, &mut Random::new(seed)).expect("cut");
            assert_eq!(sectors(&file)[..4], [1, 2, 2, 0]);
            let (file, mut cache) = written(3);
            assert_eq!(cache.cut(&file, &mut Random::new(seed)).expect("cut"), Loss::default());
            assert_eq!(sectors(&file), [1, 2, 2, 0, 3]);
        }
    }
}
