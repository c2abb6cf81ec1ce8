//! What the network did to requests, as servers see it: connections keep order, but clients ask again over others, so that requests arrive twice and out of
//! order. Only counted: whether the node and the clients bear it, the checker says.

use std::collections::{BTreeMap, BTreeSet};

use wire::message::Request;
use wire::{ChunkId, PREFIX_BYTES, Prefix, Sequence, SessionId};

use crate::report::Tally;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    mutations: BTreeSet<(SessionId, Sequence)>,
    highest: BTreeMap<SessionId, Sequence>,
    chunks: BTreeSet<ChunkId>,
    mutations_again: u64,
    mutations_overtaken: u64,
    chunks_again: u64,
}

impl Repeats {
    /// A request's head arrived at a server.
    pub(crate) fn on_head(&mut self, head: &[u8]) {
        let Some((bytes, message)) = head.split_first_chunk::<PREFIX_BYTES>() else { return };
        let Ok(prefix) = Prefix::decode(bytes) else { return };
        match Request::decode(prefix.kind, message) {
            Ok(Request::Mutate(mutation)) => {
                let (session, sequence) = (mutation.session, mutation.sequence);
                self.mutations_again += u64::from(!self.mutations.insert((session, sequence)));
                let highest = self.highest.entry(session).or_insert(sequence);
                self.mutations_overtaken += u64::from(sequence < *highest);
                *highest = sequence.max(*highest);
            }
            Ok(Request::PutChunk(put)) => self.chunks_again += u64::from(!self.chunks.insert(put.id)),
            _ => {}
        }
    }

    /// Adds what it counted.
    pub(crate) fn tally(&self, tally: &mut Tally) {
        tally.add("network", "mutations delivered again", self.mutations_again);
        tally.add("network", "mutations overtaken", self.mutations_overtaken);
        tally.add("network", "chunks delivered again", self.chunks_again);
    }
}
