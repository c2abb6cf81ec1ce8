//! Scrubbing: every chunk is read whole and verified against the index's root, at a rate that spreads a pass over the configured time.

use journal::entry::payload_blocks;
use wire::{ChunkId, Memory, Nanos};

use super::Store;
use super::read::Reader;
use crate::api::{Effects, ScrubControl};

/// However little is stored, a pass isn't slower than this.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// Where there is no buffer, or nothing to scrub, scrubbing waits this long.
const WAIT_NANOS: u64 = Nanos::SECOND;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Scrubber {
    active: bool,
    cursor: Option<ChunkId>,
    bytes_per_second: u64,
    reading: bool,
    due: Nanos,
}

impl Scrubber {
    /// When the next chunk is due.
    pub(super) fn due(&self) -> Option<Nanos> {
        (self.active && !self.reading).then_some(self.due)
    }
}

impl Store {
    pub(super) fn start_scrub_if_configured(&mut self, now: Nanos) {
        if self.config.scrub {
            self.scrubber = Scrubber { active: true, due: now.after(WAIT_NANOS), ..Scrubber::default() };
        }
    }

    pub(super) fn on_scrub(&mut self, now: Nanos, control: ScrubControl) {
        let reading = self.scrubber.reading;
        self.scrubber = match control {
            ScrubControl::Start { bytes_per_second } => {
                Scrubber { active: true, bytes_per_second, due: now, reading, cursor: None }
            }
            ScrubControl::Stop => Scrubber { reading, ..Scrubber::default() },
        };
    }

    fn scrub_rate(&self) -> u64 {
        if self.scrubber.bytes_per_second > 0 {
            return self.scrubber.bytes_per_second;
        }
        let live = self.device.segments().live_blocks() * 4096;
        let seconds = (self.config.scrub_pass / Nanos::SECOND).max(1);
        // A tenth faster than needed, for what arrives meanwhile.
        (live / seconds * 11 / 10).max(BYTES_PER_SECOND_MIN)
    }

    pub(super) fn pump_scrub<M: Memory>(&mut self, now: Nanos, memory: &mut M, effects: &mut Effects) {
        if self.scrubber.due().is_none_or(|due| now < due) {
            return;
        }
        let Some(entry) = self.index.after(self.scrubber.cursor).next() else {
            self.end_pass(now);
            return;
        };
        let blocks = 0..payload_blocks(entry.length);
        if !self.begin_read(Reader::Scrubber, &entry, blocks, memory, effects) {
            self.scrubber.due = now.after(WAIT_NANOS);
            return;
        }
        self.scrubber.cursor = Some(entry.id);
        self.scrubber.reading = true;
        let nanos = u128::from(entry.length) * u128::from(Nanos::SECOND) / u128::from(self.scrub_rate());
        self.scrubber.due = now.after(u64::try_from(nanos).unwrap_or(u64::MAX));
    }

    fn end_pass(&mut self, now: Nanos) {
        if self.scrubber.cursor.is_some() {
            self.metrics.scrub_passes += 1;
        }
        self.scrubber.cursor = None;
        self.scrubber.bytes_per_second = 0;
        self.scrubber.active = self.config.scrub;
        self.scrubber.due = now.after(WAIT_NANOS);
    }

    /// A chunk was read; so many bytes of it are good.
    pub(super) fn on_scrubbed(&mut self, now: Nanos, good_bytes: u64) {
        self.scrubber.reading = false;
        self.metrics.scrubbed_bytes += good_bytes;
        self.scrubber.due = self.scrubber.due.max(now);
    }
}
