//! Files and chunks: extents are built while a file is written, and walked while it is read. Pure planning, without I/O.

use thiserror::Error;
use wire::ChunkId;
use wire::limits::{FILE_EXTENTS_MAX, MESSAGE_ROOTS_MAX};
use wire::message::check_extents;
use wire::meta::{ExtentPage, Extents, Run};

/// Builds a file's extents from its chunks, which come in order of their place in the file.
#[derive(Debug)]
pub struct ExtentBuilder {
    chunk_bytes: u32,
    extents: Extents,
    chunk_count: u64,
}

/// The file would have more chunks than a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("more than {FILE_EXTENTS_MAX} chunks")]
pub struct TooManyChunks;

impl ExtentBuilder {
    /// Nothing, for a volume with chunks of at most `chunk_bytes`.
    pub fn new(chunk_bytes: u32) -> Self {
        Self { chunk_bytes, extents: Extents::default(), chunk_count: 0 }
    }

    /// The next chunk: `length` bytes at `offset`, which isn't before the end of the one before.
    pub fn push(&mut self, offset: u64, id: ChunkId, length: u32, root: u64) -> Result<(), TooManyChunks> {
        assert!((1..=self.chunk_bytes).contains(&length), "a chunk of the volume");
        if self.chunk_count == FILE_EXTENTS_MAX {
            return Err(TooManyChunks);
        }
        self.chunk_count += 1;
        self.extents.roots.push(root);
        if let Some(run) = self.extents.runs.last_mut() {
            assert!(offset >= run.file_offset + run.length, "chunks come in order and don't overlap");
            let follows = offset == run.file_offset + run.length
                && run.last_chunk_bytes == run.chunk_bytes
                && id.session == run.first.session
                && id.ordinal == run.first.ordinal + u64::from(run.count);
            if follows {
                run.count += 1;
                run.length += u64::from(length);
                run.last_chunk_bytes = length;
                return Ok(());
            }
        }
        self.extents.runs.push(Run {
            file_offset: offset,
            length: u64::from(length),
            first: id,
            count: 1,
            chunk_bytes: self.chunk_bytes,
            last_chunk_bytes: length,
            skip: 0,
        });
        Ok(())
    }

    /// Whether a message is full: [`take`](Self::take) and stage it (R37).
    pub fn is_full(&self) -> bool {
        self.extents.roots.len() >= MESSAGE_ROOTS_MAX
    }

    /// The extents since the last `take`.
    pub fn take(&mut self) -> Extents {
        std::mem::take(&mut self.extents)
    }
}

/// A part of a file that one chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u32,
    /// The chunk.
    pub id: ChunkId,
    /// The chunk's root.
    pub root: u64,
    /// The chunk's length.
    pub chunk_length: u32,
    /// Where it begins in the chunk.
    pub skip: u32,
}

/// What comes next in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes of a chunk.
    Part(Part),
    /// Zeros that take no space.
    Hole {
        /// Where they begin.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// The next page of extents is needed: those that end after this offset.
    Page {
        /// The offset.
        offset: u64,
    },
    /// That was all.
    End,
}

/// Extents that contradict themselves, or lead nowhere; the server that sent them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the extents contradict themselves")]
pub struct MalformedExtents;

/// Walks a range of a file, in order, from page to page of its extents.
#[derive(Clone, Debug)]
pub struct Walk {
    position: u64,
    end: u64,
    page: Option<ExtentPage>,
    run: usize,
    /// Chunk in the run.
    chunk: u32,
    /// Index of that chunk's root.
    root: usize,
}

impl Walk {
    /// From `start` to `end`, without any page yet.
    pub fn new(start: u64, end: u64) -> Self {
        Self { position: start, end: end.max(start), page: None, run: 0, chunk: 0, root: 0 }
    }

    /// Where the next step begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the walk ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Takes the page that [`Step::Page`] asked for.
    pub fn load(&mut self, page: ExtentPage) -> Result<(), MalformedExtents> {
        check_extents(&page.extents).map_err(|_| MalformedExtents)?;
        if !page.end
            && page.extents.runs.last().is_none_or(|run| run.file_offset + run.length <= self.position)
        {
            return Err(MalformedExtents); // It would be asked for again, for ever.
        }
        self.page = Some(page);
        (self.run, self.chunk, self.root) = (0, 0, 0);
        Ok(())
    }

    /// Goes on at `position`, forward or back.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.page = None;
    }

    /// The next step.
    pub fn step(&mut self) -> Step {
        if self.position >= self.end {
            return Step::End;
        }
        let Some(page) = &self.page else { return Step::Page { offset: self.position } };
        loop {
            let Some(run) = page.extents.runs.get(self.run) else {
                if !page.end {
                    self.page = None;
                    return Step::Page { offset: self.position };
                }
                return self.hole_to(self.end);
            };
            let part = part_of(run, self.chunk, page.extents.roots[self.root]);
            let part_end = part.offset + u64::from(part.length);
            if part_end <= self.position {
                self.root += 1;
                self.chunk += 1;
                if self.chunk == run.count {
                    (self.run, self.chunk) = (self.run + 1, 0);
                }
                continue;
            }
            if part.offset > self.position {
                return self.hole_to(part.offset.min(self.end));
            }
            return Step::Part(self.cut(part));
        }
    }

    /// The part of `part` that is wanted, which begins at or before the position.
    fn cut(&mut self, part: Part) -> Part {
        let front = to_u32(self.position - part.offset);
        let end = (part.offset + u64::from(part.length)).min(self.end);
        let length = to_u32(end - self.position);
        let cut = Part { offset: self.position, length, skip: part.skip + front, ..part };
        self.position = end;
        cut
    }

    fn hole_to(&mut self, end: u64) -> Step {
        let hole = Step::Hole { offset: self.position, length: end - self.position };
        self.position = end;
        hole
    }
}

/// What chunk number `chunk` of a checked run covers.
fn part_of(run: &Run, chunk: u32, root: u64) -> Part {
    let chunk_length = if chunk + 1 == run.count { run.last_chunk_bytes } else { run.chunk_bytes };
    let skip = if chunk == 0 { run.skip } else { 0 };
    let before = u64::from(chunk) * u64::from(run.chunk_bytes);
    let offset = run.file_offset + before.saturating_sub(u64::from(run.skip));
    let left = run.file_offset + run.length - offset;
    let length = to_u32(left.min(u64::from(chunk_length - skip)));
    let id = ChunkId { ordinal: run.first.ordinal + u64::from(chunk), ..run.first };
    Part { offset, length, id, root, chunk_length, skip }
}

fn to_u32(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("within a chunk")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::SessionId;

    fn id(ordinal: u64) -> ChunkId {
        ChunkId { session: SessionId(7), ordinal }
    }

    fn steps(extents: &Extents, start: u64, end: u64) -> Vec<Step> {
        let mut walk = Walk::new(start, end);
        let mut out = Vec::new();
        loop {
            match walk.step() {
                Step::Page { .. } => {
                    walk.load(ExtentPage { extents: extents.clone(), end: true }).expect("well-formed");
                }
                Step::End => return out,
                step => out.push(step),
            }
        }
    }

    #[test]
    fn chunks_in_a_row_become_one_run() {
        let mut builder = ExtentBuilder::new(4096);
        for (i, length) in [(0, 4096), (1, 4096), (2, 100)] {
            builder.push(i * 4096, id(i), length, i).expect("few");
        }
        builder.push(8292, id(3), 4096, 3).expect("behind a short chunk: another run");
        builder.push(20_000, id(4), 4096, 4).expect("behind a hole: another run");
        let extents = builder.take();
        assert_eq!(extents.runs.len(), 3);
        assert_eq!(extents.runs[0].count, 3);
        assert_eq!(extents.runs[0].length, 8292);
        assert_eq!(extents.roots, [0, 1, 2, 3, 4]);
        assert!(check_extents(&extents).is_ok());
        assert_eq!(builder.take(), Extents::default());
    }

    /// Ranges around every border of a file of runs, cut fronts and holes, against the owner of each byte.
    #[test]
    fn walking_agrees_with_a_list_of_bytes() {
        const K: u64 = 4096;
        let run = |file_offset, length, ordinal, count, chunk_bytes, last_chunk_bytes, skip| Run {
            file_offset,
            length,
            first: id(ordinal),
            count,
            chunk_bytes,
            last_chunk_bytes,
            skip,
        };
        let runs = vec![
            run(3, 2 * K + 1000, 10, 3, 4096, 4096, 100),
            run(2 * K + 1003, 200, 20, 1, 8192, 8192, 5),
            run(5 * K, K + 700, 30, 2, 4096, 1000, 0),
        ];
        let extents = Extents { runs: runs.clone(), roots: vec![10, 11, 12, 20, 30, 31] };
        let size = 8 * K;
        let owner = |at: u64| {
            let run =
                runs.iter().find(|run| (run.file_offset..run.file_offset + run.length).contains(&at))?;
            let in_run = at - run.file_offset + u64::from(run.skip);
            let chunk = in_run / u64::from(run.chunk_bytes);
            Some((id(run.first.ordinal + chunk), in_run % u64::from(run.chunk_bytes)))
        };
        let borders = [0, 3, K - 97, 2 * K - 97, 2 * K + 1003, 2 * K + 1203, 5 * K, 6 * K, 6 * K + 700, size];
        let points: Vec<u64> = borders
            .iter()
            .flat_map(|at| [at.saturating_sub(1), *at, at + 1])
            .filter(|at| *at <= size)
            .collect();
        for &start in &points {
            for &end in points.iter().filter(|end| **end >= start) {
                let mut at = start;
                for step in steps(&extents, start, end) {
                    match step {
                        Step::Part(part) => {
                            assert_eq!((part.offset, part.root), (at, part.id.ordinal));
                            assert!(part.skip + part.length <= part.chunk_length);
                            for i in 0..part.length {
                                assert_eq!(
                                    owner(at),
                                    Some((part.id, u64::from(part.skip + i))),
                                    "{start}..{end}"
                                );
                                at += 1;
                            }
                        }
                        Step::Hole { offset, length } => {
                            assert_eq!(offset, at);
                            assert!(length > 0);
                            for _ in 0..length {
                                assert_eq!(owner(at), None, "{start}..{end}");
                                at += 1;
                            }
                        }
                        Step::Page { .. } | Step::End => unreachable!("not listed"),
                    }
                }
                assert_eq!(at, end);
            }
        }
    }

    #[test]
    fn pages_follow_each_other() {
        let run = |offset: u64, ordinal| Run {
            file_offset: offset,
            length: 4,
            first: id(ordinal),
            count: 1,
            chunk_bytes: 4096,
            last_chunk_bytes: 4,
            skip: 0,
        };
        let page = |offset, ordinal, end| ExtentPage {
            extents: Extents { runs: vec![run(offset, ordinal)], roots: vec![ordinal] },
            end,
        };
        let mut walk = Walk::new(0, 12);
        assert_eq!(walk.step(), Step::Page { offset: 0 });
        walk.load(page(0, 1, false)).expect("well-formed");
        assert!(matches!(walk.step(), Step::Part(Part { offset: 0, .. })));
        assert_eq!(walk.step(), Step::Page { offset: 4 });
        assert_eq!(walk.load(page(0, 1, false)), Err(MalformedExtents), "no progress");
        walk.load(page(6, 2, true)).expect("well-formed");
        assert_eq!(walk.step(), Step::Hole { offset: 4, length: 2 });
        assert!(matches!(walk.step(), Step::Part(Part { offset: 6, .. })));
        assert_eq!(walk.step(), Step::Hole { offset: 10, length: 2 });
        assert_eq!(walk.step(), Step::End);
    }
}
