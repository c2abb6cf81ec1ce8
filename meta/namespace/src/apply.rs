//! Applying changes: the same steps on the head and at replay, always in log order, never dependent on anything but the state.

use std::sync::Arc;

use thiserror::Error;
use wire::meta::VolumeUsage;
use wire::planted::{Bug, planted};
use wire::{ChunkId, CommitIndex, GroupId, InodeId, Layout, SessionId, Timestamp, Version, VolumeId};

use crate::change::{Change, Made, Slot, Target};
use crate::inode::{Content, Inode};
use crate::namespace::Namespace;
use crate::volume::{Entry, Expired, OldInode, Sign, Volume};

/// When an entry was made: its place in the log, and the head's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The entry's index.
    pub index: CommitIndex,
    /// The head's timestamp, above every earlier entry's (R16).
    pub time: Timestamp,
}

/// Why a change can't be applied. On the head that is a programmer error; at replay the log and the checkpoint don't belong together, and
/// the replica refuses to start (R29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// No such volume.
    #[error("volume {0} doesn't exist")]
    Volume(VolumeId),
    /// The volume's id, or its name, is taken.
    #[error("volume {0} exists already, or its name does")]
    VolumeExists(VolumeId),
    /// No such inode, or not of the kind the change needs.
    #[error("inode {1} of volume {0} is missing or of another kind")]
    Inode(VolumeId, InodeId),
    /// The entry is missing, or there already.
    #[error("an entry of directory {1} of volume {0} is missing or there already")]
    Entry(VolumeId, InodeId),
    /// The chunk isn't referenced as the change needs.
    #[error("chunk {0} isn't referenced as the change needs")]
    Chunk(ChunkId),
    /// Ids used twice by a session (R23).
    #[error("session {0} used a chunk id twice")]
    IdsUsed(SessionId),
    /// Nothing is staged under this upload.
    #[error("session {0} staged no upload {1}")]
    Upload(SessionId, u64),
    /// A size beyond the limits.
    #[error("a file of volume {0} would be over the limits")]
    Size(VolumeId),
    /// The entry isn't the next one.
    #[error("entry {0} doesn't follow entry {1}")]
    Order(CommitIndex, CommitIndex),
}

impl Namespace {
    /// Applies an entry's changes. The entry must be the next one.
    pub fn apply(&mut self, moment: Moment, changes: Vec<Change>) -> Result<(), ApplyError> {
        if moment.index.0 != self.moment.index.0 + 1 || moment.time <= self.moment.time {
            return Err(ApplyError::Order(moment.index, self.moment.index));
        }
        self.moment = moment;
        for change in changes {
            self.apply_one(moment, change)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, moment: Moment, change: Change) -> Result<(), ApplyError> {
        match change {
            Change::CreateVolume { volume, group, name, policy, owner } => {
                self.create_volume(moment, (volume, group), name, policy)?;
                let root = Target { volume, inode: InodeId::ROOT };
                let made = Made::Directory(InodeId::ROOT);
                self.make_inode(moment, root, made, Inode { owner, ..fresh(moment) })
            }
            Change::RemoveVolume { volume } => self.remove_volume(volume),
            Change::Drain { volume, limit } => self.drain(moment, volume, limit),
            Change::MakeInode { target, made, owner, modified } => {
                self.make_inode(moment, target, made, Inode { modified, owner, ..fresh(moment) })
            }
            Change::EndInode { target } => self.end_inode(moment, target),
            Change::Link { slot, inode } => self.link(moment, slot, inode),
            Change::Unlink { slot } => self.unlink(moment, slot),
            Change::Reparent { target, parent } => self.change_inode(moment, target, |inode| {
                if let Content::Directory { parent: at, .. } = &mut inode.content {
                    *at = parent;
                }
            }),
            Change::SetAttributes { target, owner, modified } => self.change_inode(moment, target, |inode| {
                inode.owner = owner;
                inode.modified = modified;
            }),
            Change::SetXattrs { target, xattrs } => self.change_inode(moment, target, |inode| {
                inode.xattrs = if xattrs.is_empty() || planted(Bug::NamespaceDropsXattrs) {
                    None
                } else {
                    Some(Arc::new(xattrs))
                };
            }),
            Change::SetXattr { target, name, value } => self.set_xattr(moment, target, name, value),
            Change::Replace { .. }
            | Change::Write { .. }
            | Change::Truncate { .. }
            | Change::CopyWhole { .. }
            | Change::CopyRange { .. }
            | Change::Compact { .. }
            | Change::Stage { .. } => self.apply_content(moment, change),
            Change::EndSession { session } => {
                self.uploads.end_session(session);
                Ok(())
            }
            Change::Horizon { volume, upto, limit } => self.move_horizon(moment, volume, upto, limit),
            Change::Reclaim { volume, upto, limit } => self.reclaim(volume, upto, limit),
            Change::Deleted { first, count } => {
                self.deleted(first, count);
                Ok(())
            }
        }
    }

    fn create_volume(
        &mut self,
        moment: Moment,
        (id, group): (VolumeId, GroupId),
        name: String,
        policy: wire::meta::VolumePolicy,
    ) -> Result<(), ApplyError> {
        if id != self.next_volume || self.names.contains(&name) {
            return Err(ApplyError::VolumeExists(id));
        }
        self.next_volume = VolumeId(id.0 + 1); // never reused (R27)
        self.names.insert(name.clone(), id);
        let volume = Volume::new(name, group, policy, moment.time);
        self.volume_memory += volume.memory_bytes();
        self.volumes.insert(id, volume);
        Ok(())
    }

    fn remove_volume(&mut self, id: VolumeId) -> Result<(), ApplyError> {
        let name = self.with_volume(id, |volume, _| {
            volume.summary.removed = true;
            volume.summary.usage = VolumeUsage {
                chunks: volume.summary.usage.chunks,
                reclaimable_bytes: volume.summary.usage.reclaimable_bytes,
                ..VolumeUsage::default()
            };
            Ok(volume.name.clone())
        })?;
        self.names.remove(&name);
        Ok(())
    }

    fn make_inode(
        &mut self,
        _moment: Moment,
        target: Target,
        made: Made,
        mut inode: Inode,
    ) -> Result<(), ApplyError> {
        inode.content = match made {
            Made::File => Content::Empty,
            Made::Directory(parent) => Content::Directory { parent, entries: 0 },
            Made::Symlink(target) => Content::Symlink(target.into()),
        };
        if inode.kind() == wire::meta::InodeKind::File {
            inode.version = Version(inode.from.0);
        }
        self.with_volume(target.volume, |volume, _| {
            if target.inode != volume.summary.next_inode {
                return Err(ApplyError::Inode(target.volume, target.inode));
            }
            volume.summary.next_inode = InodeId(target.inode.0 + 1);
            volume.count(&inode, Sign::Plus);
            volume.add_heap(inode.heap_bytes());
            volume.inodes.insert(target.inode, inode);
            Ok(())
        })
    }

    fn end_inode(&mut self, moment: Moment, target: Target) -> Result<(), ApplyError> {
        self.with_volume(target.volume, |volume, _| {
            let missing = ApplyError::Inode(target.volume, target.inode);
            let inode = volume.inodes.remove(&target.inode).ok_or(missing)?;
            volume.count(&inode, Sign::Minus);
            volume.ended_bytes += inode.stored_bytes();
            volume.old_inodes.insert((target.inode, moment.index), OldInode { inode, owns: true });
            volume.expire(moment.index, moment.time, Expired::Inode(target.inode));
            Ok(())
        })
    }

    fn link(&mut self, moment: Moment, slot: Slot, inode: InodeId) -> Result<(), ApplyError> {
        self.with_volume(slot.volume, |volume, _| {
            touch_directory(volume, moment, &slot, Sign::Plus)?;
            volume.add_heap(slot.name.heap_bytes());
            let entry = Entry { inode, from: moment.index };
            match volume.entries.insert((slot.directory, slot.name), entry) {
                None => Ok(()),
                Some(_) => Err(ApplyError::Entry(slot.volume, slot.directory)),
            }
        })
    }

    fn unlink(&mut self, moment: Moment, slot: Slot) -> Result<(), ApplyError> {
        self.with_volume(slot.volume, |volume, _| {
            touch_directory(volume, moment, &slot, Sign::Minus)?;
            let key = (slot.directory, slot.name);
            let missing = ApplyError::Entry(slot.volume, slot.directory);
            let entry = volume.entries.remove(&key).ok_or(missing)?;
            let (directory, name) = key;
            volume.old_entries.insert((directory, name.clone(), moment.index), entry);
            volume.expire(moment.index, moment.time, Expired::Entry(directory, name));
            Ok(())
        })
    }

    fn set_xattr(
        &mut self,
        moment: Moment,
        target: Target,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
    ) -> Result<(), ApplyError> {
        self.change_inode(moment, target, |inode| {
            let mut xattrs = inode.xattrs().to_vec();
            xattrs.retain(|xattr| xattr.name != name);
            if let Some(value) = value {
                xattrs.push(wire::meta::Xattr { name, value });
                xattrs.sort_by(|a, b| a.name.cmp(&b.name));
            }
            inode.xattrs = if xattrs.is_empty() { None } else { Some(Arc::new(xattrs)) };
        })
    }

    /// Ends the inode's present state, and begins the one that `change` makes of it.
    pub(crate) fn change_inode(
        &mut self,
        moment: Moment,
        target: Target,
        change: impl FnOnce(&mut Inode),
    ) -> Result<(), ApplyError> {
        self.with_volume(target.volume, |volume, _| {
            end_state(volume, moment, target, false)?;
            let missing = ApplyError::Inode(target.volume, target.inode);
            let inode = volume.inodes.get_mut(&target.inode).ok_or(missing)?;
            let before = inode.heap_bytes();
            change(inode);
            inode.from = moment.index;
            inode.changed = moment.time;
            let after = inode.heap_bytes();
            volume.drop_heap(before);
            volume.add_heap(after);
            Ok(())
        })
    }

    /// Runs `with` on a volume and the references, keeping count of the memory.
    pub(crate) fn with_volume<T>(
        &mut self,
        id: VolumeId,
        with: impl FnOnce(&mut Volume, &mut crate::references::References) -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        let volume = self.volumes.get_mut(&id).ok_or(ApplyError::Volume(id))?;
        let before = volume.memory_bytes();
        let result = with(volume, &mut self.references);
        self.volume_memory = self.volume_memory + volume.memory_bytes() - before;
        result
    }
}

/// Keeps the state that an inode has before `moment` as an old row; `owns` hands the content's references to it.
pub(crate) fn end_state(
    volume: &mut Volume,
    moment: Moment,
    target: Target,
    owns: bool,
) -> Result<(), ApplyError> {
    let live = volume.inodes.get(&target.inode);
    let inode = live.ok_or(ApplyError::Inode(target.volume, target.inode))?.clone();
    if inode.from == moment.index && !owns {
        return Ok(()); // made or changed by this very entry: nobody can have seen it
    }
    volume.add_heap(inode.heap_bytes());
    volume.ended_bytes += if owns { inode.stored_bytes() } else { 0 };
    volume.old_inodes.insert((target.inode, moment.index), OldInode { inode, owns });
    volume.expire(moment.index, moment.time, Expired::Inode(target.inode));
    Ok(())
}

fn touch_directory(volume: &mut Volume, moment: Moment, slot: &Slot, sign: Sign) -> Result<(), ApplyError> {
    let missing = ApplyError::Inode(slot.volume, slot.directory);
    let directory = volume.inodes.get_mut(&slot.directory).ok_or(missing)?;
    let Content::Directory { entries, .. } = &mut directory.content else { return Err(missing) };
    sign.apply(entries, 1);
    directory.modified = moment.time;
    directory.changed = moment.time;
    Ok(())
}

fn fresh(moment: Moment) -> Inode {
    Inode {
        from: moment.index,
        size: 0,
        version: Version(0),
        modified: moment.time,
        changed: moment.time,
        created: moment.time,
        content: Content::Empty,
        xattrs: None,
        layout: Layout(0),
        owner: crate::inode::Owner::default(),
    }
}

/// The time of an entry made now, after one made at `last` (R16).
pub fn next_time(last: Timestamp, now: Timestamp) -> Timestamp {
    now.max(Timestamp(last.0.saturating_add(1)))
}
