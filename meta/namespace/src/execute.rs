//! Executing an operation: decides what it does from the state as it is, and plans the changes; applies nothing (R14).
//!
//! Split by what is operated on: `files.rs` contents, `names.rs` directories, removal and rename, `attributes.rs` attributes. Whatever the
//! caller did wrong is a [`Failure`], and becomes an entry that holds only its result.

use wire::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use wire::meta::{Operation, Outcome, Place, Precondition};
use wire::{CommitIndex, InodeId, SessionId, Status, Timestamp, Version, VolumeId};

use crate::apply::Moment;
use crate::change::{Change, Slot, Target};
use crate::inode::{Inode, Owner, mode_bits};
use crate::losses::Losses;
use crate::name::is_volume_name;
use crate::namespace::Namespace;
use crate::path::{Failure, Found};
use crate::volume::NOW;

mod attributes;
mod files;
mod names;

/// Volumes of one group, removed ones included until they are drained.
pub const VOLUMES_MAX: usize = 65_536;

/// Who executes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The entry that the operation will be.
    pub moment: Moment,
    /// The request's session.
    pub session: SessionId,
    /// Memory is nearly used up: only what frees some is executed (R17).
    pub memory_full: bool,
    /// Chunks that an operator gave up (R8).
    pub losses: &'a Losses,
}

/// An operation's result and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The result to be recorded.
    pub outcome: Outcome,
    /// What the entry does; nothing where the outcome isn't `Ok`.
    pub changes: Vec<Change>,
}

/// What an operation plans: its changes, and what its outcome says.
#[derive(Debug, Default)]
struct Plan {
    changes: Vec<Change>,
    inode: InodeId,
    version: Version,
    volume: VolumeId,
    offset: u64,
    size: u64,
}

/// Part of an operation that has what it needs at hand.
struct Execution<'a> {
    namespace: &'a Namespace,
    context: Context<'a>,
}

impl Namespace {
    /// Plans `operation`. The caller logs the result, and applies the changes as entry `context.moment`.
    pub fn execute(&self, operation: &Operation, context: Context<'_>) -> Executed {
        let execution = Execution { namespace: self, context };
        let planned = if context.memory_full && !frees_space(operation) {
            Err(Failure::from(Status::NoSpace)) // R17
        } else {
            execution.plan(operation)
        };
        let mut outcome = Outcome::of_status(Status::Ok, context.moment.index);
        match planned {
            Ok(plan) => {
                outcome.inode = plan.inode;
                outcome.version = plan.version;
                outcome.volume = plan.volume;
                outcome.offset = plan.offset;
                outcome.size = plan.size;
                Executed { outcome, changes: plan.changes }
            }
            Err(failure) => {
                outcome.status = failure.status;
                outcome.depth = failure.depth;
                outcome.version = failure.version;
                outcome.inode = failure.inode;
                Executed { outcome, changes: Vec::new() }
            }
        }
    }
}

/// Whether the operation is executed even when memory, or the log, is nearly used up (R17).
pub fn frees_space(operation: &Operation) -> bool {
    match operation {
        Operation::Remove { .. } | Operation::RemoveVolume { .. } | Operation::RemoveXattr { .. } => true,
        Operation::Truncate { size, .. } => *size == 0,
        _ => false,
    }
}

impl<'a> Execution<'a> {
    fn plan(&self, operation: &Operation) -> Result<Plan, Failure> {
        match operation {
            Operation::CreateVolume { name, policy } => {
                let size = policy.chunk_bytes;
                let valid = is_volume_name(name)
                    && size.is_power_of_two()
                    && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&size);
                if !valid {
                    return Err(Status::BadRequest.into());
                }
                if self.namespace.names.contains(name) {
                    return Err(Status::AlreadyExists.into());
                }
                if self.namespace.volumes.len() >= VOLUMES_MAX {
                    return Err(Status::QuotaExceeded.into());
                }
                let volume = self.namespace.next_volume;
                let owner = Owner { mode: 0o755, uid: 0, gid: 0 };
                let group = self.context.session.group();
                let create =
                    Change::CreateVolume { volume, group, name: name.clone(), policy: *policy, owner };
                Ok(Plan { changes: vec![create], volume, inode: InodeId::ROOT, ..Plan::default() })
            }
            Operation::RemoveVolume { volume, recursive } => {
                let found = self.namespace.volume(*volume).ok_or(Failure::from(Status::NotFound))?;
                if !recursive && !found.entries.is_empty() {
                    return Err(Status::NotEmpty.into());
                }
                let changes = vec![Change::RemoveVolume { volume: *volume }];
                Ok(Plan { changes, volume: *volume, ..Plan::default() })
            }
            Operation::MakeDirectory { place, attributes, parents } => {
                self.make_directory(place, attributes, *parents)
            }
            Operation::MakeSymlink { place, target, attributes, replace } => {
                self.make_symlink(place, target, attributes, *replace)
            }
            Operation::Commit(commit) => self.commit(commit),
            Operation::Truncate { place, size, precondition } => self.truncate(place, *size, *precondition),
            Operation::Remove { place, kind, precondition } => self.remove(place, *kind, *precondition),
            Operation::Rename { source, target, mode } => self.rename(source, target, *mode),
            Operation::SetAttributes { place, follow, change } => self.set_attributes(place, *follow, change),
            Operation::SetXattr { place, follow, xattr, mode } => {
                self.set_xattr(place, *follow, xattr, *mode)
            }
            Operation::RemoveXattr { place, follow, name } => self.remove_xattr(place, *follow, name),
            Operation::CopyRange(copy) => self.copy_range(copy),
            Operation::Compact(compact) => self.compact(compact),
            Operation::Stage { upload, extents } => self.stage(*upload, extents),
        }
    }

    fn find(&self, place: &Place, follow: bool) -> Result<Found<'a>, Failure> {
        self.namespace.find(place, follow, NOW)
    }

    fn index(&self) -> CommitIndex {
        self.context.moment.index
    }

    fn now(&self) -> Timestamp {
        self.context.moment.time
    }

    /// The version that a content has after this entry.
    fn version(&self) -> Version {
        Version(self.index().0)
    }
}

/// Whether what is at the place is what the caller expects.
fn check_precondition(precondition: Precondition, found: &Found<'_>) -> Result<(), Failure> {
    match (precondition, found.inode) {
        (Precondition::Any, _) | (Precondition::Absent, None) | (Precondition::Present, Some(_)) => Ok(()),
        (Precondition::Absent, Some((_, inode))) => {
            Err(Failure { version: inode.version, ..found.failure(Status::AlreadyExists) })
        }
        (Precondition::Present | Precondition::Version(_), None) => Err(found.failure(Status::NotFound)),
        (Precondition::Version(version), Some((_, inode))) => {
            if inode.version == version && version != Version(0) {
                Ok(())
            } else {
                Err(Failure { version: inode.version, ..found.failure(Status::VersionConflict) })
            }
        }
    }
}

/// The inode as a file, `IsDirectory` or `BadRequest` else.
fn as_file<'a>(found: &Found<'a>, inode: &'a Inode) -> Result<&'a Inode, Failure> {
    match inode.kind() {
        wire::meta::InodeKind::File => Ok(inode),
        wire::meta::InodeKind::Directory => Err(found.failure(Status::IsDirectory)),
        wire::meta::InodeKind::Symlink => Err(found.failure(Status::BadRequest)),
    }
}

fn slot(volume: VolumeId, (directory, name): (InodeId, crate::name::Name)) -> Slot {
    Slot { volume, directory, name }
}

fn target(volume: VolumeId, inode: InodeId) -> Target {
    Target { volume, inode }
}

fn owner_of(attributes: &wire::meta::NewAttributes) -> Owner {
    Owner { mode: mode_bits(attributes.mode), uid: attributes.uid, gid: attributes.gid }
}
