//! Whatever bytes arrive: a message, or an error.

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message,
    MessageType,
};

use super::world::Random;
use crate::voter::bytes::{self, FormatError};
use crate::voter::codec::{self, Assembly};
use crate::voter::shelf::Image;
use crate::voter::{
    ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX, Outputs, RECORD_BYTES_MAX, Recovery, Voter, VoterError, VoterId,
    record,
};
use wire::ClusterId;

const VOTER: VoterId = VoterId { cluster: ClusterId([1; 16]), id: 2 };

fn message(kind: MessageType) -> Message {
    let mut message = Message { to: 2, from: 1, term: 5, log_term: 4, index: 10, ..Message::default() };
    (message.commit, message.commit_term, message.reject_hint, message.reject) = (9, 4, 3, true);
    message.context = b"0123456789abcdef".to_vec();
    message.set_msg_type(kind);
    message
}

fn append(entries: impl IntoIterator<Item = Vec<u8>>) -> Message {
    let mut append = message(MessageType::MsgAppend);
    append.entries =
        (11..).zip(entries).map(|(index, data)| Entry { index, term: 5, data, ..Entry::default() }).collect();
    append
}

fn image(bytes: Vec<u8>) -> Message {
    let mut message = message(MessageType::MsgSnapshot);
    let snapshot = message.mut_snapshot();
    snapshot.data = bytes;
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (8, 3);
    metadata.set_conf_state(ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() });
    message
}

fn encoded(message: &Message) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    codec::encode(message, |bytes| all.push(bytes));
    all
}

#[test]
fn messages_arrive_as_they_were_sent() {
    let messages = [
        message(MessageType::MsgHeartbeat),
        message(MessageType::MsgRequestPreVoteResponse),
        append([vec![1, 2], vec![]]),
        image(vec![]),
        image(vec![9; 700_000]),
    ];
    for message in messages {
        let mut assembly = Assembly::default();
        let pieces = encoded(&message);
        assert!(pieces.iter().all(|bytes| bytes.len() <= MESSAGE_BYTES_MAX));
        let last = pieces.len() - 1;
        // The last piece first, and one of them twice.
        for bytes in pieces[1..].iter().rev() {
            assert_eq!(assembly.take(codec::decode(bytes).expect("ours")), None);
            assert_eq!(assembly.take(codec::decode(bytes).expect("ours")), None);
        }
        let whole = assembly.take(codec::decode(&pieces[0]).expect("ours"));
        assert_eq!(whole.as_ref(), Some(&message), "{last} pieces more");
    }
}

#[test]
fn entries_that_do_not_fit_are_left_for_later() {
    let long = append((0..4).map(|_| vec![7; ENTRY_BYTES_MAX]));
    let many = append((0..2_000).map(|_| vec![7]));
    for (message, expected) in [(long, 2), (many, 1_024)] {
        let bytes = encoded(&message).remove(0);
        assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        let arrived = codec::decode(&bytes).expect("ours");
        assert_eq!(arrived.message.entries[..], message.entries[..expected]);
    }
}

#[test]
fn what_is_never_sent_is_refused() {
    let proposal = message(MessageType::MsgPropose);
    assert!(encoded(&proposal).is_empty());
    let check = |change: &dyn Fn(&mut Message), expected: FormatError| {
        let mut message = append([vec![1], vec![2]]);
        change(&mut message);
        assert_eq!(codec::decode(&encoded(&message)[0]).err(), Some(expected));
    };
    check(&|message| message.term = 0, FormatError::Invalid("order of entries"));
    check(&|message| message.from = 2, FormatError::Invalid("message"));
    check(&|message| message.entries[1].index = 13, FormatError::Invalid("order of entries"));
    check(&|message| message.entries[1].term = 4, FormatError::Invalid("order of entries"));
    check(&|message| message.set_msg_type(MessageType::MsgHeartbeat), FormatError::Invalid("message"));
    let mut strange = image(vec![1]);
    strange.mut_snapshot().mut_metadata().mut_conf_state().learners = vec![1];
    assert_eq!(
        codec::decode(&encoded(&strange)[0]).err(),
        Some(FormatError::Invalid("configuration of voters"))
    );
}

#[test]
fn any_bytes_are_a_message_or_an_error() {
    let mut random = Random::new(1);
    let samples = [encoded(&append([vec![1; 40], vec![]])).remove(0), encoded(&image(vec![5; 90])).remove(0)];
    let mut voter = joiner();
    let mut out = Outputs::default();
    for round in 0..20_000_u64 {
        let mut bytes = samples[usize::try_from(round % 2).expect("two")].clone();
        for _ in 0..=random.below(3) {
            let at = usize::try_from(random.below(bytes.len() as u64)).expect("an index");
            bytes[at] ^= 1 << random.below(8);
        }
        bytes.truncate(usize::try_from(random.below(bytes.len() as u64 * 4)).expect("a length"));
        // A voter takes whatever comes for another voter's word, and may end over it; it doesn't panic.
        let _ = voter.step(&bytes, &mut out);
        out.clear();
        if voter.failed().is_some() {
            voter = joiner();
        }
    }
}

fn recovered(records: &[Vec<u8>]) -> Recovery {
    let mut recovery = Recovery::new();
    for record in records {
        recovery.on_record(record);
    }
    recovery
}

fn joiner() -> Voter {
    let recovery = recovered(&Voter::join(VOTER));
    Voter::start(VOTER, 0, recovery, 1, &mut Outputs::default()).expect("a log of its own")
}

#[test]
fn only_its_own_whole_log_makes_a_voter() {
    let check = |recovery: Recovery, expected: Option<VoterError>| {
        let started = Voter::start(VOTER, 0, recovery, 9, &mut Outputs::default());
        assert_eq!(started.err(), expected);
    };
    let founded = Voter::found(VOTER, b"the first map");
    check(recovered(&founded), None);
    check(Recovery::new(), Some(VoterError::Unborn));
    let other = VoterId { id: 3, ..VOTER };
    check(recovered(&Voter::join(other)), Some(VoterError::Foreign { found: other }));
    let elsewhere = VoterId { cluster: ClusterId([2; 16]), ..VOTER };
    check(recovered(&Voter::join(elsewhere)), Some(VoterError::Foreign { found: elsewhere }));
    let mut damaged = recovered(&founded);
    damaged.on_damage();
    check(damaged, Some(VoterError::Damaged));
    let mut cut = founded.clone();
    cut.last_mut().expect("records").pop();
    check(recovered(&cut), Some(VoterError::Format(FormatError::Length)));
    let mut newer = founded;
    newer[0][0] = 9;
    check(recovered(&newer), Some(VoterError::Format(FormatError::NewerVersion(9))));
}

#[test]
fn a_log_that_was_cut_between_any_two_records_makes_a_voter() {
    let entries: Vec<Entry> =
        (2..10).map(|index| Entry { index, term: 3, data: vec![1; 150_000], ..Entry::default() }).collect();
    let hard = HardState { term: 3, vote: 1, commit: 9 };
    let mut records = Voter::found(VOTER, &vec![7; 600_000]);
    let first = records.len();
    record::steps(&HardState { term: 1, vote: 0, commit: 1 }, Some(&hard), &entries, &mut records);
    assert!(first >= 4 && records.len() >= first + 4, "both take several records");
    assert!(records.iter().all(|record| record.len() <= RECORD_BYTES_MAX));
    for count in 1..=records.len() {
        let recovery = recovered(&records[..count]);
        let started = Voter::start(VOTER, 0, recovery, count as u64, &mut Outputs::default());
        assert_eq!(started.err(), None, "of {} records {count}", records.len());
    }
    // What was written over is gone.
    let other = Entry { index: 4, term: 4, data: vec![2], ..Entry::default() };
    record::steps(&hard, None, &[other], &mut records);
    let shelf = recovered(&records).finish(VOTER);
    assert_eq!(shelf.err(), Some(VoterError::Inconsistent), "entries that were agreed on can't be");
}

#[test]
fn an_image_outruns_a_change_of_voters_that_waits_for_the_disk() {
    let state = |voters: &[u64]| ConfState { voters: voters.to_vec(), ..ConfState::default() };
    let mut records = vec![record::born(VOTER)];
    let first = Image { index: 10, term: 4, voters: state(&[1, 2]), bytes: [].into() };
    record::image(&first, &mut records);
    let mut out = Outputs::default();
    let recorded = records.len() as u64;
    let mut voter = Voter::start(VOTER, 0, recovered(&records), recorded, &mut out).expect("its own log");
    // A change that takes 3 in.
    let mut change = append([bytes::change_bytes(&adds(3))]);
    change.entries[0].set_entry_type(EntryType::EntryConfChangeV2);
    (change.commit, change.reject, change.context) = (10, false, Vec::new());
    out.clear();
    voter.step(&encoded(&change)[0], &mut out).expect("a message");
    // The entry is durable, and that it is agreed on isn't yet.
    let entry = out.records.last().expect("a record").0;
    voter.on_durable(entry, &mut out);
    let mut agreed = message(MessageType::MsgHeartbeat);
    (agreed.commit, agreed.context) = (11, Vec::new());
    voter.step(&encoded(&agreed)[0], &mut out).expect("a message");
    let news = out.records.last().expect("a record").0;
    assert!(news > entry && voter.applied() == 10, "it waits for the second record");
    let mut later = image(vec![1]);
    let metadata = later.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (20, 5);
    metadata.set_conf_state(state(&[1, 2, 4]));
    voter.step(&encoded(&later)[0], &mut out).expect("a message");
    voter.on_durable(out.records.last().expect("a record").0, &mut out);
    assert_eq!((voter.applied(), voter.voters().voters), (20, [1, 2, 4].into()));
    assert!(voter.voters().learners.is_empty(), "3 isn't there at that index");
}

fn adds(id: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    single.set_change_type(ConfChangeType::AddLearnerNode);
    ConfChangeV2 { changes: vec![single], ..ConfChangeV2::default() }
}

#[test]
fn a_log_that_was_replaced_by_an_older_one_ends_its_voter() {
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    (heartbeat.commit, heartbeat.context) = (40, Vec::new());
    let mut voter = joiner();
    let mut out = Outputs::default();
    voter.step(&encoded(&heartbeat)[0], &mut out).expect("a message");
    assert_eq!(voter.failed(), Some(VoterError::Amnesia { last: 0, had: 40 }));
    out.clear();
    for _ in 0..100 {
        voter.tick(&mut out);
    }
    assert!(out.letters.is_empty(), "it doesn't vote any more");
}
