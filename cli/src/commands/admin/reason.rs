//! What the control group says about a node, a store or a chain, in sentences: how it is and since when, who is waited for, what happens next, and what an operator
//! can do. Pure; every variant of [`Reason`] and [`Waits`] has its sentence here.

use wire::control::{ChainId, Condition, Reason, Subject, Waits};
use wire::map::{Phase, ReplicaState};
use wire::{MapNumber, NodeId, StoreId};

use super::names::{Names, chain_name};
use crate::text::{self, size, time};

/// A sentence, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sentence {
    /// A word for programs.
    pub(crate) kind: &'static str,
    /// The sentence.
    pub(crate) text: String,
    /// The operator's next step; `None`: nothing needs to be done.
    pub(crate) next: Option<String>,
}

/// Reasons as sentences, in order.
pub(crate) fn explain(names: Names<'_>, subject: Subject, reasons: &[Reason]) -> Vec<Sentence> {
    let node = match subject {
        Subject::Node(node) => Some(node),
        Subject::Store(store) => names.node_of(store),
        Subject::Chain(_) => None,
    };
    let store = match subject {
        Subject::Store(store) => Some(store),
        Subject::Node(_) | Subject::Chain(_) => None,
    };
    let chain = match subject {
        Subject::Chain(chain) => Some(chain),
        Subject::Node(_) | Subject::Store(_) => None,
    };
    let mut about = About { names, node, store, chain };
    reasons
        .iter()
        .map(|reason| {
            // What a chain waits for stands behind the chain.
            if let Reason::Chain { chain, .. } = reason {
                about.chain = Some(*chain);
            }
            about.sentence(reason)
        })
        .collect()
}

/// What a reason is about, as far as it doesn't say so itself.
struct About<'a> {
    names: Names<'a>,
    node: Option<NodeId>,
    store: Option<StoreId>,
    chain: Option<ChainId>,
}

impl About<'_> {
    fn sentence(&self, reason: &Reason) -> Sentence {
        match *reason {
            Reason::Well => calm("well", "nothing is wrong with it".to_owned()),
            Reason::NotInMap => Sentence {
                kind: "not-in-map",
                text: "the cluster map doesn't have it".to_owned(),
                next: Some("see what there is: catena admin node list, catena admin chain list".to_owned()),
            },
            Reason::NodeAlive { heard, installed, .. } => self.alive(heard, installed),
            Reason::NodeSilent { silent, dead_in } => self.silent(silent, dead_in),
            Reason::NodeSuspected { by } => self.suspected(by),
            Reason::StoreUnfit { condition } => self.unfit(condition),
            Reason::StoreStale => self.stale(),
            Reason::StoreLeaves => calm(
                "store-leaves",
                format!(
                    "{} takes no part any more: it was replaced, emptied, or given up",
                    self.this_store()
                ),
            ),
            Reason::Chain { chain, epoch, phase, serving, min_in_sync, since } => {
                let since = time::duration(since);
                let is_whole = serving >= min_in_sync.max(1) && phase == Phase::Active;
                let name = chain_name(chain);
                let copies = text::count(serving.into(), "copy");
                let verb = if serving == 1 { "serves" } else { "serve" };
                let state = match (serving, phase) {
                    (0, _) => "no copy serves: it can't be read or written".to_owned(),
                    (_, Phase::Prepared) => format!(
                        "{copies} {verb}; epoch {epoch} is being prepared, and writes wait until it is active"
                    ),
                    (_, Phase::Active) if serving < min_in_sync => {
                        format!(
                            "{copies} {verb} and writes need {min_in_sync}: it can be read and not written"
                        )
                    }
                    (_, Phase::Active) => format!("{copies} {verb}, writes need {min_in_sync}"),
                };
                let kind = if is_whole { "chain-serves" } else { "chain-stands" };
                calm(kind, format!("{name}: {state}; it has been so for {since} (epoch {epoch})"))
            }
            Reason::Member { chain, store, state, lag } => self.member(chain, store, state, lag),
            Reason::Waiting(waits) => self.waits(&waits),
        }
    }

    fn alive(&self, heard: u64, installed: MapNumber) -> Sentence {
        let text = format!(
            "{} is alive: it was heard {} ago, and follows map {installed}",
            self.this_node(),
            time::duration(heard)
        );
        calm("node-alive", text)
    }

    fn silent(&self, silent: u64, dead_in: u64) -> Sentence {
        let (name, silent) = (self.this_node(), time::duration(silent));
        if dead_in > 0 {
            let left = time::duration(dead_in);
            let text = format!(
                "{name} hasn't been heard for {silent}; in {left} it is taken for dead, and chains go on without it"
            );
            return Sentence { kind: "node-silent", text, next: Some(format!("look whether {name} runs")) };
        }
        Sentence {
            kind: "node-dead",
            text: format!(
                "{name} hasn't been heard for {silent} and is taken for dead: chains go on without it"
            ),
            next: Some(self.start_or_replace_node()),
        }
    }

    fn suspected(&self, by: u32) -> Sentence {
        let name = self.this_node();
        let verb = if by == 1 { "doesn't" } else { "don't" };
        Sentence {
            kind: "node-suspected",
            text: format!("{} {verb} reach {name}", text::count(by.into(), "node")),
            next: Some(format!("look at {name}'s network and firewall: all nodes reach each other's ports")),
        }
    }

    fn unfit(&self, condition: Condition) -> Sentence {
        let store = self.this_store();
        let (kind, text, next) = match condition {
            Condition::Well => return calm("store-well", format!("{store} works")),
            Condition::Fenced => (
                "store-fenced",
                format!("{store} has refused all service since a write or flush of its disk failed"),
                "look at the disk (dmesg); if it is good, restart the node, else replace it",
            ),
            Condition::Failed => (
                "store-failed",
                format!("{store} couldn't be opened, or its device is gone"),
                "mount or mend the disk and restart the node, or replace it",
            ),
        };
        Sentence { kind, text, next: Some(format!("{next}: {}", self.replace_disk())) }
    }

    fn stale(&self) -> Sentence {
        Sentence {
            kind: "store-stale",
            text: format!(
                "{} reports less than is known of it: its disk was rolled back or copied, and it serves nothing",
                self.this_store()
            ),
            next: Some(format!("format it anew, and let that take its place: {}", self.replace_disk())),
        }
    }

    fn member(&self, chain: ChainId, store: StoreId, state: ReplicaState, lag: u64) -> Sentence {
        let name = self.names.store(store);
        let lacks = match (lag, chain) {
            (0, _) => String::new(),
            (lag, ChainId::Slice(_)) => format!("; its store still lacks about {} in all", size::human(lag)),
            (lag, ChainId::Group(_)) => format!("; it lacks {}", text::count(lag, "entry")),
        };
        let (kind, how) = match state {
            ReplicaState::Serving => ("member-serves", "serves"),
            ReplicaState::Syncing => ("member-syncs", "takes writes and is being brought up to date"),
            ReplicaState::Waiting => ("member-waits", "is there, and waits to be brought up to date"),
            ReplicaState::LastServing => (
                "member-served-last",
                "isn't there, and served last: nothing older takes its place by itself",
            ),
            ReplicaState::Offline => ("member-offline", "isn't there"),
        };
        calm(kind, format!("{name} {how}{lacks}"))
    }

    fn waits(&self, waits: &Waits) -> Sentence {
        let say = |kind, text: String, next: &str| Sentence { kind, text, next: Some(next.to_owned()) };
        match *waits {
            Waits::Promise { node, number } => {
                let name = self.names.node(node);
                let next = format!("nothing, it takes a moment; if it lasts: catena admin why node {name}");
                let text =
                    format!("it waits for {name} to follow map {number}; then its epoch becomes active");
                say("waits-promise", text, &next)
            }
            Waits::Lease { node, left } => {
                let (name, left) = (self.names.node(node), time::duration(left));
                let text = format!(
                    "it waits until the lease of {name}, which is put out, has run out, in {left} at most; then its epoch becomes active"
                );
                calm("waits-lease", text)
            }
            Waits::Sync(store) => {
                let name = self.names.store(store);
                let text = format!("{name} is being brought up to date; it serves once it has everything");
                say("waits-sync", text, "nothing; see how far it is: catena admin cluster status --wait")
            }
            Waits::CatchUp(store) => {
                let name = self.names.store(store);
                calm(
                    "waits-catch-up",
                    format!("{name} follows the log; it takes part once it is close to its end"),
                )
            }
            Waits::Return(store) => {
                let name = self.names.store(store);
                let next = self.start_or_replace(store);
                say("waits-return", format!("it waits for {name} to come back, or to be replaced"), &next)
            }
            Waits::Seeds { missing, left } => seeds(missing, left),
            Waits::CleanSeed { missing } => self.clean_seed(missing),
            Waits::AnySeed => {
                let text = "no copy that has everything is there: one of them must come back".to_owned();
                say("waits-any-seed", text, &self.start_or_accept())
            }
            Waits::MoreNodes => {
                let text = "there are too few nodes for all of its copies".to_owned();
                say(
                    "waits-more-nodes",
                    text,
                    "start nodes that aren't alive (catena admin node list), or add one: catena server join --help",
                )
            }
            Waits::HoldDown { store, left } => {
                let (name, left) = (self.names.store(store), time::duration(left));
                let text = format!(
                    "two of its nodes didn't reach each other, so {name} was put out; it comes back in {left}"
                );
                say("waits-hold-down", text, "look at the network between the nodes of its copies")
            }
            Waits::Turn => calm(
                "waits-turn",
                "its next step comes after a change of the map that is under way".to_owned(),
            ),
            Waits::Control => calm(
                "waits-control",
                "its next step waits for nobody: the next change of the map makes it".to_owned(),
            ),
        }
    }

    fn clean_seed(&self, missing: u8) -> Sentence {
        let text = format!(
            "the copies that are there lost the end of their log at a crash, and {} that may have it {} there: one of those must come back",
            text::count(missing.into(), "copy"),
            if missing == 1 { "isn't" } else { "aren't" },
        );
        Sentence { kind: "waits-clean-seed", text, next: Some(self.start_or_accept()) }
    }

    fn this_node(&self) -> String {
        self.node.map_or_else(|| "the node".to_owned(), |node| self.names.node(node))
    }

    fn this_store(&self) -> String {
        match (self.store, self.node) {
            (Some(store), _) => self.names.store(store),
            (None, Some(node)) => format!("a store of {}", self.names.node(node)),
            (None, None) => "a store".to_owned(),
        }
    }

    fn replace_disk(&self) -> String {
        let old = self.store.map_or_else(|| "OLD_STORE".to_owned(), |store| self.names.store(store));
        format!("catena admin disk replace {old} NEW_STORE")
    }

    fn start_or_replace_node(&self) -> String {
        let name = self.this_node();
        format!(
            "start {name} again; if it is gone for good: catena admin node replace {name} NEW_NODE, or catena admin node forget {name}"
        )
    }

    fn start_or_replace(&self, store: StoreId) -> String {
        let name = self.names.store(store);
        let node =
            self.names.node_of(store).map_or_else(|| "its node".to_owned(), |node| self.names.node(node));
        format!(
            "start {node}; if it is gone for good: catena admin node replace {node} NEW_NODE; if its disk is: catena admin disk replace {name} NEW_STORE"
        )
    }

    fn start_or_accept(&self) -> String {
        let chain = self.chain.map_or_else(|| "CHAIN".to_owned(), chain_name);
        format!(
            "start the nodes of its copies; only if they are gone for good, accept that acknowledged data may be lost: \
             catena admin cluster recover --accept-data-loss --chain {chain}"
        )
    }
}

fn seeds(missing: u8, left: u64) -> Sentence {
    let text = format!(
        "{} that may have more {} given {} to come back; then it goes on with those that are there",
        text::count(missing.into(), "copy"),
        if missing == 1 { "is" } else { "are" },
        time::duration(left)
    );
    let next = "start the nodes that aren't alive now: catena admin node list".to_owned();
    Sentence { kind: "waits-seeds", text, next: Some(next) }
}

/// A sentence that asks nothing of anybody.
fn calm(kind: &'static str, text: String) -> Sentence {
    Sentence { kind, text, next: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use wire::control::Life;
    use wire::{Epoch, GroupId, SliceIndex};

    use super::*;
    use crate::commands::admin::sample;

    const SECOND: u64 = 1_000_000_000;
    const NODE: Subject = Subject::Node(NodeId(2));
    const STORE: Subject = Subject::Store(StoreId([2; 16]));
    const SLICE: ChainId = ChainId::Slice(SliceIndex(3));
    const GROUP: ChainId = ChainId::Group(GroupId(0));
    const CHAIN: Subject = Subject::Chain(SLICE);
    const SHARD: StoreId = StoreId([2; 16]);

    fn chain(phase: Phase, serving: u8) -> Reason {
        Reason::Chain { chain: SLICE, epoch: Epoch(7), phase, serving, min_in_sync: 2, since: 90 * SECOND }
    }

    fn member(chain: ChainId, state: ReplicaState, lag: u64) -> Reason {
        Reason::Member { chain, store: SHARD, state, lag }
    }

    /// Subject, reason, what the sentence says, and what its next step says ("" for none).
    type Row = (Subject, Reason, &'static str, &'static str);

    fn table() -> Vec<Row> {
        [about_nodes(), about_chains(), about_waits()].concat()
    }

    fn about_nodes() -> Vec<Row> {
        vec![
            (NODE, Reason::Well, "nothing is wrong", ""),
            (NODE, Reason::NotInMap, "the cluster map doesn't have it", "catena admin node list"),
            (
                NODE,
                Reason::NodeAlive { life: Life(1), heard: SECOND / 4, installed: MapNumber(17) },
                "node-2 is alive: it was heard 250 ms ago, and follows map 17",
                "",
            ),
            (
                NODE,
                Reason::NodeSilent { silent: SECOND, dead_in: SECOND },
                "node-2 hasn't been heard for 1.0 s; in 1.0 s it is taken for dead",
                "look whether node-2 runs",
            ),
            (
                NODE,
                Reason::NodeSilent { silent: 12 * SECOND, dead_in: 0 },
                "node-2 hasn't been heard for 12.0 s and is taken for dead",
                "catena admin node replace node-2 NEW_NODE, or catena admin node forget node-2",
            ),
            (NODE, Reason::NodeSuspected { by: 2 }, "2 nodes don't reach node-2", "firewall"),
            (NODE, Reason::NodeSuspected { by: 1 }, "1 node doesn't reach node-2", "firewall"),
            (NODE, Reason::StoreUnfit { condition: Condition::Well }, "a store of node-2 works", ""),
            (
                STORE,
                Reason::StoreUnfit { condition: Condition::Fenced },
                "node-2/shard-0 has refused all service",
                "catena admin disk replace node-2/shard-0 NEW_STORE",
            ),
            (
                NODE,
                Reason::StoreUnfit { condition: Condition::Failed },
                "a store of node-2 couldn't be opened",
                "catena admin disk replace OLD_STORE NEW_STORE",
            ),
            (STORE, Reason::StoreStale, "rolled back or copied", "format it anew"),
            (STORE, Reason::StoreLeaves, "node-2/shard-0 takes no part any more", ""),
        ]
    }

    fn about_chains() -> Vec<Row> {
        vec![
            (
                CHAIN,
                chain(Phase::Active, 3),
                "slice-3: 3 copies serve, writes need 2; it has been so for 1 min 30 s (epoch 7)",
                "",
            ),
            (
                CHAIN,
                chain(Phase::Active, 1),
                "1 copy serves and writes need 2: it can be read and not written",
                "",
            ),
            (CHAIN, chain(Phase::Prepared, 2), "epoch 7 is being prepared, and writes wait", ""),
            (CHAIN, chain(Phase::Active, 0), "no copy serves: it can't be read or written", ""),
            (CHAIN, member(SLICE, ReplicaState::Serving, 0), "node-2/shard-0 serves", ""),
            (
                CHAIN,
                member(SLICE, ReplicaState::Syncing, 64 << 20),
                "being brought up to date; its store still lacks about 64.0 MiB in all",
                "",
            ),
            (
                CHAIN,
                member(GROUP, ReplicaState::Waiting, 5),
                "waits to be brought up to date; it lacks 5 entries",
                "",
            ),
            (CHAIN, member(SLICE, ReplicaState::LastServing, 0), "isn't there, and served last", ""),
            (CHAIN, member(SLICE, ReplicaState::Offline, 0), "node-2/shard-0 isn't there", ""),
        ]
    }

    fn about_waits() -> Vec<Row> {
        let waits = |waits| (CHAIN, Reason::Waiting(waits));
        let row = |(subject, reason), text, next| (subject, reason, text, next);
        let accept = "catena admin cluster recover --accept-data-loss --chain slice-3";
        vec![
            row(
                waits(Waits::Promise { node: NodeId(2), number: MapNumber(18) }),
                "waits for node-2 to follow map 18",
                "catena admin why node node-2",
            ),
            row(waits(Waits::Lease { node: NodeId(2), left: SECOND }), "the lease of node-2", ""),
            row(
                waits(Waits::Sync(SHARD)),
                "node-2/shard-0 is being brought up to date",
                "cluster status --wait",
            ),
            row(waits(Waits::CatchUp(SHARD)), "node-2/shard-0 follows the log", ""),
            row(
                waits(Waits::Return(SHARD)),
                "waits for node-2/shard-0 to come back",
                "start node-2; if it is gone for good: catena admin node replace node-2 NEW_NODE",
            ),
            row(
                waits(Waits::Seeds { missing: 1, left: SECOND }),
                "1 copy that may have more is given 1.0 s",
                "start",
            ),
            row(waits(Waits::CleanSeed { missing: 2 }), "2 copies that may have it aren't there", accept),
            row(waits(Waits::AnySeed), "no copy that has everything is there", accept),
            row(waits(Waits::MoreNodes), "too few nodes", "catena server join"),
            row(
                waits(Waits::HoldDown { store: SHARD, left: 20 * SECOND }),
                "so node-2/shard-0 was put out; it comes back in 20.0 s",
                "network",
            ),
            row(waits(Waits::Turn), "a change of the map that is under way", ""),
            row(waits(Waits::Control), "waits for nobody", ""),
        ]
    }

    #[test]
    fn every_reason_has_its_sentence() {
        let map = sample::map();
        for (subject, reason, text, next) in table() {
            let sentences = explain(Names::new(&map), subject, &[reason]);
            let [sentence] = sentences.as_slice() else { panic!("one reason, one sentence") };
            assert!(sentence.text.contains(text), "{reason:?}: {}", sentence.text);
            let step = sentence.next.as_deref().unwrap_or_default();
            assert!(step.contains(next) && step.is_empty() == next.is_empty(), "{reason:?}: {step}");
        }
    }

    /// A number for each variant; a new one doesn't compile here before it has one, and doesn't pass before the table has it.
    fn variant(reason: &Reason) -> usize {
        match reason {
            Reason::Well => 0,
            Reason::NotInMap => 1,
            Reason::NodeAlive { .. } => 2,
            Reason::NodeSilent { .. } => 3,
            Reason::NodeSuspected { .. } => 4,
            Reason::StoreUnfit { .. } => 5,
            Reason::StoreStale => 6,
            Reason::StoreLeaves => 7,
            Reason::Chain { .. } => 8,
            Reason::Member { .. } => 9,
            Reason::Waiting(waits) => match waits {
                Waits::Promise { .. } => 10,
                Waits::Lease { .. } => 11,
                Waits::Sync(_) => 12,
                Waits::CatchUp(_) => 13,
                Waits::Return(_) => 14,
                Waits::Seeds { .. } => 15,
                Waits::CleanSeed { .. } => 16,
                Waits::AnySeed => 17,
                Waits::MoreNodes => 18,
                Waits::HoldDown { .. } => 19,
                Waits::Turn => 20,
                Waits::Control => 21,
            },
        }
    }

    #[test]
    fn the_table_has_every_variant() {
        let found: BTreeSet<usize> = table().iter().map(|(_, reason, ..)| variant(reason)).collect();
        assert_eq!(found, (0..=21).collect());
    }

    /// What is said of a store names the chain that it stands behind.
    #[test]
    fn a_step_names_the_chain_before_it() {
        let map = sample::map();
        let reasons = [chain(Phase::Active, 0), Reason::Waiting(Waits::AnySeed)];
        let sentences = explain(Names::new(&map), STORE, &reasons);
        assert!(sentences[1].next.as_ref().is_some_and(|next| next.ends_with("--chain slice-3")));
    }
}
