//! Puts: admission, epochs (R1), fragments (R39), credit (R38), repetitions (R4), ends of every kind.

use wire::message::{Request, StoreCondition};
use wire::{FrameKind, Memory, Status};

use super::bench::{Bench, Chunk, decode, id};
use crate::link::{CREDIT_RETURN_BYTES, LINK_PUTS_MAX};
use crate::put::Stage;
use crate::{CloseReason, Placement};

const KIB: usize = 1 << 10;

/// I2: nothing is acked before the flush; what was acked is there.
#[test]
fn a_put_is_acked_once_it_is_durable() {
    let mut bench = Bench::new();
    let idle = bench.memory.used_bytes();
    let chunk = Chunk::new(1, 600 * KIB + 5);
    bench.put(1, 7, &chunk, 1);
    assert!(bench.answers().is_empty() && !bench.shard.is_idle());
    bench.shard.on_turn(bench.now, &mut bench.memory, &mut bench.effects);
    bench.settle();
    while !bench.disk.has_pending_flush() {
        assert!(bench.answers().is_empty(), "acked before a flush was asked for");
        assert!(bench.step());
    }
    bench.run();
    assert_eq!(bench.answers(), [(7, Status::Ok)]);
    assert!(bench.shard.is_idle());
    assert_eq!(bench.memory.used_bytes(), idle, "every buffer came back");
    // What `df` shows was 0 as long as the file could grow.
    let state = bench.shard.state(&bench.memory);
    assert_eq!((state.used_bytes, state.chunk_count), (151 * 4096, 1));
    assert_eq!(state.put_bytes_total, 600 * 1024 + 5);
    // These were 0 for good.
    assert_eq!(state.arena_bytes, bench.memory.total_bytes() as u64);
    assert_eq!(state.arena_used_bytes, bench.memory.used_bytes() as u64);
    assert!(
        state.arena_used_bytes > 0 && state.reserve_bytes > 0 && state.batches_since_checkpoint > 0,
        "{state:?}"
    );
    assert!(state.segment_zeroed_count <= state.segment_free_count, "{state:?}");
    assert!(state.segment_free_count < state.segment_count, "{state:?}");
}

/// R36, R1 and limits, in that order, before any byte is used.
#[test]
fn what_is_refused_at_admission_takes_no_buffer() {
    let check = |what: &str, prepare: &dyn Fn(&mut Bench), epoch: u64, expected: Status| {
        let mut bench = Bench::new();
        prepare(&mut bench);
        let used = bench.memory.used_bytes();
        let chunk = Chunk::new(1, 64 * KIB);
        assert_eq!(bench.put_head(1, 7, &chunk, epoch, 64 * KIB), Placement::Discard, "{what}");
        assert_eq!(bench.answers(), [(7, expected)], "{what}");
        assert_eq!(bench.memory.used_bytes(), used, "{what}");
        assert_eq!(bench.owed(1), 64 << 10, "{what}: the payload was received and forgotten");
        assert!(bench.shard.is_idle(), "{what}");
    };
    check("a lower epoch", &|bench| bench.change_map(2), 1, Status::WrongEpoch);
    check("a higher epoch", &|_| {}, 2, Status::WrongEpoch);
    check("draining", &|bench| bench.shard.on_drain(), 1, Status::NotServing);
    check("fenced", &|bench| bench.shard.condition = StoreCondition::Fenced, 1, Status::NotServing);
    check("no buffer", &|bench| bench.memory.limit_bytes = bench.memory.used_bytes(), 1, Status::Busy);
    check(
        "as many puts as a connection may have",
        &|bench| {
            let state = bench.shard.links.state(crate::Link(1)).unwrap();
            state.puts = (0..LINK_PUTS_MAX).map(|put| (put as u64 + 100, 0)).collect();
        },
        1,
        Status::Busy,
    );
}

/// R36: leaves, root and length have to belong together before any payload is used.
#[test]
fn a_head_that_contradicts_itself_is_refused() {
    let check = |change: &dyn Fn(&mut Chunk), expected: Status| {
        let mut bench = Bench::new();
        let mut chunk = Chunk::new(1, 12 * KIB);
        change(&mut chunk);
        bench.put_head(1, 7, &chunk, 1, chunk.bytes.len());
        assert_eq!(bench.answers(), [(7, expected)]);
        assert!(bench.shard.is_idle());
    };
    check(&|chunk| chunk.root ^= 1, Status::ChecksumMismatch);
    check(&|chunk| chunk.leaves[2] ^= 1, Status::ChecksumMismatch);
    check(&|chunk| chunk.bytes.truncate(9 * KIB), Status::ChecksumMismatch);
}

/// R1: the epoch is checked at admission, when the local write has completed, and when the ack leaves; the client's retry in the new
/// epoch finds its chunk there (R4).
#[test]
fn an_epoch_that_changed_meanwhile_is_not_acked() {
    // The map changes before the last fragment; while the batch gathers; after its writes; after its flush was asked for.
    for moment in 0..4 {
        let mut bench = Bench::new();
        let chunk = Chunk::new(1, 128 * KIB);
        bench.put_head(1, 7, &chunk, 1, 64 * KIB);
        let change = |bench: &mut Bench, now: u32| {
            if now == moment {
                bench.change_map(2);
            }
        };
        change(&mut bench, 0);
        bench.fragment(1, 7, 64 * KIB, &chunk.bytes[64 * KIB..]);
        change(&mut bench, 1);
        bench.shard.on_turn(bench.now, &mut bench.memory, &mut bench.effects);
        bench.settle();
        change(&mut bench, 2);
        // What ended before it was whole never gets to the disk.
        while moment > 0 && !bench.disk.has_pending_flush() {
            assert!(bench.step());
        }
        change(&mut bench, 3);
        bench.run();
        assert_eq!(bench.answers(), [(7, Status::WrongEpoch)], "moment {moment}");
        assert_eq!(bench.owed(1), 128 << 10);
        bench.put(1, 8, &chunk, 2);
        bench.run();
        assert_eq!(bench.answers(), [(8, Status::Ok)], "moment {moment}");
    }
}

/// R39: fragments follow each other without gaps, in multiples of 64 KiB but for the last. One that couldn't even be read, such as a second
/// beginning, was refused and left its put in the table, and its buffer, until the connection closed.
#[test]
fn fragments_that_dont_follow_end_the_put() {
    let length = 256 * KIB;
    for (what, offset, bytes) in [
        ("a gap", 128 * KIB, 64 * KIB),
        ("the same again", 0, 64 * KIB),
        ("an overlap", 60 * KIB, 64 * KIB),
        ("an odd length", 64 * KIB, 60 * KIB),
        ("beyond the end", 64 * KIB, 256 * KIB),
        ("nothing", 64 * KIB, 0),
    ] {
        let mut bench = Bench::new();
        let idle = bench.memory.used_bytes();
        let chunk = Chunk::new(1, length);
        bench.put_head(1, 7, &chunk, 1, 64 * KIB);
        assert_eq!(bench.fragment(1, 7, offset, &vec![0; bytes]), Placement::Discard, "{what}");
        assert_eq!(bench.answers(), [(7, Status::BadRequest)], "{what}");
        assert_eq!(bench.memory.used_bytes(), idle, "{what}");
        // What the client had sent before it heard of that is forgotten, and its credit comes back too.
        assert_eq!(bench.fragment(1, 7, 192 * KIB, &chunk.bytes[192 * KIB..]), Placement::Discard);
        assert!(bench.answers().is_empty());
        assert_eq!(bench.owed(1) as usize, 64 * KIB + bytes + 64 * KIB, "{what}");
        // The correlation id is free, and so is the chunk.
        bench.put(1, 7, &chunk, 1);
        bench.run();
        assert_eq!(bench.answers(), [(7, Status::Ok)], "{what}");
    }
}

/// A fragment behind the last one belongs to nothing that a client could mean.
#[test]
fn a_fragment_of_a_whole_chunk_ends_the_connection() {
    let mut bench = Bench::new();
    let chunk = Chunk::new(1, 64 * KIB);
    bench.put(1, 7, &chunk, 1);
    let placement = bench.fragment(1, 7, 64 * KIB, &chunk.bytes);
    assert_eq!(placement, Placement::Close(CloseReason::Protocol));
}

/// Credit for a fragment whose bytes didn't match its leaves was never returned: after 64 of them the connection stood still.
#[test]
fn damaged_bytes_are_refused_and_their_credit_returned() {
    let mut bench = Bench::new();
    let idle = bench.memory.used_bytes();
    let chunk = Chunk::new(1, 192 * KIB);
    bench.put_head(1, 7, &chunk, 1, 64 * KIB);
    let mut damaged = chunk.bytes[64 * KIB..128 * KIB].to_vec();
    damaged[40_000] ^= 4;
    bench.fragment(1, 7, 64 * KIB, &damaged);
    assert_eq!(bench.answers(), [(7, Status::ChecksumMismatch)]);
    assert_eq!(bench.memory.used_bytes(), idle);
    assert_eq!(bench.owed(1), 128 << 10);
    assert_eq!(bench.shard.state(&bench.memory).checksum_mismatch_total, 1);
}

/// R38: whatever becomes of a put, its payload's credit comes back, once.
#[test]
fn credit_is_returned_exactly_once() {
    let mut bench = Bench::new();
    let (mut spent, mut returned) = (0, 0);
    let half = 128 * KIB;
    for round in 0..60 {
        let chunk = Chunk::new(round, 2 * half);
        let correlation = 10 + round;
        match round % 6 {
            // Stored, and stored once more.
            0 | 1 => {
                bench.put(1, correlation, &chunk, 1);
                bench.put(1, correlation + 1000, &chunk, 1);
                spent += 4 * half;
            }
            // Refused at once.
            2 => {
                bench.put_head(1, correlation, &chunk, 9, half);
                bench.fragment(1, correlation, half, &chunk.bytes[half..]);
                spent += 2 * half;
            }
            // Given up.
            3 => {
                bench.put_head(1, correlation, &chunk, 1, half);
                bench.request(1, correlation, &Request::Abort, &[]);
                bench.request(1, correlation, &Request::Abort, &[]);
                spent += half;
            }
            // Damaged on the way.
            4 => {
                bench.put_head(1, correlation, &chunk, 1, half);
                bench.fragment(1, correlation, half, &vec![0; half]);
                spent += 2 * half;
            }
            // Out of order.
            _ => {
                bench.put_head(1, correlation, &chunk, 1, half);
                bench.fragment(1, correlation, 0, &chunk.bytes[..half]);
                spent += 2 * half;
            }
        }
        if round % 4 == 0 {
            bench.run();
        }
        for frame in bench.take_sent() {
            if frame.prefix.kind == FrameKind::Credit {
                assert!(!frame.prefix.reply);
                match Request::decode(frame.prefix.kind, &frame.message).unwrap() {
                    Request::Credit { bytes, .. } => returned += bytes as usize,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(bench.owed(1) < CREDIT_RETURN_BYTES, "it is sent as soon as it is worth a frame");
        assert!(returned + bench.owed(1) as usize <= spent);
    }
    bench.run();
    assert!(bench.shard.is_idle());
    for frame in bench.take_sent().iter().filter(|frame| frame.prefix.kind == FrameKind::Credit) {
        let Ok(Request::Credit { bytes, .. }) = Request::decode(frame.prefix.kind, &frame.message) else {
            panic!("{frame:?}")
        };
        returned += bytes as usize;
    }
    assert_eq!(returned + bench.owed(1) as usize, spent);
    assert!(returned > 0);
}

#[test]
fn an_aborted_put_is_forgotten() {
    let mut bench = Bench::new();
    let idle = bench.memory.used_bytes();
    let chunk = Chunk::new(1, 192 * KIB);
    bench.put_head(1, 7, &chunk, 1, 64 * KIB);
    bench.fragment(1, 7, 64 * KIB, &chunk.bytes[64 * KIB..128 * KIB]);
    bench.request(1, 7, &Request::Abort, &[]);
    assert!(bench.answers().is_empty(), "an abort has no reply");
    assert_eq!((bench.memory.used_bytes(), bench.owed(1)), (idle, 128 << 10));
    // One that the store has already isn't stopped: its answer comes.
    bench.put(1, 8, &chunk, 1);
    bench.request(1, 8, &Request::Abort, &[]);
    bench.run();
    assert_eq!(bench.answers(), [(8, Status::Ok)]);
    // And one of nothing is nothing.
    bench.request(1, 9, &Request::Abort, &[]);
    assert!(bench.answers().is_empty());
}

#[test]
fn a_connection_closed_in_the_middle_gives_everything_back() {
    let mut bench = Bench::new();
    let idle = bench.memory.used_bytes();
    bench.greeted(2);
    let (half, whole) = (Chunk::new(1, 128 * KIB), Chunk::new(2, 64 * KIB));
    bench.put_head(2, 7, &half, 1, 64 * KIB);
    bench.put(2, 8, &whole, 1);
    bench.close(2);
    assert!(!bench.shard.is_idle(), "the store still has one of them");
    bench.run();
    assert!(bench.answers().is_empty() && bench.closes.is_empty(), "nobody is there to be told");
    assert!(bench.shard.is_idle());
    assert_eq!(bench.memory.used_bytes(), idle);
    // What the store had is stored; what had not come is not.
    assert_eq!(bench.shard.store().metrics().chunks, 1);
    bench.stored(&whole);
    bench.stored(&half);
    // The places in the table are used again, for others.
    assert!(matches!(bench.shard.puts.at(0).stage, Stage::Free));
}

/// R4: the same chunk again is acked once its copy is durable; the same id with other bytes is refused and nothing changes.
#[test]
fn a_chunk_is_put_twice() {
    let mut bench = Bench::new();
    let chunk = Chunk::new(1, 64 * KIB);
    // At the same time, from two connections.
    bench.greeted(2);
    bench.put(1, 7, &chunk, 1);
    bench.put(2, 7, &chunk, 1);
    assert!(bench.answers().is_empty(), "neither is durable");
    bench.run();
    assert_eq!(bench.answers(), [(7, Status::Ok), (7, Status::Ok)]);
    assert_eq!(bench.shard.store().metrics().chunks, 1);
    // Later.
    bench.stored(&chunk);
    let other = Chunk::of(id(1), vec![3; 64 * KIB]);
    bench.put(1, 9, &other, 1);
    bench.run();
    assert_eq!(bench.answers(), [(9, Status::AlreadyExists)]);
    assert_eq!(bench.shard.store().find(id(1)).unwrap().root, chunk.root);
    // An alarm, once; each is counted.
    assert_eq!(bench.conflicting, [id(1)]);
    bench.put(1, 10, &other, 1);
    bench.run();
    assert_eq!(bench.answers(), [(10, Status::AlreadyExists)]);
    assert_eq!(bench.conflicting, [id(1)]);
    assert_eq!(bench.shard.state(&bench.memory).conflicting_put_total, 2);
}

#[test]
fn a_correlation_id_in_use_begins_no_second_put() {
    let mut bench = Bench::new();
    let (first, second) = (Chunk::new(1, 128 * KIB), Chunk::new(2, 64 * KIB));
    bench.put_head(1, 7, &first, 1, 64 * KIB);
    assert_eq!(bench.put_head(1, 7, &second, 1, 64 * KIB), Placement::Discard);
    assert_eq!(bench.answers(), [(7, Status::BadRequest)]);
    // The first goes on as if nothing had been.
    bench.fragment(1, 7, 64 * KIB, &first.bytes[64 * KIB..]);
    bench.run();
    assert_eq!(bench.answers(), [(7, Status::Ok)]);
    assert_eq!(bench.owed(1), 192 << 10);
}

/// A full or fenced store's status is the answer, and the buffer comes back.
#[test]
fn what_the_store_refuses_is_answered() {
    let mut bench = Bench::new();
    let idle = bench.memory.used_bytes();
    bench.disk.faults.write_errors = 10_000;
    bench.put(1, 7, &Chunk::new(1, 64 * KIB), 1);
    bench.run();
    let answers = bench.answers();
    assert_eq!(answers.len(), 1);
    assert!(!matches!(answers[0].1, Status::Ok), "{answers:?}");
    assert!(bench.memory.used_bytes() <= idle);
    bench.put(1, 8, &Chunk::new(2, 64 * KIB), 1);
    assert_eq!(bench.answers(), [(8, Status::NotServing)]);
    assert_eq!(bench.owed(1), 128 << 10);
}

/// The ack names the map under which it was given (R8).
#[test]
fn an_ack_names_its_map() {
    let mut bench = Bench::new();
    bench.change_map(5);
    bench.put(1, 7, &Chunk::new(1, 10), 5);
    bench.run();
    let ack = bench.reply();
    assert!(matches!(decode(&ack), wire::message::Reply::PutChunk { map: wire::MapNumber(5) }));
}
