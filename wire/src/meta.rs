//! What clients ask of a metadata group, and what it answers: plain values, encoded by [`crate::message`].
//!
//! A *mutation* carries `(session, sequence, acked_upto)` and takes effect at most once (I7); a *query* reads at one commit index.
//! Places are resolved by the group, in log order, so that an operation on a path is atomic.

use crate::{
    ChunkId, CommitIndex, GroupId, InodeId, Layout, MapNumber, Sequence, SessionId, Status, Timestamp,
    Version, VolumeId,
};

/// A place in a volume: a path from a directory. An empty path is the directory itself. Components are separated by `/`;
/// empty components and `.` are skipped, `..` is refused. Symbolic links on the way are followed: a relative target from the link's directory, an
/// absolute one from the volume's root; `..` inside a link's target goes up, never above the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The volume.
    pub volume: VolumeId,
    /// Where the path begins; [`InodeId::ROOT`] for a whole path.
    pub directory: InodeId,
    /// At most [`PATH_BYTES_MAX`](crate::limits::PATH_BYTES_MAX) bytes.
    pub path: Vec<u8>,
}

/// A volume's policy, chosen when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VolumePolicy {
    /// Power of two, [`CHUNK_BYTES_MIN`](crate::limits::CHUNK_BYTES_MIN) to [`CHUNK_BYTES_MAX`](crate::limits::CHUNK_BYTES_MAX).
    pub chunk_bytes: u32,
    /// How long removed versions are kept, in seconds; 0: not at all (the cluster's `reclaim_delay` alone holds their chunks).
    pub retention_seconds: u64,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum InodeKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
}

/// An inode as `stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Its number.
    pub inode: InodeId,
    /// What it is.
    pub kind: InodeKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group of the owner.
    pub gid: u32,
    /// Bytes of a file or of a link's target; entries of a directory.
    pub size: u64,
    /// Bytes of the file's extents: `size` less its holes.
    pub stored_bytes: u64,
    /// Last change of content, set by clients.
    pub modified: Timestamp,
    /// Last change of anything, set by the group.
    pub changed: Timestamp,
    /// When it was made.
    pub created: Timestamp,
    /// A file's version; 0 for others.
    pub version: Version,
    /// Of the version's extent list.
    pub layout: Layout,
    /// Number of extended attributes.
    pub xattr_count: u32,
}

/// Attributes of something new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NewAttributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group of the owner.
    pub gid: u32,
    /// `None`: the group's time at execution.
    pub modified: Option<Timestamp>,
    /// Extended attributes, each name once; they replace whatever a replaced file had.
    pub xattrs: Vec<Xattr>,
}

/// One extended attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xattr {
    /// 1 to 255 bytes without NUL.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// Changes to attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AttributeChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group of the owner.
    pub gid: Option<u32>,
    /// Last change of content.
    pub modified: Option<Timestamp>,
}

/// A run of chunks with consecutive ids that hold consecutive bytes of a file (R37).
///
/// Chunk `i` of `count` has id `first + i` and is `chunk_bytes` long, the last one `last_chunk_bytes`. The run covers
/// `[file_offset, file_offset + length)`; its first byte is byte `skip` of chunk 0 (an overwrite may have cut the front off).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Where the run begins in the file.
    pub file_offset: u64,
    /// Bytes of the file that it covers, > 0.
    pub length: u64,
    /// Id of its first chunk.
    pub first: ChunkId,
    /// Chunks, > 0.
    pub count: u32,
    /// Length of each chunk but the last.
    pub chunk_bytes: u32,
    /// Length of the last chunk.
    pub last_chunk_bytes: u32,
    /// Bytes of chunk 0 before the run's first byte.
    pub skip: u32,
}

/// Runs in order of `file_offset`, without overlap, and the root of each of their chunks in order. Gaps are holes and read as zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extents {
    /// The runs.
    pub runs: Vec<Run>,
    /// One root for each chunk of each run, in order.
    pub roots: Vec<u64>,
}

/// A condition on what is at the place when the operation executes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// None.
    #[default]
    Any,
    /// Nothing is there; else `AlreadyExists`.
    Absent,
    /// Something is there; else `NotFound`.
    Present,
    /// A file of this version is there; else `VersionConflict` (or `NotFound`).
    Version(Version),
}

/// What a commit does with the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The file becomes exactly the extents, `size` bytes long (a hole after the last extent is possible). Makes the file where it is absent.
    Replace {
        /// The file's new size.
        size: u64,
    },
    /// The extents overwrite what they cover and extend the file where they go beyond its end. Makes the file where it is absent.
    Write,
    /// The extents, which begin at file offset 0, are put behind the file's end. Makes the file where it is absent.
    Append,
}

/// A new state of one file, atomically.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// Where; a symbolic link at the place itself is followed for `Write` and `Append`, replaced by `Replace`.
    pub place: Place,
    /// What it does.
    pub change: Change,
    /// New chunks of the request's own session only, each id in one commit only (R23).
    pub extents: Extents,
    /// Extents staged before under this number come before `extents`; 0: none (R37).
    pub upload: u64,
    /// Attributes of a file that is made or replaced; `None` keeps a replaced file's, and gives a new one mode 0644.
    pub attributes: Option<NewAttributes>,
    /// Condition on what is there.
    pub precondition: Precondition,
    /// Lowest number of the cluster map under which one of the chunks was acked (R8).
    pub map: MapNumber,
}

/// Copies extents, not bytes, inside one volume; resolved by the group in log order (R23).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CopyRange {
    /// The source file.
    pub source: Place,
    /// Its version must still be this; 0: whatever it is.
    pub source_version: Version,
    /// First byte of the source.
    pub source_offset: u64,
    /// Bytes; `u64::MAX`: to the end.
    pub length: u64,
    /// The target file; made where it is absent.
    pub target: Place,
    /// First byte in the target; ignored when `whole`.
    pub target_offset: u64,
    /// The target becomes a copy of the whole source, replaced atomically, its attributes and xattrs with it.
    pub whole: bool,
    /// Condition on the target.
    pub precondition: Precondition,
}

/// New chunks for bytes that a file has already: fewer, larger extents (R26). The version stays, its layout rises by one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compact {
    /// The file; links are followed.
    pub place: Place,
    /// It must be of this version, else `VersionConflict`.
    pub version: Version,
    /// And in this layout, else `VersionConflict`.
    pub layout: Layout,
    /// New chunks of the request's own session only, each id in one commit only (R23). Where they lie the file has bytes and no hole, and they hold the
    /// same bytes: the group doesn't see that, who sends them must have read them.
    pub extents: Extents,
    /// Lowest number of the cluster map under which one of the chunks was acked (R8).
    pub map: MapNumber,
}

/// What a removal expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemoveKind {
    /// A file or symbolic link; `IsDirectory` else.
    File,
    /// An empty directory; `NotDirectory` or `NotEmpty` else.
    Directory,
}

/// What a rename does with something at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RenameMode {
    /// Replaces it as POSIX says: file over file, directory over empty directory.
    Replace,
    /// `AlreadyExists`.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// What setting an extended attribute expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XattrMode {
    /// Either.
    Any,
    /// The attribute is new; `AlreadyExists` else.
    Create,
    /// The attribute is there; `NotFound` else.
    Replace,
}

/// A mutating operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Makes a volume. Result: its id in `volume`.
    CreateVolume {
        /// `[a-z0-9][a-z0-9-]{0,62}`.
        name: String,
        /// Its policy.
        policy: VolumePolicy,
    },
    /// Removes a volume with everything in it.
    RemoveVolume {
        /// Which.
        volume: VolumeId,
        /// Else `NotEmpty` for one with entries.
        recursive: bool,
    },
    /// Makes a directory.
    MakeDirectory {
        /// Where.
        place: Place,
        /// Its attributes.
        attributes: NewAttributes,
        /// Missing parents are made too, and a directory that exists already is `Ok`.
        parents: bool,
    },
    /// Makes a symbolic link.
    MakeSymlink {
        /// Where.
        place: Place,
        /// 1 to 4,095 bytes without NUL, never interpreted when stored.
        target: Vec<u8>,
        /// Its attributes.
        attributes: NewAttributes,
        /// A file or link at the place is replaced atomically; else `AlreadyExists`.
        replace: bool,
    },
    /// Puts extents into a file.
    Commit(Commit),
    /// Cuts or extends a file (a hole).
    Truncate {
        /// The file; links are followed.
        place: Place,
        /// Its new size.
        size: u64,
        /// Condition on what is there.
        precondition: Precondition,
    },
    /// Removes one name and what it names.
    Remove {
        /// Which; a link at the place itself is removed, not followed.
        place: Place,
        /// What it expects.
        kind: RemoveKind,
        /// Condition on what is there.
        precondition: Precondition,
    },
    /// Moves a name inside its volume, atomically.
    Rename {
        /// From.
        source: Place,
        /// To; the same volume, else `Unsupported`.
        target: Place,
        /// What happens to something at `target`.
        mode: RenameMode,
    },
    /// Changes attributes.
    SetAttributes {
        /// Of what.
        place: Place,
        /// Whether a link at the place itself is followed.
        follow: bool,
        /// The changes.
        change: AttributeChange,
    },
    /// Sets an extended attribute.
    SetXattr {
        /// Of what.
        place: Place,
        /// Whether a link at the place itself is followed.
        follow: bool,
        /// The attribute.
        xattr: Xattr,
        /// What is expected.
        mode: XattrMode,
    },
    /// Removes an extended attribute; `NotFound` where it is absent.
    RemoveXattr {
        /// Of what.
        place: Place,
        /// Whether a link at the place itself is followed.
        follow: bool,
        /// Its name.
        name: Vec<u8>,
    },
    /// Copies extents.
    CopyRange(CopyRange),
    /// Puts fewer, larger extents in the place of a file's many small ones.
    Compact(Compact),
    /// Keeps extents of a file too large for one message until its `Commit` names the upload (R37).
    Stage {
        /// Chosen by the client, unique in its session, not 0.
        upload: u64,
        /// The next extents of the upload, in order.
        extents: Extents,
    },
}

/// A mutation: an operation, to be executed exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mutation {
    /// The caller's session.
    pub session: SessionId,
    /// Its number in the session; a retry has the same.
    pub sequence: Sequence,
    /// The caller has the results of all sequences ≤ this; they may be forgotten (R17).
    pub acked_upto: Sequence,
    /// What to do.
    pub operation: Operation,
}

/// A mutation's recorded result, at most 64 bytes (R17). Fields that make no sense for the operation are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// `Ok`, or why nothing happened.
    pub status: Status,
    /// For `NotFound`, `NotDirectory` and the like: how many components of the path were resolved.
    pub depth: u16,
    /// The commit index of the mutation's log entry.
    pub index: CommitIndex,
    /// The inode made or changed.
    pub inode: InodeId,
    /// The file's version after it; with `VersionConflict` the version that is there.
    pub version: Version,
    /// `CreateVolume`: the volume.
    pub volume: VolumeId,
    /// `Append`: where the bytes begin in the file.
    pub offset: u64,
    /// The file's size after it.
    pub size: u64,
}

impl Outcome {
    /// What the entry at `index` says with its status alone: every other field is 0.
    pub fn of_status(status: Status, index: CommitIndex) -> Self {
        Self {
            status,
            depth: 0,
            index,
            inode: InodeId(0),
            version: Version(0),
            volume: VolumeId(0),
            offset: 0,
            size: 0,
        }
    }
}

/// A read of the namespace; answered at one commit index (I8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// A volume by its name.
    Volume {
        /// Its name.
        name: String,
    },
    /// Volumes in order of their names.
    ListVolumes {
        /// Names after this one.
        after: String,
        /// At most this many, ≤ [`LIST_ENTRIES_MAX`](crate::limits::LIST_ENTRIES_MAX).
        limit: u32,
    },
    /// What is at a place, with the first page of its extents.
    Lookup {
        /// Where.
        place: Place,
        /// Whether a link at the place itself is followed.
        follow: bool,
        /// Whether extended attributes are wanted.
        xattrs: bool,
        /// Roots wanted, ≤ [`MESSAGE_ROOTS_MAX`](crate::limits::MESSAGE_ROOTS_MAX); 0: no extents.
        roots: u32,
    },
    /// A page of one version's extents; `VersionConflict` when the version is gone.
    ReadExtents {
        /// The volume.
        volume: VolumeId,
        /// The file.
        inode: InodeId,
        /// Its version.
        version: Version,
        /// The layout on which the caller's position rests; another one: `VersionConflict`.
        layout: Layout,
        /// Extents that end after this offset.
        offset: u64,
        /// Roots wanted, ≤ [`MESSAGE_ROOTS_MAX`](crate::limits::MESSAGE_ROOTS_MAX).
        roots: u32,
    },
    /// A page of a directory in order of names' bytes.
    List {
        /// The directory.
        place: Place,
        /// Names after this one; empty: from the beginning.
        after: Vec<u8>,
        /// At most this many, ≤ [`LIST_ENTRIES_MAX`](crate::limits::LIST_ENTRIES_MAX).
        limit: u32,
    },
    /// Counts and bytes of a volume.
    Usage {
        /// Which.
        volume: VolumeId,
    },
    /// State of the group.
    GroupStatus,
    /// What the group knows of chunks, as their authority (R27): stores ask it before they drop or spread what only they hold (R2).
    ChunkStates {
        /// 1 to [`MESSAGE_CHUNKS_MAX`](crate::limits::MESSAGE_CHUNKS_MAX).
        ids: Vec<ChunkId>,
    },
}

/// What a group says of one of its chunk ids. `Dead` is for ever (R23); the other two may have passed by the time they are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkState {
    /// Reclaimed, or never committed and its session closed: whoever holds it frees it.
    Dead,
    /// Not committed, and its session may still do so.
    Open,
    /// Something references it, or may still be read (R25).
    Live {
        /// Its root, where the group can tell it without a search.
        root: Option<u64>,
    },
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeInfo {
    /// Its id.
    pub volume: VolumeId,
    /// The metadata group that it lies in, for ever (R27).
    pub group: GroupId,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: VolumePolicy,
    /// When it was made.
    pub created: Timestamp,
}

/// A page of extents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExtentPage {
    /// The extents.
    pub extents: Extents,
    /// Whether none follow. The next page begins where this one's last run ends.
    pub end: bool,
}

/// What is at a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its attributes.
    pub attributes: Attributes,
    /// A link's target.
    pub target: Vec<u8>,
    /// Its extended attributes, where they were asked for.
    pub xattrs: Vec<Xattr>,
    /// First page of its extents, where it was asked for.
    pub page: ExtentPage,
    /// Read at this index.
    pub index: CommitIndex,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListEntry {
    /// 1 to 255 bytes.
    pub name: Vec<u8>,
    /// What it names.
    pub attributes: Attributes,
    /// A link's target.
    pub target: Vec<u8>,
}

/// Counts and bytes of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VolumeUsage {
    /// Files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Sum of the files' sizes.
    pub logical_bytes: u64,
    /// Sum of the files' extents.
    pub stored_bytes: u64,
    /// Chunks that a version references.
    pub chunks: u64,
    /// Bytes of chunks that nothing references any more.
    pub reclaimable_bytes: u64,
    /// When the first of them is freed; 0: none.
    pub reclaimable_from: Timestamp,
}

/// State of a group's replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupState {
    /// Last committed index.
    pub committed: CommitIndex,
    /// Index of the last durable checkpoint.
    pub checkpoint: CommitIndex,
    /// Open sessions.
    pub sessions: u64,
    /// Inodes of all volumes.
    pub inodes: u64,
    /// Memory in use, and the budget (R17).
    pub memory_bytes: u64,
    /// The budget.
    pub memory_budget_bytes: u64,
    /// Bytes of log since the last checkpoint.
    pub log_bytes: u64,
    /// Chunks reclaimed whose deletion isn't acknowledged yet.
    pub deleting_chunks: u64,
    /// Chunks in the stores whose session this log never opened: it is older than they are.
    pub unopened_chunks: u64,
    /// Whether the log has no space for what adds something.
    pub log_full: bool,
    /// Whether the memory budget has none (R17).
    pub memory_full: bool,
}

/// An answer to a query, when its status is `Ok`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To `Volume`.
    Volume(VolumeInfo),
    /// To `ListVolumes`; `true`: none follow.
    Volumes(Vec<VolumeInfo>, bool),
    /// To `Lookup`.
    Entry(Box<Entry>),
    /// To `ReadExtents`.
    Extents(ExtentPage),
    /// To `List`; `end`: none follow.
    List {
        /// The directory.
        directory: Attributes,
        /// The entries.
        entries: Vec<ListEntry>,
        /// Whether none follow.
        end: bool,
        /// Read at this index.
        index: CommitIndex,
    },
    /// To `Usage`.
    Usage(VolumeUsage),
    /// To `GroupStatus`.
    GroupStatus(GroupState),
    /// To `ChunkStates`: one for each id, in the query's order.
    ChunkStates(Vec<ChunkState>),
}

/// Why a request was refused, beside the status of its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// With `Busy`: try again after this many milliseconds.
    pub retry_after_ms: u32,
    /// How many components of the path were resolved.
    pub depth: u16,
    /// With `VersionConflict`: the version that is there.
    pub version: Version,
}

/// An open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionGrant {
    /// Its id.
    pub session: SessionId,
    /// It expires when nothing is heard of it for so long.
    pub ttl_ms: u32,
    /// Send a `KeepAlive` at least this often.
    pub keepalive_ms: u32,
}

/// A version that a long read holds (R25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    /// The volume.
    pub volume: VolumeId,
    /// The file.
    pub inode: InodeId,
    /// The version.
    pub version: Version,
}
