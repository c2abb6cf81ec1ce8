//! Calls to the stores: connections, limits, and what becomes of what was asked.

use wire::map::{Member, ReplicaState};
use wire::message::{Encoder, HelloReply, PayloadMeta, Reply, ReplyHead, Request, Role};
use wire::meta::Refusal;
use wire::{
    ChunkId, FrameKind, GroupId, Load, MapNumber, Nanos, NodeId, PREFIX_BYTES, Prefix, SessionId, ShardIndex,
    Status,
};

use super::bench::{CLUSTER, map};
use crate::effects::{CloseReason, Effects, Link, Note};
use crate::store_calls::{ASKED_MAX, Answered, StoreCalls, WAITING_MAX};

const NOW: Nanos = Nanos(5 * Nanos::SECOND);

struct World {
    calls: StoreCalls,
    map: placement::ClusterMap,
    effects: Effects,
    now: Nanos,
    last_link: u64,
    last_ordinal: u64,
}

fn first() -> ChunkId {
    ChunkId { session: SessionId(9), ordinal: 1 }
}

fn greeting() -> Reply<'static> {
    Reply::Hello(HelloReply {
        version: 1,
        features: 0,
        cluster: CLUSTER,
        node: NodeId(1),
        role: Role::Shard(ShardIndex(0)),
        map: MapNumber(1),
        put_credit_bytes: 0,
        server: String::new(),
    })
}

impl World {
    fn new() -> Self {
        let map = map(1, [10, 11]);
        let mut effects = Effects::default();
        let mut calls = StoreCalls::new(GroupId(0));
        calls.on_map(&map, &mut effects);
        Self { calls, map, effects, now: NOW, last_link: 100, last_ordinal: 0 }
    }

    fn delete(&mut self, count: u32) {
        self.delete_from(1, count);
    }

    fn delete_from(&mut self, ordinal: u64, count: u32) {
        let first = ChunkId { ordinal, ..first() };
        self.calls.delete(self.now, &self.map, (first, count), (false, None), &mut self.effects);
    }

    /// One chunk of store 0 after the other.
    fn delete_next_of_first_store(&mut self) {
        loop {
            self.last_ordinal += 1;
            let id = ChunkId { ordinal: self.last_ordinal, ..first() };
            if self.map.route(id).members.iter().any(|member| member.store == 0) {
                return self.delete_from(self.last_ordinal, 1);
            }
        }
    }

    fn deleted(&mut self, (link, prefix): &(Link, Prefix)) -> Option<Answered> {
        self.reply(*link, FrameKind::DeleteChunks, prefix.correlation, Status::Ok, &Reply::DeleteChunks)
    }

    /// Takes the calls for connections; each gets a number.
    fn dialled(&mut self) -> Vec<(u16, Link)> {
        let dials = std::mem::take(&mut self.effects.dials);
        let links = dials.into_iter().map(|dial| {
            self.last_link += 1;
            let link = Link(self.last_link);
            self.calls.on_dialled(dial.peer, Some(link));
            (dial.peer, link)
        });
        links.collect()
    }

    /// Everything dialled so far stands and is greeted.
    fn connected(&mut self) -> Vec<Link> {
        let links = self.dialled();
        for (_, link) in &links {
            self.calls.on_up(*link, &self.map, &mut self.effects);
            assert_eq!(self.reply(*link, FrameKind::Hello, 0, Status::Ok, &greeting()), None);
        }
        links.into_iter().map(|(_, link)| link).collect()
    }

    /// What was sent, greetings apart.
    fn sent(&mut self) -> Vec<(Link, Prefix)> {
        let sent = std::mem::take(&mut self.effects.sends);
        let frames = sent.iter().map(|send| {
            let head = &self.effects.bytes[send.head.0 as usize..send.head.1 as usize];
            let (prefix, message) = head.split_first_chunk::<PREFIX_BYTES>().unwrap();
            let prefix = Prefix::decode(prefix).unwrap();
            assert!(Request::decode(prefix.kind, message).is_ok());
            (send.link, prefix)
        });
        frames.filter(|(_, prefix)| prefix.kind != FrameKind::Hello).collect()
    }

    fn reply(
        &mut self,
        link: Link,
        kind: FrameKind,
        correlation: u64,
        status: Status,
        reply: &Reply<'_>,
    ) -> Option<Answered> {
        let mut head = Vec::new();
        let reply_head = ReplyHead { kind, correlation, status, load: Load::default(), more: false };
        Encoder::new().reply(&mut head, reply_head, reply, PayloadMeta::default());
        let (prefix, message) = head.split_first_chunk::<PREFIX_BYTES>().unwrap();
        let prefix = Prefix::decode(prefix).unwrap();
        self.calls.on_reply(self.now, link, (&prefix, message), &self.map, &mut self.effects)
    }

    fn refused(&mut self, link: Link, kind: FrameKind, correlation: u64) -> Option<Answered> {
        self.reply(link, kind, correlation, Status::Busy, &Reply::Refused(Refusal::default()))
    }

    fn turn(&mut self) {
        self.calls.on_turn(self.now, &self.map, &mut self.effects);
    }
}

/// R24: the group hears of a delete once every store that may have one of the chunks has said so.
#[test]
fn a_delete_is_answered_when_all_stores_have_answered() {
    let mut calls = World::new();
    calls.delete(64);
    let links = calls.connected();
    assert_eq!(links.len(), 2, "64 chunks are in both stores");
    let sent = calls.sent();
    assert_eq!(sent.len(), 2);
    let (link, prefix) = sent[0];
    assert_eq!(
        calls.reply(link, FrameKind::DeleteChunks, prefix.correlation, Status::Ok, &Reply::DeleteChunks),
        None
    );
    assert_eq!(
        calls.reply(link, FrameKind::DeleteChunks, prefix.correlation, Status::Ok, &Reply::DeleteChunks),
        None,
        "said twice"
    );
    let (link, prefix) = sent[1];
    let answered =
        calls.reply(link, FrameKind::DeleteChunks, prefix.correlation, Status::Ok, &Reply::DeleteChunks);
    assert_eq!(answered, Some(Answered::Deleted { first: first(), count: 64 }));
    assert_eq!(calls.calls.deletes(), 0);
}

/// A store that answered `Busy` or `NotServing` to the greeting was never greeted again, and nothing was freed there any more.
#[test]
fn a_store_that_refuses_the_greeting_is_greeted_again() {
    let mut calls = World::new();
    calls.delete(1);
    let (peer, link) = calls.dialled()[0];
    calls.calls.on_up(link, &calls.map, &mut calls.effects);
    calls.sent();
    assert_eq!(calls.refused(link, FrameKind::Hello, 0), None);
    assert_eq!(calls.effects.closes, [(link, CloseReason::Redial)]);
    calls.turn();
    assert!(calls.effects.dials.is_empty(), "not at once");
    calls.now = calls.calls.deadline().expect("a call waits");
    assert!(calls.now > NOW && calls.now <= NOW.after(Nanos::SECOND));
    calls.turn();
    assert_eq!(calls.effects.dials.len(), 1);
    assert_eq!(calls.effects.dials[0].peer, peer);
    calls.connected();
    assert_eq!(calls.sent().len(), 1, "the call is made after all");
}

#[test]
fn a_connection_that_cant_be_had_is_tried_later() {
    let mut calls = World::new();
    calls.delete(1);
    let peer = calls.effects.dials.pop().expect("a call waits").peer;
    calls.calls.on_dialled(peer, None);
    calls.turn();
    assert!(calls.effects.dials.is_empty());
    calls.now = calls.calls.deadline().unwrap();
    calls.turn();
    let (_, link) = calls.dialled()[0];
    // Refused by the network.
    assert!(calls.calls.on_close(link) && !calls.calls.on_close(link));
    calls.turn();
    assert!(calls.effects.dials.is_empty());
}

/// What was asked over a connection that is gone, or refused, is given up whole: the replica asks again.
#[test]
fn lost_and_refused_calls_are_given_up() {
    let mut calls = World::new();
    calls.delete(64);
    let links = calls.connected();
    calls.delete_from(100, 64);
    let sent = calls.sent();
    assert_eq!((sent.len(), calls.calls.deletes()), (4, 2));
    calls.calls.on_close(links[0]);
    assert_eq!(calls.calls.deletes(), 0);
    calls.delete(64);
    assert_eq!(calls.calls.deletes(), 1);
    // The other store has its part already.
    assert!(calls.sent().is_empty());
    let (link, prefix) = sent.into_iter().find(|(link, _)| *link == links[1]).expect("it was asked");
    assert_eq!(calls.refused(link, FrameKind::DeleteChunks, prefix.correlation), None);
    assert_eq!(calls.calls.deletes(), 0);
}

/// I13: as many calls are out as a store takes, as many wait as the limit says, and one that is dropped leaves nothing behind.
#[test]
fn calls_are_bounded() {
    let mut calls = World::new();
    calls.delete_next_of_first_store();
    let link = calls.connected()[0];
    for _ in 0..ASKED_MAX + WAITING_MAX + 9 {
        calls.delete_next_of_first_store();
    }
    let sent = calls.sent();
    assert_eq!(sent.len(), ASKED_MAX);
    let dropped = calls.effects.notes.iter().filter(|note| matches!(note, Note::StoreSilent { .. })).count();
    assert_eq!(dropped, 10);
    assert_eq!(calls.calls.deletes(), ASKED_MAX + WAITING_MAX);
    // Each answer lets one more go.
    let answered =
        calls.reply(link, FrameKind::DeleteChunks, sent[0].1.correlation, Status::Ok, &Reply::DeleteChunks);
    assert!(answered.is_some() && calls.sent().len() == 1);
}

/// The replica repeats a delete every few seconds: while a store was away each repetition was another call, and when it came back it was asked
/// the same a thousand times.
#[test]
fn what_is_under_way_is_not_asked_again() {
    let mut calls = World::new();
    let ask = |calls: &mut World| {
        calls.delete(64);
        calls.calls.inventory(NOW, &calls.map, 1, None, &mut calls.effects);
    };
    for _ in 0..9 {
        ask(&mut calls);
    }
    assert_eq!((calls.calls.calls(0), calls.calls.calls(1)), ((1, 0), (2, 0)), "waiting");
    calls.connected();
    for _ in 0..9 {
        ask(&mut calls);
    }
    assert_eq!((calls.calls.calls(0), calls.calls.calls(1)), ((0, 1), (0, 2)), "asked");
    assert_eq!((calls.sent().len(), calls.calls.deletes()), (3, 1));
}

/// What one store refused was made again as a whole, though the other had still to answer its part of the first.
#[test]
fn a_delete_made_again_takes_its_unanswered_calls_over() {
    let mut calls = World::new();
    calls.delete(64);
    calls.connected();
    let first_sent = calls.sent();
    let mut refused = first_sent[0].1.correlation;
    for _ in 0..5 {
        assert_eq!(calls.refused(first_sent[0].0, FrameKind::DeleteChunks, refused), None);
        assert_eq!(calls.calls.deletes(), 0);
        calls.delete(64);
        assert_eq!(calls.calls.calls(1), (0, 1));
        refused = calls.sent()[0].1.correlation;
    }
    assert_eq!(calls.deleted(&first_sent[1]), None, "it counts for the delete that was made again");
    let last = (first_sent[0].0, Prefix::request(FrameKind::DeleteChunks, refused));
    assert_eq!(calls.deleted(&last), Some(Answered::Deleted { first: first(), count: 64 }));
    assert_eq!((calls.calls.calls(0), calls.calls.calls(1), calls.calls.deletes()), ((0, 0), (0, 0), 0));
}

/// A delete of which one store's part found no room was given up before it was whole: its other parts were asked nevertheless, for nobody.
#[test]
fn a_delete_without_room_leaves_nothing_behind() {
    let mut calls = World::new();
    for _ in 0..WAITING_MAX {
        calls.delete_next_of_first_store();
    }
    let known = (calls.calls.calls(0), calls.calls.calls(1), calls.calls.deletes());
    assert_eq!(known.0, (WAITING_MAX, 0));
    for _ in 0..9 {
        calls.delete_from(1 << 30, 64);
    }
    assert_eq!((calls.calls.calls(0), calls.calls.calls(1), calls.calls.deletes()), known);
    let silent = |note: &Note| matches!(note, Note::StoreSilent { peer: 0 });
    assert_eq!(calls.effects.notes.iter().filter(|note| silent(note)).count(), 9);
    calls.delete_from(1 << 30, 0);
    assert_eq!(calls.calls.deletes(), known.2, "nothing to delete is nothing to wait for");
}

/// Given up while a part of it still waits for a store: what waits is for nobody, and isn't asked.
#[test]
fn what_was_given_up_is_not_asked_later() {
    let mut calls = World::new();
    calls.delete(64);
    let dialled = calls.dialled();
    let (_, link) = dialled[0];
    calls.calls.on_up(link, &calls.map, &mut calls.effects);
    calls.reply(link, FrameKind::Hello, 0, Status::Ok, &greeting());
    let sent = calls.sent();
    assert_eq!(calls.refused(link, FrameKind::DeleteChunks, sent[0].1.correlation), None);
    let (_, link) = dialled[1];
    calls.calls.on_up(link, &calls.map, &mut calls.effects);
    calls.reply(link, FrameKind::Hello, 0, Status::Ok, &greeting());
    assert!(calls.sent().is_empty());
    assert_eq!((calls.calls.calls(1), calls.calls.deletes()), ((0, 0), 0));
}

/// A store that moved: what was asked where it isn't any more was never given up.
#[test]
fn a_store_that_moved_is_called_at_its_new_address() {
    let mut calls = World::new();
    calls.delete(64);
    calls.connected();
    calls.sent();
    calls.map = map(2, [10, 12]);
    calls.calls.on_map(&calls.map, &mut calls.effects);
    assert_eq!(calls.effects.closes.len(), 1);
    assert_eq!(calls.calls.deletes(), 0);
    calls.delete(64);
    assert_eq!(calls.effects.dials.len(), 1);
    assert_eq!(&*calls.effects.dials[0].address, "127.0.0.1:12");
}

#[test]
fn rubbish_ends_the_connection() {
    let mut calls = World::new();
    calls.delete(1);
    let link = calls.connected()[0];
    calls.sent();
    let prefix = Prefix::reply(FrameKind::Inventory, 1, Status::Ok);
    assert_eq!(calls.calls.on_reply(NOW, link, (&prefix, &[1, 2]), &calls.map, &mut calls.effects), None);
    assert_eq!(calls.effects.closes, [(link, CloseReason::Redial)]);
    assert!(!calls.calls.knows(link));
}

/// R24: a delete waited for members that were down, too; and what lay where its chain has no member any more was told to nobody (sim cluster seed 2).
#[test]
fn deletes_go_to_those_who_ack_and_orphans_to_their_holder() {
    let mut world = World::new();
    let mut map = world.map.as_map().clone();
    for slice in &mut map.slices {
        let mut members = slice.chain.members;
        members.clear();
        for (store, state) in [(0, ReplicaState::Serving), (1, ReplicaState::Offline)] {
            members.push(Member { store, state, is_seed: store == 0 });
        }
        slice.chain.members = members;
    }
    world.map = placement::ClusterMap::new(map).unwrap();
    world.delete(1);
    assert_eq!((world.calls.calls(0).0, world.calls.calls(1).0), (1, 0));
    let orphan = ChunkId { ordinal: 7, ..first() };
    world.calls.delete(world.now, &world.map, (orphan, 1), (true, Some(1)), &mut world.effects);
    assert_eq!((world.calls.calls(0).0, world.calls.calls(1).0), (2, 1));
    // The second one is gone for good once it has been asked: what waits for it is given up, and may be asked again of those who are there.
    for slice in 0..world.map.as_map().slices.len() {
        let mut map = world.map.as_map().clone();
        map.slices[slice].chain.members[1].state = ReplicaState::Serving;
        world.map = placement::ClusterMap::new(map).unwrap();
    }
    world.delete_from(20, 1);
    assert_eq!((world.calls.deletes(), world.calls.calls(1).0), (3, 2));
    let mut map = world.map.as_map().clone();
    map.slices.iter_mut().for_each(|slice| slice.chain.members[1].state = ReplicaState::Offline);
    world.map = placement::ClusterMap::new(map).unwrap();
    world.calls.on_map(&world.map, &mut world.effects);
    assert_eq!(world.calls.deletes(), 1, "only what waits for the one that acks");
}

/// A store's machine lost power: nothing said so, and what was asked before stood in the way of what was asked again (sim cluster seed 1065).
#[test]
fn a_silent_store_is_dialled_again() {
    let mut world = World::new();
    world.calls.inventory(world.now, &world.map, 0, None, &mut world.effects);
    let links = world.connected();
    assert_eq!((links.len(), world.calls.calls(0)), (1, (0, 1)));
    let due = world.calls.deadline().expect("it is waited for");
    world.effects.closes.clear();
    world.calls.on_turn(Nanos(due.0 - 1), &world.map, &mut world.effects);
    assert!(world.effects.closes.is_empty());
    world.calls.on_turn(due, &world.map, &mut world.effects);
    assert_eq!(world.effects.closes, [(links[0], CloseReason::Redial)]);
    world.calls.inventory(due, &world.map, 0, None, &mut world.effects);
    assert_eq!(world.calls.calls(0), (1, 0), "asked again");
}
