//! A reader that finds a file, compacts it (R26), and reads it then. Nobody may see that: it leaves no record, and the reading is one like any other.
//!
//! ```text
//! Opening ─→ Putting ─→ Committing ─→ the reading begins anew, whatever came of it
//! ```

use client::core::{Call, Done, Failure, UploadId};
use wire::meta::{Compact, Entry, Extents, Operation, Place, Run};
use wire::{MapNumber, Memory, Status};

use super::{GROUP, Part, Reading, Setting, Stored, Wish};

/// A compaction under way.
#[derive(Debug)]
pub(super) struct Compacting {
    entry: Box<Entry>,
    bytes: Vec<u8>,
    /// New chunks: where they begin in the file, and their bytes.
    chunks: Vec<(u64, u64)>,
    stored: Vec<Option<Stored>>,
    left: usize,
    upload: Option<UploadId>,
    /// Whether it was committed.
    pub(super) is_done: bool,
}

impl Compacting {
    /// With the whole file's bytes at hand; `None` where it has none, but holes at most.
    pub(super) fn begin(setting: Setting, reading: &Reading, wishes: &mut Vec<Wish>) -> Option<Self> {
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for run in &reading.extents.runs {
            match stretches.last_mut() {
                Some((start, length)) if *start + *length == run.file_offset => *length += run.length,
                _ => stretches.push((run.file_offset, run.length)),
            }
        }
        let mut chunks = Vec::new();
        for (start, length) in stretches {
            let count = length.div_ceil(setting.chunk_bytes);
            let chunk = |number: u64| {
                let at = number * setting.chunk_bytes;
                (start + at, setting.chunk_bytes.min(length - at))
            };
            chunks.extend((0..count).map(chunk));
        }
        if chunks.is_empty() || reading.from > 0 {
            return None;
        }
        wishes.push(Wish::Call(0, Call::OpenUpload { group: GROUP }));
        let (entry, bytes, left) = (reading.entry.clone(), reading.bytes.clone(), chunks.len());
        let stored = vec![None; chunks.len()];
        Some(Self { entry, bytes, chunks, stored, left, upload: None, is_done: false })
    }

    /// Nobody goes on with it.
    pub(super) fn close(&self, wishes: &mut Vec<Wish>) {
        wishes.extend(self.upload.map(Wish::CloseUpload));
    }

    /// Takes a call's result; whether that was the last one.
    pub(super) fn on_done(
        &mut self,
        setting: Setting,
        part: Part,
        result: Result<Done, Failure>,
        memory: &mut impl Memory,
        wishes: &mut Vec<Wish>,
    ) -> bool {
        match result {
            Ok(Done::Upload { upload, .. }) => {
                self.upload = Some(upload);
                for (part, &(offset, length)) in self.chunks.iter().enumerate() {
                    let at = |byte: u64| usize::try_from(byte).expect("small files");
                    let bytes = &self.bytes[at(offset)..at(offset + length)];
                    let slot = memory
                        .allocate(bytes.len())
                        .expect("a client's arena holds what its tasks have in flight");
                    memory.bytes_mut(slot)[..bytes.len()].copy_from_slice(bytes);
                    let length = u32::try_from(length).expect("a chunk");
                    wishes.push(Wish::Call(part, Call::PutChunk { upload, slot, length }));
                }
                return false;
            }
            Ok(Done::Chunk { id, root, map }) => self.stored[part] = Some(Stored { id, root, map }),
            Ok(Done::Outcome(outcome)) => {
                self.is_done = outcome.status == Status::Ok;
                self.left = 0;
            }
            Ok(other) => panic!("a compaction was answered with {other:?}"),
            Err(_) if self.upload.is_none() || self.left == 0 => self.left = 0,
            Err(_) => {}
        }
        if self.left > 1 {
            self.left -= 1;
            return false;
        }
        let is_stored = std::mem::replace(&mut self.left, 0) == 1 && self.stored.iter().all(Option::is_some);
        if !is_stored {
            self.close(wishes);
            return true;
        }
        let operation = Box::new(self.operation(setting));
        wishes.push(Wish::Call(0, Call::Mutate { group: GROUP, upload: self.upload, operation }));
        false
    }

    fn operation(&self, setting: Setting) -> Operation {
        let stored = || self.stored.iter().flatten();
        let run = |(&(file_offset, length), chunk): (&(u64, u64), &Stored)| {
            let last_chunk_bytes = u32::try_from(length).expect("a chunk");
            let chunk_bytes = u32::try_from(setting.chunk_bytes).expect("a chunk");
            let first = chunk.id;
            Run { file_offset, length, first, count: 1, chunk_bytes, last_chunk_bytes, skip: 0 }
        };
        let runs = self.chunks.iter().zip(stored()).map(run).collect();
        let attributes = &self.entry.attributes;
        Operation::Compact(Compact {
            place: Place { volume: setting.volume, directory: attributes.inode, path: Vec::new() },
            version: attributes.version,
            layout: attributes.layout,
            extents: Extents { runs, roots: stored().map(|chunk| chunk.root).collect() },
            map: stored().map(|chunk| chunk.map).min().unwrap_or(MapNumber(1)),
        })
    }
}
