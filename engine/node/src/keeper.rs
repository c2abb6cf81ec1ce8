//! A thread that keeps what the control agent wants kept: cluster maps, and the logs of new votes. Files are written there as files are, with calls that block.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use placement::Edition;
use tracing::{error, info};
use wire::Nanos;

use crate::control_thread::ControlMail;
use crate::error::Error;
use crate::identity::{Identity, NodeDirectory};
use crate::vote::{self, Vote};

/// A map and a vote at a time: the agent waits for each.
const ORDERS_MAX: usize = 4;
/// After a failure it is tried again so much later.
const RETRY: std::time::Duration = std::time::Duration::from_millis(500);
/// How often a failure is told.
const TELL_EVERY: u64 = 10 * Nanos::SECOND;

/// What is to be kept.
#[derive(Debug)]
pub(crate) enum Order {
    /// The node's newest map.
    Map(Arc<Edition>),
    /// A log for this vote, recorded in the identity before it is used.
    Vote(u64),
}

/// Starts the thread; it ends when the sender is gone.
pub(crate) fn start(
    directory: NodeDirectory,
    logs: PathBuf,
    identity: Identity,
    control: runtime::Sender<ControlMail>,
) -> Result<Sender<Order>, Error> {
    let (sender, orders) = bounded(ORDERS_MAX);
    let keeper = Keeper { directory, logs, identity, control, told_at: Nanos(0) };
    runtime::spawn_thread("keeper", None, move || keeper.run(&orders)).map_err(|source| Error::Start {
        what: "the keeper of maps".into(),
        source: Box::new(source.into()),
    })?;
    Ok(sender)
}

struct Keeper {
    directory: NodeDirectory,
    /// Where the logs of votes lie.
    logs: PathBuf,
    identity: Identity,
    control: runtime::Sender<ControlMail>,
    told_at: Nanos,
}

impl Keeper {
    fn run(mut self, orders: &Receiver<Order>) {
        for order in orders {
            match order {
                Order::Map(edition) => self.keep_map(&edition),
                Order::Vote(id) => self.make_vote(id),
            }
        }
    }

    /// A disk that is full may have room again, and until then nothing is promised: it is tried until it succeeds, or nobody waits any more.
    fn keep_map(&mut self, edition: &Edition) {
        while let Err(error) = self.directory.write_map(edition.bytes()) {
            let now = runtime::clock::now();
            if self.told_at == Nanos(0) || now.since(self.told_at) >= TELL_EVERY {
                self.told_at = now;
                error!(%error, map = edition.number().0, "the cluster map can't be stored; this node follows no newer one until it is");
            }
            if self.control.is_closed() {
                return;
            }
            std::thread::park_timeout(RETRY);
        }
        self.tell(ControlMail::Stored(edition.number()));
    }

    fn make_vote(&mut self, id: u64) {
        let vote = Vote::new(id, false);
        match self.try_make(vote) {
            Ok(Some(file)) => {
                info!(id, "this node has a vote in the control group");
                self.tell(ControlMail::Vote { vote, file });
            }
            Ok(None) => {}
            Err(error) => error!(%error, id, "the log of this node's vote can't be made: it doesn't vote"),
        }
    }

    fn try_make(&mut self, vote: Vote) -> Result<Option<(runtime::StoreFile, u64)>, Error> {
        if self.identity.vote.is_some_and(|known| known.id == vote.id) {
            return Ok(None); // recorded, and its log is lost: never again (R35)
        }
        vote::make(&self.logs, vote, (self.identity.cluster, self.identity.node))?;
        let identity = Identity { vote: Some(vote), ..self.identity.clone() };
        self.directory.write_identity(&identity)?;
        self.identity = identity;
        vote::open(&self.logs, vote)
    }

    /// The agent waits for it: it is tried until it is taken, or nobody is there any more.
    fn tell(&self, mut mail: ControlMail) {
        while let Err(refused) = self.control.send(mail) {
            if self.control.is_closed() {
                return;
            }
            mail = refused;
            std::thread::park_timeout(RETRY);
        }
    }
}
