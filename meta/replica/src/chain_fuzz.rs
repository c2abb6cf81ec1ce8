//! A chain under a careless world: members that crash with any durable prefix, messages that are lost, repeated and overtaken, partitions between members and
//! from control, learners that begin with an image, sessions that expire, heads that are deposed and don't know it.
//!
//! Shown, at every step: what is committed anywhere never changes (I6); two logs that hold an entry of one index and epoch are equal up to it (I5); an outcome that
//! leaves is durable at every member of the head's epoch (R12). Of what clients see: one outcome for each sequence (I7), and reads and writes of each key in an
//! order that time and versions agree on (I8). In the end, when faults stop: everybody serves, and all are equal (I12).
//!
//! `control.rs` is the smallest control that makes legal changes of epoch (R5, R6, R7); `clients.rs` asks; `checks.rs` looks.

use wire::map::Phase;
use wire::message::{Entries, Page};
use wire::{Nanos, StoreId, Timestamp};

use crate::{ChainView, Effect, Effects, Event, Message, ReplicaConfig, Role, Trouble};

mod checks;
mod clients;
mod control;
mod nodes;

use checks::Checks;
use clients::Client;
use control::Control;
use nodes::Node;

/// Members, of which the last one joins late.
const NODES: usize = 4;
/// A node's lease from its renewal on; control waits a little longer.
const LEASE: u64 = 120 * Nanos::MILLISECOND;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

struct Letter {
    from: usize,
    to: usize,
    message: Message<Vec<u8>>,
    due: Nanos,
}

struct World {
    random: Random,
    now: Nanos,
    nodes: Vec<Node>,
    letters: Vec<Letter>,
    /// Members that can't talk to each other; index `NODES` is control.
    cut_off: [[bool; NODES + 1]; NODES + 1],
    control: Control,
    clients: Vec<Client>,
    checks: Checks,
    faults: bool,
    counts: Counts,
}

/// That the world was careless enough.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    crashes: u64,
    epochs: u64,
    restarts: u64,
    images: u64,
    cuts: u64,
    outcomes: u64,
    retries: u64,
    reads: u64,
    disconnects: u64,
    joins: u64,
}

fn store(at: usize) -> StoreId {
    StoreId([u8::try_from(at).unwrap() + 1; 16])
}

fn at(store: StoreId) -> usize {
    usize::from(store.0[0]) - 1
}

fn config(at: usize) -> ReplicaConfig {
    ReplicaConfig {
        store: Some(store(at)),
        reclaim_delay: Nanos::SECOND,
        session_ttl: 4 * Nanos::SECOND,
        pin_ttl: Nanos::SECOND / 2,
        upkeep_interval: Nanos::SECOND / 4,
        inventory_sources: 0,
        checkpoint_log_bytes: 4_000,
        checkpoint_page_bytes: 300,
        recent_bytes: 800,
        message_bytes: 150,
        window_bytes: 500,
        ..ReplicaConfig::default()
    }
}

/// A message on its way: its bytes are its own.
fn owned(message: &Message<&[u8]>) -> Message<Vec<u8>> {
    crate::message::with_bytes(message, |bytes| bytes.to_vec())
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let size = 1 + random.below(NODES);
        Self {
            random,
            now: Nanos(1),
            nodes: (0..NODES).map(Node::new).collect(),
            letters: Vec::new(),
            cut_off: Default::default(),
            control: Control::new(size, !seed.is_multiple_of(3)),
            clients: (0..4).map(Client::new).collect(),
            checks: Checks::default(),
            faults: true,
            counts: Counts::default(),
        }
    }

    fn handle(&mut self, at: usize, event: Event<'_>) {
        let Some(mut replica) = self.nodes[at].replica.take() else { return };
        let mut effects = Effects::default();
        let wall = Timestamp(1 << 50).0 + self.now.0.cast_signed();
        replica.handle(self.now, Timestamp(wall), event, &mut effects);
        self.nodes[at].replica = Some(replica);
        self.nodes[at].turn_due = true;
        // What was appended is looked at before what leaves.
        let (appends, others): (Vec<_>, Vec<_>) =
            effects.list.iter().partition(|effect| matches!(effect, Effect::Append { .. }));
        for effect in appends {
            self.carry_out(at, effect, &effects);
        }
        self.check(at);
        for effect in others {
            self.carry_out(at, effect, &effects);
        }
    }

    fn carry_out(&mut self, at: usize, effect: &Effect, all: &Effects) {
        let node = &mut self.nodes[at];
        match effect {
            Effect::Append { record, bytes } => {
                assert_eq!(record.0, u64::try_from(node.disk.records.len()).unwrap() + 1);
                let bytes = all.slice(bytes).to_vec();
                self.note_record(at, &bytes);
                self.nodes[at].disk.records.push(bytes);
            }
            Effect::Send { to, message } => self.post(at, self::at(*to), &all.message(*message)),
            Effect::Reply { client, correlation, status, body } => {
                let body = &all.bodies[usize::try_from(*body).unwrap()];
                self.on_reply(at, *client, *correlation, *status, body);
            }
            Effect::Disconnect { client } => self.on_disconnect(*client),
            Effect::Restart => self.restart_in_order(at),
            Effect::Sealed { epoch } => self.control.on_sealed(at, *epoch),
            Effect::CaughtUp { epoch } => node.caught_up = *epoch == self.control.view.epoch,
            Effect::Synced { epoch } => node.synced = *epoch == self.control.view.epoch,
            Effect::Stopped(trouble) => self.on_trouble(at, *trouble),
            Effect::Arm(next) => node.tick_at = Some(*next),
            Effect::WriteCheckpointPage { record, number, last, bytes, .. } => {
                if *number == 0 {
                    node.pages.clear();
                }
                assert!(usize::try_from(record.0).unwrap() <= node.disk.durable, "R15");
                node.pages.push(all.slice(bytes).to_vec());
                node.page_out = Some((*record, *last));
            }
            Effect::TrimLog { .. } | Effect::ClockStepped { .. } => {}
            Effect::DeleteChunks { .. } | Effect::RequestInventory { .. } => {
                panic!("there are no chunks here")
            }
        }
    }

    fn on_trouble(&self, at: usize, trouble: Trouble) {
        let members: Vec<_> = (0..NODES).map(|at| self.describe(at)).collect();
        let told = &self.nodes[at].disk.view;
        panic!(
            "member {at}: {trouble:?} at {:?}, told {told:?} of {:?}\n{members:#?}",
            self.now, self.control.view
        );
    }

    /// A message leaves: it may be lost, come twice, or late.
    fn post(&mut self, from: usize, to: usize, message: &Message<&[u8]>) {
        let lossy = self.faults;
        if self.cut_off[from][to] || lossy && self.random.one_in(30) {
            return;
        }
        let copies = if lossy && self.random.one_in(30) { 2 } else { 1 };
        for _ in 0..copies {
            let late = if lossy && self.random.one_in(10) { 150 } else { 3 };
            let delay = u64::try_from(self.random.below(late)).unwrap() * Nanos::MILLISECOND;
            let due = self.now.after(delay);
            self.letters.push(Letter { from, to, message: owned(message), due });
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let mut at_most = 12;
        while at_most > 0
            && let Some(which) = self.letters.iter().position(|letter| letter.due <= now)
        {
            at_most -= 1;
            let letter = self.letters.remove(which);
            if !self.cut_off[letter.from][letter.to] {
                let from = store(letter.from);
                let message = crate::message::with_bytes(&letter.message, Vec::as_slice);
                if let Message::Page(Page { last: true, .. }) = message {
                    self.counts.images += 1;
                }
                let part = matches!(message, Message::Entries(Entries { skip: 1.., .. }));
                self.checks.parts += u64::from(part);
                self.handle(letter.to, Event::Message { from, message });
            }
        }
    }

    fn step(&mut self) {
        self.now = self.now.after(u64::try_from(self.random.below(6)).unwrap() * Nanos::MILLISECOND);
        if self.faults {
            match self.random.below(900) {
                0..=3 => {
                    let at = self.random.below(NODES);
                    if self.nodes[at].replica.is_some() {
                        self.crash(at);
                    }
                }
                4..=12 => {
                    let at = self.random.below(NODES);
                    if self.nodes[at].replica.is_none() {
                        self.start(at);
                    }
                }
                // So quick that control hears of it afterwards.
                27..=28 => {
                    let at = self.random.below(NODES);
                    if self.nodes[at].replica.is_some() {
                        self.crash(at);
                        self.start(at);
                    }
                }
                13..=15 => {
                    // Between two members, or of one from control.
                    let (a, b) = (self.random.below(NODES), self.random.below(NODES + 1));
                    if a != b {
                        self.set_cut(a, b, true);
                    }
                }
                16 => (0..NODES).for_each(|b| self.set_cut(self.control.view_head(), b, true)),
                17..=21 => self.heal(),
                22..=23 => self.break_link(),
                24..=26 => {
                    // Its disk stalls, and perhaps it hears nothing more from control: what it knows grows old.
                    let at = self.random.below(NODES);
                    self.nodes[at].stalled_until = self.now.after(LEASE * 4);
                    if self.random.one_in(2) {
                        self.set_cut(at, NODES, true);
                    }
                }
                _ => {}
            }
        }
        self.deliver();
        self.step_control();
        self.step_clients();
        self.step_nodes();
    }

    fn set_cut(&mut self, a: usize, b: usize, cut: bool) {
        self.cut_off[a][b] = cut && a != b;
        self.cut_off[b][a] = cut && a != b;
    }

    fn heal(&mut self) {
        self.cut_off = Default::default();
    }

    /// A connection breaks: what was on its way is lost, and both hear of it.
    fn break_link(&mut self) {
        let (a, b) = (self.random.below(NODES), self.random.below(NODES));
        let on_it =
            |letter: &Letter| (letter.from, letter.to) == (a, b) || (letter.from, letter.to) == (b, a);
        self.letters.retain(|letter| !on_it(letter));
        if a != b {
            self.handle(a, Event::LinkDown { peer: store(b) });
            self.handle(b, Event::LinkDown { peer: store(a) });
        }
    }

    /// Faults stop. In bounded time everybody serves, everything is answered, and all are equal (I12).
    fn calm_down(&mut self, seed: u64) {
        self.faults = false;
        self.heal();
        let end = self.now.after(30 * Nanos::SECOND);
        while self.now < end {
            for at in 0..NODES {
                if self.nodes[at].replica.is_none() {
                    self.start(at);
                }
            }
            self.step();
            self.clients.iter_mut().for_each(Client::hurry);
            if self.is_calm() {
                return;
            }
        }
        let members: Vec<_> = (0..NODES).map(|at| self.describe(at)).collect();
        panic!("seed {seed}: no rest in 30 s: {:?}\n{members:#?}", self.control.view);
    }

    fn is_calm(&self) -> bool {
        let view = &self.control.view;
        let all_serve = view.phase == Phase::Active && view.serving_count() == NODES;
        let first = self.nodes[0].replica.as_ref().map(|replica| replica.received());
        all_serve
            && self.clients.iter().all(Client::is_idle)
            && self.nodes.iter().all(|node| {
                node.replica.as_ref().is_some_and(|replica| {
                    let done = replica.received() == replica.committed();
                    done && Some(replica.received()) == first && replica.role() != Role::Idle
                })
            })
    }

    fn describe(&self, at: usize) -> String {
        let Some(replica) = &self.nodes[at].replica else { return "down".into() };
        format!(
            "{:?} received {} durable {} committed {} lag {:?}",
            replica.role(),
            replica.received(),
            replica.durable(),
            replica.committed(),
            replica.lag()
        )
    }
}

fn run(seed: u64, steps: u32) -> (Counts, Checks) {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.calm_down(seed);
    world.check_end(seed);
    (world.counts, world.checks)
}

/// Seeds that have failed once.
const SEEDS: &[u64] = &[11, 150, 153, 313, 17322, 17867, 12680];

pub(crate) fn run_all(seeds: impl Iterator<Item = u64>) -> (Counts, u64) {
    let mut sum = Counts::default();
    let mut parts = 0;
    for seed in seeds {
        let (counts, checks) = std::panic::catch_unwind(|| run(seed, 1200)).unwrap_or_else(|panic| {
            println!("seed {seed} failed");
            std::panic::resume_unwind(panic)
        });
        sum = sum.plus(counts);
        parts += checks.parts;
    }
    (sum, parts)
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            crashes: self.crashes + other.crashes,
            epochs: self.epochs + other.epochs,
            restarts: self.restarts + other.restarts,
            images: self.images + other.images,
            cuts: self.cuts + other.cuts,
            outcomes: self.outcomes + other.outcomes,
            retries: self.retries + other.retries,
            reads: self.reads + other.reads,
            disconnects: self.disconnects + other.disconnects,
            joins: self.joins + other.joins,
        }
    }
}

#[test]
pub(crate) fn a_chain_keeps_its_word() {
    if let Some(seed) = std::env::var("CATENA_CHAIN_SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed, 1200);
        return;
    }
    let count = std::env::var("CATENA_CHAIN_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    let (counts, parts) = run_all(SEEDS.iter().copied().chain(1..=count));
    println!("{counts:?}, {parts} parts");
    let least = count / 10;
    for (what, found) in [
        ("crashes", counts.crashes),
        ("epochs", counts.epochs),
        ("restarts in order", counts.restarts),
        ("images", counts.images),
        ("cuts", counts.cuts),
        ("outcomes", counts.outcomes),
        ("retries", counts.retries),
        ("reads", counts.reads),
        ("joins", counts.joins),
        ("parts", parts),
    ] {
        assert!(found > least, "{what}: {found}");
    }
}
