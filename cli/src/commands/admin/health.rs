//! A cluster's health on one screen: numbers, troubles with their next steps, resync with its rate. Pure.

use client::{ClusterStatus, ShardState};
use serde_json::json;
use wire::NodeId;
use wire::control::{ChainTally, Condition, Health, NodeStatus};
use wire::map::{Map, Standing};

use super::names::Names;
use super::node::dead;
use super::tally;
use crate::commands::status::{metadata_troubles, shard_troubles};
use crate::commands::usage::space;
use crate::failure::Failure;
use crate::json::Object;
use crate::text::{self, size, time};

/// Everything that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The newest map that is known.
    pub(crate) map: Map,
    /// Who leads the control group.
    pub(crate) leader: Option<NodeId>,
    /// What it says of the whole and of nodes, or why nobody says it.
    pub(crate) control: Result<(Health, Vec<NodeStatus>), Failure>,
    /// What shards and metadata say.
    pub(crate) status: Result<ClusterStatus, Failure>,
    /// Resync, as far as shards answer.
    pub(crate) resync: Resync,
}

/// Something that isn't as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// What.
    pub(crate) text: String,
    /// What to do; `None`: the text says it.
    pub(crate) next: Option<String>,
}

/// How far stores are that are being brought up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resync {
    /// Slices in which a store is brought up to date.
    pub(crate) slices: u64,
    /// Of these: those that are.
    pub(crate) slices_done: u64,
    /// Bytes that are still to be fetched, about.
    pub(crate) bytes_left: u64,
    /// Bytes fetched since the stores' starts.
    pub(crate) bytes_total: u64,
    /// Bytes a second, where it was measured.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Resync {
    /// The sum over the shards that answer.
    pub(crate) fn sum<'a>(states: impl Iterator<Item = &'a ShardState>) -> Self {
        states.fold(Self::default(), |sum, state| Self {
            slices: sum.slices + state.sync_slices,
            slices_done: sum.slices_done + state.sync_slices_done,
            bytes_left: sum.bytes_left + state.sync_bytes_left,
            bytes_total: sum.bytes_total + state.sync_bytes_total,
            bytes_per_second: None,
        })
    }

    /// The same with the rate since an earlier look. A store that was restarted meanwhile began its count anew.
    #[must_use]
    pub(crate) fn since(self, earlier: Self, nanoseconds: u64) -> Self {
        let bytes = u128::from(self.bytes_total.saturating_sub(earlier.bytes_total));
        let rate = bytes * 1_000_000_000 / u128::from(nanoseconds.max(1));
        Self { bytes_per_second: Some(u64::try_from(rate).unwrap_or(u64::MAX)), ..self }
    }

    /// Whether anything is left to do.
    pub(crate) fn is_over(self) -> bool {
        self.bytes_left == 0 && self.slices_done >= self.slices
    }

    /// How long what is left takes at this rate.
    fn seconds_left(self) -> Option<u64> {
        let rate = self.bytes_per_second.filter(|rate| *rate > 0)?;
        (self.bytes_left > 0).then(|| (self.bytes_left.saturating_add(rate / 2) / rate).max(1))
    }

    /// `1.2 GiB left in 12 of 40 slices, 100.0 MiB/s, about 12 s`.
    pub(crate) fn text(self) -> String {
        if self.is_over() {
            return "nothing left to do".to_owned();
        }
        let left = self.slices.saturating_sub(self.slices_done);
        let mut parts = vec![format!(
            "{} left in {} of {}",
            size::human(self.bytes_left),
            size::grouped(left),
            text::count(self.slices, "slice")
        )];
        parts.extend(self.bytes_per_second.map(|rate| size::rate(rate, 1_000_000_000)));
        parts.extend(
            self.seconds_left()
                .map(|seconds| format!("about {}", time::duration(seconds.saturating_mul(1_000_000_000)))),
        );
        parts.join(", ")
    }
}

impl Report {
    fn names(&self) -> Names<'_> {
        Names::new(&self.map)
    }

    fn health(&self) -> Option<&Health> {
        self.control.as_ref().ok().map(|(health, _)| health)
    }

    fn nodes(&self) -> &[NodeStatus] {
        self.control.as_ref().map_or(&[], |(_, nodes)| nodes)
    }

    /// Whether everything serves at full length.
    pub(crate) fn is_whole(&self) -> bool {
        self.health().is_some_and(|health| health.is_whole)
    }

    /// Slices and groups in numbers: the control group's, else the map's.
    fn tallies(&self) -> (ChainTally, ChainTally) {
        self.health().map_or_else(|| tally::tallies(&self.map), |health| (health.slices, health.groups))
    }

    /// What isn't as it should be, worst first.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let (slices, groups) = self.tallies();
        for (tally, kind) in [(groups, "metadata group"), (slices, "slice")] {
            chain_troubles(&tally, kind, &mut troubles);
        }
        if let Err(failure) = &self.control {
            let text = format!("{}: {}", failure.thing, failure.reason);
            troubles.push(Trouble { text, next: failure.next.clone() });
        }
        self.node_troubles(&mut troubles);
        for (tally, kind) in [(groups, "metadata group"), (slices, "slice")] {
            redundancy_trouble(&tally, kind, &self.resync, &mut troubles);
        }
        self.store_troubles(&mut troubles);
        self.whole_troubles(&mut troubles);
        troubles
    }

    fn node_troubles(&self, troubles: &mut Vec<Trouble>) {
        let names = self.names();
        for node in self.nodes() {
            let name = names.node(node.node);
            if !node.is_alive {
                let heard = time::duration(node.heard);
                troubles.push(Trouble {
                    text: format!("{name} isn't alive: it hasn't been heard for {heard}"),
                    next: Some(format!(
                        "start it; if it is gone for good: catena admin node replace {name} NEW_NODE, or catena admin node forget {name}"
                    )),
                });
            }
            for (store, condition) in &node.stores {
                let how = match condition {
                    Some(Condition::Fenced) => {
                        "refuses all service since a write or flush of its disk failed"
                    }
                    Some(Condition::Failed) => "couldn't be opened, or its device is gone",
                    Some(Condition::Well) | None => continue,
                };
                let store = names.store(*store);
                troubles.push(Trouble {
                    text: format!("{store} {how}"),
                    next: Some(format!(
                        "mend the disk and restart {name}, or replace it: catena admin disk replace {store} NEW_STORE"
                    )),
                });
            }
        }
        let voters: Vec<NodeId> =
            self.map.nodes.iter().filter(|node| node.voter > 0).map(|node| node.node).collect();
        let is_alive =
            |voter: &&NodeId| self.nodes().iter().any(|node| node.node == **voter && node.is_alive);
        let alive = voters.iter().filter(is_alive).count();
        let spare = alive.saturating_sub(voters.len() / 2 + 1);
        if self.control.is_ok() && alive < voters.len() {
            let rest = match spare {
                0 => "if one more stops, nothing about the cluster can change any more".to_owned(),
                spare => {
                    format!("{spare} more may stop before nothing about the cluster can change any more")
                }
            };
            let text = format!("{alive} of {} voters are alive: {rest}", voters.len());
            troubles.push(Trouble {
                text,
                next: Some("start the others: catena admin voters says which".to_owned()),
            });
        }
    }

    /// What shards and metadata say of themselves; of nodes that aren't alive it was said.
    fn store_troubles(&self, troubles: &mut Vec<Trouble>) {
        let status = match &self.status {
            Ok(status) => status,
            Err(failure) => {
                let text = format!("space isn't known: {}", failure.reason);
                troubles.push(Trouble { text, next: failure.next.clone() });
                return;
            }
        };
        let is_alive = |node: NodeId| {
            self.nodes().iter().find(|known| known.node == node).is_none_or(|known| known.is_alive)
        };
        let shards = status.shards.iter().filter(|shard| is_alive(shard.node));
        let mut texts: Vec<String> = shards.flat_map(shard_troubles).collect();
        if let Ok(group) = &status.group {
            texts.extend(metadata_troubles(group));
        }
        troubles.extend(texts.into_iter().map(|text| Trouble { text, next: None }));
    }

    fn whole_troubles(&self, troubles: &mut Vec<Trouble>) {
        let Some(health) = self.health() else { return };
        if health.chunks_missing > 0 {
            let chunks = text::count(health.chunks_missing, "chunk");
            troubles.push(Trouble {
                text: format!("{chunks} could be supplied by no copy when others were brought up to date"),
                next: Some("`catena verify` names the files; `catena put --resend` restores them".to_owned()),
            });
        }
        if health.domains < u32::from(health.chain_length) {
            let text = format!(
                "{} for {} copies: two copies of one chunk stand together",
                text::count(health.domains.into(), "failure domain"),
                health.chain_length
            );
            troubles.push(Trouble {
                text,
                next: Some("add nodes, in other racks: catena server join --help".to_owned()),
            });
        }
        if !health.is_whole && troubles.is_empty() {
            troubles.push(Trouble {
                text: "copies are being moved to where they belong".to_owned(),
                next: Some("nothing: it goes on by itself".to_owned()),
            });
        }
    }

    /// What isn't whole yet, on one line: what `--wait` waits for.
    pub(crate) fn waits_for(&self) -> String {
        if let Err(failure) = &self.control {
            return format!("{}: {}", failure.thing, failure.reason);
        }
        let mut parts = Vec::new();
        if let Some(dead) = dead(self.names(), self.nodes()) {
            parts.push(format!("not alive: {dead}"));
        }
        let (slices, groups) = self.tallies();
        for (tally, kind) in [(groups, "metadata group"), (slices, "slice")] {
            let short = tally.chains - tally.full.min(tally.chains);
            if short > 0 {
                parts.push(format!("{} without all copies", text::count(short.into(), kind)));
            } else if tally.changing > 0 {
                parts.push(format!("{} changing", text::count(tally.changing.into(), kind)));
            }
        }
        if parts.is_empty() {
            parts.push("copies are being moved to where they belong".to_owned());
        }
        parts.join("; ")
    }

    /// The screen.
    pub(crate) fn lines(&self) -> String {
        let names = self.names();
        let troubles = self.troubles();
        let (slices, groups) = self.tallies();
        let mut lines = vec![
            format!("cluster     {}", self.map.cluster),
            format!("map         {}", self.map.number),
            format!("health      {}", self.health_text(&troubles)),
            format!("control     {}", self.control_text()),
            format!("nodes       {}", self.nodes_text()),
            format!("slices      {}", tally_text(&slices)),
            format!("groups      {}", tally_text(&groups)),
            format!("redundancy  {}", self.redundancy_text(slices.redundancy_min)),
            format!("space       {}", self.space_text()),
            format!("resync      {}", self.resync.text()),
        ];
        if self.control.is_err() {
            lines.push("            chains as of the map above: a newer one may exist".to_owned());
        }
        for node in self.nodes() {
            let how = if node.is_alive { "alive" } else { "not alive" };
            let copies = text::count(node.members.into(), "copy");
            lines.push(format!(
                "node        {}: {how}, {} of {copies} serving",
                names.node(node.node),
                size::grouped(node.serving.into())
            ));
        }
        for trouble in &troubles {
            lines.push(format!("trouble     {}", trouble.text));
            lines.extend(trouble.next.as_ref().map(|next| format!("  next      {next}")));
        }
        lines.join("\n")
    }

    fn health_text(&self, troubles: &[Trouble]) -> String {
        let whole = match self.control {
            Ok(_) if self.is_whole() => "every copy serves",
            Ok(_) => "not every copy serves",
            Err(_) => "not known without a leader of the control group",
        };
        match troubles.len() {
            0 => whole.to_owned(),
            count => format!("{whole}; {}", text::count(count as u64, "trouble")),
        }
    }

    fn control_text(&self) -> String {
        let voters = self.map.nodes.iter().filter(|node| node.voter > 0).map(|node| node.node);
        let voters = self.names().nodes(voters);
        match (&self.control, self.leader) {
            (Ok(_), Some(leader)) => format!("{} leads; votes: {voters}", self.names().node(leader)),
            (Ok(_), None) => format!("votes: {voters}"),
            (Err(_), _) => format!("no leader; votes: {voters}"),
        }
    }

    fn nodes_text(&self) -> String {
        match self.health() {
            Some(health) => format!("{} of {} alive", health.nodes_alive, health.nodes),
            None => format!("{}; without a leader nobody knows which are alive", self.map.nodes.len()),
        }
    }

    fn redundancy_text(&self, fewest: u8) -> String {
        let wanted = self.map.settings.chain_length;
        let copies = text::count(wanted.into(), "copy");
        let fewest_text = format!("{copies} of everything, at least {fewest} serving");
        let domains = self.health().map_or_else(String::new, |health| {
            format!(", in {}", text::count(health.domains.into(), "failure domain"))
        });
        let none = if wanted == 1 { "; one copy is no redundancy" } else { "" };
        format!("{fewest_text}, writes need {}{domains}{none}", self.map.settings.min_in_sync)
    }

    fn space_text(&self) -> String {
        let Ok(status) = &self.status else { return "not known".to_owned() };
        let space = space(status);
        let silent = match space.silent {
            0 => String::new(),
            silent => format!("; {} silent", text::count(silent as u64, "store")),
        };
        format!(
            "{} free of {}, {} to be reclaimed{silent}",
            size::human(space.free),
            size::human(space.capacity),
            size::human(space.reclaimable)
        )
    }

    /// The screen as one object.
    pub(crate) fn object(&self) -> Object {
        let names = self.names();
        let (slices, groups) = self.tallies();
        let voters = self.map.nodes.iter().filter(|node| node.voter > 0).map(|node| names.node(node.node));
        let troubles = self.troubles().into_iter();
        let troubles = troubles.map(|trouble| json!({ "text": trouble.text, "next": trouble.next }));
        let space = self.status.as_ref().ok().map(space);
        let resync = self.resync;
        let stores = self.map.stores.iter().filter(|store| store.standing == Standing::Member).count();
        Object::new()
            .with("cluster", self.map.cluster.to_string())
            .with("map", self.map.number.0)
            .with("whole", self.is_whole())
            .with_some("leader", self.leader.map(|leader| names.node(leader)))
            .with("voters", voters.collect::<Vec<_>>())
            .with("nodes", self.map.nodes.len())
            .with_some("nodes_alive", self.health().map(|health| health.nodes_alive))
            .with("stores", stores)
            .with_some("stores_unfit", self.health().map(|health| health.stores_unfit))
            .with("slices", tally_value(&slices))
            .with("groups", tally_value(&groups))
            .with("copies", self.map.settings.chain_length)
            .with("copies_min", slices.redundancy_min)
            .with("min_in_sync", self.map.settings.min_in_sync)
            .with_some("failure_domains", self.health().map(|health| health.domains))
            .with_some("chunks_missing", self.health().map(|health| health.chunks_missing))
            .with_some("capacity_bytes", space.map(|space| space.capacity))
            .with_some("used_bytes", space.map(|space| space.used))
            .with_some("free_bytes", space.map(|space| space.free))
            .with_some("reclaimable_bytes", space.map(|space| space.reclaimable))
            .with_some("stores_silent", space.map(|space| space.silent))
            .with(
                "resync",
                json!({
                    "slices": resync.slices,
                    "slices_done": resync.slices_done,
                    "bytes_left": resync.bytes_left,
                    "bytes_per_second": resync.bytes_per_second,
                    "seconds_left": resync.seconds_left(),
                }),
            )
            .with("troubles", troubles.collect::<Vec<_>>())
    }
}

/// Chains that serve nothing, or take no writes.
fn chain_troubles(tally: &ChainTally, kind: &str, troubles: &mut Vec<Trouble>) {
    let mut add = |count: u32, text: &str, next: &str| {
        if count > 0 {
            let verb = if count == 1 { "serves" } else { "serve" };
            let text = format!("{} {}", text::count(count.into(), kind), text.replace("{serves}", verb));
            troubles.push(Trouble { text, next: Some(next.to_owned()) });
        }
    };
    let stuck = "start the nodes of their copies (catena admin why); only if they are gone for good: catena admin cluster recover --all";
    add(tally.stuck, "{serves} nothing until a copy that has everything comes back", stuck);
    let down = tally.down - tally.stuck.min(tally.down);
    add(down, "{serves} nothing for now", "see what is waited for: catena admin why");
    let read_only = "start the nodes of their other copies: catena admin why";
    add(tally.read_only, "can be read and not written", read_only);
}

/// Chains without all of their copies.
fn redundancy_trouble(tally: &ChainTally, kind: &str, resync: &Resync, troubles: &mut Vec<Trouble>) {
    if tally.degraded == 0 {
        return;
    }
    let next = if tally.syncing > 0 || !resync.is_over() {
        "nothing: copies are being brought up to date; see how far: catena admin cluster status --wait"
    } else {
        "see what is waited for: catena admin why"
    };
    let (count, verb) =
        (text::count(tally.degraded.into(), kind), if tally.degraded == 1 { "lacks" } else { "lack" });
    troubles.push(Trouble { text: format!("{count} {verb} copies"), next: Some(next.to_owned()) });
}

/// `4,096: 4,000 full, 96 degraded, of these 12 syncing`.
fn tally_text(tally: &ChainTally) -> String {
    let say = |numbers: &[(u32, &str)]| {
        let some = numbers.iter().filter(|(count, _)| *count > 0);
        some.map(|(count, word)| format!("{} {word}", size::grouped((*count).into()))).collect::<Vec<_>>()
    };
    let states = say(&[
        (tally.full, "full"),
        (tally.degraded, "degraded"),
        (tally.read_only, "read-only"),
        (tally.down, "down"),
    ]);
    let more = say(&[(tally.changing, "changing"), (tally.syncing, "syncing"), (tally.stuck, "stuck")]);
    let more = if more.is_empty() { String::new() } else { format!("; of these {}", more.join(", ")) };
    format!("{}: {}{more}", size::grouped(tally.chains.into()), states.join(", "))
}

fn tally_value(tally: &ChainTally) -> serde_json::Value {
    json!({
        "chains": tally.chains,
        "full": tally.full,
        "degraded": tally.degraded,
        "read_only": tally.read_only,
        "down": tally.down,
        "changing": tally.changing,
        "syncing": tally.syncing,
        "stuck": tally.stuck,
        "copies_min": tally.redundancy_min,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::admin::sample;
    use crate::failure::Exit;
    use wire::MapNumber;

    fn full(chains: u32) -> ChainTally {
        ChainTally { chains, full: chains, redundancy_min: 3, ..ChainTally::default() }
    }

    fn node(number: u32, is_alive: bool) -> NodeStatus {
        NodeStatus {
            node: NodeId(number),
            life: None,
            heard: if is_alive { 200_000_000 } else { 12_000_000_000 },
            is_alive,
            installed: MapNumber(17),
            members: 5,
            serving: if is_alive { 5 } else { 0 },
            stores: Vec::new(),
        }
    }

    fn report(health: Health, nodes: Vec<NodeStatus>) -> Report {
        let map = sample::map();
        let status = ClusterStatus {
            cluster: map.cluster,
            map: std::sync::Arc::new(map.clone()),
            nodes: map.nodes.clone(),
            shards: Vec::new(),
            group: Ok(client::GroupState::default()),
        };
        Report {
            map,
            leader: Some(NodeId(1)),
            control: Ok((health, nodes)),
            status: Ok(status),
            resync: Resync::default(),
        }
    }

    fn whole() -> Health {
        Health {
            number: MapNumber(17),
            nodes: 3,
            nodes_alive: 3,
            stores: 6,
            slices: full(4),
            groups: full(1),
            chain_length: 3,
            domains: 3,
            is_whole: true,
            ..Health::default()
        }
    }

    #[test]
    fn a_whole_cluster_has_no_troubles() {
        let report = report(whole(), vec![node(1, true), node(2, true), node(3, true)]);
        assert_eq!(report.troubles(), []);
        let lines = report.lines();
        for line in [
            "health      every copy serves\n",
            "control     node-1 leads; votes: node-1, node-2 and node-3\n",
            "nodes       3 of 3 alive\n",
            "slices      4: 4 full\n",
            "redundancy  3 copies of everything, at least 3 serving, writes need 2, in 3 failure domains\n",
            "resync      nothing left to do\n",
            "node        node-2: alive, 5 of 5 copies serving\n",
        ] {
            assert!(lines.contains(line), "{line}\n{lines}");
        }
        assert!(report.object().line().contains(r#""whole":true,"leader":"node-1""#));
    }

    #[test]
    fn troubles_come_worst_first_each_with_its_step() {
        let slices = ChainTally {
            chains: 10,
            full: 4,
            degraded: 2,
            read_only: 1,
            down: 3,
            stuck: 2,
            redundancy_min: 0,
            ..ChainTally::default()
        };
        let health =
            Health { slices, nodes_alive: 2, is_whole: false, chunks_missing: 1, domains: 2, ..whole() };
        let report = report(health, vec![node(1, true), node(2, false), node(3, true)]);
        let troubles = report.troubles();
        let texts: Vec<&str> = troubles.iter().map(|trouble| trouble.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "2 slices serve nothing until a copy that has everything comes back",
                "1 slice serves nothing for now",
                "1 slice can be read and not written",
                "node-2 isn't alive: it hasn't been heard for 12.0 s",
                "2 of 3 voters are alive: if one more stops, nothing about the cluster can change any more",
                "2 slices lack copies",
                "1 chunk could be supplied by no copy when others were brought up to date",
                "2 failure domains for 3 copies: two copies of one chunk stand together",
            ]
        );
        assert!(troubles.iter().all(|trouble| trouble.next.is_some()));
        assert_eq!(report.waits_for(), "not alive: node-2; 6 slices without all copies");
    }

    /// The map is still there to be looked at.
    #[test]
    fn without_a_leader_the_map_is_told() {
        let mut report = report(whole(), Vec::new());
        report.control =
            Err(Failure::new(Exit::Unavailable, "the control group", "has no leader")
                .next("start the voters"));
        report.leader = None;
        let lines = report.lines();
        for line in [
            "control     no leader; votes: node-1, node-2 and node-3\n",
            "slices      4: 1 full, 1 degraded, 1 read-only, 1 down; of these 1 changing, 1 syncing\n",
            "trouble     the control group: has no leader\n  next      start the voters",
        ] {
            assert!(lines.contains(line), "{line}\n{lines}");
        }
        assert!(!report.is_whole());
        assert_eq!(report.waits_for(), "the control group: has no leader");
    }

    #[test]
    fn what_only_moves_is_said_too() {
        let health = Health { is_whole: false, ..whole() };
        let report = report(health, vec![node(1, true), node(2, true), node(3, true)]);
        assert_eq!(report.waits_for(), "copies are being moved to where they belong");
        assert_eq!(report.troubles().len(), 1);
    }

    #[test]
    fn resync_has_a_rate_and_an_end() {
        let state = |left, total| ShardState {
            sync_slices: 10,
            sync_slices_done: 4,
            sync_bytes_left: left,
            sync_bytes_total: total,
            ..ShardState::default()
        };
        let earlier = Resync::sum([state(2 << 30, 0)].iter());
        assert_eq!(earlier.text(), "2.0 GiB left in 6 of 10 slices");
        let now = Resync::sum([state(512 << 20, 1 << 30), state(512 << 20, 0)].iter());
        let now = now.since(earlier, 10_000_000_000);
        assert_eq!(now.text(), "1.0 GiB left in 12 of 20 slices, 102.4 MiB/s, about 10.0 s");
        assert_eq!(Resync::default().text(), "nothing left to do");
        // A restarted store counts from 0.
        assert_eq!(earlier.since(now, 1).bytes_per_second, Some(0));
    }
}
