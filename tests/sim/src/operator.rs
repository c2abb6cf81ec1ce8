//! An operator's tool: it asks whoever leads the control group, one thing at a time, and asks others when nobody answers.

use std::collections::{BTreeMap, VecDeque};

use wire::control::{Answer, Command, Led, Refusal, Registration, RegistrationRefusal, RegistrationReply};
use wire::message::{Encoder, FEATURES, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::{FrameKind, Nanos, NodeId, PREFIX_BYTES, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix};

use crate::network::Connection;
use crate::node::CLUSTER;

/// The number under which it calls: a client's, as far as the network is concerned.
pub(crate) const OPERATOR: usize = 999;
/// It looks at what it waits for so often.
pub(crate) const OPERATOR_TICK: u64 = 100 * Nanos::MILLISECOND;
/// An answer that doesn't come in this time is asked of another node.
const PATIENCE: u64 = 3 * Nanos::SECOND;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// A command.
    Manage(Command),
    /// That a node is taken in.
    Join(Box<Registration>),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The answer to a command; a refusal that time doesn't mend among them.
    Answer(Box<Answer>),
    /// The node has this number.
    Joined(NodeId),
    /// Nobody answered in time.
    Nothing,
}

#[derive(Debug)]
struct Ask {
    number: u64,
    wish: Wish,
    until: Nanos,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    asks: VecDeque<Ask>,
    /// The connection, since when, and to which of the nodes.
    way: Option<(Connection, Nanos, usize)>,
    told: BTreeMap<u64, Told>,
    last: u64,
    /// Who leads, as far as was said.
    leader: Option<NodeId>,
    next: usize,
    encoder: Encoder,
}

/// What it wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Nothing,
    /// Time to pass.
    Wait,
    /// A connection to a node: one of this number, or the next one in turn.
    Call(Option<NodeId>, usize),
    /// An end of this connection, first.
    Close(Connection),
}

impl Operator {
    /// Asks; the answer is found under the number that is returned.
    pub(crate) fn ask(&mut self, wish: Wish, until: Nanos) -> u64 {
        self.last += 1;
        self.asks.push_back(Ask { number: self.last, wish, until });
        self.last
    }

    /// Whether there is an answer.
    pub(crate) fn has_told(&self, number: u64) -> bool {
        self.told.contains_key(&number)
    }

    /// The answer, once there is one.
    pub(crate) fn take(&mut self, number: u64) -> Option<Told> {
        self.told.remove(&number)
    }

    /// Time has passed.
    pub(crate) fn step(&mut self, now: Nanos) -> Step {
        while let Some(ask) = self.asks.front().filter(|ask| now >= ask.until) {
            self.told.insert(ask.number, Told::Nothing);
            self.asks.pop_front();
        }
        match self.way {
            Some((connection, since, _)) if self.asks.is_empty() || now.since(since) >= PATIENCE => {
                self.way = None;
                self.leader = None;
                Step::Close(connection)
            }
            Some(_) => Step::Wait,
            None if self.asks.is_empty() => Step::Nothing,
            None => {
                self.next += 1;
                Step::Call(self.leader, self.next)
            }
        }
    }

    /// The call is under way.
    pub(crate) fn on_called(&mut self, now: Nanos, connection: Connection, node: usize) {
        self.way = Some((connection, now, node));
    }

    /// A connection stands: the frames to send.
    pub(crate) fn on_up(&mut self, connection: Connection) -> Vec<Vec<u8>> {
        let (Some((known, ..)), Some(ask)) = (self.way, self.asks.front()) else { return Vec::new() };
        if known != connection {
            return Vec::new();
        }
        let hello = Request::Hello(Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: FEATURES,
            name: "an operator".to_owned(),
            cluster: Some(CLUSTER),
            peer: None,
        });
        let request = match &ask.wish {
            Wish::Manage(command) => Request::Manage(Box::new(command.clone())),
            Wish::Join(registration) => Request::Register(registration.clone()),
        };
        let number = ask.number;
        let mut frame = |correlation, request: &Request<'_>| {
            let mut bytes = Vec::new();
            let head = RequestHead { correlation, deadline_ms: 0 };
            self.encoder.request(&mut bytes, head, request, PayloadMeta::default());
            bytes
        };
        vec![frame(0, &hello), frame(number, &request)]
    }

    /// A frame came. The connection to be ended, if any.
    pub(crate) fn on_head(&mut self, connection: Connection, head: &[u8]) -> Option<Connection> {
        let (bytes, message) = head.split_first_chunk::<PREFIX_BYTES>()?;
        let prefix = Prefix::decode(bytes).ok()?;
        let number = self.asks.front()?.number;
        if prefix.kind == FrameKind::Hello || prefix.correlation != number || self.way?.0 != connection {
            return None;
        }
        let told = match Reply::decode(prefix.kind, prefix.status, message) {
            Ok(Reply::Managed(answer)) => match *answer {
                Answer::Refused(Refusal::NotLeader(leader)) => Err(leader),
                Answer::Refused(Refusal::Busy) => Err(None),
                answer => Ok(Told::Answer(Box::new(answer))),
            },
            Ok(Reply::Register(reply)) => match *reply {
                Led::Elsewhere(leader) => Err(leader),
                Led::Here(RegistrationReply::Accepted { node, .. }) => Ok(Told::Joined(node)),
                Led::Here(RegistrationReply::Refused(RegistrationRefusal::Busy)) => Err(None),
                Led::Here(RegistrationReply::Refused(refusal)) => panic!("a node can't join: {refusal:?}"),
            },
            _ => Err(None),
        };
        match told {
            Ok(told) => {
                self.asks.pop_front();
                self.told.insert(number, told);
            }
            Err(leader) => self.leader = leader,
        }
        self.way.take().map(|(connection, ..)| connection)
    }

    /// A connection is over.
    pub(crate) fn on_down(&mut self, connection: Connection) {
        if self.way.is_some_and(|(known, ..)| known == connection) {
            self.way = None;
            self.leader = None;
        }
    }
}
