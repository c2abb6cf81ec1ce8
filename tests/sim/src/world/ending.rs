//! Faults stop: everything becomes readable, garbage goes to zero, and whatever was seen must have had an order.

use std::collections::VecDeque;

use wire::limits::LIST_ENTRIES_MAX;
use wire::meta::{Answer, InodeKind, Query};
use wire::{Nanos, Status, VolumeId};

use super::{GARBAGE_LIMIT, Happening, Phase, QUIET_LIMIT, World};
use crate::checker;
use crate::client_process::ClientProcess;
use crate::content::Stamp;
use crate::history::{Action, Condition, Ending, Record, Seen};
use crate::node::{self, Host, Node};
use crate::workload::{DIRECTORIES, FILES, LINKS};

impl World {
    /// No faults from now on; whatever is down starts, and pauses end as they would.
    pub(super) fn calm(&mut self) -> Result<(), String> {
        self.trace.tell(self.schedule.now(), format_args!("calm"));
        self.phase = Phase::Calm;
        self.network.heal(self.schedule.now());
        let living: Vec<usize> = self.living().map(|(number, _)| number).collect();
        for node in living {
            self.nodes[node].hosts.iter_mut().for_each(|host| host.disk.heal());
            if !self.nodes[node].is_serving() {
                self.end_node(node, false);
            }
        }
        self.until("recovery after the faults", QUIET_LIMIT, |world| {
            world.living().all(|(_, node)| node.is_serving()) || world.is_destroyed()
        })
    }

    /// Whether damage made a unit's recovery impossible, which it said.
    pub(super) fn is_destroyed(&self) -> bool {
        let mut hosts = self.nodes.iter().flat_map(|node| &node.hosts);
        // In a cluster such a node is replaced.
        self.cluster.is_none()
            && hosts
                .any(|host| matches!(host.condition, node::Condition::Failed(_)) && host.disk.is_damaged())
    }

    /// What is under way ends, and everything is read.
    pub(super) fn read_everything(&mut self, volume: VolumeId) -> Result<(), String> {
        self.until("operations after the faults", QUIET_LIMIT, |world| {
            world.clients.iter().all(|client| client.workload.under_way() == 0)
        })?;
        self.calm_since = self.schedule.now();
        self.verify(volume)
    }

    /// Clients and nodes end in order, and nothing is left behind.
    pub(super) fn end_in_order(&mut self, volume: VolumeId) -> Result<(), String> {
        // In half of the seeds also with sessions, results and garbage: in the others the lives that saw the faults go on to the end.
        if self.random.per_mille(500) {
            self.end_nodes()?;
            self.start_again()?;
        }
        if self.is_destroyed() {
            return Ok(());
        }
        self.end_clients()?;
        self.until("garbage", GARBAGE_LIMIT, |world| world.garbage(volume).is_none())
            .map_err(|error| format!("{error}: {}", self.garbage(volume).unwrap_or_default()))?;
        self.end_nodes()?;
        self.start_again()
    }

    /// A client that saw nothing of all this reads everything.
    fn verify(&mut self, volume: VolumeId) -> Result<(), String> {
        let number = self.clients.len();
        self.add_client(number, volume);
        self.clients[number].workload.is_patient = true;
        let mut actions: VecDeque<Action> = VecDeque::from([whole_list("")]);
        actions.extend(FILES.iter().chain(DIRECTORIES).chain(LINKS).map(|path| whole(path)));
        while let Some(action) = actions.pop_front() {
            self.begin(number, action);
            self.until("reading everything", QUIET_LIMIT, |world| {
                world.clients[number].workload.under_way() == 0
            })?;
            let record = self.clients[number].workload.records.last().expect("it ended");
            match (&record.ending, &record.action) {
                (Ending::Nothing, _) => {
                    return Err(format!(
                        "after the faults, this has no answer: {}",
                        checker::describe(record)
                    ));
                }
                (Ending::Listed { rows, .. }, Action::List { path, .. }) => {
                    let join =
                        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                    for row in rows {
                        actions.push_back(match row.kind {
                            InodeKind::Directory => whole_list(&join(&row.name)),
                            _ => whole(&join(&row.name)),
                        });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, number: usize, action: Action) {
        self.last_stamp += 1;
        let mut orders = Vec::new();
        let now = self.schedule.now();
        self.clients[number].workload.begin(now, Stamp(self.last_stamp), action, &mut orders);
        let finished = self.give(number, orders);
        self.take_finished(number, finished);
    }

    /// R25: who reads slowly has the whole version, though it is replaced and removed meanwhile and all others' bytes are reclaimed.
    pub(super) fn hold_while_replaced(&mut self, volume: VolumeId) -> Result<(), String> {
        let (reader, writer) = (self.clients.len(), self.clients.len() + 1);
        for number in [reader, writer] {
            self.add_client(number, volume);
            self.clients[number].workload.is_patient = true;
        }
        let path = || "held".to_owned();
        let length = 2 * self.chunk_bytes + 1;
        let put = |length| Action::Replace { path: path(), length, condition: Condition::Any, dress: None };
        self.write_at_last(volume, writer, &put(length))?;
        let tries = self.clients[writer].workload.records.len();
        if self.cluster.is_some() {
            // It finds its way past nodes that are gone before its time is measured.
            self.begin(reader, whole_list(""));
            self.until("the reader's way", QUIET_LIMIT, |world| world.is_idle(reader))?;
        }
        let pace = 2 * Nanos::SECOND;
        self.begin(reader, Action::Read { path: path(), follow: false, from: 0, to: u64::MAX, pace });
        let began = self.schedule.now().after(Nanos::SECOND / 5);
        self.until("the long read's begin", QUIET_LIMIT, |world| world.schedule.now() >= began)?;
        for action in [put(1), Action::RemoveFile { path: path(), condition: Condition::Any }] {
            self.begin(writer, action);
            self.until("changes under the long read", QUIET_LIMIT, |world| world.is_idle(writer))?;
        }
        self.until("the long read", QUIET_LIMIT, |world| world.is_idle(reader))?;
        let records = &self.clients[writer].workload.records[tries - 1..];
        let read = self.clients[reader].workload.records.last().expect("it ended");
        let is_whole = matches!(&read.ending, Ending::Found { seen: Seen { bytes: Some(_), .. }, .. });
        if records.iter().all(is_written) && !is_whole && !self.is_damaged() {
            return Err(format!("R25: a pinned version is gone: {}", checker::describe(read)));
        }
        Ok(())
    }

    /// I12: whatever was full or refused while there were faults, a client that goes on asking is served.
    fn write_at_last(&mut self, volume: VolumeId, writer: usize, action: &Action) -> Result<(), String> {
        let deadline = self.schedule.now().after(GARBAGE_LIMIT);
        loop {
            self.begin(writer, action.clone());
            self.until("a write after the faults", QUIET_LIMIT, |world| world.is_idle(writer))?;
            let record = self.clients[writer].workload.records.last().expect("it ended");
            // Segments with damage are never cleaned: that may use a store's space up for good.
            if is_written(record) || self.is_damaged() {
                return Ok(());
            }
            if self.schedule.now() > deadline {
                let (what, held) = (checker::describe(record), self.held(volume));
                return Err(format!("after the faults nothing is written: {what}; {held}"));
            }
            let pause = self.schedule.now().after(Nanos::SECOND);
            self.schedule.at(pause, Happening::Fault);
            self.until("another try", QUIET_LIMIT, |world| world.schedule.now() >= pause)?;
        }
    }

    /// What the nodes hold, for a person.
    fn held(&self, volume: VolumeId) -> String {
        let held = self.nodes.iter().filter_map(|node| {
            let replica = node.meta()?.replica()?;
            let namespace = &replica.state().namespace;
            let Ok(Answer::Usage(usage)) = namespace.query(&Query::Usage { volume }, Nanos::SECOND) else {
                return None;
            };
            let stores: Vec<_> = node.shards().map(|shard| shard.store().metrics()).collect();
            let (deleting, metrics) = (namespace.deleting_chunks(), replica.metrics());
            Some(format!("{usage:?}, {deleting} deleting; {metrics:?} {stores:?}"))
        });
        held.collect()
    }

    fn is_damaged(&self) -> bool {
        self.nodes.iter().flat_map(|node| &node.hosts).any(|host| host.disk.is_damaged())
    }

    pub(super) fn is_idle(&self, client: usize) -> bool {
        self.clients[client].workload.under_way() == 0
    }

    /// Clients end in order and leave nothing in their arenas.
    pub(super) fn end_clients(&mut self) -> Result<(), String> {
        for number in 0..self.clients.len() {
            let life = self.clients[number].life;
            self.with_client(number, life, ClientProcess::on_shutdown);
        }
        let quiet = self.schedule.now().after(10 * Nanos::SECOND);
        self.schedule.at(quiet, Happening::Fault);
        self.until("the clients' end", QUIET_LIMIT, |world| world.schedule.now() >= quiet)?;
        for (number, client) in self.clients.iter().enumerate() {
            let Some(process) = &client.process else { continue };
            let counts = process.counts();
            if counts.requests > 0 || counts.uploads > 0 || counts.window_bytes > 0 {
                return Err(format!("client {number} has ended and still holds {counts:?}"));
            }
            let leaks = process.memory.leaks();
            if !leaks.is_empty() {
                return Err(format!("client {number} leaks slots {leaks:?}"));
            }
        }
        Ok(())
    }

    /// I12: stores hold exactly what versions reference, and no deletion is on its way. Says what is in the way.
    fn garbage(&self, volume: VolumeId) -> Option<String> {
        self.nodes.iter().find_map(|node| {
            let Some(replica) = node.meta().and_then(|meta| meta.replica()) else {
                return Some("no replica serves".to_owned());
            };
            let namespace = &replica.state().namespace;
            let Ok(Answer::Usage(usage)) = namespace.query(&Query::Usage { volume }, Nanos::SECOND) else {
                return Some("the volume is gone".to_owned());
            };
            let stored: u64 = node.shards().map(|shard| shard.store().metrics().chunks).sum();
            let has_damage =
                node.hosts.iter().any(|host| host.disk.is_damaged() || host.batches_damaged);
            let expected = usage.chunks * node.copies();
            let is_equal = stored == expected || (has_damage && stored <= expected);
            let deleting = namespace.deleting_chunks();
            (!is_equal || deleting > 0).then(|| {
                let metrics = replica.metrics();
                let stores: Vec<_> = node.shards().map(|shard| shard.store().metrics()).collect();
                let (chunks, reclaimable) = (usage.chunks, usage.reclaimable_bytes);
                format!("{stored} stored, {chunks} referenced, {deleting} deleting, {reclaimable} reclaimable bytes; {metrics:?} {stores:?}")
            })
        })
    }

    pub(super) fn end_nodes(&mut self) -> Result<(), String> {
        for node in &self.nodes {
            if let Some(replica) = node.meta().and_then(|meta| meta.replica()) {
                replica
                    .state()
                    .namespace
                    .audit()
                    .map_err(|error| format!("the namespace's audit: {error}"))?;
            }
        }
        let living: Vec<usize> = self.living().map(|(number, _)| number).collect();
        for index in living {
            let (mut around, nodes) = self.around();
            nodes[index].on_shutdown(&mut around);
        }
        self.until("the nodes' end", QUIET_LIMIT, |world| {
            world
                .living()
                .all(|(_, node)| node.hosts.iter().all(|host| host.condition == node::Condition::Ended))
        })?;
        // Frames that were leaving are gone by then.
        let quiet = self.schedule.now().after(Nanos::SECOND);
        self.schedule.at(quiet, Happening::Fault);
        self.until("the last frames", QUIET_LIMIT, |world| world.schedule.now() >= quiet)?;
        for (number, node) in self.living() {
            for (unit, host) in node.hosts.iter().enumerate() {
                let leaks = host.memory.leaks_beside_devices_own();
                // An agent drops the log of a vote that was taken from it, with what is under way, and keeps a buffer of one that it couldn't open.
                let is_excused = unit + 1 == node.hosts.len()
                    && node
                        .control
                        .as_ref()
                        .is_some_and(|control| control.changed_vote || control.vote_is_lost);
                if !leaks.is_empty() && !is_excused {
                    return Err(format!("slots leaked at {number}.{unit}: {leaks:?}"));
                }
            }
        }
        Ok(())
    }

    /// What the nodes held when they had ended is what their next start finds, though the power may fail in between.
    fn start_again(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.nodes[node].remember();
            let by_power = self.random.per_mille(500);
            self.end_node(node, by_power);
        }
        self.until("the start after an orderly end", QUIET_LIMIT, |world| {
            world.nodes.iter().all(Node::is_serving) || world.is_destroyed()
        })?;
        let mut hosts = self.nodes.iter().flat_map(|node| &node.hosts);
        hosts.find_map(|host| host.lost.clone()).map_or(Ok(()), Err)
    }

    /// All that clients saw, against the plain map.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let mut records: Vec<Record> =
            self.clients.iter().flat_map(|client| client.workload.records.iter().cloned()).collect();
        records.sort_by_key(|record| (record.began, record.stamp));
        for record in &records {
            self.tally.operations += 1;
            self.tally.count(record.action.name(), record.ending.name());
            if record.outlived {
                self.tally.count(record.action.name(), "outlived its version");
            }
            self.excuse_lost_bytes(record)?;
        }
        let summary = checker::check(self.seed, &records).map_err(|anomaly| anomaly.to_string())?;
        summary.tally(&mut self.tally);
        Ok(())
    }

    /// Bytes may be lost only where a disk was damaged, or failed.
    fn excuse_lost_bytes(&self, record: &Record) -> Result<(), String> {
        let Ending::Found { seen: Seen { kind: InodeKind::File, bytes: None, .. }, .. } = &record.ending
        else {
            return Ok(());
        };
        let mut hosts = self.nodes.iter().flat_map(|node| &node.hosts);
        // A copy that can't be reached may be the only one that is sound, as long as there are faults.
        if self.cluster.is_some() {
            return if is_early(record, self.calm_since) { Ok(()) } else { Err(lost(record)) };
        }
        // While requests fail, so may reads; whoever reads after the faults sees what is really lost.
        let is_last = record.began >= self.calm_since;
        // Bits that flip on the way look like damage of the copy, as often as the client asks again.
        if !is_last && self.network.counters.flips > 0 {
            return Ok(());
        }
        let is_excused = |host: &Host| host.disk.is_damaged() || (host.disk.was_faulty() && !is_last);
        if hosts.any(is_excused) {
            return Ok(());
        }
        Err(lost(record))
    }

    pub(super) fn count_all(&mut self) {
        let network = self.network.counters;
        for (column, count) in [
            ("connections", network.connections),
            ("refused", network.refused),
            ("frames", network.frames),
            ("frames lost", network.frames_lost),
            ("resets", network.resets),
            ("half open", network.half_open),
            ("flips", network.flips),
            ("held back", network.partitioned),
            ("slow", network.slow),
        ] {
            self.tally.add("network", column, count);
        }
        for client in &self.clients {
            self.tally.add("client", "compacted", client.workload.compacted);
        }
        self.repeats.tally(&mut self.tally);
        for node in &self.nodes {
            node.hosts.iter().for_each(|host| host.disk.tally(&mut self.tally));
        }
    }
}

fn is_early(record: &Record, calm_since: Nanos) -> bool {
    record.began < calm_since
}

fn lost(record: &Record) -> String {
    format!("bytes are lost, and no disk did anything wrong: {}", checker::describe(record))
}

fn is_written(record: &Record) -> bool {
    matches!(record.ending, Ending::Executed { status: Status::Ok, .. })
}

fn whole(path: &str) -> Action {
    Action::Read { path: path.to_owned(), follow: false, from: 0, to: u64::MAX, pace: 0 }
}

fn whole_list(path: &str) -> Action {
    Action::List { path: path.to_owned(), after: String::new(), limit: LIST_ENTRIES_MAX }
}
