//! What a unit's thread has to say to the control agent.

use std::collections::BTreeSet;

use journal::log::Log;
use runtime::Sender;
use store::Store;
use wire::control::{LogEnd, StoreBeat};
use wire::map::Unit;
use wire::{MapNumber, StoreId};

use crate::control_thread::{ControlMail, UnitBeat};

/// See the module.
#[derive(Debug)]
pub(crate) struct Teller {
    control: Sender<ControlMail>,
    pub(crate) unit: Unit,
    pub(crate) store: StoreId,
    /// The map that the unit follows; 0: none.
    pub(crate) followed: MapNumber,
    /// Stores that don't answer.
    suspects: BTreeSet<StoreId>,
    has_news: bool,
}

impl Teller {
    pub(crate) fn new(control: Sender<ControlMail>, unit: Unit, store: StoreId) -> Self {
        Self { control, unit, store, followed: MapNumber(0), suspects: BTreeSet::new(), has_news: false }
    }

    /// What isn't taken is said again with the next beat, or after the next map.
    pub(crate) fn tell(&self, mail: ControlMail) {
        if self.control.send(mail).is_err() && !self.control.is_closed() {
            tracing::warn!("the control thread is behind with its mail");
        }
    }

    pub(crate) fn beat(&self, beat: StoreBeat, log_end: LogEnd, (recovered_cut, lacks): (bool, bool)) {
        let (unit, followed) = (self.unit, self.followed);
        self.tell(ControlMail::Unit(UnitBeat { unit, beat, followed, log_end, recovered_cut, lacks }));
    }

    pub(crate) fn suspect(&mut self, store: StoreId, is_suspect: bool) {
        self.has_news |= if is_suspect { self.suspects.insert(store) } else { self.suspects.remove(&store) };
    }

    pub(crate) fn tell_suspects(&mut self) {
        if std::mem::take(&mut self.has_news) {
            self.tell(ControlMail::Suspects(self.unit, self.suspects.iter().copied().collect()));
        }
    }
}

/// Whether the store's recovery cut a tail, and whether it missed something.
pub(crate) fn marks(store: &Store) -> (bool, bool) {
    let cut = store.opened().is_some_and(|opened| opened.recovered_cut);
    (
        cut,
        store.metrics().chunks_damaged > 0 || store.metrics().batches_damaged > 0 || store.chunks_lost() > 0,
    )
}

/// The same of a metadata log.
pub(crate) fn log_marks(log: &Log) -> (bool, bool) {
    (log.opened().is_some_and(|opened| opened.recovered_cut), log.loss().is_some())
}
