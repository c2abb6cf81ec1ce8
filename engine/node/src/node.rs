//! A running node, as whoever started it holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime::{Sender, ThreadHandle};
use wire::message::ShardState;
use wire::meta::GroupState;
use wire::{ClusterId, MapNumber, Nanos};

use crate::admin::{Admin, Inspect};
use crate::control_thread::{ControlMail, ControlState};
use crate::meta_thread::MetaMail;
use crate::metrics::{Snapshot, condition_name, render};
use crate::progress::Watch;
use crate::shard_thread::ShardMail;
use crate::start::nanoseconds;

/// A thread that doesn't answer in this time is called stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Whether the node serves is looked at this often.
const SERVING_LOOK: Duration = Duration::from_millis(5);

/// One of the node's threads.
#[derive(Debug)]
pub(crate) struct Thread<M> {
    pub(crate) what: String,
    pub(crate) handle: ThreadHandle,
    pub(crate) mail: Sender<M>,
    pub(crate) watch: Watch,
    pub(crate) address: SocketAddr,
}

/// The threads of a node that is being formatted, started or stopped. Dropped, it stops those that it still holds and waits for their end: files are
/// closed then.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    pub(crate) shards: Vec<Thread<ShardMail>>,
    pub(crate) metadata: Option<Thread<MetaMail>>,
    pub(crate) control: Option<Thread<ControlMail>>,
}

impl Threads {
    /// Stops the metadata replica, which may have something left for the stores, then the shards, and the control agent last: all of them, whatever happens. The first
    /// error is returned.
    pub(crate) fn stop(&mut self) -> Result<(), crate::Error> {
        let mut result = self.metadata.take().map_or(Ok(()), end);
        for shard in &self.shards {
            shard.handle.stop();
        }
        for shard in self.shards.drain(..) {
            let ended = end(shard);
            result = result.and(ended);
        }
        let ended = self.control.take().map_or(Ok(()), end);
        result.and(ended)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "a thread didn't end in order");
        }
    }
}

/// A running node. Dropping it stops it, too; [`Node::stop`] tells of errors.
#[derive(Debug)]
pub struct Node {
    name: String,
    cluster: ClusterId,
    threads: Threads,
    endpoint: SocketAddr,
    control: SocketAddr,
    admin: Admin,
    draining: Arc<AtomicBool>,
}

impl Node {
    /// Around threads that all run.
    pub(crate) fn new(
        name: String,
        cluster: ClusterId,
        threads: Threads,
        admin: Admin,
        draining: Arc<AtomicBool>,
    ) -> Self {
        let endpoint = threads.metadata.as_ref().map(|thread| thread.address);
        let control = threads.control.as_ref().map(|thread| thread.address);
        let (endpoint, control) = endpoint.zip(control).expect("all threads run");
        Self { name, cluster, threads, endpoint, control, admin, draining }
    }

    /// Where clients find the cluster: `host:port`.
    pub fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    /// Where other nodes and operators find its control agent.
    pub fn control_address(&self) -> SocketAddr {
        self.control
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

    /// Number of the newest cluster map that the node knows; 0: its agent doesn't answer.
    pub fn map(&self) -> MapNumber {
        self.control_state().map_or(MapNumber(0), |state| state.number)
    }

    fn control_state(&self) -> Option<ControlState> {
        ask_control(&self.threads.control.as_ref()?.mail)
    }

    /// What the node waits for before it serves; `None`: it serves.
    pub fn waits_for(&self) -> Option<String> {
        match self.control_state() {
            Some(state) if state.serves() => None,
            Some(state) => Some(state.why_not()),
            None => Some("the control agent doesn't answer".to_owned()),
        }
    }

    /// Waits until the node serves, but not for longer than this; whether it does.
    pub fn wait_serving(&self, patience: Duration) -> bool {
        let until = runtime::clock::now().after(nanoseconds(patience));
        loop {
            let state = self.control_state();
            let why = match &state {
                Some(state) if state.serves() && state.is_settled => None,
                Some(state) if state.serves() => Some("chains are changing".to_owned()),
                _ => self.waits_for(),
            };
            match why {
                None => return true,
                Some(_) if runtime::clock::now() < until && self.failed().is_none() => {
                    std::thread::park_timeout(SERVING_LOOK);
                }
                Some(why) => {
                    tracing::warn!("not serving yet: {why}");
                    return false;
                }
            }
        }
    }

    /// What has failed since the node started, if anything has: a thread that ended, or gave up.
    pub fn failed(&self) -> Option<String> {
        let Threads { shards, metadata, control } = &self.threads;
        let shards = shards.iter().map(|thread| failure(&thread.what, &thread.handle, &thread.watch));
        let metadata = metadata.iter().map(|thread| failure(&thread.what, &thread.handle, &thread.watch));
        let control = control.iter().map(|thread| failure(&thread.what, &thread.handle, &thread.watch));
        shards.chain(metadata).chain(control).flatten().next()
    }

    /// Says in the log why the node ends, and by `/readyz` that it does. [`Node::stop`] is to follow.
    pub fn begin_stop(&self, reason: &str) {
        tracing::info!(node = %self.name, "stopping: {reason}");
        self.draining.store(true, Ordering::Release);
    }

    /// Drains and stops: what was accepted is finished, logs and stores are closed by a checkpoint. Until that is done the admin endpoint tells of it.
    pub fn stop(self) -> Result<(), crate::Error> {
        let Self { mut threads, admin, draining, .. } = self;
        draining.store(true, Ordering::Release);
        let result = threads.stop();
        drop(admin);
        result
    }
}

fn failure(what: &str, handle: &ThreadHandle, watch: &Watch) -> Option<String> {
    watch
        .failure()
        .map(|reason| format!("{what}: {reason}"))
        .or_else(|| handle.is_finished().then(|| format!("{what} ended")))
}

/// Stops a thread and waits for it.
fn end<M>(thread: Thread<M>) -> Result<(), crate::Error> {
    thread.handle.stop();
    thread.handle.join().map_err(|_| crate::Error::Stopped { what: thread.what })
}

/// What the admin endpoint asks the threads.
pub(crate) struct Inspector {
    pub(crate) name: String,
    pub(crate) shards: Vec<Sender<ShardMail>>,
    pub(crate) metadata: Sender<MetaMail>,
    pub(crate) control: Sender<ControlMail>,
    /// The node is ending: threads that don't answer any more have ended.
    pub(crate) draining: Arc<AtomicBool>,
}

impl Inspector {
    /// What all threads say. They are asked at once, so that it takes no longer the more of them are stuck.
    fn ask(&self) -> Answers {
        let until = runtime::clock::now().after(nanoseconds(ANSWER_TIMEOUT));
        let shards: Vec<_> = self
            .shards
            .iter()
            .map(|sender| {
                let (replier, reply) = runtime::reply();
                sender.send(ShardMail::State(replier)).is_ok().then_some(reply)
            })
            .collect();
        let (replier, reply) = runtime::reply();
        let group = self.metadata.send(MetaMail::State(replier)).is_ok().then_some(reply);
        Answers {
            shards: shards.into_iter().map(|reply| wait(reply?, until)).collect(),
            group: group.and_then(|reply| wait(reply, until)),
        }
    }
}

/// What the threads say of themselves; `None`: nothing.
struct Answers {
    shards: Vec<Option<ShardState>>,
    group: Option<GroupState>,
}

impl Answers {
    /// The shards' answers, if all threads answered.
    fn complete(self) -> Result<Vec<ShardState>, String> {
        let shards = self.shards.into_iter().enumerate();
        let shards: Result<_, String> = shards
            .map(|(index, state)| state.ok_or_else(|| format!("shard {index} doesn't answer")))
            .collect();
        if self.group.is_none() {
            return Err("the metadata replica doesn't answer".into());
        }
        shards
    }
}

fn wait<T>(mut reply: runtime::Reply<T>, until: Nanos) -> Option<T> {
    let left = until.since(runtime::clock::now());
    reply.wait_timeout(Duration::from_nanos(left))?.ok()
}

impl Inspect for Inspector {
    fn metrics(&self) -> String {
        let answers = self.ask();
        let control = ask_control(&self.control).unwrap_or_default();
        let shards = (0_u16..).zip(answers.shards);
        let shards = shards.filter_map(|(index, state)| Some((index, state?))).collect();
        render(&Snapshot {
            node: self.name.clone(),
            map: control.number.0,
            accepted_losses: u64::from(control.accepted_losses),
            is_registered: control.is_registered,
            leads: control.leads,
            shards,
            group: answers.group,
        })
    }

    fn health(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Ok(());
        }
        self.ask().complete().map(|_| ())
    }

    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining: the node is stopping".into());
        }
        for (index, state) in self.ask().complete()?.iter().enumerate() {
            if state.condition != wire::message::StoreCondition::Serving {
                return Err(format!("shard {index} is {}", condition_name(state.condition)));
            }
        }
        match ask_control(&self.control) {
            Some(state) if state.serves() => Ok(()),
            Some(state) => Err(state.why_not()),
            None => Err("the control agent doesn't answer".into()),
        }
    }
}

fn ask_control(control: &Sender<ControlMail>) -> Option<ControlState> {
    let (replier, mut reply) = runtime::reply();
    control.send(ControlMail::State(replier)).ok()?;
    reply.wait_timeout(ANSWER_TIMEOUT)?.ok()
}

/// The admin endpoint's view of these threads.
pub(crate) fn inspector(
    name: &str,
    shards: &[Thread<ShardMail>],
    metadata: &Thread<MetaMail>,
    control: &Thread<ControlMail>,
    draining: Arc<AtomicBool>,
) -> Arc<dyn Inspect> {
    Arc::new(Inspector {
        name: name.into(),
        shards: shards.iter().map(|thread| thread.mail.clone()).collect(),
        metadata: metadata.mail.clone(),
        control: control.mail.clone(),
        draining,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The endpoint was closed first, and nobody who asked was ever told `draining`.
    #[test]
    fn a_node_that_stops_is_alive_and_not_ready() {
        let (metadata, _) = runtime::mailbox(1);
        let (control, _) = runtime::mailbox(1);
        let draining = Arc::new(AtomicBool::new(false));
        let inspector = Inspector {
            name: "n".into(),
            shards: Vec::new(),
            metadata,
            control,
            draining: Arc::clone(&draining),
        };
        // Its threads have ended: while it stops that is as it should be.
        assert!(inspector.health().is_err() && inspector.ready().is_err_and(|why| !why.contains("draining")));
        draining.store(true, Ordering::Release);
        assert_eq!(inspector.health(), Ok(()));
        assert!(inspector.ready().is_err_and(|why| why.starts_with("draining")));
    }
}
