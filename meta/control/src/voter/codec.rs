//! Messages between voters: a plain binary form of our own, since the `raft` crate's would parse what a network sends with protobuf.
//!
//! ```text
//! version u8, kind u8
//! to u64, from u64, term u64
//! log term u64, index u64, commit u64, commit term u64, reject hint u64, reject u8
//! context: length u32, bytes
//! entries: count u32, entries
//! image's piece, only with `Image`: number u32, of u32, and index u64, term u64, voters; length u32, bytes
//! ```
//! An image takes several messages; [`Assembly`] puts them together again, one image at a time.

use raft::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot};

use super::bytes::{
    FormatError, Input, entry, entry_bytes, put_bytes, put_entry, put_u32, put_u64, put_voters, voters,
};
use super::{ENTRY_BYTES_MAX, IMAGE_BYTES_MAX, IMAGE_PIECE_BYTES, MESSAGE_BYTES_MAX, MESSAGE_ENTRIES_MAX};

/// Version of the messages.
const VERSION: u8 = 1;
/// Bytes of a context: the name of a round, or of the kind of an election.
const CONTEXT_BYTES_MAX: usize = 32;
const IMAGE_PIECES_MAX: usize = IMAGE_BYTES_MAX.div_ceil(IMAGE_PIECE_BYTES);

/// Kinds and their codes. What isn't here is never sent: proposals and reads are begun at the leader.
const KINDS: &[(u8, MessageType)] = &[
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgSnapshot),
    (6, MessageType::MsgHeartbeat),
    (7, MessageType::MsgHeartbeatResponse),
    (8, MessageType::MsgTimeoutNow),
    (9, MessageType::MsgRequestPreVote),
    (10, MessageType::MsgRequestPreVoteResponse),
];

/// A message, or a piece of one, as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrived {
    pub(super) message: Message,
    piece: Option<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
struct Piece {
    number: u32,
    of: u32,
    bytes: Vec<u8>,
}

/// Hands `message` over as bytes, in as many messages as it takes.
pub(super) fn encode(message: &Message, mut each: impl FnMut(Vec<u8>)) {
    let Some((code, kind)) = KINDS.iter().find(|(_, kind)| *kind == message.get_msg_type()) else {
        // A follower would pass a proposal or a read on: nobody hands it any.
        return;
    };
    let mut head = vec![VERSION, *code];
    let numbers = [message.to, message.from, message.term, message.log_term, message.index, message.commit];
    for number in numbers {
        put_u64(&mut head, number);
    }
    put_u64(&mut head, message.commit_term);
    put_u64(&mut head, message.reject_hint);
    head.push(u8::from(message.reject));
    put_bytes(&mut head, &message.context);
    // What doesn't fit comes later: the receiver says how far it got.
    let mut bytes = head.len() + 4;
    let fits = |entry: &&Entry| {
        bytes += entry_bytes(entry);
        bytes <= MESSAGE_BYTES_MAX
    };
    let entries: Vec<&Entry> = message.entries.iter().take(MESSAGE_ENTRIES_MAX).take_while(fits).collect();
    put_u32(&mut head, u32::try_from(entries.len()).expect("few entries"));
    for entry in entries {
        put_entry(&mut head, entry);
    }
    if *kind != MessageType::MsgSnapshot {
        return each(head);
    }
    let (metadata, data) = (message.get_snapshot().get_metadata(), message.get_snapshot().get_data());
    assert!(data.len() <= IMAGE_BYTES_MAX, "an image keeps its limit");
    let of = u32::try_from(data.len().div_ceil(IMAGE_PIECE_BYTES).max(1)).expect("few pieces");
    for number in 0..of {
        let from = number as usize * IMAGE_PIECE_BYTES;
        let mut bytes = head.clone();
        put_u32(&mut bytes, number);
        put_u32(&mut bytes, of);
        put_u64(&mut bytes, metadata.index);
        put_u64(&mut bytes, metadata.term);
        put_voters(&mut bytes, metadata.get_conf_state());
        put_bytes(&mut bytes, &data[from..data.len().min(from + IMAGE_PIECE_BYTES)]);
        each(bytes);
    }
}

/// The message in `bytes`: whatever comes out keeps every limit, and the rules that hold within one message.
pub(super) fn decode(bytes: &[u8]) -> Result<Arrived, FormatError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(FormatError::TooLarge("message"));
    }
    let mut input = Input::new(bytes);
    input.version(VERSION)?;
    let code = input.byte()?;
    let kind = KINDS.iter().find(|(known, _)| *known == code).ok_or(FormatError::Invalid("kind"))?.1;
    let mut message =
        Message { to: input.u64()?, from: input.u64()?, term: input.u64()?, ..Message::default() };
    message.set_msg_type(kind);
    (message.log_term, message.index) = (input.u64()?, input.u64()?);
    (message.commit, message.commit_term) = (input.u64()?, input.u64()?);
    message.reject_hint = input.u64()?;
    message.reject = input.flag("reject")?;
    message.context = input.bytes("context", CONTEXT_BYTES_MAX)?.to_vec();
    let count = input.u32()? as usize;
    if count > MESSAGE_ENTRIES_MAX {
        return Err(FormatError::TooLarge("entries"));
    }
    for place in (1_u64..).take(count) {
        let entry = entry(&mut input)?;
        let before = message.entries.last().map_or(message.log_term, |last| last.term);
        let follows = Some(entry.index) == message.index.checked_add(place);
        if !follows || entry.term < before || entry.term > message.term {
            return Err(FormatError::Invalid("order of entries"));
        }
        message.entries.push(entry);
    }
    let piece = match kind {
        MessageType::MsgSnapshot => Some(piece(&mut input, &mut message)?),
        _ => None,
    };
    input.finish()?;
    // A term of 0 marks what a voter tells itself.
    let is_sound = message.from != 0 && message.to != 0 && message.from != message.to && message.term != 0;
    let has_entries = kind == MessageType::MsgAppend || message.entries.is_empty();
    if is_sound && has_entries {
        Ok(Arrived { message, piece })
    } else {
        Err(FormatError::Invalid("message"))
    }
}

fn piece(input: &mut Input<'_>, message: &mut Message) -> Result<Piece, FormatError> {
    let (number, of) = (input.u32()?, input.u32()?);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (input.u64()?, input.u64()?);
    metadata.set_conf_state(voters(input)?);
    let (index, term) = (metadata.index, metadata.term);
    let bytes = input.bytes("piece of an image", IMAGE_PIECE_BYTES)?.to_vec();
    let fits =
        number < of && of as usize <= IMAGE_PIECES_MAX && index > 0 && term > 0 && term <= message.term;
    if fits { Ok(Piece { number, of, bytes }) } else { Err(FormatError::Invalid("piece of an image")) }
}

const _: () = assert!(IMAGE_PIECE_BYTES + 4096 <= MESSAGE_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_MAX + 4096 <= MESSAGE_BYTES_MAX);

/// An image that arrives in pieces.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// Of which message the pieces are, and how many there are.
    of: Option<(Message, u32)>,
    pieces: Vec<Option<Vec<u8>>>,
}

impl Assembly {
    /// The whole message, once all its pieces are there. The first piece of another image begins anew.
    pub(super) fn take(&mut self, arrived: Arrived) -> Option<Message> {
        let Arrived { message, piece } = arrived;
        let Some(piece) = piece else { return Some(message) };
        if self.of.as_ref().is_none_or(|(known, of)| *known != message || *of != piece.of) {
            self.pieces = vec![None; piece.of as usize];
            self.of = Some((message, piece.of));
        }
        self.pieces[piece.number as usize] = Some(piece.bytes);
        if self.pieces.iter().any(Option::is_none) {
            return None;
        }
        let data = std::mem::take(&mut self.pieces).into_iter().flatten().flatten().collect();
        let (mut message, _) = self.of.take()?;
        message.mut_snapshot().data = data;
        Some(message)
    }
}

/// Who votes, by an image's metadata.
pub(super) fn voters_of(snapshot: &Snapshot) -> ConfState {
    snapshot.get_metadata().get_conf_state().clone()
}
