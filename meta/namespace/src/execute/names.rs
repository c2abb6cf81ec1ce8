//! Names: directories, symbolic links, removal, rename.

use wire::limits::SYMLINK_BYTES_MAX;
use wire::meta::{NewAttributes, Place, Precondition, RemoveKind, RenameMode};
use wire::planted::{Bug, planted};
use wire::{InodeId, Status};

use super::attributes::{check_xattrs, sorted};
use super::{Execution, Plan, check_precondition, owner_of, slot, target};
use crate::change::{Change, Made};
use crate::inode::{Content, Inode};
use crate::name::Name;
use crate::path::{Failure, Found};
use crate::volume::Volume;

impl Execution<'_> {
    pub(super) fn make_directory(
        &self,
        place: &Place,
        attributes: &NewAttributes,
        parents: bool,
    ) -> Result<Plan, Failure> {
        check_xattrs(&attributes.xattrs)?;
        let found = match self.find(place, parents) {
            Err(failure) if parents && failure.status == Status::NotFound => {
                return self.make_parents(place, attributes);
            }
            found => found?,
        };
        if let Some((id, inode)) = found.inode {
            if parents && inode.is_directory() {
                return Ok(Plan { inode: id, ..Plan::default() });
            }
            return Err(found.failure(Status::AlreadyExists));
        }
        let mut plan = Plan { inode: found.volume.summary.next_inode, ..Plan::default() };
        let (directory, name) = found.slot()?;
        push_directory(&mut plan, place, directory, name, attributes, self.now());
        Ok(plan)
    }

    /// Some of the place's parents are missing: walks down as far as there is something, and makes the rest.
    fn make_parents(&self, place: &Place, attributes: &NewAttributes) -> Result<Plan, Failure> {
        let components: Vec<&[u8]> = place
            .path
            .split(|byte| *byte == b'/')
            .filter(|component| !matches!(*component, b"" | b"."))
            .collect();
        // As `mkdir -p` has it, what the caller says of the directory doesn't hold for those above it. Their xattrs would
        // multiply, too: a short path has thousands of components, and an entry has a limit.
        let plain = NewAttributes { xattrs: Vec::new(), ..attributes.clone() };
        let count = components.len();
        let of = |number: usize| if number + 1 == count { attributes } else { &plain };
        let mut directory = place.directory;
        let mut plan = Plan::default();
        let mut left = (0..).zip(&components);
        for (number, component) in left.by_ref() {
            let next = Place { volume: place.volume, directory, path: component.to_vec() };
            let found = self.find(&next, true)?;
            if let Some((id, inode)) = found.inode {
                if !inode.is_directory() {
                    return Err(found.failure(Status::NotDirectory));
                }
                directory = id;
                continue;
            }
            // A dangling link is found under its target's name: nothing is made through it.
            let (at, name) = found.slot()?;
            if at != directory || name.bytes() != *component {
                return Err(found.failure(Status::NotFound));
            }
            plan.inode = found.volume.summary.next_inode;
            push_directory(&mut plan, place, directory, name, of(number), self.now());
            break;
        }
        for (number, component) in left {
            let directory = plan.inode;
            plan.inode = InodeId(directory.0 + 1);
            let name = Name::new(component)?;
            push_directory(&mut plan, place, directory, name, of(number), self.now());
        }
        Ok(plan)
    }

    pub(super) fn make_symlink(
        &self,
        place: &Place,
        link_target: &[u8],
        attributes: &NewAttributes,
        replace: bool,
    ) -> Result<Plan, Failure> {
        check_xattrs(&attributes.xattrs)?;
        if link_target.is_empty() || link_target.contains(&0) {
            return Err(Status::BadRequest.into());
        }
        if link_target.len() > SYMLINK_BYTES_MAX {
            return Err(Status::TooLarge.into());
        }
        let found = self.find(place, false)?;
        let mut plan = Plan::default();
        if let Some((id, inode)) = found.inode {
            if !replace {
                return Err(found.failure(Status::AlreadyExists));
            }
            if inode.is_directory() {
                return Err(found.failure(Status::IsDirectory));
            }
            self.unlink(place, &found, id, &mut plan)?;
        }
        plan.inode = found.volume.summary.next_inode;
        plan.size = u64::try_from(link_target.len()).expect("at most 4,095");
        let made = Made::Symlink(link_target.to_vec());
        push_inode(&mut plan, place, made, attributes, self.now());
        plan.changes.push(Change::Link { slot: slot(place.volume, found.slot()?), inode: plan.inode });
        Ok(plan)
    }

    pub(super) fn remove(
        &self,
        place: &Place,
        kind: RemoveKind,
        precondition: Precondition,
    ) -> Result<Plan, Failure> {
        let found = self.find(place, false)?;
        check_precondition(precondition, &found)?;
        let (id, inode) = found.present()?;
        match (kind, &inode.content) {
            (RemoveKind::File, Content::Directory { .. }) => return Err(found.failure(Status::IsDirectory)),
            (RemoveKind::Directory, Content::Directory { entries: 1.., .. }) => {
                return Err(found.failure(Status::NotEmpty));
            }
            (RemoveKind::File, _) | (RemoveKind::Directory, Content::Directory { .. }) => {}
            (RemoveKind::Directory, _) => return Err(found.failure(Status::NotDirectory)),
        }
        let mut plan = Plan { inode: id, version: inode.version, ..Plan::default() };
        self.unlink(place, &found, id, &mut plan)?;
        Ok(plan)
    }

    /// Plans the end of an entry and of what it names.
    #[expect(clippy::unused_self, reason = "reads as the other steps of the execution do")]
    pub(super) fn unlink(
        &self,
        place: &Place,
        found: &Found<'_>,
        inode: InodeId,
        plan: &mut Plan,
    ) -> Result<(), Failure> {
        plan.changes.push(Change::Unlink { slot: slot(place.volume, found.slot()?) });
        plan.changes.push(Change::EndInode { target: target(place.volume, inode) });
        Ok(())
    }

    pub(super) fn rename(&self, source: &Place, to: &Place, mode: RenameMode) -> Result<Plan, Failure> {
        if source.volume != to.volume {
            return Err(Status::Unsupported.into()); // R27
        }
        let from = self.find(source, false)?;
        let (id, inode) = from.present()?;
        let from_slot = from.slot()?;
        let found = self.find(to, false)?;
        let to_slot = found.slot()?;
        let mut plan = Plan { inode: id, version: inode.version, size: inode.size, ..Plan::default() };
        if from_slot == to_slot {
            return match mode {
                RenameMode::NoReplace => Err(found.failure(Status::AlreadyExists)),
                _ => Ok(plan),
            };
        }
        if inode.is_directory() && is_within(found.volume, to_slot.0, id) {
            return Err(found.failure(Status::Cycle));
        }
        let volume = source.volume;
        plan.changes.push(Change::Unlink { slot: slot(volume, from_slot.clone()) });
        if let Some((other_id, other)) = found.inode {
            match mode {
                RenameMode::NoReplace => return Err(found.failure(Status::AlreadyExists)),
                RenameMode::Replace => {
                    check_replaceable(&found, inode, other)?;
                    self.unlink(to, &found, other_id, &mut plan)?;
                }
                RenameMode::Exchange => {
                    if other.is_directory() && is_within(found.volume, from_slot.0, other_id) {
                        return Err(found.failure(Status::Cycle));
                    }
                    plan.changes.push(Change::Unlink { slot: slot(volume, to_slot.clone()) });
                    let back = slot(volume, from_slot.clone());
                    plan.changes.push(Change::Link { slot: back, inode: other_id });
                    push_parent(&mut plan, source, (other_id, other), from_slot.0);
                }
            }
        } else if mode == RenameMode::Exchange {
            return Err(found.failure(Status::NotFound));
        }
        if !planted(Bug::NamespaceLosesRename) {
            plan.changes.push(Change::Link { slot: slot(volume, to_slot.clone()), inode: id });
        }
        push_parent(&mut plan, source, (id, inode), to_slot.0);
        Ok(plan)
    }
}

fn check_replaceable(found: &Found<'_>, inode: &Inode, other: &Inode) -> Result<(), Failure> {
    match (&other.content, inode.is_directory()) {
        (Content::Directory { .. }, false) => Err(found.failure(Status::IsDirectory)),
        (Content::Directory { entries: 1.., .. }, true) => Err(found.failure(Status::NotEmpty)),
        (Content::Directory { .. }, true) | (_, false) => Ok(()),
        (_, true) => Err(found.failure(Status::NotDirectory)),
    }
}

/// Whether `directory` is `ancestor` or lies below it.
fn is_within(volume: &Volume, directory: InodeId, ancestor: InodeId) -> bool {
    let mut here = directory;
    loop {
        if here == ancestor {
            return true;
        }
        match volume.inodes.get(&here).map(|inode| &inode.content) {
            Some(Content::Directory { parent, .. }) if *parent != here => here = *parent,
            _ => return false,
        }
    }
}

fn push_parent(plan: &mut Plan, place: &Place, (id, inode): (InodeId, &Inode), to: InodeId) {
    if let Content::Directory { parent, .. } = inode.content
        && parent != to
    {
        plan.changes.push(Change::Reparent { target: target(place.volume, id), parent: to });
    }
}

fn push_directory(
    plan: &mut Plan,
    place: &Place,
    directory: InodeId,
    name: Name,
    attributes: &NewAttributes,
    now: wire::Timestamp,
) {
    push_inode(plan, place, Made::Directory(directory), attributes, now);
    plan.changes.push(Change::Link { slot: slot(place.volume, (directory, name)), inode: plan.inode });
}

/// Plans the inode `plan.inode`.
fn push_inode(plan: &mut Plan, place: &Place, made: Made, attributes: &NewAttributes, now: wire::Timestamp) {
    let inode = target(place.volume, plan.inode);
    let modified = attributes.modified.unwrap_or(now);
    plan.changes.push(Change::MakeInode { target: inode, made, owner: owner_of(attributes), modified });
    if !attributes.xattrs.is_empty() {
        plan.changes.push(Change::SetXattrs { target: inode, xattrs: sorted(&attributes.xattrs) });
    }
}
