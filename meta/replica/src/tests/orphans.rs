//! The orphan pass by hand.

use super::*;

fn id(session: SessionId, ordinal: u64) -> ChunkId {
    ChunkId { session, ordinal }
}

/// One pass, in which the only store says that it has these.
fn pass(bench: &mut Bench, ids: &[ChunkId]) {
    bench.now = bench.now.after(6 * Nanos::SECOND);
    bench.handle(Event::Tick);
    assert_eq!(std::mem::take(&mut bench.inventories), [(0, None)]);
    bench.handle(Event::ShardInventory { source: 0, ids, end: true });
}

/// R2, R22, R24: only ids of closed sessions of this group that no table knows; nothing in a life's first pass.
#[test]
fn the_orphan_pass_frees_orphans_only() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.mutate(session, 2, commit_one(session, "f", 1));
    let other = bench.session();
    let foreign = SessionId::new(wire::GroupId(9), 0, 0).unwrap();
    let ids = [id(session, 1), id(session, 5), id(session, 6), id(other, 1), id(foreign, 1)];
    pass(&mut bench, &ids);
    bench.ask(9, RequestBody::CloseSession { session });
    pass(&mut bench, &ids);
    assert!(bench.deletes.is_empty(), "the close isn't durable");
    bench.flush();
    assert_eq!(bench.deletes, [(id(session, 5), 2, true)]);
    assert_eq!(bench.replica.unopened_chunks(), 0);
}

/// An old backup of the log was put back. As its sessions went on, chunks of files that only the right log knew became orphans and were deleted.
#[test]
fn a_log_that_is_older_than_its_stores_frees_no_orphans() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.ask(9, RequestBody::CloseSession { session });
    bench.flush();
    bench.replies.clear();
    let later = SessionId(session.0 + 1);
    let ids = [id(session, 1), id(later, 1), id(later, 2)];
    pass(&mut bench, &ids);
    assert_eq!(bench.replica.group_state().unopened_chunks, 2);
    // The log hands out that session's id, too.
    assert_eq!(bench.session(), later);
    bench.replies.clear();
    bench.ask(9, RequestBody::CloseSession { session: later });
    bench.flush();
    for _ in 0..2 {
        pass(&mut bench, &ids);
        assert!(bench.deletes.is_empty(), "{:?}", bench.deletes);
    }

    // Once the operator has accepted the loss they are orphans as any others.
    bench.replica.config.generation += 1;
    pass(&mut bench, &ids);
    bench.flush();
    assert_eq!(bench.deletes, [(id(session, 1), 1, true), (id(later, 1), 2, true)]);
    assert_eq!(bench.replica.unopened_chunks(), 0);
}

/// Every put was refused for want of space, and nothing said so.
#[test]
fn what_has_no_room_is_told() {
    let mut bench = Bench::new();
    bench.session();
    assert_eq!(bench.replica.lacks(), None);
    bench.handle(Event::LogSpace(LogSpace::Short));
    assert_eq!(bench.replica.lacks(), Some(crate::Lack::Log));
    bench.handle(Event::LogSpace(LogSpace::Ample));
    bench.replica.config.memory_budget = bench.replica.state().memory_bytes();
    assert_eq!(bench.replica.lacks(), Some(crate::Lack::Memory));
    let state = bench.replica.group_state();
    assert_eq!((state.log_full, state.memory_full), (false, true));
}

/// R2, R27: what stores may do with chunks that only some of them hold. Dead is what the orphan pass would free and what was reclaimed, once that is committed; all else stays.
#[test]
fn the_group_says_what_a_chunk_is() {
    use wire::meta::ChunkState::{Dead, Live, Open};

    let mut bench = Bench::new();
    let session = bench.session();
    bench.mutate(session, 1, create_volume("a"));
    bench.mutate(session, 2, commit_one(session, "f", 1));
    let foreign = SessionId::new(wire::GroupId(9), 0, 0).unwrap();
    let ids = vec![id(session, 1), id(session, 5), id(SessionId(session.0 + 7), 1), id(foreign, 1)];
    let ask = |bench: &mut Bench| {
        bench.ask(7, RequestBody::Query(Query::ChunkStates { ids: ids.clone() }));
        bench.flush();
        let found = bench.replies.iter().position(|(number, ..)| *number == 7).expect("it is answered");
        match bench.replies.remove(found) {
            (_, Status::Ok, Body::Answer(wire::meta::Answer::ChunkStates(states))) => states,
            other => panic!("{other:?}"),
        }
    };
    let live = Live { root: None };
    assert_eq!(ask(&mut bench), [live, Open, Open, Open]);
    bench.ask(9, RequestBody::CloseSession { session });
    bench.flush();
    assert_eq!(
        ask(&mut bench),
        [live, Open, Open, Open],
        "whether the log is older than the stores isn't known yet"
    );
    pass(&mut bench, &ids[..2]);
    assert_eq!(ask(&mut bench), [live, Dead, Open, Open]);
}

/// The map's first stores were taken for those of chunks: of two nodes' stores the second one is a log, which never answers, and the third was never asked.
#[test]
fn a_pass_asks_the_stores_that_the_map_says() {
    let mut bench = Bench::new();
    bench.replica.set_inventory_sources(bench.now, vec![2, 0]);
    let begin = |bench: &mut Bench| {
        bench.now = bench.now.after(6 * Nanos::SECOND);
        bench.handle(Event::Tick);
        std::mem::take(&mut bench.inventories)
    };
    assert_eq!(begin(&mut bench), [(0, None)]);
    bench.handle(Event::ShardInventory { source: 0, ids: &[], end: true });
    assert_eq!(std::mem::take(&mut bench.inventories), [(2, None)]);
    // It is replaced before it answers.
    bench.replica.set_inventory_sources(bench.now, vec![0, 4]);
    assert_eq!(begin(&mut bench), [(4, None)]);
    bench.handle(Event::ShardInventory { source: 4, ids: &[], end: true });
    assert_eq!(begin(&mut bench), [(0, None)]);
}
