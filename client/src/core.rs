//! The client's logic: a pure state machine, driven by events, acting by effects. No socket, clock, thread or randomness in it.
//!
//! It speaks frames: the driver connects, sends and receives; callers' calls come in as [`Event::Call`] and go out as [`Effect::Finished`]. Chunk bytes are
//! slots of a [`Memory`]. Files are not known here, only chunks: cutting and reading ahead are [`crate::Upload`]'s and [`crate::Download`]'s, planned by
//! [`extents`].
//!
//! **Invariants.** A mutation's copies all carry one session and sequence (I7). It is reported failed only if every copy sent was answered
//! "not executed" (R14). Bytes are handed out only after they matched the root that the caller named (I11). A chunk id is given out once (I1). Chunk bytes
//! in flight stay within the window. Everything that waits has a timer.
//!
//! Layout: `effect` (what goes in and out), `request`, `link`, `session` (state), `call` (calls come in), `route` (where requests go), `send`, `receive`,
//! `settle` (how they end), `directory` (the cluster map), `watch` (what takes too long), `upkeep` (timers, keepalives, pins).

mod call;
mod directory;
mod effect;
pub mod extents;
mod link;
mod random;
mod receive;
mod request;
mod route;
mod send;
mod session;
mod settle;
mod timers;
mod upkeep;
mod watch;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wire::message::Encoder;
use wire::{Memory, Nanos};

pub use effect::{
    Call, Done, Effect, Effects, Event, Failure, GetCall, HeadRange, LinkNumber, PayloadPlace, ReadId,
    SlotPart, Ticket, UploadId,
};
pub use link::{LINK_IDLE, LINKS_MAX};
pub use session::{SESSION_AGE_MAX, SESSION_CHUNKS_MAX};

use directory::Directory;
use link::Links;
use random::Random;
use request::{RequestId, Requests};
use session::Sessions;
use timers::Timers;
use upkeep::{Read, Timer};
use watch::Watch;

/// What a core is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the cluster map is asked for first, `host:port`; not empty.
    pub endpoints: Vec<Arc<str>>,
    /// Who this is, for the servers' logs.
    pub name: String,
    /// Chunk bytes in flight, at most; one chunk is let through whatever its size.
    pub window_bytes: u64,
    /// Seed of the jitter.
    pub seed: u64,
}

/// A client's state.
pub struct Core {
    settings: Settings,
    random: Random,
    timers: Timers<Timer>,
    directory: Directory,
    links: Links,
    sessions: Sessions,
    requests: Requests,
    reads: BTreeMap<ReadId, Read>,
    last_read: u64,
    encoder: Encoder,
    last_correlation: u64,
    /// Chunk bytes of admitted requests.
    window_used: u64,
    /// Requests that wait for room in the window, oldest first.
    window_queue: VecDeque<RequestId>,
    /// Requests that can go a step further.
    work: VecDeque<RequestId>,
    armed: Option<Nanos>,
    is_shut: bool,
    /// When chunks moved on any connection.
    last_moved: Nanos,
    watch: Watch,
}

/// What every step needs from outside.
struct Context<'a> {
    now: Nanos,
    memory: &'a mut dyn Memory,
    effects: &'a mut Effects,
}

/// Numbers of what a core holds now, for tests and logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that aren't finished, the core's own included.
    pub requests: usize,
    /// Connections, opening ones included.
    pub links: usize,
    /// Uploads that aren't closed.
    pub uploads: usize,
    /// Chunk bytes of admitted requests.
    pub window_bytes: u64,
}

impl Core {
    /// A client that knows nothing but its endpoints.
    pub fn new(settings: Settings) -> Self {
        assert!(!settings.endpoints.is_empty(), "the configuration was checked");
        let random = Random::new(settings.seed);
        Self {
            settings,
            random,
            timers: Timers::new(),
            directory: Directory::default(),
            links: Links::default(),
            sessions: Sessions::default(),
            requests: Requests::default(),
            reads: BTreeMap::new(),
            last_read: 0,
            encoder: Encoder::new(),
            last_correlation: 0,
            window_used: 0,
            window_queue: VecDeque::new(),
            work: VecDeque::new(),
            armed: None,
            is_shut: false,
            last_moved: Nanos(0),
            watch: Watch::default(),
        }
    }

    /// Takes one event; what follows from it is appended to `effects`. The answer says where a head's payload goes, and is
    /// [`PayloadPlace::None`] for all other events.
    pub fn handle(
        &mut self,
        now: Nanos,
        event: Event<'_>,
        memory: &mut dyn Memory,
        effects: &mut Effects,
    ) -> PayloadPlace {
        let cx = &mut Context { now, memory, effects };
        let mut place = PayloadPlace::None;
        match event {
            Event::Call { ticket, call, patience } => self.on_call(cx, ticket, call, patience),
            Event::Cancel { ticket } => self.on_cancel(cx, ticket),
            Event::CloseUpload(upload) => self.on_close_upload(cx, upload),
            Event::CloseRead(read) => self.on_close_read(cx, read),
            Event::Shutdown => self.on_shutdown(cx),
            Event::LinkUp(link) => self.on_link_up(cx, link),
            Event::LinkDown { link, reason } => self.on_link_down(cx, link, reason),
            Event::Head { link, prefix, message } => place = self.on_head(cx, link, prefix, message),
            Event::Payload(link) => self.on_payload(cx, link),
            Event::Tick => self.on_tick(cx),
        }
        while let Some(request) = self.work.pop_front() {
            self.advance(cx, request);
        }
        self.arm(cx);
        self.assert_invariants();
        place
    }

    /// What the core holds now.
    pub fn counts(&self) -> Counts {
        Counts {
            requests: self.requests.len(),
            links: self.links.len(),
            uploads: self.sessions.upload_count(),
            window_bytes: self.window_used,
        }
    }

    /// Reads that were asked of a second replica.
    #[cfg(test)]
    fn hedges(&self) -> u64 {
        self.watch.hedges
    }

    fn arm(&mut self, cx: &mut Context<'_>) {
        if let Some(next) = self.timers.next()
            && (self.armed.is_none_or(|armed| armed != next))
        {
            self.armed = Some(next);
            cx.effects.push(Effect::Arm(next));
        }
    }

    fn assert_invariants(&self) {
        assert!(self.links.len() <= LINKS_MAX, "R43");
        assert!(
            self.window_used <= self.settings.window_bytes.max(u64::from(wire::limits::CHUNK_BYTES_MAX)),
            "I13: the window bounds chunk bytes in flight"
        );
        assert!(
            self.window_queue.is_empty() || self.window_used > 0,
            "somebody in the window lets others in"
        );
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
