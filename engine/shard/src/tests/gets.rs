//! Gets: the bytes and their proof, what waits behind a slow reader, what ends without bytes.

use wire::message::{GetChunk, Reply};
use wire::{FrameKind, Status};

use super::bench::{Bench, Chunk, decode, id};
use crate::Link;
use crate::link::{LINK_GET_BYTES_MAX, LINK_GETS_WAITING_MAX};

const KIB: usize = 1 << 10;

fn whole(ordinal: u64) -> GetChunk {
    GetChunk { id: id(ordinal), first_block: 0, block_count: 0 }
}

#[test]
fn bytes_come_back_in_frames_that_fit() {
    let mut bench = Bench::new();
    let idle = bench.memory.used_bytes();
    let chunk = Chunk::new(1, 600 * KIB + 5);
    bench.stored(&chunk);
    // R11: no epoch is asked for.
    bench.change_map(9);
    bench.get(1, 4, whole(1));
    bench.run();
    let frames = bench.take_sent();
    let mut bytes = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        assert_eq!((frame.prefix.correlation, frame.prefix.status), (4, Status::Ok));
        assert_eq!(frame.prefix.more, at + 1 < frames.len());
        let Reply::GetChunk(part) = decode(frame) else { panic!("{frame:?}") };
        assert_eq!((part.length as usize, part.offset as usize), (chunk.bytes.len(), bytes.len()));
        bytes.extend_from_slice(&frame.bytes);
    }
    assert!(bytes == chunk.bytes && frames.len() == 3);
    for frame in &frames {
        bench.has_left(frame);
    }
    assert_eq!(bench.memory.used_bytes(), idle);
    // A range of blocks, with the path to the root.
    bench.get(1, 5, GetChunk { id: id(1), first_block: 3, block_count: 2 });
    bench.run();
    let frame = bench.reply();
    assert!(frame.bytes == chunk.bytes[3 * 4096..5 * 4096]);
    let Reply::GetChunk(part) = decode(&frame) else { panic!("{frame:?}") };
    assert!(part.offset == 3 * 4096 && !part.proof.is_empty());
    bench.has_left(&frame);
}

#[test]
fn what_cant_be_had_is_said() {
    let mut bench = Bench::new();
    bench.stored(&Chunk::new(1, 10 * KIB));
    for (what, get, expected) in [
        ("another chunk", whole(2), Status::NotFound),
        ("beyond its end", GetChunk { id: id(1), first_block: 2, block_count: 2 }, Status::BadRequest),
        ("nowhere", GetChunk { id: id(1), first_block: 1, block_count: 0 }, Status::BadRequest),
        ("too much", GetChunk { id: id(1), first_block: u32::MAX, block_count: 2 }, Status::BadRequest),
    ] {
        bench.get(1, 4, get);
        bench.run();
        assert_eq!(bench.answers(), [(4, expected)], "{what}");
    }
}

/// A slow reader holds no more buffers than its share; others aren't kept waiting by it.
#[test]
fn gets_wait_behind_a_reader_that_takes_nothing() {
    let mut bench = Bench::new();
    bench.greeted(2);
    let chunk = Chunk::new(1, 1 << 20);
    bench.stored(&chunk);
    let idle = bench.memory.used_bytes();
    let begun = u64::from(LINK_GET_BYTES_MAX) >> 20;
    let all = begun + LINK_GETS_WAITING_MAX as u64;
    for correlation in 0..all {
        bench.get(1, correlation, whole(1));
        if correlation % 16 == 0 {
            bench.run();
        }
    }
    bench.run();
    assert!(bench.memory.used_bytes() - idle <= LINK_GET_BYTES_MAX as usize);
    let mut sent = std::mem::take(&mut bench.sent);
    let answered = |sent: &[super::bench::Sent]| {
        sent.iter()
            .filter(|frame| !frame.prefix.more)
            .map(|frame| frame.prefix.correlation)
            .collect::<Vec<_>>()
    };
    assert_eq!(answered(&sent), (0..begun).collect::<Vec<_>>());
    // One more than may wait.
    bench.get(1, all, whole(1));
    assert_eq!(bench.answers(), [(all, Status::Busy)]);
    // Another connection's reader gets its bytes.
    bench.get(2, 1, whole(1));
    bench.run();
    let others = bench.take_sent();
    assert!(others.iter().all(|frame| frame.link == Link(2)) && answered(&others) == [1]);
    for frame in &others {
        bench.has_left(frame);
    }
    // As bytes leave, the waiting ones begin, in order, each once.
    let mut order = answered(&sent);
    while let Some(frame) = sent.pop() {
        let payload = frame.payload.expect("a part of a chunk");
        wire::Memory::release(&mut bench.memory, payload.slot);
        bench.has_left(&frame);
        bench.run();
        let next = std::mem::take(&mut bench.sent);
        order.extend(answered(&next));
        sent.extend(next);
        assert!(bench.memory.used_bytes() - idle <= LINK_GET_BYTES_MAX as usize + (1 << 20));
    }
    assert_eq!(order, (0..all).collect::<Vec<_>>());
    assert!(bench.shard.is_idle());
    assert_eq!(bench.memory.used_bytes(), idle);
}

/// A get that ends without bytes makes room too: those behind it begin at the turn's end.
#[test]
fn gets_that_fail_let_others_begin() {
    let mut bench = Bench::new();
    let chunk = Chunk::new(1, 1 << 20);
    bench.stored(&chunk);
    let begun = u64::from(LINK_GET_BYTES_MAX) >> 20;
    bench.disk.faults.read_errors = 10_000;
    for correlation in 0..begun + 3 {
        bench.get(1, correlation, whole(1));
    }
    bench.run();
    let failed = bench.answers();
    assert_eq!(failed.len() as u64, begun + 3);
    assert!(failed.iter().all(|(_, status)| *status != Status::Ok));
    assert!(bench.shard.is_idle());
}

#[test]
fn a_reader_that_is_gone_gets_nothing() {
    let mut bench = Bench::new();
    bench.stored(&Chunk::new(1, 1 << 20));
    let idle = bench.memory.used_bytes();
    bench.greeted(2);
    for correlation in 0..20 {
        bench.get(2, correlation, whole(1));
    }
    bench.close(2);
    bench.run();
    assert!(bench.take_sent().iter().all(|frame| frame.prefix.kind == FrameKind::Hello));
    assert!(bench.shard.is_idle());
    assert_eq!(bench.memory.used_bytes(), idle);
}
