//! The control group, for operators' tools: commands and their answers, over a connection that blocks. Nothing here is on the way of data.
//!
//! ```text
//! endpoints ─ GetMap ─► control ports of all nodes ─ Hello, Manage ─► not the leader: the one it names, or the next ─► answer
//! ```
//! What only asks is asked again until the patience ends; what changes something is sent once, and where its answer is lost nobody knows whether it was done.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use placement::ClusterMap;
use thiserror::Error;
use wire::control::{Answer, Command, Led, Refusal, Registration, RegistrationReply};
use wire::map::{MapUpdate, Pages};
use wire::message::{Encoder, FEATURES, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::{
    ClusterId, FrameKind, MapNumber, NodeId, PREFIX_BYTES, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Prefix,
    Status,
};

/// Nobody is waited for longer at once: another may answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Between two rounds over everybody.
const RETRY: Duration = Duration::from_millis(200);

/// Why the control group didn't answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody answers at any of these addresses.
    #[error("{}", tried_text(.0))]
    Unreachable(Vec<(String, String)>),
    /// Nodes answer, and none of them leads: no majority of the voters is there.
    #[error("the control group has no leader: a majority of its voters has to run and reach each other")]
    NoLeader,
    /// A leader answers, and other changes were under way for as long as was waited.
    #[error("the control group was busy with other changes all the time")]
    Busy,
    /// The connection broke after a command was sent: whether it was done isn't known.
    #[error("the connection to {0} broke before the answer: look whether it was done")]
    Unknown(String),
    /// What answers isn't what was asked for.
    #[error("{0} doesn't speak the protocol, or another version of it")]
    Protocol(String),
}

fn tried_text(tried: &[(String, String)]) -> String {
    let texts: Vec<String> = tried.iter().map(|(address, why)| format!("{address}: {why}")).collect();
    if texts.is_empty() { "there is no address to ask".to_owned() } else { texts.join("; ") }
}

/// A connection to whoever leads the control group, made when it is needed.
#[derive(Debug)]
pub struct Control {
    /// Where the map comes from.
    endpoints: Vec<String>,
    map: ClusterMap,
    link: Option<Link>,
    /// Who is said to lead.
    leader: Option<NodeId>,
    patience: Duration,
}

impl Control {
    /// Learns the cluster map at one of these addresses, any port of any node but the admin endpoint's.
    pub fn connect(endpoints: &[String], patience: Duration) -> Result<Self, ControlError> {
        let until = now() + patience;
        let endpoints = endpoints.to_vec();
        loop {
            let mut tried = Vec::new();
            for endpoint in &endpoints {
                match Link::open(endpoint, None).and_then(|mut link| link.map(MapNumber(0))) {
                    Ok(Some(map)) => return Ok(Self { endpoints, map, link: None, leader: None, patience }),
                    Ok(None) => tried.push((endpoint.clone(), "it has no cluster map".to_owned())),
                    Err(error) => tried.push((endpoint.clone(), error.to_string())),
                }
            }
            if now() + RETRY >= until {
                return Err(ControlError::Unreachable(tried));
            }
            pause(RETRY);
        }
    }

    /// The newest map that is known here.
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.map.as_map().cluster
    }

    /// Who leads the control group, where somebody has answered as its leader.
    pub fn leader(&self) -> Option<NodeId> {
        let address = &self.link.as_ref()?.address;
        self.map.as_map().nodes.iter().find(|node| node.control == *address).map(|node| node.node)
    }

    /// The same with another patience: for how long a leader is looked for.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks for a newer map; the old one stays where nobody has one.
    pub fn refresh(&mut self) -> &ClusterMap {
        let known = self.map.number();
        for endpoint in self.all_addresses() {
            let newer = Link::open(&endpoint, Some(self.cluster())).and_then(|mut link| link.map(known));
            if let Ok(newer) = newer {
                if let Some(map) = newer.filter(|map| map.number() > known) {
                    self.map = map;
                }
                break;
            }
        }
        &self.map
    }

    /// An operator's command.
    pub fn ask(&mut self, command: &Command) -> Result<Answer, ControlError> {
        let is_question =
            matches!(command, Command::OkToStop(_) | Command::Why(_) | Command::Health | Command::Nodes);
        let request = Request::Manage(Box::new(command.clone()));
        self.with_leader(&request, is_question, |reply| match reply {
            Reply::Managed(answer) => match *answer {
                Answer::Refused(Refusal::NotLeader(leader)) => Heard::Elsewhere(leader),
                Answer::Refused(Refusal::Busy) => Heard::Later,
                // Leadership was lost before it was answered, and a question can be asked again.
                Answer::Refused(Refusal::Unknown) if is_question => Heard::Elsewhere(None),
                answer => Heard::Answer(answer),
            },
            _ => Heard::Nonsense,
        })
    }

    /// Introduces a node that is going to join. Said again, it is the same node.
    pub fn register(&mut self, registration: &Registration) -> Result<RegistrationReply, ControlError> {
        use wire::control::RegistrationRefusal;
        let request = Request::Register(Box::new(registration.clone()));
        self.with_leader(&request, true, |reply| match reply {
            Reply::Register(led) => match *led {
                Led::Elsewhere(leader) => Heard::Elsewhere(leader),
                Led::Here(RegistrationReply::Refused(RegistrationRefusal::Busy)) => Heard::Later,
                Led::Here(reply) => Heard::Answer(reply),
            },
            _ => Heard::Nonsense,
        })
    }

    fn with_leader<T>(
        &mut self,
        request: &Request<'_>,
        may_repeat: bool,
        hear: impl Fn(Reply<'_>) -> Heard<T>,
    ) -> Result<T, ControlError> {
        let until = now() + self.patience;
        let mut tried = Vec::new();
        let mut round = 0;
        let mut is_busy = false;
        loop {
            match self.reach(round, &mut tried) {
                None => round += 1,
                Some(mut link) => match link.ask(request, &hear) {
                    Ok(Heard::Answer(answer)) => {
                        self.link = Some(link);
                        return Ok(answer);
                    }
                    Ok(Heard::Later) => {
                        is_busy = true;
                        self.link = Some(link);
                    }
                    Ok(Heard::Elsewhere(leader)) => {
                        tried.clear();
                        round += 1;
                        self.leader = leader;
                        if leader.is_some() {
                            continue;
                        }
                    }
                    Ok(Heard::Nonsense) => return Err(ControlError::Protocol(link.address)),
                    Err(_) if !may_repeat => return Err(ControlError::Unknown(link.address)),
                    Err(error) => {
                        tried.push((link.address, error.to_string()));
                        (self.leader, round) = (None, round + 1);
                    }
                },
            }
            if now() + RETRY >= until {
                let count = self.all_addresses().len();
                tried.truncate(count);
                return Err(if is_busy && self.link.is_some() {
                    ControlError::Busy
                } else if tried.len() >= count {
                    ControlError::Unreachable(tried)
                } else {
                    ControlError::NoLeader
                });
            }
            if round % 4 == 3 {
                self.refresh();
            }
            pause(if round < self.all_addresses().len() { RETRY / 10 } else { RETRY });
        }
    }

    /// The connection there is, or one to whoever is said to lead, or to another one each time.
    fn reach(&mut self, round: usize, tried: &mut Vec<(String, String)>) -> Option<Link> {
        if let Some(link) = self.link.take() {
            return Some(link);
        }
        let nodes = &self.map.as_map().nodes;
        let named = nodes.iter().find(|node| Some(node.node) == self.leader && !node.control.is_empty());
        let all = self.control_addresses();
        let address = match named {
            Some(node) => node.control.clone(),
            None => all.get(round.checked_rem(all.len())?)?.clone(),
        };
        match Link::open(&address, Some(self.cluster())) {
            Ok(link) => Some(link),
            Err(error) => {
                self.leader = None;
                tried.retain(|(known, _)| *known != address);
                tried.push((address, error.to_string()));
                None
            }
        }
    }

    fn control_addresses(&self) -> Vec<String> {
        let nodes = self.map.as_map().nodes.iter();
        nodes.filter(|node| !node.control.is_empty()).map(|node| node.control.clone()).collect()
    }

    fn all_addresses(&self) -> Vec<String> {
        let mut all = self.control_addresses();
        all.extend(
            self.endpoints.iter().filter(|endpoint| !all.contains(endpoint)).cloned().collect::<Vec<_>>(),
        );
        all
    }
}

/// What a reply means.
enum Heard<T> {
    Answer(T),
    Elsewhere(Option<NodeId>),
    Later,
    Nonsense,
}

/// A greeted connection.
#[derive(Debug)]
struct Link {
    address: String,
    stream: TcpStream,
    encoder: Encoder,
    correlation: u64,
}

impl Link {
    fn open(address: &str, cluster: Option<ClusterId>) -> io::Result<Self> {
        let stream = connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        let mut link =
            Self { address: address.to_owned(), stream, encoder: Encoder::default(), correlation: 0 };
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: FEATURES,
            name: "an operator".to_owned(),
            cluster,
            peer: None,
        };
        let (kind, status, _) = link.exchange(&Request::Hello(hello))?;
        match (kind, status) {
            (FrameKind::Hello, Status::Ok) => Ok(link),
            (_, Status::WrongCluster) => Err(io::Error::other("it belongs to another cluster")),
            (_, Status::NotServing) => Err(io::Error::other("it doesn't serve yet")),
            (_, status) => Err(io::Error::other(format!("it refuses to talk: {status:?}"))),
        }
    }

    /// A newer map; `None`: it has none.
    fn map(&mut self, have: MapNumber) -> io::Result<Option<ClusterMap>> {
        let mut pages = Pages::new();
        loop {
            // Deltas are for those who follow; here the whole is wanted.
            let page = pages.next_page();
            let (kind, status, bytes) = self.exchange(&Request::GetMap { have: MapNumber(0), page })?;
            let Ok(Reply::Map { number, page, pages: count, bytes }) = Reply::decode(kind, status, &bytes)
            else {
                return Err(invalid());
            };
            if count == 0 || number <= have {
                return Ok(None);
            }
            match pages.add(number, (page, count), bytes) {
                Ok(None) => {}
                Ok(Some(MapUpdate::Whole(map))) => {
                    return ClusterMap::new(*map).map(Some).map_err(|_| invalid());
                }
                Ok(Some(MapUpdate::Delta(_))) | Err(_) => return Err(invalid()),
            }
        }
    }

    fn ask<T>(
        &mut self,
        request: &Request<'_>,
        hear: impl Fn(Reply<'_>) -> Heard<T>,
    ) -> io::Result<Heard<T>> {
        let (kind, status, bytes) = self.exchange(request)?;
        if status == Status::Busy {
            return Ok(Heard::Later);
        }
        Ok(Reply::decode(kind, status, &bytes).map_or(Heard::Nonsense, hear))
    }

    fn exchange(&mut self, request: &Request<'_>) -> io::Result<(FrameKind, Status, Vec<u8>)> {
        self.correlation += 1;
        let head = RequestHead { correlation: self.correlation, ..RequestHead::default() };
        let mut bytes = Vec::new();
        self.encoder.request(&mut bytes, head, request, PayloadMeta::default());
        self.stream.write_all(&bytes)?;
        loop {
            let mut prefix = [0; PREFIX_BYTES];
            self.stream.read_exact(&mut prefix)?;
            let decoded = Prefix::decode(&prefix).map_err(io::Error::other)?;
            let mut message = vec![0; decoded.message_bytes as usize];
            self.stream.read_exact(&mut message)?;
            Prefix::verify(&prefix, &message).map_err(io::Error::other)?;
            if decoded.payload_bytes > 0 {
                return Err(invalid());
            }
            if decoded.reply && decoded.correlation == self.correlation {
                return Ok((decoded.kind, decoded.status, message));
            }
        }
    }
}

fn invalid() -> io::Error {
    io::Error::other("its answer makes no sense")
}

/// Whoever calls blocks: there is no executor whose clock it could be.
#[expect(clippy::disallowed_methods, reason = "operators' tools block; the patience is a person's")]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "operators' tools block; other processes tell nobody of an election"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let found: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut last = io::Error::other("the address can't be resolved");
    for address in found {
        match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
