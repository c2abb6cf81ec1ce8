//! Prometheus text from what the node's threads say of themselves.

use std::fmt::Write;

use wire::message::{ShardState, StoreCondition};
use wire::meta::GroupState;

/// Everything that one scrape shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// The node's name.
    pub(crate) node: String,
    /// Number of the cluster map.
    pub(crate) map: u64,
    /// How often an operator accepted a loss of data.
    pub(crate) accepted_losses: u64,
    /// A leader of the control group knows the node.
    pub(crate) is_registered: bool,
    /// The node leads it.
    pub(crate) leads: bool,
    /// Each shard that answered, by its number.
    pub(crate) shards: Vec<(u16, ShardState)>,
    /// The metadata replica, if it answered.
    pub(crate) group: Option<GroupState>,
}

/// The text of a scrape: each number per shard, and summed over the node with the prefix `catena_node_`.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    header(&mut text, "catena_build_info", "gauge", "The build that runs.");
    line(
        &mut text,
        "catena_build_info",
        &format!("version=\"{}\",node=\"{}\"", env!("CARGO_PKG_VERSION"), snapshot.node),
        1,
    );
    header(&mut text, "catena_cluster_map_number", "gauge", "Number of the cluster map.");
    line(&mut text, "catena_cluster_map_number", "", snapshot.map);
    let metric = "catena_cluster_accepted_losses_total";
    header(&mut text, metric, "counter", "How often an operator accepted a loss of data.");
    line(&mut text, metric, "", snapshot.accepted_losses);
    let metric = "catena_control_registered";
    header(&mut text, metric, "gauge", "1: the control group knows this life of the node.");
    line(&mut text, metric, "", u64::from(snapshot.is_registered));
    let metric = "catena_control_leader";
    header(&mut text, metric, "gauge", "1: this node leads the control group.");
    line(&mut text, metric, "", u64::from(snapshot.leads));
    condition(&mut text, snapshot);
    for (position, name) in ShardState::NAMES.iter().enumerate() {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let metric = format!("catena_shard_{name}");
        header(&mut text, &metric, kind, "Per shard; docs/operating.md says what it counts.");
        for (shard, state) in &snapshot.shards {
            line(&mut text, &metric, &format!("shard=\"{shard}\""), state.numbers()[position]);
        }
        let metric = format!("catena_node_{name}");
        header(&mut text, &metric, kind, "The same, summed over the node's shards.");
        line(
            &mut text,
            &metric,
            "",
            snapshot.shards.iter().map(|(_, state)| state.numbers()[position]).sum(),
        );
    }
    if let Some(group) = &snapshot.group {
        group_lines(&mut text, group);
    }
    text
}

fn condition(text: &mut String, snapshot: &Snapshot) {
    header(text, "catena_shard_condition", "gauge", "1 for the condition that the shard's store is in.");
    for (shard, state) in &snapshot.shards {
        for known in StoreCondition::ALL {
            let name = condition_name(known);
            let labels = format!("shard=\"{shard}\",condition=\"{name}\"");
            line(text, "catena_shard_condition", &labels, u64::from(state.condition == known));
        }
    }
}

/// A condition as people read it.
pub(crate) fn condition_name(condition: StoreCondition) -> &'static str {
    match condition {
        StoreCondition::Starting => "starting",
        StoreCondition::Serving => "serving",
        StoreCondition::Draining => "draining",
        StoreCondition::Fenced => "fenced",
    }
}

fn group_lines(text: &mut String, group: &GroupState) {
    for (name, kind, help, value) in [
        ("committed_index", "counter", "Last committed index of the metadata log.", group.committed.0),
        ("checkpoint_index", "gauge", "Index of the last durable checkpoint.", group.checkpoint.0),
        ("sessions", "gauge", "Open sessions.", group.sessions),
        ("inodes", "gauge", "Inodes of all volumes.", group.inodes),
        ("memory_bytes", "gauge", "Memory of names and versions.", group.memory_bytes),
        ("memory_budget_bytes", "gauge", "What they may use.", group.memory_budget_bytes),
        ("log_bytes", "gauge", "Bytes of log since the last checkpoint.", group.log_bytes),
        (
            "deleting_chunks",
            "gauge",
            "Reclaimed chunks whose deletion isn't acknowledged yet.",
            group.deleting_chunks,
        ),
        (
            "unopened_chunks",
            "gauge",
            "Chunks in the stores of sessions that the log never opened: it is older than they are.",
            group.unopened_chunks,
        ),
        (
            "log_full",
            "gauge",
            "1 while the log has no space for what adds something.",
            u64::from(group.log_full),
        ),
        ("memory_full", "gauge", "1 while the memory budget has none.", u64::from(group.memory_full)),
    ] {
        let metric = format!("catena_metadata_{name}");
        header(text, &metric, kind, help);
        line(text, &metric, "group=\"0\"", value);
    }
}

fn header(text: &mut String, metric: &str, kind: &str, help: &str) {
    write!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}\n").expect("writing to a string");
}

fn line(text: &mut String, metric: &str, labels: &str, value: u64) {
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    writeln!(text, "{metric}{labels} {value}").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_header_or_a_sample_of_the_metric_above_it() {
        let state = ShardState { put_total: 7, chunk_count: 3, ..ShardState::default() };
        let snapshot = Snapshot {
            node: "n".into(),
            map: 4,
            accepted_losses: 2,
            is_registered: true,
            leads: false,
            shards: vec![(0, state), (1, state)],
            group: Some(GroupState::default()),
        };
        let text = render(&snapshot);
        let mut metric = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                metric = rest.split(' ').next().expect("a name");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(metric), "{line}");
                assert!(line.rsplit(' ').next().expect("a value").parse::<u64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains("catena_shard_put_total{shard=\"1\"} 7\n"));
        assert!(text.contains("catena_node_chunk_count 6\n"));
        assert!(text.contains("catena_cluster_accepted_losses_total 2\n"));
    }
}
