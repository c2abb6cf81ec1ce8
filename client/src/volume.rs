//! A volume: everything that is done to the files and directories in it, but their bytes.

use std::sync::Arc;
use std::time::Duration;

use wire::limits::{MESSAGE_ROOTS_MAX, PATH_BYTES_MAX};
use wire::meta::{
    Answer, AttributeChange, CopyRange, Entry, NewAttributes, Operation, Outcome, Place, Precondition, Query,
    RemoveKind, RenameMode, VolumeInfo, VolumeUsage, Xattr, XattrMode,
};
use wire::{CommitIndex, GroupId, InodeId, Version};

use crate::handle::Handle;
use crate::{
    CheckedReplica, DamagedChunk, Download, Error, Lister, Pending, ReadRange, StoredChunk, StoredChunks,
    Subject, Upload, UploadOptions, Verifier,
};

/// A volume, and a directory in it that paths begin at: the root, unless [`at`](Self::at) chose another.
///
/// Paths are bytes; `""` and `"/"` are the directory itself, leading and repeated slashes mean nothing, `..` is refused. Each operation on a path is
/// atomic at the server.
#[derive(Clone, Debug)]
pub struct Volume {
    handle: Handle,
    info: Arc<VolumeInfo>,
    directory: InodeId,
}

/// What a mutation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The inode made or changed.
    pub inode: InodeId,
    /// The file's version after it; 0 where that makes no sense.
    pub version: Version,
    /// The file's size after it.
    pub size: u64,
    /// An append: where the bytes begin in the file.
    pub offset: u64,
    /// Position in the group's log: an operation with a greater index happened later.
    pub index: CommitIndex,
}

impl From<Outcome> for Committed {
    fn from(outcome: Outcome) -> Self {
        Self {
            inode: outcome.inode,
            version: outcome.version,
            size: outcome.size,
            offset: outcome.offset,
            index: outcome.index,
        }
    }
}

impl Volume {
    pub(crate) fn new(handle: Handle, info: VolumeInfo) -> Self {
        Self { handle, info: Arc::new(info), directory: InodeId::ROOT }
    }

    /// Id, name and policy.
    pub fn info(&self) -> &VolumeInfo {
        &self.info
    }

    /// The same volume with paths that begin at `directory`: for walking a tree without resolving its path again and again, and without
    /// being led elsewhere by a rename. The empty path names `directory` itself, whatever it is.
    #[must_use]
    pub fn at(&self, directory: InodeId) -> Self {
        Self { directory, ..self.clone() }
    }

    /// The same volume with another deadline of requests.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { handle: self.handle.with_deadline(deadline), ..self.clone() }
    }

    /// What is at `path`, without extended attributes. `follow`: a symbolic link at the path itself is followed.
    pub fn stat(&self, path: &[u8], follow: bool) -> Pending<Entry> {
        self.lookup(path, follow, false, 0)
    }

    /// What is at `path`, with extended attributes.
    pub fn stat_with_xattrs(&self, path: &[u8], follow: bool) -> Pending<Entry> {
        self.lookup(path, follow, true, 0)
    }

    /// The directory at `path`, in pages, in order of the names' bytes. The first page is there when this is done.
    pub fn list(&self, path: &[u8]) -> Pending<Lister> {
        let (volume, path) = (self.clone(), path.to_owned());
        Pending::start(async move { Lister::open(volume, &path).await })
    }

    /// Counts and bytes of the whole volume.
    pub fn usage(&self) -> Pending<VolumeUsage> {
        let volume = self.clone();
        Pending::start(async move {
            let what = Subject::Volume(volume.info.name.clone());
            let query = Query::Usage { volume: volume.info.volume };
            match volume.handle.query(volume.group(), query, &what).await? {
                Answer::Usage(usage) => Ok(usage),
                _ => Err(volume.handle.protocol_error(what)),
            }
        })
    }

    /// Begins to write a file: [`Upload`] takes the bytes, [`Upload::finish`] makes them visible.
    ///
    /// [`Error::TooLarge`] where the path, or the size hint in chunks of the volume, is over its limit.
    pub fn upload(&self, path: &[u8], options: UploadOptions) -> Result<Upload, Error> {
        Upload::new(self.clone(), path, options)
    }

    /// Begins to read the file at `path` (links are followed). One version is seen from the first byte to the last.
    pub fn download(&self, path: &[u8], range: ReadRange) -> Pending<Download> {
        let lookup = self.lookup(path, true, false, FIRST_PAGE_ROOTS);
        let (volume, what) = (self.clone(), self.subject(path));
        Pending::start(async move { Download::open(volume, what, lookup.await?, range) })
    }

    /// Begins to read the version that `entry` describes. It fails with [`Error::Replaced`] where that version is gone.
    pub fn download_entry(&self, entry: &Entry, range: ReadRange) -> Result<Download, Error> {
        Download::open(self.clone(), self.at(entry.attributes.inode).subject(b""), entry.clone(), range)
    }

    /// The chunks of the version that `entry` describes, with their checksums and without their bytes: to compare local bytes with
    /// ([`StoredChunk::matches`](crate::StoredChunk::matches)).
    pub fn stored_chunks(&self, entry: &Entry) -> StoredChunks {
        StoredChunks::new(self.clone(), entry.clone())
    }

    /// Reads every chunk of the version that `entry` describes from every replica, and yields those that are missing or damaged.
    pub fn verify_file(&self, entry: &Entry) -> Verifier {
        Verifier::new(self.clone(), entry.clone())
    }

    /// Reads one chunk from every replica; returns what is wrong with it, where. A chunk of a version that is gone may be
    /// missing rightly: [`verify_file`](Self::verify_file) looks.
    pub fn verify_chunk(&self, chunk: &StoredChunk) -> Pending<Vec<DamagedChunk>> {
        Pending::start(crate::stored::verify_chunk(self.clone(), *chunk))
    }

    /// Reads one chunk from every serving replica, all at once, and says of each what came of it: for showing where a chunk lies. At most
    /// 8 replicas' chunks are held at once.
    pub fn check_chunk(&self, chunk: &StoredChunk) -> Pending<Vec<CheckedReplica>> {
        Pending::start(crate::stored::check_chunk(self.clone(), *chunk))
    }

    /// Makes a directory. `parents`: missing parents are made too, and a directory that exists already is no error.
    pub fn mkdir(&self, path: &[u8], attributes: NewAttributes, parents: bool) -> Pending<Committed> {
        let place = self.place(path);
        self.mutate(path, place.map(|place| Operation::MakeDirectory { place, attributes, parents }))
    }

    /// Makes a symbolic link at `path` that holds `target`, which is not looked at. `replace`: a file or link that is there is
    /// replaced, atomically.
    pub fn symlink(
        &self,
        target: &[u8],
        path: &[u8],
        attributes: NewAttributes,
        replace: bool,
    ) -> Pending<Committed> {
        let target = target.to_owned();
        let place = self.place(path);
        self.mutate(path, place.map(|place| Operation::MakeSymlink { place, target, attributes, replace }))
    }

    /// Moves a name inside the volume, atomically.
    pub fn rename(&self, from: &[u8], to: &[u8], mode: RenameMode) -> Pending<Committed> {
        self.rename_into(from, self, to, mode)
    }

    /// Moves a name to a path that begins at another directory handle of the same volume. Between volumes: [`Error::Unsupported`].
    pub fn rename_into(&self, from: &[u8], target: &Self, to: &[u8], mode: RenameMode) -> Pending<Committed> {
        if target.info.volume != self.info.volume {
            return Pending::ready(Err(Error::Unsupported { what: target.subject(to) }));
        }
        let places = self.place(from).and_then(|source| Ok((source, target.place(to)?)));
        self.mutate(from, places.map(|(source, target)| Operation::Rename { source, target, mode }))
    }

    /// Removes one name: of a file or link, or of an empty directory.
    pub fn remove(&self, path: &[u8], kind: RemoveKind, precondition: Precondition) -> Pending<Committed> {
        let place = self.place(path);
        self.mutate(path, place.map(|place| Operation::Remove { place, kind, precondition }))
    }

    /// Changes mode, owner or time.
    pub fn set_attributes(&self, path: &[u8], follow: bool, change: AttributeChange) -> Pending<Committed> {
        let place = self.place(path);
        self.mutate(path, place.map(|place| Operation::SetAttributes { place, follow, change }))
    }

    /// Cuts a file, or extends it by a hole.
    pub fn truncate(&self, path: &[u8], size: u64, precondition: Precondition) -> Pending<Committed> {
        let place = self.place(path);
        self.mutate(path, place.map(|place| Operation::Truncate { place, size, precondition }))
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, path: &[u8], follow: bool, xattr: Xattr, mode: XattrMode) -> Pending<Committed> {
        let place = self.place(path);
        self.mutate(path, place.map(|place| Operation::SetXattr { place, follow, xattr, mode }))
    }

    /// Removes an extended attribute. [`Error::NotFound`] where it is absent.
    pub fn remove_xattr(&self, path: &[u8], follow: bool, name: &[u8]) -> Pending<Committed> {
        let name = name.to_owned();
        let place = self.place(path);
        self.mutate(path, place.map(|place| Operation::RemoveXattr { place, follow, name }))
    }

    /// Makes `to` a copy of the file `from`, with its attributes and extended attributes: extents are copied, not bytes.
    pub fn copy(&self, from: &[u8], to: &[u8], precondition: Precondition) -> Pending<Committed> {
        let places = self.place(from).and_then(|source| Ok((source, self.place(to)?)));
        self.copy_range(
            from,
            places.map(|(source, target)| CopyRange {
                source,
                source_version: Version::default(),
                source_offset: 0,
                length: u64::MAX,
                target,
                target_offset: 0,
                whole: true,
                precondition,
            }),
        )
    }

    /// Copies `length` bytes (`u64::MAX`: to the end) of `from` into `to`, which is made where it is absent: extents, not bytes.
    pub fn copy_bytes(
        &self,
        from: &[u8],
        source_offset: u64,
        length: u64,
        to: &[u8],
        target_offset: u64,
    ) -> Pending<Committed> {
        let places = self.place(from).and_then(|source| Ok((source, self.place(to)?)));
        self.copy_range(
            from,
            places.map(|(source, target)| CopyRange {
                source,
                source_version: Version::default(),
                source_offset,
                length,
                target,
                target_offset,
                whole: false,
                precondition: Precondition::Any,
            }),
        )
    }

    fn copy_range(&self, from: &[u8], copy: Result<CopyRange, Error>) -> Pending<Committed> {
        self.mutate(from, copy.map(Operation::CopyRange))
    }

    fn mutate(&self, path: &[u8], operation: Result<Operation, Error>) -> Pending<Committed> {
        let operation = match operation {
            Ok(operation) => operation,
            Err(error) => return Pending::ready(Err(error)),
        };
        let (volume, what) = (self.clone(), self.subject(path));
        Pending::start(async move {
            volume.handle.mutate(volume.group(), None, operation, &what).await.map(Into::into)
        })
    }

    pub(crate) fn lookup(&self, path: &[u8], follow: bool, xattrs: bool, roots: u32) -> Pending<Entry> {
        let place = match self.place(path) {
            Ok(place) => place,
            Err(error) => return Pending::ready(Err(error)),
        };
        let (volume, what) = (self.clone(), self.subject(path));
        Pending::start(async move {
            let query = Query::Lookup { place, follow, xattrs, roots };
            match volume.handle.query(volume.group(), query, &what).await? {
                Answer::Entry(entry) => Ok(*entry),
                _ => Err(volume.handle.protocol_error(what)),
            }
        })
    }

    /// The place that `path` names from this handle's directory.
    pub(crate) fn place(&self, path: &[u8]) -> Result<Place, Error> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::TooLarge { what: self.subject(path) });
        }
        Ok(Place { volume: self.info.volume, directory: self.directory, path: path.to_owned() })
    }

    /// What an error about `path` names.
    pub(crate) fn subject(&self, path: &[u8]) -> Subject {
        Subject::Path { volume: self.info.name.clone(), directory: self.directory, path: path.to_owned() }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The metadata group of this volume (R27).
    pub(crate) fn group(&self) -> GroupId {
        self.info.group
    }
}

/// Roots asked for with the lookup that begins a read: enough for 256 MiB at the default chunk size, in 2 KiB.
const FIRST_PAGE_ROOTS: u32 = 256;
const _: () = assert!(FIRST_PAGE_ROOTS as usize <= MESSAGE_ROOTS_MAX);
