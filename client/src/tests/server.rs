//! The fake cluster behind real sockets: one thread that owns it, one that reads for each connection.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use wire::{PREFIX_BYTES, Prefix};

use crate::core::fake::{FakeCluster, FakeConnection};

pub(super) struct Server {
    endpoint: String,
    events: Sender<Event>,
}

enum Event {
    Open(u64, FakeConnection, TcpStream),
    Frame(u64, Vec<u8>),
    Close(u64),
    HangUp,
    Run(Box<dyn FnOnce(&mut FakeCluster) + Send>),
}

impl Server {
    pub(super) fn start() -> Self {
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<String> =
            listeners.iter().map(|listener| listener.local_addr().expect("bound").to_string()).collect();
        let (events, inbox) = channel();
        for (number, (listener, address)) in (0_u64..).zip(listeners.into_iter().zip(addresses.clone())) {
            let events = events.clone();
            runtime::spawn_thread("fake-accept", None, move || accept(number, &listener, &address, &events))
                .expect("a thread");
        }
        let mut cluster = FakeCluster::at(&addresses[0], [&addresses[1], &addresses[2]]);
        runtime::spawn_thread("fake-cluster", None, move || {
            let mut connections: BTreeMap<u64, (FakeConnection, TcpStream)> = BTreeMap::new();
            for event in inbox {
                match event {
                    Event::Open(number, connection, stream) => {
                        connections.insert(number, (connection, stream));
                    }
                    Event::Frame(number, frame) => {
                        let Some((connection, stream)) = connections.get_mut(&number) else { continue };
                        let mut replies = Vec::new();
                        cluster.on_frame(connection, &frame, &mut replies);
                        if replies.iter().any(|reply| stream.write_all(reply).is_err()) {
                            connections.remove(&number);
                        }
                    }
                    Event::Close(number) => {
                        connections.remove(&number);
                    }
                    Event::HangUp => {
                        for (_, (_, stream)) in std::mem::take(&mut connections) {
                            let _ = stream.shutdown(Shutdown::Both);
                        }
                    }
                    Event::Run(run) => run(&mut cluster),
                }
            }
        })
        .expect("a thread");
        Self { endpoint: addresses[0].clone(), events }
    }

    pub(super) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Breaks every connection, with whatever is on the way.
    pub(super) fn hang_up(&self) {
        self.events.send(Event::HangUp).expect("the thread lives");
    }

    /// Runs `f` on the cluster, between two frames.
    pub(super) fn with<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut FakeCluster) -> R + Send + 'static,
    ) -> R {
        let (sender, answer) = channel();
        let run = move |cluster: &mut FakeCluster| sender.send(f(cluster)).expect("somebody waits");
        self.events.send(Event::Run(Box::new(run))).expect("the thread lives");
        answer.recv().expect("the thread lives")
    }
}

fn accept(listener_number: u64, listener: &TcpListener, address: &str, events: &Sender<Event>) {
    for (count, stream) in (0_u64..).zip(listener.incoming()) {
        let Ok(stream) = stream else { return };
        stream.set_nodelay(true).expect("a socket");
        let number = listener_number << 32 | count;
        let reading = stream.try_clone().expect("a descriptor");
        if events.send(Event::Open(number, FakeConnection::new(address), stream)).is_err() {
            return;
        }
        let events = events.clone();
        runtime::spawn_thread("fake-read", None, move || {
            read_frames(number, reading, &events);
            let _ = events.send(Event::Close(number));
        })
        .expect("a thread");
    }
}

fn read_frames(number: u64, mut stream: TcpStream, events: &Sender<Event>) {
    loop {
        let mut frame = vec![0; PREFIX_BYTES];
        if stream.read_exact(&mut frame).is_err() {
            return;
        }
        let bytes: &[u8; PREFIX_BYTES] = frame[..].try_into().expect("a whole prefix");
        let prefix = Prefix::decode(bytes).expect("a client sends frames");
        frame.resize(PREFIX_BYTES + prefix.message_bytes as usize + prefix.payload_bytes as usize, 0);
        if stream.read_exact(&mut frame[PREFIX_BYTES..]).is_err()
            || events.send(Event::Frame(number, frame)).is_err()
        {
            return;
        }
    }
}
