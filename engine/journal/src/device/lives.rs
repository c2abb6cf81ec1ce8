//! What a store remembers until its owner says that it is no longer needed: the lives before the present one, and what recovery has cut or missed.
//!
//! ```text
//!            the new life's superblock               on_accepted, on_whole
//!  opening ────────────────────────────► remembered ──────────────────────► forgotten in memory ─→ with the next superblock
//! ```
//! A life and what its recovery found become durable in one write, and before the store is reported. Forgetting may come late: a life or a mark that is
//! remembered for too long makes control more careful, never less.

use wire::control::next_incarnation;
use wire::limits::STORE_LIVES_MAX;
use wire::{Incarnation, Memory};

use super::superblocks::Covers;
use super::{Device, Stage};
use crate::io::IoEffects;

impl Device {
    /// The lives before the present one since control is known to have accepted one, that one included; oldest first, at most
    /// [`STORE_LIVES_MAX`]. Where there were more, those behind the oldest are dropped, oldest first: the oldest is the likeliest that control knows.
    /// Empty until the store is open, and in the first life.
    pub fn lives(&self) -> &[Incarnation] {
        self.superblock.as_ref().map_or(&[], |superblock| &superblock.lives)
    }

    /// Whether this life's recovery, or an earlier one's, cut a tail that may have been acked, and not all that was served here serves again (R7).
    pub fn recovered_cut(&self) -> bool {
        self.superblock.as_ref().is_some_and(|superblock| superblock.recovered_cut)
    }

    /// Whether batches that were durable were found damaged or lost, in this life or an earlier one, and not all that was served here serves
    /// again (R8, R29).
    pub fn lacks(&self) -> bool {
        self.superblock.as_ref().is_some_and(|superblock| superblock.lacks)
    }

    /// Control has accepted this life, the present one or one before it: it asks for none before it any more. Another one's news, and news that come when
    /// nothing is served, are passed over.
    pub fn on_accepted(&mut self, incarnation: Incarnation) {
        if self.stage != Stage::Serving {
            return;
        }
        let superblock = self.superblock.as_mut().expect("known while serving");
        let is_known = incarnation == superblock.incarnation || superblock.lives.contains(&incarnation);
        let before = superblock.lives.len();
        superblock.lives.retain(|life| !is_known || *life >= incarnation);
        self.writer.news |= superblock.lives.len() < before;
    }

    /// All members that this store has serve again: what was cut or lost is here, or is said to be missing. Passed over when nothing is served.
    pub fn on_whole(&mut self) {
        if self.stage != Stage::Serving {
            return;
        }
        let superblock = self.superblock.as_mut().expect("known while serving");
        let had_cut = std::mem::take(&mut superblock.recovered_cut);
        let had_damage = std::mem::take(&mut superblock.lacks);
        self.writer.news |= had_cut || had_damage;
    }

    /// Whether the superblock has news that the next [`Device::advance`] writes. It waits for that, so that one write has all that comes at once.
    pub fn has_news(&self) -> bool {
        self.writer.news && self.stage == Stage::Serving
    }

    pub(super) fn write_news<M: Memory>(&mut self, memory: &mut M, io: &mut IoEffects) {
        if self.has_news() {
            self.writer.news = false;
            self.write_superblock(Covers::default(), memory, io);
        }
    }

    /// Recovery is over: the next life, and what it has to remember (I4).
    pub(super) fn begin_life(&mut self) {
        let random = self.config.life_random;
        let (is_cut, is_damaged) = self.opening.as_ref().map_or((false, false), |opening| {
            (opening.walk.recovered_cut || opening.lost_its_end, opening.lacks || opening.lost_its_end)
        });
        let superblock = self.superblock.as_mut().expect("known");
        let previous = superblock.incarnation;
        let taken_over = self.config.takes_over;
        superblock.incarnation = next_incarnation(previous.max(taken_over.unwrap_or_default()), random);
        // Before its first life a store has none.
        if previous > Incarnation(0) {
            superblock.lives.push(previous);
        }
        // The operator says so: what that life had beyond this is given up.
        if let Some(life) = taken_over.filter(|life| !superblock.lives.contains(life)) {
            superblock.lives.push(life);
        }
        if superblock.lives.len() > STORE_LIVES_MAX {
            superblock.lives.remove(1);
        }
        superblock.recovered_cut |= is_cut || taken_over.is_some();
        superblock.lacks |= is_damaged || taken_over.is_some();
    }
}
