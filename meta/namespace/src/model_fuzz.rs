//! Random operations against the naive model: statuses, the whole tree with every byte's chunk, the past at kept indices, references,
//! counters; a follower that only ever sees encoded entries; checkpoints taken on the way.

use std::collections::{BTreeMap, BTreeSet};

use wire::limits::{LIST_ENTRIES_MAX, MESSAGE_ROOTS_MAX};
use wire::meta::{
    Answer, AttributeChange, Attributes, Change as ContentChange, Commit, Compact, CopyRange, Extents,
    InodeKind, NewAttributes, Operation, Place, Precondition, Query, RemoveKind, RenameMode, Run,
    VolumePolicy, Xattr, XattrMode,
};
use wire::{
    ChunkId, CommitIndex, InodeId, Layout, MapNumber, SessionId, Status, Timestamp, Version, VolumeId,
};

use crate::apply::Moment;
use crate::change::Change;
use crate::checkpoint::{Cursor, Loader};
use crate::codec::{Decode, Encode, Input};
use crate::execute::Context;
use crate::gc::{UpkeepRules, plan_upkeep};
use crate::losses::Losses;
use crate::model::{Byte, Kind, Model, Node, ROOT};
use crate::namespace::{ChunkState, Namespace};
use crate::random::Random;
use crate::volume::NOW;

const VOLUME: VolumeId = VolumeId(1);
const SESSION: SessionId = SessionId(1);
const RECLAIM_DELAY: u64 = 50;

/// What the model says of an operation, and the operation.
type Planned = (Result<u64, Status>, Operation);

struct Fuzz {
    random: Random,
    namespace: Namespace,
    /// Sees decoded entries only (R15).
    follower: Namespace,
    model: Model,
    /// Models at past indices.
    past: Vec<(CommitIndex, Model)>,
    /// And at the last ones, with their times: a reader who began then is still at it (R25).
    recent: Vec<(Moment, Model)>,
    ordinal: u64,
    upload: u64,
    time: i64,
    names: Vec<Vec<u8>>,
    deleted: BTreeSet<ChunkId>,
    /// How often each kind of operation ended with each status.
    seen: BTreeMap<(String, Status), u64>,
}

impl Fuzz {
    fn new(seed: u64, retention_seconds: u64) -> Self {
        let mut fuzz = Self {
            random: Random::new(seed),
            namespace: Namespace::default(),
            follower: Namespace::default(),
            model: Model::new(),
            past: Vec::new(),
            recent: Vec::new(),
            ordinal: 0,
            upload: 0,
            time: 1_000_000,
            names: vec![
                b"a".to_vec(),
                b"b".to_vec(),
                b"c".to_vec(),
                vec![b'n'; 255],
                b"\xff\xfe\n".to_vec(),
                b"twenty-three bytes long".to_vec(),
            ],
            deleted: BTreeSet::new(),
            seen: BTreeMap::new(),
        };
        let policy = VolumePolicy { chunk_bytes: 4096, retention_seconds };
        let create = Operation::CreateVolume { name: "v".into(), policy };
        assert_eq!(fuzz.execute(&create).0, Status::Ok);
        fuzz
    }

    fn moment(&mut self) -> Moment {
        self.time += 1 + i64::try_from(self.random.below(20)).unwrap();
        Moment { index: CommitIndex(self.namespace.index().0 + 1), time: Timestamp(self.time) }
    }

    /// Executes and applies, on the follower through the bytes of the entry.
    fn execute(&mut self, operation: &Operation) -> (Status, InodeId, u64) {
        let moment = self.moment();
        let losses = Losses::default();
        let context = Context { moment, session: SESSION, memory_full: false, losses: &losses };
        let executed = self.namespace.execute(operation, context);
        assert!(executed.outcome.status == Status::Ok || executed.changes.is_empty());
        let name: String = format!("{operation:?}").chars().take_while(|c| c.is_alphabetic()).collect();
        *self.seen.entry((name, executed.outcome.status)).or_default() += 1;
        self.apply(moment, executed.changes);
        (executed.outcome.status, executed.outcome.inode, moment.index.0)
    }

    fn apply(&mut self, moment: Moment, changes: Vec<Change>) {
        let mut bytes = Vec::new();
        for change in &changes {
            change.encode(&mut bytes);
        }
        let mut input = Input::new(&bytes);
        let mut decoded = Vec::new();
        while !input.is_empty() {
            decoded.push(Change::decode(&mut input).unwrap());
        }
        assert_eq!(decoded, changes);
        self.follower.apply(moment, decoded).unwrap();
        self.namespace.apply(moment, changes).unwrap();
    }

    /// Half of the paths lead to something that is there.
    fn path(&mut self) -> Vec<u8> {
        let mut path = Vec::new();
        if self.random.below(2) == 0 {
            let at = self.random.below(self.model.nodes.len());
            let mut id = *self.model.nodes.keys().nth(at).unwrap();
            while id != ROOT {
                let parent = self.model.nodes[&id].parent;
                let Kind::Directory(entries) = &self.model.nodes[&parent].kind else { panic!() };
                let name = entries.iter().find(|(_, child)| **child == id).unwrap().0;
                path = [b"/".as_slice(), name, &path].concat();
                id = parent;
            }
            return path;
        }
        for _ in 0..=self.random.below(3) {
            path.push(b'/');
            let name = self.random.below(self.names.len());
            path.extend_from_slice(&self.names[name]);
        }
        path
    }

    fn place(path: &[u8]) -> Place {
        Place { volume: VOLUME, directory: InodeId::ROOT, path: path.to_vec() }
    }

    /// Up to three runs with holes between them, whose chunks are 16 bytes or less.
    fn extents(&mut self, mut file_offset: u64) -> Extents {
        let mut extents = Extents::default();
        for _ in 0..self.random.below(4) {
            let count = 1 + u32::try_from(self.random.below(4)).unwrap();
            let last_chunk_bytes = 1 + u32::try_from(self.random.below(16)).unwrap();
            let first_bytes = if count == 1 { last_chunk_bytes } else { 16 };
            let skip = u32::try_from(self.random.below(usize::try_from(first_bytes).unwrap())).unwrap();
            let skip = if self.random.below(2) == 0 { 0 } else { skip };
            let last_covered = if count == 1 { last_chunk_bytes - skip } else { last_chunk_bytes };
            let cut = u64::try_from(self.random.below(usize::try_from(last_covered).unwrap())).unwrap();
            let cut = if self.random.below(2) == 0 { 0 } else { cut };
            let length = u64::from(count - 1) * 16 + u64::from(last_chunk_bytes) - u64::from(skip) - cut;
            let first = ChunkId { session: SESSION, ordinal: self.ordinal };
            self.ordinal += u64::from(count) + self.random.next() % 2;
            extents.roots.extend((0..u64::from(count)).map(|i| root(first.ordinal + i)));
            extents.runs.push(Run {
                file_offset,
                length,
                first,
                count,
                chunk_bytes: 16,
                last_chunk_bytes,
                skip,
            });
            file_offset += length + (self.random.next() % 3) * 7;
        }
        extents
    }

    fn step(&mut self) {
        let path = self.path();
        let (expected, operation) = match self.random.below(22) {
            20.. => return self.compact(&path),
            0..=7 => return self.commit(&path),
            8..=15 => self.plan_name(&path),
            _ => self.plan_content(&path),
        };
        let (status, inode, _) = self.execute(&operation);
        let expected_status = expected.err().unwrap_or(Status::Ok);
        assert_eq!(status, expected_status, "{operation:?}");
        if let Ok(id) = expected {
            assert_eq!(inode, InodeId(id), "{operation:?}");
        }
    }

    /// Directories, links, removal, rename.
    fn plan_name(&mut self, path: &[u8]) -> Planned {
        match self.random.below(7) {
            0 => {
                let parents = self.random.below(2) == 0;
                let attributes = NewAttributes { mode: 0o700, ..NewAttributes::default() };
                let operation = Operation::MakeDirectory { place: Self::place(path), attributes, parents };
                (self.model.mkdir(path, parents), operation)
            }
            1 => {
                let mut target = self.path();
                match self.random.below(4) {
                    0 if !target.is_empty() => drop(target.remove(0)),
                    1 => target = [b"..".as_slice(), &target].concat(),
                    2 => target = b"..".to_vec(),
                    _ => {}
                }
                if target.is_empty() {
                    target = b"/".to_vec();
                }
                let replace = self.random.below(2) == 0;
                let attributes = NewAttributes { mode: 0o777, ..NewAttributes::default() };
                let operation = Operation::MakeSymlink {
                    place: Self::place(path),
                    target: target.clone(),
                    attributes,
                    replace,
                };
                (self.model.symlink(path, &target, replace), operation)
            }
            2 | 3 => {
                let kind = [RemoveKind::File, RemoveKind::Directory][self.random.below(2)];
                let precondition = Precondition::Any;
                let operation = Operation::Remove { place: Self::place(path), kind, precondition };
                (self.model.remove(path, kind), operation)
            }
            _ => {
                let to = self.path();
                let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = modes[self.random.below(3)];
                let operation =
                    Operation::Rename { source: Self::place(path), target: Self::place(&to), mode };
                (self.model.rename(path, &to, mode), operation)
            }
        }
    }

    /// Truncate, copy, attributes.
    fn plan_content(&mut self, path: &[u8]) -> Planned {
        match self.random.below(5) {
            0 => {
                let size = self.random.below(120);
                let operation = Operation::Truncate {
                    place: Self::place(path),
                    size: u64::try_from(size).unwrap(),
                    precondition: Precondition::Any,
                };
                let index = self.namespace.index().0 + 1;
                (self.model.truncate(path, size, index), operation)
            }
            1 | 2 => {
                let to = self.path();
                let whole = self.random.below(3) == 0;
                let range = (self.random.below(80), self.random.below(60), self.random.below(80));
                let operation = Operation::CopyRange(CopyRange {
                    source: Self::place(path),
                    source_version: Version(0),
                    source_offset: u64::try_from(range.0).unwrap(),
                    length: u64::try_from(range.1).unwrap(),
                    target: Self::place(&to),
                    target_offset: u64::try_from(range.2).unwrap(),
                    whole,
                    precondition: Precondition::Any,
                });
                let index = self.namespace.index().0 + 1;
                let range = (!whole).then_some(range);
                (self.model.copy(path, &to, range, index), operation)
            }
            3 => {
                let follow = self.random.below(2) == 0;
                let mode = u32::try_from(self.random.below(0o1000)).unwrap();
                let change = AttributeChange { mode: Some(mode), ..AttributeChange::default() };
                let operation = Operation::SetAttributes { place: Self::place(path), follow, change };
                (self.model.chmod(path, follow, mode), operation)
            }
            _ => {
                let name = vec![b'x'; 1 + self.random.below(2)];
                let value = vec![b'y'; self.random.below(40)];
                let place = Self::place(path);
                if self.random.below(2) == 0 {
                    let xattr = Xattr { name: name.clone(), value: value.clone() };
                    let operation = Operation::SetXattr { place, follow: true, xattr, mode: XattrMode::Any };
                    (self.model.set_xattr(path, &name, Some(&value)), operation)
                } else {
                    let operation = Operation::RemoveXattr { place, follow: true, name: name.clone() };
                    (self.model.set_xattr(path, &name, None), operation)
                }
            }
        }
    }

    fn commit(&mut self, path: &[u8]) {
        let start = if self.random.below(2) == 0 { 0 } else { self.random.next() % 60 };
        let kind = self.random.below(3);
        let mut extents = self.extents(if kind == 2 { 0 } else { start });
        let mut upload = 0;
        let whole = extents.clone();
        if extents.runs.len() > 1 && self.random.below(3) == 0 {
            self.upload += 1;
            upload = self.upload;
            let roots = usize::try_from(extents.runs[0].count).unwrap();
            let rest = Extents { runs: extents.runs.split_off(1), roots: extents.roots.split_off(roots) };
            let stage = Operation::Stage { upload, extents };
            assert_eq!(self.execute(&stage).0, Status::Ok);
            // Staged ids are used: no other commit or stage may name them (R23).
            assert_eq!(self.execute(&stage).0, Status::BadRequest);
            extents = rest;
        }
        let end = whole.runs.last().map_or(0, |run| run.file_offset + run.length);
        let change = match kind {
            0 => ContentChange::Replace { size: end + self.random.next() % 9 },
            1 => ContentChange::Write,
            _ => ContentChange::Append,
        };
        let precondition = match self.random.below(6) {
            0 => Precondition::Absent,
            1 => Precondition::Present,
            2 => Precondition::Version(Version(self.namespace.index().0 / 2)),
            _ => Precondition::Any,
        };
        let index = self.namespace.index().0 + 1;
        let expected = self.model.commit(path, change, &whole, precondition, index);
        let used = !extents.runs.is_empty();
        let operation = Operation::Commit(Commit {
            place: Self::place(path),
            change,
            extents,
            upload,
            attributes: None,
            precondition,
            map: MapNumber(1),
        });
        let (status, inode, _) = self.execute(&operation);
        assert_eq!(status, expected.err().unwrap_or(Status::Ok), "{operation:?}");
        if let Ok(id) = expected {
            assert_eq!(inode, InodeId(id));
            if used && precondition == Precondition::Any {
                // R23: each id in one commit only (or the first commit replaced a link that its own path went through).
                let again = self.execute(&operation).0;
                assert!(matches!(again, Status::BadRequest | Status::NotDirectory), "{again}");
            }
        }
    }

    /// R26: other chunks for bytes that are there; the layout alone tells.
    fn compact(&mut self, path: &[u8]) {
        let bytes = self.model.bytes_at(path).cloned();
        let extents = bytes.as_ref().map_or(Extents::default(), |bytes| self.extents_over(bytes));
        let before = self.attributes(path);
        let (version, layout) = before.map_or((Version(1), Layout(0)), |file| (file.version, file.layout));
        let (version, layout, expected) = match (self.random.below(6), &bytes) {
            (_, Err(status)) => (version, layout, *status),
            (0, _) => (version, Layout(layout.0 + 1), Status::VersionConflict),
            (1, _) => (Version(version.0 + 1), layout, Status::VersionConflict),
            (_, Ok(bytes)) => {
                let is_there = |run: &Run| {
                    let range = run.file_offset..run.file_offset + run.length;
                    range
                        .into_iter()
                        .all(|at| bytes.get(usize::try_from(at).unwrap()).is_some_and(Option::is_some))
                };
                let holds = !extents.runs.is_empty() && extents.runs.iter().all(is_there);
                (version, layout, if holds { Status::Ok } else { Status::BadRequest })
            }
        };
        let (place, map) = (Self::place(path), MapNumber(1));
        let compact = Compact { place, version, layout, extents: extents.clone(), map };
        let operation = Operation::Compact(compact);
        let (status, ..) = self.execute(&operation);
        assert_eq!(status, expected, "{operation:?}");
        if status == Status::Ok {
            self.model.compact(path, &extents);
            let after = self.attributes(path).unwrap();
            assert_eq!(after, Attributes { layout: Layout(layout.0 + 1), ..before.unwrap() });
        }
    }

    fn attributes(&self, path: &[u8]) -> Option<Attributes> {
        let lookup = Query::Lookup { place: Self::place(path), follow: true, xattrs: false, roots: 0 };
        match self.namespace.query(&lookup, 0) {
            Ok(Answer::Entry(entry)) => Some(entry.attributes),
            _ => None,
        }
    }

    /// New chunks for some or all of the bytes, and now and then for a byte that isn't there.
    fn extents_over(&mut self, bytes: &[Byte]) -> Extents {
        let (all, beyond) = (self.random.below(3) == 0, self.random.below(6) == 0);
        let mut extents = Extents::default();
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes[at..].iter().position(Option::is_none).map_or(bytes.len(), |length| at + length);
            if at < end {
                let low = if all { at } else { at + self.random.below(end - at) };
                let high = if all { end } else { low + 1 + self.random.below(end - low) };
                let length = u64::try_from(high - low + usize::from(beyond)).unwrap();
                let count = u32::try_from(length.div_ceil(16)).unwrap();
                let last_chunk_bytes = u32::try_from(length - u64::from(count - 1) * 16).unwrap();
                let first = ChunkId { session: SESSION, ordinal: self.ordinal };
                self.ordinal += u64::from(count);
                extents.roots.extend((0..u64::from(count)).map(|i| root(first.ordinal + i)));
                let file_offset = u64::try_from(low).unwrap();
                let chunk_bytes = 16;
                extents.runs.push(Run {
                    file_offset,
                    length,
                    first,
                    count,
                    chunk_bytes,
                    last_chunk_bytes,
                    skip: 0,
                });
            }
            at = end + 1;
        }
        extents
    }

    fn upkeep(&mut self, hold: bool) {
        self.time += i64::try_from(self.random.below(if hold { 40 } else { 200 })).unwrap();
        let rules = UpkeepRules {
            now: Timestamp(self.time),
            reclaim_delay: RECLAIM_DELAY,
            memory_short: !hold,
            log_short: false,
            hold_everything: false,
        };
        let mut plan = Vec::new();
        plan_upkeep(&self.namespace, &rules, |_| None, &mut plan);
        for mut change in plan {
            // Small steps, so that what one entry doesn't finish is gone on with.
            if let Change::Horizon { limit, .. } | Change::Reclaim { limit, .. } = &mut change {
                *limit = 1 + u32::try_from(self.random.below(7)).unwrap();
            }
            let moment = self.moment();
            self.apply(moment, vec![change]);
        }
        let rows: Vec<(ChunkId, u32)> =
            self.namespace.deleting_after(None).map(|(first, row)| (first, row.count)).collect();
        for (first, count) in rows {
            for ordinal in first.ordinal..first.ordinal + u64::from(count) {
                let id = ChunkId { session: first.session, ordinal };
                assert_eq!(self.namespace.chunk_state(id), ChunkState::Deleting);
                self.deleted.insert(id);
            }
            let moment = self.moment();
            self.apply(moment, vec![Change::Deleted { first, count }]);
        }
        assert_eq!(self.namespace.deleting_chunks(), 0);
    }

    /// R25: what was to be read less than the delay ago is, row by row: without retention the rows went at once, and with them the extents that a reader hadn't asked for yet.
    fn check_recent(&mut self) {
        let now = self.time;
        self.recent.retain(|(moment, _)| now - moment.time.0 < RECLAIM_DELAY.cast_signed());
        for (moment, model) in &self.recent {
            self.check_at(model, moment.index);
        }
    }

    fn check(&self) {
        self.namespace.audit().unwrap();
        assert!(self.follower == self.namespace);
        self.check_at(&self.model, NOW);
        let mut files = (0, 0, 0);
        for node in self.model.nodes.values() {
            if let Kind::File { bytes, .. } = &node.kind {
                files.0 += 1;
                files.1 += bytes.len();
                files.2 += bytes.iter().flatten().count();
                for (ordinal, _) in bytes.iter().flatten() {
                    let id = ChunkId { session: SESSION, ordinal: *ordinal };
                    assert_eq!(self.namespace.chunk_state(id), ChunkState::Referenced); // I9
                    assert!(!self.deleted.contains(&id)); // I10
                }
            }
        }
        let Ok(Answer::Usage(usage)) = self.namespace.query(&Query::Usage { volume: VOLUME }, 0) else {
            panic!()
        };
        let counted = (usage.files, usage.logical_bytes, usage.stored_bytes);
        let expected = (files.0, u64::try_from(files.1).unwrap(), u64::try_from(files.2).unwrap());
        assert_eq!(counted, expected);
    }

    /// The whole tree as of `at` is the model's.
    fn check_at(&self, model: &Model, at: CommitIndex) {
        let mut nodes = BTreeMap::new();
        self.collect(ROOT, ROOT, at, &mut nodes);
        for (id, node) in &nodes {
            assert_eq!(Some(node), model.nodes.get(id), "inode {id} at {at}");
        }
        assert_eq!(nodes.len(), model.nodes.len());
    }

    fn collect(&self, id: u64, parent: u64, at: CommitIndex, nodes: &mut BTreeMap<u64, Node>) {
        let place = Place { volume: VOLUME, directory: InodeId(id), path: Vec::new() };
        let lookup = Query::Lookup { place: place.clone(), follow: false, xattrs: true, roots: 3 };
        let Ok(Answer::Entry(entry)) = self.namespace.query_at(&lookup, 0, at) else { panic!("{id}") };
        let kind = match entry.attributes.kind {
            InodeKind::Symlink => Kind::Symlink(entry.target),
            InodeKind::File => {
                let bytes = self.bytes_of(&entry, at);
                Kind::File { bytes, version: entry.attributes.version.0 }
            }
            InodeKind::Directory => {
                let mut children = BTreeMap::new();
                let mut after = Vec::new();
                loop {
                    let limit = 2;
                    assert!(limit <= LIST_ENTRIES_MAX);
                    let list = Query::List { place: place.clone(), after, limit };
                    let Ok(Answer::List { entries, end, .. }) = self.namespace.query_at(&list, 0, at) else {
                        panic!()
                    };
                    after = entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
                    children.extend(entries.into_iter().map(|entry| (entry.name, entry.attributes.inode.0)));
                    if end {
                        break;
                    }
                }
                for child in children.values() {
                    self.collect(*child, id, at, nodes);
                }
                Kind::Directory(children)
            }
        };
        let xattrs = entry.xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
        let node = Node { kind, parent, mode: entry.attributes.mode, xattrs };
        assert!(nodes.insert(id, node).is_none(), "each inode has one name");
    }

    /// The file's bytes, read in pages of three roots.
    fn bytes_of(&self, entry: &wire::meta::Entry, at: CommitIndex) -> Vec<Option<(u64, u32)>> {
        let mut bytes = vec![None; usize::try_from(entry.attributes.size).unwrap()];
        let size = bytes.len();
        let mut page = entry.page.clone();
        loop {
            let mut roots = page.extents.roots.iter();
            for run in &page.extents.runs {
                for i in 0..run.count {
                    assert_eq!(*roots.next().unwrap(), root(run.first.ordinal + u64::from(i)));
                }
            }
            assert!(roots.next().is_none() && page.extents.roots.len() <= MESSAGE_ROOTS_MAX.min(3));
            Model::overlay(&mut bytes, &page.extents, 0);
            assert_eq!(bytes.len(), size, "an extent beyond the end");
            if page.end {
                break;
            }
            let last = page.extents.runs.last().expect("a page that isn't the last has a run");
            let attributes = &entry.attributes;
            let query = Query::ReadExtents {
                volume: VOLUME,
                inode: attributes.inode,
                version: attributes.version,
                layout: attributes.layout,
                offset: last.file_offset + last.length,
                roots: 3,
            };
            let Ok(Answer::Extents(next)) = self.namespace.query_at(&query, 0, at) else { panic!() };
            page = next;
        }
        let stored = u64::try_from(bytes.iter().flatten().count()).unwrap();
        assert_eq!(stored, entry.attributes.stored_bytes);
        bytes
    }

    fn check_checkpoint(&mut self) {
        let mut cursor = Cursor::default();
        let mut loader = Loader::default();
        loop {
            let mut page = Vec::new();
            let end = self.random.below(300);
            let done = self.namespace.write_checkpoint(&mut cursor, end, &mut page);
            let mut input = Input::new(&page);
            while !input.is_empty() {
                let tag = input.byte().unwrap();
                loader.row(tag, &mut input).unwrap();
            }
            if done {
                break;
            }
        }
        let loaded = loader.finish().unwrap();
        assert!(loaded == self.namespace);
        self.follower = loaded;
    }
}

fn root(ordinal: u64) -> u64 {
    ordinal.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x55
}

/// With retention: every kept index still reads as the model was then.
#[test]
fn the_past_reads_as_it_was() {
    for seed in 100..112 {
        let mut fuzz = Fuzz::new(seed, 1_000_000);
        for step in 0..400 {
            fuzz.step();
            if step % 40 == 0 {
                fuzz.past.push((fuzz.namespace.index(), fuzz.model.clone()));
            }
            if step % 97 == 0 {
                fuzz.upkeep(true);
            }
        }
        fuzz.check();
        for (index, model) in &fuzz.past {
            fuzz.check_at(model, *index);
        }
        assert!(fuzz.deleted.is_empty(), "retention holds everything");
        // Memory runs out: retention is given up (R17), and the past below the horizon refuses to be read (R16).
        for _ in 0..400 {
            fuzz.upkeep(false);
        }
        fuzz.check();
        let lookup = Query::Lookup { place: Fuzz::place(b""), follow: false, xattrs: false, roots: 0 };
        let gone = fuzz.namespace.query_at(&lookup, 0, CommitIndex(2));
        assert_eq!(gone.map_err(|failure| failure.status), Err(Status::IndexGone));
    }
}

/// Without retention: what nothing references goes, all of it and nothing else (I10, I12).
#[test]
pub(crate) fn the_tree_is_the_models() {
    let mut seen: BTreeMap<(String, Status), u64> = BTreeMap::new();
    let mut deleted = 0;
    for seed in 1..60 {
        let mut fuzz = Fuzz::new(seed, 0);
        for step in 0..600 {
            fuzz.step();
            if step % 3 == 0 {
                fuzz.recent.push((fuzz.namespace.moment(), fuzz.model.clone()));
            }
            match step % 50 {
                10 | 30 => {
                    fuzz.upkeep(true);
                    fuzz.check_recent();
                }
                20 => fuzz.check(),
                40 => fuzz.check_checkpoint(),
                _ => {}
            }
        }
        fuzz.check();
        let create = Operation::RemoveVolume { volume: VOLUME, recursive: true };
        assert_eq!(fuzz.execute(&create).0, Status::Ok);
        for _ in 0..1000 {
            fuzz.upkeep(true);
            fuzz.namespace.audit().unwrap();
        }
        // Nothing is left of the volume but the ids that the session used.
        assert!(fuzz.namespace.volumes.is_empty() && fuzz.namespace.references.spans.is_empty());
        assert!(fuzz.namespace.volume_memory == 0);
        assert!(fuzz.follower == fuzz.namespace);
        deleted += fuzz.deleted.len();
        fuzz.seen.into_iter().for_each(|(key, count)| *seen.entry(key).or_default() += count);
    }
    // The fuzz went where it should: each operation succeeded often, and each kind of refusal was met.
    assert!(deleted > 1000, "{deleted}");
    for name in [
        "Commit",
        "MakeDirectory",
        "MakeSymlink",
        "Truncate",
        "Remove",
        "Rename",
        "CopyRange",
        "SetXattr",
        "RemoveXattr",
        "SetAttributes",
        "Stage",
        "Compact",
    ] {
        let count = seen.get(&(name.to_string(), Status::Ok)).copied().unwrap_or(0);
        assert!(count >= 20, "{name}: {seen:?}");
    }
    for status in [
        Status::NotFound,
        Status::AlreadyExists,
        Status::VersionConflict,
        Status::BadRequest,
        Status::NotDirectory,
        Status::IsDirectory,
        Status::NotEmpty,
        Status::TooManyLinks,
        Status::Cycle,
    ] {
        assert!(seen.keys().any(|(_, there)| *there == status), "{status}: {seen:?}");
    }
}
