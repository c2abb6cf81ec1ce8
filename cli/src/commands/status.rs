//! `catena status`.

use client::{ClusterStatus, ShardStatus, StoreCondition};

use crate::commands::usage::space;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::json::Object;
use crate::remote_failure::failure;
use crate::text::{self, size};

/// Show health, space and shards of the cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena status
  catena status --json")]
pub(crate) struct Status {}

impl Status {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let Self {} = self;
        let status = context.client()?.status().wait().map_err(|error| failure("the cluster", &error))?;
        let troubles = troubles(&status);
        context.output.result(|| object(&status, &troubles), |_| lines(&status, &troubles).into_bytes())?;
        if troubles.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Exit::Unavailable, "the cluster", "isn't healthy, as the lines above say")
            .next("the log of the node that is named says why"))
    }
}

/// What keeps the cluster from being healthy.
fn troubles(status: &ClusterStatus) -> Vec<String> {
    let mut troubles: Vec<String> = status.shards.iter().flat_map(shard_troubles).collect();
    match &status.group {
        Err(error) => troubles.push(format!("metadata: {}", failure("", error).reason)),
        Ok(group) => troubles.extend(metadata_troubles(group)),
    }
    troubles
}

/// What is wrong with a shard, or that it doesn't answer.
pub(crate) fn shard_troubles(shard: &ShardStatus) -> Vec<String> {
    let name = format!("node {} shard {}", shard.node, shard.shard);
    let mut troubles = Vec::new();
    match &shard.state {
        Err(error) => troubles.push(format!("{name}: {}", failure("", error).reason)),
        Ok(state) => {
            if state.condition != StoreCondition::Serving {
                troubles.push(format!("{name}: {}", condition(shard)));
            }
            if state.condition == StoreCondition::Serving && state.free_bytes == 0 {
                troubles.push(format!("{name}: {}", full(state)));
            }
            if state.damaged_count > 0 {
                let chunks = text::count(state.damaged_count, "unreadable chunk");
                troubles.push(format!(
                    "{name}: {chunks}; `catena verify` names the files; what `put --resend` replaced counts until it is reclaimed"
                ));
            }
        }
    }
    troubles
}

/// What is wrong with the metadata of a group that answers.
pub(crate) fn metadata_troubles(group: &client::GroupState) -> Vec<String> {
    let next = "removing still works, what adds something is refused";
    let mut troubles = Vec::new();
    if group.log_full {
        troubles.push(format!(
            "metadata: its log is full, since its file system has no room or its limit is reached; {next}"
        ));
    }
    if group.memory_full {
        let (used, budget) = (size::human(group.memory_bytes), size::human(group.memory_budget_bytes));
        troubles.push(format!("metadata: full at {used} of {budget} (`metadata.memory_budget`); {next}"));
    }
    if group.unopened_chunks > 0 {
        let chunks = text::count(group.unopened_chunks, "chunk");
        troubles.push(format!(
            "metadata: the stores hold {chunks} of sessions that its log never opened: it is older than they are"
        ));
    }
    troubles
}

/// Why nothing more fits: what is stored, or what else is on the disk. What the file may still grow by counts as free, unless its file system has no room
/// for it: then more than the reserve is left, and yet nothing is free.
fn full(state: &client::ShardState) -> String {
    let segment_bytes = u64::from(journal::SEGMENT_BYTES);
    let growth = state.capacity_bytes.saturating_sub(state.segment_count.saturating_mul(segment_bytes));
    let left = state.segment_free_count.saturating_mul(segment_bytes).saturating_add(growth);
    let next = "deletes still work, new files are refused";
    if left > state.reserve_bytes {
        let (used, capacity) = (size::human(state.used_bytes), size::human(state.capacity_bytes));
        let left_free = size::human(node::STORE_HEADROOM_BYTES);
        format!(
            "full at {used} of {capacity}, since its disk has no room beside the {left_free} that a store leaves free (`df` of its directory); {next}"
        )
    } else {
        format!("full; {next} (`catena df`)")
    }
}

fn condition(shard: &ShardStatus) -> &'static str {
    match shard.state.as_ref().map(|state| state.condition) {
        Ok(StoreCondition::Serving) => "serving",
        Ok(StoreCondition::Starting) => "starting: it reads its store",
        Ok(StoreCondition::Draining) => "draining: it takes nothing new",
        Ok(StoreCondition::Fenced) => "fenced: a write or flush of its disk failed, it takes no writes",
        Err(_) => "silent",
    }
}

/// That an operator accepted a loss, which the map keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AcceptedLosses {
    /// How often.
    count: u16,
    /// The oldest map that is known to follow the last of them. Later ones of damaged stores may hide the very first.
    map: u64,
}

impl AcceptedLosses {
    fn of(status: &ClusterStatus) -> Option<Self> {
        // A group's generation rises for nothing else, and then every slice is stamped.
        let count =
            status.map.groups.iter().map(|group| group.generation).max().filter(|count| *count > 0)?;
        let map = status.map.slices.iter().map(|slice| slice.loss_map_number.0).min()?;
        Some(Self { count, map })
    }

    fn line(self) -> String {
        let times = if self.count == 1 { "once".to_owned() } else { format!("{} times", self.count) };
        format!(
            "loss        accepted {times}, with map {} at the latest: `catena verify` names the files that lost content",
            self.map
        )
    }
}

fn redundancy(status: &ClusterStatus) -> String {
    match status.map.settings.chain_length {
        1 => "none: one copy of everything".to_owned(),
        copies => format!("{copies} copies, writes need {}", status.map.settings.min_in_sync),
    }
}

fn lines(status: &ClusterStatus, troubles: &[String]) -> String {
    let space = space(status);
    let health = if troubles.is_empty() {
        "healthy".to_owned()
    } else {
        text::count(troubles.len() as u64, "trouble")
    };
    let mut lines = vec![
        format!("cluster     {}", status.cluster),
        format!("health      {health}"),
        format!("redundancy  {}", redundancy(status)),
        format!(
            "space       {} free of {}, {} to be reclaimed",
            size::human(space.free),
            size::human(space.capacity),
            size::human(space.reclaimable)
        ),
    ];
    lines.extend(AcceptedLosses::of(status).map(AcceptedLosses::line));
    if let Ok(group) = &status.group {
        lines.push(format!(
            "metadata    {}, {} of {} memory, {}",
            text::count(group.inodes, "inode"),
            size::human(group.memory_bytes),
            size::human(group.memory_budget_bytes),
            text::count(group.sessions, "session")
        ));
    }
    for node in &status.nodes {
        lines.push(format!("node {}      {}", node.node, node.name));
        for shard in status.shards.iter().filter(|shard| shard.node == node.node) {
            let detail = match &shard.state {
                Ok(state) => format!(
                    "{} chunks, {} used, {} free, {} queued",
                    size::grouped(state.chunk_count),
                    size::human(state.used_bytes),
                    size::human(state.free_bytes),
                    state.queue_depth
                ),
                Err(_) => "no answer".to_owned(),
            };
            lines.push(format!(
                "  shard {:<3} {:<21} {}: {detail}",
                shard.shard,
                shard.address,
                condition(shard)
            ));
        }
    }
    lines.extend(troubles.iter().map(|trouble| format!("trouble     {trouble}")));
    lines.join("\n")
}

fn object(status: &ClusterStatus, troubles: &[String]) -> Object {
    let space = space(status);
    let shards = status.shards.iter().map(|shard| {
        let object = Object::bare()
            .with("node", shard.node.0)
            .with("shard", shard.shard.0)
            .with("store", shard.store.to_string())
            .with("address", shard.address.as_str())
            .with("condition", condition(shard).split(':').next().unwrap_or_default());
        let object = match &shard.state {
            Ok(state) => client::ShardState::NAMES
                .iter()
                .zip(state.numbers())
                .fold(object.with("incarnation", state.incarnation.0), |object, (name, value)| {
                    object.with(name, value)
                }),
            Err(error) => object.with("error", failure("", error).reason),
        };
        serde_json::to_value(object).expect("an object of plain values is a value")
    });
    let group = status.group.as_ref().ok().map(|group| {
        serde_json::json!({
            "committed": group.committed.0,
            "checkpoint": group.checkpoint.0,
            "sessions": group.sessions,
            "inodes": group.inodes,
            "memory_bytes": group.memory_bytes,
            "memory_budget_bytes": group.memory_budget_bytes,
            "log_bytes": group.log_bytes,
            "deleting_chunks": group.deleting_chunks,
            "unopened_chunks": group.unopened_chunks,
            "log_full": group.log_full,
            "memory_full": group.memory_full,
        })
    });
    Object::new()
        .with("cluster", status.cluster.to_string())
        .with("healthy", troubles.is_empty())
        .with("troubles", troubles.to_vec())
        .with("map", status.map.number.0)
        .with("accepted_losses", AcceptedLosses::of(status).map_or(0, |losses| losses.count))
        .with_some("accepted_loss_map", AcceptedLosses::of(status).map(|losses| losses.map))
        .with("copies", status.map.settings.chain_length)
        .with("capacity_bytes", space.capacity)
        .with("used_bytes", space.used)
        .with("free_bytes", space.free)
        .with("reclaimable_bytes", space.reclaimable)
        .with_some("metadata", group)
        .with("shards", shards.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every put was refused for want of space while the cluster was called healthy.
    #[test]
    fn metadata_without_room_is_a_trouble() {
        let healthy = client::GroupState::default();
        assert_eq!(metadata_troubles(&healthy), Vec::<String>::new());
        for (group, expected) in [
            (client::GroupState { log_full: true, ..healthy }, "its log is full"),
            (client::GroupState { memory_full: true, ..healthy }, "`metadata.memory_budget`"),
            (client::GroupState { unopened_chunks: 1, ..healthy }, "1 chunk of sessions"),
        ] {
            let troubles = metadata_troubles(&group);
            assert!(troubles.len() == 1 && troubles[0].contains(expected), "{troubles:?}");
        }
    }

    /// A store of 2 GiB that was full was said to have a full disk: what it keeps free for deletes counted as room that it didn't get.
    #[test]
    fn a_full_store_names_its_cause() {
        let check = |used: u64, segments: u64, empty: u64, reserve: u64, names_disk: bool| {
            let state = client::ShardState {
                capacity_bytes: 31 << 26,
                used_bytes: used << 26,
                segment_count: segments,
                segment_free_count: empty,
                reserve_bytes: reserve << 26,
                ..client::ShardState::default()
            };
            let text = full(&state);
            assert_eq!(text.contains("disk has no room"), names_disk, "{text}");
        };
        check(24, 28, 2, 5, false);
        check(24, 31, 5, 5, false);
        // The file system gave no more than 12 segments.
        check(9, 12, 3, 3, true);
        check(24, 28, 3, 3, true);
    }
}
