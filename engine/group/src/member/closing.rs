//! The member's end: in order, or because it begins anew.
//!
//! ```text
//!  Draining ──(all records durable)──► Checkpointing ──► Ending ──► Note::Ended
//!     └──(it begins anew, or holds what others haven't committed)──►┘
//! ```

use replica::Event;
use wire::Memory;

use super::{Member, Phase};
use crate::effects::{Clock, Effects, Turn};

/// How far an orderly end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// Entries aren't durable yet, or a checkpoint is under way.
    Draining,
    /// The last checkpoint is under way.
    Checkpointing,
    /// The log ends.
    Ending,
}

impl Member {
    /// Everything that was accepted is finished, then the state is checkpointed and the log ends ([`Note::Ended`](crate::Note::Ended)).
    pub fn on_shutdown(&mut self, clock: Clock, memory: &mut impl Memory, effects: &mut Effects) {
        let mut turn = Turn { clock, memory, effects };
        self.is_restarting = false;
        if self.closing.is_none() {
            self.closing = Some(Closing::Draining);
            // From now on nothing is logged: no upkeep, no request, no answer of a store.
            self.tick_at = None;
            self.log.submit(&mut turn);
        }
        self.settle(&mut turn);
    }

    /// The next step of an orderly end, if its time has come.
    pub(super) fn advance_closing<M: Memory>(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some(closing) = self.closing else { return false };
        let next = match (closing, &self.phase) {
            (Closing::Ending, _) => return false,
            // Nothing was answered yet, or nothing can be written any more.
            (_, Phase::Recovering(_) | Phase::Ended) => Closing::Ending,
            _ if self.log.is_checkpointing() => return false,
            (Closing::Checkpointing, _) => Closing::Ending,
            (Closing::Draining, Phase::Serving(replica)) => {
                let is_drained =
                    if self.is_restarting { self.log.has_taken_all() } else { replica.is_written() };
                let is_whole = is_drained && !self.is_restarting && replica.is_whole();
                if !is_drained && !self.log.is_full(turn) {
                    return false;
                }
                // Entries for which there is no space were never acknowledged; those that others haven't committed yet are left as they are.
                let has_more = is_whole && !self.log.ends_at_checkpoint();
                if has_more { Closing::Checkpointing } else { Closing::Ending }
            }
        };
        self.closing = Some(next);
        match next {
            Closing::Checkpointing => self.handle(Event::BeginCheckpoint, turn),
            Closing::Draining | Closing::Ending => self.log.close(turn),
        }
        true
    }
}
