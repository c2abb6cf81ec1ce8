//! Rules one by one: limits, places, preconditions, removal of whole volumes, cost of listings.

mod large;

use wire::limits::{FILE_EXTENTS_MAX, PATH_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_BYTES_MAX};
use wire::meta::{
    Answer, Change as ContentChange, Commit, CopyRange, Entry, Extents, NewAttributes, Operation, Outcome,
    Place, Precondition, Query, RemoveKind, RenameMode, Run, VolumePolicy, Xattr, XattrMode,
};
use wire::{
    ChunkId, CommitIndex, InodeId, MapNumber, SessionId, SliceIndex, Status, Timestamp, Version, VolumeId,
};

use crate::codec::Encode;
use crate::{
    ChunkState, Context, Failure, Losses, Moment, Namespace, STEP_ROWS_MAX, UpkeepRules, plan_upkeep,
};

const SESSION: SessionId = SessionId(1);
const VOLUME: VolumeId = VolumeId(1);

struct Bench {
    namespace: Namespace,
    ordinal: u64,
    losses: Losses,
    session: SessionId,
}

impl Bench {
    fn new() -> Self {
        let mut bench =
            Self { namespace: Namespace::default(), ordinal: 0, losses: Losses::default(), session: SESSION };
        let policy = VolumePolicy { chunk_bytes: 4096, retention_seconds: 0 };
        bench.ok(&Operation::CreateVolume { name: "v".into(), policy });
        bench
    }

    fn run(&mut self, operation: &Operation) -> Outcome {
        let index = CommitIndex(self.namespace.index().0 + 1);
        let moment = Moment { index, time: Timestamp(index.0.cast_signed()) };
        let context = Context { moment, session: self.session, memory_full: false, losses: &self.losses };
        let executed = self.namespace.execute(operation, context);
        self.namespace.apply(moment, executed.changes).unwrap();
        executed.outcome
    }

    fn ok(&mut self, operation: &Operation) -> Outcome {
        let outcome = self.run(operation);
        assert_eq!(outcome.status, Status::Ok, "{operation:?}");
        outcome
    }

    fn refused(&mut self, operation: &Operation, status: Status) -> Outcome {
        let outcome = self.run(operation);
        assert_eq!(outcome.status, status, "{operation:?}");
        outcome
    }

    fn extents(&mut self, file_offset: u64, count: u32) -> Extents {
        let first = ChunkId { session: self.session, ordinal: self.ordinal };
        self.ordinal += u64::from(count);
        let run = Run {
            file_offset,
            length: u64::from(count) * 16,
            first,
            count,
            chunk_bytes: 16,
            last_chunk_bytes: 16,
            skip: 0,
        };
        Extents { runs: vec![run], roots: (0..u64::from(count)).collect() }
    }

    fn file(&mut self, path: &str) -> Outcome {
        let extents = self.extents(0, 1);
        self.ok(&commit(path, ContentChange::Replace { size: 16 }, extents))
    }

    fn lookup(&self, place: Place) -> Result<Entry, Failure> {
        let query = Query::Lookup { place, follow: true, xattrs: true, roots: 8192 };
        match self.namespace.query(&query, 0)? {
            Answer::Entry(entry) => Ok(*entry),
            other => panic!("{other:?}"),
        }
    }
}

fn place(path: impl AsRef<[u8]>) -> Place {
    Place { volume: VOLUME, directory: InodeId::ROOT, path: path.as_ref().to_vec() }
}

fn mkdir(path: impl AsRef<[u8]>) -> Operation {
    Operation::MakeDirectory { place: place(path), attributes: NewAttributes::default(), parents: false }
}

fn link(path: &str, target: &[u8]) -> Operation {
    let attributes = NewAttributes::default();
    Operation::MakeSymlink { place: place(path), target: target.to_vec(), attributes, replace: false }
}

fn commit(path: &str, change: ContentChange, extents: Extents) -> Operation {
    Operation::Commit(Commit {
        place: place(path),
        change,
        extents,
        upload: 0,
        attributes: None,
        precondition: Precondition::Any,
        map: MapNumber(5),
    })
}

#[test]
fn names_and_paths_have_limits() {
    let mut bench = Bench::new();
    bench.ok(&mkdir([b'n'; 255]));
    bench.ok(&mkdir(b"not utf-8: \xff\xfe and a\nnewline"));
    for (path, status) in [
        (vec![b'n'; 256], Status::TooLarge),
        (b"a/../b".to_vec(), Status::BadRequest),
        (b"..".to_vec(), Status::BadRequest),
        (b"nul\0".to_vec(), Status::BadRequest),
        (vec![b'/'; PATH_BYTES_MAX + 1], Status::TooLarge),
        (b"".to_vec(), Status::AlreadyExists),
        (b"missing/below".to_vec(), Status::NotFound),
    ] {
        bench.refused(&mkdir(path), status);
    }
    let elsewhere = Place { volume: VolumeId(9), ..place("a") };
    let operation = Operation::MakeDirectory {
        place: elsewhere.clone(),
        attributes: NewAttributes::default(),
        parents: true,
    };
    bench.refused(&operation, Status::NotFound);
    let rename = Operation::Rename { source: place("a"), target: elsewhere, mode: RenameMode::Replace };
    bench.refused(&rename, Status::Unsupported); // R27
    bench.refused(&link("l", b""), Status::BadRequest);
    bench.refused(&link("l", &[b'x'; SYMLINK_BYTES_MAX + 1]), Status::TooLarge);
    bench.ok(&link("l", &[b'x'; SYMLINK_BYTES_MAX]));
    let remove_root =
        Operation::Remove { place: place("/"), kind: RemoveKind::Directory, precondition: Precondition::Any };
    bench.refused(&remove_root, Status::NotEmpty);
    let policy = VolumePolicy { chunk_bytes: 5000, retention_seconds: 0 };
    bench.refused(&Operation::CreateVolume { name: "w".into(), policy }, Status::BadRequest);
    let policy = VolumePolicy { chunk_bytes: 4096, retention_seconds: 0 };
    bench.refused(&Operation::CreateVolume { name: "W".into(), policy }, Status::BadRequest);
    bench.refused(&Operation::CreateVolume { name: "v".into(), policy }, Status::AlreadyExists);
}

#[test]
fn directories_a_thousand_deep() {
    let mut bench = Bench::new();
    let mut directory = InodeId::ROOT;
    for _ in 0..1000 {
        let place = Place { volume: VOLUME, directory, path: b"d".to_vec() };
        let make = Operation::MakeDirectory { place, attributes: NewAttributes::default(), parents: false };
        directory = bench.ok(&make).inode;
    }
    let path: Vec<u8> = b"d/".repeat(1000);
    assert_eq!(bench.lookup(place(&path)).unwrap().attributes.inode, directory);
    let into = Place { volume: VOLUME, directory, path: b"x".to_vec() };
    let rename = Operation::Rename { source: place("d"), target: into, mode: RenameMode::Replace };
    bench.refused(&rename, Status::Cycle);
    let all = Operation::MakeDirectory {
        place: place(b"p/".repeat(2048)),
        attributes: NewAttributes::default(),
        parents: true,
    };
    bench.ok(&all);
    assert_eq!(bench.refused(&mkdir("d/d/d/none/x"), Status::NotFound).depth, 3);
    bench.namespace.audit().unwrap();
}

/// Every directory of a `mkdir -p` got all xattrs of the request: 2,048 of them made a log entry of 128 MiB, which the log's limit stopped by a panic.
#[test]
fn parents_are_made_without_the_xattrs() {
    let mut bench = Bench::new();
    let attributes = NewAttributes {
        xattrs: vec![Xattr { name: b"a".to_vec(), value: vec![7; XATTR_BYTES_MAX - 1] }],
        mode: 0o711,
        ..NewAttributes::default()
    };
    let path: Vec<u8> = b"d/".repeat(2048);
    let make = Operation::MakeDirectory { place: place(&path), attributes, parents: true };
    let index = CommitIndex(bench.namespace.index().0 + 1);
    let moment = Moment { index, time: Timestamp(index.0.cast_signed()) };
    let context = Context { moment, session: SESSION, memory_full: false, losses: &bench.losses };
    let mut bytes = Vec::new();
    bench.namespace.execute(&make, context).changes.iter().for_each(|change| change.encode(&mut bytes));
    assert!(bytes.len() < 2 * XATTR_BYTES_MAX + (64 << 10), "{}", bytes.len());
    bench.ok(&make);
    let last = bench.lookup(place(&path)).unwrap();
    let parent = bench.lookup(place("d/d")).unwrap();
    assert_eq!((last.xattrs.len(), last.attributes.mode), (1, 0o711));
    assert_eq!((parent.xattrs.len(), parent.attributes.mode), (0, 0o711));
    bench.namespace.audit().unwrap();
}

/// A stage was checked against the largest chunk there is only: a volume of small chunks could get chunks of 4 MiB through it.
#[test]
fn staged_chunks_fit_the_volume() {
    let mut bench = Bench::new();
    let chunk_bytes = 8192;
    let first = ChunkId { session: SESSION, ordinal: 0 };
    let length = u64::from(chunk_bytes);
    let run =
        Run { file_offset: 0, length, first, count: 1, chunk_bytes, last_chunk_bytes: chunk_bytes, skip: 0 };
    bench.ordinal = 1;
    bench.ok(&Operation::Stage { upload: 4, extents: Extents { runs: vec![run], roots: vec![1] } });
    let mut whole = commit("f", ContentChange::Replace { size: length }, Extents::default());
    if let Operation::Commit(commit) = &mut whole {
        commit.upload = 4;
    }
    bench.refused(&whole, Status::BadRequest);
}

/// Each stretch of a write may lie in the middle of a piece and leave a chunk in two of them: a write with many holes passed the limit.
#[test]
fn writes_with_holes_keep_the_limit() {
    let mut bench = Bench::new();
    let chunks = FILE_EXTENTS_MAX - 100;
    for part in 0..chunks.div_ceil(8192) {
        let count = u32::try_from((chunks - part * 8192).min(8192)).unwrap();
        let extents = bench.extents(part * 8192 * 16, count);
        bench.ok(&Operation::Stage { upload: 4, extents });
    }
    let mut large = commit("f", ContentChange::Replace { size: chunks * 16 }, Extents::default());
    if let Operation::Commit(commit) = &mut large {
        commit.upload = 4;
    }
    bench.ok(&large);
    // One byte into each of so many chunks: three pieces of one, two of which hold the old chunk.
    let mut holes = |count: u64| {
        let mut whole = Extents::default();
        for at in 0..count {
            let mut one = bench.extents(at * 16 + 7, 1);
            (one.runs[0].length, one.runs[0].last_chunk_bytes) = (1, 1);
            whole.runs.extend(one.runs);
            whole.roots.push(at);
        }
        bench.run(&commit("f", ContentChange::Write, whole)).status
    };
    assert_eq!(holes(51), Status::TooLarge);
    assert_eq!(holes(50), Status::Ok);
    assert_eq!(holes(1), Status::TooLarge);
    bench.namespace.audit().unwrap();
}

#[test]
fn links_lead_where_they_say() {
    let mut bench = Bench::new();
    for path in ["a", "a/b", "a/b/c"] {
        bench.ok(&mkdir(path));
    }
    bench.file("a/file");
    bench.ok(&link("a/b/c/up", b"../../file"));
    bench.ok(&link("absolute", b"/a/b"));
    bench.ok(&link("above", b"../../../a/file"));
    bench.ok(&link("loop", b"loop"));
    bench.ok(&link("dangling", b"a/new"));
    let file = bench.lookup(place("a/file")).unwrap().attributes.inode;
    for path in ["a/b/c/up", "absolute/c/up", "above"] {
        assert_eq!(bench.lookup(place(path)).unwrap().attributes.inode, file, "{path}");
    }
    assert_eq!(bench.lookup(place("loop")).unwrap_err().status, Status::TooManyLinks);
    let extents = bench.extents(0, 1);
    bench.ok(&commit("dangling", ContentChange::Write, extents));
    assert_eq!(bench.lookup(place("a/new")).unwrap().attributes.size, 16);
    bench.file("dangling");
    assert_eq!(bench.lookup(place("dangling")).unwrap().attributes.stored_bytes, 16);
    assert_ne!(
        bench.lookup(place("dangling")).unwrap().attributes.inode,
        bench.lookup(place("a/new")).unwrap().attributes.inode,
        "a replace replaces the link"
    );
}

#[test]
fn xattrs_have_limits_and_modes() {
    let mut bench = Bench::new();
    bench.file("f");
    let set = |name: &[u8], bytes: usize, mode| Operation::SetXattr {
        place: place("f"),
        follow: true,
        xattr: Xattr { name: name.to_vec(), value: vec![7; bytes] },
        mode,
    };
    bench.refused(&set(b"", 1, XattrMode::Any), Status::BadRequest);
    bench.refused(&set(&[b'n'; 256], 1, XattrMode::Any), Status::TooLarge);
    bench.refused(&set(b"a", XATTR_BYTES_MAX, XattrMode::Any), Status::TooLarge);
    bench.refused(&set(b"a", 1, XattrMode::Replace), Status::NotFound);
    bench.ok(&set(b"a", XATTR_BYTES_MAX - 2, XattrMode::Create));
    bench.refused(&set(b"a", 1, XattrMode::Create), Status::AlreadyExists);
    bench.ok(&set(b"b", 0, XattrMode::Any));
    bench.refused(&set(b"b", 1, XattrMode::Any), Status::TooLarge);
    bench.ok(&set(b"a", 1, XattrMode::Replace));
    assert_eq!(bench.lookup(place("f")).unwrap().xattrs.len(), 2);
    bench.namespace.audit().unwrap();
}

/// R23: ids of the own session only, each once; R37: no file beyond its extents.
#[test]
fn commits_are_checked() {
    let mut bench = Bench::new();
    let first = bench.extents(0, 2);
    bench.ok(&commit("f", ContentChange::Write, first.clone()));
    bench.refused(&commit("g", ContentChange::Write, first.clone()), Status::BadRequest);
    bench.session = SessionId(2);
    bench.refused(&commit("g", ContentChange::Write, first), Status::BadRequest);
    let own = bench.extents(0, 1);
    bench.refused(&commit("g", ContentChange::Replace { size: 15 }, own.clone()), Status::BadRequest);
    let mut shifted = own.clone();
    shifted.runs[0].file_offset = 1;
    bench.refused(&commit("g", ContentChange::Append, shifted), Status::BadRequest);
    // Refused commits used no ids.
    bench.ok(&commit("g", ContentChange::Append, own));
    let conflict = Operation::Commit(Commit {
        precondition: Precondition::Version(Version(1)),
        ..match commit("g", ContentChange::Replace { size: 0 }, Extents::default()) {
            Operation::Commit(commit) => commit,
            other => panic!("{other:?}"),
        }
    });
    let there = bench.lookup(place("g")).unwrap().attributes.version;
    assert_eq!(bench.refused(&conflict, Status::VersionConflict).version, there);
    // 128 stages of 8,192 extents make the largest file; one more is refused, and so is an append to it.
    for part in 0..128 {
        let extents = bench.extents(part * 8192 * 16, 8192);
        bench.ok(&Operation::Stage { upload: 4, extents });
    }
    let more = bench.extents(128 * 8192 * 16, 1);
    bench.refused(&Operation::Stage { upload: 4, extents: more.clone() }, Status::TooLarge);
    let mut large =
        commit("large", ContentChange::Replace { size: FILE_EXTENTS_MAX * 16 }, Extents::default());
    if let Operation::Commit(commit) = &mut large {
        commit.upload = 4;
    }
    bench.ok(&large);
    let mut more = more;
    more.runs[0].file_offset = 0;
    bench.refused(&commit("large", ContentChange::Append, more), Status::TooLarge);
    let copy = Operation::CopyRange(CopyRange {
        source: place("large"),
        source_version: Version(0),
        source_offset: 0,
        length: u64::MAX,
        target: place("copy"),
        target_offset: 0,
        whole: true,
        precondition: Precondition::Any,
    });
    bench.ok(&copy);
    let usage = bench.namespace.query(&Query::Usage { volume: VOLUME }, 0).unwrap();
    let Answer::Usage(usage) = usage else { panic!() };
    assert_eq!(usage.chunks, FILE_EXTENTS_MAX + 3, "a copy has the same chunks");
}

/// R8: chunks acked before their slice was given up are refused, later ones are not.
#[test]
fn lost_chunks_are_written_again() {
    let mut bench = Bench::new();
    bench.losses = Losses { ring_bits: 0, stamps: vec![(SliceIndex(0), MapNumber(6))] };
    let extents = bench.extents(0, 1);
    bench.refused(&commit("f", ContentChange::Write, extents.clone()), Status::ChunksLost);
    bench.losses.stamps[0].1 = MapNumber(5);
    bench.ok(&commit("f", ContentChange::Write, extents));
}

/// A volume goes in bounded steps, and all of it goes.
#[test]
fn a_volume_is_removed_in_steps() {
    let mut bench = Bench::new();
    for file in 0..5000 {
        bench.file(&format!("f{file}"));
    }
    bench.ok(&mkdir("d"));
    let chunk = ChunkId { session: SESSION, ordinal: 17 };
    bench.refused(&Operation::RemoveVolume { volume: VOLUME, recursive: false }, Status::NotEmpty);
    bench.ok(&Operation::RemoveVolume { volume: VOLUME, recursive: true });
    assert_eq!(bench.lookup(place("f1")).unwrap_err().status, Status::NotFound);
    let policy = VolumePolicy { chunk_bytes: 4096, retention_seconds: 0 };
    let again = Operation::CreateVolume { name: "v".into(), policy };
    assert_eq!(bench.ok(&again).volume, VolumeId(2), "the name is free, the id isn't used again");
    let mut steps = 0;
    let mut plan = Vec::new();
    loop {
        let index = CommitIndex(bench.namespace.index().0 + 1);
        let moment = Moment { index, time: Timestamp(index.0.cast_signed()) };
        let rules = UpkeepRules {
            now: moment.time,
            reclaim_delay: 3,
            memory_short: false,
            log_short: false,
            hold_everything: false,
        };
        plan_upkeep(&bench.namespace, &rules, |_| None, &mut plan);
        let change = plan.drain(..).next();
        let idle = change.is_none() && bench.namespace.inode_count() == 1;
        bench.namespace.apply(moment, change.into_iter().collect()).unwrap();
        if idle {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 5000 * 2 / STEP_ROWS_MAX, "{steps}");
    assert_eq!(bench.namespace.chunk_state(chunk), ChunkState::Deleting);
    assert_eq!(bench.namespace.deleting_chunks(), 5000);
    bench.namespace.audit().unwrap();
}

/// A page costs the same wherever it is and however large the directory is: counted in nodes of the tables looked at per entry, which a noisy
/// machine can't change. Each entry costs one descent to its inode, whose depth is the logarithm.
#[test]
fn a_listing_is_linear() {
    let mut costs = Vec::new();
    for files in [10_000_u32, 100_000] {
        let mut bench = Bench::new();
        for file in 0..files {
            bench.ok(&mkdir(format!("{:08x}", file.wrapping_mul(0x9e37_79b9))));
        }
        let mut after = Vec::new();
        let mut seen = 0;
        let mut pages = Vec::new();
        loop {
            let query = Query::List { place: place(""), after, limit: 1024 };
            let before = crate::tree::VISITED.get();
            let Ok(Answer::List { entries, end, .. }) = bench.namespace.query(&query, 0) else { panic!() };
            pages.push(crate::tree::VISITED.get() - before);
            assert!(entries.is_sorted_by(|a, b| a.name < b.name));
            seen += u32::try_from(entries.len()).unwrap();
            if end {
                break;
            }
            after = entries.last().unwrap().name.clone();
        }
        assert_eq!(seen, files);
        let full = &pages[..pages.len() - 1];
        let (first, worst) = (full[0], full.iter().max().unwrap());
        assert!(*worst < first + first / 10, "late pages cost what the first one does: {pages:?}");
        costs.push(pages.iter().sum::<u64>() * 100 / u64::from(files));
    }
    println!("nodes per 100 listed entries: {costs:?} at 10⁴ and 10⁵");
    assert!(costs[1] <= costs[0] * 3 / 2, "{costs:?}");
}
