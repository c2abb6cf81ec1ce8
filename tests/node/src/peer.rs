//! One connection, frame by frame: for peers that don't behave as the client library does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use wire::message::{Encoder, GetChunk, Hello, PayloadMeta, Reply, Request, RequestHead};
use wire::{PREFIX_BYTES, PROTOCOL_VERSION, Prefix, Status};

/// What a single read or write may take.
const WITHIN: Duration = Duration::from_secs(20);

/// A greeting with the present version.
#[must_use]
pub fn hello() -> Vec<u8> {
    let hello = Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        features: 0,
        name: "peer".into(),
        cluster: None,
        peer: None,
    };
    encode(&Request::Hello(hello), 1)
}

/// A request's frame.
#[must_use]
pub fn encode(request: &Request<'_>, correlation: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let head = RequestHead { correlation, deadline_ms: 0 };
    Encoder::new().request(&mut out, head, request, PayloadMeta::default());
    out
}

/// Connects to `HOST:PORT`.
///
/// # Panics
/// If nobody listens there.
#[must_use]
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    stream.set_write_timeout(Some(WITHIN)).expect("a timeout");
    stream
}

/// Sends a request and receives the first frame of its answer.
///
/// # Panics
/// If the peer closes instead.
pub fn ask(stream: &mut TcpStream, request: &Request<'_>) -> (Prefix, Vec<u8>) {
    stream.write_all(&encode(request, 1)).expect("sent");
    receive(stream).expect("answered")
}

/// Connects to a shard and asks for all its chunks, of which there are `count`; the n-th get's correlation is n. Nothing of the answers is read.
///
/// # Panics
/// If the shard has others, or doesn't take the requests.
#[must_use]
pub fn ask_for_all(address: &str, count: u64) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(&hello()).expect("sent");
    assert_eq!(receive(&mut stream).expect("greeted").0.status, Status::Ok);
    let (prefix, message) = ask(&mut stream, &Request::Inventory { after: None, limit: 64 });
    let listed = Reply::decode(prefix.kind, prefix.status, &message).expect("a message");
    let Reply::Inventory { ids, .. } = listed else { panic!("{listed:?}") };
    assert_eq!(ids.len() as u64, count);
    for (number, id) in (0..).zip(ids.iter()) {
        let get = Request::GetChunk(GetChunk { id, first_block: 0, block_count: 0 });
        stream.write_all(&encode(&get, number)).expect("sent");
    }
    stream
}

/// The next frame's prefix and message, its payload passed over; `None` when the peer closed.
///
/// # Panics
/// If what comes isn't a frame.
pub fn receive(stream: &mut TcpStream) -> Option<(Prefix, Vec<u8>)> {
    receive_whole(stream).map(|(prefix, message, _)| (prefix, message))
}

/// The next frame's prefix, message and payload; `None` when the peer closed.
///
/// # Panics
/// If what comes isn't a frame.
pub fn receive_whole(stream: &mut TcpStream) -> Option<(Prefix, Vec<u8>, Vec<u8>)> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).ok()?;
    let prefix = Prefix::decode(&prefix).expect("a frame");
    let mut message = vec![0; (prefix.message_bytes + prefix.payload_bytes) as usize];
    stream.read_exact(&mut message).ok()?;
    let payload = message.split_off(prefix.message_bytes as usize);
    Some((prefix, message, payload))
}
