//! Walking a path: components, symbolic links, `..` inside links' targets. Reads at any index from the horizon on; executes nothing.

use wire::limits::{PATH_BYTES_MAX, SYMLINK_HOPS_MAX};
use wire::meta::Place;
use wire::{CommitIndex, InodeId, Status, Version};

use crate::inode::{Content, Inode};
use crate::name::Name;
use crate::namespace::Namespace;
use crate::volume::Volume;

/// Why nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub status: Status,
    /// Components of the path that were resolved.
    pub depth: u16,
    /// With `VersionConflict`: the version that is there.
    pub version: Version,
    /// What is there, where that helps the caller.
    pub inode: InodeId,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { status, depth: 0, version: Version(0), inode: InodeId(0) }
    }
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) volume: &'a Volume,
    /// The directory and the name in it; `None` for the place's own directory, which has no name here.
    pub(crate) slot: Option<(InodeId, Name)>,
    /// What is there.
    pub(crate) inode: Option<(InodeId, &'a Inode)>,
    /// Components resolved.
    pub(crate) depth: u16,
}

impl<'a> Found<'a> {
    /// What is there, or `NotFound`.
    pub(crate) fn present(&self) -> Result<(InodeId, &'a Inode), Failure> {
        self.inode.ok_or(self.failure(Status::NotFound))
    }

    pub(crate) fn failure(&self, status: Status) -> Failure {
        let inode = self.inode.map_or(InodeId(0), |(id, _)| id);
        Failure { status, depth: self.depth, version: Version(0), inode }
    }

    /// The name, without which nothing can be made, moved or removed.
    pub(crate) fn slot(&self) -> Result<(InodeId, Name), Failure> {
        self.slot.clone().ok_or(self.failure(Status::BadRequest))
    }
}

impl Namespace {
    /// Walks to `place`. With `follow` a link at the place itself is followed; where it dangles, the slot is the one that its target names.
    pub(crate) fn find(&self, place: &Place, follow: bool, at: CommitIndex) -> Result<Found<'_>, Failure> {
        let volume = self.volume(place.volume).ok_or(Failure::from(Status::NotFound))?;
        if at < volume.summary.horizon {
            return Err(Failure::from(Status::IndexGone)); // R16
        }
        if place.path.len() > PATH_BYTES_MAX {
            return Err(Failure::from(Status::TooLarge));
        }
        Walk { volume, at, hops: 0, depth: 0 }.run(place, follow)
    }
}

struct Walk<'a> {
    volume: &'a Volume,
    at: CommitIndex,
    hops: u32,
    depth: u16,
}

/// Components still to be walked, the next one last.
struct Rest {
    components: Vec<Component>,
    /// How many of them are the place's own; those of links come on top of them.
    own: usize,
}

enum Component {
    Name(Name),
    Up,
}

impl<'a> Walk<'a> {
    fn run(mut self, place: &Place, follow: bool) -> Result<Found<'a>, Failure> {
        let mut rest = Rest { components: Vec::new(), own: 0 };
        rest.push(&place.path, false)?;
        rest.own = rest.components.len();
        let start = self.volume.inode_at(place.directory, self.at);
        let mut here = (place.directory, start.ok_or(Failure::from(Status::NotFound))?);
        let mut slot = None;
        while let Some(component) = rest.components.pop() {
            let Content::Directory { parent, .. } = here.1.content else {
                return Err(self.failure(Status::NotDirectory, here.0));
            };
            let name = match component {
                Component::Name(name) => name,
                Component::Up => {
                    here = self.inode(parent)?; // the root is its own parent
                    slot = None;
                    continue;
                }
            };
            let last = rest.components.is_empty();
            let Some(id) = self.volume.entry_at(here.0, &name, self.at) else {
                if last {
                    return Ok(Found {
                        volume: self.volume,
                        slot: Some((here.0, name)),
                        inode: None,
                        depth: self.depth,
                    });
                }
                return Err(self.failure(Status::NotFound, here.0));
            };
            let child = self.inode(id)?;
            if let Content::Symlink(target) = &child.1.content
                && (!last || follow)
            {
                self.hops += 1;
                if self.hops > SYMLINK_HOPS_MAX {
                    return Err(self.failure(Status::TooManyLinks, id));
                }
                if target.first() == Some(&b'/') {
                    here = self.inode(InodeId::ROOT)?;
                }
                // An absolute target without components is the root itself.
                slot = None;
                rest.push(target, true)?;
                continue;
            }
            // A component of the place is resolved once what its links added is walked.
            if rest.components.len() < rest.own {
                rest.own = rest.components.len();
                self.depth = self.depth.saturating_add(1);
            }
            slot = Some((here.0, name));
            here = child;
        }
        Ok(Found { volume: self.volume, slot, inode: Some(here), depth: self.depth })
    }

    fn inode(&self, inode: InodeId) -> Result<(InodeId, &'a Inode), Failure> {
        let found = self.volume.inode_at(inode, self.at);
        Ok((inode, found.ok_or(self.failure(Status::NotFound, inode))?))
    }

    fn failure(&self, status: Status, inode: InodeId) -> Failure {
        Failure { status, depth: self.depth, version: Version(0), inode }
    }
}

impl Rest {
    /// Puts a path's components before those that are left.
    fn push(&mut self, path: &[u8], in_link: bool) -> Result<(), Failure> {
        for component in path.split(|byte| *byte == b'/').rev() {
            self.components.push(match component {
                b"" | b"." => continue,
                b".." if in_link => Component::Up,
                name => Component::Name(Name::new(name).map_err(Failure::from)?),
            });
        }
        // 40 links of 4,095 bytes each bound what can pile up.
        Ok(())
    }
}
