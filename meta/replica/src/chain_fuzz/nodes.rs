//! Members and their disks: what a crash leaves, and how a life begins.

use wire::Nanos;

use super::{NODES, World, config, store};
use crate::{ChainView, Event, RecordNumber, Replica, Restore};

/// What survives a crash.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) records: Vec<Vec<u8>>,
    pub(super) durable: usize,
    pub(super) checkpoint: Option<(RecordNumber, Vec<Vec<u8>>)>,
    /// The newest map's chain: a promise when it is prepared.
    pub(super) view: Option<ChainView>,
}

pub(super) struct Node {
    pub(super) disk: Disk,
    /// `None`: it is down.
    pub(super) replica: Option<Box<Replica>>,
    pub(super) life: u64,
    /// Pages of the checkpoint that is being written, its record, and whether it waits for the next page or for its end.
    pub(super) pages: Vec<Vec<u8>>,
    pub(super) page_out: Option<(RecordNumber, bool)>,
    pub(super) tick_at: Option<Nanos>,
    pub(super) turn_due: bool,
    pub(super) lease_until: Nanos,
    /// Its disk does nothing until then.
    pub(super) stalled_until: Nanos,
    pub(super) caught_up: bool,
    pub(super) synced: bool,
}

impl Node {
    pub(super) fn new(at: usize) -> Self {
        Self {
            disk: Disk::default(),
            replica: Some(Box::new(Replica::new(config(at), Nanos(1)))),
            life: 1,
            pages: Vec::new(),
            page_out: None,
            tick_at: None,
            turn_due: false,
            lease_until: Nanos(0),
            stalled_until: Nanos(0),
            caught_up: false,
            synced: false,
        }
    }
}

impl World {
    /// Time passes for every member: turns end, ticks come, disks flush.
    pub(super) fn step_nodes(&mut self) {
        for at in 0..NODES {
            if self.nodes[at].replica.is_none() {
                continue;
            }
            if self.nodes[at].tick_at.is_some_and(|tick| tick <= self.now) {
                self.nodes[at].tick_at = None;
                self.handle(at, Event::Tick);
            }
            if self.nodes[at].turn_due && !self.random.one_in(3) {
                self.handle(at, Event::Turn);
                self.nodes[at].turn_due = false;
            }
            if self.now >= self.nodes[at].stalled_until && !self.random.one_in(3) {
                self.flush(at);
            }
        }
    }

    pub(super) fn flush(&mut self, at: usize) {
        let disk = &mut self.nodes[at].disk;
        let behind = disk.records.len() - disk.durable;
        if behind > 0 {
            disk.durable += self.random.below(behind + 1);
            let record = RecordNumber(u64::try_from(disk.durable).unwrap());
            self.handle(at, Event::Durable { record });
        }
        match self.nodes[at].page_out {
            Some(_) if self.faults && self.random.one_in(40) => {
                self.nodes[at].page_out = None;
                self.handle(at, Event::CheckpointFailed);
            }
            Some((_, false)) => {
                self.nodes[at].page_out = None;
                self.handle(at, Event::CheckpointPageTaken);
            }
            Some((record, true)) if !self.random.one_in(4) => {
                let node = &mut self.nodes[at];
                node.page_out = None;
                node.disk.checkpoint = Some((record, std::mem::take(&mut node.pages)));
                self.handle(at, Event::CheckpointDurable { record });
            }
            _ => {}
        }
    }

    /// The member's process ends; of what it appended any prefix that holds what was reported durable reached the disk.
    pub(super) fn crash(&mut self, at: usize) {
        self.counts.crashes += 1;
        let disk = &mut self.nodes[at].disk;
        disk.durable += self.random.below(disk.records.len() - disk.durable + 1);
        self.note_crash(at);
        let disk = &mut self.nodes[at].disk;
        disk.records.truncate(disk.durable);
        self.nodes[at].replica = None;
        for client in 0..self.clients.len() {
            self.lose(client, at);
        }
        // Its connections end, or nobody is told.
        if self.random.one_in(2) {
            for other in (0..NODES).filter(|other| *other != at) {
                self.handle(other, Event::LinkDown { peer: store(at) });
            }
        }
    }

    /// As [`Effect::Restart`] asks: everything appended is written first.
    pub(super) fn restart_in_order(&mut self, at: usize) {
        self.counts.restarts += 1;
        self.nodes[at].disk.durable = self.nodes[at].disk.records.len();
        self.start(at);
    }

    pub(super) fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let mut restore = Restore::chained(config(at).recent_bytes);
        let mut from = 0;
        if let Some((record, pages)) = &node.disk.checkpoint {
            for page in pages {
                restore.page(page).unwrap();
            }
            from = usize::try_from(record.0).unwrap();
        }
        for (number, record) in (1..).zip(&node.disk.records).skip(from) {
            restore.record(RecordNumber(number), record).unwrap();
        }
        let replica = restore.start(config(at), self.now).unwrap();
        replica.state().namespace.audit().unwrap();
        (node.caught_up, node.synced) = (false, false);
        node.replica = Some(Box::new(replica));
        node.life += 1;
        node.pages.clear();
        node.page_out = None;
        node.lease_until = Nanos(0);
        node.tick_at = None;
        self.note_restart(at);
        if let Some(view) = self.nodes[at].disk.view.clone() {
            self.handle(at, Event::Chain(&view));
        }
    }
}
