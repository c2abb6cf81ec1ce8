//! The naive model of a volume for the fuzz tests: a tree of plain maps, files as one identity for each byte.
//!
//! Written from the contract in `wire::meta`, not from the implementation: it resolves paths by recursion and copies whole vectors.

use std::collections::BTreeMap;

use wire::Status;
use wire::meta::{Change, Extents, Precondition, RemoveKind, RenameMode};

/// Where a byte comes from: a chunk's ordinal and the offset in it; `None` in a hole.
pub(crate) type Byte = Option<(u64, u32)>;
pub(crate) type NodeId = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File { bytes: Vec<Byte>, version: u64 },
    Directory(BTreeMap<Vec<u8>, NodeId>),
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) parent: NodeId,
    pub(crate) mode: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) next: NodeId,
}

/// A place: its parent and name (none for the root), and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) slot: Option<(NodeId, Vec<u8>)>,
    pub(crate) node: Option<NodeId>,
}

pub(crate) const ROOT: NodeId = 1;
type Done = Result<NodeId, Status>;

impl Model {
    pub(crate) fn new() -> Self {
        let root = Node {
            kind: Kind::Directory(BTreeMap::new()),
            parent: ROOT,
            mode: 0o755,
            xattrs: BTreeMap::new(),
        };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: 2 }
    }

    /// Bytes of a file after these extents were put at `shift` into `bytes`.
    pub(crate) fn overlay(bytes: &mut Vec<Byte>, extents: &Extents, shift: u64) {
        for run in &extents.runs {
            for byte in 0..run.length {
                let at = usize::try_from(run.file_offset + shift + byte).unwrap();
                let in_run = u64::from(run.skip) + byte;
                let chunk = (in_run / u64::from(run.chunk_bytes)).min(u64::from(run.count - 1));
                let offset = u32::try_from(in_run - chunk * u64::from(run.chunk_bytes)).unwrap();
                if bytes.len() <= at {
                    bytes.resize(at + 1, None);
                }
                bytes[at] = Some((run.first.ordinal + chunk, offset));
            }
        }
    }

    pub(crate) fn find(&self, path: &[u8], follow: bool) -> Result<Spot, Status> {
        let mut hops = 0;
        self.walk(ROOT, path, follow, false, &mut hops)
    }

    fn walk(
        &self,
        start: NodeId,
        path: &[u8],
        follow: bool,
        link: bool,
        hops: &mut u32,
    ) -> Result<Spot, Status> {
        let parts: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if !link && parts.contains(&&b".."[..]) {
            return Err(Status::BadRequest);
        }
        let mut here = Spot { slot: None, node: Some(start) };
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let at = here.node.ok_or(Status::NotFound)?;
            let Kind::Directory(entries) = &self.nodes[&at].kind else { return Err(Status::NotDirectory) };
            if *part == b".." {
                here = Spot { slot: None, node: Some(self.nodes[&at].parent) };
                continue;
            }
            let slot = Some((at, part.to_vec()));
            let Some(&child) = entries.get(*part) else {
                if last {
                    return Ok(Spot { slot, node: None });
                }
                return Err(Status::NotFound);
            };
            here = Spot { slot, node: Some(child) };
            if let Kind::Symlink(target) = &self.nodes[&child].kind
                && (!last || follow)
            {
                *hops += 1;
                if *hops > 40 {
                    return Err(Status::TooManyLinks);
                }
                let from = if target.first() == Some(&b'/') { ROOT } else { at };
                here = self.walk(from, target, true, true, hops)?;
            }
        }
        Ok(here)
    }

    fn entries(&mut self, directory: NodeId) -> &mut BTreeMap<Vec<u8>, NodeId> {
        match &mut self.nodes.get_mut(&directory).unwrap().kind {
            Kind::Directory(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    fn make(&mut self, slot: (NodeId, Vec<u8>), kind: Kind, mode: u32) -> NodeId {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node { kind, parent: slot.0, mode, xattrs: BTreeMap::new() });
        self.entries(slot.0).insert(slot.1, id);
        id
    }

    fn unlink(&mut self, slot: &(NodeId, Vec<u8>)) {
        let id = self.entries(slot.0).remove(&slot.1).unwrap();
        self.nodes.remove(&id);
    }

    fn check(&self, precondition: Precondition, spot: &Spot) -> Result<(), Status> {
        let version = spot.node.map(|id| match &self.nodes[&id].kind {
            Kind::File { version, .. } => *version,
            _ => 0,
        });
        match (precondition, version) {
            (Precondition::Absent, Some(_)) => Err(Status::AlreadyExists),
            (Precondition::Present | Precondition::Version(_), None) => Err(Status::NotFound),
            (Precondition::Version(wanted), Some(there)) if there != wanted.0 || there == 0 => {
                Err(Status::VersionConflict)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn mkdir(&mut self, path: &[u8], parents: bool) -> Done {
        if parents {
            return self.mkdir_all(path);
        }
        let spot = self.find(path, false)?;
        if spot.node.is_some() {
            return Err(Status::AlreadyExists);
        }
        Ok(self.make(spot.slot.unwrap(), Kind::Directory(BTreeMap::new()), 0o700))
    }

    fn mkdir_all(&mut self, path: &[u8]) -> Done {
        let parts: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        let before = self.clone();
        let mut prefix: Vec<u8> = Vec::new();
        let mut last = ROOT;
        for (i, part) in parts.iter().enumerate() {
            prefix.push(b'/');
            prefix.extend_from_slice(part);
            let spot = match self.find(&prefix, true) {
                Ok(spot) => spot,
                Err(status) => {
                    *self = before;
                    return Err(status);
                }
            };
            last = match spot.node {
                Some(id) if matches!(self.nodes[&id].kind, Kind::Directory(_)) => id,
                Some(_) => {
                    *self = before;
                    let at_end = i + 1 == parts.len();
                    return Err(if at_end { Status::AlreadyExists } else { Status::NotDirectory });
                }
                None => {
                    let slot = spot.slot.unwrap();
                    // Through a dangling link only the very last component is made, as an open would.
                    let dangling =
                        self.find(&prefix, false).unwrap() != (Spot { slot: Some(slot.clone()), node: None });
                    if dangling && i + 1 != parts.len() {
                        *self = before;
                        return Err(Status::NotFound);
                    }
                    self.make(slot, Kind::Directory(BTreeMap::new()), 0o700)
                }
            };
        }
        Ok(last)
    }

    pub(crate) fn symlink(&mut self, path: &[u8], target: &[u8], replace: bool) -> Done {
        let spot = self.find(path, false)?;
        if let Some(id) = spot.node {
            if !replace {
                return Err(Status::AlreadyExists);
            }
            if matches!(self.nodes[&id].kind, Kind::Directory(_)) {
                return Err(Status::IsDirectory);
            }
            self.unlink(spot.slot.as_ref().unwrap());
        }
        Ok(self.make(spot.slot.unwrap(), Kind::Symlink(target.to_vec()), 0o777))
    }

    /// `index` is the version that the commit makes.
    pub(crate) fn commit(
        &mut self,
        path: &[u8],
        change: Change,
        extents: &Extents,
        precondition: Precondition,
        index: u64,
    ) -> Done {
        let spot = self.find(path, !matches!(change, Change::Replace { .. }))?;
        self.check(precondition, &spot)?;
        let mut present = spot.node;
        if let Some(id) = present {
            match self.nodes[&id].kind {
                Kind::Directory(_) => return Err(Status::IsDirectory),
                Kind::Symlink(_) => {
                    self.unlink(spot.slot.as_ref().unwrap());
                    present = None;
                }
                Kind::File { .. } => {}
            }
        }
        let empty = Kind::File { bytes: Vec::new(), version: 0 };
        let id = present.unwrap_or_else(|| self.make(spot.slot.unwrap(), empty, 0o644));
        let Kind::File { bytes, version } = &mut self.nodes.get_mut(&id).unwrap().kind else {
            unreachable!()
        };
        *version = index;
        match change {
            Change::Replace { size } => {
                bytes.clear();
                Self::overlay(bytes, extents, 0);
                bytes.resize(usize::try_from(size).unwrap(), None);
            }
            Change::Write => Self::overlay(bytes, extents, 0),
            Change::Append => {
                let shift = u64::try_from(bytes.len()).unwrap();
                Self::overlay(bytes, extents, shift);
            }
        }
        Ok(id)
    }

    /// The bytes of the file at the path.
    pub(crate) fn bytes_at(&self, path: &[u8]) -> Result<&Vec<Byte>, Status> {
        self.file(self.find(path, true)?.node.ok_or(Status::NotFound)?)
    }

    /// The bytes at the path get other identities, and nothing else changes.
    pub(crate) fn compact(&mut self, path: &[u8], extents: &Extents) {
        let id = self.find(path, true).unwrap().node.unwrap();
        let Kind::File { bytes, .. } = &mut self.nodes.get_mut(&id).unwrap().kind else { unreachable!() };
        let size = bytes.len();
        Self::overlay(bytes, extents, 0);
        assert_eq!(bytes.len(), size, "a compaction beyond the end");
    }

    fn file(&self, id: NodeId) -> Result<&Vec<Byte>, Status> {
        match &self.nodes[&id].kind {
            Kind::File { bytes, .. } => Ok(bytes),
            Kind::Directory(_) => Err(Status::IsDirectory),
            Kind::Symlink(_) => Err(Status::BadRequest),
        }
    }

    pub(crate) fn truncate(&mut self, path: &[u8], size: usize, index: u64) -> Done {
        let id = self.find(path, true)?.node.ok_or(Status::NotFound)?;
        self.file(id)?;
        let Kind::File { bytes, version } = &mut self.nodes.get_mut(&id).unwrap().kind else {
            unreachable!()
        };
        bytes.resize(size, None);
        *version = index;
        Ok(id)
    }

    pub(crate) fn remove(&mut self, path: &[u8], kind: RemoveKind) -> Done {
        let spot = self.find(path, false)?;
        let id = spot.node.ok_or(Status::NotFound)?;
        match (kind, &self.nodes[&id].kind) {
            (RemoveKind::File, Kind::Directory(_)) => return Err(Status::IsDirectory),
            (RemoveKind::Directory, Kind::Directory(entries)) if !entries.is_empty() => {
                return Err(Status::NotEmpty);
            }
            (RemoveKind::Directory, Kind::File { .. } | Kind::Symlink(_)) => {
                return Err(Status::NotDirectory);
            }
            _ => {}
        }
        self.unlink(&spot.slot.ok_or(Status::BadRequest)?);
        Ok(id)
    }

    fn is_within(&self, mut directory: NodeId, ancestor: NodeId) -> bool {
        while directory != ancestor {
            if directory == ROOT {
                return false;
            }
            directory = self.nodes[&directory].parent;
        }
        true
    }

    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8], mode: RenameMode) -> Done {
        let source = self.find(from, false)?;
        let id = source.node.ok_or(Status::NotFound)?;
        let source = source.slot.ok_or(Status::BadRequest)?;
        let spot = self.find(to, false)?;
        let target = spot.slot.ok_or(Status::BadRequest)?;
        if source == target {
            return if mode == RenameMode::NoReplace { Err(Status::AlreadyExists) } else { Ok(id) };
        }
        let is_directory = |model: &Self, id: NodeId| matches!(model.nodes[&id].kind, Kind::Directory(_));
        if is_directory(self, id) && self.is_within(target.0, id) {
            return Err(Status::Cycle);
        }
        match (spot.node, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Status::AlreadyExists),
            (None, RenameMode::Exchange) => return Err(Status::NotFound),
            (None, _) => {}
            (Some(other), RenameMode::Replace) => {
                match (&self.nodes[&other].kind, is_directory(self, id)) {
                    (Kind::Directory(_), false) => return Err(Status::IsDirectory),
                    (Kind::Directory(entries), true) if !entries.is_empty() => return Err(Status::NotEmpty),
                    (Kind::File { .. } | Kind::Symlink(_), true) => return Err(Status::NotDirectory),
                    _ => {}
                }
                self.unlink(&target);
            }
            (Some(other), RenameMode::Exchange) => {
                if is_directory(self, other) && self.is_within(source.0, other) {
                    return Err(Status::Cycle);
                }
                self.nodes.get_mut(&other).unwrap().parent = source.0;
                self.nodes.get_mut(&id).unwrap().parent = target.0;
                self.entries(source.0).insert(source.1, other);
                self.entries(target.0).insert(target.1, id);
                return Ok(id);
            }
        }
        self.entries(source.0).remove(&source.1);
        self.entries(target.0).insert(target.1, id);
        self.nodes.get_mut(&id).unwrap().parent = target.0;
        Ok(id)
    }

    /// `range`: source offset, length, target offset; `None`: the whole file.
    pub(crate) fn copy(
        &mut self,
        from: &[u8],
        to: &[u8],
        range: Option<(usize, usize, usize)>,
        index: u64,
    ) -> Done {
        let source = self.find(from, true)?.node.ok_or(Status::NotFound)?;
        let bytes = self.file(source)?.clone();
        let spot = self.find(to, true)?;
        if let Some(id) = spot.node {
            self.file(id)?;
        }
        let made = spot.node.is_none();
        let empty = Kind::File { bytes: Vec::new(), version: index };
        let id = spot.node.unwrap_or_else(|| self.make(spot.slot.unwrap(), empty, 0o644));
        let Node { mode, xattrs, .. } = self.nodes[&source].clone();
        let node = self.nodes.get_mut(&id).unwrap();
        let Kind::File { bytes: target, version } = &mut node.kind else { unreachable!() };
        match range {
            None if id == source => {}
            None => {
                *target = bytes;
                *version = index;
                node.mode = mode;
                node.xattrs = xattrs;
            }
            Some((start, length, offset)) => {
                let start = start.min(bytes.len());
                let length = length.min(bytes.len() - start);
                if length > 0 {
                    if target.len() < offset + length {
                        target.resize(offset + length, None);
                    }
                    target[offset..offset + length].copy_from_slice(&bytes[start..start + length]);
                    *version = index;
                } else if made {
                    *version = index;
                }
            }
        }
        Ok(id)
    }

    pub(crate) fn chmod(&mut self, path: &[u8], follow: bool, mode: u32) -> Done {
        let id = self.find(path, follow)?.node.ok_or(Status::NotFound)?;
        self.nodes.get_mut(&id).unwrap().mode = mode;
        Ok(id)
    }

    pub(crate) fn set_xattr(&mut self, path: &[u8], name: &[u8], value: Option<&[u8]>) -> Done {
        let id = self.find(path, true)?.node.ok_or(Status::NotFound)?;
        let xattrs = &mut self.nodes.get_mut(&id).unwrap().xattrs;
        match value {
            Some(value) => drop(xattrs.insert(name.to_vec(), value.to_vec())),
            None => drop(xattrs.remove(name).ok_or(Status::NotFound)?),
        }
        Ok(id)
    }
}
