//! How many of a store's reads are with the disk at once.
//!
//! Some disks tell of completions only when they have nothing left to do: a virtual one whose host takes requests off the queue until it is empty, and raises
//! one interrupt then. With all reads there, disk and core take turns, and one is idle while the other works. So while completions come in bursts, a
//! quarter of the reads is kept back: it goes to the disk when a burst arrives, before the burst's answers are made and sent. A disk that completes
//! reads one by one gets all of them at once.

/// So many reads may always be with the disk.
const ALWAYS: usize = 16;
/// A share is counted in so many parts.
const WHOLE: usize = 1024;
/// From here on completions count as bursts: turns that take them see this share of the reads in flight end.
const BURST: usize = WHOLE / 4;
/// A turn counts for one of so many parts of the average.
const WEIGHT: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ReadDepth {
    /// Reads with the disk.
    in_flight: usize,
    /// Reads that were there when the turn began.
    at_first: usize,
    /// Reads that have ended in this turn.
    ended: usize,
    /// What share of those in flight ends in a turn in which any do, on average.
    share: usize,
}

impl ReadDepth {
    /// Whether one of the reads that wait may go to the disk.
    pub(crate) fn admits(&self, waiting: usize) -> bool {
        let all = self.in_flight + waiting;
        self.in_flight < ALWAYS || self.share < BURST || self.in_flight < all - all / 4
    }

    /// A read goes to the disk.
    pub(crate) fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// A read has ended.
    pub(crate) fn end(&mut self) {
        self.in_flight -= 1;
        self.ended += 1;
    }

    /// A turn ends: what has ended in it was told at once.
    pub(crate) fn end_turn(&mut self) {
        if self.ended > 0 {
            // A few reads that end together are no burst.
            let share = WHOLE * self.ended.min(self.at_first) / self.at_first.max(ALWAYS);
            self.share = (self.share * (WEIGHT - 1) + share) / WEIGHT;
        }
        self.at_first = self.in_flight;
        self.ended = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns with `all` reads wanted at any time, of which `ends` at once; returns how many are with the disk in the end.
    fn settle(depth: &mut ReadDepth, all: usize, ends: usize) -> usize {
        for _ in 0..64 {
            for _ in 0..ends.min(depth.in_flight) {
                depth.end();
            }
            while depth.in_flight < all && depth.admits(all - depth.in_flight) {
                depth.begin();
            }
            depth.end_turn();
        }
        depth.in_flight
    }

    #[test]
    fn a_quarter_is_kept_back_while_completions_come_in_bursts() {
        let mut depth = ReadDepth::default();
        assert_eq!(settle(&mut depth, 64, 64), 48);
        assert_eq!(settle(&mut depth, 64, 2), 64, "one by one: all of them");
        assert_eq!(settle(&mut depth, 128, 96), 96);
    }

    #[test]
    fn few_reads_are_never_kept_back() {
        let mut depth = ReadDepth::default();
        for all in [1, 4, 16] {
            assert_eq!(settle(&mut depth, all, all), all);
        }
    }
}
