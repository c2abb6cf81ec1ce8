//! Golden frames: the bytes of one frame of every kind, and of a cluster map, checked in. A change here is a change of the protocol.
//!
//! `CATENA_RECORD_GOLDEN=1 cargo test -p wire --test codec golden` writes them again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use wire::map::Map;
use wire::message::{Encoder, PayloadMeta, Reply, ReplyHead, Request, RequestHead};
use wire::{FrameKind, Load, PREFIX_BYTES, Prefix, Status};

use crate::{map, samples};

/// Not a frame: the bytes of a cluster map, which travel in pages.
const MAP: &str = "cluster map";
/// Of the kinds that have one; their leaves verify it, hence no checksum (R36).
const PAYLOAD: PayloadMeta = PayloadMeta { bytes: 4096, checksum: 0 };
const REQUEST_HEAD: RequestHead = RequestHead { correlation: 0x0a0b_0c0d_0e0f_1011, deadline_ms: 1_500 };

fn frames() -> BTreeMap<String, Vec<u8>> {
    let mut encoder = Encoder::new();
    let mut frames = BTreeMap::from([(MAP.to_owned(), map::sample(2, 3).encode())]);
    for (name, request) in samples::requests() {
        let mut frame = Vec::new();
        let has_payload = matches!(request.kind(), FrameKind::PutChunk | FrameKind::PutFragment);
        encoder.request(&mut frame, REQUEST_HEAD, &request, payload(has_payload));
        assert!(frames.insert(format!("request {name}"), frame).is_none(), "{name} is there twice");
    }
    for (name, kind, status, reply) in samples::replies() {
        let mut frame = Vec::new();
        let has_payload = kind == FrameKind::GetChunk;
        encoder.reply(&mut frame, reply_head(kind, status), &reply, payload(has_payload));
        assert!(frames.insert(format!("reply {name}"), frame).is_none(), "{name} is there twice");
    }
    frames
}

fn payload(there: bool) -> PayloadMeta {
    if there { PAYLOAD } else { PayloadMeta::default() }
}

fn reply_head(kind: FrameKind, status: Status) -> ReplyHead {
    let load = Load { queue_depth: 3, service_time: 40 };
    ReplyHead { kind, correlation: REQUEST_HEAD.correlation, status, load, more: kind == FrameKind::GetChunk }
}

fn split(frame: &[u8]) -> (Prefix, &[u8]) {
    let (prefix_bytes, message) = frame.split_first_chunk::<PREFIX_BYTES>().expect("a whole prefix");
    assert_eq!(Prefix::verify(prefix_bytes, message), Ok(()));
    let prefix = Prefix::decode(prefix_bytes).expect("a valid prefix");
    assert_eq!(prefix.message_bytes as usize, message.len());
    let has_payload = match prefix.kind {
        FrameKind::PutChunk | FrameKind::PutFragment => !prefix.reply,
        kind => kind == FrameKind::GetChunk && prefix.reply,
    };
    let found = PayloadMeta { bytes: prefix.payload_bytes, checksum: prefix.payload_checksum };
    assert_eq!(found, payload(has_payload));
    assert_eq!(prefix.correlation, REQUEST_HEAD.correlation);
    (prefix, message)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect()
}

fn golden() -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/frames.txt");
    if std::env::var_os("CATENA_RECORD_GOLDEN").is_some() {
        let lines = frames().iter().fold(String::new(), |mut text, (name, frame)| {
            writeln!(text, "{name}: {}", hex(frame)).expect("a string takes everything");
            text
        });
        fs::write(&path, lines).expect("wire/tests/golden is writable");
    }
    let text = fs::read_to_string(&path).expect("the golden frames are there");
    let frame = |line: &str| {
        let (name, digits) = line.split_once(": ").expect("name: digits");
        (name.to_owned(), unhex(digits))
    };
    text.lines().map(frame).collect()
}

#[test]
fn frames_are_encoded_to_the_golden_bytes() {
    let golden = golden();
    let frames = frames();
    assert_eq!(frames.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (name, frame) in &frames {
        assert_eq!(hex(frame), hex(&golden[name]), "{name}");
    }
}

#[test]
fn golden_frames_are_decoded_to_the_samples() {
    let golden = golden();
    assert_eq!(Map::decode(&golden[MAP]), Ok(map::sample(2, 3)));
    for (name, request) in samples::requests() {
        let (prefix, message) = split(&golden[&format!("request {name}")]);
        assert_eq!((prefix.kind, prefix.reply), (request.kind(), false), "{name}");
        assert_eq!(prefix.deadline_ms, REQUEST_HEAD.deadline_ms);
        assert_eq!(Request::decode(prefix.kind, message), Ok(request), "{name}");
    }
    for (name, kind, status, reply) in samples::replies() {
        let (prefix, message) = split(&golden[&format!("reply {name}")]);
        let head = reply_head(kind, status);
        assert_eq!((prefix.kind, prefix.reply, prefix.status), (kind, true, status), "{name}");
        assert_eq!((prefix.load, prefix.more), (head.load, head.more));
        assert_eq!(Reply::decode(kind, status, message), Ok(reply), "{name}");
    }
}

#[test]
fn every_kind_has_a_golden_request_and_every_answer_a_golden_reply() {
    let requests: Vec<FrameKind> = samples::requests().iter().map(|(_, request)| request.kind()).collect();
    let replies: Vec<FrameKind> = samples::replies().iter().map(|(_, kind, ..)| *kind).collect();
    let silent = [
        FrameKind::PutFragment,
        FrameKind::Abort,
        FrameKind::Credit,
        FrameKind::Replicate,
        FrameKind::MapNews,
        FrameKind::Raft,
    ];
    for kind in FrameKind::ALL {
        assert!(requests.contains(kind), "{kind:?}");
        assert_eq!(replies.contains(kind), !silent.contains(kind), "{kind:?}");
    }
    assert!(samples::group().0 > 0, "the samples' ids use every part of a session id");
}
