//! Attributes and extended attributes.

use wire::Status;
use wire::limits::{XATTR_BYTES_MAX, XATTR_NAME_BYTES_MAX};
use wire::meta::{AttributeChange, Place, Xattr, XattrMode};

use super::{Execution, Plan, target};
use crate::change::Change;
use crate::path::Failure;

impl Execution<'_> {
    pub(super) fn set_attributes(
        &self,
        place: &Place,
        follow: bool,
        change: &AttributeChange,
    ) -> Result<Plan, Failure> {
        let found = self.find(place, follow)?;
        let (id, inode) = found.present()?;
        let set = Change::SetAttributes {
            target: target(place.volume, id),
            owner: inode.owner.with(change),
            modified: change.modified.unwrap_or(inode.modified),
        };
        Ok(Plan {
            changes: vec![set],
            inode: id,
            version: inode.version,
            size: inode.size,
            ..Plan::default()
        })
    }

    pub(super) fn set_xattr(
        &self,
        place: &Place,
        follow: bool,
        xattr: &Xattr,
        mode: XattrMode,
    ) -> Result<Plan, Failure> {
        check_xattrs(std::slice::from_ref(xattr))?;
        let found = self.find(place, follow)?;
        let (id, inode) = found.present()?;
        let there = inode.xattrs().iter().find(|other| other.name == xattr.name);
        match (mode, there) {
            (XattrMode::Create, Some(_)) => return Err(found.failure(Status::AlreadyExists)),
            (XattrMode::Replace, None) => return Err(found.failure(Status::NotFound)),
            _ => {}
        }
        let others = inode.xattrs().iter().filter(|other| other.name != xattr.name);
        let bytes: usize = others.map(xattr_bytes).sum();
        if bytes + xattr_bytes(xattr) > XATTR_BYTES_MAX {
            return Err(found.failure(Status::TooLarge));
        }
        let set = Change::SetXattr {
            target: target(place.volume, id),
            name: xattr.name.clone(),
            value: Some(xattr.value.clone()),
        };
        Ok(Plan {
            changes: vec![set],
            inode: id,
            version: inode.version,
            size: inode.size,
            ..Plan::default()
        })
    }

    pub(super) fn remove_xattr(&self, place: &Place, follow: bool, name: &[u8]) -> Result<Plan, Failure> {
        let found = self.find(place, follow)?;
        let (id, inode) = found.present()?;
        if !inode.xattrs().iter().any(|xattr| xattr.name == name) {
            return Err(found.failure(Status::NotFound));
        }
        let remove = Change::SetXattr { target: target(place.volume, id), name: name.to_vec(), value: None };
        Ok(Plan {
            changes: vec![remove],
            inode: id,
            version: inode.version,
            size: inode.size,
            ..Plan::default()
        })
    }
}

/// Checks a whole set of extended attributes: names valid and each once, together within the limit.
pub(super) fn check_xattrs(xattrs: &[Xattr]) -> Result<(), Failure> {
    let mut names: Vec<&[u8]> = xattrs.iter().map(|xattr| xattr.name.as_slice()).collect();
    names.sort_unstable();
    let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
    if twice || names.iter().any(|name| name.is_empty() || name.contains(&0)) {
        return Err(Status::BadRequest.into());
    }
    let too_long = names.iter().any(|name| name.len() > XATTR_NAME_BYTES_MAX);
    if too_long || xattrs.iter().map(xattr_bytes).sum::<usize>() > XATTR_BYTES_MAX {
        return Err(Status::TooLarge.into());
    }
    Ok(())
}

/// A set of attributes in the order of their names, as inodes keep it.
pub(super) fn sorted(xattrs: &[Xattr]) -> Vec<Xattr> {
    let mut xattrs = xattrs.to_vec();
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    xattrs
}

fn xattr_bytes(xattr: &Xattr) -> usize {
    xattr.name.len() + xattr.value.len()
}
