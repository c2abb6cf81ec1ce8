//! The member's place in its chain: epochs, roles, and what is committed.
//!
//! ```text
//!          Prepared(e): sealed                      Active(e)
//!  any role ────────────► Idle ──────────────────────┬─► Head      applies its whole queue, unless it led before and never stopped
//!                         (a leader's state stays    ├─► Follower, Learner, Idle
//!                          ahead; answers wait)      └─► it led, executed what isn't committed, and leads no more: Restart
//! ```
//! - A member acks, answers and sends in the active epoch alone, and takes nothing of another one (R1): [`Chain::acts_in`].
//! - Only a head's state runs ahead of the commit index. It is never rolled back: [`Replica::restart`].
//! - A promise is given when everything received is durable ([`Replica::promise`]): a member that begins anew between promise and activation has what its successors have.
//! - A head of more than itself leads only in an epoch that it promised in this life ([`Replica::may_lead`]): in its life before it may have shipped entries of
//!   that epoch that its log then lost, and others of the same index and epoch would take their place.

use wire::map::{Phase, ReplicaState};
use wire::planted::{Bug, planted};
use wire::{CommitIndex, Epoch, Nanos, Status, StoreId};

use crate::answers::refuse_at_once;
use crate::config::{LINK_INTERVAL, ReplicaConfig};
use crate::event::{Effect, Effects, Trouble};
use crate::record::Entry;
use crate::replica::{Asker, Now, Replica};
use crate::sessions::Heard;
use crate::view::{ChainView, Role};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// `None`: there is no chain.
    me: Option<StoreId>,
    view: Option<ChainView>,
    role: Role,
    /// The state is ahead of the commit index, as a head's is, since it last became one.
    leads: bool,
    /// The epoch that was promised last in this life.
    promised: Epoch,
    /// The prepared epoch whose promise waits for what was received before to be durable.
    sealing: Option<Epoch>,
    /// The last entry of earlier epochs, once it is known in this one.
    base: Option<CommitIndex>,
    /// Ended: restarted by the driver, or in trouble.
    stopped: bool,
    /// When links are looked after next.
    pub(crate) next: Nanos,
}

impl Chain {
    pub(crate) fn new(config: &ReplicaConfig, now: Nanos) -> Self {
        let alone = config.store.is_none();
        Self {
            me: config.store,
            view: None,
            role: if alone { Role::Head } else { Role::Idle },
            leads: alone,
            promised: Epoch(0),
            sealing: None,
            base: None,
            stopped: false,
            next: now,
        }
    }

    /// What the member does now.
    pub(crate) fn role(&self) -> Role {
        if self.stopped { Role::Idle } else { self.role }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.role() == Role::Head
    }

    /// Whether the state holds everything received, committed or not.
    pub(crate) fn leads(&self) -> bool {
        self.leads
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The epoch of the view; 0 without one.
    pub(crate) fn epoch(&self) -> Epoch {
        self.view.as_ref().map_or(Epoch(0), |view| view.epoch)
    }

    /// Whether this epoch is the active one, and this member does something in it (R1).
    pub(crate) fn acts_in(&self, epoch: Epoch) -> bool {
        self.role() != Role::Idle && self.epoch() == epoch
    }

    fn in_chain(&self) -> Option<(StoreId, &ChainView)> {
        Some((self.me?, self.view.as_ref()?))
    }

    /// Whether enough members serve for mutations (R6).
    pub(crate) fn is_in_sync(&self) -> bool {
        self.view.as_ref().is_none_or(|view| view.serving_count() >= usize::from(view.min_in_sync))
    }

    /// Whether this member answers queries.
    pub(crate) fn is_reader(&self) -> bool {
        let reads = |(me, view): (StoreId, &ChainView)| {
            let learner = planted(Bug::ChainReadsAtLearner) && view.role_of(me) == Role::Learner;
            self.role() != Role::Idle && (view.reader() == Some(me) || learner)
        };
        if self.me.is_none() { self.is_head() } else { self.in_chain().is_some_and(reads) }
    }

    /// Whether the last flush that an ack waits for is this member's.
    pub(crate) fn is_last_acker(&self) -> bool {
        let last = |(me, view): (StoreId, &ChainView)| view.last_acker() == Some(me);
        self.role() != Role::Idle && (self.me.is_none() || self.in_chain().is_some_and(last))
    }

    pub(crate) fn state(&self) -> Option<ReplicaState> {
        self.me.and_then(|me| self.state_of(me))
    }

    pub(crate) fn state_of(&self, store: StoreId) -> Option<ReplicaState> {
        self.view.as_ref().and_then(|view| view.state_of(store))
    }

    /// Who sends this member its entries, in the active epoch.
    pub(crate) fn upstream(&self) -> Option<StoreId> {
        if matches!(self.role(), Role::Idle | Role::Head) {
            return None;
        }
        self.in_chain().and_then(|(me, view)| view.upstream_of(me))
    }

    /// What `store` is to this member as a subscriber, if it may be one: whether it is a learner.
    pub(crate) fn subscriber(&self, store: StoreId) -> Option<bool> {
        let (me, view) = self.in_chain().filter(|_| self.role() != Role::Idle)?;
        (view.upstream_of(store) == Some(me)).then(|| view.role_of(store) == Role::Learner)
    }

    /// Members other than this one whose promise may end the epoch (R13, R19).
    pub(crate) fn others(&self) -> impl Iterator<Item = StoreId> {
        self.view.iter().flat_map(|view| view.ackers().filter(|store| Some(*store) != self.me))
    }

    pub(crate) fn has_others(&self) -> bool {
        self.others().next().is_some()
    }

    pub(crate) fn base(&self) -> Option<CommitIndex> {
        self.base
    }

    pub(crate) fn set_base(&mut self, base: CommitIndex) {
        self.base = Some(base);
    }

    pub(crate) fn generation(&self, config: &ReplicaConfig) -> u16 {
        self.view.as_ref().map_or(config.generation, |view| view.generation)
    }
}

impl Replica {
    /// The chain has changed.
    pub(crate) fn on_chain(&mut self, now: Now, view: &ChainView, effects: &mut Effects) {
        let me = self.chain.me.expect("only a replica with a store has a chain");
        let known = self.chain.view.as_ref().map(|known| (known.epoch, known.phase));
        if self.chain.stopped || known.is_some_and(|known| known > (view.epoch, view.phase)) {
            return; // I4
        }
        if view.phase == Phase::Prepared {
            self.chain.promised = view.epoch;
            self.chain.sealing = Some(view.epoch);
            if planted(Bug::ChainServesSealed) {
                return effects.list.push(Effect::Sealed { epoch: view.epoch });
            }
        }
        let first_acker = view.ackers().next();
        assert!(view.head().is_none() || first_acker == view.head(), "joiners come behind the head");
        let enters = known != Some((view.epoch, view.phase));
        self.chain.view = Some(view.clone());
        self.chain.next = now.nanos;
        match view.phase {
            Phase::Prepared => self.seal(effects),
            Phase::Active if enters => {
                self.seal(effects);
                self.chain.sealing = None;
                self.chain.base = None;
                self.enter(now, view.role_of(me), effects);
            }
            Phase::Active => {
                // Joiners became Serving, or members outside the acks came or went: the acks' members are the same all epoch long.
                self.chain.role = if self.chain.is_head() { Role::Head } else { self.role_in(view, me) };
                self.keep_links(now.nanos);
            }
        }
        if !self.chain.is_stopped() && !self.chain.is_reader() {
            self.refuse_fenced(effects);
        }
        self.advance(now.nanos, effects);
        self.promise(effects);
    }

    /// The promise may be given: nothing that this member has received can be lost with this life any more (I5).
    pub(crate) fn promise(&mut self, effects: &mut Effects) {
        if self.own.durable_record() == self.own.last()
            && let Some(epoch) = self.chain.sealing.take()
        {
            effects.list.push(Effect::Sealed { epoch });
        }
    }

    fn role_in(&self, view: &ChainView, me: StoreId) -> Role {
        match view.role_of(me) {
            Role::Head => self.chain.role, // decided when the epoch began
            role => role,
        }
    }

    /// Whatever was said, asked or promised in the epoch before is void (R1).
    fn seal(&mut self, effects: &mut Effects) {
        self.chain.role = Role::Idle;
        self.upstream.reset(None);
        self.downstream.clear();
        self.refuse_fenced(effects);
        self.fence.end_epoch();
    }

    /// The epoch is active, and this is the member's part in it.
    fn enter(&mut self, now: Now, role: Role, effects: &mut Effects) {
        if role == Role::Head {
            if self.may_lead() {
                self.lead(now, effects);
            }
            return;
        }
        if self.chain.leads {
            if self.committed < self.history.last() {
                return self.restart(effects);
            }
            self.step_down();
        }
        self.chain.role = role;
        self.keep_links(now.nanos);
    }

    fn may_lead(&self) -> bool {
        let chain = &self.chain;
        let is_only_acker = !chain.has_others();
        !self.upstream.is_hollow() && (chain.leads || is_only_acker || chain.promised == chain.epoch())
    }

    /// Becomes the head, or stays it in the new epoch.
    fn lead(&mut self, now: Now, effects: &mut Effects) {
        if !self.chain.leads {
            if planted(Bug::ChainHeadDropsQueue) && self.history.last() > self.committed {
                let after = self.committed;
                self.cut(after, effects);
            }
            if !self.apply_upto(self.history.last(), effects) {
                return;
            }
            if planted(Bug::ChainHeadForgetsResults) {
                self.state.results = namespace::Tree::default();
                let sessions: Vec<_> = self.state.sessions.iter().map(|(session, _)| *session).collect();
                for session in sessions {
                    self.state.sessions.insert(session, crate::state::Session::default());
                }
            }
            let generation = self.chain.generation(&self.config);
            if generation < self.state.generation {
                return self.stop(Trouble::Generation(generation), effects);
            }
            self.chain.leads = true;
            self.orphans = self.orphans.again(now.nanos);
        }
        self.chain.role = Role::Head;
        self.chain.base = Some(self.history.last());
        // Each new head grants a full TTL (R22), and reclaims nothing that a reader may have pinned elsewhere, or couldn't pin while nobody led (R25). One that goes
        // on is treated alike: while the epoch changed it heard nobody.
        self.heard = Heard::all(&self.state, now.nanos);
        self.upkeep.begin(now.nanos, self.config.pin_ttl + self.config.reclaim_delay / 2);
        self.clock.note_entry(now.nanos);
    }

    /// Leads no more, and has executed nothing that isn't committed.
    fn step_down(&mut self) {
        self.chain.leads = false;
        self.heard = Heard::default();
        self.pins = crate::pins::Pins::default();
        self.deletes = crate::deletes::Deletes::default();
        self.orphans = self.orphans.again(Nanos(0));
    }

    /// What was executed here may never be committed, and state isn't rolled back in place: this replica ends, and another is made of its log (I5: of all of it).
    /// Whether what its clients asked takes effect is for others to know (R14).
    fn restart(&mut self, effects: &mut Effects) {
        self.chain.stopped = true;
        for client in self.answers.take_clients() {
            effects.list.push(Effect::Disconnect { client });
        }
        effects.list.push(Effect::Restart);
    }

    /// It has met what must not be.
    pub(crate) fn stop(&mut self, trouble: Trouble, effects: &mut Effects) {
        self.refuse_fenced(effects);
        self.chain.stopped = true;
        for client in self.answers.take_clients() {
            effects.list.push(Effect::Disconnect { client });
        }
        effects.list.push(Effect::Stopped(trouble));
    }

    /// Keeps what still holds of the connections to other members.
    fn keep_links(&mut self, now: Nanos) {
        let source = self.chain.upstream();
        if self.upstream.source() != source {
            self.upstream.reset(source.map(|source| (source, now)));
        }
        let chain = &self.chain;
        self.downstream.retain(|store, learner| chain.subscriber(store) == Some(learner));
    }

    /// Looks what has become committed (R12): the last acker knows when it is durable here and at everybody before.
    pub(crate) fn advance(&mut self, now: Nanos, effects: &mut Effects) {
        if self.chain.is_last_acker() {
            let mut committed = self.durable_here();
            if !self.chain.is_head() && !planted(Bug::ChainCommitsAtTail) {
                committed = committed.min(self.upstream.durable());
            }
            self.commit(now, committed, effects);
        } else {
            self.release(now, effects);
        }
    }

    /// What of the log is durable at this member.
    pub(crate) fn durable_here(&self) -> CommitIndex {
        if planted(Bug::ChainCommitsUnflushed) { self.history.last() } else { self.own.durable() }
    }

    /// Entries up to this one are committed, as far as they are here.
    pub(crate) fn commit(&mut self, now: Nanos, index: CommitIndex, effects: &mut Effects) {
        let index = index.min(self.history.last());
        if index > self.committed {
            self.committed = index;
            if !self.chain.leads && !self.apply_upto(index, effects) {
                return;
            }
            self.send_orphans(effects);
            self.start_checkpoint_when_committed(effects);
            let recent = if self.chain.me.is_some() { self.config.recent_bytes } else { 0 };
            self.downstream.trim(&mut self.history, index, recent);
        }
        self.release(now, effects);
    }

    /// Applies received entries up to this one.
    fn apply_upto(&mut self, last: CommitIndex, effects: &mut Effects) -> bool {
        let mut index = self.state.namespace.index();
        while index < last {
            index.0 += 1;
            let bytes = self.history.entry(index).expect("what isn't applied is in memory");
            let applied = Entry::decode(bytes).is_ok_and(|entry| self.state.apply(index, entry).is_ok());
            if !applied {
                self.stop(Trouble::Entry(index), effects);
                return false;
            }
        }
        true
    }

    /// Answers what belongs to another member: certainly not executed here (R14).
    pub(crate) fn refuse_elsewhere(&self, asker: Asker, effects: &mut Effects) {
        let serves = self.chain.role() != Role::Idle && self.chain.state() == Some(ReplicaState::Serving);
        let status = if serves && !self.chain.is_head() { Status::WrongEpoch } else { Status::NotServing };
        refuse_at_once(asker, status, effects);
    }

    /// Looks after what other members owe.
    pub(crate) fn tend_links(&mut self, now: Nanos, effects: &mut Effects) {
        if now < self.chain.next {
            return;
        }
        self.chain.next = now.after(LINK_INTERVAL);
        self.settle_image(effects);
        self.upstream.on_tick(now, self.history.last());
        self.downstream.on_tick(now, self.committed, self.history.last());
        self.fence.on_tick(now);
    }

    /// When to look again; `None`: nobody owes anything.
    pub(crate) fn links_deadline(&self) -> Option<Nanos> {
        let linked = self.chain.role() != Role::Idle && self.chain.me.is_some();
        let busy = self.chain.upstream().is_some() || !self.downstream.is_empty() || self.chain.has_others();
        (linked && (busy || self.own.is_unsettled())).then_some(self.chain.next)
    }

    /// The turn ends: messages leave.
    pub(crate) fn on_turn(&mut self, now: Nanos, effects: &mut Effects) {
        if self.chain.me.is_none() || self.chain.role() == Role::Idle {
            return;
        }
        self.ask_others(now, effects);
        self.ship(now, effects);
        self.subscribe(now, effects);
        self.report(effects);
    }
}
