//! Limits and meaning: what the decoder refuses, and that whatever keeps the limits fits into a message.

use flatbuffers::FlatBufferBuilder;
use wire::limits::{
    CHUNK_BYTES_MAX, LEAVES_MAX, LIST_ENTRIES_MAX, MESSAGE_BYTES_MAX, MESSAGE_ROOTS_MAX, PATH_BYTES_MAX,
    SYMLINK_BYTES_MAX, XATTR_BYTES_MAX,
};
use wire::message::{
    DecodeError, Encoder, HopClass, PayloadMeta, PutChunk, Reply, ReplyHead, Request, RequestHead, Words,
    check_extents,
};
use wire::meta::{
    Answer, Attributes, Change, Commit, Entry, ExtentPage, Extents, InodeKind, ListEntry, Mutation,
    NewAttributes, Operation, Place, Precondition, Query, Run, Xattr,
};
use wire::{
    ChunkId, CommitIndex, Epoch, FrameKind, InodeId, Layout, Load, MapNumber, PREFIX_BYTES, Sequence,
    SessionId, Status, Timestamp, Version, VolumeId,
};
use wire_generated::message_generated as schema;

const MEBIBYTE: u64 = 1 << 20;

fn request_message(request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    Encoder::new().request(&mut frame, RequestHead::default(), request, PayloadMeta::default());
    frame.split_off(PREFIX_BYTES)
}

fn answer_message(answer: Answer) -> Vec<u8> {
    let mut frame = Vec::new();
    let head = ReplyHead {
        kind: FrameKind::Query,
        correlation: 0,
        status: Status::Ok,
        load: Load::default(),
        more: false,
    };
    Encoder::new().reply(&mut frame, head, &Reply::Answer(answer), PayloadMeta::default());
    frame.split_off(PREFIX_BYTES)
}

fn run(file_offset: u64, length: u64, count: u32) -> Run {
    Run {
        file_offset,
        length,
        first: ChunkId { session: SessionId(1), ordinal: 1 },
        count,
        chunk_bytes: 1 << 20,
        last_chunk_bytes: 1 << 20,
        skip: 0,
    }
}

fn extents(runs: &[Run]) -> Extents {
    let chunks: u32 = runs.iter().map(|run| run.count).sum();
    Extents { runs: runs.to_vec(), roots: vec![7; chunks as usize] }
}

#[test]
fn runs_are_checked() {
    let good = run(0, 3 * MEBIBYTE, 3);
    let check = |change: fn(&mut Run)| {
        let mut changed = good;
        change(&mut changed);
        check_extents(&Extents { runs: vec![changed], roots: vec![7; changed.count.min(100) as usize] })
    };
    assert_eq!(check(|_| ()), Ok(()));
    assert_eq!(check(|run| (run.skip, run.length) = (5, 2 * MEBIBYTE)), Ok(()), "both ends cut");
    assert_eq!(check(|run| run.length = 2 * MEBIBYTE + 1), Ok(()), "one byte of the last chunk");
    let length = Err(DecodeError::Invalid("length of a run"));
    assert_eq!(check(|run| run.length = 2 * MEBIBYTE), length, "nothing of the last chunk");
    assert_eq!(check(|run| run.length = 3 * MEBIBYTE + 1), length, "more than the chunks have");
    assert_eq!(check(|run| (run.length, run.skip) = (u64::MAX, 1)), length);
    assert_eq!(check(|run| run.length = 0), Err(DecodeError::Invalid("run")));
    assert_eq!(check(|run| run.count = 0), Err(DecodeError::Invalid("run")));
    assert_eq!(check(|run| run.skip = 1 << 20), Err(DecodeError::Invalid("skip of a run")));
    let size = Err(DecodeError::Invalid("chunk size of a run"));
    assert_eq!(check(|run| run.chunk_bytes = 3 << 19), size, "not a power of two");
    assert_eq!(check(|run| run.chunk_bytes = CHUNK_BYTES_MAX * 2), size);
    assert_eq!(check(|run| run.chunk_bytes = 2_048), size);
    assert_eq!(check(|run| run.last_chunk_bytes = 0), size);
    assert_eq!(check(|run| run.last_chunk_bytes += 1), size);
    let ids = Err(DecodeError::Invalid("chunk ids of a run"));
    assert_eq!(check(|run| run.first.ordinal = u64::MAX - 1), ids);
    assert_eq!(check(|run| run.first.ordinal = u64::MAX - 2), Ok(()));
    assert_eq!(check(|run| run.file_offset = u64::MAX - 5), Err(DecodeError::TooLarge("file")));
    assert_eq!(check(|run| run.file_offset = 1 << 63), Err(DecodeError::TooLarge("file")));
    let huge = |run: &mut Run| (run.count, run.length) = (u32::MAX, u64::from(u32::MAX) << 20);
    assert_eq!(check(huge), Err(DecodeError::Invalid("number of roots")), "no overflow on the way");
}

#[test]
fn runs_are_in_order_and_have_a_root_for_each_chunk() {
    let order = Err(DecodeError::Invalid("order of runs"));
    let (first, second) = (run(0, MEBIBYTE, 1), run(MEBIBYTE, MEBIBYTE, 1));
    assert_eq!(check_extents(&extents(&[first, second])), Ok(()));
    assert_eq!(check_extents(&extents(&[second, first])), order);
    assert_eq!(check_extents(&extents(&[first, first])), order);
    let overlapping = Run { file_offset: MEBIBYTE - 1, ..second };
    assert_eq!(check_extents(&extents(&[first, overlapping])), order);
    let mut short = extents(&[first, second]);
    short.roots.pop();
    assert_eq!(check_extents(&short), Err(DecodeError::Invalid("number of roots")));
}

fn place(path: Vec<u8>) -> Place {
    Place { volume: VolumeId(1), directory: InodeId::ROOT, path }
}

fn mutation(operation: Operation) -> Mutation {
    Mutation { session: SessionId(1), sequence: Sequence(1), acked_upto: Sequence(0), operation }
}

fn remove(path: &[u8]) -> Mutation {
    let place = place(path.to_vec());
    let precondition = Precondition::Any;
    mutation(Operation::Remove { place, kind: wire::meta::RemoveKind::File, precondition })
}

#[test]
fn hostile_names_are_refused_before_they_are_sent() {
    for (path, expected) in [
        (&b""[..], Ok(())),
        (b"a/b", Ok(())),
        (b"//a/./b/", Ok(())),
        (b"new\nline \xff\xfe", Ok(())),
        (b"nul\0", Err(DecodeError::Invalid("path"))),
        (&[b'x'; 255], Ok(())),
        (&[b'x'; 256], Err(DecodeError::TooLarge("name"))),
        (&b"x/".repeat(PATH_BYTES_MAX / 2), Ok(())),
        (&b"x/".repeat(PATH_BYTES_MAX / 2 + 1), Err(DecodeError::TooLarge("path"))),
    ] {
        assert_eq!(remove(path).check(), expected, "{} bytes", path.len());
    }
    for (name, expected) in [
        ("a", Ok(())),
        ("0-a", Ok(())),
        (&*"a".repeat(63), Ok(())),
        (&*"a".repeat(64), Err(DecodeError::TooLarge("volume name"))),
        ("", Err(DecodeError::Invalid("volume name"))),
        ("-a", Err(DecodeError::Invalid("volume name"))),
        ("A", Err(DecodeError::Invalid("volume name"))),
        ("a_b", Err(DecodeError::Invalid("volume name"))),
        ("ä", Err(DecodeError::Invalid("volume name"))),
    ] {
        assert_eq!(Query::Volume { name: name.to_owned() }.check(), expected, "{name}");
    }
}

#[test]
fn mutations_are_checked() {
    let symlink = |length| {
        let attributes = NewAttributes::default();
        mutation(Operation::MakeSymlink {
            place: place(b"l".to_vec()),
            target: vec![b't'; length],
            attributes,
            replace: false,
        })
    };
    assert_eq!(symlink(0).check(), Err(DecodeError::Invalid("link target")));
    assert_eq!(symlink(SYMLINK_BYTES_MAX).check(), Ok(()));
    assert_eq!(symlink(SYMLINK_BYTES_MAX + 1).check(), Err(DecodeError::TooLarge("link target")));
    let stage = |upload| mutation(Operation::Stage { upload, extents: Extents::default() });
    assert_eq!(stage(0).check(), Err(DecodeError::Invalid("upload")));
    assert_eq!(stage(1).check(), Ok(()));
    let acked = Mutation { acked_upto: Sequence(1), ..stage(1) };
    assert_eq!(acked.check(), Err(DecodeError::Invalid("sequence")), "its own result can't be known yet");
    let many = mutation(Operation::Stage { upload: 1, extents: extents(&[run(0, 8_193 * MEBIBYTE, 8_193)]) });
    assert_eq!(many.check(), Err(DecodeError::TooLarge("extents")), "R37");
}

#[test]
fn extended_attributes_keep_their_limits() {
    let check = |xattrs: Vec<Xattr>| {
        let attributes = NewAttributes { xattrs, ..NewAttributes::default() };
        mutation(Operation::MakeDirectory { place: place(b"d".to_vec()), attributes, parents: false }).check()
    };
    let xattr = |name: &[u8], bytes| Xattr { name: name.to_vec(), value: vec![1; bytes] };
    assert_eq!(check(vec![xattr(b"a", XATTR_BYTES_MAX - 1)]), Ok(()));
    assert_eq!(check(vec![xattr(b"a", XATTR_BYTES_MAX)]), Err(DecodeError::TooLarge("extended attributes")));
    let twice = vec![xattr(b"a", 1), xattr(b"b", 1), xattr(b"a", 2)];
    assert_eq!(check(twice), Err(DecodeError::Invalid("extended attributes")));
    assert_eq!(check(vec![xattr(b"", 1)]), Err(DecodeError::Invalid("attribute name")));
    assert_eq!(check(vec![xattr(b"a\0", 1)]), Err(DecodeError::Invalid("attribute name")));
    assert_eq!(check(vec![xattr(&[b'a'; 256], 1)]), Err(DecodeError::TooLarge("attribute name")));
}

fn attributes(kind: InodeKind) -> Attributes {
    Attributes {
        inode: InodeId(u64::MAX),
        kind,
        mode: 0o7777,
        uid: u32::MAX,
        gid: u32::MAX,
        size: 1,
        stored_bytes: 1,
        modified: Timestamp(i64::MIN),
        changed: Timestamp(0),
        created: Timestamp(0),
        version: Version(1),
        layout: Layout(1),
        xattr_count: 1,
    }
}

/// The most that one inode's extended attributes can be: every name of one byte, then names of two, until 64 KiB are used up.
fn many_xattrs() -> Vec<Xattr> {
    let names = (1..=255).map(|byte| vec![byte]);
    let longer = (1..=255).flat_map(|first| (1..=255).map(move |second| vec![first, second]));
    let mut bytes = 0;
    let fits = |name: &Vec<u8>| {
        bytes += name.len();
        bytes <= XATTR_BYTES_MAX
    };
    names.chain(longer).take_while(fits).map(|name| Xattr { name, value: Vec::new() }).collect()
}

/// One chunk a run, so that runs take most.
fn many_extents() -> Extents {
    let runs: Vec<Run> = (0..MESSAGE_ROOTS_MAX as u64).map(|i| run(i * MEBIBYTE, MEBIBYTE, 1)).collect();
    extents(&runs)
}

#[test]
fn the_largest_commit_and_the_largest_entry_fit() {
    let request = Request::Mutate(mutation(Operation::Commit(Commit {
        place: place(b"x/".repeat(PATH_BYTES_MAX / 2)),
        change: Change::Write,
        extents: many_extents(),
        upload: 1,
        attributes: Some(NewAttributes { xattrs: many_xattrs(), ..NewAttributes::default() }),
        precondition: Precondition::Version(Version(1)),
        map: MapNumber(1),
    })));
    let message = request_message(&request);
    assert!(message.len() <= MESSAGE_BYTES_MAX, "{}", message.len());
    assert_eq!(Request::decode(FrameKind::Mutate, &message), Ok(request));
    let entry = Answer::Entry(Box::new(Entry {
        attributes: attributes(InodeKind::Symlink),
        target: vec![b't'; SYMLINK_BYTES_MAX],
        xattrs: many_xattrs(),
        page: ExtentPage { extents: many_extents(), end: false },
        index: CommitIndex(1),
    }));
    let message = answer_message(entry.clone());
    let decoded = Reply::decode(FrameKind::Query, Status::Ok, &message);
    assert_eq!(decoded, Ok(Reply::Answer(entry)));
}

fn list(target_bytes: usize) -> Answer {
    let entry = |i: u32| ListEntry {
        name: format!("{i:0255}").into_bytes(),
        attributes: attributes(InodeKind::Symlink),
        target: vec![b't'; target_bytes],
    };
    Answer::List {
        directory: attributes(InodeKind::Directory),
        entries: (0..LIST_ENTRIES_MAX).map(entry).collect(),
        end: true,
        index: CommitIndex(1),
    }
}

#[test]
fn a_whole_page_of_the_longest_names_fits() {
    let answer = list(0);
    let decoded = answer_message(answer.clone());
    assert_eq!(Reply::decode(FrameKind::Query, Status::Ok, &decoded), Ok(Reply::Answer(answer)));
}

/// 1,024 links with targets of 4,095 bytes are 4 MiB, and a message has one: the page is cut, and says that more follow.
#[test]
fn a_page_that_does_not_fit_is_cut() {
    let message = answer_message(list(SYMLINK_BYTES_MAX));
    let decoded = Reply::decode(FrameKind::Query, Status::Ok, &message);
    let Ok(Reply::Answer(Answer::List { entries, end, .. })) = decoded else { panic!("a listing") };
    assert!(!end);
    assert!(entries.len() > 200 && entries.len() < 250, "{}", entries.len());
    assert!(message.len() > MESSAGE_BYTES_MAX - 8_192, "as many as fit");
}

/// A server's names become files of the client: none of them may lead elsewhere.
#[test]
fn listed_names_are_checked() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/etc/passwd", b"a\0b", &[b'x'; 256]] {
        let entry =
            ListEntry { name: name.to_vec(), attributes: attributes(InodeKind::File), target: Vec::new() };
        let directory = attributes(InodeKind::Directory);
        let answer = Answer::List { directory, entries: vec![entry], end: true, index: CommitIndex(1) };
        let decoded_bytes = answer_message(answer);
        let decoded = Reply::decode(FrameKind::Query, Status::Ok, &decoded_bytes);
        assert!(decoded.is_err(), "{name:?}");
    }
}

#[test]
fn names_of_a_page_rise() {
    let Answer::List { directory, entries, end, index } = list(0) else { unreachable!() };
    let entries = vec![entries[1].clone(), entries[0].clone()];
    let message = answer_message(Answer::List { directory, entries, end, index });
    let decoded = Reply::decode(FrameKind::Query, Status::Ok, &message);
    assert_eq!(decoded, Err(DecodeError::Invalid("order of entries")));
}

#[test]
fn a_put_has_as_many_leaves_as_blocks() {
    let leaves = [0; LEAVES_MAX];
    let put = |length: u32, count: usize| PutChunk {
        id: ChunkId::default(),
        length,
        root: 1,
        map: MapNumber(1),
        epoch: Epoch(1),
        class: HopClass::Client,
        leaves: Words::new(&leaves[..count]),
    };
    for (length, count) in [(1, 1), (4096, 1), (4097, 2), (CHUNK_BYTES_MAX, LEAVES_MAX)] {
        let message = request_message(&Request::PutChunk(put(length, count)));
        assert_eq!(Request::decode(FrameKind::PutChunk, &message), Ok(Request::PutChunk(put(length, count))));
    }
    // The encoder asserts the rule: a sender that breaks it has to be made by hand.
    let lying = |length: u32, count: usize| {
        let mut builder = FlatBufferBuilder::new();
        let words = Some(builder.create_vector(&leaves[..count]));
        let id = wire_generated::common_generated::ChunkId::new(1, 1);
        let args = schema::PutChunkRequestArgs {
            id: Some(&id),
            length,
            leaves: words,
            ..schema::PutChunkRequestArgs::default()
        };
        let root = schema::PutChunkRequest::create(&mut builder, &args);
        builder.finish_minimal(root);
        Request::decode(FrameKind::PutChunk, builder.finished_data()).map(drop)
    };
    assert_eq!(lying(4096, 1), Ok(()));
    assert_eq!(lying(4096, 2), Err(DecodeError::Invalid("number of leaves")));
    assert_eq!(lying(4097, 1), Err(DecodeError::Invalid("number of leaves")));
    assert_eq!(lying(0, 0), Err(DecodeError::Invalid("length of a chunk")));
    assert_eq!(lying(CHUNK_BYTES_MAX + 1, LEAVES_MAX), Err(DecodeError::Invalid("length of a chunk")));
}

#[test]
fn unknown_fields_are_ignored_and_unknown_variants_are_named() {
    let mut builder = FlatBufferBuilder::new();
    let table = builder.start_table();
    builder.push_slot_always::<u32>(schema::PutFragmentRequest::VT_OFFSET, 64 << 10);
    builder.push_slot_always::<u64>(40, 17);
    let table = builder.end_table(table);
    builder.finish_minimal(table);
    let decoded = Request::decode(FrameKind::PutFragment, builder.finished_data());
    assert_eq!(decoded, Ok(Request::PutFragment { class: HopClass::Client, offset: 64 << 10 }));

    let mut builder = FlatBufferBuilder::new();
    let empty = schema::Empty::create(&mut builder, &schema::EmptyArgs {});
    let args = schema::QueryRequestArgs {
        query_type: wire_generated::meta_generated::Query(200),
        query: Some(empty.as_union_value()),
    };
    let root = schema::QueryRequest::create(&mut builder, &args);
    builder.finish_minimal(root);
    let error = Request::decode(FrameKind::Query, builder.finished_data()).expect_err("an unknown query");
    assert_eq!((error, error.status()), (DecodeError::Unknown("query"), Status::Unsupported));
}

#[test]
fn a_message_over_its_limit_is_not_looked_at() {
    let decoded = Request::decode(FrameKind::Abort, &vec![0; MESSAGE_BYTES_MAX + 1]).map(drop);
    assert_eq!(decoded, Err(DecodeError::TooLarge("message")));
    assert_eq!(Request::decode(FrameKind::Abort, &[]), Err(DecodeError::Malformed));
}
