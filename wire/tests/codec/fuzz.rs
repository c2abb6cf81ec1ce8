//! Random values survive the round trip; damaged and random bytes never panic, never take more memory than their length allows, and
//! whatever is accepted can be encoded again.
//!
//! `CATENA_FUZZ=N` sets the number of damaged messages (10⁵ by default, 10⁶ in CI).

use wire::map::Map;
use wire::message::{Encoder, PayloadMeta, Reply, ReplyHead, Request, RequestHead};
use wire::meta::{Answer, Entry, Extents, NewAttributes, Operation, Place, Query, Xattr};
use wire::{FrameKind, Load, PREFIX_BYTES, Prefix, Status};

use crate::random::{Pool, Random};
use crate::{map, samples};

const SEED: u64 = 0xca7e_4a00_0000_0002;
const ITERATIONS_DEFAULT: usize = 100_000;
/// A decoded value's own bytes, for each byte of its message: an extended attribute of 1 + 4 bytes becomes one of 49.
const OWNED_BYTES_PER_BYTE_MAX: usize = 16;

/// A message and what its frame says about it.
#[derive(Clone)]
struct Message {
    kind: FrameKind,
    /// Of a reply; `None`: a request.
    status: Option<Status>,
    bytes: Vec<u8>,
}

fn encode_request(encoder: &mut Encoder, request: &Request<'_>) -> Message {
    let mut frame = Vec::new();
    encoder.request(&mut frame, RequestHead::default(), request, PayloadMeta::default());
    Message { kind: request.kind(), status: None, bytes: frame.split_off(PREFIX_BYTES) }
}

fn encode_reply(encoder: &mut Encoder, kind: FrameKind, status: Status, reply: &Reply<'_>) -> Message {
    let mut frame = Vec::new();
    let head = ReplyHead { kind, correlation: 0, status, load: Load::default(), more: false };
    encoder.reply(&mut frame, head, reply, PayloadMeta::default());
    Message { kind, status: Some(status), bytes: frame.split_off(PREFIX_BYTES) }
}

fn iterations() -> usize {
    let wanted = std::env::var("CATENA_FUZZ").ok();
    wanted.map_or(ITERATIONS_DEFAULT, |text| text.parse().expect("CATENA_FUZZ is a number"))
}

#[test]
#[cfg_attr(miri, ignore = "the largest values take minutes each; golden frames make the same way")]
fn random_values_survive_the_round_trip() {
    let mut random = Random(SEED);
    let mut encoder = Encoder::new();
    for round in 0..2_000 {
        let pool = Pool::new(&mut Random(SEED ^ (round / 200)));
        let request = random.request(&pool);
        let message = encode_request(&mut encoder, &request);
        assert_eq!(Request::decode(message.kind, &message.bytes).as_ref(), Ok(&request), "round {round}");
        let (kind, status, reply) = random.reply(&pool);
        let message = encode_reply(&mut encoder, kind, status, &reply);
        assert_eq!(Reply::decode(kind, status, &message.bytes).as_ref(), Ok(&reply), "round {round}");
    }
}

#[test]
fn damaged_messages_are_errors_or_valid_values() {
    let mut random = Random(SEED ^ 1);
    let mut encoder = Encoder::new();
    let corpus = corpus(&mut random, &mut encoder);
    let mut accepted = 0;
    for iteration in 0..iterations() {
        let mut message = random.pick(&corpus);
        let other = random.pick(&corpus);
        damage(&mut random, &mut message.bytes, &other.bytes);
        if random.below(16) == 0 {
            message.kind = random.pick(FrameKind::ALL);
        }
        accepted += usize::from(check(&mut encoder, &message, iteration));
    }
    // A flipped bit in a number is another valid number: had nothing been accepted, nothing behind the verifier would have been tried.
    assert!(accepted > iterations() / 100, "{accepted} accepted");
    assert!(accepted < iterations(), "all accepted");
}

#[test]
fn random_bytes_are_errors_or_valid_values() {
    let mut random = Random(SEED ^ 2);
    let mut encoder = Encoder::new();
    for iteration in 0..iterations() / 4 {
        let kind = random.pick(FrameKind::ALL);
        let status = if random.below(2) == 0 { None } else { Some(random.pick(Status::ALL)) };
        let message = Message { kind, status, bytes: random.bytes(0, 200) };
        check(&mut encoder, &message, iteration);
        let prefix: [u8; PREFIX_BYTES] = std::array::from_fn(|_| random.word().to_le_bytes()[0]);
        assert!(Prefix::decode(&prefix).is_err(), "the magic number is missing");
    }
}

#[test]
fn damaged_prefixes_are_errors_or_keep_their_limits() {
    let mut random = Random(SEED ^ 3);
    for _ in 0..iterations() / 4 {
        let kind = random.pick(FrameKind::ALL);
        let mut bytes = Prefix::request(kind, random.word()).encode(b"");
        let at = 4 + random.below(60);
        bytes[at] = random.word().to_le_bytes()[0];
        if let Ok(prefix) = Prefix::decode(&bytes) {
            assert!(prefix.message_bytes as usize <= wire::limits::MESSAGE_BYTES_MAX);
            assert!(prefix.payload_bytes as usize <= wire::limits::PAYLOAD_BYTES_MAX);
        }
    }
}

#[test]
fn damaged_maps_are_errors_or_valid_values() {
    let mut random = Random(SEED ^ 4);
    let corpus: Vec<Vec<u8>> = [0, 2, 5].into_iter().map(|bits| map::sample(bits, 3).encode()).collect();
    let mut accepted = 0;
    for iteration in 0..iterations() / 4 {
        let mut bytes = random.pick(&corpus);
        let other = random.pick(&corpus);
        damage(&mut random, &mut bytes, &other);
        if let Ok(map) = Map::decode(&bytes) {
            assert_eq!(Map::decode(&map.encode()), Ok(map), "iteration {iteration}");
            accepted += 1;
        }
    }
    assert!(accepted > 0);
}

fn corpus(random: &mut Random, encoder: &mut Encoder) -> Vec<Message> {
    let mut corpus = Vec::new();
    for (_, request) in samples::requests() {
        corpus.push(encode_request(encoder, &request));
    }
    for (_, kind, status, reply) in samples::replies() {
        corpus.push(encode_reply(encoder, kind, status, &reply));
    }
    let pool = Pool::new(random);
    for _ in 0..100 {
        corpus.push(encode_request(encoder, &random.request(&pool)));
        let (kind, status, reply) = random.reply(&pool);
        corpus.push(encode_reply(encoder, kind, status, &reply));
    }
    corpus
}

/// One to four small injuries.
fn damage(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    const WORDS: [u32; 8] = [0, 1, 4, 255, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.word().to_le_bytes()[0],
            3 => {
                let word = random.pick(&WORDS).to_le_bytes();
                let at = at / 4 * 4;
                let end = bytes.len().min(at + 4);
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            4 => bytes.truncate(at),
            _ => {
                let from = random.below(other.len().max(1)).min(other.len());
                let length = random.below(64).min(other.len() - from).min(bytes.len() - at);
                bytes[at..at + length].copy_from_slice(&other[from..from + length]);
            }
        }
    }
}

/// Decodes; says whether it was accepted.
fn check(encoder: &mut Encoder, message: &Message, iteration: usize) -> bool {
    let bytes_max = OWNED_BYTES_PER_BYTE_MAX * message.bytes.len();
    match message.status {
        None => {
            let Ok(request) = Request::decode(message.kind, &message.bytes) else { return false };
            assert!(request_bytes(&request) <= bytes_max, "iteration {iteration}");
            let again = encode_request(encoder, &request);
            assert_eq!(Request::decode(again.kind, &again.bytes).as_ref(), Ok(&request), "{iteration}");
        }
        Some(status) => {
            let Ok(reply) = Reply::decode(message.kind, status, &message.bytes) else { return false };
            assert!(reply_bytes(&reply) <= bytes_max, "iteration {iteration}");
            let again = encode_reply(encoder, message.kind, status, &reply);
            let decoded = Reply::decode(again.kind, status, &again.bytes);
            assert_eq!(decoded.as_ref(), Ok(&reply), "{iteration}");
        }
    }
    true
}

/// Bytes that a request owns beside the value itself.
fn request_bytes(request: &Request<'_>) -> usize {
    match request {
        Request::Hello(hello) => hello.name.capacity(),
        Request::OpenSession { name } => name.capacity(),
        Request::KeepAlive { pins, .. } => size_of_val(pins.as_slice()),
        Request::Mutate(mutation) => operation_bytes(&mutation.operation),
        Request::OfferChunks { chunks, .. } => size_of_val(chunks.as_slice()),
        Request::Query(query) => match query {
            Query::Volume { name } | Query::ListVolumes { after: name, .. } => name.capacity(),
            Query::Lookup { place, .. } => place_bytes(place),
            Query::List { place, after, .. } => place_bytes(place) + after.capacity(),
            Query::ChunkStates { ids } => size_of_val(ids.as_slice()),
            Query::ReadExtents { .. } | Query::Usage { .. } | Query::GroupStatus => 0,
        },
        _ => 0,
    }
}

fn operation_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::CreateVolume { name, .. } => name.capacity(),
        Operation::RemoveVolume { .. } => 0,
        Operation::MakeDirectory { place, attributes, .. } => {
            place_bytes(place) + attribute_bytes(attributes)
        }
        Operation::MakeSymlink { place, target, attributes, .. } => {
            place_bytes(place) + target.capacity() + attribute_bytes(attributes)
        }
        Operation::Commit(commit) => {
            place_bytes(&commit.place)
                + extent_bytes(&commit.extents)
                + commit.attributes.as_ref().map_or(0, attribute_bytes)
        }
        Operation::Truncate { place, .. }
        | Operation::Remove { place, .. }
        | Operation::SetAttributes { place, .. } => place_bytes(place),
        Operation::Rename { source, target, .. } => place_bytes(source) + place_bytes(target),
        Operation::SetXattr { place, xattr, .. } => place_bytes(place) + xattr_bytes(xattr),
        Operation::RemoveXattr { place, name, .. } => place_bytes(place) + name.capacity(),
        Operation::CopyRange(copy) => place_bytes(&copy.source) + place_bytes(&copy.target),
        Operation::Compact(compact) => place_bytes(&compact.place) + extent_bytes(&compact.extents),
        Operation::Stage { extents, .. } => extent_bytes(extents),
    }
}

fn reply_bytes(reply: &Reply<'_>) -> usize {
    match reply {
        Reply::Hello(hello) => hello.server.capacity(),
        Reply::SliceDigest { ranges, .. } => size_of_val(ranges.as_slice()),
        Reply::SliceChunks { chunks, .. } => size_of_val(chunks.as_slice()),
        Reply::Answer(answer) => match answer {
            Answer::Volume(volume) => volume.name.capacity(),
            Answer::Volumes(volumes, _) => {
                size_of_val(volumes.as_slice()) + volumes.iter().map(|v| v.name.capacity()).sum::<usize>()
            }
            Answer::Entry(entry) => entry_bytes(entry),
            Answer::Extents(page) => extent_bytes(&page.extents),
            Answer::List { entries, .. } => {
                let text = entries.iter().map(|entry| entry.name.capacity() + entry.target.capacity());
                size_of_val(entries.as_slice()) + text.sum::<usize>()
            }
            Answer::ChunkStates(states) => size_of_val(states.as_slice()),
            Answer::Usage(_) | Answer::GroupStatus(_) => 0,
        },
        _ => 0,
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.target.capacity()
        + entry.xattrs.iter().map(xattr_bytes).sum::<usize>()
        + extent_bytes(&entry.page.extents)
}

fn place_bytes(place: &Place) -> usize {
    place.path.capacity()
}

fn attribute_bytes(attributes: &NewAttributes) -> usize {
    attributes.xattrs.iter().map(xattr_bytes).sum()
}

fn xattr_bytes(xattr: &Xattr) -> usize {
    size_of::<Xattr>() + xattr.name.capacity() + xattr.value.capacity()
}

fn extent_bytes(extents: &Extents) -> usize {
    size_of_val(extents.runs.as_slice()) + size_of_val(extents.roots.as_slice())
}
