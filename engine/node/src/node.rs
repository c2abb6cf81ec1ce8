//! A running node, as whoever started it holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::{Sender, ThreadHandle};
use wire::message::ShardState;
use wire::meta::GroupState;
use wire::{ClusterId, MapNumber};

use crate::admin::{Admin, Inspect};
use crate::meta_thread::MetaMail;
use crate::metrics::{Snapshot, render};
use crate::progress::Watch;
use crate::shard_thread::ShardMail;

/// A thread that doesn't answer in this time is called stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// One of the node's threads.
#[derive(Debug)]
pub(crate) struct Thread<M> {
    pub(crate) what: String,
    pub(crate) handle: ThreadHandle,
    pub(crate) mail: Sender<M>,
    pub(crate) watch: Watch,
    pub(crate) address: SocketAddr,
}

/// A running node. Dropping it stops nothing: call [`Node::stop`].
#[derive(Debug)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) cluster: ClusterId,
    pub(crate) map: MapNumber,
    pub(crate) shards: Vec<Thread<ShardMail>>,
    pub(crate) metadata: Thread<MetaMail>,
    pub(crate) admin: Admin,
}

impl Node {
    /// Where clients find the cluster: `host:port`.
    pub fn endpoint(&self) -> String {
        self.metadata.address.to_string()
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that the node belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Number of the cluster map that the node serves under.
    pub fn map(&self) -> MapNumber {
        self.map
    }

    /// What has failed since the node started, if anything has: a thread that ended, or gave up.
    pub fn failed(&self) -> Option<String> {
        let shards = self.shards.iter().map(|thread| failure(&thread.what, &thread.handle, &thread.watch));
        shards
            .chain([failure(&self.metadata.what, &self.metadata.handle, &self.metadata.watch)])
            .flatten()
            .next()
    }

    /// Drains and stops: what was accepted is finished, logs and stores are closed by a checkpoint.
    pub fn stop(self) -> Result<(), crate::Error> {
        let Self { shards, metadata, admin, .. } = self;
        drop(admin);
        end(metadata)?;
        for shard in &shards {
            shard.handle.stop();
        }
        shards.into_iter().try_for_each(end)
    }
}

fn failure(what: &str, handle: &ThreadHandle, watch: &Watch) -> Option<String> {
    watch
        .failure()
        .map(|reason| format!("{what}: {reason}"))
        .or_else(|| handle.is_finished().then(|| format!("{what} ended")))
}

/// Stops a thread and waits for it.
pub(crate) fn end<M>(thread: Thread<M>) -> Result<(), crate::Error> {
    thread.handle.stop();
    thread.handle.join().map_err(|_| crate::Error::Stopped { what: thread.what })
}

/// What the admin endpoint asks the threads.
pub(crate) struct Inspector {
    pub(crate) name: String,
    pub(crate) map: MapNumber,
    pub(crate) shards: Vec<Sender<ShardMail>>,
    pub(crate) metadata: Sender<MetaMail>,
}

impl Inspector {
    fn shard_state(sender: &Sender<ShardMail>) -> Option<ShardState> {
        let (replier, mut reply) = runtime::reply();
        sender.send(ShardMail::State(replier)).ok()?;
        reply.wait_timeout(ANSWER_TIMEOUT)?.ok()
    }

    fn group_state(&self) -> Option<GroupState> {
        let (replier, mut reply) = runtime::reply();
        self.metadata.send(MetaMail::State(replier)).ok()?;
        reply.wait_timeout(ANSWER_TIMEOUT)?.ok()
    }
}

impl Inspect for Inspector {
    fn metrics(&self) -> String {
        let shards = (0_u16..).zip(&self.shards);
        let shards = shards.filter_map(|(index, sender)| Some((index, Self::shard_state(sender)?))).collect();
        render(&Snapshot { node: self.name.clone(), map: self.map.0, shards, group: self.group_state() })
    }

    fn health(&self) -> Result<(), String> {
        for (index, sender) in self.shards.iter().enumerate() {
            if Self::shard_state(sender).is_none() {
                return Err(format!("shard {index} doesn't answer"));
            }
        }
        self.group_state().map(|_| ()).ok_or_else(|| "the metadata replica doesn't answer".into())
    }

    fn ready(&self) -> Result<(), String> {
        for (index, sender) in self.shards.iter().enumerate() {
            let state = Self::shard_state(sender).ok_or_else(|| format!("shard {index} doesn't answer"))?;
            if state.condition != wire::message::StoreCondition::Serving {
                return Err(format!("shard {index} is {:?}", state.condition).to_lowercase());
            }
        }
        self.group_state().map(|_| ()).ok_or_else(|| "the metadata replica doesn't answer".into())
    }
}

/// The admin endpoint's view of these threads.
pub(crate) fn inspector(
    name: &str,
    map: MapNumber,
    shards: &[Thread<ShardMail>],
    metadata: &Thread<MetaMail>,
) -> Arc<dyn Inspect> {
    Arc::new(Inspector {
        name: name.into(),
        map,
        shards: shards.iter().map(|thread| thread.mail.clone()).collect(),
        metadata: metadata.mail.clone(),
    })
}
