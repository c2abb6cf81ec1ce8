//! What a log remembers until control and its member say that it is no longer needed: see `device/lives.rs`.
//!
//! Nothing of it is written at once, but with the next event, which is asked for: both may come in one turn.

use wire::{Incarnation, Nanos};

use super::{Log, LogEffects, Stage};

impl Log {
    /// The lives before the present one that are remembered, oldest first ([`Device::lives`](crate::Device::lives)).
    pub fn lives(&self) -> &[Incarnation] {
        self.device.lives()
    }

    /// Whether recovery, now or before, cut a tail that may have been acked (R7, [`Device::recovered_cut`](crate::Device::recovered_cut)).
    pub fn recovered_cut(&self) -> bool {
        self.device.recovered_cut()
    }

    /// Whether durable batches were found damaged or lost, now or before ([`Device::lacks`](crate::Device::lacks)).
    pub fn lacks(&self) -> bool {
        self.device.lacks()
    }

    /// Control has accepted this life: those before it are forgotten, durably with the next event ([`Device::on_accepted`](crate::Device::on_accepted)). Passed over unless the log serves.
    pub fn on_accepted(&mut self, now: Nanos, incarnation: Incarnation, effects: &mut LogEffects) {
        if self.stage == Stage::Serving {
            self.device.on_accepted(incarnation);
            self.arm(now, effects);
        }
    }

    /// The group's member serves again: the marks go, durably with the next event ([`Device::on_whole`](crate::Device::on_whole)). Passed over unless the log serves.
    pub fn on_whole(&mut self, now: Nanos, effects: &mut LogEffects) {
        if self.stage == Stage::Serving {
            self.device.on_whole();
            self.arm(now, effects);
        }
    }
}
